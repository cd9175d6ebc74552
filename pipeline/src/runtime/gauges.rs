//! What a running pipeline shows of itself: counters and states that anyone may read at any time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};

/// The gauges of one pipeline, across its generations.
#[derive(Debug, Default)]
pub struct Gauges {
    /// Messages read, across generations.
    pub messages: AtomicU64,
    /// Messages that became events that take part.
    pub accepted: AtomicU64,
    /// Messages that became dead letters, late ones included.
    pub dead: AtomicU64,
    /// Events that came too late.
    pub late: AtomicU64,
    /// Messages known to wait at the sources.
    pub pending: AtomicU64,
    /// The least watermark, in microseconds.
    pub watermark_us: AtomicI64,
    /// The largest timestamp accepted, in microseconds.
    pub largest_us: AtomicI64,
    /// Rows handed to sinks.
    pub rows: AtomicU64,
    /// About how much state the operators hold.
    pub state_bytes: AtomicU64,
    /// True while replaying what the sinks already hold.
    pub replaying: AtomicBool,
    /// By who waits: why, and since when.
    waiting: Mutex<BTreeMap<String, (String, DateTime<Utc>)>>,
    /// Which silent source holds the watermark, and since when it is silent.
    holder: Mutex<Option<(String, DateTime<Utc>)>>,
}

impl Gauges {
    /// Notes that somebody waits, and why. Since when is kept while it lasts.
    pub fn wait_for(&self, whom: &str, cause: &str) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let since = waiting.get(whom).map_or_else(Utc::now, |(_, since)| *since);
        waiting.insert(whom.to_owned(), (cause.to_owned(), since));
    }

    /// Notes that somebody waits no longer.
    pub fn goes_on(&self, whom: &str) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(whom);
    }

    /// For what the pipeline waits, and since when.
    pub fn waiting(&self) -> Option<String> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let each = waiting.iter().map(|(whom, (cause, since))| {
            format!("{whom}: {cause} since {}", since.format("%H:%M:%SZ"))
        });
        (!waiting.is_empty()).then(|| each.collect::<Vec<_>>().join("; "))
    }

    /// Notes which silent source holds the watermark, and since when it is silent; or that none does.
    pub fn set_holder(&self, holder: Option<(String, DateTime<Utc>)>) {
        *self.holder.lock().unwrap_or_else(PoisonError::into_inner) = holder;
    }

    /// Which silent source holds the watermark, and since when it is silent.
    pub fn holder(&self) -> Option<String> {
        let holder = self.holder.lock().unwrap_or_else(PoisonError::into_inner);
        let (source, since) = holder.as_ref()?;
        Some(format!("source `{source}`, silent since {}", since.format("%H:%M:%SZ")))
    }

    /// Starts a generation's counts anew: it reads again what counts once.
    pub(super) fn reset(&self) {
        for counter in [&self.messages, &self.accepted, &self.dead, &self.late, &self.pending] {
            counter.store(0, Ordering::Relaxed);
        }
        self.set_holder(None);
        self.watermark_us.store(i64::MIN, Ordering::Relaxed);
        self.largest_us.store(i64::MIN, Ordering::Relaxed);
    }
}
