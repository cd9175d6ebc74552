//! Rows as JSON objects, and whether two sets of them are the same.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// One row: column to value.
pub(crate) type Row = Map<String, Value>;

/// Sums are promised to this relative error.
pub(crate) const EXACT: f64 = 1e-12;

/// Quantiles are promised to one percent; the rest is for the rounding of the comparison itself.
pub(crate) const QUANTILE: f64 = 0.010_001;

/// Reads JSON Lines; panics on anything else.
pub(crate) fn parse(lines: &str) -> Vec<Row> {
    lines
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| match serde_json::from_str(line) {
            Ok(Value::Object(row)) => row,
            other => panic!("not a JSON object ({other:?}): {line}"),
        })
        .collect()
}

/// The rows of one operator out of the lines of a print sink, without `op` and `operator`.
pub(crate) fn of_operator(printed: &[Row], operator: &str) -> Vec<Row> {
    printed
        .iter()
        .filter(|row| row.get("operator").and_then(Value::as_str) == Some(operator))
        .map(|row| {
            let mut row = row.clone();
            row.remove("operator");
            assert_eq!(row.remove("op"), Some(Value::from("upsert")), "a final row is an upsert");
            row
        })
        .collect()
}

/// Panics with the first differences unless both hold the same rows, found by their key columns,
/// with the same columns; numbers may differ by the relative error that their column is promised.
pub(crate) fn assert_same(what: &str, key: &[&str], expected: &[Row], actual: &[Row]) {
    assert!(!expected.is_empty(), "{what}: nothing is expected, so nothing would be tested");
    let expected = by_key(what, key, expected);
    let actual = by_key(what, key, actual);
    let mut problems = Vec::new();
    for (key, expected) in &expected {
        match actual.get(key) {
            None => problems.push(format!("missing: {}", Value::Object(expected.clone()))),
            Some(actual) if !same(expected, actual) => problems.push(format!(
                "expected {}\n     got {}",
                Value::Object(expected.clone()),
                Value::Object(actual.clone())
            )),
            Some(_) => {}
        }
    }
    for (key, actual) in &actual {
        if !expected.contains_key(key) {
            problems.push(format!("unexpected: {}", Value::Object(actual.clone())));
        }
    }
    if !problems.is_empty() {
        let count = problems.len();
        problems.truncate(10);
        panic!("{what}: {count} differences\n{}", problems.join("\n"));
    }
}

/// Panics unless both hold the same rows, in any order; numbers are compared to 12 digits. Of dead
/// letters only what the definition fixes is compared: source, sequence and reason.
pub(crate) fn assert_same_set(what: &str, expected: &[Row], actual: &[Row]) {
    let sorted = |rows: &[Row]| {
        let mut lines: Vec<String> = rows.iter().map(spelled).collect();
        lines.sort();
        lines
    };
    let (expected, actual) = (sorted(expected), sorted(actual));
    let missing: Vec<_> = expected.iter().filter(|row| !actual.contains(row)).collect();
    let unexpected: Vec<_> = actual.iter().filter(|row| !expected.contains(row)).collect();
    assert!(
        expected == actual,
        "{what}: {} rows expected, {} found\nmissing: {missing:#?}\nunexpected: {unexpected:#?}",
        expected.len(),
        actual.len(),
    );
}

/// One spelling for all rows that are the same.
fn spelled(row: &Row) -> String {
    let dead_letter = row.get("operator").and_then(Value::as_str) == Some("dead_letter");
    let fixed = |name: &str| {
        !dead_letter || ["op", "operator", "source", "sequence", "reason"].contains(&name)
    };
    let mut parts: Vec<String> = row
        .iter()
        .filter(|(name, _)| fixed(name))
        .map(|(name, value)| match value.as_f64() {
            Some(number) => format!("{name}={number:.11e}"),
            None => format!("{name}={}", canonical(value.clone())),
        })
        .collect();
    parts.sort();
    parts.join(" ")
}

fn by_key(what: &str, key: &[&str], rows: &[Row]) -> BTreeMap<String, Row> {
    let mut found = BTreeMap::new();
    for row in rows {
        let row: Row =
            row.iter().map(|(name, value)| (name.clone(), canonical(value.clone()))).collect();
        let of: Vec<Value> = key
            .iter()
            .map(|name| row.get(*name).cloned().unwrap_or_else(|| panic!("{what}: no {name}")))
            .collect();
        let of = Value::Array(of).to_string();
        if let Some(twice) = found.insert(of, row) {
            panic!("{what}: a key twice: {}", Value::Object(twice));
        }
    }
    found
}

fn same(expected: &Row, actual: &Row) -> bool {
    expected.len() == actual.len()
        && expected.iter().all(|(name, expected)| {
            actual.get(name).is_some_and(|actual| same_value(name, expected, actual))
        })
}

fn same_value(name: &str, expected: &Value, actual: &Value) -> bool {
    let (Some(left), Some(right)) = (expected.as_f64(), actual.as_f64()) else {
        return expected == actual;
    };
    if expected.is_i64() && actual.is_i64() {
        return expected == actual;
    }
    let tolerance =
        if name.starts_with("p95_") || name.starts_with("median_") { QUANTILE } else { EXACT };
    (left - right).abs() <= tolerance * left.abs().max(right.abs())
}

/// Readers spell an instant in different ways: `Z` or `+00:00`, with or without trailing zeros.
fn canonical(value: Value) -> Value {
    let Value::String(text) = &value else { return value };
    // Columns of JSON are text in a lake.
    if let Ok(json @ (Value::Array(_) | Value::Object(_))) = serde_json::from_str(text) {
        return json;
    }
    let bytes = text.as_bytes();
    let like_a_time = bytes.len() >= 20 && bytes[4] == b'-' && bytes[10] == b'T';
    let Some(local) = text.strip_suffix('Z').or_else(|| text.strip_suffix("+00:00")) else {
        return value;
    };
    if !like_a_time {
        return value;
    }
    let local = match local.split_once('.') {
        Some((whole, fraction)) if fraction.trim_end_matches('0').is_empty() => whole.to_owned(),
        Some((whole, fraction)) => format!("{whole}.{}", fraction.trim_end_matches('0')),
        None => local.to_owned(),
    };
    Value::String(format!("{local}Z"))
}

mod tests {
    use super::*;

    const KEY: &[&str] = &["k"];

    fn differ(expected: &str, actual: &str) -> bool {
        std::panic::catch_unwind(|| assert_same("rows", KEY, &parse(expected), &parse(actual)))
            .is_err()
    }

    #[test]
    fn sets_are_compared_whole() {
        let same_set = |expected: &str, actual: &str| {
            std::panic::catch_unwind(|| assert_same_set("", &parse(expected), &parse(actual)))
                .is_ok()
        };
        let rows = "{\"k\":1,\"x\":30}\n{\"k\":2,\"x\":null}";
        assert!(same_set(rows, "{\"x\":null,\"k\":2}\n{\"x\":30.0,\"k\":1}"));
        assert!(!same_set(rows, "{\"k\":1,\"x\":30}"));
        assert!(!same_set(rows, &format!("{rows}\n{rows}")));
        assert!(!same_set(rows, "{\"k\":1,\"x\":30}\n{\"k\":2,\"x\":0}"));
    }

    #[test]
    fn the_comparison_can_fail() {
        let row = r#"{"k":1,"n":3,"x":0.5,"at":"2026-01-01T00:00:00Z"}"#;
        assert!(!differ(row, r#"{"k":1,"n":3,"x":0.5,"at":"2026-01-01T00:00:00.000+00:00"}"#));
        assert!(differ(row, r#"{"k":1,"n":4,"x":0.5,"at":"2026-01-01T00:00:00Z"}"#));
        assert!(differ(row, r#"{"k":1,"n":3,"x":0.50000001,"at":"2026-01-01T00:00:00Z"}"#));
        assert!(differ(row, r#"{"k":1,"n":3,"x":null,"at":"2026-01-01T00:00:00Z"}"#));
        assert!(differ(row, r#"{"k":1,"n":3,"x":0.5,"at":"2026-01-01T00:00:01Z"}"#));
        assert!(differ(row, r#"{"k":1,"n":3,"x":0.5}"#));
        assert!(differ(row, ""));
        assert!(differ(row, &format!("{row}\n{row}")));
        assert!(differ(row, &format!("{row}\n{}", row.replace("\"k\":1", "\"k\":2"))));
    }
}
