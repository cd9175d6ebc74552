//! Dead letters: why a message is no event, and the row that says so.

use base64::Engine;
use waterwheel_config::value::{Row, Value};

use crate::contract::batch::RawMessage;

/// The most that a dead letter's payload may take once it is written as JSON: enough to keep all but
/// outsize messages whole, small enough for every sink (a NATS server takes 1 MiB in all).
const PAYLOAD_JSON_BYTES_MAX: usize = 512 << 10;

/// Why a message is no event.
#[derive(Debug)]
pub(super) struct DeadLetter {
    pub(super) reason: &'static str,
    pub(super) detail: String,
    /// The event's own timestamp, where it could be read.
    pub(super) timestamp_us: Option<i64>,
}

impl DeadLetter {
    pub(super) fn new(reason: &'static str, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), timestamp_us: None }
    }
}

/// The row of a dead letter, as [`crate::contract::event::dead_letter_schema`] names its columns, with
/// the message's trace behind them (see [`crate::contract::event::traceparent`]).
pub(super) fn dead_row(
    source: &str,
    stream: &str,
    subject: &str,
    message: &RawMessage,
    payload: &[u8],
    letter: &DeadLetter,
    trace: Option<Value>,
) -> Row {
    let mut detail = letter.detail.clone();
    let mut kept = payload;
    let fitting = fitting_bytes(payload);
    if fitting < payload.len() {
        kept = &payload[..fitting];
        // Do not tear a character in two and so turn a text into base64.
        if let Err(error) = std::str::from_utf8(kept)
            && error.error_len().is_none()
        {
            kept = &kept[..error.valid_up_to()];
        }
        detail.push_str(&format!("; {} of {} bytes are kept here", kept.len(), payload.len()));
    }
    let (text, base64) = match std::str::from_utf8(kept) {
        Ok(text) if !kept.contains(&0) => (Value::Text(text.into()), Value::Null),
        _ => {
            let encoded = base64::engine::general_purpose::STANDARD.encode(kept);
            (Value::Null, Value::Text(encoded.into()))
        }
    };
    let timestamp_us = letter.timestamp_us.or(message.received_at_us);
    let columns = [
        Value::text(source),
        Value::text(stream),
        Value::text(subject),
        i64::try_from(message.sequence).map_or(Value::Null, Value::Bigint),
        timestamp_us.map_or(Value::Null, Value::Timestamp),
        Value::text(letter.reason),
        Value::text(&detail),
        text,
        base64,
    ];
    columns.into_iter().chain(trace).collect()
}

/// How many of the first bytes fit, escapes included.
fn fitting_bytes(payload: &[u8]) -> usize {
    let mut room = PAYLOAD_JSON_BYTES_MAX;
    for (at, byte) in payload.iter().enumerate() {
        let cost = match byte {
            0..=0x1f => 6,
            // Bytes that are no text are written in base64, which takes a third more.
            b'"' | b'\\' | 0x80.. => 2,
            _ => 1,
        };
        if room < cost {
            return at;
        }
        room -= cost;
    }
    payload.len()
}
