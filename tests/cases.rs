//! Small pipelines with outputs worked out by hand, each in a directory `cases/<name>` with
//! `pipeline.toml`, `input.jsonl` and `expected.jsonl`.
//!
//! A pipeline reads `${INPUT}` and prints; one that also has a Parquet sink at `${LAKE}` is run in
//! two parts and killed as well.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::support::python::{python, root};
use crate::support::rows::{Row, assert_same_set, parse};
use crate::support::wait_until;
use crate::support::waterwheel::Deployment;

#[test]
fn straight() {
    for case in cases() {
        let directory = TempDir::new().unwrap();
        let ending = case.deployment(directory.path(), None).run();
        assert_same_set(&case.name, &case.expected, &parse(&ending.stdout));
        if case.has_lake() {
            assert_same_set(&case.name, &case.expected, &lake(directory.path()));
        }
    }
}

#[test]
fn with_one_two_and_three_workers() {
    for case in cases() {
        for workers in [1, 2, 3] {
            let directory = TempDir::new().unwrap();
            let ending = case.deployment(directory.path(), Some(workers)).run();
            let what = format!("{} with {workers} workers", case.name);
            assert_same_set(&what, &case.expected, &parse(&ending.stdout));
        }
    }
}

#[test]
fn in_two_parts() {
    for case in cases().into_iter().filter(Case::has_lake) {
        for lines in 1..case.input.lines().count() {
            let directory = TempDir::new().unwrap();
            let deployment = case.deployment(directory.path(), Some(2));
            fs::write(directory.path().join("input.jsonl"), case.first(lines)).unwrap();
            deployment.clone().set("UNTIL", "end").run();
            fs::write(directory.path().join("input.jsonl"), &case.input).unwrap();
            deployment.run();
            let what = format!("{} in parts of {lines} lines and the rest", case.name);
            assert_same_set(&what, &case.expected, &lake(directory.path()));
        }
    }
}

#[test]
fn killed_half_way() {
    for case in cases().into_iter().filter(Case::has_lake) {
        let directory = TempDir::new().unwrap();
        let deployment = case.deployment(directory.path(), Some(2));
        let half = case.first(case.input.lines().count() / 2);
        for (input, until) in [(half.as_str(), "end"), (case.input.as_str(), "final")] {
            fs::write(directory.path().join("input.jsonl"), input).unwrap();
            let deployment = deployment.clone().set("UNTIL", until);
            let mut running = deployment.start();
            wait_until("it has begun to write, or has ended", || {
                directory.path().join("lake").exists() || running.has_ended()
            });
            running.kill();
            deployment.run();
        }
        let what = format!("{} after kills", case.name);
        assert_same_set(&what, &case.expected, &lake(directory.path()));
    }
}

/// One directory under `cases/`.
struct Case {
    name: String,
    pipeline: String,
    input: String,
    expected: Vec<Row>,
}

impl Case {
    fn read(directory: &Path) -> Self {
        let text = |name: &str| {
            let path = directory.join(name);
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        Self {
            name: directory.file_name().unwrap().to_string_lossy().into_owned(),
            pipeline: text("pipeline.toml"),
            input: text("input.jsonl"),
            expected: parse(&text("expected.jsonl")),
        }
    }

    fn has_lake(&self) -> bool {
        self.pipeline.contains("${LAKE}")
    }

    /// The pipeline in `directory`, beside its whole input.
    fn deployment(&self, directory: &Path, workers: Option<usize>) -> Deployment {
        let engine =
            workers.map(|workers| format!("\n[engine]\nworkers = {workers}\n")).unwrap_or_default();
        fs::write(directory.join("input.jsonl"), &self.input).unwrap();
        Deployment::new(directory, &format!("{}{engine}", self.pipeline))
            .set("INPUT", "input.jsonl")
            .set("LAKE", directory.join("lake"))
    }

    /// The first lines of the input.
    fn first(&self, lines: usize) -> String {
        self.input.lines().take(lines).map(|line| format!("{line}\n")).collect()
    }
}

fn cases() -> Vec<Case> {
    let mut directories: Vec<PathBuf> = fs::read_dir(root().join("tests/cases"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    directories.sort();
    assert!(!directories.is_empty(), "there are cases");
    directories.iter().map(|directory| Case::read(directory)).collect()
}

fn lake(directory: &Path) -> Vec<Row> {
    parse(&python("read_lake.py", &[&directory.join("lake")]))
}
