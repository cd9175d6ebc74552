//! Aggregates over aggregates: what comes in changes and disappears again.

use std::sync::Arc;

use chrono_tz::Tz;
use waterwheel_config::value::ColumnType;
use waterwheel_pipeline::graph::Deployment;

use super::Contributions;
use super::pools::{self, Flavour};
use crate::testing::{
    By, Cell, Event, Holds, Kind, Measure, Message, Model, Prefix, Random, Script, Step, Timeline,
    cases, check, check_random_cuts, deployment, final_rows, lateness_us, run,
};

/// Sums, counts and names per group: what the second aggregate reads.
const FIRST: [Measure; 3] = [
    Measure::new("trades", "count(*)", Kind::Count, |_, _| Cell::Boolean(true)),
    Measure::new("volume", "sum(properties.quantity)", Kind::Sum, |e, _| {
        e.get("properties.quantity")
    }),
    Measure::new(
        "venue",
        "max(cast(properties.venue as text))",
        Kind::Greatest(ColumnType::Text),
        |e, _| e.get("properties.venue"),
    ),
];

const BY: [By; 4] = [
    By { alias: "trades", sql: "trades", kind: ColumnType::Bigint, get: |r, _| r.get("trades") },
    By::text("venue", "venue", |r, _| r.get("venue")),
    By::text("user_id", "user_id", |r, _| r.get("user_id")),
    By {
        alias: "began",
        sql: "window_start",
        kind: ColumnType::Timestamp,
        get: |r, _| r.get("window_start"),
    },
];

const CONDITIONS: [Option<(&str, Holds)>; 4] = [
    None,
    Some(("granularity = '1m'", |r| Some(r.get("granularity").is_text("1m")))),
    Some(("trades > 1", |r| r.get("trades").greater(1.0))),
    Some(("volume > 3", |r| r.get("volume").greater(3.0))),
];

const MEASURES: [Measure; 18] = [
    Measure::new("groups", "count(*)", Kind::Count, |_, _| Cell::Boolean(true)),
    Measure::new("volumes", "count(distinct volume)", Kind::Distinct, |r, _| r.get("volume")),
    Measure::new("sizes", "count(distinct trades)", Kind::Distinct, |r, _| r.get("trades")),
    Measure::new("total", "sum(volume)", Kind::Sum, |r, _| r.get("volume")),
    Measure::new("events", "sum(trades)", Kind::Sum, |r, _| r.get("trades")),
    Measure::new("mean", "avg(volume)", Kind::Average, |r, _| r.get("volume")),
    Measure::new("low", "min(volume)", Kind::Least(ColumnType::Double), |r, _| r.get("volume")),
    Measure::new("high", "max(volume)", Kind::Greatest(ColumnType::Double), |r, _| r.get("volume")),
    Measure::new("fewest", "min(trades)", Kind::Least(ColumnType::Bigint), |r, _| r.get("trades")),
    Measure::new("last_venue", "max(venue)", Kind::Greatest(ColumnType::Text), |r, _| {
        r.get("venue")
    }),
    Measure::new("middle", "median(volume)", Kind::Quantile(500), |r, _| r.get("volume")),
    Measure::new("p90", "quantile(0.9, trades)", Kind::Quantile(900), |r, _| r.get("trades")),
    Measure::new("busy", "share(trades > 2)", Kind::Share, |r, _| {
        r.get("trades").greater(2.0).map_or(Cell::Null, Cell::Boolean)
    }),
    Measure::new("spread", "stddev(volume)", Kind::Deviation, |r, _| r.get("volume")),
    Measure::new("opening", "first(volume)", Kind::First(ColumnType::Double), |r, _| {
        r.get("volume")
    }),
    Measure::new("closing", "last(trades)", Kind::Last(ColumnType::Bigint), |r, _| r.get("trades")),
    Measure::new("last_name", "last(venue)", Kind::Last(ColumnType::Text), |r, _| r.get("venue")),
    Measure::new("venue_breakdown", "venue", Kind::Breakdown, |r, _| r.get("venue")),
];

/// What is read by the second aggregate.
pub(super) fn per_user(random: &mut Random, zone: Tz, windows: Vec<&'static str>) -> Model {
    Model {
        from: vec!["events0"],
        time: "timestamp",
        zone,
        windows,
        condition: random.pick(&pools::CONDITIONS),
        by: vec![By::text("user_id", "user_id", |e, _| e.get("user_id"))],
        measures: FIRST.to_vec(),
    }
}

/// A random aggregate over the rows of one in a zone.
pub(super) fn distribution(random: &mut Random, zone: Tz) -> Model {
    Model {
        from: vec!["per_user"],
        time: random.pick(&["window_start", "window_end"]),
        zone: random.pick(&[zone, zone, Tz::UTC]),
        windows: random.pick(&pools::WINDOWS).to_vec(),
        condition: random.pick(&CONDITIONS),
        by: random.some(&BY, 0, 2),
        measures: pools::measures(random, &MEASURES, 6),
    }
}

/// `distribution` reads `per_user`, which reads the events.
struct Chain {
    per_user: Model,
    distribution: Model,
    lateness: &'static str,
    deployment: Arc<Deployment>,
}

impl Chain {
    fn random(random: &mut Random) -> Self {
        let zone = random.pick(&pools::ZONES);
        let windows = random.pick(&pools::WINDOWS).to_vec();
        let per_user = per_user(random, zone, windows);
        let distribution = distribution(random, zone);
        let lateness = random.pick(&pools::LATENESS);
        let operators = per_user.toml("per_user") + &distribution.toml("distribution");
        let deployment = deployment(&[lateness], &operators).expect("a deployment");
        Self { per_user, distribution, lateness, deployment }
    }

    fn log(&self, random: &mut Random) -> Vec<Message> {
        let lateness_us = lateness_us(&self.deployment);
        let mut timelines = Timeline::each(random, self.per_user.zone, &lateness_us);
        let count = random.pick(&[10, 40, 80]);
        let flavour = Flavour::random(random);
        pools::log(random, count, &mut timelines, flavour)
    }

    fn check(&self, workers: usize, script: &Script) -> Result<(), String> {
        let is_dead = |event: &Event| self.per_user.is_dead(event);
        let mut contributions = Contributions::default();
        let expected = &mut |prefix: &Prefix| {
            contributions.extend(&self.per_user, prefix);
            let rows = self.per_user.expected(contributions.all());
            let second: Vec<_> = self
                .per_user
                .items(&rows)
                .iter()
                .filter_map(|row| self.distribution.contribution(row))
                .collect();
            vec![rows, self.distribution.expected(&second)]
        };
        check(&self.deployment, workers, script, &is_dead, expected)
    }

    fn describe(&self, failure: String) -> String {
        let operators = self.per_user.toml("per_user") + &self.distribution.toml("distribution");
        format!("{operators}lateness {}\n{failure}", self.lateness)
    }
}

#[test]
fn an_aggregate_over_an_aggregate_equals_the_recompute() {
    cases("an aggregate over an aggregate equals the recompute", 300, |random| {
        let chain = Chain::random(random);
        let log = chain.log(random);
        check_random_cuts(&log, random, |workers, script| chain.check(workers, script))
            .map_err(|failure| chain.describe(failure))
    });
}

#[test]
fn retractions_leave_no_trace() {
    cases("retractions leave no trace", 50, |random| {
        let chain = Chain::random(random);
        let log = chain.log(random);
        let end = |script: &Script| -> Result<_, String> {
            let run = run(&chain.deployment, 2, script)?;
            Ok((final_rows(&run, 1)?, run.epochs.last().map(|epoch| epoch.state_bytes.clone())))
        };
        let mut script = Script::random(&log, random);
        let mut at_once = Script { steps: Vec::new(), in_flight: 0, is_final: true };
        at_once.steps.extend(log.into_iter().map(Step::Message));
        script.is_final = true;
        let (one, other) = (end(&script)?, end(&at_once)?);
        if one == other && one.1 == Some(vec![0, 0]) {
            return Ok(());
        }
        Err(chain.describe(format!("{one:#?}\n{other:#?}\n{script}")))
    });
}
