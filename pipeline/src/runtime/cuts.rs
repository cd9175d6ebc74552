//! Where a replay must cut its epochs: at the recorded place of every sink, so that a sink is given
//! exactly what it does not hold.
//!
//! A place says of each source how far it was read and where its watermark was. The second follows
//! from the first but for two things: that a source is finished, and that it was not waited for while
//! it was silent. Both happen between two messages, so at one position there may be several places.

use std::collections::VecDeque;

use crate::contract::epoch::{EpochRecord, FINAL_WATERMARK, NO_WATERMARK};
use crate::contract::position::{Position, Positions};

/// The places still to be cut at, the earliest first.
#[derive(Debug, Default)]
pub(super) struct Cuts(VecDeque<EpochRecord>);

impl Cuts {
    /// Orders the recorded places. They are prefixes of one run, so each is at or behind the next in
    /// every source.
    pub(super) fn new(recorded: impl IntoIterator<Item = EpochRecord>) -> Self {
        let mut cuts: Vec<EpochRecord> = recorded.into_iter().collect();
        cuts.sort_by_key(total);
        cuts.dedup_by(|a, b| a.positions == b.positions && a.watermarks == b.watermarks);
        Self(cuts.into())
    }

    /// The ordinal beyond which a source must not be read before the next cut.
    pub(super) fn bound(&self, source: &str) -> Option<u64> {
        // A source that the record does not know was added later: it waits at its beginning.
        self.0.front().map(|cut| cut.positions.get(source).map_or(0, |position| position.ordinal))
    }

    /// What the next cut records of a source.
    pub(super) fn recorded(&self, source: &str) -> Option<&Position> {
        self.0.front().and_then(|cut| cut.positions.get(source))
    }

    /// Where the next cut records a source's watermark to be; none where it does not know it.
    pub(super) fn watermark(&self, source: &str) -> i64 {
        let cut = self.0.front();
        cut.and_then(|cut| cut.watermarks.get(source)).copied().unwrap_or(NO_WATERMARK)
    }

    /// True if the source was finished at the next cut.
    pub(super) fn is_final(&self, source: &str) -> bool {
        self.watermark(source) == FINAL_WATERMARK
    }

    /// True while there is a cut ahead.
    pub(super) fn is_ahead(&self) -> bool {
        !self.0.is_empty()
    }

    /// The next cut has been made.
    pub(super) fn pass(&mut self) {
        self.0.pop_front();
    }
}

/// Orders places of one run.
pub(super) fn total(record: &EpochRecord) -> (u128, i128) {
    let read = record.positions.values().map(|position| u128::from(position.ordinal));
    let passed = record.watermarks.values().map(|micros| i128::from(*micros));
    (read.sum(), passed.sum())
}

/// True if a sink that recorded `held` has everything up to `given`. Of a source that it does not
/// know it has nothing, wherever that began.
pub(super) fn is_held(given: &EpochRecord, held: &EpochRecord, origin: &Positions) -> bool {
    let read = |(source, position): (&String, &Position)| {
        let known = held.positions.get(source).or_else(|| origin.get(source));
        position.ordinal <= known.map_or(0, |known| known.ordinal)
    };
    given.positions.iter().all(read) && held.has_passed(given)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::position::position_at;

    fn record(a: u64, b: u64) -> EpochRecord {
        marked(a, b, 0)
    }

    /// With the watermark of `b`.
    fn marked(a: u64, b: u64, watermark_us: i64) -> EpochRecord {
        EpochRecord {
            epoch: 0,
            generation: 0,
            positions: [("a".to_owned(), position_at(a)), ("b".to_owned(), position_at(b))].into(),
            watermarks: [("b".to_owned(), watermark_us)].into(),
        }
    }

    #[test]
    fn cuts_come_in_order_and_once() {
        let mut cuts = Cuts::new([record(9, 9), record(5, 3), record(9, 9)]);
        assert_eq!(
            (cuts.bound("a"), cuts.bound("b"), cuts.bound("new")),
            (Some(5), Some(3), Some(0))
        );
        cuts.pass();
        assert_eq!(cuts.bound("a"), Some(9));
        cuts.pass();
        assert!(!cuts.is_ahead());
        assert_eq!(cuts.bound("a"), None);
    }

    #[test]
    fn one_position_has_several_places() {
        let mut cuts =
            Cuts::new([marked(9, 9, FINAL_WATERMARK), marked(9, 9, 5), marked(9, 9, 70)]);
        let mut passed = Vec::new();
        while cuts.is_ahead() {
            passed.push((cuts.watermark("b"), cuts.is_final("b")));
            cuts.pass();
        }
        assert_eq!(passed, [(5, false), (70, false), (FINAL_WATERMARK, true)]);
        assert!(marked(9, 9, 5).is_at_or_before(&marked(9, 9, 5)));
        assert!(!marked(9, 9, 6).is_at_or_before(&marked(9, 9, 5)));
        assert!(!is_held(&marked(9, 9, 6), &marked(9, 9, 5), &Positions::new()));
        assert!(is_held(&marked(9, 9, 5), &marked(9, 9, 6), &Positions::new()));
    }

    #[test]
    fn places_compare_source_by_source() {
        assert!(record(5, 3).is_at_or_before(&record(5, 3)));
        assert!(!record(5, 4).is_at_or_before(&record(6, 3)));
    }

    #[test]
    fn a_source_that_was_added_is_held_up_to_its_origin() {
        let mut held = record(5, 0);
        held.positions.remove("b");
        let origin = record(0, 7).positions;
        assert!(is_held(&record(5, 7), &held, &origin));
        assert!(!is_held(&record(5, 8), &held, &origin));
        assert!(!is_held(&record(6, 7), &held, &origin));
    }
}
