//! However events are written, every operator makes the same of them: each pair of formats of two
//! sources against plain JSON, run and rehearsed.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::support::rounds::Chance;
use crate::support::rows::{Row, assert_same_set, parse};
use crate::support::waterwheel::Deployment;

const SOURCES: [&str; 2] = ["left", "right"];

const FORMATS: [&str; 2] = ["json", "cloudevents"];

/// The first operator lays out what is decoded of `right` in another way than of `left`.
const OPERATORS: &str = r#"
[operators.few]
type = "aggregate"
from = "right"
by = ["properties.urgent", "properties.at"]
windows = ["1h"]
measures.n = "count(distinct causation_id)"

[operators.volume]
type = "aggregate"
from = ["left", "right"]
by = ["properties.symbol", "properties.count"]
windows = ["1m", "1h"]
breakdown = ["properties.at"]
measures.n = "count(*)"
measures.total = "sum(properties.price)"
measures.latest = "max(properties.at)"
measures.most = "max(properties.count)"
measures.urgent = "share(properties.urgent)"
measures.opened = "first(properties.price)"

[operators.pairs]
type = "join"
left = { from = "left", where = "event_type = 'order.placed'" }
right = { from = "right", where = "event_type = 'order.filled'" }
on = "properties.count"
within = { before = "1m", after = "1m" }
unmatched = "both"
select.price = "right.properties.price"
select.at = "left.properties.at"
select.wait_ms = "millis(right.properties.at - left.properties.at)"

[operators.onboarding]
type = "funnel"
from = ["left", "right"]
steps = [
    { name = "placed", where = "event_type = 'order.placed' and properties.price > 5" },
    { name = "filled", where = "event_type = 'order.filled'" },
]
within = "10m"
window = "1h"
breakdown = "properties.count"

[operators.orders]
type = "flow"
from = ["left", "right"]
by = ["properties.count", "correlation_id"]
done = "properties.urgent"
timeout = "5m"

[operators.visits]
type = "sessions"
from = ["left", "right"]
by = ["properties.urgent"]
gap = "20s"

[operators.cohorts]
type = "retention"
from = ["left", "right"]
start = "properties.price > 50"
return = "event_type = 'order.filled'"
period = "1d"
periods = 2

[operators.chains]
type = "lineage"
from = ["left", "right"]
within = "10m"

[operators.dear]
type = "filter"
from = ["left", "right"]
where = "properties.price > 20 and properties.at > ts('2026-05-04T00:00:00Z')"

[operators.thin]
type = "sample"
from = ["left", "right"]
keep = "properties.urgent and properties.price > 80"
by = "properties.count"
context = 2
rate = 0.2

[operators.columns]
type = "derive"
from = ["right", "left"]
columns.price = "properties.price"
columns.count = "properties.count"
columns.at = "properties.at"
columns.urgent = "properties.urgent"
columns.symbol = "properties.symbol"
columns.who = "user_id"

[operators.behind]
type = "derive"
from = ["dear"]
where = "properties.count is not null"
columns.price = "properties.price + 1"
columns.at = "properties.at"

[operators.hours]
type = "aggregate"
from = "thin"
by = ["properties.count"]
windows = ["1h"]
measures.top = "max(properties.price)"

[sinks.out]
type = "print"
from = ["few", "volume", "pairs", "onboarding", "orders", "visits", "cohorts", "chains", "dear", "thin", "columns", "behind", "hours", "dead_letter"]
"#;

const NAMES: [&str; 13] = [
    "few",
    "volume",
    "pairs",
    "onboarding",
    "orders",
    "visits",
    "cohorts",
    "chains",
    "dear",
    "thin",
    "columns",
    "behind",
    "hours",
];

fn deployment(formats: [&str; 2]) -> String {
    let mut text = "name = \"formats\"\n".to_owned();
    for (source, format) in SOURCES.iter().zip(formats) {
        write!(
            text,
            r#"
[sources.{source}]
type = "file"
path = "{source}.jsonl"
lateness = "5s"
format = "{format}"
types = {{ "properties.price" = "double", "properties.count" = "bigint", "properties.at" = "timestamp", "properties.urgent" = "boolean" }}
schemas = {{ "order.filled" = "fill.json" }}
"#
        )
        .unwrap();
    }
    text + OPERATORS
}

/// Events as plain JSON, of all kinds: what fits its type, what does not, what violates its schema.
fn events(source: &str, chance: &mut Chance) -> Vec<Map<String, Value>> {
    let one = |options: &[Value], chance: &mut Chance| {
        options[chance.between(0, options.len() as u64) as usize].clone()
    };
    let mut events = Vec::new();
    for number in 0..150_u64 {
        let seconds = (number * 3).saturating_sub(chance.between(0, 16));
        let time = format!("2026-05-04T12:{:02}:{:02}Z", seconds / 60 % 60, seconds % 60);
        let price = one(
            &[json!(7), json!("12.5"), json!(99.25), json!(true), json!(null), json!({"a": 1})],
            chance,
        );
        let mut properties = json!({
            "count": one(&[json!(1), json!(2), json!("3"), json!(1.5), json!(u64::MAX), json!("x")], chance),
            "at": one(&[json!("2026-05-04 12:00:00"), json!(1_777_896_000), json!("soon"), json!(false)], chance),
            "urgent": one(&[json!(true), json!(false), json!("true"), json!(1)], chance),
            "symbol": one(&[json!("BTC"), json!("Ä\u{1F600}\"\\"), json!(5.0), json!([1, "\u{0}"])], chance),
        });
        if chance.between(0, 10) > 0 {
            properties["price"] = price;
        }
        let event = json!({
            "id": format!("{source}{number}"),
            "event_type": one(&[json!("order.placed"), json!("order.filled"), json!("note")], chance),
            "timestamp": if chance.between(0, 40) == 0 { json!("soon") } else { json!(time) },
            "user_id": format!("u{}", chance.between(0, 5)),
            "correlation_id": format!("c{}", chance.between(0, 20)),
            "causation_id": format!("{source}{}", number.saturating_sub(1 + chance.between(0, 3))),
            "properties": properties,
        });
        events.extend(event.as_object().cloned());
    }
    events
}

/// The same event as a CloudEvent, in one of the ways in which structured mode may write it.
fn cloud(event: &Map<String, Value>, number: usize) -> Value {
    const ATTRIBUTES: [(&str, &str); 5] = [
        ("id", "id"),
        ("event_type", "type"),
        ("timestamp", "time"),
        ("correlation_id", "correlationid"),
        ("causation_id", "causationid"),
    ];
    let mut cloud = json!({ "specversion": "1.0", "source": "/desk" });
    for (field, attribute) in ATTRIBUTES {
        cloud[attribute] = event[field].clone();
    }
    let mut data = json!({ "properties": event["properties"] });
    // An extension, or the data's own field.
    match number % 2 {
        0 => cloud["userid"] = event["user_id"].clone(),
        _ => data["user_id"] = event["user_id"].clone(),
    }
    match number % 3 {
        0 => {
            use base64::Engine;
            let encoded = base64::engine::general_purpose::STANDARD.encode(data.to_string());
            cloud["data_base64"] = encoded.into();
        }
        _ => cloud["data"] = data,
    }
    cloud
}

fn write_events(directory: &Path, formats: [&str; 2], seed: u64) {
    let mut chance = Chance::from_seed(seed);
    for (source, format) in SOURCES.iter().zip(formats) {
        let lines: Vec<String> = events(source, &mut chance)
            .iter()
            .enumerate()
            .map(|(number, event)| match format {
                "json" => Value::Object(event.clone()).to_string(),
                _ => cloud(event, number).to_string(),
            })
            .collect();
        fs::write(directory.join(format!("{source}.jsonl")), lines.join("\n")).unwrap();
    }
    let schema = r#"{"properties": {"properties": {"required": ["price"]}}}"#;
    fs::write(directory.join("fill.json"), schema).unwrap();
}

/// What comes out, without what is the message as it was written.
fn printed(lines: &str) -> Vec<Row> {
    let mut rows = parse(lines);
    for row in &mut rows {
        let kept = ["op", "operator", "source", "stream", "sequence", "reason"];
        let is_dead_letter = row["operator"] == "dead_letter";
        row.retain(|name, _| match is_dead_letter {
            true => kept.contains(&name.as_str()),
            false => name != "payload",
        });
        // A CloudEvent must have one.
        if ["dear", "thin"].iter().any(|name| row["operator"] == *name) {
            row.remove("source");
        }
    }
    rows
}

/// A test that expects these rows of everything.
fn rehearsal(rows: &[Row]) -> String {
    let mut text = "\n[[tests]]\nname = \"as it was run\"\nfinish = true\n".to_owned();
    for name in NAMES.into_iter().chain(["dead_letter"]) {
        writeln!(text, "expect.{name} = [").unwrap();
        for row in rows.iter().filter(|row| row["operator"] == name) {
            let columns: Vec<String> = row
                .iter()
                .filter(|(column, _)| !["op", "operator"].contains(&column.as_str()))
                .map(|(column, value)| format!("{column} = {}", toml(value)))
                .collect();
            writeln!(text, "    {{ {} }},", columns.join(", ")).unwrap();
        }
        writeln!(text, "]").unwrap();
    }
    for source in SOURCES {
        write!(text, "[[tests.steps]]\nsource = \"{source}\"\ninput = \"{source}.jsonl\"\n")
            .unwrap();
        writeln!(text, "restart = {}", source == "right").unwrap();
    }
    text
}

fn toml(value: &Value) -> String {
    match value {
        Value::Null => "\"NULL\"".to_owned(),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(toml).collect::<Vec<_>>().join(", "))
        }
        Value::Object(fields) => {
            let fields: Vec<String> = fields
                .iter()
                .map(|(name, value)| format!("{} = {}", json!(name), toml(value)))
                .collect();
            format!("{{ {} }}", fields.join(", "))
        }
        other => other.to_string(),
    }
}

#[test]
fn every_operator_reads_every_format_alike() {
    let seed = Chance::new().seed;
    let mut plain: Option<Vec<Row>> = None;
    for left in FORMATS {
        for right in FORMATS {
            let formats = [left, right];
            let what = format!("{formats:?}, seed {seed}");
            let directory = TempDir::new().unwrap();
            write_events(directory.path(), formats, seed);
            let ending = Deployment::new(directory.path(), &deployment(formats)).run();
            let rows = printed(&ending.stdout);
            let expected = plain.get_or_insert_with(|| {
                for name in NAMES {
                    assert!(rows.iter().any(|row| row["operator"] == name), "nothing of {name}");
                }
                for reason in ["schema", "late", "bad_timestamp"] {
                    let is_there = |row: &Row| row.get("reason") == Some(&json!(reason));
                    assert!(rows.iter().any(is_there), "nothing is {reason}, {what}");
                }
                rows.clone()
            });
            assert_same_set(&what, expected, &rows);
            let tests = deployment(formats) + &rehearsal(&rows);
            let ending = Deployment::new(directory.path(), &tests).command("test").wait();
            assert!(ending.status.success(), "{what}: {}{}", ending.stdout, ending.stderr);
        }
    }
}
