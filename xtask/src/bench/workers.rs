//! `cargo xtask bench workers`: backfills with two workers beside one.

use std::path::Path;

use super::pipeline::Pipeline;
use super::questions::Question;
use super::target::Target;
use super::usage::Usage;
use super::{ascending, events_file, machine, median, middle, script, spread};
use crate::Outcome;
use crate::process::build;
use crate::scratch::Scratch;
use crate::text::{decimal, table, whole};
use crate::tools;

const DEFAULT_EVENTS: u64 = 5_000_000;
const ROUNDS: usize = 5;
const WORKERS: [usize; 2] = [1, 2];

/// All checkpoints are kept, to be counted.
const ENGINE: &str = "checkpoint = { path = \"state\", every = \"1s\", keep = 1000 }";

/// How many times as fast two workers are.
const TARGET: Target = Target::at_least(1.6, 1.85);

/// One backfill with so many workers, over all rounds.
struct Entry {
    question: Question,
    workers: usize,
    usages: Vec<Usage>,
}

/// Runs the bench; the only argument is the number of events.
pub(crate) fn run(arguments: &[&str]) -> Outcome<()> {
    let count = super::count(arguments, DEFAULT_EVENTS)?;
    let cores = std::thread::available_parallelism()?.get();
    if cores < 2 {
        return Err("two workers want two cores, and this machine has one".into());
    }
    let python = tools::python()?;
    let programs = build(&["waterwheel", "publish"])?;
    let program = programs.join("waterwheel");
    let mut scratch = Scratch::new()?;
    let events = events_file(&programs, &scratch, count, &[])?;
    let entry = |question, workers| Entry { question, workers, usages: Vec::new() };
    let mut entries: Vec<Entry> = Question::ALL
        .into_iter()
        .flat_map(|it| WORKERS.map(|workers| entry(it, workers)))
        .collect();
    let mut lakes = Vec::new();
    for round in 1..=ROUNDS {
        for Entry { question, workers, usages } in &mut entries {
            let name = question.name();
            eprintln!("xtask: round {round} of {ROUNDS}: {name}, {workers} workers");
            let text = question.deployment(&format!("workers = {workers}\n{ENGINE}"))?;
            let directory = scratch.path().join(format!("{name}-{workers}-{round}"));
            let mut pipeline = Pipeline::new(&program, directory, &text)?.with("FILE", &events);
            usages.push(pipeline.run(&mut scratch, &mut |_| {})?);
            pipeline.need_checkpoint()?;
            lakes.push(pipeline.lake());
        }
    }
    eprintln!("xtask: comparing the results with DuckDB's");
    let mut compared: Vec<&Path> = vec![&events, &events];
    compared.extend(lakes.iter().map(std::path::PathBuf::as_path));
    print!("{}", script(&python, "compare.py", &compared)?);
    println!("{}", machine::describe(&[&program]));
    println!(
        "{} events from a file, one operator, medians of {ROUNDS} runs (least to most)\n",
        whole(count)
    );
    report(count, &entries);
    Ok(())
}

fn report(count: u64, entries: &[Entry]) {
    let row = |Entry { question, workers, usages }: &Entry| {
        let seconds = ascending(usages.iter().map(|usage| usage.seconds));
        let cpu_seconds = middle(usages, |usage| usage.cpu_seconds);
        vec![
            format!("{}, workers: {workers}", question.name()),
            whole((count as f64 / median(&seconds)) as u64),
            spread(&seconds, 2),
            decimal(cpu_seconds, 2),
            decimal(cpu_seconds / median(&seconds), 2),
            decimal(middle(usages, |usage| usage.peak_bytes as f64) / (1 << 20) as f64, 0),
        ]
    };
    let rows: Vec<Vec<String>> = entries.iter().map(row).collect();
    let columns = ["", "events/s", "seconds", "CPU s", "cores busy", "peak MiB"];
    println!("{}", table(&columns, &rows));
    for pair in entries.chunks_exact(WORKERS.len()) {
        let seconds = |entry: &Entry| middle(&entry.usages, |usage| usage.seconds);
        let times = seconds(&pair[0]) / seconds(&pair[1]);
        println!("{}, times as fast: {}", pair[0].question.name(), TARGET.verdict(times, 2));
    }
}
