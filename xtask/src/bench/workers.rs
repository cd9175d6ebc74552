//! `cargo xtask bench workers`: the backfill of an aggregate with two workers beside one.

use std::path::Path;

use super::pipeline::{Pipeline, from_file, text_of};
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

/// How many times as fast two workers are.
const TARGET: Target = Target::at_least(1.6, 1.85);

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
    let text = from_file(&text_of("aggregate.toml")?)?;
    let mut usages: [Vec<Usage>; 2] = [Vec::new(), Vec::new()];
    let mut lakes = Vec::new();
    for round in 1..=ROUNDS {
        for (workers, usages) in WORKERS.into_iter().zip(&mut usages) {
            eprintln!("xtask: round {round} of {ROUNDS}: {workers} workers");
            let text = text.replace("[engine]\n", &format!("[engine]\nworkers = {workers}\n"));
            let directory = scratch.path().join(format!("workers-{workers}-{round}"));
            let mut pipeline = Pipeline::new(&program, directory, &text)?.with("FILE", &events);
            usages.push(pipeline.run(&mut scratch, &mut |_| {})?);
            lakes.push(pipeline.lake());
        }
    }
    eprintln!("xtask: comparing the results with DuckDB's");
    let mut compared: Vec<&Path> = vec![&events, &events];
    compared.extend(lakes.iter().map(std::path::PathBuf::as_path));
    print!("{}", script(&python, "compare.py", &compared)?);
    println!("{}", machine::describe(&[&program]));
    println!(
        "{} events from a file, one aggregate, medians of {ROUNDS} runs (least to most)\n",
        whole(count)
    );
    report(count, &usages);
    Ok(())
}

fn report(count: u64, usages: &[Vec<Usage>; 2]) {
    let row = |(workers, usages): (usize, &Vec<Usage>)| {
        let seconds = ascending(usages.iter().map(|usage| usage.seconds));
        vec![
            workers.to_string(),
            whole((count as f64 / median(&seconds)) as u64),
            spread(&seconds, 2),
            decimal(middle(usages, |usage| usage.cpu_seconds), 2),
            decimal(middle(usages, |usage| usage.peak_bytes as f64) / (1 << 20) as f64, 0),
        ]
    };
    let rows: Vec<Vec<String>> = WORKERS.into_iter().zip(usages).map(row).collect();
    println!("{}", table(&["workers", "events/s", "seconds", "CPU s", "peak MiB"], &rows));
    let [one, two] = usages.each_ref().map(|usages| middle(usages, |usage| usage.seconds));
    println!("times as fast {}", TARGET.verdict(one / two, 2));
}
