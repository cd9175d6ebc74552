//! How far one user got in one reporting period, for funnels whose steps may come in any order.
//!
//! From an entry the distinct steps within the conversion window count. Of the entries whose window is
//! open at an event the earliest has seen the most, and of equals the earliest wins: so at each event
//! it is enough to ask how many steps were seen since the earliest entry that is open, which the last
//! time of each step tells. Only where that is more than ever before, the path is looked up.

use serde::{Deserialize, Serialize};

use super::Rules;
use super::chain::{Path, steps_of};
use super::steps::StepEvent;

/// What a user has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    /// When each step was last seen; empty before the first event.
    last_us: Vec<Option<i64>>,
    /// When a step was last seen inside the period.
    entered_us: Option<i64>,
    /// The path of the best entry so far.
    best: Path,
}

impl Seen {
    /// Applies the next event in order. `may_enter`: it lies inside the period. `since` gives the
    /// user's events from a time on, this one among them.
    pub(super) fn apply<'a, I: Iterator<Item = &'a StepEvent>>(
        &mut self,
        event: &StepEvent,
        rules: &Rules,
        may_enter: bool,
        since: impl FnOnce(i64) -> I,
    ) {
        self.last_us.resize(rules.steps, None);
        for step in steps_of(event.steps) {
            self.last_us[step] = Some(event.time_us);
        }
        if may_enter {
            self.entered_us = Some(event.time_us);
        }
        let since_us = event.time_us.saturating_sub(rules.within_us);
        // No entry is open. What lies after the period comes after all entries.
        if self.entered_us < Some(since_us) {
            return;
        }
        let level = self.last_us.iter().filter(|last_us| **last_us >= Some(since_us)).count();
        if self.best.times.len() < level {
            self.best = path(since(since_us), level);
        }
    }

    /// The user's path.
    pub(super) fn best(&self) -> &Path {
        &self.best
    }

    /// About how many bytes it takes beside itself.
    pub(super) fn size_bytes(&self) -> usize {
        self.last_us.capacity() * 16 + self.best.times.capacity() * 8
    }
}

/// The path of the entry that is the first of these events, as far as so many distinct steps.
fn path<'a>(events: impl Iterator<Item = &'a StepEvent>, level: usize) -> Path {
    let (mut path, mut seen) = (Path::default(), 0);
    for event in events {
        if seen == 0 {
            path.breakdown.clone_from(&event.breakdown);
        }
        let new = event.steps & !seen;
        path.times.extend(steps_of(new).map(|_| event.time_us));
        seen |= new;
        if path.times.len() >= level {
            break;
        }
    }
    path
}
