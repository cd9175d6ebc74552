//! Finds the steps that an event matches, where it was decoded.

use std::rc::Rc;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use waterwheel_config::expr::{Fields, Val};
use waterwheel_config::value::{Row, Value};
use waterwheel_pipeline::contract::epoch::Epoch;
use waterwheel_pipeline::contract::event::EventBatch;
use waterwheel_pipeline::contract::fold::Fold;
use waterwheel_pipeline::contract::operator::RowView;

use super::{Order, Plan};
use crate::key;

/// An event of a user that counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct UserEvent {
    /// Stands for the user (see [`key::identity`]).
    pub(super) user: u128,
    pub(super) event: StepEvent,
}

/// What of an event counts in a funnel. The order of the fields is the order of events (SPEC 4):
/// time, lowest matching step with none last, source, sequence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct StepEvent {
    pub(super) time_us: i64,
    pub(super) lowest_step: u8,
    pub(super) source: u16,
    /// Two halves, the upper one first, so that the whole takes less space.
    pub(super) sequence: (u64, u64),
    /// The steps that it matches, as bits; only a strict funnel has events that match none.
    pub(super) steps: u32,
    /// What it says of the breakdown, if a path may begin with it.
    pub(super) breakdown: Option<Arc<str>>,
}

impl StepEvent {
    pub(super) fn new(time_us: i64, source: u16, sequence: u128, steps: u32) -> Self {
        Self {
            time_us,
            // None is 32, after all steps.
            lowest_step: steps.trailing_zeros() as u8,
            source,
            sequence: ((sequence >> 64) as u64, sequence as u64),
            steps,
            breakdown: None,
        }
    }
}

/// Rows of operators come after the events of all sources.
const FIRST_ROW_SOURCE: u16 = 1 << 15;

/// Finds the steps of the items of one input.
pub(super) struct FindSteps {
    plan: Arc<Plan>,
    input: usize,
}

impl FindSteps {
    pub(super) fn new(plan: Arc<Plan>, input: usize) -> Self {
        Self { plan, input }
    }

    #[inline]
    fn find<F: Fields>(
        &self,
        item: &F,
        time_us: i64,
        source: u16,
        sequence: impl FnOnce() -> u128,
    ) -> Option<UserEvent> {
        let input = &self.plan.inputs[self.input];
        if let Some(condition) = &input.condition
            && !condition.holds(item)
        {
            return None;
        }
        let mut steps = 0u32;
        for (index, step) in input.steps.iter().enumerate() {
            if step.holds(item) {
                steps |= 1 << index;
            }
        }
        let order = self.plan.rules.order;
        // Between the steps of a strict funnel every event counts.
        if steps == 0 && order != Order::Strict {
            return None;
        }
        let user = key::identity(&input.user.eval(item))?;
        let mut event = StepEvent::new(time_us, source, sequence(), steps);
        if let Some(breakdown) = &input.breakdown
            && order.may_begin(steps)
        {
            event.breakdown =
                breakdown.eval(item).canonical_text().map(|text| text.as_ref().into());
        }
        Some(UserEvent { user, event })
    }
}

impl Fold<Rc<EventBatch>, UserEvent> for FindSteps {
    const IS_PIECEWISE: bool = true;

    fn epoch(
        &mut self,
        _epoch: Epoch,
        batches: Vec<(Rc<EventBatch>, isize)>,
        output: &mut Vec<(UserEvent, isize)>,
    ) {
        for (batch, _) in &batches {
            for event in batch.accepted() {
                let meta = event.meta();
                let sequence = || u128::from(meta.ordinal);
                let found = self.find(&event, meta.timestamp_us, event.source(), sequence);
                output.extend(found.map(|event| (event, 1)));
            }
        }
    }
}

impl Fold<Row, UserEvent> for FindSteps {
    const IS_PIECEWISE: bool = true;

    fn epoch(
        &mut self,
        _epoch: Epoch,
        rows: Vec<(Row, isize)>,
        output: &mut Vec<(UserEvent, isize)>,
    ) {
        let input = &self.plan.inputs[self.input];
        for (row, times) in &rows {
            let view = RowView(row);
            let Some(Val::Timestamp(time_us)) = input.time_slot.map(|slot| view.get(slot)) else {
                continue;
            };
            // Rows have no sequence; a hash of their key orders them the same in every run.
            let sequence = || {
                let key: Vec<String> = row.key(&input.key_columns).map(Value::to_plain).collect();
                xxhash_rust::xxh3::xxh3_128(key.join("|").as_bytes())
            };
            let source = FIRST_ROW_SOURCE + self.input as u16;
            let found = self.find(&view, time_us, source, sequence);
            output.extend(found.map(|event| (event, *times)));
        }
    }
}
