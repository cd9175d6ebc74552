//! The states of an epoch, and what the coordinator knows of a source.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use tokio::time::Instant;

use crate::contract::batch::RawBatch;
use crate::contract::epoch::{Epoch, EpochRecord, FINAL_WATERMARK, Generation, NO_WATERMARK};
use crate::contract::position::{Position, Positions};
use crate::contract::state::KeyGroup;
use crate::graph::Deployment;
use crate::runtime::checkpoint::Snapshot;
use crate::runtime::messages::{BatchId, Closing, Counts, EpochOutput, Updates};

/// What is known of a source.
#[derive(Debug, Default)]
pub(super) struct SourceState {
    /// After the last message that was handed to a worker.
    pub(super) position: Option<Position>,
    /// The largest timestamp accepted in the epochs that flow.
    pub(super) largest_us: Option<i64>,
    /// A batch that waits, because a cut lies in front of it or within it.
    pub(super) held: Option<RawBatch>,
    pub(super) ended: bool,
    /// Messages that it knows to wait behind the last batch.
    pub(super) pending: u64,
}

impl SourceState {
    /// The held messages up to and including an ordinal, or all where there is no bound.
    pub(super) fn take_through(&mut self, bound: Option<u64>) -> Option<RawBatch> {
        let mut held = self.held.take()?;
        let Some(bound) = bound else {
            return Some(held);
        };
        let head = held.split_through(bound);
        if !held.messages.is_empty() {
            self.held = Some(held);
        }
        (!head.messages.is_empty()).then_some(head)
    }

    /// True if nothing up to and including the ordinal is still to come.
    pub(super) fn is_at(&self, bound: u64) -> bool {
        self.position.as_ref().is_none_or(|position| position.ordinal >= bound)
            || self.ended
            // What waits lies beyond: the messages up to the bound have been deleted since.
            || self.held.is_some()
    }
}

#[derive(Debug)]
pub(super) struct Batch {
    id: BatchId,
    source: usize,
    /// `None` until decoded; then the largest timestamp, if there is an event.
    timestamp_max_us: Option<Option<i64>>,
}

/// An epoch that is open or sealed.
#[derive(Debug)]
pub(super) struct OpenEpoch {
    pub(super) epoch: Epoch,
    pub(super) batches: Vec<Batch>,
    pub(super) messages: usize,
    /// When its first batch came.
    pub(super) opened_at: Option<Instant>,
    /// How far the sources were read when it was sealed.
    pub(super) positions: Positions,
    /// The sources that become final with it.
    pub(super) final_sources: Vec<bool>,
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
            messages: 0,
            opened_at: None,
            positions: Positions::new(),
            final_sources: Vec::new(),
            finished: false,
            save: None,
        }
    }

    pub(super) fn add(&mut self, id: BatchId, source: usize, messages: usize) {
        self.opened_at.get_or_insert_with(Instant::now);
        self.messages += messages;
        self.batches.push(Batch { id, source, timestamp_max_us: None });
    }

    /// Notes that a batch is decoded; false if it is none of this epoch's.
    pub(super) fn decoded(&mut self, id: BatchId, timestamp_max_us: Option<i64>) -> bool {
        // Batches are numbered in order, so they are sorted here.
        match self.batches.binary_search_by_key(&id, |batch| batch.id) {
            Ok(index) => {
                self.batches[index].timestamp_max_us = Some(timestamp_max_us);
                true
            }
            Err(_) => false,
        }
    }

    pub(super) fn is_decoded(&self) -> bool {
        self.batches.iter().all(|batch| batch.timestamp_max_us.is_some())
    }

    /// Judges time in log order: what each batch must know of those before it, and the watermarks
    /// after the epoch.
    pub(super) fn close(
        self,
        generation: Generation,
        deployment: &Deployment,
        origin: &Positions,
        sources: &mut [SourceState],
    ) -> (Closing, Flowing) {
        let mut carried_us = HashMap::new();
        for batch in &self.batches {
            let largest_us = &mut sources[batch.source].largest_us;
            carried_us.insert(batch.id, *largest_us);
            *largest_us = (*largest_us).max(batch.timestamp_max_us.flatten());
        }
        let watermarks: Vec<i64> = deployment
            .sources
            .iter()
            .zip(&*sources)
            .enumerate()
            .map(|(index, (node, state))| match state.largest_us {
                _ if self.final_sources.get(index) == Some(&true) => FINAL_WATERMARK,
                Some(largest_us) => node.decode.watermark(largest_us),
                None => NO_WATERMARK,
            })
            .collect();
        let names = deployment.sources.iter().map(|node| node.name.clone());
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
                .map(|sink| sink.inputs.iter().map(|_| Vec::new()).collect())
                .collect(),
            counts: Counts::default(),
            state_bytes: 0,
            snapshot: self.save.clone().map(|whole| Snapshot {
                record: record.clone(),
                largest_us: largest_us(deployment, sources),
                origin: origin.clone(),
                whole,
                parts: Vec::new(),
            }),
            record,
        };
        (Closing { epoch: self.epoch, watermarks, carried_us, save: self.save }, flowing)
    }
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
                if mine.is_empty() {
                    *mine = theirs;
                } else {
                    mine.extend(theirs);
                }
            }
        }
    }
}

/// The largest timestamp accepted from each source that has any.
fn largest_us(deployment: &Deployment, sources: &[SourceState]) -> BTreeMap<String, i64> {
    let nodes = deployment.sources.iter().zip(sources);
    nodes.filter_map(|(node, state)| Some((node.name.clone(), state.largest_us?))).collect()
}
