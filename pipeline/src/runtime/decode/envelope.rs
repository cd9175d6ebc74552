//! The envelope: which fields the deployment reads, where each comes from, and what stands in for
//! an absent one (SPEC 2).

use std::fmt::Write;

use waterwheel_config::expr::Number;
use waterwheel_config::timestamp::{self, Minutes};

use super::Wanted;
use super::dead::DeadLetter;
use crate::contract::batch::RawMessage;
use crate::contract::event::{Envelope, Field, Projection, Slot};
use crate::contract::mapping::{EventFormat, EventMapping, Origin};

/// The wanted fields of the envelope, by slot. What comes from the payload and from attributes is
/// in its slot already.
#[derive(Debug)]
pub(super) struct EnvelopePlan {
    fields: Vec<EnvelopeField>,
    timestamp_slot: usize,
    /// True where the timestamp comes from what is always text, so that digits are a number.
    timestamp_is_text: bool,
    /// Headers that are wanted as such.
    headers: Vec<(usize, &'static str)>,
    /// True while nothing maps `id` elsewhere: then a `Nats-Msg-Id` header stands in for it.
    id_falls_back: bool,
}

#[derive(Debug)]
struct EnvelopeField {
    slot: usize,
    envelope: Envelope,
    origin: Option<Origin>,
    /// The slot of what stands in for the field where it is absent.
    fallback: Option<usize>,
}

impl EnvelopePlan {
    /// Plans the wanted fields, and notes which paths and attributes they need.
    pub(super) fn new(
        mapping: &EventMapping,
        projection: &mut Projection,
        wanted: &mut Wanted,
    ) -> Self {
        // Event time is always needed.
        let timestamp_slot = projection.slot(&Field::Envelope(Envelope::Timestamp));
        let mut fields = Vec::new();
        let mut headers = Vec::new();
        for (slot, field) in projection.fields.clone().iter().enumerate() {
            if let Field::Header(name) = field {
                headers.push((slot, *name));
                // The extension for distributed tracing.
                if mapping.format() == EventFormat::CloudEvents {
                    wanted.attributes.push(((*name).to_owned(), slot));
                }
            }
            let Field::Envelope(envelope) = field else {
                continue;
            };
            let origin = mapping.origin(*envelope);
            match &origin {
                Some(Origin::Path(path)) => wanted.paths.push((path.clone(), slot)),
                Some(Origin::Attribute(name)) => wanted.attributes.push((name.clone(), slot)),
                _ => {}
            }
            let fallback = mapping.fallback(*envelope).map(|path| {
                // A slot of its own: the field's own holds what the attribute says.
                let fallback = projection.slot(&Field::Fallback(*envelope));
                wanted.paths.push((path, fallback));
                fallback
            });
            fields.push(EnvelopeField { slot, envelope: *envelope, origin, fallback });
        }
        let id_falls_back = mapping.mapped(Envelope::Id).is_none();
        let timestamp_is_text = matches!(
            mapping.origin(Envelope::Timestamp),
            Some(Origin::Header(_) | Origin::SubjectToken(_) | Origin::Literal(_))
        );
        Self { fields, timestamp_slot, timestamp_is_text, headers, id_falls_back }
    }

    /// Fills what the payload did not; the event's timestamp.
    pub(super) fn fill(
        &self,
        minutes: &mut Minutes,
        slots: &mut [Slot],
        text: &str,
        scratch: &mut String,
        stream: &str,
        message: &RawMessage,
    ) -> Result<i64, DeadLetter> {
        for EnvelopeField { slot, envelope, origin, fallback } in &self.fields {
            let found = match origin {
                Some(Origin::Path(_) | Origin::Attribute(_)) => match (slots[*slot], fallback) {
                    (Slot::Null, Some(fallback)) => slots[*fallback],
                    (found, _) => found,
                },
                Some(Origin::Header(name)) => header(text, message, name),
                Some(Origin::SubjectToken(token)) => subject_token(text, message, *token),
                Some(Origin::Literal(literal)) => write(scratch, |out| out.push_str(literal)),
                None => Slot::Null,
            };
            let subject = Slot::Text { start: message.subject.start, end: message.subject.end };
            slots[*slot] = match (envelope, found) {
                (Envelope::Subject, _) => subject,
                (Envelope::Stream, _) => Slot::Stream,
                (Envelope::Sequence, _) => match i64::try_from(message.sequence) {
                    Ok(sequence) => Slot::Integer(sequence),
                    Err(_) => Slot::Unsigned(message.sequence),
                },
                (Envelope::ReceivedAt, _) => {
                    message.received_at_us.map_or(Slot::Null, Slot::Timestamp)
                }
                (Envelope::EventType, Slot::Null) => subject,
                (Envelope::Id, Slot::Null) => {
                    let given = match self.id_falls_back {
                        true => header(text, message, "Nats-Msg-Id"),
                        false => Slot::Null,
                    };
                    match given {
                        Slot::Null => write(scratch, |out| {
                            // Writing to a String cannot fail.
                            let _ = write!(out, "{stream}:{}", message.sequence);
                        }),
                        given => given,
                    }
                }
                (_, found) => found,
            };
        }
        for (slot, name) in &self.headers {
            match header(text, message, name) {
                // What an attribute said stays.
                Slot::Null => {}
                found => slots[*slot] = found,
            }
        }
        let timestamp_us =
            self.timestamp(minutes, slots[self.timestamp_slot], text, scratch, message)?;
        slots[self.timestamp_slot] = Slot::Timestamp(timestamp_us);
        Ok(timestamp_us)
    }

    fn timestamp(
        &self,
        minutes: &mut Minutes,
        slot: Slot,
        text: &str,
        scratch: &str,
        message: &RawMessage,
    ) -> Result<i64, DeadLetter> {
        let piece = |text: &'_ str, start: u32, end: u32| {
            text.get(start as usize..end as usize).unwrap_or_default().to_owned()
        };
        let unreadable = |shown: String| {
            let shown: String = shown.chars().take(64).collect();
            DeadLetter::new("bad_timestamp", format!("`{shown}` is no timestamp"))
        };
        let read = match slot {
            Slot::Null => {
                return message.received_at_us.ok_or_else(|| {
                    DeadLetter::new(
                        "bad_timestamp",
                        "the event has no timestamp, and a file has none for it",
                    )
                });
            }
            Slot::Text { start, end } => {
                let written = text.get(start as usize..end as usize).unwrap_or_default();
                self.parse(minutes, written).ok_or_else(|| piece(text, start, end))
            }
            Slot::Scratch { start, end } => {
                let written = piece(scratch, start, end);
                self.parse(minutes, &written).ok_or(written)
            }
            Slot::Integer(number) => {
                timestamp::from_integer(number.into()).ok_or_else(|| number.to_string())
            }
            Slot::Unsigned(number) => {
                timestamp::from_integer(number.into()).ok_or_else(|| number.to_string())
            }
            Slot::Float(number) => Err(number.to_string()),
            Slot::Boolean(flag) => Err(flag.to_string()),
            Slot::Json { start, end } => Err(piece(text, start, end)),
            Slot::ScratchJson { start, end } => Err(piece(scratch, start, end)),
            Slot::Timestamp(micros) => Ok(micros),
            Slot::Stream => Err("the stream".to_owned()),
        };
        read.map_err(unreadable)
    }

    fn parse(&self, minutes: &mut Minutes, written: &str) -> Option<i64> {
        minutes.parse(written).or_else(|| match Number::parse(written) {
            Some(Number::Integer(number)) if self.timestamp_is_text => {
                timestamp::from_integer(number)
            }
            _ => None,
        })
    }
}

/// What `fill` appends, as a slot.
pub(super) fn write(scratch: &mut String, fill: impl FnOnce(&mut String)) -> Slot {
    let start = scratch.len() as u32;
    fill(scratch);
    Slot::Scratch { start, end: scratch.len() as u32 }
}

/// The first header with this name, in any case.
pub(super) fn header(text: &str, message: &RawMessage, name: &str) -> Slot {
    headers(text, message)
        .find(|(key, ..)| key.eq_ignore_ascii_case(name))
        .map_or(Slot::Null, |(_, start, end)| Slot::Text { start, end })
}

/// Every header: its name, and where its value begins and ends.
pub(super) fn headers<'t>(
    text: &'t str,
    message: &RawMessage,
) -> impl Iterator<Item = (&'t str, u32, u32)> {
    let mut at = message.headers.start as usize;
    let all = text.get(at..message.headers.end as usize).unwrap_or_default();
    all.split("\r\n").filter_map(move |line| {
        let start = at;
        at += line.len() + 2;
        let (key, value) = line.split_once(':')?;
        let trimmed = value.trim();
        let from = start + key.len() + 1 + (value.len() - value.trim_start().len());
        Some((key, from as u32, (from + trimmed.len()) as u32))
    })
}

/// The n-th token of the subject, from 1.
fn subject_token(text: &str, message: &RawMessage, token: usize) -> Slot {
    let start = message.subject.start;
    let subject = text.get(start as usize..message.subject.end as usize).unwrap_or_default();
    let mut from = 0;
    for (index, piece) in subject.split('.').enumerate() {
        if index + 1 == token {
            let from = start + from as u32;
            return Slot::Text { start: from, end: from + piece.len() as u32 };
        }
        from += piece.len() + 1;
    }
    Slot::Null
}
