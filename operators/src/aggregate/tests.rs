//! Aggregates against a naive recompute at the end of every epoch, and against themselves under
//! other workers, cuts and orders.

mod all_time;
mod chained;
mod compared;
mod examples;
mod pools;

use std::sync::Arc;

use waterwheel_pipeline::graph::Deployment;

use self::compared::with_changes;
use self::pools::Flavour;
use crate::testing::{
    Contribution, Event, Message, Model, Prefix, Random, Script, Timeline, cases, check,
    check_random_cuts, check_same_rows, deployment, final_rows, lateness_us, run,
};

/// An aggregate over sources, with what they need.
struct Case {
    model: Model,
    is_compared: bool,
    lateness: Vec<&'static str>,
    deployment: Arc<Deployment>,
}

impl Case {
    fn random(random: &mut Random) -> Self {
        let sources = if random.once_in(5) { 2 } else { 1 };
        let lateness: Vec<_> = (0..sources).map(|_| random.pick(&pools::LATENESS)).collect();
        let from = ["events0", "events1"][..sources].to_vec();
        let mut model = pools::model(random, from);
        let is_compared = random.once_in(4);
        if is_compared {
            // One of the measures is a number.
            model.measures.insert(0, pools::MEASURES[0]);
            model.measures.dedup_by_key(|measure| measure.alias);
        }
        Self::of(model, is_compared, lateness)
    }

    fn of(model: Model, is_compared: bool, lateness: Vec<&'static str>) -> Self {
        let deployment = deployment(&lateness, &toml(&model, is_compared)).expect("a deployment");
        Self { model, is_compared, lateness, deployment }
    }

    fn log(&self, random: &mut Random, count: usize) -> Vec<Message> {
        let flavour = Flavour::random(random);
        let lateness_us = lateness_us(&self.deployment);
        let mut timelines = Timeline::each(random, self.model.zone, &lateness_us);
        pools::log(random, count, &mut timelines, flavour)
    }

    /// Compares every epoch with the recompute.
    fn check(&self, workers: usize, script: &Script) -> Result<(), String> {
        let is_dead = |event: &Event| self.model.is_dead(event);
        let mut contributions = Contributions::default();
        let expected = &mut |prefix: &Prefix| {
            contributions.extend(&self.model, prefix);
            let rows = self.model.expected(contributions.all());
            vec![if self.is_compared { with_changes(&self.model, rows) } else { rows }]
        };
        check(&self.deployment, workers, script, &is_dead, expected)
    }

    fn describe(&self, failure: String) -> String {
        let toml = toml(&self.model, self.is_compared);
        format!("{toml}lateness {:?}\n{failure}", self.lateness)
    }
}

fn toml(model: &Model, is_compared: bool) -> String {
    let compare = if is_compared { "compare = \"previous\"\nfrom =" } else { "from =" };
    model.toml("volume").replacen("from =", compare, 1)
}

/// What the events of a prefix add; kept from epoch to epoch.
#[derive(Default)]
struct Contributions {
    seen: usize,
    kept: Vec<Contribution>,
}

impl Contributions {
    fn extend(&mut self, model: &Model, prefix: &Prefix) {
        let new = prefix.events[self.seen..].iter();
        self.kept.extend(new.filter_map(|event| model.contribution(event)));
        self.seen = prefix.events.len();
    }

    fn all(&self) -> &[Contribution] {
        &self.kept
    }
}

#[test]
fn every_epoch_equals_the_recompute() {
    cases("every epoch equals the recompute", 500, |random| {
        let case = Case::random(random);
        let count = random.pick(&[5, 20, 60, 120]);
        let log = case.log(random, count);
        check_random_cuts(&log, random, |workers, script| case.check(workers, script))
            .map_err(|failure| case.describe(failure))
    });
}

#[test]
fn workers_cuts_and_orders_do_not_show() {
    cases("workers, cuts and orders do not show", 120, |random| {
        let case = Case::random(random);
        let log = case.log(random, 60);
        check_same_rows(&case.deployment, &log, &|event| case.model.is_dead(event), random)
            .map_err(|failure| case.describe(failure))
    });
}

#[test]
fn a_level_equals_the_aggregate_with_that_window_alone() {
    cases("a level equals the aggregate with that window alone", 40, |random| {
        let case = Case::random(random);
        let log = case.log(random, 60);
        let script = Script::random(&log, random);
        let all = final_rows(&run(&case.deployment, 2, &script)?, 0)?;
        let mut apart = Vec::new();
        for window in &case.model.windows {
            let model = Model { windows: vec![window], ..case.model.clone() };
            let single = Case::of(model, case.is_compared, case.lateness.clone());
            apart.extend(final_rows(&run(&single.deployment, 1, &script)?, 0)?);
        }
        apart.sort();
        if all == apart { Ok(()) } else { Err(case.describe(script.to_string())) }
    });
}

#[test]
fn state_goes_with_the_windows() {
    cases("state goes with the windows", 30, |random| {
        let case = Case::random(random);
        let log = case.log(random, 60);
        let mut script = Script::random(&log, random);
        // Only the windows of these events stay open.
        script.add_long_after(case.lateness.len());
        let alone = Script {
            steps: script.steps[script.steps.len() - 1 - case.lateness.len()..].to_vec(),
            ..script
        };
        let state = |script: &Script| -> Result<usize, String> {
            let run = run(&case.deployment, 2, script)?;
            Ok(run.epochs.last().expect("an epoch").state_bytes[0])
        };
        let (found, wanted) = (state(&script)?, state(&alone)?);
        script.is_final = true;
        let at_end = state(&script)?;
        if (found, at_end) == (wanted, 0) {
            return Ok(());
        }
        let failure = format!("{found} bytes, expected {wanted}; at the end {at_end}\n{script}");
        Err(case.describe(failure))
    });
}
