//! Compares the rows of an outlet with those expected: which rows match, and of the others which ones
//! are meant to be the same.

use waterwheel_config::value::{Row, Value};

use crate::contract::operator::RowView;
use crate::graph::rehearsal::{Expectation, ExpectedRow, ExpectedValue};

/// Doubles may differ by this part, as sums in another order do.
const RELATIVE: f64 = 1e-9;

/// What is otherwise than expected.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Mismatch {
    /// Rows that are there, with other values.
    pub(super) wrong: Vec<(ExpectedRow, Row)>,
    /// Rows that are not there.
    pub(super) missing: Vec<ExpectedRow>,
    /// Rows that must not be there.
    pub(super) unexpected: Vec<Row>,
    /// How many rows are expected, and how many there are, where that differs.
    pub(super) count: Option<(usize, usize)>,
}

/// Compares; `None` if all is as expected.
pub(super) fn compare(expectation: &Expectation, rows: &[Row]) -> Option<Mismatch> {
    let counts = |row: &&Row| {
        let condition = expectation.condition.as_ref();
        condition.is_none_or(|(condition, _)| condition.holds(&RowView(row)))
    };
    let rows: Vec<&Row> = rows.iter().filter(counts).collect();
    let mut mismatch = Mismatch::default();
    if let Some(expected) = &expectation.rows {
        let (missing, mut unexpected) = unmatched(expected, &rows);
        mismatch.pair(missing, &mut unexpected, &expectation.schema.key);
        mismatch.unexpected.extend(unexpected.into_iter().cloned());
    }
    let (missing, mut others) = unmatched(&expectation.contains, &rows);
    mismatch.pair(missing, &mut others, &expectation.schema.key);
    let unwanted = rows.iter().filter(|row| expectation.absent.iter().any(|it| it.matches(row)));
    mismatch.unexpected.extend(unwanted.map(|row| (*row).clone()));
    mismatch.count =
        expectation.count.filter(|count| *count != rows.len()).map(|count| (count, rows.len()));
    // Without any other list, the rows themselves say what was counted.
    if mismatch.count.is_some() && mismatch.is_bare() {
        mismatch.unexpected.extend(rows.into_iter().cloned());
    }
    (mismatch != Mismatch::default()).then_some(mismatch)
}

/// The expected rows for which there is none, and the rows that none expects: as few as there can be,
/// since one expected row may match several.
fn unmatched<'e, 'r>(
    expected: &'e [ExpectedRow],
    rows: &[&'r Row],
) -> (Vec<&'e ExpectedRow>, Vec<&'r Row>) {
    let mut taken_by: Vec<Option<usize>> = vec![None; rows.len()];
    for index in 0..expected.len() {
        let mut tried = vec![false; rows.len()];
        place(index, expected, rows, &mut taken_by, &mut tried);
    }
    let is_placed = |index: usize| taken_by.contains(&Some(index));
    let missing = expected.iter().enumerate().filter(|(index, _)| !is_placed(*index));
    let unexpected = rows.iter().zip(&taken_by).filter(|(_, taken)| taken.is_none());
    (missing.map(|(_, row)| row).collect(), unexpected.map(|(row, _)| *row).collect())
}

/// Finds a row for an expected one; another may have to move to a further row that it matches.
fn place(
    index: usize,
    expected: &[ExpectedRow],
    rows: &[&Row],
    taken_by: &mut [Option<usize>],
    tried: &mut [bool],
) -> bool {
    for at in 0..rows.len() {
        if tried[at] || !expected[index].matches(rows[at]) {
            continue;
        }
        tried[at] = true;
        let is_free = match taken_by[at] {
            None => true,
            Some(other) => place(other, expected, rows, taken_by, tried),
        };
        if is_free {
            taken_by[at] = Some(index);
            return true;
        }
    }
    false
}

impl Mismatch {
    /// Finds the row that each missing one was meant to be: the one that is most like it.
    fn pair(&mut self, missing: Vec<&ExpectedRow>, others: &mut Vec<&Row>, key: &[usize]) {
        let mut missing: Vec<Option<&ExpectedRow>> = missing.into_iter().map(Some).collect();
        loop {
            let likeness =
                missing.iter().enumerate().filter_map(|(index, row)| Some((index, (*row)?)));
            let best = likeness
                .flat_map(|(index, expected)| {
                    let rows = others.iter().enumerate();
                    rows.filter_map(move |(at, row)| {
                        Some((expected.likeness(row, key)?, index, at))
                    })
                })
                // Of rows that are equally like, the first.
                .max_by_key(|(likeness, index, at)| {
                    (*likeness, std::cmp::Reverse(*index), std::cmp::Reverse(*at))
                });
            let Some((_, index, at)) = best else {
                break;
            };
            if let Some(expected) = missing[index].take() {
                self.wrong.push((expected.clone(), others.remove(at).clone()));
            }
        }
        self.missing.extend(missing.into_iter().flatten().cloned());
    }

    fn is_bare(&self) -> bool {
        self.wrong.is_empty() && self.missing.is_empty() && self.unexpected.is_empty()
    }
}

impl ExpectedRow {
    /// True if every column that matters is as expected.
    pub(super) fn matches(&self, row: &Row) -> bool {
        self.cells.iter().all(|(column, expected)| expected.matches(cell(row, *column)))
    }

    /// How like a row is to this one; `None` if too little for it to be meant: of its key and of all
    /// its columns, more than half must agree.
    fn likeness(&self, row: &Row, key: &[usize]) -> Option<(bool, usize)> {
        let agree =
            |(column, expected): &&(usize, ExpectedValue)| expected.matches(cell(row, *column));
        let of_key: Vec<_> = self.cells.iter().filter(|(column, _)| key.contains(column)).collect();
        let same_key = !of_key.is_empty() && of_key.iter().all(&agree);
        let equal = self.cells.iter().filter(agree).count();
        (same_key || 2 * equal > self.cells.len()).then_some((same_key, equal))
    }
}

/// The value of a column.
pub(super) fn cell(row: &Row, column: usize) -> &Value {
    row.values().get(column).unwrap_or(&Value::Null)
}

impl ExpectedValue {
    /// True if a value is as expected.
    pub(super) fn matches(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Null, value) => value.is_null(),
            (Self::Boolean(expected), Value::Boolean(actual)) => expected == actual,
            (Self::Integer(expected), Value::Bigint(actual)) => expected == actual,
            (Self::Number(expected), Value::Double(actual)) => is_near(*expected, actual.get()),
            (Self::About(_, bounds), Value::Double(actual)) => bounds.contains(&actual.get()),
            (Self::About(_, bounds), Value::Bigint(actual)) => bounds.contains(&(*actual as f64)),
            (Self::Timestamp(expected), Value::Timestamp(actual)) => expected == actual,
            (Self::Text(expected), Value::Text(actual)) => **expected == **actual,
            (Self::Json(expected), Value::Json(actual)) => {
                serde_json::from_str(actual).is_ok_and(|actual| is_same_json(expected, &actual))
            }
            _ => false,
        }
    }
}

fn is_near(one: f64, other: f64) -> bool {
    (one - other).abs() <= RELATIVE * one.abs().max(other.abs())
}

/// True if two JSON values mean the same: numbers count by their value, however they are written.
fn is_same_json(one: &serde_json::Value, other: &serde_json::Value) -> bool {
    use serde_json::Value::{Array, Number, Object};
    match (one, other) {
        (Number(one), Number(other)) => {
            one == other
                || matches!((one.as_f64(), other.as_f64()), (Some(one), Some(other)) if is_near(one, other))
        }
        (Array(one), Array(other)) => {
            one.len() == other.len()
                && one.iter().zip(other).all(|(one, other)| is_same_json(one, other))
        }
        (Object(one), Object(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .all(|(key, one)| other.get(key).is_some_and(|other| is_same_json(one, other)))
        }
        (one, other) => one == other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(cells: &[(usize, ExpectedValue)]) -> ExpectedRow {
        ExpectedRow { cells: cells.to_vec() }
    }

    fn row(values: &[i64]) -> Row {
        values.iter().map(|value| Value::Bigint(*value)).collect()
    }

    #[test]
    fn a_row_that_matches_several_leaves_the_others_theirs() {
        let any = expected(&[]);
        let (two, three) = (
            expected(&[(0, ExpectedValue::Integer(2))]),
            expected(&[(1, ExpectedValue::Integer(3))]),
        );
        let (a, b, c) = (row(&[2, 3]), row(&[2, 4]), row(&[5, 5]));
        let rows = [&a, &b, &c];
        let all = [any.clone(), three.clone(), two.clone()];
        assert_eq!(unmatched(&all, &rows), (vec![], vec![]));
        let all = [three.clone(), two.clone(), two.clone()];
        assert_eq!(unmatched(&all, &rows), (vec![&two], vec![&c]));
    }

    #[test]
    fn what_is_missing_is_compared_with_what_is_most_like_it() {
        let wanted = expected(&[(0, ExpectedValue::Integer(1)), (1, ExpectedValue::Integer(9))]);
        let far = expected(&[(0, ExpectedValue::Integer(7)), (1, ExpectedValue::Integer(7))]);
        let (one, two) = (row(&[1, 2]), row(&[2, 9]));
        let mut mismatch = Mismatch::default();
        let mut others = vec![&two, &one];
        mismatch.pair(vec![&far, &wanted], &mut others, &[0]);
        assert_eq!(mismatch.wrong, [(wanted, one.clone())]);
        assert_eq!(mismatch.missing, [far]);
        assert_eq!(others, [&two]);
    }

    #[test]
    fn values_are_compared_by_their_meaning() {
        let about = ExpectedValue::About(100.0, 99.0..=101.0);
        for (expected, value, is_same) in [
            (ExpectedValue::Number(0.3), Value::double(0.1 + 0.2), true),
            (ExpectedValue::Number(0.3), Value::double(0.300001), false),
            (ExpectedValue::Number(0.0), Value::double(1e-30), false),
            (ExpectedValue::Integer(1), Value::Bigint(1), true),
            (ExpectedValue::Integer(i64::MAX), Value::Bigint(i64::MAX - 1), false),
            (ExpectedValue::Null, Value::Null, true),
            (ExpectedValue::Null, Value::text("NULL"), false),
            (ExpectedValue::Text("a".to_owned()), Value::Null, false),
            (about.clone(), Value::double(100.9), true),
            (about.clone(), Value::Bigint(102), false),
            (
                ExpectedValue::Json(serde_json::json!({"a": 1, "b": [2.0]})),
                Value::Json("{\"b\":[2],\"a\":1.0}".into()),
                true,
            ),
            (ExpectedValue::Json(serde_json::json!({"a": 1})), Value::Json("{}".into()), false),
        ] {
            assert_eq!(expected.matches(&value), is_same, "{expected:?} {value:?}");
        }
    }
}
