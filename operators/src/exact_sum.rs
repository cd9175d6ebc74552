//! Sums that do not depend on the order of their terms: exact until they are read.
//!
//! A sum lives in 128-bit fixed point with a unit of 2^-72 while its terms allow it, which prices
//! and quantities do. A term too large, too small or too finely divided moves it to as many
//! [`Limbs`] as it takes. Either way addition is exact, so it is commutative, associative, and
//! undone by subtraction.

use serde::{Deserialize, Serialize};
use waterwheel_config::expr::Number;

use crate::limbs::Limbs;

/// The unit of the narrow form is 2^-72: finer than the last bit of 0.0001.
const NARROW_UNIT_BITS: i32 = 72;
/// Terms of the narrow form stay below 2^118, so that hundreds fit before the sum must move.
const NARROW_TERM_BITS: i32 = 118;

/// An exact sum of doubles and integers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum ExactSum {
    /// In units of 2^-72.
    Narrow(i128),
    /// For everything else.
    Wide(Box<Limbs>),
}

impl Default for ExactSum {
    fn default() -> Self {
        Self::Narrow(0)
    }
}

impl ExactSum {
    /// Adds a term, `times` may be negative to take it back.
    pub(crate) fn add(&mut self, term: Number, times: isize) {
        if let Self::Narrow(sum) = self
            && let Some(scaled) = narrow(term)
            && let Some(scaled) = scaled.checked_mul(times as i128)
            && let Some(next) = sum.checked_add(scaled)
        {
            *sum = next;
            return;
        }
        let wide = self.widen();
        match term {
            Number::Integer(number) => {
                // A product of 64 by 64 bits fits in 128.
                wide.add(number.saturating_mul(times as i128), 0);
            }
            Number::Float(number) => {
                let (mantissa, exponent) = decompose(number);
                wide.add(i128::from(mantissa) * times as i128, exponent);
            }
        }
    }

    /// Adds another sum.
    pub(crate) fn merge(&mut self, other: &Self) {
        match (&mut *self, other) {
            (Self::Narrow(a), Self::Narrow(b)) => {
                if let Some(sum) = a.checked_add(*b) {
                    *a = sum;
                    return;
                }
                self.widen().add(*b, -NARROW_UNIT_BITS);
            }
            (Self::Wide(a), Self::Narrow(b)) => a.add(*b, -NARROW_UNIT_BITS),
            (_, Self::Wide(b)) => self.widen().merge(b),
        }
    }

    /// The nearest double; infinite beyond the range of doubles.
    pub(crate) fn to_f64(&self) -> f64 {
        match self {
            // The conversion rounds once; a power of two scales without rounding.
            Self::Narrow(sum) => *sum as f64 * 2f64.powi(-NARROW_UNIT_BITS),
            Self::Wide(wide) => wide.rounded().map_or(0.0, |sum| sum.to_f64_scaled(0)),
        }
    }

    /// The sum divided by a count: a double even where the sum is beyond their range.
    pub(crate) fn mean(&self, count: i64) -> f64 {
        const SCALE_BITS: i32 = 64;
        match self {
            Self::Wide(wide) if self.to_f64().is_infinite() => {
                let sum = wide.rounded().map_or(0.0, |sum| sum.to_f64_scaled(-SCALE_BITS));
                sum / count as f64 * 2f64.powi(SCALE_BITS)
            }
            _ => self.to_f64() / count as f64,
        }
    }

    /// The sum itself.
    pub(crate) fn limbs(&self) -> Limbs {
        match self {
            Self::Narrow(sum) => {
                let mut limbs = Limbs::default();
                limbs.add(*sum, -NARROW_UNIT_BITS);
                limbs
            }
            Self::Wide(wide) => (**wide).clone(),
        }
    }

    /// About how many bytes it takes beside itself.
    pub(crate) fn size_bytes(&self) -> usize {
        match self {
            Self::Narrow(_) => 0,
            Self::Wide(wide) => size_of::<Limbs>() + wide.size_bytes(),
        }
    }

    fn widen(&mut self) -> &mut Limbs {
        if let Self::Narrow(_) = self {
            *self = Self::Wide(Box::new(self.limbs()));
        }
        match self {
            Self::Wide(wide) => wide,
            Self::Narrow(_) => unreachable!("just widened"),
        }
    }
}

/// A term in units of 2^-72, if it is a whole number of them and not too large.
#[inline]
fn narrow(term: Number) -> Option<i128> {
    let (mantissa, exponent) = match term {
        Number::Integer(number) => {
            let is_small = number.unsigned_abs() < 1 << (NARROW_TERM_BITS - NARROW_UNIT_BITS);
            return is_small.then_some(number << NARROW_UNIT_BITS);
        }
        Number::Float(number) => decompose(number),
    };
    if mantissa == 0 {
        return Some(0);
    }
    let shift = exponent + NARROW_UNIT_BITS;
    if shift >= 0 {
        return (shift + 53 <= NARROW_TERM_BITS).then(|| i128::from(mantissa) << shift);
    }
    let lost = shift.unsigned_abs();
    (lost <= mantissa.trailing_zeros()).then(|| i128::from(mantissa >> lost))
}

/// `number = mantissa · 2^exponent`, exactly.
#[inline]
pub(crate) fn decompose(number: f64) -> (i64, i32) {
    let bits = number.to_bits();
    let exponent = ((bits >> 52) & 0x7ff) as i32;
    let fraction = (bits & ((1 << 52) - 1)).cast_signed();
    let (mantissa, exponent) =
        if exponent == 0 { (fraction, -1074) } else { (fraction | 1 << 52, exponent - 1075) };
    (if bits >> 63 == 1 { -mantissa } else { mantissa }, exponent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sum(terms: &[f64]) -> f64 {
        let mut sum = ExactSum::default();
        for term in terms {
            sum.add(Number::Float(*term), 1);
        }
        sum.to_f64()
    }

    #[test]
    fn cancellation_is_exact() {
        assert_eq!(sum(&[1e300, 1.0, -1e300]), 1.0);
        assert_eq!(sum(&[0.1; 10]), 1.0);
        assert_eq!(sum(&[1e-300, 1e300, -1e300]), 1e-300);
        assert_eq!(sum(&[f64::MAX, f64::MAX, -f64::MAX]), f64::MAX);
        assert_eq!(sum(&[f64::MAX, f64::MAX]), f64::INFINITY);
        assert_eq!(sum(&[5e-324, 5e-324]), 1e-323);
        assert_eq!(sum(&[-1e18, 0.5]), -1e18);
        assert_eq!(sum(&[]), 0.0);
    }

    #[test]
    fn integers_are_exact() {
        let mut sum = ExactSum::default();
        sum.add(Number::Integer(u64::MAX.into()), 1);
        sum.add(Number::Integer(-i128::from(u64::MAX) + 3), 1);
        assert_eq!(sum.to_f64(), 3.0);
    }

    fn term() -> impl Strategy<Value = f64> {
        prop_oneof![
            (-1e6f64..1e6),
            prop::num::f64::NORMAL.prop_map(|x| x / 1e10),
            Just(0.0),
            (-1_000_000i64..1_000_000).prop_map(|cents| cents as f64 / 100.0),
        ]
    }

    proptest! {
        #[test]
        fn order_grouping_and_retraction_do_not_matter(
            mut terms in prop::collection::vec(term(), 0..40),
            extra in prop::collection::vec(term(), 0..10),
            cut in 0usize..40,
        ) {
            let forward = sum(&terms);
            terms.reverse();
            prop_assert_eq!(sum(&terms).to_bits(), forward.to_bits());
            let cut = cut.min(terms.len());
            let (mut left, mut right) = (ExactSum::default(), ExactSum::default());
            for term in &terms[..cut] {
                left.add(Number::Float(*term), 1);
            }
            for term in terms[cut..].iter().chain(&extra) {
                right.add(Number::Float(*term), 1);
            }
            left.merge(&right);
            for term in &extra {
                left.add(Number::Float(*term), -1);
            }
            prop_assert_eq!(left.to_f64().to_bits(), forward.to_bits());
        }

        #[test]
        fn decimal_sums_are_right(cents in prop::collection::vec(-100_000_000i64..100_000_000, 1..50)) {
            let terms: Vec<f64> = cents.iter().map(|cents| *cents as f64 / 100.0).collect();
            let wanted = cents.iter().sum::<i64>() as f64 / 100.0;
            prop_assert!((sum(&terms) - wanted).abs() <= wanted.abs() * 1e-12 + 1e-9);
        }
    }
}
