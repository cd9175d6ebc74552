//! What a test expects: rows by the columns that matter, of the types that the columns have.

use chrono_tz::Tz;
use waterwheel_config::document::{Key, Node, NodeKind};
use waterwheel_config::expr;
use waterwheel_config::finding::Span;
use waterwheel_config::names::nearest;
use waterwheel_config::section::Section;
use waterwheel_config::value::ColumnType;

use super::messages::{json, parse_time};
use super::{Expectation, ExpectedRow, ExpectedValue, Outlet};
use crate::contract::clock::Watermark;
use crate::contract::operator::{InputFlow, InputPlan};

/// How NULL is written in a row.
const NULL: &str = "NULL";

/// The bound of a quantile, and so the default of `within`.
const WITHIN_DEFAULT: f64 = 0.01;

const TIME_HELP: &str = "write a time as in \"2026-11-21T10:00:00Z\", or \"NULL\"";

/// Reads the table `expect` of a test or a step.
pub(super) fn expectations(section: &Section<'_>, outlets: &[Outlet]) -> Vec<Expectation> {
    let Some(table) = section.table("expect") else {
        return Vec::new();
    };
    let mut expectations = Vec::new();
    for (key, node) in table.entries() {
        match outlets.iter().find(|outlet| outlet.name == key.name) {
            Some(outlet) => expectations.extend(expectation(&table, key, node, outlet)),
            None => unknown_outlet(&table, key, outlets),
        }
    }
    expectations
}

fn unknown_outlet(table: &Section<'_>, key: &Key, outlets: &[Outlet]) {
    let names = || outlets.iter().map(|outlet| outlet.name.as_str());
    let help = match nearest(&key.name, names()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("there are: {}", names().collect::<Vec<_>>().join(", ")),
    };
    let message = format!("there is no source or operator `{}`", key.name);
    table.findings().error_help(key.span.clone(), message, help);
}

fn expectation(
    table: &Section<'_>,
    key: &Key,
    node: &Node,
    outlet: &Outlet,
) -> Option<Expectation> {
    // One that could not be planned has its own findings, and nobody knows its columns.
    let input = outlet.input?;
    let mut expectation = Expectation {
        name: outlet.name.clone(),
        input,
        schema: outlet.schema.clone(),
        only_final: false,
        condition: None,
        rows: None,
        contains: Vec::new(),
        absent: Vec::new(),
        count: None,
    };
    match &node.kind {
        NodeKind::Array(_) => expectation.rows = Some(rows(table, node, &key.name, outlet)),
        NodeKind::Integer(_) => {
            expectation.count = table.integer(&key.name, 0, i64::MAX).map(|count| count.value as usize);
        }
        NodeKind::Table(_) => long_form(table, key, node, outlet, &mut expectation)?,
        other => table.findings().error_help(
            node.span.clone(),
            format!("`{}` must be a list of rows, not {}", key.name, other.name()),
            "write the rows as tables, how many there are, or a table { rows, contains, absent, count, final, where }",
        ),
    }
    Some(expectation)
}

fn long_form(
    table: &Section<'_>,
    key: &Key,
    node: &Node,
    outlet: &Outlet,
    expectation: &mut Expectation,
) -> Option<()> {
    let what = format!("what is expected of `{}`", key.name);
    let section = table.node_table(node, &node.span, &what)?;
    let list = |key: &str| section.node(key).map(|node| rows(&section, node, key, outlet));
    expectation.rows = list("rows");
    expectation.contains = list("contains").unwrap_or_default();
    expectation.absent = list("absent").unwrap_or_default();
    let count = section.integer("count", 0, i64::MAX);
    expectation.count = count.map(|count| count.value as usize);
    expectation.only_final = section.boolean("final").is_some_and(|only| only.value);
    let plan = InputPlan {
        name: outlet.name.clone(),
        flow: InputFlow::Rows(outlet.schema.clone()),
        watermark: Watermark::default(),
    };
    let condition = expr::compile_condition(&section, "where", &mut plan.scope(Tz::UTC));
    let text = section.text("where").map(|text| text.value);
    expectation.condition = condition.zip(text);
    if !["rows", "contains", "absent", "count"].iter().any(|key| section.has(key)) {
        section.missing(
            "rows",
            key.span.clone(),
            format!("{what} has no rows"),
            Some("write one of: rows, contains, absent, count"),
        );
    }
    section.finish();
    Some(())
}

fn rows(section: &Section<'_>, node: &Node, key: &str, outlet: &Outlet) -> Vec<ExpectedRow> {
    let NodeKind::Array(items) = &node.kind else {
        section.findings().error(
            node.span.clone(),
            format!("`{key}` must be a list of rows, not {}", node.kind.name()),
        );
        return Vec::new();
    };
    items.iter().filter_map(|item| row(section, item, outlet)).collect()
}

fn row(section: &Section<'_>, node: &Node, outlet: &Outlet) -> Option<ExpectedRow> {
    let NodeKind::Table(entries) = &node.kind else {
        section.findings().error_help(
            node.span.clone(),
            format!("a row must be a table, not {}", node.kind.name()),
            "write the columns that matter: { trades = 2 }",
        );
        return None;
    };
    let mut cells = Vec::new();
    for (key, node) in entries {
        let Some(index) = outlet.schema.index_of(&key.name) else {
            unknown_column(section, key, outlet);
            continue;
        };
        let kind = outlet.schema.columns[index].kind;
        if let Some(value) = value(section, key, node, kind) {
            cells.push((index, value));
        }
    }
    cells.sort_by_key(|(index, _)| *index);
    Some(ExpectedRow { cells })
}

fn unknown_column(section: &Section<'_>, key: &Key, outlet: &Outlet) {
    let help = match nearest(&key.name, outlet.schema.names()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => {
            let names: Vec<&str> = outlet.schema.names().collect();
            format!("its columns are: {}", names.join(", "))
        }
    };
    let message = format!("`{}` has no column `{}`", outlet.name, key.name);
    section.findings().error_help(key.span.clone(), message, help);
}

fn value(section: &Section<'_>, key: &Key, node: &Node, kind: ColumnType) -> Option<ExpectedValue> {
    let text = match &node.kind {
        NodeKind::Text(_) => Some(section.node_text(node, &key.name)?.value),
        NodeKind::Datetime(text) => Some(text.clone()),
        _ => None,
    };
    if text.as_deref() == Some(NULL) {
        return Some(ExpectedValue::Null);
    }
    let wrong = |span: Span, help: &str| {
        let message = format!("`{}` is {kind}, and this is {}", key.name, node.kind.name());
        section.findings().error_help(span, message, help);
        None
    };
    match (kind, &node.kind, text) {
        (ColumnType::Json, _, Some(text)) => {
            // Text may be JSON of any kind, or a text.
            Some(ExpectedValue::Json(serde_json::from_str(&text).unwrap_or(text.into())))
        }
        (ColumnType::Json, ..) => {
            let text = json(section, node)?;
            serde_json::from_slice(&text).ok().map(ExpectedValue::Json)
        }
        (ColumnType::Bigint | ColumnType::Double, NodeKind::Table(_), _) => {
            about(section, key, node)
        }
        (ColumnType::Bigint, NodeKind::Integer(number), _) => Some(ExpectedValue::Integer(*number)),
        (ColumnType::Double, NodeKind::Integer(number), _) => {
            Some(ExpectedValue::Number(*number as f64))
        }
        (ColumnType::Double, NodeKind::Float(number), _) => Some(ExpectedValue::Number(*number)),
        (ColumnType::Boolean, NodeKind::Boolean(flag), _) => Some(ExpectedValue::Boolean(*flag)),
        (ColumnType::Text, NodeKind::Text(_), Some(text)) => Some(ExpectedValue::Text(text)),
        (ColumnType::Timestamp, _, Some(text)) => {
            let time = parse_time(&text);
            if time.is_none() {
                let message = format!("`{text}` is no time");
                section.findings().error_help(node.span.clone(), message, TIME_HELP);
            }
            time.map(ExpectedValue::Timestamp)
        }
        (kind, ..) => wrong(
            node.span.clone(),
            match kind {
                ColumnType::Bigint => "write a whole number, `{ about = ... }`, or \"NULL\"",
                ColumnType::Double => "write a number, `{ about = ... }`, or \"NULL\"",
                ColumnType::Boolean => "write true, false, or \"NULL\"",
                ColumnType::Timestamp => TIME_HELP,
                _ => "write a text (a number or true or false as JSON spells it), or \"NULL\"",
            },
        ),
    }
}

/// `{ about = 100, within = 0.01 }`: within a part of the number; a quantile is right to 1 %.
fn about(section: &Section<'_>, key: &Key, node: &Node) -> Option<ExpectedValue> {
    let section = section.node_table(node, &node.span, &format!("`{}`", key.name))?;
    section.require("about");
    let about = number(&section, "about");
    let within = number(&section, "within").unwrap_or(WITHIN_DEFAULT);
    section.finish();
    let about = about?;
    let off = (about * within).abs();
    Some(ExpectedValue::About(about, about - off..=about + off))
}

fn number(section: &Section<'_>, key: &str) -> Option<f64> {
    let node = section.node(key)?;
    match &node.kind {
        NodeKind::Integer(number) => Some(*number as f64),
        NodeKind::Float(number) if number.is_finite() => Some(*number),
        other => {
            let message = format!("`{key}` must be a number, not {}", other.name());
            section.findings().error(node.span.clone(), message);
            None
        }
    }
}
