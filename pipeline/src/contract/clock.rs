//! Event time inside the dataflow: which watermark is in force at which epoch.
//!
//! The driver notes the watermarks of an epoch before it releases the epoch's events. An operator
//! applies epoch e under the watermarks of e − 1 and then advances to those of e, so results do not
//! depend on where the input was cut.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use super::epoch::{Epoch, FINAL_WATERMARK, NO_WATERMARK};

/// The watermarks of all sources by epoch; one per worker, shared by its operators.
#[derive(Clone, Debug, Default)]
pub struct Clock(Rc<RefCell<BTreeMap<Epoch, Rc<[i64]>>>>);

impl Clock {
    /// Notes the watermarks of the sources after an epoch.
    pub fn set(&self, epoch: Epoch, watermarks: Rc<[i64]>) {
        self.0.borrow_mut().insert(epoch, watermarks);
    }

    /// The noted epochs from `next` on that lie before `closed`, or all from `next` on where the
    /// input has ended.
    pub fn between(&self, next: Epoch, closed: Option<Epoch>) -> Vec<Epoch> {
        let epochs = self.0.borrow();
        epochs
            .range(next..)
            .map(|(epoch, _)| *epoch)
            .take_while(|epoch| closed.is_none_or(|closed| *epoch < closed))
            .collect()
    }

    /// The watermark before an epoch: what held when its events were accepted.
    pub fn before(&self, epoch: Epoch, watermark: &Watermark) -> i64 {
        let epochs = self.0.borrow();
        let found = epochs.range(..epoch).next_back();
        found.map_or(NO_WATERMARK, |(_, sources)| watermark.of(sources))
    }

    /// The least watermark of all sources before an epoch.
    pub fn least_before(&self, epoch: Epoch) -> i64 {
        let epochs = self.0.borrow();
        let found = epochs.range(..epoch).next_back();
        found.and_then(|(_, sources)| sources.iter().min().copied()).unwrap_or(NO_WATERMARK)
    }

    /// Forgets what no operator will ask for again: all before `epoch` but the last.
    pub fn forget_before(&self, epoch: Epoch) {
        let mut epochs = self.0.borrow_mut();
        if let Some(last) = epochs.range(..epoch).next_back().map(|(epoch, _)| *epoch) {
            *epochs = epochs.split_off(&last);
        }
    }

    /// The watermark after an epoch.
    pub fn after(&self, epoch: Epoch, watermark: &Watermark) -> i64 {
        let epochs = self.0.borrow();
        let found = epochs.range(..=epoch).next_back();
        found.map_or(NO_WATERMARK, |(_, sources)| watermark.of(sources))
    }
}

/// How an edge's watermark follows from those of the sources: the least of them, each held back by
/// a delay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watermark {
    delays_us: BTreeMap<u16, i64>,
}

impl Watermark {
    /// The watermark of a source itself.
    pub fn source(source: u16) -> Self {
        Self { delays_us: BTreeMap::from([(source, 0)]) }
    }

    /// The least of several.
    pub fn least<'a>(watermarks: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut least = Self::default();
        for watermark in watermarks {
            for (source, delay_us) in &watermark.delays_us {
                let delay = least.delays_us.entry(*source).or_insert(*delay_us);
                *delay = (*delay).max(*delay_us);
            }
        }
        least
    }

    /// Held back by a further delay in microseconds.
    #[must_use]
    pub fn delayed(&self, delay_us: i64) -> Self {
        let delays_us = self
            .delays_us
            .iter()
            .map(|(source, delay)| (*source, delay.saturating_add(delay_us)))
            .collect();
        Self { delays_us }
    }

    /// The longest delay behind any source, in microseconds.
    pub fn delay_us(&self) -> i64 {
        self.delays_us.values().copied().max().unwrap_or(0)
    }

    /// The watermark, given those of the sources.
    pub fn of(&self, sources: &[i64]) -> i64 {
        self.delays_us
            .iter()
            .map(|(source, delay_us)| match sources.get(usize::from(*source)) {
                Some(&FINAL_WATERMARK) => FINAL_WATERMARK,
                Some(&NO_WATERMARK) | None => NO_WATERMARK,
                Some(micros) => micros.saturating_sub(*delay_us),
            })
            .min()
            .unwrap_or(NO_WATERMARK)
    }
}

/// Where one operator on one worker reports the size of its state, in bytes.
#[derive(Clone, Debug, Default)]
pub struct StateGauge(Rc<Cell<usize>>);

impl StateGauge {
    /// Reports the size.
    pub fn set(&self, bytes: usize) {
        self.0.set(bytes);
    }

    /// The size last reported.
    pub fn get(&self) -> usize {
        self.0.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_source_counts_with_its_delay() {
        let both = Watermark::least([&Watermark::source(0), &Watermark::source(1).delayed(10)]);
        assert_eq!(both.of(&[100, 105]), 95);
        assert_eq!(both.of(&[100, FINAL_WATERMARK]), 100);
        assert_eq!(both.of(&[NO_WATERMARK, 5]), NO_WATERMARK);
        assert_eq!(both.of(&[FINAL_WATERMARK, FINAL_WATERMARK]), FINAL_WATERMARK);
    }

    #[test]
    fn the_clock_keeps_what_is_in_force() {
        let clock = Clock::default();
        let source = Watermark::source(0);
        assert_eq!(clock.after(0, &source), NO_WATERMARK);
        clock.set(1, [10].into());
        clock.set(2, [20].into());
        clock.set(3, [30].into());
        clock.forget_before(3);
        assert_eq!(clock.after(2, &source), 20);
        assert_eq!(clock.after(3, &source), 30);
    }
}
