//! `cargo xtask compare`: the same events through waterwheel and through other engines, ClickHouse for
//! the funnel and DuckDB for aggregates and joins. Every row must be equal.

use std::fs;
use std::path::{Path, PathBuf};
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
    let backfill = Backfill::prepare(&python, &scratch, &count)?;
    scratch.run(backfill.complete(&mut Command::new(program)))?;
    let Backfill { events, lake, .. } = &backfill;
    let script = root().join("xtask/compare/compare.py");
    run(Command::new(&python).arg(script).arg(events).arg(STREAM).arg(lake))
}

/// The name of the file is that of the stream, and so part of the keys.
const STREAM: &str = "events.jsonl";

/// The deployment of the comparison and a file of events for it.
pub(crate) struct Backfill {
    directory: PathBuf,
    events: PathBuf,
    lake: PathBuf,
}

impl Backfill {
    /// Makes so many events.
    pub(crate) fn prepare(python: &Path, scratch: &Scratch, count: &str) -> Outcome<Self> {
        let directory = scratch.path().to_owned();
        let (events, lake) = (directory.join(STREAM), directory.join("lake"));
        let folder = root().join("xtask/compare");
        eprintln!("xtask: preparing {count} events");
        run(Command::new(python).arg(folder.join("events.py")).arg(count).arg(&events))?;
        fs::copy(folder.join("deployment.toml"), directory.join("deployment.toml"))?;
        Ok(Self { directory, events, lake })
    }

    /// Adds to a command that ends with waterwheel what it is to run, and where.
    pub(crate) fn complete<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command.args(["run", "deployment.toml"]).current_dir(&self.directory);
        command.env("FILE", STREAM).env("LAKE", &self.lake)
    }
}
