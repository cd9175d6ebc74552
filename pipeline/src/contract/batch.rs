//! Batches of raw messages, as sources hand them on: one buffer, no allocation per message.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::position::{Gap, Position, fingerprint};

/// The place of one message in its batch's buffer.
#[derive(Clone, Debug)]
pub struct RawMessage {
    /// Orders the messages of a source: grows by at least one from message to message.
    pub ordinal: u64,
    /// The sequence that users see: the stream's, or the line number within the file.
    pub sequence: u64,
    /// When the broker took it, in microseconds; `None` for files.
    pub received_at_us: Option<i64>,
    /// The subject.
    pub subject: Range<u32>,
    /// The headers as `name:value\r\n` lines; empty where there are none.
    pub headers: Range<u32>,
    /// The payload.
    pub payload: Range<u32>,
}

/// Consecutive messages of one stream or file.
#[derive(Clone, Debug)]
pub struct RawBatch {
    /// The name of the stream or the path of the file.
    pub stream: Arc<str>,
    /// As in [`Position`].
    pub created: i64,
    /// As in [`Position`].
    pub gaps: Arc<[Gap]>,
    /// Subjects, headers and payloads, one after another.
    pub buffer: Bytes,
    /// The messages in log order.
    pub messages: Vec<RawMessage>,
    /// How many messages the source knows to wait behind this batch, if it knows.
    pub pending: Option<u64>,
}

impl RawBatch {
    /// The bytes of a range of the buffer; empty for a range that is not there.
    pub fn bytes(&self, range: &Range<u32>) -> &[u8] {
        self.buffer.get(as_usize(range)).unwrap_or_default()
    }

    /// The position after the last message; `None` for an empty batch.
    pub fn end(&self) -> Option<Position> {
        let last = self.messages.last()?;
        Some(Position {
            stream: self.stream.to_string(),
            created: self.created,
            ordinal: last.ordinal,
            fingerprint: fingerprint(last.received_at_us, self.bytes(&last.payload)),
            gaps: self.gaps.to_vec(),
            messages: 0,
        })
    }

    /// Splits off the messages up to and including `ordinal`; `self` keeps the rest.
    pub fn split_through(&mut self, ordinal: u64) -> Self {
        let at = self.messages.partition_point(|message| message.ordinal <= ordinal);
        let rest = self.messages.split_off(at);
        let head = std::mem::replace(&mut self.messages, rest);
        Self { messages: head, ..self.clone_without_messages() }
    }

    fn clone_without_messages(&self) -> Self {
        Self {
            stream: self.stream.clone(),
            created: self.created,
            gaps: self.gaps.clone(),
            buffer: self.buffer.clone(),
            messages: Vec::new(),
            pending: self.pending,
        }
    }
}

/// Builds a batch: copies each message into the one buffer, so that no network buffer stays pinned.
#[derive(Debug)]
pub struct BatchBuilder {
    stream: Arc<str>,
    created: i64,
    gaps: Arc<[Gap]>,
    buffer: Vec<u8>,
    messages: Vec<RawMessage>,
    /// The sizes of the last batch, which the next is likely to need.
    likely: (usize, usize),
}

/// A batch is handed on at this size: what it allocates then stays small enough for the allocator to
/// keep and use again, where larger blocks go back to the system and come back as pages to be
/// cleared (a quarter of all time at 4 MiB). One message may be larger.
pub const BATCH_BYTES_MAX: usize = 512 << 10;

/// A batch is handed on at this count: large enough to pay for its hand-over, small enough that a
/// worker decodes it within about a millisecond.
pub const BATCH_MESSAGES_MAX: usize = 2048;

impl BatchBuilder {
    /// A builder for messages of one stream or file.
    pub fn new(stream: Arc<str>, created: i64) -> Self {
        let (buffer, messages) = (Vec::new(), Vec::new());
        Self { stream, created, gaps: Arc::default(), buffer, messages, likely: (0, 0) }
    }

    /// For a log of which something is gone that was never read.
    #[must_use]
    pub fn with_gaps(self, gaps: &[Gap]) -> Self {
        Self { gaps: gaps.into(), ..self }
    }

    /// Adds a message. `headers` are `name:value\r\n` lines.
    pub fn push(
        &mut self,
        ordinal: u64,
        sequence: u64,
        received_at_us: Option<i64>,
        subject: &[u8],
        headers: &[u8],
        payload: &[u8],
    ) {
        if self.messages.is_empty() {
            self.buffer.reserve(self.likely.0);
            self.messages.reserve(self.likely.1);
        }
        // Neighbours often have one subject.
        let subject = match self.messages.last() {
            Some(last) if self.buffer.get(as_usize(&last.subject)) == Some(subject) => {
                last.subject.clone()
            }
            _ => copy(&mut self.buffer, subject),
        };
        let headers = copy(&mut self.buffer, headers);
        let payload = copy(&mut self.buffer, payload);
        self.messages.push(RawMessage {
            ordinal,
            sequence,
            received_at_us,
            subject,
            headers,
            payload,
        });
    }

    /// True when the batch should be handed on.
    pub fn is_full(&self) -> bool {
        self.messages.len() >= BATCH_MESSAGES_MAX || self.buffer.len() >= BATCH_BYTES_MAX
    }

    /// True if there is no message in it.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The batch; the builder is ready for the next.
    pub fn finish(&mut self, pending: Option<u64>) -> RawBatch {
        self.likely = (self.buffer.len() + self.buffer.len() / 16, self.messages.len());
        RawBatch {
            stream: self.stream.clone(),
            created: self.created,
            gaps: self.gaps.clone(),
            buffer: std::mem::take(&mut self.buffer).into(),
            messages: std::mem::take(&mut self.messages),
            pending,
        }
    }
}

fn copy(buffer: &mut Vec<u8>, bytes: &[u8]) -> Range<u32> {
    // A batch is closed long before 4 GiB: see BATCH_BYTES_MAX and the brokers' limits.
    let start = buffer.len() as u32;
    buffer.extend_from_slice(bytes);
    start..buffer.len() as u32
}

fn as_usize(range: &Range<u32>) -> Range<usize> {
    range.start as usize..range.end as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_splits_at_a_position() {
        let mut builder = BatchBuilder::new("S".into(), 7);
        for ordinal in [3, 5, 6, 9] {
            builder.push(ordinal, ordinal, Some(1), b"a.b", b"", format!("{ordinal}").as_bytes());
        }
        let mut rest = builder.finish(None);
        let head = rest.split_through(5);
        assert_eq!(head.messages.iter().map(|m| m.ordinal).collect::<Vec<_>>(), [3, 5]);
        assert_eq!(rest.messages.iter().map(|m| m.ordinal).collect::<Vec<_>>(), [6, 9]);
        assert_eq!(rest.bytes(&rest.messages[0].payload), b"6");
        assert_eq!(head.end().map(|end| end.ordinal), Some(5));
        assert_ne!(head.end(), rest.end());
    }
}
