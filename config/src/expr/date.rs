//! Parts of a date, for `date_trunc` and `extract`, with the meaning that Postgres gives them.

use chrono::{DateTime, Datelike, NaiveDate, Offset, TimeZone, Timelike};
use chrono_tz::Tz;

use super::compile::ExprError;
use super::val::Val;
use crate::calendar::start_of_day;
use crate::names::nearest;
use crate::timestamp::{EARLIEST_US, LATEST_US};
use crate::units::SECOND_US;

/// Parts of a date for `date_trunc` and `extract`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum DatePart {
    Microsecond,
    Millisecond,
    Second,
    Minute,
    Hour,
    Day,
    Week,
    Month,
    Quarter,
    Year,
    Decade,
    Century,
    Millennium,
    IsoYear,
    DayOfWeek,
    IsoDayOfWeek,
    DayOfYear,
    Epoch,
    Timezone,
    TimezoneHour,
    TimezoneMinute,
}

/// Every part with its names, the first being the one to tell; those of `date_trunc` come first.
const NAMES: [(DatePart, &[&str]); 21] = [
    (DatePart::Microsecond, &["microsecond", "microseconds"]),
    (DatePart::Millisecond, &["millisecond", "milliseconds"]),
    (DatePart::Second, &["second", "seconds"]),
    (DatePart::Minute, &["minute", "minutes"]),
    (DatePart::Hour, &["hour", "hours"]),
    (DatePart::Day, &["day", "days"]),
    (DatePart::Week, &["week", "weeks", "isoweek"]),
    (DatePart::Month, &["month", "months"]),
    (DatePart::Quarter, &["quarter", "quarters"]),
    (DatePart::Year, &["year", "years"]),
    (DatePart::Decade, &["decade", "decades"]),
    (DatePart::Century, &["century", "centuries"]),
    (DatePart::Millennium, &["millennium", "millennia", "millenium"]),
    (DatePart::IsoYear, &["isoyear"]),
    (DatePart::DayOfWeek, &["dow", "dayofweek"]),
    (DatePart::IsoDayOfWeek, &["isodow"]),
    (DatePart::DayOfYear, &["doy", "dayofyear"]),
    (DatePart::Epoch, &["epoch"]),
    (DatePart::Timezone, &["timezone"]),
    (DatePart::TimezoneHour, &["timezone_hour"]),
    (DatePart::TimezoneMinute, &["timezone_minute"]),
];

/// How many of [`NAMES`] a timestamp can be truncated to.
const UNITS: usize = 13;

impl DatePart {
    /// The unit of `date_trunc` with this name.
    ///
    /// # Errors
    /// Where there is none.
    pub fn unit(name: &str) -> Result<Self, ExprError> {
        named(name, &NAMES[..UNITS], format!("`{name}` is no unit of date_trunc"))
    }

    /// The part of `extract` with this name.
    ///
    /// # Errors
    /// Where there is none.
    pub fn part(name: &str) -> Result<Self, ExprError> {
        named(name, &NAMES, format!("extract knows no `{name}`"))
    }
}

fn named(
    name: &str,
    names: &[(DatePart, &[&str])],
    message: String,
) -> Result<DatePart, ExprError> {
    let lowered = name.to_lowercase();
    if let Some((part, _)) = names.iter().find(|(_, names)| names.contains(&lowered.as_str())) {
        return Ok(*part);
    }
    let first = || names.iter().filter_map(|(_, names)| names.first().copied());
    let help = match nearest(&lowered, first()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("one of: {}", first().collect::<Vec<_>>().join(" ")),
    };
    Err(ExprError::new(name, message).help(help))
}

/// The beginning of the unit that holds this moment, in a timezone; `None` where that lies outside
/// of the years 1 to 9999.
///
/// Up to the hour the clock goes back at the offset in force; from the day on to the first moment
/// of the day, as windows do, where a clock that is set back shows midnight twice.
pub(super) fn truncate(micros: i64, unit: DatePart, zone: Tz) -> Option<i64> {
    let local = local(micros, zone)?;
    let local_us = micros + i64::from(local.offset().fix().local_minus_utc()) * SECOND_US;
    let back_to = |length_us: i64| micros - local_us.rem_euclid(length_us);
    let date = local.date_naive();
    let year = |year: i32| NaiveDate::from_ymd_opt(year, 1, 1);
    let first = match unit {
        DatePart::Microsecond => return Some(micros),
        DatePart::Millisecond => return Some(back_to(1_000)),
        DatePart::Second => return Some(back_to(SECOND_US)),
        DatePart::Minute => return Some(back_to(60 * SECOND_US)),
        DatePart::Hour => return Some(back_to(3_600 * SECOND_US)),
        DatePart::Week => date - chrono::Days::new(date.weekday().num_days_from_monday().into()),
        DatePart::Month => date.with_day(1)?,
        DatePart::Quarter => date.with_day(1)?.with_month(date.month0() / 3 * 3 + 1)?,
        DatePart::Year => year(date.year())?,
        DatePart::Decade => year(date.year().div_euclid(10) * 10)?,
        DatePart::Century => year((date.year() - 1).div_euclid(100) * 100 + 1)?,
        DatePart::Millennium => year((date.year() - 1).div_euclid(1_000) * 1_000 + 1)?,
        _ => date,
    };
    Some(start_of_day(first, zone)).filter(|start| (EARLIEST_US..=LATEST_US).contains(start))
}

/// One part of a moment, in a timezone.
pub(super) fn extract<'a>(micros: i64, part: DatePart, zone: Tz) -> Val<'a> {
    let Some(local) = local(micros, zone) else {
        return Val::Null;
    };
    let offset_s = local.offset().fix().local_minus_utc();
    let in_minute_us = i64::from(local.second()) * SECOND_US + micros.rem_euclid(SECOND_US);
    let whole = match part {
        DatePart::Microsecond => in_minute_us.into(),
        DatePart::Millisecond => return Val::float(in_minute_us as f64 / 1e3),
        DatePart::Second => return Val::float(in_minute_us as f64 / 1e6),
        DatePart::Epoch => return seconds(micros),
        DatePart::Minute => local.minute().into(),
        DatePart::Hour => local.hour().into(),
        DatePart::Day => local.day().into(),
        DatePart::Week => local.iso_week().week().into(),
        DatePart::Month => local.month().into(),
        DatePart::Quarter => (local.month0() / 3 + 1).into(),
        DatePart::Year => i128::from(local.year()),
        DatePart::Decade => i128::from(local.year().div_euclid(10)),
        DatePart::Century => i128::from((local.year() + 99).div_euclid(100)),
        DatePart::Millennium => i128::from((local.year() + 999).div_euclid(1_000)),
        DatePart::IsoYear => i128::from(local.iso_week().year()),
        DatePart::DayOfWeek => local.weekday().num_days_from_sunday().into(),
        DatePart::IsoDayOfWeek => local.weekday().number_from_monday().into(),
        DatePart::DayOfYear => local.ordinal().into(),
        DatePart::Timezone => offset_s.into(),
        DatePart::TimezoneHour => i128::from(offset_s / 3_600),
        DatePart::TimezoneMinute => i128::from(offset_s % 3_600 / 60),
    };
    Val::Integer(whole)
}

/// Microseconds as seconds.
pub(super) fn seconds<'a>(micros: i64) -> Val<'a> {
    Val::float(micros as f64 / 1e6)
}

fn local(micros: i64, zone: Tz) -> Option<DateTime<Tz>> {
    Some(zone.from_utc_datetime(&DateTime::from_timestamp_micros(micros)?.naive_utc()))
}
