//! Chains, cycles and fans: what they take, and what is left of them.

use std::sync::Arc;
use std::time::Instant;

use waterwheel_config::value::Value;
use waterwheel_pipeline::graph::Deployment;

use crate::testing::{Message, Script, Step, deployment, final_rows, run};

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
    type Batches = fn(usize) -> bool;
    let logs: [(&str, Events, Batches); 4] = [
        ("at once", chain().collect(), |_| false),
        ("by hundreds", chain().collect(), |at| at % 100 == 99),
        ("at once, but the last 30 one by one", chain().collect(), |at| at >= DEPTH - 30),
        ("by hundreds, effects first", backwards, |at| at % 100 == 99),
    ];
    for (what, events, cut) in logs {
        let began = Instant::now();
        let (rows, state_bytes) = follow(2, events.into_iter(), cut);
        eprintln!("a chain of {DEPTH} {what}: {:?}, {state_bytes} bytes", began.elapsed());
        let expected: Vec<_> = (0..DEPTH).map(|at| (name(at), name(0), at as i64, false)).collect();
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
                .map(|at| (format!("a{at}"), name(0), to_least(length / 2) + at as i64 + 1, false))
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
    // What is read after an epoch is the state after that epoch.
    let script = Script { steps, in_flight: 0, is_final: false };
    for workers in [1, 2] {
        let run = run(&deployment, workers, &script).expect("a run");
        let state = |epoch: usize| run.epochs[epoch].state_bytes[0];
        // What grows are the ids that are known, of 20 events an epoch: at most 400 bytes each.
        let grown = state(199).saturating_sub(state(100));
        assert!(grown <= 99 * 20 * 400, "{workers} workers: {grown} bytes more");
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
    let log = [
        (0, "a", None),
        (0, "b", Some("a")),
        (1, "a", Some("b")),
        (9, "a", None),
        (9, "c", Some("a")),
    ];
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
