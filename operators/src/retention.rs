//! **retention** counts how many of those who started in a period come back in the periods after.
//!
//! ```toml
//! [operators.cohorts]
//! type = "retention"
//! from = "events"
//! by = "user_id"
//! start = "event_type = 'signup'"
//! return = "event_type = 'order.filled'"
//! period = "1w"
//! periods = 12
//! ```
//!
//! Two stages. The worker that owns a user keeps one membership of theirs at a time, as a bit per
//! period ([`members`], on [`crate::spans`]); the worker that owns a cohort adds them up ([`totals`]).
//! A fold with a bit per period, not differential's `reduce`, which would look at all of a user's
//! events again whenever one comes.

mod members;
mod totals;

use std::sync::Arc;

use timely::dataflow::Scope;
use timely::dataflow::channels::pact::Exchange;
use waterwheel_config::calendar::Period;
use waterwheel_config::schema::{Column, Finality, Schema};
use waterwheel_config::section::Section;
use waterwheel_config::value::ColumnType;
use waterwheel_pipeline::contract::epoch::Epoch;
use waterwheel_pipeline::contract::fold::{Update, every_epoch_kept};
use waterwheel_pipeline::contract::operator::{
    Input, Operator, OperatorContext, OperatorKind, Planned, RenderContext, Rows, inputs_from,
};
use waterwheel_pipeline::contract::state::route;

use self::members::Members;
use self::totals::{CohortChange, CohortTotals};
use crate::settings::timezone;
use crate::spans::{self, By, InputPrograms, Need, Settings};

/// The kind.
pub const KIND: OperatorKind = OperatorKind {
    name: "retention",
    summary: "counts how many of those who started in a period come back later",
    example: r#"[operators.cohorts]
type = "retention"
from = "events"
by = "user_id"
start = "event_type = 'signup'"
return = "event_type = 'order.filled'"
period = "1w"
periods = 12
"#,
    inputs: inputs_from,
    plan,
};

const BY: By = By::Identity { default: "user_id" };

/// The conditions, in the order of the bits of [`spans::SpanEvent::marks`].
const CONDITIONS: [&str; 2] = ["start", "return"];

/// How many periods a membership may have.
const MOST_PERIODS: i64 = 10_000;

/// Which periods there are, and how many of them a membership has.
#[derive(Clone, Copy, Debug)]
struct Span {
    period: Period,
    periods: u32,
}

struct Retention {
    inputs: Arc<[InputPrograms]>,
    span: Span,
}

impl Operator for Retention {
    fn render<'s>(
        &self,
        scope: Scope<'s, Epoch>,
        inputs: Vec<Input<'s>>,
        context: RenderContext,
    ) -> Rows<'s> {
        let members = Members::new(self.span);
        let changes = spans::render(scope, inputs, &context, &self.inputs, Need::Marked, members);
        let owner = Exchange::new(|(change, _, _): &Update<CohortChange>| route(change.hash()));
        let part = Some(context.part("cohorts"));
        let totals = CohortTotals::new(self.span, &context);
        let clock = context.clock;
        every_epoch_kept(changes.inner, owner, "RetentionCohorts", clock, part, totals)
    }
}

fn plan(section: &Section<'_>, context: &mut OperatorContext) -> Option<Planned> {
    let zone = timezone(section);
    let period = section
        .require("period")
        .and_then(|()| section.choice("period", &["1d", "1w", "1mo"]))
        .and_then(|written| Some((Period::parse(written.value, zone).ok()?, written.value)));
    let periods =
        section.require("periods").and_then(|()| section.integer("periods", 1, MOST_PERIODS));
    let settings = Settings::read(section, context, BY, &CONDITIONS, Need::Marked);
    let ((period, written), periods, settings) = (period?, periods?.value, settings?);
    let columns = vec![
        Column::time("cohort", period.longest_us().saturating_mul(periods)),
        Column::new("period", ColumnType::Bigint),
        Column::new("cohort_size", ColumnType::Bigint),
        Column::new("users", ColumnType::Bigint),
        Column::new("rate", ColumnType::Double),
    ];
    let schema = Schema {
        columns,
        key: vec![0, 1],
        finality: Finality::PeriodEnd { start: 0, count: 1, period, plus_us: 0 },
        append_only: false,
        time: Some(0),
    };
    let mut meaning = spans::meaning(section, BY, &CONDITIONS);
    meaning.period("period", written);
    meaning.add("periods", periods);
    let span = Span { period, periods: u32::try_from(periods).unwrap_or(u32::MAX) };
    Some(Planned {
        operator: Arc::new(Retention { inputs: settings.inputs.into(), span }),
        schema: Arc::new(schema),
        watermark: settings.watermark,
        held_back_us: 0,
        state_bound: format!(
            "a bit per period of each user, until {periods} periods of {written} after the start of their cohort"
        ),
        meaning: meaning.finish(zone),
    })
}

#[cfg(test)]
mod tests;
