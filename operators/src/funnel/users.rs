//! The users that a worker owns: per reporting period a fold of each user's events ([`Timeline`]).
//!
//! A period is dropped whole once no chain of it can grow.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use waterwheel_config::calendar::Window;
use waterwheel_pipeline::contract::clock::{Clock, StateGauge, Watermark};
use waterwheel_pipeline::contract::epoch::Epoch;
use waterwheel_pipeline::contract::fold::Fold;
use waterwheel_pipeline::contract::operator::RenderContext;
use waterwheel_pipeline::contract::state::{Saver, StatePart, key_group};

use super::chain::Path;
use super::progress::Progress;
use super::steps::{StepEvent, UserEvent};
use super::timeline::Timeline;
use super::totals::{Totals, TotalsKey};
use super::{Order, Plan, Rules};
use crate::accumulator::Identities;

/// The state of a funnel's users on one worker.
pub(super) struct UserChains {
    plan: Arc<Plan>,
    clock: Clock,
    watermark: Watermark,
    gauge: StateGauge,
    /// By the start of the period.
    periods: BTreeMap<i64, OpenPeriod>,
    /// The users, by period, who keep events, with the watermark from which on they need not.
    pending: BinaryHeap<Reverse<(i64, i64, u128)>>,
}

struct OpenPeriod {
    window: Window,
    users: HashMap<u128, UserCell, Identities>,
    /// The users whose events changed in the current epoch, and the paths that counted before.
    touched: Vec<(u128, Path)>,
    heap_bytes: usize,
}

/// A user. Between epochs the path that counts in the totals is that at the timeline's end.
struct UserCell {
    timeline: Timeline,
    heap_bytes: u32,
    is_touched: bool,
    /// True if it changed since it was last saved.
    is_unsaved: bool,
    /// True while it stands in [`UserChains::pending`].
    is_pending: bool,
    /// True once the path leads to the last step and cannot change any more.
    is_settled: bool,
}

/// A user of a period as it is saved.
#[derive(Serialize)]
struct SavedUser<'a> {
    start: i64,
    end: i64,
    user: u128,
    counted: &'a Path,
    is_settled: bool,
    progress: &'a Progress,
    history: Vec<&'a StepEvent>,
    events: Vec<&'a (StepEvent, isize)>,
}

/// The same, given back.
#[derive(Deserialize)]
struct RestoredUser {
    start: i64,
    end: i64,
    user: u128,
    counted: Path,
    is_settled: bool,
    progress: Progress,
    history: Vec<StepEvent>,
    events: Vec<(StepEvent, isize)>,
}

impl OpenPeriod {
    fn new(window: Window) -> Self {
        Self { window, users: HashMap::default(), touched: Vec::new(), heap_bytes: 0 }
    }

    fn insert(
        &mut self,
        user: u128,
        event: StepEvent,
        times: isize,
        watermark_us: i64,
        rules: &Rules,
    ) {
        let cell = self.users.entry(user).or_insert_with(|| UserCell::new(Progress::new(rules)));
        if !std::mem::replace(&mut cell.is_touched, true) {
            self.touched.push((user, cell.timeline.end().best().clone()));
            cell.seal(watermark_us, rules, self.window);
        }
        if !cell.is_settled {
            cell.timeline.insert(event, times, rules, self.window);
        }
    }

    /// Notes how much space a user takes.
    fn measure(&mut self, user: u128) {
        if let Some(cell) = self.users.get_mut(&user) {
            let heap_bytes = u32::try_from(cell.timeline.size_bytes()).unwrap_or(u32::MAX);
            self.heap_bytes = self.heap_bytes + heap_bytes as usize - cell.heap_bytes as usize;
            cell.heap_bytes = heap_bytes;
        }
    }
}

impl UserCell {
    fn new(progress: Progress) -> Self {
        Self {
            timeline: Timeline::new(progress),
            heap_bytes: 0,
            is_touched: false,
            is_unsaved: false,
            is_pending: false,
            is_settled: false,
        }
    }

    /// Folds what lies before the watermark for good.
    fn seal(&mut self, watermark_us: i64, rules: &Rules, window: Window) {
        self.timeline.seal(watermark_us, rules, window);
        let Path { times, .. } = self.timeline.end().best();
        if times.len() == rules.steps && times.last().is_some_and(|last| *last < watermark_us) {
            self.is_settled = true;
            self.timeline.settle();
        }
    }

    /// Brings what counts up to date; the difference to what counted goes to the totals.
    fn recount(&mut self, counted: &Path, rules: &Rules, window: Window, changes: &mut Changes) {
        self.timeline.refold(rules, window);
        let best = self.timeline.end().best();
        if best == counted {
            return;
        }
        for (path, times) in [(counted, -1), (best, 1)] {
            if !path.times.is_empty() {
                let totals = changes.entry(path.breakdown.clone());
                totals.or_insert_with(|| Totals::new(rules.steps)).add(&path.times, times);
            }
        }
    }
}

/// How the totals of a period change, by the value of the breakdown.
type Changes = BTreeMap<Option<Arc<str>>, Totals>;

impl UserChains {
    pub(super) fn new(plan: Arc<Plan>, context: &RenderContext) -> Self {
        Self {
            plan,
            clock: context.clock.clone(),
            watermark: context.watermark.clone(),
            gauge: context.state.clone(),
            periods: BTreeMap::new(),
            pending: BinaryHeap::new(),
        }
    }

    fn insert(&mut self, event: UserEvent, times: isize, watermark_us: i64) {
        let UserEvent { user, event } = event;
        let Plan { period, rules, .. } = &*self.plan;
        let own = period.window(event.time_us);
        // Attempts of earlier periods may go on with it or end at it, unless all that it can do in this
        // order is to begin one.
        if rules.order != Order::Ordered || event.steps != 1 {
            let since_us = event.time_us.saturating_sub(rules.within_us);
            let (earliest, mut window) =
                (period.window(since_us), period.window(since_us.max(watermark_us)));
            // Into a period that is over nobody enters any more.
            for (_, over) in self.periods.range_mut(earliest.start..window.start.min(own.start)) {
                let has_entered = |cell: &UserCell| !cell.timeline.end().is_idle();
                if over.users.get(&user).is_some_and(has_entered) {
                    over.insert(user, event.clone(), times, watermark_us, rules);
                }
            }
            while window.start < own.start {
                let open = self.periods.entry(window.start);
                let open = open.or_insert_with(|| OpenPeriod::new(window));
                open.insert(user, event.clone(), times, watermark_us, rules);
                window = period.next(window);
            }
        }
        if final_at(own, rules) > watermark_us {
            let open = self.periods.entry(own.start).or_insert_with(|| OpenPeriod::new(own));
            open.insert(user, event, times, watermark_us, rules);
        }
    }

    fn emit(&mut self, output: &mut Vec<((TotalsKey, Totals), isize)>) {
        let rules = &self.plan.rules;
        for open in self.periods.values_mut() {
            let mut changes = Changes::new();
            for (user, counted) in std::mem::take(&mut open.touched) {
                let Some(cell) = open.users.get_mut(&user) else {
                    continue;
                };
                cell.is_touched = false;
                cell.is_unsaved = true;
                cell.recount(&counted, rules, open.window, &mut changes);
                if !cell.is_pending
                    && let Some(until_us) = cell.timeline.kept_until_us(rules)
                {
                    cell.is_pending = true;
                    self.pending.push(Reverse((until_us, open.window.start, user)));
                }
                open.measure(user);
            }
            let Window { start, end } = open.window;
            for (breakdown, change) in changes.into_iter().filter(|(_, change)| !change.is_zero()) {
                output.push(((TotalsKey { start, end, breakdown }, change), 1));
            }
        }
    }

    /// Drops periods of which no chain can grow any more, and events that need not be kept.
    fn close(&mut self, watermark_us: i64) {
        let rules = &self.plan.rules;
        while let Some(first) = self.periods.first_entry()
            && final_at(first.get().window, rules) <= watermark_us
        {
            first.remove();
        }
        while let Some(Reverse((until_us, start, user))) = self.pending.peek().copied()
            && until_us < watermark_us
        {
            self.pending.pop();
            let Some(open) = self.periods.get_mut(&start) else {
                continue;
            };
            let Some(cell) = open.users.get_mut(&user) else {
                continue;
            };
            cell.seal(watermark_us, rules, open.window);
            match cell.timeline.kept_until_us(rules) {
                Some(until_us) => self.pending.push(Reverse((until_us, start, user))),
                None => cell.is_pending = false,
            }
            open.measure(user);
        }
        let cells: usize = self.periods.values().map(|open| open.users.len()).sum();
        let heap: usize = self.periods.values().map(|open| open.heap_bytes).sum();
        let pending = self.pending.len() * size_of::<(i64, i64, u128)>();
        self.gauge.set(cells * (size_of::<UserCell>() + 24) + heap + pending);
    }
}

/// When no chain of a period can grow any more.
fn final_at(window: Window, rules: &Rules) -> i64 {
    window.end.saturating_add(rules.within_us)
}

impl Fold<UserEvent, (TotalsKey, Totals)> for UserChains {
    fn epoch(
        &mut self,
        epoch: Epoch,
        mut events: Vec<(UserEvent, isize)>,
        output: &mut Vec<((TotalsKey, Totals), isize)>,
    ) {
        let watermark_us = self.clock.before(epoch, &self.watermark);
        // In order, most events of an epoch append to their user's.
        events.sort_unstable_by(|(one, _), (other, _)| one.event.cmp(&other.event));
        for (event, times) in events {
            self.insert(event, times, watermark_us);
        }
        self.emit(output);
        self.close(self.clock.after(epoch, &self.watermark));
    }

    fn save(&mut self, saver: &mut Saver) {
        for open in self.periods.values_mut() {
            let Window { start, end } = open.window;
            for (user, cell) in &mut open.users {
                let is_unsaved = std::mem::take(&mut cell.is_unsaved);
                let group = key_group(*user as u64);
                if is_unsaved || saver.is_whole(group) {
                    let (progress, history, events) = cell.timeline.parts();
                    let saved = SavedUser {
                        start,
                        end,
                        user: *user,
                        counted: cell.timeline.end().best(),
                        is_settled: cell.is_settled,
                        progress,
                        history,
                        events,
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
        let rules = &self.plan.rules;
        part.restore(|saved: RestoredUser| {
            let window = Window { start: saved.start, end: saved.end };
            // A period that no chain can grow in has been dropped.
            if final_at(window, rules) <= watermark_us {
                return;
            }
            let open = self.periods.entry(window.start).or_insert_with(|| OpenPeriod::new(window));
            let cell = UserCell {
                is_settled: saved.is_settled,
                heap_bytes: open.users.get(&saved.user).map_or(0, |cell| cell.heap_bytes),
                ..UserCell::new(saved.progress)
            };
            let cell = open.users.entry(saved.user).insert_entry(cell).into_mut();
            cell.timeline.restore(saved.history, saved.events, rules, window);
            debug_assert_eq!(*cell.timeline.end().best(), saved.counted, "what counted counts");
            open.measure(saved.user);
        });
        for (start, open) in &mut self.periods {
            for (user, cell) in &mut open.users {
                if let Some(until_us) = cell.timeline.kept_until_us(rules) {
                    cell.is_pending = true;
                    self.pending.push(Reverse((until_us, *start, *user)));
                }
            }
        }
    }
}
