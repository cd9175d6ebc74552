//! The outlet of one sink: gathers the changes of epochs while the sink is busy, and commits them
//! as one; waits and recovers when the sink's server goes away.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use differential_dataflow::consolidation::consolidate;
use hashbrown::HashSet;
use tokio::sync::mpsc;
use tokio::time::Instant;
use waterwheel_config::schema::{Finality, SchemaRef};
use waterwheel_config::value::Value;

use super::actor::Ending;
use super::cleaning::{Daily, Reports};
use super::cuts::is_held;
use super::gauges::Gauges;
use super::messages::{Delivery, FromOutlet, Updates};
use super::waiting::Waiting;
use crate::contract::epoch::{EpochRecord, Progress};
use crate::contract::failpoint;
use crate::contract::fault::{Fault, Remedy};
use crate::contract::position::Positions;
use crate::contract::raw::RawEvents;
use crate::contract::sink::{Changes, Commit, Sink};

/// Positions that moved without a row having changed are made durable this often.
const EMPTY_COMMIT_EVERY: Duration = Duration::from_secs(1);

/// How often a sink that is idle may do what time makes due.
const TICK: Duration = Duration::from_secs(1);

/// A row count beyond which no further epoch is gathered into one commit: large enough to pay for a
/// commit, small enough that rows of a few hundred bytes take little memory.
const GATHERED_ROWS_MAX: usize = 50_000;

/// What an outlet needs.
pub(super) struct Outlet {
    pub(super) index: usize,
    pub(super) name: String,
    pub(super) sink: Box<dyn Sink>,
    pub(super) schemas: Vec<SchemaRef>,
    pub(super) fingerprint: String,
    /// What the sink held when it was claimed: nothing up to there is given again.
    pub(super) recorded: Option<Progress>,
    /// What the sink has taken: as far as it recorded, or further where it keeps changes for a later
    /// step.
    pub(super) taken: Option<Progress>,
    /// Where commits stood that were begun and not ended: a commit ends there again.
    pub(super) unfinished: Vec<EpochRecord>,
    pub(super) origin: Positions,
    pub(super) deliveries: mpsc::Receiver<Delivery>,
    pub(super) coordinator: mpsc::Sender<FromOutlet>,
    pub(super) gauges: Arc<Gauges>,
    /// Who is told what `retain` has removed.
    pub(super) reports: Option<Arc<Reports>>,
}

/// Changes that wait for a commit.
struct Gathered {
    progress: Progress,
    updates: Vec<Updates>,
    rows: usize,
}

impl Outlet {
    /// The life of the actor. It ends when the coordinator drops its mailbox; then everything is
    /// made durable.
    pub(super) async fn run(mut self) -> Ending {
        let ending = match self.serve().await {
            Ok(()) => match self.close().await {
                Ok(()) => Ending::Done,
                Err(fault) => Ending::Fault(fault),
            },
            Err(fault) => Ending::Fault(fault),
        };
        if let Ending::Fault(fault) = &ending {
            let message = FromOutlet::Fault { sink: self.index, fault: fault.clone() };
            let _ = self.coordinator.send(message).await;
        }
        ending
    }

    async fn serve(&mut self) -> Result<(), Fault> {
        let mut gathered: Option<Gathered> = None;
        let mut committed_at = Instant::now();
        let mut daily = self.sink.retains().then(Daily::new);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let delivery = tokio::select! {
                delivery = self.deliveries.recv() => delivery,
                _ = tick.tick() => {
                    if committed_at.elapsed() >= EMPTY_COMMIT_EVERY && let Some(last) = gathered.take() {
                        self.commit(last).await?;
                        committed_at = Instant::now();
                    }
                    let durable = self.sink.tick().await?;
                    self.report(durable).await;
                    if let Some(daily) = &mut daily {
                        daily.step(&mut *self.sink, &self.name, self.reports.as_deref()).await;
                    }
                    continue;
                }
            };
            let Some(delivery) = delivery else {
                if let Some(last) = gathered.take() {
                    self.commit(last).await?;
                }
                return Ok(());
            };
            let mut taken = 1;
            self.gather(&mut gathered, delivery);
            while gathered.as_ref().is_none_or(|gathered| {
                gathered.rows < GATHERED_ROWS_MAX && !self.ends_unfinished(gathered)
            }) && let Ok(delivery) = self.deliveries.try_recv()
            {
                taken += 1;
                self.gather(&mut gathered, delivery);
            }
            let is_due = gathered.as_ref().is_some_and(|gathered| {
                gathered.rows > 0
                    || self.ends_unfinished(gathered)
                    || gathered.progress.finished
                    || committed_at.elapsed() >= EMPTY_COMMIT_EVERY
            });
            if is_due && let Some(ready) = gathered.take() {
                self.commit(ready).await?;
                committed_at = Instant::now();
            }
            // A coordinator that is gone has left its last deliveries in the mailbox.
            let message = FromOutlet::Taken { sink: self.index, count: taken };
            let _ = self.coordinator.send(message).await;
        }
    }

    /// True if what waits ends where an earlier commit would have ended.
    fn ends_unfinished(&self, gathered: &Gathered) -> bool {
        let record = &gathered.progress.record;
        !failpoint::has_bug("ends-elsewhere")
            && self.unfinished.iter().any(|unfinished| unfinished.is_same_place(record))
    }

    /// Adds a delivery to what waits, unless the sink holds it already.
    fn gather(&self, gathered: &mut Option<Gathered>, delivery: Delivery) {
        if let Some(recorded) = &self.recorded {
            // Nothing changes what is final, whatever another sink still has to read.
            if recorded.finished {
                return;
            }
            let is_held = is_held(&delivery.record, &recorded.record, &self.origin);
            // The epoch that closes everything moves no position.
            if is_held && !delivery.finished {
                return;
            }
        }
        let progress = Progress {
            record: delivery.record,
            origin: self.origin.clone(),
            fingerprint: self.fingerprint.clone(),
            finished: delivery.finished,
        };
        let rows: usize = delivery.updates.iter().map(Updates::len).sum();
        match gathered {
            None => *gathered = Some(Gathered { progress, updates: delivery.updates, rows }),
            Some(gathered) => {
                gathered.progress = progress;
                gathered.rows += rows;
                for (mine, theirs) in gathered.updates.iter_mut().zip(delivery.updates) {
                    mine.extend(theirs);
                }
            }
        }
    }

    async fn commit(&mut self, gathered: Gathered) -> Result<(), Fault> {
        let changes: Vec<Changes> = gathered
            .updates
            .into_iter()
            .zip(&self.schemas)
            .map(|(updates, schema)| changes(updates, schema, self.sink.takes_events()))
            .collect();
        let rows: usize = changes.iter().map(Changes::len).sum();
        let commit = Commit { progress: gathered.progress, changes };
        let gauges = self.gauges.clone();
        let mut waiting = Waiting::new(&gauges, format!("sink `{}`", self.name));
        loop {
            match self.sink.commit(&commit).await {
                Ok(durable) => {
                    self.taken = Some(commit.progress);
                    self.report(durable).await;
                    break;
                }
                Err(fault) if fault.remedy == Remedy::Retry => {
                    if self.recover(&commit, fault, &mut waiting).await? {
                        break;
                    }
                }
                Err(fault) => return Err(fault),
            }
        }
        waiting.over();
        self.gauges.rows.fetch_add(rows as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Waits until the sink answers again; true if it holds the commit after all.
    async fn recover(
        &mut self,
        commit: &Commit,
        mut fault: Fault,
        waiting: &mut Waiting<'_>,
    ) -> Result<bool, Fault> {
        loop {
            waiting.pause(&fault).await;
            match self.sink.recover().await {
                Ok(durable) => {
                    let is_committed = durable.as_ref().is_some_and(|durable| {
                        durable.record.epoch == commit.progress.record.epoch
                            && durable.record.generation == commit.progress.record.generation
                    });
                    if is_committed {
                        tracing::info!(sink = %self.name, "the commit had gone through");
                        self.taken.clone_from(&durable);
                        self.report(durable).await;
                        return Ok(true);
                    }
                    // Changes that the sink had taken and has lost can only come from the stream.
                    let before = |progress: &Option<Progress>| {
                        progress.as_ref().map(|progress| progress.record.positions.clone())
                    };
                    if before(&durable) != before(&self.taken) {
                        return Err(Fault::retry("kept changes were lost; reading them again"));
                    }
                    return Ok(false);
                }
                Err(again) if again.remedy == Remedy::Retry => fault = again,
                Err(fault) => return Err(fault),
            }
        }
    }

    async fn close(&mut self) -> Result<(), Fault> {
        let durable = self.sink.close().await?;
        self.report(durable).await;
        Ok(())
    }

    async fn report(&mut self, durable: Option<Progress>) {
        let Some(progress) = durable else {
            return;
        };
        if self.recorded.as_ref() == Some(&progress) {
            return;
        }
        self.recorded = Some(progress.clone());
        let message = FromOutlet::Durable { sink: self.index, progress };
        let _ = self.coordinator.send(message).await;
    }
}

/// From updates to what a sink writes: of each key its new value, or that it is gone.
fn changes(updates: Updates, schema: &SchemaRef, takes_events: bool) -> Changes {
    let Updates { rows: mut updates, events } = updates;
    if schema.append_only {
        let mut changes = Changes::new(updates.into_iter().map(|(row, _)| row).collect());
        if takes_events {
            changes.events = events;
        } else {
            changes.upserts.extend(events.iter().flat_map(RawEvents::rows));
        }
        return changes;
    }
    if updates.iter().any(|(_, diff)| *diff < 0) {
        consolidate(&mut updates);
    }
    let mut changes = Changes::default();
    let mut gone = Vec::new();
    for (row, diff) in updates {
        if diff > 0 { changes.upserts.push(row) } else { gone.push(row) }
    }
    if let Finality::Silent { .. } = schema.finality {
        // A key that came again stands for more than one row: what came last is to be written last.
        changes.upserts.sort_by_cached_key(|row| row.values().get(schema.columns.len()).cloned());
    }
    if gone.is_empty() {
        return changes;
    }
    {
        let written: HashSet<Vec<&Value>> =
            changes.upserts.iter().map(|row| row.key(&schema.key).collect()).collect();
        gone.retain(|row| !written.contains(&row.key(&schema.key).collect::<Vec<_>>()));
    }
    changes.deletes = gone;
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    use crate::contract::epoch::Generation;
    use crate::contract::position::position_at;
    use crate::contract::sink::{Claim, ClaimError};
    use async_trait::async_trait;

    /// Keeps what it is given, and then cannot make it durable: like files on a full disk.
    struct Keeping {
        commits: usize,
        fails_at: usize,
    }

    #[async_trait]
    impl Sink for Keeping {
        async fn open(&mut self, generation: Generation) -> Result<Claim, ClaimError> {
            Ok(Claim::new(generation, None))
        }

        async fn commit(&mut self, _commit: &Commit) -> Result<Option<Progress>, Fault> {
            self.commits += 1;
            if self.commits == self.fails_at { Err(Fault::retry("full")) } else { Ok(None) }
        }

        async fn recover(&mut self) -> Result<Option<Progress>, Fault> {
            Ok(None)
        }

        async fn close(&mut self) -> Result<Option<Progress>, Fault> {
            Ok(None)
        }
    }

    /// Notes where its commits end.
    struct Noting(Arc<Mutex<Vec<u64>>>);

    #[async_trait]
    impl Sink for Noting {
        async fn open(&mut self, generation: Generation) -> Result<Claim, ClaimError> {
            Ok(Claim::new(generation, None))
        }

        async fn commit(&mut self, commit: &Commit) -> Result<Option<Progress>, Fault> {
            self.0.lock().unwrap().push(commit.progress.record.positions["events"].ordinal);
            Ok(Some(commit.progress.clone()))
        }

        async fn recover(&mut self) -> Result<Option<Progress>, Fault> {
            Ok(None)
        }

        async fn close(&mut self) -> Result<Option<Progress>, Fault> {
            Ok(None)
        }
    }

    /// What is read up to a position.
    fn up_to(ordinal: u64) -> EpochRecord {
        let positions = Positions::from([("events".to_owned(), position_at(ordinal))]);
        let watermarks = std::collections::BTreeMap::new();
        EpochRecord { epoch: ordinal, generation: 1, positions, watermarks }
    }

    /// Gives what is read up to each position to a sink, all before it looks; where its commits end.
    async fn ends(unfinished: Vec<EpochRecord>) -> Vec<u64> {
        let (deliver, deliveries) = mpsc::channel(8);
        let (coordinator, _heard) = mpsc::channel(64);
        let ends = Arc::default();
        let outlet = Outlet {
            unfinished,
            ..outlet(Box::new(Noting(Arc::clone(&ends))), deliveries, coordinator)
        };
        for ordinal in 1..=5 {
            let delivery = Delivery { record: up_to(ordinal), finished: false, updates: vec![] };
            deliver.send(delivery).await.unwrap();
        }
        drop(deliver);
        assert!(matches!(outlet.run().await, Ending::Done));
        ends.lock().unwrap().clone()
    }

    #[tokio::test]
    async fn a_commit_ends_where_one_was_cut_off() {
        assert_eq!(ends(vec![]).await, [5]);
        assert_eq!(ends(vec![up_to(2)]).await, [2, 5]);
        assert_eq!(ends(vec![up_to(3), up_to(1)]).await, [1, 3, 5]);
    }

    fn outlet(
        sink: Box<dyn Sink>,
        deliveries: mpsc::Receiver<Delivery>,
        coordinator: mpsc::Sender<FromOutlet>,
    ) -> Outlet {
        Outlet {
            index: 0,
            name: "lake".to_owned(),
            sink,
            schemas: Vec::new(),
            fingerprint: String::new(),
            recorded: None,
            taken: None,
            unfinished: Vec::new(),
            origin: Positions::new(),
            deliveries,
            coordinator,
            gauges: Arc::default(),
            reports: None,
        }
    }

    /// Gives three epochs to a sink that fails at one of its commits.
    async fn ending(fails_at: usize) -> Ending {
        let (deliver, deliveries) = mpsc::channel(8);
        let (coordinator, mut heard) = mpsc::channel(64);
        let sink = Box::new(Keeping { commits: 0, fails_at });
        let outlet = outlet(sink, deliveries, coordinator);
        let drive = async move {
            for epoch in 0..3 {
                let record = up_to(epoch + 1);
                // What is marked so is committed at once.
                let delivery = Delivery { record, finished: true, updates: Vec::new() };
                if deliver.send(delivery).await.is_err() {
                    break;
                }
                // Each on its own: the next comes when this one is taken.
                let _ = heard.recv().await;
            }
        };
        tokio::join!(outlet.run(), drive).0
    }

    #[tokio::test]
    async fn what_a_sink_kept_and_lost_is_read_again() {
        // Nothing was kept yet: the same commit can simply be made again.
        assert!(matches!(ending(1).await, Ending::Done));
        for fails_at in [2, 3] {
            let Ending::Fault(fault) = ending(fails_at).await else {
                panic!("what was kept before commit {fails_at} is lost, and nobody notices");
            };
            assert_eq!(fault.remedy, Remedy::Retry);
            assert!(fault.message.contains("reading them again"), "{fault}");
        }
    }
}
