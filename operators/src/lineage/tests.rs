//! Lineages against a walk from cause to cause over all of the log, at the end of every epoch.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Instant;

use chrono_tz::Tz;
use waterwheel_config::value::{ColumnType, Value};
use waterwheel_pipeline::graph::Deployment;

use crate::testing::{
    By, Cell, Event, Expected, ExpectedRows, Item, Kind, Measure, Message, Model, Prefix, Random,
    Script, Step, Timeline, cases, check, check_random_cuts, check_same_rows, deployment,
    final_rows, lateness_us, run,
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
                    known.iter().all(|(other, at_us)| {
                        *other != id || (at_us - time_us).abs() < HOUR_US
                    })
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
    cases("every epoch equals the walk", 150, |random| {
        let case = Case::random(random);
        let count = random.pick(&[5, 20, 60]);
        let has_doubles = random.once_in(2);
        let log = log(random, count, &lateness_us(&case.deployment), has_doubles);
        check_random_cuts(&log, random, |workers, script| case.check(workers, script))
            .map_err(|failure| case.describe(failure))
    });
}

#[test]
fn workers_cuts_and_orders_do_not_show() {
    cases("workers, cuts and orders do not show", 25, |random| {
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
    cases("a lineage of changing rows equals the walk", 60, |random| {
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
        let log: Vec<Message> = (0..40)
            .map(|index| {
                // Less than an hour in all.
                let time_us = 1_700_000_000_000_000 + index * 60_000_000 + random.below_i64(90_000_000);
                let id = random.pick(&["\"a\"", "\"b\"", "\"c\"", "1", "null"]);
                let cause = random.pick(&["\"a\"", "\"b\"", "\"c\"", "\"1\"", "null"]);
                let kind = random.pick(&["\"x\"", "\"y\""]);
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
    cases("an aggregate over a lineage equals the recompute", 40, |random| {
        let model = Model {
            from: vec!["origins"],
            time: "timestamp",
            zone: Tz::UTC,
            windows: vec!["1m", "1h"],
            condition: None,
            by: vec![ROOT],
            measures: vec![
                Measure::new("events", "count(*)", Kind::Count, |_, _| Cell::Boolean(true)),
                Measure::new("deepest", "max(cast(depth as bigint))", Kind::Greatest(ColumnType::Bigint), |r, _| {
                    r.get("depth")
                }),
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
                let cell = |(name, at): (&'static str, usize)| {
                    (name, Cell::from_value(&row[at].value()))
                };
                crate::testing::RowItem(columns.into_iter().map(cell).collect())
            };
            let contributions: Vec<_> =
                rows.values().filter_map(|row| model.contribution(&item(row))).collect();
            let sizes = model.expected(&contributions);
            vec![rows, sizes]
        };
        let is_dead =
            |event: &Event| event.get("id").canonical().is_some_and(|id| id.len() > 1024);
        check_random_cuts(&log, random, |workers, script| {
            check(&deployment, workers, script, &is_dead, &mut |prefix| expected(prefix))
        })
        .map_err(|failure| format!("{operators}lateness {lateness}\n{failure}"))
    });
}

const BEGIN_MS: u64 = 1_700_000_000_000;

fn message(sequence: u64, time_ms: u64, id: &str, cause: Option<&str>) -> Step {
    let cause = cause.map_or_else(|| "null".to_owned(), |cause| format!("\"{cause}\""));
    let payload = format!(
        "{{\"timestamp\":{time_ms},\"id\":\"{id}\",\"causation_id\":{cause},\"event_type\":\"t\"}}"
    );
    Step::Message(Message { sequence, payload, ..Message::default() })
}

fn origins(lateness: &str, within: &str) -> Arc<Deployment> {
    let operator = format!(
        "[operators.origins]\ntype = \"lineage\"\nfrom = \"events0\"\nwithin = \"{within}\"\n"
    );
    deployment(&[lateness], &operator).expect("a deployment")
}

/// Runs events, each `(id, cause)`, a millisecond apart; the epochs end where `cut` says.
fn follow(
    workers: usize,
    events: impl Iterator<Item = (String, Option<String>)>,
    cut: impl Fn(usize) -> bool,
) -> (Vec<(String, String, i64, bool)>, usize) {
    let mut steps = Vec::new();
    for (index, (id, cause)) in events.enumerate() {
        let time_ms = BEGIN_MS + index as u64;
        steps.push(message(index as u64 + 1, time_ms, &id, cause.as_deref()));
        if cut(index) {
            steps.extend([Step::Batch { worker: index }, Step::Epoch]);
        }
    }
    steps.extend([Step::Batch { worker: 0 }, Step::Epoch]);
    let script = Script { steps, in_flight: 3, is_final: false };
    let run = run(&origins("1h", "1h"), workers, &script).expect("a run");
    let rows = final_rows(&run, 0).expect("rows");
    let state_bytes = run.epochs.iter().map(|epoch| epoch.state_bytes[0]).max().unwrap_or(0);
    let shown = rows.iter().map(|row| match row.values() {
        [id, root, _, Value::Bigint(depth), _, _, _, _, Value::Boolean(is_orphan)] => {
            (id.to_plain(), root.to_plain(), *depth, *is_orphan)
        }
        other => panic!("{other:?}"),
    });
    (shown.collect(), state_bytes)
}

fn name(index: usize) -> String {
    format!("e{index:05}")
}

#[test]
fn a_chain_of_a_thousand_takes_no_quadratic_time() {
    const DEPTH: usize = 1_000;
    let chain = || (0..DEPTH).map(|at| (name(at), at.checked_sub(1).map(name)));
    let mut backwards: Vec<_> = chain().collect();
    backwards.reverse();
    type Events = Vec<(String, Option<String>)>;
    let logs: [(&str, Events, fn(usize) -> bool); 4] = [
        ("at once", chain().collect(), |_| false),
        ("by hundreds", chain().collect(), |at| at % 100 == 99),
        ("at once, but the last 30 one by one", chain().collect(), |at| at >= DEPTH - 30),
        ("by hundreds, effects first", backwards, |at| at % 100 == 99),
    ];
    for (what, events, cut) in logs {
        let began = Instant::now();
        let (rows, state_bytes) = follow(2, events.into_iter(), cut);
        eprintln!("a chain of {DEPTH} {what}: {:?}, {state_bytes} bytes", began.elapsed());
        let expected: Vec<_> =
            (0..DEPTH).map(|at| (name(at), name(0), at as i64, false)).collect();
        assert_eq!(rows, expected, "{what}");
        // n · log n jumps and steps: all pairs would take 500 per event.
        assert!(state_bytes < DEPTH * 10_000, "{what} holds {state_bytes} bytes");
    }
}

#[test]
fn a_cause_may_have_ten_thousand_effects() {
    const EFFECTS: usize = 10_000;
    let effects = || (1..=EFFECTS).map(|at| (name(at), Some(name(0))));
    let root = || std::iter::once((name(0), None));
    let expected: Vec<_> =
        (0..=EFFECTS).map(|at| (name(at), name(0), i64::from(at > 0), false)).collect();
    let began = Instant::now();
    let (rows, _) = follow(2, root().chain(effects()), |at| at % 2_000 == 0);
    eprintln!("a cause of {EFFECTS}: {:?}", began.elapsed());
    assert!(rows == expected);
    let began = Instant::now();
    let (rows, _) = follow(2, effects().chain(root()), |at| at % 2_000 == 0);
    eprintln!("a cause after {EFFECTS} effects: {:?}", began.elapsed());
    assert!(rows == expected);
}

#[test]
fn a_cycle_ends_at_its_least_id() {
    for length in [1, 2, 3, 100] {
        // A cycle, whose least id is `e00000`, and a tail of three that leads to its middle.
        let cycle = (0..length).map(|at| (name(at), Some(name((at + 1) % length))));
        let tail = (0..3).map(|at| {
            let cause = if at == 0 { name(length / 2) } else { format!("a{}", at - 1) };
            (format!("a{at}"), Some(cause))
        });
        for every in [1_000, 7] {
            let events = cycle.clone().chain(tail.clone());
            let (rows, state_bytes) = follow(2, events, |at| at % every == 0);
            let to_least = |at: usize| ((length - at) % length) as i64;
            let mut expected: Vec<_> = (0..3)
                .map(|at| {
                    (format!("a{at}"), name(0), to_least(length / 2) + at as i64 + 1, false)
                })
                .collect();
            expected.extend((0..length).map(|at| (name(at), name(0), to_least(at), false)));
            assert_eq!(rows, expected, "a cycle of {length}");
            assert!(state_bytes < (length + 3) * 40_000, "{length} hold {state_bytes} bytes");
        }
    }
}

#[test]
fn what_is_too_old_is_forgotten() {
    // A chain without end, a step per 100 ms; the events of two seconds are of use, and ids for an
    // hour.
    let deployment = origins("1s", "1s");
    let mut steps = Vec::new();
    for index in 0..4_000usize {
        let cause = index.checked_sub(1).map(name);
        let time_ms = BEGIN_MS + index as u64 * 100;
        steps.push(message(index as u64 + 1, time_ms, &name(index), cause.as_deref()));
        if index % 20 == 19 {
            steps.extend([Step::Batch { worker: index / 20 }, Step::Epoch]);
        }
    }
    for later in [2, 4, 6] {
        let time_ms = BEGIN_MS + later * 3_600_000;
        steps.push(message(10_000 + later, time_ms, &format!("z{later}"), None));
        steps.extend([Step::Batch { worker: 0 }, Step::Epoch]);
    }
    let script = Script { steps, in_flight: 2, is_final: false };
    for workers in [1, 2] {
        let run = run(&deployment, workers, &script).expect("a run");
        let state = |epoch: usize| run.epochs[epoch].state_bytes[0];
        // Each event that is known takes 400 bytes.
        let most = |epochs: std::ops::Range<usize>| {
            epochs.map(|epoch| state(epoch) - 400 * 20 * (epoch + 1)).max().unwrap()
        };
        let (early, late) = (most(10..50), most(100..200));
        assert!(early > 0 && late <= 2 * early, "{workers} workers hold {late}, early {early}");
        let left = state(run.epochs.len() - 1);
        assert!(left < 5_000, "{left} bytes are left");
        let rows = final_rows(&run, 0).expect("rows");
        assert_eq!(rows.len(), 4_003, "every row stays");
        let depths: Vec<_> = rows.iter().take(15).map(|row| row.values()[3].clone()).collect();
        assert_eq!(depths[12], Value::Bigint(10), "a root is at most a second older");
    }
}

#[test]
fn an_id_that_comes_back_much_later_is_another_event() {
    let hours = |hours: u64| BEGIN_MS + hours * 3_600_000;
    let mut steps = Vec::new();
    let log = [(0, "a", None), (0, "b", Some("a")), (1, "a", Some("b")), (9, "a", None), (9, "c", Some("a"))];
    for (sequence, (at, id, cause)) in log.into_iter().enumerate() {
        steps.push(message(sequence as u64 + 1, hours(at), id, cause));
        steps.extend([Step::Batch { worker: sequence }, Step::Epoch]);
    }
    let script = Script { steps, in_flight: 1, is_final: true };
    for lateness in ["1s", "1d"] {
        let run = run(&origins(lateness, "1h"), 2, &script).expect("a run");
        let rows = final_rows(&run, 0).expect("rows");
        let shown: Vec<String> = rows
            .iter()
            .map(|row| row.values()[..4].iter().map(Value::to_plain).collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(shown, ["a a  0", "a a  0", "b a a 1", "c a a 1"], "lateness {lateness}");
    }
}
