//! Explains a deployment: the graph with the columns and types on every edge, and what bounds the
//! state of every operator.

use std::fmt::Write;

use waterwheel_config::schema::{Finality, Schema};
use waterwheel_config::units::format_duration;
use waterwheel_config::value::write_json_string;

use super::{Deployment, InputRef, OperatorNode};
use crate::contract::sink::Emit;
use crate::contract::source::Until;

/// The graph as text for a person.
pub fn text(deployment: &Deployment) -> String {
    let mut out = String::new();
    let flush = format_duration(deployment.flush_us);
    let Deployment { name, workers, .. } = deployment;
    line(&mut out, format_args!("pipeline {name} ({workers} workers, flush {flush})"));
    for node in &deployment.sources {
        let lateness = format_duration(node.lateness_us);
        let until = until_name(node.until);
        line(&mut out, format_args!("\nsource {} ({})", node.name, node.kind));
        line(&mut out, format_args!("  reads      {}", node.spec.describe()));
        line(&mut out, format_args!("  until      {until}"));
        line(&mut out, format_args!("  watermark  {lateness} behind its largest timestamp"));
        if let Some(idle_after_us) = node.idle_after_us {
            let after = format_duration(idle_after_us);
            line(&mut out, format_args!("  idle       after {after} of silence: not waited for"));
        }
        if deployment.sources.len() > 1 {
            let skew = format_duration(node.skew_max_us);
            line(&mut out, format_args!("  skew       at most {skew} ahead of the others"));
        }
    }
    for (index, node) in deployment.operators.iter().enumerate() {
        line(&mut out, format_args!("\noperator {} ({})", node.name, node.kind));
        line(&mut out, format_args!("  reads      {}", input_names(deployment, &node.inputs)));
        line(&mut out, format_args!("  state      {}", node.planned.state_bound));
        line(&mut out, format_args!("  watermark  {}", watermark(node)));
        let schema = deployment.schema(InputRef::Operator(index));
        line(&mut out, format_args!("  final      {}", finality(node)));
        columns(&mut out, &schema);
    }
    for node in &deployment.sinks {
        let emit = emit_name(node.context.emit);
        line(&mut out, format_args!("\nsink {} ({})", node.name, node.kind));
        line(&mut out, format_args!("  reads      {}", input_names(deployment, &node.inputs)));
        line(&mut out, format_args!("  writes     {}", node.spec.describe()));
        line(&mut out, format_args!("  emit       {emit}"));
        line(&mut out, format_args!("  guarantee  {}", node.guarantee));
    }
    out
}

/// The graph as a Mermaid flowchart.
pub fn mermaid(deployment: &Deployment) -> String {
    let mut out = String::from("flowchart LR\n");
    let id = |input: InputRef| match input {
        InputRef::Source(index) => format!("source_{}", deployment.sources[index].name),
        InputRef::Operator(index) => format!("operator_{}", deployment.operators[index].name),
        InputRef::DeadLetters => "dead_letter".to_owned(),
    };
    for (index, node) in deployment.sources.iter().enumerate() {
        let id = id(InputRef::Source(index));
        line(&mut out, format_args!("  {id}[/\"{}<br/>{}\"/]", node.name, node.kind));
    }
    for (index, node) in deployment.operators.iter().enumerate() {
        let own = id(InputRef::Operator(index));
        line(&mut out, format_args!("  {own}[\"{}<br/>{}\"]", node.name, node.kind));
        for input in &node.inputs {
            line(&mut out, format_args!("  {} --> {own}", id(*input)));
        }
    }
    for node in &deployment.sinks {
        let own = format!("sink_{}", node.name);
        line(&mut out, format_args!("  {own}[(\"{}<br/>{}\")]", node.name, node.kind));
        for input in &node.inputs {
            line(&mut out, format_args!("  {} --> {own}", id(*input)));
        }
    }
    out
}

/// The graph as JSON for programs.
pub fn json(deployment: &Deployment) -> String {
    let mut out = String::from("{");
    field(&mut out, "pipeline", &deployment.name);
    let Deployment { workers, flush_us, .. } = deployment;
    push(&mut out, format_args!(",\"workers\":{workers},\"flush_us\":{flush_us}"));
    list(&mut out, "sources", &deployment.sources, |out, node| {
        field(out, "name", &node.name);
        more(out, "type", node.kind);
        more(out, "reads", &node.spec.describe());
        more(out, "until", until_name(node.until));
        push(out, format_args!(",\"lateness_us\":{}", node.lateness_us));
        if let Some(idle_after_us) = node.idle_after_us {
            push(out, format_args!(",\"idle_after_us\":{idle_after_us}"));
        }
        push(out, format_args!(",\"max_skew_us\":{}", node.skew_max_us));
    });
    list(&mut out, "operators", &deployment.operators, |out, node| {
        field(out, "name", &node.name);
        more(out, "type", node.kind);
        inputs_json(out, deployment, &node.inputs);
        more(out, "state", &node.planned.state_bound);
        let delay_us = node.planned.watermark.delay_us();
        push(out, format_args!(",\"watermark_delay_us\":{delay_us}"));
        push(out, format_args!(",\"held_back_us\":{}", node.planned.held_back_us));
        columns_json(out, &node.planned.schema);
    });
    list(&mut out, "sinks", &deployment.sinks, |out, node| {
        field(out, "name", &node.name);
        more(out, "type", node.kind);
        inputs_json(out, deployment, &node.inputs);
        more(out, "writes", &node.spec.describe());
        more(out, "emit", emit_name(node.context.emit));
        more(out, "guarantee", node.guarantee);
    });
    out.push_str("}\n");
    out
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    push(out, text);
    out.push('\n');
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = out.write_fmt(text);
}

fn until_name(until: Until) -> &'static str {
    match until {
        Until::Forever => "forever",
        Until::End => "end",
        Until::Final => "final",
    }
}

fn emit_name(emit: Emit) -> &'static str {
    match emit {
        Emit::Changes => "changes",
        Emit::Final => "final",
    }
}

fn input_names(deployment: &Deployment, inputs: &[InputRef]) -> String {
    let names: Vec<&str> = inputs.iter().map(|input| deployment.input_name(*input)).collect();
    names.join(", ")
}

fn watermark(node: &OperatorNode) -> String {
    let own = match node.planned.watermark.delay_us() {
        0 => "that of its inputs".to_owned(),
        delay_us => format!("{} behind that of the sources", format_duration(delay_us)),
    };
    match node.planned.held_back_us {
        0 => own,
        held_us => format!("{own}, held back by {} for what reads it", format_duration(held_us)),
    }
}

/// When a row is final, by the watermark of the operator's inputs.
fn finality(node: &OperatorNode) -> String {
    let schema = &node.planned.schema;
    let name = |column: usize| schema.columns[column].name.as_str();
    let (moment, plus_us) = match schema.finality.delayed(node.planned.held_back_us) {
        Finality::Immediate => return "as soon as a row is out".to_owned(),
        Finality::At { column, plus_us } => (name(column).to_owned(), plus_us),
        Finality::Silent { expire_us: None } => return "when the stream has ended".to_owned(),
        Finality::Silent { expire_us: Some(expire_us) } => {
            ("the time of its last event".to_owned(), expire_us)
        }
        Finality::PeriodEnd { start, count, plus_us, .. } => {
            (format!("the end of {} + {}", name(start), name(count)), plus_us)
        }
    };
    // A bound that still belongs to the row ends a microsecond later.
    let (comes, plus_us) = match plus_us % 1_000 {
        1 => ("has passed", plus_us - 1),
        _ => ("reaches", plus_us),
    };
    match plus_us {
        0 => format!("when the watermark {comes} {moment}"),
        plus_us => format!("when the watermark {comes} {moment} + {}", format_duration(plus_us)),
    }
}

fn columns(out: &mut String, schema: &Schema) {
    let width = schema.names().map(str::len).max().unwrap_or(0);
    for (index, column) in schema.columns.iter().enumerate() {
        let head = if index == 0 { "columns" } else { "" };
        let key = if schema.key.contains(&index) { "  key" } else { "" };
        line(out, format_args!("  {head:<10} {:<width$}  {}{key}", column.name, column.kind));
    }
}

fn field(out: &mut String, name: &str, value: &str) {
    write_json_string(name, out);
    out.push(':');
    write_json_string(value, out);
}

fn more(out: &mut String, name: &str, value: &str) {
    out.push(',');
    field(out, name, value);
}

fn list<T>(out: &mut String, name: &str, items: &[T], mut write: impl FnMut(&mut String, &T)) {
    push(out, format_args!(",\"{name}\":["));
    for (index, item) in items.iter().enumerate() {
        out.push_str(if index == 0 { "{" } else { ",{" });
        write(out, item);
        out.push('}');
    }
    out.push(']');
}

fn inputs_json(out: &mut String, deployment: &Deployment, inputs: &[InputRef]) {
    out.push_str(",\"from\":[");
    for (index, input) in inputs.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        write_json_string(deployment.input_name(*input), out);
    }
    out.push(']');
}

fn columns_json(out: &mut String, schema: &Schema) {
    out.push_str(",\"columns\":[");
    for (index, column) in schema.columns.iter().enumerate() {
        out.push_str(if index == 0 { "{" } else { ",{" });
        field(out, "name", &column.name);
        more(out, "type", column.kind.name());
        push(out, format_args!(",\"key\":{}}}", schema.key.contains(&index)));
    }
    out.push(']');
}
