//! Events as operators see them: batches of decoded fields, and the schemas of raw events and dead
//! letters.
//!
//! A batch is decoded once, and only the fields that the deployment names. It is then shared by all
//! operators of the worker that decoded it; nothing of it crosses a thread.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use waterwheel_config::expr::{Fields, Program, Val};
use waterwheel_config::schema::{Column, Finality, Schema, SchemaRef};
use waterwheel_config::value::{ColumnType, Row, Value};

use super::batch::RawMessage;
use super::mapping::EventFormat;

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

/// What decoding must extract from the messages of one source.
#[derive(Clone, Debug, Default)]
pub struct Projection {
    /// The field of each slot.
    pub fields: Vec<Field>,
    /// Where keys are needed: a text over 1 KiB in one of them makes the message a dead letter.
    pub keys: Vec<KeyNeed>,
    /// How the source's events are written.
    pub format: EventFormat,
    /// The types that the source declares for paths in the payload.
    pub types: BTreeMap<Vec<String>, ColumnType>,
    /// The declared types that were asked for, see [`Projection::take_named_types`].
    pub(crate) named_types: BTreeSet<Vec<String>>,
}

/// Key expressions that are evaluated for the events that pass a condition.
#[derive(Clone, Debug)]
pub struct KeyNeed {
    /// The condition; `None` for every event.
    pub condition: Option<Program>,
    /// The expressions of the key.
    pub keys: Vec<Program>,
}

impl Projection {
    /// The slot of a field, allotted on first use.
    pub fn slot(&mut self, field: &Field) -> usize {
        if let Some(slot) = self.fields.iter().position(|known| known == field) {
            return slot;
        }
        self.fields.push(field.clone());
        self.fields.len() - 1
    }

    /// The type that the source declares for a field, if it does.
    pub fn declared_type(&mut self, field: &Field) -> Option<ColumnType> {
        let Field::Path(path) = field else {
            return None;
        };
        let kind = *self.types.get(path)?;
        self.named_types.insert(path.clone());
        Some(kind)
    }

    /// The declared types that were asked for since the last call: they are part of the meaning of
    /// what asked for them, and of nothing else.
    pub(crate) fn take_named_types(&mut self) -> Vec<(Vec<String>, ColumnType)> {
        let named = std::mem::take(&mut self.named_types);
        named.into_iter().filter_map(|path| Some((path.clone(), *self.types.get(&path)?))).collect()
    }
}

/// The fields of the events on an edge, while the deployment is planned: those of one source or, behind
/// an operator that lets events through, of all sources that they come from. A field has the same
/// slot in the projections of all of them, so that an expression is compiled once.
#[derive(Clone, Debug)]
pub struct EventFields {
    sources: Vec<(Rc<RefCell<Projection>>, Vec<Program>)>,
}

impl Default for EventFields {
    /// Those of a source that nobody else reads.
    fn default() -> Self {
        Self::source(Rc::default())
    }
}

impl EventFields {
    /// The events of a source.
    pub fn source(projection: Rc<RefCell<Projection>>) -> Self {
        Self { sources: vec![(projection, Vec::new())] }
    }

    /// The events of all of these.
    pub fn joined<'a>(parts: impl IntoIterator<Item = &'a Self>) -> Self {
        Self { sources: parts.into_iter().flat_map(|part| part.sources.iter().cloned()).collect() }
    }

    /// Only the events that meet a condition: what nobody reads further on needs no key.
    #[must_use]
    pub fn filtered(mut self, condition: Option<&Program>) -> Self {
        for (_, conditions) in &mut self.sources {
            conditions.extend(condition.cloned());
        }
        self
    }

    /// The slot of a field that all sources have by one name, allotted on first use.
    pub fn slot(&self, field: &Field) -> usize {
        self.slot_of(&vec![field.clone(); self.sources.len()])
    }

    /// The slot of what is a field of its own in each source, in their order; allotted on first use.
    pub fn slot_of(&self, fields: &[Field]) -> usize {
        if let ([(projection, _)], [field]) = (self.sources.as_slice(), fields) {
            return projection.borrow_mut().slot(field);
        }
        let projections = || self.sources.iter().map(|(projection, _)| projection).zip(fields);
        let longest = projections().map(|(one, _)| one.borrow().fields.len()).max().unwrap_or(0);
        let is_shared = |slot: &usize| {
            projections().all(|(one, field)| one.borrow().fields.get(*slot) == Some(field))
        };
        (0..longest).find(is_shared).unwrap_or_else(|| {
            for (projection, field) in projections() {
                // What fills up to the new slot is decoded once more; slots never move.
                projection.borrow_mut().fields.resize(longest, field.clone());
            }
            for (projection, field) in projections() {
                let fields = &mut projection.borrow_mut().fields;
                // A source may be here twice.
                if fields.len() == longest {
                    fields.push(field.clone());
                }
            }
            longest
        })
    }

    /// How each source writes its events.
    pub fn formats(&self) -> Vec<EventFormat> {
        self.sources.iter().map(|(projection, _)| projection.borrow().format).collect()
    }

    /// The type of what is this field in each source, in their order: what they all declare.
    pub fn declared_type(&self, fields: &[Field]) -> Option<ColumnType> {
        let declared = |(known, field): (&(Rc<RefCell<Projection>>, _), &Field)| {
            known.0.borrow_mut().declared_type(field)
        };
        // Each is asked: what one of them declares changes its values all the same.
        let types: Vec<_> = self.sources.iter().zip(fields).map(declared).collect();
        let (first, rest) = types.split_first()?;
        first.filter(|_| rest.iter().all(|other| other == first))
    }

    /// Notes that these expressions are keys, for the events that pass the condition.
    pub fn need_keys(&self, condition: Option<&Program>, keys: &[Program]) {
        for (projection, conditions) in &self.sources {
            let conditions: Vec<Program> = conditions.iter().chain(condition).cloned().collect();
            let condition = (!conditions.is_empty()).then_some(Program::And(conditions));
            projection.borrow_mut().keys.push(KeyNeed { condition, keys: keys.to_vec() });
        }
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
        let scratch = |start: u32, end: u32| {
            self.scratch.get(start as usize..end as usize).unwrap_or_default()
        };
        match slot {
            Slot::Null => Val::Null,
            Slot::Boolean(flag) => Val::Boolean(flag),
            Slot::Integer(number) => Val::Integer(i128::from(number)),
            Slot::Unsigned(number) => Val::Integer(i128::from(number)),
            Slot::Float(number) => Val::Float(number),
            Slot::Timestamp(micros) => Val::Timestamp(micros),
            Slot::Text { start, end } => Val::text(self.text(start..end)),
            Slot::Scratch { start, end } => Val::text(scratch(start, end)),
            Slot::Json { start, end } => Val::Json(self.text(start..end)),
            Slot::ScratchJson { start, end } => Val::Json(scratch(start, end)),
            Slot::Stream => Val::text(&self.stream),
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
        let sequence = self.message().map_or(0, |message| message.sequence);
        format!("{}:{sequence}", self.batch.stream)
    }

    /// The index of its source.
    pub fn source(&self) -> u16 {
        self.batch.source
    }

    /// The value in a slot, for as long as the batch lives.
    pub fn val(&self, slot: usize) -> Val<'a> {
        if slot >= self.batch.stride {
            return Val::Null;
        }
        self.batch.val(self.batch.slots[self.index * self.batch.stride + slot])
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

/// Turns events into the rows of [`raw_schema`].
#[derive(Clone, Debug)]
pub struct RawColumns {
    slots: Vec<(usize, ColumnType)>,
    late: usize,
    traceparent: usize,
}

impl RawColumns {
    /// Allots the slots that raw rows need.
    pub fn project(projection: &mut Projection) -> Self {
        Self::allot(&mut |field| projection.slot(field))
    }

    /// The same for the events on an edge.
    pub fn of(events: &EventFields) -> Self {
        Self::allot(&mut |field| events.slot(field))
    }

    fn allot(slot: &mut dyn FnMut(&Field) -> usize) -> Self {
        let schema = raw_schema();
        let mut late = 0;
        let slots = schema
            .columns
            .iter()
            .enumerate()
            .map(|(index, column)| {
                let field = match (column.name.as_str(), Envelope::named(&column.name)) {
                    (_, Some(envelope)) => Field::Envelope(envelope),
                    ("late", None) => {
                        late = index;
                        Field::Envelope(Envelope::Timestamp)
                    }
                    _ => Field::Payload,
                };
                (slot(&field), column.kind)
            })
            .collect();
        let traceparent = slot(&Field::Header(TRACEPARENT));
        Self { slots, late, traceparent }
    }

    /// The row of one event, with its trace if it has one (see [`traceparent`]).
    pub fn row(&self, event: &EventView<'_>) -> Row {
        let trace = event.val(self.traceparent).to_value(ColumnType::Text);
        self.slots
            .iter()
            .enumerate()
            .map(|(index, (slot, kind))| {
                if index == self.late {
                    Value::Boolean(event.meta().late)
                } else {
                    event.val(*slot).to_value(*kind)
                }
            })
            .chain((!trace.is_null()).then_some(trace))
            .collect()
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
