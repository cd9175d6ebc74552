//! `compare = "previous"` by hand: a change is the difference of two rows that are expected anyway.

use waterwheel_config::value::{ColumnType, Value};

use crate::testing::{Expected, ExpectedRows, Kind, Model, naive};

/// The expected rows with the columns that `compare` adds.
pub(super) fn with_changes(model: &Model, rows: ExpectedRows) -> ExpectedRows {
    let first = 3 + model.by.len();
    let compared: Vec<usize> = (0..model.measures.len())
        .filter(|index| is_number(model.measures[*index].kind))
        .map(|index| first + index)
        .collect();
    let mut all = ExpectedRows::new();
    for (key, row) in &rows {
        let mut before = key.clone();
        let (Value::Text(granularity), Value::Timestamp(start_us)) = (&key[0], &key[1]) else {
            panic!("a window");
        };
        before[1] = Value::Timestamp(naive::start_before(granularity, model.zone, *start_us));
        let before = rows.get(&before);
        let mut row = row.clone();
        for index in &compared {
            let pair = (number(&row[*index]), before.and_then(|before| number(&before[*index])));
            row.extend(match pair {
                (Some((now, slack)), Some((before, other))) => {
                    changes(now, before, slack.max(other))
                }
                _ => [Expected::Is(Value::Null), Expected::Is(Value::Null)],
            });
        }
        all.insert(key.clone(), row);
    }
    all
}

/// The change and that in percent; each number may be off by a part of its size.
fn changes(now: f64, before: f64, slack: f64) -> [Expected; 2] {
    let around = |number: f64, size: f64| match number.is_finite() {
        true => Expected::Around { number, slack: (size * slack).max(5e-324) },
        false => Expected::Is(Value::Null),
    };
    let size = now.abs() + before.abs();
    let difference = now - before;
    let percent = difference / before * 100.0;
    [around(difference, size), around(percent, 200.0 * (size / before).abs())]
}

/// The number, and which part of it may be wrong.
fn number(expected: &Expected) -> Option<(f64, f64)> {
    let slack = match expected {
        Expected::Within(_) => 0.0101,
        _ => 1e-11,
    };
    match expected.value() {
        Value::Bigint(number) => Some((number as f64, slack)),
        Value::Double(number) => Some((number.get(), slack)),
        _ => None,
    }
}

fn is_number(kind: Kind) -> bool {
    let of = |kind| matches!(kind, ColumnType::Double | ColumnType::Bigint);
    match kind {
        Kind::Least(kind) | Kind::Greatest(kind) | Kind::First(kind) | Kind::Last(kind) => of(kind),
        Kind::Breakdown => false,
        _ => true,
    }
}
