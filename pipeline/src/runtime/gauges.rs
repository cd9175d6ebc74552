//! What a running pipeline shows of itself: counters and states that anyone may read at any time.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

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
    waiting: Mutex<Option<String>>,
}

impl Gauges {
    /// Notes for what the pipeline waits, or that it goes on.
    pub fn set_waiting(&self, reason: Option<String>) {
        if let Ok(mut waiting) = self.waiting.lock() {
            *waiting = reason;
        }
    }

    /// For what the pipeline waits.
    pub fn waiting(&self) -> Option<String> {
        self.waiting.lock().ok().and_then(|waiting| waiting.clone())
    }

    /// Starts a generation's counts anew: it reads again what counts once.
    pub(super) fn reset(&self) {
        for counter in [&self.messages, &self.accepted, &self.dead, &self.late, &self.pending] {
            counter.store(0, Ordering::Relaxed);
        }
        self.watermark_us.store(i64::MIN, Ordering::Relaxed);
        self.largest_us.store(i64::MIN, Ordering::Relaxed);
    }
}
