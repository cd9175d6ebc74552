//! The events and rows that are read, by their ids.

use std::rc::Rc;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use waterwheel_config::expr::{Fields, Program, Val};
use waterwheel_config::value::{Row, Value};
use waterwheel_pipeline::contract::epoch::Epoch;
use waterwheel_pipeline::contract::event::EventBatch;
use waterwheel_pipeline::contract::fold::Fold;
use waterwheel_pipeline::contract::operator::RowView;

use super::{InputPrograms, Plan};
use crate::key::row_key;

/// Which of several with one id is the first: events by their place in the log, then rows by time
/// and key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Place {
    /// Behind all sources for rows.
    source: u32,
    ordinal: u64,
    time_us: i64,
    key: Box<str>,
}

/// What is known of an event.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Facts {
    pub(super) time_us: i64,
    pub(super) id: Arc<str>,
    pub(super) cause: Option<Arc<str>>,
    /// Text or NULL.
    pub(super) event_type: Value,
}

/// An event or row with an id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Named {
    pub(super) place: Place,
    pub(super) facts: Facts,
}

impl Named {
    pub(super) fn id_hash(&self) -> u64 {
        id_hash(&self.facts.id) as u64
    }
}

/// Stands for an id.
pub(super) fn id_hash(id: &str) -> u128 {
    xxhash_rust::xxh3::xxh3_128(id.as_bytes())
}

/// Finds what has an id.
pub(super) struct ReadNamed {
    plan: Arc<Plan>,
    input: usize,
}

impl ReadNamed {
    pub(super) fn new(plan: Arc<Plan>, input: usize) -> Self {
        Self { plan, input }
    }

    fn programs(&self) -> &InputPrograms {
        &self.plan.inputs[self.input]
    }
}

impl InputPrograms {
    fn facts<F: Fields>(&self, item: &F, time_us: i64) -> Option<Facts> {
        if self.condition.as_ref().is_some_and(|condition| !condition.holds(item)) {
            return None;
        }
        let text = |program: &Program| {
            program.eval(item).canonical_text().map(|text| Arc::<str>::from(text.as_ref()))
        };
        Some(Facts {
            time_us,
            // What has no id is nobody's cause and has no row.
            id: text(&self.id)?,
            cause: text(&self.cause),
            event_type: text(&self.event_type)
                .map_or(Value::Null, |event_type| Value::Text(event_type.into())),
        })
    }
}

impl Fold<Rc<EventBatch>, Named> for ReadNamed {
    const IS_PIECEWISE: bool = true;

    fn epoch(
        &mut self,
        _epoch: Epoch,
        batches: Vec<(Rc<EventBatch>, isize)>,
        output: &mut Vec<(Named, isize)>,
    ) {
        for (batch, times) in &batches {
            for event in batch.accepted() {
                let meta = event.meta();
                let Some(facts) = self.programs().facts(&event, meta.timestamp_us) else {
                    continue;
                };
                let place = Place {
                    source: event.source().into(),
                    ordinal: meta.ordinal,
                    time_us: meta.timestamp_us,
                    key: "".into(),
                };
                output.push((Named { place, facts }, *times));
            }
        }
    }
}

impl Fold<Row, Named> for ReadNamed {
    const IS_PIECEWISE: bool = true;

    fn epoch(&mut self, _epoch: Epoch, rows: Vec<(Row, isize)>, output: &mut Vec<(Named, isize)>) {
        let programs = self.programs();
        for (row, times) in rows {
            let view = RowView(&row);
            let time = programs.time_slot.map_or(Val::Null, |slot| view.get(slot));
            let Val::Timestamp(time_us) = time else {
                continue;
            };
            let Some(facts) = programs.facts(&view, time_us) else {
                continue;
            };
            let key = row_key(&row, &programs.key_columns).into();
            let place = Place { source: u32::MAX, ordinal: 0, time_us, key };
            output.push((Named { place, facts }, times));
        }
    }
}
