//! Proves that the scenarios notice mistakes: with each bug that a test build can be made to have,
//! the scenario that is named for it must fail.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use waterwheel_pipeline::contract::failpoint::SEEDED_BUGS;

use super::{
    Counts, Options, Scenario, commit_cuts, crash_points, kills, lost_progress, run, server_kills,
    terminations, two_instances,
};
use crate::support::say;

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
    (
        "ends-elsewhere",
        Catcher::Test("unfinished::a_commit_that_was_cut_off_ends_where_it_would_have"),
    ),
    ("missing-progress-is-fresh", Catcher::Scenario(lost_progress::scenario)),
    ("ack-on-read", Catcher::Crashes(&["nats.source.released"])),
    ("anchor-unchecked", Catcher::Test("source_faults::recreated_and_longer")),
    ("clean-ignores-period", Catcher::Test("retention_of_sinks::what_is_old_goes_and_is_told")),
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

/// A test that passes takes a tenth of it; one that waits for a halt that never comes takes long.
const PASSES_WITHIN: Duration = Duration::from_secs(40);

pub(super) fn scenario(options: &Options) -> Result<Counts, String> {
    let mut missed = Vec::new();
    let (only, mut caught) = (std::env::var("WATERWHEEL_ONLY_BUG").ok(), 0);
    for (bug, meaning) in SEEDED_BUGS {
        if only.as_ref().is_some_and(|only| only != bug) {
            continue;
        }
        let options = Options { rounds: ROUNDS, seed: options.seed, bug: Some(bug) };
        let catcher = CATCHERS.iter().find(|(name, _)| name == bug).map(|(_, catcher)| *catcher);
        match noticed(bug, catcher, &options) {
            Some(how) => {
                say!("seeded bug `{bug}`: {how}");
                caught += 1;
            }
            None => missed.push(format!("`{bug}` ({meaning})")),
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
            failed.then(|| format!("{name} does not pass"))
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
    let listed = Command::new(&binary).args(["--list", "--exact", name]).output();
    let listed = listed.expect("this binary runs");
    // A test that is not there fails nothing.
    let is_there = String::from_utf8_lossy(&listed.stdout).contains(&format!("{name}: test"));
    assert!(is_there, "{name} is not a test");
    // Killed, a test leaves its directories behind, and would leave its servers.
    let temporary = TempDir::new().expect("a temporary directory");
    let for_all = Permissions::from_mode(0o711);
    std::fs::set_permissions(temporary.path(), for_all).expect("a directory of ours");
    let mut test = Command::new(binary)
        .args(["--exact", name])
        .env("WATERWHEEL_SEEDED_BUGS", bug)
        .env("TMPDIR", temporary.path())
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("this binary runs");
    let started = Instant::now();
    loop {
        if let Some(status) = test.try_wait().expect("a child can be asked") {
            return status.success();
        }
        if started.elapsed() > PASSES_WITHIN {
            let family = format!("kill -KILL -{}", test.id());
            let _ = Command::new("sh").arg("-c").arg(family).status();
            let _ = test.wait();
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
