//! What comes out stays, and what can match no more is forgotten.

use super::Case;
use crate::testing::{Message, Script, Step, cases, deployment, run};

#[test]
fn what_comes_out_of_a_join_of_events_is_never_taken_back() {
    cases("what comes out of a join of events is never taken back", 60, |random| {
        let case = Case::random(random);
        let log = case.log(random, 60);
        let run = run(&case.deployment, 2, &Script::random(&log, random))?;
        let mut changes = run.epochs.iter().flat_map(|epoch| &epoch.changes[0]);
        match changes.find(|(_, diff)| *diff != 1) {
            None => Ok(()),
            Some((row, diff)) => Err(case.describe(format!("{diff} times {row:?}"))),
        }
    });
}

#[test]
fn state_goes_with_what_can_match() {
    cases("state goes with what can match", 30, |random| {
        let case = Case::random(random);
        let mut script = Script::random(&case.log(random, 60), random);
        let mut bare = Script { steps: Vec::new(), in_flight: 0, is_final: false };
        let state = |script: &mut Script| -> Result<usize, String> {
            script.add_long_after(case.lateness.len());
            let run = run(&case.deployment, 2, script)?;
            Ok(run.epochs.last().map_or(0, |epoch| epoch.state_bytes[0]))
        };
        let (left, wanted) = (state(&mut script)?, state(&mut bare)?);
        match left == wanted {
            true => Ok(()),
            false => Err(case.describe(format!("{left} bytes are left, not {wanted}\n{script}"))),
        }
    });
}

#[test]
fn state_is_bounded_by_what_can_still_match() {
    let operator = "[operators.pairs]\ntype = \"join\"\nleft = { from = \"events0\" }\n\
                    right = { from = \"events0\" }\non = \"k\"\nwithin = \"1s\"\nunmatched = \"both\"\n";
    let deployment = deployment(&["1s"], operator).expect("a deployment");
    // Ten events per second of event time, every second of one key: 600 times as long as a row is of
    // use. Now and then a row has no key.
    let mut steps = Vec::new();
    for index in 0..6_000u64 {
        let key = match index % 20 {
            0 => "null".to_owned(),
            odd if odd % 2 == 1 => "\"hot\"".to_owned(),
            _ => (index % 1_000).to_string(),
        };
        let time_ms = 1_700_000_000_000 + index * 100;
        let payload = format!("{{\"timestamp\":{time_ms},\"k\":{key}}}");
        steps.push(Step::Message(Message { sequence: index + 1, payload, ..Message::default() }));
        if index % 10 == 9 {
            steps.push(Step::Batch { worker: index as usize / 10 });
            steps.push(Step::Epoch);
        }
    }
    // What is read after an epoch is the state after that epoch.
    let script = Script { steps, in_flight: 0, is_final: false };
    for workers in [1, 2] {
        let epochs = run(&deployment, workers, &script).expect("a run").epochs;
        let state = |epoch: usize| epochs[epoch].state_bytes[0];
        let most = (20..600).map(state).max().unwrap();
        let early = (5..20).map(state).max().unwrap();
        assert!(early > 0, "nothing is held");
        assert!(most <= 2 * early, "{workers} workers hold {most} bytes, early {early}");
    }
}
