//! Messages read again: what is an event, what is late, what is dead, from the log alone (SPEC 2, 3).

use chrono::{DateTime, NaiveDateTime};

use super::cell::Cell;
use super::log::Message;

/// Anything with named values.
pub(crate) trait Item {
    /// The value of a name as expressions know it.
    fn get(&self, name: &str) -> Cell;
}

/// An event.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// The index of its source.
    pub(crate) source: usize,
    /// The sequence that users see.
    pub(crate) sequence: u64,
    /// Event time.
    pub(crate) timestamp_us: i64,
    subject: String,
    payload: serde_json::Value,
}

impl Event {
    fn read(message: &Message) -> Option<Self> {
        let payload: serde_json::Value = serde_json::from_str(&message.payload).ok()?;
        let timestamp = Cell::from_json(payload.as_object()?.get("timestamp"));
        let timestamp_us = match timestamp {
            Cell::Null => message.received_at_us?,
            Cell::Text(text) => read_time(&text)?,
            Cell::Integer(number) => from_integer(number)?,
            _ => return None,
        };
        Some(Self {
            source: message.source,
            sequence: message.sequence,
            timestamp_us,
            subject: message.subject.clone(),
            payload,
        })
    }

    /// The key: `<stream>:<sequence>`.
    pub(crate) fn key(&self) -> String {
        format!("{}:{}", Message::stream(self.source), self.sequence)
    }
}

impl Item for Event {
    fn get(&self, name: &str) -> Cell {
        let found = name.split('.').try_fold(&self.payload, |json, part| json.get(part));
        let found = Cell::from_json(found);
        match name {
            "timestamp" => Cell::Time(self.timestamp_us),
            "subject" => Cell::text(&self.subject),
            "stream" => Cell::Text(Message::stream(self.source)),
            "sequence" => Cell::Integer(self.sequence.into()),
            "event_type" if found.is_null() => Cell::text(&self.subject),
            "id" if found.is_null() => Cell::Text(self.key()),
            _ => found,
        }
    }
}

fn read_time(text: &str) -> Option<i64> {
    if let Ok(time) = DateTime::parse_from_rfc3339(&text.replacen(' ', "T", 1)) {
        return Some(time.timestamp_micros());
    }
    let bare = text.replacen(' ', "T", 1);
    let time = NaiveDateTime::parse_from_str(&bare, "%Y-%m-%dT%H:%M:%S%.f").ok()?;
    Some(time.and_utc().timestamp_micros())
}

fn from_integer(number: i128) -> Option<i64> {
    let micros = match number.unsigned_abs() {
        0..100_000_000_000 => number * 1_000_000,
        100_000_000_000..100_000_000_000_000 => number * 1_000,
        100_000_000_000_000..100_000_000_000_000_000 => number,
        _ => number.div_euclid(1_000),
    };
    let micros = i64::try_from(micros).ok()?;
    // Years 1 to 9999.
    (-62_135_596_800_000_000..253_402_300_800_000_000).contains(&micros).then_some(micros)
}

/// What becomes of a message.
#[derive(Clone, Debug)]
pub(crate) enum Verdict {
    /// It takes part.
    Accepted(Event),
    /// It came too late.
    Late(Event),
    /// It is no event.
    Dead,
}

/// Judges the messages of all sources in log order.
#[derive(Clone, Debug)]
pub(crate) struct Judge {
    lateness_us: Vec<i64>,
    largest_us: Vec<Option<i64>>,
}

impl Judge {
    /// A judge before the first message, with the lateness of each source.
    pub(crate) fn new(lateness_us: &[i64]) -> Self {
        Self { lateness_us: lateness_us.to_vec(), largest_us: vec![None; lateness_us.len()] }
    }

    /// What becomes of the next message of its source; `is_dead` knows what else the deployment
    /// refuses (a key that is too long).
    pub(crate) fn judge(&mut self, message: &Message, is_dead: &dyn Fn(&Event) -> bool) -> Verdict {
        let Some(event) = Event::read(message).filter(|event| !is_dead(event)) else {
            return Verdict::Dead;
        };
        // `max_future` is the lateness where the deployment does not say.
        let lateness_us = self.lateness_us[event.source];
        if message.received_at_us.is_some_and(|at| event.timestamp_us > at + lateness_us) {
            return Verdict::Dead;
        }
        let largest_us = &mut self.largest_us[event.source];
        match *largest_us {
            Some(largest) if event.timestamp_us < largest - lateness_us => Verdict::Late(event),
            _ => {
                *largest_us = (*largest_us).max(Some(event.timestamp_us));
                Verdict::Accepted(event)
            }
        }
    }

    /// The least watermark of all sources.
    pub(crate) fn watermark_us(&self) -> Option<i64> {
        let watermarks = self.largest_us.iter().zip(&self.lateness_us);
        watermarks.map(|(largest, lateness)| Some((*largest)? - lateness)).min().flatten()
    }
}
