//! The comparisons: with what is expected at the end of every epoch, and between runs of one log under
//! other workers, cuts and orders.

use std::sync::Arc;

use waterwheel_config::schema::Finality;
use waterwheel_config::value::Row;
use waterwheel_pipeline::contract::epoch::{FINAL_WATERMARK, NO_WATERMARK};
use waterwheel_pipeline::graph::{Deployment, InputRef, OperatorNode};

use super::drive::{EpochOutcome, Run, run};
use super::event::{Event, Judge, Verdict};
use super::expected::{Accumulated, ExpectedRows};
use super::log::{Message, Script, Step, minimise, shuffled};
use super::random::Random;
use super::restart::{Wanted, run_restarted};

/// The log up to the end of an epoch.
#[derive(Clone, Debug)]
pub(crate) struct Prefix {
    /// The events that take part, in log order; from epoch to epoch more are added.
    pub(crate) events: Vec<Event>,
    /// The least of the sources' watermarks.
    pub(crate) watermark_us: i64,
}

/// Runs a script and compares, at the end of every epoch and for every operator, the rows that are
/// out with the expected ones of the prefix. Some of the scripts run once more where rows may wait
/// until they are final, and then those that are must be out.
pub(crate) fn check(
    deployment: &Arc<Deployment>,
    workers: usize,
    script: &Script,
    is_dead: &dyn Fn(&Event) -> bool,
    expected: &mut dyn FnMut(&Prefix) -> Vec<ExpectedRows>,
) -> Result<(), String> {
    let mut all = Vec::new();
    let expected = &mut |prefix: &Prefix| {
        let rows = expected(prefix);
        all.push(rows.clone());
        rows
    };
    check_wanted(deployment, workers, script, is_dead, Wanted::Changes, expected)?;
    let has_final =
        |node: &OperatorNode| matches!(node.planned.schema.finality, Finality::At { .. });
    if !deployment.operators.iter().any(has_final) || !script.steps.len().is_multiple_of(3) {
        return Ok(());
    }
    let mut again = all.into_iter();
    let expected = &mut |_: &Prefix| again.next().unwrap_or_default();
    check_wanted(deployment, workers, script, is_dead, Wanted::Final, expected)
        .map_err(|error| format!("with final rows only: {error}"))
}

fn check_wanted(
    deployment: &Arc<Deployment>,
    workers: usize,
    script: &Script,
    is_dead: &dyn Fn(&Event) -> bool,
    wanted: Wanted,
    expected: &mut dyn FnMut(&Prefix) -> Vec<ExpectedRows>,
) -> Result<(), String> {
    let outcomes = run_restarted(deployment, workers, script, wanted)?;
    let mut judge = Judge::new(&lateness_us(deployment));
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
        let counted = (prefix.events.len() - accepted_before, late, dead);
        counts(outcome, counted).map_err(|error| format!("epoch {epoch}: {error}"))?;
        let expected = expected(&prefix);
        for (index, node) in deployment.operators.iter().enumerate() {
            out[index].apply(&outcome.changes[index]);
            let schema = &node.planned.schema;
            let compared = match wanted {
                Wanted::Changes => out[index].compare(schema, &expected[index]),
                Wanted::Final => {
                    let sources_us = vec![prefix.watermark_us; deployment.sources.len()];
                    let final_us = deployment.watermark(InputRef::Operator(index)).of(&sources_us);
                    out[index].compare_final(schema, &expected[index], final_us)
                }
            };
            compared.map_err(|error| format!("epoch {epoch}, `{}`: {error}", node.name))?;
        }
    }
    Ok(())
}

fn counts(outcome: &EpochOutcome, wanted: (usize, usize, usize)) -> Result<(), String> {
    let found = (outcome.accepted, outcome.late, outcome.dead);
    if found == wanted {
        return Ok(());
    }
    Err(format!("(accepted, late, dead) is {found:?}, expected {wanted:?}"))
}

/// Cuts the log at random for a random number of workers, and makes the script as short as it still
/// fails.
pub(crate) fn check_random_cuts(
    log: &[Message],
    random: &mut Random,
    check: impl Fn(usize, &Script) -> Result<(), String>,
) -> Result<(), String> {
    let script = Script::random(log, random);
    let workers = 1 + random.below(3);
    minimise(&script, |script| check(workers, script))
        .map_err(|failure| format!("{workers} workers\n{failure}"))
}

/// Runs the log under one, two and three workers, each time cut and ordered anew: the rows that the
/// first operator leaves must be the same.
pub(crate) fn check_same_rows(
    deployment: &Arc<Deployment>,
    log: &[Message],
    is_dead: &dyn Fn(&Event) -> bool,
    random: &mut Random,
) -> Result<(), String> {
    let lateness_us = lateness_us(deployment);
    let first = Script::random(log, random);
    let wanted = final_rows(&run(deployment, 1, &first)?, 0)?;
    for workers in [1, 2, 3] {
        let log = shuffled(log, &lateness_us, is_dead, random);
        // Rows that say what the watermark shows are others once the sources are final.
        let script = Script { is_final: first.is_final, ..Script::random(&log, random) };
        let found = final_rows(&run(deployment, workers, &script)?, 0)?;
        if found != wanted {
            return Err(format!(
                "{workers} workers\n{found:#?}\ninstead of\n{wanted:#?}\n{script}"
            ));
        }
    }
    Ok(())
}

/// The rows of an operator that are out at the end of a run, sorted.
pub(crate) fn final_rows(run: &Run, operator: usize) -> Result<Vec<Row>, String> {
    let mut out = Accumulated::default();
    for epoch in &run.epochs {
        out.apply(&epoch.changes[operator]);
    }
    out.rows()
}

/// The lateness of each source.
pub(crate) fn lateness_us(deployment: &Deployment) -> Vec<i64> {
    deployment.sources.iter().map(|source| source.lateness_us).collect()
}
