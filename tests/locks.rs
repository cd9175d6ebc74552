//! Another session of Postgres that holds what a commit needs: the commit waits, or loses a deadlock
//! and is made again, and nothing is lost or counted twice.

use std::time::Duration;

use async_nats::jetstream::Context;
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

use crate::support::nats_server::NatsServer;
use crate::support::postgres::Postgres;
use crate::support::rounds;
use crate::support::stream::{block_on, connect, create};
use crate::support::waterwheel::{Deployment, Waterwheel};

const DEPLOYMENT: &str = r#"
name = "locks"

[sources.events]
type = "nats"
url = "${NATS}"
stream = "EVENTS"

[operators.first]
type = "aggregate"
from = "events"
windows = ["1d"]
measures.events = "count(*)"

[operators.second]
type = "aggregate"
from = "events"
windows = ["1d"]
measures.events = "count(*)"

[sinks.warehouse]
type = "postgres"
from = ["first", "second"]
url = "${DATABASE}"
"#;

/// A pipeline into two tables, and who works against it.
struct Stage {
    context: Context,
    running: Waterwheel,
    rival: Client,
    watcher: Client,
    sent: i64,
    _nats: NatsServer,
    _postgres: Postgres,
    _directory: TempDir,
}

impl Stage {
    async fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let nats = NatsServer::start();
        let postgres = Postgres::start(&directory.path().join("postgres")).unwrap();
        let context = connect(&nats.url()).await;
        create(&context, "EVENTS", "events").await;
        let deployment = Deployment::new(&directory.path().join("run"), DEPLOYMENT)
            .set("NATS", nats.url())
            .set("DATABASE", postgres.url());
        let running = deployment.start();
        let session = async || {
            let connected = tokio_postgres::connect(&postgres.url(), NoTls).await;
            let (client, connection) = connected.expect("Postgres answers");
            tokio::spawn(connection);
            client
        };
        let (rival, watcher) = (session().await, session().await);
        let mut stage = Self {
            context,
            running,
            rival,
            watcher,
            sent: 0,
            _nats: nats,
            _postgres: postgres,
            _directory: directory,
        };
        // Both tables are there behind the first commit.
        stage.publish(1).await;
        stage.all_are_counted().await;
        stage
    }

    async fn publish(&mut self, count: i64) {
        for _ in 1..count {
            let sent = self.context.publish("events.n", "{}".into()).await;
            drop(sent.unwrap());
        }
        self.context.publish("events.n", "{}".into()).await.unwrap().await.unwrap();
        self.sent += count;
    }

    async fn all_are_counted(&self) {
        let counted = "SELECT (SELECT sum(events)::bigint FROM first), (SELECT sum(events)::bigint FROM second)";
        until(async || {
            let row = self.watcher.query_one(counted, &[]).await;
            row.is_ok_and(|row| {
                let sums: (Option<i64>, Option<i64>) = (row.get(0), row.get(1));
                sums == (Some(self.sent), Some(self.sent))
            })
        })
        .await;
    }

    /// Waits until the pipeline waits for a table.
    async fn is_waiting_for(&self, table: &str) {
        let sql = "SELECT count(*) FROM pg_locks WHERE relation = to_regclass($1) AND NOT granted";
        until(async || {
            let row = self.watcher.query_one(sql, &[&table]).await.unwrap();
            row.get::<_, i64>(0) > 0
        })
        .await;
    }

    fn deadlocks(&self) -> usize {
        self.running.said().matches("40P01").count()
    }
}

async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let limit = tokio::time::timeout(crate::support::DEADLINE, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    limit.await.expect("it holds in time");
}

#[test]
fn a_deadlock_is_lost_and_the_commit_made_again() {
    let wanted = rounds(2, 20);
    block_on(async {
        let mut stage = Stage::new().await;
        let mut tries = 0;
        while stage.deadlocks() < wanted {
            tries += 1;
            assert!(tries <= 5 * wanted, "{} deadlocks only", stage.deadlocks());
            // The pipeline is to be the one that notices, and loses.
            let hold = "BEGIN; SET LOCAL deadlock_timeout = '1h'; LOCK TABLE second IN ACCESS EXCLUSIVE MODE";
            stage.rival.batch_execute(hold).await.unwrap();
            stage.publish(1).await;
            stage.is_waiting_for("second").await;
            let cross = "LOCK TABLE first IN ACCESS EXCLUSIVE MODE; COMMIT";
            stage.rival.batch_execute(cross).await.unwrap();
            stage.all_are_counted().await;
        }
        crate::support::say!("{} deadlocks lost in {tries} tries, nothing lost", stage.deadlocks());
        assert_eq!(stage.running.terminate().status.code(), Some(0));
    });
}

/// What a lock holds up stays in the stream, not in memory.
#[test]
fn a_table_that_is_held_for_seconds_is_waited_for() {
    block_on(async {
        let mut stage = Stage::new().await;
        let hold = "BEGIN; LOCK TABLE first IN ACCESS EXCLUSIVE MODE";
        stage.rival.batch_execute(hold).await.unwrap();
        stage.publish(1).await;
        stage.is_waiting_for("first").await;
        stage.publish(200_000).await;
        // That is the fault: a server that is slow.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let resident = stage.running.resident_bytes();
        assert!(resident < 400 << 20, "{resident} bytes in memory");
        stage.rival.batch_execute("COMMIT").await.unwrap();
        stage.all_are_counted().await;
        assert_eq!(stage.running.terminate().status.code(), Some(0));
    });
}
