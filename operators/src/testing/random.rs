//! Random numbers from a seed, and the loop over the seeds of a property.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// A SplitMix64 generator: the same numbers for a seed, for ever.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// A generator for a seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x2545_f491_4f6c_dd1d).wrapping_add(0x9e37_79b9))
    }

    /// Any number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `end`, which is left out.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// A number from 0 to `end`, which is left out.
    pub(crate) fn below_i64(&mut self, end: i64) -> i64 {
        (self.next() % end.max(1).unsigned_abs()).cast_signed()
    }

    /// True once in `times`.
    pub(crate) fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of these.
    pub(crate) fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    /// From `least` to `most` different ones of these, in their order.
    pub(crate) fn some<T: Clone>(&mut self, from: &[T], least: usize, most: usize) -> Vec<T> {
        let count = (least + self.below(most - least + 1)).min(from.len());
        let mut indices: Vec<usize> = (0..from.len()).collect();
        while indices.len() > count {
            indices.remove(self.below(indices.len()));
        }
        indices.into_iter().map(|index| from[index].clone()).collect()
    }
}

/// Checks a property for `count` seeds, and names the seed of the first case that fails.
///
/// `WATERWHEEL_SEED=17` runs that seed alone, `WATERWHEEL_CASES=10` ten times as many seeds.
pub(crate) fn cases(property: &str, count: u64, check: impl Fn(&mut Random) -> Result<(), String>) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("WATERWHEEL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..count * number("WATERWHEEL_CASES").unwrap_or(1),
    };
    for seed in seeds {
        let outcome = catch_unwind(AssertUnwindSafe(|| check(&mut Random::new(seed))));
        let failure = match outcome {
            Ok(Ok(())) => continue,
            Ok(Err(failure)) => failure,
            Err(_) => "it panicked, see above".to_owned(),
        };
        panic!("{property} fails with WATERWHEEL_SEED={seed}\n{failure}");
    }
}
