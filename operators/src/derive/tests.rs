//! Derived rows against the same by hand, over events and over rows that change.

use chrono_tz::Tz;
use waterwheel_config::schema::Finality;
use waterwheel_config::value::{ColumnType, Value};

use crate::testing::{
    Cell, Event, Expected, ExpectedRows, Holds, Item, Message, Model, Prefix, Random, Timeline,
    cases, check, check_random_cuts, check_same_rows, deployment, lateness_us,
};

/// An alias, SQL and the same by hand.
type Derived = (&'static str, &'static str, fn(&dyn Item) -> Expected);

const COLUMNS: [Derived; 6] = [
    ("kind", "event_type", |e| Expected::Is(e.get("event_type").text_value())),
    ("price", "properties.price", |e| Expected::Is(e.get("properties.price").text_value())),
    ("twice", "properties.price * 2", |e| {
        Expected::near(e.get("properties.price").double().map(|price| price * 2.0))
    }),
    ("is_dear", "properties.price > 2", |e| {
        let dear = e.get("properties.price").greater(2.0);
        Expected::Is(dear.map_or(Value::Null, Value::Boolean))
    }),
    ("at", "timestamp", |e| match e.get("timestamp") {
        Cell::Time(time_us) => Expected::Is(Value::Timestamp(time_us)),
        other => panic!("{other:?}"),
    }),
    ("number", "cast(sequence as bigint)", |e| match e.get("sequence") {
        Cell::Integer(number) => Expected::bigint(number as i64),
        other => panic!("{other:?}"),
    }),
];

const CONDITIONS: [Option<(&str, Holds)>; 3] = [
    None,
    Some(("event_type = 'a'", |e| Some(e.get("event_type").is_text("a")))),
    Some(("properties.price > 2", |e| e.get("properties.price").greater(2.0))),
];

fn log(random: &mut Random, count: usize, lateness_us: &[i64]) -> Vec<Message> {
    let mut timelines = Timeline::each(random, Tz::UTC, lateness_us);
    (1..=count as u64)
        .map(|sequence| {
            let source = random.below(timelines.len());
            let time_us = timelines[source].next(random);
            let kind = random.pick(&["\"a\"", "\"b\"", "null", "3"]);
            let user = random.pick(&["\"u1\"", "\"u2\"", "null"]);
            let price = random.pick(&["1", "2.5", "3", "\"4\"", "null", "true", "\"x\""]);
            let timestamp = Timeline::spell(time_us, random);
            let payload = format!(
                "{{\"timestamp\":{timestamp},\"event_type\":{kind},\"user_id\":{user},\
                 \"properties\":{{\"price\":{price}}}}}"
            );
            let (subject, received_at_us) = ("a.b".to_owned(), Some(time_us));
            Message { source, sequence, subject, received_at_us, payload }
        })
        .collect()
}

#[test]
fn every_event_has_its_row() {
    cases("every event has its row", 30, |random| {
        let sources = 1 + random.below(2);
        let lateness: Vec<_> = (0..sources).map(|_| random.pick(&["0s", "10m"])).collect();
        let (columns, condition) = (random.some(&COLUMNS, 1, 6), random.pick(&CONDITIONS));
        let from: Vec<String> = (0..sources).map(|index| format!("\"events{index}\"")).collect();
        let mut operator =
            format!("[operators.d]\ntype = \"derive\"\nfrom = [{}]\n", from.join(", "));
        if let Some((condition, _)) = condition {
            operator += &format!("where = \"{condition}\"\n");
        }
        for (alias, sql, _) in &columns {
            operator += &format!("columns.{alias} = \"{sql}\"\n");
        }
        let deployment = deployment(&lateness, &operator).expect("a deployment");
        let expected = |prefix: &Prefix| {
            let passes =
                |event: &&Event| condition.is_none_or(|(_, holds)| holds(*event) == Some(true));
            let row = |event: &Event| {
                let key = Value::text(&event.key());
                let head = [key.clone(), Value::Timestamp(event.timestamp_us)];
                let derived = columns.iter().map(|(_, _, get)| get(event));
                (vec![key], head.into_iter().map(Expected::Is).chain(derived).collect())
            };
            vec![prefix.events.iter().filter(passes).map(row).collect()]
        };
        let log = log(random, 30, &lateness_us(&deployment));
        check_random_cuts(&log, random, |workers, script| {
            check(&deployment, workers, script, &|_| false, &mut |prefix| expected(prefix))
        })
        .map_err(|failure| format!("{operator}{failure}"))?;
        check_same_rows(&deployment, &log, &|_| false, random)
    });
}

#[test]
fn rows_that_change_change_what_is_derived_of_them() {
    cases("rows that change change what is derived of them", 25, |random| {
        let model = Model::trades_per_user(vec!["1m", "1h"]);
        let operators = model.toml("per_user")
            + "[operators.d]\ntype = \"derive\"\nfrom = \"per_user\"\nwhere = \"trades <> 2\"\n\
               columns.user = \"user_id\"\ncolumns.twice = \"trades * 2\"\n";
        let deployment = deployment(&["30s"], &operators).expect("a deployment");
        let expected = |prefix: &Prefix| {
            let contributions: Vec<_> =
                prefix.events.iter().filter_map(|event| model.contribution(event)).collect();
            let rows = model.expected(&contributions);
            let items = model.items(&rows);
            let derived = rows.iter().zip(&items).filter_map(|((key, row), item)| {
                let Cell::Integer(trades) = item.get("trades") else { panic!("no count") };
                let texts: Vec<String> = key.iter().map(Value::to_plain).collect();
                let own = vec![Value::text(&texts.join("|"))];
                let row = vec![
                    Expected::Is(own[0].clone()),
                    row[1].clone(),
                    row[2].clone(),
                    Expected::Is(item.get("user_id").text_value()),
                    Expected::near(Some(trades as f64 * 2.0)),
                ];
                (trades != 2).then_some((own, row))
            });
            let derived: ExpectedRows = derived.collect();
            vec![rows, derived]
        };
        let log = log(random, 40, &[30_000_000]);
        check_random_cuts(&log, random, |workers, script| {
            check(&deployment, workers, script, &|_| false, &mut |prefix| expected(prefix))
        })
    });
}

/// A window is final by its end, so the end is among what comes out.
#[test]
fn what_makes_rows_final_comes_out_too() {
    let windows = "[operators.n]\ntype = \"aggregate\"\nfrom = \"events0\"\nwindows = [\"1m\"]\nmeasures.n = \"count(*)\"\n\
                   [operators.d]\ntype = \"derive\"\nfrom = \"n\"\n";
    let schema = |columns: &str| {
        let deployment = deployment(&["1s"], &format!("{windows}{columns}")).expect("a deployment");
        deployment.operators[1].planned.schema.clone()
    };
    let added = schema("columns.n = \"n\"\n");
    assert_eq!(added.names().collect::<Vec<_>>(), ["key", "timestamp", "window_end", "n"]);
    assert_eq!(added.finality, Finality::At { column: 2, plus_us: 0 });
    assert_eq!(added.columns[3].kind, ColumnType::Bigint);
    assert_eq!(added.columns[1].behind_us, Some(60_000_000));
    let there = schema("columns.n = \"n\"\ncolumns.closed_at = \"window_end\"\n");
    assert_eq!(there.names().collect::<Vec<_>>(), ["key", "timestamp", "n", "closed_at"]);
    assert_eq!(there.finality, Finality::At { column: 3, plus_us: 0 });
    let taken = deployment(&["1s"], &format!("{windows}columns.window_end = \"n\"\n"));
    let Err(findings) = taken else { panic!("it is a finding") };
    assert!(findings.contains("there are two columns named `window_end`"), "{findings}");
}
