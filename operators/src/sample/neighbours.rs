//! Which items of a group pass: the rule, over what lies around an item.

use super::Plan;

/// The most neighbours on one side that the probability counts.
const AROUND: usize = 5;

/// A neighbour: how far away it is, and whether it matches `keep`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Neighbour {
    pub(super) apart_us: i64,
    pub(super) is_kept: bool,
}

impl Plan {
    /// How many decided items of a group may still be neighbours of later ones.
    pub(super) fn reach(&self) -> usize {
        self.context.max(AROUND)
    }

    /// Whether an item passes, given its neighbours on either side, the nearest first.
    pub(super) fn passes(
        &self,
        is_kept: bool,
        draw: u64,
        before: impl Iterator<Item = Neighbour>,
        after: impl Iterator<Item = Neighbour>,
    ) -> bool {
        if is_kept {
            return true;
        }
        let (mut around, mut kept) = (0, 0);
        let mut look = |side: &mut dyn Iterator<Item = Neighbour>| {
            let near = side.take_while(|neighbour| neighbour.apart_us <= self.within_us);
            for (index, neighbour) in near.take(self.reach()).enumerate() {
                if neighbour.is_kept && index < self.context {
                    return true;
                }
                if index < AROUND {
                    around += 1;
                    kept += usize::from(neighbour.is_kept);
                }
            }
            false
        };
        let (mut before, mut after) = (before, after);
        if look(&mut before) || look(&mut after) {
            return true;
        }
        // From 0 to 1, 1 left out: the upper 53 bits are a double exactly.
        let drawn = (draw >> 11) as f64 / (1u64 << 53) as f64;
        drawn < probability(self.rate, around, kept)
    }
}

fn probability(rate: f64, around: usize, kept: usize) -> f64 {
    let (n, c) = (around as f64, kept as f64);
    let more = if around == 0 { 0.0 } else { n / 10.0 + 2.0 * c / n };
    (rate * (1.0 + more.min(3.0))).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lively_neighbourhood_passes_more() {
        for (around, kept, expected) in
            [(0, 0, 0.1), (10, 0, 0.2), (5, 0, 0.15), (4, 1, 0.19), (2, 2, 0.32), (10, 10, 0.4)]
        {
            let found = probability(0.1, around, kept);
            assert!((found - expected).abs() < 1e-12, "{around} {kept}: {found}");
        }
        assert_eq!(probability(0.5, 10, 10), 1.0);
        assert_eq!(probability(0.0, 10, 10), 0.0);
    }
}
