//! `waterwheel test` as its user sees it: tests that pass, the words of those that fail, and how it
//! ends.
//!
//! The pipelines `rehearsals/good_*.toml` and the ready deployments pass all of their tests, without
//! any server, and with none of their variables set. `UPDATE_GOLDEN=1` writes what is said of failures
//! anew, for a person to judge.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::support::python::root;

#[test]
fn good_pipelines_pass() {
    let good = files(&folder(), |name| name.starts_with("good_"));
    assert!(good.len() >= 6, "there are pipelines in {}", folder().display());
    assert_passes(&folder(), &good);
}

#[test]
fn the_deployments_pass() {
    let directory = root().join("config/deployments");
    assert_passes(&directory, &files(&directory, |_| true));
}

#[test]
fn what_fails_is_shown_word_for_word() {
    let output = waterwheel(&folder(), &["test", "fails.toml"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), "");
    let golden = folder().join("fails.stdout");
    let said = text(&output.stdout);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, &said).expect("the golden file is written");
    }
    let expected = fs::read_to_string(&golden).expect("fails.stdout");
    assert_eq!(said, expected, "UPDATE_GOLDEN=1 writes it anew");
    // Nothing of it depends on the clock, or on how the work was shared out.
    for _ in 0..5 {
        assert_eq!(text(&waterwheel(&folder(), &["test", "fails.toml"]).stdout), expected);
    }
}

#[test]
fn one_bad_file_hides_no_other() {
    let files = ["no_tests.toml", "nowhere.toml", "good_calendar.toml", "../findings/tests.toml"];
    let output = waterwheel(&folder(), &[["test"].as_slice(), &files].concat());
    assert_eq!(output.status.code(), Some(1));
    let (said, found) = (text(&output.stdout), text(&output.stderr));
    assert!(said.contains("ok    good_calendar.toml: "), "{said}");
    assert!(said.ends_with("\n1 passed\n"), "{said}");
    assert!(found.contains("error: no_tests.toml has no tests"), "{found}");
    assert!(found.contains("error: cannot read nowhere.toml: "), "{found}");
    assert!(found.contains("../findings/tests.toml:"), "{found}");
}

#[test]
fn without_a_file_the_command_line_is_wrong() {
    let output = waterwheel(&folder(), &["test"]);
    assert_eq!(output.status.code(), Some(2));
}

/// Runs the tests of all files at once.
fn assert_passes(directory: &Path, files: &[PathBuf]) {
    let names: Vec<&str> = files.iter().filter_map(|file| file.file_name()?.to_str()).collect();
    let output = waterwheel(directory, &[["test"].as_slice(), &names].concat());
    let (said, found) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && found.is_empty(), "{said}{found}");
    let lines: Vec<&str> = said.lines().collect();
    let (total, passed) = lines.split_last().expect("a total");
    assert_eq!(*total, format!("{} passed", passed.len()));
    for name in names {
        assert!(
            passed.iter().any(|line| line.starts_with(&format!("ok    {name}: "))),
            "{name}: {said}"
        );
    }
}

/// Runs the binary without a variable set, where no server can be reached by accident.
fn waterwheel(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_waterwheel"))
        .args(arguments)
        .current_dir(directory)
        .env_clear()
        .env("HOME", "/nonexistent")
        .stdin(Stdio::null())
        .output()
        .expect("waterwheel starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("what is said is UTF-8")
}

fn files(directory: &Path, is_wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("a folder of pipelines");
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|end| end == "toml"))
        .filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(&is_wanted))
        .collect();
    files.sort();
    files
}

fn folder() -> PathBuf {
    root().join("tests/rehearsals")
}
