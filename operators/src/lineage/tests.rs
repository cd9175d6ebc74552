//! Lineages against a walk from cause to cause over all of the log, at the end of every epoch.

mod shapes;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use chrono_tz::Tz;
use waterwheel_config::value::{ColumnType, Value};
use waterwheel_pipeline::graph::Deployment;

use crate::testing::{
    By, Cell, Event, Expected, ExpectedRows, Item, Kind, Measure, Message, Model, Prefix, Random,
    Script, Timeline, cases, check, check_random_cuts, check_same_rows, deployment, lateness_us,
};

const HOUR_US: i64 = 3_600_000_000;

/// The setting, and the same in microseconds.
const WITHIN: [(&str, i64); 6] = [
    ("", HOUR_US),
    ("within = \"0s\"\n", 0),
    ("within = \"1s\"\n", 1_000_000),
    ("within = \"30s\"\n", 30_000_000),
    ("within = \"10m\"\n", 600_000_000),
    ("within = \"1d\"\n", 24 * HOUR_US),
];

/// Something with an id; in the order in which the first counts.
#[derive(Clone, Debug)]
struct Named {
    id: String,
    cause: Option<String>,
    event_type: Value,
    time_us: i64,
}

fn named(item: &dyn Item, time_us: i64) -> Option<Named> {
    Some(Named {
        id: item.get("id").canonical()?,
        cause: item.get("causation_id").canonical(),
        event_type: item.get("event_type").text_value(),
        time_us,
    })
}

/// The rows of all that is named.
fn expected(all: &[Named], within_us: i64) -> ExpectedRows {
    let same_us = (4 * within_us).max(HOUR_US);
    let mut counted: BTreeMap<&str, Vec<&Named>> = BTreeMap::new();
    for one in all {
        let known = counted.entry(&one.id).or_default();
        if known.iter().all(|other| (other.time_us - one.time_us).abs() > same_us) {
            known.push(one);
        }
    }
    let mut rows = ExpectedRows::new();
    for event in counted.values().flatten() {
        let mut way = vec![*event];
        let (at, is_orphan) = loop {
            let last = way[way.len() - 1];
            let Some(cause) = &last.cause else {
                break (way.len() - 1, false);
            };
            let near = |one: &&&Named| (one.time_us - event.time_us).abs() <= within_us;
            let found = counted.get(cause.as_str()).and_then(|all| all.iter().find(near));
            let Some(found) = found else {
                break (way.len() - 1, true);
            };
            if let Some(begin) = way.iter().position(|one| std::ptr::eq(*one, *found)) {
                let least = (begin..way.len()).min_by_key(|at| &way[*at].id);
                break (least.expect("a cycle"), false);
            }
            way.push(found);
        };
        let root = way[at];
        let text = |text: &str| Expected::Is(Value::text(text));
        let since_us = event.time_us - root.time_us;
        let row = vec![
            text(&event.id),
            text(&root.id),
            event.cause.as_ref().map_or(Expected::Is(Value::Null), |cause| text(cause)),
            Expected::bigint(at as i64),
            Expected::Is(event.event_type.clone()),
            Expected::Is(root.event_type.clone()),
            Expected::Is(Value::Timestamp(event.time_us)),
            Expected::near(Some(since_us as f64 / 1_000.0)),
            Expected::Is(Value::Boolean(is_orphan)),
        ];
        rows.insert(vec![Value::text(&event.id)], row);
    }
    rows
}

/// The named events of a log: those of the first source first.
fn named_events(events: &[Event], passes: impl Fn(&Event) -> bool) -> Vec<Named> {
    let mut all: Vec<&Event> = events.iter().filter(|event| passes(event)).collect();
    all.sort_by_key(|event| event.source);
    all.into_iter().filter_map(|event| named(event, event.timestamp_us)).collect()
}

struct Case {
    lateness: Vec<&'static str>,
    within: (&'static str, i64),
    is_filtered: bool,
    operator: String,
    deployment: Arc<Deployment>,
}

impl Case {
    fn random(random: &mut Random) -> Self {
        let sources = 1 + random.below(2);
        let lateness: Vec<_> =
            (0..sources).map(|_| random.pick(&["0s", "1s", "30s", "10m", "2h"])).collect();
        let within = random.pick(&WITHIN);
        let is_filtered = random.once_in(4);
        let condition = if is_filtered { "where = \"event_type <> 'noise'\"\n" } else { "" };
        let from = if sources == 1 { "\"events0\"" } else { "[\"events1\", \"events0\"]" };
        let operator = format!(
            "[operators.origins]\ntype = \"lineage\"\nfrom = {from}\n{}{condition}",
            within.0
        );
        let deployment = deployment(&lateness, &operator).expect("a deployment");
        Self { lateness, within, is_filtered, operator, deployment }
    }

    fn passes(&self, event: &Event) -> bool {
        // Against NULL nothing holds.
        let kind = event.get("event_type");
        !self.is_filtered || (!kind.is_text("noise") && matches!(kind, Cell::Text(_)))
    }

    fn is_dead(&self, event: &Event) -> bool {
        self.passes(event) && event.get("id").canonical().is_some_and(|id| id.len() > 1024)
    }

    fn check(&self, workers: usize, script: &Script) -> Result<(), String> {
        let expected = &mut |prefix: &Prefix| {
            let all = named_events(&prefix.events, |event| self.passes(event));
            vec![expected(&all, self.within.1)]
        };
        check(&self.deployment, workers, script, &|event| self.is_dead(event), expected)
    }

    fn describe(&self, failure: String) -> String {
        format!("{}lateness {:?}\n{failure}", self.operator, self.lateness)
    }
}

/// A log of stories: most events name an earlier one, some a later one, themselves or nobody.
fn log(random: &mut Random, count: usize, lateness_us: &[i64], has_doubles: bool) -> Vec<Message> {
    let mut timelines = Timeline::each(random, Tz::UTC, lateness_us);
    let reach = random.pick(&[1, 3, 10, 100]);
    let mut known: Vec<(usize, i64)> = Vec::new();
    (0..count)
        .map(|index| {
            let source = random.below(timelines.len());
            let time_us = timelines[source].next(random);
            let mut id = index;
            if has_doubles && random.once_in(8) {
                // An id that was there, not so long ago that it would be another.
                let near = |(_, at_us): &&(usize, i64)| (at_us - time_us).abs() < HOUR_US;
                let near: Vec<_> = known.iter().filter(near).collect();
                let is_one = |id: usize| {
                    known
                        .iter()
                        .all(|(other, at_us)| *other != id || (at_us - time_us).abs() < HOUR_US)
                };
                if let Some((other, _)) = near.get(random.below(near.len().max(1)))
                    && is_one(*other)
                {
                    id = *other;
                }
            }
            known.push((id, time_us));
            let cause = match random.below(12) {
                0 => None,
                1 => Some(id),
                2 => Some(count + random.below(3)),
                3 => Some(random.below(count)),
                4 => Some(id + 1 + random.below(2)),
                _ => id.checked_sub(1 + random.below(reach)),
            };
            let message = payload(random, time_us, id, cause);
            Message {
                source,
                sequence: index as u64 + 1,
                subject: "a.b".to_owned(),
                received_at_us: Some(time_us),
                payload: message,
            }
        })
        .collect()
}

fn payload(random: &mut Random, time_us: i64, id: usize, cause: Option<usize>) -> String {
    // As numbers and texts: equal ids are equal texts.
    let spell = |random: &mut Random, id: usize| match random.below(3) {
        0 => format!("\"{id}\""),
        1 => format!("{id}.0"),
        _ => id.to_string(),
    };
    let mut payload = format!("{{\"timestamp\":{}", Timeline::spell(time_us, random));
    if random.once_in(60) {
        let width = random.pick(&[1024, 1025]);
        write!(payload, ",\"id\":\"{time_us:i>width$}\"").unwrap();
    } else {
        write!(payload, ",\"id\":{}", spell(random, id)).unwrap();
    }
    if let Some(cause) = cause {
        write!(payload, ",\"causation_id\":{}", spell(random, cause)).unwrap();
    }
    let kind = random.pick(&["\"order.placed\"", "\"order.filled\"", "\"noise\"", "null", "3"]);
    write!(payload, ",\"event_type\":{kind}}}").unwrap();
    payload
}

#[test]
fn every_epoch_equals_the_walk() {
    cases("every epoch equals the walk", 60, |random| {
        let case = Case::random(random);
        let count = random.pick(&[5, 20, 60]);
        // Not over two sources: which of theirs counts may change after its row is final.
        let has_doubles = random.once_in(2) && case.lateness.len() == 1;
        let log = log(random, count, &lateness_us(&case.deployment), has_doubles);
        check_random_cuts(&log, random, |workers, script| case.check(workers, script))
            .map_err(|failure| case.describe(failure))
    });
}

#[test]
fn workers_cuts_and_orders_do_not_show() {
    cases("workers, cuts and orders do not show", 8, |random| {
        let case = Case::random(random);
        let log = log(random, 40, &lateness_us(&case.deployment), false);
        check_same_rows(&case.deployment, &log, &|event| case.is_dead(event), random)
            .map_err(|failure| case.describe(failure))
    });
}

/// Rows of an aggregate come, change and go with every event of their group.
#[test]
fn a_lineage_of_changing_rows_equals_the_walk() {
    const TEXT: [By; 3] = [
        By::text("id", "properties.a", |e, _| e.get("properties.a")),
        By::text("causation_id", "properties.b", |e, _| e.get("properties.b")),
        By::text("event_type", "properties.c", |e, _| e.get("properties.c")),
    ];
    cases("a lineage of changing rows equals the walk", 40, |random| {
        let model = Model {
            from: vec!["events0"],
            time: "timestamp",
            zone: Tz::UTC,
            windows: vec!["1m"],
            condition: None,
            by: TEXT.to_vec(),
            measures: vec![Measure::new("n", "count(*)", Kind::Count, |_, _| Cell::Boolean(true))],
        };
        let within = random.pick(&WITHIN[2..]);
        let time = random.pick(&["window_start", "window_end"]);
        let operators = model.toml("groups")
            + &format!(
                "[operators.origins]\ntype = \"lineage\"\nfrom = \"groups\"\ntime = \"{time}\"\n\
                 where = \"n % 2 = 1\"\n{}",
                within.0
            );
        let lateness = random.pick(&["0s", "30s", "10m"]);
        let deployment = deployment(&[lateness], &operators).expect("a deployment");
        // Where there are few groups, most rows go again, and some come back.
        let (ids, step_us) = random.pick(&[(5, 60_000_000), (2, 20_000_000)]);
        let log: Vec<Message> = (0..40)
            .map(|index| {
                // Less than an hour in all.
                let time_us = 1_700_000_000_000_000 + index * step_us + random.below_i64(90_000_000);
                let id = random.pick(&["\"a\"", "\"b\"", "\"c\"", "1", "null"][..ids]);
                let cause = random.pick(&["null", "\"a\"", "\"b\"", "\"c\"", "\"1\""][..ids]);
                let kind = random.pick(&["\"x\"", "\"y\""][..ids.min(3) - 1]);
                let payload = format!(
                    "{{\"timestamp\":{time_us},\"properties\":{{\"a\":{id},\"b\":{cause},\"c\":{kind}}}}}"
                );
                let (sequence, received_at_us) = (index as u64 + 1, Some(time_us));
                Message { sequence, received_at_us, payload, ..Message::default() }
            })
            .collect();
        let expected = |prefix: &Prefix| {
            let contributions: Vec<_> =
                prefix.events.iter().filter_map(|event| model.contribution(event)).collect();
            let rows = model.expected(&contributions);
            let mut all: Vec<(i64, String, Named)> = model
                .items(&rows)
                .iter()
                .zip(rows.keys())
                .filter_map(|(item, key)| {
                    let Cell::Time(time_us) = item.get(time) else { panic!("no time") };
                    let Cell::Integer(n) = item.get("n") else { panic!("no count") };
                    let key: Vec<String> = key.iter().map(Value::to_plain).collect();
                    let named = named(item, time_us).filter(|_| n % 2 == 1)?;
                    Some((time_us, key.join("|"), named))
                })
                .collect();
            all.sort_by(|one, other| (one.0, &one.1).cmp(&(other.0, &other.1)));
            let all: Vec<Named> = all.into_iter().map(|(_, _, named)| named).collect();
            let origins = expected(&all, within.1);
            vec![rows, origins]
        };
        check_random_cuts(&log, random, |workers, script| {
            check(&deployment, workers, script, &|_| false, &mut |prefix| expected(prefix))
        })
        .map_err(|failure| format!("{operators}lateness {lateness}\n{failure}"))
    });
}

/// What reads the rows loses none of them, though they change until `within` after their time.
#[test]
fn an_aggregate_over_a_lineage_equals_the_recompute() {
    const ROOT: By = By::text("root_id", "root_id", |r, _| r.get("root_id"));
    cases("an aggregate over a lineage equals the recompute", 15, |random| {
        let model = Model {
            from: vec!["origins"],
            time: "timestamp",
            zone: Tz::UTC,
            windows: vec!["1m", "1h"],
            condition: None,
            by: vec![ROOT],
            measures: vec![
                Measure::new("events", "count(*)", Kind::Count, |_, _| Cell::Boolean(true)),
                Measure::new(
                    "deepest",
                    "max(cast(depth as bigint))",
                    Kind::Greatest(ColumnType::Bigint),
                    |r, _| r.get("depth"),
                ),
            ],
        };
        let within = random.pick(&WITHIN[1..5]);
        let operators = format!(
            "[operators.origins]\ntype = \"lineage\"\nfrom = \"events0\"\n{}{}",
            within.0,
            model.toml("sizes")
        );
        let lateness = random.pick(&["0s", "30s", "10m"]);
        let deployment = deployment(&[lateness], &operators).expect("a deployment");
        let log = log(random, 30, &lateness_us(&deployment), false);
        let expected = |prefix: &Prefix| {
            let rows = expected(&named_events(&prefix.events, |_| true), within.1);
            let item = |row: &Vec<Expected>| {
                let columns = [("root_id", 1), ("depth", 3), ("timestamp", 6)];
                let cell =
                    |(name, at): (&'static str, usize)| (name, Cell::from_value(&row[at].value()));
                crate::testing::RowItem(columns.into_iter().map(cell).collect())
            };
            let contributions: Vec<_> =
                rows.values().filter_map(|row| model.contribution(&item(row))).collect();
            let sizes = model.expected(&contributions);
            vec![rows, sizes]
        };
        let is_dead = |event: &Event| event.get("id").canonical().is_some_and(|id| id.len() > 1024);
        check_random_cuts(&log, random, |workers, script| {
            check(&deployment, workers, script, &is_dead, &mut |prefix| expected(prefix))
        })
        .map_err(|failure| format!("{operators}lateness {lateness}\n{failure}"))
    });
}
