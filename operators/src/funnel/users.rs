//! The users that a worker owns: per reporting period a fold of each user's events, exact under
//! events out of order.
//!
//! Events before the watermark can no longer change: they are folded once into a sealed state. Those
//! after it are kept in order; one that comes in order costs one step, one that comes out of order
//! refolds only what is not sealed. A period is dropped whole once no chain of it can grow.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use waterwheel_config::calendar::Window;
use waterwheel_pipeline::contract::clock::{Clock, StateGauge, Watermark};
use waterwheel_pipeline::contract::epoch::Epoch;
use waterwheel_pipeline::contract::fold::Fold;
use waterwheel_pipeline::contract::operator::RenderContext;
use waterwheel_pipeline::contract::state::{Saver, StatePart, key_group};

use super::Plan;
use super::chain::{Chains, Path};
use super::steps::{StepEvent, UserEvent};
use super::totals::{PeriodKey, Totals};
use crate::accumulator::Identities;

/// The state of a funnel's users on one worker.
pub(super) struct UserChains {
    plan: Arc<Plan>,
    clock: Clock,
    watermark: Watermark,
    gauge: StateGauge,
    /// By the start of the period.
    periods: BTreeMap<i64, OpenPeriod>,
}

struct OpenPeriod {
    window: Window,
    users: HashMap<u128, UserCell, Identities>,
    /// The users whose events changed in the current epoch.
    touched: Vec<u128>,
    heap_bytes: usize,
}

#[derive(Default)]
struct UserCell {
    /// All events before the watermark at which the cell was last touched.
    sealed: Chains,
    /// The others, in order, with how often each came.
    pending: Vec<(StepEvent, isize)>,
    /// Sealed and pending together; `None` where it must be folded again.
    tail: Option<Chains>,
    /// The path that counts in the totals.
    counted: Path,
    heap_bytes: usize,
    is_touched: bool,
    /// True if it changed since it was last saved.
    is_unsaved: bool,
}

/// A user of a period as it is saved.
#[derive(Serialize)]
struct SavedUser<'a> {
    start: i64,
    end: i64,
    user: u128,
    sealed: &'a Chains,
    pending: &'a [(StepEvent, isize)],
    counted: &'a Path,
}

/// The same, given back.
#[derive(Deserialize)]
struct RestoredUser {
    start: i64,
    end: i64,
    user: u128,
    sealed: Chains,
    pending: Vec<(StepEvent, isize)>,
    counted: Path,
}

impl OpenPeriod {
    fn new(window: Window) -> Self {
        Self { window, users: HashMap::default(), touched: Vec::new(), heap_bytes: 0 }
    }
}

impl UserChains {
    pub(super) fn new(plan: Arc<Plan>, context: &RenderContext) -> Self {
        Self {
            plan,
            clock: context.clock.clone(),
            watermark: context.watermark.clone(),
            gauge: context.state.clone(),
            periods: BTreeMap::new(),
        }
    }

    fn insert(&mut self, event: UserEvent, times: isize, watermark_us: i64) {
        let UserEvent { user, event } = event;
        let (period, within_us) = (self.plan.period, self.plan.within_us);
        let own = period.window(event.time_us);
        self.insert_into(own, user, event, times, watermark_us);
        // Chains of earlier periods may go on with it, unless it can only begin one.
        if event.steps == 1 {
            return;
        }
        let mut window = period.window(event.time_us.saturating_sub(within_us));
        while window.start < own.start {
            self.insert_into(window, user, event, times, watermark_us);
            window = period.next(window);
        }
    }

    fn insert_into(
        &mut self,
        window: Window,
        user: u128,
        event: StepEvent,
        times: isize,
        watermark_us: i64,
    ) {
        if self.final_at(window) <= watermark_us {
            return;
        }
        let open = self.periods.entry(window.start).or_insert_with(|| OpenPeriod::new(window));
        let cell = open.users.entry(user).or_default();
        if !std::mem::replace(&mut cell.is_touched, true) {
            open.touched.push(user);
            cell.seal(watermark_us, self.plan.within_us, window);
        }
        cell.insert(event, times, self.plan.within_us, window);
    }

    /// When no chain of a period can grow any more.
    fn final_at(&self, window: Window) -> i64 {
        window.end.saturating_add(self.plan.within_us)
    }

    fn emit(&mut self, output: &mut Vec<((PeriodKey, Totals), isize)>) {
        for open in self.periods.values_mut() {
            let mut change = Totals::new(self.plan.step_names.len());
            for user in std::mem::take(&mut open.touched) {
                let Some(cell) = open.users.get_mut(&user) else {
                    continue;
                };
                cell.is_touched = false;
                cell.is_unsaved = true;
                cell.recount(self.plan.within_us, open.window, &mut change);
                let heap_bytes = cell.size_bytes();
                open.heap_bytes = open.heap_bytes + heap_bytes - cell.heap_bytes;
                cell.heap_bytes = heap_bytes;
            }
            if !change.is_zero() {
                let key = PeriodKey { start: open.window.start, end: open.window.end };
                output.push(((key, change), 1));
            }
        }
    }

    fn close(&mut self, watermark_us: i64) {
        while let Some(first) = self.periods.first_entry()
            && first.get().window.end.saturating_add(self.plan.within_us) <= watermark_us
        {
            first.remove();
        }
        let cells: usize = self.periods.values().map(|open| open.users.len()).sum();
        let heap: usize = self.periods.values().map(|open| open.heap_bytes).sum();
        self.gauge.set(cells * (size_of::<UserCell>() + 24) + heap);
    }
}

impl UserCell {
    /// Folds what lies before the watermark into the sealed state.
    fn seal(&mut self, watermark_us: i64, within_us: i64, window: Window) {
        let count = self.pending.partition_point(|(event, _)| event.time_us < watermark_us);
        if count == self.pending.len()
            && let Some(tail) = self.tail.take()
        {
            self.sealed = tail;
            self.pending.clear();
            return;
        }
        for (event, times) in self.pending.drain(..count) {
            if times > 0 {
                self.sealed.apply(&event, within_us, window.contains(event.time_us));
            }
        }
    }

    fn insert(&mut self, event: StepEvent, times: isize, within_us: i64, window: Window) {
        match self.pending.binary_search_by(|(known, _)| known.cmp(&event)) {
            Ok(at) => {
                self.pending[at].1 += times;
                if self.pending[at].1 == 0 {
                    self.pending.remove(at);
                }
                self.tail = None;
            }
            Err(at) => {
                let is_last = at == self.pending.len();
                self.pending.insert(at, (event, times));
                match &mut self.tail {
                    Some(tail) if is_last && times > 0 => {
                        tail.apply(&event, within_us, window.contains(event.time_us));
                    }
                    tail => *tail = None,
                }
            }
        }
    }

    /// Brings what counts up to date; the difference goes to the totals.
    fn recount(&mut self, within_us: i64, window: Window, change: &mut Totals) {
        let (sealed, pending) = (&self.sealed, &self.pending);
        let tail = self.tail.get_or_insert_with(|| {
            let mut chains = sealed.clone();
            for (event, times) in pending {
                if *times > 0 {
                    chains.apply(event, within_us, window.contains(event.time_us));
                }
            }
            chains
        });
        if tail.best != self.counted {
            change.add(&self.counted, -1);
            change.add(&tail.best, 1);
            self.counted.clone_from(&tail.best);
        }
    }

    fn size_bytes(&self) -> usize {
        self.sealed.size_bytes()
            + self.tail.as_ref().map_or(0, Chains::size_bytes)
            + self.pending.capacity() * size_of::<(StepEvent, isize)>()
            + self.counted.capacity() * 8
    }
}

impl Fold<UserEvent, (PeriodKey, Totals)> for UserChains {
    fn epoch(
        &mut self,
        epoch: Epoch,
        mut events: Vec<(UserEvent, isize)>,
        output: &mut Vec<((PeriodKey, Totals), isize)>,
    ) {
        let watermark_us = self.clock.before(epoch, &self.watermark);
        // In order, most events of an epoch append to their user's.
        events.sort_unstable_by_key(|(event, _)| event.event);
        for (event, times) in events {
            self.insert(event, times, watermark_us);
        }
        self.emit(output);
        self.close(self.clock.after(epoch, &self.watermark));
    }

    fn save(&mut self, saver: &mut Saver) {
        for open in self.periods.values_mut() {
            for (user, cell) in &mut open.users {
                let is_unsaved = std::mem::take(&mut cell.is_unsaved);
                let group = key_group(*user as u64);
                if is_unsaved || saver.is_whole(group) {
                    let saved = SavedUser {
                        start: open.window.start,
                        end: open.window.end,
                        user: *user,
                        sealed: &cell.sealed,
                        pending: &cell.pending,
                        counted: &cell.counted,
                    };
                    saver.put(group, &saved);
                }
            }
        }
    }

    fn restore(&mut self, part: &StatePart) {
        let Some(epoch) = part.restored_epoch() else {
            return;
        };
        let watermark_us = self.clock.after(epoch, &self.watermark);
        part.restore(|saved: RestoredUser| {
            let window = Window { start: saved.start, end: saved.end };
            // A period that no chain can grow in has been dropped.
            if self.final_at(window) <= watermark_us {
                return;
            }
            let open = self.periods.entry(window.start).or_insert_with(|| OpenPeriod::new(window));
            let cell = open.users.entry(saved.user).or_default();
            cell.sealed = saved.sealed;
            cell.pending = saved.pending;
            cell.counted = saved.counted;
            let heap_bytes = cell.size_bytes();
            open.heap_bytes = open.heap_bytes + heap_bytes - cell.heap_bytes;
            cell.heap_bytes = heap_bytes;
        });
    }
}
