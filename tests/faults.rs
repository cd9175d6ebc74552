//! Faults under load, all three sinks at once: whatever is killed, cut, frozen or crashed, each sink
//! always equals the result over a prefix of the stream that never goes backwards, and in the end
//! holds everything once.
//!
//! A scenario is a function that gives counts or says what is wrong, so that a seeded bug can be
//! demanded to make it fail. `WATERWHEEL_NIGHTLY=1` repeats each more often; `WATERWHEEL_SEED` draws
//! the same moments again.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::support::rounds;
use crate::support::rounds::Chance;
use crate::support::say;

mod commit_cuts;
mod crash_points;
mod kills;
pub(crate) mod load;
mod lost_progress;
pub(crate) mod results;
mod seeded_bugs;
mod server_kills;
mod stage;
mod terminations;
mod truth;
mod two_instances;
mod watch;

/// What a scenario is asked to do.
#[derive(Clone, Copy)]
struct Options {
    /// How often its fault happens.
    rounds: usize,
    /// What its chance begins with.
    seed: u64,
    /// The bug that the pipeline is made to have.
    bug: Option<&'static str>,
}

/// What a scenario has counted, for people.
struct Counts(String);

impl fmt::Display for Counts {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.0)
    }
}

/// Counts, or what is wrong.
type Scenario = fn(&Options) -> Result<Counts, String>;

/// Runs a scenario; a failed assertion in it is an error like others.
fn run(scenario: Scenario, options: &Options) -> Result<Counts, String> {
    contained(|| scenario(options))
}

fn contained(scenario: impl FnOnce() -> Result<Counts, String>) -> Result<Counts, String> {
    catch_unwind(AssertUnwindSafe(scenario)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.or_else(|| Some((*panic.downcast_ref::<&str>()?).to_owned())).unwrap_or_default())
    })
}

/// Runs a scenario as a test, and prints one line.
fn test(name: &str, scenario: Scenario, rounds: usize) {
    let options = Options { rounds, seed: Chance::new().seed, bug: None };
    let seed = options.seed;
    match run(scenario, &options) {
        Ok(counts) => say!("{name}: {counts}, seed {seed}"),
        Err(problem) => panic!("{name}, seed {seed}: {problem}"),
    }
}

#[test]
fn kills() {
    test("kills", kills::scenario, rounds(60, 5_000));
}

#[test]
fn server_kills() {
    test("server kills", server_kills::scenario, rounds(20, 200));
}

#[test]
fn commit_cuts() {
    test("commit cuts", commit_cuts::scenario, rounds(60, 500));
}

#[test]
fn two_instances() {
    test("two instances", two_instances::scenario, rounds(10, 100));
}

#[test]
fn terminations() {
    test("terminations", terminations::scenario, rounds(10, 100));
}

#[test]
fn crash_points() {
    test("crash points", crash_points::scenario, rounds(2, 20));
}

#[test]
fn lost_progress() {
    test("lost progress", lost_progress::scenario, rounds(1, 10));
}

#[test]
fn seeded_bugs() {
    test("seeded bugs", seeded_bugs::scenario, 1);
}
