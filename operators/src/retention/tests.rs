//! Retention against the rule of SPEC 4 read out word by word, at the end of every epoch, and against
//! itself under other workers, cuts and orders.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono_tz::Tz;
use waterwheel_config::value::Value;
use waterwheel_pipeline::graph::Deployment;

use crate::spans::testing::{CONDITIONS, Entry, Told, WHERE, check_final_rows, in_order, log};
use crate::testing::{
    Cell, Event, Expected, ExpectedRows, Holds, Message, Model, Prefix, Random, Script, Step,
    cases, check, check_random_cuts, check_same_rows, deployment, final_rows, lateness_us, naive,
    run,
};

const DAY_US: i64 = 86_400_000_000;

const RETURNS: [(&str, Holds); 2] = [
    ("trades > 1", |row| row.get("trades").greater(1.0)),
    ("trades > 0", |row| row.get("trades").greater(0.0)),
];

/// A retention operator.
#[derive(Clone)]
struct RetentionModel {
    told: Told,
    period: &'static str,
    periods: usize,
}

impl RetentionModel {
    fn toml(&self) -> String {
        let told = self.told.toml("retention", "cohorts");
        format!("{told}period = \"{}\"\nperiods = {}\n", self.period, self.periods)
    }

    fn window(&self, time_us: i64) -> (i64, i64) {
        naive::window(self.period, self.told.zone, time_us)
    }

    /// How many periods after that of `start_us` a moment is, from 0 on.
    fn period(&self, start_us: i64, time_us: i64) -> usize {
        let (mut period, (_, mut end_us)) = (0, self.window(start_us));
        while end_us <= time_us {
            (period, end_us) = (period + 1, self.window(end_us).1);
        }
        period
    }

    /// The rows of all entries.
    fn expected<'a>(&self, users: impl IntoIterator<Item = &'a Vec<Entry>>) -> ExpectedRows {
        // By cohort the members, each with the periods in which they came back.
        let mut cohorts: BTreeMap<i64, Vec<Vec<usize>>> = BTreeMap::new();
        for entries in users {
            let mut forgotten_from_us = i64::MIN;
            for start in entries.iter().filter(|entry| entry.marks[0]) {
                let is_member = start.time_us < forgotten_from_us;
                if is_member {
                    continue;
                }
                let (cohort_us, mut end_us) = self.window(start.time_us);
                for _ in 1..self.periods {
                    end_us = self.window(end_us).1;
                }
                forgotten_from_us = end_us;
                let returns = entries.iter().filter(|entry| {
                    entry.marks[1] && (start.time_us..end_us).contains(&entry.time_us)
                });
                let periods = returns.map(|entry| self.period(start.time_us, entry.time_us));
                cohorts.entry(cohort_us).or_default().push(periods.collect());
            }
        }
        let mut rows = ExpectedRows::new();
        for (cohort_us, members) in cohorts {
            for period in 0..self.periods {
                let users = members.iter().filter(|periods| periods.contains(&period)).count();
                if users == 0 && period > 0 {
                    continue;
                }
                let key = vec![Value::Timestamp(cohort_us), Value::Bigint(period as i64)];
                let counted = [
                    Expected::bigint(members.len() as i64),
                    Expected::bigint(users as i64),
                    Expected::near(Some(users as f64 / members.len() as f64)),
                ];
                let row = key.iter().cloned().map(Expected::Is).chain(counted).collect();
                rows.insert(key, row);
            }
        }
        rows
    }
}

struct Case {
    model: RetentionModel,
    lateness: Vec<&'static str>,
    deployment: Arc<Deployment>,
}

impl Case {
    fn random(random: &mut Random) -> Self {
        let sources = 1 + usize::from(random.once_in(3));
        let lateness: Vec<_> =
            (0..sources).map(|_| random.pick(&["0s", "1s", "10m", "1d", "1w"])).collect();
        let told = Told {
            from: ["events0", "events1"][..sources].to_vec(),
            time: "timestamp",
            by: vec![random.pick(&["user_id", "session_id"])],
            default_by: "user_id",
            zone: random.pick(&[Tz::UTC, Tz::Europe__Berlin, Tz::America__New_York]),
            condition: random.pick(&WHERE),
            marks: vec![("start", random.pick(&CONDITIONS)), ("return", random.pick(&CONDITIONS))],
        };
        let period = random.pick(&["1d", "1d", "1w", "1mo"]);
        let model = RetentionModel { told, period, periods: random.pick(&[1, 2, 3, 7, 70]) };
        let deployment = deployment(&lateness, &model.toml()).expect("a deployment");
        Self { model, lateness, deployment }
    }

    fn log(&self, random: &mut Random, count: usize) -> Vec<Message> {
        let bound_us = random.pick(&[0, DAY_US]);
        log(random, count, self.model.told.zone, &lateness_us(&self.deployment), bound_us)
    }

    fn check(&self, workers: usize, script: &Script) -> Result<(), String> {
        let is_dead = |event: &Event| self.model.told.is_dead(event);
        check(&self.deployment, workers, script, &is_dead, &mut |prefix| {
            vec![self.model.expected(self.model.told.entries(&prefix.events).values())]
        })
    }

    fn describe(&self, failure: String) -> String {
        format!("{}lateness {:?}\n{failure}", self.model.toml(), self.lateness)
    }
}

#[test]
fn every_epoch_equals_the_rule() {
    cases("every epoch equals the rule", 200, |random| {
        let case = Case::random(random);
        let count = random.pick(&[5, 20, 60, 150]);
        let log = case.log(random, count);
        check_random_cuts(&log, random, |workers, script| case.check(workers, script))
            .map_err(|failure| case.describe(failure))
    });
}

#[test]
fn workers_cuts_and_orders_do_not_show() {
    cases("workers, cuts and orders do not show", 50, |random| {
        let case = Case::random(random);
        let log = case.log(random, 60);
        check_same_rows(&case.deployment, &log, &|event| case.model.told.is_dead(event), random)
            .map_err(|failure| case.describe(failure))
    });
}

#[test]
fn what_is_final_stays_as_it_is() {
    cases("what is final stays as it is", 100, |random| {
        let case = Case::random(random);
        if case.lateness.len() > 1 {
            return Ok(());
        }
        let log = case.log(random, 80);
        check_final_rows(&case.deployment, &log).map_err(|failure| case.describe(failure))
    });
}

/// Rows of an aggregate as starts and returns: they become what they were not, and are taken back.
#[test]
fn retention_over_changing_rows_equals_the_rule() {
    cases("retention over changing rows equals the rule", 120, |random| {
        let lateness = random.pick(&["0s", "10m", "1d", "1w"]);
        let rows = Model::trades_per_user(vec![random.pick(&["1m", "1h", "1d"])]);
        let told = Told {
            from: vec!["per_user"],
            time: random.pick(&["window_start", "window_end"]),
            by: vec!["user_id"],
            default_by: "user_id",
            zone: random.pick(&[Tz::UTC, Tz::Europe__Berlin]),
            condition: None,
            marks: vec![
                ("start", ("trades = 1", |row| Some(row.get("trades") == Cell::Integer(1)))),
                ("return", random.pick(&RETURNS)),
            ],
        };
        let (period, periods) = (random.pick(&["1d", "1w"]), random.pick(&[1, 2, 5]));
        let cohorts = RetentionModel { told, period, periods };
        let operators = rows.toml("per_user") + &cohorts.toml();
        let deployment = deployment(&[lateness], &operators).expect("a deployment");
        let expected = |prefix: &Prefix| {
            let trades: Vec<_> =
                prefix.events.iter().filter_map(|event| rows.contribution(event)).collect();
            let trades = rows.expected(&trades);
            let entries = rows.items(&trades);
            let users = in_order(entries.iter().filter_map(|row| cohorts.told.entry(row, 0, 0)));
            let cohorts = cohorts.expected(users.values());
            vec![trades, cohorts]
        };
        let count = random.pick(&[8, 40, 80]);
        let log = log(random, count, Tz::UTC, &lateness_us(&deployment), DAY_US);
        let is_dead = |event: &Event| rows.is_dead(event);
        check_random_cuts(&log, random, |workers, script| {
            check(&deployment, workers, script, &is_dead, &mut |prefix| expected(prefix))
        })
        .map_err(|failure| format!("{operators}lateness {lateness}\n{failure}"))
    });
}

#[test]
fn state_goes_with_the_memberships() {
    cases("state goes with the memberships", 30, |random| {
        let case = Case::random(random);
        let log = case.log(random, 60);
        let mut script = Script::random(&log, random);
        // These events belong to nobody.
        script.add_long_after(case.lateness.len());
        let run = run(&case.deployment, 2, &script)?;
        match run.epochs.last().map(|epoch| epoch.state_bytes[0]) {
            Some(0) => Ok(()),
            left => Err(case.describe(format!("{left:?} bytes are left\n{script}"))),
        }
    });
}

/// A hundred periods of new users, of whom the state holds those of the last three.
#[test]
fn state_is_that_of_the_open_memberships() {
    let toml = "[operators.cohorts]\ntype = \"retention\"\nfrom = \"events0\"\nstart = \"true\"\n\
        return = \"true\"\nperiod = \"1d\"\nperiods = 3\n";
    let deployment = deployment(&["1h"], toml).expect("a deployment");
    let message = |index: u64| {
        let time_us = 1_800_000_000_000_000 + index.cast_signed() * DAY_US / 20;
        // Each of them comes five times on a day, and on the next.
        let user = index / 20 * 4 + index % 4 - if index % 20 < 10 { 0 } else { 4 };
        let payload = format!("{{\"timestamp\":{time_us},\"user_id\":\"u{user}\"}}");
        Message { sequence: index, received_at_us: Some(time_us), payload, ..Message::default() }
    };
    let mut script = Script { steps: Vec::new(), in_flight: 0, is_final: false };
    for day in 1..=100 {
        script.steps.extend((day * 20..day * 20 + 20).map(message).map(Step::Message));
        script.steps.push(Step::Epoch);
    }
    let run = run(&deployment, 2, &script).expect("a run");
    let bytes: Vec<usize> = run.epochs.iter().map(|epoch| epoch.state_bytes[0]).collect();
    let (early, late) = (&bytes[5..20], &bytes[20..]);
    let (early, late) = (early.iter().max().expect("some"), late.iter().max().expect("some"));
    assert!(*late > 0 && late <= &(early + early / 4), "{early} bytes early, {late} late");
}

/// A period is a bit of a word, and there may be more periods than a word has bits.
#[test]
fn members_come_back_after_many_periods() {
    let toml = "[operators.cohorts]\ntype = \"retention\"\nfrom = \"events0\"\n\
        start = \"event_type = 'signup'\"\nreturn = \"event_type = 'visit'\"\n\
        period = \"1d\"\nperiods = 70\n";
    let deployment = deployment(&["1h"], toml).expect("a deployment");
    let days = [(0, "signup"), (63, "visit"), (64, "visit"), (69, "visit"), (70, "visit")];
    let steps = days.into_iter().zip(1..).flat_map(|((day, kind), sequence)| {
        let seconds = 1_767_225_600 + day * 86_400;
        let payload =
            format!("{{\"timestamp\":{seconds},\"event_type\":\"{kind}\",\"user_id\":\"u\"}}");
        [Step::Message(Message { sequence, payload, ..Message::default() }), Step::Epoch]
    });
    let script = Script { steps: steps.collect(), in_flight: 0, is_final: false };
    let run = run(&deployment, 2, &script).expect("a run");
    let rows = final_rows(&run, 0).expect("rows");
    let found: Vec<String> = rows
        .iter()
        .map(|row| row.values().iter().map(Value::to_plain).collect::<Vec<_>>().join(" "))
        .collect();
    let expected = ["0 1 0 0", "63 1 1 1", "64 1 1 1", "69 1 1 1"];
    assert_eq!(found, expected.map(|row| format!("2026-01-01T00:00:00Z {row}")));
}
