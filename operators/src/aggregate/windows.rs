//! The open windows of the groups that a worker owns.
//!
//! Per granularity a map from a window's end to its groups. A window is dropped whole when the
//! watermark reaches its end, which costs no more than freeing it; until then every epoch brings out
//! the rows of the groups that changed, and takes back what they were.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashTable;
use serde::{Deserialize, Serialize};
use waterwheel_config::value::{Row, Value};
use waterwheel_pipeline::contract::clock::{Clock, StateGauge, Watermark};
use waterwheel_pipeline::contract::epoch::Epoch;
use waterwheel_pipeline::contract::operator::RenderContext;

use super::combine::Partial;
use super::{Plan, accumulators};
use crate::accumulator::Accumulator;
use crate::key;
use waterwheel_pipeline::contract::fold::Fold;
use waterwheel_pipeline::contract::state::{Saver, StatePart, key_group};

/// The state of an aggregate on one worker.
pub(super) struct OpenWindows {
    plan: Arc<Plan>,
    clock: Clock,
    watermark: Watermark,
    gauge: StateGauge,
    /// By level, then by the end of the window.
    levels: Vec<BTreeMap<i64, OpenWindow>>,
}

#[derive(Default)]
struct OpenWindow {
    start: i64,
    table: HashTable<u32>,
    groups: Vec<Group>,
    /// The indices of the groups that changed in the current epoch.
    touched: Vec<u32>,
    /// What the accumulators take beside themselves.
    heap_bytes: usize,
}

struct Group {
    hash: u64,
    key: Box<[u8]>,
    rows: i64,
    accumulators: Vec<Accumulator>,
    heap_bytes: usize,
    /// The row that is out.
    emitted: Option<Row>,
    is_touched: bool,
    /// True if it changed since it was last saved.
    is_unsaved: bool,
}

/// A group of a window as it is saved.
#[derive(Serialize)]
struct SavedGroup<'a> {
    level: u16,
    start: i64,
    end: i64,
    hash: u64,
    key: &'a [u8],
    rows: i64,
    accumulators: &'a [Accumulator],
}

/// The same, given back.
#[derive(Deserialize)]
struct RestoredGroup {
    level: u16,
    start: i64,
    end: i64,
    hash: u64,
    key: Box<[u8]>,
    rows: i64,
    accumulators: Vec<Accumulator>,
}

impl OpenWindows {
    pub(super) fn new(plan: Arc<Plan>, context: &RenderContext) -> Self {
        let levels = plan.levels.iter().map(|_| BTreeMap::new()).collect();
        Self {
            plan,
            clock: context.clock.clone(),
            watermark: context.watermark.clone(),
            gauge: context.state.clone(),
            levels,
        }
    }

    fn apply(&mut self, partial: Partial, watermark_us: i64) {
        let pane = usize::from(partial.pane);
        let mut reading = (0..self.plan.levels.len())
            .filter(|&level| self.plan.levels[level].pane == pane)
            .peekable();
        let mut partial = Some(partial);
        while let Some(level) = reading.next() {
            // The last level takes the partial itself, the others a copy.
            let piece = if reading.peek().is_some() { partial.clone() } else { partial.take() };
            let Some(piece) = piece else {
                return;
            };
            let window = self.plan.levels[level].period.window(piece.start);
            debug_assert!(window.end > watermark_us, "an accepted event lies in an open window");
            if window.end <= watermark_us {
                continue;
            }
            let open = self.levels[level].entry(window.end).or_default();
            open.start = window.start;
            open.apply(piece, &self.plan);
        }
    }

    fn emit(&mut self, output: &mut Vec<(Row, isize)>) {
        for (level, windows) in self.plan.levels.iter().zip(&mut self.levels) {
            for (end, window) in windows.iter_mut() {
                let (start, touched) = (window.start, std::mem::take(&mut window.touched));
                for index in touched {
                    let group = &mut window.groups[index as usize];
                    group.is_touched = false;
                    let row = (group.rows > 0)
                        .then(|| group.row(&self.plan, &level.granularity, start, *end));
                    if row == group.emitted {
                        continue;
                    }
                    if let Some(old) = std::mem::replace(&mut group.emitted, row.clone()) {
                        output.push((old, -1));
                    }
                    output.extend(row.map(|row| (row, 1)));
                    let heap_bytes = group.accumulators.iter().map(Accumulator::size_bytes).sum();
                    window.heap_bytes = window.heap_bytes + heap_bytes - group.heap_bytes;
                    group.heap_bytes = heap_bytes;
                }
            }
        }
    }

    fn close(&mut self, watermark_us: i64) {
        for windows in &mut self.levels {
            while let Some(first) = windows.first_entry()
                && *first.key() <= watermark_us
            {
                first.remove();
            }
        }
    }

    fn report(&self) {
        let group_bytes = size_of::<Group>()
            + 64
            + self.plan.accumulators.len() * size_of::<Accumulator>()
            + (3 + self.plan.readings.len()) * size_of::<Value>();
        let windows = self.levels.iter().flat_map(BTreeMap::values);
        let bytes = windows.map(|window| window.groups.len() * group_bytes + window.heap_bytes);
        self.gauge.set(bytes.sum());
    }
}

impl OpenWindow {
    /// The index of a group; a new one is made where there is none.
    fn group(&mut self, hash: u64, key: Box<[u8]>, plan: &Plan) -> u32 {
        let groups = &self.groups;
        let same = |index: &u32| {
            let group = &groups[*index as usize];
            group.hash == hash && group.key == key
        };
        if let Some(index) = self.table.find(hash, same) {
            return *index;
        }
        let index = self.groups.len() as u32;
        let rehash = |index: &u32| groups[*index as usize].hash;
        self.table.insert_unique(hash, index, rehash);
        self.groups.push(Group {
            hash,
            key,
            rows: 0,
            accumulators: accumulators(plan),
            heap_bytes: 0,
            emitted: None,
            is_touched: false,
            is_unsaved: false,
        });
        index
    }

    fn apply(&mut self, piece: Partial, plan: &Plan) {
        let index = self.group(piece.hash, piece.key, plan);
        let group = &mut self.groups[index as usize];
        group.is_unsaved = true;
        group.rows += piece.rows;
        for (mine, theirs) in group.accumulators.iter_mut().zip(piece.accumulators) {
            mine.merge(theirs);
        }
        if !std::mem::replace(&mut group.is_touched, true) {
            self.touched.push(index);
        }
    }
}

impl Group {
    fn row(&self, plan: &Plan, granularity: &Value, start: i64, end: i64) -> Row {
        let head = [granularity.clone(), Value::Timestamp(start), Value::Timestamp(end)];
        // The columns of the group are shared with the row that is out already.
        let by = match &self.emitted {
            Some(row) => {
                let count = row.values().len() - 3 - plan.readings.len();
                row.values()[3..3 + count].to_vec()
            }
            None => key::read_key(&self.key),
        };
        let measures = plan
            .readings
            .iter()
            .map(|(reading, accumulator)| reading.read(&self.accumulators[*accumulator]));
        head.into_iter().chain(by).chain(measures).collect()
    }
}

impl Fold<Partial, Row> for OpenWindows {
    fn epoch(
        &mut self,
        epoch: Epoch,
        partials: Vec<(Partial, isize)>,
        output: &mut Vec<(Row, isize)>,
    ) {
        let watermark_us = self.clock.before(epoch, &self.watermark);
        for (partial, _) in partials {
            self.apply(partial, watermark_us);
        }
        self.emit(output);
        self.close(self.clock.after(epoch, &self.watermark));
        self.report();
    }

    fn save(&mut self, saver: &mut Saver) {
        for (level, windows) in self.levels.iter_mut().enumerate() {
            for (end, window) in windows {
                for group in &mut window.groups {
                    let is_unsaved = std::mem::take(&mut group.is_unsaved);
                    let key_group = key_group(group.hash);
                    if !is_unsaved && !saver.is_whole(key_group) {
                        continue;
                    }
                    let saved = SavedGroup {
                        level: level as u16,
                        start: window.start,
                        end: *end,
                        hash: group.hash,
                        key: &group.key,
                        rows: group.rows,
                        accumulators: &group.accumulators,
                    };
                    saver.put(key_group, &saved);
                }
            }
        }
    }

    fn restore(&mut self, part: &StatePart) {
        let Some(epoch) = part.restored_epoch() else {
            return;
        };
        let watermark_us = self.clock.after(epoch, &self.watermark);
        part.restore(|saved: RestoredGroup| self.take_back(saved, watermark_us));
        // A group may have been saved again and again; only its last row is out.
        for (level, windows) in self.plan.levels.iter().zip(&mut self.levels) {
            for (end, window) in windows {
                let start = window.start;
                for group in window.groups.iter_mut().filter(|group| group.rows > 0) {
                    group.emitted = Some(group.row(&self.plan, &level.granularity, start, *end));
                }
            }
        }
    }
}

impl OpenWindows {
    fn take_back(&mut self, saved: RestoredGroup, watermark_us: i64) {
        // A window that has closed since was dropped without being saved again.
        let windows = self.levels.get_mut(usize::from(saved.level));
        let Some(windows) = windows.filter(|_| saved.end > watermark_us) else {
            return;
        };
        let window = windows.entry(saved.end).or_default();
        window.start = saved.start;
        let index = window.group(saved.hash, saved.key, &self.plan);
        let group = &mut window.groups[index as usize];
        group.rows = saved.rows;
        group.accumulators = saved.accumulators;
        let heap_bytes = group.accumulators.iter().map(Accumulator::size_bytes).sum();
        window.heap_bytes = window.heap_bytes + heap_bytes - group.heap_bytes;
        group.heap_bytes = heap_bytes;
    }
}
