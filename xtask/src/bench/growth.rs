//! `cargo xtask bench growth`: how much slower an aggregate is with a million and with ten million
//! open groups than with ten thousand.
//!
//! The cases read the same file. The key is arithmetic on an event's place in it, which visits all
//! keys in a scattered order before any comes again; every window is open until the end.

use std::path::{Path, PathBuf};

use super::pipeline::Pipeline;
use super::target::Target;
use super::usage::Usage;
use super::{ascending, events_file, machine, median, middle, script, spread};
use crate::Outcome;
use crate::process::build;
use crate::scratch::Scratch;
use crate::text::{decimal, table, whole};
use crate::tools;

const DEFAULT_EVENTS: u64 = 12_000_000;
const ROUNDS: usize = 3;

/// A prime that divides none of the numbers of groups: place × it, modulo them, visits every key.
const STRIDE: u64 = 7_368_787;

/// How many groups, and how many times slower than with the first number it may be.
const CASES: [(u64, Option<Target>); 3] = [
    (10_000, None),
    (1_000_000, Some(Target::at_most(2.0))),
    (10_000_000, Some(Target::at_most(4.0))),
];

struct Bench {
    program: PathBuf,
    python: PathBuf,
    events: PathBuf,
    scratch: Scratch,
}

/// Runs the bench; the only argument is the number of events.
pub(crate) fn run(arguments: &[&str]) -> Outcome<()> {
    let count = super::count(arguments, DEFAULT_EVENTS)?;
    let python = tools::python()?;
    let programs = build(&["waterwheel", "publish"])?;
    let scratch = Scratch::new()?;
    // All of one day, which lies in one week.
    let events = events_file(&programs, &scratch, count, &["--hours", "20"])?;
    let mut bench = Bench { program: programs.join("waterwheel"), python, events, scratch };
    let mut usages: [Vec<Usage>; 3] = [Vec::new(), Vec::new(), Vec::new()];
    for round in 1..=ROUNDS {
        for ((groups, _), usages) in CASES.into_iter().zip(&mut usages) {
            eprintln!("xtask: round {round} of {ROUNDS}: {} groups", whole(groups));
            let (usage, _) = bench.run(groups, "end", &format!("{groups}-{round}"))?;
            usages.push(usage);
        }
    }
    let found = CASES.map(|(groups, _)| bench.groups(groups, count));
    println!("{}", machine::describe(&[&bench.program]));
    println!(
        "{} events from a file, one aggregate by a text key, medians of {ROUNDS} runs (least to most)\n",
        whole(count)
    );
    let mut rows = Vec::new();
    for (found, usages) in found.into_iter().zip(&usages) {
        rows.push(cells(count, found?, usages));
    }
    let headings = ["open groups", "events/s", "seconds", "CPU s", "peak MiB", "times slower"];
    let few = middle(&usages[0], |usage| usage.seconds);
    for (row, usages) in rows.iter_mut().zip(&usages) {
        row.push(decimal(middle(usages, |usage| usage.seconds) / few, 2));
    }
    println!("{}", table(&headings, &rows));
    for ((groups, target), usages) in CASES.into_iter().zip(&usages) {
        if let Some(target) = target {
            let slower = middle(usages, |usage| usage.seconds) / few;
            println!("{} groups, times slower {}", whole(groups), target.verdict(slower, 2));
        }
    }
    if count < CASES[2].0 {
        println!("there are fewer events than groups wanted: take {} or more", whole(CASES[2].0));
    }
    Ok(())
}

impl Bench {
    /// Until `end` no window closes and no row is written; until `final` all are.
    fn run(&mut self, groups: u64, until: &str, name: &str) -> Outcome<(Usage, PathBuf)> {
        let directory = self.scratch.path().join(format!("growth-{name}"));
        let text = deployment(groups, until);
        let mut pipeline =
            Pipeline::new(&self.program, directory, &text)?.with("FILE", &self.events);
        let usage = pipeline.run(&mut self.scratch, &mut |_| {})?;
        Ok((usage, pipeline.lake()))
    }

    /// How many groups really were open, as DuckDB counts them in a run that is not timed.
    fn groups(&mut self, groups: u64, count: u64) -> Outcome<u64> {
        eprintln!("xtask: counting {} groups", whole(groups));
        let (_, lake) = self.run(groups, "final", &format!("{groups}-counted"))?;
        let table = lake.join("activity");
        let said = script(&self.python, "count_rows.py", &[&table, Path::new("key")])?;
        let wanted = groups.min(count);
        if said.trim() == format!("{wanted} {wanted}") {
            return Ok(wanted);
        }
        Err(format!("{} rows and keys, expected {wanted} of both", said.trim()).into())
    }
}

fn deployment(groups: u64, until: &str) -> String {
    format!(
        "name = \"bench_growth\"\n\n\
         [sources.events]\ntype = \"file\"\npath = \"${{FILE}}\"\nuntil = \"{until}\"\nlateness = \"30s\"\n\n\
         [operators.activity]\ntype = \"aggregate\"\nfrom = \"events\"\n\
         by = {{ key = \"cast(sequence * {STRIDE} % {groups} as text)\" }}\nwindows = [\"1w\"]\n\
         measures.events = \"count(*)\"\nmeasures.price_sum = \"sum(properties.price)\"\n\
         measures.price_max = \"max(properties.price)\"\n\n\
         [sinks.lake]\ntype = \"parquet\"\nfrom = [\"activity\"]\npath = \"${{LAKE}}\"\nemit = \"final\"\n"
    )
}

fn cells(count: u64, found: u64, usages: &[Usage]) -> Vec<String> {
    let seconds = ascending(usages.iter().map(|usage| usage.seconds));
    vec![
        whole(found),
        whole((count as f64 / median(&seconds)) as u64),
        spread(&seconds, 2),
        decimal(middle(usages, |usage| usage.cpu_seconds), 2),
        decimal(middle(usages, |usage| usage.peak_bytes as f64) / (1 << 20) as f64, 0),
    ]
}
