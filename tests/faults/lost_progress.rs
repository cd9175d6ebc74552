//! A sink whose progress somebody removed is not filled a second time.

use std::fs;

use super::stage::Stage;
use super::{Counts, Options};

const EVENTS: usize = 400;

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
            let running = stage.start();
            let ending = stage.wait_end("it refuses", running)?;
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
