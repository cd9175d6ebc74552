//! How far one user got in one reporting period, for funnels whose steps come one after another.
//!
//! `L[i]` is the path of the latest chain that reached step i. An event is applied to the steps it
//! matches from high to low, so that it is used once in a chain. Of an *ordered* funnel this is
//! ClickHouse's `windowFunnel` in its default mode: since a later start leaves more time, the latest
//! chain dominates. Of a *strict* one a chain lives from event to event: at any event at most one
//! attempt is at each step, the one that began so many events before.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thin_vec::ThinVec;

use super::steps::StepEvent;
use super::{Order, Rules};

/// The times of a chain's events, by step, and what its first event says of the breakdown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Path {
    pub(super) times: ThinVec<i64>,
    pub(super) breakdown: Option<Arc<str>>,
}

/// How far a user has got. There are many users, so it is small: a thin vector takes one word where it
/// is empty.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Chains {
    /// `L[0]`, `L[1]`, ... one after another, as far as any chain got: of step i there are i + 1 times.
    times: ThinVec<i64>,
    /// What the first event of each says of the breakdown; empty where there is none.
    breakdowns: ThinVec<Option<Arc<str>>>,
    /// The steps, as bits, whose `L[i]` may still go on; what stands in the others is of no meaning.
    live: u32,
    /// The first path to reach the highest level so far.
    best: Path,
}

/// Where `L[step]` begins.
fn begin(step: usize) -> usize {
    step * (step + 1) / 2
}

/// The steps in a set of bits.
pub(super) fn steps_of(mut bits: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let step = 31u32.checked_sub(bits.leading_zeros())?;
        bits &= !(1 << step);
        Some(step as usize)
    })
}

impl Chains {
    /// Applies the next event in order. `may_enter`: it lies inside the period.
    pub(super) fn apply(&mut self, event: &StepEvent, rules: &Rules, may_enter: bool) {
        // Of a strict funnel, what does not go on with this event is over.
        let mut live = if rules.order == Order::Strict { 0 } else { self.live };
        // From high to low: what a step goes on from is still as it was before the event.
        for step in steps_of(event.steps) {
            let (at, end) = (begin(step), begin(step + 1));
            if step == 0 {
                if !may_enter {
                    continue;
                }
            } else if self.live & (1 << (step - 1)) == 0
                || event.time_us.saturating_sub(self.times[begin(step - 1)]) > rules.within_us
            {
                continue;
            }
            if self.times.len() < end {
                self.times.resize(end, 0);
            }
            self.times.copy_within(begin(step.saturating_sub(1))..at, at);
            self.times[end - 1] = event.time_us;
            if rules.has_breakdown {
                if self.breakdowns.len() <= step {
                    self.breakdowns.resize(step + 1, None);
                }
                self.breakdowns[step] = match step {
                    0 => event.breakdown.clone(),
                    _ => self.breakdowns[step - 1].clone(),
                };
            }
            live |= 1 << step;
            if self.best.times.len() <= step {
                self.best = self.path(step);
            }
        }
        self.live = live;
        self.forget(event.time_us, rules);
    }

    /// Forgets the chains that no event from this time on can go on with.
    fn forget(&mut self, time_us: i64, rules: &Rules) {
        for step in steps_of(self.live) {
            let is_over = time_us.saturating_sub(self.times[begin(step)]) > rules.within_us;
            if is_over || step + 1 == rules.steps {
                self.live &= !(1 << step);
            }
        }
    }

    fn path(&self, step: usize) -> Path {
        let times = self.times[begin(step)..begin(step + 1)].into();
        Path { times, breakdown: self.breakdowns.get(step).cloned().flatten() }
    }

    /// The user's path.
    pub(super) fn best(&self) -> &Path {
        &self.best
    }

    /// True if it is as it was before the first event, as far as later ones go.
    pub(super) fn is_idle(&self) -> bool {
        self.live == 0 && self.best.times.is_empty()
    }

    /// True if the same will come of both, whatever follows.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.live == other.live
            && self.best == other.best
            && steps_of(self.live).all(|step| {
                let times = begin(step)..begin(step + 1);
                self.times[times.clone()] == other.times[times]
                    && self.breakdowns.get(step) == other.breakdowns.get(step)
            })
    }

    /// About how many bytes it takes beside itself.
    pub(super) fn size_bytes(&self) -> usize {
        (self.times.capacity() + self.best.times.capacity()) * 8 + self.breakdowns.capacity() * 16
    }
}
