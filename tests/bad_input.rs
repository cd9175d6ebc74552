//! Whatever a publisher sends, it is accounted for, and the events after it come through.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::nats_server::NatsServer;
use crate::support::rows::{Row, of_operator, parse};
use crate::support::stream::{block_on, connect, create, publish};
use crate::support::waterwheel::Deployment;

const PIPELINE: &str = r#"
name = "bad_input"

[sources.events]
type = "nats"
url = "${NATS}"
stream = "EVENTS"
start = "first"
until = "final"
lateness = "30s"

[operators.volume]
type = "aggregate"
from = "events"
where = "event_type = 'order.filled'"
by = ["properties.symbol"]
windows = ["1d"]
measures.trades = "count(*)"
measures.quantity = "sum(properties.quantity)"

[sinks.out]
type = "print"
from = ["events", "volume", "dead_letter"]
"#;

/// A message, and the reason for which it is a dead letter; `None` for one that is an event.
type Message = (Vec<u8>, Option<&'static str>);

#[test]
fn every_bad_message_is_a_dead_letter_and_nothing_else_is() {
    let directory = TempDir::new().unwrap();
    let nats = NatsServer::start_with("max_payload: 16MB");
    let messages = messages();
    let payloads: Vec<Vec<u8>> = messages.iter().map(|(payload, _)| payload.clone()).collect();
    block_on(async {
        let context = connect(&nats.url()).await;
        create(&context, "EVENTS", "events").await;
        let last = publish(&context, "events.trading", payloads).await;
        assert_eq!(last, messages.len() as u64, "every message is in the stream");
    });

    let ending = Deployment::new(directory.path(), PIPELINE).set("NATS", nats.url()).run();
    let printed = parse(&ending.stdout);

    let expected: BTreeMap<u64, &str> = (1..)
        .zip(&messages)
        .filter_map(|(sequence, (_, reason))| reason.map(|reason| (sequence, reason)))
        .collect();
    let letters = of_operator(&printed, "dead_letter");
    let reasons: BTreeMap<u64, &str> =
        letters.iter().map(|row| (number(row, "sequence"), text(row, "reason"))).collect();
    assert_eq!(reasons, expected);
    assert_eq!(letters.len(), expected.len(), "each once");
    payloads_are_kept(&messages, &letters);

    let raw = of_operator(&printed, "events");
    let accepted = raw.iter().filter(|row| row.get("late") == Some(&Value::Bool(false))).count();
    assert_eq!(accepted + letters.len(), messages.len(), "every message is accounted for");
    assert_eq!(raw.len(), accepted + 1, "the late event is archived");

    let volume = of_operator(&printed, "volume");
    let trades: BTreeMap<&str, u64> =
        volume.iter().map(|row| (text(row, "symbol"), number(row, "trades"))).collect();
    let good = messages.iter().filter(|(_, reason)| reason.is_none()).count() as u64;
    assert_eq!(trades, BTreeMap::from([("BTC", good - 2), ("ETH", 1), ("A\u{FFFD}B", 1)]));
}

/// One message of every kind, a good event after each, so that nothing bad stops what follows.
fn messages() -> Vec<Message> {
    let with = |field: &str| good(&format!(r#""symbol":"BTC","quantity":1,{field}"#), "");
    let mut invalid_read = good(r#""symbol":"B?C","quantity":1"#, "");
    let mut invalid_unread = with(r#""note":"n?te""#);
    for payload in [&mut invalid_read, &mut invalid_unread] {
        let place = payload.iter().position(|byte| *byte == b'?').unwrap();
        payload[place] = 0xFF;
    }
    let nested = format!(r#","deep":{}{}"#, "[".repeat(100_000), "]".repeat(100_000));
    let hour_ahead = SystemTime::now() + Duration::from_secs(3_600);
    let ahead = hour_ahead.duration_since(UNIX_EPOCH).unwrap().as_secs();
    let odd: Vec<Message> = vec![
        (with(&format!(r#""note":"{}""#, "x".repeat(10 << 20))), Some("too_large")),
        (invalid_read, Some("not_utf8")),
        (invalid_unread, Some("not_utf8")),
        (good(r#""symbol":"BTC","quantity":1"#, &nested), Some("too_deep")),
        (good(r#""symbol":"BTC","quantity":1e999"#, ""), Some("number_range")),
        (with(r#""note":-1e999"#), Some("number_range")),
        (at(r#""30000-01-01T00:00:00Z""#), Some("bad_timestamp")),
        (at(r#""tomorrow""#), Some("bad_timestamp")),
        (at("true"), Some("bad_timestamp")),
        (good(r#""symbol":"BTC","symbol":"ETH","quantity":1"#, ""), None),
        (good(r#""symbol":"A\u0000B","quantity":1"#, ""), None),
        (Vec::new(), Some("not_json")),
        (b"[1,2,3]".to_vec(), Some("not_object")),
        (b"\"text\"".to_vec(), Some("not_object")),
        (b"{\"a\":".to_vec(), Some("not_json")),
        (b"{} {}".to_vec(), Some("not_json")),
        (b"\x00\x01\x02".to_vec(), Some("not_json")),
        (
            good(&format!(r#""symbol":"{}","quantity":1"#, "k".repeat(2_048)), ""),
            Some("key_too_long"),
        ),
        (at(&ahead.to_string()), Some("future")),
        (at(r#""2026-05-04T11:59:29.999999Z""#), Some("late")),
    ];
    let mut messages = vec![(with(r#""n":0"#), None)];
    for (number, message) in odd.into_iter().enumerate() {
        messages.push(message);
        messages.push((with(&format!(r#""n":{number}"#)), None));
    }
    messages
}

fn good(properties: &str, more: &str) -> Vec<u8> {
    event(r#""2026-05-04T12:00:00Z""#, properties, more)
}

fn at(timestamp: &str) -> Vec<u8> {
    event(timestamp, r#""symbol":"BTC","quantity":1"#, "")
}

fn event(timestamp: &str, properties: &str, more: &str) -> Vec<u8> {
    format!(
        r#"{{"event_type":"order.filled","timestamp":{timestamp},"properties":{{{properties}}}{more}}}"#
    )
    .into_bytes()
}

/// A dead letter carries what was sent: as text, or in base64 where it is no text.
fn payloads_are_kept(messages: &[Message], letters: &[Row]) {
    for letter in letters {
        let sequence = number(letter, "sequence") as usize;
        let (payload, reason) = &messages[sequence - 1];
        // What is beyond every limit need not be kept whole.
        if *reason == Some("too_large") {
            continue;
        }
        let is_text = std::str::from_utf8(payload).is_ok_and(|text| !text.contains('\0'));
        let (kept, other) =
            if is_text { ("payload", "payload_base64") } else { ("payload_base64", "payload") };
        assert_eq!(letter.get(other), Some(&Value::Null), "{other} of {sequence}");
        if is_text {
            let is_kept = text(letter, kept).as_bytes() == payload.as_slice();
            assert!(is_kept, "{kept} of {sequence} is not what was sent");
        } else {
            assert!(!text(letter, kept).is_empty(), "{kept} of {sequence}");
        }
        assert_eq!(text(letter, "source"), "events");
        assert_eq!(text(letter, "stream"), "EVENTS");
        assert_eq!(text(letter, "subject"), "events.trading");
        assert!(!text(letter, "detail").is_empty(), "the reason is explained");
    }
}

fn text<'a>(row: &'a Row, column: &str) -> &'a str {
    row.get(column).and_then(Value::as_str).unwrap_or_else(|| panic!("{column} of {row:?}"))
}

fn number(row: &Row, column: &str) -> u64 {
    row.get(column).and_then(Value::as_u64).unwrap_or_else(|| panic!("{column} of {row:?}"))
}
