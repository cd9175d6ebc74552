//! The writer of checkpoints: an actor, so that compressing and writing stop no flow.
//!
//! A snapshot becomes a segment at once. The manifest that makes a checkpoint of it follows when the
//! coordinator says that every sink has committed through its epoch; what no kept checkpoint needs
//! any more is deleted after that.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::directory::{FileKind, FileName};
use super::manifest::{Manifest, Segment};
use super::store::Store;
use super::{frame, recover};
use crate::contract::epoch::{EpochRecord, Generation};
use crate::contract::failpoint;
use crate::contract::position::Positions;
use crate::contract::state::{KEY_GROUPS, KeyGroup, SavedPart};
use crate::graph::Deployment;
use crate::runtime::actor::Ending;

/// The state of all operators as of an epoch.
#[derive(Debug)]
pub(in crate::runtime) struct Snapshot {
    pub(in crate::runtime) record: EpochRecord,
    pub(in crate::runtime) largest_us: BTreeMap<String, i64>,
    pub(in crate::runtime) origin: Positions,
    /// The key groups of which it has everything.
    pub(in crate::runtime) whole: Range<KeyGroup>,
    /// From every worker.
    pub(in crate::runtime) parts: Vec<SavedPart>,
}

/// From the coordinator to the writer.
#[derive(Debug)]
pub(in crate::runtime) enum ToWriter {
    /// Write this aside.
    Save(Box<Snapshot>),
    /// Every sink has committed through the last snapshot: it may be gone on from.
    Publish,
}

/// From the writer to the coordinator.
#[derive(Debug)]
pub(in crate::runtime) enum FromWriter {
    /// The last snapshot is on disk.
    Saved,
    /// The last snapshot is a checkpoint. Nothing before these positions will be read again.
    Published(Positions),
    /// Something could not be written: the next snapshot must have everything.
    Failed,
}

/// The writer of one generation.
pub(in crate::runtime) struct Writer {
    pub(in crate::runtime) deployment: Arc<Deployment>,
    pub(in crate::runtime) generation: Generation,
    pub(in crate::runtime) store: Store,
    pub(in crate::runtime) keep: usize,
    pub(in crate::runtime) mailbox: mpsc::Receiver<ToWriter>,
    pub(in crate::runtime) coordinator: mpsc::Sender<FromWriter>,
}

/// What has been written, and not deleted.
#[derive(Default)]
pub(super) struct Written {
    /// Segments since the last that hold everything.
    chain: Vec<Segment>,
    /// The last snapshot, without what it saved.
    last: Option<Manifest>,
    /// The failure that was told last; one that goes on is told once.
    told: Option<String>,
}

impl Writer {
    /// The life of the actor; it ends when the coordinator drops its mailbox.
    pub(in crate::runtime) async fn run(mut self) -> Ending {
        let mut written = Written::default();
        while let Some(message) = self.mailbox.recv().await {
            if matches!(message, ToWriter::Publish) && written.last.is_none() {
                // Writing it has failed, and that has been reported.
                continue;
            }
            let (store, deployment) = (self.store.clone(), self.deployment.clone());
            let (generation, keep) = (self.generation, self.keep);
            // Files are written where waiting blocks nobody.
            let work = tokio::task::spawn_blocking(move || {
                let done = match message {
                    ToWriter::Save(snapshot) => {
                        written.save(&store, &deployment, *snapshot).map(|()| FromWriter::Saved)
                    }
                    ToWriter::Publish => {
                        written.publish(&store, generation, keep).map(FromWriter::Published)
                    }
                };
                (done, written)
            });
            let Ok((done, after)) = work.await else {
                return Ending::Cancelled;
            };
            written = after;
            let report = match done {
                Ok(report) => {
                    written.told = None;
                    report
                }
                Err(error) => {
                    written.tell(&self.store, &error);
                    FromWriter::Failed
                }
            };
            // Nobody listens while a generation ends.
            let _ = self.coordinator.send(report).await;
        }
        Ending::Done
    }
}

impl Written {
    pub(super) fn save(
        &mut self,
        store: &Store,
        deployment: &Deployment,
        snapshot: Snapshot,
    ) -> io::Result<()> {
        let Snapshot { record, largest_us, origin, whole, parts } = snapshot;
        let (mut bytes, mut compressor) = (Vec::new(), frame::compressor()?);
        for part in parts {
            for (group, items) in part.groups {
                let (name, fingerprint) = (&part.name, part.fingerprint);
                frame::write(&mut bytes, &mut compressor, name, fingerprint, group, &items)?;
            }
        }
        let EpochRecord { epoch, generation, .. } = record;
        let name = FileName { generation, epoch, kind: FileKind::Segment };
        let segment = Segment {
            file: name.text(),
            size_bytes: bytes.len() as u64,
            crc32c: crc32c::crc32c(&bytes),
            whole: (whole.start, whole.end),
        };
        if let Err(error) = store.write(name, &bytes) {
            // What changed before is nowhere now.
            self.chain.clear();
            self.last = None;
            return Err(error);
        }
        failpoint::reach("checkpoint.segment.durable");
        self.chain.push(segment);
        self.chain.drain(..first_needed(&self.chain));
        let operators = recover::operators(deployment);
        self.last = Some(Manifest::new(record, largest_us, origin, operators, self.chain.clone()));
        Ok(())
    }

    pub(super) fn publish(
        &mut self,
        store: &Store,
        generation: Generation,
        keep: usize,
    ) -> io::Result<Positions> {
        let Some(manifest) = self.last.take() else {
            return Err(io::Error::other("there is no snapshot to publish"));
        };
        store.write(manifest.name(), &manifest.to_bytes()?)?;
        failpoint::reach("checkpoint.manifest.durable");
        tracing::debug!(
            epoch = manifest.record.epoch,
            segments = manifest.segments.len(),
            bytes = manifest.segments.last().map_or(0, |segment| segment.size_bytes),
            "checkpoint"
        );
        collect(store, generation, keep)
    }

    fn tell(&mut self, store: &Store, error: &io::Error) {
        let what = error.to_string();
        if self.told.as_ref() != Some(&what) {
            tracing::warn!(
                "cannot write a checkpoint in {store}: {what}; the pipeline goes on, and after a \
                 crash reads again from the last one"
            );
            self.told = Some(what);
        }
    }
}

/// The first segment that is still needed: for every key group, the last that holds it whole.
fn first_needed(chain: &[Segment]) -> usize {
    (0..KEY_GROUPS)
        .map(|group| {
            let holds = |segment: &Segment| (segment.whole.0..segment.whole.1).contains(&group);
            chain.iter().rposition(holds).unwrap_or(0)
        })
        .min()
        .unwrap_or(0)
}

/// Deletes the checkpoints that are not kept, and then the segments that none needs. What a newer
/// generation wrote is never touched. Returns where the oldest kept one begins to read.
fn collect(store: &Store, generation: Generation, keep: usize) -> io::Result<Positions> {
    let names = store.list()?;
    let own = |name: &&FileName| name.generation <= generation;
    let manifests: Vec<FileName> =
        names.iter().filter(own).filter(|name| name.kind == FileKind::Manifest).copied().collect();
    let (gone, kept) = manifests.split_at(manifests.len().saturating_sub(keep));
    let mut needed = BTreeSet::new();
    let mut oldest = None;
    for name in kept {
        // One that cannot be read needs nothing; it stays, for whoever wants to look at it.
        if let Ok(manifest) = Manifest::parse(&store.read(&name.text())?) {
            needed.extend(manifest.segments.iter().map(|segment| segment.file.clone()));
            oldest.get_or_insert(manifest.record.positions);
        }
    }
    for name in gone {
        store.delete(*name)?;
        failpoint::reach("checkpoint.manifest.deleted");
    }
    if !gone.is_empty() {
        store.sync()?;
    }
    let newest = kept.last().copied();
    for name in names.iter().filter(own).filter(|name| name.kind == FileKind::Segment) {
        // A segment after the newest manifest waits for its own.
        let waits = newest
            .is_none_or(|newest| (name.generation, name.epoch) > (newest.generation, newest.epoch));
        if !waits && !needed.contains(&name.text()) {
            store.delete(*name)?;
            failpoint::reach("checkpoint.segment.deleted");
        }
    }
    store.delete_unfinished(generation)?;
    Ok(oldest.unwrap_or_default())
}
