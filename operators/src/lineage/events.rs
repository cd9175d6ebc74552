//! The events that a worker owns by their ids: which of several with one id counts, and how long each
//! takes part in the relation.
//!
//! An event comes into the relation twice: as a start, from where its causes are followed, until its
//! row is final; and as a node, which others may come by, for twice as long. Then it is taken out of
//! the relation again, with all that was made of it, and [`super::rows`] keeps that from sinks.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;
use waterwheel_config::units::SECOND_US;
use waterwheel_pipeline::contract::clock::{Clock, Watermark};
use waterwheel_pipeline::contract::epoch::Epoch;
use waterwheel_pipeline::contract::fold::Fold;
use waterwheel_pipeline::contract::operator::RenderContext;
use waterwheel_pipeline::contract::state::{Saver, StatePart, key_group};

use super::Plan;
use super::reading::{Facts, Named, Place, id_hash};
use super::rows::Sizes;
use crate::accumulator::Identities;

/// A change of the relation.
#[derive(Clone, Debug)]
pub(super) enum Live {
    Start(Facts),
    Node(Facts),
}

/// The events of one worker.
pub(super) struct LiveEvents {
    plan: Arc<Plan>,
    within_us: i64,
    clock: Clock,
    watermark: Watermark,
    sizes: Sizes,
    ids: HashMap<u128, Vec<Candidate>, Identities>,
    /// The ids to look at once the watermark has passed a time.
    timers: BTreeMap<i64, Vec<u128>>,
    /// Ids of which something changed in the epoch.
    touched: Vec<u128>,
    /// What was saved and then taken back, as it is to be saved: with a count of zero.
    gone: Vec<(Named, isize)>,
    /// What was restored, until it is brought into the relation.
    restored: Vec<(Live, isize)>,
}

/// One of the events with an id.
struct Candidate {
    place: Place,
    facts: Facts,
    count: isize,
    is_start: bool,
    is_node: bool,
    is_saved: bool,
    is_unsaved: bool,
}

/// What a watermark says of an event.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Age {
    /// Its row may change.
    Open,
    /// Others may come by it.
    Node,
    /// It is known, so that others of its id do not count.
    Known,
    Forgotten,
}

impl LiveEvents {
    pub(super) fn new(plan: Arc<Plan>, context: &RenderContext, sizes: Sizes) -> Self {
        Self {
            within_us: plan.within_us,
            plan,
            clock: context.clock.clone(),
            watermark: context.watermark.clone(),
            sizes,
            ids: HashMap::default(),
            timers: BTreeMap::new(),
            touched: Vec::new(),
            gone: Vec::new(),
            restored: Vec::new(),
        }
    }

    /// When an event has grown older than this.
    fn end_us(&self, time_us: i64, age: Age) -> i64 {
        let after_us = match age {
            Age::Open => self.within_us,
            Age::Node => self.within_us.saturating_mul(2),
            Age::Known | Age::Forgotten => self.plan.same_us(),
        };
        time_us.saturating_add(after_us)
    }

    fn age(&self, time_us: i64, watermark_us: i64) -> Age {
        let ages = [Age::Open, Age::Node, Age::Known];
        let found = ages.into_iter().find(|age| watermark_us <= self.end_us(time_us, *age));
        found.unwrap_or(Age::Forgotten)
    }

    fn insert(&mut self, named: Named, times: isize) {
        let id = id_hash(&named.facts.id);
        let candidates = self.ids.entry(id).or_default();
        self.touched.push(id);
        let Named { place, facts } = named;
        let known = |one: &Candidate| (&one.place, &one.facts) < (&place, &facts);
        let at = candidates.partition_point(known);
        match candidates.get_mut(at).filter(|one| one.place == place && one.facts == facts) {
            Some(one) => {
                one.count += times;
                one.is_unsaved = true;
            }
            None => {
                let (is_start, is_node, is_saved, is_unsaved) = (false, false, false, true);
                let count = times;
                let one =
                    Candidate { place, facts, count, is_start, is_node, is_saved, is_unsaved };
                candidates.insert(at, one);
                self.sizes.events.add(1);
            }
        }
    }

    /// Arms the timer for the next age. Timers are rounded up, so that many share one.
    fn arm(&mut self, id: u128, end_us: i64) {
        let width_us = (self.within_us / 8).max(SECOND_US);
        let at_us = end_us.div_euclid(width_us).saturating_add(1).saturating_mul(width_us);
        self.timers.entry(at_us).or_default().push(id);
    }

    /// Brings the relation up to date with what changed of an id.
    fn refresh(&mut self, id: u128, watermark_us: i64, output: &mut Vec<(Live, isize)>) {
        let Some(mut candidates) = self.ids.remove(&id) else {
            return;
        };
        self.judge(&mut candidates, watermark_us, output);
        let mut next: Option<i64> = None;
        for one in &candidates {
            let age = self.age(one.facts.time_us, watermark_us);
            let end_us = self.end_us(one.facts.time_us, age);
            next = Some(next.map_or(end_us, |next| next.min(end_us)));
        }
        if let Some(end_us) = next {
            self.arm(id, end_us);
            self.ids.insert(id, candidates);
        }
    }

    /// Finds which candidates count, in the order of the log: all that are not too near to one that
    /// counts already. What is forgotten goes, and with it those that did not count for it.
    fn judge(
        &mut self,
        candidates: &mut Vec<Candidate>,
        watermark_us: i64,
        output: &mut Vec<(Live, isize)>,
    ) {
        let near_us = self.plan.same_us();
        let mut counted: Vec<(i64, bool)> = Vec::new();
        let mut kept = Vec::with_capacity(candidates.len());
        for mut one in candidates.drain(..) {
            let time_us = one.facts.time_us;
            let age = self.age(time_us, watermark_us);
            let is_near = |(other_us, _): &&(i64, bool)| {
                other_us.saturating_sub(time_us).saturating_abs() <= near_us
            };
            let before = counted.iter().find(is_near).copied();
            let counts = one.count > 0 && before.is_none();
            let is_forgotten = age == Age::Forgotten;
            if counts {
                counted.push((time_us, is_forgotten));
            }
            self.set(&mut one, counts && age <= Age::Open, counts && age <= Age::Node, output);
            let is_behind_forgotten = before.is_some_and(|(_, is_forgotten)| is_forgotten);
            if one.count != 0 && !is_forgotten && !is_behind_forgotten {
                kept.push(one);
                continue;
            }
            self.sizes.events.add(-1);
            if one.count == 0 && one.is_saved {
                let Candidate { place, facts, .. } = one;
                self.gone.push((Named { place, facts }, 0));
            }
        }
        *candidates = kept;
    }

    fn set(
        &self,
        one: &mut Candidate,
        is_start: bool,
        is_node: bool,
        output: &mut Vec<(Live, isize)>,
    ) {
        let change = |was: bool, is: bool| isize::from(is) - isize::from(was);
        let starts = change(one.is_start, is_start);
        let nodes = change(one.is_node, is_node);
        if starts != 0 {
            output.push((Live::Start(one.facts.clone()), starts));
        }
        if nodes != 0 {
            output.push((Live::Node(one.facts.clone()), nodes));
        }
        (one.is_start, one.is_node) = (is_start, is_node);
    }
}

impl Fold<Named, Live> for LiveEvents {
    fn epoch(&mut self, epoch: Epoch, named: Vec<(Named, isize)>, output: &mut Vec<(Live, isize)>) {
        output.append(&mut self.restored);
        // Not that after the epoch: rows are told from what is forgotten by the one before.
        let watermark_us = self.clock.before(epoch, &self.watermark);
        for (named, times) in named {
            self.insert(named, times);
        }
        while let Some(first) = self.timers.first_entry()
            && *first.key() <= watermark_us
        {
            self.touched.extend(first.remove());
        }
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        for id in touched {
            self.refresh(id, watermark_us, output);
        }
    }

    fn save(&mut self, saver: &mut Saver) {
        for gone in self.gone.drain(..) {
            let group = key_group(gone.0.id_hash());
            if !saver.is_whole(group) {
                saver.put(group, &gone);
            }
        }
        for (id, candidates) in &mut self.ids {
            let group = key_group(*id as u64);
            for one in candidates {
                if std::mem::take(&mut one.is_unsaved) || saver.is_whole(group) {
                    one.is_saved = true;
                    let named = Named { place: one.place.clone(), facts: one.facts.clone() };
                    saver.put(group, &(named, one.count));
                }
            }
        }
    }

    fn restore(&mut self, part: &StatePart) {
        let Some(epoch) = part.restored_epoch() else {
            return;
        };
        // Of several records of one event the last counts.
        let mut counts: BTreeMap<Named, isize> = BTreeMap::new();
        part.restore(|(named, count): (Named, isize)| {
            counts.insert(named, count);
        });
        for (named, count) in counts.into_iter().filter(|(_, count)| *count != 0) {
            self.insert(named, count);
        }
        for one in self.ids.values_mut().flatten() {
            (one.is_saved, one.is_unsaved) = (true, false);
        }
        let watermark_us = self.clock.after(epoch, &self.watermark);
        let mut live = Vec::new();
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        for id in touched {
            self.refresh(id, watermark_us, &mut live);
        }
        self.restored = live;
    }
}
