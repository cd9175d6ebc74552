//! The connection to Postgres breaks around COMMIT, where only the server knows what became of it.

use std::time::Duration;

use super::stage::Stage;
use super::{Counts, Options};
use crate::support::proxy::Cut;

const CUTS_AN_EPISODE: usize = 60;
const EVENTS_A_CUT: usize = 60;

/// From so many cuts on each kind of outcome must have come up.
const CUTS_TELLING: usize = 20;

pub(super) fn scenario(options: &Options) -> Result<Counts, String> {
    let mut stage = Stage::new(options, CUTS_AN_EPISODE * EVENTS_A_CUT * 2 + 8_000);
    let (mut cuts, mut went_through, mut replays) = (0, 0, 0);
    while cuts < options.rounds {
        stage.begin();
        let proxy = stage.proxy();
        let workers = stage.chance.between(1, 4);
        let url = proxy.url_of(stage.database());
        let mut running = stage.deployment(workers).set("DATABASE", url).start();
        for _ in 0..CUTS_AN_EPISODE.min(options.rounds - cuts) {
            let before = stage.points();
            stage.allow(EVENTS_A_CUT);
            // A cut counts only if something was committed since the last one.
            stage.wait("postgres has gone on", &mut running, |now| {
                now[0].ordinal > before[0].ordinal
            })?;
            stage.pass(30);
            let struck = proxy.struck();
            proxy.arm(cut(&mut stage, cuts));
            stage.wait("a commit is cut", &mut running, |_| proxy.struck() > struck)?;
            cuts += 1;
        }
        let before = stage.points();
        stage
            .wait("postgres has gone on", &mut running, |now| now[0].ordinal > before[0].ordinal)?;
        let ending = running.terminate();
        if !ending.status.success() {
            return Err(format!("it did not stay up: {}: {}", ending.status, ending.stderr));
        }
        went_through += ending.stderr.matches("the commit had gone through").count();
        replays += ending.stderr.matches("kept changes were lost").count();
        stage.finish()?;
    }
    if cuts >= CUTS_TELLING && (went_through == 0 || went_through >= cuts) {
        return Err(format!("of {cuts} commits {went_through} had gone through"));
    }
    let again = cuts - went_through;
    Ok(stage.counts(format!(
        "{cuts} cuts, {went_through} commits had gone through, {again} were made again, {replays} \
         replays"
    )))
}

/// Every kind in turn; the moments by chance.
fn cut(stage: &mut Stage, number: usize) -> Cut {
    let chance = &mut stage.chance;
    match number % 6 {
        0 => Cut::Before,
        1 => Cut::Torn(chance.between(0, 1_000) as usize),
        2 | 3 => Cut::After(Duration::from_micros(chance.between(0, 1_500))),
        4 => Cut::Answered,
        _ => Cut::Delayed(Duration::from_millis(chance.between(1, 300))),
    }
}
