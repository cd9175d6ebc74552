//! An S3 server, a stream under load, and one pipeline with its checkpoints and its lake in a bucket.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::faults::load::Load;
use crate::support::nats_server::NatsServer;
use crate::support::python::python;
use crate::support::rounds::Chance;
use crate::support::rows::{of_operator, parse};
use crate::support::s3_server::{BUCKET, S3Server, SECRET};
use crate::support::stream::{block_on, connect, create};
use crate::support::trading::{Events, NATS_SOURCE, PIPELINE};
use crate::support::wait_until;
use crate::support::waterwheel::{Deployment, Ending, Waterwheel};

const ENGINE: &str = r#"
name = "trading"

[engine]
flush = "10ms"
workers = {workers}
checkpoint = { path = "s3://{bucket}/state", every = "100ms", keep = 3 }

[sinks.tables]
type = "parquet"
from = ["events", "volume", "fills", "fill_latency", "onboarding"]
path = "s3://{bucket}/tables"
roll = { rows = 500, every = "{roll}" }
"#;

/// What the log of the sink is called.
pub(super) const LOG: &str = "tables/_waterwheel/trading.tables/log/";
pub(super) const STAGING: &str = "tables/_waterwheel/trading.tables/staging/";

/// Servers, events, and one pipeline.
pub(super) struct Stage {
    // The first one: its thread ends before the servers do.
    load: Load,
    pub(super) s3: S3Server,
    pub(super) nats: NatsServer,
    events: Events,
    pub(super) payloads: Arc<Vec<Vec<u8>>>,
    pub(super) roll: &'static str,
    pub(super) chance: Chance,
    pub(super) directory: TempDir,
}

impl Stage {
    pub(super) fn new(events: usize) -> Self {
        let directory = TempDir::new().unwrap();
        let events = Events::generate(directory.path(), events, "EVENTS");
        let nats = NatsServer::start();
        block_on(async { create(&connect(&nats.url()).await, "EVENTS", "events").await });
        let payloads = Arc::new(events.payloads());
        let (s3, mut chance) = (S3Server::start(), Chance::new());
        let load = Load::start(nats.url(), payloads.clone(), chance.between(0, u64::MAX));
        Self { load, s3, nats, events, payloads, roll: "50ms", chance, directory }
    }

    /// Lets so many more messages come quickly.
    pub(super) fn allow(&self, count: usize) {
        self.load.allow(count);
    }

    /// Lets time pass: at most so much, by chance.
    pub(super) fn pass(&mut self, most_ms: u64) {
        let micros = self.chance.between(0, most_ms * 1000);
        std::thread::sleep(Duration::from_micros(micros));
    }

    /// Instances that run at the same time need other numbers of workers.
    pub(super) fn deployment(&self, workers: u64) -> Deployment {
        let engine = ENGINE
            .replace("{workers}", &workers.to_string())
            .replace("{bucket}", BUCKET)
            .replace("{roll}", self.roll);
        let text = format!("{engine}{NATS_SOURCE}{PIPELINE}");
        let directory = self.directory.path().join(format!("run{workers}"));
        let deployment = Deployment::new(&directory, &text).set("NATS", self.nats.url());
        self.s3.known_to(deployment).set("UNTIL", "forever")
    }

    /// Starts the pipeline with one to three workers.
    pub(super) fn start(&mut self) -> Waterwheel {
        let workers = self.chance.between(1, 4);
        self.deployment(workers).start()
    }

    /// The number of the last entry of the log. A claim is an entry, too.
    pub(super) fn commits(&self) -> u64 {
        let number = |name: &String| name.strip_prefix(LOG)?.get(7..27)?.parse().ok();
        self.s3.names(LOG).iter().filter_map(number).max().unwrap_or(0)
    }

    /// Waits until the log has so many entries more than it had.
    pub(super) fn wait_entries(&self, before: u64, more: u64, running: &mut Waterwheel) {
        wait_until("something is committed", || {
            running.assert_running();
            self.commits() >= before + more
        });
    }

    /// Runs until it crashes at a point.
    pub(super) fn crash(&mut self, point: &str, count: u64) {
        self.allow(100);
        let workers = self.chance.between(1, 4);
        let at = format!("{point}:{count}");
        let ending = self.deployment(workers).set("WATERWHEEL_CRASH_AT", &at).start().wait();
        let is_there = ending.stderr.contains(&format!("crashing at {point}, as asked"));
        assert!(is_there, "`{at}` was not reached: {}", ending.stderr);
        assert_no_secret(&ending);
    }

    /// No entry of the log is of an older instance than the one before it.
    pub(super) fn assert_fenced(&self) {
        let log = self.s3.fetch(LOG);
        let mut newest = (0, 0);
        for (name, entry) in entries(&log) {
            let number = |key: &str| entry[key].as_u64().unwrap();
            let (before, now) = (newest, (number("number"), number("generation")));
            assert!(before.0 == 0 || now.0 == before.0 + 1, "{name} follows {}: {entry}", before.0);
            assert!(now.1 >= before.1, "{name} is of generation {} after {}", now.1, before.1);
            newest = now;
        }
    }

    /// Publishes the rest, runs to the end, and compares.
    pub(super) fn finish(&mut self) {
        let all = self.payloads.len();
        self.allow(all);
        wait_until("everything is published", || self.load.published() == all);
        let workers = self.chance.between(1, 4);
        let ending = self.deployment(workers).set("UNTIL", "final").run();
        assert_no_secret(&ending);
        self.assert_fenced();
        let lake = self.s3.fetch("tables/");
        assert_eq!(self.difference(&lake), (0, 0), "lost and doubled");
        self.events.assert_lake(&lake);
    }

    /// How many of the raw events are missing, and how many are there too often.
    fn difference(&self, lake: &Path) -> (usize, usize) {
        let read = parse(&python("read_lake.py", &[&lake]));
        let mut times: BTreeMap<String, usize> = BTreeMap::new();
        for row in of_operator(&read, "events") {
            *times.entry(row["id"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        let mut difference = (0, 0);
        for payload in self.payloads.iter() {
            let event: Value = serde_json::from_slice(payload).unwrap();
            match times.remove(event["id"].as_str().unwrap()) {
                None => difference.0 += 1,
                Some(count) => difference.1 += count - 1,
            }
        }
        (difference.0, difference.1 + times.len())
    }
}

/// The entries of a log in order.
fn entries(log: &Path) -> BTreeMap<String, Value> {
    let files = std::fs::read_dir(log).unwrap();
    let entry = |file: std::io::Result<std::fs::DirEntry>| {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        (name, serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
    };
    files.map(entry).collect()
}

/// The key of the store must be nowhere in what a process says.
pub(super) fn assert_no_secret(ending: &Ending) {
    for said in [&ending.stderr, &ending.stdout] {
        assert!(!said.contains(SECRET), "{said}");
    }
}
