//! Two servers with a stream each, a pipeline over both, and its lake.

use std::fs;
use std::ops::Range;
use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::truth::{Counts, Decision, LATENESS, tables};
use crate::support::nats_server::NatsServer;
use crate::support::python::python;
use crate::support::rounds::Chance;
use crate::support::rows::{Row, assert_same_set, parse};
use crate::support::stream::{block_on, connect, create, publish};
use crate::support::waterwheel::{Deployment, Waterwheel};

/// The first second of all logs: 2026-05-04T12:00:00Z.
const BEGIN: i64 = 1_777_896_000;

const PIPELINE: &str = r#"
name = "pair"

[engine]
workers = WORKERS
flush = "20ms"
checkpoint = { path = "state", every = "100ms" }

[sources.left]
type = "nats"
url = "${LEFT}"
stream = "LEFT"
lateness = "LATENESS"
until = "${UNTIL}"
SKEW

[sources.right]
RIGHT
lateness = "LATENESS"
SKEW

[operators.counts]
type = "aggregate"
from = ["left", "right"]
by = { side = "properties.side" }
windows = ["1m"]
measures.n = "count(*)"
measures.total = "sum(properties.amount)"

[operators.pairs]
type = "join"
left = { from = "left" }
right = { from = "right" }
on = "properties.order"
within = "30s"
unmatched = "both"

[sinks.lake]
type = "parquet"
from = ["left", "right", "counts", "pairs", "dead_letter"]
path = "${LAKE}"
partition = []
roll = { every = "20ms" }
emit = "final"
"#;

const RIGHT_STREAM: &str = r#"
type = "nats"
url = "${RIGHT}"
stream = "RIGHT"
until = "${UNTIL}"
"#;

const RIGHT_FILE: &str = r#"
type = "file"
path = "RIGHT"
"#;

/// One of the two logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    Left,
    Right,
}

/// An event of a log.
#[derive(Clone, Debug)]
pub(super) struct Event {
    /// Of the log's time.
    pub(super) second: i64,
    pub(super) order: u64,
    pub(super) amount: i64,
}

/// How a run is made.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) workers: usize,
    /// Of the right source.
    pub(super) idle_after: Option<&'static str>,
    /// Of both.
    pub(super) max_skew: Option<&'static str>,
    pub(super) crash_at: Option<String>,
    pub(super) right_is_file: bool,
    /// More sinks.
    pub(super) sinks: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            workers: 2,
            idle_after: None,
            max_skew: None,
            crash_at: None,
            right_is_file: false,
            sinks: String::new(),
        }
    }
}

/// Unix seconds of a log's second.
pub(super) fn instant(second: i64) -> i64 {
    BEGIN + second
}

impl Side {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Right => "right",
        }
    }

    fn stream(self) -> &'static str {
        match self {
            Self::Left => "LEFT",
            Self::Right => "RIGHT",
        }
    }

    /// Events that come out of order, a few too late; orders that both logs have, and others.
    pub(super) fn log(self, count: usize, chance: &mut Chance) -> Vec<Event> {
        let one = |index: usize| {
            let behind = match chance.between(0, 20) {
                0 => chance.between(11, 90),
                _ => chance.between(0, 9),
            };
            Event {
                second: index as i64 * 4 - behind as i64,
                order: index as u64 / 2 + chance.between(0, 4),
                amount: chance.between(0, 1_000) as i64,
            }
        };
        (0..count).map(one).collect()
    }

    fn payload(self, event: &Event) -> Vec<u8> {
        let Event { second, order, amount } = event;
        let properties = json!({"side": self.name(), "order": order, "amount": amount});
        let payload = json!({"timestamp": instant(*second), "properties": properties});
        payload.to_string().into_bytes()
    }
}

/// The servers, what was published, and where the pipeline runs.
pub(super) struct Stage {
    pub(super) left: NatsServer,
    pub(super) right: NatsServer,
    logs: [Vec<Event>; 2],
    pub(super) directory: TempDir,
    lakes: usize,
}

impl Stage {
    pub(super) fn new() -> Self {
        let (left, right) = (NatsServer::start(), NatsServer::start());
        for (side, server) in [(Side::Left, &left), (Side::Right, &right)] {
            let make =
                async { create(&connect(&server.url()).await, side.stream(), side.name()).await };
            block_on(make);
        }
        let directory = TempDir::new().unwrap();
        fs::create_dir_all(directory.path().join("run")).unwrap();
        Self { left, right, logs: [Vec::new(), Vec::new()], directory, lakes: 0 }
    }

    pub(super) fn publish(&mut self, side: Side, events: Vec<Event>) {
        let server = if side == Side::Left { &self.left } else { &self.right };
        let payloads: Vec<Vec<u8>> = events.iter().map(|event| side.payload(event)).collect();
        let subject = format!("{}.x", side.name());
        block_on(async { publish(&connect(&server.url()).await, &subject, payloads).await });
        self.logs[side as usize].extend(events);
    }

    /// An event at each of these seconds; the orders of both sides meet.
    pub(super) fn publish_seconds(&mut self, side: Side, seconds: impl IntoIterator<Item = u32>) {
        self.publish(side, Self::events(seconds));
    }

    fn events(seconds: impl IntoIterator<Item = u32>) -> Vec<Event> {
        let event = |second: u32| Event {
            second: second.into(),
            order: u64::from(second) / 20,
            amount: i64::from(second % 7),
        };
        seconds.into_iter().map(event).collect()
    }

    pub(super) fn run_directory(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    /// The right log as a file, with an event each 10 seconds.
    pub(super) fn write_file(&mut self, seconds: Range<u32>) {
        let events = Self::events(seconds.step_by(10));
        self.add_lines(&events);
        self.logs[Side::Right as usize].extend(events);
    }

    /// Adds to the file what is not read any more, since it is finished.
    pub(super) fn append_in_vain(&self, seconds: Range<u32>) {
        self.add_lines(&Self::events(seconds.step_by(10)));
    }

    fn add_lines(&self, events: &[Event]) {
        let path = self.run_directory().join("RIGHT");
        let mut lines = fs::read(&path).unwrap_or_default();
        for event in events {
            lines.extend(Side::Right.payload(event));
            lines.push(b'\n');
        }
        fs::write(&path, lines).unwrap();
    }

    fn lake(&self) -> PathBuf {
        self.run_directory().join(format!("lake{}", self.lakes))
    }

    fn deployment(&self, settings: &Settings, until: &str) -> Deployment {
        let mut right = if settings.right_is_file { RIGHT_FILE } else { RIGHT_STREAM }.to_owned();
        if let Some(after) = settings.idle_after {
            right.push_str(&format!("idle_after = \"{after}\"\n"));
        }
        let skew = settings.max_skew.map(|skew| format!("max_skew = \"{skew}\"\n"));
        let text = PIPELINE
            .replace("WORKERS", &settings.workers.to_string())
            .replace("LATENESS", &format!("{LATENESS}s"))
            .replace("\nRIGHT\n", &right)
            .replace("SKEW\n", &skew.unwrap_or_default());
        let deployment = Deployment::new(&self.run_directory(), &(text + &settings.sinks))
            .set("LEFT", self.left.url())
            .set("RIGHT", self.right.url())
            .set("LAKE", self.lake())
            .set("UNTIL", until);
        match &settings.crash_at {
            Some(at) => deployment.set("WATERWHEEL_CRASH_AT", at),
            None => deployment,
        }
    }

    /// Starts a run without end.
    pub(super) fn start(&self, settings: &Settings) -> Waterwheel {
        self.deployment(settings, "forever").start()
    }

    /// Runs to the end of both logs, where every window is closed.
    pub(super) fn finish(&self, settings: &Settings) {
        self.deployment(settings, "final").run();
    }

    /// The next run begins anew, into a lake of its own; it knows what was decided.
    pub(super) fn forget_all_but_decisions(&mut self) {
        let state = self.run_directory().join("state/pair");
        let kept = fs::read(state.join("idle")).ok();
        // A short run has written nothing there.
        if state.exists() {
            fs::remove_dir_all(&state).unwrap();
        }
        if let Some(kept) = kept {
            fs::create_dir_all(&state).unwrap();
            fs::write(state.join("idle"), kept).unwrap();
        }
        self.lakes += 1;
    }

    /// What the log of decisions says.
    pub(super) fn decisions(&self) -> Vec<Decision> {
        let path = self.run_directory().join("state/pair/idle");
        let text = fs::read_to_string(path).unwrap_or_default();
        let lines = text.lines().filter_map(|line| {
            // A crash may have cut the last line off.
            let line: Value = serde_json::from_str(line.split_once(' ')?.1).ok()?;
            let decision = line.get("decision")?;
            Some(Decision {
                side: if decision["source"] == "left" { Side::Left } else { Side::Right },
                after: decision["after"]["ordinal"].as_u64()? as usize,
                watermark_us: decision["watermark_us"].as_i64()?,
            })
        });
        lines.collect()
    }

    /// How many rows of a table readers see.
    pub(super) fn lake_rows(&self, table: &str) -> usize {
        if !self.lake().is_dir() {
            return 0;
        }
        let lines = python("read_lake.py", &[&self.lake()]);
        parse(&lines).iter().filter(|row| row["operator"] == table).count()
    }

    /// Panics unless the lake holds exactly what is expected.
    pub(super) fn assert_true(&self, what: &str) -> Counts {
        let decisions = self.decisions();
        let [left, right] = &self.logs;
        let (expected, counts) = tables(&[(Side::Left, left), (Side::Right, right)], &decisions);
        let rows = parse(&python("read_lake.py", &[&self.lake()]));
        for (table, expected) in expected {
            let own = rows.iter().filter(|row| row["operator"] == table);
            let actual: Vec<Row> = own.map(|row| in_short(table, row)).collect();
            assert_same_set(&format!("{table} of {what}"), &expected, &actual);
        }
        counts
    }
}

/// What of a row is compared.
fn in_short(table: &str, row: &Row) -> Row {
    let keep = |names: &[&str]| -> Row {
        names.iter().map(|name| ((*name).to_owned(), row[*name].clone())).collect()
    };
    match table {
        "counts" => {
            let mut short = keep(&["side", "n", "total"]);
            let start = row["window_start"].as_str().unwrap();
            short.insert("minute".to_owned(), json!(minute(start)));
            short
        }
        "pairs" => keep(&["left_key", "right_key"]),
        "dead_letter" => keep(&["source", "sequence", "reason"]),
        _ => keep(&["sequence", "late"]),
    }
}

/// The minute of the log's time: `2026-05-04T12:34:00+00:00`.
fn minute(text: &str) -> i64 {
    let number = |range: Range<usize>| text[range].parse::<i64>().unwrap();
    (number(8..10) - 4) * 24 * 60 + (number(11..13) - 12) * 60 + number(14..16)
}
