//! Durations and sizes as people write them: `500ms 30s 5m 1h 1d 1w 1mo 1y`, `1MiB`.

/// Microseconds in a second.
pub const SECOND_US: i64 = 1_000_000;
/// Microseconds in a day.
pub const DAY_US: i64 = 86_400 * SECOND_US;

const UNITS: [(&str, i64); 8] = [
    ("ms", 1_000),
    ("s", SECOND_US),
    ("m", 60 * SECOND_US),
    ("h", 3_600 * SECOND_US),
    ("d", DAY_US),
    ("w", 7 * DAY_US),
    ("mo", 30 * DAY_US),
    ("y", 365 * DAY_US),
];

/// A duration in microseconds. As bounds a month is 30 days and a year 365.
///
/// ```
/// use waterwheel_config::units::parse_duration;
/// assert_eq!(parse_duration("90s"), Ok(90_000_000));
/// assert!(parse_duration("90 seconds").is_err());
/// ```
///
/// # Errors
/// What is wrong with the text, in a sentence without a full stop.
pub fn parse_duration(text: &str) -> Result<i64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = text.split_at(digits);
    let us = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, us)| *us);
    match (count.parse::<i64>(), us) {
        (Ok(count), Some(us)) => {
            count.checked_mul(us).ok_or_else(|| format!("`{text}` is longer than time itself"))
        }
        _ => Err(match meant(count.trim(), unit.trim()) {
            Some(meant) => format!("`{text}` is not a duration; did you mean `{meant}`?"),
            None => format!(
                "`{text}` is not a duration; write a whole number and a unit: 500ms 30s 5m 1h 1d 1w 1mo 1y"
            ),
        }),
    }
}

/// The duration that somebody means who writes `30 seconds` or `1min`.
fn meant(count: &str, unit: &str) -> Option<String> {
    const WORDS: [(&str, &[&str]); 8] = [
        ("ms", &["ms", "msec", "milli", "millisecond"]),
        ("s", &["s", "sec", "second"]),
        ("m", &["m", "min", "minute"]),
        ("h", &["h", "hr", "hour"]),
        ("d", &["d", "day"]),
        ("w", &["w", "wk", "week"]),
        ("mo", &["mo", "mon", "month"]),
        ("y", &["y", "yr", "year"]),
    ];
    const HABITS: [(&str, &str); 4] =
        [("hourly", "1h"), ("daily", "1d"), ("weekly", "1w"), ("monthly", "1mo")];
    let unit = unit.to_lowercase();
    if let Some((_, meant)) = HABITS.iter().find(|(word, _)| count.is_empty() && *word == unit) {
        return Some((*meant).to_owned());
    }
    let singular = unit.strip_suffix('s').filter(|unit| !unit.is_empty()).unwrap_or(&unit);
    let is_meant = |words: &[&str]| words.contains(&unit.as_str()) || words.contains(&singular);
    let (name, _) = WORDS.iter().find(|(_, words)| is_meant(words))?;
    (!count.is_empty()).then(|| format!("{count}{name}"))
}

/// Microseconds as the shortest such text: `1m`, `90s`, `1500ms`; a remainder is given in `us`.
pub fn format_duration(us: i64) -> String {
    if us == 0 {
        return "0s".to_owned();
    }
    // Months and years are left out: only as bounds do they have a fixed length.
    UNITS[..6]
        .iter()
        .rev()
        .find(|(_, unit_us)| us % unit_us == 0)
        .map_or_else(|| format!("{us}us"), |(name, unit_us)| format!("{}{name}", us / unit_us))
}

/// A size in bytes: a whole number with `B KB MB GB KiB MiB GiB`, or none for bytes.
///
/// # Errors
/// What is wrong with the text, in a sentence without a full stop.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = text.split_at(digits);
    let bytes: Option<u64> = match unit.trim_start() {
        "" | "B" => Some(1),
        "KB" => Some(1_000),
        "MB" => Some(1_000_000),
        "GB" => Some(1_000_000_000),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        _ => None,
    };
    match (count.parse::<u64>(), bytes) {
        (Ok(count), Some(bytes)) => {
            count.checked_mul(bytes).ok_or_else(|| format!("`{text}` is too large"))
        }
        _ => Err(format!(
            "`{text}` is not a size; write for example 512KiB, 1MiB or a number of bytes"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_back() {
        for (text, us) in [("500ms", 500_000), ("1m", 60_000_000), ("1w", 7 * DAY_US)] {
            assert_eq!(parse_duration(text), Ok(us));
            assert_eq!(format_duration(us), text);
        }
        assert_eq!(parse_duration("1mo"), Ok(30 * DAY_US));
        assert_eq!(parse_duration("1y"), Ok(365 * DAY_US));
        for bad in ["", "5", "m", "-5s", "1.5h", "5 m", "99999999999y"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn words_for_units_are_understood() {
        for (text, meant) in [
            ("30 seconds", "30s"),
            ("1min", "1m"),
            ("2 H", "2h"),
            ("5 ms", "5ms"),
            ("7s ", "7s"),
            ("1 month", "1mo"),
            ("Daily", "1d"),
        ] {
            let help = format!("did you mean `{meant}`?");
            assert!(parse_duration(text).is_err_and(|it| it.ends_with(&help)), "{text}");
        }
        assert!(parse_duration("soon").is_err_and(|it| !it.contains("did you mean")));
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("1MiB"), Ok(1 << 20));
        assert_eq!(parse_size("4096"), Ok(4096));
        assert!(parse_size("many").is_err());
    }
}
