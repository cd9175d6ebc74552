//! Events as operators see them: batches of decoded fields, and the schemas of raw events and dead
//! letters.
//!
//! A batch is decoded once, and only the fields that the deployment names. It is then shared by all
//! operators of the worker that decoded it; nothing of it crosses a thread.

use std::sync::Arc;

use waterwheel_config::expr::{Fields, Val};
use waterwheel_config::schema::{Column, Finality, Schema, SchemaRef};
use waterwheel_config::value::{ColumnType, Row, Value};

use super::batch::RawMessage;
pub use super::projection::{EventFields, KeyNeed, Projection};

/// A field that decoding extracts, by its slot in a [`Projection`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// A field of the envelope (SPEC 2).
    Envelope(Envelope),
    /// A path in the payload.
    Path(Vec<String>),
    /// The payload as JSON text.
    Payload,
    /// A header, by name.
    Header(&'static str),
    /// An attribute of a CloudEvent, by name.
    Attribute(String),
    /// What stands in for a field of the envelope that is absent.
    Fallback(Envelope),
}

/// The fields of the envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the contract's own words")]
pub enum Envelope {
    Id,
    EventType,
    Timestamp,
    UserId,
    SessionId,
    CorrelationId,
    CausationId,
    Source,
    Subject,
    Stream,
    Sequence,
    ReceivedAt,
}

impl Envelope {
    /// Every field with its name.
    pub const ALL: [(&'static str, Self); 12] = [
        ("id", Self::Id),
        ("event_type", Self::EventType),
        ("timestamp", Self::Timestamp),
        ("user_id", Self::UserId),
        ("session_id", Self::SessionId),
        ("correlation_id", Self::CorrelationId),
        ("causation_id", Self::CausationId),
        ("source", Self::Source),
        ("subject", Self::Subject),
        ("stream", Self::Stream),
        ("sequence", Self::Sequence),
        ("received_at", Self::ReceivedAt),
    ];

    /// The field with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, field)| *field)
    }
}

/// One decoded field. Texts lie in the batch's buffer, or in `scratch` where they had escapes.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "the variants are those of JSON")]
pub enum Slot {
    Null,
    Boolean(bool),
    Integer(i64),
    /// Above `i64::MAX`.
    Unsigned(u64),
    Float(f64),
    Timestamp(i64),
    /// A text in the buffer.
    Text {
        start: u32,
        end: u32,
    },
    /// A text in `scratch`.
    Scratch {
        start: u32,
        end: u32,
    },
    /// An object or list in the buffer.
    Json {
        start: u32,
        end: u32,
    },
    /// An object or list in `scratch`.
    ScratchJson {
        start: u32,
        end: u32,
    },
    /// The name of the stream.
    Stream,
}

/// What is known of each event besides its fields.
#[derive(Clone, Copy, Debug)]
pub struct EventMeta {
    /// Event time in microseconds.
    pub timestamp_us: i64,
    /// Orders the events of a source.
    pub ordinal: u64,
    /// The index of its message in [`EventBatch::messages`].
    pub message: u32,
    /// True if it came too late to take part in operators.
    pub late: bool,
}

/// Decoded events of one source, in log order.
#[derive(Clone, Debug)]
pub struct EventBatch {
    /// The index of the source among the deployment's sources.
    pub source: u16,
    /// The name of the stream or the path of the file.
    pub stream: Arc<str>,
    /// Subjects, headers and payloads of the messages, one after another. A message that was not
    /// UTF-8 has no event, and is blotted out here.
    pub text: Arc<String>,
    /// The messages they come from.
    pub messages: Arc<Vec<RawMessage>>,
    /// Texts that had escapes, and made-up ids.
    pub scratch: Arc<String>,
    /// How many slots each event has.
    pub stride: usize,
    /// The slots of all events, one event after another.
    pub slots: Vec<Slot>,
    /// The events.
    pub events: Vec<EventMeta>,
}

impl EventBatch {
    /// One event.
    pub fn view(&self, index: usize) -> EventView<'_> {
        EventView { batch: self, index }
    }

    /// The events that take part in operators and pass; none of them is late.
    #[must_use]
    pub fn filtered(&self, passes: impl Fn(&EventView<'_>) -> bool) -> Self {
        let mut rest = self.without_events();
        for event in self.accepted().filter(passes) {
            let start = event.index * self.stride;
            rest.slots.extend_from_slice(&self.slots[start..start + self.stride]);
            rest.events.push(*event.meta());
        }
        rest
    }

    /// The same messages and texts, which are shared.
    fn without_events(&self) -> Self {
        Self {
            source: self.source,
            stream: self.stream.clone(),
            text: self.text.clone(),
            messages: self.messages.clone(),
            scratch: self.scratch.clone(),
            stride: self.stride,
            slots: Vec::new(),
            events: Vec::new(),
        }
    }

    /// The events that take part in operators: all but the late ones.
    pub fn accepted(&self) -> impl Iterator<Item = EventView<'_>> {
        (0..self.events.len())
            .filter(|&index| !self.events[index].late)
            .map(|index| self.view(index))
    }

    /// The text of a range; empty for a range that is not there.
    pub fn text(&self, range: std::ops::Range<u32>) -> &str {
        self.text.get(range.start as usize..range.end as usize).unwrap_or_default()
    }

    /// The value of a slot.
    pub fn val(&self, slot: Slot) -> Val<'_> {
        slot.val(&self.text, &self.scratch, &self.stream)
    }
}

impl Slot {
    /// The value, of an event whose texts lie in these.
    #[inline]
    pub fn val<'t>(self, text: &'t str, scratch: &'t str, stream: &'t str) -> Val<'t> {
        fn part(text: &str, start: u32, end: u32) -> &str {
            text.get(start as usize..end as usize).unwrap_or_default()
        }
        match self {
            Self::Null => Val::Null,
            Self::Boolean(flag) => Val::Boolean(flag),
            Self::Integer(number) => Val::Integer(i128::from(number)),
            Self::Unsigned(number) => Val::Integer(i128::from(number)),
            Self::Float(number) => Val::Float(number),
            Self::Timestamp(micros) => Val::Timestamp(micros),
            Self::Text { start, end } => Val::text(part(text, start, end)),
            Self::Scratch { start, end } => Val::text(part(scratch, start, end)),
            Self::Json { start, end } => Val::Json(part(text, start, end)),
            Self::ScratchJson { start, end } => Val::Json(part(scratch, start, end)),
            Self::Stream => Val::text(stream),
        }
    }
}

/// One event of a batch; the fields of expressions over a source.
#[derive(Clone, Copy, Debug)]
pub struct EventView<'a> {
    batch: &'a EventBatch,
    index: usize,
}

impl<'a> EventView<'a> {
    /// What is known of it besides its fields.
    pub fn meta(&self) -> &'a EventMeta {
        &self.batch.events[self.index]
    }

    /// The event's key: `<stream>:<sequence>`.
    pub fn key_text(&self) -> String {
        let mut key = String::new();
        self.write_key(&mut key);
        key
    }

    /// Appends the same.
    pub fn write_key(&self, out: &mut String) {
        let sequence = self.message().map_or(0, |message| message.sequence);
        out.push_str(&self.batch.stream);
        out.push(':');
        out.push_str(itoa::Buffer::new().format(sequence));
    }

    /// The index of its source.
    pub fn source(&self) -> u16 {
        self.batch.source
    }

    /// The value in a slot, for as long as the batch lives.
    pub fn val(&self, slot: usize) -> Val<'a> {
        self.batch.val(self.slot(slot))
    }

    /// A slot; NULL for one that does not exist.
    #[inline]
    fn slot(&self, slot: usize) -> Slot {
        let EventBatch { stride, slots, .. } = self.batch;
        if slot < *stride { slots[self.index * stride + slot] } else { Slot::Null }
    }

    /// The name of its stream, or the path of its file.
    pub fn stream(&self) -> &'a Arc<str> {
        &self.batch.stream
    }

    /// A part of its message.
    pub fn text(&self, range: &std::ops::Range<u32>) -> &'a str {
        self.batch.text(range.clone())
    }

    /// Its message.
    pub fn message(&self) -> Option<&'a RawMessage> {
        self.batch.messages.get(self.meta().message as usize)
    }
}

impl Fields for EventView<'_> {
    fn get(&self, slot: usize) -> Val<'_> {
        self.val(slot)
    }

    #[inline]
    fn is_text(&self, slot: usize, text: &str) -> Option<bool> {
        match self.slot(slot) {
            // Most differ in length: then the text itself is not touched.
            Slot::Text { start, end } => Some(
                (end - start) as usize == text.len()
                    && self.batch.text.as_bytes().get(start as usize..end as usize)
                        == Some(text.as_bytes()),
            ),
            _ => None,
        }
    }
}

/// The header by which a trace goes on (W3C Trace Context).
pub const TRACEPARENT: &str = "traceparent";

/// The trace of the one message that caused a row, where there is just one and it had a trace: the
/// value that a row of raw events or dead letters may carry beyond the columns of its schema.
pub fn traceparent<'r>(row: &'r Row, schema: &Schema) -> Option<&'r str> {
    match row.values().get(schema.columns.len()) {
        // It is to be a header again: nothing in it may end a line, and it is 55 characters today.
        Some(Value::Text(trace)) => Some(&**trace)
            .filter(|t| t.len() <= 128 && t.bytes().all(|byte| byte.is_ascii_graphic())),
        _ => None,
    }
}

/// The columns of raw events, in this order.
pub const RAW_COLUMNS: [&str; 14] = [
    "id",
    "event_type",
    "timestamp",
    "user_id",
    "session_id",
    "correlation_id",
    "causation_id",
    "source",
    "subject",
    "stream",
    "sequence",
    "received_at",
    "late",
    "payload",
];

/// The schema of raw events: every message that is an event is one row, late ones included.
pub fn raw_schema() -> SchemaRef {
    let columns = RAW_COLUMNS
        .iter()
        .map(|name| match *name {
            "timestamp" => Column::time(*name, 0),
            "received_at" => Column::new(*name, ColumnType::Timestamp),
            "sequence" => Column::new(*name, ColumnType::Bigint),
            "late" => Column::new(*name, ColumnType::Boolean),
            "payload" => Column::new(*name, ColumnType::Json),
            _ => Column::new(*name, ColumnType::Text),
        })
        .collect();
    Arc::new(Schema {
        columns,
        key: vec![9, 10],
        finality: Finality::Immediate,
        append_only: true,
        time: Some(2),
    })
}

/// The name of the built-in stream of messages that are no events.
pub const DEAD_LETTER: &str = "dead_letter";

/// The schema of dead letters.
pub fn dead_letter_schema() -> SchemaRef {
    let text = |name: &str| Column::new(name, ColumnType::Text);
    let columns = vec![
        text("source"),
        text("stream"),
        text("subject"),
        Column::new("sequence", ColumnType::Bigint),
        Column::new("timestamp", ColumnType::Timestamp),
        text("reason"),
        text("detail"),
        text("payload"),
        text("payload_base64"),
    ];
    Arc::new(Schema {
        columns,
        key: vec![1, 3],
        finality: Finality::Immediate,
        append_only: true,
        time: Some(4),
    })
}
