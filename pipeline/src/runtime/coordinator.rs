//! The coordinator: cuts the input into epochs, judges time in log order, and brings the changes of
//! each finished epoch to the outlets.
//!
//! An epoch passes through four states: *open* (batches are handed to workers as they come),
//! *sealed* (no batch comes any more, decoding goes on), *flowing* (all is decoded, watermarks are
//! known, its results come out), and delivered. The batches of the first epoch that is not closed flow
//! as soon as all before them are decoded, so that what is lateness there is known. Back-pressure is one
//! rule: nothing is taken from the sources while too much is under way ([`Coordinator::accepts`]).

mod epochs;
mod idle;
mod saves;
mod sources;
mod start;
#[cfg(test)]
mod tests;
mod turns;
mod verify;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::epochs::{Batch, Flowing, JudgedBatch, OpenEpoch};
use self::idle::Holder;
use self::saves::Saves;
use self::sources::{SourceState, next_message};
pub(super) use self::start::Start;
use self::turns::Turns;
use super::checkpoint::FromWriter;
use super::cuts::Cuts;
use super::dataflow::WorkerHandle;
use super::decisions::Decisions;
use super::gauges::Gauges;
use super::messages::{
    BatchId, Delivery, EpochOutput, FromIntake, FromOutlet, FromWorker, ToWorker,
};
use crate::contract::batch::RawBatch;
use crate::contract::epoch::{Epoch, FINAL_WATERMARK, Generation, NO_WATERMARK};
use crate::contract::failpoint;
use crate::contract::fault::Fault;
use crate::contract::position::{Position, Positions};
use crate::contract::source::Until;
use crate::graph::Deployment;

/// An epoch is sealed at this many messages, so that memory stays bounded whatever `flush` says.
const EPOCH_MESSAGES_MAX: usize = 32 * 1024;

/// Sealed and flowing epochs: one flows while the next is decoded.
const EPOCHS_UNDER_WAY_MAX: usize = 3;

/// Deliveries that an outlet has not taken yet.
pub(super) const DELIVERIES_MAX: usize = 4;

/// With nothing under way, an epoch need not wait for `flush`: it only lingers for the messages that
/// come with it.
const LINGER: Duration = Duration::from_millis(5);

/// How a generation ended, where no fault ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// The end that `until` asked for.
    End,
    /// The end, and every window is closed.
    Finished,
    /// Told to stop.
    Drained,
}

/// The coordinator's end of an outlet.
pub(super) struct OutletHandle {
    pub(super) deliveries: mpsc::Sender<Delivery>,
    /// Deliveries that it has not taken.
    pub(super) outstanding: usize,
}

pub(super) struct Coordinator {
    deployment: Arc<Deployment>,
    generation: Generation,
    gauges: Arc<Gauges>,
    sources: Vec<SourceState>,
    intakes: Vec<mpsc::Receiver<FromIntake>>,
    /// By source: what will never be read again.
    released: Vec<watch::Sender<Option<Position>>>,
    workers: Vec<WorkerHandle>,
    turns: Turns,
    from_workers: mpsc::Receiver<FromWorker>,
    outlets: Vec<OutletHandle>,
    from_outlets: mpsc::Receiver<FromOutlet>,
    from_writer: mpsc::Receiver<FromWriter>,
    saves: Saves,
    /// Where each source began when the pipeline was new.
    origin: Positions,
    cuts: Cuts,
    /// Where decisions of the clock are made durable, if any are taken.
    decisions: Option<Decisions>,
    /// Which silent source holds the watermark, if one does.
    holder: Option<Holder>,
    next_epoch: Epoch,
    next_batch: BatchId,
    open: OpenEpoch,
    sealed: VecDeque<OpenEpoch>,
    flowing: VecDeque<Flowing>,
    /// Set once nothing more is taken from the sources.
    stopping: Option<Stopped>,
}

impl Coordinator {
    /// Waits until every source is open; where each began when the pipeline was new.
    pub(super) async fn opened(&mut self, stop: &CancellationToken) -> Option<Positions> {
        for (index, node) in self.deployment.sources.iter().enumerate() {
            let message = tokio::select! {
                () = stop.cancelled() => return None,
                message = self.intakes[index].recv() => message?,
            };
            if let FromIntake::Opened(position) = message {
                self.sources[index].open_at(position.clone());
                self.origin.entry(node.name.clone()).or_insert(position);
            }
        }
        Some(self.origin.clone())
    }

    /// True if a snapshot was taken that is no checkpoint yet.
    pub(super) fn has_unpublished(&self) -> bool {
        self.saves.is_unpublished()
    }

    /// Runs until the end, until told to drain, or until a fault.
    pub(super) async fn run(&mut self, drain: &CancellationToken) -> Result<Stopped, Fault> {
        // A cut where reading begins is there already: nothing would be read to reach it.
        self.feed()?;
        self.note_ends();
        loop {
            self.advance()?;
            self.note_holder();
            if let Some(stopped) = self.stopping
                && self.is_empty()
            {
                return Ok(stopped);
            }
            let deadline = self.deadline();
            let readable = if self.accepts() { self.readable() } else { Vec::new() };
            tokio::select! {
                biased;
                () = drain.cancelled(), if self.stopping.is_none() => {
                    self.stopping = Some(Stopped::Drained);
                    self.seal(Seal::Last);
                }
                message = self.from_workers.recv() => match message {
                    Some(FromWorker::Decoded { id, timestamp_max_us }) => {
                        self.decoded(id, timestamp_max_us);
                    }
                    Some(FromWorker::Done(output)) => self.done(*output)?,
                    Some(FromWorker::Fault(fault)) => return Err(fault),
                    None => return Err(Fault::halt("the dataflow workers are gone")),
                },
                message = self.from_outlets.recv() => match message {
                    Some(message) => self.hear_outlet(message)?,
                    None => return Err(Fault::halt("the sinks' actors are gone")),
                },
                Some(report) = self.from_writer.recv() => {
                    if let Some(oldest) = self.saves.hear_writer(report) {
                        self.release(&oldest);
                        self.forget_decisions(&oldest);
                    }
                }
                () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)),
                    if deadline.is_some() => self.seal(Seal::Full),
                (source, message) = next_message(&mut self.intakes, &readable),
                    if !readable.is_empty() => self.take(source, message)?,
            }
        }
    }

    /// True while more may be taken from the sources.
    fn accepts(&self) -> bool {
        self.stopping.is_none()
            && self.sealed.len() + self.flowing.len() < EPOCHS_UNDER_WAY_MAX
            && !self.turns.is_full()
            && self.outlets.iter().all(|outlet| outlet.outstanding < DELIVERIES_MAX)
    }

    fn is_empty(&self) -> bool {
        self.open.batches.is_empty() && self.sealed.is_empty() && self.flowing.is_empty()
    }

    /// When the open epoch must be sealed.
    fn deadline(&self) -> Option<Instant> {
        let opened_at = self.open.opened_at?;
        let is_idle = self.sealed.is_empty()
            && self.flowing.is_empty()
            && self.outlets.iter().all(|outlet| outlet.outstanding == 0);
        let flush = Duration::from_micros(self.deployment.flush_us.unsigned_abs());
        Some(opened_at + if is_idle { flush.min(LINGER) } else { flush })
    }

    fn take(&mut self, source: usize, message: Option<FromIntake>) -> Result<(), Fault> {
        let mut caught_up = false;
        match message {
            Some(FromIntake::Batch(batch)) => {
                caught_up = batch.pending == Some(0);
                self.gauges.messages.fetch_add(batch.messages.len() as u64, Ordering::Relaxed);
                self.sources[source].heard_at = chrono::Utc::now();
                self.set_pending(source, batch.pending.unwrap_or(0));
                self.sources[source].held = Some(batch);
            }
            Some(FromIntake::Silent { silence, at }) => self.hear_silence(source, silence, at),
            // A closed mailbox without an end: the intake's own ending says why.
            Some(FromIntake::End) | None => self.sources[source].ended = true,
            Some(FromIntake::Opened(_)) => {}
        }
        self.feed()?;
        // With nothing pending the source has shown all it has.
        if caught_up {
            self.verify_end(source)?;
        }
        self.note_ends();
        Ok(())
    }

    fn note_ends(&mut self) {
        if self.sources.iter().all(|state| state.ended && state.held.is_none()) {
            self.reach_end();
        } else {
            self.finish_ended();
        }
    }

    fn set_pending(&mut self, source: usize, pending: u64) {
        self.sources[source].pending = pending;
        let pending = self.sources.iter().map(|state| state.pending).sum();
        self.gauges.pending.store(pending, Ordering::Relaxed);
    }

    /// Hands what the sources gave to workers, up to the next cut.
    fn feed(&mut self) -> Result<(), Fault> {
        loop {
            for source in 0..self.sources.len() {
                let bound = self.cuts.bound(&self.deployment.sources[source].name);
                while let Some((batch, moved_us)) = self.sources[source].take_through(bound) {
                    self.dispatch(source, batch, moved_us)?;
                }
            }
            let at_cut = |source: usize| {
                let bound = self.cuts.bound(&self.deployment.sources[source].name);
                bound.is_some_and(|bound| self.sources[source].is_at(bound))
            };
            if !self.cuts.is_ahead() || !(0..self.sources.len()).all(at_cut) {
                break;
            }
            self.verify_cut()?;
            self.take_recorded();
            self.seal(Seal::Cut);
            self.cuts.pass();
            self.gauges.replaying.store(self.cuts.is_ahead(), Ordering::Relaxed);
        }
        if self.open.messages >= EPOCH_MESSAGES_MAX {
            self.seal(Seal::Full);
        }
        Ok(())
    }

    fn dispatch(
        &mut self,
        source: usize,
        raw: RawBatch,
        moved_us: Option<i64>,
    ) -> Result<(), Fault> {
        let Some(end) = raw.end() else {
            return Ok(());
        };
        let state = &mut self.sources[source];
        let after = state.position.replace(end);
        state.messages += raw.messages.len() as u64;
        state.undecoded += 1;
        if std::mem::take(&mut state.is_idle) {
            let name = &self.deployment.sources[source].name;
            tracing::info!("source `{name}` speaks again, and is waited for");
        }
        let id = self.next_batch;
        self.next_batch += 1;
        let worker = self.turns.next();
        let batch = Batch { id, source, worker, after, moved_us, timestamp_max_us: None };
        self.open.add(batch, raw.messages.len());
        self.workers[worker].send(ToWorker::Batch { id, source: source as u16, raw })
    }

    /// No batch comes into the open epoch any more. An empty one stays open, unless it needs a record
    /// of its own.
    fn seal(&mut self, why: Seal) {
        let positions = self.positions();
        let save = match why {
            Seal::End => None,
            Seal::Full | Seal::Cut | Seal::Mark => self.saves.request(&positions, false),
            Seal::Last => self.saves.request(&positions, true),
        };
        let has_record = save.is_some() || matches!(why, Seal::Cut | Seal::End | Seal::Mark);
        if self.open.batches.is_empty() && !has_record {
            self.open.opened_at = None;
            return;
        }
        let next = OpenEpoch::new(self.next_epoch);
        self.next_epoch += 1;
        let mut sealed = std::mem::replace(&mut self.open, next);
        sealed.positions = positions;
        sealed.idle = (0..self.sources.len()).filter(|it| self.sources[*it].is_idle).collect();
        sealed.save = save;
        self.sealed.push_back(sealed);
        failpoint::reach("epoch.sealed");
    }

    fn positions(&self) -> Positions {
        let nodes = self.deployment.sources.iter().zip(&self.sources);
        nodes
            .filter_map(|(node, state)| {
                let position = state.position.clone()?;
                Some((node.name.clone(), Position { messages: state.messages, ..position }))
            })
            .collect()
    }

    /// Every source has ended: the last epoch, and where `until = "final"` one that closes all.
    fn reach_end(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        let finished = self.deployment.sources.iter().all(|node| node.until == Until::Final);
        // A pipeline that is finished is never gone on with.
        self.seal(if finished { Seal::Full } else { Seal::Last });
        self.open.finishing = self.finishing();
        self.open.finished = finished;
        if finished || !self.open.finishing.is_empty() {
            self.seal(Seal::End);
        }
        self.stopping = Some(if finished { Stopped::Finished } else { Stopped::End });
    }

    fn decoded(&mut self, id: BatchId, timestamp_max_us: Option<i64>) {
        for epoch in self.sealed.iter_mut().chain([&mut self.open]) {
            if let Some(batch) = epoch.decoded(id, timestamp_max_us) {
                self.turns.decoded(batch.worker);
                let state = &mut self.sources[batch.source];
                state.read_us = state.read_us.max(timestamp_max_us);
                state.undecoded -= 1;
                return;
            }
        }
    }

    /// Lets decoded batches flow, closes sealed epochs that are decoded, and delivers flowing ones that
    /// are done.
    fn advance(&mut self) -> Result<(), Fault> {
        self.judge()?;
        while self.sealed.front().is_some_and(OpenEpoch::is_judged) {
            let Some(epoch) = self.sealed.pop_front() else {
                break;
            };
            let (watermarks, decisions) = epoch.judge_end(&mut self.sources);
            // Before anything that rests on it flows, let alone reaches a sink.
            self.make_durable(&decisions)?;
            let (closing, flowing) = epoch.close(
                watermarks,
                self.generation,
                &self.deployment,
                &self.origin,
                &self.sources,
            );
            let closing = Arc::new(closing);
            for worker in &self.workers {
                worker.send(ToWorker::Close(closing.clone()))?;
            }
            self.flowing.push_back(flowing);
            self.judge()?;
        }
        while self.flowing.front().is_some_and(|flowing| flowing.done == self.workers.len()) {
            let Some(flowing) = self.flowing.pop_front() else {
                break;
            };
            self.deliver(flowing);
        }
        Ok(())
    }

    /// Lets the decoded batches flow of the epoch that closes next.
    fn judge(&mut self) -> Result<(), Fault> {
        let first = self.sealed.front_mut().unwrap_or(&mut self.open);
        let (batches, decisions) = first.judge_batches(&mut self.sources);
        let epoch = first.epoch;
        self.make_durable(&decisions)?;
        for JudgedBatch { id, worker, carried } in batches {
            self.workers[worker].send(ToWorker::Judge { epoch, id, carried })?;
        }
        Ok(())
    }

    fn done(&mut self, output: EpochOutput) -> Result<(), Fault> {
        let epoch = output.epoch;
        match self.flowing.iter_mut().find(|flowing| flowing.record.epoch == epoch) {
            Some(flowing) => {
                flowing.merge(output);
                Ok(())
            }
            None => {
                Err(Fault::halt(format!("a worker finished epoch {epoch}, which does not flow")))
            }
        }
    }

    fn deliver(&mut self, mut flowing: Flowing) {
        if let Some(snapshot) = flowing.snapshot.take() {
            self.saves.gathered(snapshot);
        }
        let gauges = &self.gauges;
        gauges.accepted.fetch_add(flowing.counts.accepted, Ordering::Relaxed);
        gauges.dead.fetch_add(flowing.counts.dead, Ordering::Relaxed);
        gauges.late.fetch_add(flowing.counts.late, Ordering::Relaxed);
        gauges.state_bytes.store(flowing.state_bytes as u64, Ordering::Relaxed);
        let watermark = flowing.record.watermark();
        if watermark != NO_WATERMARK && watermark != FINAL_WATERMARK {
            gauges.watermark_us.store(watermark, Ordering::Relaxed);
        }
        let largest = self.sources.iter().filter_map(|state| state.largest_us).max();
        gauges.largest_us.store(largest.unwrap_or(NO_WATERMARK), Ordering::Relaxed);
        for (outlet, updates) in self.outlets.iter_mut().zip(flowing.sinks) {
            outlet.outstanding += 1;
            let record = flowing.record.clone();
            let delivery = Delivery { record, finished: flowing.finished, updates };
            // Never full (see `accepts`); an outlet that is gone has sent its fault before.
            if outlet.deliveries.try_send(delivery).is_err() {
                tracing::debug!("an outlet is gone");
            }
        }
        failpoint::reach("epoch.delivered");
    }

    /// The oldest kept checkpoint begins here: nothing before it will be read again.
    fn release(&self, oldest: &Positions) {
        for (node, released) in self.deployment.sources.iter().zip(&self.released) {
            if let Some(position) = oldest.get(&node.name) {
                // An intake that has ended needs nothing any more.
                let _ = released.send(Some(position.clone()));
            }
        }
    }

    fn hear_outlet(&mut self, message: FromOutlet) -> Result<(), Fault> {
        match message {
            FromOutlet::Taken { sink, count } => {
                let outlet = &mut self.outlets[sink];
                outlet.outstanding = outlet.outstanding.saturating_sub(count);
                Ok(())
            }
            FromOutlet::Durable { sink, progress } => {
                tracing::debug!(
                    sink = %self.deployment.sinks[sink].name,
                    epoch = progress.record.epoch,
                    "durable"
                );
                self.saves.hear_sink(sink, progress);
                Ok(())
            }
            FromOutlet::Fault { sink, fault } => {
                Err(fault.within(format!("sink `{}`", self.deployment.sinks[sink].name)))
            }
        }
    }
}

/// Why an epoch is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seal {
    /// It is large or old enough.
    Full,
    /// A sink's record ends here.
    Cut,
    /// Nothing more is read in this run.
    Last,
    /// A source is finished, or is not waited for any more.
    Mark,
    /// It closes every window.
    End,
}
