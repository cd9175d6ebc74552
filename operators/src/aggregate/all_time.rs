//! The groups of an aggregate without windows: one row per group over all time.
//!
//! With `expire`, silence divides the events of a group into lives, by event time alone: an event that
//! comes `expire` or more after the one before it begins anew. A life is final when the watermark shows
//! that nothing can lengthen it; its row then stays as it is, its state is dropped, and the next life
//! comes out in its place. Until then a later life waits, so that one row per group is out.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use waterwheel_config::value::{Row, Value};
use waterwheel_pipeline::contract::clock::{Clock, StateGauge, Watermark};
use waterwheel_pipeline::contract::epoch::Epoch;
use waterwheel_pipeline::contract::fold::Fold;
use waterwheel_pipeline::contract::operator::RenderContext;
use waterwheel_pipeline::contract::state::{Saver, StatePart, key_group};

use super::combine::Partial;
use super::{Plan, row_of};
use crate::accumulator::Accumulator;

/// The state of an aggregate without windows on one worker.
pub(super) struct AllTime {
    plan: Arc<Plan>,
    clock: Clock,
    watermark: Watermark,
    gauge: StateGauge,
    groups: HashMap<Box<[u8]>, Group>,
    /// The groups that changed in the current epoch.
    touched: Vec<Box<[u8]>>,
    /// When to look at a group: not after its first life is final, and maybe before.
    timers: BTreeMap<i64, Vec<Box<[u8]>>>,
    /// Groups that were forgotten, or taken back, since they were saved.
    gone: Vec<(u64, Box<[u8]>)>,
    heap_bytes: usize,
}

#[derive(Default)]
struct Group {
    hash: u64,
    /// In order. Where nothing is taken back each is a life; otherwise what came of a pane, since
    /// lives may part again.
    pieces: Vec<Piece>,
    emitted: Option<Row>,
    /// The earliest timer that is set.
    timer_us: Option<i64>,
    heap_bytes: usize,
    is_touched: bool,
    is_unsaved: bool,
    is_saved: bool,
}

/// A part of a life. The last accumulator is the span of its times, where there is `expire`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Piece {
    start: i64,
    rows: i64,
    accumulators: Vec<Accumulator>,
}

/// A group as it is saved.
#[derive(Serialize)]
struct SavedGroup<'a> {
    hash: u64,
    key: &'a [u8],
    pieces: &'a [Piece],
}

/// The same, given back.
#[derive(Deserialize)]
struct RestoredGroup {
    hash: u64,
    key: Box<[u8]>,
    pieces: Vec<Piece>,
}

impl Piece {
    fn merge(&mut self, other: Self) {
        self.rows += other.rows;
        for (mine, theirs) in self.accumulators.iter_mut().zip(other.accumulators) {
            mine.merge(theirs);
        }
    }

    /// Its first and last time; `None` if nothing is left of it.
    fn span(&self) -> Option<(i64, i64)> {
        match self.accumulators.last()? {
            Accumulator::Span(span) => *span,
            Accumulator::SpanCounted(times) => {
                let mut present = times.iter().filter(|(_, count)| **count > 0).map(|(at, _)| *at);
                let first = present.next()?;
                Some((first, present.next_back().unwrap_or(first)))
            }
            _ => None,
        }
    }

    /// Nothing of it can be taken back any more: only the ends of its span count.
    fn seal(&mut self) {
        let span = self.span();
        if let (Some(Accumulator::SpanCounted(times)), Some((first, last))) =
            (self.accumulators.last_mut(), span)
        {
            times.retain(|at, _| *at == first || *at == last);
        }
    }
}

impl Group {
    /// Adds what an epoch brought of a pane.
    fn apply(&mut self, partial: Partial, plan: &Plan) {
        self.hash = partial.hash;
        self.is_unsaved = true;
        let mut piece =
            Piece { start: partial.start, rows: partial.rows, accumulators: partial.accumulators };
        let Some(expire_us) = plan.expire_us else {
            match self.pieces.first_mut() {
                Some(all) => all.merge(piece),
                None => self.pieces.push(piece),
            }
            return;
        };
        if plan.retracting {
            match self.pieces.binary_search_by_key(&piece.start, |piece| piece.start) {
                Ok(at) => self.pieces[at].merge(piece),
                Err(at) => self.pieces.insert(at, piece),
            }
            return;
        }
        // It joins every life that it touches, and these each other.
        let Some((mut first, mut last)) = piece.span() else {
            return;
        };
        let near = |life: &Piece, first: i64, last: i64| {
            life.span().is_some_and(|(begin, end)| {
                begin < last.saturating_add(expire_us) && first < end.saturating_add(expire_us)
            })
        };
        let mut at = self.pieces.partition_point(|life| life.span() < Some((first, last)));
        while at > 0 && near(&self.pieces[at - 1], first, last) {
            at -= 1;
            let mut before = self.pieces.remove(at);
            before.merge(piece);
            piece = before;
            (first, last) = piece.span().unwrap_or((first, last));
        }
        while at < self.pieces.len() && near(&self.pieces[at], first, last) {
            piece.merge(self.pieces.remove(at));
            (first, last) = piece.span().unwrap_or((first, last));
        }
        self.pieces.insert(at, piece);
    }

    /// Joins the pieces that the watermark has passed: what is left of them is one life.
    fn seal(&mut self, plan: &Plan, watermark_us: i64) {
        let Some(expire_us) = plan.expire_us.filter(|_| plan.retracting) else {
            return;
        };
        self.pieces.retain(|piece| piece.span().is_some());
        let mut sealed: Option<Piece> = None;
        while let Some(piece) = self.pieces.first()
            && piece.start.saturating_add(expire_us) <= watermark_us
            && sealed.as_ref().is_none_or(|sealed| follows(sealed, piece, expire_us))
        {
            let mut piece = self.pieces.remove(0);
            if let Some(mut before) = sealed.take() {
                // The later start: no partial comes for either any more, and the order stays.
                before.start = piece.start;
                before.merge(piece);
                piece = before;
            }
            piece.seal();
            sealed = Some(piece);
        }
        if let Some(sealed) = sealed {
            self.pieces.insert(0, sealed);
        }
    }

    /// How many pieces the first life has, and its last time.
    fn first_life(&self, expire_us: Option<i64>) -> (usize, Option<i64>) {
        let Some(expire_us) = expire_us else {
            return (self.pieces.len(), None);
        };
        let mut count = usize::from(!self.pieces.is_empty());
        while count < self.pieces.len()
            && follows(&self.pieces[count - 1], &self.pieces[count], expire_us)
        {
            count += 1;
        }
        let last = count.checked_sub(1).and_then(|last| self.pieces[last].span());
        (count, last.map(|(_, last)| last))
    }

    /// The row of its first life.
    fn row(&self, plan: &Plan, key: &[u8]) -> Option<Row> {
        let (count, last_us) = self.first_life(plan.expire_us);
        let (first, others) = self.pieces[..count].split_first()?;
        let merged;
        let life = if others.is_empty() {
            first
        } else {
            let mut whole = first.clone();
            others.iter().for_each(|piece| whole.merge(piece.clone()));
            merged = whole;
            &merged
        };
        if life.rows <= 0 {
            return None;
        }
        let mut values = row_of(plan, &[], key, &life.accumulators, self.emitted.as_ref());
        // Behind the columns, where there is `expire`: the time that the row is final by.
        values.extend(last_us.map(Value::Timestamp));
        Some(values.into())
    }
}

/// True if one piece goes on the life of the other.
fn follows(before: &Piece, after: &Piece, expire_us: i64) -> bool {
    match (before.span(), after.span()) {
        (Some((_, last)), Some((first, _))) => first < last.saturating_add(expire_us),
        _ => true,
    }
}

impl AllTime {
    pub(super) fn new(plan: Arc<Plan>, context: &RenderContext) -> Self {
        Self {
            plan,
            clock: context.clock.clone(),
            watermark: context.watermark.clone(),
            gauge: context.state.clone(),
            groups: HashMap::new(),
            touched: Vec::new(),
            timers: BTreeMap::new(),
            gone: Vec::new(),
            heap_bytes: 0,
        }
    }

    fn apply(&mut self, mut partial: Partial) {
        let key = std::mem::take(&mut partial.key);
        let group = match self.groups.get_mut(&key) {
            Some(group) => group,
            None => self.groups.entry(key.clone()).or_default(),
        };
        group.apply(partial, &self.plan);
        if !std::mem::replace(&mut group.is_touched, true) {
            self.touched.push(key);
        }
    }

    /// Brings out what changed of a group, and sets its timer.
    fn emit(&mut self, key: Box<[u8]>, watermark_us: i64, output: &mut Vec<(Row, isize)>) {
        let Some(group) = self.groups.get_mut(&key) else {
            return;
        };
        group.is_touched = false;
        group.seal(&self.plan, watermark_us);
        let row = group.row(&self.plan, &key);
        if row != group.emitted {
            output.extend(group.emitted.take().map(|old| (old, -1)));
            output.extend(row.clone().map(|row| (row, 1)));
            group.emitted = row;
        }
        let has_rows = group.pieces.iter().any(|piece| piece.rows != 0 || piece.span().is_some());
        if !has_rows {
            self.note_gone(&key);
            self.remove(&key);
            return;
        }
        let heap_bytes = group
            .pieces
            .iter()
            .flat_map(|piece| &piece.accumulators)
            .map(|accumulator| accumulator.size_bytes() + size_of::<Accumulator>())
            .sum();
        self.heap_bytes = self.heap_bytes + heap_bytes - group.heap_bytes;
        group.heap_bytes = heap_bytes;
        self.set_timer(key);
    }

    fn set_timer(&mut self, key: Box<[u8]>) {
        let Some(group) = self.groups.get_mut(&key) else {
            return;
        };
        let (Some(expire_us), (_, Some(last_us))) =
            (self.plan.expire_us, group.first_life(self.plan.expire_us))
        else {
            return;
        };
        let due_us = last_us.saturating_add(expire_us);
        if group.timer_us.is_none_or(|timer_us| due_us < timer_us) {
            group.timer_us = Some(due_us);
            self.timers.entry(due_us).or_default().push(key);
        }
    }

    /// What was saved of a group must not come back.
    fn note_gone(&mut self, key: &[u8]) {
        if let Some(group) = self.groups.get(key).filter(|group| group.is_saved) {
            self.gone.push((group.hash, key.into()));
        }
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some(group) = self.groups.remove(key) {
            self.heap_bytes -= group.heap_bytes;
        }
    }

    /// Forgets the lives that are final; the ones after them come out.
    fn forget(&mut self, watermark_us: i64, output: &mut Vec<(Row, isize)>) {
        while let Some(first) = self.timers.first_entry()
            && *first.key() <= watermark_us
        {
            let (timer_us, keys) = first.remove_entry();
            for key in keys {
                let Some(group) = self.groups.get_mut(&key) else {
                    continue;
                };
                if group.timer_us != Some(timer_us) {
                    continue;
                }
                group.timer_us = None;
                let expire_us = self.plan.expire_us.unwrap_or(i64::MAX);
                let (count, last_us) = group.first_life(self.plan.expire_us);
                if last_us.is_some_and(|last_us| last_us.saturating_add(expire_us) <= watermark_us)
                {
                    // Its row stays out.
                    group.emitted = None;
                    group.pieces.drain(..count);
                    group.is_unsaved = true;
                }
                if group.pieces.is_empty() {
                    self.note_gone(&key);
                    self.remove(&key);
                } else {
                    self.emit(key, watermark_us, output);
                }
            }
        }
    }

    fn report(&self) {
        let row_bytes = (self.plan.by + self.plan.readings.len() + 1) * size_of::<Value>();
        let group_bytes = size_of::<Group>() + 96 + row_bytes;
        self.gauge.set(self.groups.len() * group_bytes + self.heap_bytes);
    }
}

impl Fold<Partial, Row> for AllTime {
    fn epoch(
        &mut self,
        epoch: Epoch,
        partials: Vec<(Partial, isize)>,
        output: &mut Vec<(Row, isize)>,
    ) {
        let before_us = self.clock.before(epoch, &self.watermark);
        for (partial, _) in partials {
            self.apply(partial);
        }
        for key in std::mem::take(&mut self.touched) {
            self.emit(key, before_us, output);
        }
        self.forget(self.clock.after(epoch, &self.watermark), output);
        self.report();
    }

    fn save(&mut self, saver: &mut Saver) {
        for (hash, key) in self.gone.drain(..) {
            saver.put(key_group(hash), &SavedGroup { hash, key: &key, pieces: &[] });
        }
        for (key, group) in &mut self.groups {
            let is_unsaved = std::mem::take(&mut group.is_unsaved);
            let key_group = key_group(group.hash);
            if is_unsaved || saver.is_whole(key_group) {
                group.is_saved = true;
                saver.put(key_group, &SavedGroup { hash: group.hash, key, pieces: &group.pieces });
            }
        }
    }

    fn restore(&mut self, part: &StatePart) {
        let Some(epoch) = part.restored_epoch() else {
            return;
        };
        let watermark_us = self.clock.after(epoch, &self.watermark);
        part.restore(|saved: RestoredGroup| {
            let group = Group {
                hash: saved.hash,
                pieces: saved.pieces,
                is_saved: true,
                ..Group::default()
            };
            self.groups.insert(saved.key, group);
        });
        // What of this would come out was out before; what is final has been forgotten since.
        let keys: Vec<Box<[u8]>> = self.groups.keys().cloned().collect();
        let mut out_before = Vec::new();
        for key in keys {
            self.emit(key, watermark_us, &mut out_before);
        }
        self.forget(watermark_us, &mut out_before);
        self.gone.clear();
    }
}
