//! Whole numbers of any length in units of a power of two: what exact sums are made of beyond 128 bits.
//!
//! Limbs of 32 bits lie in 64-bit cells, so that hundreds of millions of additions fit before carries
//! must be settled (after R. Neal, "Fast exact summation using small and large superaccumulators",
//! 2015). Only the limbs that are used are kept: numbers of similar size take a few.

use serde::{Deserialize, Serialize};

const LIMB_BITS: i32 = 32;
const LIMB_MASK: i64 = 0xffff_ffff;

/// Each addition adds less than 2^32 to a limb of 63 bits: carry before it can overflow.
const ADDITIONS_MAX: u32 = 1 << 29;

/// The last limb holds the sign, and up to this much before another is needed.
const LAST_MAX: i64 = 1 << 40;

/// The sum of `limbs[i] · 2^(32 · (low + i))`; between carries limbs may be large or negative.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Limbs {
    low: i32,
    limbs: Vec<i64>,
    additions: u32,
}

/// `±bits · 2^exponent`, where the lowest bit also stands for everything below it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rounded {
    pub(crate) is_negative: bool,
    pub(crate) bits: u128,
    pub(crate) exponent: i32,
}

impl Limbs {
    /// Adds `number · 2^exponent`.
    pub(crate) fn add(&mut self, number: i128, exponent: i32) {
        let (mut place, shift) = (exponent.div_euclid(LIMB_BITS), exponent.rem_euclid(LIMB_BITS));
        let is_negative = number < 0;
        // 128 bits shifted by up to 31: five pieces of 32 bits.
        let mut magnitude = number.unsigned_abs();
        let mut carry = 0u64;
        while magnitude != 0 || carry != 0 {
            let piece = ((magnitude as u64 & 0xffff_ffff) << shift) | carry;
            let low = (piece & 0xffff_ffff).cast_signed();
            if low != 0 {
                *self.cell(place) += if is_negative { -low } else { low };
            }
            carry = piece >> LIMB_BITS;
            magnitude >>= LIMB_BITS;
            place += 1;
        }
        self.additions += 1;
        if self.additions >= ADDITIONS_MAX {
            self.carry();
        }
    }

    /// Adds another number.
    pub(crate) fn merge(&mut self, other: &Self) {
        let mut other = other.clone();
        other.carry();
        self.carry();
        for (index, limb) in other.limbs.iter().enumerate().filter(|(_, limb)| **limb != 0) {
            *self.cell(other.low + index as i32) += limb;
        }
        // The last limb may hold more than an addition adds.
        self.additions = 1 << (40 - LIMB_BITS + 1);
    }

    /// Adds `number · times`.
    pub(crate) fn add_times(&mut self, number: &Self, times: i64) {
        for (limb, exponent) in number.settled() {
            self.add(i128::from(limb) * i128::from(times), exponent);
        }
    }

    /// Subtracts the square of a number.
    pub(crate) fn subtract_square(&mut self, number: &Self) {
        let limbs = number.settled();
        for (index, (one, exponent)) in limbs.iter().enumerate() {
            self.add(-(i128::from(*one) * i128::from(*one)), 2 * exponent);
            for (other, other_exponent) in &limbs[..index] {
                self.add(-2 * i128::from(*one) * i128::from(*other), exponent + other_exponent);
            }
        }
    }

    /// The number, rounded to at least 97 bits; `None` where it is zero.
    pub(crate) fn rounded(&self) -> Option<Rounded> {
        let mut exact = self.clone();
        exact.carry();
        let is_negative = exact.limbs.last().is_some_and(|last| *last < 0);
        if is_negative {
            exact.limbs.iter_mut().for_each(|limb| *limb = -*limb);
            exact.carry();
        }
        while exact.limbs.last().is_some_and(|last| *last > LIMB_MASK) {
            exact.split_last();
        }
        let top = exact.limbs.iter().rposition(|limb| *limb != 0)?;
        let low = top.saturating_sub(3);
        let mut bits = exact.limbs[low..=top]
            .iter()
            .rev()
            .fold(0u128, |bits, limb| (bits << LIMB_BITS) | u128::from(limb.cast_unsigned()));
        if exact.limbs[..low].iter().any(|limb| *limb != 0) {
            bits |= 1;
        }
        let exponent = (exact.low + low as i32) * LIMB_BITS;
        Some(Rounded { is_negative, bits, exponent })
    }

    /// About how many bytes it takes beside itself.
    pub(crate) fn size_bytes(&self) -> usize {
        self.limbs.capacity() * size_of::<i64>()
    }

    /// The limbs that are not zero, each with its exponent.
    fn settled(&self) -> Vec<(i64, i32)> {
        let mut settled = self.clone();
        settled.carry();
        let place = |index: usize| (settled.low + index as i32) * LIMB_BITS;
        let limbs = settled.limbs.iter().enumerate();
        limbs.filter(|(_, limb)| **limb != 0).map(|(index, limb)| (*limb, place(index))).collect()
    }

    fn cell(&mut self, place: i32) -> &mut i64 {
        if self.limbs.is_empty() {
            self.low = place;
        }
        if place < self.low {
            let more = (self.low - place) as usize;
            self.limbs.splice(0..0, std::iter::repeat_n(0, more));
            self.low = place;
        }
        let index = (place - self.low) as usize;
        if index >= self.limbs.len() {
            self.limbs.resize(index + 1, 0);
        }
        &mut self.limbs[index]
    }

    /// Brings every limb but the last into 0..2^32; the last carries the sign.
    fn carry(&mut self) {
        self.additions = 0;
        let Some(last) = self.limbs.len().checked_sub(1) else {
            return;
        };
        let mut carry = 0;
        for limb in &mut self.limbs[..last] {
            let value = *limb + carry;
            *limb = value & LIMB_MASK;
            carry = value >> LIMB_BITS;
        }
        self.limbs[last] += carry;
        while self.limbs.last().is_some_and(|last| last.abs() > LAST_MAX) {
            self.split_last();
        }
    }

    fn split_last(&mut self) {
        if let Some(last) = self.limbs.last_mut() {
            let rest = *last >> LIMB_BITS;
            *last &= LIMB_MASK;
            self.limbs.push(rest);
        }
    }
}

impl Rounded {
    /// The nearest double of it times two to the power of `bits_up`; infinite beyond their range.
    pub(crate) fn to_f64_scaled(self, bits_up: i32) -> f64 {
        let magnitude = scaled(self.bits as f64, self.exponent + bits_up);
        if self.is_negative { -magnitude } else { magnitude }
    }

    /// The square root of it divided by `divisor`.
    pub(crate) fn root_of_quotient(self, divisor: f64) -> f64 {
        // Half of an even exponent is whole, and nothing leaves the range of doubles on the way.
        let odd = self.exponent.rem_euclid(2);
        let bits = self.bits as f64 * f64::from(1 + odd);
        scaled((bits / divisor).sqrt(), (self.exponent - odd) / 2)
    }
}

/// In two steps, since the power of two alone may leave the range of doubles.
fn scaled(number: f64, exponent: i32) -> f64 {
    let half = exponent / 2;
    number * 2f64.powi(half) * 2f64.powi(exponent - half)
}
