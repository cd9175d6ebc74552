//! Reading message by message, past one on which the client breaks.
//!
//! Whoever publishes may store headers and subjects that the client library does not read: it drops
//! the connection, or panics, and gets the same message again on the next one. Asked for with a call
//! of the API a message comes as JSON, and nothing of it is parsed on the way.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use futures::future::join_all;
use waterwheel_pipeline::contract::fault::{Fault, Remedy};
use waterwheel_pipeline::contract::nats::Connection;
use waterwheel_pipeline::contract::nats::api::{ApiError, StoredMessage};
use waterwheel_pipeline::contract::position::Position;

use super::Settings;
use super::retention::Retention;
use super::stream::{self, Anchors};

/// After a panic nobody knows which message it was: it lies within what may be under way behind the
/// last one that was read, two pull requests and a batch.
const AFTER_PANIC: u64 = 32_768;

/// So many messages are read behind one that the client would not have read; twice as many each time
/// another comes soon after.
const WINDOW: u64 = 16;
const WINDOW_MAX: u64 = 4_096;

/// Messages of one round, between which the stream is compared with what was read.
const ROUND_MESSAGES: usize = 256;
const ROUND_BYTES: usize = 1 << 20;

/// Bytes that may be asked for at once.
const AT_ONCE_BYTES: usize = 16 << 20;
const AT_ONCE_MAX: usize = 32;

/// The longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How long to read so.
#[derive(Clone, Copy, Debug)]
pub(super) struct Careful {
    /// Up to this sequence in any case,
    through: u64,
    /// and then so many messages more.
    left: u64,
    window: u64,
}

impl Careful {
    /// For what comes after a connection was lost twice, the window before having been so large.
    pub(super) fn after_loss(window_before: u64) -> Self {
        let window = (window_before * 2).clamp(WINDOW, WINDOW_MAX);
        Self { through: 0, left: window, window }
    }

    /// For what comes after a process panicked which had read up to this sequence.
    pub(super) fn after_panic(read: u64) -> Self {
        Self { through: read, left: AFTER_PANIC, window: AFTER_PANIC }
    }

    /// How many messages are read behind a bad one.
    pub(super) fn window(self) -> u64 {
        self.window
    }

    /// Takes note of a message that was read; whether it was the last one to be read so.
    pub(super) fn pass(&mut self, sequence: u64, is_readable: bool) -> bool {
        if !is_readable {
            self.left = self.window;
        } else if sequence > self.through {
            self.left = self.left.saturating_sub(1);
        }
        sequence >= self.through && self.left == 0
    }
}

/// A message, and what the client would have made of it.
pub(super) struct Found {
    pub(super) message: StoredMessage,
    /// The subject, no UTF-8 where the message's is none.
    pub(super) subject: Vec<u8>,
    /// Headers that can be read.
    pub(super) headers: HeaderMap,
    /// Headers that are no UTF-8.
    pub(super) raw_headers: Vec<u8>,
    /// False if the client would have broken on it.
    pub(super) is_readable: bool,
}

/// What there is to be read and to be compared before.
pub(super) struct Scene {
    pub(super) connection: Connection,
    pub(super) settings: Arc<Settings>,
    pub(super) retention: Retention,
    pub(super) position: Position,
    pub(super) anchors: Anchors,
    pub(super) clear_through: u64,
}

impl Scene {
    /// The next messages behind a sequence; none where there are no more. Waits for the server as
    /// long as it takes.
    pub(super) async fn read(self, after: u64) -> Result<Vec<Found>, Fault> {
        let mut attempts = 0_u32;
        loop {
            self.connection.connected().await?;
            match self.round(after).await {
                Err(fault) if fault.remedy == Remedy::Retry => {
                    let stream = &self.settings.stream;
                    tracing::warn!(%stream, %fault, "waiting for the server");
                    let pause = Duration::from_millis(50) * 2_u32.saturating_pow(attempts.min(10));
                    tokio::time::sleep(pause.min(PAUSE_MAX)).await;
                    attempts = attempts.saturating_add(1);
                }
                read => return read,
            }
        }
    }

    async fn round(&self, mut after: u64) -> Result<Vec<Found>, Fault> {
        let mut connects = self.connection.connects();
        connects.mark_unchanged();
        let Self { connection, settings, retention, position, anchors, clear_through } = self;
        let api = &connection.api;
        let info =
            stream::verify(api, settings, retention, position, anchors, *clear_through).await?;
        let what = format!("stream {}", settings.stream);
        let fault = |error: ApiError| error.fault(&what);
        let (mut found, mut bytes) = (Vec::new(), 0);
        while found.len() < ROUND_MESSAGES && bytes < ROUND_BYTES {
            let messages = if settings.subjects.is_empty() {
                self.next_of_all(after, info.last_seq).await
            } else {
                self.next_of_some(after).await.map(|next| next.into_iter().collect())
            };
            let messages = messages.map_err(fault)?;
            let Some(last) = messages.last() else { break };
            after = last.sequence;
            for message in messages {
                bytes += message.payload.len();
                found.push(self.parse(message).await.map_err(fault)?);
            }
        }
        // Another server may have another stream.
        if connects.has_changed().unwrap_or(true) {
            return Err(Fault::retry(format!("{what}: the connection was made anew")));
        }
        Ok(found)
    }

    /// The next messages of a stream that is read whole.
    async fn next_of_all(&self, after: u64, last: u64) -> Result<Vec<StoredMessage>, ApiError> {
        let (api, stream) = (&self.connection.api, &self.settings.stream);
        let Some(first) = api.message_at_or_after(stream, after + 1).await? else {
            return Ok(Vec::new());
        };
        let max_payload = self.connection.client.max_payload().max(1);
        let more = (AT_ONCE_BYTES / max_payload).clamp(1, AT_ONCE_MAX) as u64;
        let sequences = first.sequence + 1..=last.min(first.sequence + more);
        let asked = join_all(sequences.map(|sequence| api.message(stream, sequence))).await;
        let mut messages = vec![first];
        for message in asked {
            messages.extend(message?);
        }
        Ok(messages)
    }

    /// The next message on one of the subjects.
    async fn next_of_some(&self, after: u64) -> Result<Option<StoredMessage>, ApiError> {
        let Settings { stream, subjects, .. } = &*self.settings;
        let api = &self.connection.api;
        let next = |pattern| api.message_on_at_or_after(stream, pattern, after + 1);
        let mut least: Option<StoredMessage> = None;
        for message in join_all(subjects.iter().map(|pattern| next(pattern))).await {
            if let Some(message) = message?
                && least.as_ref().is_none_or(|least| message.sequence < least.sequence)
            {
                least = Some(message);
            }
        }
        Ok(least)
    }

    async fn parse(&self, message: StoredMessage) -> Result<Found, ApiError> {
        const REPLACEMENT: &str = "\u{fffd}";
        let (headers, raw_headers, mut is_readable) = match std::str::from_utf8(&message.headers) {
            Ok(text) => {
                let (headers, is_readable) = parse_headers(text);
                (headers, Vec::new(), is_readable)
            }
            Err(_) => (HeaderMap::new(), message.headers.clone(), false),
        };
        let mut subject = message.subject.clone().into_bytes();
        // The client takes other white space for the end of the subject.
        is_readable &= !message.subject.contains(char::is_whitespace);
        if message.subject.contains(REPLACEMENT) {
            // JSON has this for bytes that are no UTF-8, and for itself: only then the server finds
            // the message by it.
            let (api, sequence) = (&self.connection.api, message.sequence);
            let named = &message.subject;
            let same = api.message_on_at_or_after(&self.settings.stream, named, sequence).await?;
            if same.is_none_or(|same| same.sequence != sequence) {
                let bytes = message.subject.split(REPLACEMENT).map(str::as_bytes);
                subject = bytes.collect::<Vec<_>>().join(&b"\xff"[..]);
                is_readable = false;
            }
        }
        Ok(Found { message, subject, headers, raw_headers, is_readable })
    }
}

/// Headers as the client reads them, and whether it reads all: where it would break, the lines that
/// it could read.
fn parse_headers(text: &str) -> (HeaderMap, bool) {
    let mut headers = HeaderMap::new();
    if text.is_empty() {
        return (headers, true);
    }
    let mut lines = text.lines().peekable();
    let status = lines.next().and_then(|line| line.strip_prefix("NATS/1.0")).map(str::trim);
    let status = status.map(|status| status.split_once(' ').map_or(status, |(status, _)| status));
    let mut is_readable =
        status.is_some_and(|it| it.is_empty() || it.trim().parse::<StatusCode>().is_ok());
    while let Some(line) = lines.next() {
        if line.is_empty() {
            continue;
        }
        let (name, value) = line.split_once(':').unwrap_or_default();
        let mut value = value.trim_start().to_owned();
        while let Some(more) = lines.next_if(|line| line.starts_with(char::is_whitespace)) {
            value.push_str(more);
        }
        value.truncate(value.trim_end().len());
        match (HeaderName::from_str(name), HeaderValue::from_str(&value)) {
            (Ok(name), Ok(value)) if line.contains(':') => headers.append(name, value),
            _ => is_readable = false,
        }
    }
    (headers, is_readable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_the_client_reads_them() {
        for (text, names, is_readable) in [
            ("", "", true),
            ("NATS/1.0\r\n\r\n", "", true),
            ("NATS/1.0 503 No Responders\r\nA: 1\r\n\r\n", "A=1", true),
            ("NATS/1.0 x\r\nA: 1\r\n\r\n", "A=1", false),
            ("HTTP/1.0\r\nA: 1\r\n\r\n", "A=1", false),
            ("NATS/1.0\r\nA: 1\r\n 2 \r\n\r\n", "A=1 2", true),
            ("NATS/1.0\r\nA:\r\n\r\n", "A=", true),
            ("NATS/1.0\r\nno colon\r\nA: b: c\n\r\n", "A=b: c", false),
            ("NATS/1.0\r\nA b: 1\r\nA: 1\r\n\r\n", "A=1", false),
            ("NATS/1.0\r\nB: x\ry\r\nA: 1\r\n\r\n", "A=1", false),
        ] {
            let (headers, readable) = parse_headers(text);
            let found: Vec<String> = headers
                .iter()
                .flat_map(|(name, values)| {
                    values.iter().map(move |value| format!("{name}={value}"))
                })
                .collect();
            assert_eq!((found.join(","), readable), (names.to_owned(), is_readable), "{text:?}");
        }
    }

    #[test]
    fn reading_so_ends_behind_the_last_bad_message() {
        let mut careful = Careful::after_loss(0);
        assert!((1..WINDOW).all(|sequence| !careful.pass(sequence, true)));
        assert!(!careful.pass(16, false));
        assert!((17..32).all(|sequence| !careful.pass(sequence, true)) && careful.pass(32, true));
        assert_eq!(Careful::after_loss(careful.window()).window(), 2 * WINDOW);
        assert_eq!(Careful::after_loss(WINDOW_MAX).window(), WINDOW_MAX);

        let mut careful = Careful::after_panic(100);
        assert!((1..100 + AFTER_PANIC).all(|sequence| !careful.pass(sequence, true)));
        assert!(careful.pass(100 + AFTER_PANIC, true));
    }
}
