//! A sink whose progress somebody removed is not filled a second time.

use std::fs;
use std::time::{Duration, Instant};

use super::results::PROGRESS;
use super::stage::Stage;
use super::{Counts, Options};
use crate::support::stream::{block_on, connect};

const EVENTS: usize = 400;

/// A start looks at the sinks before anything else.
const REFUSED_WITHIN: Duration = Duration::from_secs(15);

pub(super) fn scenario(options: &Options) -> Result<Counts, String> {
    let mut stage = Stage::new(options, 20_000);
    for _ in 0..options.rounds {
        for sink in ["warehouse", "lake", "results"] {
            stage.begin();
            stage.allow(EVENTS);
            let before = stage.points();
            let mut running = stage.start();
            stage.wait("all sinks have gone on", &mut running, |now| {
                super::stage::advanced(&before, now) == before.len()
            })?;
            stage.pass(100);
            running.kill();
            remove_progress(&stage, sink)?;
            let mut running = stage.start();
            // The watch would see tables without progress: that is the fault, and not a finding.
            let started = Instant::now();
            while !running.has_ended() {
                if started.elapsed() > REFUSED_WITHIN {
                    return Err(format!("without the progress of {sink} it goes on"));
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            let ending = running.wait();
            if ending.status.code() != Some(3) {
                return Err(format!(
                    "without the progress of {sink}: {}: {}",
                    ending.status, ending.stderr
                ));
            }
        }
    }
    Ok(Counts(format!("{} times of 3 sinks, all refused", options.rounds)))
}

fn remove_progress(stage: &Stage, sink: &str) -> Result<(), String> {
    match sink {
        "warehouse" => {
            let sql = "delete from waterwheel.progress";
            let removed = stage.postgres.query_in(stage.database(), sql);
            removed.map(drop).map_err(|error| error.to_string())
        }
        "lake" => {
            let (own, elsewhere) = (stage.lake().join("_waterwheel"), stage.lake().join("_else"));
            fs::rename(own, elsewhere).map_err(|error| error.to_string())
        }
        _ => block_on(async {
            let context = connect(&stage.nats.url()).await;
            let stream = context.get_stream("RESULTS").await.map_err(|error| error.to_string())?;
            let purged =
                stream.purge().filter(PROGRESS).await.map_err(|error| error.to_string())?;
            if purged.purged == 0 { Err("there was no progress".to_owned()) } else { Ok(()) }
        }),
    }
}
