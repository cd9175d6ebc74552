//! The other engines: how each is had, what it is asked, and how much less CPU time waterwheel must
//! take. One that cannot be had is left out, and the report says why.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Question;
use crate::Outcome;
use crate::process::{output, root};
use crate::tools;

/// What the programs call their results: a file or a directory.
pub(super) const RESULT: &str = "result";

/// waterwheel's CPU time ÷ the engine's, at most.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) must: f64,
    pub(super) aim: f64,
}

/// An engine that is there.
pub(super) struct Engine {
    pub(super) name: &'static str,
    /// Its package's, and that of what else it runs on.
    pub(super) version: String,
    /// How many threads it may take; each is tried.
    pub(super) threads: &'static [&'static str],
    program: &'static str,
    limits: Vec<(Question, Limits)>,
    python: PathBuf,
}

fn limits(question: Question, must: f64, aim: f64) -> (Question, Limits) {
    (question, Limits { must, aim })
}

impl Engine {
    /// None where the engine is not asked.
    pub(super) fn limits(&self, question: Question) -> Option<Limits> {
        self.limits.iter().find(|(asked, _)| *asked == question).map(|(_, limits)| *limits)
    }

    /// Its program, which leaves the result in the directory that it is started in.
    pub(super) fn command(&self, question: Question, events: &Path, threads: &str) -> Command {
        let mut command = Command::new(&self.python);
        command.arg(root().join("benches/peers").join(self.program));
        command.arg(question.name()).arg(events).args([RESULT, threads]);
        command
    }
}

/// Those that are there or can be installed, and why the others are not.
pub(super) fn ready() -> (Vec<Engine>, Vec<String>) {
    let (mut engines, mut missing) = (Vec::new(), Vec::new());
    for (name, engine) in [
        ("DuckDB", duckdb()),
        ("ClickHouse", clickhouse()),
        ("Flink", flink()),
        ("Pathway", pathway()),
    ] {
        match engine {
            Ok(engine) => engines.push(engine),
            Err(problem) => {
                eprintln!("xtask: {name} is left out: {problem}");
                let problem = problem.to_string();
                missing.push(format!("{name}: {}", problem.lines().next().unwrap_or_default()));
            }
        }
    }
    (engines, missing)
}

fn duckdb() -> Outcome<Engine> {
    let python = tools::python()?;
    Ok(Engine {
        name: "DuckDB",
        version: version(&python, "duckdb")?,
        threads: &["1", "default"],
        program: "on_duckdb.py",
        limits: vec![limits(Question::Aggregate, 1.3, 0.8), limits(Question::Join, 2.5, 1.5)],
        python,
    })
}

fn clickhouse() -> Outcome<Engine> {
    let python = tools::python_with("xtask/compare/requirements.txt")?;
    Ok(Engine {
        name: "ClickHouse",
        version: version(&python, "chdb")?,
        threads: &["1", "default"],
        program: "on_chdb.py",
        limits: vec![limits(Question::Funnel, 1.5, 0.6)],
        python,
    })
}

fn flink() -> Outcome<Engine> {
    let java = tools::java()?;
    let python = tools::python_apart("peers-flink", "benches/peers/flink.txt")?;
    Ok(Engine {
        name: "Flink",
        version: format!("{} on {java}", version(&python, "apache-flink")?),
        threads: &["1"],
        program: "on_flink.py",
        limits: vec![limits(Question::Aggregate, 0.125, 0.05), limits(Question::Join, 0.125, 0.05)],
        python,
    })
}

fn pathway() -> Outcome<Engine> {
    let python = tools::python_apart("peers-pathway", "benches/peers/pathway.txt")?;
    Ok(Engine {
        name: "Pathway",
        version: version(&python, "pathway")?,
        threads: &["1"],
        program: "on_pathway.py",
        limits: vec![
            limits(Question::Aggregate, 0.125, 0.05),
            limits(Question::Join, 0.125, 0.05),
            limits(Question::Funnel, 0.125, 0.05),
        ],
        python,
    })
}

fn version(python: &Path, package: &str) -> Outcome<String> {
    let script = "import sys, importlib.metadata as m; print(m.version(sys.argv[1]))";
    let said = output(Command::new(python).args(["-c", script, package]))?;
    Ok(format!("{package} {}", said.trim()))
}
