//! One open window of one granularity: the groups that a worker owns in it.

use hashbrown::HashTable;
use waterwheel_config::calendar::Window;
use waterwheel_config::value::{Row, Value};

use super::combine::Partial;
use super::{Plan, accumulators, row_of};
use crate::accumulator::Accumulator;
use crate::measure::change;

/// A window.
pub(super) struct OpenWindow {
    pub(super) window: Window,
    /// True once it is final: only the rows of its groups are left, for the window after it to be
    /// compared with.
    pub(super) is_closed: bool,
    table: HashTable<u32>,
    pub(super) groups: Vec<Group>,
    /// The indices of the groups whose rows are to be brought out, or taken back, after the epoch.
    touched: Vec<u32>,
    /// True if rows of groups may be missing or old in what is out: they come when the window is
    /// final.
    is_behind: bool,
    /// What the accumulators take beside themselves.
    pub(super) heap_bytes: usize,
}

/// A group of a window.
pub(super) struct Group {
    pub(super) hash: u64,
    pub(super) key: Box<[u8]>,
    pub(super) rows: i64,
    pub(super) accumulators: Vec<Accumulator>,
    heap_bytes: usize,
    /// The row that is out.
    pub(super) emitted: Option<Row>,
    /// Of a group that was restored: true if its row was out.
    pub(super) was_out: bool,
    is_touched: bool,
    /// True if it changed since it was last saved.
    pub(super) is_unsaved: bool,
}

impl OpenWindow {
    pub(super) fn new(window: Window) -> Self {
        Self {
            window,
            is_closed: false,
            table: HashTable::new(),
            groups: Vec::new(),
            touched: Vec::new(),
            is_behind: false,
            heap_bytes: 0,
        }
    }

    fn find(&self, hash: u64, key: &[u8]) -> Option<u32> {
        let same = |index: &u32| {
            let group = &self.groups[*index as usize];
            group.hash == hash && *group.key == *key
        };
        self.table.find(hash, same).copied()
    }

    /// The index of a group; a new one is made where there is none.
    pub(super) fn group(&mut self, hash: u64, key: Box<[u8]>, plan: &Plan) -> u32 {
        if let Some(index) = self.find(hash, &key) {
            return index;
        }
        let index = self.groups.len() as u32;
        let groups = &self.groups;
        let rehash = |index: &u32| groups[*index as usize].hash;
        self.table.insert_unique(hash, index, rehash);
        self.groups.push(Group {
            hash,
            key,
            rows: 0,
            accumulators: accumulators(plan),
            heap_bytes: 0,
            emitted: None,
            was_out: false,
            is_touched: false,
            is_unsaved: false,
        });
        index
    }

    /// Takes what an epoch brought of a group. With `only_final` its row need not come out before the
    /// window is final; one that is out is taken back, lest what waits for it grow old.
    pub(super) fn apply(&mut self, piece: Partial, plan: &Plan, only_final: bool) {
        let index = self.group(piece.hash, piece.key, plan);
        let group = &mut self.groups[index as usize];
        group.is_unsaved = true;
        group.rows += piece.rows;
        for (mine, theirs) in group.accumulators.iter_mut().zip(piece.accumulators) {
            mine.merge(theirs);
        }
        if only_final {
            let is_out = group.emitted.is_some();
            self.is_behind = true;
            self.weigh(index);
            if !is_out {
                return;
            }
        }
        self.touch(index);
    }

    /// Takes back the rows of the groups that changed.
    pub(super) fn take_back(&mut self, output: &mut Vec<(Row, isize)>) {
        for index in std::mem::take(&mut self.touched) {
            let group = &mut self.groups[index as usize];
            group.is_touched = false;
            change_row(group.emitted.take(), None, output);
        }
    }

    /// Brings out, of a window that is final, what is not out.
    pub(super) fn catch_up(
        &mut self,
        plan: &Plan,
        granularity: &Value,
        output: &mut Vec<(Row, isize)>,
    ) {
        if !std::mem::take(&mut self.is_behind) {
            return;
        }
        for group in &mut self.groups {
            let row = group.current(plan, granularity, self.window, None);
            if row != group.emitted {
                change_row(group.emitted.take(), row, output);
            }
        }
    }

    fn touch(&mut self, index: u32) {
        if !std::mem::replace(&mut self.groups[index as usize].is_touched, true) {
            self.touched.push(index);
        }
    }

    pub(super) fn is_touched(&self) -> bool {
        !self.touched.is_empty()
    }

    /// Brings out the rows of the groups that changed, and takes back what they were. The indices
    /// of those whose row is another now go to `changed`.
    pub(super) fn emit(
        &mut self,
        plan: &Plan,
        granularity: &Value,
        previous: Option<&Self>,
        changed: &mut Vec<u32>,
        output: &mut Vec<(Row, isize)>,
    ) {
        let window = self.window;
        for index in std::mem::take(&mut self.touched) {
            let group = &mut self.groups[index as usize];
            group.is_touched = false;
            let row = group.current(plan, granularity, window, previous);
            if row == group.emitted {
                continue;
            }
            change_row(std::mem::replace(&mut group.emitted, row.clone()), row, output);
            if !plan.compared.is_empty() {
                changed.push(index);
            }
            self.weigh(index);
        }
    }

    /// Touches the groups of this window that are compared with changed ones of the window before.
    pub(super) fn touch_successors(&mut self, previous: &Self, changed: &[u32]) {
        for index in changed {
            let group = &previous.groups[*index as usize];
            if let Some(index) = self.find(group.hash, &group.key) {
                self.touch(index);
            }
        }
    }

    /// Measures what a group takes.
    pub(super) fn weigh(&mut self, index: u32) {
        let group = &mut self.groups[index as usize];
        let heap_bytes = group.accumulators.iter().map(Accumulator::size_bytes).sum();
        self.heap_bytes = self.heap_bytes + heap_bytes - group.heap_bytes;
        group.heap_bytes = heap_bytes;
    }

    /// Keeps nothing but the rows that are out.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
        self.heap_bytes = 0;
        for group in &mut self.groups {
            group.accumulators = Vec::new();
            group.heap_bytes = 0;
        }
    }

    /// Computes the rows that are out after a restart.
    pub(super) fn restore_rows(
        &mut self,
        plan: &Plan,
        granularity: &Value,
        previous: Option<&Self>,
    ) {
        let window = self.window;
        for group in &mut self.groups {
            if !group.was_out {
                self.is_behind = true;
                continue;
            }
            // Of a window that was closed when it was saved there is the row itself.
            if !group.accumulators.is_empty() || plan.accumulators.is_empty() {
                group.emitted = group.current(plan, granularity, window, previous);
            }
        }
    }
}

/// Takes back the row that is out, and brings out the new one.
fn change_row(old: Option<Row>, new: Option<Row>, output: &mut Vec<(Row, isize)>) {
    output.extend(old.map(|row| (row, -1)));
    output.extend(new.map(|row| (row, 1)));
}

impl Group {
    /// Its row; `None` where all was taken back.
    fn current(
        &self,
        plan: &Plan,
        granularity: &Value,
        window: Window,
        previous: Option<&OpenWindow>,
    ) -> Option<Row> {
        if self.rows <= 0 {
            return None;
        }
        let head =
            [granularity.clone(), Value::Timestamp(window.start), Value::Timestamp(window.end)];
        let mut values = row_of(plan, &head, &self.key, &self.accumulators, self.emitted.as_ref());
        if !plan.compared.is_empty() {
            let before = previous.and_then(|previous| {
                let index = previous.find(self.hash, &self.key)?;
                previous.groups[index as usize].emitted.as_ref()
            });
            let first = head.len() + plan.by;
            for measure in &plan.compared {
                let before = before.map(|row| &row.values()[first + measure]);
                values.extend(change(&values[first + measure], before));
            }
        }
        Some(values.into())
    }
}
