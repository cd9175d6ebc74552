//! Where a row goes: the directories `date=2026-11-21/event_type=order.filled/` of a partitioning.

use std::fmt::Write;

use waterwheel_config::schema::Schema;
use waterwheel_config::units::{DAY_US, SECOND_US};
use waterwheel_config::value::Value;

use super::record::Record;

/// What Hive, DuckDB and Polars read as NULL.
const NULL_DIRECTORY: &str = "__HIVE_DEFAULT_PARTITION__";
/// The longest value in a directory's name; file systems end at 255 bytes with the column's name.
const LONGEST_VALUE_BYTES: usize = 100;
/// What is kept of a longer one, in front of its hash.
const KEPT_VALUE_BYTES: usize = 80;

/// What one level of directories is named after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The UTC date of the timestamp in this column.
    Date(usize),
    /// The value in this column.
    Column(usize),
}

/// The levels of directories of one input.
#[derive(Clone, Debug, Default)]
pub(super) struct Partitioning {
    parts: Vec<(String, Part)>,
}

/// The value of one level; rows with equal values share a file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum PartValue {
    /// Days since the Unix epoch.
    Day(Option<i64>),
    /// As in the column.
    Value(Value),
}

impl Partitioning {
    /// Levels by name, in order.
    pub(super) fn new(parts: Vec<(String, Part)>) -> Self {
        Self { parts }
    }

    /// By date where the input has a time and no column that is named so already.
    pub(super) fn default_of(schema: &Schema) -> Self {
        let time = schema.time.filter(|_| schema.index_of("date").is_none());
        Self::new(time.map(|time| ("date".to_owned(), Part::Date(time))).into_iter().collect())
    }

    /// The names of the levels, for people.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().map(|(name, _)| name.as_str())
    }

    /// True if one of the levels is the date.
    pub(super) fn has_date(&self) -> bool {
        self.parts.iter().any(|(_, part)| matches!(part, Part::Date(_)))
    }

    /// When the day of a partition ends, by the partition's directory below the input's own; `None`
    /// where it is of no day, or none of ours.
    pub(super) fn day_end(&self, directory: &str) -> Option<i64> {
        let levels: Vec<&str> = directory.split('/').collect();
        if levels.len() != self.parts.len() {
            return None;
        }
        let (level, (name, _)) =
            levels.iter().zip(&self.parts).find(|(_, (_, part))| matches!(part, Part::Date(_)))?;
        let date = level.strip_prefix(name.as_str())?.strip_prefix('=')?;
        let date = chrono::NaiveDate::parse_from_str(date, "%Y-%m-%d").ok()?;
        let start = date.and_hms_opt(0, 0, 0)?.and_utc().timestamp_micros();
        start.checked_add(DAY_US)
    }

    /// True if a file is in a directory that is named after this value of a column.
    pub(super) fn is_in(&self, file: &str, column: &str, value: &str) -> bool {
        let mut wanted = String::new();
        push_encoded(column, &mut wanted);
        wanted.push('=');
        wanted.push_str(&encoded_value(value));
        file.split('/').any(|level| level == wanted)
    }

    /// True if the row belongs to the partition with these values; allocates nothing.
    pub(super) fn holds(&self, values: &[PartValue], row: Record<'_>) -> bool {
        self.parts.iter().zip(values).all(|((_, part), value)| match (part, value) {
            (Part::Date(column), PartValue::Day(day)) => day_of(row, *column) == *day,
            (Part::Column(column), PartValue::Value(Value::Text(value))) => {
                row.text(*column, |text| text == Some(value))
            }
            (Part::Column(column), PartValue::Value(value)) => {
                row.value(*column, |found| found == value)
            }
            _ => false,
        })
    }

    /// The values of the row's partition.
    pub(super) fn values(&self, row: Record<'_>) -> Vec<PartValue> {
        let value = |part: &Part| match *part {
            Part::Date(column) => PartValue::Day(day_of(row, column)),
            Part::Column(column) => PartValue::Value(row.value(column, Value::clone)),
        };
        self.parts.iter().map(|(_, part)| value(part)).collect()
    }

    /// The directory of a partition below the input's own, without a slash at either end.
    pub(super) fn directory(&self, values: &[PartValue]) -> String {
        let mut out = String::new();
        for ((name, _), value) in self.parts.iter().zip(values) {
            if !out.is_empty() {
                out.push('/');
            }
            push_encoded(name, &mut out);
            out.push('=');
            let text = match value {
                PartValue::Day(day) => day.and_then(date_text).unwrap_or_default(),
                PartValue::Value(value) => value.to_plain(),
            };
            out.push_str(&encoded_value(&text));
        }
        out
    }
}

fn day_of(row: Record<'_>, column: usize) -> Option<i64> {
    row.value(column, |value| match value {
        Value::Timestamp(micros) => Some(micros.div_euclid(DAY_US)),
        _ => None,
    })
}

fn date_text(day: i64) -> Option<String> {
    let seconds = day.checked_mul(DAY_US / SECOND_US)?;
    let time = chrono::DateTime::from_timestamp(seconds, 0)?;
    Some(time.format("%Y-%m-%d").to_string())
}

/// One value as the name of a directory: no value of an event can leave its directory, meet
/// another value's, or be too long for a file system.
fn encoded_value(text: &str) -> String {
    if text.is_empty() {
        return NULL_DIRECTORY.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    push_encoded(text, &mut out);
    if out == NULL_DIRECTORY {
        // The text that is spelled like NULL is not NULL.
        return out.replacen('_', "%5F", 1);
    }
    if out.len() <= LONGEST_VALUE_BYTES {
        return out;
    }
    // Cut between characters: readers decode the name, and half a character is not UTF-8.
    out.clear();
    let mut kept = 0;
    for character in text.chars() {
        push_encoded(character.encode_utf8(&mut [0; 4]), &mut out);
        if out.len() > KEPT_VALUE_BYTES {
            break;
        }
        kept = out.len();
    }
    out.truncate(kept);
    // Writing to a String cannot fail.
    let _ = write!(out, "-{:016x}", xxhash_rust::xxh3::xxh3_64(text.as_bytes()));
    out
}

/// Percent-encodes everything outside `[A-Za-z0-9_-]`, dots too: no name is `.` or `..`.
fn push_encoded(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use waterwheel_config::value::Row;

    use super::*;

    #[test]
    fn values_are_encoded() {
        for (text, name) in [
            ("BTC-USD", "BTC-USD"),
            ("order.filled", "order%2Efilled"),
            ("a/b=c", "a%2Fb%3Dc"),
            ("..", "%2E%2E"),
            ("é\n", "%C3%A9%0A"),
            ("", NULL_DIRECTORY),
            (NULL_DIRECTORY, "%5F_HIVE_DEFAULT_PARTITION__"),
        ] {
            assert_eq!(encoded_value(text), name);
        }
    }

    #[test]
    fn long_values_are_cut_between_characters_and_stay_apart() {
        assert_eq!(encoded_value(&"x".repeat(100)), "x".repeat(100));
        let (a, b) = (encoded_value(&"é".repeat(200)), encoded_value(&"é".repeat(201)));
        assert_ne!(a, b);
        assert!(a.len() <= LONGEST_VALUE_BYTES, "{a}");
        // Whole characters of six bytes each, a dash, and the hash.
        assert_eq!(a.find('-'), Some(78), "{a}");
        assert_eq!(a.len(), 78 + 17, "{a}");
    }

    #[test]
    fn a_directory_tells_its_day() {
        let parts = vec![("b c".to_owned(), Part::Column(1)), ("date".to_owned(), Part::Date(0))];
        let partitioning = Partitioning::new(parts);
        assert!(partitioning.has_date());
        assert_eq!(partitioning.day_end("b%20c=x/date=1970-01-02"), Some(2 * DAY_US));
        for no_day in [
            "b%20c=x/date=__HIVE_DEFAULT_PARTITION__",
            "date=1970-01-02",
            "",
            "a/b",
            "b%20c=x/date=1970-01-02/more",
        ] {
            assert_eq!(partitioning.day_end(no_day), None, "{no_day}");
        }
        assert!(partitioning.is_in("volume/b%20c=1h%2F5m/date=1970-01-02/f", "b c", "1h/5m"));
        assert!(!partitioning.is_in("volume/b%20c=1h%2F5m/date=1970-01-02/f", "b c", "1h"));
    }

    #[test]
    fn a_row_finds_its_directory() {
        let parts = [("date", Part::Date(0)), ("b c", Part::Column(1))];
        let parts = parts.map(|(name, part)| (name.to_owned(), part)).to_vec();
        let partitioning = Partitioning::new(parts);
        let row = |time, text| Row::from(vec![time, text]);
        let late = row(Value::Timestamp(-1), Value::text("x"));
        let values = partitioning.values(Record::Row(&late));
        assert_eq!(partitioning.directory(&values), "date=1969-12-31/b%20c=x");
        assert!(partitioning.holds(&values, Record::Row(&late)));
        for other in [
            row(Value::Timestamp(0), Value::text("x")),
            row(Value::Timestamp(-1), Value::text("y")),
            row(Value::Timestamp(-1), Value::Null),
        ] {
            assert!(!partitioning.holds(&values, Record::Row(&other)));
        }
        let nulls = row(Value::Null, Value::Null);
        let values = partitioning.values(Record::Row(&nulls));
        let expected = format!("date={NULL_DIRECTORY}/b%20c={NULL_DIRECTORY}");
        assert_eq!(partitioning.directory(&values), expected);
        assert!(partitioning.holds(&values, Record::Row(&nulls)));
        let far = row(Value::Timestamp(i64::MAX), Value::Null);
        assert_eq!(
            partitioning.directory(&partitioning.values(Record::Row(&far))).matches('/').count(),
            1
        );
    }
}
