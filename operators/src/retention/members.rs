//! Who is a member of which cohort, and in which of its periods they came back.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Span;
use super::totals::{CohortChange, CohortCounts};
use crate::spans::{SpanEvent, Spans};

/// The bits of [`SpanEvent::marks`].
const START: u8 = 1;
const RETURN: u8 = 2;

/// A membership.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Membership {
    start_us: i64,
    /// The start of the cohort's period.
    cohort_us: i64,
    /// The last moment of the cohort's last period.
    until_us: i64,
    /// By period, a bit where they came back; as long as it must be.
    returned: Vec<u64>,
}

impl Membership {
    fn periods(&self) -> impl Iterator<Item = usize> {
        self.returned.iter().enumerate().flat_map(|(index, bits)| {
            (0..64).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| index * 64 + bit)
        })
    }
}

/// The memberships of the users that a worker owns.
pub(super) struct Members {
    span: Span,
    /// The starts of the periods of a cohort, and the end of the last one. To find them in the
    /// calendar for every event would cost more than everything else.
    bounds: BTreeMap<i64, Arc<[i64]>>,
    /// What changed in the current epoch, by cohort.
    changes: BTreeMap<i64, CohortCounts>,
}

impl Members {
    pub(super) fn new(span: Span) -> Self {
        Self { span, bounds: BTreeMap::new(), changes: BTreeMap::new() }
    }

    fn bounds(&mut self, cohort_us: i64) -> &Arc<[i64]> {
        let Span { period, periods } = self.span;
        let find = || (0..=periods).map(|count| period.after(cohort_us, count)).collect();
        self.bounds.entry(cohort_us).or_insert_with(find)
    }

    fn count(&mut self, member: Option<&Membership>, times: i64) {
        if let Some(member) = member {
            let counts = self.changes.entry(member.cohort_us).or_default();
            counts.add(member.periods(), times);
        }
    }
}

impl Spans for Members {
    type Span = Membership;
    type Output = CohortChange;

    fn begin(&mut self, event: &SpanEvent, times: i64) -> Option<Membership> {
        if event.marks & START == 0 {
            return None;
        }
        let cohort_us = self.span.period.window(event.time_us).start;
        let end_us = self.bounds(cohort_us).last().copied().unwrap_or(i64::MAX);
        let mut member = Membership {
            start_us: event.time_us,
            cohort_us,
            until_us: end_us.saturating_sub(1),
            returned: Vec::new(),
        };
        self.add(&mut member, event, times);
        Some(member)
    }

    fn add(&mut self, member: &mut Membership, event: &SpanEvent, _times: i64) {
        if event.marks & RETURN == 0 {
            return;
        }
        let bounds = self.bounds(member.cohort_us);
        let begun = bounds.partition_point(|start_us| *start_us <= event.time_us);
        let Some(period) = begun.checked_sub(1) else {
            return;
        };
        let (index, bit) = (period / 64, period % 64);
        if member.returned.len() <= index {
            member.returned.resize(index + 1, 0);
        }
        member.returned[index] |= 1 << bit;
    }

    fn start_us(member: &Membership) -> i64 {
        member.start_us
    }

    fn until_us(&self, member: &Membership) -> i64 {
        member.until_us
    }

    fn heap_bytes(member: &Membership) -> usize {
        member.returned.capacity() * size_of::<u64>()
    }

    fn changed(
        &mut self,
        _key: &[u8],
        before: Option<&Membership>,
        after: Option<&Membership>,
        _output: &mut Vec<(CohortChange, isize)>,
    ) {
        self.count(before, -1);
        self.count(after, 1);
    }

    fn finish(&mut self, watermark_us: i64, output: &mut Vec<(CohortChange, isize)>) {
        for (cohort_us, counts) in std::mem::take(&mut self.changes) {
            if !counts.is_zero() {
                output.push((CohortChange { cohort_us, counts }, 1));
            }
        }
        self.bounds.retain(|_, bounds| bounds.last().is_some_and(|end_us| *end_us > watermark_us));
    }
}
