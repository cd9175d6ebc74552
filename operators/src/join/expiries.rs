//! The keys of a join by when something of them expires.
//!
//! They wait in buckets of time, which take a key as it comes: a watermark that passes a whole bucket
//! (as in a backfill each epoch does many) needs no order among its keys. Only those of the bucket
//! that the watermark is in are kept in order.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// A bucket is this part of the time for which a row is kept, so that few are open at once.
const BUCKETS: i64 = 32;

/// The bucket of rows that are kept for no time at all.
const WIDTH_US_MIN: i64 = 1_000;

/// When a key is to be looked at, and the key.
type Expiry = (i64, u128);

/// Keys by the watermark at which to look at them.
pub(super) struct Expiries {
    width_us: i64,
    buckets: BTreeMap<i64, Vec<Expiry>>,
    /// Keys of the buckets that the watermark has reached, in order.
    near: BinaryHeap<Reverse<Expiry>>,
    /// Those below this one were reached.
    reached: i64,
    /// Keys of the buckets that it has passed, in any order.
    due: Vec<Expiry>,
    len: usize,
}

impl Expiries {
    /// For rows that are kept for so long.
    pub(super) fn new(kept_us: i64) -> Self {
        Self {
            width_us: (kept_us / BUCKETS).max(WIDTH_US_MIN),
            buckets: BTreeMap::new(),
            near: BinaryHeap::new(),
            reached: i64::MIN,
            due: Vec::new(),
            len: 0,
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds one.
    pub(super) fn push(&mut self, expires_us: i64, key: u128) {
        self.len += 1;
        let bucket = expires_us.div_euclid(self.width_us);
        match bucket < self.reached {
            true => self.near.push(Reverse((expires_us, key))),
            false => self.buckets.entry(bucket).or_default().push((expires_us, key)),
        }
    }

    /// Takes one that has expired at a watermark.
    pub(super) fn pop(&mut self, watermark_us: i64) -> Option<Expiry> {
        let bucket = watermark_us.div_euclid(self.width_us);
        while self.due.is_empty()
            && let Some(first) = self.buckets.first_entry().filter(|first| *first.key() <= bucket)
        {
            match *first.key() < bucket {
                true => self.due = first.remove(),
                false => self.near.extend(first.remove().into_iter().map(Reverse)),
            }
        }
        self.reached = self.reached.max(bucket + 1);
        let expired = self.due.pop().or_else(|| {
            let Reverse((expires_us, _)) = *self.near.peek()?;
            (expires_us <= watermark_us).then(|| self.near.pop().map(|Reverse(expiry)| expiry))?
        });
        self.len -= usize::from(expired.is_some());
        expired
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_comes_once_and_when_it_expires(
            kept_us in prop_oneof![Just(0), 0..1_000_000_i64, Just(i64::MAX)],
            steps in prop::collection::vec(
                (prop::collection::vec(-100_000..100_000_i64, 0..20), -20_000..50_000_i64),
                1..40,
            ),
        ) {
            let mut expiries = Expiries::new(kept_us);
            let (mut expected, mut watermark_us, mut key) = (BTreeSet::new(), i64::MIN, 0);
            for (added, on_us) in steps {
                watermark_us = match watermark_us {
                    i64::MIN => on_us,
                    before => before + on_us.max(0),
                };
                for after_us in added {
                    key += 1;
                    expiries.push(watermark_us + after_us, key);
                    expected.insert((watermark_us + after_us, key));
                }
                let later = expected.split_off(&(watermark_us + 1, 0));
                let mut popped = BTreeSet::new();
                while let Some(expiry) = expiries.pop(watermark_us) {
                    prop_assert!(popped.insert(expiry));
                }
                prop_assert_eq!(&popped, &expected);
                expected = later;
                prop_assert_eq!(expiries.len(), expected.len());
            }
        }
    }

    #[test]
    fn the_ends_of_time_are_in_reach() {
        let mut expiries = Expiries::new(30_000_000);
        for expires_us in [i64::MAX, i64::MIN, 0] {
            expiries.push(expires_us, 1);
        }
        assert_eq!(expiries.pop(i64::MIN), Some((i64::MIN, 1)));
        assert_eq!(expiries.pop(i64::MIN), None);
        assert_eq!(expiries.pop(i64::MAX), Some((0, 1)));
        assert_eq!(expiries.pop(i64::MAX), Some((i64::MAX, 1)));
        assert_eq!((expiries.pop(i64::MAX), expiries.len()), (None, 0));
    }
}
