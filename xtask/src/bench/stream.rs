//! `cargo xtask bench [backfill]`: how fast events become results, beside a consumer that does nothing
//! with them, and no time without the proof that the results are right.

mod report;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::pipeline::{Pipeline, from_file, text_of};
use super::target::Target;
use super::usage::{Usage, family_seconds, measure, process_seconds};
use super::{STREAM, count, events_file, machine, publish, script};
use crate::Outcome;
use crate::process::build;
use crate::scratch::Scratch;
use crate::servers::postgres::Postgres;
use crate::servers::{NatsServer, start_postgres};
use crate::tools;

const DEFAULT_EVENTS: u64 = 5_000_000;
const ROUNDS: usize = 5;

/// What is added to all.toml for [`Subject::Postgres`]; both sinks then tell every change.
const POSTGRES_SINK: &str = "emit = \"changes\"\n\n[sinks.tables]\ntype = \"postgres\"\n\
    from = [\"activity\", \"fills\", \"onboarding\"]\nurl = \"${POSTGRES}\"\nemit = \"changes\"\n";

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
    Postgres,
}

const SUBJECTS: [Subject; 4] =
    [Subject::Drain, Subject::Aggregate, Subject::All, Subject::Postgres];

impl Subject {
    fn name(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Aggregate => "aggregate",
            Self::All => "aggregate, join, funnel",
            Self::Postgres => "all, Postgres and Parquet",
        }
    }

    /// How it is chosen on the command line.
    fn word(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Aggregate => "aggregate",
            Self::All => "all",
            Self::Postgres => "postgres",
        }
    }

    /// The deployment; a drain has none.
    fn deployment(self) -> Outcome<Option<String>> {
        Ok(match self {
            Self::Drain => None,
            Self::Aggregate => Some(text_of("aggregate.toml")?),
            Self::All => Some(text_of("all.toml")?),
            Self::Postgres => Some(text_of("all.toml")? + POSTGRES_SINK),
        })
    }

    /// Its events/s over those of the bare drain.
    fn target(self) -> Option<Target> {
        (self == Self::Postgres).then_some(Target::at_least(0.30, 0.60))
    }
}

/// One run.
struct Measured {
    subject: Subject,
    usage: Usage,
    /// What the servers used meanwhile.
    nats_seconds: f64,
    postgres_seconds: f64,
    checkpoints: usize,
    /// Its results; a drain has none.
    results: Vec<PathBuf>,
}

/// Runs the bench; the arguments are the number of events, and subjects if not all are wanted.
pub(crate) fn run(from: From, arguments: &[&str]) -> Outcome<()> {
    let (numbers, words): (Vec<&str>, Vec<&str>) =
        arguments.iter().partition(|word| word.starts_with(|letter: char| letter.is_ascii_digit()));
    let count = count(&numbers, DEFAULT_EVENTS)?;
    let subjects = subjects(from, &words)?;
    let python = tools::python()?;
    let nats_server = tools::nats_server()?;
    let programs = build(&["waterwheel", "publish", "drain"])?;
    let set_up = machine::describe(&[
        &programs.join("waterwheel"),
        &nats_server,
        &machine::postgres_program(),
    ]);
    let mut scratch = Scratch::new()?;
    let events = events_file(&programs, &scratch, count, &[])?;
    let server = match from {
        From::File => None,
        From::Stream => {
            let server = NatsServer::start(&nats_server, &mut scratch)?;
            publish(&programs, count, &["--url", server.url(), "--stream", STREAM, "--create"])?;
            Some(server)
        }
    };
    let wants_postgres = subjects.contains(&Subject::Postgres);
    let postgres = wants_postgres.then(|| start_postgres(&mut scratch)).transpose()?;
    let mut bench = Bench { count, subjects, programs, server, postgres, events, scratch };
    let runs = bench.rounds()?;
    bench.verify(&python, &runs)?;
    println!("{set_up}");
    bench.report(&runs);
    Ok(())
}

/// Those that were named, else all; a file has no drain, but everything else.
fn subjects(from: From, words: &[&str]) -> Outcome<Vec<Subject>> {
    let known = |word: &&str| SUBJECTS.iter().any(|subject| subject.word() == *word);
    if let Some(word) = words.iter().find(|word| !known(word)) {
        let words = SUBJECTS.map(Subject::word).join(", ");
        return Err(format!("`{word}` is neither a number of events nor one of {words}").into());
    }
    let wanted = |subject: &Subject| match subject {
        Subject::Drain => from == From::Stream,
        other => words.is_empty() || words.contains(&other.word()),
    };
    Ok(SUBJECTS.into_iter().filter(wanted).collect())
}

/// Everything that the runs share; dropped from top to bottom, so that the servers end before their
/// directory.
struct Bench {
    count: u64,
    subjects: Vec<Subject>,
    programs: PathBuf,
    server: Option<NatsServer>,
    postgres: Option<Postgres>,
    events: PathBuf,
    scratch: Scratch,
}

impl Bench {
    /// All subjects in turn, so that whatever disturbs the machine disturbs them alike.
    fn rounds(&mut self) -> Outcome<Vec<Measured>> {
        let mut runs = Vec::new();
        for round in 1..=ROUNDS {
            for subject in self.subjects.clone() {
                eprintln!("xtask: round {round} of {ROUNDS}: {}", subject.name());
                runs.push(match subject.deployment()? {
                    None => self.drain()?,
                    Some(text) => self.pipeline(subject, &text, round)?,
                });
            }
        }
        Ok(runs)
    }

    fn drain(&mut self) -> Outcome<Measured> {
        let url = self.server.as_ref().map(NatsServer::url).unwrap_or_default();
        let mut command = Command::new(self.programs.join("drain"));
        command.args(["--url", url, "--stream", STREAM]);
        let file = self.scratch.path().join("drain.json");
        command.stdout(File::create(&file)?).stderr(Stdio::inherit());
        let before = self.nats_seconds()?;
        let mut usage = measure(&mut command, &mut self.scratch)?;
        let said: Value = serde_json::from_str(&fs::read_to_string(&file)?)?;
        if said["events"].as_u64() != Some(self.count) {
            return Err(format!("drain read {} events, not {}", said["events"], self.count).into());
        }
        // Its own times leave out connecting, which favours it: it is the baseline.
        usage.seconds = said["seconds"].as_f64().ok_or("drain tells no seconds")?;
        usage.cpu_seconds = said["cpu_seconds"].as_f64().ok_or("drain tells no cpu_seconds")?;
        Ok(Measured {
            subject: Subject::Drain,
            usage,
            nats_seconds: self.nats_seconds()? - before,
            postgres_seconds: f64::NAN,
            checkpoints: 0,
            results: Vec::new(),
        })
    }

    fn pipeline(&mut self, subject: Subject, text: &str, round: usize) -> Outcome<Measured> {
        let text = if self.server.is_some() { text } else { &from_file(text)? };
        let name = format!("{}_{round}", subject.word());
        let directory = self.scratch.path().join(&name);
        let mut pipeline =
            Pipeline::new(&self.programs.join("waterwheel"), directory.clone(), text)?
                .with("NATS", self.server.as_ref().map(NatsServer::url).unwrap_or_default())
                .with("STREAM", STREAM)
                .with("FILE", &self.events);
        let database = self.postgres.as_ref().filter(|_| subject == Subject::Postgres);
        if let Some(postgres) = database {
            postgres.query(&format!("create database {name}"))?;
            pipeline = pipeline.with("POSTGRES", postgres.url_of(&name));
        }
        let before = (self.nats_seconds()?, self.postgres_seconds()?);
        let usage = pipeline.run(&mut self.scratch, &mut |_| {})?;
        let after = (self.nats_seconds()?, self.postgres_seconds()?);
        let mut results = vec![pipeline.lake()];
        let database = self.postgres.as_ref().filter(|_| subject == Subject::Postgres);
        if let Some(postgres) = database {
            results.push(tables(postgres, &name, &directory.join("tables"))?);
        }
        Ok(Measured {
            subject,
            usage,
            nats_seconds: after.0 - before.0,
            postgres_seconds: if database.is_some() { after.1 - before.1 } else { f64::NAN },
            checkpoints: self.checkpoints(&pipeline)?,
            results,
        })
    }

    /// How many were completed. Few events, and those of a file, may be through too soon for one.
    fn checkpoints(&self, pipeline: &Pipeline) -> Outcome<usize> {
        if self.count >= DEFAULT_EVENTS && self.server.is_some() {
            pipeline.need_checkpoint()?;
        }
        Ok(pipeline.checkpoints())
    }

    fn nats_seconds(&self) -> Outcome<f64> {
        self.server.as_ref().map_or(Ok(f64::NAN), |server| process_seconds(server.pid()))
    }

    fn postgres_seconds(&self) -> Outcome<f64> {
        let pid = self.postgres.as_ref().and_then(Postgres::pid);
        pid.map_or(Ok(f64::NAN), family_seconds)
    }

    /// All results of every run against DuckDB.
    fn verify(&self, python: &Path, runs: &[Measured]) -> Outcome<()> {
        eprintln!("xtask: comparing the results with DuckDB's");
        // The name of a file's log is its path.
        let log = if self.server.is_some() { Path::new(STREAM) } else { &self.events };
        let mut arguments: Vec<&Path> = vec![&self.events, log];
        arguments.extend(runs.iter().flat_map(|run| &run.results).map(PathBuf::as_path));
        print!("{}", script(python, "compare.py", &arguments)?);
        Ok(())
    }
}

/// Writes the tables of a database as files for DuckDB, and then makes room.
fn tables(postgres: &Postgres, database: &str, directory: &Path) -> Outcome<PathBuf> {
    fs::create_dir(directory)?;
    for name in ["activity", "fills", "onboarding"] {
        let file = directory.join(format!("{name}.csv"));
        let copy = format!("\\copy {name} to '{}' csv header", file.display());
        postgres.query_in(database, &copy)?;
    }
    postgres.query(&format!("drop database {database} with (force)"))?;
    Ok(directory.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_chosen_by_their_words() {
        let words = |from, words: &[&str]| {
            subjects(from, words)
                .map(|some| some.into_iter().map(Subject::word).collect::<Vec<_>>())
        };
        assert_eq!(words(From::File, &[]).unwrap(), ["aggregate", "all", "postgres"]);
        assert_eq!(words(From::Stream, &["postgres"]).unwrap(), ["drain", "postgres"]);
        assert!(
            words(From::Stream, &["al"]).is_err_and(|error| error.to_string().contains("`al`"))
        );
    }
}
