//! Sinks come and go: what an aggregate kept back until it was final, it owes a sink that wants every
//! change, and what it has brought out already it must not bring out again.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::support::say;
use crate::support::trading::Events;
use crate::support::waterwheel::Deployment;

const EVENTS: usize = 6_000;

/// A sink that wants every change of what the others want when it is final.
const EVERY_CHANGE: &str = r#"
[sinks.live]
type = "parquet"
from = ["volume", "onboarding"]
path = "live"
emit = "changes"
begin = "now"
"#;

#[test]
fn final_rows_are_right_whatever_sinks_come_and_go() {
    let pipeline =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/format_3/pipeline.toml");
    let final_only = fs::read_to_string(pipeline).unwrap();
    let every_change = format!("{final_only}{EVERY_CHANGE}");
    let directory = TempDir::new().unwrap();
    let events = Events::generate(directory.path(), EVENTS, "events.jsonl");
    let (f, c) = (final_only.as_str(), every_change.as_str());
    for (name, parts) in [("fcf", vec![f, c, f]), ("cfc", vec![c, f, c]), ("fc", vec![f, c])] {
        let run = directory.path().join(name);
        fs::create_dir(&run).unwrap();
        for (index, text) in parts.iter().enumerate() {
            let is_last = index + 1 == parts.len();
            let lines = events.payloads()[..EVENTS * (index + 1) / parts.len()].join(&b'\n');
            fs::write(run.join("events.jsonl"), lines).unwrap();
            let until = if is_last { "final" } else { "end" };
            let ending = Deployment::new(&run, text).set("UNTIL", until).run();
            let has_gone_on = ending.stderr.contains("going on from a checkpoint");
            assert_eq!(has_gone_on, index > 0, "{name} {index}: {}", ending.stderr);
        }
        events.assert_lake(&run.join("lake"));
    }
    say!("changed sinks: {EVENTS} events three times, the sinks changed in between");
}
