//! `cargo xtask bench peers`: what a backfill costs beside other engines that answer the same question
//! from the same file. Every engine's rows are compared with waterwheel's before a time is printed.

mod engines;
mod report;

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use self::engines::Engine;
use super::events_file;
use super::questions::Question;
use super::usage::{Usage, measure};
use crate::Outcome;
use crate::process::{build, output, root};
use crate::scratch::Scratch;
use crate::tools;

const DEFAULT_EVENTS: u64 = 5_000_000;
const ROUNDS: usize = 3;

/// One worker, since CPU time is what counts, and no checkpoints: the others keep nothing of what they
/// compute either.
const ENGINE: &str = "workers = 1";

/// One engine on one question, in so many threads, over all rounds.
struct Entry {
    question: Question,
    /// None is waterwheel.
    engine: Option<usize>,
    threads: &'static str,
    /// On all events.
    runs: Vec<Usage>,
    /// On a single event: what starting, planning and ending cost.
    starts: Vec<Usage>,
}

/// Runs the bench; the only argument is the number of events.
pub(crate) fn run(arguments: &[&str]) -> Outcome<()> {
    let count = super::count(arguments, DEFAULT_EVENTS)?;
    let python = tools::python()?;
    let programs = build(&["waterwheel", "publish"])?;
    let (engines, missing) = engines::ready();
    let scratch = Scratch::new()?;
    let events = events_file(&programs, &scratch, count, &[])?;
    let mut first = String::new();
    BufReader::new(File::open(&events)?).read_line(&mut first)?;
    let single = scratch.path().join("single.jsonl");
    fs::write(&single, first)?;
    let mut bench =
        Bench { program: programs.join("waterwheel"), python, engines, events, single, scratch };
    let entries = bench.rounds()?;
    report::print(count, &bench.engines, &missing, &entries);
    Ok(())
}

struct Bench {
    program: PathBuf,
    /// With DuckDB, which compares.
    python: PathBuf,
    engines: Vec<Engine>,
    events: PathBuf,
    single: PathBuf,
    scratch: Scratch,
}

impl Bench {
    /// Every engine on every question in turn, so that whatever disturbs the machine disturbs them
    /// alike; waterwheel is the first of each question, since the others are compared with it.
    fn rounds(&mut self) -> Outcome<Vec<Entry>> {
        let mut entries = self.entries();
        for round in 1..=ROUNDS {
            for entry in &mut entries {
                let name = entry.engine.map_or("waterwheel", |index| self.engines[index].name);
                let (question, threads) = (entry.question.name(), entry.threads);
                eprintln!(
                    "xtask: round {round} of {ROUNDS}: {question}, {name}, threads: {threads}"
                );
                entry.starts.push(self.run_once(entry, &self.single.clone())?);
                entry.runs.push(self.run_once(entry, &self.events.clone())?);
                if entry.engine.is_some() {
                    self.verify(entry.question).map_err(|problem| format!("{name}: {problem}"))?;
                }
            }
        }
        Ok(entries)
    }

    fn entries(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        for question in Question::ALL {
            let mut add = |engine, threads| {
                let (runs, starts) = (Vec::new(), Vec::new());
                entries.push(Entry { question, engine, threads, runs, starts });
            };
            add(None, "1");
            for (index, engine) in self.engines.iter().enumerate() {
                if engine.limits(question).is_some() {
                    engine.threads.iter().for_each(|threads| add(Some(index), threads));
                }
            }
        }
        entries
    }

    fn run_once(&mut self, entry: &Entry, events: &Path) -> Outcome<Usage> {
        let place = match entry.engine {
            None => "waterwheel",
            Some(_) => "peer",
        };
        let directory = self.scratch.path().join(place);
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        fs::create_dir(&directory)?;
        let mut command = match entry.engine {
            None => self.waterwheel(entry.question, events, &directory)?,
            Some(index) => self.engines[index].command(entry.question, events, entry.threads),
        };
        let log = directory.join("log");
        // What an engine keeps for a while goes where all is removed in the end.
        command.current_dir(&directory).env("TMPDIR", &directory).stdout(Stdio::null());
        command.stderr(File::create(&log)?);
        measure(&mut command, &mut self.scratch).map_err(|problem| {
            format!("{problem}\n{}", end(&fs::read_to_string(&log).unwrap_or_default())).into()
        })
    }

    fn waterwheel(&self, question: Question, events: &Path, directory: &Path) -> Outcome<Command> {
        let deployment = directory.join("peers.toml");
        fs::write(&deployment, question.deployment(ENGINE)?)?;
        let mut command = Command::new(&self.program);
        command.arg("run").arg(deployment).env("FILE", events).env("LAKE", directory.join("lake"));
        Ok(command)
    }

    /// The rows of the last peer against those of waterwheel.
    fn verify(&self, question: Question) -> Outcome<()> {
        let lake = self.scratch.path().join("waterwheel/lake").join(question.operator());
        output(
            Command::new(&self.python)
                .arg(root().join("xtask/scripts/compare_peers.py"))
                .arg(question.name())
                .arg(lake)
                .arg(self.scratch.path().join("peer").join(engines::RESULT)),
        )
        .map(|said| eprint!("xtask: {said}"))
    }
}

/// The last lines of a log: engines say a lot.
fn end(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
