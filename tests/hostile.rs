//! Whatever a publisher sends reaches every sink once, as an event or as a dead letter, and nothing
//! of it is taken for more than data.

mod corpus;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::stream::Config;
use futures::StreamExt;
use serde_json::{Value, json};
use tempfile::TempDir;

use self::corpus::{Fate, Message, corpus};
use crate::support::nats_server::NatsServer;
use crate::support::postgres::Postgres;
use crate::support::python::python;
use crate::support::rounds;
use crate::support::rounds::Chance;
use crate::support::rows::{Row, of_operator, parse};
use crate::support::say;
use crate::support::stream::{block_on, connect, create};
use crate::support::waterwheel::Deployment;

const PIPELINE: &str = r#"
name = "hostile"

[sources.events]
type = "nats"
url = "${NATS}"
stream = "EVENTS"
start = "first"
until = "final"
lateness = "1d"

[operators.volume]
type = "aggregate"
from = "events"
where = "properties.quantity is not null"
by = ["properties.symbol"]
windows = ["1mo"]
measures.events = "count(*)"
measures.quantity = "sum(properties.quantity)"
measures.largest = "max(properties.quantity)"

[operators.pairs]
type = "join"
left = { from = "events", where = "event_type = 'left'" }
right = { from = "events" }
on = "correlation_id"
within = "1h"

[sinks.warehouse]
type = "postgres"
from = ["events", "dead_letter", "volume", "pairs"]
url = "${DATABASE}"

[sinks.lake]
type = "parquet"
from = ["events"]
path = "lake"
partition = ["date", "event_type"]

[sinks.groups]
type = "parquet"
from = ["volume"]
path = "lake"
partition = ["symbol"]

[sinks.letters]
type = "parquet"
from = ["dead_letter", "pairs"]
path = "lake"

[sinks.results]
type = "nats"
from = ["volume"]
url = "${NATS}"
subject = "results.{operator}.{symbol}"

[sinks.raw]
type = "nats"
from = ["events"]
url = "${NATS}"
subject = "raw.{operator}.{event_type}.{id}"

[sinks.dead]
type = "nats"
from = ["dead_letter"]
url = "${NATS}"
subject = "dead.{reason}.{subject}"

[sinks.out]
type = "print"
from = ["events", "dead_letter", "volume", "pairs"]
"#;

/// Texts of indexed columns over this are NULL in Postgres.
const INDEXED_BYTES_MAX: usize = 1_024;

#[test]
fn hostile_messages_are_accounted_for_in_every_sink() {
    let mut chance = Chance::new();
    let seed = chance.seed;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64 - 60;
    let messages = with_good(corpus(now, rounds(200, 10_000), &mut chance), now);
    let hostile = messages.iter().filter(|message| message.category != GOOD).count();
    println!("hostile: {hostile} messages, seed {seed}");
    assert!(hostile >= 300);

    let directory = TempDir::new().unwrap();
    let nats = NatsServer::start_with("max_payload: 16MB");
    let postgres = Postgres::start(&directory.path().join("postgres")).unwrap();
    block_on(async {
        let context = connect(&nats.url()).await;
        create(&context, "EVENTS", "events").await;
        create_outputs(&context).await;
        publish_all(&context, &messages).await;
    });
    let run = directory.path().join("run");
    let ending = Deployment::new(&run, PIPELINE)
        .set("NATS", nats.url())
        .set("DATABASE", postgres.url())
        .run();

    let printed = parse(&ending.stdout);
    let fates = fates(&printed);
    let counts = judge(&messages, &fates);
    closing_numbers_add_up(&ending.stderr, messages.len());
    good_events_are_counted(&messages, &printed);
    let warehouse = postgres_agrees(&postgres, &printed);
    let files = lake_agrees(&run, &printed);
    let published = block_on(async { nats_agrees(&connect(&nats.url()).await, &printed).await });
    let categories: BTreeSet<&str> = messages.iter().map(|message| message.category).collect();
    say!(
        "hostile: {hostile} messages of {} categories: {} events, {} dead letters, {} late; \
         {warehouse} rows in postgres, {files} parquet files, {published} messages out, seed {seed}",
        categories.len() - 1,
        counts.0,
        counts.1,
        counts.2,
    );
}

const GOOD: &str = "good";

/// A good event after every eighth message and after the last: nothing stops what follows.
fn with_good(corpus: Vec<Message>, now: i64) -> Vec<Message> {
    let mut messages = Vec::new();
    let last = corpus.len() - 1;
    for (at, message) in corpus.into_iter().enumerate() {
        messages.push(message);
        if at % 8 == 0 || at == last {
            let payload = format!(
                r#"{{"timestamp":{now},"event_type":"good","properties":{{"symbol":"GOOD","quantity":1}}}}"#
            );
            let (subject, payload) = ("events.good".to_owned(), payload.into_bytes());
            messages.push(Message { category: GOOD, subject, payload, fate: Fate::Event });
        }
    }
    messages
}

/// The stream of the results: subjects of one more token than data could make it stay out of it,
/// so that the server would refuse them.
async fn create_outputs(context: &Context) {
    let config = Config {
        name: "OUT".to_owned(),
        subjects: ["results.*.*", "raw.*.*.*", "dead.*.*", "waterwheel.progress.hostile.*"]
            .map(str::to_owned)
            .to_vec(),
        allow_atomic_publish: true,
        ..Config::default()
    };
    context.create_stream(config).await.unwrap();
}

async fn publish_all(context: &Context, messages: &[Message]) {
    for (at, message) in messages.iter().enumerate() {
        let (subject, payload) = (message.subject.clone(), message.payload.clone().into());
        let stored = context.publish(subject, payload).await.unwrap().await;
        let sequence = stored.unwrap_or_else(|error| panic!("{}: {error}", message.subject));
        assert_eq!(sequence.sequence, at as u64 + 1, "every message is in the stream");
    }
}

/// What became of each message by its sequence: whether it is a raw row and whether that is late,
/// and why it is a dead letter.
type Fates = BTreeMap<u64, (Option<bool>, Option<String>)>;

fn fates(printed: &[Row]) -> Fates {
    let mut fates = Fates::new();
    for row in of_operator(printed, "events") {
        let entry = fates.entry(number(&row, "sequence")).or_default();
        assert_eq!(entry.0.replace(row["late"] == true), None, "a raw row twice: {row:?}");
    }
    for row in of_operator(printed, "dead_letter") {
        let entry = fates.entry(number(&row, "sequence")).or_default();
        assert_eq!(entry.1.replace(text(&row, "reason")), None, "a dead letter twice: {row:?}");
    }
    fates
}

/// Panics unless every message met its fate; how many are accepted, dead-lettered, and late of these.
fn judge(messages: &[Message], fates: &Fates) -> (usize, usize, usize) {
    let mut wrong = Vec::new();
    let (mut accepted, mut dead, mut late) = (0, 0, 0);
    for (sequence, message) in (1..).zip(messages) {
        let (is_late, reason) = fates.get(&sequence).cloned().unwrap_or_default();
        let as_fated = match message.fate {
            Fate::Event => is_late == Some(false) && reason.is_none(),
            Fate::Late => is_late == Some(true) && reason.as_deref() == Some("late"),
            Fate::Dead(expected) => is_late.is_none() && reason.as_deref() == Some(expected),
            Fate::Either => is_late.is_some() != reason.is_some(),
        };
        if !as_fated {
            let start = message.payload.get(..200).unwrap_or(&message.payload);
            let (category, fate) = (message.category, message.fate);
            let payload = String::from_utf8_lossy(start).into_owned();
            wrong.push(format!(
                "{sequence} ({category}): {fate:?} was due; raw, late: {is_late:?}; dead: {reason:?}: {payload}"
            ));
        }
        accepted += usize::from(is_late == Some(false));
        dead += usize::from(reason.is_some());
        late += usize::from(is_late == Some(true));
    }
    assert!(wrong.is_empty(), "{} messages\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(accepted + dead, messages.len(), "accepted + dead-lettered = read");
    (accepted, dead, late)
}

/// The last line of the log has the same sum.
fn closing_numbers_add_up(stderr: &str, messages: usize) {
    let mut lines = stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let closing = lines.rfind(|line| line["message"] == "stopped").expect("a closing line");
    let number = |name: &str| closing[name].as_u64().unwrap_or_else(|| panic!("{name}: {closing}"));
    assert_eq!(number("messages"), messages as u64);
    assert_eq!(number("accepted") + number("dead_letters"), messages as u64, "{closing}");
}

fn good_events_are_counted(messages: &[Message], printed: &[Row]) {
    let good = messages.iter().filter(|message| message.category == GOOD).count();
    let volume = of_operator(printed, "volume");
    let counted: u64 =
        volume.iter().filter(|row| row["symbol"] == "GOOD").map(|row| number(row, "events")).sum();
    assert_eq!(counted, good as u64, "good events, up to the last message");
}

/// Panics unless the tables hold what was printed, and nothing else is in the database; how many
/// rows there are.
fn postgres_agrees(postgres: &Postgres, printed: &[Row]) -> usize {
    let tables = postgres
        .query(
            "select string_agg(table_schema || '.' || table_name, ' ' order by 1) from \
             information_schema.tables where table_type = 'BASE TABLE' and table_schema not in \
             ('pg_catalog', 'information_schema')",
        )
        .unwrap();
    let expected =
        "public.dead_letter public.events public.pairs public.volume waterwheel.progress";
    let sorted: BTreeSet<&str> = tables.split_whitespace().collect();
    assert_eq!(sorted, expected.split(' ').collect());
    let mut count = 0;
    for operator in ["events", "dead_letter", "volume", "pairs"] {
        let sql = format!("select row_to_json(t) from {operator} t");
        let text = postgres.query(&sql).unwrap();
        // Only there are payloads JSON for Postgres.
        let is_json = operator == "events";
        let held = parse(&if is_json { short_integers(&text) } else { text });
        let mut due = of_operator(printed, operator);
        for row in &mut due {
            for column in ["event_type", "user_id", "correlation_id"] {
                let is_long =
                    |it: &Value| it.as_str().is_some_and(|it| it.len() > INDEXED_BYTES_MAX);
                if operator == "events" && row.get(column).is_some_and(is_long) {
                    row.insert(column.to_owned(), Value::Null);
                }
            }
        }
        count += held.len();
        same_rows(&format!("{operator} in postgres"), &due, &held);
    }
    count
}

/// Postgres writes 1e308 with all its digits, which the JSON reader of these tests refuses: long
/// integers as their doubles.
fn short_integers(text: &str) -> String {
    let mut short = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(|character: char| character.is_ascii_digit()) {
        let (before, from) = rest.split_at(start);
        let length = from.bytes().take_while(u8::is_ascii_digit).count();
        let (digits, after) = from.split_at(length);
        short.push_str(before);
        let is_integer = !before.ends_with('.') && !after.starts_with(['.', 'e', 'E', '"']);
        match digits.parse::<f64>() {
            Ok(double) if length > 300 && is_integer && double.is_finite() => {
                short.push_str(&format!("{double:e}"))
            }
            _ => short.push_str(digits),
        }
        rest = after;
    }
    short + rest
}

/// Panics unless DuckDB reads what was printed from the lake, and every file lies where it should;
/// how many there are.
fn lake_agrees(run: &Path, printed: &[Row]) -> usize {
    let lake = parse(&python("read_lake.py", &[&run.join("lake")]));
    for operator in ["events", "dead_letter", "volume", "pairs"] {
        let what = format!("{operator} in the lake");
        same_rows(&what, &of_operator(printed, operator), &of_operator(&lake, operator));
    }
    // What a reader gets who says nothing about directories.
    python("count_lake.py", &[&run.join("lake")]);

    let mut files = Vec::new();
    files_below(run, &mut files);
    let is_plain = |part: &str| {
        part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-=%.".contains(&byte))
    };
    let mut count = 0;
    for file in files {
        let path = file.strip_prefix(run).unwrap().to_str().expect("names are ASCII").to_owned();
        if path == "pipeline.toml" || path.starts_with("lake/_waterwheel/hostile.") {
            continue;
        }
        let parts: Vec<&str> = path.split('/').collect();
        let levels = match (parts[0], parts[1]) {
            ("lake", "events") => vec!["date=", "event_type="],
            ("lake", "dead_letter" | "pairs") => vec!["date="],
            ("lake", "volume") => vec!["symbol="],
            _ => panic!("`{path}` is a file of nobody"),
        };
        let directories = &parts[2..parts.len() - 1];
        assert_eq!(directories.len(), levels.len(), "{path}");
        let is_level = |(part, level): (&&str, &&str)| part.starts_with(level) && part.len() <= 200;
        assert!(directories.iter().zip(&levels).all(is_level), "{path}");
        assert!(!directories.iter().any(|part| part.contains('.')), "{path}");
        assert!(parts.iter().all(|part| is_plain(part)), "{path}");
        count += 1;
    }
    count
}

/// Panics unless every row came out on a subject of its own tokens; how many messages there are.
async fn nats_agrees(context: &Context, printed: &[Row]) -> usize {
    let stream = context.get_stream("OUT").await.unwrap();
    let config = pull::OrderedConfig::default();
    let consumer = stream.create_consumer(config).await.unwrap();
    let waiting = stream.cached_info().state.messages;
    let mut messages = consumer.messages().await.unwrap();
    let mut held: BTreeMap<&str, Vec<Row>> = BTreeMap::new();
    for _ in 0..waiting {
        let message = messages.next().await.unwrap().unwrap();
        let tokens: Vec<&str> = message.subject.split('.').collect();
        if tokens[0] == "waterwheel" {
            continue;
        }
        let is_plain = |token: &str| {
            !token.is_empty()
                && token.len() <= 160
                && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-%~".contains(&byte))
        };
        assert!(tokens.iter().all(|token| is_plain(token)), "{}", message.subject);
        let mut row: Row = serde_json::from_slice(&message.payload).expect("a JSON object");
        assert_eq!(row.remove("op"), Some(json!("upsert")));
        let operator = match (tokens[0], tokens.len()) {
            ("results", 3) => "volume",
            ("raw", 4) => "events",
            ("dead", 3) => "dead_letter",
            _ => panic!("nobody publishes on {}", message.subject),
        };
        held.entry(operator).or_default().push(row);
    }
    for operator in ["events", "dead_letter"] {
        let due = of_operator(printed, operator);
        same_rows(&format!("{operator} on nats"), &due, &held[operator]);
    }
    let groups: BTreeSet<String> = held["volume"].iter().map(|row| text(row, "symbol")).collect();
    let due = of_operator(printed, "volume");
    assert_eq!(groups, due.iter().map(|row| text(row, "symbol")).collect());
    held.values().map(Vec::len).sum()
}

/// Panics unless both hold the same rows, in any order. JSON is compared by its value and numbers
/// in it as far as all readers hold them; other columns are compared as they are.
fn same_rows(what: &str, due: &[Row], held: &[Row]) {
    let mut left: BTreeMap<String, i64> = BTreeMap::new();
    due.iter().for_each(|row| *left.entry(spelled(row)).or_default() += 1);
    held.iter().for_each(|row| *left.entry(spelled(row)).or_default() -= 1);
    let short = |line: &str| line.chars().take(1_000).collect::<String>();
    let name = |count: i64| if count > 0 { "missing" } else { "unexpected" };
    let wrong = left.iter().filter(|(_, count)| **count != 0);
    let wrong: Vec<String> =
        wrong.map(|(line, count)| format!("{}: {}", name(*count), short(line))).take(10).collect();
    assert!(wrong.is_empty(), "{what}:\n{}", wrong.join("\n"));
}

/// A row in one spelling: readers differ in how they write numbers, times and JSON.
fn spelled(row: &Row) -> String {
    let parts: BTreeMap<&str, String> = row
        .iter()
        .map(|(name, value)| {
            let json = match value {
                Value::String(text) if name == "payload" => serde_json::from_str(text).ok(),
                _ => None,
            };
            (name.as_str(), plain(json.as_ref().unwrap_or(value)))
        })
        .collect();
    let parts: Vec<String> =
        parts.into_iter().map(|(name, text)| format!("{name}={text}")).collect();
    parts.join(" ")
}

fn plain(value: &Value) -> String {
    match value {
        Value::Number(number) => match number.as_f64().unwrap() {
            tiny if tiny.abs() < 1e-300 => "0".to_owned(),
            double => format!("{double:.13e}"),
        },
        Value::String(text) => {
            // Instants are `Z` or `+00:00`, with and without trailing zeros.
            let bare = text.strip_suffix('Z').or_else(|| text.strip_suffix("+00:00"));
            let is_time = text.len() >= 20 && text.as_bytes()[10] == b'T';
            match bare.filter(|_| is_time) {
                Some(bare) if bare.contains('.') => {
                    bare.trim_end_matches('0').trim_end_matches('.').to_owned()
                }
                Some(bare) => bare.to_owned(),
                None => text.clone(),
            }
        }
        Value::Array(list) => {
            format!("[{}]", list.iter().map(plain).collect::<Vec<_>>().join(","))
        }
        Value::Object(object) => {
            let parts = object.iter().map(|(name, value)| format!("{name:?}:{}", plain(value)));
            let sorted: BTreeSet<String> = parts.collect();
            format!("{{{}}}", sorted.into_iter().collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    }
}

fn files_below(directory: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, found);
        } else {
            found.push(path);
        }
    }
}

fn text(row: &Row, column: &str) -> String {
    row[column].as_str().unwrap_or_default().to_owned()
}

fn number(row: &Row, column: &str) -> u64 {
    row[column].as_u64().unwrap_or_else(|| panic!("{column} of {row:?}"))
}
