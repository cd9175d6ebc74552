//! Sinks that are added to a running pipeline and take what comes from now on.

use std::collections::BTreeMap;

use async_nats::jetstream;
use serde_json::Value;

use super::stage::{Settings, Side, Stage};
use crate::support::nats_server::NatsServer;
use crate::support::postgres::Postgres;
use crate::support::python::python;
use crate::support::rows::parse;
use crate::support::stream::{block_on, connect};
use crate::support::wait_until;

/// So many messages are there before.
const BEFORE: usize = 60;

fn added(database: &str) -> String {
    format!(
        r#"
[sinks.warehouse]
type = "postgres"
from = ["left", "counts"]
url = "{database}"
begin = "now"

[sinks.results]
type = "nats"
from = ["left"]
url = "${{LEFT}}"
subject = "results.{{operator}}"
begin = "now"
"#
    )
}

/// It holds back what is not final yet, which no checkpoint from before knows of.
const ADDED_FINAL: &str = r#"
[sinks.late_lake]
type = "parquet"
from = ["left", "counts"]
path = "late_lake"
partition = []
roll = { every = "20ms" }
begin = "now"
"#;

#[test]
fn a_sink_that_begins_now_takes_what_comes_from_now_on() {
    let mut stage = Stage::new();
    let postgres = Postgres::start(&stage.directory.path().join("postgres")).unwrap();
    block_on(results_stream(&stage.left));
    let mut settings = Settings::default();
    for side in [Side::Left, Side::Right] {
        stage.publish_seconds(side, (0..600).step_by(10));
    }
    let running = stage.start(&settings);
    wait_until("all is in the lake", || stage.lake_rows("left") == BEFORE);
    assert!(running.terminate().status.success());

    settings.sinks = added(&postgres.url());
    for from in [600, 900, 1200] {
        let mut running = stage.start(&settings);
        wait_until("the sinks have begun", || {
            running.assert_running();
            let begun = running.said().matches("takes what comes from now on").count();
            begun == if from == 600 { 2 } else { 0 }
        });
        if from == 600 {
            wait_until("it goes on", || running.said().contains("going on from a checkpoint"));
        }
        for side in [Side::Left, Side::Right] {
            stage.publish_seconds(side, (from..from + 300).step_by(10));
        }
        running.kill();
    }
    settings.sinks.push_str(ADDED_FINAL);
    let mut running = stage.start(&settings);
    wait_until("the sink has begun", || {
        running.assert_running();
        begins_after(&running.said()).is_some()
    });
    let from = begins_after(&running.said()).unwrap();
    for side in [Side::Left, Side::Right] {
        stage.publish_seconds(side, (1500..1800).step_by(10));
    }
    running.kill();
    stage.finish(&settings);
    stage.assert_true("the sink that was there");
    assert_warehouse(&postgres);
    assert_results(&stage.left);
    assert_late_lake(&stage, from);
}

async fn results_stream(server: &NatsServer) {
    let config = jetstream::stream::Config {
        name: "RESULTS".to_owned(),
        subjects: vec!["results.>".to_owned(), "waterwheel.progress.>".to_owned()],
        allow_atomic_publish: true,
        ..jetstream::stream::Config::default()
    };
    connect(&server.url()).await.create_stream(config).await.unwrap();
}

/// Behind which message of left the sink begins, once the log has said so.
fn begins_after(said: &str) -> Option<u64> {
    let line = said.lines().find(|line| line.contains("sink `late_lake` is new"))?;
    // The end of the line may be still to come.
    let line: Value = serde_json::from_str(line).ok()?;
    let after = line["after"].as_str()?;
    after.split(", ").find_map(|place| place.strip_prefix("left "))?.parse().ok()
}

/// What came before is not there; of windows, those that changed since.
fn assert_warehouse(postgres: &Postgres) {
    let left = postgres.query("select min(sequence), max(sequence), count(*) from public.left");
    assert_eq!(left.unwrap().trim(), "61\t180\t120");
    let counts = postgres.query(
        "select min(window_start at time zone 'UTC'), count(*), sum(n) from counts \
         where granularity = '1m'",
    );
    assert_eq!(counts.unwrap().trim(), "2026-05-04 12:10:00\t40\t240");
}

/// Every message once; of one commit in any order, since several workers bring its rows.
fn assert_results(server: &NatsServer) {
    let mut sequences: Vec<u64> = block_on(async {
        let stream = connect(&server.url()).await.get_stream("RESULTS").await.unwrap();
        let last = stream.cached_info().state.last_sequence;
        let mut sequences = Vec::new();
        for sequence in 1..=last {
            let Ok(message) = stream.get_raw_message(sequence).await else { continue };
            if message.subject.as_str() == "results.left" {
                let row: Value = serde_json::from_slice(&message.payload).unwrap();
                sequences.push(row["sequence"].as_u64().unwrap());
            }
        }
        sequences
    });
    sequences.sort_unstable();
    assert_eq!(sequences, (61..=180).collect::<Vec<u64>>());
}

/// Windows that were open when it began are whole.
fn assert_late_lake(stage: &Stage, from: u64) {
    let rows = parse(&python("read_lake.py", &[&stage.run_directory().join("late_lake")]));
    let mut sequences: Vec<u64> = rows
        .iter()
        .filter(|row| row["operator"] == "left")
        .map(|row| row["sequence"].as_u64().unwrap())
        .collect();
    sequences.sort_unstable();
    assert_eq!(sequences, (from + 1..=180).collect::<Vec<u64>>());
    let windows: BTreeMap<(String, String), u64> = rows
        .iter()
        .filter(|row| row["operator"] == "counts")
        .map(|row| {
            let text = |name: &str| row[name].as_str().unwrap().to_owned();
            ((text("side"), text("window_start")), row["n"].as_u64().unwrap())
        })
        .collect();
    // The last windows, of both sides, each with all of its events.
    assert!(windows.len() >= 12, "{windows:?}");
    assert!(windows.values().all(|n| *n == 6), "{windows:?}");
}
