//! What may pass: the events and rows that are read, each with its place among its neighbours.

use std::rc::Rc;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use waterwheel_config::expr::{Fields, Val};
use waterwheel_config::value::Row;
use waterwheel_pipeline::contract::batch::BatchBuilder;
use waterwheel_pipeline::contract::epoch::Epoch;
use waterwheel_pipeline::contract::event::{EventBatch, EventView};
use waterwheel_pipeline::contract::fold::Fold;
use waterwheel_pipeline::contract::operator::RowView;

use super::Plan;
use crate::key;
use crate::key::row_key;

/// Orders the items of a group: by time, then events by source and place in the log, rows by key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) time_us: i64,
    source: u16,
    ordinal: u64,
    /// The key of a row; events have their source and ordinal.
    key: Box<str>,
    row: Option<Row>,
}

/// An item that may pass.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Candidate {
    /// What it is grouped by.
    pub(super) group: Box<[u8]>,
    pub(super) place: Place,
    /// True if it matches `keep`.
    pub(super) is_kept: bool,
    /// A hash of its key.
    pub(super) draw: u64,
    /// Of events.
    pub(super) message: Option<Message>,
}

impl Candidate {
    pub(super) fn group_hash(&self) -> u64 {
        key::hash(&self.group)
    }
}

/// What passes.
#[derive(Clone, Debug)]
pub(super) enum Item {
    Row(Row),
    Message(Message),
}

impl Place {
    /// What passes of an item at this place.
    pub(super) fn item(&self, message: Option<Message>) -> Option<Item> {
        match &self.row {
            Some(row) => Some(Item::Row(row.clone())),
            None => message.map(Item::Message),
        }
    }

    /// About how much memory it takes.
    pub(super) fn size_bytes(&self) -> usize {
        let values = self.row.as_ref().map_or(0, |row| 64 * row.values().len());
        size_of::<Self>() + self.key.len() + values
    }
}

/// A message as it was read: an event can be made of it again, with any field.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Message {
    pub(super) source: u16,
    pub(super) stream: Arc<str>,
    pub(super) ordinal: u64,
    sequence: u64,
    received_at_us: Option<i64>,
    subject: Box<str>,
    headers: Box<str>,
    payload: Box<str>,
}

impl Message {
    fn of(event: &EventView<'_>) -> Option<Self> {
        let raw = event.message()?;
        Some(Self {
            source: event.source(),
            stream: event.stream().clone(),
            ordinal: raw.ordinal,
            sequence: raw.sequence,
            received_at_us: raw.received_at_us,
            subject: event.text(&raw.subject).into(),
            headers: event.text(&raw.headers).into(),
            payload: event.text(&raw.payload).into(),
        })
    }

    pub(super) fn push_to(&self, builder: &mut BatchBuilder) {
        builder.push(
            self.ordinal,
            self.sequence,
            self.received_at_us,
            self.subject.as_bytes(),
            self.headers.as_bytes(),
            self.payload.as_bytes(),
        );
    }

    /// About how much memory it takes.
    pub(super) fn size_bytes(&self) -> usize {
        size_of::<Self>() + self.subject.len() + self.headers.len() + self.payload.len()
    }
}

/// Finds the candidates among events and rows.
pub(super) struct ReadCandidates {
    plan: Arc<Plan>,
    group: Vec<u8>,
}

impl ReadCandidates {
    pub(super) fn new(plan: Arc<Plan>) -> Self {
        Self { plan, group: Vec::new() }
    }

    fn read<F: Fields>(
        &mut self,
        item: &F,
        key_text: impl FnOnce() -> String,
        place: impl FnOnce(String) -> Option<Place>,
        message: impl FnOnce() -> Option<Message>,
    ) -> Option<Candidate> {
        let plan = &self.plan;
        if plan.condition.as_ref().is_some_and(|condition| !condition.holds(item)) {
            return None;
        }
        let key_text = key_text();
        let draw = key::hash(key_text.as_bytes());
        plan.by.write(item, &mut self.group);
        if plan.by.programs.iter().any(|program| program.eval(item).is_null()) {
            // In a group of its own.
            self.group.extend_from_slice(key_text.as_bytes());
        }
        Some(Candidate {
            group: self.group.as_slice().into(),
            is_kept: plan.keep.as_ref().is_some_and(|keep| keep.holds(item)),
            place: place(key_text)?,
            draw,
            message: message(),
        })
    }
}

impl Fold<Rc<EventBatch>, Candidate> for ReadCandidates {
    const IS_PIECEWISE: bool = true;

    fn epoch(
        &mut self,
        _epoch: Epoch,
        batches: Vec<(Rc<EventBatch>, isize)>,
        output: &mut Vec<(Candidate, isize)>,
    ) {
        for (batch, times) in &batches {
            for event in batch.accepted() {
                let meta = event.meta();
                let place = |_| {
                    Some(Place {
                        time_us: meta.timestamp_us,
                        source: event.source(),
                        ordinal: meta.ordinal,
                        key: "".into(),
                        row: None,
                    })
                };
                let message = || Message::of(&event);
                let candidate = self.read(&event, || event.key_text(), place, message);
                output.extend(candidate.map(|candidate| (candidate, *times)));
            }
        }
    }
}

impl Fold<Row, Candidate> for ReadCandidates {
    const IS_PIECEWISE: bool = true;

    fn epoch(
        &mut self,
        _epoch: Epoch,
        rows: Vec<(Row, isize)>,
        output: &mut Vec<(Candidate, isize)>,
    ) {
        let plan = self.plan.clone();
        for (row, times) in rows {
            let view = RowView(&row);
            let time = plan.time_slot.map_or(Val::Null, |slot| view.get(slot));
            let place = |key: String| match time {
                Val::Timestamp(time_us) => Some(Place {
                    time_us,
                    source: 0,
                    ordinal: 0,
                    key: key.into(),
                    row: Some(row.clone()),
                }),
                // Nobody knows when it can no longer change.
                _ => None,
            };
            let candidate = self.read(&view, || row_key(&row, &plan.key_columns), place, || None);
            output.extend(candidate.map(|candidate| (candidate, times)));
        }
    }
}
