//! One user's events of one reporting period in order, and the fold over them, exact under events out
//! of order.
//!
//! Events before the watermark can no longer change: they are folded once and dropped. The others are
//! kept in chunks, each with the state before it. An event that comes in order costs one step of the
//! fold; one that comes out of order folds again from its own chunk on, and only until the state is
//! again as it was.

use std::collections::VecDeque;

use waterwheel_config::calendar::Window;

use super::progress::Progress;
use super::steps::StepEvent;
use super::{Order, Rules};

/// So many events make a chunk: few enough to fold again for each that comes out of order, many enough
/// that the states before them take little space. Tests have few events, and want several chunks.
const CHUNK_EVENTS: usize = if cfg!(test) { 4 } else { 64 };

/// The events and the fold.
pub(super) struct Timeline {
    /// `None` where no event is kept, as of most users at most times: it takes little space then.
    kept: Option<Box<Kept>>,
    /// The state after all events, unless `is_stale`.
    end: Progress,
    /// True if a chunk changed, so that the states behind it must be folded again.
    is_stale: bool,
}

/// The events that are kept.
#[derive(Default)]
struct Kept {
    /// Events that are folded and that a path may still lead through: of `any` those of the last
    /// conversion window, of other funnels none.
    history: VecDeque<StepEvent>,
    /// The events from the watermark on.
    chunks: VecDeque<Chunk>,
}

struct Chunk {
    before: Progress,
    /// In order, with how often each came.
    events: Vec<(StepEvent, isize)>,
    is_changed: bool,
}

impl Chunk {
    fn last(&self) -> Option<&StepEvent> {
        self.events.last().map(|(event, _)| event)
    }
}

impl Kept {
    fn is_empty(&self) -> bool {
        self.history.is_empty() && self.chunks.is_empty()
    }

    /// The events from a time on.
    fn since(&self, from_us: i64) -> impl Iterator<Item = &StepEvent> {
        let is_before = |chunk: &Chunk| chunk.last().is_none_or(|last| last.time_us < from_us);
        let chunks = self.chunks.range(self.chunks.partition_point(is_before)..);
        let kept = chunks
            .flat_map(|chunk| &chunk.events)
            .filter(move |(event, times)| event.time_us >= from_us && *times > 0)
            .map(|(event, _)| event);
        since(&self.history, from_us).chain(kept)
    }

    /// Folds what lies before the watermark for good.
    fn seal(&mut self, watermark_us: i64, rules: &Rules, window: Window) {
        let is_before = |event: &StepEvent| event.time_us < watermark_us;
        while self.chunks.front().is_some_and(|chunk| chunk.last().is_some_and(is_before)) {
            let Some(chunk) = self.chunks.pop_front() else {
                break;
            };
            if rules.order == Order::Any {
                let came = chunk.events.into_iter().filter(|(_, times)| *times > 0);
                self.history.extend(came.map(|(event, _)| event));
            }
        }
        if let Some(chunk) = self.chunks.front_mut() {
            let count = chunk.events.partition_point(|(event, _)| is_before(event));
            for (event, _) in chunk.events.drain(..count).filter(|(_, times)| *times > 0) {
                let may_enter = window.contains(event.time_us);
                if rules.order == Order::Any {
                    self.history.push_back(event.clone());
                }
                let history = &self.history;
                chunk.before.apply(&event, rules, may_enter, |from_us| since(history, from_us));
            }
        } else {
            self.chunks = VecDeque::new();
        }
        let keeps_us = watermark_us.saturating_sub(rules.within_us);
        while self.history.front().is_some_and(|event| event.time_us < keeps_us) {
            self.history.pop_front();
        }
    }

    /// Adds an event that does not come last.
    fn insert(&mut self, event: StepEvent, times: isize, end: &mut Progress) {
        let at = self.chunks.partition_point(|chunk| chunk.last() < Some(&event));
        let chunk = &mut self.chunks[at];
        chunk.is_changed = true;
        match chunk.events.binary_search_by(|(known, _)| known.cmp(&event)) {
            Ok(place) => {
                chunk.events[place].1 += times;
                if chunk.events[place].1 == 0 {
                    chunk.events.remove(place);
                    if chunk.events.is_empty() {
                        self.remove(at, end);
                    }
                }
            }
            Err(place) => {
                chunk.events.insert(place, (event, times));
                if chunk.events.len() > 2 * CHUNK_EVENTS {
                    let events = chunk.events.split_off(CHUNK_EVENTS);
                    // The state before it comes when it is folded.
                    let before = chunk.before.clone();
                    self.chunks.insert(at + 1, Chunk { before, events, is_changed: true });
                }
            }
        }
    }

    /// Adds an event that comes last.
    fn append(&mut self, event: StepEvent, times: isize, end: &Progress, is_stale: bool) {
        if self.chunks.back().is_none_or(|chunk| chunk.events.len() >= CHUNK_EVENTS) {
            let chunk = Chunk { before: end.clone(), events: Vec::new(), is_changed: is_stale };
            if self.chunks.is_empty() {
                // Most users have one at a time.
                self.chunks.reserve_exact(1);
            }
            self.chunks.push_back(chunk);
        }
        if let Some(chunk) = self.chunks.back_mut() {
            chunk.is_changed |= is_stale;
            chunk.events.push((event, times));
        }
    }

    /// Removes a chunk whose last event is gone.
    fn remove(&mut self, at: usize, end: &mut Progress) {
        let Some(removed) = self.chunks.remove(at) else {
            return;
        };
        if let Some(next) = self.chunks.get_mut(at) {
            // Where states are stale, an earlier chunk is changed, and brings the right one.
            (next.before, next.is_changed) = (removed.before, true);
        } else if let Some(previous) = self.chunks.back_mut() {
            previous.is_changed = true;
        } else {
            *end = removed.before;
        }
    }

    /// Folds again what changed, and what follows until it is as it was.
    fn refold(&mut self, rules: &Rules, window: Window, end: &mut Progress) {
        // The state where it may be another than it was, and how far paths may lead through changes.
        let (mut state, mut changed_us): (Option<Progress>, i64) = (None, i64::MIN);
        for at in 0..self.chunks.len() {
            let chunk = &self.chunks[at];
            let mut current = match state.take() {
                Some(state)
                    if chunk.is_changed
                        || may_lead_through(changed_us, &state, chunk, rules, end)
                        || !state.is_same(&chunk.before) =>
                {
                    self.chunks[at].before = state.clone();
                    state
                }
                None if chunk.is_changed => chunk.before.clone(),
                _ => continue,
            };
            let chunk = &mut self.chunks[at];
            if std::mem::take(&mut chunk.is_changed) {
                changed_us = chunk.last().map_or(changed_us, |last| last.time_us);
            }
            for (event, times) in &self.chunks[at].events {
                if *times > 0 {
                    let may_enter = window.contains(event.time_us);
                    current.apply(event, rules, may_enter, |from_us| self.since(from_us));
                }
            }
            state = Some(current);
        }
        if let Some(state) = state {
            *end = state;
        }
    }

    fn size_bytes(&self) -> usize {
        let chunk = |chunk: &Chunk| {
            chunk.before.size_bytes() + chunk.events.capacity() * size_of::<(StepEvent, isize)>()
        };
        size_of::<Self>()
            + self.history.capacity() * size_of::<StepEvent>()
            + self.chunks.capacity() * size_of::<Chunk>()
            + self.chunks.iter().map(chunk).sum::<usize>()
    }
}

impl Timeline {
    pub(super) fn new(start: Progress) -> Self {
        Self { kept: None, end: start, is_stale: false }
    }

    /// The state after all events.
    pub(super) fn end(&self) -> &Progress {
        &self.end
    }

    /// Once the watermark has passed this, [`Timeline::seal`] drops all that is kept now.
    pub(super) fn kept_until_us(&self, rules: &Rules) -> Option<i64> {
        let kept = self.kept.as_ref()?;
        match (kept.chunks.back().and_then(Chunk::last), kept.history.back()) {
            (Some(last), _) => Some(last.time_us),
            (None, last) => Some(last?.time_us.saturating_add(rules.within_us)),
        }
    }

    /// The state before the kept events, those before the watermark, and those from it on.
    pub(super) fn parts(&self) -> (&Progress, Vec<&StepEvent>, Vec<&(StepEvent, isize)>) {
        let Some(kept) = &self.kept else {
            return (&self.end, Vec::new(), Vec::new());
        };
        let start = kept.chunks.front().map_or(&self.end, |chunk| &chunk.before);
        let events = kept.chunks.iter().flat_map(|chunk| &chunk.events);
        (start, kept.history.iter().collect(), events.collect())
    }

    /// Takes back what [`Timeline::parts`] gave, beside the state that it begins with.
    pub(super) fn restore(
        &mut self,
        history: Vec<StepEvent>,
        events: Vec<(StepEvent, isize)>,
        rules: &Rules,
        window: Window,
    ) {
        if !history.is_empty() {
            self.kept.get_or_insert_default().history = history.into();
        }
        for (event, times) in events {
            self.insert(event, times, rules, window);
        }
        self.refold(rules, window);
    }

    /// Folds what lies before the watermark for good.
    pub(super) fn seal(&mut self, watermark_us: i64, rules: &Rules, window: Window) {
        debug_assert!(!self.is_stale, "what is sealed is folded");
        if let Some(kept) = &mut self.kept {
            kept.seal(watermark_us, rules, window);
            if kept.is_empty() {
                self.kept = None;
            }
        }
    }

    /// Drops all events: nothing that comes changes the path any more.
    pub(super) fn settle(&mut self) {
        self.kept = None;
    }

    /// Adds an event so many times.
    pub(super) fn insert(&mut self, event: StepEvent, times: isize, rules: &Rules, window: Window) {
        let Self { kept, end, is_stale } = self;
        let kept = kept.get_or_insert_default();
        let last = kept.chunks.back().and_then(Chunk::last);
        if last.is_some_and(|last| *last >= event) {
            *is_stale = true;
            kept.insert(event, times, end);
            return;
        }
        kept.append(event.clone(), times, end, *is_stale);
        if times > 0 && !*is_stale {
            let may_enter = window.contains(event.time_us);
            end.apply(&event, rules, may_enter, |from_us| kept.since(from_us));
        }
    }

    /// Folds again what changed, and what follows until it is as it was.
    pub(super) fn refold(&mut self, rules: &Rules, window: Window) {
        if std::mem::take(&mut self.is_stale)
            && let Some(kept) = &mut self.kept
        {
            kept.refold(rules, window, &mut self.end);
        }
    }

    /// About how many bytes it takes beside itself.
    pub(super) fn size_bytes(&self) -> usize {
        self.end.size_bytes() + self.kept.as_ref().map_or(0, |kept| kept.size_bytes())
    }
}

/// True if a path that is still to be found behind this state may lead through a change: of `any` the
/// state does not say through which events.
fn may_lead_through(
    changed_us: i64,
    state: &Progress,
    next: &Chunk,
    rules: &Rules,
    end: &Progress,
) -> bool {
    let first_us = next.events.first().map_or(i64::MAX, |(event, _)| event.time_us);
    rules.order == Order::Any
        && changed_us >= first_us.saturating_sub(rules.within_us)
        && state.best().times.len() < end.best().times.len()
}

/// The events from a time on.
fn since(events: &VecDeque<StepEvent>, from_us: i64) -> impl Iterator<Item = &StepEvent> {
    events.range(events.partition_point(|event| event.time_us < from_us)..)
}
