//! The groups that a worker owns: items whose fate is open, and those before them that may be their
//! neighbours.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use waterwheel_pipeline::contract::clock::{Clock, StateGauge, Watermark};
use waterwheel_pipeline::contract::epoch::Epoch;
use waterwheel_pipeline::contract::fold::Fold;
use waterwheel_pipeline::contract::operator::RenderContext;
use waterwheel_pipeline::contract::state::{Saver, StatePart, key_group};

use super::Plan;
use super::neighbours::Neighbour;
use super::reading::{Candidate, Item, Message, Place};
use crate::key;

/// The state of a sample on one worker.
pub(super) struct Groups {
    plan: Arc<Plan>,
    clock: Clock,
    watermark: Watermark,
    gauge: StateGauge,
    groups: HashMap<Box<[u8]>, Group>,
    /// The groups to look at once the watermark is more than `context_within` past a time.
    timers: BTreeMap<i64, Vec<Box<[u8]>>>,
    size_bytes: usize,
    /// What was saved and then taken back, as it is to be saved: with a count of zero.
    gone: Vec<Saved>,
}

#[derive(Default)]
struct Group {
    /// The decided ones first: what comes later lies behind them.
    items: BTreeMap<Place, Cell>,
    /// The time of the earliest timer that waits for it.
    armed_us: Option<i64>,
}

struct Cell {
    is_kept: bool,
    draw: u64,
    count: isize,
    /// True until it is decided whether it passes.
    is_open: bool,
    /// Of an event: what passes, while it is open.
    message: Option<Message>,
    is_saved: bool,
    /// True if it changed since it was last saved.
    is_unsaved: bool,
}

impl Cell {
    fn size_bytes(&self) -> usize {
        size_of::<Self>() + self.message.as_ref().map_or(0, Message::size_bytes)
    }
}

/// An item as it is saved; of several records of one place the last counts.
#[derive(Serialize, Deserialize)]
struct Saved {
    candidate: Candidate,
    count: isize,
}

impl Groups {
    pub(super) fn new(plan: Arc<Plan>, context: &RenderContext) -> Self {
        Self {
            plan,
            clock: context.clock.clone(),
            watermark: context.watermark.clone(),
            gauge: context.state.clone(),
            groups: HashMap::new(),
            timers: BTreeMap::new(),
            size_bytes: 0,
            gone: Vec::new(),
        }
    }

    fn insert(&mut self, candidate: Candidate, times: isize) {
        let Candidate { group: name, place, is_kept, draw, message } = candidate;
        let group = self.groups.entry(name.clone()).or_default();
        let time_us = place.time_us;
        if let Some(cell) = group.items.get_mut(&place) {
            cell.count += times;
            cell.is_unsaved = true;
            if cell.count == 0 {
                self.size_bytes -= place.size_bytes() + cell.size_bytes();
                let is_saved = cell.is_saved;
                group.items.remove(&place);
                if is_saved {
                    let candidate = Candidate { group: name, place, is_kept, draw, message: None };
                    self.gone.push(Saved { candidate, count: 0 });
                }
            }
            return;
        }
        let (count, is_open, is_saved, is_unsaved) = (times, true, false, true);
        let cell = Cell { is_kept, draw, count, is_open, message, is_saved, is_unsaved };
        self.size_bytes += place.size_bytes() + cell.size_bytes();
        group.items.insert(place, cell);
        group.arm(time_us, &name, &mut self.timers);
    }

    /// Decides what the watermark has passed, and forgets what nobody will ask for.
    fn advance(&mut self, watermark_us: i64, output: &mut Vec<(Item, isize)>) {
        let within_us = self.plan.within_us;
        let mut due: Vec<Box<[u8]>> = Vec::new();
        while let Some(first) = self.timers.first_entry()
            && first.key().saturating_add(within_us) < watermark_us
        {
            due.extend(first.remove());
        }
        due.sort_unstable();
        due.dedup();
        for name in due {
            let Some(group) = self.groups.get_mut(&name) else {
                continue;
            };
            group.armed_us = None;
            self.size_bytes -= group.decide(&self.plan, watermark_us, output);
            self.size_bytes -= group.forget(&self.plan, watermark_us);
            match group.next_timer(within_us) {
                Some(time_us) => group.arm(time_us, &name, &mut self.timers),
                None => drop(self.groups.remove(&name)),
            }
        }
        self.gauge.set(self.size_bytes + 128 * self.groups.len());
    }
}

impl Group {
    fn arm(&mut self, time_us: i64, name: &[u8], timers: &mut BTreeMap<i64, Vec<Box<[u8]>>>) {
        if self.armed_us.is_none_or(|armed_us| time_us < armed_us) {
            self.armed_us = Some(time_us);
            timers.entry(time_us).or_default().push(name.into());
        }
    }

    /// Decides all items that lie more than `context_within` before the watermark; how many bytes
    /// that freed.
    fn decide(&mut self, plan: &Plan, watermark_us: i64, output: &mut Vec<(Item, isize)>) -> usize {
        let is_due = |place: &Place| place.time_us.saturating_add(plan.within_us) < watermark_us;
        let due = self.items.iter().filter(|(_, cell)| cell.is_open);
        let passing: Vec<bool> = due
            .take_while(|(place, _)| is_due(place))
            .map(|(place, cell)| {
                let neighbour = |(other, cell): (&Place, &Cell)| Neighbour {
                    apart_us: other.time_us.saturating_sub(place.time_us).saturating_abs(),
                    is_kept: cell.is_kept,
                };
                let before = self.items.range(..place).rev().map(neighbour);
                let behind = (Bound::Excluded(place), Bound::Unbounded);
                let after = self.items.range(behind).map(neighbour);
                plan.passes(cell.is_kept, cell.draw, before, after)
            })
            .collect();
        let mut freed = 0;
        let due = self.items.iter_mut().filter(|(_, cell)| cell.is_open);
        for ((place, cell), passes) in due.zip(passing) {
            let message = cell.message.take();
            freed += message.as_ref().map_or(0, Message::size_bytes);
            cell.is_open = false;
            if passes && let Some(item) = place.item(message) {
                output.push((item, cell.count));
            }
        }
        freed
    }

    /// Drops decided items that can be nobody's neighbours any more; how many bytes that freed.
    fn forget(&mut self, plan: &Plan, watermark_us: i64) -> usize {
        let mut freed = 0;
        let mut decided = self.items.values().take_while(|cell| !cell.is_open).count();
        while let Some(first) = self.items.first_entry()
            && !first.get().is_open
        {
            let end_us = first.key().time_us.saturating_add(plan.within_us.saturating_mul(2));
            if decided <= plan.reach() && end_us >= watermark_us {
                break;
            }
            decided -= 1;
            freed += first.key().size_bytes() + first.get().size_bytes();
            first.remove();
        }
        freed
    }

    /// When to look at it again: when its first open item is due, or all of it can be forgotten.
    fn next_timer(&self, within_us: i64) -> Option<i64> {
        let open = self.items.iter().find(|(_, cell)| cell.is_open);
        let last = || {
            self.items.last_key_value().map(|(place, _)| place.time_us.saturating_add(within_us))
        };
        open.map(|(place, _)| place.time_us).or_else(last)
    }
}

impl Fold<Candidate, Item> for Groups {
    fn epoch(
        &mut self,
        epoch: Epoch,
        candidates: Vec<(Candidate, isize)>,
        output: &mut Vec<(Item, isize)>,
    ) {
        for (candidate, times) in candidates {
            self.insert(candidate, times);
        }
        self.advance(self.clock.after(epoch, &self.watermark), output);
    }

    fn save(&mut self, saver: &mut Saver) {
        for saved in self.gone.drain(..) {
            let group = key_group(saved.candidate.group_hash());
            if !saver.is_whole(group) {
                saver.put(group, &saved);
            }
        }
        for (name, group) in &mut self.groups {
            let key_group = key_group(key::hash(name));
            for (place, cell) in &mut group.items {
                let is_unsaved = std::mem::take(&mut cell.is_unsaved);
                if !is_unsaved && !saver.is_whole(key_group) {
                    continue;
                }
                cell.is_saved = true;
                let candidate = Candidate {
                    group: name.clone(),
                    place: place.clone(),
                    is_kept: cell.is_kept,
                    draw: cell.draw,
                    message: cell.message.clone(),
                };
                saver.put(key_group, &Saved { candidate, count: cell.count });
            }
        }
    }

    fn restore(&mut self, part: &StatePart) {
        let Some(epoch) = part.restored_epoch() else {
            return;
        };
        part.restore(|Saved { candidate, count }| {
            let known = self.groups.get(&candidate.group);
            let known = known.and_then(|group| group.items.get(&candidate.place));
            let known = known.map_or(0, |cell| cell.count);
            if count != known {
                self.insert(candidate, count - known);
            }
        });
        for cell in self.groups.values_mut().flat_map(|group| group.items.values_mut()) {
            (cell.is_saved, cell.is_unsaved) = (true, false);
        }
        // What is decided then came out before.
        self.advance(self.clock.after(epoch, &self.watermark), &mut Vec::new());
        self.gone.clear();
    }
}
