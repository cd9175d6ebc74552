//! Sinks that were added to a running pipeline with `begin = "now"`: they take what comes from now on,
//! and the stream is not read again for them.

use super::cuts;
use super::gauges::Gauges;
use super::pipeline::Claimed;
use super::waiting::Waiting;
use crate::contract::epoch::{EpochRecord, Generation, Progress};
use crate::contract::fault::Fault;
use crate::contract::fault::Remedy;
use crate::contract::position::{Position, Positions};
use crate::graph::Deployment;

/// Where the sink is that has come furthest, and whether the pipeline is finished there; `None` where
/// none holds anything, so that the pipeline begins.
pub(super) fn furthest<'c>(claimed: impl IntoIterator<Item = &'c Claimed>) -> Option<Progress> {
    let keepers = claimed.into_iter().filter(|claimed| claimed.sink.keeps_progress());
    let recorded = keepers.filter_map(|claimed| claimed.progress.as_ref());
    recorded.max_by_key(|progress| (progress.finished, cuts::total(&progress.record))).cloned()
}

/// The progress of a sink that holds nothing and takes what comes after `now`.
pub(super) fn progress(
    now: Progress,
    generation: Generation,
    origin: Positions,
    fingerprint: &str,
) -> Progress {
    let record = EpochRecord { generation, ..now.record };
    Progress { record, origin, fingerprint: fingerprint.to_owned(), finished: now.finished }
}

/// Makes durable where each sink begins that is new and takes what comes from now on. After a restart
/// it goes on from there like any other.
pub(super) async fn begin_now(
    deployment: &Deployment,
    generation: Generation,
    gauges: &Gauges,
    origin: &Positions,
    claimed: &mut [Claimed],
) -> Result<(), Fault> {
    let Some(now) = furthest(&*claimed) else {
        return Ok(());
    };
    for (node, claimed) in deployment.sinks.iter().zip(claimed) {
        if !node.begins_now || claimed.progress.is_some() {
            continue;
        }
        let begin = progress(now.clone(), generation, origin.clone(), &node.fingerprint);
        let name = format!("sink `{}`", node.name);
        let mut waiting = Waiting::new(gauges, &name);
        while let Err(fault) = claimed.sink.begin(&begin).await {
            if fault.remedy != Remedy::Retry {
                return Err(fault.within(&name));
            }
            waiting.pause(&fault).await;
            // What is written again is the same.
            match claimed.sink.recover().await {
                Ok(Some(held)) if held == begin => break,
                Ok(_) => {}
                Err(fault) if fault.remedy == Remedy::Retry => {}
                Err(fault) => return Err(fault.within(&name)),
            }
        }
        waiting.over();
        let place =
            |(source, position): (&String, &Position)| format!("{source} {}", position.ordinal);
        let after: Vec<String> = now.record.positions.iter().map(place).collect();
        let after = after.join(", ");
        tracing::info!(after, "{name} is new, and takes what comes from now on");
        claimed.progress = Some(begin);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::position::position_at;

    #[test]
    fn a_new_sink_is_where_the_others_are_and_finished_where_they_are() {
        let at = |ordinal| Positions::from([("events".to_owned(), position_at(ordinal))]);
        for finished in [false, true] {
            let now = Progress {
                record: EpochRecord {
                    epoch: 7,
                    generation: 2,
                    positions: at(9),
                    watermarks: [("events".to_owned(), 50)].into(),
                },
                origin: at(0),
                fingerprint: "another's".to_owned(),
                finished,
            };
            let begun = progress(now.clone(), 3, at(1), "its own");
            let record = EpochRecord { generation: 3, ..now.record };
            let (origin, fingerprint) = (at(1), "its own".to_owned());
            assert_eq!(begun, Progress { record, origin, fingerprint, finished });
        }
    }
}
