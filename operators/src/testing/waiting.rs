//! Lets a worker work until something holds, and gives up where nothing moves.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use timely::worker::Worker;

/// A dataflow that has not moved for so long is stuck.
const STUCK: Duration = Duration::from_secs(30);

/// Works while the condition holds, unless another worker has died or nothing moves.
pub(super) fn wait(
    worker: &mut Worker,
    failed: &AtomicBool,
    condition: impl Fn(&Worker) -> bool,
) -> Result<(), String> {
    let began = Instant::now();
    while condition(worker) {
        worker.step_or_park(Some(Duration::from_millis(1)));
        let is_stuck = began.elapsed() > STUCK;
        if failed.load(Ordering::SeqCst) || is_stuck {
            // The others would wait for this worker's dataflow to end.
            failed.store(true, Ordering::SeqCst);
            for dataflow in worker.installed_dataflows() {
                worker.drop_dataflow(dataflow);
            }
            let reason = if is_stuck { "the dataflow is stuck" } else { "another worker died" };
            return Err(reason.to_owned());
        }
    }
    Ok(())
}
