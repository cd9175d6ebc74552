//! The arithmetic of expected rows: windows, spellings, exact sums and quantiles, each in the most
//! plodding way that is surely right.

use chrono::{DateTime, Datelike, Days, Months, NaiveDate, TimeDelta, TimeZone};
use chrono_tz::Tz;

/// The window `[start, end)` around a moment, of a granularity as written.
pub(crate) fn window(granularity: &str, zone: Tz, micros: i64) -> (i64, i64) {
    let date = local_date(micros, zone);
    let (first, next) = match granularity {
        "1d" => (date, date + Days::new(1)),
        "1w" => {
            let mut monday = date;
            while monday.weekday() != chrono::Weekday::Mon {
                monday = monday - Days::new(1);
            }
            (monday, monday + Days::new(7))
        }
        "1mo" => {
            let first = NaiveDate::from_ymd_opt(date.year(), date.month(), 1).expect("a date");
            (first, first + Months::new(1))
        }
        fixed => {
            let length_us = fixed_length_us(fixed);
            let start = micros.div_euclid(length_us) * length_us;
            return (start, start + length_us);
        }
    };
    (day_start(first, zone), day_start(next, zone))
}

/// Every window `[start, end)` that holds a moment, of a granularity as written: one, unless it hops.
pub(crate) fn windows(granularity: &str, zone: Tz, micros: i64) -> Vec<(i64, i64)> {
    let Some((size, every)) = granularity.split_once('/') else {
        return vec![window(granularity, zone, micros)];
    };
    let mut windows = Vec::new();
    if ["1d", "1w", "1mo"].contains(&every) {
        let count: usize = size.trim_end_matches(char::is_alphabetic).parse().expect("a count");
        let mut start_us = window(every, zone, micros).0;
        for _ in 0..count {
            let mut end_us = start_us;
            for _ in 0..count {
                end_us = window(every, zone, end_us).1;
            }
            windows.push((start_us, end_us));
            start_us = window(every, zone, start_us - 1).0;
        }
        return windows;
    }
    let (size_us, every_us) = (fixed_length_us(size), fixed_length_us(every));
    let mut start_us = micros.div_euclid(every_us) * every_us;
    while micros < start_us + size_us {
        windows.push((start_us, start_us + size_us));
        start_us -= every_us;
    }
    windows
}

/// The start of the window before the one that starts here.
pub(crate) fn start_before(granularity: &str, zone: Tz, start_us: i64) -> i64 {
    match granularity.split_once('/') {
        Some((_, every)) if !["1d", "1w", "1mo"].contains(&every) => {
            start_us - fixed_length_us(every)
        }
        Some((_, every)) => window(every, zone, start_us - 1).0,
        None => window(granularity, zone, start_us - 1).0,
    }
}

/// The length of a granularity that is no calendar window.
pub(crate) fn fixed_length_us(granularity: &str) -> i64 {
    let units = [
        ("ms", 1_000),
        ("s", 1_000_000),
        ("m", 60_000_000),
        ("h", 3_600_000_000),
        ("d", 86_400_000_000),
    ];
    let (count, unit_us) = units
        .iter()
        .find_map(|(unit, unit_us)| {
            Some((granularity.strip_suffix(unit)?.parse::<i64>().ok()?, unit_us))
        })
        .expect("a fixed length");
    count * unit_us
}

fn local_date(micros: i64, zone: Tz) -> NaiveDate {
    let time = DateTime::from_timestamp_micros(micros).expect("a time");
    zone.from_utc_datetime(&time.naive_utc()).date_naive()
}

/// The first moment of a local day: midnight, or the first minute after it that exists.
fn day_start(date: NaiveDate, zone: Tz) -> i64 {
    let mut local = date.and_hms_opt(0, 0, 0).expect("midnight");
    loop {
        if let Some(time) = zone.from_local_datetime(&local).earliest() {
            return time.timestamp_micros();
        }
        local += TimeDelta::minutes(1);
    }
}

/// A number as JavaScript spells it, which is the canonical JSON spelling.
pub(crate) fn number_text(number: f64) -> String {
    if number == 0.0 {
        return "0".to_owned();
    }
    let scientific = format!("{:e}", number.abs());
    let (mantissa, exponent) = scientific.split_once('e').expect("an exponent");
    let digits = mantissa.replace('.', "");
    // The decimal point stands after this many digits.
    let point = exponent.parse::<i32>().expect("a number") + 1;
    let count = digits.len() as i32;
    let spelled = if count <= point && point <= 21 {
        format!("{digits}{}", "0".repeat((point - count) as usize))
    } else if 0 < point && point <= 21 {
        format!("{}.{}", &digits[..point as usize], &digits[point as usize..])
    } else if -6 < point && point <= 0 {
        format!("0.{}{digits}", "0".repeat(point.unsigned_abs() as usize))
    } else {
        let rest = if count > 1 { format!(".{}", &digits[1..]) } else { String::new() };
        let sign = if point > 0 { '+' } else { '-' };
        format!("{}{rest}e{sign}{}", &digits[..1], (point - 1).abs())
    };
    if number < 0.0 { format!("-{spelled}") } else { spelled }
}

/// A time in RFC 3339 with a `Z`, and a fraction only where there is one.
pub(crate) fn time_text(micros: i64) -> String {
    let time = DateTime::from_timestamp_micros(micros).expect("a time");
    let text = time.format("%Y-%m-%dT%H:%M:%S%.6f").to_string();
    format!("{}Z", text.trim_end_matches('0').trim_end_matches('.'))
}

/// The value of rank ⌈q·n⌉, with q in thousandths.
pub(crate) fn quantile(q_thousandths: usize, values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (q_thousandths * sorted.len()).div_ceil(1_000).max(1);
    sorted.get(rank - 1).copied()
}

/// An exact sum: what was added and what was subtracted, in units of 2^-1074.
#[derive(Clone, Debug, Default)]
pub(crate) struct BigSum {
    plus: Vec<u64>,
    minus: Vec<u64>,
}

impl BigSum {
    /// Adds a double.
    pub(crate) fn add_float(&mut self, number: f64) {
        if number == 0.0 {
            return;
        }
        let bits = number.abs().to_bits();
        let (exponent, fraction) = ((bits >> 52) as usize, bits & ((1 << 52) - 1));
        let (mantissa, shift) =
            if exponent == 0 { (fraction, 0) } else { (fraction | 1 << 52, exponent - 1) };
        self.add(number < 0.0, mantissa.into(), shift);
    }

    /// Adds an integer.
    pub(crate) fn add_integer(&mut self, number: i128) {
        self.add(number < 0, number.unsigned_abs(), 1074);
    }

    fn add(&mut self, negative: bool, magnitude: u128, shift: usize) {
        let side = if negative { &mut self.minus } else { &mut self.plus };
        // Bit by bit: slow, and hard to get wrong.
        for bit in (0..128).filter(|bit| magnitude >> bit & 1 == 1) {
            let (mut limb, mut carry) = ((shift + bit) / 64, 1u64 << ((shift + bit) % 64));
            while carry != 0 {
                if side.len() <= limb {
                    side.resize(limb + 1, 0);
                }
                let (sum, overflows) = side[limb].overflowing_add(carry);
                side[limb] = sum;
                carry = u64::from(overflows);
                limb += 1;
            }
        }
    }

    /// The sum in doubles, scaled by a power of two: `sum · 2^exponent`.
    pub(crate) fn scaled(&self, exponent: i32) -> f64 {
        let length = self.plus.len().max(self.minus.len()) + 1;
        let wide = |side: &[u64]| {
            let mut side = side.to_vec();
            side.resize(length, 0);
            side
        };
        let (mut large, mut small) = (wide(&self.plus), wide(&self.minus));
        let negative = large.iter().rev().lt(small.iter().rev());
        if negative {
            std::mem::swap(&mut large, &mut small);
        }
        let mut borrow = false;
        for (limb, other) in large.iter_mut().zip(&small) {
            let (rest, first) = limb.overflowing_sub(*other);
            let (rest, second) = rest.overflowing_sub(u64::from(borrow));
            *limb = rest;
            borrow = first || second;
        }
        let Some(top) = large.iter().rposition(|limb| *limb != 0) else {
            return 0.0;
        };
        let mut high = u128::from(large[top]) << 64;
        let below = |down: usize| top.checked_sub(down).map_or(0, |at| large[at]);
        high |= u128::from(below(1));
        if top >= 2 && large[..top - 1].iter().any(|limb| *limb != 0) {
            high |= 1;
        }
        let place = (top as i32 - 1) * 64 - 1074 + exponent;
        // In small steps, so that no power of two leaves the range by itself.
        let (mut number, mut left) = (high as f64, place);
        while left != 0 {
            let step = left.clamp(-500, 500);
            number *= 2f64.powi(step);
            left -= step;
        }
        if negative { -number } else { number }
    }

    /// The nearest double; infinite beyond the range of doubles.
    pub(crate) fn total(&self) -> f64 {
        self.scaled(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_exact() {
        let sum = |terms: &[f64]| {
            let mut sum = BigSum::default();
            terms.iter().for_each(|term| sum.add_float(*term));
            sum.total()
        };
        assert_eq!(sum(&[1e300, 1.0, -1e300]), 1.0);
        assert_eq!(sum(&[0.1; 10]), 1.0);
        assert_eq!(sum(&[5e-324, 5e-324]), 1e-323);
        assert_eq!(sum(&[f64::MAX, f64::MAX]), f64::INFINITY);
        assert_eq!(sum(&[-2.5, 1.0]), -1.5);
        assert_eq!(sum(&[]), 0.0);
        let mut integers = BigSum::default();
        integers.add_integer(u64::MAX.into());
        integers.add_integer(3 - i128::from(u64::MAX));
        assert_eq!(integers.total(), 3.0);
    }

    #[test]
    fn spellings() {
        for (number, text) in [
            (1.0, "1"),
            (-2.5, "-2.5"),
            (1e21, "1e+21"),
            (1e20, "100000000000000000000"),
            (1.5e300, "1.5e+300"),
            (1e-7, "1e-7"),
            (1.25e-6, "0.00000125"),
            (-0.0, "0"),
        ] {
            assert_eq!(number_text(number), text);
        }
        assert_eq!(time_text(1_500_000), "1970-01-01T00:00:01.5Z");
        assert_eq!(time_text(0), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn quantiles_are_those_of_a_rank() {
        let values = [4.0, 1.0, 3.0, 2.0];
        assert_eq!(quantile(500, &values), Some(2.0));
        assert_eq!(quantile(501, &values), Some(3.0));
        assert_eq!(quantile(0, &values), Some(1.0));
        assert_eq!(quantile(1_000, &values), Some(4.0));
        assert_eq!(quantile(500, &[]), None);
    }
}
