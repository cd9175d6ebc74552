//! What no good client sends: subjects and headers that are not UTF-8 or not in order, and status
//! lines, straight on the wire.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::pull;
use futures::StreamExt;
use serde_json::Value;
use tempfile::TempDir;

use super::{closing_numbers_add_up, fates};
use crate::support::nats_server::NatsServer;
use crate::support::rows::parse;
use crate::support::say;
use crate::support::stream::{block_on, connect, create, publish};
use crate::support::waterwheel::Deployment;

const PIPELINE: &str = r#"
name = "${NAME:-wire}"

[sources.events]
type = "nats"
url = "${NATS}"
stream = "EVENTS"
start = "first"
until = "final"
lateness = "1d"

[sinks.raw]
type = "nats"
from = ["events", "dead_letter"]
url = "${NATS}"
subject = "raw.${NAME:-wire}.{operator}.{subject}"

[sinks.out]
type = "print"
from = ["events", "dead_letter"]
"#;

/// Headers as they stand on the wire, after the line of their version.
const HEADERS: [&[u8]; 28] = [
    b"",
    b"A: 1\r\n",
    b"A:1\r\nA:2\r\na:3\r\n",
    b"A:\r\n",
    b"A: \t x \t\r\n",
    b"A: b: c\r\n",
    b"A: \xc3\xa9\r\n",
    b"A: \xff\r\n",
    b"\xff: 1\r\n",
    b"A: x\x00y\r\n",
    b"A: \x1b[31m\r\n",
    b"A b: 1\r\n",
    b" A: 1\r\n",
    b"A : 1\r\n",
    b": 1\r\n",
    b":\r\n",
    b"no colon\r\n",
    b"A: 1\r\n folded\r\n",
    b"A: 1\n",
    b"A: 1\nB: 2\r\n",
    b"Nats-Msg-Id: '; drop table events; --\r\n",
    b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n",
    b"traceparent: x\ty\r\n",
    b"traceparent: \xc3\xa9\r\n",
    b"traceparent: x\ny\r\n",
    b"traceparent: \x00\r\n",
    b"Waterwheel-Epoch: 7\r\n",
    b"Status: 503\r\n",
];

const STATUS_LINES: [&[u8]; 6] = [
    b"NATS/1.0 503\r\n",
    b"NATS/1.0 100 Idle Heartbeat\r\n",
    b"NATS/1.0 409 Consumer Deleted\r\n",
    b"NATS/1.0 408\r\n",
    b"NATS/1.0 999999\r\n",
    b"NATS/1.0 x\r\n",
];

const SUBJECTS: [&[u8]; 6] = [
    b"events.\xff",
    b"events.\xc3\xa9",
    b"events.\xc0\xaf",
    b"events.x\x00y",
    b"events.\x1b[31m",
    b"events.\xed\xa0\x80",
];

/// What stands before the start of a source that reads several subjects.
const FILTERED: &str = "subjects = [\"events.*\", \"events.*.>\"]\nstart";

/// On these the client library panics.
const PANICKING: [&[u8]; 3] =
    [b"A: 1\rB: 2\r\n", b"traceparent: x\ry\r\n", b"A: 1\r\nA: \r2\r\nB: 3\r\n"];

/// So many of one kind, as a publisher sends that always gets it wrong.
const MANY: usize = 1_500;

#[test]
fn messages_that_break_the_rules_of_the_protocol_stop_nothing() {
    let directory = TempDir::new().unwrap();
    let nats = served();
    let mut wire = Wire::connect(&nats.url());
    let headers = HEADERS.iter().map(|lines| [b"NATS/1.0\r\n", *lines, b"\r\n"].concat());
    let statuses = STATUS_LINES.iter().map(|line| [*line, b"\r\n"].concat());
    let mut stored = 0;
    for head in headers.chain(statuses) {
        stored += u64::from(wire.publish(b"events.x", Some(&head)));
        stored += u64::from(wire.publish(b"events.good", None));
    }
    for subject in SUBJECTS {
        stored += u64::from(wire.publish(subject, None));
        stored += u64::from(wire.publish(b"events.good", None));
    }
    let sent = HEADERS.len() + STATUS_LINES.len() + SUBJECTS.len();
    let mut several = String::new();
    for (what, subjects) in [("all", "start"), ("some", FILTERED)] {
        let pipeline = PIPELINE.replacen("start", subjects, 1);
        let ending = Deployment::new(&directory.path().join(what), &pipeline)
            .set("NATS", nats.url())
            .set("NAME", what)
            .start()
            .wait();
        assert_eq!(ending.status.code(), Some(0), "{}", ending.stderr);
        let fates = fates(&parse(&ending.stdout));
        assert!(fates.keys().copied().eq(1..=stored), "every message once: {}", ending.stderr);
        closing_numbers_add_up(&ending.stderr, stored as usize);
        let reasons = fates.values().filter_map(|(_, reason)| reason.as_deref());
        let reasons: Vec<&str> = reasons.collect();
        assert_eq!(reasons, ["not_utf8"; 5], "where bytes are no text");
        let told = ending.stderr.matches("breaks the rules of the protocol").count();
        assert_eq!(told, 1, "told once: {}", ending.stderr);
        assert!(several.is_empty() || several == format!("{fates:?}"), "the same with a filter");
        several = format!("{fates:?}");
    }
    say!(
        "hostile: {sent} messages against the protocol, {stored} stored with good ones, 5 dead letters"
    );
}

#[test]
fn many_messages_that_break_the_rules_of_the_protocol_are_read_at_a_pace() {
    let directory = TempDir::new().unwrap();
    let nats = served();
    let mut wire = Wire::connect(&nats.url());
    let head = b"NATS/1.0\r\nauthor: Ren\xe9\r\n\r\n";
    for _ in 0..MANY {
        assert!(wire.publish(b"events.x", Some(head)));
    }
    let started = Instant::now();
    let ending = Deployment::new(&directory.path().join("run"), PIPELINE)
        .set("NATS", nats.url())
        .start()
        .wait();
    let took = started.elapsed();
    assert_eq!(ending.status.code(), Some(0), "{}", ending.stderr);
    let fates = fates(&parse(&ending.stdout));
    assert!(fates.keys().copied().eq(1..=MANY as u64), "every message once");
    assert!(took < Duration::from_secs(20), "{took:?}");
    say!("hostile: {MANY} messages that the client does not read in {took:?}");
}

/// What a supervisor does: it starts the process again.
#[test]
fn a_message_on_which_the_client_panics_is_passed_by_the_next_process() {
    let directory = TempDir::new().unwrap();
    let nats = served();
    let mut wire = Wire::connect(&nats.url());
    let mut stored = 0;
    for lines in PANICKING {
        for _ in 0..40 {
            assert!(wire.publish(b"events.good", None));
        }
        let head = [b"NATS/1.0\r\n", lines, b"\r\n"].concat();
        assert!(wire.publish(b"events.x", Some(&head)));
        stored += 41;
    }
    let pipeline = format!("{PIPELINE}\n[engine]\ncheckpoint = {{ path = \"state\" }}\n");
    let deployment = Deployment::new(&directory.path().join("run"), &pipeline);
    let deployment = deployment.set("NATS", nats.url());
    let first = deployment.start().wait();
    assert_eq!(first.status.code(), None, "ended by a signal: {}", first.stderr);
    let second = deployment.start().wait();
    assert_eq!(second.status.code(), Some(0), "{}", second.stderr);
    assert!(second.stderr.contains("message by message"), "{}", second.stderr);
    let mut published = block_on(async { published(&connect(&nats.url()).await).await });
    published.sort_unstable();
    assert!(published.iter().copied().eq(1..=stored), "every message once: {published:?}");
    say!("hostile: {} messages on which the client panics passed over", PANICKING.len());
}

/// An event of the largest size makes a row that is larger, and a text may stand in two columns.
#[test]
fn rows_that_no_message_can_hold_come_without_their_longest_columns() {
    let directory = TempDir::new().unwrap();
    let nats = served();
    let pad = |head: &str, tail: &str| {
        format!("{head}{}{tail}", "x".repeat((1 << 20) - head.len() - tail.len())).into_bytes()
    };
    let payloads = [
        format!(r#"{{"id":"{}"}}"#, "x".repeat(600_000)).into_bytes(),
        pad(r#"{"id":""#, r#""}"#),
        pad(r#"{"note":""#, r#""}"#),
        b"{}".to_vec(),
    ];
    let count = payloads.len() as u64;
    block_on(async {
        publish(&connect(&nats.url()).await, "events.x", payloads).await;
    });
    let ending = Deployment::new(&directory.path().join("run"), PIPELINE)
        .set("NATS", nats.url())
        .start()
        .wait();
    assert_eq!(ending.status.code(), Some(0), "{:.2000}", ending.stderr);
    let mut published = block_on(async { published(&connect(&nats.url()).await).await });
    published.sort_unstable();
    assert!(published.iter().copied().eq(1..=count), "every event once: {published:?}");
}

/// A server with the stream, and one for the results.
fn served() -> NatsServer {
    let nats = NatsServer::start();
    block_on(async {
        let context = connect(&nats.url()).await;
        create(&context, "EVENTS", "events").await;
        create(&context, "OUT", "raw").await;
        let mut stream = context.get_stream("OUT").await.unwrap();
        let mut config = stream.info().await.unwrap().config.clone();
        config.subjects.push("waterwheel.progress.>".to_owned());
        config.allow_atomic_publish = true;
        context.update_stream(config).await.unwrap();
    });
    nats
}

/// The sequences of the rows that came out.
async fn published(context: &Context) -> Vec<u64> {
    let stream = context.get_stream("OUT").await.unwrap();
    let filter_subject = "raw.>".to_owned();
    let config = pull::OrderedConfig { filter_subject, ..Default::default() };
    let consumer = stream.create_consumer(config).await.unwrap();
    let waiting = consumer.cached_info().num_pending;
    let mut messages = consumer.messages().await.unwrap();
    let mut sequences = Vec::new();
    for _ in 0..waiting {
        let message = messages.next().await.unwrap().unwrap();
        let row: Value = serde_json::from_slice(&message.payload).unwrap();
        sequences.push(row["sequence"].as_u64().unwrap());
    }
    sequences
}

/// A connection on which anything can be said.
struct Wire {
    stream: TcpStream,
    heard: Vec<u8>,
}

impl Wire {
    fn connect(url: &str) -> Self {
        let stream = TcpStream::connect(url.trim_start_matches("nats://")).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let mut wire = Self { stream, heard: Vec::new() };
        let hello = r#"CONNECT {"verbose":false,"pedantic":false,"headers":true}"#;
        wire.say(format!("{hello}\r\nSUB wire.acks 1\r\n").as_bytes());
        wire
    }

    fn say(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Publishes `{}`; false if the server does not store it.
    fn publish(&mut self, subject: &[u8], head: Option<&[u8]>) -> bool {
        let line = match head {
            None => [b"PUB ", subject, b" wire.acks 2\r\n{}\r\n"].concat(),
            Some(head) => {
                let sizes = format!(" wire.acks {} {}\r\n", head.len(), head.len() + 2);
                [b"HPUB ", subject, sizes.as_bytes(), head, b"{}\r\n"].concat()
            }
        };
        self.say(&line);
        let started = Instant::now();
        let before = self.heard.len();
        let mut chunk = [0; 4_096];
        loop {
            let length = self.stream.read(&mut chunk).unwrap_or(0);
            self.heard.extend(&chunk[..length]);
            let news = String::from_utf8_lossy(&self.heard[before..]).into_owned();
            if news.contains("\"seq\":") {
                return true;
            }
            let is_refused = news.contains("-ERR") || news.contains("\"error\"");
            if is_refused || started.elapsed() > Duration::from_secs(2) {
                return false;
            }
        }
    }
}
