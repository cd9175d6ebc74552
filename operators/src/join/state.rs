//! What a join keeps: both arrangements, let to forget, measured, saved and given back.
//!
//! A row is saved as the update that brought it in. Between two checkpoints those updates are the
//! arrangements' own batches, held on to until they are saved or have expired.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use differential_dataflow::operators::arrange::{Arranged, TraceAgent};
use differential_dataflow::trace::cursor::Cursor;
use differential_dataflow::trace::{BatchReader, Navigable, TraceReader};
use serde::{Deserialize, Serialize};
use timely::dataflow::operators::Inspect;
use timely::progress::frontier::AntichainRef;
use waterwheel_config::value::Row;
use waterwheel_pipeline::contract::clock::{Clock, StateGauge};
use waterwheel_pipeline::contract::epoch::Epoch;
use waterwheel_pipeline::contract::fold::Fold;
use waterwheel_pipeline::contract::state::{KeyGroup, Saver, StatePart, key_group};

use super::side::KeyedRow;
use crate::expiring::{ExpiringBatch, ExpiringKey, ExpiringSpine};
use crate::key;

/// About what one arranged row takes.
const ROW_BYTES: usize = 200;

/// The key group of a key, whatever its bucket: what matches is owned by one worker.
pub(super) fn key_hash(key: &ExpiringKey) -> u64 {
    key::hash(&key.key)
}

fn group(key: &ExpiringKey) -> KeyGroup {
    key_group(key_hash(key))
}

/// An update of one side as it is given back.
#[derive(Deserialize)]
struct RestoredUpdate {
    is_right: bool,
    key: ExpiringKey,
    row: Row,
    diff: isize,
}

/// The same as it is saved.
#[derive(Serialize)]
struct SavedUpdate<'a> {
    is_right: bool,
    key: &'a ExpiringKey,
    row: &'a Row,
    diff: isize,
}

/// The rows of both sides that were saved and can still match.
pub(super) fn restored(part: &StatePart, clock: &Clock) -> [Vec<(ExpiringKey, Row, isize)>; 2] {
    let mut sides = [Vec::new(), Vec::new()];
    let Some(epoch) = part.restored_epoch() else {
        return sides;
    };
    let watermark_us = clock.least_before(epoch + 1);
    part.restore(|saved: RestoredUpdate| {
        if saved.key.expires_us > watermark_us {
            sides[usize::from(saved.is_right)].push((saved.key, saved.row, saved.diff));
        }
    });
    sides
}

/// Batches that came since the last checkpoint, each with the time at which all of it has expired.
type Unsaved = Rc<RefCell<VecDeque<(i64, Rc<ExpiringBatch>)>>>;

/// One side's arrangement.
pub(super) struct HeldSide {
    trace: TraceAgent<ExpiringSpine>,
    unsaved: Unsaved,
}

impl HeldSide {
    pub(super) fn new(
        arranged: &Arranged<'_, TraceAgent<ExpiringSpine>>,
        part: &StatePart,
    ) -> Self {
        let unsaved = Unsaved::default();
        if part.is_kept() {
            let kept = unsaved.clone();
            arranged.stream.clone().inspect(move |batch| {
                let mut expires_us = i64::MIN;
                for_each_update(batch, |key, _, _, _| expires_us = expires_us.max(key.expires_us));
                kept.borrow_mut().push_back((expires_us, batch.clone()));
            });
        }
        Self { trace: arranged.trace.clone(), unsaved }
    }
}

/// Passes the pairs on, lets the arrangements compact, reports how much they hold, and saves it.
pub(super) struct JoinState {
    pub(super) sides: [HeldSide; 2],
    pub(super) clock: Clock,
    pub(super) gauge: StateGauge,
    /// The epoch that was applied last.
    pub(super) epoch: Epoch,
    /// The epoch that was saved last.
    pub(super) saved: Option<Epoch>,
}

impl Fold<Row, Row> for JoinState {
    fn epoch(&mut self, epoch: Epoch, pairs: Vec<(Row, isize)>, output: &mut Vec<(Row, isize)>) {
        output.extend(pairs);
        self.epoch = epoch;
        let watermark_us = self.clock.least_before(epoch + 1);
        let mut rows = 0;
        for HeldSide { trace, unsaved } in &mut self.sides {
            // A handle that lags keeps every epoch apart for ever.
            trace.set_logical_compaction(AntichainRef::new(&[epoch]));
            trace.set_physical_compaction(AntichainRef::new(&[epoch]));
            trace.map_batches(|batch| rows += batch.len());
            // What has expired need not be saved: so the batches kept here stay as few as the rows.
            let mut unsaved = unsaved.borrow_mut();
            while unsaved.front().is_some_and(|(expires_us, _)| *expires_us <= watermark_us) {
                unsaved.pop_front();
            }
        }
        self.gauge.set(rows * ROW_BYTES);
    }

    fn save(&mut self, saver: &mut Saver) {
        let watermark_us = self.clock.least_before(self.epoch + 1);
        for (side, HeldSide { trace, unsaved }) in self.sides.iter().enumerate() {
            let is_right = side == 1;
            let mut unsaved = unsaved.borrow_mut();
            for (_, batch) in unsaved.iter() {
                for_each_update(batch, |key, row, epoch, diff| {
                    let is_new = self.saved.is_none_or(|saved| epoch > saved);
                    let group = group(key);
                    if is_new
                        && epoch <= self.epoch
                        && key.expires_us > watermark_us
                        && !saver.is_whole(group)
                    {
                        saver.put(group, &SavedUpdate { is_right, key, row, diff });
                    }
                });
            }
            // A batch may reach beyond this epoch.
            let next = self.epoch + 1;
            unsaved.retain(|(_, batch)| !batch.upper().less_equal(&next));
            if saver.has_whole() {
                trace.map_batches(|batch| {
                    for_each_update(batch, |key, row, epoch, diff| {
                        let group = group(key);
                        if epoch <= self.epoch
                            && key.expires_us > watermark_us
                            && saver.is_whole(group)
                        {
                            saver.put(group, &SavedUpdate { is_right, key, row, diff });
                        }
                    });
                });
            }
        }
        self.saved = Some(self.epoch);
    }
}

/// Every update of a batch.
fn for_each_update(
    batch: &Rc<ExpiringBatch>,
    mut each: impl FnMut(&ExpiringKey, &Row, Epoch, isize),
) {
    let mut cursor = batch.cursor();
    while let Some(key) = cursor.get_key(batch) {
        while let Some(row) = cursor.get_val(batch) {
            cursor.map_times(batch, |epoch, diff| each(key, row, *epoch, *diff));
            cursor.step_val(batch);
        }
        cursor.step_key(batch);
    }
}

/// A keyed row with its diff, for the arrangement.
pub(super) fn update(
    (key, row, diff): (ExpiringKey, Row, isize),
    epoch: Epoch,
) -> (KeyedRow, Epoch, isize) {
    ((key, row), epoch, diff)
}
