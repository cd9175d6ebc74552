//! Sessions against the rule of SPEC 4 read out word by word, at the end of every epoch, and against
//! themselves under other workers, cuts and orders.

use std::sync::Arc;

use chrono_tz::Tz;
use waterwheel_config::units::parse_duration;
use waterwheel_config::value::{ColumnType, Value};
use waterwheel_pipeline::graph::Deployment;

use crate::spans::testing::{Entry, Told, WHERE, check_final_rows, in_order, log};
use crate::testing::{
    By, Cell, Event, Expected, ExpectedRows, Holds, Kind, Measure, Message, Model, Prefix, Random,
    RowItem, Script, cases, check, check_random_cuts, check_same_rows, deployment, lateness_us,
    run,
};

/// A row that comes to have more trades leaves again.
const FEW: (&str, Holds) =
    ("trades < 3", |row| row.get("trades").greater(2.0).map(|is_more| !is_more));

/// A sessions operator.
#[derive(Clone)]
struct SessionsModel {
    told: Told,
    gap: &'static str,
}

impl SessionsModel {
    fn toml(&self) -> String {
        format!("{}gap = \"{}\"\n", self.told.toml("sessions", "visits"), self.gap)
    }

    fn gap_us(&self) -> i64 {
        parse_duration(self.gap).expect("a duration")
    }

    /// The rows of all entries.
    fn expected<'a>(
        &self,
        keys: impl IntoIterator<Item = (&'a Vec<String>, &'a Vec<Entry>)>,
    ) -> ExpectedRows {
        let mut rows = ExpectedRows::new();
        for (key, entries) in keys {
            let is_near = |one: &Entry, next: &Entry| next.time_us - one.time_us <= self.gap_us();
            for session in entries.chunk_by(is_near) {
                let row = row(key, session);
                rows.insert(row[..=key.len()].iter().map(Expected::value).collect(), row);
            }
        }
        rows
    }
}

fn row(key: &[String], session: &[Entry]) -> Vec<Expected> {
    let (first, last) = (&session[0], &session[session.len() - 1]);
    let text = |text: &Option<String>| text.as_ref().map_or(Value::Null, |text| Value::text(text));
    let own = [
        Expected::Is(Value::Timestamp(first.time_us)),
        Expected::Is(Value::Timestamp(last.time_us)),
        Expected::bigint(session.len() as i64),
        Expected::near(Some((last.time_us - first.time_us) as f64 / 1_000_000.0)),
        Expected::Is(text(&first.event_type)),
        Expected::Is(text(&last.event_type)),
    ];
    key.iter().map(|text| Expected::Is(Value::text(text))).chain(own).collect()
}

struct Case {
    model: SessionsModel,
    lateness: Vec<&'static str>,
    deployment: Arc<Deployment>,
}

impl Case {
    fn random(random: &mut Random) -> Self {
        let sources = 1 + usize::from(random.once_in(3));
        let lateness: Vec<_> =
            (0..sources).map(|_| random.pick(&["0s", "1s", "30s", "10m", "1d"])).collect();
        let told = Told {
            from: ["events0", "events1"][..sources].to_vec(),
            time: "timestamp",
            by: random.pick(&[
                vec!["user_id"],
                vec!["session_id"],
                vec!["properties.amount", "user_id"],
            ]),
            default_by: "user_id",
            zone: Tz::UTC,
            condition: random.pick(&WHERE),
            marks: Vec::new(),
        };
        let gap = random.pick(&["0s", "1ms", "1s", "10s", "5m", "1h", "1d"]);
        let model = SessionsModel { told, gap };
        let deployment = deployment(&lateness, &model.toml()).expect("a deployment");
        Self { model, lateness, deployment }
    }

    fn log(&self, random: &mut Random, count: usize) -> Vec<Message> {
        log(random, count, Tz::UTC, &lateness_us(&self.deployment), self.model.gap_us())
    }

    fn check(&self, workers: usize, script: &Script) -> Result<(), String> {
        let is_dead = |event: &Event| self.model.told.is_dead(event);
        check(&self.deployment, workers, script, &is_dead, &mut |prefix| {
            vec![self.model.expected(&self.model.told.entries(&prefix.events))]
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

/// Rows of an aggregate as the events of a session: they change, and are taken back, which may part
/// a session in two. An aggregate over the sessions then loses nothing of theirs.
#[test]
fn sessions_over_changing_rows_equal_the_rule_and_lose_nothing() {
    cases("sessions over changing rows equal the rule", 120, |random| {
        let lateness = random.pick(&["0s", "30s", "10m", "1d"]);
        // Rows of one time have no order that a test could know, so there is one window.
        let mut rows = Model::trades_per_user(vec![random.pick(&["1m", "1h"])]);
        let latest = Kind::Greatest(ColumnType::Text);
        // Some rows have no type.
        let sql = "max(cast(event_type as text)) FILTER (WHERE properties.amount > 2)";
        let kind = Measure::new("event_type", sql, latest, |e, _| e.get("event_type"));
        rows.measures.push(kind.filtered(|e| e.get("properties.amount").greater(2.0)));
        let told = Told {
            from: vec!["per_user"],
            time: random.pick(&["window_start", "window_end"]),
            by: vec!["user_id"],
            default_by: "user_id",
            zone: Tz::UTC,
            condition: random.pick(&[None, Some(FEW)]),
            marks: Vec::new(),
        };
        let visits = SessionsModel { told, gap: random.pick(&["0s", "1m", "5m", "1h", "1d"]) };
        let counts = counts();
        let operators = rows.toml("per_user") + &visits.toml() + &counts.toml("counts");
        let deployment = deployment(&[lateness], &operators).expect("a deployment");
        let expected = |prefix: &Prefix| {
            let trades: Vec<_> =
                prefix.events.iter().filter_map(|e| rows.contribution(e)).collect();
            let trades = rows.expected(&trades);
            let entries = rows.items(&trades);
            let keys = in_order(entries.iter().filter_map(|row| visits.told.entry(row, 0, 0)));
            let visits = visits.expected(&keys);
            let counted: Vec<_> =
                items(&visits).iter().filter_map(|row| counts.contribution(row)).collect();
            let counts = counts.expected(&counted);
            vec![trades, visits, counts]
        };
        let count = random.pick(&[8, 40, 80]);
        let log = match random.below(3) {
            0 => bursts(random, count as u64),
            _ => log(random, count, Tz::UTC, &lateness_us(&deployment), visits.gap_us()),
        };
        let is_dead = |event: &Event| rows.is_dead(event);
        check_random_cuts(&log, random, |workers, script| {
            check(&deployment, workers, script, &is_dead, &mut |prefix| expected(prefix))
        })
        .map_err(|failure| format!("{operators}lateness {lateness}\n{failure}"))
    });
}

/// Rows that come, change, and go with their third trade (see [`FEW`]): nothing is left of a key.
fn bursts(random: &mut Random, count: u64) -> Vec<Message> {
    let mut time_us = 1_700_000_000_000_000;
    let message = |index: u64| {
        if index.is_multiple_of(3) {
            time_us += 60_000_000 * (1 + random.below_i64(3));
        }
        let payload = format!(
            "{{\"timestamp\":{time_us},\"user_id\":\"u1\",\"event_type\":\"visit\",\
             \"properties\":{{\"amount\":{}}}}}",
            random.below(5)
        );
        let (sequence, received_at_us) = (index + 1, Some(time_us));
        Message { sequence, received_at_us, payload, ..Message::default() }
    };
    (0..count).map(message).collect()
}

/// How many sessions end when, and how many events they have.
fn counts() -> Model {
    let all = Measure::new("sessions", "count(*)", Kind::Count, |_, _| Cell::Boolean(true));
    let events = Measure::new("total", "sum(events)", Kind::Sum, |row, _| row.get("events"));
    Model {
        from: vec!["visits"],
        time: "session_end",
        zone: Tz::UTC,
        windows: vec!["1m", "1d"],
        condition: None,
        by: vec![By::text("user_id", "user_id", |row, _| row.get("user_id"))],
        measures: vec![all, events],
    }
}

fn items(rows: &ExpectedRows) -> Vec<RowItem> {
    const COLUMNS: [&str; 7] = [
        "user_id",
        "session_start",
        "session_end",
        "events",
        "duration_seconds",
        "first_type",
        "last_type",
    ];
    let cells = |row: &Vec<Expected>| -> Vec<Cell> {
        row.iter().map(|expected| Cell::from_value(&expected.value())).collect()
    };
    rows.values().map(|row| RowItem(COLUMNS.into_iter().zip(cells(row)).collect())).collect()
}

#[test]
fn state_goes_with_the_sessions() {
    cases("state goes with the sessions", 30, |random| {
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

/// Neither the length of a session nor the number of those that were counts for the state.
#[test]
fn state_is_that_of_the_open_sessions() {
    let toml = "[operators.visits]\ntype = \"sessions\"\nfrom = \"events0\"\ngap = \"10s\"\n";
    let deployment = deployment(&["5s"], toml).expect("a deployment");
    // One user never stops; the others have a session of 20 events each, one after another.
    let message = |index: u64| {
        let time_us = 1_800_000_000_000_000 + index.cast_signed() * 250_000;
        let user =
            if index.is_multiple_of(2) { "always".to_owned() } else { format!("u{}", index / 40) };
        let payload = format!("{{\"timestamp\":{time_us},\"user_id\":\"{user}\"}}");
        Message { sequence: index, received_at_us: Some(time_us), payload, ..Message::default() }
    };
    let log: Vec<Message> = (1..=4_000).map(message).collect();
    let mut script = Script::random(&log, &mut Random::new(1));
    script.steps.clear();
    for messages in log.chunks(20) {
        script.steps.extend(messages.iter().cloned().map(crate::testing::Step::Message));
        script.steps.push(crate::testing::Step::Epoch);
    }
    // What is read after an epoch is the state after that epoch.
    (script.is_final, script.in_flight) = (false, 0);
    let run = run(&deployment, 2, &script).expect("a run");
    let bytes: Vec<usize> = run.epochs.iter().map(|epoch| epoch.state_bytes[0]).collect();
    let (early, late) = (&bytes[20..60], &bytes[60..]);
    let (early, late) = (early.iter().max().expect("some"), late.iter().max().expect("some"));
    assert!(*late > 0 && late <= &(early + early / 4), "{early} bytes early, {late} late");
}
