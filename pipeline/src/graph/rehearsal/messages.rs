//! The messages of a test: payloads as TOML tables or JSON text, or whole messages with a subject
//! and headers, or the lines of a file.

use std::path::Path;

use waterwheel_config::document::{Node, NodeKind};
use waterwheel_config::names::nearest;
use waterwheel_config::section::Section;
use waterwheel_config::timestamp;
use waterwheel_config::value::write_json_string;

use super::Message;

/// The keys of a message that is written out; `payload` tells it from a bare payload.
const MESSAGE_KEYS: [&str; 5] = ["payload", "at", "source", "subject", "headers"];

/// The sources that messages may come on, by their indices.
pub(super) type SourceNames = [String];

/// Reads `events` and `input` of a test or a step.
pub(super) fn messages(
    section: &Section<'_>,
    sources: &SourceNames,
    base: Option<&Path>,
) -> Vec<Message> {
    let source = section.text("source");
    let source = match &source {
        Some(name) => source_index(section, &name.value, &name.span, sources),
        None => (sources.len() == 1).then_some(0),
    };
    let mut messages = Vec::new();
    if let Some(node) = section.node("events") {
        match &node.kind {
            NodeKind::Array(items) => {
                messages
                    .extend(items.iter().filter_map(|item| event(section, item, source, sources)));
            }
            NodeKind::Text(_) => {
                let text = section.node_text(node, "events");
                let lines = text.as_ref().map_or("", |text| &text.value);
                messages.extend(payloads(lines.as_bytes(), needed(section, source, node)));
            }
            other => section.findings().error_help(
                node.span.clone(),
                format!("`events` must be a list of events, not {}", other.name()),
                "write events = [{ timestamp = \"...\", ... }, ...], or JSON Lines as a text",
            ),
        }
    }
    let Some(node) = section.node("input") else {
        return messages;
    };
    if section.has("events") {
        section.findings().error_help(
            section.key_span("input"),
            "`events` and `input` are both written",
            "keep one of them, or put them into two steps",
        );
    }
    let path = section.node_text(node, "input");
    if let (Some(path), Some(base)) = (path, base) {
        match std::fs::read(base.join(&path.value)) {
            Ok(bytes) => messages.extend(payloads(&bytes, needed(section, source, node))),
            Err(error) => section.findings().error_help(
                path.span,
                format!("cannot read `{}`: {error}", path.value),
                "the path starts at the directory of this file",
            ),
        }
    }
    messages
}

/// The messages of JSON Lines; blank ones are none.
fn payloads(text: &[u8], source: usize) -> impl Iterator<Item = Message> + use<'_> {
    let lines =
        text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let lines = lines.filter(|line| !line.trim_ascii().is_empty());
    lines.map(move |line| Message { source, payload: line.to_vec(), ..Message::default() })
}

/// The source that the messages of a node come on, where it must be said.
fn needed(section: &Section<'_>, source: Option<usize>, node: &Node) -> usize {
    if source.is_none() && !section.has("source") {
        section.findings().error_help(
            node.span.clone(),
            "the deployment has several sources: it must be said on which one this comes",
            "write `source = \"...\"` beside it",
        );
    }
    source.unwrap_or(0)
}

fn source_index(
    section: &Section<'_>,
    name: &str,
    span: &waterwheel_config::finding::Span,
    sources: &SourceNames,
) -> Option<usize> {
    let found = sources.iter().position(|known| known == name);
    if found.is_none() {
        let help = match nearest(name, sources.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the sources are: {}", sources.join(", ")),
        };
        section.findings().error_help(span.clone(), format!("there is no source `{name}`"), help);
    }
    found
}

fn event(
    section: &Section<'_>,
    node: &Node,
    source: Option<usize>,
    sources: &SourceNames,
) -> Option<Message> {
    match &node.kind {
        NodeKind::Table(entries) if entries.iter().any(|(key, _)| key.name == "payload") => {
            message(section, node, source, sources)
        }
        NodeKind::Table(_) => {
            let payload = json(section, node)?;
            Some(Message { source: needed(section, source, node), payload, ..Message::default() })
        }
        other => {
            section.findings().error_help(
                node.span.clone(),
                format!("an event must be a table, not {}", other.name()),
                "write its payload as a table, or `{ payload = '...' }` for any other text",
            );
            None
        }
    }
}

/// A message that is written out.
fn message(
    section: &Section<'_>,
    node: &Node,
    source: Option<usize>,
    sources: &SourceNames,
) -> Option<Message> {
    let table = section.node_table(node, &node.span, "an event with a `payload`")?;
    if let NodeKind::Table(entries) = &node.kind {
        let other = entries.iter().find(|(key, _)| !MESSAGE_KEYS.contains(&key.name.as_str()));
        if let Some((key, _)) = other {
            table.findings().error_help(
                key.span.clone(),
                format!("`{}` stands beside `payload`", key.name),
                "a table with a `payload` is a whole message (payload, at, source, subject, headers): \
                 put every field of the event into its `payload`",
            );
            return None;
        }
    }
    let source = match table.text("source") {
        Some(name) => source_index(&table, &name.value, &name.span, sources),
        None => Some(needed(section, source, node)),
    };
    let at_us = time(&table, "at");
    let subject = table.text("subject").map(|subject| subject.value);
    let mut headers = String::new();
    if let Some(given) = table.table("headers") {
        for (key, value) in given.entries() {
            if let Some(text) = given.node_text(value, &key.name) {
                // A line end in either would be another header.
                let line = format!("{}:{}", key.name, text.value).replace(['\r', '\n'], " ");
                headers.push_str(&line);
                headers.push_str("\r\n");
            }
        }
    }
    let payload = table.node("payload")?;
    let payload = match &payload.kind {
        NodeKind::Text(_) => table.node_text(payload, "payload")?.value.into_bytes(),
        _ => json(&table, payload)?,
    };
    table.finish();
    Some(Message { source: source?, at_us, subject, headers, payload })
}

/// A time, as text or as a TOML date-time.
pub(super) fn time(section: &Section<'_>, key: &str) -> Option<i64> {
    let node = section.node(key)?;
    let text = match &node.kind {
        NodeKind::Datetime(text) => text.clone(),
        _ => section.node_text(node, key)?.value,
    };
    let time = parse_time(&text);
    if time.is_none() {
        section.findings().error_help(
            node.span.clone(),
            format!("`{text}` is no time"),
            "write it as in \"2026-11-21T10:00:00Z\"",
        );
    }
    time
}

/// Reads a time; a bare date is its midnight in UTC.
pub(super) fn parse_time(text: &str) -> Option<i64> {
    timestamp::parse(text).or_else(|| timestamp::parse(&format!("{text}T00:00:00Z")))
}

/// A TOML value as JSON text.
pub(super) fn json(section: &Section<'_>, node: &Node) -> Option<Vec<u8>> {
    let mut out = String::new();
    write_json(section, node, &mut out)?;
    Some(out.into_bytes())
}

fn write_json(section: &Section<'_>, node: &Node, out: &mut String) -> Option<()> {
    match &node.kind {
        NodeKind::Text(_) => write_json_string(&section.node_text(node, "an event")?.value, out),
        NodeKind::Datetime(text) => write_json_string(text, out),
        NodeKind::Integer(number) => out.push_str(&number.to_string()),
        NodeKind::Boolean(flag) => out.push_str(if *flag { "true" } else { "false" }),
        NodeKind::Float(number) if number.is_finite() => out.push_str(&format!("{number:?}")),
        NodeKind::Float(_) => {
            section.findings().error(node.span.clone(), "JSON has no such number");
            return None;
        }
        NodeKind::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index > 0 { "," } else { "" });
                write_json(section, item, out)?;
            }
            out.push(']');
        }
        NodeKind::Table(entries) => {
            out.push('{');
            for (index, (key, value)) in entries.iter().enumerate() {
                out.push_str(if index > 0 { "," } else { "" });
                write_json_string(&key.name, out);
                out.push(':');
                write_json(section, value, out)?;
            }
            out.push('}');
        }
    }
    Some(())
}
