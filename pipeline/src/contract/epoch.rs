//! Epochs: the differential timestamp, and what is recorded of each.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::position::{Position, Positions};

/// A number that grows by one with every cut of the input.
pub type Epoch = u64;

/// Counts the lives of a pipeline: a higher one fences off every lower one.
pub type Generation = u64;

/// Before any event: the watermark of a source that has read nothing.
pub const NO_WATERMARK: i64 = i64::MIN;

/// After every event: the watermark of a source that is final.
pub const FINAL_WATERMARK: i64 = i64::MAX;

/// What is true at the end of an epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// The epoch.
    pub epoch: Epoch,
    /// The generation that closed it.
    pub generation: Generation,
    /// How far each source has been read.
    pub positions: Positions,
    /// The watermark of each source after the epoch, in microseconds.
    pub watermarks: BTreeMap<String, i64>,
}

impl EpochRecord {
    /// The least of the sources' watermarks.
    pub fn watermark(&self) -> i64 {
        self.watermarks.values().copied().min().unwrap_or(NO_WATERMARK)
    }

    /// True if no source was read further here than there, and no watermark is further.
    pub fn is_at_or_before(&self, other: &Self) -> bool {
        let read = |(source, position): (&String, &Position)| {
            position.ordinal <= other.positions.get(source).map_or(0, |other| other.ordinal)
        };
        self.positions.iter().all(read) && other.has_passed(self)
    }

    /// True if every watermark is at or behind that of an earlier record.
    pub fn has_passed(&self, earlier: &Self) -> bool {
        earlier.watermarks.iter().all(|(source, micros)| {
            *micros <= self.watermarks.get(source).copied().unwrap_or(NO_WATERMARK)
        })
    }

    /// True if both are one place in the sources, whoever came there in whichever epoch.
    pub fn is_same_place(&self, other: &Self) -> bool {
        self.is_at_or_before(other) && other.is_at_or_before(self)
    }
}

/// What a sink stores in the same step as its rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The state of the pipeline that the sink's content equals.
    pub record: EpochRecord,
    /// Where each source began when the pipeline was new: a replay begins there again.
    pub origin: Positions,
    /// A hash over everything that gives the sink's rows their meaning, and behind spaces one for
    /// each part of it, by name. Another one means that the deployment was changed since.
    pub fingerprint: String,
    /// True if the pipeline is finished: `until = "final"` was reached and every window emitted.
    pub finished: bool,
}
