//! Timestamps as events carry them: RFC 3339 text or a number, kept to the microsecond in UTC.

/// 0001-01-01T00:00:00Z in microseconds.
pub const EARLIEST_US: i64 = -62_135_596_800_000_000;
/// 9999-12-31T23:59:59.999999Z in microseconds.
pub const LATEST_US: i64 = 253_402_300_799_999_999;

/// Reads RFC 3339, a space for the `T` and a missing offset (meaning UTC) allowed; digits beyond
/// the microsecond are cut off. `None` for anything else, years beyond 9999 included.
///
/// ```
/// use waterwheel_config::timestamp::parse;
/// assert_eq!(parse("1970-01-01 00:00:01.5"), Some(1_500_000));
/// assert_eq!(parse("1970-01-01T01:00:00+01:00"), Some(0));
/// assert_eq!(parse("30000-01-01T00:00:00Z"), None);
/// ```
pub fn parse(text: &str) -> Option<i64> {
    Minutes::default().parse(text)
}

/// Reads as [`parse`] does, one timestamp after another: those of neighbouring events mostly lie in
/// the same minute, which is then not read again.
#[derive(Debug, Default)]
pub struct Minutes {
    last: Option<(MinuteText, i64)>,
}

impl Minutes {
    /// Reads the next one.
    pub fn parse(&mut self, text: &str) -> Option<i64> {
        let (minute, rest) = text.as_bytes().split_first_chunk()?;
        let minute_s = match self.last {
            Some((last, minute_s)) if last == *minute => minute_s,
            _ => minute_s(minute)?,
        };
        self.last = Some((*minute, minute_s));
        in_minute(minute_s, rest)
    }
}

/// `2026-01-01T00:00:`
type MinuteText = [u8; 17];

/// When a minute begins, in seconds; no offset is known yet.
fn minute_s(bytes: &MinuteText) -> Option<i64> {
    let separator = |at: usize, allowed: &[u8]| allowed.contains(&bytes[at]);
    if !(separator(4, b"-")
        && separator(7, b"-")
        && separator(10, b"Tt ")
        && separator(13, b":")
        && separator(16, b":"))
    {
        return None;
    }
    let year = number(&bytes[0..4])?;
    let month = number(&bytes[5..7])?;
    let day = number(&bytes[8..10])?;
    let (hour, minute) = (number(&bytes[11..13])?, number(&bytes[14..16])?);
    if year < 1 || hour > 23 || minute > 59 || day < 1 {
        return None;
    }
    if !(1..=12).contains(&month) || day > days_in_month(year, month) {
        return None;
    }
    Some(days_from_civil(year, month, day) * 86_400 + hour * 3_600 + minute * 60)
}

/// The rest of a timestamp: `00.017280Z`.
fn in_minute(minute_s: i64, rest: &[u8]) -> Option<i64> {
    let (second, rest) = rest.split_first_chunk::<2>()?;
    // Second 60 is a leap second; it counts as the first moment of the next minute.
    let second = number(second).filter(|second| *second <= 60)?;
    let (fraction_us, rest) = fraction(rest)?;
    let seconds = minute_s + second - offset(rest)?;
    in_range(seconds * 1_000_000 + fraction_us)
}

/// Reads an integer by its size: below 1e11 Unix seconds, below 1e14 milliseconds, below 1e17
/// microseconds, else nanoseconds (rounded down).
pub fn from_integer(number: i128) -> Option<i64> {
    let size = number.unsigned_abs();
    let micros = if size < 100_000_000_000 {
        number * 1_000_000
    } else if size < 100_000_000_000_000 {
        number * 1_000
    } else if size < 100_000_000_000_000_000 {
        number
    } else {
        number.div_euclid(1_000)
    };
    in_range(i64::try_from(micros).ok()?)
}

fn in_range(micros: i64) -> Option<i64> {
    (EARLIEST_US..=LATEST_US).contains(&micros).then_some(micros)
}

fn number(digits: &[u8]) -> Option<i64> {
    let mut value = 0;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value * 10 + i64::from(digit - b'0');
    }
    Some(value)
}

/// The fraction in microseconds, and what follows it.
fn fraction(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let Some((b'.' | b',', digits)) = bytes.split_first() else {
        return Some((0, bytes));
    };
    let (mut micros, mut scale, mut length) = (0, 1_000_000, 0);
    for digit in digits.iter().take_while(|byte| byte.is_ascii_digit()) {
        // What is beyond the microsecond has no scale left.
        scale /= 10;
        micros += i64::from(digit - b'0') * scale;
        length += 1;
    }
    (length > 0).then(|| (micros, &digits[length..]))
}

fn offset(bytes: &[u8]) -> Option<i64> {
    match bytes {
        [] | [b'Z' | b'z'] => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (number(&[*h1, *h2])?, number(&[*m1, *m2])?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let seconds = hours * 3_600 + minutes * 60;
            Some(if *sign == b'-' { -seconds } else { seconds })
        }
        _ => None,
    }
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days since 1970-01-01 (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year - era * 400;
    let shifted_month = (month + 9) % 12;
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_chrono(micros in EARLIEST_US..=LATEST_US) {
            let time = chrono::DateTime::from_timestamp_micros(micros).unwrap();
            prop_assert_eq!(parse(&time.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()), Some(micros));
            let shifted = time.with_timezone(&chrono::FixedOffset::east_opt(19_800).unwrap());
            if (1..=9999).contains(&chrono::Datelike::year(&shifted)) {
                prop_assert_eq!(parse(&shifted.to_rfc3339()), Some(micros));
            }
        }

        #[test]
        fn what_came_before_changes_nothing(
            texts in prop::collection::vec("20(26-0[12]|00-13)-0[1-3][Tt ]0[0-2]:0[01]:[0-9]{2}([.][0-9]{0,8})?Z?|\\PC{0,20}", 1..20),
        ) {
            let mut minutes = Minutes::default();
            for text in texts {
                prop_assert_eq!(minutes.parse(&text), parse(&text), "{}", text);
            }
        }

        #[test]
        fn never_panics(text in "\\PC{0,40}") {
            let _ = parse(&text);
        }
    }

    #[test]
    fn refuses_what_is_no_timestamp() {
        for text in [
            "",
            "2026-02-30T00:00:00Z",
            "2026-01-01",
            "2026-13-01T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00+25:00",
            "2026-01-01T00:00:00 UTC",
            "1700000000",
            "0000-01-01T00:00:00Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn cuts_below_the_microsecond() {
        assert_eq!(parse("1970-01-01T00:00:00.1234567899Z"), Some(123_456));
        assert_eq!(from_integer(1_700_000_000), Some(1_700_000_000_000_000));
        assert_eq!(from_integer(1_700_000_000_123), Some(1_700_000_000_123_000));
        assert_eq!(from_integer(1_700_000_000_123_456), Some(1_700_000_000_123_456));
        assert_eq!(from_integer(1_700_000_000_123_456_789), Some(1_700_000_000_123_456));
        assert_eq!(from_integer(i128::MAX), None);
        assert_eq!(from_integer(-1), Some(-1_000_000));
    }
}
