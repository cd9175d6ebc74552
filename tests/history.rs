//! A run goes on only where the one before it left off: what was changed since is noticed.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::support::waterwheel::{Deployment, Ending};

const DEPLOYMENT: &str = r#"
name = "history"

[sources.events]
type = "file"
path = "in/*.jsonl"
until = "${UNTIL:-end}"

[operators.volume]
type = "aggregate"
from = "events"
where = "event_type = '${KIND:-e}'"
windows = ["1m"]
measures.n = "count(*)"

[sinks.lake]
type = "parquet"
from = ["events", "volume"]
path = "lake"

[sinks.screen]
type = "print"
from = ["volume"]
"#;

fn deployment(directory: &Path) -> Deployment {
    let deployment = Deployment::new(directory, DEPLOYMENT);
    fs::create_dir_all(directory.join("in")).unwrap();
    write(directory, "1.jsonl", 0..10);
    deployment
}

fn write(directory: &Path, file: &str, seconds: std::ops::Range<u32>) {
    let lines: String = seconds
        .map(|second| {
            format!("{{\"event_type\":\"e\",\"timestamp\":\"2026-05-04T12:00:{second:02}Z\"}}\n")
        })
        .collect();
    fs::write(directory.join("in").join(file), lines).unwrap();
}

fn assert_ends(ending: &Ending, code: i32, word: &str) {
    assert_eq!(ending.status.code(), Some(code), "{}", ending.stderr);
    assert!(ending.stderr.contains(word), "`{word}` in {}", ending.stderr);
}

/// Lines were put in front of those that the lake holds.
#[test]
fn a_rewritten_source_halts() {
    let directory = TempDir::new().unwrap();
    let deployment = deployment(directory.path());
    assert_ends(&deployment.start().wait(), 0, "End");
    write(directory.path(), "0.jsonl", 20..30);
    assert_ends(&deployment.start().wait(), 3, "was changed");
}

/// Lines that the lake holds are gone.
#[test]
fn a_shortened_source_halts() {
    let directory = TempDir::new().unwrap();
    let deployment = deployment(directory.path());
    assert_ends(&deployment.start().wait(), 0, "End");
    write(directory.path(), "1.jsonl", 0..5);
    assert_ends(&deployment.start().wait(), 3, "the last before it is 5");
}

#[test]
fn a_source_that_grew_goes_on() {
    let directory = TempDir::new().unwrap();
    let deployment = deployment(directory.path());
    assert_ends(&deployment.start().wait(), 0, "End");
    write(directory.path(), "2.jsonl", 10..20);
    let ending = deployment.set("UNTIL", "final").start().wait();
    assert_ends(&ending, 0, "Finished");
    assert!(ending.stdout.contains("\"n\":20"), "{}", ending.stdout);
}

/// A print sink keeps no progress; it must not make a finished pipeline run on.
#[test]
fn what_is_finished_stays_so() {
    let directory = TempDir::new().unwrap();
    let deployment = deployment(directory.path()).set("UNTIL", "final");
    assert_ends(&deployment.start().wait(), 0, "Finished");
    write(directory.path(), "2.jsonl", 10..20);
    let ending = deployment.start().wait();
    assert_ends(&ending, 0, "finished by an earlier run");
    assert_eq!(ending.stdout, "");
}

#[test]
fn another_value_of_a_variable_is_another_deployment() {
    let directory = TempDir::new().unwrap();
    let deployment = deployment(directory.path());
    assert_ends(&deployment.start().wait(), 0, "End");
    assert_ends(&deployment.set("KIND", "x").start().wait(), 3, "deployment was changed");
}
