//! A crash at every point that the code names, each several times, with all sinks at once.

use waterwheel_pipeline::contract::failpoint::POINTS;

use super::stage::{ORDINARY, Shape, Stage};
use super::{Counts, Options};
use crate::support::waterwheel::Waterwheel;

const EVENTS_A_CRASH: usize = 150;
const CRASHES_AN_EPISODE: usize = 20;

/// How a point is reached.
#[derive(Clone, Copy)]
struct Setup {
    /// In one run it is reached at most so often, or so often within a moment.
    most: u64,
    /// Only a run is there that goes on from what an earlier one has committed.
    resumes: bool,
    /// Only a run is there that comes after a crash at this point, reached for the n-th time.
    after: Option<(&'static str, u64)>,
    /// What the episode must be like.
    shape: Shape,
}

const OFTEN: Setup = Setup { most: 6, resumes: false, after: None, shape: ORDINARY };
const QUICK: Shape = Shape { roll: "1ms", ..ORDINARY };
const WORK_QUEUE: Shape = Shape { is_work_queue: true, ..ORDINARY };
const ONCE: Setup = Setup { most: 1, ..OFTEN };

/// The points that an ordinary run does not reach again and again.
const SETUPS: &[(&str, Setup)] = &[
    ("intake.opened", ONCE),
    ("nats.source.opened", ONCE),
    ("nats.source.released", Setup { most: 2, shape: WORK_QUEUE, ..OFTEN }),
    ("nats.source.verified", Setup { resumes: true, ..ONCE }),
    ("postgres.claimed", ONCE),
    ("postgres.tables.ready", ONCE),
    ("parquet.claimed", ONCE),
    ("parquet.stray.removed", Setup { after: Some(("parquet.file.synced", 1)), ..ONCE }),
    // The first entry of a run is its claim, which has no files.
    ("parquet.file.published", Setup { after: Some(("parquet.manifest.synced", 2)), ..ONCE }),
    // The entries of the lake's log that are kept are a hundred.
    ("parquet.entry.pruned", Setup { most: 3, shape: QUICK, ..OFTEN }),
    ("nats.sink.claimed", ONCE),
    ("checkpoint.manifest.deleted", Setup { most: 2, ..OFTEN }),
    ("checkpoint.segment.deleted", Setup { most: 2, ..OFTEN }),
];

/// Crashes at every point so often.
pub(super) fn scenario(options: &Options) -> Result<Counts, String> {
    // The load has one source: tests/multisource.rs crashes among decisions about several. Nothing
    // grows old in it: tests/retention_of_sinks.rs crashes while that is removed. Nobody edits the
    // deployment: tests/rebuild/ crashes among the sinks that are emptied then.
    let is_elsewhere = |point: &str| {
        point.starts_with("idle.") || point.contains(".clean.") || point.starts_with("rebuild.")
    };
    let points: Vec<&str> = POINTS.iter().copied().filter(|point| !is_elsewhere(point)).collect();
    at(options, &points)
}

/// Crashes at these points.
pub(super) fn at(options: &Options, points: &[&str]) -> Result<Counts, String> {
    let mut stage = Stage::new(options, CRASHES_AN_EPISODE * EVENTS_A_CRASH * 3 + 8_000);
    let mut crashes = 0;
    for point in points {
        let setup = SETUPS.iter().find(|(name, _)| name == point).map_or(OFTEN, |(_, it)| *it);
        let mut left = options.rounds;
        while left > 0 {
            let rounds = left.min(CRASHES_AN_EPISODE);
            one_episode(&mut stage, point, setup, rounds)
                .map_err(|problem| format!("`{point}`: {problem}"))?;
            left -= rounds;
            crashes += rounds;
        }
    }
    Ok(stage.counts(format!("{} points, {crashes} crashes", points.len())))
}

fn one_episode(stage: &mut Stage, point: &str, setup: Setup, rounds: usize) -> Result<(), String> {
    stage.begin_as(setup.shape);
    for round in 0..rounds {
        stage.allow(EVENTS_A_CRASH);
        if setup.resumes || (round > 0 && stage.chance.between(0, 2) == 0) {
            let before = stage.points();
            let mut running = stage.start();
            stage.wait_commit(&before, &mut running)?;
            running.kill();
        }
        if let Some((after, count)) = setup.after {
            crash(stage, after, count)?;
            stage.allow(EVENTS_A_CRASH);
        }
        let count =
            if round == 0 || setup.most == 1 { 1 } else { stage.chance.between(2, setup.most + 1) };
        crash(stage, point, count)?;
    }
    let before = stage.points();
    stage.allow(EVENTS_A_CRASH);
    let mut running: Waterwheel = stage.start();
    stage.wait_commit(&before, &mut running)?;
    running.kill();
    stage.finish()
}

/// Runs until it crashes at a point that it reaches for the n-th time.
fn crash(stage: &mut Stage, point: &str, count: u64) -> Result<(), String> {
    let workers = stage.chance.between(1, 4);
    let at = format!("{point}:{count}");
    let running = stage.deployment(workers).set("WATERWHEEL_CRASH_AT", &at).start();
    let ending = stage.wait_end(&format!("`{at}` is reached"), running)?;
    if !ending.stderr.contains(&format!("crashing at {point}, as asked")) {
        return Err(format!("`{at}` was not reached: {}: {}", ending.status, ending.stderr));
    }
    Ok(())
}
