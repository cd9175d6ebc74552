//! Finds the key of an event and what of it counts, where it was decoded.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;

use waterwheel_config::expr::{Fields, Program, Val};
use waterwheel_config::value::{Row, Value};
use waterwheel_pipeline::contract::epoch::Epoch;
use waterwheel_pipeline::contract::event::EventBatch;
use waterwheel_pipeline::contract::fold::Fold;
use waterwheel_pipeline::contract::operator::RowView;

use super::{KeyedEvent, SpanEvent};
use crate::key::{self, KeyPlan};

/// The programs over one input.
#[derive(Debug)]
pub(crate) struct InputPrograms {
    /// What an item must meet to count.
    pub(crate) condition: Option<Program>,
    /// The key.
    pub(crate) key: KeyPlan,
    /// The operator's conditions; they become [`SpanEvent::marks`].
    pub(crate) marks: Vec<Program>,
    /// Where the event type stands, if there is one.
    pub(crate) event_type: Option<usize>,
    /// The column of event time; events have their own.
    pub(crate) time_slot: Option<usize>,
    /// Of rows: the columns that make the row's key.
    pub(crate) key_columns: Vec<usize>,
}

/// Which items an operator needs, and what of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// All, in order, with their types.
    Everything,
    /// Those with a mark; of one moment those with the first mark come first, and their order does
    /// not count otherwise.
    Marked,
}

/// Rows of operators come after the events of all sources.
const FIRST_ROW_SOURCE: u16 = 1 << 15;

/// So many types are remembered; a stream that makes up more of them costs an allocation per event.
const REMEMBERED_TYPES: usize = 4096;

/// Finds what counts of the items of one input.
pub(super) struct FindEvents {
    inputs: Arc<[InputPrograms]>,
    input: usize,
    need: Need,
    key: Vec<u8>,
    types: Types,
}

impl FindEvents {
    pub(super) fn new(inputs: Arc<[InputPrograms]>, input: usize, need: Need) -> Self {
        Self { inputs, input, need, key: Vec::new(), types: Types::default() }
    }

    #[inline]
    fn find<F: Fields>(
        &mut self,
        item: &F,
        time_us: i64,
        place: impl FnOnce() -> (u16, (u64, u64)),
    ) -> Option<KeyedEvent> {
        let input = &self.inputs[self.input];
        if let Some(condition) = &input.condition
            && !condition.holds(item)
        {
            return None;
        }
        let mut marks = 0u8;
        for (index, mark) in input.marks.iter().enumerate() {
            if mark.holds(item) {
                marks |= 1 << index;
            }
        }
        if self.need == Need::Marked && marks == 0 {
            return None;
        }
        if !input.key.write_known(item, &mut self.key) {
            return None;
        }
        let event = match self.need {
            Need::Everything => {
                let (source, sequence) = place();
                let event_type =
                    input.event_type.and_then(|slot| self.types.shared(&item.get(slot)));
                SpanEvent { time_us, source, sequence, marks, event_type }
            }
            Need::Marked => {
                let sequence = (0, u64::from(marks & 1 == 0));
                SpanEvent { time_us, source: 0, sequence, marks, event_type: None }
            }
        };
        Some(KeyedEvent { key: self.key.as_slice().into(), event })
    }
}

/// The types of events that came lately; there are few, so that they are shared.
#[derive(Default)]
struct Types(HashSet<Arc<str>>);

impl Types {
    fn shared(&mut self, value: &Val<'_>) -> Option<Arc<str>> {
        let text = value.canonical_text()?;
        if let Some(known) = self.0.get(&*text) {
            return Some(known.clone());
        }
        if self.0.len() >= REMEMBERED_TYPES {
            self.0.clear();
        }
        let shared: Arc<str> = text.as_ref().into();
        self.0.insert(shared.clone());
        Some(shared)
    }
}

impl Fold<Rc<EventBatch>, KeyedEvent> for FindEvents {
    const IS_PIECEWISE: bool = true;

    fn epoch(
        &mut self,
        _epoch: Epoch,
        batches: Vec<(Rc<EventBatch>, isize)>,
        output: &mut Vec<(KeyedEvent, isize)>,
    ) {
        for (batch, _) in &batches {
            for event in batch.accepted() {
                let meta = event.meta();
                let place = || (event.source(), (0, meta.ordinal));
                let found = self.find(&event, meta.timestamp_us, place);
                output.extend(found.map(|event| (event, 1)));
            }
        }
    }
}

impl Fold<Row, KeyedEvent> for FindEvents {
    const IS_PIECEWISE: bool = true;

    fn epoch(
        &mut self,
        _epoch: Epoch,
        rows: Vec<(Row, isize)>,
        output: &mut Vec<(KeyedEvent, isize)>,
    ) {
        let inputs = self.inputs.clone();
        let input = &inputs[self.input];
        let source = FIRST_ROW_SOURCE + self.input as u16;
        for (row, times) in &rows {
            let view = RowView(row);
            let Some(Val::Timestamp(time_us)) = input.time_slot.map(|slot| view.get(slot)) else {
                continue;
            };
            let place = || {
                let key: Vec<String> = row.key(&input.key_columns).map(Value::to_plain).collect();
                (source, key::place(&key.join("|")))
            };
            let found = self.find(&view, time_us, place);
            output.extend(found.map(|event| (event, *times)));
        }
    }
}
