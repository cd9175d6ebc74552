//! Keys of groups, users and matches: the values of a key as bytes, so that a lookup borrows and
//! allocates nothing.

use std::borrow::Cow;

use waterwheel_config::expr::{Fields, Program, Val};
use waterwheel_config::value::{ColumnType, Row, Value};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// The expressions of a key and the types of their columns.
#[derive(Clone, Debug)]
pub(crate) struct KeyPlan {
    pub(crate) programs: Vec<Program>,
    pub(crate) kinds: Vec<ColumnType>,
}

impl KeyPlan {
    /// Writes the key of an item over `out`. Equal column values give equal bytes.
    pub(crate) fn write<F: Fields>(&self, item: &F, out: &mut Vec<u8>) {
        out.clear();
        for (program, kind) in self.programs.iter().zip(&self.kinds) {
            write_value(&program.eval(item), *kind, out);
        }
    }

    /// The same; false where a column is NULL.
    pub(crate) fn write_known<F: Fields>(&self, item: &F, out: &mut Vec<u8>) -> bool {
        out.clear();
        self.programs.iter().zip(&self.kinds).all(|(program, kind)| {
            let at = out.len();
            write_value(&program.eval(item), *kind, out);
            out.get(at) != Some(&0)
        })
    }
}

/// Tags: 0 is NULL, so that NULL is a group of its own and sorts first.
fn write_value(value: &Val<'_>, kind: ColumnType, out: &mut Vec<u8>) {
    if kind == ColumnType::Text {
        match value.canonical_text() {
            None => out.push(0),
            Some(text) => {
                out.push(1);
                // Keys from sources are at most 1 KiB; rows of operators may be longer.
                out.extend_from_slice(&(text.len() as u32).to_le_bytes());
                out.extend_from_slice(text.as_bytes());
            }
        }
        return;
    }
    let mut fixed = |tag: u8, bits: u64| {
        out.push(tag);
        out.extend_from_slice(&bits.to_le_bytes());
    };
    match value.to_value(kind) {
        Value::Boolean(flag) => fixed(2, u64::from(flag)),
        Value::Bigint(number) => fixed(3, number.cast_unsigned()),
        Value::Double(number) => fixed(4, number.get().to_bits()),
        Value::Timestamp(micros) => fixed(5, micros.cast_unsigned()),
        Value::Json(text) => {
            fixed(6, text.len() as u64);
            out.extend_from_slice(text.as_bytes());
        }
        // Texts are columns of texts.
        Value::Text(_) | Value::Null => out.push(0),
    }
}

/// The column values that a key was written from.
pub(crate) fn read_key(mut bytes: &[u8]) -> Vec<Value> {
    fn take<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
        let (taken, rest) = bytes.split_at_checked(count).unwrap_or_default();
        *bytes = rest;
        taken
    }
    fn fixed(bytes: &mut &[u8]) -> u64 {
        u64::from_le_bytes(take(bytes, 8).try_into().unwrap_or_default())
    }
    fn text<'a>(bytes: &mut &'a [u8], length: usize) -> Cow<'a, str> {
        String::from_utf8_lossy(take(bytes, length))
    }
    let mut values = Vec::new();
    while let [tag] = take(&mut bytes, 1) {
        values.push(match tag {
            1 => {
                let length = u32::from_le_bytes(take(&mut bytes, 4).try_into().unwrap_or_default());
                Value::Text(text(&mut bytes, length as usize).into())
            }
            2 => Value::Boolean(fixed(&mut bytes) != 0),
            3 => Value::Bigint(fixed(&mut bytes).cast_signed()),
            4 => Value::double(f64::from_bits(fixed(&mut bytes))),
            5 => Value::Timestamp(fixed(&mut bytes).cast_signed()),
            6 => {
                let length = fixed(&mut bytes) as usize;
                Value::Json(text(&mut bytes, length).into())
            }
            _ => Value::Null,
        });
    }
    values
}

/// The key of a row as one text: its key columns joined by `|`.
pub(crate) fn row_key(row: &Row, columns: &[usize]) -> String {
    let key: Vec<String> = row.key(columns).map(Value::to_plain).collect();
    key.join("|")
}

/// Decides which worker owns a key; the same in every process and for ever.
pub(crate) fn hash(key: &[u8]) -> u64 {
    xxh3_64(key)
}

/// Orders keys of rows, the same in every run: those that differ in the number at their end by that
/// number, as are the sequences of events that went through an operator.
pub(crate) fn place(key: &str) -> (u64, u64) {
    let head = key.trim_end_matches(|end: char| end.is_ascii_digit());
    match key[head.len()..].parse() {
        Ok(number) => (xxh3_64(head.as_bytes()), number),
        Err(_) => (xxh3_64(key.as_bytes()), 0),
    }
}

/// Stands for a value where only equality matters: at 128 bits, two different values among 2^40
/// share one with a chance of about 2^-49.
pub(crate) fn identity(value: &Val<'_>) -> Option<u128> {
    value.canonical_text().map(|text| xxh3_128(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Values(Vec<Val<'static>>);
    impl Fields for Values {
        fn get(&self, slot: usize) -> Val<'_> {
            self.0[slot].clone()
        }
    }

    #[test]
    fn rows_of_one_stream_are_in_the_order_of_their_sequences() {
        let keys = ["EVENTS|9", "EVENTS|10", "EVENTS|011", "EVENTS|18446744073709551615"];
        assert!(keys.is_sorted_by(|one, other| place(one) < place(other)));
        assert_ne!(place("EVENTS|9").0, place("OTHERS|9").0);
        assert_ne!(place("EVENTS|99999999999999999999"), place("EVENTS|99999999999999999998"));
    }

    #[test]
    fn keys_read_back_as_column_values() {
        let kinds = vec![
            ColumnType::Text,
            ColumnType::Text,
            ColumnType::Bigint,
            ColumnType::Timestamp,
            ColumnType::Boolean,
            ColumnType::Double,
        ];
        let programs = (0..kinds.len()).map(Program::Slot).collect();
        let plan = KeyPlan { programs, kinds };
        let item = Values(vec![
            Val::Float(1.0),
            Val::Null,
            Val::Integer(-7),
            Val::Timestamp(5),
            Val::Boolean(true),
            Val::Float(0.5),
        ]);
        let mut bytes = Vec::new();
        plan.write(&item, &mut bytes);
        assert_eq!(
            read_key(&bytes),
            [
                Value::Text("1".into()),
                Value::Null,
                Value::Bigint(-7),
                Value::Timestamp(5),
                Value::Boolean(true),
                Value::double(0.5)
            ]
        );
    }
}
