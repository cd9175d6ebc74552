//! **derive** computes columns: a row for each event or row that it reads.
//!
//! ```toml
//! [operators.notional]
//! type = "derive"
//! from = "events"
//! where = "event_type = 'order.filled'"
//! columns.symbol = "properties.symbol"
//! columns.notional = "properties.price * properties.quantity"
//! ```
//!
//! A row has the `key` and the `timestamp` of what it was made of. Rows that change change what is
//! derived of them; nothing is kept.

mod settings;

use std::rc::Rc;
use std::sync::Arc;

use timely::dataflow::Scope;
use timely::dataflow::channels::pact::Pipeline;
use waterwheel_config::expr::{Fields, Program};
use waterwheel_config::section::Section;
use waterwheel_config::value::{ColumnType, Row, Value};
use waterwheel_pipeline::contract::epoch::Epoch;
use waterwheel_pipeline::contract::event::EventBatch;
use waterwheel_pipeline::contract::fold::{Fold, every_epoch};
use waterwheel_pipeline::contract::operator::{
    Input, Operator, OperatorContext, OperatorKind, Planned, RenderContext, RowView, Rows,
    inputs_from,
};

use crate::key::row_key;

/// The kind.
pub const KIND: OperatorKind = OperatorKind {
    name: "derive",
    summary: "computes columns for each event or row",
    example: r#"[operators.notional]
type = "derive"
from = "events"
where = "event_type = 'order.filled'"
columns.symbol = "properties.symbol"
columns.notional = "properties.price * properties.quantity"
"#,
    inputs: inputs_from,
    plan,
};

/// What is computed.
#[derive(Debug)]
struct Plan {
    condition: Option<Program>,
    /// The time of a row; events have their own.
    time_slot: Option<usize>,
    /// Of rows: the columns that make the row's key.
    key_columns: Vec<usize>,
    columns: Vec<(Program, ColumnType)>,
}

impl Plan {
    fn row<F: Fields>(&self, item: &F, key: impl FnOnce() -> String, time: Value) -> Option<Row> {
        if let Some(condition) = &self.condition
            && !condition.holds(item)
        {
            return None;
        }
        let columns = self.columns.iter().map(|(program, kind)| program.eval(item).to_value(*kind));
        Some([Value::text(&key()), time].into_iter().chain(columns).collect())
    }
}

struct Derive(Arc<Plan>);

impl Operator for Derive {
    fn render<'s>(
        &self,
        scope: Scope<'s, Epoch>,
        inputs: Vec<Input<'s>>,
        context: RenderContext,
    ) -> Rows<'s> {
        let derive = || DeriveRows(self.0.clone());
        let clock = || context.clock.clone();
        let rows = inputs.into_iter().map(|input| match input {
            Input::Events(events) => {
                every_epoch(events, Pipeline, "DeriveEvents", clock(), derive())
            }
            Input::Rows(rows) => every_epoch(rows.inner, Pipeline, "DeriveRows", clock(), derive()),
        });
        differential_dataflow::collection::concatenate(scope, rows)
    }
}

struct DeriveRows(Arc<Plan>);

impl Fold<Rc<EventBatch>, Row> for DeriveRows {
    const IS_PIECEWISE: bool = true;

    fn epoch(
        &mut self,
        _epoch: Epoch,
        batches: Vec<(Rc<EventBatch>, isize)>,
        output: &mut Vec<(Row, isize)>,
    ) {
        for (batch, times) in &batches {
            for event in batch.accepted() {
                let time = Value::Timestamp(event.meta().timestamp_us);
                output
                    .extend(self.0.row(&event, || event.key_text(), time).map(|row| (row, *times)));
            }
        }
    }
}

impl Fold<Row, Row> for DeriveRows {
    const IS_PIECEWISE: bool = true;

    fn epoch(&mut self, _epoch: Epoch, rows: Vec<(Row, isize)>, output: &mut Vec<(Row, isize)>) {
        for (row, times) in &rows {
            let view = RowView(row);
            let time = match self.0.time_slot {
                Some(slot) => view.get(slot).to_value(ColumnType::Timestamp),
                None => Value::Null,
            };
            let key = || row_key(row, &self.0.key_columns);
            output.extend(self.0.row(&view, key, time).map(|row| (row, *times)));
        }
    }
}

fn plan(section: &Section<'_>, context: &mut OperatorContext) -> Option<Planned> {
    settings::plan(section, context)
}

#[cfg(test)]
mod tests;
