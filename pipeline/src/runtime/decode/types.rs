//! The types that a source declares for paths in the payload: what does not fit is NULL.

use waterwheel_config::expr::{Number, Val};
use waterwheel_config::timestamp;
use waterwheel_config::value::ColumnType;

use super::envelope::write;
use super::written;
use crate::contract::event::Slot;

/// A decoded field as its declared type holds it; NULL where that cannot hold it, as in a column of
/// the type. Timestamps are read as the envelope's are.
pub(super) fn fitting(slot: Slot, kind: ColumnType, text: &str, scratch: &mut String) -> Slot {
    match kind {
        ColumnType::Text | ColumnType::Json => as_text(slot, scratch),
        ColumnType::Boolean => match slot {
            Slot::Boolean(_) => slot,
            _ => Slot::Null,
        },
        ColumnType::Double => match number(slot, text, scratch).map(Number::to_f64) {
            Some(number) => Slot::Float(number),
            None => Slot::Null,
        },
        ColumnType::Bigint => match number(slot, text, scratch).and_then(Number::to_i64_exact) {
            Some(number) => Slot::Integer(number),
            None => Slot::Null,
        },
        ColumnType::Timestamp => {
            let micros = match slot {
                Slot::Integer(number) => timestamp::from_integer(number.into()),
                Slot::Unsigned(number) => timestamp::from_integer(number.into()),
                Slot::Timestamp(micros) => Some(micros),
                _ => written(slot, text, scratch).and_then(timestamp::parse),
            };
            micros.map_or(Slot::Null, Slot::Timestamp)
        }
    }
}

fn as_text(slot: Slot, scratch: &mut String) -> Slot {
    let value = match slot {
        Slot::Json { start, end } => return Slot::Text { start, end },
        Slot::ScratchJson { start, end } => return Slot::Scratch { start, end },
        Slot::Boolean(flag) => Val::Boolean(flag),
        Slot::Integer(number) => Val::Integer(number.into()),
        Slot::Unsigned(number) => Val::Integer(number.into()),
        Slot::Float(number) => Val::Float(number),
        _ => return slot,
    };
    write(scratch, |out| out.push_str(&value.canonical_text().unwrap_or_default()))
}

fn number(slot: Slot, text: &str, scratch: &str) -> Option<Number> {
    match slot {
        Slot::Integer(number) => Some(Number::Integer(number.into())),
        Slot::Unsigned(number) => Some(Number::Integer(number.into())),
        Slot::Float(number) => Some(Number::Float(number)),
        _ => Number::parse(written(slot, text, scratch)?),
    }
}
