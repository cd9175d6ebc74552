//! The values of events and rows as the expected rows are computed from: SPEC 2, written again.

use waterwheel_config::value::Value;

use super::naive;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell {
    /// NULL, JSON null, or absent.
    Null,
    /// A boolean.
    Boolean(bool),
    /// From `i64::MIN` to `u64::MAX`.
    Integer(i128),
    /// Any other number.
    Float(f64),
    /// A text.
    Text(String),
    /// An object or list, as written without blanks.
    Json(String),
    /// Microseconds.
    Time(i64),
}

impl Cell {
    /// What JSON says.
    pub(crate) fn from_json(json: Option<&serde_json::Value>) -> Self {
        match json {
            None | Some(serde_json::Value::Null) => Self::Null,
            Some(serde_json::Value::Bool(flag)) => Self::Boolean(*flag),
            Some(serde_json::Value::Number(number)) => {
                if let Some(number) = number.as_i64() {
                    Self::Integer(number.into())
                } else if let Some(number) = number.as_u64() {
                    Self::Integer(number.into())
                } else {
                    Self::Float(number.as_f64().expect("a double"))
                }
            }
            Some(serde_json::Value::String(text)) => Self::Text(text.clone()),
            Some(other) => Self::Json(other.to_string()),
        }
    }

    /// What a column holds.
    pub(crate) fn from_value(value: &Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Boolean(flag) => Self::Boolean(*flag),
            Value::Bigint(number) => Self::Integer((*number).into()),
            Value::Double(number) => Self::Float(number.get()),
            Value::Timestamp(micros) => Self::Time(*micros),
            Value::Text(text) => Self::Text(text.to_string()),
            Value::Json(text) => Self::Json(text.to_string()),
        }
    }

    /// A text.
    pub(crate) fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    /// An integer within 64 bits, or a double.
    pub(crate) fn integer(number: i128) -> Self {
        if (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(&number) {
            Self::Integer(number)
        } else {
            Self::float(number as f64)
        }
    }

    /// A double; NULL where it is not finite.
    pub(crate) fn float(number: f64) -> Self {
        if number.is_finite() { Self::Float(number) } else { Self::Null }
    }

    /// True for NULL.
    pub(crate) fn is_null(&self) -> bool {
        *self == Self::Null
    }

    /// As a number: text that is a JSON number is that number.
    pub(crate) fn number(&self) -> Option<Self> {
        match self {
            Self::Integer(_) | Self::Float(_) => Some(self.clone()),
            Self::Text(text) => {
                let is_bare = |c: char| c.is_ascii_digit() || "+-.eE".contains(c);
                let json = serde_json::from_str::<serde_json::Value>(text).ok()?;
                (json.is_number() && text.chars().all(is_bare))
                    .then(|| Self::from_json(Some(&json)))
            }
            _ => None,
        }
    }

    /// As a double.
    pub(crate) fn double(&self) -> Option<f64> {
        match self.number()? {
            Self::Integer(number) => Some(number as f64),
            Self::Float(number) => Some(number),
            _ => None,
        }
    }

    /// The canonical text that groups go by; `None` for NULL.
    pub(crate) fn canonical(&self) -> Option<String> {
        Some(match self {
            Self::Null => return None,
            Self::Boolean(flag) => flag.to_string(),
            Self::Integer(number) => number.to_string(),
            Self::Float(number) => naive::number_text(*number),
            Self::Text(text) | Self::Json(text) => text.replace('\0', "\u{fffd}"),
            Self::Time(micros) => naive::time_text(*micros),
        })
    }

    /// The value of a `text` column.
    pub(crate) fn text_value(&self) -> Value {
        self.canonical().map_or(Value::Null, |text| Value::Text(text.into()))
    }

    /// `a > b` of numbers; `None` for anything that is no number.
    pub(crate) fn greater(&self, other: f64) -> Option<bool> {
        // Only small whole numbers are compared with, so that doubles are exact enough.
        self.double().map(|number| number > other)
    }

    /// `a * b`: exact while it fits 64 bits.
    pub(crate) fn times(&self, other: &Self) -> Self {
        match (self.number(), other.number()) {
            (Some(Self::Integer(a)), Some(Self::Integer(b))) => {
                a.checked_mul(b).map_or_else(|| Self::float(a as f64 * b as f64), Self::integer)
            }
            (Some(a), Some(b)) => match (a.double(), b.double()) {
                (Some(a), Some(b)) => Self::float(a * b),
                _ => Self::Null,
            },
            _ => Self::Null,
        }
    }

    /// True or false; `None` for everything else.
    pub(crate) fn truth(&self) -> Option<bool> {
        match self {
            Self::Boolean(flag) => Some(*flag),
            _ => None,
        }
    }

    /// True if it is this text.
    pub(crate) fn is_text(&self, text: &str) -> bool {
        matches!(self, Self::Text(mine) if mine == text)
    }
}
