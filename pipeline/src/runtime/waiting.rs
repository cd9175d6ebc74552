//! Waiting for something outside that is down: with backoff, told once with its cause, and again at
//! intervals while it lasts.

use std::time::Duration;

use tokio::time::Instant;

use super::backoff::Backoff;
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
    backoff: Backoff,
    lasting: Option<Lasting>,
}

struct Lasting {
    since: Instant,
    told_at: Instant,
    cause: String,
}

impl<'a> Waiting<'a> {
    pub(super) fn new(gauges: &'a Gauges, whom: impl Into<String>) -> Self {
        Self {
            gauges,
            whom: whom.into(),
            backoff: Backoff::new(BACKOFF_FIRST, BACKOFF_MOST),
            lasting: None,
        }
    }

    /// Waits a while because of a fault, each time a little longer.
    pub(super) async fn pause(&mut self, fault: &Fault) {
        self.tell(fault);
        self.backoff.wait().await;
    }

    /// Tells for what somebody waits who does so by himself.
    pub(super) fn tell(&mut self, fault: &Fault) {
        let (now, cause) = (Instant::now(), fault.to_string());
        let whom = &self.whom;
        match &mut self.lasting {
            None => {
                tracing::warn!(help = fault.help.as_deref(), "{whom}: {cause}; waiting for it");
                self.gauges.wait_for(whom, &cause);
                self.lasting = Some(Lasting { since: now, told_at: now, cause });
            }
            // Another cause is news; the same one only after a while.
            Some(lasting) if lasting.cause != cause || lasting.told_at + TELL_EVERY <= now => {
                let seconds = (now - lasting.since).as_secs();
                tracing::warn!(
                    help = fault.help.as_deref(),
                    "{whom}: {cause}; waiting for {seconds} s by now"
                );
                self.gauges.wait_for(whom, &cause);
                (lasting.told_at, lasting.cause) = (now, cause);
            }
            Some(_) => {}
        }
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
        self.backoff.reset();
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.lasting.is_some() {
            self.gauges.goes_on(&self.whom);
        }
    }
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
        assert!(
            began.elapsed() >= BACKOFF_FIRST * 3 / 2,
            "each pause is at least half of what is due"
        );
        let shown = gauges.waiting().unwrap();
        assert!(shown.starts_with("sink `warehouse`: the server is starting up since "), "{shown}");
        waiting.over();
        assert!(gauges.waiting().is_none() && waiting.backoff.is_fresh());
    }
}
