//! Where a replay must cut its epochs: at the recorded position of every sink, so that a sink is
//! given exactly what it does not hold.

use std::collections::VecDeque;

use crate::contract::position::{Position, Positions};

/// The positions still to be cut at, the earliest first.
#[derive(Debug, Default)]
pub(super) struct Cuts(VecDeque<Positions>);

impl Cuts {
    /// Orders the recorded positions. They are prefixes of one run, so each is at or behind the
    /// next in every source.
    pub(super) fn new(recorded: impl IntoIterator<Item = Positions>) -> Self {
        let mut cuts: Vec<Positions> = recorded.into_iter().collect();
        let total = |positions: &Positions| {
            positions.values().map(|position| u128::from(position.ordinal)).sum::<u128>()
        };
        cuts.sort_by_key(total);
        cuts.dedup();
        Self(cuts.into())
    }

    /// The ordinal beyond which a source must not be read before the next cut.
    pub(super) fn bound(&self, source: &str) -> Option<u64> {
        // A source that the record does not know was added later: it waits at its beginning.
        self.0.front().map(|cut| cut.get(source).map_or(0, |position| position.ordinal))
    }

    /// What the next cut records of a source.
    pub(super) fn recorded(&self, source: &str) -> Option<&Position> {
        self.0.front().and_then(|cut| cut.get(source))
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

/// True if `a` has read no further than `b` in any source.
pub(super) fn is_at_or_before(a: &Positions, b: &Positions) -> bool {
    a.iter().all(|(source, position)| {
        position.ordinal <= b.get(source).map_or(0, |other| other.ordinal)
    })
}

/// True if a sink that recorded `held` has everything up to `given`. Of a source that it does not
/// know it has nothing, wherever that began.
pub(super) fn is_held(given: &Positions, held: &Positions, origin: &Positions) -> bool {
    given.iter().all(|(source, position)| {
        let known = held.get(source).or_else(|| origin.get(source));
        position.ordinal <= known.map_or(0, |known| known.ordinal)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::position::position_at;

    fn positions(a: u64, b: u64) -> Positions {
        [("a".to_owned(), position_at(a)), ("b".to_owned(), position_at(b))].into()
    }

    #[test]
    fn cuts_come_in_order_and_once() {
        let mut cuts = Cuts::new([positions(9, 9), positions(5, 3), positions(9, 9)]);
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
    fn positions_compare_source_by_source() {
        assert!(is_at_or_before(&positions(5, 3), &positions(5, 3)));
        assert!(!is_at_or_before(&positions(5, 4), &positions(6, 3)));
    }

    #[test]
    fn a_source_that_was_added_is_held_up_to_its_origin() {
        let mut held = positions(5, 0);
        held.remove("b");
        let origin = positions(0, 7);
        assert!(is_held(&positions(5, 7), &held, &origin));
        assert!(!is_held(&positions(5, 8), &held, &origin));
        assert!(!is_held(&positions(6, 7), &held, &origin));
    }
}
