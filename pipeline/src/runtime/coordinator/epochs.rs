//! The states of an epoch, and how it is closed: time is judged in log order.

use std::collections::BTreeMap;
use std::ops::Range;

use tokio::time::Instant;

use super::sources::SourceState;
use crate::contract::epoch::{Epoch, EpochRecord, Generation};
use crate::contract::position::{Position, Positions};
use crate::contract::state::KeyGroup;
use crate::graph::Deployment;
use crate::runtime::checkpoint::Snapshot;
use crate::runtime::decisions::Decision;
use crate::runtime::messages::{BatchId, Carried, Closing, Counts, EpochOutput, Updates};

#[derive(Debug)]
pub(super) struct Batch {
    pub(super) id: BatchId,
    pub(super) source: usize,
    /// The index of the worker that decodes it.
    pub(super) worker: usize,
    /// The position before it.
    pub(super) after: Option<Position>,
    /// How far the source's watermark had been moved in front of it in an earlier run.
    pub(super) moved_us: Option<i64>,
    /// `None` until decoded; then the largest timestamp, if there is an event.
    pub(super) timestamp_max_us: Option<Option<i64>>,
}

/// An epoch that is open or sealed.
#[derive(Debug)]
pub(super) struct OpenEpoch {
    pub(super) epoch: Epoch,
    pub(super) batches: Vec<Batch>,
    /// How many of the batches are judged: the first ones.
    pub(super) judged: usize,
    pub(super) messages: usize,
    /// When its first batch came.
    pub(super) opened_at: Option<Instant>,
    /// How far the sources were read when it was sealed.
    pub(super) positions: Positions,
    /// The sources that are finished with it.
    pub(super) finishing: Vec<usize>,
    /// The sources that are no longer waited for from here on.
    pub(super) decided: Vec<usize>,
    /// The sources that are not waited for at its end.
    pub(super) idle: Vec<usize>,
    /// By source, where a sink's record that ends here knows its watermark to be.
    pub(super) recorded_us: Vec<i64>,
    /// True if the pipeline is finished with it.
    pub(super) finished: bool,
    /// The key groups to be saved whole after it, if the state is saved.
    pub(super) save: Option<Range<KeyGroup>>,
}

impl OpenEpoch {
    pub(super) fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            batches: Vec::new(),
            judged: 0,
            messages: 0,
            opened_at: None,
            positions: Positions::new(),
            finishing: Vec::new(),
            decided: Vec::new(),
            idle: Vec::new(),
            recorded_us: Vec::new(),
            finished: false,
            save: None,
        }
    }

    pub(super) fn add(&mut self, batch: Batch, messages: usize) {
        self.opened_at.get_or_insert_with(Instant::now);
        self.messages += messages;
        self.batches.push(batch);
    }

    /// Notes that a batch is decoded, and which it is; `None` if it is none of this epoch's.
    pub(super) fn decoded(&mut self, id: BatchId, timestamp_max_us: Option<i64>) -> Option<&Batch> {
        // Batches are numbered in order, so they are sorted here.
        let index = self.batches.binary_search_by_key(&id, |batch| batch.id).ok()?;
        let batch = &mut self.batches[index];
        batch.timestamp_max_us = Some(timestamp_max_us);
        Some(batch)
    }

    /// True once every batch is decoded and judged.
    pub(super) fn is_judged(&self) -> bool {
        self.judged == self.batches.len()
    }

    /// Judges time in log order, as far as the batches are decoded: what each must know of those before
    /// it, and what was decided, which must be durable before they flow. All earlier epochs are closed.
    pub(super) fn judge_batches(
        &mut self,
        sources: &mut [SourceState],
    ) -> (Vec<JudgedBatch>, Vec<Decision>) {
        let (mut judged, mut decisions) = (Vec::new(), Vec::new());
        while let Some(Batch { timestamp_max_us: Some(timestamp_max_us), .. }) =
            self.batches.get(self.judged)
        {
            let batch = &self.batches[self.judged];
            let state = &mut sources[batch.source];
            if let Some(moved_us) = batch.moved_us {
                state.floor_us = state.floor_us.max(moved_us);
                state.logged_us = state.logged_us.max(moved_us);
            }
            // What comes now is judged by where the others were: a replay must know.
            if state.floor_us > state.own_watermark_us().max(state.logged_us) {
                decisions.extend(state.decide(batch.after.as_ref()));
            }
            let (largest_us, floor_us) = (state.largest_us, state.floor_us);
            let carried = Carried { largest_us, floor_us };
            judged.push(JudgedBatch { id: batch.id, worker: batch.worker, carried });
            state.largest_us = largest_us.max(*timestamp_max_us);
            self.judged += 1;
        }
        (judged, decisions)
    }

    /// Judges the end, once all batches are judged: the watermarks after the epoch, and what was
    /// decided, which must be durable before it closes.
    pub(super) fn judge_end(&self, sources: &mut [SourceState]) -> (Vec<i64>, Vec<Decision>) {
        for index in &self.finishing {
            sources[*index].is_final = true;
        }
        for (state, recorded_us) in sources.iter_mut().zip(&self.recorded_us) {
            state.floor_us = state.floor_us.max(*recorded_us);
        }
        self.move_idle(sources);
        let mut decisions = Vec::new();
        for index in &self.decided {
            let state = &mut sources[*index];
            decisions.extend(state.decide(self.positions.get(&state.name)));
        }
        (sources.iter().map(SourceState::watermark_us).collect(), decisions)
    }

    /// Moves the watermarks of the sources that are not waited for: to the least of those that are;
    /// where there is none, to the largest of all, since all have said what they had.
    fn move_idle(&self, sources: &mut [SourceState]) {
        let (mut active, mut idle) = (Vec::new(), Vec::new());
        for (index, state) in sources.iter().enumerate().filter(|(_, state)| !state.is_final) {
            let among = if self.idle.contains(&index) { &mut idle } else { &mut active };
            among.push(state.watermark_us());
        }
        let Some(reached_us) = active.into_iter().min().or(idle.into_iter().max()) else { return };
        for index in &self.idle {
            sources[*index].floor_us = sources[*index].floor_us.max(reached_us);
        }
    }

    /// Closes the epoch, as it was judged.
    pub(super) fn close(
        self,
        watermarks: Vec<i64>,
        generation: Generation,
        deployment: &Deployment,
        origin: &Positions,
        sources: &[SourceState],
    ) -> (Closing, Flowing) {
        let names = sources.iter().map(|state| state.name.clone());
        let record = EpochRecord {
            epoch: self.epoch,
            generation,
            positions: self.positions,
            watermarks: names.zip(watermarks.iter().copied()).collect(),
        };
        let flowing = Flowing {
            finished: self.finished,
            done: 0,
            sinks: deployment
                .sinks
                .iter()
                .map(|sink| sink.inputs.iter().map(|_| Updates::default()).collect())
                .collect(),
            counts: Counts::default(),
            state_bytes: 0,
            snapshot: self.save.clone().map(|whole| Snapshot {
                record: record.clone(),
                largest_us: largest_us(sources),
                origin: origin.clone(),
                whole,
                parts: Vec::new(),
            }),
            record,
        };
        (Closing { epoch: self.epoch, watermarks, save: self.save }, flowing)
    }
}

/// What a batch is judged by, and who has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct JudgedBatch {
    pub(super) id: BatchId,
    pub(super) worker: usize,
    pub(super) carried: Carried,
}

/// An epoch that flows through the workers.
#[derive(Debug)]
pub(super) struct Flowing {
    pub(super) record: EpochRecord,
    pub(super) finished: bool,
    /// How many workers are done with it.
    pub(super) done: usize,
    /// By sink, then by input.
    pub(super) sinks: Vec<Vec<Updates>>,
    pub(super) counts: Counts,
    pub(super) state_bytes: usize,
    /// Filled by the workers, where the state is saved.
    pub(super) snapshot: Option<Snapshot>,
}

impl Flowing {
    /// Adds what one worker brought out.
    pub(super) fn merge(&mut self, output: EpochOutput) {
        self.done += 1;
        self.counts.accepted += output.counts.accepted;
        self.counts.dead += output.counts.dead;
        self.counts.late += output.counts.late;
        self.state_bytes += output.state_bytes;
        if let Some(snapshot) = &mut self.snapshot {
            snapshot.parts.extend(output.saved);
        }
        for (mine, theirs) in self.sinks.iter_mut().zip(output.sinks) {
            for (mine, theirs) in mine.iter_mut().zip(theirs) {
                mine.extend(theirs);
            }
        }
    }
}

/// The largest timestamp accepted from each source that has any.
fn largest_us(sources: &[SourceState]) -> BTreeMap<String, i64> {
    sources.iter().filter_map(|state| Some((state.name.clone(), state.largest_us?))).collect()
}
