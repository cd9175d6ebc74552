//! Waiting for something outside that is down: with backoff, told once with its cause, and again at
//! intervals while it lasts.

use std::time::Duration;

use tokio::time::Instant;

use super::gauges::Gauges;
use crate::contract::fault::Fault;

const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MOST: Duration = Duration::from_secs(5);

/// How often somebody who reads the log is told that it still lasts.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// What one actor waits for, if it does.
pub(super) struct Waiting<'a> {
    gauges: &'a Gauges,
    /// For whom: ``sink `warehouse` ``.
    whom: String,
    backoff: Duration,
    lasting: Option<Lasting>,
}

struct Lasting {
    since: Instant,
    told_at: Instant,
    cause: String,
}

impl<'a> Waiting<'a> {
    pub(super) fn new(gauges: &'a Gauges, whom: impl Into<String>) -> Self {
        Self { gauges, whom: whom.into(), backoff: BACKOFF_FIRST, lasting: None }
    }

    /// Waits a while because of a fault, each time a little longer.
    pub(super) async fn pause(&mut self, fault: &Fault) {
        let (now, cause) = (Instant::now(), fault.to_string());
        let whom = &self.whom;
        match &mut self.lasting {
            None => {
                tracing::warn!("{whom}: {cause}; waiting for it");
                self.gauges.wait_for(whom, &cause);
                self.lasting = Some(Lasting { since: now, told_at: now, cause });
            }
            // Another cause is news; the same one only after a while.
            Some(lasting) if lasting.cause != cause || lasting.told_at + TELL_EVERY <= now => {
                let seconds = (now - lasting.since).as_secs();
                tracing::warn!("{whom}: {cause}; waiting for {seconds} s by now");
                self.gauges.wait_for(whom, &cause);
                (lasting.told_at, lasting.cause) = (now, cause);
            }
            Some(_) => {}
        }
        tokio::time::sleep(self.backoff.mul_f64(jitter())).await;
        self.backoff = (self.backoff * 2).min(BACKOFF_MOST);
    }

    /// Tries again, which takes a while: until it fails, nobody waits.
    pub(super) fn tries_again(&mut self) {
        self.gauges.goes_on(&self.whom);
        self.lasting = None;
    }

    /// It is there again.
    pub(super) fn over(&mut self) {
        if let Some(lasting) = self.lasting.take() {
            let seconds = lasting.since.elapsed().as_secs_f64();
            tracing::info!("{}: goes on after {seconds:.1} s", self.whom);
            self.gauges.goes_on(&self.whom);
        }
        self.backoff = BACKOFF_FIRST;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.lasting.is_some() {
            self.gauges.goes_on(&self.whom);
        }
    }
}

/// From 0.75 to 1.25, so that many who wait for one server do not all come back at once.
fn jitter() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    // Every state is seeded anew.
    let random = RandomState::new().hash_one(0) >> 32;
    0.75 + random as f64 / f64::from(u32::MAX) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_waited_for_is_shown_until_it_is_there() {
        let gauges = Gauges::default();
        let mut waiting = Waiting::new(&gauges, "sink `warehouse`");
        assert_eq!(gauges.waiting(), None);
        let began = Instant::now();
        waiting.pause(&Fault::retry("connection refused")).await;
        waiting.pause(&Fault::retry("the server is starting up")).await;
        assert!(began.elapsed() >= BACKOFF_FIRST * 2, "the second pause is twice the first");
        let shown = gauges.waiting().unwrap();
        assert!(shown.starts_with("sink `warehouse`: the server is starting up since "), "{shown}");
        waiting.over();
        assert_eq!((gauges.waiting(), waiting.backoff), (None, BACKOFF_FIRST));
    }
}
