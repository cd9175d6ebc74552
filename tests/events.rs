//! What events are: CloudEvents, declared types and schemas, filters of subjects, several servers.
//! Messages are published by a client that is not ours.

mod formats;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use base64::Engine;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::nats_server::NatsServer;
use crate::support::python::python;
use crate::support::rows::{Row, of_operator, parse};
use crate::support::waterwheel::{Deployment, Ending};

/// A message as the publishing script takes it.
fn message(subject: &str, headers: Value, payload: impl Into<String>) -> Value {
    json!({ "subject": subject, "headers": headers, "payload": payload.into() })
}

fn publish(nats: &NatsServer, stream: &str, subjects: &str, directory: &Path, messages: &[Value]) {
    let file = directory.join(format!("{stream}.jsonl"));
    let lines: Vec<String> = messages.iter().map(Value::to_string).collect();
    fs::write(&file, lines.join("\n")).unwrap();
    python("publish_messages.py", &[&nats.url(), &stream, &subjects, &file]);
}

/// The values of a column by those of another.
fn column<'r>(rows: &'r [Row], key: &str, value: &str) -> BTreeMap<String, &'r Value> {
    rows.iter().map(|row| (row[key].to_string().replace('"', ""), &row[value])).collect()
}

const CLOUDEVENTS: &str = r#"
name = "cloud"

[sources.events]
type = "nats"
url = "${NATS}"
stream = "EVENTS"
until = "final"
format = "cloudevents"
types = { "data.price" = "double" }
event.session_id = "attribute:partitionkey"

[operators.volume]
type = "aggregate"
from = "events"
where = "event_type = 'order.filled' and ce.subject = 'Zürich desk'"
by = ["data.symbol", "session_id"]
windows = ["1d"]
measures.trades = "count(*)"
measures.notional = "sum(price * payload.quantity)"
measures.highest = "max(price)"
measures.traders = "count(distinct user_id)"

[sinks.out]
type = "print"
from = ["events", "volume", "dead_letter"]
"#;

#[test]
fn cloudevents_mean_the_same_in_every_mode() {
    const EVENTS: usize = 60;
    let directory = TempDir::new().unwrap();
    let nats = NatsServer::start();
    let mut messages = Vec::new();
    let mut expected: BTreeMap<&str, (u64, f64)> = BTreeMap::new();
    for number in 0..EVENTS {
        let symbol = ["BTC", "ETH", "SOL"][number % 3];
        let (id, user) = (format!("e{number}"), format!("user {}", number % 7));
        let time = format!("2026-05-04T12:00:{:02}.25Z", number % 60);
        let data = json!({ "symbol": symbol, "price": number, "quantity": 2 }).to_string();
        let attributes = json!({
            "specversion": "1.0", "id": id, "type": "order.filled", "source": "/desk", "time": time,
            "userid": user, "subject": "Zürich desk", "partitionkey": "p1",
        });
        let with = |member: &str, data: Value| {
            let mut event = attributes.clone();
            event[member] = data;
            event.to_string()
        };
        let structured = json!({ "content-type": "application/cloudevents+json" });
        let encoded = base64::engine::general_purpose::STANDARD.encode(&data);
        messages.push(match number / 3 % 4 {
            0 => {
                let header = |name: &str| attributes[name].as_str().unwrap().to_owned();
                let headers = json!({
                    "ce-specversion": "1.0", "ce-id": id, "ce-type": "order.filled",
                    "ce-source": header("source"), "ce-time": time, "ce-partitionkey": "p1",
                    "ce-userid": header("userid").replace(' ', "%20"),
                    "ce-subject": "Z%C3%BCrich%20desk", "ce-datacontenttype": "application/json",
                });
                message("cloud.a", headers, data)
            }
            1 => message("cloud.b", structured, with("data", serde_json::from_str(&data).unwrap())),
            2 => message("cloud.c", json!({}), with("data", serde_json::from_str(&data).unwrap())),
            _ => message("cloud.d", structured, with("data_base64", encoded.into())),
        });
        let (trades, notional) = expected.entry(symbol).or_default();
        *trades += 1;
        *notional += 2.0 * number as f64;
    }
    let batch = json!({ "content-type": "application/cloudevents-batch+json" });
    messages.push(message("cloud.e", batch, "[]"));
    messages.push(message("cloud.e", json!({}), r#"{"event_type":"order.filled"}"#));
    messages.push(message("cloud.e", json!({ "ce-id": "x", "ce-specversion": "1.0" }), "no json"));
    publish(&nats, "EVENTS", "cloud.>", directory.path(), &messages);

    let ending = Deployment::new(directory.path(), CLOUDEVENTS).set("NATS", nats.url()).run();
    let printed = parse(&ending.stdout);
    let volume = of_operator(&printed, "volume");
    assert_eq!(volume.len(), expected.len(), "{volume:?}");
    for row in &volume {
        let symbol = row["symbol"].as_str().unwrap();
        let (trades, notional) = expected[symbol];
        assert_eq!((&row["trades"], row["notional"].as_f64()), (&json!(trades), Some(notional)));
        assert_eq!((&row["session_id"], &row["traders"]), (&json!("p1"), &json!(7)), "{row:?}");
    }
    let raw = of_operator(&printed, "events");
    let ids = column(&raw, "id", "payload");
    assert_eq!(ids.len(), EVENTS);
    for number in 0..EVENTS {
        assert_eq!(ids[&format!("e{number}")]["price"], json!(number), "the payload is the data");
    }
    let letters = of_operator(&printed, "dead_letter");
    let reasons = column(&letters, "sequence", "reason");
    let expected = [("61", "not_cloudevent"), ("62", "not_cloudevent"), ("63", "not_json")];
    assert_eq!(reasons.len(), expected.len(), "{letters:?}");
    for (sequence, reason) in expected {
        assert_eq!(reasons[sequence], reason);
    }
}

const SCHEMAS: &str = r#"
name = "signals"

[sources.events]
type = "nats"
url = "${NATS}"
stream = "EVENTS"
until = "final"
schemas = { "custom.trading.signal" = "schemas/signal.schema.json" }
types = { "properties.strength" = "double", "properties.count" = "bigint" }

[operators.signals]
type = "aggregate"
from = "events"
by = ["event_type", "properties.count"]
windows = ["1d"]
measures.n = "count(*)"
measures.strongest = "max(properties.strength)"

[sinks.out]
type = "print"
from = ["signals", "dead_letter"]
"#;

#[test]
fn events_that_violate_their_schema_are_dead_letters() {
    let directory = TempDir::new().unwrap();
    let nats = NatsServer::start();
    let event = |event_type: &str, properties: Value| {
        let event = json!({
            "event_type": event_type, "timestamp": "2026-05-04T12:00:00Z", "properties": properties,
        });
        message("events.signal", json!({}), event.to_string())
    };
    const SIGNAL: &str = "custom.trading.signal";
    let messages = [
        event(SIGNAL, json!({ "strength": 0.5, "count": 1 })),
        event(SIGNAL, json!({ "strength": "strong", "count": 1 })),
        event("order.filled", json!({ "strength": "strong", "count": 1.5 })),
        event(SIGNAL, json!({ "count": 1 })),
        event(SIGNAL, json!({ "strength": 0.75, "count": 1 })),
    ];
    publish(&nats, "EVENTS", "events.>", directory.path(), &messages);
    let folder = directory.path().join("deployment");
    fs::create_dir_all(folder.join("schemas")).unwrap();
    let schema = json!({ "properties": { "properties": {
        "required": ["strength"], "properties": { "strength": { "type": "number" } },
    } } });
    fs::write(folder.join("schemas/signal.schema.json"), schema.to_string()).unwrap();

    let ending = Deployment::new(&folder, SCHEMAS).set("NATS", nats.url()).run();
    let printed = parse(&ending.stdout);
    let letters = of_operator(&printed, "dead_letter");
    let details = column(&letters, "sequence", "detail");
    assert_eq!(details.len(), 2, "{letters:?}");
    assert!(letters.iter().all(|letter| letter["reason"] == "schema"), "{letters:?}");
    let detail = |sequence: &str| details[sequence].as_str().unwrap();
    assert!(detail("2").starts_with("/properties/strength: "), "{}", detail("2"));
    assert!(detail("4").starts_with("/properties: \"strength\" is a required"), "{}", detail("4"));
    let signals: Vec<Value> = of_operator(&printed, "signals")
        .iter()
        .map(|row| json!([row["event_type"], row["count"], row["n"], row["strongest"]]))
        .collect();
    assert_eq!(signals.len(), 2, "{signals:?}");
    assert!(signals.contains(&json!([SIGNAL, 1, 2, 0.75])), "{signals:?}");
    // What does not fit the type of its path is NULL.
    assert!(signals.contains(&json!(["order.filled", null, 1, null])), "{signals:?}");

    // A schema that is no schema is found before anything runs.
    fs::write(folder.join("schemas/signal.schema.json"), "{\"type\": \"numbr\"}").unwrap();
    let Ending { status, stderr, .. } =
        Deployment::new(&folder, SCHEMAS).set("NATS", nats.url()).command("check").wait();
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("`schemas/signal.schema.json` is no JSON Schema: /type: "), "{stderr}");
}

const SERVERS: &str = r#"
name = "servers"

[sources.orders]
type = "nats"
url = "${ONE}"
stream = "ORDERS"
subjects = ["orders.*.filled", "orders.eu.cancelled.>"]
until = "final"

[sources.signals]
type = "nats"
url = "${OTHER}"
stream = "SIGNALS"
subjects = ["signals.*.>"]
until = "final"

[operators.both]
type = "aggregate"
from = ["orders", "signals"]
by = ["subject", "stream"]
windows = ["1d"]
measures.n = "count(*)"

[operators.pairs]
type = "join"
left = { from = "signals" }
right = { from = "orders", where = "subject like 'orders.%.filled'" }
on = "correlation_id"
within = "30s"
select.subject = "right.subject"

[sinks.out]
type = "print"
from = ["both", "pairs"]
"#;

/// Filters with wildcards, and one pipeline over streams of two servers.
#[test]
fn streams_of_two_servers_meet_in_one_pipeline() {
    let directory = TempDir::new().unwrap();
    let (one, other) = (NatsServer::start(), NatsServer::start());
    let event = |subject: &str, id: u64, second: u64| {
        let event = json!({
            "timestamp": format!("2026-05-04T12:00:{second:02}Z"), "correlation_id": format!("c{id}"),
        });
        message(subject, json!({}), event.to_string())
    };
    let mut orders = Vec::new();
    let mut signals = Vec::new();
    for id in 0..20 {
        signals.push(event("signals.momentum.btc.long", id, id));
        signals.push(event("signals.heartbeat", id, id));
        orders.push(event("orders.us.filled", id, id + 5));
        orders.push(event("orders.us.placed", id, id + 5));
        orders.push(event("orders.eu.cancelled.late", id, id + 5));
    }
    publish(&one, "ORDERS", "orders.>", directory.path(), &orders);
    publish(&other, "SIGNALS", "signals.>", directory.path(), &signals);
    let deployment =
        Deployment::new(directory.path(), SERVERS).set("ONE", one.url()).set("OTHER", other.url());
    let printed = parse(&deployment.run().stdout);
    let both: BTreeMap<String, u64> = of_operator(&printed, "both")
        .iter()
        .map(|row| {
            let name =
                format!("{} {}", row["stream"].as_str().unwrap(), row["subject"].as_str().unwrap());
            (name, row["n"].as_u64().unwrap())
        })
        .collect();
    let expected = [
        ("ORDERS orders.eu.cancelled.late", 20),
        ("ORDERS orders.us.filled", 20),
        ("SIGNALS signals.momentum.btc.long", 20),
    ];
    assert_eq!(both, expected.map(|(name, n)| (name.to_owned(), n)).into());
    let pairs = of_operator(&printed, "pairs");
    assert_eq!(pairs.len(), 20, "{pairs:?}");
    assert!(pairs.iter().all(|pair| pair["subject"] == "orders.us.filled"), "{pairs:?}");
    let keys = column(&pairs, "left_key", "right_key");
    assert_eq!((keys.len(), keys["SIGNALS:1"]), (20, &json!("ORDERS:1")));
}
