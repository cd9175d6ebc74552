//! How many members a cohort has and in which periods they came back, and the rows that say so.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use waterwheel_config::value::{Row, Value};
use waterwheel_pipeline::contract::clock::{Clock, Watermark};
use waterwheel_pipeline::contract::epoch::Epoch;
use waterwheel_pipeline::contract::fold::Fold;
use waterwheel_pipeline::contract::operator::RenderContext;
use waterwheel_pipeline::contract::state::{Saver, StatePart, key_group};

use super::Span;
use crate::key;

/// Members, and those who came back by period; as long as it must be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CohortCounts {
    members: i64,
    returned: Vec<i64>,
}

impl CohortCounts {
    /// Counts a member and the periods in which they came back; negative to take them back.
    pub(super) fn add(&mut self, periods: impl Iterator<Item = usize>, times: i64) {
        self.members += times;
        for period in periods {
            if self.returned.len() <= period {
                self.returned.resize(period + 1, 0);
            }
            self.returned[period] += times;
        }
    }

    pub(super) fn is_zero(&self) -> bool {
        self.members == 0 && self.returned.iter().all(|users| *users == 0)
    }

    fn merge(&mut self, other: &Self) {
        self.members += other.members;
        if self.returned.len() < other.returned.len() {
            self.returned.resize(other.returned.len(), 0);
        }
        for (mine, theirs) in self.returned.iter_mut().zip(&other.returned) {
            *mine += theirs;
        }
    }

    /// The row of a period, if it has one.
    fn row(&self, cohort_us: i64, period: usize) -> Option<Row> {
        let users = self.returned.get(period).copied().unwrap_or(0);
        if self.members <= 0 || (period > 0 && users <= 0) {
            return None;
        }
        Some(Row::from(vec![
            Value::Timestamp(cohort_us),
            Value::Bigint(period as i64),
            Value::Bigint(self.members),
            Value::Bigint(users),
            Value::double(users as f64 / self.members as f64),
        ]))
    }
}

/// How a cohort changed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct CohortChange {
    /// The start of its period.
    pub(super) cohort_us: i64,
    pub(super) counts: CohortCounts,
}

fn hash(cohort_us: i64) -> u64 {
    key::hash(&cohort_us.to_le_bytes())
}

impl CohortChange {
    pub(super) fn hash(&self) -> u64 {
        hash(self.cohort_us)
    }
}

/// The totals of the cohorts that a worker owns.
pub(super) struct CohortTotals {
    span: Span,
    clock: Clock,
    watermark: Watermark,
    cohorts: BTreeMap<i64, Cohort>,
}

struct Cohort {
    counts: CohortCounts,
    /// When its last period ends.
    end_us: i64,
}

impl CohortTotals {
    pub(super) fn new(span: Span, context: &RenderContext) -> Self {
        Self {
            span,
            clock: context.clock.clone(),
            watermark: context.watermark.clone(),
            cohorts: BTreeMap::new(),
        }
    }

    fn cohort(&mut self, cohort_us: i64) -> &mut Cohort {
        let Span { period, periods } = self.span;
        self.cohorts.entry(cohort_us).or_insert_with(|| Cohort {
            counts: CohortCounts::default(),
            end_us: period.after(cohort_us, periods),
        })
    }
}

impl Fold<CohortChange, Row> for CohortTotals {
    fn epoch(
        &mut self,
        epoch: Epoch,
        changes: Vec<(CohortChange, isize)>,
        output: &mut Vec<(Row, isize)>,
    ) {
        let mut touched: BTreeMap<i64, CohortCounts> = BTreeMap::new();
        for (CohortChange { cohort_us, counts }, _) in changes {
            let known = &mut self.cohort(cohort_us).counts;
            touched.entry(cohort_us).or_insert_with(|| known.clone());
            known.merge(&counts);
        }
        for (cohort_us, before) in touched {
            let after = &self.cohort(cohort_us).counts;
            for period in 0..after.returned.len().max(1) {
                let rows = (before.row(cohort_us, period), after.row(cohort_us, period));
                if rows.0 != rows.1 {
                    output.extend(rows.0.map(|row| (row, -1)));
                    output.extend(rows.1.map(|row| (row, 1)));
                }
            }
        }
        let watermark_us = self.clock.after(epoch, &self.watermark);
        self.cohorts.retain(|_, cohort| cohort.end_us > watermark_us);
    }

    fn save(&mut self, saver: &mut Saver) {
        // There are as many as a membership has periods, few enough to be saved whole each time.
        for (cohort_us, cohort) in &self.cohorts {
            saver.put(key_group(hash(*cohort_us)), &(cohort_us, &cohort.counts));
        }
    }

    fn restore(&mut self, part: &StatePart) {
        let Some(epoch) = part.restored_epoch() else {
            return;
        };
        let watermark_us = self.clock.after(epoch, &self.watermark);
        part.restore(|(cohort_us, counts): (i64, CohortCounts)| {
            self.cohort(cohort_us).counts = counts;
        });
        self.cohorts.retain(|_, cohort| cohort.end_us > watermark_us);
    }
}
