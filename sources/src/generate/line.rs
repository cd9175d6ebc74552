//! Writes JSON by hand, because a general writer would take longer than all the rest.

/// Digits of identifiers: no letters that look like digits.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Appends to a line of JSON.
pub(super) struct Line<'o>(pub(super) &'o mut Vec<u8>);

impl Line<'_> {
    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    pub(super) fn number(&mut self, number: u64) -> &mut Self {
        self.digits(number, 1)
    }

    /// A decimal number of which the last `places` digits are the fraction.
    pub(super) fn decimal(&mut self, number: i64, places: u32) -> &mut Self {
        if number < 0 {
            self.0.push(b'-');
        }
        let one = 10_u64.pow(places);
        let size = number.unsigned_abs();
        self.number(size / one);
        self.0.push(b'.');
        self.digits(size % one, places as usize)
    }

    /// An identifier: a tag and a number to the base of 32.
    pub(super) fn id(&mut self, tag: [u8; 2], number: u64) -> &mut Self {
        let length = (64 - number.leading_zeros()).div_ceil(5).max(1);
        self.0.extend_from_slice(&tag);
        let digits = (0..length).rev().map(|at| DIGITS[(number >> (5 * at)) as usize & 31]);
        self.0.extend(digits);
        self
    }

    /// A timestamp in RFC 3339, to the millisecond where that is exact, else to the microsecond.
    pub(super) fn timestamp(&mut self, micros: i64) -> &mut Self {
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        let (seconds, micros) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
        let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        let (year, month, day) = civil_from_days(days);
        put(&mut text, 0, year / 100);
        put(&mut text, 2, year % 100);
        put(&mut text, 5, month);
        put(&mut text, 8, day);
        put(&mut text, 11, second / 3_600);
        put(&mut text, 14, second / 60 % 60);
        put(&mut text, 17, second % 60);
        put(&mut text, 20, micros / 10_000);
        put(&mut text, 22, micros / 100 % 100);
        put(&mut text, 24, micros % 100);
        if micros % 1_000 == 0 {
            text[23] = b'Z';
            self.0.extend_from_slice(&text[..24]);
        } else {
            self.0.extend_from_slice(&text);
        }
        self
    }

    fn digits(&mut self, mut number: u64, least: usize) -> &mut Self {
        let mut text = [b'0'; 20];
        let mut at = text.len();
        while number > 0 {
            at -= 1;
            text[at] = b'0' + (number % 10) as u8;
            number /= 10;
        }
        let at = at.min(text.len() - least);
        self.0.extend_from_slice(&text[at..]);
        self
    }
}

fn put(text: &mut [u8; 27], at: usize, pair: i64) {
    text[at] = b'0' + (pair / 10) as u8;
    text[at + 1] = b'0' + (pair % 10) as u8;
}

/// Howard Hinnant, "chrono-compatible low-level date algorithms".
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use waterwheel_config::timestamp::{EARLIEST_US, LATEST_US, parse};

    fn written(write: impl Fn(&mut Line<'_>)) -> String {
        let mut out = Vec::new();
        write(&mut Line(&mut out));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn timestamps_read_back() {
        let step = (LATEST_US - EARLIEST_US) / 20_011;
        for at in 0..=20_011 {
            for rounded_to in [1, 1_000, 1_000_000] {
                let micros = EARLIEST_US + step * at;
                let micros = micros - micros.rem_euclid(rounded_to);
                let text = written(|line| _ = line.timestamp(micros));
                assert_eq!(parse(&text), Some(micros), "{text}");
                assert_eq!(text.len(), if micros % 1_000 == 0 { 24 } else { 27 });
            }
        }
        let text = written(|line| _ = line.timestamp(1_767_225_600_123_000));
        assert_eq!(text, "2026-01-01T00:00:00.123Z");
    }

    #[test]
    fn numbers() {
        for (number, places, text) in [
            (0, 2, "0.00"),
            (-5, 2, "-0.05"),
            (12_345, 2, "123.45"),
            (7, 3, "0.007"),
            (-100, 2, "-1.00"),
        ] {
            assert_eq!(written(|line| _ = line.decimal(number, places)), text);
        }
        assert_eq!(written(|line| _ = line.number(u64::MAX)), u64::MAX.to_string());
        assert_eq!(written(|line| _ = line.number(0)), "0");
        assert_eq!(written(|line| _ = line.id(*b"xy", 0)), "xy0");
        assert_eq!(written(|line| _ = line.id(*b"xy", 1_024)), "xy100");
    }
}
