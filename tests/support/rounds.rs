//! How often a test repeats what it does, and the chance in it: printed, and repeatable.

use std::time::{SystemTime, UNIX_EPOCH};

/// `ci` times, or `nightly` times where `WATERWHEEL_NIGHTLY=1`.
pub(crate) fn rounds(ci: usize, nightly: usize) -> usize {
    let is_nightly = std::env::var("WATERWHEEL_NIGHTLY").is_ok_and(|value| value == "1");
    if is_nightly { nightly } else { ci }
}

/// Numbers by chance: the same ones for the same seed (SplitMix64).
pub(crate) struct Chance {
    /// What it began with.
    pub(crate) seed: u64,
    state: u64,
}

impl Chance {
    /// Begins with `$WATERWHEEL_SEED`, else with another seed every time. Print it.
    pub(crate) fn new() -> Self {
        let asked = std::env::var("WATERWHEEL_SEED").ok();
        let seed = asked.map(|seed| seed.parse().expect("WATERWHEEL_SEED is a whole number"));
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_micros());
        Self::from_seed(seed.unwrap_or_else(|| now() as u64 % 1_000_000_007))
    }

    /// Begins with this seed.
    pub(crate) fn from_seed(seed: u64) -> Self {
        Self { seed, state: seed }
    }

    /// The next number, at least `from` and below `to`.
    pub(crate) fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.next() % (to - from)
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}
