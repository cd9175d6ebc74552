//! Proves that the scenarios notice mistakes: with each bug that a test build can be made to have,
//! the scenario that is named for it must fail.

use std::process::{Command, Stdio};

const SEEDED_BUGS: &[(&str, &str)] = &[
    (
        "progress-before-rows",
        "postgres: the progress is committed in a transaction before the one of the rows",
    ),
    (
        "progress-after-rows",
        "postgres: the rows are committed first, the progress in a second transaction",
    ),
    (
        "fence-by-lock",
        "postgres: a claim reads the progress row with a lock instead of writing a new lease",
    ),
    (
        "guard-does-not-raise",
        "postgres: the guard of a stale instance moves nothing, and its rows commit all the same",
    ),
    ("visible-before-manifest", "parquet: files become visible before the entry that names them"),
    ("manifest-not-exclusive", "parquet: an entry of the log replaces one that has its number"),
    ("keeps-stray-files", "parquet: what a crash left in the staging directory stays there"),
    (
        "forgets-to-publish",
        "parquet: a restart leaves committed files invisible that a crash kept from their places",
    ),
    (
        "dedupe-window",
        "nats sink: rows go out with Nats-Msg-Id alone, and the progress without its fence",
    ),
    ("progress-apart", "nats sink: the progress message is published after the batch, not in it"),
    (
        "anchor-unchecked",
        "nats source: neither the time of creation nor the hash of the last message is compared",
    ),
    (
        "ack-on-read",
        "nats source: messages of a work queue are acknowledged as they are read, not once no \
         checkpoint needs them",
    ),
    ("gap-unchecked", "nats source: what is gone before the first message left is passed over"),
    (
        "missing-progress-is-fresh",
        "all sinks: rows that no progress speaks of are taken for nothing, and written again",
    ),
];

use super::{
    Counts, Options, Scenario, commit_cuts, crash_points, kills, lost_progress, run, server_kills,
    terminations, two_instances,
};

/// What must notice a bug.
#[derive(Clone, Copy)]
enum Catcher {
    Scenario(Scenario),
    /// Crashes at these points.
    Crashes(&'static [&'static str]),
    /// A test of this binary by its full name.
    Test(&'static str),
}

/// The catcher of each bug.
const CATCHERS: &[(&str, Catcher)] = &[
    ("progress-before-rows", Catcher::Scenario(kills::scenario)),
    ("progress-after-rows", Catcher::Scenario(kills::scenario)),
    ("fence-by-lock", Catcher::Scenario(two_instances::scenario)),
    ("guard-does-not-raise", Catcher::Scenario(two_instances::scenario)),
    ("visible-before-manifest", Catcher::Crashes(&["parquet.manifest.written"])),
    ("manifest-not-exclusive", Catcher::Scenario(two_instances::scenario)),
    ("keeps-stray-files", Catcher::Crashes(&["parquet.file.synced"])),
    ("forgets-to-publish", Catcher::Crashes(&["parquet.manifest.synced"])),
    ("dedupe-window", Catcher::Scenario(kills::scenario)),
    ("progress-apart", Catcher::Scenario(kills::scenario)),
    ("missing-progress-is-fresh", Catcher::Scenario(lost_progress::scenario)),
    ("ack-on-read", Catcher::Crashes(&["nats.source.released"])),
    ("anchor-unchecked", Catcher::Test("source_faults::recreated_longer")),
    ("gap-unchecked", Catcher::Test("source_faults::purged_past_the_position")),
];

/// For a bug that has no catcher yet: whatever notices it is named in the report.
const ALL: &[(&str, Scenario)] = &[
    ("kills", kills::scenario),
    ("crash_points", crash_points::scenario),
    ("commit_cuts", commit_cuts::scenario),
    ("two_instances", two_instances::scenario),
    ("server_kills", server_kills::scenario),
    ("terminations", terminations::scenario),
    ("lost_progress", lost_progress::scenario),
];

/// How often a scenario may try with the bug switched on.
const ROUNDS: usize = 60;
const CRASHES: usize = 3;

pub(super) fn scenario(options: &Options) -> Result<Counts, String> {
    let mut missed = Vec::new();
    let (only, mut caught) = (std::env::var("WATERWHEEL_ONLY_BUG").ok(), 0);
    for (bug, meaning) in SEEDED_BUGS {
        if only.as_ref().is_some_and(|only| only != bug) {
            continue;
        }
        let options = Options { rounds: ROUNDS, seed: options.seed, bug: Some(bug) };
        let catcher = CATCHERS.iter().find(|(name, _)| name == bug).map(|(_, catcher)| *catcher);
        let t = std::time::Instant::now();
        match noticed(bug, catcher, &options) {
            Some(how) => {
                super::say(&format!("seeded bug `{bug}` in {:?}: {how}", t.elapsed()));
                caught += 1;
            }
            None => {
                super::say(&format!("MISSED {bug} {:?}", t.elapsed()));
                missed.push(format!("`{bug}` ({meaning})"))
            }
        }
    }
    if missed.is_empty() {
        Ok(Counts(format!("{caught} bugs, {caught} noticed")))
    } else {
        Err(format!("not noticed: {}", missed.join(", ")))
    }
}

/// What was noticed.
fn noticed(bug: &str, catcher: Option<Catcher>, options: &Options) -> Option<String> {
    let first_line = |problem: String| {
        let line: String = problem.lines().next().unwrap_or_default().chars().take(160).collect();
        line
    };
    match catcher {
        Some(Catcher::Scenario(scenario)) => run(scenario, options).err().map(first_line),
        Some(Catcher::Crashes(points)) => {
            let options = Options { rounds: CRASHES, ..*options };
            super::contained(|| crash_points::at(&options, points)).err().map(first_line)
        }
        Some(Catcher::Test(name)) => {
            let failed = !passes(name, bug);
            failed.then(|| format!("{name} fails"))
        }
        None => ALL.iter().find_map(|(name, scenario)| {
            let rounds = if *name == "crash_points" { CRASHES } else { options.rounds };
            let problem = run(*scenario, &Options { rounds, ..*options }).err()?;
            Some(format!("{name}: {}", first_line(problem)))
        }),
    }
}

/// Runs a test of this binary with the bug switched on.
fn passes(name: &str, bug: &str) -> bool {
    let binary = std::env::current_exe().expect("this binary");
    let output = Command::new(binary)
        .args(["--exact", name])
        .env("WATERWHEEL_SEEDED_BUGS", bug)
        .stdin(Stdio::null())
        .output()
        .expect("this binary runs");
    let said = String::from_utf8_lossy(&output.stdout);
    // A test that is not there fails nothing.
    assert!(said.contains("running 1 test"), "{name} is not a test: {said}");
    output.status.success()
}
