//! A quantile sketch with a relative error of at most 1 %, that can be merged and subtracted.
//!
//! DDSketch (Masson, Rim, Lee, VLDB 2019): a value x > 0 counts in bucket ⌈log_γ x⌉, and any value
//! of a bucket lies within α of the bucket's middle, where γ = (1 + α)/(1 − α). Counts are kept
//! exactly, so the sketch depends on the multiset of values alone, not on their order.

use serde::{Deserialize, Serialize};

/// A little under the promised 1 %, for the rounding of the logarithm.
const ALPHA: f64 = 0.009_9;
const GAMMA: f64 = (1.0 + ALPHA) / (1.0 - ALPHA);

/// Counts by bucket, sorted by bucket; a count of zero does not stay.
type Buckets = Vec<(i32, i64)>;

/// The sketch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sketch {
    negative: Buckets,
    zeros: i64,
    positive: Buckets,
}

impl Sketch {
    /// Counts a finite value `times` times; negative to take it back.
    pub(crate) fn add(&mut self, value: f64, times: i64) {
        if value == 0.0 {
            self.zeros += times;
            return;
        }
        let bucket = (value.abs().ln() / GAMMA.ln()).ceil() as i32;
        let side = if value < 0.0 { &mut self.negative } else { &mut self.positive };
        add_to(side, bucket, times);
    }

    /// Adds the counts of another sketch.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.zeros += other.zeros;
        for (bucket, count) in &other.negative {
            add_to(&mut self.negative, *bucket, *count);
        }
        for (bucket, count) in &other.positive {
            add_to(&mut self.positive, *bucket, *count);
        }
    }

    /// How many values are counted.
    pub(crate) fn count(&self) -> i64 {
        let sum = |side: &Buckets| side.iter().map(|(_, count)| count).sum::<i64>();
        sum(&self.negative) + self.zeros + sum(&self.positive)
    }

    /// The value of rank ⌈q·n⌉, within 1 %; `None` of nothing.
    pub(crate) fn quantile(&self, q: f64) -> Option<f64> {
        let count = self.count();
        if count <= 0 {
            return None;
        }
        // The product of a decimal and a count may lie a hair above the whole number it means.
        let product = q * count as f64;
        let rank = ((product - product * 1e-15).ceil() as i64).clamp(1, count);
        // By its logarithm, since the edge of the last bucket lies beyond the range of doubles.
        let middle = |bucket: i32| {
            let logarithm = f64::from(bucket) * GAMMA.ln() + (2.0 / (GAMMA + 1.0)).ln();
            logarithm.exp().min(f64::MAX)
        };
        let mut seen = 0;
        for (bucket, count) in self.negative.iter().rev() {
            seen += count;
            if seen >= rank {
                return Some(-middle(*bucket));
            }
        }
        seen += self.zeros;
        if seen >= rank {
            return Some(0.0);
        }
        for (bucket, count) in &self.positive {
            seen += count;
            if seen >= rank {
                return Some(middle(*bucket));
            }
        }
        None
    }

    /// About how many bytes it takes.
    pub(crate) fn size_bytes(&self) -> usize {
        16 * (self.negative.len() + self.positive.len())
    }
}

fn add_to(side: &mut Buckets, bucket: i32, times: i64) {
    match side.binary_search_by_key(&bucket, |(bucket, _)| *bucket) {
        Ok(at) => {
            side[at].1 += times;
            if side[at].1 == 0 {
                side.remove(at);
            }
        }
        Err(at) => side.insert(at, (bucket, times)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value() -> impl Strategy<Value = f64> {
        let size = (-9.0f64..12.0).prop_map(|exponent| 10f64.powf(exponent));
        (size, any::<bool>(), 0..20u8).prop_map(|(size, negative, zero)| match (zero, negative) {
            (0, _) => 0.0,
            (_, true) => -size,
            (_, false) => size,
        })
    }

    proptest! {
        #[test]
        fn every_rank_is_within_one_percent(values in prop::collection::vec(value(), 1..200)) {
            let mut sketch = Sketch::default();
            for value in &values {
                sketch.add(*value, 1);
            }
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            for (index, exact) in sorted.iter().enumerate() {
                let q = (index + 1) as f64 / sorted.len() as f64;
                let found = sketch.quantile(q).unwrap();
                prop_assert!((found - exact).abs() <= 0.01 * exact.abs(), "{found} for {exact}");
            }
        }

        #[test]
        fn merged_and_subtracted_it_is_the_same(
            values in prop::collection::vec(value(), 0..60),
            gone in prop::collection::vec(value(), 0..20),
        ) {
            let mut whole = Sketch::default();
            let (mut left, mut right) = (Sketch::default(), Sketch::default());
            for (index, value) in values.iter().enumerate() {
                whole.add(*value, 1);
                if index % 2 == 0 { left.add(*value, 1) } else { right.add(*value, 1) }
            }
            for value in &gone {
                left.add(*value, 1);
                right.add(*value, -1);
            }
            left.merge(&right);
            prop_assert_eq!(left, whole);
        }
    }
}
