//! Joins against all pairs of a log, at the end of every epoch, and against themselves under other
//! workers, cuts and orders.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono_tz::Tz;
use waterwheel_config::value::{ColumnType, Value};
use waterwheel_pipeline::contract::epoch::FINAL_WATERMARK;
use waterwheel_pipeline::graph::Deployment;

mod bounds;
mod skew;

use crate::testing::{
    By, Cell, Event, Expected, ExpectedRows, Holds, Item, Kind, Measure, Message, Model, Prefix,
    Random, RowItem, Script, Timeline, cases, check, check_random_cuts, check_same_rows,
    deployment, lateness_us,
};

/// What a pair brings out beside its keys: SQL, and the same by hand.
type Select = (&'static str, &'static str, fn(&dyn Item, &dyn Item) -> Expected);

const SELECT: [Select; 7] = [
    ("latency_ms", "millis(right.timestamp - left.timestamp)", |left, right| {
        let apart_us = time(right).zip(time(left)).map(|(right, left)| right - left);
        Expected::near(apart_us.map(|apart_us| apart_us as f64 / 1_000.0))
    }),
    ("price", "left.properties.price", |left, _| {
        Expected::Is(left.get("properties.price").text_value())
    }),
    ("slip", "right.properties.price - left.properties.price", |left, right| {
        let price = |side: &dyn Item| side.get("properties.price").double();
        Expected::near(price(right).zip(price(left)).map(|(right, left)| right - left))
    }),
    ("kind", "right.event_type", |_, right| Expected::Is(right.get("event_type").text_value())),
    ("placed_at", "left.timestamp", |left, _| {
        Expected::Is(time(left).map_or(Value::Null, Value::Timestamp))
    }),
    ("is_same", "left.user_id = right.user_id", |left, right| {
        // The users are texts or NULL.
        match (left.get("user_id"), right.get("user_id")) {
            (Cell::Text(a), Cell::Text(b)) => Expected::Is(Value::Boolean(a == b)),
            _ => Expected::Is(Value::Null),
        }
    }),
    ("filler", "coalesce(right.user_id, left.user_id, 'nobody')", |left, right| {
        let users = [right.get("user_id"), left.get("user_id"), Cell::text("nobody")];
        Expected::Is(
            users.into_iter().find(|user| !user.is_null()).unwrap_or(Cell::Null).text_value(),
        )
    }),
];

fn time(item: &dyn Item) -> Option<i64> {
    match item.get("timestamp") {
        Cell::Time(micros) => Some(micros),
        Cell::Null => None,
        other => panic!("{other:?} is no time"),
    }
}

/// The side that is not there.
struct Nothing;

impl Item for Nothing {
    fn get(&self, _name: &str) -> Cell {
        Cell::Null
    }
}

const CONDITIONS: [Option<(&str, Holds)>; 4] = [
    None,
    Some(("event_type = 'order.placed'", |e| Some(e.get("event_type").is_text("order.placed")))),
    Some(("event_type = 'order.filled'", |e| Some(e.get("event_type").is_text("order.filled")))),
    Some(("properties.price > 2", |e| e.get("properties.price").greater(2.0))),
];

/// The setting and the bounds `(before, after)` in milliseconds.
const WITHIN: [(&str, i64, i64); 8] = [
    ("\"30s\"", 0, 30_000),
    ("\"0s\"", 0, 0),
    ("\"5m\"", 0, 300_000),
    ("\"1d\"", 0, 86_400_000),
    ("{ before = \"5s\", after = \"30s\" }", 5_000, 30_000),
    ("{ before = \"10m\" }", 600_000, 0),
    ("{ before = \"1h\", after = \"1h\" }", 3_600_000, 3_600_000),
    ("{ after = \"500ms\" }", 0, 500),
];

/// The setting, and whether rows of the left and of the right come out alone.
const UNMATCHED: [(&str, bool, bool); 4] =
    [("none", false, false), ("left", true, false), ("right", false, true), ("both", true, true)];

/// The setting, and the fields on the left and on the right.
const ON: [(&str, &str, &str); 3] = [
    ("\"correlation_id\"", "correlation_id", "correlation_id"),
    ("\"user_id\"", "user_id", "user_id"),
    ("{ left = \"correlation_id\", right = \"causation_id\" }", "correlation_id", "causation_id"),
];

/// One item of a side.
#[derive(Clone)]
struct Sided<I> {
    time_us: i64,
    on: Option<String>,
    key: String,
    id: Value,
    item: I,
}

impl<I> Sided<I> {
    /// True if the two make a pair, this one the left.
    fn matches<R>(&self, right: &Sided<R>, (before_ms, after_ms): (i64, i64)) -> bool {
        let apart_us = right.time_us - self.time_us;
        let is_near = (-before_ms * 1_000..=after_ms * 1_000).contains(&apart_us);
        self.on.is_some() && self.on == right.on && is_near
    }
}

/// What a join is.
struct Rule<'a> {
    /// Before and after, in milliseconds.
    within: (i64, i64),
    unmatched: (&'a str, bool, bool),
    select: &'a [Select],
}

impl Rule<'_> {
    /// All pairs of items with one key within the bound, and the items of which the watermark shows
    /// that they stay alone.
    fn rows<L: Item, R: Item>(
        &self,
        left: &[Sided<L>],
        right: &[Sided<R>],
        watermark_us: i64,
    ) -> ExpectedRows {
        let mut rows = ExpectedRows::new();
        for left in left {
            for right in right.iter().filter(|right| left.matches(right, self.within)) {
                self.add(&mut rows, Some(left), Some(right));
            }
        }
        let (_, left_alone, right_alone) = self.unmatched;
        // A partner that comes at the watermark itself is not late.
        let has_passed = |time_us: i64, reach_ms: i64| time_us + reach_ms * 1_000 < watermark_us;
        for left in left.iter().filter(|left| left_alone && has_passed(left.time_us, self.within.1))
        {
            if !right.iter().any(|right| left.matches(right, self.within)) {
                self.add(&mut rows, Some(left), None::<&Sided<R>>);
            }
        }
        for right in right.iter().filter(|r| right_alone && has_passed(r.time_us, self.within.0)) {
            if !left.iter().any(|left| left.matches(right, self.within)) {
                self.add(&mut rows, None::<&Sided<L>>, Some(right));
            }
        }
        rows
    }

    fn add<L: Item, R: Item>(
        &self,
        rows: &mut ExpectedRows,
        left: Option<&Sided<L>>,
        right: Option<&Sided<R>>,
    ) {
        let key = vec![
            left.map_or(Value::Null, |left| Value::text(&left.key)),
            right.map_or(Value::Null, |right| Value::text(&right.key)),
        ];
        let later_us = left.map(|left| left.time_us).max(right.map(|right| right.time_us));
        let head = [
            key[0].clone(),
            key[1].clone(),
            left.map_or(Value::Null, |left| left.id.clone()),
            right.map_or(Value::Null, |right| right.id.clone()),
            Value::Timestamp(later_us.expect("one side at least")),
            Value::Boolean(left.is_some() && right.is_some()),
        ];
        let left: &dyn Item = left.map_or(&Nothing, |left| &left.item);
        let right: &dyn Item = right.map_or(&Nothing, |right| &right.item);
        let selected = self.select.iter().map(|(_, _, get)| get(left, right));
        rows.insert(key, head.into_iter().map(Expected::Is).chain(selected).collect());
    }
}

/// A join of sources.
struct Case {
    lateness: Vec<&'static str>,
    sides: [(usize, Option<(&'static str, Holds)>); 2],
    on: (&'static str, &'static str, &'static str),
    within: (&'static str, i64, i64),
    unmatched: (&'static str, bool, bool),
    select: Vec<Select>,
    operator: String,
    deployment: Arc<Deployment>,
}

impl Case {
    fn random(random: &mut Random) -> Self {
        let sources = 1 + random.below(2);
        let lateness: Vec<_> =
            (0..sources).map(|_| random.pick(&["0s", "1s", "30s", "10m"])).collect();
        let mut side = |index: usize| (index % sources, random.pick(&CONDITIONS));
        let sides = [side(0), side(1)];
        let (on, within) = (random.pick(&ON), random.pick(&WITHIN));
        let unmatched = random.pick(&UNMATCHED);
        let select = random.some(&SELECT, 0, 4);
        let table = |(source, condition): (usize, Option<(&str, Holds)>)| match condition {
            Some((condition, _)) => {
                format!("{{ from = \"events{source}\", where = \"{condition}\" }}")
            }
            None => format!("{{ from = \"events{source}\" }}"),
        };
        let mut operator = format!(
            "[operators.pairs]\ntype = \"join\"\nleft = {}\nright = {}\non = {}\nwithin = {}\n\
             unmatched = \"{}\"\n",
            table(sides[0]),
            table(sides[1]),
            on.0,
            within.0,
            unmatched.0
        );
        for (alias, sql, _) in &select {
            operator += &format!("select.{alias} = \"{sql}\"\n");
        }
        let deployment = deployment(&lateness, &operator).expect("a deployment");
        Self { lateness, sides, on, within, unmatched, select, operator, deployment }
    }

    fn log(&self, random: &mut Random, count: usize) -> Vec<Message> {
        log(random, count, &lateness_us(&self.deployment))
    }

    /// The events of a side.
    fn side(&self, side: usize, events: &[Event]) -> Vec<Sided<Event>> {
        let (source, condition) = self.sides[side];
        let on = if side == 0 { self.on.1 } else { self.on.2 };
        let passes = |event: &&Event| {
            let holds = condition.is_none_or(|(_, holds)| holds(*event) == Some(true));
            event.source == source && holds
        };
        events.iter().filter(passes).map(|event| sided(event, on)).collect()
    }

    fn is_dead(&self, event: &Event) -> bool {
        (0..2).any(|side| {
            let sided = self.side(side, std::slice::from_ref(event));
            sided.iter().any(|sided| sided.on.as_ref().is_some_and(|on| on.len() > 1024))
        })
    }

    fn check(&self, workers: usize, script: &Script) -> Result<(), String> {
        let is_dead = |event: &Event| self.is_dead(event);
        let expected = &mut |prefix: &Prefix| {
            let [left, right] = [0, 1].map(|side| self.side(side, &prefix.events));
            let within = (self.within.1, self.within.2);
            let rule = Rule { within, unmatched: self.unmatched, select: &self.select };
            vec![rule.rows(&left, &right, prefix.watermark_us)]
        };
        check(&self.deployment, workers, script, &is_dead, expected)
    }

    fn describe(&self, failure: String) -> String {
        format!("{}lateness {:?}\n{failure}", self.operator, self.lateness)
    }
}

fn sided(event: &Event, on: &str) -> Sided<Event> {
    Sided {
        time_us: event.timestamp_us,
        on: event.get(on).canonical(),
        key: event.key(),
        id: event.get("id").text_value(),
        item: event.clone(),
    }
}

/// A log with few keys, so that many match.
fn log(random: &mut Random, count: usize, lateness_us: &[i64]) -> Vec<Message> {
    let mut timelines = Timeline::each(random, Tz::UTC, lateness_us);
    let keys = 1 + random.below(12);
    let has_bad_messages = random.once_in(4);
    (1..=count as u64)
        .map(|sequence| {
            let source = random.below(timelines.len());
            let time_us = timelines[source].next(random);
            let mut payload = payload(random, time_us, keys);
            if has_bad_messages && random.once_in(10) {
                let long = "k".repeat(random.pick(&[1024, 1025]));
                payload = match random.below(3) {
                    0 => "{".to_owned(),
                    1 => {
                        format!("{},\"correlation_id\":\"{long}\"}}", &payload[..payload.len() - 1])
                    }
                    _ => format!("{},\"causation_id\":\"{long}\"}}", &payload[..payload.len() - 1]),
                };
            }
            let received_at_us = Some(time_us);
            Message { source, sequence, subject: "a.b".to_owned(), received_at_us, payload }
        })
        .collect()
}

fn payload(random: &mut Random, time_us: i64, keys: usize) -> String {
    const KEYS: [&str; 12] = [
        "\"c1\"",
        "\"c2\"",
        "1",
        "1.0",
        "\"1\"",
        "null",
        "true",
        "\"true\"",
        "0",
        "-0.0",
        "\"\"",
        "\"\\u0000\"",
    ];
    let mut key = || random.pick(&KEYS[..keys]).to_string();
    let (correlation, causation) = (key(), key());
    let kind = random.pick(&["\"order.placed\"", "\"order.filled\"", "\"quote\"", "null", "3"]);
    let user = random.pick(&["\"u1\"", "\"u2\"", "null"]);
    let price = random.pick(&["1", "2.5", "3", "\"4\"", "null", "true", "100.25", "\"x\""]);
    let id = match random.below(4) {
        0 => String::new(),
        _ => format!("\"id\":{},", random.below(50)),
    };
    let timestamp = Timeline::spell(time_us, random);
    format!(
        "{{{id}\"timestamp\":{timestamp},\"event_type\":{kind},\"user_id\":{user},\
         \"correlation_id\":{correlation},\"causation_id\":{causation},\
         \"properties\":{{\"price\":{price}}}}}"
    )
}

#[test]
fn every_epoch_equals_all_pairs() {
    cases("every epoch equals all pairs", 400, |random| {
        let case = Case::random(random);
        let count = random.pick(&[5, 20, 60]);
        let log = case.log(random, count);
        check_random_cuts(&log, random, |workers, script| case.check(workers, script))
            .map_err(|failure| case.describe(failure))
    });
}

#[test]
fn workers_cuts_and_orders_do_not_show() {
    cases("workers, cuts and orders do not show", 80, |random| {
        let case = Case::random(random);
        let log = case.log(random, 50);
        check_same_rows(&case.deployment, &log, &|event| case.is_dead(event), random)
            .map_err(|failure| case.describe(failure))
    });
}

/// A join whose left side is an aggregate, so that rows change and disappear, and an aggregate that
/// reads the join.
#[test]
fn a_join_of_changing_rows_equals_the_recompute() {
    const SELECT_ROWS: [Select; 2] = [
        ("trades", "left.trades", |left, _| match left.get("trades") {
            Cell::Integer(trades) => Expected::bigint(trades as i64),
            _ => Expected::Is(Value::Null),
        }),
        ("price", "cast(right.properties.price as double)", |_, right| {
            let price = right.get("properties.price");
            let flag = price.truth().map(|flag| f64::from(u8::from(flag)));
            Expected::near(price.double().or(flag))
        }),
    ];
    cases("a join of changing rows equals the recompute", 150, |random| {
        let lateness = random.pick(&["0s", "30s", "10m"]);
        let windows = random.pick(&[vec!["1m"], vec!["1h", "1m"], vec!["1d"]]);
        let model = Model::trades_per_user(windows);
        let second = Model {
            from: vec!["pairs"],
            time: "timestamp",
            zone: Tz::UTC,
            windows: random.pick(&[vec!["1m"], vec!["15m", "1d"]]),
            condition: None,
            by: vec![By {
                alias: "trades",
                sql: "trades",
                kind: ColumnType::Bigint,
                get: |r, _| r.get("trades"),
            }],
            measures: vec![
                Measure::new("pairs", "count(*)", Kind::Count, |_, _| Cell::Boolean(true)),
                Measure::new("total", "sum(price)", Kind::Sum, |r, _| r.get("price")),
                Measure::new("high", "max(price)", Kind::Greatest(ColumnType::Double), |r, _| {
                    r.get("price")
                }),
                Measure::new("prices", "count(distinct price)", Kind::Distinct, |r, _| {
                    r.get("price")
                }),
            ],
        };
        let (within, unmatched) = (random.pick(&WITHIN), random.pick(&UNMATCHED));
        // Rows that change, and rows that come and go.
        let (condition, holds): (&str, Holds) = random.pick(&[
            ("trades > 1", |row| row.get("trades").greater(1.0)),
            ("trades = 2", |row| Some(row.get("trades") == Cell::Integer(2))),
        ]);
        let pairs_toml = format!(
            "[operators.pairs]\ntype = \"join\"\nleft = {{ from = \"per_user\", where = \"{condition}\" }}\n\
             right = {{ from = \"events0\" }}\non = \"user_id\"\nwithin = {}\n\
             unmatched = \"{}\"\n\
             select.trades = \"left.trades\"\nselect.price = \"cast(right.properties.price as double)\"\n",
            within.0, unmatched.0
        );
        let operators = model.toml("per_user") + &pairs_toml + &second.toml("totals");
        let deployment = deployment(&[lateness], &operators).expect("a deployment");
        // Rows of windows lie behind the watermark by up to the longest of them.
        let delay_us = deployment.operators[1].planned.watermark.delay_us();
        let expected = |prefix: &Prefix| {
            let contributions: Vec<_> =
                prefix.events.iter().filter_map(|event| model.contribution(event)).collect();
            let rows = model.expected(&contributions);
            let left: Vec<Sided<RowItem>> = model
                .items(&rows)
                .into_iter()
                .zip(rows.keys())
                .filter(|(item, _)| holds(item) == Some(true))
                .map(|(item, key)| row_sided(item, key))
                .collect();
            let right: Vec<Sided<Event>> =
                prefix.events.iter().map(|event| sided(event, "user_id")).collect();
            let rule = Rule { within: (within.1, within.2), unmatched, select: &SELECT_ROWS };
            let watermark_us = match prefix.watermark_us {
                FINAL_WATERMARK => FINAL_WATERMARK,
                known => known.saturating_sub(delay_us),
            };
            let matched = rule.rows(&left, &right, watermark_us);
            let names = ["timestamp", "trades", "price"];
            let item = |row: &Vec<Expected>| {
                let columns = [4, 6, 7].map(|column| Cell::from_value(&row[column].value()));
                RowItem(names.into_iter().zip(columns).collect::<BTreeMap<_, _>>())
            };
            let contributions: Vec<_> =
                matched.values().filter_map(|row| second.contribution(&item(row))).collect();
            let totals = second.expected(&contributions);
            vec![rows, matched, totals]
        };
        let count = random.pick(&[8, 40]);
        let log = log(random, count, &lateness_us(&deployment));
        check_random_cuts(&log, random, |workers, script| {
            check(&deployment, workers, script, &|_| false, &mut |prefix| expected(prefix))
        })
        .map_err(|failure| format!("{operators}lateness {lateness}\n{failure}"))
    });
}

fn row_sided(item: RowItem, key: &[Value]) -> Sided<RowItem> {
    let key: Vec<String> = key.iter().map(Value::to_plain).collect();
    let Cell::Time(time_us) = item.get("window_start") else { panic!("a window starts") };
    let on = item.get("user_id").canonical();
    Sided { time_us, on, key: key.join("|"), id: Value::Null, item }
}
