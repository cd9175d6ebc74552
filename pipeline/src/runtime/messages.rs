//! What the actors say to each other.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use waterwheel_config::value::Row;

use crate::contract::batch::RawBatch;
use crate::contract::epoch::{Epoch, EpochRecord, Progress};
use crate::contract::fault::Fault;
use crate::contract::position::Position;
use crate::contract::raw::RawEvents;
use crate::contract::state::{KeyGroup, SavedPart};

/// Names a batch within a generation.
pub(super) type BatchId = u64;

/// What came out for one input of a sink.
#[derive(Debug, Default)]
pub(super) struct Updates {
    /// Rows with how often they came, less how often they went.
    pub(super) rows: Vec<(Row, isize)>,
    /// Raw events, by batch.
    pub(super) events: Vec<RawEvents>,
}

impl Updates {
    /// How many rows they are, written out.
    pub(super) fn len(&self) -> usize {
        self.rows.len() + self.events.iter().map(RawEvents::len).sum::<usize>()
    }

    /// Adds others of the same input.
    pub(super) fn extend(&mut self, others: Self) {
        if self.rows.is_empty() {
            self.rows = others.rows;
        } else {
            self.rows.extend(others.rows);
        }
        self.events.extend(others.events);
    }
}

/// From an intake to the coordinator.
#[derive(Debug)]
pub(super) enum FromIntake {
    /// The source is open at this position.
    Opened(Position),
    /// The next messages.
    Batch(RawBatch),
    /// Nothing has come for so long, as of a moment, and nothing waits.
    Silent { silence: Duration, at: Instant },
    /// The end that `until` asked for.
    End,
}

/// From the coordinator to a worker.
pub(super) enum ToWorker {
    /// Decode this and keep it until it can be judged.
    Batch { id: BatchId, source: u16, raw: RawBatch },
    /// What is before the batch is known: judge it and let it flow into the epoch, which is the one
    /// that closes next.
    Judge { epoch: Epoch, id: BatchId, carried: Carried },
    /// The epoch is whole.
    Close(Arc<Closing>),
}

/// What the workers need to close an epoch.
#[derive(Debug)]
pub(super) struct Closing {
    pub(super) epoch: Epoch,
    /// The watermark of each source after the epoch.
    pub(super) watermarks: Vec<i64>,
    /// The key groups to be saved whole after the epoch, if the state is saved.
    pub(super) save: Option<Range<KeyGroup>>,
}

/// What the log says before a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Carried {
    /// The largest timestamp accepted.
    pub(super) largest_us: Option<i64>,
    /// The watermark that others had reached when the source had been silent.
    pub(super) floor_us: i64,
}

/// From a worker to the coordinator.
#[derive(Debug)]
pub(super) enum FromWorker {
    /// A batch is decoded; the largest timestamp of its events.
    Decoded { id: BatchId, timestamp_max_us: Option<i64> },
    /// An epoch has flowed through the whole dataflow.
    Done(Box<EpochOutput>),
    /// It cannot go on.
    Fault(Fault),
}

/// What one worker brought out of one epoch.
#[derive(Debug, Default)]
pub(super) struct EpochOutput {
    pub(super) epoch: Epoch,
    /// By sink, then by input.
    pub(super) sinks: Vec<Vec<Updates>>,
    pub(super) counts: Counts,
    pub(super) state_bytes: usize,
    /// The state as of the epoch, where it was asked for.
    pub(super) saved: Vec<SavedPart>,
}

/// How many messages became what.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) accepted: u64,
    /// Late ones included.
    pub(super) dead: u64,
    pub(super) late: u64,
}

/// From the coordinator to an outlet: one epoch's changes.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) record: EpochRecord,
    pub(super) finished: bool,
    /// By input.
    pub(super) updates: Vec<Updates>,
}

/// From an outlet to the coordinator.
#[derive(Debug)]
pub(super) enum FromOutlet {
    /// So many deliveries have left its mailbox for good.
    Taken { sink: usize, count: usize },
    /// Everything up to here is durable.
    Durable { sink: usize, progress: Progress },
    /// It cannot go on.
    Fault { sink: usize, fault: Fault },
}
