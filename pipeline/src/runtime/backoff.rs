//! How long to wait before trying again: longer each time, and never at the same moment as others.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// The pauses between attempts.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// Pauses that double from `first` up to `most`.
    pub(super) fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    /// True before the first pause and after [`Backoff::reset`].
    #[cfg(test)]
    pub(super) fn is_fresh(&self) -> bool {
        self.next == self.first
    }

    /// Begins again: something worked.
    pub(super) fn reset(&mut self) {
        self.next = self.first;
    }

    /// The next pause: from half of what is due up to all of it, at random, so that those whom one
    /// outage stopped do not come back as one crowd.
    pub(super) fn pause(&mut self) -> Duration {
        let due = self.next;
        self.next = (due * 2).min(self.most);
        // Every state is seeded anew; the standard library has no other source of randomness.
        let random = RandomState::new().hash_one(0_u8) % 1024;
        due / 2 + due * u32::try_from(random).unwrap_or(0) / 2048
    }

    /// Waits that long.
    pub(super) async fn wait(&mut self) {
        tokio::time::sleep(self.pause()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_differ() {
        let millis = Duration::from_millis;
        let mut backoff = Backoff::new(millis(100), millis(500));
        assert!(backoff.is_fresh());
        for most in [100, 200, 400, 500, 500] {
            let pause = backoff.pause();
            assert!(pause >= millis(most) / 2 && pause <= millis(most), "{pause:?} of {most}");
        }
        assert!(!backoff.is_fresh());
        backoff.reset();
        assert!(backoff.is_fresh());
        let pauses: std::collections::HashSet<Duration> =
            (0..20).map(|_| Backoff::new(millis(100), millis(100)).pause()).collect();
        assert!(pauses.len() > 5, "{pauses:?}");
    }
}
