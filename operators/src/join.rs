//! **join** matches two inputs on a key within a bound of time: orders with their fills.
//!
//! ```toml
//! [operators.fills]
//! type = "join"
//! left = { from = "events", where = "event_type = 'order.placed'" }
//! right = { from = "events", where = "event_type = 'order.filled'" }
//! on = "correlation_id"
//! within = "30s"
//! select.latency_ms = "millis(right.timestamp - left.timestamp)"
//! ```
//!
//! A differential join on two arrangements. Time is cut into buckets at least as wide as the bound:
//! a left row lies in the bucket of its time, a right row in every bucket that may hold a partner
//! (at most two), so a match meets in exactly one. A bucket expires when the watermark shows that
//! nothing can match in it any more, and is forgotten by the arrangements' merges ([`crate::expiring`]).

mod settings;
mod side;
mod state;

use std::sync::Arc;

use differential_dataflow::operators::arrange::arrangement::arrange_core;
use differential_dataflow::operators::arrange::{Arranged, TraceAgent};
use differential_dataflow::trace::implementations::chunker::ContainerChunker;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::{Concat, ToStream};
use timely::dataflow::{Scope, Stream};
use waterwheel_config::expr::{Fields, Program, Val};
use waterwheel_config::schema::{Column, Finality, Schema};
use waterwheel_config::section::Section;
use waterwheel_config::value::{ColumnType, Row, Value};
use waterwheel_pipeline::contract::clock::Watermark;
use waterwheel_pipeline::contract::epoch::Epoch;
use waterwheel_pipeline::contract::fold::{Update, every_epoch_kept};
use waterwheel_pipeline::contract::operator::{
    Input, Operator, OperatorContext, OperatorKind, Planned, RenderContext, Rows,
};
use waterwheel_pipeline::contract::state::route;

use self::settings::{Bound, Settings};
use self::side::{KeyedRow, SIDE_COLUMNS, SidePlan, side_rows};
use self::state::{HeldSide, JoinState};
use crate::expiring::{self, ExpiringBatcher, ExpiringBuilder, ExpiringSpine};

/// The kind.
pub const KIND: OperatorKind = OperatorKind {
    name: "join",
    summary: "matches two inputs on a key within a bound of time",
    example: r#"[operators.fills]
type = "join"
left = { from = "events", where = "event_type = 'order.placed'" }
right = { from = "events", where = "event_type = 'order.filled'" }
on = "correlation_id"
within = "30s"
select.latency_ms = "millis(right.timestamp - left.timestamp)"
"#,
    inputs: settings::inputs,
    plan,
};

/// Everything a worker needs to compute a join.
#[derive(Debug)]
struct Plan {
    left: SidePlan,
    right: SidePlan,
    bound: Bound,
    select: Vec<(Program, ColumnType)>,
    /// Which column of which side each slot of the selected expressions reads.
    captures: Vec<(Side, usize)>,
}

/// Which of the two inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

struct Join(Arc<Plan>);

impl Operator for Join {
    fn inputs_differ(&self) -> bool {
        true
    }

    fn render<'s>(
        &self,
        scope: Scope<'s, Epoch>,
        inputs: Vec<Input<'s>>,
        context: RenderContext,
    ) -> Rows<'s> {
        expiring::set_clock(&context.clock);
        let delay_us = context.watermark.delay_us();
        let part = context.part("rows");
        let restored_epoch = part.restored_epoch().unwrap_or_default();
        let mut inputs = inputs.into_iter().zip(state::restored(&part, &context.clock));
        let mut arranged = |side: Side| {
            let (input, restored) = inputs.next()?;
            let rows = side_rows(input, self.0.clone(), side, delay_us, &context.clock);
            let restored = restored.into_iter().map(move |row| state::update(row, restored_epoch));
            let rows = rows.inner.concat(restored.to_stream(scope));
            Some(arrange(rows, if side == Side::Left { "JoinLeft" } else { "JoinRight" }))
        };
        let (Some(left), Some(right)) = (arranged(Side::Left), arranged(Side::Right)) else {
            unreachable!("a join is planned with two inputs");
        };
        let state = JoinState {
            sides: [HeldSide::new(&left, &part), HeldSide::new(&right, &part)],
            clock: context.clock.clone(),
            gauge: context.state,
            epoch: 0,
            saved: part.restored_epoch(),
        };
        let (plan, restoring) = (self.0.clone(), part.clone());
        let pairs = match_pairs(left, right, move |left, right| {
            // Pairs among restored rows were out before.
            if restoring.is_restoring() { None } else { plan.pair(left, right) }
        });
        every_epoch_kept(pairs.inner, Pipeline, "JoinState", context.clock, Some(part), state)
    }
}

type KeyedUpdate = Update<KeyedRow>;

/// Arranges the rows of one side on the workers that own their keys.
fn arrange<'s>(
    rows: Stream<'s, Epoch, Vec<KeyedUpdate>>,
    name: &str,
) -> Arranged<'s, TraceAgent<ExpiringSpine>> {
    let owner = Exchange::new(|((key, _), _, _): &KeyedUpdate| route(state::key_hash(key)));
    arrange_core::<_, _, ContainerChunker<Vec<KeyedUpdate>>, ExpiringBatcher, ExpiringBuilder, _>(
        rows, owner, name,
    )
}

/// The stock differential join; `pair` decides whether two rows of one key and bucket match.
fn match_pairs<'s>(
    left: Arranged<'s, TraceAgent<ExpiringSpine>>,
    right: Arranged<'s, TraceAgent<ExpiringSpine>>,
    pair: impl Fn(&Row, &Row) -> Option<Row> + 'static,
) -> Rows<'s> {
    left.join_core(right, move |_key, left, right| pair(left, right))
}

impl Plan {
    fn pair(&self, left: &Row, right: &Row) -> Option<Row> {
        let (left, right) = (left.values(), right.values());
        let (Value::Timestamp(left_us), Value::Timestamp(right_us)) = (&left[0], &right[0]) else {
            return None;
        };
        if !self.bound.holds(*left_us, *right_us) {
            return None;
        }
        let fields = PairFields { plan: self, left, right };
        let head = [
            left[1].clone(),
            right[1].clone(),
            left[2].clone(),
            right[2].clone(),
            Value::Timestamp(*left_us.max(right_us)),
            Value::Boolean(true),
        ];
        let selected =
            self.select.iter().map(|(program, kind)| program.eval(&fields).to_value(*kind));
        Some(head.into_iter().chain(selected).collect())
    }
}

/// The captured columns of both sides as the fields of the selected expressions.
struct PairFields<'a> {
    plan: &'a Plan,
    left: &'a [Value],
    right: &'a [Value],
}

impl Fields for PairFields<'_> {
    fn get(&self, slot: usize) -> Val<'_> {
        let Some((side, column)) = self.plan.captures.get(slot) else {
            return Val::Null;
        };
        let values = if *side == Side::Left { self.left } else { self.right };
        values.get(SIDE_COLUMNS + column).map_or(Val::Null, Val::from)
    }
}

fn plan(section: &Section<'_>, context: &mut OperatorContext) -> Option<Planned> {
    let settings = Settings::read(section, context)?;
    let [left, right] = context.inputs.as_slice() else {
        return None;
    };
    let mut columns = vec![
        Column::new("left_key", ColumnType::Text),
        Column::new("right_key", ColumnType::Text),
        Column::new("left_id", ColumnType::Text),
        Column::new("right_id", ColumnType::Text),
        Column::time("timestamp", 0),
        Column::new("matched", ColumnType::Boolean),
    ];
    let selected = settings.select.iter();
    columns.extend(selected.map(|(name, _, kind)| Column::new(name, *kind)));
    let append_only = left.append_only() && right.append_only();
    // Once the watermark has passed the later of two rows, neither can change any more.
    let finality = match append_only {
        true => Finality::Immediate,
        false => Finality::At { column: 4, plus_us: 1 },
    };
    let schema = Schema { columns, key: vec![0, 1], finality, append_only, time: Some(4) };
    let watermarks = [
        left.watermark.delayed(settings.left.behind_us),
        right.watermark.delayed(settings.right.behind_us),
    ];
    let state_bound =
        format!("the rows of up to the last {} and the lateness", settings.bound.longest_held());
    let plan = Plan {
        left: settings.left,
        right: settings.right,
        bound: settings.bound,
        select: settings.select.into_iter().map(|(_, program, kind)| (program, kind)).collect(),
        captures: settings.captures,
    };
    Some(Planned {
        operator: Arc::new(Join(Arc::new(plan))),
        schema: Arc::new(schema),
        watermark: Watermark::least(&watermarks),
        held_back_us: 0,
        state_bound,
        meaning: settings::meaning(section),
    })
}

#[cfg(test)]
mod tests;
