//! Killed between two of the sinks that it empties, `--rebuild` is asked for once more and goes on with
//! those that are left; or the old configuration is, and brings back those that were emptied.

use super::{DEPLOYMENT, EDITS, FIRST, MORE, SINKS, Stage, assert_halts, assert_success};
use crate::support::waterwheel::Deployment;

const OPERATORS: [&str; 4] = ["fill_latency", "fills", "onboarding", "volume"];

/// With it every sink holds other rows.
fn with_lateness(lateness: &str) -> String {
    DEPLOYMENT.replace("lateness = \"30s\"", &format!("lateness = \"{lateness}\""))
}

/// Empties sinks until so many of those that are left are empty, and crashes.
fn crash(deployment: &Deployment, emptied: usize) {
    crash_at(deployment, &format!("rebuild.sink.emptied:{emptied}"));
}

fn crash_at(deployment: &Deployment, at: &str) {
    let ending = deployment.clone().set("WATERWHEEL_CRASH_AT", at).rebuild().wait();
    let is_there = ending.stderr.contains("crashing at ");
    assert!(is_there, "`{at}` was not reached: {}: {}", ending.status, ending.stderr);
}

#[test]
fn the_sinks_that_are_left_are_emptied_next_time() {
    let stage = Stage::new();
    let mut published = stage.publish(0, FIRST);
    stage.deployment(DEPLOYMENT).run();
    for emptied in 1..=SINKS.len() {
        let text = with_lateness(if emptied % 2 == 1 { "5s" } else { "30s" });
        let deployment = stage.deployment(&text);
        crash(&deployment, emptied);
        published += stage.publish(published, MORE);
        let (done, left) = SINKS.split_at(emptied);
        // Without the consent nothing happens, and with it the rest.
        if !left.is_empty() {
            assert_halts(&deployment.start().wait(), left, done, &OPERATORS);
        }
        match emptied {
            2 => crash(&deployment, 1),
            3 => crash_at(&deployment, "epoch.delivered:1"),
            _ => {}
        }
        let is_settled = left.is_empty() || emptied == 3;
        let running = if is_settled { deployment.start() } else { deployment.rebuild() };
        assert_success(&running.wait());
        stage.assert_as_fresh(&text, emptied);
    }
}

#[test]
fn the_consent_counts_without_a_run_in_between() {
    let stage = Stage::new();
    stage.publish(0, FIRST);
    stage.deployment(DEPLOYMENT).run();
    let text = with_lateness("5s");
    let deployment = stage.deployment(&text);
    for _ in 1..SINKS.len() {
        crash(&deployment, 1);
    }
    assert_success(&deployment.rebuild().wait());
    stage.assert_as_fresh(&text, 0);
}

#[test]
fn sinks_that_were_not_emptied_are_not_touched() {
    let stage = Stage::new();
    stage.publish(0, FIRST);
    stage.deployment(DEPLOYMENT).run();
    let (from, to, emptied, computed) = EDITS[0];
    let text = DEPLOYMENT.replace(from, to);
    assert_eq!(emptied, ["lake", "warehouse"]);

    // The old configuration has the rows of the sink that was not emptied.
    let but = |gone: &[&str]| -> Vec<&str> {
        SINKS.into_iter().filter(|sink| !gone.contains(sink)).collect()
    };
    let kept = but(&["lake"]);
    let before = stage.untouched(&kept);
    crash(&stage.deployment(&text), 1);
    let old = stage.deployment(DEPLOYMENT);
    assert_halts(&old.start().wait(), &["lake"], &kept, computed);
    assert_success(&old.rebuild().wait());
    assert_eq!(stage.untouched(&kept), before, "{kept:?}");
    stage.assert_as_fresh(DEPLOYMENT, 0);

    let kept = but(emptied);
    let before = stage.untouched(&kept);
    let new = stage.deployment(&text);
    crash(&new, 1);
    assert_halts(&new.start().wait(), &["warehouse"], &but(&["warehouse"]), computed);
    assert_success(&new.rebuild().wait());
    assert_eq!(stage.untouched(&kept), before, "{kept:?}");
    stage.assert_as_fresh(&text, 1);
}
