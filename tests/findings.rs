//! What `waterwheel check` says, word for word: `findings/<name>.toml` against `<name>.findings`.
//!
//! A finding is read by somebody who is in a hurry: each golden file was judged by a person, and a
//! change to one is to be judged again. `UPDATE_GOLDEN=1` writes them anew. Deployments called
//! `good_...` have no findings.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::support::python::root;

#[test]
fn every_finding_reads_as_it_was_judged() {
    let mut differing = Vec::new();
    for deployment in deployments() {
        let name = stem(&deployment);
        let output = waterwheel(&["check", &format!("{name}.toml")]);
        let findings = String::from_utf8(output.stderr).expect("findings are UTF-8");
        let has_errors = findings.contains("error: ");
        assert_eq!(output.status.code(), Some(i32::from(has_errors)), "{name}: {findings}");
        let is_good = name.starts_with("good_");
        assert_eq!(findings.is_empty(), is_good, "{name}: {findings}");
        if !agrees(&deployment.with_extension("findings"), &findings) {
            differing.push(name);
        }
    }
    assert!(differing.is_empty(), "UPDATE_GOLDEN=1 rewrites the findings of {differing:?}");
}

#[test]
fn every_golden_file_has_its_deployment() {
    for file in files().into_iter().filter(|path| path.is_file()) {
        let deployment = file.with_extension("toml");
        assert!(deployment.is_file(), "{} belongs to no deployment", file.display());
    }
}

#[test]
fn one_file_shows_all_that_is_wrong_with_it() {
    let golden = fs::read_to_string(folder().join("many.findings")).expect("many.findings");
    let count = golden.matches("error: ").count();
    assert!(count >= 8, "only {count} findings in many.findings");
}

#[test]
fn explain_reads_as_it_was_judged() {
    let mut differing = Vec::new();
    for format in ["text", "mermaid", "json"] {
        let output = waterwheel(&["explain", "good_explain.toml", "--format", format]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && said.is_empty(), "{format}: {said}");
        let shown = String::from_utf8(output.stdout).expect("explain writes UTF-8");
        if !agrees(&folder().join(format!("good_explain.{format}")), &shown) {
            differing.push(format);
        }
    }
    assert!(differing.is_empty(), "UPDATE_GOLDEN=1 rewrites good_explain in {differing:?}");
}

#[test]
fn explain_writes_json_that_programs_can_read() {
    for deployment in deployments().iter().filter(|path| stem(path).starts_with("good_")) {
        let file = format!("{}.toml", stem(deployment));
        let output = waterwheel(&["explain", &file, "--format", "json"]);
        let graph: serde_json::Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("explain of {file} is no JSON: {error}"));
        for list in ["sources", "operators", "sinks"] {
            assert!(graph[list].is_array(), "explain of {file} has no {list}");
        }
        for operator in graph["operators"].as_array().expect("a list") {
            let columns = operator["columns"].as_array().expect("columns");
            // Over all time and without groups there is one row, which needs no key.
            let is_one_row = operator["name"] == "count";
            let has_key = columns.iter().any(|column| column["key"] == true);
            assert!(has_key != is_one_row, "{file}: no key");
            assert!(columns.iter().all(|column| column["type"].is_string()), "{file}: no types");
        }
    }
}

#[test]
fn a_wrong_command_line_ends_with_2() {
    let wrong: [&[&str]; 5] = [
        &[],
        &["chekc", "good_small.toml"],
        &["check"],
        &["check", "good_small.toml", "--conect"],
        &["explain", "good_small.toml", "--format", "yaml"],
    ];
    for arguments in wrong {
        let output = waterwheel(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains("--help") || said.contains("Usage: "), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_file_that_is_not_there_ends_with_1() {
    for command in ["check", "explain", "run"] {
        for file in ["nowhere.toml", "."] {
            let output = waterwheel(&[command, file]);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{command} {file}: {said}");
            assert!(said.starts_with(&format!("error: cannot read {file}: ")), "{said}");
        }
    }
}

/// Compares with a golden file, or writes it.
fn agrees(golden: &Path, actual: &str) -> bool {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(golden, actual).expect("the golden file is written");
        return true;
    }
    let expected = fs::read_to_string(golden)
        .unwrap_or_else(|error| panic!("{}: {error}; UPDATE_GOLDEN=1 writes it", golden.display()));
    if expected != actual {
        println!("--- {}\n{expected}\n--- now\n{actual}", golden.display());
    }
    expected == actual
}

/// Runs the binary in the folder, so that the paths in its messages are short.
fn waterwheel(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_waterwheel"))
        .args(arguments)
        .current_dir(folder())
        .env_clear()
        .env("HOME", "/nonexistent")
        .stdin(Stdio::null())
        .output()
        .expect("waterwheel starts")
}

fn deployments() -> Vec<PathBuf> {
    let is_deployment = |path: &PathBuf| path.extension().is_some_and(|end| end == "toml");
    let deployments: Vec<PathBuf> = files().into_iter().filter(is_deployment).collect();
    assert!(!deployments.is_empty(), "there are deployments in {}", folder().display());
    deployments
}

fn files() -> Vec<PathBuf> {
    let entries = fs::read_dir(folder()).expect("the folder of findings");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

fn stem(path: &Path) -> String {
    path.file_stem().expect("a file's name").to_string_lossy().into_owned()
}

fn folder() -> PathBuf {
    root().join("tests/findings")
}
