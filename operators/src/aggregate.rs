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
//! reaches its end.

mod combine;
mod levels;
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
use waterwheel_config::value::ColumnType;
use waterwheel_pipeline::contract::clock::Watermark;
use waterwheel_pipeline::contract::epoch::Epoch;
use waterwheel_pipeline::contract::fold::{Update, every_epoch, every_epoch_kept};
use waterwheel_pipeline::contract::operator::{
    Input, InputPlan, Operator, OperatorContext, OperatorKind, Planned, RenderContext, Rows,
    inputs_from,
};
use waterwheel_pipeline::contract::state::route;

use self::combine::{Combiner, Partial};
use self::levels::Level;
use self::settings::Settings;
use self::windows::OpenWindows;
use crate::accumulator::{Accumulator, AccumulatorKind};
use crate::key::KeyPlan;
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
    levels: Vec<Level>,
}

/// The programs over one input.
#[derive(Debug)]
struct InputPrograms {
    condition: Option<Program>,
    key: KeyPlan,
    /// What feeds each accumulator.
    feeds: Vec<Feed>,
    /// The column of event time; events have their own.
    time_slot: Option<usize>,
}

struct Aggregate(Arc<Plan>);

impl Operator for Aggregate {
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
        let windows = OpenWindows::new(self.0.clone(), &context);
        let owner = Exchange::new(|(partial, _, _): &Update<Partial>| route(partial.hash));
        let part = Some(context.part("windows"));
        let partials = scope.concatenate(partials);
        every_epoch_kept(partials, owner, "Windows", context.clock, part, windows)
    }
}

fn plan(section: &Section<'_>, context: &mut OperatorContext) -> Option<Planned> {
    let settings = Settings::read(section, context)?;
    let schema = schema(&settings);
    let state_bound = state_bound(&settings.levels);
    let plan = Plan {
        inputs: settings.inputs,
        accumulators: settings.accumulators,
        retracting: !context.inputs.iter().all(InputPlan::append_only),
        readings: settings.readings,
        panes: settings.panes,
        levels: settings.levels,
    };
    Some(Planned {
        operator: Arc::new(Aggregate(Arc::new(plan))),
        schema: Arc::new(schema),
        watermark: Watermark::least(&settings.watermarks),
        held_back_us: 0,
        state_bound,
        meaning: settings::meaning(section, settings.zone),
    })
}

fn schema(settings: &Settings) -> Schema {
    let longest_us =
        settings.levels.iter().map(|level| level.period.longest_us()).max().unwrap_or(0);
    let mut columns = vec![
        Column::new("granularity", ColumnType::Text),
        Column::time("window_start", longest_us),
        Column::time("window_end", 0),
    ];
    columns.extend(settings.by.iter().cloned());
    let key = [0, 1].into_iter().chain(3..columns.len()).collect();
    columns.extend(settings.measures.iter().cloned());
    Schema {
        columns,
        key,
        finality: Finality::At { column: 2, plus_us: 0 },
        append_only: false,
        time: Some(1),
    }
}

fn state_bound(levels: &[Level]) -> String {
    let names: Vec<String> = levels.iter().map(|level| level.granularity.to_plain()).collect();
    format!("the groups of the open windows ({})", names.join(", "))
}

/// Empty accumulators of a plan.
fn accumulators(plan: &Plan) -> Vec<Accumulator> {
    plan.accumulators.iter().map(|kind| Accumulator::new(kind, plan.retracting)).collect()
}

#[cfg(test)]
mod tests;
