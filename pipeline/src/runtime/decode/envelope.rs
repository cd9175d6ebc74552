//! The envelope: which fields the deployment reads, where each comes from, and what stands in for
//! an absent one (SPEC 2).

use std::fmt::Write;

use waterwheel_config::timestamp;

use super::dead::DeadLetter;
use super::scan::PathTrie;
use crate::contract::batch::RawMessage;
use crate::contract::event::{Envelope, Field, Projection, Slot};
use crate::contract::mapping::{EventMapping, Origin};

/// The wanted fields of the envelope, by slot. Fields from the payload are filled by the scan.
#[derive(Debug)]
pub(super) struct EnvelopePlan {
    fields: Vec<(usize, Envelope, Option<Origin>)>,
    timestamp_slot: usize,
    /// Headers that are wanted as such.
    headers: Vec<(usize, &'static str)>,
    /// True while nothing maps `id` elsewhere: then a `Nats-Msg-Id` header stands in for it.
    id_falls_back: bool,
}

impl EnvelopePlan {
    pub(super) fn new(
        mapping: &EventMapping,
        projection: &mut Projection,
        trie: &mut PathTrie,
    ) -> Self {
        // Event time is always needed.
        let timestamp_slot = projection.slot(&Field::Envelope(Envelope::Timestamp));
        let mut fields = Vec::new();
        let mut headers = Vec::new();
        for (slot, field) in projection.fields.iter().enumerate() {
            if let Field::Header(name) = field {
                headers.push((slot, *name));
            }
            let Field::Envelope(envelope) = field else {
                continue;
            };
            let origin = mapping.origin(*envelope);
            if let Some(Origin::Path(path)) = &origin {
                trie.insert(path, slot);
            }
            fields.push((slot, *envelope, origin));
        }
        let id_falls_back = mapping.mapped(Envelope::Id).is_none();
        Self { fields, timestamp_slot, headers, id_falls_back }
    }

    /// Fills what the payload did not; the event's timestamp.
    pub(super) fn fill(
        &self,
        slots: &mut [Slot],
        text: &str,
        scratch: &mut String,
        stream: &str,
        message: &RawMessage,
    ) -> Result<i64, DeadLetter> {
        for (slot, envelope, origin) in &self.fields {
            let found = match origin {
                Some(Origin::Path(_)) => slots[*slot],
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
            slots[*slot] = header(text, message, name);
        }
        let timestamp_us = self.timestamp(slots[self.timestamp_slot], text, scratch, message)?;
        slots[self.timestamp_slot] = Slot::Timestamp(timestamp_us);
        Ok(timestamp_us)
    }

    fn timestamp(
        &self,
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
                timestamp::parse(written).ok_or_else(|| piece(text, start, end))
            }
            Slot::Scratch { start, end } => {
                let written = piece(scratch, start, end);
                timestamp::parse(&written).ok_or(written)
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
}

fn write(scratch: &mut String, fill: impl FnOnce(&mut String)) -> Slot {
    let start = scratch.len() as u32;
    fill(scratch);
    Slot::Scratch { start, end: scratch.len() as u32 }
}

/// The first header with this name, in any case.
pub(super) fn header(text: &str, message: &RawMessage, name: &str) -> Slot {
    let mut start = message.headers.start as usize;
    let end = message.headers.end as usize;
    let all = text.get(start..end).unwrap_or_default();
    for line in all.split("\r\n") {
        if let Some((key, value)) = line.split_once(':')
            && key.eq_ignore_ascii_case(name)
        {
            let trimmed = value.trim();
            let skipped = key.len() + 1 + (value.len() - value.trim_start().len());
            let from = (start + skipped) as u32;
            return Slot::Text { start: from, end: from + trimmed.len() as u32 };
        }
        start += line.len() + 2;
    }
    Slot::Null
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
