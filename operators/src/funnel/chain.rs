//! The fold of one user's events in one reporting period.
//!
//! `L[i]` is the path of the latest chain that reached step i. An event is applied to the steps it
//! matches from high to low, so that it is used once in a chain. This is ClickHouse's `windowFunnel`
//! in its default mode: since a later start leaves more time, the latest chain dominates.

use serde::{Deserialize, Serialize};

use super::steps::StepEvent;

/// The times of a chain's events, by step.
pub(super) type Path = Vec<i64>;

/// How far a user has got.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Chains {
    /// By step; shorter while no chain has got that far.
    latest: Vec<Option<Path>>,
    /// The first path to reach the highest level so far.
    pub(super) best: Path,
}

impl Chains {
    /// Applies the next event in order. `may_enter`: it lies inside the period.
    pub(super) fn apply(&mut self, event: &StepEvent, within_us: i64, may_enter: bool) {
        let mut steps = event.steps;
        while steps != 0 {
            let step = 31 - steps.leading_zeros();
            steps &= !(1 << step);
            let step = step as usize;
            let path = if step == 0 {
                if !may_enter {
                    continue;
                }
                vec![event.time_us]
            } else {
                let Some(Some(before)) = self.latest.get(step - 1) else {
                    continue;
                };
                if event.time_us.saturating_sub(before[0]) > within_us {
                    continue;
                }
                let mut path = Vec::with_capacity(step + 1);
                path.extend_from_slice(before);
                path.push(event.time_us);
                path
            };
            if self.best.len() < path.len() {
                self.best.clone_from(&path);
            }
            if self.latest.len() <= step {
                self.latest.resize(step + 1, None);
            }
            self.latest[step] = Some(path);
        }
    }

    /// About how many bytes it takes beside itself.
    pub(super) fn size_bytes(&self) -> usize {
        let paths = self.latest.iter().flatten().map(|path| 8 * path.capacity());
        paths.sum::<usize>() + self.latest.capacity() * 24 + self.best.capacity() * 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(events: &[(i64, u32)], within_us: i64) -> Path {
        let mut chains = Chains::default();
        for (index, (time_us, steps)) in events.iter().enumerate() {
            let event = StepEvent {
                time_us: *time_us,
                lowest_step: steps.trailing_zeros() as u8,
                source: 0,
                sequence: index as u128,
                steps: *steps,
            };
            chains.apply(&event, within_us, true);
        }
        chains.best
    }

    #[test]
    fn the_rules_of_an_ordered_funnel() {
        // One event that matches two steps is used once in a chain.
        assert_eq!(run(&[(1, 0b11)], 10), [1]);
        assert_eq!(run(&[(1, 0b11), (2, 0b11)], 10), [1, 2]);
        // The window is inclusive, and counts from the first step.
        assert_eq!(run(&[(0, 1), (5, 2), (10, 4)], 10), [0, 5, 10]);
        assert_eq!(run(&[(0, 1), (5, 2), (11, 4)], 10), [0, 5]);
        // A later start takes over; the first path to reach the level is the user's.
        assert_eq!(run(&[(0, 1), (8, 1), (12, 2), (13, 2)], 10), [8, 12]);
        assert_eq!(run(&[(0, 1), (2, 2), (5, 1), (6, 2)], 10), [0, 2]);
        // Steps out of order do not count.
        assert_eq!(run(&[(0, 2), (1, 1)], 10), [1]);
    }
}
