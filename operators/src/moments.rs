//! Standard deviations that neither cancel nor depend on the order of their terms: the sums of the
//! numbers and of their squares are exact, and so is the difference that is taken of them.

use serde::{Deserialize, Serialize};
use waterwheel_config::expr::Number;

use crate::exact_sum::{ExactSum, decompose};
use crate::limbs::Limbs;

/// Count, sum and sum of squares.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Moments {
    count: i64,
    sum: ExactSum,
    squares: Limbs,
}

impl Moments {
    /// Counts a number `times` times; negative to take it back.
    pub(crate) fn add(&mut self, number: Number, times: isize) {
        self.count += times as i64;
        self.sum.add(number, times);
        let (magnitude, exponent) = match number {
            Number::Integer(number) => (number.unsigned_abs(), 0),
            Number::Float(number) => {
                let (mantissa, exponent) = decompose(number);
                (u128::from(mantissa.unsigned_abs()), exponent)
            }
        };
        // At most 64 bits, so that the square fits; with its halves any count fits as well.
        let square = magnitude * magnitude;
        let part = |bits: u128| (bits & u128::from(u64::MAX)) as i128 * times as i128;
        self.squares.add(part(square), 2 * exponent);
        self.squares.add(part(square >> 64), 2 * exponent + 64);
    }

    /// Adds other moments.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.sum.merge(&other.sum);
        self.squares.merge(&other.squares);
    }

    /// The standard deviation of the sample, as SQL's `stddev`: `None` of fewer than two.
    pub(crate) fn deviation(&self) -> Option<f64> {
        if self.count < 2 {
            return None;
        }
        // n·Σx² − (Σx)²: exact, and by Cauchy and Schwarz not negative.
        let mut spread = Limbs::default();
        spread.add_times(&self.squares, self.count);
        spread.subtract_square(&self.sum.limbs());
        let pairs = self.count as f64 * (self.count - 1) as f64;
        Some(spread.rounded().map_or(0.0, |spread| spread.root_of_quotient(pairs)))
    }

    /// About how many bytes it takes beside itself.
    pub(crate) fn size_bytes(&self) -> usize {
        self.sum.size_bytes() + self.squares.size_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn deviation(numbers: &[f64]) -> Option<f64> {
        let mut moments = Moments::default();
        numbers.iter().for_each(|number| moments.add(Number::Float(*number), 1));
        moments.deviation()
    }

    #[test]
    fn known_deviations() {
        assert_eq!(deviation(&[]), None);
        assert_eq!(deviation(&[5.0]), None);
        assert_eq!(deviation(&[5.0, 5.0, 5.0]), Some(0.0));
        assert_eq!(deviation(&[1.0, 3.0]), Some(2f64.sqrt()));
        // A plain sum of squares would see no difference at all.
        assert_eq!(deviation(&[1e15, 1e15 + 1.0, 1e15 + 2.0]), Some(1.0));
        assert_eq!(deviation(&[1e9 + 0.25, 1e9 + 0.75]), Some(0.5 * 0.5f64.sqrt()));
        // The squares of these are no doubles.
        let large = deviation(&[1e300, 3e300]).unwrap();
        assert!((large / (2f64.sqrt() * 1e300) - 1.0).abs() < 1e-15, "{large}");
        let small = deviation(&[1e-300, 3e-300]).unwrap();
        assert!((small / (2f64.sqrt() * 1e-300) - 1.0).abs() < 1e-15, "{small}");
    }

    #[test]
    fn the_largest_integers() {
        let mut moments = Moments::default();
        moments.add(Number::Integer(u64::MAX.into()), 1);
        moments.add(Number::Integer(i128::from(u64::MAX) - 2), 1);
        assert_eq!(moments.deviation(), Some(2f64.sqrt()));
        moments.add(Number::Integer(i64::MIN.into()), 1_000_000_000);
        moments.add(Number::Integer(i64::MIN.into()), -1_000_000_000);
        assert_eq!(moments.deviation(), Some(2f64.sqrt()));
    }

    fn number() -> impl Strategy<Value = f64> {
        prop_oneof![
            -1e6f64..1e6,
            (-1_000_000i64..1_000_000).prop_map(|cents| 1e9 + cents as f64 / 100.0),
            prop::num::f64::NORMAL.prop_map(|x| x / 1e10),
            Just(0.0),
        ]
    }

    proptest! {
        #[test]
        fn order_grouping_and_retraction_do_not_matter(
            mut numbers in prop::collection::vec(number(), 0..30),
            gone in prop::collection::vec(number(), 0..10),
            cut in 0usize..30,
        ) {
            let forward = deviation(&numbers);
            numbers.reverse();
            prop_assert_eq!(deviation(&numbers), forward);
            let cut = cut.min(numbers.len());
            let (mut left, mut right) = (Moments::default(), Moments::default());
            numbers[..cut].iter().for_each(|number| left.add(Number::Float(*number), 1));
            for number in numbers[cut..].iter().chain(&gone) {
                right.add(Number::Float(*number), 1);
            }
            left.merge(&right);
            gone.iter().for_each(|number| left.add(Number::Float(*number), -1));
            prop_assert_eq!(left.deviation(), forward);
        }

        #[test]
        fn deviations_are_right(cents in prop::collection::vec(-10_000_000i64..10_000_000, 2..50)) {
            // In whole cents around a large offset, where integers can say what is right.
            let offset = 1_000_000_000_000i128;
            let numbers: Vec<f64> = cents.iter().map(|cents| (offset + i128::from(*cents)) as f64).collect();
            let (n, sum) = (cents.len() as i128, cents.iter().map(|c| i128::from(*c)).sum::<i128>());
            let squares: i128 = cents.iter().map(|c| i128::from(*c) * i128::from(*c)).sum();
            let wanted = ((n * squares - sum * sum) as f64 / (n * (n - 1)) as f64).sqrt();
            let found = deviation(&numbers).unwrap();
            prop_assert!((found - wanted).abs() <= wanted * 1e-14, "{found} for {wanted}");
        }
    }
}
