//! `cargo xtask bench`: how fast events become results, beside a consumer that does nothing with
//! them, and no time without the proof that the results are right.

pub(crate) mod checkpoints;
pub(crate) mod operators;
pub(crate) mod peers;
mod usage;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use self::usage::{Usage, measure, process_seconds};
use crate::Outcome;
use crate::process::{build, output, root};
use crate::scratch::Scratch;
use crate::servers::NatsServer;
use crate::text::{decimal, table, whole};
use crate::tools;

const DEFAULT_EVENTS: u64 = 5_000_000;
const ROUNDS: usize = 5;
const STREAM: &str = "EVENTS";

/// Where the events come from.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum From {
    /// A stream of a real server.
    Stream,
    /// A file of JSON Lines, without a server.
    File,
}

/// What is measured.
#[derive(Clone, Copy, PartialEq)]
enum Subject {
    Drain,
    Aggregate,
    All,
}

impl Subject {
    fn name(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Aggregate => "aggregate",
            Self::All => "aggregate, join, funnel",
        }
    }

    /// The deployment under benches/; a drain has none.
    fn deployment(self) -> Option<&'static str> {
        match self {
            Self::Drain => None,
            Self::Aggregate => Some("aggregate.toml"),
            Self::All => Some("all.toml"),
        }
    }
}

/// One run.
struct Measured {
    subject: Subject,
    usage: Usage,
    /// What the server used meanwhile.
    server_seconds: Option<f64>,
    /// Its results; a drain has none.
    lake: Option<PathBuf>,
}

/// Runs the bench; the only argument is the number of events.
pub(crate) fn run(from: From, arguments: &[&str]) -> Outcome<()> {
    let count = count(arguments, DEFAULT_EVENTS)?;
    let python = tools::python()?;
    let nats_server = tools::nats_server()?;
    let programs = build(&["waterwheel", "publish", "drain"])?;
    let mut scratch = Scratch::new()?;
    let events = scratch.path().join("events.jsonl");
    eprintln!("xtask: preparing {} events", whole(count));
    publish(&programs, count, &["--file", &events.to_string_lossy()])?;
    let server = match from {
        From::File => None,
        From::Stream => {
            let server = NatsServer::start(&nats_server, &mut scratch)?;
            publish(&programs, count, &["--url", server.url(), "--stream", STREAM, "--create"])?;
            Some(server)
        }
    };
    let mut bench = Bench { count, programs, server, events, scratch };
    let runs = bench.rounds()?;
    bench.verify(&python, &runs)?;
    bench.report(&runs);
    Ok(())
}

/// The number of events, if one is written.
fn count(arguments: &[&str], default: u64) -> Outcome<u64> {
    let Some(text) = arguments.first() else {
        return Ok(default);
    };
    let count = text.replace(['_', ','], "").parse().ok().filter(|count| *count > 0);
    count.ok_or_else(|| format!("`{text}` is not a number of events").into())
}

/// Everything that the runs share; dropped from top to bottom, so that the server ends before its
/// directory.
struct Bench {
    count: u64,
    programs: PathBuf,
    server: Option<NatsServer>,
    events: PathBuf,
    scratch: Scratch,
}

impl Bench {
    /// All subjects in turn, so that whatever disturbs the machine disturbs them alike.
    fn rounds(&mut self) -> Outcome<Vec<Measured>> {
        let mut runs = Vec::new();
        for round in 1..=ROUNDS {
            for subject in [Subject::Drain, Subject::Aggregate, Subject::All] {
                if subject == Subject::Drain && self.server.is_none() {
                    continue;
                }
                eprintln!("xtask: round {round} of {ROUNDS}: {}", subject.name());
                runs.push(self.run_once(subject, round)?);
            }
        }
        Ok(runs)
    }

    fn run_once(&mut self, subject: Subject, round: usize) -> Outcome<Measured> {
        let before = self.server_seconds()?;
        let (usage, lake) = match subject.deployment() {
            None => (self.drain()?, None),
            Some(file) => {
                let directory = self.scratch.path().join(format!("{file}-{round}"));
                let (usage, lake) = self.pipeline(file, &directory)?;
                (usage, Some(lake))
            }
        };
        let after = self.server_seconds()?;
        let server_seconds = after.zip(before).map(|(after, before)| after - before);
        Ok(Measured { subject, usage, server_seconds, lake })
    }

    fn drain(&mut self) -> Outcome<Usage> {
        let url = self.server.as_ref().map(NatsServer::url).unwrap_or_default();
        let mut command = Command::new(self.programs.join("drain"));
        command.args(["--url", url, "--stream", STREAM]);
        let file = self.scratch.path().join("drain.json");
        command.stdout(File::create(&file)?).stderr(Stdio::inherit());
        let mut usage = measure(&mut command, &mut self.scratch)?;
        let said: Value = serde_json::from_str(&fs::read_to_string(&file)?)?;
        if said["events"].as_u64() != Some(self.count) {
            return Err(format!("drain read {} events, not {}", said["events"], self.count).into());
        }
        // Its own times leave out connecting, which favours it: it is the baseline.
        usage.seconds = said["seconds"].as_f64().ok_or("drain tells no seconds")?;
        usage.cpu_seconds = said["cpu_seconds"].as_f64().ok_or("drain tells no cpu_seconds")?;
        Ok(usage)
    }

    fn pipeline(&mut self, file: &str, directory: &Path) -> Outcome<(Usage, PathBuf)> {
        fs::create_dir(directory)?;
        let text = fs::read_to_string(root().join("benches").join(file))?;
        let text = if self.server.is_some() { text } else { from_file(&text)? };
        let deployment = directory.join(file);
        fs::write(&deployment, text)?;
        let lake = directory.join("lake");
        let log = directory.join("waterwheel.log");
        let mut command = Command::new(self.programs.join("waterwheel"));
        command
            .arg("run")
            .arg(&deployment)
            .current_dir(directory)
            .env("NATS", self.server.as_ref().map(NatsServer::url).unwrap_or_default())
            .env("STREAM", STREAM)
            .env("FILE", &self.events)
            .env("LAKE", &lake)
            .stdout(Stdio::null())
            .stderr(File::create(&log)?);
        let usage = measure(&mut command, &mut self.scratch).map_err(|problem| {
            format!("{problem}\n{}", fs::read_to_string(&log).unwrap_or_default())
        })?;
        Ok((usage, lake))
    }

    fn server_seconds(&self) -> Outcome<Option<f64>> {
        self.server.as_ref().map(NatsServer::pid).map(process_seconds).transpose()
    }

    /// Every lake of every run against DuckDB.
    fn verify(&self, python: &Path, runs: &[Measured]) -> Outcome<()> {
        eprintln!("xtask: comparing the results with DuckDB's");
        // The name of a file's log is its path.
        let log = if self.server.is_some() { STREAM.into() } else { self.events.to_string_lossy() };
        let said = output(
            Command::new(python)
                .arg(root().join("xtask/scripts/compare.py"))
                .arg(&self.events)
                .arg(&*log)
                .args(runs.iter().filter_map(|run| run.lake.as_deref())),
        )?;
        print!("{said}");
        Ok(())
    }

    fn report(&self, runs: &[Measured]) {
        let source = if self.server.is_some() { "JetStream" } else { "a file" };
        println!(
            "{} events from {source}, medians of {ROUNDS} runs (least to most)\n",
            whole(self.count)
        );
        let drain = median(&values(runs, Subject::Drain, |run| run.usage.seconds));
        let mut rows = Vec::new();
        for subject in [Subject::Drain, Subject::Aggregate, Subject::All] {
            if runs.iter().any(|run| run.subject == subject) {
                rows.push(self.cells(runs, subject, drain));
            }
        }
        let headings = [
            "",
            "events/s",
            "seconds",
            "client CPU s",
            "server CPU s",
            "events/CPU s",
            "peak MiB",
            "to drain",
        ];
        println!("{}", table(&headings, &rows));
    }

    fn cells(&self, runs: &[Measured], subject: Subject, drain: f64) -> Vec<String> {
        let seconds = values(runs, subject, |run| run.usage.seconds);
        let client = median(&values(runs, subject, |run| run.usage.cpu_seconds));
        let server = median(&values(runs, subject, |run| run.server_seconds.unwrap_or(f64::NAN)));
        let peak = median(&values(runs, subject, |run| run.usage.peak_bytes as f64));
        let rate = |seconds: f64| whole((self.count as f64 / seconds) as u64);
        let or_dash = |number: f64, decimals| {
            if number.is_nan() { "-".to_owned() } else { decimal(number, decimals) }
        };
        let middle = median(&seconds);
        vec![
            subject.name().to_owned(),
            rate(middle),
            median_and_spread(&seconds),
            decimal(client, 2),
            or_dash(server, 2),
            rate(client),
            decimal(peak / (1 << 20) as f64, 0),
            or_dash(drain / middle, 2),
        ]
    }
}

/// The same pipeline with a file as its source.
fn from_file(deployment: &str) -> Outcome<String> {
    const SOURCE: &str = "name = \"backfill\"\n\n[sources.events]\ntype = \"file\"\npath = \"${FILE}\"\nlateness = \"30s\"\n\n";
    let at = deployment.find("[operators.").ok_or("the deployment has no operator")?;
    Ok(format!("{SOURCE}{}", &deployment[at..]))
}

fn publish(programs: &Path, count: u64, arguments: &[&str]) -> Outcome<()> {
    output(
        Command::new(programs.join("publish"))
            .args(["--count", &count.to_string()])
            .args(arguments)
            .stdin(Stdio::null()),
    )?;
    Ok(())
}

/// In ascending order.
fn values(runs: &[Measured], subject: Subject, value: impl Fn(&Measured) -> f64) -> Vec<f64> {
    let mut values: Vec<f64> =
        runs.iter().filter(|run| run.subject == subject).map(value).collect();
    values.sort_by(f64::total_cmp);
    values
}

fn median(sorted: &[f64]) -> f64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The median with the least and the most.
fn median_and_spread(sorted: &[f64]) -> String {
    let at = |value: Option<&f64>| decimal(value.copied().unwrap_or(f64::NAN), 2);
    format!("{} ({} to {})", decimal(median(sorted), 2), at(sorted.first()), at(sorted.last()))
}

/// The median of one value over all runs.
fn middle(usages: &[Usage], value: impl Fn(&Usage) -> f64) -> f64 {
    median(&sorted(usages, value))
}

/// The same with the least and the most.
fn spread(usages: &[Usage], value: impl Fn(&Usage) -> f64) -> String {
    median_and_spread(&sorted(usages, value))
}

fn sorted(usages: &[Usage], value: impl Fn(&Usage) -> f64) -> Vec<f64> {
    let mut values: Vec<f64> = usages.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deployments_can_read_a_file() {
        for file in ["aggregate.toml", "all.toml"] {
            let text = fs::read_to_string(root().join("benches").join(file)).unwrap();
            let text = from_file(&text).unwrap();
            assert!(text.contains("${FILE}") && !text.contains("${NATS}"), "{text}");
        }
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[1.0, 2.0, 9.0]), 2.0);
        assert!(median(&[]).is_nan());
    }
}
