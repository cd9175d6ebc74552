//! The compiled form of an expression, and its evaluation.

use std::borrow::Cow;
use std::cmp::Ordering;

use chrono_tz::Tz;

use super::date::{self, DatePart};
use super::pattern::{LikeForm, Pattern};
use super::rounding::round;
use super::val::{Number, Val};
use crate::timestamp;
use crate::value::ColumnType;

/// Where a program finds the values of its names, by slot.
pub trait Fields {
    /// The value in a slot; NULL for a slot that does not exist.
    fn get(&self, slot: usize) -> Val<'_>;

    /// Whether the value in a slot is this text, where that is known without making a [`Val`] of it:
    /// most events are told apart by one such comparison.
    fn is_text(&self, _slot: usize, _text: &str) -> Option<bool> {
        None
    }
}

/// A compiled expression. Evaluation never fails: what SQL leaves undefined is NULL.
#[derive(Clone, Debug, PartialEq)]
pub enum Program {
    /// A name.
    Slot(usize),
    /// A literal.
    Constant(Constant),
    /// `NOT x`.
    Not(Box<Program>),
    /// `a AND b AND ...`
    And(Vec<Program>),
    /// `a OR b OR ...`
    Or(Vec<Program>),
    /// A comparison.
    Compare(Comparison, Box<Program>, Box<Program>),
    /// `+ - * / %`
    Arithmetic(Arithmetic, Box<Program>, Box<Program>),
    /// `-x`
    Negate(Box<Program>),
    /// `x IS NULL`
    IsNull(Box<Program>),
    /// `x IS TRUE`, `x IS FALSE`.
    Is(bool, Box<Program>),
    /// `x IN (...)`
    In(Box<Program>, Vec<Program>),
    /// `x LIKE 'pattern'`
    Like(Box<Program>, Pattern),
    /// `x LIKE y`, the pattern being another one for every event.
    LikeAny(Box<Program>, Box<Program>, LikeForm),
    /// `CASE WHEN c THEN v ... ELSE e END`
    Case(Vec<(Program, Program)>, Box<Program>),
    /// `COALESCE(...)`
    Coalesce(Vec<Program>),
    /// A function of one argument.
    Unary(UnaryFunction, Box<Program>),
    /// `round(x, digits)`
    Round(Box<Program>, Box<Program>),
    /// `cast(x as type)`
    Cast(ColumnType, Box<Program>),
    /// `date_trunc(unit, t)` in a timezone.
    Truncate(DatePart, Tz, Box<Program>),
    /// `extract(part from t)` in a timezone.
    Extract(DatePart, Tz, Box<Program>),
}

/// A literal; owned, so that a program borrows from nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum Constant {
    /// NULL.
    Null,
    /// `true`, `false`.
    Boolean(bool),
    /// A whole number of up to 64 bits.
    Integer(i128),
    /// Any other number.
    Float(f64),
    /// `'text'`
    Text(String),
}

/// `= <> < <= > >=`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// `+ - * / %`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

/// Functions of one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum UnaryFunction {
    Lower,
    Upper,
    Abs,
    Floor,
    Ceil,
    Ts,
    Millis,
}

impl Program {
    /// The value of the expression over these fields.
    pub fn eval<'a, F: Fields + ?Sized>(&'a self, fields: &'a F) -> Val<'a> {
        match self {
            Self::Slot(slot) => fields.get(*slot),
            Self::Constant(constant) => constant.val(),
            Self::Not(inner) => boolean(inner.eval(fields).truth().map(|flag| !flag)),
            Self::And(parts) => boolean(junction(parts, fields, false)),
            Self::Or(parts) => boolean(junction(parts, fields, true)),
            Self::Compare(comparison, left, right) => {
                let order = left.eval(fields).compare(&right.eval(fields));
                boolean(order.map(|order| comparison.holds(order)))
            }
            Self::Arithmetic(operator, left, right) => {
                operator.apply(&left.eval(fields), &right.eval(fields))
            }
            Self::Negate(inner) => match inner.eval(fields) {
                Val::Interval(micros) => Val::Interval(micros.saturating_neg()),
                value => match value.number() {
                    Some(Number::Integer(number)) => Val::integer(-number),
                    Some(Number::Float(number)) => Val::float(-number),
                    None => Val::Null,
                },
            },
            Self::IsNull(inner) => Val::Boolean(inner.eval(fields).is_null()),
            Self::Is(flag, inner) => Val::Boolean(inner.eval(fields).truth() == Some(*flag)),
            Self::In(inner, list) => boolean(contains(&inner.eval(fields), list, fields)),
            Self::Like(inner, pattern) => match inner.eval(fields) {
                Val::Text(text) => Val::Boolean(pattern.matches(&text)),
                _ => Val::Null,
            },
            Self::LikeAny(inner, pattern, form) => {
                match (inner.eval(fields), pattern.eval(fields)) {
                    (Val::Text(text), Val::Text(pattern)) => {
                        Val::Boolean(Pattern::new(&pattern, *form).matches(&text))
                    }
                    _ => Val::Null,
                }
            }
            Self::Case(branches, otherwise) => branches
                .iter()
                .find(|(condition, _)| condition.holds(fields))
                .map_or_else(|| otherwise.eval(fields), |(_, value)| value.eval(fields)),
            Self::Coalesce(parts) => parts
                .iter()
                .map(|part| part.eval(fields))
                .find(|v| !v.is_null())
                .unwrap_or(Val::Null),
            Self::Unary(function, inner) => function.apply(inner.eval(fields)),
            Self::Round(inner, digits) => round(&inner.eval(fields), &digits.eval(fields)),
            Self::Cast(kind, inner) => cast(inner.eval(fields), *kind),
            Self::Truncate(part, zone, inner) => match inner.eval(fields) {
                Val::Timestamp(micros) => {
                    date::truncate(micros, *part, *zone).map_or(Val::Null, Val::Timestamp)
                }
                _ => Val::Null,
            },
            Self::Extract(part, zone, inner) => match (inner.eval(fields), part) {
                (Val::Timestamp(micros), _) => date::extract(micros, *part, *zone),
                (Val::Interval(micros), DatePart::Epoch) => date::seconds(micros),
                _ => Val::Null,
            },
        }
    }

    /// True where the condition is true: unknown counts as false.
    #[inline]
    pub fn holds<F: Fields + ?Sized>(&self, fields: &F) -> bool {
        if let Self::Compare(Comparison::Equal, left, right) = self
            && let (Self::Slot(slot), Self::Constant(Constant::Text(text))) = (&**left, &**right)
            && let Some(holds) = fields.is_text(*slot, text)
        {
            return holds;
        }
        matches!(self.eval(fields), Val::Boolean(true))
    }
}

impl Constant {
    fn val(&self) -> Val<'_> {
        match self {
            Self::Null => Val::Null,
            Self::Boolean(flag) => Val::Boolean(*flag),
            Self::Integer(number) => Val::integer(*number),
            Self::Float(number) => Val::float(*number),
            Self::Text(text) => Val::text(text),
        }
    }
}

impl Comparison {
    fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Equal => order.is_eq(),
            Self::NotEqual => order.is_ne(),
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
        }
    }
}

impl Arithmetic {
    fn apply<'a>(self, left: &Val<'_>, right: &Val<'_>) -> Val<'a> {
        if let Some(time) = self.apply_to_times(left, right) {
            return time;
        }
        let (Some(left), Some(right)) = (left.number(), right.number()) else {
            return Val::Null;
        };
        if let (Number::Integer(a), Number::Integer(b)) = (left, right) {
            // Products of two 64-bit numbers always fit in 128 bits (with room for the sign).
            let exact = match self {
                Self::Add => Some(a + b),
                Self::Subtract => Some(a - b),
                Self::Multiply => a.checked_mul(b),
                Self::Remainder => a.checked_rem(b),
                Self::Divide => None,
            };
            if let Some(exact) = exact {
                return Val::integer(exact);
            }
        }
        let (a, b) = (left.to_f64(), right.to_f64());
        match self {
            Self::Add => Val::float(a + b),
            Self::Subtract => Val::float(a - b),
            Self::Multiply => Val::float(a * b),
            // By zero these are infinite or NaN, which is NULL here.
            Self::Divide => Val::float(a / b),
            Self::Remainder => Val::float(a % b),
        }
    }

    fn apply_to_times<'a>(self, left: &Val<'_>, right: &Val<'_>) -> Option<Val<'a>> {
        let interval = |micros: Option<i64>| micros.map_or(Val::Null, Val::Interval);
        let time = |micros: Option<i64>| micros.map_or(Val::Null, Val::Timestamp);
        Some(match (self, left, right) {
            (Self::Subtract, Val::Timestamp(a), Val::Timestamp(b)) => interval(a.checked_sub(*b)),
            (Self::Subtract, Val::Timestamp(a), Val::Interval(b)) => time(a.checked_sub(*b)),
            (Self::Add, Val::Timestamp(a), Val::Interval(b))
            | (Self::Add, Val::Interval(b), Val::Timestamp(a)) => time(a.checked_add(*b)),
            (Self::Add, Val::Interval(a), Val::Interval(b)) => interval(a.checked_add(*b)),
            (Self::Subtract, Val::Interval(a), Val::Interval(b)) => interval(a.checked_sub(*b)),
            _ => return None,
        })
    }
}

impl UnaryFunction {
    fn apply(self, value: Val<'_>) -> Val<'_> {
        match (self, value) {
            (Self::Lower, Val::Text(text)) => Val::Text(Cow::Owned(text.to_lowercase())),
            (Self::Upper, Val::Text(text)) => Val::Text(Cow::Owned(text.to_uppercase())),
            (Self::Ts, value @ Val::Timestamp(_)) => value,
            (Self::Ts, Val::Text(text)) => {
                timestamp::parse(&text).map_or(Val::Null, Val::Timestamp)
            }
            (Self::Ts, Val::Integer(number)) => {
                timestamp::from_integer(number).map_or(Val::Null, Val::Timestamp)
            }
            (Self::Millis, Val::Interval(micros)) => {
                if micros % 1_000 == 0 {
                    Val::Integer(i128::from(micros / 1_000))
                } else {
                    Val::Float(micros as f64 / 1_000.0)
                }
            }
            (Self::Abs | Self::Floor | Self::Ceil, value) => match (self, value.number()) {
                (Self::Abs, Some(Number::Integer(number))) => Val::integer(number.abs()),
                (_, Some(Number::Integer(number))) => Val::Integer(number),
                (Self::Abs, Some(Number::Float(number))) => Val::Float(number.abs()),
                (Self::Floor, Some(Number::Float(number))) => Val::Float(number.floor()),
                (_, Some(Number::Float(number))) => Val::Float(number.ceil()),
                (_, None) => Val::Null,
            },
            _ => Val::Null,
        }
    }
}

fn boolean<'a>(truth: Option<bool>) -> Val<'a> {
    truth.map_or(Val::Null, Val::Boolean)
}

/// AND and OR of three-valued logic: `decisive` decides at once, unknown remains otherwise.
fn junction<F: Fields + ?Sized>(parts: &[Program], fields: &F, decisive: bool) -> Option<bool> {
    let mut result = Some(!decisive);
    for part in parts {
        match part.eval(fields).truth() {
            Some(flag) if flag == decisive => return Some(decisive),
            Some(_) => {}
            None => result = None,
        }
    }
    result
}

fn contains<F: Fields + ?Sized>(value: &Val<'_>, list: &[Program], fields: &F) -> Option<bool> {
    let mut result = Some(false);
    for item in list {
        match value.compare(&item.eval(fields)) {
            Some(Ordering::Equal) => return Some(true),
            Some(_) => {}
            // Types that do not mix are NULL, as NULL itself.
            None => result = None,
        }
    }
    result
}

fn cast(value: Val<'_>, kind: ColumnType) -> Val<'_> {
    match kind {
        ColumnType::Text | ColumnType::Json => match value {
            Val::Text(_) => value,
            other => match other.canonical_text() {
                Some(text) => Val::Text(Cow::Owned(text.into_owned())),
                None => Val::Null,
            },
        },
        ColumnType::Double => match value {
            Val::Boolean(flag) => Val::Float(f64::from(u8::from(flag))),
            other => other.number().map_or(Val::Null, |number| Val::float(number.to_f64())),
        },
        ColumnType::Bigint => match value {
            Val::Boolean(flag) => Val::Integer(i128::from(flag)),
            other => match other.number() {
                Some(Number::Integer(number)) => bigint(number),
                // Half to even, as Postgres casts doubles.
                Some(Number::Float(number)) if number.abs() < 9.3e18 => {
                    bigint(number.round_ties_even() as i128)
                }
                _ => Val::Null,
            },
        },
        ColumnType::Boolean => match &value {
            Val::Boolean(_) => value,
            Val::Text(text) if text.eq_ignore_ascii_case("true") => Val::Boolean(true),
            Val::Text(text) if text.eq_ignore_ascii_case("false") => Val::Boolean(false),
            Val::Integer(number) => Val::Boolean(*number != 0),
            _ => Val::Null,
        },
        ColumnType::Timestamp => UnaryFunction::Ts.apply(value),
    }
}

fn bigint<'a>(number: i128) -> Val<'a> {
    i64::try_from(number).map_or(Val::Null, |number| Val::Integer(i128::from(number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_beyond_64_bits_goes_on_in_doubles() {
        let big = Val::Integer(u64::MAX.into());
        assert_eq!(
            Arithmetic::Add.apply(&big, &Val::Integer(1)),
            Val::Float(18446744073709551616.0)
        );
        assert_eq!(Arithmetic::Divide.apply(&big, &Val::Integer(0)), Val::Null);
        assert_eq!(Arithmetic::Remainder.apply(&Val::Integer(7), &Val::Integer(0)), Val::Null);
        assert_eq!(Arithmetic::Multiply.apply(&Val::Float(1e300), &Val::Float(1e300)), Val::Null);
    }
}
