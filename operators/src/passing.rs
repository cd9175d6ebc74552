//! What an operator reads whose rows come from one input row each: the events of sources, or the rows
//! of one other operator.

use std::rc::Rc;

use waterwheel_config::expr::Program;
use waterwheel_config::schema::SchemaRef;
use waterwheel_config::section::Section;
use waterwheel_pipeline::contract::clock::Watermark;
use waterwheel_pipeline::contract::event::{EventBatch, EventFields};
use waterwheel_pipeline::contract::fold::Fold;
use waterwheel_pipeline::contract::operator::{InputFlow, InputPlan, OperatorContext};

/// All inputs as one; a finding where they cannot be.
pub(crate) fn one_input(section: &Section<'_>, context: &OperatorContext) -> Option<InputPlan> {
    let (first, rest) = context.inputs.split_first()?;
    let rows: Vec<&InputPlan> =
        context.inputs.iter().filter(|input| matches!(input.flow, InputFlow::Rows(_))).collect();
    if let (Some(rows), false) = (rows.first(), rest.is_empty()) {
        section.findings().error_help(
            section.word_in("from", &rows.name),
            format!("rows of `{}` cannot be read together with another input", rows.name),
            "`from` names sources, or one operator: rows of two could have one key",
        );
        return None;
    }
    if rest.is_empty() {
        return Some(first.clone());
    }
    let events = context.inputs.iter().filter_map(|input| match &input.flow {
        InputFlow::Events(events) => Some(events),
        InputFlow::Rows(_) => None,
    });
    Some(InputPlan {
        name: first.name.clone(),
        flow: InputFlow::Events(EventFields::joined(events)),
        watermark: Watermark::least(context.inputs.iter().map(|input| &input.watermark)),
    })
}

/// What goes on: the events that meet a condition, or rows of another operator.
pub(crate) enum Passing {
    Events(EventFields),
    Rows(SchemaRef),
}

impl Passing {
    pub(crate) fn of(input: &InputPlan, condition: Option<&Program>) -> Self {
        match &input.flow {
            InputFlow::Events(events) => Self::Events(events.clone().filtered(condition)),
            InputFlow::Rows(schema) => Self::Rows(schema.clone()),
        }
    }
}

/// Lets through the events that meet a condition, batch by batch.
pub(crate) struct FilterEvents(pub(crate) Program);

impl Fold<Rc<EventBatch>, Rc<EventBatch>> for FilterEvents {
    const IS_PIECEWISE: bool = true;

    fn epoch(
        &mut self,
        _epoch: u64,
        batches: Vec<(Rc<EventBatch>, isize)>,
        output: &mut Vec<(Rc<EventBatch>, isize)>,
    ) {
        for (batch, times) in batches {
            let rest = batch.filtered(|event| self.0.holds(event));
            if !rest.events.is_empty() {
                output.push((Rc::new(rest), times));
            }
        }
    }
}
