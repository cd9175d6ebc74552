//! The open windows of the groups that a worker owns.
//!
//! Per granularity a map from a window's end to its groups. What an epoch brought of a pane is merged
//! into the windows that hold the pane: one, or as many as a window that hops has hops. A window is
//! dropped whole when the watermark reaches its end, which costs no more than freeing it; until then
//! every epoch brings out the rows of the groups that changed, and takes back what they were. Where
//! windows are compared, the rows of the last final one stay until the window after it is final.
//!
//! Where nobody wants rows before they are final, each comes out once, with its window's last epoch.
//! What is saved says of each group whether its row is out, since that can be another matter for the
//! deployment that goes on from it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};
use waterwheel_config::calendar::Window;
use waterwheel_config::value::{Row, Value};
use waterwheel_pipeline::contract::clock::{Clock, StateGauge, Watermark};
use waterwheel_pipeline::contract::epoch::Epoch;
use waterwheel_pipeline::contract::operator::RenderContext;

use super::Plan;
use super::combine::Partial;
use super::levels::Level;
use super::open_window::{Group, OpenWindow};
use crate::accumulator::Accumulator;
use waterwheel_pipeline::contract::fold::Fold;
use waterwheel_pipeline::contract::state::{Saver, StatePart, key_group};

/// The state of an aggregate with windows on one worker.
pub(super) struct OpenWindows {
    plan: Arc<Plan>,
    clock: Clock,
    watermark: Watermark,
    gauge: StateGauge,
    /// True if rows come out when they are final and not before. Windows that are compared need each
    /// other's rows sooner.
    only_final: bool,
    levels: Vec<OpenLevel>,
}

/// The open windows of one granularity.
#[derive(Default)]
struct OpenLevel {
    /// By their ends.
    windows: BTreeMap<i64, OpenWindow>,
    /// The moment last asked for, and the windows that hold it: neighbours mostly share them.
    asked: Option<i64>,
    found: Vec<Window>,
}

/// A group of a window as it is saved.
#[derive(Serialize)]
struct SavedGroup<'a> {
    level: u16,
    start: i64,
    end: i64,
    hash: u64,
    #[serde(serialize_with = "as_bytes")]
    key: &'a [u8],
    rows: i64,
    accumulators: &'a [Accumulator],
    is_out: bool,
    /// Of a window that is final: the row.
    closed: Option<&'a Row>,
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
    is_out: bool,
    closed: Option<Row>,
}

/// In one piece: byte by byte is what serde makes of a slice, and it is read as the same.
fn as_bytes<S: Serializer>(bytes: &&[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

impl OpenLevel {
    fn ask(&mut self, level: &Level, at: i64) {
        if self.asked != Some(at) {
            level.shape.windows(at, &mut self.found);
            self.asked = Some(at);
        }
    }

    fn apply(&mut self, piece: Partial, level: &Level, plan: &Plan, when: When) {
        let When { watermark_us, only_final } = when;
        self.ask(level, piece.start);
        let Some((last, others)) = self.found.split_last() else {
            return;
        };
        let mut apply = |window: Window, piece: Partial| {
            debug_assert!(window.end > watermark_us, "an accepted event lies in open windows");
            if window.end > watermark_us {
                let open = self.windows.entry(window.end);
                let open = open.or_insert_with(|| OpenWindow::new(window));
                open.apply(piece, plan, only_final);
            }
        };
        // The last window takes the partial itself, the others a copy.
        others.iter().for_each(|window| apply(*window, piece.clone()));
        apply(*last, piece);
    }

    /// Brings out what changed; in the order of time, since the row of a window may be compared with
    /// the one before it.
    fn emit_compared(&mut self, level: &Level, plan: &Plan, output: &mut Vec<(Row, isize)>) {
        let touched = self.windows.iter().filter(|(_, window)| window.is_touched());
        let mut ends: BTreeSet<i64> = touched.map(|(end, _)| *end).collect();
        let mut changed = Vec::new();
        while let Some(end) = ends.pop_first() {
            let Some(mut window) = self.windows.remove(&end) else {
                continue;
            };
            let before = level.shape.previous(window.window);
            let previous = self.windows.get(&before.end);
            window.emit(plan, &level.granularity, previous, &mut changed, output);
            let after = level.shape.next(window.window).end;
            if let Some(next) = self.windows.get_mut(&after) {
                next.touch_successors(&window, &changed);
                if next.is_touched() {
                    ends.insert(after);
                }
            }
            changed.clear();
            self.windows.insert(end, window);
        }
    }

    fn close(
        &mut self,
        level: &Level,
        plan: &Plan,
        watermark_us: i64,
        output: &mut Vec<(Row, isize)>,
    ) {
        let is_compared = !plan.compared.is_empty();
        while let Some(first) = self.windows.first_entry()
            && *first.key() <= watermark_us
            && !(is_compared && level.shape.next(first.get().window).end > watermark_us)
        {
            let mut window = first.remove();
            if !is_compared {
                window.catch_up(plan, &level.granularity, output);
            }
        }
        if is_compared {
            let closed = self.windows.range_mut(..=watermark_us);
            closed.filter(|(_, window)| !window.is_closed).for_each(|(_, window)| window.close());
        }
    }

    fn restore_rows(&mut self, level: &Level, plan: &Plan) {
        let ends: Vec<i64> = self.windows.keys().copied().collect();
        for end in ends {
            let Some(mut window) = self.windows.remove(&end) else {
                continue;
            };
            let before = level.shape.previous(window.window);
            window.restore_rows(plan, &level.granularity, self.windows.get(&before.end));
            self.windows.insert(end, window);
        }
    }
}

/// When rows come out.
#[derive(Clone, Copy)]
struct When {
    watermark_us: i64,
    only_final: bool,
}

impl OpenWindows {
    pub(super) fn new(plan: Arc<Plan>, context: &RenderContext) -> Self {
        let levels = plan.levels.iter().map(|_| OpenLevel::default()).collect();
        Self {
            only_final: context.only_final && plan.compared.is_empty(),
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
            let when = When { watermark_us, only_final: self.only_final };
            self.levels[level].apply(piece, &self.plan.levels[level], &self.plan, when);
        }
    }

    fn emit(&mut self, output: &mut Vec<(Row, isize)>) {
        for (level, open) in self.plan.levels.iter().zip(&mut self.levels) {
            if !self.plan.compared.is_empty() {
                open.emit_compared(level, &self.plan, output);
                continue;
            }
            for window in open.windows.values_mut() {
                if self.only_final {
                    window.take_back(output);
                } else {
                    window.emit(&self.plan, &level.granularity, None, &mut Vec::new(), output);
                }
            }
        }
    }

    fn close(&mut self, watermark_us: i64, output: &mut Vec<(Row, isize)>) {
        for (level, open) in self.plan.levels.iter().zip(&mut self.levels) {
            open.close(level, &self.plan, watermark_us, output);
        }
    }

    fn report(&self) {
        let row_bytes =
            (3 + self.plan.readings.len() + 2 * self.plan.compared.len()) * size_of::<Value>();
        let row_bytes = if self.only_final { 0 } else { row_bytes };
        let group_bytes = size_of::<Group>() + 64 + row_bytes;
        let accumulators_bytes = self.plan.accumulators.len() * size_of::<Accumulator>();
        let windows = self.levels.iter().flat_map(|level| level.windows.values());
        let bytes = windows.map(|window| {
            let accumulators_bytes = if window.is_closed { 0 } else { accumulators_bytes };
            window.groups.len() * (group_bytes + accumulators_bytes) + window.heap_bytes
        });
        self.gauge.set(bytes.sum());
    }

    fn take_back(&mut self, saved: RestoredGroup, watermark_us: i64) {
        let index = usize::from(saved.level);
        let (Some(level), Some(open)) = (self.plan.levels.get(index), self.levels.get_mut(index))
        else {
            return;
        };
        // A window that has closed since was dropped without being saved again.
        let window = Window { start: saved.start, end: saved.end };
        let until = match self.plan.compared.is_empty() {
            true => window.end,
            false => level.shape.next(window).end,
        };
        if until <= watermark_us {
            return;
        }
        let open = open.windows.entry(saved.end).or_insert_with(|| OpenWindow::new(window));
        let index = open.group(saved.hash, saved.key, &self.plan);
        let group = &mut open.groups[index as usize];
        group.rows = saved.rows;
        group.accumulators = saved.accumulators;
        group.emitted = saved.closed;
        group.was_out = saved.is_out;
        open.weigh(index);
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
        self.close(self.clock.after(epoch, &self.watermark), output);
        self.report();
    }

    fn save(&mut self, saver: &mut Saver) {
        for (level, open) in self.levels.iter_mut().enumerate() {
            for window in open.windows.values_mut() {
                for group in &mut window.groups {
                    let is_unsaved = std::mem::take(&mut group.is_unsaved);
                    let key_group = key_group(group.hash);
                    if !is_unsaved && !saver.is_whole(key_group) {
                        continue;
                    }
                    let saved = SavedGroup {
                        level: level as u16,
                        start: window.window.start,
                        end: window.window.end,
                        hash: group.hash,
                        key: &group.key,
                        rows: group.rows,
                        accumulators: &group.accumulators,
                        is_out: group.emitted.is_some(),
                        closed: group.emitted.as_ref().filter(|_| window.is_closed),
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
        for (level, open) in self.plan.levels.iter().zip(&mut self.levels) {
            open.restore_rows(level, &self.plan);
        }
        // What is final was out: nothing of it was given back.
        self.close(watermark_us, &mut Vec::new());
    }
}
