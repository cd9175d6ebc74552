//! `kill -9` of the pipeline at random moments under load.

use super::stage::{ORDINARY, Shape, Stage, advanced};
use super::{Counts, Options};

/// After so many kills the sinks are compared, and a new stream begins.
const KILLS_AN_EPISODE: usize = 20;

/// What comes in bursts between two kills.
const EVENTS_A_KILL: usize = 250;

/// So many times of ten a kill waits for a commit; the others hit the start and the replay.
const AFTER_COMMIT: u64 = 8;

pub(super) fn scenario(options: &Options) -> Result<Counts, String> {
    let mut stage = Stage::new(options, KILLS_AN_EPISODE * EVENTS_A_KILL * 2 + 6_000);
    let (mut kills, mut counted, mut by_sink) = (0, 0, [0; 3]);
    for episode in 0.. {
        if counted >= options.rounds {
            break;
        }
        // Every third episode finds its way back by reading everything again.
        stage.begin_as(Shape { has_checkpoints: episode % 3 != 2, ..ORDINARY });
        let mut last = stage.points();
        let goal = (counted + KILLS_AN_EPISODE).min(options.rounds);
        while counted < goal {
            stage.allow(EVENTS_A_KILL);
            let mut running = stage.start();
            if stage.chance.between(0, 10) < AFTER_COMMIT {
                stage.wait_commit(&last, &mut running)?;
            }
            stage.pass(300);
            if running.has_ended() {
                return Err(format!("waterwheel ended by itself: {}", running.kill().stderr));
            }
            running.kill();
            kills += 1;
            // Before the first commit there is nothing to look at.
            let now = stage.look().unwrap_or(last);
            // A kill of something that had committed nothing since the last one proves nothing.
            counted += usize::from(advanced(&last, &now) > 0);
            for (index, count) in by_sink.iter_mut().enumerate() {
                *count += usize::from(now[index].ordinal > last[index].ordinal);
            }
            last = now;
        }
        stage.finish()?;
    }
    let [warehouse, lake, results] = by_sink;
    Ok(stage.counts(format!(
        "{kills} cycles, {counted} counted (postgres had advanced {warehouse} times, parquet \
         {lake}, nats {results})"
    )))
}
