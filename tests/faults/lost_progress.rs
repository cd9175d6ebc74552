//! A sink whose progress somebody removed is not filled a second time.

use std::fs;
use std::time::{Duration, Instant};

use super::stage::Stage;
use super::{Counts, Options};

const EVENTS: usize = 400;

/// A start looks at the sinks before anything else.
const REFUSED_WITHIN: Duration = Duration::from_secs(15);

pub(super) fn scenario(options: &Options) -> Result<Counts, String> {
    let mut stage = Stage::new(options, 20_000);
    for _ in 0..options.rounds {
        for sink in ["warehouse", "lake"] {
            stage.begin();
            stage.allow(EVENTS);
            let before = stage.points();
            let mut running = stage.start();
            stage.wait("all sinks have gone on", &mut running, |now| {
                super::stage::advanced(&before, now) == before.len()
            })?;
            stage.pass(100);
            running.kill();
            let own = stage.lake().join("_waterwheel");
            if sink == "lake" {
                fs::rename(&own, stage.lake().join("_elsewhere"))
                    .map_err(|error| error.to_string())?;
            } else {
                let sql = "delete from waterwheel.progress";
                stage
                    .postgres
                    .query_in(stage.database(), sql)
                    .map_err(|error| error.to_string())?;
            }
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
    Ok(Counts(format!("{} times of 2 sinks, all refused", options.rounds)))
}
