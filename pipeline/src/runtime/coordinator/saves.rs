//! When the state of the operators is saved, and when what was saved becomes a checkpoint.
//!
//! One snapshot is under way at a time: it *flows* with its epoch, is *written*, and *waits* until
//! every sink has committed through the epoch; only then is it *published*. A sink that commits
//! rarely so only spaces the checkpoints out. The first snapshot has all key groups whole; each later
//! one the next slice of them, and of the others what changed, so that the cost of one follows what
//! changed and the length of the chain is bounded.

use std::ops::Range;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::contract::epoch::{EpochRecord, Progress};
use crate::contract::position::Positions;
use crate::contract::state::{KEY_GROUPS, KeyGroup};
use crate::runtime::checkpoint::{FromWriter, Snapshot, ToWriter};

/// A chain has this many segments: few, because all are read at a restart, but enough that a
/// snapshot is mostly what changed.
const SLICES: u16 = 8;

/// Where the snapshot under way is.
#[derive(Debug)]
enum Phase {
    /// There is none.
    Idle { since: Instant },
    /// It flows with its epoch, or is written.
    UnderWay,
    /// It waits for the sinks to get where it was taken.
    Waits,
    /// Its manifest is written.
    Publishing,
}

/// The state of saving; without a writer nothing is ever saved.
pub(super) struct Saves {
    writer: Option<mpsc::Sender<ToWriter>>,
    every: Duration,
    phase: Phase,
    /// The slice that is whole next; `None` if everything must be.
    slice: Option<u16>,
    /// How far the last snapshot had read: nothing new, no new snapshot.
    saved: Positions,
    /// What was true when the last snapshot was taken.
    taken: Option<EpochRecord>,
    /// By sink, what is durable; `None` for one that holds nothing yet.
    durable: Vec<Option<Progress>>,
}

impl Saves {
    /// `durable` is what each sink recorded, and `saved` where a checkpoint was gone on from.
    pub(super) fn new(
        writer: Option<mpsc::Sender<ToWriter>>,
        every_us: i64,
        saved: Positions,
        durable: Vec<Option<Progress>>,
    ) -> Self {
        let every = Duration::from_micros(every_us.unsigned_abs());
        let phase = Phase::Idle { since: Instant::now() };
        Self { writer, every, phase, slice: None, saved, taken: None, durable }
    }

    /// Asked when an epoch is sealed at these positions: the key groups that it saves whole, if it
    /// saves the state. The last epoch does whatever else is under way.
    pub(super) fn request(&mut self, at: &Positions, is_last: bool) -> Option<Range<KeyGroup>> {
        self.writer.as_ref()?;
        let is_due = match &self.phase {
            Phase::Idle { since } => is_last || since.elapsed() >= self.every,
            _ => is_last,
        };
        if !is_due || *at == self.saved {
            return None;
        }
        self.phase = Phase::UnderWay;
        self.saved = at.clone();
        Some(match self.slice {
            None => 0..KEY_GROUPS,
            Some(slice) => {
                let size = KEY_GROUPS / SLICES;
                slice * size..(slice + 1) * size
            }
        })
    }

    /// The state has been gathered from all workers.
    pub(super) fn gathered(&mut self, snapshot: Snapshot) {
        self.slice = Some(self.slice.map_or(0, |slice| (slice + 1) % SLICES));
        self.taken = Some(snapshot.record.clone());
        self.send(ToWriter::Save(Box::new(snapshot)));
    }

    /// What the writer reports; the positions before which nothing will be read again, if they moved.
    pub(super) fn hear_writer(&mut self, report: FromWriter) -> Option<Positions> {
        match report {
            FromWriter::Saved => {
                self.phase = Phase::Waits;
                self.publish_if_durable();
                None
            }
            FromWriter::Published(oldest) => {
                self.phase = Phase::Idle { since: Instant::now() };
                Some(oldest)
            }
            FromWriter::Failed => {
                self.slice = None;
                self.saved.clear();
                self.phase = Phase::Idle { since: Instant::now() };
                None
            }
        }
    }

    /// A sink has made everything up to here durable.
    pub(super) fn hear_sink(&mut self, sink: usize, progress: Progress) {
        self.durable[sink] = Some(progress);
        self.publish_if_durable();
    }

    fn publish_if_durable(&mut self) {
        let (Phase::Waits, Some(taken)) = (&self.phase, &self.taken) else {
            return;
        };
        let has_committed = |progress: &Option<Progress>| {
            progress.as_ref().is_some_and(|progress| {
                progress.finished || taken.is_at_or_before(&progress.record)
            })
        };
        if self.durable.iter().all(has_committed) {
            self.phase = Phase::Publishing;
            self.send(ToWriter::Publish);
        }
    }

    fn send(&self, message: ToWriter) {
        // At most the last two snapshots and their publication are under way, which fit.
        if let Some(writer) = &self.writer
            && writer.try_send(message).is_err()
        {
            tracing::error!("the writer of checkpoints is gone");
        }
    }

    /// True if a snapshot may be under way that no manifest names yet.
    pub(super) fn is_unpublished(&self) -> bool {
        matches!(self.phase, Phase::UnderWay | Phase::Waits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::position::position_at;

    fn positions(ordinal: u64) -> Positions {
        [("events".to_owned(), position_at(ordinal))].into()
    }

    fn progress(ordinal: u64) -> Progress {
        let (positions, watermarks) = (positions(ordinal), Default::default());
        let record = EpochRecord { epoch: ordinal, generation: 1, positions, watermarks };
        let (origin, fingerprint) = (Positions::new(), String::new());
        Progress { record, origin, fingerprint, finished: false }
    }

    fn snapshot(ordinal: u64) -> Snapshot {
        Snapshot {
            record: progress(ordinal).record,
            largest_us: Default::default(),
            origin: Positions::new(),
            whole: 0..KEY_GROUPS,
            parts: Vec::new(),
        }
    }

    #[test]
    fn a_snapshot_is_published_once_every_sink_has_it() {
        let (writer, mut written) = mpsc::channel(4);
        let mut saves = Saves::new(Some(writer), 0, Positions::new(), vec![None, None]);
        assert_eq!(saves.request(&positions(5), false), Some(0..KEY_GROUPS));
        assert_eq!(saves.request(&positions(6), false), None, "one is under way");
        saves.gathered(snapshot(5));
        assert!(matches!(written.try_recv(), Ok(ToWriter::Save(_))));
        saves.hear_sink(0, progress(7));
        saves.hear_writer(FromWriter::Saved);
        assert!(written.try_recv().is_err(), "a sink holds nothing");
        saves.hear_sink(1, progress(4));
        assert!(written.try_recv().is_err(), "a sink is behind");
        saves.hear_sink(1, progress(5));
        assert!(matches!(written.try_recv(), Ok(ToWriter::Publish)));
        saves.hear_writer(FromWriter::Published(positions(5)));
        assert_eq!(saves.request(&positions(5), false), None, "nothing is new");
        assert_eq!(saves.request(&positions(8), false), Some(0..KEY_GROUPS / SLICES));
        saves.hear_writer(FromWriter::Failed);
        assert_eq!(saves.request(&positions(8), false), Some(0..KEY_GROUPS));
    }
}
