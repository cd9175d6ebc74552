//! How far the users of a reporting period got, all together, and the rows that say so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use waterwheel_config::value::{Row, Value};
use waterwheel_pipeline::contract::clock::{Clock, Watermark};
use waterwheel_pipeline::contract::epoch::Epoch;
use waterwheel_pipeline::contract::fold::Fold;
use waterwheel_pipeline::contract::operator::RenderContext;
use waterwheel_pipeline::contract::state::{Saver, StatePart, key_group};

use super::Plan;
use crate::key;

/// A reporting period, and a value of the breakdown.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct TotalsKey {
    pub(super) start: i64,
    pub(super) end: i64,
    /// NULL is a value of its own; without a breakdown it is the only one.
    pub(super) breakdown: Option<Arc<str>>,
}

impl TotalsKey {
    pub(super) fn hash(&self) -> u64 {
        let mut bytes = self.start.to_le_bytes().to_vec();
        bytes.extend(self.breakdown.as_deref().unwrap_or_default().as_bytes());
        key::hash(&bytes)
    }
}

/// Users and times by step: integers, so that they add up the same in any order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Totals {
    users: Vec<i64>,
    from_previous_us: Vec<i128>,
    from_first_us: Vec<i128>,
}

impl Totals {
    pub(super) fn new(steps: usize) -> Self {
        Self {
            users: vec![0; steps],
            from_previous_us: vec![0; steps],
            from_first_us: vec![0; steps],
        }
    }

    /// Counts a user's path `times` times; negative to take it back.
    pub(super) fn add(&mut self, path: &[i64], times: i64) {
        for (step, time_us) in path.iter().enumerate() {
            self.users[step] += times;
            let previous_us = path[step.saturating_sub(1)];
            self.from_previous_us[step] += i128::from(time_us - previous_us) * i128::from(times);
            self.from_first_us[step] += i128::from(time_us - path[0]) * i128::from(times);
        }
    }

    pub(super) fn is_zero(&self) -> bool {
        self.users.iter().all(|users| *users == 0)
            && self.from_previous_us.iter().chain(&self.from_first_us).all(|sum| *sum == 0)
    }

    fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.users.iter_mut().zip(&other.users) {
            *mine += theirs;
        }
        for (mine, theirs) in self.from_previous_us.iter_mut().zip(&other.from_previous_us) {
            *mine += theirs;
        }
        for (mine, theirs) in self.from_first_us.iter_mut().zip(&other.from_first_us) {
            *mine += theirs;
        }
    }

    fn rows(&self, key: &TotalsKey, plan: &Plan) -> Vec<Row> {
        let entered = self.users[0];
        if entered <= 0 {
            return Vec::new();
        }
        (0..self.users.len())
            .map(|step| {
                let users = self.users[step];
                let conversion = match step {
                    0 => Some(1.0),
                    _ => ratio(users, self.users[step - 1]),
                };
                let seconds = |sum_us: i128| match step {
                    0 => Value::Null,
                    _ if users == 0 => Value::Null,
                    _ => Value::double(sum_us as f64 / 1e6 / users as f64),
                };
                let rate = |rate: Option<f64>| rate.map_or(Value::Null, Value::double);
                let breakdown = plan.rules.has_breakdown.then(|| match &key.breakdown {
                    Some(value) => Value::Text(value.clone().into()),
                    None => Value::Null,
                });
                let head = [Value::Timestamp(key.start), Value::Timestamp(key.end)];
                let counted = [
                    Value::Bigint(step as i64 + 1),
                    plan.step_names[step].clone(),
                    Value::Bigint(users),
                    rate(conversion),
                    rate(conversion.map(|conversion| 1.0 - conversion)),
                    rate(ratio(users, entered)),
                    seconds(self.from_previous_us[step]),
                    seconds(self.from_first_us[step]),
                ];
                head.into_iter().chain(breakdown).chain(counted).collect()
            })
            .collect()
    }
}

/// 0/0 is unknown.
fn ratio(part: i64, whole: i64) -> Option<f64> {
    (whole != 0).then(|| part as f64 / whole as f64)
}

/// The totals of the periods that a worker owns.
pub(super) struct PeriodTotals {
    plan: Arc<Plan>,
    clock: Clock,
    watermark: Watermark,
    periods: BTreeMap<TotalsKey, OpenTotals>,
}

struct OpenTotals {
    totals: Totals,
    emitted: Vec<Row>,
}

impl PeriodTotals {
    pub(super) fn new(plan: Arc<Plan>, context: &RenderContext) -> Self {
        Self {
            plan,
            clock: context.clock.clone(),
            watermark: context.watermark.clone(),
            periods: BTreeMap::new(),
        }
    }
}

impl Fold<(TotalsKey, Totals), Row> for PeriodTotals {
    fn epoch(
        &mut self,
        epoch: Epoch,
        changes: Vec<((TotalsKey, Totals), isize)>,
        output: &mut Vec<(Row, isize)>,
    ) {
        let mut touched: BTreeSet<TotalsKey> = BTreeSet::new();
        for ((key, change), _) in changes {
            let open = self.periods.entry(key.clone()).or_insert_with(|| OpenTotals {
                totals: Totals::new(self.plan.rules.steps),
                emitted: Vec::new(),
            });
            open.totals.merge(&change);
            touched.insert(key);
        }
        for key in touched {
            let Some(open) = self.periods.get_mut(&key) else {
                continue;
            };
            let rows = open.totals.rows(&key, &self.plan);
            if rows != open.emitted {
                output.extend(
                    std::mem::replace(&mut open.emitted, rows.clone())
                        .into_iter()
                        .map(|row| (row, -1)),
                );
                output.extend(rows.into_iter().map(|row| (row, 1)));
            }
        }
        let watermark_us = self.clock.after(epoch, &self.watermark);
        let within_us = self.plan.rules.within_us;
        self.periods.retain(|key, _| key.end.saturating_add(within_us) > watermark_us);
    }

    fn save(&mut self, saver: &mut Saver) {
        // There are as many as open periods, times the values of a breakdown: few enough to be saved
        // whole each time. One that fell back to nothing stays, so that its record is overwritten.
        for (key, open) in &self.periods {
            saver.put(key_group(key.hash()), &(key, &open.totals));
        }
    }

    fn restore(&mut self, part: &StatePart) {
        let Some(epoch) = part.restored_epoch() else {
            return;
        };
        let watermark_us = self.clock.after(epoch, &self.watermark);
        let within_us = self.plan.rules.within_us;
        part.restore(|(key, totals): (TotalsKey, Totals)| {
            // A period that is final has been dropped.
            if key.end.saturating_add(within_us) > watermark_us {
                let emitted = totals.rows(&key, &self.plan);
                self.periods.insert(key, OpenTotals { totals, emitted });
            }
        });
    }
}
