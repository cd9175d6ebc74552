//! What the sinks must hold at the end: the raw events one by one, and what a recompute in Python
//! makes of them.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::results::Results;
use crate::support::postgres::Postgres;
use crate::support::python::python;
use crate::support::rows::{Row, assert_same, of_operator, parse};
use crate::support::trading::OPERATORS;

/// What was lost and what was doubled, in all sinks together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Difference {
    pub(super) lost: u64,
    pub(super) doubled: u64,
}

/// The events that were published, and the rows that they make.
pub(super) struct Truth {
    /// The id of message n + 1.
    ids: Vec<String>,
    rows: Vec<Row>,
}

impl Truth {
    /// Of these messages; `directory` is for the file that Python reads.
    pub(super) fn of(lines: &[Vec<u8>], directory: &Path) -> Self {
        let ids = lines.iter().map(|line| {
            let event: Value = serde_json::from_slice(line).expect("an event");
            event["id"].as_str().expect("an id").to_owned()
        });
        let file = directory.join("published.jsonl");
        let mut text = lines.join(&b'\n');
        text.push(b'\n');
        std::fs::write(&file, text).expect("a writable directory");
        Self { ids: ids.collect(), rows: parse(&python("recompute.py", &[&file, &"EVENTS"])) }
    }

    /// Compares Postgres: panics at a wrong row, and counts events.
    pub(super) fn postgres(&self, postgres: &Postgres, database: &str) -> Difference {
        let query = |sql: &str| postgres.query_in(database, sql).expect("psql reads the table");
        let events = query("select sequence, id from events");
        let events = events.lines().filter_map(|line| {
            let (sequence, id) = line.split_once('\t')?;
            Some((sequence.parse().ok()?, id.to_owned()))
        });
        let difference = self.events(events);
        for (operator, _) in OPERATORS {
            let actual = parse(&query(&format!("select row_to_json(t) from {operator} t")));
            self.rows("postgres", operator, &actual);
        }
        difference
    }

    /// Compares the lake.
    pub(super) fn lake(&self, directory: &Path) -> Difference {
        let read = parse(&python("read_lake.py", &[&directory]));
        let events = of_operator(&read, "events");
        let difference = self.events(events.iter().map(|row| {
            let id = row["id"].as_str().unwrap_or_default();
            (row["sequence"].as_u64().unwrap_or(0), id.to_owned())
        }));
        for (operator, _) in OPERATORS {
            self.rows("the lake", operator, &of_operator(&read, operator));
        }
        difference
    }

    /// Compares the results on NATS.
    pub(super) fn results(&self, results: &Results) -> Difference {
        let difference = self.events(results.events.iter().cloned());
        for (operator, _) in OPERATORS {
            self.rows("the results on nats", operator, &results.rows(operator));
        }
        difference
    }

    fn rows(&self, place: &str, operator: &str, actual: &[Row]) {
        let key = OPERATORS.iter().find(|(name, _)| *name == operator).map(|(_, key)| *key);
        let expected = of_operator(&self.rows, operator);
        let what = format!("{operator} in {place} after {} messages", self.ids.len());
        assert_same(&what, key.expect("an operator"), &expected, actual);
    }

    /// Counts what is missing of the events, and what is there too often.
    fn events(&self, found: impl Iterator<Item = (u64, String)>) -> Difference {
        let mut times: BTreeMap<(u64, String), u64> = BTreeMap::new();
        for event in found {
            *times.entry(event).or_default() += 1;
        }
        let mut difference = Difference::default();
        for (index, id) in self.ids.iter().enumerate() {
            match times.remove(&(index as u64 + 1, id.clone())) {
                None => difference.lost += 1,
                Some(count) => difference.doubled += count - 1,
            }
        }
        // What was never published.
        difference.doubled += times.values().sum::<u64>();
        difference
    }
}

mod tests {
    use super::*;

    #[test]
    fn losses_and_doubles_are_counted() {
        let truth = Truth { ids: vec!["a".to_owned(), "b".to_owned()], rows: Vec::new() };
        let count = |found: &[(u64, &str)]| {
            let found = found.iter().map(|(sequence, id)| (*sequence, (*id).to_owned()));
            let Difference { lost, doubled } = truth.events(found);
            (lost, doubled)
        };
        assert_eq!(count(&[(2, "b"), (1, "a")]), (0, 0));
        assert_eq!(count(&[(1, "a")]), (1, 0));
        assert_eq!(count(&[(1, "a"), (2, "b"), (2, "b")]), (0, 1));
        assert_eq!(count(&[(1, "a"), (2, "x")]), (1, 1));
        assert_eq!(count(&[(1, "a"), (2, "b"), (3, "c")]), (0, 1));
    }
}
