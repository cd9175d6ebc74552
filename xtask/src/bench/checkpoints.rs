//! `cargo xtask bench checkpoints`: what checkpoints cost while a pipeline runs, and how long a
//! restart takes to have its state again. About a million groups are open all the time, and events
//! come as fast as a file is read, so that every checkpoint has nearly all of them to save.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::usage::{Usage, measure};
use super::{events_file, median, middle};
use crate::Outcome;
use crate::process::{build, root};
use crate::scratch::Scratch;
use crate::text::{decimal, table, whole};

const DEFAULT_EVENTS: u64 = 24_000_000;
const ROUNDS: usize = 3;
const RESTARTS: usize = 3;

/// Runs the bench; the only argument is the number of events.
pub(crate) fn run(arguments: &[&str]) -> Outcome<()> {
    let count = super::count(arguments, DEFAULT_EVENTS)?;
    let programs = build(&["waterwheel", "publish"])?;
    let scratch = Scratch::new()?;
    let events = events_file(&programs, &scratch, count, &["--users", "2000000", "--hours", "30"])?;
    let mut bench = Bench { program: programs.join("waterwheel"), events: &events, scratch };
    let mut runs: [Vec<Usage>; 2] = [Vec::new(), Vec::new()];
    let mut results = Vec::new();
    for round in 1..=ROUNDS {
        for (index, name) in ["without", "with"].into_iter().enumerate() {
            eprintln!("xtask: round {round} of {ROUNDS}: {name} checkpoints");
            let (usage, result) = bench.run(name)?;
            runs[index].push(usage);
            results.push(result);
        }
    }
    if results.windows(2).any(|pair| pair[0] != pair[1]) {
        return Err("the results with and without checkpoints differ".into());
    }
    let groups = results.first().map_or(0, |(rows, _)| *rows);
    println!(
        "{} events from a file, {} groups at the end, a checkpoint every 10 s, medians of {ROUNDS} runs\n",
        whole(count),
        whole(groups)
    );
    report(&runs);
    let restored = bench.restarts()?;
    println!(
        "\na restart has its state again after {} s (median of {RESTARTS}: start, claim, read, restore)",
        decimal(median(&restored), 2)
    );
    Ok(())
}

struct Bench<'a> {
    program: std::path::PathBuf,
    events: &'a Path,
    scratch: Scratch,
}

impl Bench<'_> {
    /// Runs from a clean start to the end; the number of rows and a sum that does not depend on
    /// their order.
    fn run(&mut self, name: &str) -> Outcome<(Usage, (u64, u64))> {
        let directory = self.directory(name)?;
        let out = directory.join("out.jsonl");
        let mut command = self.command(&directory, "final");
        command.stdout(File::create(&out)?).stderr(File::create(directory.join("log"))?);
        let usage = measure(&mut command, &mut self.scratch)?;
        let (mut rows, mut sum) = (0, 0_u64);
        for line in BufReader::new(File::open(&out)?).lines() {
            let mut hasher = DefaultHasher::new();
            line?.hash(&mut hasher);
            sum = sum.wrapping_add(hasher.finish());
            rows += 1;
        }
        Ok((usage, (rows, sum)))
    }

    /// The deployment in a directory of its own, which is empty.
    fn directory(&self, name: &str) -> Outcome<std::path::PathBuf> {
        let directory = self.scratch.path().join(name);
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        fs::create_dir(&directory)?;
        let text = fs::read_to_string(root().join("benches/checkpoints.toml"))?;
        let without = |line: &&str| name != "without" || !line.starts_with("checkpoint");
        let text: Vec<&str> = text.lines().filter(without).collect();
        fs::write(directory.join("checkpoints.toml"), text.join("\n"))?;
        Ok(directory)
    }

    fn command(&self, directory: &Path, until: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("run").arg(directory.join("checkpoints.toml")).current_dir(directory);
        command.env("FILE", self.events).env("UNTIL", until).stdin(Stdio::null());
        command
    }

    /// Starts again and again from a checkpoint of everything; the seconds until the state is there.
    fn restarts(&mut self) -> Outcome<Vec<f64>> {
        eprintln!("xtask: restarts");
        let directory = self.directory("with")?;
        let mut first = self.command(&directory, "end");
        first.stdout(Stdio::null()).stderr(File::create(directory.join("log"))?);
        measure(&mut first, &mut self.scratch)?;
        let mut seconds = Vec::new();
        for _ in 0..RESTARTS {
            let mut command = self.command(&directory, "end");
            let began = Instant::now();
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
            self.scratch.watch(child.id())?;
            let log = child.stderr.take().ok_or("the log is not there")?;
            let mut restored = None;
            for line in BufReader::new(log).lines() {
                if line?.contains("the state is restored") {
                    restored.get_or_insert_with(|| began.elapsed().as_secs_f64());
                }
            }
            child.wait()?;
            self.scratch.forget(child.id())?;
            seconds.push(restored.ok_or("a restart did not go on from a checkpoint")?);
        }
        seconds.sort_by(f64::total_cmp);
        Ok(seconds)
    }
}

fn report(runs: &[Vec<Usage>; 2]) {
    let values: [fn(&Usage) -> f64; 3] = [
        |usage| usage.seconds,
        |usage| usage.cpu_seconds,
        |usage| usage.peak_bytes as f64 / (1 << 20) as f64,
    ];
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (name, usages) in ["without", "with checkpoints"].into_iter().zip(runs) {
        let cells = values.iter().map(|value| decimal(middle(usages, value), 2));
        rows.push(std::iter::once(name.to_owned()).chain(cells).collect());
    }
    let more = values.iter().map(|value| {
        let (without, with) = (middle(&runs[0], value), middle(&runs[1], value));
        format!("{} %", decimal((with / without - 1.0) * 100.0, 1))
    });
    rows.push(std::iter::once("more".to_owned()).chain(more).collect());
    println!("{}", table(&["", "seconds", "CPU s", "peak MiB"], &rows));
}
