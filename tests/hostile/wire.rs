//! What no good client sends: odd subjects, headers and status lines, straight on the wire.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{closing_numbers_add_up, fates};
use crate::support::nats_server::NatsServer;
use crate::support::rows::parse;
use crate::support::stream::{block_on, connect, create};
use crate::support::waterwheel::Deployment;

const PIPELINE: &str = r#"
name = "wire"

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
subject = "raw.{operator}.{subject}"

[sinks.out]
type = "print"
from = ["events", "dead_letter"]
"#;

/// Headers as they stand on the wire, after the line of their version.
const HEADERS: [&[u8]; 21] = [
    b"",
    b"A: 1\r\n",
    b"A:1\r\nA:2\r\na:3\r\n",
    b"A:\r\n",
    b"A: \t x \t\r\n",
    b"A: b: c\r\n",
    b"A: \xc3\xa9\r\n",
    b"A: x\x00y\r\n",
    b"A: \x1b[31m\r\n",
    b": 1\r\n",
    b":\r\n",
    b"A: 1\r\n folded\r\n",
    b"A: 1\n",
    b"A: 1\nB: 2\r\n",
    b"Nats-Msg-Id: '; drop table events; --\r\n",
    b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n",
    b"traceparent: x\ty\r\n",
    b"traceparent: \xc3\xa9\r\n",
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

const SUBJECTS: [&[u8]; 3] = [b"events.\xc3\xa9", b"events.x\x00y", b"events.\x1b[31m"];

#[test]
fn messages_that_break_the_rules_of_the_protocol_stop_nothing() {
    let directory = TempDir::new().unwrap();
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
    let ending = Deployment::new(&directory.path().join("run"), PIPELINE)
        .set("NATS", nats.url())
        .start()
        .wait();
    assert_eq!(ending.status.code(), Some(0), "{}", ending.stderr);
    let fates = fates(&parse(&ending.stdout));
    assert!(fates.keys().copied().eq(1..=stored), "every message once");
    closing_numbers_add_up(&ending.stderr, stored as usize);
    let dead = fates.values().filter(|(_, reason)| reason.is_some()).count();
    println!(
        "hostile: {sent} messages against the protocol, {stored} stored with good ones, {dead} dead letters"
    );
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
