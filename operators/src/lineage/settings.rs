//! The settings of a lineage, and what comes out.

use std::sync::Arc;

use waterwheel_config::expr::{Program, Scope};
use waterwheel_config::schema::{Column, Finality, Schema};
use waterwheel_config::section::Section;
use waterwheel_config::units::{format_duration, parse_duration};
use waterwheel_config::value::ColumnType;
use waterwheel_pipeline::contract::clock::Watermark;
use waterwheel_pipeline::contract::operator::{InputPlan, InputScope, OperatorContext, Planned};

use super::{InputPrograms, Lineage, Plan};
use crate::meaning::Meaning;
use crate::settings::{Intake, key_columns, timezone};

const WITHIN_DEFAULT: &str = "1h";

pub(super) fn plan(section: &Section<'_>, context: &OperatorContext) -> Option<Planned> {
    let before = section.findings().errors();
    let zone = timezone(section);
    let default_us = parse_duration(WITHIN_DEFAULT).unwrap_or_default();
    let within_us = section.duration("within").map_or(default_us, |within| within.value);
    let intake = Intake::read(section, zone);
    let (mut inputs, mut watermarks) = (Vec::new(), Vec::new());
    for input in &context.inputs {
        let mut intake = intake.of(section, input);
        let programs = ["id", "causation_id", "event_type"]
            .map(|name| column(section, input, &mut intake.scope, name));
        let ([Some(id), Some(cause), Some(event_type)], Some(time)) = (programs, intake.time)
        else {
            continue;
        };
        input.need_keys(intake.condition.as_ref(), vec![id.clone()]);
        inputs.push(InputPrograms {
            condition: intake.condition,
            id,
            cause,
            event_type,
            time_slot: time.slot,
            key_columns: key_columns(input),
        });
        watermarks.push(input.watermark.delayed(time.behind_us));
    }
    if section.findings().errors() > before {
        return None;
    }
    let mut meaning = Meaning::default();
    if let Some(condition) = section.text("where") {
        meaning.expression("where", &condition.value);
    }
    meaning.add("within", within_us);
    meaning.add("time", section.text("time").map_or_else(|| "timestamp".to_owned(), |t| t.value));
    let plan = Plan { inputs, within_us };
    let state_bound = format!(
        "the events of the last {} and the lateness, and the ids of the last {}",
        format_duration(within_us.saturating_mul(2)),
        format_duration(plan.same_us()),
    );
    Some(Planned {
        operator: Arc::new(Lineage(Arc::new(plan))),
        schema: Arc::new(schema(within_us)),
        watermark: Watermark::least(&watermarks),
        held_back_us: 0,
        state_bound,
        meaning: meaning.finish(zone),
    })
}

fn column(
    section: &Section<'_>,
    input: &InputPlan,
    scope: &mut InputScope<'_>,
    name: &str,
) -> Option<Program> {
    match scope.resolve(&[name.to_owned()]) {
        Ok(binding) => Some(Program::Slot(binding.slot)),
        Err(error) => {
            section.findings().error_help(
                section.word_in("from", &input.name),
                error.message,
                "rows whose causes are followed need `id`, `causation_id` and `event_type`: derive them",
            );
            None
        }
    }
}

/// An ancestor may come until the watermark is more than `within` past an event: until then its row
/// may change.
fn schema(within_us: i64) -> Schema {
    let text = |name: &str| Column::new(name, ColumnType::Text);
    let columns = vec![
        text("id"),
        text("root_id"),
        text("parent_id"),
        Column::new("depth", ColumnType::Bigint),
        text("event_type"),
        text("root_type"),
        Column::time("timestamp", within_us),
        Column::new("since_root_ms", ColumnType::Double),
        Column::new("orphan", ColumnType::Boolean),
    ];
    Schema {
        columns,
        key: vec![0],
        finality: Finality::At {
            column: super::rows::TIMESTAMP,
            plus_us: within_us.saturating_add(1),
        },
        append_only: false,
        time: Some(super::rows::TIMESTAMP),
    }
}
