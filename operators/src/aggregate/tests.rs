//! Aggregates against a naive recompute at the end of every epoch, and against themselves under
//! other workers, cuts and orders.

mod chained;
mod examples;
mod pools;

use std::sync::Arc;

use waterwheel_config::units::parse_duration;
use waterwheel_config::value::Row;
use waterwheel_pipeline::graph::Deployment;

use self::pools::Flavour;
use crate::testing::{
    Accumulated, Contribution, Event, Message, Model, Prefix, Random, Script, Step, Timeline,
    cases, check, deployment, minimise, run, shuffled,
};

/// An aggregate over sources, with what they need.
struct Case {
    model: Model,
    lateness: Vec<&'static str>,
    deployment: Arc<Deployment>,
}

impl Case {
    fn random(random: &mut Random) -> Self {
        let sources = if random.once_in(5) { 2 } else { 1 };
        let lateness: Vec<_> = (0..sources).map(|_| random.pick(&pools::LATENESS)).collect();
        let from = ["events0", "events1"][..sources].to_vec();
        Self::of(pools::model(random, from), lateness)
    }

    fn of(model: Model, lateness: Vec<&'static str>) -> Self {
        let deployment = deployment(&lateness, &model.toml("volume")).expect("a deployment");
        Self { model, lateness, deployment }
    }

    fn lateness_us(&self) -> Vec<i64> {
        self.lateness.iter().map(|text| parse_duration(text).expect("a duration")).collect()
    }

    fn log(&self, random: &mut Random, count: usize) -> Vec<Message> {
        let flavour = Flavour::random(random);
        let first = Timeline::new(random, self.model.zone, self.lateness_us()[0]);
        let mut timelines: Vec<Timeline> = self
            .lateness_us()
            .into_iter()
            .map(|lateness_us| first.clone().with_lateness(lateness_us))
            .collect();
        pools::log(random, count, &mut timelines, flavour)
    }

    /// Compares every epoch with the recompute.
    fn check(&self, workers: usize, script: &Script) -> Result<Accumulated, String> {
        let is_dead = |event: &Event| self.model.is_dead(event);
        let mut contributions = Contributions::default();
        let expected = &mut |prefix: &Prefix| {
            contributions.extend(&self.model, prefix);
            vec![self.model.expected(contributions.all())]
        };
        let mut out = check(&self.deployment, workers, script, &is_dead, expected)?;
        Ok(out.remove(0))
    }

    fn describe(&self, failure: String) -> String {
        format!("{}lateness {:?}\n{failure}", self.model.toml("volume"), self.lateness)
    }
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
        let script = Script::random(&log, random);
        let workers = 1 + random.below(3);
        minimise(&script, |script| case.check(workers, script).map(|_| ()))
            .map_err(|failure| case.describe(format!("{workers} workers\n{failure}")))
    });
}

#[test]
fn workers_cuts_and_orders_do_not_show() {
    cases("workers, cuts and orders do not show", 120, |random| {
        let case = Case::random(random);
        let log = case.log(random, 60);
        let final_rows = |workers, script: &Script| -> Result<Vec<Row>, String> {
            let mut out = Accumulated::default();
            for epoch in run(&case.deployment, workers, script)?.epochs {
                out.apply(&epoch.changes[0]);
            }
            out.rows()
        };
        let wanted = final_rows(1, &Script::random(&log, random))?;
        for workers in [1, 2, 3] {
            let is_dead = |event: &Event| case.model.is_dead(event);
            let log = shuffled(&log, &case.lateness_us(), &is_dead, random);
            let script = Script::random(&log, random);
            let found = final_rows(workers, &script)?;
            if found != wanted {
                let failure =
                    format!("{workers} workers\n{found:#?}\ninstead of\n{wanted:#?}\n{script}");
                return Err(case.describe(failure));
            }
        }
        Ok(())
    });
}

#[test]
fn a_level_equals_the_aggregate_with_that_window_alone() {
    cases("a level equals the aggregate with that window alone", 40, |random| {
        let case = Case::random(random);
        let log = case.log(random, 60);
        let script = Script::random(&log, random);
        let mut all = Accumulated::default();
        for epoch in run(&case.deployment, 2, &script)?.epochs {
            all.apply(&epoch.changes[0]);
        }
        let mut apart = Vec::new();
        for window in &case.model.windows {
            let model = Model { windows: vec![window], ..case.model.clone() };
            let single = Case::of(model, case.lateness.clone());
            let mut out = Accumulated::default();
            for epoch in run(&single.deployment, 1, &script)?.epochs {
                out.apply(&epoch.changes[0]);
            }
            apart.extend(out.rows()?);
        }
        apart.sort();
        if all.rows()? == apart { Ok(()) } else { Err(case.describe(script.to_string())) }
    });
}

#[test]
fn state_goes_with_the_windows() {
    cases("state goes with the windows", 30, |random| {
        let case = Case::random(random);
        let log = case.log(random, 60);
        let mut script = Script::random(&log, random);
        // One event per source, long after: only its own windows stay open.
        let after_us = 4_000_000_000_000_000_i64;
        for source in 0..case.lateness.len() {
            let payload = format!("{{\"timestamp\":{after_us}}}");
            let message = Message { source, sequence: 1_000, payload, ..Message::default() };
            script.steps.push(Step::Message(message));
        }
        script.steps.push(Step::Epoch);
        (script.is_final, script.in_flight) = (false, 0);
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
