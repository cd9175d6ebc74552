//! Lets each row of an operator out once, when it can no longer change.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use differential_dataflow::consolidation::consolidate;
use hashbrown::HashMap;
use timely::dataflow::channels::pact::Pipeline;
use waterwheel_config::schema::Finality;
use waterwheel_config::value::{Row, Value};
use xxhash_rust::xxh3::Xxh3;

use crate::contract::clock::{Clock, Watermark};
use crate::contract::epoch::{Epoch, NO_WATERMARK};
use crate::contract::fold::{Fold, every_epoch_kept};
use crate::contract::operator::Rows;
use crate::contract::state::{KeyGroup, Saver, StatePart, key_group};

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
        unsaved: part.is_kept().then(Unsaved::default),
    };
    every_epoch_kept(rows.inner, Pipeline, "FinalOnly", clock, Some(part), gate)
}

struct FinalGate {
    finality: Finality,
    clock: Clock,
    watermark: Watermark,
    /// By the watermark at which they are final.
    held: BTreeMap<i64, HashMap<Row, isize>>,
    /// Where checkpoints are taken, what changed since the last.
    unsaved: Option<Unsaved>,
}

/// Changes since the last checkpoint.
#[derive(Default)]
struct Unsaved {
    changes: Vec<(Row, isize)>,
    /// How many were left when they were last consolidated.
    consolidated: usize,
}

impl Unsaved {
    fn push(&mut self, row: &Row, diff: isize, is_held: impl Fn(&Row) -> bool) {
        self.changes.push((row.clone(), diff));
        // Rows that are replaced in every epoch, or have gone out since, would pile up.
        if self.changes.len() > 2 * self.consolidated + 1024 {
            consolidate(&mut self.changes);
            self.changes.retain(|(row, _)| is_held(row));
            self.consolidated = self.changes.len();
        }
    }
}

/// The key group of a row that is held. Any worker may hold it: what is taken back elsewhere cancels
/// out when the rows of all workers come together.
fn group(row: &Row) -> KeyGroup {
    let mut hasher = Xxh3::new();
    row.hash(&mut hasher);
    key_group(hasher.finish())
}

/// The watermark at which a row is final.
fn final_at(finality: Finality, row: &Row) -> i64 {
    match finality {
        Finality::Immediate => NO_WATERMARK,
        Finality::At { column, plus_us } => match row.values().get(column) {
            Some(Value::Timestamp(micros)) => micros.saturating_add(plus_us),
            _ => NO_WATERMARK,
        },
    }
}

impl Fold<Row, Row> for FinalGate {
    fn epoch(&mut self, epoch: Epoch, updates: Vec<(Row, isize)>, output: &mut Vec<(Row, isize)>) {
        let watermark_us = self.clock.after(epoch, &self.watermark);
        for (row, diff) in updates {
            let final_us = final_at(self.finality, &row);
            // What goes out in this epoch is not held in any checkpoint.
            if let Some(unsaved) = self.unsaved.as_mut().filter(|_| final_us > watermark_us) {
                unsaved.push(&row, diff, |row| final_at(self.finality, row) > watermark_us);
            }
            let held = self.held.entry(final_us).or_default();
            let count = held.entry(row).or_default();
            *count += diff;
        }
        while let Some(first) = self.held.first_entry()
            && *first.key() <= watermark_us
        {
            output.extend(first.remove().into_iter().filter(|(_, count)| *count != 0));
        }
        if let Some(mut last) = self.held.first_entry() {
            // Rows that were replaced in this epoch are mostly in the oldest window.
            last.get_mut().retain(|_, count| *count != 0);
        }
    }

    fn save(&mut self, saver: &mut Saver) {
        let Some(unsaved) = &mut self.unsaved else {
            return;
        };
        consolidate(&mut unsaved.changes);
        for change in std::mem::take(&mut unsaved.changes) {
            let group = group(&change.0);
            if !saver.is_whole(group) {
                saver.put(group, &change);
            }
        }
        unsaved.consolidated = 0;
        if saver.has_whole() {
            for change in self.held.values().flatten() {
                let group = group(change.0);
                if saver.is_whole(group) {
                    saver.put(group, &change);
                }
            }
        }
    }

    fn restore(&mut self, part: &StatePart) {
        let Some(epoch) = part.restored_epoch() else {
            return;
        };
        let watermark_us = self.clock.after(epoch, &self.watermark);
        part.restore(|(row, diff): (Row, isize)| {
            let final_us = final_at(self.finality, &row);
            // What is final has gone out.
            if final_us > watermark_us {
                *self.held.entry(final_us).or_default().entry(row).or_default() += diff;
            }
        });
        for held in self.held.values_mut() {
            held.retain(|_, count| *count != 0);
        }
    }
}
