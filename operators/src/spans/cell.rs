//! The spans of one key.
//!
//! Events before the watermark can no longer change: they are folded once into the last span that
//! they make (`base`). Those after it are kept in order; what comes in order extends the last span,
//! what comes out of order or is taken back folds again what is kept, and no more: the length of a
//! span never counts.

use serde::{Deserialize, Serialize};

use super::{SpanEvent, Spans};

/// An event and how often it came.
pub(super) type Counted = (SpanEvent, isize);

/// The state of one key.
pub(super) struct Cell<S> {
    /// The last span of the events that are folded; while nothing is pending it is the last of
    /// `spans`, and not here.
    base: Option<S>,
    /// The other events. Those of the current epoch stand behind `settled`, in no order.
    pending: Vec<Counted>,
    settled: usize,
    /// The spans that are out and not yet final, from left to right.
    spans: Vec<S>,
    /// True if events came in the current epoch.
    pub(super) is_touched: bool,
    /// True if it changed since it was last saved.
    pub(super) is_unsaved: bool,
    /// Until when what was saved last would come back to life; the least number if nothing was.
    pub(super) saved_until_us: i64,
    /// When its next alarm goes off; the greatest number without one.
    pub(super) alarm_us: i64,
    /// What [`Cell::size_bytes`] was last.
    pub(super) heap_bytes: usize,
}

/// A key as it is saved.
#[derive(Serialize)]
pub(super) struct SavedCell<'a, S> {
    pub(super) key: &'a [u8],
    pub(super) base: Option<&'a S>,
    pub(super) pending: &'a [Counted],
    pub(super) spans: &'a [S],
}

/// The same, given back.
#[derive(Deserialize)]
pub(super) struct RestoredCell<S> {
    pub(super) key: std::sync::Arc<[u8]>,
    base: Option<S>,
    pending: Vec<Counted>,
    spans: Vec<S>,
}

/// How the spans of a key changed: `(before, after)`.
pub(super) type Change<S> = (Option<S>, Option<S>);

impl<S> Default for Cell<S> {
    fn default() -> Self {
        Self {
            base: None,
            pending: Vec::new(),
            settled: 0,
            spans: Vec::new(),
            is_touched: false,
            is_unsaved: false,
            saved_until_us: i64::MIN,
            alarm_us: i64::MAX,
            heap_bytes: 0,
        }
    }
}

/// Takes the next event in order; a span that it begins is given back.
fn step<R: Spans>(
    rules: &mut R,
    last: Option<&mut R::Span>,
    (event, times): &Counted,
) -> Option<R::Span> {
    if *times <= 0 {
        return None;
    }
    let times = *times as i64;
    match last {
        Some(span) if event.time_us <= rules.until_us(span) => {
            rules.add(span, event, times);
            None
        }
        _ => rules.begin(event, times),
    }
}

impl<S: Clone + PartialEq + Serialize> Cell<S> {
    /// Takes an event of the current epoch. The first one folds what the watermark has passed.
    pub(super) fn take<R: Spans<Span = S>>(
        &mut self,
        rules: &mut R,
        event: SpanEvent,
        times: isize,
        watermark_us: i64,
    ) {
        if !self.is_touched {
            self.is_touched = true;
            self.seal(rules, watermark_us);
            if self.pending.is_empty() {
                self.base = self.spans.last().cloned();
            }
            self.settled = self.pending.len();
        }
        self.pending.push((event, times));
    }

    /// Folds the events before the watermark, and lets go of the spans before the last of them.
    pub(super) fn seal<R: Spans<Span = S>>(&mut self, rules: &mut R, watermark_us: i64) {
        let count = self.pending.partition_point(|(event, _)| event.time_us < watermark_us);
        if count == self.pending.len() {
            self.pending.clear();
            self.base = None;
            self.spans.drain(..self.spans.len().saturating_sub(1));
            return;
        }
        for event in self.pending.drain(..count) {
            if let Some(next) = step(rules, self.base.as_mut(), &event) {
                self.base = Some(next);
            }
        }
        if let Some(base) = &self.base {
            let start_us = R::start_us(base);
            let before = self.spans.partition_point(|span| R::start_us(span) < start_us);
            self.spans.drain(..before);
        }
    }

    /// Puts the events of the current epoch in their places; `changes` gets what that changed. The
    /// watermark is that after the epoch.
    pub(super) fn settle<R: Spans<Span = S>>(
        &mut self,
        rules: &mut R,
        watermark_us: i64,
        changes: &mut Vec<Change<S>>,
    ) {
        self.is_touched = false;
        let (settled, fresh) = self.pending.split_at_mut(self.settled);
        fresh.sort_unstable();
        let is_behind = match (settled.last(), fresh.first()) {
            (Some((last, _)), Some((first, _))) => last < first,
            _ => true,
        };
        if is_behind && fresh.iter().all(|(_, times)| *times > 0) {
            self.append(rules, watermark_us, changes);
            return;
        }
        // Two runs that are each in order, which this sort makes use of.
        self.pending.sort();
        merge_equal(&mut self.pending);
        let mut spans: Vec<S> = self.base.iter().cloned().collect();
        for event in &self.pending {
            let next = step(rules, spans.last_mut(), event);
            spans.extend(next);
        }
        let passed = spans.partition_point(|span| rules.until_us(span) < watermark_us);
        spans[..passed].iter_mut().filter(|span| R::is_open(span)).for_each(R::close);
        let before = std::mem::replace(&mut self.spans, spans);
        difference::<R>(before, &self.spans, changes);
        if self.pending.is_empty() {
            self.base = None;
        }
    }

    /// The events of the epoch come behind all others.
    fn append<R: Spans<Span = S>>(
        &mut self,
        rules: &mut R,
        watermark_us: i64,
        changes: &mut Vec<Change<S>>,
    ) {
        let first = self.spans.len().saturating_sub(1);
        close_passed(rules, &mut self.spans[..first], watermark_us, changes);
        let mut before = self.spans.last().cloned();
        for event in &self.pending[self.settled..] {
            let next = step(rules, self.spans.last_mut(), event);
            self.spans.extend(next);
        }
        for span in &mut self.spans[first..] {
            if R::is_open(span) && rules.until_us(span) < watermark_us {
                R::close(span);
            }
            let before = before.take();
            if before.as_ref() != Some(span) {
                changes.push((before, Some(span.clone())));
            }
        }
    }

    /// The watermark has come to a moment at which something is to be done.
    pub(super) fn pass<R: Spans<Span = S>>(
        &mut self,
        rules: &mut R,
        watermark_us: i64,
        changes: &mut Vec<Change<S>>,
    ) {
        close_passed(rules, &mut self.spans, watermark_us, changes);
        self.seal(rules, watermark_us);
        if self.pending.is_empty() {
            self.pending = Vec::new();
        }
    }

    /// The next moment that the watermark must pass for something to be done.
    pub(super) fn next_alarm_us<R: Spans<Span = S>>(&self, rules: &R) -> Option<i64> {
        let open = self.spans.iter().find(|span| R::is_open(span));
        let close_us = open.map(|span| rules.until_us(span));
        let rest_us = match self.pending.last() {
            Some((event, _)) => Some(event.time_us),
            None => self.spans.last().map(|span| rules.until_us(span)),
        };
        [close_us, rest_us].into_iter().flatten().min()
    }

    /// The last moment that the watermark must pass for nothing to be left; `None` if nothing is.
    pub(super) fn until_us<R: Spans<Span = S>>(&self, rules: &R) -> Option<i64> {
        let span_us = self.spans.last().map(|span| rules.until_us(span));
        let event_us = self.pending.last().map(|(event, _)| event.time_us);
        span_us.max(event_us)
    }

    /// About how many bytes it takes beside itself.
    pub(super) fn size_bytes<R: Spans<Span = S>>(&self) -> usize {
        self.pending.capacity() * size_of::<Counted>()
            + self.spans.capacity() * size_of::<S>()
            + self.spans.iter().chain(&self.base).map(R::heap_bytes).sum::<usize>()
    }

    pub(super) fn saved<'a>(&'a self, key: &'a [u8]) -> SavedCell<'a, S> {
        SavedCell { key, base: self.base.as_ref(), pending: &self.pending, spans: &self.spans }
    }

    pub(super) fn restored(saved: RestoredCell<S>) -> Self {
        let RestoredCell { base, pending, spans, .. } = saved;
        Self { base, settled: pending.len(), pending, spans, ..Self::default() }
    }
}

/// Closes the open spans whose end the watermark has passed.
fn close_passed<R: Spans>(
    rules: &R,
    spans: &mut [R::Span],
    watermark_us: i64,
    changes: &mut Vec<Change<R::Span>>,
) {
    let passed = spans.partition_point(|span| rules.until_us(span) < watermark_us);
    for span in spans[..passed].iter_mut().filter(|span| R::is_open(span)) {
        let before = span.clone();
        R::close(span);
        changes.push((Some(before), Some(span.clone())));
    }
}

/// Adds up what stands several times among sorted events.
fn merge_equal(events: &mut Vec<Counted>) {
    events.dedup_by(|(next, more), (event, times)| {
        let is_same = next == event;
        if is_same {
            *times += *more;
        }
        is_same
    });
    events.retain(|(_, times)| *times != 0);
}

/// How the spans of a key changed; both are in order.
fn difference<R: Spans>(
    before: Vec<R::Span>,
    after: &[R::Span],
    changes: &mut Vec<Change<R::Span>>,
) {
    let mut after = after.iter().peekable();
    for old in before {
        let start_us = R::start_us(&old);
        while let Some(new) = after.next_if(|new| R::start_us(new) < start_us) {
            changes.push((None, Some(new.clone())));
        }
        match after.next_if(|new| R::start_us(new) == start_us) {
            Some(new) if *new == old => {}
            new => changes.push((Some(old), new.cloned())),
        }
    }
    changes.extend(after.map(|new| (None, Some(new.clone()))));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Spans of so many events, all of which belong together.
    struct Counts;

    impl Spans for Counts {
        type Span = (i64, i64);
        type Output = ();

        fn begin(&mut self, event: &SpanEvent, times: i64) -> Option<(i64, i64)> {
            Some((event.time_us, times))
        }

        fn add(&mut self, span: &mut (i64, i64), _event: &SpanEvent, times: i64) {
            span.1 += times;
        }

        fn start_us(span: &(i64, i64)) -> i64 {
            span.0
        }

        fn until_us(&self, _span: &(i64, i64)) -> i64 {
            i64::MAX
        }

        fn heap_bytes(_span: &(i64, i64)) -> usize {
            0
        }

        fn changed(
            &mut self,
            _key: &[u8],
            _before: Option<&(i64, i64)>,
            _after: Option<&(i64, i64)>,
            _output: &mut Vec<((), isize)>,
        ) {
        }
    }

    #[test]
    fn what_comes_and_goes_within_an_epoch_leaves_nothing() {
        let event = |time_us| SpanEvent {
            time_us,
            source: 0,
            sequence: (0, 0),
            marks: 0,
            event_type: None,
        };
        let mut cell = Cell::default();
        let mut changes = Vec::new();
        for (time_us, times) in [(1, 1), (2, 1), (2, -1)] {
            cell.take(&mut Counts, event(time_us), times, 0);
        }
        cell.settle(&mut Counts, 0, &mut changes);
        assert_eq!(changes, [(None, Some((1, 1)))]);
    }
}
