//! The truth table of `docs/reference.md`: every row is read from there and run.

use std::collections::BTreeMap;

use waterwheel_config::value::Value;

use crate::testing::{Message, Script, Step, deployment, final_rows, run};

const REFERENCE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference.md"));
const HEAD: &str = "| case | events | `ordered` | `strict` | `any` |";
const ORDERS: [&str; 3] = ["ordered", "strict", "any"];
/// The start of the period, in microseconds: a multiple of the period's 100 seconds.
const START_US: i64 = 1_700_000_000_000_000;

/// A row of the table.
struct Case {
    name: String,
    events: Vec<String>,
    /// The times of the path in seconds, by order; none where nobody enters.
    paths: [Vec<String>; 3],
}

fn cases() -> Vec<Case> {
    let (_, table) = REFERENCE.split_once(HEAD).expect("the truth table");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let case = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let words = |cell: &str| -> Vec<String> {
            let words = cell.trim_matches('`').split(' ').filter(|word| *word != "nobody");
            words.map(str::to_owned).collect()
        };
        let [name, events, ordered, strict, any] = cells.as_slice() else {
            panic!("five cells: {line}");
        };
        let paths = [words(ordered), words(strict), words(any)];
        Case { name: (*name).to_owned(), events: words(events), paths }
    };
    rows.map(case).collect()
}

/// `a0`, `ab1.5`, `x3` (no step), `~a0` (no user) or `(x3)` (does not pass `where`).
fn payload(case: usize, written: &str) -> String {
    let passes = !written.starts_with('(');
    let bare = written.trim_matches(['(', ')']);
    let user = if bare.starts_with('~') { "null".to_owned() } else { format!("\"u{case}\"") };
    let bare = bare.trim_start_matches('~');
    let split = bare.find(|c: char| !c.is_ascii_lowercase()).expect("a time");
    let (matches, seconds) = bare.split_at(split);
    let time_us = START_US + (seconds.parse::<f64>().expect("seconds") * 1e6).round() as i64;
    format!(
        "{{\"timestamp\":{time_us},\"user_id\":{user},\"passes\":{passes},\
         \"matches\":\"{matches}\",\"first\":\"{case} {seconds}\"}}"
    )
}

#[test]
fn every_row_of_the_truth_table_holds() {
    let cases = cases();
    assert!(cases.len() >= 25, "{} rows", cases.len());
    let operators: String = ORDERS
        .iter()
        .map(|order| {
            format!(
                "[operators.{order}]\ntype = \"funnel\"\nfrom = \"events0\"\nwhere = \"passes = true\"\n\
                 order = \"{order}\"\nwithin = \"10s\"\nwindow = \"100s\"\nbreakdown = \"payload.first\"\n\
                 steps = [{{ name = \"a\", where = \"matches LIKE '%a%'\" }}, \
                 {{ name = \"b\", where = \"matches LIKE '%b%'\" }}, \
                 {{ name = \"c\", where = \"matches LIKE '%c%'\" }}]\n"
            )
        })
        .collect();
    let deployment = deployment(&["1d"], &operators).expect("a deployment");
    let mut steps = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        for written in &case.events {
            let (sequence, payload) = (steps.len() as u64 + 1, payload(index, written));
            steps.push(Step::Message(Message { sequence, payload, ..Message::default() }));
        }
    }
    steps.push(Step::Epoch);
    let script = Script { steps, in_flight: 0, is_final: true };
    let run = run(&deployment, 1, &script).expect("a run");
    for (operator, order) in ORDERS.iter().enumerate() {
        // By the first event of the path, the times since it.
        let mut found: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for row in final_rows(&run, operator).expect("rows") {
            let [Value::Timestamp(START_US), _, Value::Text(first), Value::Bigint(step), ..] =
                row.values()
            else {
                continue;
            };
            let (users, since) = (&row.values()[5], &row.values()[10]);
            let times = found.entry(first.to_string()).or_default();
            match (users, since) {
                (Value::Bigint(1), Value::Null) => times.push(0.0),
                (Value::Bigint(1), Value::Double(since)) => times.push(since.get()),
                (Value::Bigint(0), _) => assert!(*step > 1),
                other => panic!("{other:?} of {first}"),
            }
        }
        for (index, case) in cases.iter().enumerate() {
            let mine = found.iter().filter(|(first, _)| first.starts_with(&format!("{index} ")));
            let paths: Vec<Vec<String>> = mine
                .map(|(first, since)| {
                    let (_, first) = first.split_once(' ').expect("a time");
                    let begin: f64 = first.parse().expect("seconds");
                    since.iter().map(|since| (begin + since).to_string()).collect()
                })
                .collect();
            let wanted = Some(&case.paths[operator]).filter(|path| !path.is_empty());
            assert_eq!(
                paths.iter().collect::<Vec<_>>(),
                wanted.into_iter().collect::<Vec<_>>(),
                "{}: {} ({order})",
                case.name,
                case.events.join(" ")
            );
        }
    }
}
