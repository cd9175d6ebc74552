//! Several sources in one pipeline, on servers of their own: whatever is read first, killed, silent or
//! finished, what comes out follows from the streams and the recorded decisions alone.

mod begin;
mod stage;
mod truth;

use std::time::{Duration, Instant};

use self::stage::{Settings, Side, Stage};
use crate::support::rounds;
use crate::support::rounds::Chance;
use crate::support::say;
use crate::support::wait_until;

/// What the log says once a silent source is not waited for.
const IDLE: &str = "others no longer wait for it";

/// The same two logs, read at different speeds by different numbers of workers, killed or not, are one
/// result.
#[test]
fn what_is_read_first_changes_nothing() {
    let mut chance = Chance::new();
    let seed = chance.seed;
    for round in 0..rounds(4, 40) {
        let mut stage = Stage::new();
        let mut left = [Side::Left, Side::Right].map(|side| (side, side.log(300, &mut chance)));
        while left.iter().any(|(_, log)| !log.is_empty()) {
            for (side, log) in &mut left {
                let most = if chance.between(0, 3) == 0 { 301 } else { 60 };
                let count = (chance.between(0, most) as usize).min(log.len());
                stage.publish(*side, log.drain(..count).collect());
            }
            if round > 0 && chance.between(0, 2) == 0 {
                let workers = chance.between(1, 5) as usize;
                let running = stage.start(&Settings { workers, ..Settings::default() });
                // At any moment: before anything is read, within, or after it.
                std::thread::sleep(Duration::from_millis(chance.between(0, 900)));
                running.kill();
            }
        }
        let workers = chance.between(1, 5) as usize;
        stage.finish(&Settings { workers, ..Settings::default() });
        let counts = stage.assert_true(&format!("round {round}, seed {seed}"));
        assert_eq!((counts.late_of_silence, counts.decisions), (0, 0));
        assert!(counts.pairs > 0 && counts.unmatched > 0 && counts.late > 0, "{counts:?}");
    }
}

/// What a silent source would hold goes on without it; what it says later about that is late; and a
/// replay of the whole by another number of workers, into another lake, is the same.
#[test]
fn a_silent_source_is_not_waited_for() {
    let mut stage = Stage::new();
    let settings = Settings { idle_after: Some("1s"), ..Settings::default() };
    stage.publish_seconds(Side::Left, (0..600).step_by(10));
    stage.publish_seconds(Side::Right, (0..100).step_by(10));
    let mut running = stage.start(&settings);
    wait_until("the silent source is not waited for", || {
        running.assert_running();
        running.said().contains(IDLE)
    });
    // Without it, left has all windows but the last ones final.
    wait_until("windows are final", || stage.lake_rows("counts") >= 8);
    stage.publish_seconds(Side::Left, (600..1200).step_by(10));
    wait_until("further windows are final", || stage.lake_rows("counts") >= 16);
    stage.publish_seconds(Side::Right, (100..1300).step_by(10));
    wait_until("it is waited for again", || {
        running.assert_running();
        running.said().contains("speaks again")
    });
    assert!(running.terminate().status.success());
    stage.finish(&settings);
    let counts = stage.assert_true("the run");
    assert!(counts.late_of_silence > 50, "{counts:?}");
    assert_eq!(counts.decisions, 2, "when it fell silent, and when it spoke: {counts:?}");
    for workers in [1, 3] {
        stage.forget_all_but_decisions();
        stage.finish(&Settings { workers, ..settings.clone() });
        assert_eq!(stage.assert_true(&format!("{workers} workers")), counts);
    }
}

/// Killed at every moment between the decision and what rests on it, nothing is lost and nothing
/// doubled; a decision that was durable stands.
#[test]
fn a_crash_around_a_decision_loses_nothing() {
    // The first line of the log says that the generation begins.
    let points = [
        ("idle.decided", 1, 0),
        ("idle.log.written", 1, 0),
        ("idle.log.written", 2, 1),
        ("idle.log.durable", 1, 1),
        ("idle.log.written", 3, 1),
        ("idle.log.durable", 2, 1),
    ];
    for (point, count, least) in points {
        let at = format!("{point}:{count}");
        let mut stage = Stage::new();
        let settings = Settings { idle_after: Some("1s"), ..Settings::default() };
        stage.publish_seconds(Side::Left, (0..600).step_by(10));
        stage.publish_seconds(Side::Right, (0..100).step_by(10));
        let running = stage.start(&Settings { crash_at: Some(at.clone()), ..settings.clone() });
        let speaks = count > 1 && !(point == "idle.log.written" && count == 2);
        if speaks {
            wait_until("the silent source is not waited for", || running.said().contains(IDLE));
            // The last decision has only been taken once the others are further.
            stage.publish_seconds(Side::Left, (600..1200).step_by(10));
            wait_until("further windows are final", || stage.lake_rows("counts") >= 16);
            stage.publish_seconds(Side::Right, (100..1300).step_by(10));
        }
        let ending = running.wait();
        assert!(ending.stderr.contains("as asked"), "{at}: {}", ending.stderr);
        let known = stage.decisions().len();
        assert!(known >= least, "{at}: {known} decisions");
        if !speaks {
            stage.publish_seconds(Side::Left, (600..1200).step_by(10));
            stage.publish_seconds(Side::Right, (100..1300).step_by(10));
        }
        stage.finish(&settings);
        let counts = stage.assert_true(&at);
        assert!(counts.decisions >= known, "{at}: {counts:?}");
        if speaks {
            assert!(counts.late_of_silence > 50, "{at}: {counts:?}");
        }
    }
}

/// Kills at any moment while one source falls silent and speaks, again and again.
#[test]
fn kills_among_decisions_lose_nothing() {
    let mut chance = Chance::new();
    let seed = chance.seed;
    let mut stage = Stage::new();
    let settings = Settings { idle_after: Some("1s"), ..Settings::default() };
    for round in 0..rounds(6, 60) as u32 {
        let from = round * 300;
        stage.publish_seconds(Side::Left, (from..from + 300).step_by(5));
        // Every other time it is silent until the others are far ahead.
        let right = if chance.between(0, 2) == 0 { from } else { from.saturating_sub(400) };
        stage.publish_seconds(Side::Right, (right..right + 300).step_by(5));
        let workers = chance.between(1, 4) as usize;
        let running = stage.start(&Settings { workers, ..settings.clone() });
        std::thread::sleep(Duration::from_millis(chance.between(200, 2_500)));
        stage.publish_seconds(Side::Right, (from..from + 60).step_by(20));
        std::thread::sleep(Duration::from_millis(chance.between(0, 300)));
        running.kill();
    }
    stage.finish(&settings);
    let counts = stage.assert_true(&format!("seed {seed}"));
    say!("several sources: {counts:?}, seed {seed}");
}

/// A file beside a stream without end comes to its end, and holds nothing any more; after that it is
/// finished for good.
#[test]
fn a_finished_source_holds_nothing() {
    let mut stage = Stage::new();
    stage.write_file(0..100);
    let settings = Settings { right_is_file: true, ..Settings::default() };
    stage.publish_seconds(Side::Left, (0..600).step_by(10));
    for round in 0..2_u32 {
        let mut running = stage.start(&settings);
        let windows = 9 + round as usize * 10;
        wait_until("windows beyond the end of the file are final", || {
            running.assert_running();
            stage.lake_rows("counts") >= windows
        });
        running.kill();
        stage.publish_seconds(Side::Left, (600..1200).step_by(10));
        // What is added to it now comes too late.
        stage.append_in_vain(100..200);
    }
    stage.finish(&settings);
    stage.assert_true("a finished file");
}

/// One of two servers goes away: the pipeline waits, says for which source, and goes on.
#[test]
fn a_server_that_goes_away_is_named_and_waited_for() {
    let mut stage = Stage::new();
    stage.publish_seconds(Side::Left, (0..300).step_by(10));
    stage.publish_seconds(Side::Right, (0..300).step_by(10));
    let settings = Settings::default();
    let mut running = stage.start(&settings);
    wait_until("it runs", || stage.lake_rows("left") >= 30);
    stage.right.kill();
    wait_until("the source is named", || {
        running.assert_running();
        running.said().contains("source `right`: no connection to")
    });
    // What the other brings goes on meanwhile.
    stage.publish_seconds(Side::Left, (300..600).step_by(10));
    wait_until("the other source goes on", || stage.lake_rows("left") >= 60);
    stage.right.restart();
    let restarted = Instant::now();
    stage.publish_seconds(Side::Right, (300..600).step_by(10));
    wait_until("it goes on", || {
        running.assert_running();
        stage.lake_rows("right") >= 60
    });
    say!("several sources: a server that was away, going on after {:.1?}", restarted.elapsed());
    assert!(running.said().contains("source `right`: goes on after"), "{}", running.said());
    assert!(running.terminate().status.success());
    stage.finish(&settings);
    stage.assert_true("after the server was away");
}

/// Without `idle_after` the silent source is named, and nothing is decided.
#[test]
fn a_silent_source_that_holds_the_watermark_is_named() {
    let mut stage = Stage::new();
    stage.publish_seconds(Side::Left, (0..600).step_by(10));
    stage.publish_seconds(Side::Right, (0..100).step_by(10));
    let settings = Settings::default();
    let mut running = stage.start(&settings);
    wait_until("the source is named", || {
        running.assert_running();
        running.said().contains("and holds the watermark")
    });
    assert!(running.said().contains("source `right` is silent since"), "{}", running.said());
    assert!(running.terminate().status.success());
    stage.publish_seconds(Side::Right, (100..600).step_by(10));
    stage.finish(&settings);
    assert_eq!(stage.assert_true("nothing was decided").late, 0);
}

/// A stream with far older events is read before one that is ahead by more than `max_skew`.
#[test]
fn a_source_far_ahead_waits_for_one_that_has_messages() {
    let mut stage = Stage::new();
    // So much that not all is read at once.
    stage.publish_seconds(Side::Left, 0..600);
    stage.publish_seconds(Side::Right, 0..600);
    for max_skew in ["1s", "1h"] {
        let settings = Settings { max_skew: Some(max_skew), ..Settings::default() };
        stage.finish(&settings);
        stage.assert_true(max_skew);
        stage.forget_all_but_decisions();
    }
}
