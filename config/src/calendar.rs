//! Windows of event time: fixed lengths on the Unix epoch, and calendar days, weeks and months in
//! a timezone, right across daylight saving.

use chrono::{Datelike, Days, Months, NaiveDate, Offset, TimeZone};
use chrono_tz::Tz;

use crate::units::{DAY_US, parse_duration};

/// How a window divides time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Period {
    /// Aligned to the Unix epoch; the length in microseconds.
    Fixed(i64),
    /// Midnight to midnight.
    Day(Tz),
    /// Monday to Monday.
    Week(Tz),
    /// First of the month to first of the month.
    Month(Tz),
}

/// A half-open range of event time `[start, end)` in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Window {
    /// First microsecond inside.
    pub start: i64,
    /// First microsecond after it.
    pub end: i64,
}

impl Window {
    /// True if the moment lies inside.
    pub fn contains(&self, micros: i64) -> bool {
        self.start <= micros && micros < self.end
    }
}

impl Period {
    /// Reads a window as written: `1d`, `1w` and `1mo` are calendar windows in `zone`, every other
    /// duration is a fixed length.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str, zone: Tz) -> Result<Self, String> {
        match text {
            "1d" => return Ok(Self::Day(zone)),
            "1w" => return Ok(Self::Week(zone)),
            "1mo" => return Ok(Self::Month(zone)),
            _ => {}
        }
        let unit = text.trim_start_matches(|digit: char| digit.is_ascii_digit());
        if matches!(unit, "mo" | "y") && unit != text {
            return Err(format!(
                "`{text}` has no fixed length; of calendar windows there are 1d, 1w and 1mo"
            ));
        }
        let length_us = parse_duration(text)?;
        if length_us == 0 {
            return Err("a window must be longer than zero; write for example `1m`".to_owned());
        }
        Ok(Self::Fixed(length_us))
    }

    /// The window that holds this moment.
    pub fn window(self, micros: i64) -> Window {
        let zone = match self {
            Self::Fixed(length_us) => {
                let start = micros - micros.rem_euclid(length_us);
                return Window { start, end: start.saturating_add(length_us) };
            }
            // Without offsets, days are fixed lengths.
            Self::Day(Tz::UTC) => return Self::Fixed(DAY_US).window(micros),
            Self::Day(zone) | Self::Week(zone) | Self::Month(zone) => zone,
        };
        let date = local_date(micros, zone);
        let (first, next) = match self {
            Self::Week(_) => {
                let monday = date - Days::new(date.weekday().num_days_from_monday().into());
                (monday, monday + Days::new(7))
            }
            Self::Month(_) => {
                let first = date - Days::new(date.day0().into());
                (first, first + Months::new(1))
            }
            _ => (date, date + Days::new(1)),
        };
        Window { start: start_of_day(first, zone), end: start_of_day(next, zone) }
    }

    /// The window after this one.
    pub fn next(self, window: Window) -> Window {
        self.window(window.end)
    }

    /// The start of the window that comes `count` windows after the one that holds this moment.
    pub fn after(self, micros: i64, count: u32) -> i64 {
        let (zone, window) = match self {
            Self::Fixed(length_us) => {
                let ahead_us = length_us.saturating_mul(count.into());
                return self.window(micros).start.saturating_add(ahead_us);
            }
            Self::Day(Tz::UTC) => return Self::Fixed(DAY_US).after(micros, count),
            Self::Day(zone) | Self::Week(zone) | Self::Month(zone) => (zone, self.window(micros)),
        };
        let first = local_date(window.start, zone);
        let date = match self {
            Self::Month(_) => first.checked_add_months(Months::new(count)),
            Self::Week(_) => first.checked_add_days(Days::new(u64::from(count) * 7)),
            _ => first.checked_add_days(Days::new(count.into())),
        };
        date.map_or(i64::MAX, |date| start_of_day(date, zone))
    }

    /// True if every window of `self` is a union of whole windows of `finer`, so that it can be
    /// rolled up from them.
    pub fn is_union_of(self, finer: Self) -> bool {
        match (self, finer) {
            (Self::Fixed(long), Self::Fixed(short)) => long % short == 0,
            (Self::Day(zone) | Self::Week(zone) | Self::Month(zone), Self::Fixed(short)) => {
                zone == Tz::UTC && DAY_US % short == 0
            }
            (Self::Week(a) | Self::Month(a), Self::Day(b)) => a == b,
            (a, b) => a == b,
        }
    }

    /// The longest that a window of this period can be, in microseconds.
    pub fn longest_us(self) -> i64 {
        // A zone may skip or repeat hours within a window, at most a day of them.
        let slack = |zone: Tz| if zone == Tz::UTC { 0 } else { DAY_US };
        match self {
            Self::Fixed(length_us) => length_us,
            Self::Day(zone) => DAY_US + slack(zone),
            Self::Week(zone) => 7 * DAY_US + slack(zone),
            Self::Month(zone) => 31 * DAY_US + slack(zone),
        }
    }
}

/// The first moment of a local day. Where midnight is skipped (a clock set forward at 00:00) the
/// day begins at the first moment that exists; where it is repeated, at the first of the two.
pub fn start_of_day(date: NaiveDate, zone: Tz) -> i64 {
    let midnight = date.and_time(chrono::NaiveTime::MIN);
    match zone.from_local_datetime(&midnight) {
        chrono::LocalResult::Single(time) => time.timestamp_micros(),
        chrono::LocalResult::Ambiguous(first, second) => {
            first.timestamp_micros().min(second.timestamp_micros())
        }
        chrono::LocalResult::None => {
            // The gap ends where the old offset (in force just before it) puts midnight.
            let before = midnight - chrono::TimeDelta::hours(24);
            let offset = zone.offset_from_utc_datetime(&before).fix().local_minus_utc();
            midnight.and_utc().timestamp_micros() - i64::from(offset) * 1_000_000
        }
    }
}

fn local_date(micros: i64, zone: Tz) -> NaiveDate {
    let utc = chrono::DateTime::from_timestamp_micros(micros).unwrap_or_default();
    zone.from_utc_datetime(&utc.naive_utc()).date_naive()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn micros(text: &str) -> i64 {
        crate::timestamp::parse(text).expect("a timestamp")
    }

    #[test]
    fn days_have_23_and_25_hours_at_daylight_saving() {
        let zone = Tz::Europe__Berlin;
        let spring = Period::Day(zone).window(micros("2026-03-29T12:00:00Z"));
        assert_eq!(spring.start, micros("2026-03-28T23:00:00Z"));
        assert_eq!(spring.end, micros("2026-03-29T22:00:00Z"));
        let autumn = Period::Day(Tz::America__New_York).window(micros("2026-11-01T12:00:00Z"));
        assert_eq!(autumn.start, micros("2026-11-01T04:00:00Z"));
        assert_eq!(autumn.end, micros("2026-11-02T05:00:00Z"));
    }

    #[test]
    fn a_day_whose_midnight_is_skipped_begins_at_one() {
        // Brazil set its clocks forward at midnight on 2018-11-04.
        let day = Period::Day(Tz::America__Sao_Paulo).window(micros("2018-11-04T12:00:00Z"));
        assert_eq!(day.start, micros("2018-11-04T03:00:00Z"));
        assert_eq!(day.end, micros("2018-11-05T02:00:00Z"));
    }

    #[test]
    fn months_and_weeks() {
        let month = Period::Month(Tz::UTC).window(micros("2024-02-29T23:59:59Z"));
        assert_eq!(month.end, micros("2024-03-01T00:00:00Z"));
        let week = Period::Week(Tz::UTC).window(micros("2026-11-21T00:00:00Z"));
        assert_eq!(week.start, micros("2026-11-16T00:00:00Z"));
    }

    proptest! {
        #[test]
        fn windows_tile_time(
            at in 0i64..4_102_444_800_000_000,
            zone in prop::sample::select(vec![
                Tz::UTC, Tz::Europe__Berlin, Tz::America__New_York, Tz::Asia__Kolkata,
                Tz::America__Sao_Paulo, Tz::Pacific__Apia, Tz::Africa__Cairo, Tz::Asia__Beirut,
            ]),
        ) {
            for period in [Period::Day(zone), Period::Week(zone), Period::Month(zone), Period::Fixed(7_000_000)] {
                let window = period.window(at);
                prop_assert!(window.contains(at), "{:?} {:?}", period, window);
                prop_assert_eq!(period.window(window.start), window);
                prop_assert_eq!(period.window(window.end - 1), window);
                prop_assert_eq!(period.next(window).start, window.end);
                prop_assert!(window.end - window.start <= period.longest_us());
                let mut later = window;
                for count in 0..40 {
                    prop_assert_eq!(period.after(at, count), later.start, "{:?} {}", period, count);
                    later = period.next(later);
                }
            }
        }
    }
}
