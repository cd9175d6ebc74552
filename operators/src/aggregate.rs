//! **aggregate** counts, sums and measures groups of events in windows of event time.
//!
//! ```toml
//! [operators.volume]
//! type = "aggregate"
//! from = "events"
//! where = "event_type = 'order.filled'"
//! by = ["properties.symbol"]
//! windows = ["1m", "1h", "1d"]
//! measures.trades = "count(*)"
//! measures.notional = "sum(properties.price * properties.quantity)"
//! ```
//!
//! Every worker first combines the events of an epoch that it decoded itself into one partial per
//! group and pane ([`combine`]); partials then move to the worker that owns the group, which keeps
//! the open windows of every granularity ([`windows`]) and drops each whole when the watermark
//! reaches its end. Without windows it keeps the groups themselves ([`all_time`]).

mod all_time;
mod columns;
mod combine;
mod levels;
mod open_window;
mod settings;
mod windows;

use std::sync::Arc;

use timely::dataflow::Scope;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::Concatenate;
use waterwheel_config::calendar::Period;
use waterwheel_config::expr::Program;
use waterwheel_config::schema::{Column, Finality, Schema};
use waterwheel_config::section::Section;
use waterwheel_config::units::format_duration;
use waterwheel_config::value::{ColumnType, Row, Value};
use waterwheel_pipeline::contract::clock::Watermark;
use waterwheel_pipeline::contract::epoch::Epoch;
use waterwheel_pipeline::contract::fold::{Update, every_epoch, every_epoch_kept};
use waterwheel_pipeline::contract::operator::{
    Input, InputPlan, Operator, OperatorContext, OperatorKind, Planned, RenderContext, Rows,
    inputs_from,
};
use waterwheel_pipeline::contract::state::route;

use self::all_time::AllTime;
use self::combine::{Combiner, Partial};
use self::levels::Level;
use self::settings::Settings;
use self::windows::OpenWindows;
use crate::accumulator::{Accumulator, AccumulatorKind};
use crate::key::{self, KeyPlan};
use crate::measure::{Feed, Reading};

/// The kind.
pub const KIND: OperatorKind = OperatorKind {
    name: "aggregate",
    summary: "counts, sums and measures groups of events in windows of event time",
    example: r#"[operators.volume]
type = "aggregate"
from = "events"
by = ["properties.symbol"]
windows = ["1m", "1h"]
measures.trades = "count(*)"
"#,
    inputs: inputs_from,
    plan,
};

/// Everything a worker needs to compute an aggregate.
#[derive(Debug)]
struct Plan {
    inputs: Vec<InputPrograms>,
    accumulators: Vec<AccumulatorKind>,
    /// True where an input may take rows back.
    retracting: bool,
    /// How each measure reads which accumulator.
    readings: Vec<(Reading, usize)>,
    /// The panes in which events are combined; every level is a union of panes of one of them.
    panes: Vec<Period>,
    /// None where there is one row per group over all time.
    levels: Vec<Level>,
    /// After how much silence a group over all time is forgotten.
    expire_us: Option<i64>,
    /// How many columns the group has.
    by: usize,
    /// The measures that are compared with those of the window before.
    compared: Vec<usize>,
    /// True where the order of the events counts.
    is_ordered: bool,
}

/// The programs over one input.
#[derive(Debug)]
struct InputPrograms {
    condition: Option<Program>,
    key: KeyPlan,
    /// What feeds each accumulator.
    feeds: Vec<Feed>,
    /// The column of event time; events have their own, and rows over all time need none.
    time_slot: Option<usize>,
    /// The columns of the key of rows.
    key_columns: Vec<usize>,
}

struct Aggregate(Arc<Plan>);

impl Operator for Aggregate {
    fn granularities(&self) -> Vec<String> {
        self.0.levels.iter().map(|level| level.granularity.to_plain()).collect()
    }

    fn render<'s>(
        &self,
        scope: Scope<'s, Epoch>,
        inputs: Vec<Input<'s>>,
        context: RenderContext,
    ) -> Rows<'s> {
        let partials: Vec<_> = inputs
            .into_iter()
            .enumerate()
            .map(|(index, input)| {
                let combiner = Combiner::new(self.0.clone(), index);
                let clock = context.clock.clone();
                match input {
                    Input::Events(events) => {
                        every_epoch(events, Pipeline, "CombineEvents", clock, combiner).inner
                    }
                    Input::Rows(rows) => {
                        every_epoch(rows.inner, Pipeline, "CombineRows", clock, combiner).inner
                    }
                }
            })
            .collect();
        let owner = Exchange::new(|(partial, _, _): &Update<Partial>| route(partial.hash));
        let partials = scope.concatenate(partials);
        let clock = context.clock.clone();
        if self.0.levels.is_empty() {
            let part = Some(context.part("groups"));
            let groups = AllTime::new(self.0.clone(), &context);
            return every_epoch_kept(partials, owner, "AllTime", clock, part, groups);
        }
        let part = Some(context.part("windows"));
        let windows = OpenWindows::new(self.0.clone(), &context);
        every_epoch_kept(partials, owner, "Windows", clock, part, windows)
    }
}

fn plan(section: &Section<'_>, context: &mut OperatorContext) -> Option<Planned> {
    let settings = Settings::read(section, context)?;
    let schema = schema(&settings);
    let state_bound = state_bound(&settings);
    let meaning = settings::meaning(section, settings.zone);
    let watermark = Watermark::least(&settings.watermarks);
    let is_edge = |kind: &AccumulatorKind| matches!(kind, AccumulatorKind::Edge { .. });
    let plan = Plan {
        inputs: settings.inputs,
        is_ordered: settings.accumulators.iter().any(is_edge),
        accumulators: settings.accumulators,
        retracting: !context.inputs.iter().all(InputPlan::append_only),
        readings: settings.readings,
        panes: settings.panes,
        levels: settings.levels,
        expire_us: settings.expire_us,
        by: settings.by.len(),
        compared: settings.compared,
    };
    Some(Planned {
        operator: Arc::new(Aggregate(Arc::new(plan))),
        schema: Arc::new(schema),
        watermark,
        held_back_us: 0,
        state_bound,
        meaning,
    })
}

fn schema(settings: &Settings) -> Schema {
    let mut columns = Vec::new();
    if !settings.levels.is_empty() {
        let longest_us = settings.levels.iter().map(|level| level.shape.longest_us()).max();
        columns.push(Column::new("granularity", ColumnType::Text));
        columns.push(Column::time("window_start", longest_us.unwrap_or(0)));
        columns.push(Column::time("window_end", 0));
    }
    let head = columns.len();
    columns.extend(settings.by.iter().cloned());
    let key = [0, 1].into_iter().filter(|_| head > 0).chain(head..columns.len()).collect();
    columns.extend(settings.measures.iter().cloned());
    let (finality, time) = match head {
        0 => (Finality::Silent { expire_us: settings.expire_us }, None),
        _ => (Finality::At { column: 2, plus_us: 0 }, Some(1)),
    };
    Schema { columns, key, finality, append_only: false, time }
}

fn state_bound(settings: &Settings) -> String {
    let names = |levels: &[Level]| -> String {
        let names: Vec<String> = levels.iter().map(|level| level.granularity.to_plain()).collect();
        names.join(", ")
    };
    match (settings.levels.as_slice(), settings.expire_us) {
        ([], None) => "every group there ever was".to_owned(),
        ([], Some(expire_us)) => {
            format!("the groups of the last {}", format_duration(expire_us))
        }
        (levels, _) if settings.compared.is_empty() => {
            format!("the groups of the open windows ({})", names(levels))
        }
        (levels, _) => {
            format!("the groups of the open windows and the one before ({})", names(levels))
        }
    }
}

/// The values of a row up to its measures; columns of the group are shared with the row that is out.
fn row_of(
    plan: &Plan,
    head: &[Value],
    key: &[u8],
    accumulators: &[Accumulator],
    emitted: Option<&Row>,
) -> Vec<Value> {
    let mut values = Vec::with_capacity(
        head.len() + plan.by + plan.readings.len() + 2 * plan.compared.len() + 1,
    );
    values.extend_from_slice(head);
    match emitted {
        Some(row) => values.extend_from_slice(&row.values()[head.len()..head.len() + plan.by]),
        None => values.extend(key::read_key(key)),
    }
    let readings = plan.readings.iter();
    values.extend(readings.map(|(reading, accumulator)| reading.read(&accumulators[*accumulator])));
    values
}

/// Empty accumulators of a plan.
fn accumulators(plan: &Plan) -> Vec<Accumulator> {
    plan.accumulators.iter().map(|kind| Accumulator::new(kind, plan.retracting)).collect()
}

#[cfg(test)]
mod tests;
