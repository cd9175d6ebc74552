//! **filter** lets through what meets a condition.
//!
//! ```toml
//! [operators.fills]
//! type = "filter"
//! from = "events"
//! where = "event_type = 'order.filled'"
//! ```
//!
//! Of a source's events it makes a stream of events like the source's own: what reads it may name any
//! field of the payload, and sinks write them as raw events. Nothing is copied but the decoded fields
//! of the events that pass. Of another operator's rows it makes the same rows, fewer.

use std::sync::Arc;

use timely::dataflow::Scope;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Concatenate;
use waterwheel_config::expr::{self, Program};
use waterwheel_config::section::Section;
use waterwheel_pipeline::contract::epoch::Epoch;
use waterwheel_pipeline::contract::event::raw_schema;
use waterwheel_pipeline::contract::fold::every_epoch;
use waterwheel_pipeline::contract::operator::{
    Events, Input, Operator, OperatorContext, OperatorKind, Planned, RenderContext, RowView, Rows,
    inputs_from,
};

use crate::meaning::Meaning;
use crate::passing::{FilterEvents, Passing, one_input};
use crate::settings::timezone;

/// The kind.
pub const KIND: OperatorKind = OperatorKind {
    name: "filter",
    summary: "lets through the events that meet a condition",
    example: r#"[operators.fills]
type = "filter"
from = "events"
where = "event_type = 'order.filled'"
"#,
    inputs: inputs_from,
    plan,
};

struct Filter(Program);

impl Operator for Filter {
    fn render<'s>(
        &self,
        scope: Scope<'s, Epoch>,
        inputs: Vec<Input<'s>>,
        _context: RenderContext,
    ) -> Rows<'s> {
        let rows = inputs.into_iter().filter_map(|input| match input {
            Input::Rows(rows) => Some(rows),
            Input::Events(_) => None,
        });
        let condition = self.0.clone();
        differential_dataflow::collection::concatenate(scope, rows)
            .filter(move |row| condition.holds(&RowView(row)))
    }

    fn render_events<'s>(
        &self,
        scope: Scope<'s, Epoch>,
        inputs: Vec<Input<'s>>,
        context: RenderContext,
    ) -> Events<'s> {
        let events = inputs.into_iter().filter_map(|input| match input {
            Input::Events(events) => Some(events),
            Input::Rows(_) => None,
        });
        let events = scope.concatenate(events);
        let filter = FilterEvents(self.0.clone());
        every_epoch(events, Pipeline, "FilterEvents", context.clock, filter).inner
    }
}

fn plan(section: &Section<'_>, context: &mut OperatorContext) -> Option<Planned> {
    let zone = timezone(section);
    let condition = section.required_text("where");
    let input = one_input(section, context)?;
    let condition = expr::condition(section, &condition?, &mut input.scope(zone))?;
    let schema = match Passing::of(&input, Some(&condition)) {
        Passing::Events(events) => {
            context.events = Some(events);
            raw_schema()
        }
        Passing::Rows(schema) => schema,
    };
    let mut meaning = Meaning::default();
    if let Some(condition) = section.text("where") {
        meaning.expression("where", &condition.value);
    }
    Some(Planned {
        operator: Arc::new(Filter(condition)),
        schema,
        watermark: input.watermark,
        held_back_us: 0,
        state_bound: "none".to_owned(),
        meaning: meaning.finish(zone),
    })
}

#[cfg(test)]
mod tests;
