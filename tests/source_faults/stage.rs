//! A server with a stream, a pipeline that reads it, and ways to break the stream.

use std::fs;
use std::path::{Path, PathBuf};

use async_nats::jetstream::Context;
use async_nats::jetstream::stream::Config;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::nats_server::NatsServer;
use crate::support::postgres::Postgres;
use crate::support::python::python;
use crate::support::rows::{Row, of_operator, parse};
use crate::support::stream::{block_on, connect, publish};
use crate::support::waterwheel::{Deployment, Waterwheel};
use crate::support::{copy_directory, wait_until};

const PIPELINE: &str = r#"
name = "faults"

[engine]
flush = "10ms"

[sources.events]
type = "nats"
url = "${NATS}"
stream = "EVENTS"
start = "${START:-first}"
until = "${UNTIL:-forever}"
lateness = "30s"

[operators.volume]
type = "aggregate"
from = "events"
windows = ["1d"]
measures.events = "count(*)"
measures.total = "sum(n)"

[sinks.warehouse]
type = "postgres"
from = ["events", "volume"]
url = "${DATABASE}"

[sinks.lake]
type = "parquet"
from = ["events", "volume"]
path = "lake"
roll = { every = "50ms" }
"#;

/// Messages that nobody published before have numbers from here on.
const OTHERS: u64 = 1_000_000;

/// One server for all rounds of a test; each has a database of its own.
pub(super) struct SharedPostgres {
    server: Postgres,
    _directory: TempDir,
}

impl SharedPostgres {
    pub(super) fn start() -> Self {
        let directory = TempDir::new().unwrap();
        let server = Postgres::start(&directory.path().join("postgres")).unwrap();
        Self { server, _directory: directory }
    }
}

/// A server with the stream, and the sinks of a pipeline.
pub(super) struct Stage<'p> {
    nats: NatsServer,
    postgres: &'p Postgres,
    database: String,
    /// The numbers in the messages of the stream as the pipeline is to see it, in order.
    pub(super) original: Vec<u64>,
    pub(super) limit: i64,
    backup: PathBuf,
    directory: TempDir,
}

impl<'p> Stage<'p> {
    pub(super) fn new(postgres: &'p SharedPostgres, round: usize, limit: i64) -> Self {
        let directory = TempDir::new().unwrap();
        let database = format!("round_{round}");
        let postgres = &postgres.server;
        postgres.query(&format!("create database {database}")).unwrap();
        let backup = directory.path().join("backup");
        let nats = NatsServer::start();
        let stage =
            Self { nats, postgres, database, original: Vec::new(), limit, backup, directory };
        stage.make();
        stage
    }

    fn url(&self) -> String {
        self.postgres.url_of(&self.database)
    }

    pub(super) fn deployment(&self) -> Deployment {
        self.deployment_of(PIPELINE)
    }

    /// The same with checkpoints.
    pub(super) fn saving_deployment(&self) -> Deployment {
        let checkpoint = "[engine]\ncheckpoint = { path = \"state\" }\n";
        self.deployment_of(&PIPELINE.replace("[engine]\n", checkpoint))
    }

    fn deployment_of(&self, text: &str) -> Deployment {
        Deployment::new(&self.directory.path().join("run"), text)
            .set("NATS", self.nats.url())
            .set("DATABASE", self.url())
    }

    /// Runs an exchange with the server.
    fn ask<T, F: Future<Output = T>>(&self, ask: impl FnOnce(Context) -> F) -> T {
        block_on(async { ask(connect(&self.nats.url()).await).await })
    }

    /// Makes the stream.
    pub(super) fn make(&self) {
        let config = config(self.limit);
        self.ask(|context| async move {
            context.create_stream(config).await.unwrap();
        });
    }

    /// Lets the stream keep only so many messages from now on.
    pub(super) fn limit_to(&self, limit: i64) {
        let config = config(limit);
        self.ask(|context| async move {
            context.update_stream(config).await.unwrap();
        });
    }

    pub(super) fn delete(&self) {
        self.ask(|context| async move {
            context.delete_stream("EVENTS").await.unwrap();
        });
    }

    pub(super) fn last(&self) -> u64 {
        self.original.len() as u64
    }

    /// Publishes messages that the pipeline is to read.
    pub(super) fn publish(&mut self, count: u64, pad_bytes: usize) {
        let from = self.last();
        self.send(from, count, pad_bytes);
        self.original.extend(from..from + count);
    }

    /// Publishes messages and lets a pipeline commit them, which is then killed; the last of them.
    pub(super) fn read_some(&mut self, count: u64) -> u64 {
        self.publish(count, 0);
        let mut running = self.deployment().start();
        self.wait_committed(self.last(), &mut running);
        running.kill();
        self.last()
    }

    /// Publishes messages that are not those that the pipeline has read or is to read.
    pub(super) fn publish_others(&self, count: u64) {
        self.send(OTHERS, count, 0);
    }

    pub(super) fn send(&self, from: u64, count: u64, pad_bytes: usize) {
        let payloads = (from..from + count).map(|n| message(n, pad_bytes));
        self.ask(|context| async move { publish(&context, "events.x", payloads).await });
    }

    /// Purges everything before a sequence.
    pub(super) fn purge_to(&self, sequence: u64) {
        self.ask(|context| async move {
            let stream = context.get_stream("EVENTS").await.unwrap();
            stream.purge().sequence(sequence).await.unwrap();
        });
    }

    pub(super) fn delete_message(&self, sequence: u64) {
        self.ask(|context| async move {
            let stream = context.get_stream("EVENTS").await.unwrap();
            assert!(stream.delete_message(sequence).await.unwrap());
        });
    }

    /// Keeps a copy of the server's store as it is now.
    pub(super) fn copy_store(&mut self) {
        self.nats.kill();
        copy_directory(&self.nats.store(), &self.backup);
        self.nats.restart();
    }

    /// Puts the copy back, as a restored backup does.
    pub(super) fn put_back(&mut self) {
        self.nats.kill();
        fs::remove_dir_all(self.nats.store()).unwrap();
        copy_directory(&self.backup, &self.nats.store());
        self.nats.restart();
    }

    /// Cuts the end of the newest file of messages off, as a power cut does.
    pub(super) fn tear(&mut self) {
        self.nats.kill();
        let mut blocks = Vec::new();
        files_below(&self.nats.store(), ".blk", &mut blocks);
        blocks.sort();
        let block = fs::File::options().write(true).open(blocks.last().unwrap()).unwrap();
        block.set_len(block.metadata().unwrap().len() - 7).unwrap();
        self.nats.restart();
    }

    /// Waits until both sinks hold durably everything up to this message.
    pub(super) fn wait_committed(&self, sequence: u64, running: &mut Waterwheel) {
        wait_until(&format!("message {sequence} is committed, or the process has ended"), || {
            self.committed() >= sequence || running.has_ended()
        });
        running.assert_running();
    }

    /// Up to where both sinks have it.
    fn committed(&self) -> u64 {
        let sql = "select positions->'events'->>'ordinal' from waterwheel.progress";
        // Before the first run there is no table.
        let postgres = self.query(sql).ok().and_then(|it| it.trim().parse().ok()).unwrap_or(0);
        let mut entries = Vec::new();
        let log = self.directory.path().join("run/lake/_waterwheel");
        files_below(&log, ".json", &mut entries);
        entries.sort();
        // A claim before the first commit has no progress.
        let lake = entries.last().map_or(Value::Null, |entry| {
            let text = fs::read_to_string(entry).unwrap_or_default();
            serde_json::from_str(&text).unwrap_or(Value::Null)
        });
        let position = &lake["progress"]["record"]["positions"]["events"]["ordinal"];
        position.as_u64().unwrap_or(0).min(postgres)
    }

    pub(super) fn query(&self, sql: &str) -> std::io::Result<String> {
        self.postgres.query_in(&self.database, sql)
    }

    /// Panics unless both sinks hold just what a first part of the stream, of at least so many
    /// messages, makes.
    pub(super) fn assert_prefix(&self, what: &str, least: u64) {
        let whole: Vec<(u64, u64)> = (1..).zip(self.original.iter().copied()).collect();
        self.assert_rows(what, &whole, |held| held >= least as usize);
    }

    /// Panics unless both sinks hold a first part of these messages (sequence and number) that is
    /// long enough.
    pub(super) fn assert_rows(
        &self,
        what: &str,
        whole: &[(u64, u64)],
        is_enough: impl Fn(usize) -> bool,
    ) {
        let sql = "select sequence, payload->>'n' from events order by sequence";
        let text = self.query(sql).unwrap();
        let rows = text.lines().map(|line| {
            let (sequence, n) = line.split_once('\t').unwrap();
            (sequence.parse().unwrap(), n.parse().unwrap())
        });
        let warehouse: Vec<(u64, u64)> = rows.collect();
        let lake = parse(&python("read_lake.py", &[&self.directory.path().join("run/lake")]));
        let mut lake: Vec<(u64, u64)> = of_operator(&lake, "events").iter().map(numbered).collect();
        lake.sort_unstable();
        for (store, held) in [("postgres", &warehouse), ("the lake", &lake)] {
            let first = whole.get(..held.len()).unwrap_or(whole);
            assert_eq!(held, first, "{what}: {store} holds a first part of the stream");
            assert!(is_enough(held.len()), "{what}: {store} holds {}", held.len());
        }
        let counted = self.query("select sum(events), sum(total) from volume").unwrap();
        let total: u64 = warehouse.iter().map(|(_, n)| n).sum();
        assert_eq!(counted.trim(), format!("{}\t{total}", warehouse.len()), "{what}: the counts");
    }
}

fn config(limit: i64) -> Config {
    Config {
        name: "EVENTS".to_owned(),
        subjects: vec!["events.>".to_owned()],
        max_messages: limit,
        ..Config::default()
    }
}

fn numbered(row: &Row) -> (u64, u64) {
    let payload: Value = serde_json::from_str(row["payload"].as_str().unwrap()).unwrap();
    (row["sequence"].as_u64().unwrap(), payload["n"].as_u64().unwrap())
}

/// The message with a number; all lie within a minute of event time.
fn message(n: u64, pad_bytes: usize) -> Vec<u8> {
    let (second, micro) = (n / 1_000 % 60, n % 1_000);
    let pad = "x".repeat(pad_bytes);
    let at = format!("2026-05-04T12:00:{second:02}.000{micro:03}Z");
    format!(r#"{{"event_type":"e","timestamp":"{at}","n":{n},"pad":"{pad}"}}"#).into_bytes()
}

fn files_below(directory: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files_below(&path, ending, found);
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
}
