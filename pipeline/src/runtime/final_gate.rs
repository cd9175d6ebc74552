//! Lets each row of an operator out once, when it can no longer change.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use timely::dataflow::channels::pact::Pipeline;
use waterwheel_config::schema::Finality;
use waterwheel_config::value::{Row, Value};

use crate::contract::clock::{Clock, Watermark};
use crate::contract::epoch::{Epoch, NO_WATERMARK};
use crate::contract::fold::{Fold, every_epoch};
use crate::contract::operator::Rows;

/// Holds rows back until the watermark shows that they are final. What changes meanwhile cancels
/// out here; what comes out is never taken back.
pub(super) fn final_only<'s>(
    rows: Rows<'s>,
    finality: Finality,
    clock: Clock,
    watermark: Watermark,
) -> Rows<'s> {
    let gate = FinalGate { finality, clock: clock.clone(), watermark, held: BTreeMap::new() };
    every_epoch(rows.inner, Pipeline, "FinalOnly", clock, gate)
}

struct FinalGate {
    finality: Finality,
    clock: Clock,
    watermark: Watermark,
    /// By the watermark at which they are final.
    held: BTreeMap<i64, HashMap<Row, isize>>,
}

impl FinalGate {
    fn final_at(&self, row: &Row) -> i64 {
        match self.finality {
            Finality::Immediate => NO_WATERMARK,
            Finality::At { column, plus_us } => match row.values().get(column) {
                Some(Value::Timestamp(micros)) => micros.saturating_add(plus_us),
                _ => NO_WATERMARK,
            },
        }
    }
}

impl Fold<Row, Row> for FinalGate {
    fn epoch(&mut self, epoch: Epoch, updates: Vec<(Row, isize)>, output: &mut Vec<(Row, isize)>) {
        for (row, diff) in updates {
            let held = self.held.entry(self.final_at(&row)).or_default();
            let count = held.entry(row).or_default();
            *count += diff;
        }
        let watermark_us = self.clock.after(epoch, &self.watermark);
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
}
