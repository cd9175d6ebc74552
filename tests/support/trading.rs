//! One pipeline of every kind of operator, its events, and what must come out of it.

use std::path::{Path, PathBuf};

use super::postgres::Postgres;
use super::python::python;
use super::rows::{Row, assert_same, of_operator, parse};

/// An operator and the columns that make a row of it unique.
pub(crate) const OPERATORS: [(&str, &[&str]); 4] = [
    ("volume", &["granularity", "window_start", "symbol"]),
    ("fills", &["left_key", "right_key"]),
    ("fill_latency", &["granularity", "window_start", "symbol"]),
    ("onboarding", &["window_start", "step"]),
];

/// The operators as TOML; their source is called `events`.
pub(crate) const PIPELINE: &str = include_str!("trading.toml");

/// What every source and sink of these tests reads of its variables: `${NATS}`, `${UNTIL}`.
pub(crate) const NATS_SOURCE: &str = r#"
[sources.events]
type = "nats"
url = "${NATS}"
stream = "EVENTS"
start = "first"
until = "${UNTIL:-final}"
lateness = "30s"
"#;

/// Every change, in Postgres at `${DATABASE}`.
pub(crate) const POSTGRES_SINK: &str = r#"
[sinks.warehouse]
type = "postgres"
from = ["volume", "fills", "fill_latency", "onboarding"]
url = "${DATABASE}"
"#;

/// The final rows, as Parquet files under `${LAKE}`.
pub(crate) const PARQUET_SINK: &str = r#"
[sinks.lake]
type = "parquet"
from = ["volume", "fills", "fill_latency", "onboarding"]
path = "${LAKE}"
roll = { rows = 500, every = "1s" }
"#;

/// The final rows on stdout.
pub(crate) const PRINT_SINK: &str = r#"
[sinks.out]
type = "print"
from = ["volume", "fills", "fill_latency", "onboarding"]
"#;

/// A deployment file of these parts.
pub(crate) fn deployment(parts: &[&str]) -> String {
    format!(
        "name = \"trading\"\n\n[engine]\nflush = \"10ms\"\ncheckpoint = {{ path = \"state\", every = \"100ms\" }}\n{}\n{PIPELINE}",
        parts.concat()
    )
}

/// Events in a file of JSON Lines, and the rows that a recompute in Python makes of them.
pub(crate) struct Events {
    pub(crate) file: PathBuf,
    expected: Vec<Row>,
}

impl Events {
    /// Makes `count` events; line n of the file becomes message n of `stream`.
    pub(crate) fn generate(directory: &Path, count: usize, stream: &str) -> Self {
        let file = directory.join("events.jsonl");
        python("events.py", &[&count.to_string(), &file]);
        let expected = parse(&python("recompute.py", &[&file, &stream]));
        Self { file, expected }
    }

    /// The payloads in order.
    pub(crate) fn payloads(&self) -> Vec<Vec<u8>> {
        let text = std::fs::read_to_string(&self.file).expect("the events are there");
        text.lines().map(|line| line.as_bytes().to_vec()).collect()
    }

    /// Panics unless the lake under `path` holds exactly what is expected.
    pub(crate) fn assert_lake(&self, path: &Path) {
        self.assert_lines("parquet", &parse(&python("read_lake.py", &[&path])));
    }

    /// Panics unless these lines of a print sink are exactly what is expected.
    pub(crate) fn assert_lines(&self, what: &str, lines: &[Row]) {
        for (operator, key) in OPERATORS {
            let expected = of_operator(&self.expected, operator);
            let actual = of_operator(lines, operator);
            assert_same(&format!("{operator} in {what}"), key, &expected, &actual);
        }
    }

    /// Panics unless the tables hold exactly what is expected.
    pub(crate) fn assert_postgres(&self, postgres: &Postgres) {
        for (operator, key) in OPERATORS {
            let sql = format!("select row_to_json(t) from {operator} t");
            let actual = parse(&postgres.query(&sql).expect("psql reads the table"));
            let expected = of_operator(&self.expected, operator);
            assert_same(&format!("{operator} in postgres"), key, &expected, &actual);
        }
    }
}
