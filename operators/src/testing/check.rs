//! The comparison at the end of every epoch.

use std::sync::Arc;

use waterwheel_pipeline::contract::epoch::{FINAL_WATERMARK, NO_WATERMARK};
use waterwheel_pipeline::graph::Deployment;

use super::drive::EpochOutcome;
use super::event::{Event, Judge, Verdict};
use super::expected::{Accumulated, ExpectedRows};
use super::log::{Script, Step};
use super::restart::run_restarted;

/// The log up to the end of an epoch.
#[derive(Clone, Debug)]
pub(crate) struct Prefix {
    /// The events that take part, in log order; from epoch to epoch more are added.
    pub(crate) events: Vec<Event>,
    /// The least of the sources' watermarks.
    pub(crate) watermark_us: i64,
}

/// Runs a script and compares, at the end of every epoch and for every operator, the rows that are
/// out with the expected ones of the prefix. What is out at the end comes back.
pub(crate) fn check(
    deployment: &Arc<Deployment>,
    workers: usize,
    script: &Script,
    is_dead: &dyn Fn(&Event) -> bool,
    expected: &mut dyn FnMut(&Prefix) -> Vec<ExpectedRows>,
) -> Result<Vec<Accumulated>, String> {
    let outcomes = run_restarted(deployment, workers, script)?;
    let lateness_us: Vec<i64> =
        deployment.sources.iter().map(|source| source.lateness_us).collect();
    let mut judge = Judge::new(&lateness_us);
    let mut prefix = Prefix { events: Vec::new(), watermark_us: NO_WATERMARK };
    let mut out = vec![Accumulated::default(); deployment.operators.len()];
    let mut epochs = script.steps.split_inclusive(|step| matches!(step, Step::Epoch));
    for (epoch, outcome) in outcomes.iter().enumerate() {
        let (mut late, mut dead) = (0, 0);
        let accepted_before = prefix.events.len();
        for step in epochs.next().unwrap_or_default() {
            let Step::Message(message) = step else {
                continue;
            };
            match judge.judge(message, is_dead) {
                Verdict::Accepted(event) => prefix.events.push(event),
                Verdict::Late(_) => late += 1,
                Verdict::Dead => dead += 1,
            }
        }
        let is_final = script.is_final && epoch + 1 == outcomes.len();
        prefix.watermark_us =
            if is_final { FINAL_WATERMARK } else { judge.watermark_us().unwrap_or(NO_WATERMARK) };
        let wanted = (prefix.events.len() - accepted_before, late, dead);
        counts(outcome, wanted).map_err(|error| format!("epoch {epoch}: {error}"))?;
        let expected = expected(&prefix);
        for (index, node) in deployment.operators.iter().enumerate() {
            out[index].apply(&outcome.changes[index]);
            out[index]
                .compare(&node.planned.schema, &expected[index])
                .map_err(|error| format!("epoch {epoch}, `{}`: {error}", node.name))?;
        }
    }
    Ok(out)
}

fn counts(outcome: &EpochOutcome, wanted: (usize, usize, usize)) -> Result<(), String> {
    let found = (outcome.accepted, outcome.late, outcome.dead);
    if found == wanted {
        return Ok(());
    }
    Err(format!("(accepted, late, dead) is {found:?}, expected {wanted:?}"))
}
