//! The settings of a sample, and what comes out.

use std::sync::Arc;

use waterwheel_config::document::NodeKind;
use waterwheel_config::expr;
use waterwheel_config::schema::{Finality, Schema};
use waterwheel_config::section::Section;
use waterwheel_config::units::{SECOND_US, format_duration};
use waterwheel_pipeline::contract::event::raw_schema;
use waterwheel_pipeline::contract::operator::{InputPlan, OperatorContext, Planned};

use super::{Plan, Sample};
use crate::key::KeyPlan;
use crate::meaning::Meaning;
use crate::passing::{Passing, one_input};
use crate::settings::{Intake, key_columns, timezone};

const CONTEXT_DEFAULT: i64 = 5;
/// More neighbours are no sample.
const CONTEXT_MOST: i64 = 1_000;
const WITHIN_DEFAULT_US: i64 = 60 * SECOND_US;
const RATE_DEFAULT: f64 = 0.1;

pub(super) fn plan(section: &Section<'_>, context: &mut OperatorContext) -> Option<Planned> {
    let before = section.findings().errors();
    let zone = timezone(section);
    let input = one_input(section, context);
    let stand_in = InputPlan::stand_in("from");
    let known = input.as_ref().unwrap_or(&stand_in);
    let keep_text = section.text("keep");
    let by_texts =
        if section.has("by") { section.texts("by") } else { section.node("by").map(|_| vec![]) };
    let by_texts = by_texts.unwrap_or_default();
    let number = section.integer("context", 0, CONTEXT_MOST);
    let number = number.map_or(CONTEXT_DEFAULT, |number| number.value);
    let within_us = section.duration("context_within").map_or(WITHIN_DEFAULT_US, |d| d.value);
    let rate = rate(section);
    let intake = Intake::read(section, zone);
    let mut intake = intake.of(section, known);
    let scope = &mut intake.scope;
    let keep = keep_text.as_ref().and_then(|text| expr::condition(section, text, scope));
    let by: Vec<_> =
        by_texts.iter().filter_map(|text| expr::compile_text(section, text, scope)).collect();
    let by = KeyPlan {
        kinds: by.iter().map(|typed| typed.kind.column_type()).collect(),
        programs: by.into_iter().map(|typed| typed.program).collect(),
    };
    known.need_keys(intake.condition.as_ref(), by.programs.clone());
    if section.findings().errors() > before {
        return None;
    }
    let (time, condition) = (intake.time?, intake.condition);
    let mut meaning = Meaning::default();
    for (key, text) in [("where", section.text("where")), ("keep", keep_text)] {
        if let Some(text) = text {
            meaning.expression(key, &text.value);
        }
    }
    // The order of what is grouped by means nothing to the groups, but to the hash of their keys.
    by_texts.iter().for_each(|text| meaning.expression("by", &text.value));
    meaning.add("context", number);
    meaning.add("context_within", within_us);
    meaning.add("rate", rate);
    meaning.add("time", section.text("time").map_or_else(|| "timestamp".to_owned(), |t| t.value));
    let schema = match Passing::of(known, condition.as_ref()) {
        Passing::Events(events) => {
            context.events = Some(events);
            raw_schema()
        }
        Passing::Rows(schema) => Arc::new(row_schema(&schema, time.slot)),
    };
    let plan = Plan {
        condition,
        keep,
        by,
        time_slot: time.slot,
        key_columns: key_columns(known),
        context: usize::try_from(number).unwrap_or(0),
        within_us,
        rate,
    };
    Some(Planned {
        operator: Arc::new(Sample(Arc::new(plan))),
        schema,
        watermark: input?.watermark.delayed(time.behind_us),
        held_back_us: within_us,
        state_bound: format!(
            "the events of the last {} and the lateness, and {} older ones per group that has any",
            format_duration(within_us.saturating_mul(2)),
            number.max(5),
        ),
        meaning: meaning.finish(zone),
    })
}

/// A row comes out once it can no longer change, at its time.
fn row_schema(rows: &Schema, time_slot: Option<usize>) -> Schema {
    let mut schema = rows.clone();
    for (slot, column) in schema.columns.iter_mut().enumerate() {
        column.behind_us = (Some(slot) == time_slot).then_some(0);
    }
    schema.finality = Finality::Immediate;
    schema.append_only = true;
    schema
}

fn rate(section: &Section<'_>) -> f64 {
    let Some(node) = section.node("rate") else {
        return RATE_DEFAULT;
    };
    let rate = match &node.kind {
        NodeKind::Float(rate) => Some(*rate),
        NodeKind::Integer(rate) => Some(*rate as f64),
        _ => None,
    };
    match rate {
        Some(rate) if (0.0..=1.0).contains(&rate) => rate,
        _ => {
            section.findings().error(node.span.clone(), "`rate` must be a number from 0 to 1");
            RATE_DEFAULT
        }
    }
}
