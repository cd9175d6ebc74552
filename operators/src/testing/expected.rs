//! What should have come out, what did, and how they differ.

use std::collections::BTreeMap;

use waterwheel_config::schema::{Finality, Schema};
use waterwheel_config::value::{Row, Value};

/// What a column should hold.
#[derive(Clone, Debug)]
pub(crate) enum Expected {
    /// Just this.
    Is(Value),
    /// This number, to 1e-12 relative.
    Near(f64),
    /// This number, to 1 percent.
    Within(f64),
    /// Any of these.
    OneOf(Vec<Value>),
    /// This number, give or take.
    Around {
        /// The number.
        number: f64,
        /// By how much it may be off.
        slack: f64,
    },
}

impl Expected {
    /// An integer.
    pub(crate) fn bigint(number: i64) -> Self {
        Self::Is(Value::Bigint(number))
    }

    /// A number to 1e-12, NULL where there is none or it is not finite.
    pub(crate) fn near(number: Option<f64>) -> Self {
        number.filter(|number| number.is_finite()).map_or(Self::Is(Value::Null), Self::Near)
    }

    /// The value in words and numbers, for what is computed from it.
    pub(crate) fn value(&self) -> Value {
        match self {
            Self::Is(value) => value.clone(),
            Self::Near(number) | Self::Within(number) => Value::double(*number),
            Self::OneOf(values) => values[0].clone(),
            Self::Around { number, .. } => Value::double(*number),
        }
    }

    fn holds(&self, found: &Value) -> bool {
        let close = |wanted: f64, relative: f64| match found {
            Value::Double(found) => {
                let slack = wanted.abs() * relative;
                // A double has no finer steps than this.
                (found.get() - wanted).abs() <= slack.max(5e-324)
            }
            _ => false,
        };
        match self {
            Self::Is(value) => value == found,
            Self::Near(number) => close(*number, 1e-12),
            Self::Within(number) => close(*number, 0.01 + 1e-9),
            Self::OneOf(values) => values.contains(found),
            Self::Around { number, slack } => match found {
                Value::Double(found) => (found.get() - number).abs() <= *slack,
                _ => false,
            },
        }
    }
}

/// The expected rows of an operator, by key.
pub(crate) type ExpectedRows = BTreeMap<Vec<Value>, Vec<Expected>>;

/// The rows that are out: the sum of all changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Accumulated(BTreeMap<Row, isize>);

impl Accumulated {
    /// Adds the changes of an epoch.
    pub(crate) fn apply(&mut self, changes: &[(Row, isize)]) {
        for (row, diff) in changes {
            *self.0.entry(row.clone()).or_default() += diff;
        }
        self.0.retain(|_, diff| *diff != 0);
    }

    /// The rows, in order; an error where one is out more or less than once.
    pub(crate) fn rows(&self) -> Result<Vec<Row>, String> {
        match self.0.iter().find(|(_, diff)| **diff != 1) {
            Some((row, diff)) => Err(format!("a row is out {diff} times: {}", plain(row.values()))),
            None => Ok(self.0.keys().cloned().collect()),
        }
    }

    /// Compares the rows that are final with those that should be. Of the others nothing is asked.
    pub(crate) fn compare_final(
        &self,
        schema: &Schema,
        expected: &ExpectedRows,
        watermark_us: i64,
    ) -> Result<(), String> {
        let is_final = |row: &Row| schema.finality.of(row).is_none_or(|at| at <= watermark_us);
        let wanted = |cells: &[Expected]| -> Row { cells.iter().map(Expected::value).collect() };
        let expected = expected.iter().filter(|(_, cells)| is_final(&wanted(cells)));
        let expected = expected.map(|(key, cells)| (key.clone(), cells.clone())).collect();
        let found = self.0.iter().filter(|(row, _)| is_final(row));
        let found = found.map(|(row, diff)| (row.clone(), *diff)).collect();
        Self(found).compare(schema, &expected)
    }

    /// Compares what is out with what should be.
    pub(crate) fn compare(&self, schema: &Schema, expected: &ExpectedRows) -> Result<(), String> {
        let mut found: BTreeMap<Vec<Value>, Row> = BTreeMap::new();
        for row in self.rows()? {
            let mut key: Vec<Value> = row.key(&schema.key).cloned().collect();
            if matches!(schema.finality, Finality::Silent { .. }) {
                // A key may come again after silence; what stands behind the columns tells them apart.
                key.extend(row.values().get(schema.columns.len()).cloned());
            }
            if let Some(other) = found.insert(key, row.clone()) {
                let (one, two) = (plain(row.values()), plain(other.values()));
                return Err(format!("two rows of one key:\n  {one}\n  {two}"));
            }
        }
        let mut differences = Vec::new();
        for (key, wanted) in expected {
            let shown = || plain(&wanted.iter().map(Expected::value).collect::<Vec<_>>());
            match found.remove(key) {
                None => differences.push(format!("missing  {}", shown())),
                Some(row) => {
                    let holds = wanted.iter().zip(row.values()).all(|(e, v)| e.holds(v));
                    if !holds || wanted.len() != row.values().len() {
                        let found = plain(row.values());
                        differences.push(format!("expected {}\n  found    {found}", shown()));
                    }
                }
            }
        }
        differences.extend(found.values().map(|row| format!("surplus  {}", plain(row.values()))));
        if differences.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = schema.names().collect();
        let shown: Vec<String> = differences.iter().take(4).cloned().collect();
        Err(format!(
            "{} rows differ; columns {}\n  {}",
            differences.len(),
            names.join(" | "),
            shown.join("\n  ")
        ))
    }
}

fn plain(values: &[Value]) -> String {
    let shown = |value: &Value| match value {
        Value::Null => "NULL".to_owned(),
        other => other.to_plain(),
    };
    values.iter().map(shown).collect::<Vec<_>>().join(" | ")
}
