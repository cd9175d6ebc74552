//! Lets each row of an operator out once, when it can no longer change.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use timely::dataflow::channels::pact::Pipeline;
use waterwheel_config::schema::Finality;
use waterwheel_config::value::Row;
use xxhash_rust::xxh3::Xxh3;

use crate::contract::clock::{Clock, Watermark};
use crate::contract::epoch::{Epoch, NO_WATERMARK};
use crate::contract::fold::{Fold, every_epoch_kept};
use crate::contract::operator::Rows;
use crate::contract::state::{KeyGroup, Saver, StatePart, key_group};
use crate::graph::{OperatorNode, SinkNode};

/// The name of the state of what is held back of an operator's rows for a sink.
pub(super) fn final_part(node: &OperatorNode, sink: &SinkNode) -> String {
    format!("{}.final.{}", node.name, sink.name)
}

/// Holds rows back until the watermark shows that they are final. What changes meanwhile cancels
/// out here; what comes out is never taken back.
pub(super) fn final_only<'s>(
    rows: Rows<'s>,
    finality: Finality,
    clock: Clock,
    watermark: Watermark,
    part: StatePart,
) -> Rows<'s> {
    let gate = FinalGate {
        finality,
        clock: clock.clone(),
        watermark,
        held: BTreeMap::new(),
        gone: Vec::new(),
    };
    every_epoch_kept(rows.inner, Pipeline, "FinalOnly", clock, Some(part), gate)
}

struct FinalGate {
    finality: Finality,
    clock: Clock,
    watermark: Watermark,
    /// By the watermark at which they are final.
    held: BTreeMap<i64, HashMap<Row, Held>>,
    /// Rows of the last checkpoint that were taken back since, with what undoes them.
    gone: Vec<(Row, isize)>,
}

/// How often a row came, less how often it was taken back.
#[derive(Clone, Copy, Default)]
struct Held {
    count: isize,
    /// The same as of the last checkpoint.
    saved: isize,
}

/// The watermark at which a row is final.
fn final_at(finality: Finality, row: &Row) -> i64 {
    finality.of(row).unwrap_or(NO_WATERMARK)
}

/// The key group of a row that is held. Any worker may hold it: what is taken back elsewhere cancels
/// out when the rows of all workers come together.
fn group(row: &Row) -> KeyGroup {
    let mut hasher = Xxh3::new();
    row.hash(&mut hasher);
    key_group(hasher.finish())
}

impl FinalGate {
    fn change(&mut self, row: Row, diff: isize) {
        let held = self.held.entry(final_at(self.finality, &row)).or_default();
        match held.entry(row) {
            Entry::Vacant(entry) => drop(entry.insert(Held { count: diff, saved: 0 })),
            Entry::Occupied(mut entry) => {
                entry.get_mut().count += diff;
                // A row that was replaced goes at once: its window may stay open for long.
                if entry.get().count == 0 {
                    let (row, Held { saved, .. }) = entry.remove_entry();
                    if saved != 0 {
                        self.gone.push((row, -saved));
                    }
                }
            }
        }
    }
}

impl Fold<Row, Row> for FinalGate {
    fn epoch(&mut self, epoch: Epoch, updates: Vec<(Row, isize)>, output: &mut Vec<(Row, isize)>) {
        let watermark_us = self.clock.after(epoch, &self.watermark);
        // Where nothing is taken back and nothing else is due, what comes final need not be held.
        let is_due = self.held.first_key_value().is_some_and(|(at, _)| *at <= watermark_us);
        let passes = !is_due && updates.iter().all(|(_, diff)| *diff > 0);
        for (row, diff) in updates {
            if passes && final_at(self.finality, &row) <= watermark_us {
                output.push((row, diff));
            } else {
                self.change(row, diff);
            }
        }
        while let Some(first) = self.held.first_entry()
            && *first.key() <= watermark_us
        {
            output.extend(first.remove().into_iter().map(|(row, held)| (row, held.count)));
        }
    }

    fn save(&mut self, saver: &mut Saver) {
        for change in self.gone.drain(..) {
            let group = group(&change.0);
            if !saver.is_whole(group) {
                saver.put(group, &change);
            }
        }
        for (row, held) in self.held.values_mut().flatten() {
            let change = held.count - held.saved;
            if change == 0 && !saver.has_whole() {
                continue;
            }
            let group = group(row);
            if saver.is_whole(group) {
                saver.put(group, &(row, held.count));
            } else if change != 0 {
                saver.put(group, &(row, change));
            }
            held.saved = held.count;
        }
    }

    fn restore(&mut self, part: &StatePart) {
        let Some(epoch) = part.restored_epoch() else {
            return;
        };
        let watermark_us = self.clock.after(epoch, &self.watermark);
        part.restore(|(row, diff): (Row, isize)| {
            // What is final has gone out.
            if final_at(self.finality, &row) > watermark_us {
                self.change(row, diff);
            }
        });
    }
}
