//! **funnel** counts how many users get how far through a sequence of steps.
//!
//! ```toml
//! [operators.onboarding]
//! type = "funnel"
//! from = "events"
//! by = "user_id"
//! steps = [
//!   { name = "visit", where = "event_type = 'page.viewed'" },
//!   { name = "signup", where = "event_type = 'user.signup'" },
//! ]
//! within = "1h"
//! window = "1d"
//! ```
//!
//! Three stages. The worker that decoded an event finds the steps that it matches ([`steps`]); the
//! worker that owns the user folds the user's events of each reporting period in order of time
//! ([`users`] and [`timeline`], the fold itself in [`chain`] or, for steps in any order, [`seen`]); and
//! the worker that owns the period adds up how far its users got ([`totals`]).

mod chain;
mod progress;
mod seen;
mod settings;
mod steps;
mod timeline;
mod totals;
mod users;

use std::sync::Arc;

use timely::dataflow::Scope;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::Concatenate;
use waterwheel_config::calendar::Period;
use waterwheel_config::expr::Program;
use waterwheel_config::schema::{Column, Finality, Schema};
use waterwheel_config::section::Section;
use waterwheel_config::units::format_duration;
use waterwheel_config::value::{ColumnType, Value};
use waterwheel_pipeline::contract::clock::Watermark;
use waterwheel_pipeline::contract::epoch::Epoch;
use waterwheel_pipeline::contract::fold::{Update, every_epoch, every_epoch_kept};
use waterwheel_pipeline::contract::operator::{
    Input, Operator, OperatorContext, OperatorKind, Planned, RenderContext, Rows, inputs_from,
};
use waterwheel_pipeline::contract::state::route;

use self::settings::Settings;
use self::steps::{FindSteps, UserEvent};
use self::totals::{PeriodTotals, Totals, TotalsKey};
use self::users::UserChains;

/// The kind.
pub const KIND: OperatorKind = OperatorKind {
    name: "funnel",
    summary: "counts how many users get how far through a sequence of steps",
    example: r#"[operators.onboarding]
type = "funnel"
from = "events"
by = "user_id"
steps = [
  { name = "visit", where = "event_type = 'page.viewed'" },
  { name = "signup", where = "event_type = 'user.signup'" },
]
within = "1h"
window = "1d"
"#,
    inputs: inputs_from,
    plan,
};

/// Everything a worker needs to compute a funnel.
#[derive(Debug)]
struct Plan {
    inputs: Vec<InputPrograms>,
    step_names: Vec<Value>,
    rules: Rules,
    period: Period,
}

/// What a path is.
#[derive(Clone, Copy, Debug)]
struct Rules {
    order: Order,
    /// How many steps there are.
    steps: usize,
    within_us: i64,
    has_breakdown: bool,
}

/// In which order the steps must come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// One after another, whatever comes between.
    Ordered,
    /// One right after another.
    Strict,
    /// In any.
    Any,
}

impl Order {
    /// True if a path may begin with an event that matches these steps.
    fn may_begin(self, steps: u32) -> bool {
        match self {
            Self::Ordered | Self::Strict => steps & 1 == 1,
            Self::Any => steps != 0,
        }
    }
}

/// The programs over one input.
#[derive(Debug)]
struct InputPrograms {
    condition: Option<Program>,
    user: Program,
    steps: Vec<Program>,
    breakdown: Option<Program>,
    /// The column of event time; events have their own.
    time_slot: Option<usize>,
    /// Of rows: the columns that make the row's key.
    key_columns: Vec<usize>,
}

struct Funnel(Arc<Plan>);

impl Operator for Funnel {
    fn inputs_differ(&self) -> bool {
        // Of rows at one time, those of the first input come first; events go by their source.
        self.0.inputs.iter().filter(|input| input.time_slot.is_some()).count() > 1
    }

    fn render<'s>(
        &self,
        scope: Scope<'s, Epoch>,
        inputs: Vec<Input<'s>>,
        context: RenderContext,
    ) -> Rows<'s> {
        let clock = || context.clock.clone();
        let events: Vec<_> = inputs
            .into_iter()
            .enumerate()
            .map(|(index, input)| {
                let find = FindSteps::new(self.0.clone(), index);
                match input {
                    Input::Events(events) => {
                        every_epoch(events, Pipeline, "FunnelEvents", clock(), find).inner
                    }
                    Input::Rows(rows) => {
                        every_epoch(rows.inner, Pipeline, "FunnelRows", clock(), find).inner
                    }
                }
            })
            .collect();
        let user = Exchange::new(|(event, _, _): &Update<UserEvent>| route(event.user as u64));
        let users = UserChains::new(self.0.clone(), &context);
        let events = scope.concatenate(events);
        let part = Some(context.part("users"));
        let changes = every_epoch_kept(events, user, "FunnelUsers", clock(), part, users);
        let period =
            Exchange::new(|((key, _), _, _): &Update<(TotalsKey, Totals)>| route(key.hash()));
        let totals = PeriodTotals::new(self.0.clone(), &context);
        let part = Some(context.part("totals"));
        every_epoch_kept(changes.inner, period, "FunnelTotals", clock(), part, totals)
    }
}

fn plan(section: &Section<'_>, context: &mut OperatorContext) -> Option<Planned> {
    let settings = Settings::read(section, context)?;
    let longest_us = settings.period.longest_us();
    let within_us = settings.rules.within_us;
    let number = |name: &str| Column::new(name, ColumnType::Double);
    let mut columns = vec![
        Column::time("window_start", longest_us.saturating_add(within_us)),
        Column::time("window_end", within_us),
    ];
    columns.extend(settings.breakdown.map(|name| Column::new(name, ColumnType::Text)));
    // The period, the breakdown and the step.
    let key = std::iter::once(0).chain(2..=columns.len()).collect();
    columns.extend([
        Column::new("step", ColumnType::Bigint),
        Column::new("step_name", ColumnType::Text),
        Column::new("users", ColumnType::Bigint),
        number("conversion_rate"),
        number("drop_off_rate"),
        number("overall_rate"),
        number("avg_seconds_from_previous"),
        number("avg_seconds_from_first"),
    ]);
    let schema = Schema {
        columns,
        key,
        finality: Finality::At { column: 1, plus_us: within_us },
        append_only: false,
        time: Some(0),
    };
    let state_bound = format!(
        "{} per user and reporting period, until {} after the period's end",
        match settings.rules.order {
            Order::Ordered | Order::Strict => "a chain per step",
            Order::Any => "the events of the last conversion window",
        },
        format_duration(within_us)
    );
    let plan = Plan {
        inputs: settings.inputs,
        step_names: settings.step_names,
        rules: settings.rules,
        period: settings.period,
    };
    Some(Planned {
        operator: Arc::new(Funnel(Arc::new(plan))),
        schema: Arc::new(schema),
        watermark: Watermark::least(&settings.watermarks),
        held_back_us: 0,
        state_bound,
        meaning: settings::meaning(section),
    })
}

#[cfg(test)]
mod tests;
