//! What reads a filter computes what it would compute of the events that pass.

use std::sync::Arc;

use chrono_tz::Tz;
use waterwheel_config::value::{ColumnType, Value};
use waterwheel_pipeline::graph::Deployment;

use crate::testing::{
    By, Cell, Event, ExpectedRows, Holds, Item, Kind, Measure, Message, Model, Prefix, Random,
    Script, Step, Timeline, cases, check, check_random_cuts, check_same_rows, deployment,
    deployment_into, final_rows, lateness_us, run,
};

const CONDITIONS: [(&str, Holds); 4] = [
    ("event_type = 'a'", |e| Some(e.get("event_type").is_text("a"))),
    ("properties.price > 2", |e| e.get("properties.price").greater(2.0)),
    ("sequence > 5", |e| e.get("sequence").greater(5.0)),
    ("true", |_| Some(true)),
];

const BY: [By; 3] = [
    By::text("user_id", "user_id", |e, _| e.get("user_id")),
    By::text("venue", "properties.venue", |e, _| e.get("properties.venue")),
    By::text("stream", "stream", |e, _| e.get("stream")),
];

/// `totals` reads `few`, which lets through some of `some`, which lets through some of the events.
struct Case {
    sources: usize,
    conditions: [(&'static str, Holds); 2],
    totals: Model,
    operators: String,
    deployment: Arc<Deployment>,
}

impl Case {
    fn random(random: &mut Random) -> Self {
        let sources = 1 + random.below(3);
        let lateness: Vec<_> = (0..sources).map(|_| random.pick(&["0s", "30s", "10m"])).collect();
        let conditions = [random.pick(&CONDITIONS), random.pick(&CONDITIONS)];
        let mut totals = Model {
            from: vec!["few"],
            time: "timestamp",
            zone: Tz::UTC,
            windows: vec!["1m", "1h"],
            condition: random.once_in(2).then(|| random.pick(&CONDITIONS)),
            by: random.some(&BY[..2], 0, 2),
            measures: vec![
                Measure::new("n", "count(*)", Kind::Count, |_, _| Cell::Boolean(true)),
                Measure::new("total", "sum(properties.price)", Kind::Sum, |e, _| {
                    e.get("properties.price")
                }),
            ],
        };
        if random.once_in(3) {
            totals.by.push(BY[2]);
        }
        let names: Vec<String> = (0..sources).map(|index| format!("\"events{index}\"")).collect();
        let mut operators = String::new();
        // Others make the sources' slots differ.
        for (index, name) in names.iter().enumerate() {
            if random.once_in(2) {
                continue;
            }
            let paths = ["properties.venue", "user_id", "properties.price"];
            operators += &format!(
                "[operators.other{index}]\ntype = \"aggregate\"\nfrom = {name}\nwindows = [\"1d\"]\n\
                 by = [\"{}\"]\nwhere = \"false\"\nmeasures.n = \"count(*)\"\n",
                random.pick(&paths)
            );
        }
        let [some, few] = conditions.map(|(condition, _)| condition);
        operators += &format!(
            "[operators.some]\ntype = \"filter\"\nfrom = [{}]\nwhere = \"{some}\"\n\
             [operators.few]\ntype = \"filter\"\nfrom = \"some\"\nwhere = \"{few}\"\n{}",
            names.join(", "),
            totals.toml("totals")
        );
        let deployment = deployment(&lateness, &operators).expect("a deployment");
        Self { sources, conditions, totals, operators, deployment }
    }

    fn passes(&self, event: &Event) -> bool {
        self.conditions.iter().all(|(_, holds)| holds(event) == Some(true))
    }

    fn is_dead(&self, event: &Event) -> bool {
        self.passes(event) && self.totals.is_dead(event)
    }

    fn check(&self, workers: usize, script: &Script) -> Result<(), String> {
        let expected = &mut |prefix: &Prefix| {
            let passing = prefix.events.iter().filter(|event| self.passes(event));
            let contributions: Vec<_> =
                passing.filter_map(|event| self.totals.contribution(event)).collect();
            let totals = self.totals.expected(&contributions);
            let nothing = |_| ExpectedRows::new();
            let others = self.deployment.operators.len() - 1;
            (0..others).map(nothing).chain([totals]).collect()
        };
        check(&self.deployment, workers, script, &|event| self.is_dead(event), expected)
    }
}

fn log(random: &mut Random, count: usize, lateness_us: &[i64]) -> Vec<Message> {
    let mut timelines = Timeline::each(random, Tz::UTC, lateness_us);
    (1..=count as u64)
        .map(|sequence| {
            let source = random.below(timelines.len());
            let time_us = timelines[source].next(random);
            let kind = random.pick(&["\"a\"", "\"a\"", "\"b\"", "null"]);
            let user = random.pick(&["\"u1\"", "\"u\\u0032\"", "null", "3"]);
            let price = random.pick(&["1", "2.5", "3", "\"4\"", "null", "true", "\"x\""]);
            let long = format!("\"{}\"", "v".repeat(1_025));
            let venue =
                random.pick(&["\"X\"", "\"\\\"\\n\"", "7", "{\"a\":[1]}", &long]).to_string();
            let timestamp = Timeline::spell(time_us, random);
            let payload = format!(
                "{{\"timestamp\":{timestamp},\"event_type\":{kind},\"user_id\":{user},\
                 \"properties\":{{\"price\":{price},\"venue\":{venue}}}}}"
            );
            let (subject, received_at_us) = ("a.b".to_owned(), Some(time_us));
            Message { source, sequence, subject, received_at_us, payload }
        })
        .collect()
}

#[test]
fn what_reads_a_filter_sees_the_events_that_pass() {
    cases("what reads a filter sees the events that pass", 60, |random| {
        let case = Case::random(random);
        let count = random.pick(&[5, 20, 60]);
        let log = log(random, count, &lateness_us(&case.deployment));
        check_random_cuts(&log, random, |workers, script| case.check(workers, script))
            .map_err(|failure| format!("{}{} sources\n{failure}", case.operators, case.sources))
    });
}

/// Rows that change and go do so behind the filter, and one that no longer passes goes.
#[test]
fn a_filter_of_changing_rows_lets_through_those_that_pass() {
    cases("a filter of changing rows lets through those that pass", 25, |random| {
        let model = Model::trades_per_user(vec!["1m", "1h"]);
        let operators = model.toml("per_user")
            + "[operators.busy]\ntype = \"filter\"\nfrom = \"per_user\"\nwhere = \"trades % 3 = 1\"\n";
        let deployment = deployment(&["30s"], &operators).expect("a deployment");
        let log = log(random, 40, &[30_000_000]);
        let expected = |prefix: &Prefix| {
            let contributions: Vec<_> =
                prefix.events.iter().filter_map(|event| model.contribution(event)).collect();
            let rows = model.expected(&contributions);
            let items = model.items(&rows);
            let passes = |item: &crate::testing::RowItem| matches!(item.get("trades"), Cell::Integer(trades) if trades % 3 == 1);
            let passing = rows.iter().zip(&items).filter(|(_, item)| passes(item));
            let busy = passing.map(|((key, row), _)| (key.clone(), row.clone())).collect();
            vec![rows, busy]
        };
        let is_dead = |event: &Event| model.is_dead(event);
        check_random_cuts(&log, random, |workers, script| {
            check(&deployment, workers, script, &is_dead, &mut |prefix| expected(prefix))
        })
    });
}

#[test]
fn workers_cuts_and_orders_do_not_show() {
    cases("workers, cuts and orders do not show", 8, |random| {
        // The filter comes first, and has a sink.
        let operators = "[operators.some]\ntype = \"filter\"\nfrom = \"events0\"\nwhere = \"properties.price > 2\"\n";
        let deployment = deployment_into(&["30s"], operators, &["some"]).expect("a deployment");
        let log = log(random, 40, &[30_000_000]);
        check_same_rows(&deployment, &log, &|_| false, random)
    });
}

#[test]
fn sinks_get_the_events_that_pass_as_raw_events() {
    let operators = "[operators.fills]\ntype = \"filter\"\nfrom = \"events0\"\nwhere = \"properties.price > 2\"\n";
    let deployment = deployment_into(&["1s"], operators, &["fills"]).expect("a deployment");
    let payload = |time_s: u64, price: u64| {
        format!("{{\"timestamp\":{time_s},\"user_id\":7,\"properties\":{{\"price\":{price}}}}}")
    };
    // The third is late, though it would pass.
    let log = [(1_700_000_000, 1), (1_700_000_100, 3), (1_700_000_000, 4), (1_700_000_101, 5)];
    let messages = log.into_iter().enumerate().map(|(index, (time_s, price))| {
        Step::Message(Message {
            sequence: index as u64 + 1,
            subject: "order.filled".to_owned(),
            payload: payload(time_s, price),
            ..Message::default()
        })
    });
    let script = Script { steps: messages.collect(), in_flight: 0, is_final: true };
    let rows = final_rows(&run(&deployment, 2, &script).expect("a run"), 0).expect("rows");
    let row = |sequence: i64, time_s: u64, price: u64| {
        vec![
            Value::text(&format!("S0:{sequence}")),
            Value::text("order.filled"),
            Value::Timestamp(time_s.cast_signed() * 1_000_000),
            Value::text("7"),
            Value::Null,
            Value::Null,
            Value::Null,
            Value::Null,
            Value::text("order.filled"),
            Value::text("S0"),
            Value::Bigint(sequence),
            Value::Null,
            Value::Boolean(false),
            Value::Json(payload(time_s, price).into()),
        ]
    };
    let found: Vec<_> = rows.iter().map(|row| row.values().to_vec()).collect();
    assert_eq!(found, [row(2, 1_700_000_100, 3), row(4, 1_700_000_101, 5)]);
    let columns = &deployment.operators[0].planned.schema.columns;
    assert_eq!(columns[13].kind, ColumnType::Json);
}

#[test]
fn rows_are_not_read_together_with_anything_else() {
    let operators = "[operators.n]\ntype = \"aggregate\"\nfrom = \"events0\"\nwindows = [\"1m\"]\nmeasures.n = \"count(*)\"\n\
                     [operators.f]\ntype = \"filter\"\nfrom = [\"events0\", \"n\"]\nwhere = \"true\"\n";
    let Err(findings) = deployment(&["1s"], operators) else { panic!("it is a finding") };
    assert!(findings.contains("rows of `n` cannot be read together"), "{findings}");
}
