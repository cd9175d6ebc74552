//! How far one user got in one reporting period, whatever the order of the funnel.

use serde::{Deserialize, Serialize};

use super::chain::{Chains, Path};
use super::seen::Seen;
use super::steps::StepEvent;
use super::{Order, Rules};

/// The state of the fold over a user's events.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Progress {
    /// Of `ordered` and `strict` funnels.
    Chains(Chains),
    /// Of `any`; boxed, since it is larger.
    Seen(Box<Seen>),
}

impl Progress {
    /// Before the first event.
    pub(super) fn new(rules: &Rules) -> Self {
        match rules.order {
            Order::Ordered | Order::Strict => Self::Chains(Chains::default()),
            Order::Any => Self::Seen(Box::default()),
        }
    }

    /// Applies the next event in order. `may_enter`: it lies inside the period. `since` gives the
    /// user's events from a time on, this one among them.
    pub(super) fn apply<'a, I: Iterator<Item = &'a StepEvent>>(
        &mut self,
        event: &StepEvent,
        rules: &Rules,
        may_enter: bool,
        since: impl FnOnce(i64) -> I,
    ) {
        match self {
            Self::Chains(chains) => chains.apply(event, rules, may_enter),
            Self::Seen(seen) => seen.apply(event, rules, may_enter, since),
        }
    }

    /// The user's path.
    pub(super) fn best(&self) -> &Path {
        match self {
            Self::Chains(chains) => chains.best(),
            Self::Seen(seen) => seen.best(),
        }
    }

    /// True if it is as it was before the first event, as far as later ones go.
    pub(super) fn is_idle(&self) -> bool {
        match self {
            Self::Chains(chains) => chains.is_idle(),
            Self::Seen(seen) => seen.best().times.is_empty(),
        }
    }

    /// True if the same will come of both, whatever follows.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Chains(one), Self::Chains(other)) => one.is_same(other),
            (Self::Seen(one), Self::Seen(other)) => one == other,
            _ => false,
        }
    }

    /// About how many bytes it takes beside itself.
    pub(super) fn size_bytes(&self) -> usize {
        match self {
            Self::Chains(chains) => chains.size_bytes(),
            Self::Seen(seen) => seen.size_bytes(),
        }
    }
}
