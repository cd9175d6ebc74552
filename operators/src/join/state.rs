//! What a join keeps: by key the rows of both sides that may still find a partner.
//!
//! A row can match until the watermark has passed the last time at which a partner may lie. Then it
//! is dropped, and comes out alone if it never found one: nothing that could change that can come any
//! more, so what came out without a partner is never taken back, over changing inputs too.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use waterwheel_config::value::{Row, Value};
use waterwheel_pipeline::contract::clock::{Clock, StateGauge, Watermark};
use waterwheel_pipeline::contract::epoch::Epoch;
use waterwheel_pipeline::contract::fold::Fold;
use waterwheel_pipeline::contract::operator::RenderContext;
use waterwheel_pipeline::contract::state::{Saver, StatePart, key_group};

use super::expiries::Expiries;
use super::rows::{Changed, Counts, TimedRow, TimedRows};
use super::side::SideRow;
use super::{Plan, Side};
use crate::accumulator::Identities;

/// The rows of the keys that a worker owns.
pub(super) struct JoinState {
    plan: Arc<Plan>,
    clock: Clock,
    watermark: Watermark,
    gauge: StateGauge,
    is_kept: bool,
    keys: HashMap<u128, KeyRows, Identities>,
    /// By the watermark at which something of a key expires. A key is in it about once, however many
    /// rows it has and however often they change.
    expiries: Expiries,
    /// The keys with rows that changed since they were last saved.
    unsaved: Vec<u128>,
    /// Rows of the last checkpoint that were taken back since.
    gone: Vec<SideRow>,
    row_bytes: usize,
    /// A row without values: before all others.
    none: Row,
}

/// The rows of one key.
struct KeyRows {
    left: TimedRows,
    right: TimedRows,
    /// When the key is looked at next, by the watermark.
    expires_us: i64,
    is_unsaved: bool,
}

impl Default for KeyRows {
    fn default() -> Self {
        let (left, right) = (TimedRows::default(), TimedRows::default());
        Self { left, right, expires_us: i64::MAX, is_unsaved: false }
    }
}

impl KeyRows {
    /// The rows of a side, and those of the other.
    fn own_and_other(&mut self, side: Side) -> (&mut TimedRows, &mut TimedRows) {
        match side {
            Side::Left => (&mut self.left, &mut self.right),
            Side::Right => (&mut self.right, &mut self.left),
        }
    }
}

/// A row as it is saved: everything about it, and zero times where it is gone.
#[derive(Serialize)]
struct SavedRow<'a> {
    key: u128,
    side: Side,
    row: &'a Row,
    times: i64,
    partners: i64,
}

/// The same, given back.
#[derive(Deserialize)]
struct RestoredRow {
    key: u128,
    side: Side,
    row: Row,
    times: i64,
    partners: i64,
}

impl JoinState {
    pub(super) fn new(plan: Arc<Plan>, context: &RenderContext, part: &StatePart) -> Self {
        let kept_us = [Side::Left, Side::Right].map(|side| plan.bound.reach_us(side).1);
        Self {
            plan,
            clock: context.clock.clone(),
            watermark: context.watermark.clone(),
            gauge: context.state.clone(),
            is_kept: part.is_kept(),
            keys: HashMap::default(),
            expiries: Expiries::new(kept_us[0].max(kept_us[1])),
            unsaved: Vec::new(),
            gone: Vec::new(),
            row_bytes: 0,
            none: Row::from(Vec::new()),
        }
    }

    /// Brings out what a change of one row means for its pairs, and keeps the row.
    fn apply(&mut self, change: SideRow, times: i64, output: &mut Vec<(Row, isize)>) {
        let SideRow { key, side, time_us, row } = change;
        let plan = &self.plan;
        let (before_us, after_us) = plan.bound.reach_us(side);
        let near_us = (time_us.saturating_sub(before_us), time_us.saturating_add(after_us));
        let counts_partners = plan.unmatched.of(side.other());
        let rows = self.keys.entry(key).or_default();
        let is_dirty = rows.is_unsaved;
        let (own, other) = rows.own_and_other(side);
        let mut partners = 0;
        other.visit_between(near_us, &self.none, |partner, counts| {
            partners += counts.times;
            let (left, right) = side.in_order(&row, partner);
            output.push((plan.row(Some(left), Some(right)), (counts.times * times) as isize));
            if counts_partners {
                counts.partners += times;
                counts.is_unsaved = true;
            }
        });
        let bytes = row_bytes(&row);
        match own.change(time_us, row, times, partners) {
            Changed::Added => self.row_bytes += bytes,
            Changed::Kept => {}
            Changed::Removed { saved } => {
                self.row_bytes -= bytes;
                self.gone.extend(saved.map(|row| SideRow { key, side, time_us, row }));
            }
        }
        if self.is_kept && !is_dirty {
            rows.is_unsaved = true;
            self.unsaved.push(key);
        }
        let expires_us = plan.expires_us(side, time_us);
        if expires_us < rows.expires_us {
            rows.expires_us = expires_us;
            self.expiries.push(expires_us, key);
        }
    }

    /// Drops what can match no more; what never did comes out alone.
    fn expire(&mut self, watermark_us: i64, output: &mut Vec<(Row, isize)>) {
        while let Some((expires_us, key)) = self.expiries.pop(watermark_us) {
            let Some(rows) = self.keys.get_mut(&key) else {
                continue;
            };
            // Put off by an earlier one.
            if rows.expires_us != expires_us {
                continue;
            }
            let (plan, row_bytes_held) = (&self.plan, &mut self.row_bytes);
            rows.expires_us = i64::MAX;
            for side in [Side::Left, Side::Right] {
                let (own, _) = rows.own_and_other(side);
                let (_, after_us) = plan.bound.reach_us(side);
                let is_wanted = plan.unmatched.of(side);
                own.expire(watermark_us.saturating_sub(after_us), |row, counts| {
                    *row_bytes_held -= row_bytes(&row);
                    if is_wanted && counts.partners == 0 {
                        output.push((plan.alone(side, &row), counts.times as isize));
                    }
                });
                let first_us = own.first_us();
                let next_us = first_us.map_or(i64::MAX, |first| plan.expires_us(side, first));
                rows.expires_us = rows.expires_us.min(next_us);
            }
            match rows.expires_us {
                i64::MAX => drop(self.keys.remove(&key)),
                next_us => self.expiries.push(next_us, key),
            }
        }
    }

    fn size_bytes(&self) -> usize {
        // The rows count for themselves: also those that lie with their key.
        let key_bytes = size_of::<KeyRows>() - 2 * size_of::<TimedRow>() + size_of::<u128>() + 8;
        self.keys.len() * key_bytes
            + self.expiries.len() * size_of::<(i64, u128)>()
            + self.row_bytes
    }
}

/// About what a row takes where it is kept.
fn row_bytes(row: &Row) -> usize {
    let text = |value: &Value| value.written().map_or(0, |text| 16 + text.len());
    let values = row.values();
    size_of::<TimedRow>() + 16 + size_of_val(values) + values.iter().map(text).sum::<usize>()
}

impl Fold<SideRow, Row> for JoinState {
    fn epoch(
        &mut self,
        epoch: Epoch,
        changes: Vec<(SideRow, isize)>,
        output: &mut Vec<(Row, isize)>,
    ) {
        for (change, times) in changes {
            self.apply(change, times as i64, output);
        }
        self.expire(self.clock.after(epoch, &self.watermark), output);
        self.gauge.set(self.size_bytes());
    }

    fn save(&mut self, saver: &mut Saver) {
        for SideRow { key, side, row, .. } in self.gone.drain(..) {
            let group = key_group(key as u64);
            if !saver.is_whole(group) {
                saver.put(group, &SavedRow { key, side, row: &row, times: 0, partners: 0 });
            }
        }
        let unsaved = std::mem::take(&mut self.unsaved);
        if saver.has_whole() {
            self.keys.iter_mut().for_each(|(key, rows)| save(*key, rows, saver));
            return;
        }
        for key in unsaved {
            if let Some(rows) = self.keys.get_mut(&key) {
                save(key, rows, saver);
            }
        }
    }

    fn restore(&mut self, part: &StatePart) {
        let Some(epoch) = part.restored_epoch() else {
            return;
        };
        let watermark_us = self.clock.after(epoch, &self.watermark);
        let plan = self.plan.clone();
        part.restore(|saved: RestoredRow| {
            let RestoredRow { key, side, row, times, partners } = saved;
            let Some(&Value::Timestamp(time_us)) = row.values().first() else {
                return;
            };
            // What had expired was out before.
            if plan.expires_us(side, time_us) > watermark_us {
                let counts = Counts { times, partners, is_unsaved: false, is_saved: true };
                let (own, _) = self.keys.entry(key).or_default().own_and_other(side);
                own.set(time_us, row, counts);
            }
        });
        self.keys.retain(|_, rows| !rows.left.is_empty() || !rows.right.is_empty());
        for (key, rows) in &mut self.keys {
            for side in [Side::Left, Side::Right] {
                let (own, _) = rows.own_and_other(side);
                let first_us = own.first_us();
                own.visit(|row, _| self.row_bytes += row_bytes(row));
                let next_us = first_us.map_or(i64::MAX, |first| plan.expires_us(side, first));
                rows.expires_us = rows.expires_us.min(next_us);
            }
            self.expiries.push(rows.expires_us, *key);
        }
    }
}

/// Saves the rows of a key: of a whole group all of them, else those that changed.
fn save(key: u128, rows: &mut KeyRows, saver: &mut Saver) {
    let group = key_group(key as u64);
    let is_whole = saver.is_whole(group);
    if !is_whole && !rows.is_unsaved {
        return;
    }
    rows.is_unsaved = false;
    for side in [Side::Left, Side::Right] {
        let (own, _) = rows.own_and_other(side);
        own.visit(|row, counts| {
            if is_whole || counts.is_unsaved {
                let Counts { times, partners, .. } = *counts;
                saver.put(group, &SavedRow { key, side, row, times, partners });
                (counts.is_unsaved, counts.is_saved) = (false, true);
            }
        });
    }
}
