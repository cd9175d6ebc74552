//! The values that stand in the columns of a row, and their one order, text and type.
//!
//! A [`Value`] is what an operator puts out: owned, typed, totally ordered, so that rows can be
//! compared, sorted, hashed and stored. What an expression computes with on the way is
//! [`crate::expr::Val`], which borrows.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

/// The static type of an output column (SPEC 2, "Column types").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ColumnType {
    /// UTF-8 text without U+0000.
    Text,
    /// A 64-bit integer.
    Bigint,
    /// A finite double.
    Double,
    /// True or false.
    Boolean,
    /// Microseconds since the Unix epoch, UTC.
    Timestamp,
    /// JSON text (payloads, breakdowns).
    Json,
}

impl ColumnType {
    /// The name as Postgres and `explain` print it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Bigint => "bigint",
            Self::Double => "double precision",
            Self::Boolean => "boolean",
            Self::Timestamp => "timestamptz",
            Self::Json => "jsonb",
        }
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A double with the total order that rows need; never NaN, never infinite, never -0.0.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Finite(f64);

impl Finite {
    /// The number, or nothing where it is not finite.
    pub fn new(number: f64) -> Option<Self> {
        // Adding zero turns -0.0 into 0.0, so that equal numbers are equal bits.
        number.is_finite().then_some(Self(number + 0.0))
    }

    /// The number itself.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl PartialEq for Finite {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}
impl Eq for Finite {}
impl PartialOrd for Finite {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Finite {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}
impl Hash for Finite {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}

/// One column of one row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Value {
    /// SQL's NULL; sorts first.
    Null,
    /// `boolean`.
    Boolean(bool),
    /// `bigint`.
    Bigint(i64),
    /// `double precision`.
    Double(Finite),
    /// `timestamptz`, in microseconds since the Unix epoch.
    Timestamp(i64),
    /// `text`. Short ones lie in the value itself: most keys and names cost no allocation.
    Text(SmolStr),
    /// `jsonb`, as JSON text.
    Json(Arc<str>),
}

impl Value {
    /// A double, NULL where it is not finite.
    pub fn double(number: f64) -> Self {
        Finite::new(number).map_or(Self::Null, Self::Double)
    }

    /// Text, with U+0000 replaced by U+FFFD: no sink may choke on a row.
    pub fn text(text: &str) -> Self {
        Self::Text(without_nul(text).as_ref().into())
    }

    /// What is written in a text or in JSON.
    pub fn written(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Json(text) => Some(text),
            _ => None,
        }
    }

    /// True for NULL.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// The value as JSON writes it: timestamps in RFC 3339 with a `Z`, doubles in their shortest
    /// spelling that reads back equal.
    pub fn write_json(&self, out: &mut String) {
        match self {
            Self::Null => out.push_str("null"),
            Self::Boolean(flag) => out.push_str(if *flag { "true" } else { "false" }),
            Self::Bigint(number) => push_display(out, number),
            Self::Double(number) => out.push_str(&canonical_double(number.get())),
            Self::Timestamp(micros) => {
                out.push('"');
                out.push_str(&format_timestamp(*micros));
                out.push('"');
            }
            Self::Text(text) => write_json_string(text, out),
            Self::Json(text) => out.push_str(text),
        }
    }

    /// The value as a reader of one cell expects it: text bare, everything else as JSON spells it.
    /// NULL is the empty text.
    pub fn to_plain(&self) -> String {
        match self {
            Self::Null => String::new(),
            Self::Text(text) => text.to_string(),
            Self::Timestamp(micros) => format_timestamp(*micros),
            other => {
                let mut out = String::new();
                other.write_json(&mut out);
                out
            }
        }
    }
}

/// One row: a value per column of its [`crate::schema::Schema`]. Cloning shares the values.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Row(Arc<[Value]>);

impl Row {
    /// The values, in the order of the schema's columns.
    pub fn values(&self) -> &[Value] {
        &self.0
    }

    /// The values of the key columns, in the key's order.
    pub fn key<'a>(&'a self, key: &'a [usize]) -> impl Iterator<Item = &'a Value> {
        key.iter().filter_map(|&column| self.0.get(column))
    }
}

impl From<Vec<Value>> for Row {
    fn from(values: Vec<Value>) -> Self {
        Self(values.into())
    }
}

impl FromIterator<Value> for Row {
    fn from_iter<I: IntoIterator<Item = Value>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

/// The text with every U+0000 as U+FFFD.
pub fn without_nul(text: &str) -> std::borrow::Cow<'_, str> {
    if text.as_bytes().contains(&0) { text.replace('\0', "\u{fffd}").into() } else { text.into() }
}

/// A finite double in its canonical JSON spelling (RFC 8785): `1` for 1.0, `1e+21`, `0.000001`.
pub fn canonical_double(number: f64) -> String {
    ryu_js::Buffer::new().format_finite(number + 0.0).to_owned()
}

/// Microseconds since the Unix epoch as RFC 3339 in UTC, with a fraction only where there is one
/// (3 or 6 digits).
///
/// ```
/// use waterwheel_config::value::format_timestamp;
/// assert_eq!(format_timestamp(0), "1970-01-01T00:00:00Z");
/// assert_eq!(format_timestamp(1_500_000), "1970-01-01T00:00:01.5Z");
/// ```
pub fn format_timestamp(micros: i64) -> String {
    let Some(time) = chrono::DateTime::from_timestamp_micros(micros) else {
        return format!("{micros}us");
    };
    let mut text = time.format("%Y-%m-%dT%H:%M:%S").to_string();
    let fraction = micros.rem_euclid(1_000_000);
    if fraction != 0 {
        let digits = format!(".{fraction:06}");
        text.push_str(digits.trim_end_matches('0'));
    }
    text.push('Z');
    text
}

/// Writes a JSON string literal.
pub fn write_json_string(text: &str, out: &mut String) {
    out.push('"');
    let mut plain_from = 0;
    for (at, byte) in text.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0..=0x1f => "",
            _ => continue,
        };
        out.push_str(&text[plain_from..at]);
        plain_from = at + 1;
        if escape.is_empty() {
            out.push_str(&format!("\\u{byte:04x}"));
        } else {
            out.push_str(escape);
        }
    }
    out.push_str(&text[plain_from..]);
    out.push('"');
}

fn push_display(out: &mut String, shown: impl fmt::Display) {
    use fmt::Write;
    // Writing to a String cannot fail.
    let _ = write!(out, "{shown}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_as_large_as_a_short_text() {
        assert_eq!(size_of::<Value>(), size_of::<SmolStr>());
    }

    #[test]
    fn doubles_are_spelled_canonically() {
        for (number, spelling) in
            [(1.0, "1"), (0.1, "0.1"), (1e21, "1e+21"), (-0.0, "0"), (1e-7, "1e-7"), (-2.5, "-2.5")]
        {
            assert_eq!(canonical_double(number), spelling);
        }
    }

    #[test]
    fn texts_become_json_strings() {
        let mut out = String::new();
        write_json_string("a\"b\\c\n\u{1}é", &mut out);
        assert_eq!(out, r#""a\"b\\c\n\u0001é""#);
    }

    #[test]
    fn nothing_that_is_not_finite_is_a_value() {
        assert_eq!(Value::double(f64::NAN), Value::Null);
        assert_eq!(Value::double(f64::INFINITY), Value::Null);
        assert_eq!(Value::double(-0.0), Value::double(0.0));
    }

    #[test]
    fn text_holds_no_nul() {
        assert_eq!(Value::text("a\0b"), Value::Text("a\u{fffd}b".into()));
    }
}
