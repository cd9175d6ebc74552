//! `cargo xtask bench latency`: how long it takes from the moment an event is published until the row
//! that counts it can be read in Postgres, or a consumer of the results has it.
//!
//! The load is steady, and its own aggregate goes into the same sink. Times come from the program
//! `latency`: see there for what counts as the moment of publishing.

mod report;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use super::machine;
use super::pipeline::{Pipeline, text_of};
use super::target::Target;
use super::usage::{children_seconds, family_seconds, process_seconds};
use crate::Outcome;
use crate::process::{build, output};
use crate::scratch::Scratch;
use crate::servers::postgres::Postgres;
use crate::servers::{NatsServer, start_postgres};
use crate::tools;

const DEFAULT_SECONDS: u64 = 30;
const WARM_UP_SECONDS: u64 = 5;
const EVENTS_PER_SECOND: u64 = 50_000;
const PROBES_PER_SECOND: u64 = 200;
const ROUNDS: usize = 3;

const FROM: &str = "from = [\"activity\", \"probes\"]\nemit = \"changes\"\n";

/// One way of a result to whom it concerns.
struct Case {
    name: &'static str,
    flush: &'static str,
    is_postgres: bool,
    /// Which quantile, by its name in what `latency` says, and what it must be, in milliseconds.
    targets: &'static [(&'static str, Target)],
}

const CASES: [Case; 3] = [
    Case {
        name: "Postgres, flush 100 ms",
        flush: "100ms",
        is_postgres: true,
        targets: &[("p50_ms", Target::at_most(80.0)), ("p99_ms", Target::at_most(200.0))],
    },
    Case {
        name: "Postgres, flush 5 ms",
        flush: "5ms",
        is_postgres: true,
        targets: &[("p50_ms", Target::at_most(25.0)), ("p99_ms", Target::at_most(80.0))],
    },
    Case {
        name: "NATS, flush 5 ms",
        flush: "5ms",
        is_postgres: false,
        targets: &[("p99_ms", Target::at_most(40.0))],
    },
];

/// How many cores were busy on average: of the publisher and observer, waterwheel, NATS, Postgres.
type Cores = [f64; 4];

/// One run.
struct Measured {
    /// What the program `latency` says.
    said: Value,
    cores: Cores,
}

struct Bench {
    programs: PathBuf,
    seconds: u64,
    // The servers end before their directory.
    nats: NatsServer,
    postgres: Postgres,
    scratch: Scratch,
}

/// Runs the bench; the only argument is how many seconds are measured.
pub(crate) fn run(arguments: &[&str]) -> Outcome<()> {
    let seconds = match arguments.first() {
        None => DEFAULT_SECONDS,
        Some(text) => {
            let seconds = text.parse().ok().filter(|seconds| *seconds > 0);
            seconds.ok_or_else(|| format!("`{text}` is not a number of seconds"))?
        }
    };
    let nats_server = tools::nats_server()?;
    let programs = build(&["waterwheel", "latency"])?;
    let set_up = machine::describe(&[
        &programs.join("waterwheel"),
        &nats_server,
        &machine::postgres_program(),
    ]);
    let mut scratch = Scratch::new()?;
    let nats = NatsServer::start(&nats_server, &mut scratch)?;
    let postgres = start_postgres(&mut scratch)?;
    let mut bench = Bench { programs, seconds, nats, postgres, scratch };
    let mut runs: [Vec<Measured>; 3] = [Vec::new(), Vec::new(), Vec::new()];
    for round in 1..=ROUNDS {
        for (case, runs) in CASES.iter().zip(&mut runs) {
            eprintln!("xtask: round {round} of {ROUNDS}: {}", case.name);
            runs.push(bench.measure(case, round)?);
        }
    }
    println!("{set_up}");
    report::print(seconds, &runs);
    Ok(())
}

impl Bench {
    /// Runs a pipeline under load, and checks that it counted everything.
    fn measure(&mut self, case: &Case, round: usize) -> Outcome<Measured> {
        let latency = self.programs.join("latency");
        output(Command::new(&latency).args(["--url", self.nats.url(), "--prepare"]))?;
        let database = format!("latency_{}_{round}", case.flush);
        let postgres = case.is_postgres.then(|| self.postgres.url_of(&database));
        if case.is_postgres {
            self.postgres.query(&format!("create database {database}"))?;
        }
        let name = case.name.replace([' ', ','], "-");
        let directory = self.scratch.path().join(format!("{name}-{round}"));
        let program = self.programs.join("waterwheel");
        let mut pipeline = Pipeline::new(&program, directory, &deployment(case)?)?
            .with("NATS", self.nats.url())
            .with("FLUSH", case.flush)
            .with("POSTGRES", postgres.as_deref().unwrap_or_default());
        let mut running = Running(pipeline.command().spawn()?);
        self.scratch.watch(running.0.id())?;
        let (before, began) = (self.used_seconds(running.0.id())?, Instant::now());
        let said = self.observe(&latency, postgres.as_deref());
        let (after, seconds) = (self.used_seconds(running.0.id())?, began.elapsed().as_secs_f64());
        let ended = running.drain();
        self.scratch.forget(running.0.id())?;
        let said = said.map_err(|problem| pipeline.told(&problem))?;
        ended.map_err(|problem| pipeline.told(&problem))?;
        let said: Value = serde_json::from_str(&said)?;
        self.check(case, &database, &said).map_err(|problem| pipeline.told(&problem))?;
        Ok(Measured { said, cores: std::array::from_fn(|at| (after[at] - before[at]) / seconds) })
    }

    /// In the order of [`Cores`]; while it is measured, `latency` is the only child that ends.
    fn used_seconds(&self, waterwheel: u32) -> Outcome<[f64; 4]> {
        Ok([
            children_seconds()?,
            process_seconds(waterwheel)?,
            process_seconds(self.nats.pid())?,
            family_seconds(self.postgres.pid().ok_or("Postgres has ended")?)?,
        ])
    }

    fn observe(&self, latency: &Path, postgres: Option<&str>) -> Outcome<String> {
        let mut command = Command::new(latency);
        command.args(["--url", self.nats.url()]).stdin(Stdio::null());
        let options = [
            ("--rate", EVENTS_PER_SECOND),
            ("--probes", PROBES_PER_SECOND),
            ("--warm-up", WARM_UP_SECONDS),
            ("--seconds", self.seconds),
        ];
        for (name, value) in options {
            command.args([name, &value.to_string()]);
        }
        if let Some(postgres) = postgres {
            command.args(["--postgres", postgres]);
        }
        output(&mut command)
    }

    /// No probe is missing, none came twice, and in Postgres every event of the load is counted too.
    fn check(&self, case: &Case, database: &str, said: &Value) -> Outcome<()> {
        if said["missing"] != 0 || said["repeated"] != 0 {
            let (missing, repeated) = (&said["missing"], &said["repeated"]);
            return Err(format!("{missing} probes are missing, {repeated} came twice").into());
        }
        if !case.is_postgres {
            return Ok(());
        }
        let counted = self.postgres.query_in(database, "select sum(events) from activity")?;
        self.postgres.query(&format!("drop database {database} with (force)"))?;
        let (counted, published) = (counted.trim(), &said["events"]);
        if counted.parse().ok() != published.as_u64() {
            return Err(format!("{counted} events are counted, {published} were published").into());
        }
        Ok(())
    }
}

/// The pipeline while it runs; it does not outlive a failure.
struct Running(Child);

impl Running {
    /// Asks it to end, and waits until it has.
    fn drain(&mut self) -> Outcome<()> {
        output(Command::new("kill").args(["-TERM", &self.0.id().to_string()]))?;
        let status = self.0.wait()?;
        if status.success() { Ok(()) } else { Err(format!("waterwheel failed ({status})").into()) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn deployment(case: &Case) -> Outcome<String> {
    let sink = if case.is_postgres {
        "type = \"postgres\"\nurl = \"${POSTGRES}\"\n"
    } else {
        "type = \"nats\"\nurl = \"${NATS}\"\nsubject = \"results.{operator}\"\n"
    };
    Ok(format!("{}\n[sinks.out]\n{sink}{FROM}", text_of("latency.toml")?))
}
