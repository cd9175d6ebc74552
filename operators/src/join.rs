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
//! Two stages. The worker that decoded an event finds its key ([`side`]); the worker that owns the key
//! keeps the rows of both sides in order of time ([`rows`]), so that a new row meets those within the
//! bound and no others, and drops each when the watermark shows that nothing can match it any more
//! ([`state`]).

mod expiries;
mod rows;
mod settings;
mod side;
mod state;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use timely::dataflow::Scope;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Concatenate;
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

use self::settings::{Bound, Settings, Unmatched};
use self::side::{SIDE_COLUMNS, SidePlan, SideRow, side_rows};
use self::state::JoinState;

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
    unmatched: Unmatched,
    select: Vec<(Program, ColumnType)>,
    /// Which column of which side each slot of the selected expressions reads.
    captures: Vec<(Side, usize)>,
}

/// Which of the two inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Side {
    Left,
    Right,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
        }
    }

    /// How the items of this side are read.
    fn of(self, plan: &Plan) -> &SidePlan {
        match self {
            Self::Left => &plan.left,
            Self::Right => &plan.right,
        }
    }

    /// A row of this side and one of the other: the left one first.
    fn in_order<'a>(self, own: &'a Row, other: &'a Row) -> (&'a Row, &'a Row) {
        match self {
            Self::Left => (own, other),
            Self::Right => (other, own),
        }
    }
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
        let part = context.part("rows");
        let sides = inputs.into_iter().zip([Side::Left, Side::Right]);
        let rows: Vec<_> = sides
            .map(|(input, side)| side_rows(input, self.0.clone(), side, &context.clock))
            .collect();
        let owner = Exchange::new(|(row, _, _): &Update<SideRow>| route(row.key as u64));
        let state = JoinState::new(self.0.clone(), &context, &part);
        let rows = scope.concatenate(rows);
        every_epoch_kept(rows, owner, "JoinState", context.clock, Some(part), state)
    }
}

impl Plan {
    /// The watermark at which nothing can match a row of this time any more.
    fn expires_us(&self, side: Side, time_us: i64) -> i64 {
        // What comes at the watermark itself is not late.
        time_us.saturating_add(self.bound.reach_us(side).1).saturating_add(1)
    }

    /// The row of a pair, or of one side alone.
    fn row(&self, left: Option<&Row>, right: Option<&Row>) -> Row {
        let [left, right] = [left, right].map(|side| side.map_or(&[][..], Row::values));
        let value = |side: &[Value], column: usize| side.get(column).cloned();
        let column = |side: &[Value], column| value(side, column).unwrap_or(Value::Null);
        let head = [
            column(left, 1),
            column(right, 1),
            column(left, 2),
            column(right, 2),
            // Of times, the later one is the greater; NULL is the least of all values.
            column(left, 0).max(column(right, 0)),
            Value::Boolean(!left.is_empty() && !right.is_empty()),
        ];
        let fields = PairFields { plan: self, left, right };
        let selected =
            self.select.iter().map(|(program, kind)| program.eval(&fields).to_value(*kind));
        head.into_iter().chain(selected).collect()
    }

    /// The row of one that has no partner.
    fn alone(&self, side: Side, row: &Row) -> Row {
        match side {
            Side::Left => self.row(Some(row), None),
            Side::Right => self.row(None, Some(row)),
        }
    }
}

/// The captured columns of both sides as the fields of the selected expressions; those of a side that
/// is not there are NULL.
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
    // Once the watermark has passed the later of two rows, neither can change any more; a row that
    // comes out alone never does.
    let finality = match append_only {
        true => Finality::Immediate,
        false => Finality::At { column: 4, plus_us: 1 },
    };
    let schema = Schema { columns, key: vec![0, 1], finality, append_only, time: Some(4) };
    let watermarks = [
        left.watermark.delayed(settings.left.behind_us),
        right.watermark.delayed(settings.right.behind_us),
    ];
    let (bound, unmatched) = (settings.bound, settings.unmatched);
    let plan = Plan {
        left: settings.left,
        right: settings.right,
        bound,
        unmatched,
        select: settings.select.into_iter().map(|(_, program, kind)| (program, kind)).collect(),
        captures: settings.captures,
    };
    Some(Planned {
        operator: Arc::new(Join(Arc::new(plan))),
        schema: Arc::new(schema),
        watermark: Watermark::least(&watermarks),
        held_back_us: unmatched.held_back_us(bound),
        state_bound: bound.state_bound(),
        meaning: settings::meaning(section),
    })
}

#[cfg(test)]
mod tests;
