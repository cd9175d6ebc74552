//! Flows against the rule of SPEC 4 read out word by word, at the end of every epoch, and against
//! themselves under other workers, cuts and orders.

use std::sync::Arc;

use chrono_tz::Tz;
use waterwheel_config::units::parse_duration;
use waterwheel_config::value::{ColumnType, Value};
use waterwheel_pipeline::contract::epoch::{FINAL_WATERMARK, NO_WATERMARK};
use waterwheel_pipeline::graph::{Deployment, explain};

use crate::spans::testing::{CONDITIONS, Entry, Told, WHERE, check_final_rows, in_order, log};
use crate::testing::{
    By, Cell, Event, Expected, ExpectedRows, Kind, Measure, Message, Model, Prefix, Random,
    RowItem, Script, Step, cases, check, check_random_cuts, check_same_rows, deployment,
    lateness_us, run,
};

/// A flow operator.
#[derive(Clone)]
struct FlowModel {
    told: Told,
    timeout: &'static str,
}

impl FlowModel {
    fn toml(&self) -> String {
        format!("{}timeout = \"{}\"\n", self.told.toml("flow", "flows"), self.timeout)
    }

    fn timeout_us(&self) -> i64 {
        parse_duration(self.timeout).expect("a duration")
    }

    /// The rows of all entries under a watermark.
    fn expected<'a>(
        &self,
        keys: impl IntoIterator<Item = (&'a Vec<String>, &'a Vec<Entry>)>,
        watermark_us: i64,
    ) -> ExpectedRows {
        let mut rows = ExpectedRows::new();
        for (key, entries) in keys {
            let mut rest = entries.as_slice();
            while let Some(first) = rest.first() {
                let end_us = first.time_us + self.timeout_us();
                let (flow, others) =
                    rest.split_at(rest.partition_point(|entry| entry.time_us <= end_us));
                let row = self.row(key, flow, watermark_us > end_us);
                rows.insert(row[..=key.len()].iter().map(Expected::value).collect(), row);
                rest = others;
            }
        }
        rows
    }

    fn row(&self, key: &[String], flow: &[Entry], is_over: bool) -> Vec<Expected> {
        let (first, last) = (&flow[0], &flow[flow.len() - 1]);
        let done = flow.iter().find(|entry| entry.marks[0]);
        let status = match done {
            Some(_) => "done",
            None if is_over => "timed_out",
            None => "open",
        };
        let duration_us = done.unwrap_or(last).time_us - first.time_us;
        let path: Vec<&Option<String>> =
            flow.iter().take(64).map(|entry| &entry.event_type).collect();
        let path = serde_json::to_string(&path).expect("JSON");
        let own = [
            Expected::Is(Value::Timestamp(first.time_us)),
            Expected::Is(Value::Timestamp(last.time_us)),
            Expected::bigint(flow.len() as i64),
            Expected::Is(Value::text(status)),
            Expected::near(Some(duration_us as f64 / 1_000.0)),
            Expected::Is(Value::Json(path.into())),
        ];
        key.iter().map(|text| Expected::Is(Value::text(text))).chain(own).collect()
    }
}

struct Case {
    model: FlowModel,
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
                vec!["correlation_id"],
                vec!["user_id"],
                vec!["session_id", "correlation_id"],
            ]),
            default_by: "correlation_id",
            zone: Tz::UTC,
            condition: random.pick(&WHERE),
            marks: vec![("done", random.pick(&CONDITIONS))],
        };
        let timeout = random.pick(&["0s", "1ms", "1s", "10s", "5m", "1h", "1d"]);
        let model = FlowModel { told, timeout };
        let deployment = deployment(&lateness, &model.toml()).expect("a deployment");
        Self { model, lateness, deployment }
    }

    fn log(&self, random: &mut Random, count: usize) -> Vec<Message> {
        log(random, count, Tz::UTC, &lateness_us(&self.deployment), self.model.timeout_us())
    }

    fn check(&self, workers: usize, script: &Script) -> Result<(), String> {
        let is_dead = |event: &Event| self.model.told.is_dead(event);
        check(&self.deployment, workers, script, &is_dead, &mut |prefix| {
            vec![self.model.expected(&self.model.told.entries(&prefix.events), prefix.watermark_us)]
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

/// Rows of an aggregate as the events of a flow: they change type and what they mean, and are taken
/// back. An aggregate over the flows then loses nothing of theirs.
#[test]
fn flows_over_changing_rows_equal_the_rule_and_lose_nothing() {
    cases("flows over changing rows equal the rule", 120, |random| {
        let lateness = random.pick(&["0s", "30s", "10m", "1d"]);
        // Rows of one time have no order that a test could know, so there is one window.
        let (window, longest_us) = random.pick(&[("1m", 60_000_000), ("1h", 3_600_000_000)]);
        let mut rows = Model::trades_per_user(vec![window]);
        let latest = Kind::Greatest(ColumnType::Text);
        let sql = "max(cast(event_type as text))";
        rows.measures.push(Measure::new("event_type", sql, latest, |e, _| e.get("event_type")));
        let time = random.pick(&["window_start", "window_end"]);
        let behind_us = if time == "window_start" { longest_us } else { 0 };
        let told = Told {
            from: vec!["per_user"],
            time,
            by: vec!["user_id"],
            default_by: "correlation_id",
            zone: Tz::UTC,
            condition: None,
            marks: vec![("done", ("trades > 2", |row| row.get("trades").greater(2.0)))],
        };
        let flows = FlowModel { told, timeout: random.pick(&["0s", "1m", "5m", "1h", "1d"]) };
        let counts = counts_by_status(random.pick(&["started_at", "last_at"]));
        let operators = rows.toml("per_user") + &flows.toml() + &counts.toml("counts");
        let deployment = deployment(&[lateness], &operators).expect("a deployment");
        let expected = |prefix: &Prefix| {
            let trades: Vec<_> =
                prefix.events.iter().filter_map(|e| rows.contribution(e)).collect();
            let trades = rows.expected(&trades);
            let entries = rows.items(&trades);
            let keys = in_order(entries.iter().filter_map(|row| flows.told.entry(row, 0, 0)));
            let watermark_us = match prefix.watermark_us {
                mark @ (NO_WATERMARK | FINAL_WATERMARK) => mark,
                mark => mark - behind_us,
            };
            let flows = flows.expected(&keys, watermark_us);
            let counted: Vec<_> =
                items(&flows).iter().filter_map(|row| counts.contribution(row)).collect();
            let counts = counts.expected(&counted);
            vec![trades, flows, counts]
        };
        let count = random.pick(&[8, 40, 80]);
        let log = log(random, count, Tz::UTC, &lateness_us(&deployment), flows.timeout_us());
        let is_dead = |event: &Event| rows.is_dead(event);
        check_random_cuts(&log, random, |workers, script| {
            check(&deployment, workers, script, &is_dead, &mut |prefix| expected(prefix))
        })
        .map_err(|failure| format!("{operators}lateness {lateness}\n{failure}"))
    });
}

/// How many flows there are of each status.
fn counts_by_status(time: &'static str) -> Model {
    let all = Measure::new("flows", "count(*)", Kind::Count, |_, _| Cell::Boolean(true));
    Model {
        from: vec!["flows"],
        time,
        zone: Tz::UTC,
        windows: vec!["1m", "1d"],
        condition: None,
        by: vec![By::text("status", "status", |row, _| row.get("status"))],
        measures: vec![all],
    }
}

fn items(rows: &ExpectedRows) -> Vec<RowItem> {
    const COLUMNS: [&str; 7] =
        ["user_id", "started_at", "last_at", "events", "status", "duration_ms", "path"];
    let cells = |row: &Vec<Expected>| -> Vec<Cell> {
        row.iter().map(|expected| Cell::from_value(&expected.value())).collect()
    };
    rows.values().map(|row| RowItem(COLUMNS.into_iter().zip(cells(row)).collect())).collect()
}

#[test]
fn state_goes_with_the_flows() {
    cases("state goes with the flows", 30, |random| {
        let case = Case::random(random);
        let log = case.log(random, 60);
        let mut script = Script::random(&log, random);
        // These events belong to no flow.
        script.add_long_after(case.lateness.len());
        let run = run(&case.deployment, 2, &script)?;
        match run.epochs.last().map(|epoch| epoch.state_bytes[0]) {
            Some(0) => Ok(()),
            left => Err(case.describe(format!("{left:?} bytes are left\n{script}"))),
        }
    });
}

/// A hundred timeouts of flows that follow one another: what counts are those that may still go on.
#[test]
fn state_is_that_of_the_open_flows() {
    let toml = "[operators.flows]\ntype = \"flow\"\nfrom = \"events0\"\ntimeout = \"10s\"\n\
        done = \"event_type = 'never'\"\n";
    let deployment = deployment(&["5s"], toml).expect("a deployment");
    // Five events each, one after another.
    let message = |index: u64| {
        let time_us = 1_800_000_000_000_000 + index.cast_signed() * 250_000;
        let flow = index / 5;
        let payload = format!("{{\"timestamp\":{time_us},\"correlation_id\":\"c{flow}\"}}");
        Message { sequence: index, received_at_us: Some(time_us), payload, ..Message::default() }
    };
    let log: Vec<Message> = (1..=4_000).map(message).collect();
    let mut script = Script { steps: Vec::new(), in_flight: 0, is_final: false };
    for messages in log.chunks(20) {
        script.steps.extend(messages.iter().cloned().map(Step::Message));
        script.steps.push(Step::Epoch);
    }
    let run = run(&deployment, 2, &script).expect("a run");
    let bytes: Vec<usize> = run.epochs.iter().map(|epoch| epoch.state_bytes[0]).collect();
    let (early, late) = (&bytes[10..40], &bytes[40..]);
    let (early, late) = (early.iter().max().expect("some"), late.iter().max().expect("some"));
    assert!(*late > 0 && late <= &(early + early / 4), "{early} bytes early, {late} late");
}

#[test]
fn explain_says_what_flows_hold_back() {
    let toml = "[operators.flows]\ntype = \"flow\"\nfrom = \"events0\"\ndone = \"a = 1\"\ntimeout = \"5m\"\n\
        [operators.slow]\ntype = \"aggregate\"\nfrom = \"flows\"\ntime = \"last_at\"\nwindows = [\"1m\"]\n\
        measures.n = \"count(*)\"\n";
    let text = explain::text(&deployment(&["30s"], toml).expect("a deployment"));
    for part in [
        "watermark  that of its inputs, held back by 5m for what reads it",
        "final      when the watermark has passed started_at + 5m",
        "watermark  5m behind that of the sources",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
}
