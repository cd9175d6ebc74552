//! `cargo xtask bench archive`: how many raw events a second of processor time writes into Parquet,
//! from a file.

use std::path::{Path, PathBuf};

use super::pipeline::Pipeline;
use super::target::Target;
use super::usage::Usage;
use super::{ascending, events_file, machine, middle, script, spread};
use crate::Outcome;
use crate::process::build;
use crate::scratch::Scratch;
use crate::text::{decimal, whole};
use crate::tools;

const DEFAULT_EVENTS: u64 = 5_000_000;
const ROUNDS: usize = 5;

/// Events per second of processor time.
const TARGET: Target = Target::at_least(400_000.0, 600_000.0);

const DEPLOYMENT: &str = "name = \"bench_archive\"\n\n\
    [sources.events]\ntype = \"file\"\npath = \"${FILE}\"\nlateness = \"30s\"\n\n\
    [sinks.lake]\ntype = \"parquet\"\nfrom = [\"events\"]\npath = \"${LAKE}\"\n";

/// Runs the bench; the only argument is the number of events.
pub(crate) fn run(arguments: &[&str]) -> Outcome<()> {
    let count = super::count(arguments, DEFAULT_EVENTS)?;
    let python = tools::python()?;
    let programs = build(&["waterwheel", "publish"])?;
    let program = programs.join("waterwheel");
    let mut scratch = Scratch::new()?;
    let events = events_file(&programs, &scratch, count, &[])?;
    let mut usages = Vec::new();
    let mut lake = PathBuf::new();
    for round in 1..=ROUNDS {
        eprintln!("xtask: round {round} of {ROUNDS}");
        let directory = scratch.path().join(format!("archive-{round}"));
        let mut pipeline = Pipeline::new(&program, directory, DEPLOYMENT)?.with("FILE", &events);
        usages.push(pipeline.run(&mut scratch, &mut |_| {})?);
        lake = pipeline.lake();
        check(&python, &lake.join("events"), count)?;
        if round < ROUNDS {
            std::fs::remove_dir_all(&lake)?;
        }
    }
    let bytes = bytes_below(&lake.join("events"))?;
    println!("{}", machine::describe(&[&program]));
    report(count, &usages, bytes);
    Ok(())
}

/// Every event is one row, by DuckDB's count.
fn check(python: &Path, table: &Path, count: u64) -> Outcome<()> {
    let said = script(python, "count_rows.py", &[table, Path::new("sequence")])?;
    if said.trim() == format!("{count} {count}") {
        return Ok(());
    }
    Err(format!("{} rows and different sequences, expected {count} of both", said.trim()).into())
}

fn bytes_below(directory: &Path) -> Outcome<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let is_directory = entry.file_type()?.is_dir();
        bytes += if is_directory { bytes_below(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}

fn report(count: u64, usages: &[Usage], bytes: u64) {
    let cpu = ascending(usages.iter().map(|usage| usage.cpu_seconds));
    let seconds = middle(usages, |usage| usage.seconds);
    let middle_cpu = super::median(&cpu);
    println!(
        "{} raw events from a file into Parquet, every event found by DuckDB, medians of {ROUNDS} runs\n",
        whole(count)
    );
    println!(
        "  {} s, {} events/s, {} CPU s, {} bytes per event, peak {} MiB\n",
        decimal(seconds, 2),
        whole((count as f64 / seconds) as u64),
        spread(&cpu, 2),
        decimal(bytes as f64 / count as f64, 1),
        decimal(middle(usages, |usage| usage.peak_bytes as f64) / (1 << 20) as f64, 0),
    );
    println!("events per CPU second {}", TARGET.verdict(count as f64 / middle_cpu, 0));
}
