//! The settings of derive, and what comes out.

use std::sync::Arc;

use waterwheel_config::expr::{self, Kind, Program};
use waterwheel_config::schema::{Column, Finality, Schema};
use waterwheel_config::section::Section;
use waterwheel_config::value::ColumnType;
use waterwheel_pipeline::contract::operator::{
    InputFlow, InputPlan, InputScope, OperatorContext, Planned,
};

use super::{Derive, Plan};
use crate::meaning::Meaning;
use crate::passing::one_input;
use crate::settings::{key_columns, timezone};

/// The columns of every row; those that are written follow.
const TAKEN: [&str; 2] = ["key", "timestamp"];
const TIMESTAMP: usize = 1;

struct Columns {
    names: Vec<String>,
    programs: Vec<(Program, ColumnType)>,
}

pub(super) fn plan(section: &Section<'_>, context: &OperatorContext) -> Option<Planned> {
    let before = section.findings().errors();
    let zone = timezone(section);
    let input = one_input(section, context);
    let stand_in = InputPlan::stand_in("from");
    let known = input.as_ref().unwrap_or(&stand_in);
    let mut scope = known.scope(zone);
    let condition = expr::compile_condition(section, "where", &mut scope);
    let mut columns = columns(section, &mut scope);
    let time_slot = match &known.flow {
        InputFlow::Events(_) => None,
        InputFlow::Rows(schema) => time_slot(schema),
    };
    let schema = schema(section, known, time_slot, &mut columns);
    let key_columns = key_columns(known);
    let mut meaning = Meaning::default();
    if let Some(text) = section.text("where") {
        meaning.expression("where", &text.value);
    }
    for (key, node) in section.table("columns").iter().flat_map(Section::entries) {
        if let Some(text) = section.node_text(node, &key.name) {
            meaning.expression(&format!("columns {}", key.name), &text.value);
        }
    }
    if section.findings().errors() > before {
        return None;
    }
    let plan = Plan { condition, time_slot, key_columns, columns: columns.programs };
    Some(Planned {
        operator: Arc::new(Derive(Arc::new(plan))),
        schema: Arc::new(schema),
        watermark: input?.watermark,
        held_back_us: 0,
        state_bound: "none".to_owned(),
        meaning: meaning.finish(zone),
    })
}

fn columns(section: &Section<'_>, scope: &mut InputScope<'_>) -> Columns {
    let mut columns = Columns { names: Vec::new(), programs: Vec::new() };
    if section.require("columns").is_none() {
        return columns;
    }
    let Some(table) = section.table("columns") else {
        return columns;
    };
    let mut is_empty = true;
    for (key, node) in table.entries() {
        is_empty = false;
        if TAKEN.contains(&key.name.as_str()) {
            let message = format!("there are two columns named `{}`", key.name);
            table.findings().error_help(key.span.clone(), message, "give it another name");
        }
        let Some(text) = table.node_text(node, &key.name) else {
            continue;
        };
        let Some(typed) = expr::compile_text(&table, &text, scope) else {
            continue;
        };
        if typed.kind == Kind::Interval {
            table.findings().error_help(
                text.span,
                "a time difference is no column",
                "write `millis(received_at - timestamp)` for milliseconds",
            );
            continue;
        }
        columns.names.push(key.name.clone());
        columns.programs.push((typed.program, typed.kind.column_type()));
    }
    if is_empty {
        let help = "write columns.notional = \"properties.price * properties.quantity\"";
        table.findings().error_help(table.span.clone(), "`columns` names no column", help);
    }
    columns
}

/// Where rows have their time: in `timestamp`, or in what stands for it.
fn time_slot(schema: &Schema) -> Option<usize> {
    let is_time = |slot: &usize| schema.columns[*slot].kind == ColumnType::Timestamp;
    schema.index_of("timestamp").filter(is_time).or(schema.time)
}

/// What comes out. Rows are final by a column of the input; where that is not their time, it comes
/// out too, so that sinks can go by it.
fn schema(
    section: &Section<'_>,
    input: &InputPlan,
    time_slot: Option<usize>,
    columns: &mut Columns,
) -> Schema {
    let mut finality = Finality::Immediate;
    let mut behind_us = Some(0);
    if let InputFlow::Rows(rows) = &input.flow {
        behind_us = time_slot.and_then(|slot| rows.columns[slot].behind_us);
        let mut at = |column: usize| match Some(column) == time_slot {
            true => TIMESTAMP,
            false => TAKEN.len() + carried(section, rows, column, columns),
        };
        finality = match rows.finality {
            Finality::Immediate => Finality::Immediate,
            Finality::At { column, plus_us } => Finality::At { column: at(column), plus_us },
            Finality::PeriodEnd { start, count, period, plus_us } => {
                // What is added goes to the front: the second look finds it where it came to stand.
                at(count);
                Finality::PeriodEnd { start: at(start), count: at(count), period, plus_us }
            }
            // What says when a group was last heard of is no column, and does not come along.
            Finality::Silent { .. } => Finality::Silent { expire_us: None },
        };
    }
    let timestamp = Column { behind_us, ..Column::time(TAKEN[TIMESTAMP], 0) };
    let named = columns.names.iter().zip(&columns.programs);
    let schema_columns = [Column::new(TAKEN[0], ColumnType::Text), timestamp]
        .into_iter()
        .chain(named.map(|(name, (program, kind))| Column {
            behind_us: behind_of(input, program),
            ..Column::new(name, *kind)
        }))
        .collect();
    let has_time = !matches!(&input.flow, InputFlow::Rows(_)) || time_slot.is_some();
    Schema {
        columns: schema_columns,
        key: vec![0],
        finality,
        append_only: input.append_only(),
        time: has_time.then_some(TIMESTAMP),
    }
}

/// A column that is handed on is a time as it was before.
fn behind_of(input: &InputPlan, program: &Program) -> Option<i64> {
    match (&input.flow, program) {
        (InputFlow::Rows(rows), Program::Slot(slot)) => rows.columns[*slot].behind_us,
        _ => None,
    }
}

/// Where a column of the input stands among the derived ones; it is added unless it is there.
fn carried(section: &Section<'_>, rows: &Schema, slot: usize, columns: &mut Columns) -> usize {
    let name = &rows.columns[slot].name;
    let program = (Program::Slot(slot), rows.columns[slot].kind);
    if let Some(at) = columns.programs.iter().position(|known| *known == program) {
        return at;
    }
    if columns.names.contains(name) {
        section.findings().error_help(
            section.key_span("columns"),
            format!("there are two columns named `{name}`"),
            format!("give yours another name: rows become final by the input's `{name}`, which comes out too"),
        );
    }
    columns.names.insert(0, name.clone());
    columns.programs.insert(0, program);
    0
}
