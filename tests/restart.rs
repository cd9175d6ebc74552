//! Killed at any moment and started again, every sink ends up with exactly the right rows.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::support::nats_server::NatsServer;
use crate::support::postgres::Postgres;
use crate::support::stream::{block_on, connect, create, publish};
use crate::support::trading::{Events, NATS_SOURCE, PARQUET_SINK, POSTGRES_SINK, deployment};
use crate::support::wait_until;
use crate::support::waterwheel::{Deployment, Waterwheel};

const EVENTS: usize = 12_000;
const KILLS: usize = 4;

#[test]
fn postgres_survives_kills() {
    survives(&[Store::Postgres]);
}

#[test]
fn parquet_survives_kills() {
    survives(&[Store::Parquet]);
}

#[test]
fn both_survive_kills() {
    survives(&[Store::Postgres, Store::Parquet]);
}

#[test]
fn a_sigterm_drains_and_the_next_run_goes_on() {
    let stage = Stage::new(&[Store::Postgres, Store::Parquet]);
    let mut published = 0;
    for round in 0..2 {
        published += stage.publish(published, EVENTS / 2);
        let before = stage.progress();
        let mut running = stage.deployment("forever").start();
        stage.wait_past(&before, &mut running);
        let ending = running.terminate();
        assert!(ending.status.success(), "{}: {}", ending.status, ending.stderr);
        let resumed = ending.stderr.contains("going on from a checkpoint");
        assert_eq!(resumed, round > 0, "round {round}: {}", ending.stderr);
    }
    stage.finish();
}

#[test]
fn servers_that_go_away_are_waited_for() {
    let mut stage = Stage::new(&[Store::Postgres]);
    stage.publish(0, EVENTS / 2);
    let mut running = stage.deployment("forever").start();
    stage.wait_for(EVENTS / 2, &mut running);
    stage.nats.restart();
    stage.publish(EVENTS / 2, EVENTS / 4);
    stage.wait_for(EVENTS / 4 * 3, &mut running);
    stage.postgres.as_mut().unwrap().restart().unwrap();
    stage.publish(EVENTS / 4 * 3, EVENTS / 4);
    stage.wait_for(EVENTS, &mut running);
    running.kill();
    stage.finish();
}

/// Publishes in parts; after each, kills the pipeline once it has committed something of it.
fn survives(stores: &[Store]) {
    let stage = Stage::new(stores);
    let mut published = 0;
    for _ in 0..KILLS {
        published += stage.publish(published, EVENTS / KILLS);
        let before = stage.progress();
        let mut running = stage.deployment("forever").start();
        stage.wait_past(&before, &mut running);
        running.kill();
    }
    stage.finish();
}

#[derive(Clone, Copy, PartialEq)]
enum Store {
    Postgres,
    Parquet,
}

/// Servers, events, and a pipeline that is run again and again.
struct Stage {
    nats: NatsServer,
    postgres: Option<Postgres>,
    lake: PathBuf,
    events: Events,
    stores: Vec<Store>,
    directory: TempDir,
}

impl Stage {
    fn new(stores: &[Store]) -> Self {
        let directory = TempDir::new().unwrap();
        let nats = NatsServer::start();
        let postgres = stores
            .contains(&Store::Postgres)
            .then(|| Postgres::start(&directory.path().join("postgres")).unwrap());
        let events = Events::generate(directory.path(), EVENTS, "EVENTS");
        block_on(async { create(&connect(&nats.url()).await, "EVENTS", "events").await });
        let lake = directory.path().join("lake");
        Self { nats, postgres, lake, events, stores: stores.to_vec(), directory }
    }

    /// Publishes `count` events from the one at `from`; gives `count` back.
    fn publish(&self, from: usize, count: usize) -> usize {
        let payloads = self.events.payloads().into_iter().skip(from).take(count);
        block_on(async {
            publish(&connect(&self.nats.url()).await, "events.trading", payloads).await
        });
        count
    }

    fn deployment(&self, until: &str) -> Deployment {
        let sinks = self.stores.iter().map(|store| match store {
            Store::Postgres => POSTGRES_SINK,
            Store::Parquet => PARQUET_SINK,
        });
        let parts: Vec<&str> = std::iter::once(NATS_SOURCE).chain(sinks).collect();
        let run = self.directory.path().join("run");
        let deployment = Deployment::new(&run, &deployment(&parts))
            .set("NATS", self.nats.url())
            .set("LAKE", &self.lake)
            .set("UNTIL", until);
        match &self.postgres {
            Some(postgres) => deployment.set("DATABASE", postgres.url()),
            None => deployment,
        }
    }

    /// What the stores have durably: it changes with every commit, and is empty before the first.
    fn progress(&self) -> String {
        let positions = "select epoch, positions from waterwheel.progress where epoch is not null";
        // Before the first run there is no table; while the server is away there is no answer.
        let postgres = self.postgres.as_ref().and_then(|postgres| postgres.query(positions).ok());
        let mut files = Vec::new();
        visible_files(&self.lake, &mut files);
        files.sort();
        format!("{}{}", postgres.unwrap_or_default(), files.join("\n"))
    }

    /// Waits until something more is durable; the process must not have ended by itself.
    fn wait_past(&self, before: &str, running: &mut Waterwheel) {
        wait_until("more progress is durable, or the process has ended", || {
            self.progress() != before || running.has_ended()
        });
        running.assert_running();
    }

    /// Waits until Postgres holds everything up to this message; the process must stay.
    fn wait_for(&self, sequence: usize, running: &mut Waterwheel) {
        let position = format!("\"ordinal\": {sequence},");
        wait_until(&format!("message {sequence} is committed, or the process has ended"), || {
            self.progress().contains(&position) || running.has_ended()
        });
        running.assert_running();
    }

    /// Runs to the end of the stream and compares every store with the recompute.
    fn finish(&self) {
        self.deployment("final").run();
        if let Some(postgres) = &self.postgres {
            self.events.assert_postgres(postgres);
        }
        if self.stores.contains(&Store::Parquet) {
            self.events.assert_lake(&self.lake);
        }
    }
}

/// The Parquet files that readers see.
fn visible_files(directory: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if path.is_dir() && !name.starts_with(['.', '_']) {
            visible_files(&path, found);
        } else if name.ends_with(".parquet") {
            found.push(path.display().to_string());
        }
    }
}
