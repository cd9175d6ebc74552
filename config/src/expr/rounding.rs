//! `round(x, digits)`: half away from zero, on the decimal digits that people see.

use super::val::{Number, Val};

/// Rounds a number, as Postgres rounds a `numeric`: `round(2.345, 2)` is 2.35, though the double
/// that stands for 2.345 is a little less.
pub(super) fn round<'a>(value: &Val<'_>, digits: &Val<'_>) -> Val<'a> {
    let digits = match digits.number() {
        Some(Number::Integer(digits)) => digits.clamp(-400, 400) as i32,
        _ => return Val::Null,
    };
    match value.number() {
        Some(Number::Integer(number)) if digits >= 0 => Val::Integer(number),
        Some(Number::Integer(number)) => round_integer(number, digits.unsigned_abs()),
        Some(Number::Float(number)) if digits == 0 => Val::float(number.round()),
        Some(Number::Float(number)) => Val::float(round_float(number, digits)),
        None => Val::Null,
    }
}

fn round_integer<'a>(number: i128, zeros: u32) -> Val<'a> {
    // Of 64 bits nothing is left beyond twenty digits.
    let Some(unit) = 10i128.checked_pow(zeros.min(25)) else {
        return Val::Integer(0);
    };
    let size = (number.abs() + unit / 2) / unit * unit;
    Val::integer(size * number.signum())
}

/// Rounds the shortest decimal that reads back as this double.
fn round_float(number: f64, digits: i32) -> f64 {
    let text = format!("{:e}", number.abs());
    let Some((mantissa, exponent)) = text.split_once('e') else {
        return number;
    };
    let decimals: Vec<u8> =
        mantissa.bytes().filter(u8::is_ascii_digit).map(|digit| digit - b'0').collect();
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let kept = exponent + 1 + digits;
    let Ok(kept) = usize::try_from(kept) else {
        return 0.0;
    };
    if kept >= decimals.len() {
        return number;
    }
    // Seventeen digits at most.
    let whole = decimals[..kept].iter().fold(0u64, |whole, digit| whole * 10 + u64::from(*digit));
    let whole = whole + u64::from(decimals[kept] >= 5);
    let rounded: f64 = format!("{whole}e{}", -digits).parse().unwrap_or(number);
    rounded.copysign(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rounds_what_people_see() {
        for (number, digits, rounded) in [
            (2.345, 2, 2.35),
            (1.005, 2, 1.01),
            (-2.675, 2, -2.68),
            (0.5, 0, 1.0),
            (-2.5, 0, -3.0),
            (0.05, 1, 0.1),
            (0.04, 1, 0.0),
            (9.999, 2, 10.0),
            (1234.5, -2, 1200.0),
            (1250.5, -2, 1300.0),
            (51.0, -2, 100.0),
            (1e300, 2, 1e300),
            (1e-300, 2, 0.0),
            (123.456, 300, 123.456),
            (7.0, -9, 0.0),
        ] {
            let found = round(&Val::Float(number), &Val::Integer(digits));
            assert_eq!(found, Val::Float(rounded), "round({number}, {digits})");
        }
        for (number, digits, rounded) in
            [(1250, -2, 1300), (-1250, -2, -1300), (1249, -2, 1200), (7, 3, 7), (50, -400, 0)]
        {
            let found = round(&Val::Integer(number), &Val::Integer(digits));
            assert_eq!(found, Val::Integer(rounded), "round({number}, {digits})");
        }
        let widest = i128::from(u64::MAX);
        assert_eq!(
            round(&Val::Integer(widest), &Val::Integer(-1)),
            Val::Float(1.8446744073709552e19)
        );
        assert_eq!(round(&Val::Float(1.5), &Val::Float(1.5)), Val::Null);
        assert_eq!(round(&Val::text("1.25"), &Val::Integer(1)), Val::Float(1.3));
    }

    proptest! {
        #[test]
        fn is_as_near_as_can_be(cents in -1_000_000_000i64..1_000_000_000, digits in 0i128..5) {
            // Five decimals, rounded in integers.
            let number = cents as f64 / 1e5;
            let unit = 10i64.pow(5 - digits as u32);
            let units = (cents.abs() + unit / 2) / unit * cents.signum();
            let expected: f64 = format!("{units}e-{digits}").parse().unwrap();
            let found = round(&Val::Float(number), &Val::Integer(digits));
            prop_assert_eq!(found, Val::Float(expected));
        }
    }
}
