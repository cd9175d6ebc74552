//! `cargo xtask bench memory`: how much memory a pipeline with all operators has while it reads a day
//! of events from a stream, and whether it goes on growing.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::pipeline::{Pipeline, text_of};
use super::target::Target;
use super::usage::{Usage, resident_bytes};
use super::{STREAM, ascending, events_file, machine, median, publish, script};
use crate::Outcome;
use crate::process::build;
use crate::scratch::Scratch;
use crate::servers::NatsServer;
use crate::text::{bar, decimal, table, whole};
use crate::tools;

const DEFAULT_EVENTS: u64 = 10_000_000;
const ROUNDS: usize = 3;
const SAMPLE_EVERY: Duration = Duration::from_millis(50);

/// Into how many pieces the course in time is cut.
const PIECES: usize = 10;

/// The peak, in MB of a million bytes.
const TARGET: Target = Target::at_most(250.0);

/// The most of the second half over that of the first: what still grows shows there.
const GROWTH: Target = Target::at_most(1.05);

/// One run: what it cost, and its memory from sample to sample.
struct Measured {
    usage: Usage,
    resident_bytes: Vec<f64>,
    checkpoints: usize,
}

/// Runs the bench; the only argument is the number of events.
pub(crate) fn run(arguments: &[&str]) -> Outcome<()> {
    let count = super::count(arguments, DEFAULT_EVENTS)?;
    let python = tools::python()?;
    let nats_server = tools::nats_server()?;
    let programs = build(&["waterwheel", "publish"])?;
    let program = programs.join("waterwheel");
    let mut scratch = Scratch::new()?;
    let events = events_file(&programs, &scratch, count, &[])?;
    let server = NatsServer::start(&nats_server, &mut scratch)?;
    publish(&programs, count, &["--url", server.url(), "--stream", STREAM, "--create"])?;
    let mut runs = Vec::new();
    let mut compared = vec![events, PathBuf::from(STREAM)];
    for round in 1..=ROUNDS {
        eprintln!("xtask: round {round} of {ROUNDS}");
        let directory = scratch.path().join(format!("memory-{round}"));
        let mut pipeline = Pipeline::new(&program, directory, &text_of("all.toml")?)?
            .with("NATS", server.url())
            .with("STREAM", STREAM);
        runs.push(sampled(&mut pipeline, &mut scratch)?);
        compared.push(pipeline.lake());
    }
    eprintln!("xtask: comparing the results with DuckDB's");
    let compared: Vec<_> = compared.iter().map(PathBuf::as_path).collect();
    print!("{}", script(&python, "compare.py", &compared)?);
    println!("{}", machine::describe(&[&program, &nats_server]));
    println!(
        "{} events of 24 h from JetStream, aggregate, join and funnel, {ROUNDS} runs, memory every {} ms\n",
        whole(count),
        SAMPLE_EVERY.as_millis()
    );
    report(&runs);
    Ok(())
}

fn sampled(pipeline: &mut Pipeline, scratch: &mut Scratch) -> Outcome<Measured> {
    let mut samples = Vec::new();
    let mut last: Option<Instant> = None;
    let usage = pipeline.run(scratch, &mut |pid| {
        if last.is_none_or(|last| last.elapsed() >= SAMPLE_EVERY) {
            last = Some(Instant::now());
            samples.extend(resident_bytes(pid).map(|bytes| bytes as f64));
        }
    })?;
    Ok(Measured { usage, resident_bytes: samples, checkpoints: pipeline.checkpoints() })
}

fn report(runs: &[Measured]) {
    let megabytes = |bytes: f64| bytes / 1e6;
    let peak = |run: &Measured| megabytes(run.usage.peak_bytes as f64);
    let halves = |run: &Measured| {
        let (first, second) = run.resident_bytes.split_at(run.resident_bytes.len() / 2);
        (megabytes(most(first)), megabytes(most(second)))
    };
    let mut rows = Vec::new();
    for (index, run) in runs.iter().enumerate() {
        let (first, second) = halves(run);
        rows.push(vec![
            format!("run {}", index + 1),
            decimal(run.usage.seconds, 1),
            decimal(run.usage.cpu_seconds, 1),
            decimal(peak(run), 0),
            decimal(first, 0),
            decimal(second, 0),
            run.checkpoints.to_string(),
        ]);
    }
    let headings =
        ["", "seconds", "CPU s", "peak MB", "most, 1st half", "most, 2nd half", "checkpoints"];
    println!("{}", table(&headings, &rows));
    if let Some(run) = runs.last() {
        println!("the most in each tenth of the time of the last run, MB\n\n{}", course(run));
    }
    let peaks = ascending(runs.iter().map(peak));
    let growth = ascending(runs.iter().map(|run| halves(run).1 / halves(run).0));
    println!("peak MB, the most of all runs {}", TARGET.verdict(most(&peaks), 0));
    println!("second half over first, median {}", GROWTH.verdict(median(&growth), 2));
}

/// The most in each piece of a run's time, with a bar.
fn course(run: &Measured) -> String {
    let samples = &run.resident_bytes;
    let peak = most(samples);
    let piece = |index: usize| {
        let bytes =
            most(&samples[samples.len() * index / PIECES..samples.len() * (index + 1) / PIECES]);
        format!("  {:>5}  {}\n", decimal(bytes / 1e6, 0), bar(bytes / peak, 40))
    };
    (0..PIECES).map(piece).collect()
}

fn most(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}
