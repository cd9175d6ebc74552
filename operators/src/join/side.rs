//! One side of a join: items that pass its condition, as rows under the buckets in which they may
//! find a partner.

use std::rc::Rc;
use std::sync::Arc;

use timely::dataflow::channels::pact::Pipeline;
use waterwheel_config::expr::{Fields, Program, Val};
use waterwheel_config::value::{Row, Value};
use waterwheel_pipeline::contract::clock::Clock;
use waterwheel_pipeline::contract::epoch::Epoch;
use waterwheel_pipeline::contract::event::{EventBatch, EventView};
use waterwheel_pipeline::contract::fold::{Fold, every_epoch};
use waterwheel_pipeline::contract::operator::{Input, RowView};

use super::{Plan, Side};
use crate::expiring::ExpiringKey;
use crate::key::row_key;

/// The programs of one side.
#[derive(Debug)]
pub(super) struct SidePlan {
    pub(super) condition: Option<Program>,
    pub(super) key: Program,
    pub(super) time_slot: usize,
    pub(super) behind_us: i64,
    /// Where the input has an id.
    pub(super) id_slot: Option<usize>,
    /// Of rows: the columns that make the row's key; of events nothing.
    pub(super) key_columns: Vec<usize>,
    /// The slots that the selected expressions read.
    pub(super) captured: Vec<usize>,
}

/// Every side row begins with its time, its key and its id; the captured columns follow.
pub(super) const SIDE_COLUMNS: usize = 3;

/// A row under its key.
pub(super) type KeyedRow = (ExpiringKey, Row);

/// The rows of one side, under their keys.
pub(super) fn side_rows<'s>(
    input: Input<'s>,
    plan: Arc<Plan>,
    side: Side,
    delay_us: i64,
    clock: &Clock,
) -> differential_dataflow::VecCollection<'s, Epoch, KeyedRow, isize> {
    let keyed = Keyed { plan, side, delay_us };
    match input {
        Input::Events(events) => every_epoch(events, Pipeline, "JoinEvents", clock.clone(), keyed),
        Input::Rows(rows) => every_epoch(rows.inner, Pipeline, "JoinRows", clock.clone(), keyed),
    }
}

struct Keyed {
    plan: Arc<Plan>,
    side: Side,
    /// How far the join's watermark may lie behind that of the sources.
    delay_us: i64,
}

impl Keyed {
    fn side(&self) -> &SidePlan {
        match self.side {
            Side::Left => &self.plan.left,
            Side::Right => &self.plan.right,
        }
    }

    fn add<F: Fields>(
        &self,
        item: &F,
        times: isize,
        key_text: impl FnOnce() -> String,
        output: &mut Vec<(KeyedRow, isize)>,
    ) {
        let side = self.side();
        if let Some(condition) = &side.condition
            && !condition.holds(item)
        {
            return;
        }
        let key = side.key.eval(item);
        // NULL never matches.
        let Some(key) = key.canonical_text() else {
            return;
        };
        let Val::Timestamp(time_us) = item.get(side.time_slot) else {
            return;
        };
        let id = side.id_slot.map_or(Value::Null, |slot| {
            item.get(slot)
                .canonical_text()
                .map_or(Value::Null, |id| Value::Text(id.as_ref().into()))
        });
        let head = [Value::Timestamp(time_us), Value::text(&key_text()), id];
        let captured = side.captured.iter().map(|slot| owned(&item.get(*slot)));
        let row: Row = head.into_iter().chain(captured).collect();
        let (first, last) = self.buckets(time_us);
        for bucket in first..=last {
            let key =
                ExpiringKey { expires_us: self.expires_us(bucket), key: key.as_bytes().into() };
            output.push(((key, row.clone()), times));
        }
    }

    /// The buckets of left rows that this row may match; its own for a left row.
    fn buckets(&self, time_us: i64) -> (i64, i64) {
        let (bound, width_us) = (self.plan.bound, self.plan.bound.bucket_us());
        match self.side {
            Side::Left => {
                let bucket = time_us.div_euclid(width_us);
                (bucket, bucket)
            }
            Side::Right => (
                time_us.saturating_sub(bound.after_us).div_euclid(width_us),
                time_us.saturating_add(bound.before_us).div_euclid(width_us),
            ),
        }
    }

    /// When nothing new can match in a bucket: no left row comes into it, and no right row within
    /// the bound after its end.
    fn expires_us(&self, bucket: i64) -> i64 {
        let end_us = bucket.saturating_add(1).saturating_mul(self.plan.bound.bucket_us());
        end_us.saturating_add(self.plan.bound.after_us).saturating_add(self.delay_us)
    }
}

/// A value that outlives its event. A whole number beyond `bigint` goes on as its text, which is
/// that number wherever one is wanted.
fn owned(value: &Val<'_>) -> Value {
    match value {
        Val::Null | Val::Interval(_) => Value::Null,
        Val::Boolean(flag) => Value::Boolean(*flag),
        Val::Integer(number) => match i64::try_from(*number) {
            Ok(number) => Value::Bigint(number),
            Err(_) => Value::Text(number.to_string().into()),
        },
        Val::Float(number) => Value::double(*number),
        Val::Timestamp(micros) => Value::Timestamp(*micros),
        Val::Text(text) => Value::Text(text.as_ref().into()),
        Val::Json(text) => Value::Json((*text).into()),
    }
}

impl Fold<Rc<EventBatch>, KeyedRow> for Keyed {
    fn epoch(
        &mut self,
        _epoch: Epoch,
        batches: Vec<(Rc<EventBatch>, isize)>,
        output: &mut Vec<(KeyedRow, isize)>,
    ) {
        for (batch, _) in &batches {
            for event in batch.accepted() {
                self.add(&event, 1, || EventView::key_text(&event), output);
            }
        }
    }
}

impl Fold<Row, KeyedRow> for Keyed {
    fn epoch(
        &mut self,
        _epoch: Epoch,
        rows: Vec<(Row, isize)>,
        output: &mut Vec<(KeyedRow, isize)>,
    ) {
        for (row, times) in &rows {
            let key_text = || row_key(row, &self.side().key_columns);
            self.add(&RowView(row), *times, key_text, output);
        }
    }
}
