//! `cargo xtask compare`: the same events through waterwheel and through other engines, ClickHouse for
//! the funnel and DuckDB for aggregates and joins. Every row must be equal.

use std::fs;
use std::process::Command;

use crate::Outcome;
use crate::process::{build, root, run};
use crate::scratch::Scratch;
use crate::tools;

/// What a change is checked with; a million by night.
const DEFAULT_EVENTS: &str = "200000";

/// Runs the comparison; the only argument is the number of events.
pub(crate) fn compare(arguments: &[&str]) -> Outcome<()> {
    let count = arguments.first().copied().unwrap_or(DEFAULT_EVENTS).replace(['_', ','], "");
    if !count.parse::<u64>().is_ok_and(|count| count > 0) {
        return Err(format!("`{count}` is not a number of events").into());
    }
    let python = tools::python_with("xtask/compare/requirements.txt")?;
    let program = build(&["waterwheel"])?.join("waterwheel");
    let mut scratch = Scratch::new()?;
    let folder = root().join("xtask/compare");
    let (events, lake) = (scratch.path().join("events.jsonl"), scratch.path().join("lake"));
    eprintln!("xtask: preparing {count} events");
    run(Command::new(&python).arg(folder.join("events.py")).arg(&count).arg(&events))?;
    let deployment = scratch.path().join("deployment.toml");
    fs::copy(folder.join("deployment.toml"), &deployment)?;
    // The name of the file is that of the stream, and so part of the keys.
    let stream = "events.jsonl";
    let mut pipeline = Command::new(program);
    pipeline.arg("run").arg(&deployment).env("FILE", stream).env("LAKE", &lake);
    pipeline.current_dir(scratch.path());
    scratch.run(&mut pipeline)?;
    run(Command::new(&python).arg(folder.join("compare.py")).arg(&events).arg(stream).arg(&lake))
}
