//! Combines the items of one epoch on one worker into a partial per group and pane.
//!
//! What crosses threads is proportional to the distinct groups of an epoch, not to its events. This
//! is the hottest loop of an aggregate: per event one key is written into a reused buffer, one table
//! is probed, and nothing is allocated unless the group is new.

use std::rc::Rc;
use std::sync::Arc;

use hashbrown::HashTable;
use serde::{Deserialize, Serialize};
use waterwheel_config::calendar::Window;
use waterwheel_config::expr::{Fields, Val};
use waterwheel_config::value::{Row, Value};
use waterwheel_pipeline::contract::epoch::Epoch;
use waterwheel_pipeline::contract::event::EventBatch;
use waterwheel_pipeline::contract::operator::RowView;

use super::{Plan, accumulators};
use crate::accumulator::{Accumulator, Place, ROWS};
use crate::key;
use waterwheel_pipeline::contract::fold::Fold;

/// What one worker saw of one group in one pane during one epoch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Partial {
    /// The hash of the key: names the owner.
    pub(super) hash: u64,
    /// The index of the pane's period in the plan.
    pub(super) pane: u8,
    /// The pane's start.
    pub(super) start: i64,
    /// The group.
    pub(super) key: Box<[u8]>,
    /// How many rows came, less those taken back.
    pub(super) rows: i64,
    /// One per accumulator of the plan.
    pub(super) accumulators: Vec<Accumulator>,
}

/// Combines the items of one input.
pub(super) struct Combiner {
    plan: Arc<Plan>,
    input: usize,
    table: HashTable<u32>,
    partials: Vec<Partial>,
    key: Vec<u8>,
    /// The pane last used of each period: neighbouring events mostly share it.
    panes: Vec<Window>,
}

impl Combiner {
    pub(super) fn new(plan: Arc<Plan>, input: usize) -> Self {
        let panes = vec![Window { start: 0, end: 0 }; plan.panes.len()];
        Self { plan, input, table: HashTable::new(), partials: Vec::new(), key: Vec::new(), panes }
    }

    #[inline]
    fn add<F: Fields>(&mut self, item: &F, place: &Place, times: isize) {
        let input = &self.plan.inputs[self.input];
        if let Some(condition) = &input.condition
            && !condition.holds(item)
        {
            return;
        }
        input.key.write(item, &mut self.key);
        let hash = key::hash(&self.key);
        for (pane, period) in self.plan.panes.iter().enumerate() {
            if !self.panes[pane].contains(place.time_us) {
                self.panes[pane] = period.window(place.time_us);
            }
            let start = self.panes[pane].start;
            let partials = &self.partials;
            let same = |index: &u32| {
                let partial = &partials[*index as usize];
                partial.hash == hash
                    && partial.start == start
                    && usize::from(partial.pane) == pane
                    && *partial.key == *self.key
            };
            let spread = spread(hash, start);
            let index = match self.table.find(spread, same) {
                Some(index) => *index,
                None => {
                    let index = self.partials.len() as u32;
                    let rehash = |index: &u32| {
                        let partial = &partials[*index as usize];
                        self::spread(partial.hash, partial.start)
                    };
                    self.table.insert_unique(spread, index, rehash);
                    self.partials.push(Partial {
                        hash,
                        pane: pane as u8,
                        start,
                        key: self.key.as_slice().into(),
                        rows: 0,
                        accumulators: accumulators(&self.plan),
                    });
                    index
                }
            };
            let partial = &mut self.partials[index as usize];
            partial.rows += times as i64;
            for (accumulator, feed) in partial.accumulators.iter_mut().zip(&input.feeds) {
                if let Some(filter) = &feed.filter
                    && !filter.holds(item)
                {
                    continue;
                }
                match &feed.argument {
                    Some(argument) => accumulator.add(&argument.eval(item), times, place),
                    None => accumulator.add(&Val::Boolean(true), times, place),
                }
            }
        }
    }

    fn finish(&mut self, output: &mut Vec<(Partial, isize)>) {
        self.table.clear();
        output.extend(self.partials.drain(..).map(|partial| (partial, 1)));
    }
}

/// Spreads the panes of one group over the table.
fn spread(hash: u64, start: i64) -> u64 {
    hash ^ start.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Orders rows of one time, the same in every run.
fn row_sequence(row: &Row, key_columns: &[usize]) -> u128 {
    let key: Vec<String> = row.key(key_columns).map(Value::to_plain).collect();
    xxhash_rust::xxh3::xxh3_128(key.join("|").as_bytes())
}

impl Fold<Rc<EventBatch>, Partial> for Combiner {
    const IS_PIECEWISE: bool = true;

    fn epoch(
        &mut self,
        _epoch: Epoch,
        batches: Vec<(Rc<EventBatch>, isize)>,
        _output: &mut Vec<(Partial, isize)>,
    ) {
        for (batch, _) in &batches {
            for event in batch.accepted() {
                let meta = event.meta();
                let place = Place {
                    time_us: meta.timestamp_us,
                    source: event.source(),
                    sequence: meta.ordinal.into(),
                };
                self.add(&event, &place, 1);
            }
        }
    }

    fn end(&mut self, _epoch: Epoch, output: &mut Vec<(Partial, isize)>) {
        self.finish(output);
    }
}

impl Fold<Row, Partial> for Combiner {
    const IS_PIECEWISE: bool = true;

    fn epoch(
        &mut self,
        _epoch: Epoch,
        rows: Vec<(Row, isize)>,
        _output: &mut Vec<(Partial, isize)>,
    ) {
        let plan = self.plan.clone();
        let input = &plan.inputs[self.input];
        for (row, times) in &rows {
            let view = RowView(row);
            let time_us = match input.time_slot.map(|slot| view.get(slot)) {
                Some(Val::Timestamp(time_us)) => time_us,
                // A row without a time belongs to no window.
                Some(_) => continue,
                None => 0,
            };
            let sequence = if plan.is_ordered { row_sequence(row, &input.key_columns) } else { 0 };
            self.add(&view, &Place { time_us, source: ROWS, sequence }, *times);
        }
    }

    fn end(&mut self, _epoch: Epoch, output: &mut Vec<(Partial, isize)>) {
        self.finish(output);
    }
}
