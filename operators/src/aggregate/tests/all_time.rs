//! One row per group over all time, and what silence forgets.

use std::collections::BTreeMap;
use std::sync::Arc;

use waterwheel_config::value::Value;
use waterwheel_pipeline::graph::Deployment;

use super::Contributions;
use super::pools::{self, Flavour};
use crate::testing::{
    Contribution, Event, Expected, ExpectedRows, Message, Model, Prefix, Random, Script, Step,
    Timeline, cases, check, check_random_cuts, check_same_rows, deployment, lateness_us, naive,
    run,
};

/// Never shorter than the times that a pane of it could hold.
const EXPIRES: [Option<&str>; 6] =
    [None, Some("1s"), Some("1m"), Some("7m"), Some("1h"), Some("2d")];

/// An aggregate without windows, over events or over an aggregate whose rows change.
struct Case {
    /// What is between, where anything is.
    between: Option<Model>,
    model: Model,
    expire: Option<&'static str>,
    lateness: Vec<&'static str>,
    deployment: Arc<Deployment>,
}

impl Case {
    fn over_events(random: &mut Random) -> Self {
        let sources = if random.once_in(4) { 2 } else { 1 };
        let lateness: Vec<_> = (0..sources).map(|_| random.pick(&pools::LATENESS)).collect();
        let from = ["events0", "events1"][..sources].to_vec();
        let model = Model { windows: Vec::new(), ..pools::model(random, from) };
        Self::of(None, model, random.pick(&EXPIRES), lateness)
    }

    /// Rows that change: what comes in is taken back.
    fn over_rows(random: &mut Random) -> Self {
        let zone = random.pick(&pools::ZONES);
        let between = super::chained::per_user(random, zone, vec!["1m", "1h"]);
        let model = Model {
            from: vec!["per_user"],
            windows: Vec::new(),
            ..super::chained::distribution(random, zone)
        };
        let lateness = vec![random.pick(&pools::LATENESS)];
        Self::of(Some(between), model, random.pick(&EXPIRES), lateness)
    }

    fn of(
        between: Option<Model>,
        model: Model,
        expire: Option<&'static str>,
        lateness: Vec<&'static str>,
    ) -> Self {
        let deployment = deployment(&lateness, &toml(between.as_ref(), &model, expire));
        let deployment = deployment.expect("a deployment");
        Self { between, model, expire, lateness, deployment }
    }

    fn log(&self, random: &mut Random, count: usize) -> Vec<Message> {
        let flavour = Flavour::random(random);
        let lateness_us = lateness_us(&self.deployment);
        let mut timelines = Timeline::each(random, self.model.zone, &lateness_us);
        pools::log(random, count, &mut timelines, flavour)
    }

    fn is_dead(&self, event: &Event) -> bool {
        self.between.as_ref().unwrap_or(&self.model).is_dead(event)
    }

    fn check(&self, workers: usize, script: &Script) -> Result<(), String> {
        let mut contributions = Contributions::default();
        let is_dead = |event: &Event| self.is_dead(event);
        let expected = &mut |prefix: &Prefix| match &self.between {
            None => {
                contributions.extend(&self.model, prefix);
                vec![self.rows(contributions.all(), prefix.watermark_us)]
            }
            Some(between) => {
                contributions.extend(between, prefix);
                let rows = between.expected(contributions.all());
                let items = between.items(&rows);
                let items = items.iter().filter_map(|row| self.model.contribution(row));
                // Windows begin up to an hour before the watermark.
                let behind_us = if self.model.time == "window_start" { HOUR_US } else { 0 };
                let watermark_us = match prefix.watermark_us {
                    i64::MAX => i64::MAX,
                    watermark_us => watermark_us.saturating_sub(behind_us),
                };
                let over = self.rows(&items.collect::<Vec<_>>(), watermark_us);
                vec![rows, over]
            }
        };
        check(&self.deployment, workers, script, &is_dead, expected)
    }

    /// The rows that are out: of each group the lives that are final, and the first that is not.
    fn rows(&self, contributions: &[Contribution], watermark_us: i64) -> ExpectedRows {
        let mut groups: BTreeMap<&[Value], Vec<&Contribution>> = BTreeMap::new();
        for contribution in contributions {
            groups.entry(contribution.by()).or_default().push(contribution);
        }
        let expire_us = self.expire.map(naive::fixed_length_us);
        let mut all = ExpectedRows::new();
        for mut members in groups.into_values() {
            // The order of what is equal stays.
            members.sort_by_key(|member| member.time_us());
            let mut lives: Vec<Vec<&Contribution>> = Vec::new();
            for member in members {
                let is_new = lives.last().and_then(|life| life.last()).is_none_or(|before| {
                    expire_us.is_some_and(|us| member.time_us() - before.time_us() >= us)
                });
                if is_new {
                    lives.push(Vec::new());
                }
                lives.last_mut().expect("a life").push(member);
            }
            for life in lives {
                let last_us = life[life.len() - 1].time_us();
                let moved: Vec<_> = life.iter().map(|one| one.moved("life", 0, last_us)).collect();
                for (key, mut row) in self.model.expected(&moved) {
                    let last = expire_us.map(|_| Value::Timestamp(last_us));
                    row.extend(last.clone().map(Expected::Is));
                    all.insert(key[2..].iter().cloned().chain(last).collect(), row.split_off(3));
                }
                if expire_us.is_none_or(|us| last_us.saturating_add(us) > watermark_us) {
                    break;
                }
            }
        }
        all
    }

    fn describe(&self, failure: String) -> String {
        let toml = toml(self.between.as_ref(), &self.model, self.expire);
        format!("{toml}lateness {:?}\n{failure}", self.lateness)
    }
}

const HOUR_US: i64 = 3_600_000_000;

fn toml(between: Option<&Model>, model: &Model, expire: Option<&str>) -> String {
    let between = between.map_or_else(String::new, |between| between.toml("per_user"));
    let own = model.toml("total");
    match expire {
        Some(expire) => {
            between + &own.replacen("from =", &format!("expire = \"{expire}\"\nfrom ="), 1)
        }
        None => between + &own,
    }
}

#[test]
fn every_epoch_equals_the_recompute() {
    cases("every epoch over all time equals the recompute", 200, |random| {
        let case = Case::over_events(random);
        let count = random.pick(&[5, 20, 60, 120]);
        let log = case.log(random, count);
        check_random_cuts(&log, random, |workers, script| case.check(workers, script))
            .map_err(|failure| case.describe(failure))
    });
}

#[test]
fn rows_that_change_are_followed() {
    cases("rows that change are followed over all time", 250, |random| {
        let case = Case::over_rows(random);
        let count = random.pick(&[10, 40, 80]);
        let log = case.log(random, count);
        check_random_cuts(&log, random, |workers, script| case.check(workers, script))
            .map_err(|failure| case.describe(failure))
    });
}

#[test]
fn workers_cuts_and_orders_do_not_show() {
    cases("workers, cuts and orders do not show over all time", 60, |random| {
        let case = Case::over_events(random);
        let log = case.log(random, 60);
        check_same_rows(&case.deployment, &log, &|event| case.is_dead(event), random)
            .map_err(|failure| case.describe(failure))
    });
}

#[test]
fn state_goes_with_silence() {
    cases("state goes with silence", 20, |random| {
        let mut case = Case::over_events(random);
        while case.expire.is_none() {
            case = Case::over_events(random);
        }
        let log = case.log(random, 60);
        let mut script = Script::random(&log, random);
        script.add_long_after(case.lateness.len());
        let last = script.steps.len() - 1 - case.lateness.len();
        let alone = Script { steps: script.steps[last..].to_vec(), ..script };
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

#[test]
fn a_group_that_comes_back_begins_anew() {
    let toml = "[operators.total]\ntype = \"aggregate\"\nfrom = \"events0\"\nby = [\"k\"]\n\
                expire = \"1h\"\nmeasures.n = \"count(*)\"\n";
    let deployment = deployment(&["0s"], toml).expect("a deployment");
    let event = |sequence, seconds: i64, key: &str| {
        let payload = format!("{{\"timestamp\":{},\"k\":\"{key}\"}}", 1_000_000_000 + seconds);
        Step::Message(Message { sequence, payload, ..Message::default() })
    };
    let steps = vec![
        event(1, 0, "a"),
        event(2, 3_599, "a"),
        // An hour after the last one is a new life.
        event(3, 7_199, "a"),
        Step::Epoch,
        event(4, 7_200, "b"),
        Step::Epoch,
    ];
    let script = Script { steps, in_flight: 0, is_final: false };
    let run = run(&deployment, 1, &script).expect("a run");
    let changes: Vec<Vec<(String, isize)>> = run
        .epochs
        .iter()
        .map(|epoch| {
            let row = |(row, diff): &(waterwheel_config::value::Row, isize)| {
                let shown: Vec<String> = row.values()[..2].iter().map(Value::to_plain).collect();
                (shown.join(" "), *diff)
            };
            let mut changes: Vec<_> = epoch.changes[0].iter().map(row).collect();
            changes.sort();
            changes
        })
        .collect();
    // The first life is final at once: its row came out, and stays.
    let wanted = [vec![("a 1".to_owned(), 1), ("a 2".to_owned(), 1)], vec![("b 1".to_owned(), 1)]];
    assert_eq!(changes, wanted);
}
