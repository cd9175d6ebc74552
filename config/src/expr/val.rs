//! The values that expressions compute with: borrowed, dynamically typed, NULL where types do not
//! mix (SPEC 2).

use std::borrow::Cow;
use std::cmp::Ordering;

use crate::value::{ColumnType, Value, canonical_double, format_timestamp, without_nul};

/// A value during evaluation. Texts borrow from the event, the row or the program.
#[derive(Clone, Debug, PartialEq)]
pub enum Val<'a> {
    /// NULL, JSON null, or absent.
    Null,
    /// A boolean.
    Boolean(bool),
    /// An integer from `i64::MIN` to `u64::MAX`; wider results continue as [`Val::Float`].
    Integer(i128),
    /// A finite double.
    Float(f64),
    /// Microseconds since the Unix epoch.
    Timestamp(i64),
    /// The difference of two timestamps in microseconds.
    Interval(i64),
    /// A text.
    Text(Cow<'a, str>),
    /// A JSON object or list, as written.
    Json(&'a str),
}

const INTEGER_LEAST: i128 = i64::MIN as i128;
const INTEGER_MOST: i128 = u64::MAX as i128;

impl<'a> Val<'a> {
    /// A text that borrows.
    pub fn text(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }

    /// A double; NULL where it is not finite.
    pub fn float(number: f64) -> Self {
        if number.is_finite() { Self::Float(number) } else { Self::Null }
    }

    /// An integer; beyond 64 bits it continues as a double.
    pub fn integer(number: i128) -> Self {
        if (INTEGER_LEAST..=INTEGER_MOST).contains(&number) {
            Self::Integer(number)
        } else {
            Self::float(number as f64)
        }
    }

    /// True for NULL.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// `Some` for a boolean, `None` (SQL's unknown) for everything else.
    pub fn truth(&self) -> Option<bool> {
        match self {
            Self::Boolean(flag) => Some(*flag),
            _ => None,
        }
    }

    /// The value where a number is wanted: text that is a JSON number is that number.
    pub fn number(&self) -> Option<Number> {
        match self {
            Self::Integer(number) => Some(Number::Integer(*number)),
            Self::Float(number) => Some(Number::Float(*number)),
            Self::Text(text) => Number::parse(text),
            _ => None,
        }
    }

    /// The value as a column value of this type; NULL where the column cannot hold it.
    pub fn to_value(&self, kind: ColumnType) -> Value {
        match (kind, self) {
            (_, Self::Null) => Value::Null,
            (ColumnType::Boolean, Self::Boolean(flag)) => Value::Boolean(*flag),
            (ColumnType::Timestamp, Self::Timestamp(micros)) => Value::Timestamp(*micros),
            (ColumnType::Double, _) => {
                self.number().map_or(Value::Null, |number| Value::double(number.to_f64()))
            }
            (ColumnType::Bigint, _) => self
                .number()
                .and_then(|number| number.to_i64_exact())
                .map_or(Value::Null, Value::Bigint),
            (ColumnType::Text, _) => {
                self.canonical_text().map_or(Value::Null, |text| Value::Text(text.as_ref().into()))
            }
            (ColumnType::Json, Self::Json(text)) => Value::Json((*text).into()),
            _ => Value::Null,
        }
    }

    /// The value as text: numbers and booleans in their canonical JSON spelling, timestamps in
    /// RFC 3339, U+0000 as U+FFFD; `None` for NULL. Equal groups and keys are equal in this text.
    pub fn canonical_text(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Self::Null => return None,
            Self::Boolean(true) => Cow::Borrowed("true"),
            Self::Boolean(false) => Cow::Borrowed("false"),
            Self::Integer(number) => Cow::Owned(number.to_string()),
            Self::Float(number) => Cow::Owned(canonical_double(*number)),
            Self::Timestamp(micros) => Cow::Owned(format_timestamp(*micros)),
            Self::Interval(micros) => Cow::Owned(format!("{micros}us")),
            Self::Text(text) => without_nul(text),
            Self::Json(text) => without_nul(text),
        })
    }

    /// SQL comparison: `None` where either side is NULL or the types do not mix.
    pub fn compare(&self, other: &Val<'_>) -> Option<Ordering> {
        match (self, other) {
            (Self::Text(a), Val::Text(b)) => Some(a.as_bytes().cmp(b.as_bytes())),
            (Self::Boolean(a), Val::Boolean(b)) => Some(a.cmp(b)),
            (Self::Timestamp(a), Val::Timestamp(b)) | (Self::Interval(a), Val::Interval(b)) => {
                Some(a.cmp(b))
            }
            (Self::Integer(_) | Self::Float(_), _) | (_, Val::Integer(_) | Val::Float(_)) => {
                Some(self.number()?.compare(other.number()?))
            }
            _ => None,
        }
    }
}

impl<'a> From<&'a Value> for Val<'a> {
    fn from(value: &'a Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Boolean(flag) => Self::Boolean(*flag),
            Value::Bigint(number) => Self::Integer(i128::from(*number)),
            Value::Double(number) => Self::Float(number.get()),
            Value::Timestamp(micros) => Self::Timestamp(*micros),
            Value::Text(text) => Self::text(text),
            Value::Json(text) => Self::Json(text),
        }
    }
}

/// A number: exact while it fits 64 bits, a double beyond.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// From `i64::MIN` to `u64::MAX`.
    Integer(i128),
    /// Finite.
    Float(f64),
}

impl Number {
    /// Reads a text that is exactly one JSON number within double range.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let digits = bytes.strip_prefix(b"-").unwrap_or(bytes);
        let (first, rest) = digits.split_first()?;
        if !first.is_ascii_digit()
            || (*first == b'0' && rest.first().is_some_and(u8::is_ascii_digit))
        {
            return None;
        }
        if digits.iter().all(u8::is_ascii_digit) {
            return Self::from_digits(text);
        }
        let json_like = digits.last().is_some_and(u8::is_ascii_digit)
            && digits
                .iter()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'))
            && dots_are_between_digits(digits);
        if !json_like {
            return None;
        }
        text.parse().ok().filter(|number: &f64| number.is_finite()).map(Self::Float)
    }

    /// A text of an optional sign and digits only.
    fn from_digits(text: &str) -> Option<Self> {
        match text.parse::<i128>() {
            Ok(number) if (INTEGER_LEAST..=INTEGER_MOST).contains(&number) => {
                Some(Self::Integer(number))
            }
            _ => text.parse().ok().filter(|number: &f64| number.is_finite()).map(Self::Float),
        }
    }

    /// The nearest double.
    pub fn to_f64(self) -> f64 {
        match self {
            Self::Integer(number) => number as f64,
            Self::Float(number) => number,
        }
    }

    /// The number as a `bigint`, if it is one exactly.
    pub fn to_i64_exact(self) -> Option<i64> {
        match self {
            Self::Integer(number) => i64::try_from(number).ok(),
            Self::Float(number) if number.fract() == 0.0 && number.abs() < 9.3e18 => {
                i64::try_from(number as i128).ok()
            }
            Self::Float(_) => None,
        }
    }

    /// The exact order of two numbers.
    pub fn compare(self, other: Self) -> Ordering {
        match (self, other) {
            (Self::Integer(a), Self::Integer(b)) => a.cmp(&b),
            (Self::Float(a), Self::Float(b)) => a.partial_cmp(&b).unwrap_or(Ordering::Equal),
            (Self::Integer(a), Self::Float(b)) => compare_integer_float(a, b),
            (Self::Float(a), Self::Integer(b)) => compare_integer_float(b, a).reverse(),
        }
    }
}

/// Exact: a double above 2^64 is larger than any integer here, and below that its floor is exact.
fn compare_integer_float(integer: i128, float: f64) -> Ordering {
    if float >= 2e19 {
        return Ordering::Less;
    }
    if float <= -2e19 {
        return Ordering::Greater;
    }
    let floor = float.floor();
    integer.cmp(&(floor as i128)).then(if float > floor { Ordering::Less } else { Ordering::Equal })
}

fn dots_are_between_digits(digits: &[u8]) -> bool {
    digits.iter().enumerate().all(|(at, byte)| {
        *byte != b'.'
            || (at > 0
                && digits[at - 1].is_ascii_digit()
                && digits.get(at + 1).is_some_and(u8::is_ascii_digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_against_a_number() {
        let ten = Val::Integer(10);
        assert_eq!(Val::text("10.0").compare(&ten), Some(Ordering::Equal));
        assert_eq!(Val::text("9").compare(&ten), Some(Ordering::Less));
        for text in ["", "abc", "0x10", "1e999", " 1", "01", "1.", ".5", "+1", "-", "inf", "NaN"] {
            assert_eq!(Val::text(text).compare(&ten), None, "{text}");
        }
        assert_eq!(Val::text("10").compare(&Val::text("9")), Some(Ordering::Less));
        assert_eq!(Val::Boolean(true).compare(&Val::text("true")), None);
    }

    #[test]
    fn integers_and_doubles_compare_exactly() {
        let big = (1i128 << 53) + 1;
        assert_eq!(
            Number::Integer(big).compare(Number::Float((1u64 << 53) as f64)),
            Ordering::Greater
        );
        assert_eq!(Number::Integer(-3).compare(Number::Float(-2.5)), Ordering::Less);
        assert_eq!(Number::Integer(-2).compare(Number::Float(-2.5)), Ordering::Greater);
        assert_eq!(Number::Integer(7).compare(Number::Float(1e300)), Ordering::Less);
    }

    #[test]
    fn canonical_texts_make_equal_groups() {
        assert_eq!(Val::Float(1.0).canonical_text(), Val::Integer(1).canonical_text());
        assert_eq!(Val::text("a\0").canonical_text().as_deref(), Some("a\u{fffd}"));
    }

    #[test]
    fn a_column_that_cannot_hold_a_value_is_null() {
        assert_eq!(Val::Integer(u64::MAX.into()).to_value(ColumnType::Bigint), Value::Null);
        assert_eq!(Val::text("x").to_value(ColumnType::Double), Value::Null);
        assert_eq!(Val::text("1.5").to_value(ColumnType::Double), Value::double(1.5));
    }
}
