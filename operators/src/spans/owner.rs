//! The keys that a worker owns, and when something is to be done with each.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use hashbrown::HashMap;
use waterwheel_pipeline::contract::clock::{Clock, StateGauge, Watermark};
use waterwheel_pipeline::contract::epoch::Epoch;
use waterwheel_pipeline::contract::fold::Fold;
use waterwheel_pipeline::contract::operator::RenderContext;
use waterwheel_pipeline::contract::state::{Saver, StatePart, key_group};

use super::cell::{Cell, Change, RestoredCell, SavedCell};
use super::{KeyedEvent, Spans};
use crate::key;

type Key = Arc<[u8]>;

/// The spans of the keys that a worker owns.
pub(super) struct KeySpans<R: Spans> {
    rules: R,
    clock: Clock,
    watermark: Watermark,
    gauge: StateGauge,
    cells: HashMap<Key, Cell<R::Span>>,
    /// The keys with events in the current epoch.
    touched: Vec<Key>,
    /// When to look after which key: once the watermark has passed the moment. One that is not its
    /// key's own any more is passed over.
    alarms: BinaryHeap<Reverse<(i64, Key)>>,
    /// Keys that were let go of, of which the last checkpoint has more.
    gone: Vec<Key>,
    /// True if checkpoints are taken.
    is_kept: bool,
    heap_bytes: usize,
    changes: Vec<Change<R::Span>>,
}

impl<R: Spans> KeySpans<R> {
    pub(super) fn new(rules: R, context: &RenderContext, is_kept: bool) -> Self {
        Self {
            rules,
            clock: context.clock.clone(),
            watermark: context.watermark.clone(),
            gauge: context.state.clone(),
            cells: HashMap::new(),
            touched: Vec::new(),
            alarms: BinaryHeap::new(),
            gone: Vec::new(),
            is_kept,
            heap_bytes: 0,
            changes: Vec::new(),
        }
    }

    fn take(&mut self, event: KeyedEvent, times: isize, watermark_us: i64) {
        let KeyedEvent { key, event } = event;
        let cell = self.cells.entry(key.clone()).or_default();
        if !cell.is_touched {
            self.touched.push(key);
        }
        cell.take(&mut self.rules, event, times, watermark_us);
    }

    /// Does one thing with the cell of a key, and what follows from it.
    fn update(
        &mut self,
        key: &Key,
        watermark_us: i64,
        output: &mut Vec<(R::Output, isize)>,
        act: impl FnOnce(&mut Cell<R::Span>, &mut R, &mut Vec<Change<R::Span>>),
    ) {
        let Some(cell) = self.cells.get_mut(key) else {
            return;
        };
        act(cell, &mut self.rules, &mut self.changes);
        for (before, after) in self.changes.drain(..) {
            cell.is_unsaved = true;
            self.rules.changed(key, before.as_ref(), after.as_ref(), output);
        }
        self.heap_bytes -= cell.heap_bytes;
        if cell.until_us(&self.rules).is_none_or(|until_us| until_us < watermark_us) {
            if self.is_kept && cell.saved_until_us >= watermark_us {
                self.gone.push(key.clone());
            }
            self.cells.remove(key);
            return;
        }
        cell.heap_bytes = cell.size_bytes::<R>() + key.len();
        self.heap_bytes += cell.heap_bytes;
        if let Some(alarm_us) = cell.next_alarm_us(&self.rules)
            && alarm_us < cell.alarm_us
        {
            cell.alarm_us = alarm_us;
            self.alarms.push(Reverse((alarm_us, key.clone())));
        }
    }

    fn pass_alarms(&mut self, watermark_us: i64, output: &mut Vec<(R::Output, isize)>) {
        while let Some(Reverse((alarm_us, _))) = self.alarms.peek()
            && *alarm_us < watermark_us
        {
            let Some(Reverse((alarm_us, key))) = self.alarms.pop() else {
                return;
            };
            if self.cells.get(&key).is_none_or(|cell| cell.alarm_us != alarm_us) {
                continue;
            }
            self.update(&key, watermark_us, output, |cell, rules, changes| {
                cell.alarm_us = i64::MAX;
                cell.pass(rules, watermark_us, changes);
            });
        }
    }

    fn report(&self) {
        let cells = self.cells.len() * (size_of::<Cell<R::Span>>() + size_of::<Key>());
        let alarms = self.alarms.len() * size_of::<(i64, Key)>();
        self.gauge.set(cells + alarms + self.heap_bytes);
    }
}

impl<R: Spans> Fold<KeyedEvent, R::Output> for KeySpans<R> {
    fn epoch(
        &mut self,
        epoch: Epoch,
        events: Vec<(KeyedEvent, isize)>,
        output: &mut Vec<(R::Output, isize)>,
    ) {
        let before_us = self.clock.before(epoch, &self.watermark);
        let after_us = self.clock.after(epoch, &self.watermark);
        for (event, times) in events {
            self.take(event, times, before_us);
        }
        for key in std::mem::take(&mut self.touched) {
            self.update(&key, after_us, output, |cell, rules, changes| {
                cell.is_unsaved = true;
                cell.settle(rules, after_us, changes);
            });
        }
        self.pass_alarms(after_us, output);
        self.rules.finish(after_us, output);
        self.report();
    }

    fn save(&mut self, saver: &mut Saver) {
        for key in self.gone.drain(..) {
            let group = key_group(key::hash(&key));
            if !saver.is_whole(group) {
                let nothing: SavedCell<'_, R::Span> =
                    SavedCell { key: &key, base: None, pending: &[], spans: &[] };
                saver.put(group, &nothing);
            }
        }
        for (key, cell) in &mut self.cells {
            let group = key_group(key::hash(key));
            if cell.is_unsaved || saver.is_whole(group) {
                cell.is_unsaved = false;
                cell.saved_until_us = cell.until_us(&self.rules).unwrap_or(i64::MIN);
                saver.put(group, &cell.saved(key));
            }
        }
    }

    fn restore(&mut self, part: &StatePart) {
        let Some(epoch) = part.restored_epoch() else {
            return;
        };
        let watermark_us = self.clock.after(epoch, &self.watermark);
        part.restore(|saved: RestoredCell<R::Span>| {
            let key = saved.key.clone();
            let mut cell = Cell::restored(saved);
            // What is final has been let go of.
            match cell.until_us(&self.rules) {
                Some(until_us) if until_us >= watermark_us => {
                    cell.saved_until_us = until_us;
                    self.cells.insert(key, cell);
                }
                _ => drop(self.cells.remove(&key)),
            }
        });
        for (key, cell) in &mut self.cells {
            cell.heap_bytes = cell.size_bytes::<R>() + key.len();
            self.heap_bytes += cell.heap_bytes;
            if let Some(alarm_us) = cell.next_alarm_us(&self.rules) {
                cell.alarm_us = alarm_us;
                self.alarms.push(Reverse((alarm_us, key.clone())));
            }
        }
        self.report();
    }
}
