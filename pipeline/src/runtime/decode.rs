//! From raw messages to events: the envelope, the wanted fields, and dead letters for the rest.
//!
//! A worker decodes a batch without knowing what came before it. Whether an event is late depends
//! on all events before it in its partition, so [`DecodePlan::judge`] does that afterwards, with the
//! largest timestamp that the coordinator carries in.

mod cloudevents;
mod dead;
mod draft;
mod envelope;
mod names;
mod readable;
mod scan;
pub mod schemas;
mod trie;
mod types;

use std::ops::Range;
use std::sync::Arc;

use waterwheel_config::expr::Fields;
use waterwheel_config::timestamp::Minutes;
use waterwheel_config::value::{ColumnType, Row, Value};

use self::cloudevents::{CloudEvents, Modes};
use self::dead::{DeadLetter, dead_row};
use self::draft::{Draft, Texts};
use self::envelope::EnvelopePlan;
use self::names::Names;
use self::readable::{Readable, readable};
use self::scan::{DEPTH_MAX, ScanError, Scanner, sanitise};
use self::schemas::Schemas;
use self::trie::PathTrie;
use crate::contract::batch::{RawBatch, RawMessage};
use crate::contract::epoch::NO_WATERMARK;
use crate::contract::event::{
    Envelope, EventBatch, EventMeta, Field, Projection, Slot, TRACEPARENT,
};
use crate::contract::mapping::{EventFormat, EventMapping};

/// The longest text that may be a key, in bytes (SPEC 2).
const KEY_BYTES_MAX: usize = 1024;

/// Texts up to this length cannot grow over [`KEY_BYTES_MAX`] in any function (`upper` can triple
/// a text), so the keys need not be looked at.
const KEY_BYTES_SAFE: usize = KEY_BYTES_MAX / 3;

/// What a source's settings say about reading its messages.
#[derive(Clone, Debug)]
pub struct EventSettings {
    /// The source's name.
    pub name: String,
    /// The index of the source among the deployment's sources.
    pub index: u16,
    /// How events are written, and where the envelope comes from.
    pub mapping: EventMapping,
    /// What the events of some types must be like.
    pub schemas: Arc<Schemas>,
    /// A message larger than this is a dead letter.
    pub bytes_max: u64,
    /// An event further past its broker timestamp is a dead letter.
    pub future_max_us: i64,
    /// An event further behind the largest timestamp before it is late.
    pub lateness_us: i64,
}

/// How to decode the messages of one source; shared by all workers.
#[derive(Debug)]
pub struct DecodePlan {
    settings: EventSettings,
    name: Arc<str>,
    projection: Projection,
    reading: Reading,
    envelope: EnvelopePlan,
    /// Several where the events of several sources are read as one.
    payload_slots: Vec<usize>,
    /// The slots whose values must fit a type.
    types: Vec<(usize, ColumnType)>,
    /// Where the event type is, if a schema may go by it.
    event_type_slot: Option<usize>,
}

/// How messages are read.
#[derive(Debug)]
enum Reading {
    /// Each as one JSON object, of which these paths are wanted.
    Json(PathTrie),
    CloudEvents(CloudEvents),
}

/// What the messages of a batch are like, learned from each for those that follow it.
struct Learned<'p> {
    payloads: Payloads<'p>,
    minutes: Minutes,
}

enum Payloads<'p> {
    Json(Names<'p>),
    CloudEvents(&'p CloudEvents, Modes<'p>),
}

impl<'p> Learned<'p> {
    /// Nothing yet.
    fn new(reading: &'p Reading) -> Self {
        let payloads = match reading {
            Reading::Json(trie) => Payloads::Json(Names::new(trie)),
            Reading::CloudEvents(events) => Payloads::CloudEvents(events, events.modes()),
        };
        Self { payloads, minutes: Minutes::default() }
    }
}

/// What is wanted of an event besides headers, and the slots for it.
#[derive(Debug, Default)]
struct Wanted {
    /// Paths in the payload.
    paths: Vec<(Vec<String>, usize)>,
    /// Attributes of CloudEvents.
    attributes: Vec<(String, usize)>,
}

/// The payload of an event once it is checked.
#[derive(Debug)]
struct Content {
    /// Where it is; NULL for a CloudEvent without data.
    payload: Slot,
    /// As in [`Scanner::is_hostile`].
    is_hostile: bool,
}

/// A decoded batch, before anything is known to be late.
#[derive(Debug)]
pub struct Decoded {
    /// The events.
    pub batch: EventBatch,
    /// The rows of the messages that are no events.
    pub dead: Vec<Row>,
    /// The largest timestamp of the events.
    pub timestamp_max_us: Option<i64>,
}

impl DecodePlan {
    /// Plans the decoding of a projection.
    pub fn new(settings: EventSettings, mut projection: Projection) -> Self {
        let event_type_slot = (!settings.schemas.is_empty())
            .then(|| projection.slot(&Field::Envelope(Envelope::EventType)));
        let mut wanted = Wanted::default();
        let envelope = EnvelopePlan::new(&settings.mapping, &mut projection, &mut wanted);
        let (mut payload_slots, mut types) = (Vec::new(), Vec::new());
        for (slot, field) in projection.fields.iter().enumerate() {
            match field {
                Field::Path(path) => {
                    wanted.paths.push((path.clone(), slot));
                    types.extend(projection.types.get(path).map(|kind| (slot, *kind)));
                }
                Field::Attribute(name) => wanted.attributes.push((name.clone(), slot)),
                Field::Payload => payload_slots.push(slot),
                Field::Envelope(_) | Field::Header(_) | Field::Fallback(_) => {}
            }
        }
        let reading = match settings.mapping.format() {
            EventFormat::CloudEvents => {
                Reading::CloudEvents(CloudEvents::new(wanted, &mut projection))
            }
            EventFormat::Json => {
                let mut trie = PathTrie::default();
                wanted.paths.iter().for_each(|(path, slot)| trie.insert(path, *slot));
                Reading::Json(trie)
            }
        };
        let name = settings.name.as_str().into();
        Self {
            settings,
            name,
            projection,
            reading,
            envelope,
            payload_slots,
            types,
            event_type_slot,
        }
    }

    /// Decodes a batch.
    pub fn decode(&self, raw: RawBatch) -> Decoded {
        let stride = self.projection.fields.len();
        let RawBatch { stream, buffer, messages, .. } = raw;
        let Readable { text, broken } = readable(buffer.into(), &messages);
        let mut texts = Texts { text, scratch: String::new(), stream };
        let mut slots = Vec::with_capacity(messages.len() * stride);
        let mut events = Vec::with_capacity(messages.len());
        let mut learned = Learned::new(&self.reading);
        let mut dead = Vec::new();
        let mut timestamp_max_us = None;
        for (index, message) in messages.iter().enumerate() {
            let slots_before = slots.len();
            slots.resize(slots_before + stride, Slot::Null);
            let broken = broken.get(&index);
            let result = match broken {
                Some(_) => Err(DeadLetter::new("not_utf8", "the message is not valid UTF-8")),
                None => {
                    let slots = &mut slots[slots_before..];
                    self.decode_message(&mut learned, &mut texts, slots, message)
                }
            };
            match result {
                Ok(timestamp_us) => {
                    timestamp_max_us = timestamp_max_us.max(Some(timestamp_us));
                    events.push(EventMeta {
                        timestamp_us,
                        ordinal: message.ordinal,
                        message: index as u32,
                        late: false,
                    });
                }
                Err(letter) => {
                    slots.truncate(slots_before);
                    let written = |range: &Range<u32>| texts.part(range).as_bytes();
                    let (subject, payload) = match broken {
                        Some(broken) => (&*broken.subject, &*broken.payload),
                        None => (written(&message.subject), written(&message.payload)),
                    };
                    dead.push(dead_row(
                        &self.name,
                        &texts.stream,
                        &String::from_utf8_lossy(subject),
                        message,
                        payload,
                        &letter,
                        trace(&texts.text, message),
                    ));
                }
            }
        }
        let Texts { text, scratch, stream } = texts;
        let batch = EventBatch {
            source: self.settings.index,
            stream,
            text: Arc::new(text),
            messages: Arc::new(messages),
            scratch: Arc::new(scratch),
            stride,
            slots,
            events,
        };
        Decoded { batch, dead, timestamp_max_us }
    }

    /// Marks the late events, given the largest timestamp accepted before the batch; the rows of
    /// the dead letters that they are.
    pub fn judge(&self, batch: &mut EventBatch, carried_us: Option<i64>) -> Vec<Row> {
        self.judge_above(batch, carried_us, NO_WATERMARK)
    }

    /// As [`DecodePlan::judge`]; events below `floor_us` are late as well: the watermark that other
    /// sources had reached when this one had been silent.
    pub fn judge_above(
        &self,
        batch: &mut EventBatch,
        carried_us: Option<i64>,
        floor_us: i64,
    ) -> Vec<Row> {
        let mut largest_us = carried_us;
        let mut late = Vec::new();
        for (index, event) in batch.events.iter_mut().enumerate() {
            match largest_us {
                Some(largest)
                    if event.timestamp_us < largest.saturating_sub(self.settings.lateness_us) =>
                {
                    event.late = true;
                    late.push((index, Some(largest)));
                }
                _ if event.timestamp_us < floor_us => {
                    event.late = true;
                    late.push((index, None));
                }
                _ => largest_us = largest_us.max(Some(event.timestamp_us)),
            }
        }
        let row = |(index, largest): (usize, Option<i64>)| {
            let event = batch.events[index];
            let message = &batch.messages[event.message as usize];
            let behind = |us: i64| {
                waterwheel_config::units::format_duration(us.saturating_sub(event.timestamp_us))
            };
            let detail = match largest {
                Some(largest) => format!(
                    "{} behind the largest timestamp before it, lateness is {}",
                    behind(largest),
                    waterwheel_config::units::format_duration(self.settings.lateness_us),
                ),
                None => format!(
                    "{} behind the watermark that other sources reached while `{}` was silent",
                    behind(floor_us),
                    self.settings.name,
                ),
            };
            let letter =
                DeadLetter { reason: "late", detail, timestamp_us: Some(event.timestamp_us) };
            let payload = batch.text(message.payload.clone()).as_bytes();
            let subject = batch.text(message.subject.clone());
            dead_row(
                &self.name,
                &batch.stream,
                subject,
                message,
                payload,
                &letter,
                trace(&batch.text, message),
            )
        };
        late.into_iter().map(row).collect()
    }

    /// The watermark of a source whose largest accepted timestamp this is.
    pub fn watermark(&self, largest_us: i64) -> i64 {
        largest_us.saturating_sub(self.settings.lateness_us)
    }

    fn decode_message(
        &self,
        learned: &mut Learned<'_>,
        texts: &mut Texts,
        slots: &mut [Slot],
        message: &RawMessage,
    ) -> Result<i64, DeadLetter> {
        let size_bytes = u64::from(message.payload.end - message.payload.start);
        if size_bytes > self.settings.bytes_max {
            let detail = format!("{size_bytes} bytes, max_bytes is {}", self.settings.bytes_max);
            return Err(DeadLetter::new("too_large", detail));
        }
        let Texts { text, scratch, stream } = texts;
        let content = match &mut learned.payloads {
            Payloads::Json(names) => read_json(names, slots, text, scratch, message)?,
            Payloads::CloudEvents(events, modes) => {
                events.read(modes, slots, text, scratch, message)?
            }
        };
        for slot in &self.payload_slots {
            slots[*slot] = payload_slot(&content, text, scratch);
        }
        if content.is_hostile {
            self.sanitise_json(slots, text, scratch);
        }
        let minutes = &mut learned.minutes;
        let timestamp_us = self.envelope.fill(minutes, slots, text, scratch, stream, message)?;
        for (slot, kind) in &self.types {
            slots[*slot] = types::fitting(slots[*slot], *kind, text, scratch);
        }
        if let Some(received_at_us) = message.received_at_us
            && timestamp_us > received_at_us.saturating_add(self.settings.future_max_us)
        {
            let detail = format!(
                "{} past its broker timestamp, max_future is {}",
                waterwheel_config::units::format_duration(timestamp_us - received_at_us),
                waterwheel_config::units::format_duration(self.settings.future_max_us),
            );
            return Err(DeadLetter { reason: "future", detail, timestamp_us: Some(timestamp_us) });
        }
        let event = Draft { texts, slots };
        self.check_schema(&event, &content).map_err(|detail| DeadLetter {
            reason: "schema",
            detail,
            timestamp_us: Some(timestamp_us),
        })?;
        self.check_keys(&event, timestamp_us)?;
        Ok(timestamp_us)
    }

    /// What of the payload violates the schema of its event type, if that has one.
    fn check_schema(&self, event: &Draft<'_>, content: &Content) -> Result<(), String> {
        let Some(slot) = self.event_type_slot else {
            return Ok(());
        };
        let event_type = event.get(slot);
        let Some(event_type) = event_type.canonical_text() else {
            return Ok(());
        };
        if !self.settings.schemas.has(&event_type) {
            return Ok(());
        }
        let mut sane = String::new();
        let payload = match content.payload {
            Slot::Json { start, end } if content.is_hostile => {
                sanitise(event.texts.part(&(start..end)), &mut sane);
                sane.as_str()
            }
            Slot::Json { start, end } => event.texts.part(&(start..end)),
            _ => "null",
        };
        self.settings.schemas.violation(&event_type, payload).map_or(Ok(()), Err)
    }

    /// Objects and lists are handed on as written, so their escapes must be fit for every sink.
    fn sanitise_json(&self, slots: &mut [Slot], text: &str, scratch: &mut String) {
        for (slot, field) in slots.iter_mut().zip(&self.projection.fields) {
            if let Slot::Json { start, end } = *slot
                && *field != Field::Payload
            {
                let before = scratch.len() as u32;
                sanitise(text.get(start as usize..end as usize).unwrap_or_default(), scratch);
                *slot = Slot::ScratchJson { start: before, end: scratch.len() as u32 };
            }
        }
    }

    fn check_keys(&self, event: &Draft<'_>, timestamp_us: i64) -> Result<(), DeadLetter> {
        let long = |slot: &Slot| match slot {
            Slot::Text { start, end }
            | Slot::Scratch { start, end }
            | Slot::Json { start, end }
            | Slot::ScratchJson { start, end } => (end - start) as usize > KEY_BYTES_SAFE,
            _ => false,
        };
        let suspicious = event
            .slots
            .iter()
            .enumerate()
            .any(|(slot, value)| !self.payload_slots.contains(&slot) && long(value));
        if !suspicious {
            return Ok(());
        }
        // Rare: look at the event as operators will.
        let too_long = self.projection.keys.iter().any(|need| {
            need.condition.as_ref().is_none_or(|condition| condition.holds(event))
                && need.keys.iter().any(|key| {
                    let text = key.eval(event);
                    text.canonical_text().is_some_and(|text| text.len() > KEY_BYTES_MAX)
                })
        });
        if too_long {
            let detail = format!("a text of over {KEY_BYTES_MAX} bytes where a key is needed");
            return Err(DeadLetter {
                reason: "key_too_long",
                detail,
                timestamp_us: Some(timestamp_us),
            });
        }
        Ok(())
    }
}

/// The trace that a message carries, as the value that its row carries on.
fn trace(text: &str, message: &RawMessage) -> Option<Value> {
    match envelope::header(text, message, TRACEPARENT) {
        Slot::Text { start, end } => text.get(start as usize..end as usize).map(Value::text),
        _ => None,
    }
}

/// The text in a slot that holds one.
fn written<'t>(slot: Slot, text: &'t str, scratch: &'t str) -> Option<&'t str> {
    match slot {
        Slot::Text { start, end } => text.get(start as usize..end as usize),
        Slot::Scratch { start, end } => scratch.get(start as usize..end as usize),
        _ => None,
    }
}

fn read_json(
    names: &mut Names<'_>,
    slots: &mut [Slot],
    text: &str,
    scratch: &mut String,
    message: &RawMessage,
) -> Result<Content, DeadLetter> {
    let (start, end) = (message.payload.start, message.payload.end);
    let mut scanner = Scanner::new(text, start..end, names, scratch);
    scanner.scan(slots).map_err(explain)?;
    Ok(Content { payload: Slot::Json { start, end }, is_hostile: scanner.is_hostile })
}

fn payload_slot(content: &Content, text: &str, scratch: &mut String) -> Slot {
    match content.payload {
        Slot::Json { start, end } if content.is_hostile => {
            let before = scratch.len() as u32;
            sanitise(text.get(start as usize..end as usize).unwrap_or_default(), scratch);
            Slot::ScratchJson { start: before, end: scratch.len() as u32 }
        }
        payload => payload,
    }
}

fn explain(error: ScanError) -> DeadLetter {
    match error {
        ScanError::Syntax(at) => DeadLetter::new("not_json", format!("not JSON at byte {at}")),
        ScanError::NotObject => DeadLetter::new("not_object", "JSON, but not one object"),
        ScanError::NumberRange(at) => {
            DeadLetter::new("number_range", format!("a number beyond double range at byte {at}"))
        }
        ScanError::TooDeep => {
            DeadLetter::new("too_deep", format!("nested deeper than {DEPTH_MAX}"))
        }
    }
}

#[cfg(test)]
mod tests;
