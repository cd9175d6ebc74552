//! SIGTERM under load: everything that was read is committed, quickly, and the exit code is 0.

use std::time::{Duration, Instant};

use super::stage::Stage;
use super::{Counts, Options};

const ROUNDS_AN_EPISODE: usize = 20;
const EVENTS_A_ROUND: usize = 300;

/// Supervisors kill after ten.
const DRAINED_WITHIN: Duration = Duration::from_secs(5);

pub(super) fn scenario(options: &Options) -> Result<Counts, String> {
    let mut stage = Stage::new(options, ROUNDS_AN_EPISODE * EVENTS_A_ROUND * 2 + 6_000);
    let (mut rounds, mut slowest) = (0, Duration::ZERO);
    while rounds < options.rounds {
        stage.begin();
        for _ in 0..ROUNDS_AN_EPISODE.min(options.rounds - rounds) {
            // The watch may not have seen what the run before has committed last, and a signal that
            // comes before this one has begun to listen ends it at once.
            let before = stage.look().unwrap_or_else(|_| stage.points());
            stage.allow(EVENTS_A_ROUND);
            let mut running = stage.start();
            stage.wait_commit(&before, &mut running)?;
            stage.pass(300);
            let asked = Instant::now();
            let ending = running.terminate();
            let took = asked.elapsed();
            if !ending.status.success() {
                return Err(format!("SIGTERM ended it with {}: {}", ending.status, ending.stderr));
            }
            if took > DRAINED_WITHIN {
                return Err(format!("it took {took:?} to drain: {}", ending.stderr));
            }
            // Everything read is committed: so no sink is behind another.
            let points = stage.look()?;
            if points.iter().any(|point| point.ordinal != points[0].ordinal) {
                return Err(format!("drained, the sinks are at {points:?}"));
            }
            slowest = slowest.max(took);
            rounds += 1;
        }
        stage.finish()?;
    }
    Ok(stage.counts(format!("{rounds} of {rounds} drained, the slowest in {slowest:.1?}")))
}
