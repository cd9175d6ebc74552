//! `cargo xtask`: sets up what the project needs, and runs its demo, its tests and its benches.

mod bench;
mod compare;
mod demo;
mod instructions;
mod process;
mod scratch;
mod servers;
mod test;
mod text;
mod tools;

use std::process::ExitCode;

const USAGE: &str = "\
Usage: cargo xtask <command>

  setup               fetch nats-server, find Postgres, make the Python environment of the tests
  demo                run the demo deployment on a real server and show what comes out
  test [ARGS...]      setup, then `cargo test --workspace ARGS...` on real servers; without ARGS also
                      `instructions`
  test --nightly [ARGS...]
                      the same, and every fault happens many times more
  instructions [--record]
                      instructions of a backfill by the program of the tests, against the record
  compare [N]         N events (default 200,000) through waterwheel, ClickHouse and DuckDB: equal rows
  bench [N] [SUBJECT...]
                      N events (default 5,000,000) from JetStream: bare drain, aggregate, all operators,
                      all into Postgres and Parquet; or some: aggregate, all, postgres
  bench backfill [N] [SUBJECT...]
                      the same from a file, without NATS
  bench latency [SECONDS]
                      at 50,000 events/s: how soon an event shows in a row of Postgres, and in NATS
  bench archive [N]   raw events from a file into Parquet, events per CPU second
  bench growth [N]    an aggregate with 10 thousand, 1 million and 10 million open groups
  bench workers [N]   a backfill with two workers beside one
  bench memory [N]    resident memory while all operators read N events of a day from JetStream
  bench operators [N]  what each operator costs per event and holds per live key
  bench checkpoints [N]  what checkpoints cost, and how soon a restart has its state again
  bench peers [N]     a backfill's CPU time beside DuckDB's, ClickHouse's, Flink's and Pathway's

The benches build the programs in release; WATERWHEEL_PROGRAMS names a directory of programs that are built already.
";

/// Whatever goes wrong is told to the person at the terminal.
type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["setup"] => tools::setup(),
        ["demo"] => demo::run(),
        ["test", passed_on @ ..] => test::run(passed_on),
        ["compare", rest @ ..] if rest.len() < 2 => compare::compare(rest),
        ["instructions", rest @ ..] => instructions::run(rest),
        ["bench", "checkpoints", rest @ ..] if rest.len() < 2 => bench::checkpoints::run(rest),
        ["bench", "operators", rest @ ..] if rest.len() < 2 => bench::operators::run(rest),
        ["bench", "peers", rest @ ..] if rest.len() < 2 => bench::peers::run(rest),
        ["bench", "latency", rest @ ..] if rest.len() < 2 => bench::latency::run(rest),
        ["bench", "archive", rest @ ..] if rest.len() < 2 => bench::archive::run(rest),
        ["bench", "growth", rest @ ..] if rest.len() < 2 => bench::growth::run(rest),
        ["bench", "workers", rest @ ..] if rest.len() < 2 => bench::workers::run(rest),
        ["bench", "memory", rest @ ..] if rest.len() < 2 => bench::memory::run(rest),
        ["bench", "backfill", rest @ ..] => bench::stream::run(bench::stream::From::File, rest),
        ["bench", rest @ ..] => bench::stream::run(bench::stream::From::Stream, rest),
        ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            Ok(())
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("xtask: {problem}");
            ExitCode::FAILURE
        }
    }
}
