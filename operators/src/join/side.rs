//! One side of a join: items that pass its condition, as rows under their keys.

use std::rc::Rc;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use waterwheel_config::expr::{Fields, Program, Val};
use waterwheel_config::value::{Row, Value};
use waterwheel_pipeline::contract::clock::Clock;
use waterwheel_pipeline::contract::epoch::Epoch;
use waterwheel_pipeline::contract::event::EventBatch;
use waterwheel_pipeline::contract::fold::{Fold, Update, every_epoch};
use waterwheel_pipeline::contract::operator::{Input, RowView};
use xxhash_rust::xxh3::xxh3_128;

use super::{Plan, Side};
use crate::key::{self, row_key};

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

/// A row of a side under its key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SideRow {
    /// Stands for the key (see [`key::identity`]).
    pub(super) key: u128,
    pub(super) side: Side,
    pub(super) time_us: i64,
    pub(super) row: Row,
}

/// The rows of one side, under their keys.
pub(super) fn side_rows<'s>(
    input: Input<'s>,
    plan: Arc<Plan>,
    side: Side,
    clock: &Clock,
) -> Stream<'s, Epoch, Vec<Update<SideRow>>> {
    let keyed = Keyed { plan, side, own_key: String::new() };
    let clock = clock.clone();
    match input {
        Input::Events(events) => every_epoch(events, Pipeline, "JoinEvents", clock, keyed).inner,
        Input::Rows(rows) => every_epoch(rows.inner, Pipeline, "JoinRows", clock, keyed).inner,
    }
}

struct Keyed {
    plan: Arc<Plan>,
    side: Side,
    /// The key of the item at hand.
    own_key: String,
}

impl Keyed {
    fn add<F: Fields>(
        &mut self,
        item: &F,
        times: isize,
        write_key: impl FnOnce(&SidePlan, &mut String),
        output: &mut Vec<(SideRow, isize)>,
    ) {
        let side = self.side.of(&self.plan);
        if let Some(condition) = &side.condition
            && !condition.holds(item)
        {
            return;
        }
        let identity = key::identity(&side.key.eval(item));
        // NULL never matches: it matters only where rows without a partner come out.
        if identity.is_none() && !self.plan.unmatched.of(self.side) {
            return;
        }
        let Val::Timestamp(time_us) = item.get(side.time_slot) else {
            return;
        };
        self.own_key.clear();
        write_key(side, &mut self.own_key);
        let key = identity.unwrap_or_else(|| lonely_key(self.side, &self.own_key));
        let id = side.id_slot.map_or(Value::Null, |slot| {
            item.get(slot)
                .canonical_text()
                .map_or(Value::Null, |id| Value::Text(id.as_ref().into()))
        });
        let head = [Value::Timestamp(time_us), Value::text(&self.own_key), id];
        let captured = side.captured.iter().map(|slot| owned(&item.get(*slot)));
        let row: Row = head.into_iter().chain(captured).collect();
        output.push((SideRow { key, side: self.side, time_us, row }, times));
    }
}

/// A key that no other row has, for a row whose key is NULL.
fn lonely_key(side: Side, own_key: &str) -> u128 {
    let side = match side {
        Side::Left => "left",
        Side::Right => "right",
    };
    // No text of a key holds U+0000.
    xxh3_128(format!("\0{side}\0{own_key}").as_bytes())
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

impl Fold<Rc<EventBatch>, SideRow> for Keyed {
    const IS_PIECEWISE: bool = true;

    fn epoch(
        &mut self,
        _epoch: Epoch,
        batches: Vec<(Rc<EventBatch>, isize)>,
        output: &mut Vec<(SideRow, isize)>,
    ) {
        for (batch, _) in &batches {
            for event in batch.accepted() {
                self.add(&event, 1, |_, out| event.write_key(out), output);
            }
        }
    }
}

impl Fold<Row, SideRow> for Keyed {
    const IS_PIECEWISE: bool = true;

    fn epoch(
        &mut self,
        _epoch: Epoch,
        rows: Vec<(Row, isize)>,
        output: &mut Vec<(SideRow, isize)>,
    ) {
        for (row, times) in &rows {
            let write_key = |side: &SidePlan, out: &mut String| {
                out.push_str(&row_key(row, &side.key_columns));
            };
            self.add(&RowView(row), *times, write_key, output);
        }
    }
}
