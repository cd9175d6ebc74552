//! How long it takes from a published event to its change in Postgres, at 10,000 events a second and
//! the default flush.

use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio_postgres::NoTls;

use crate::support::nats_server::NatsServer;
use crate::support::postgres::Postgres;
use crate::support::stream::{block_on, connect, create};
use crate::support::waterwheel::Deployment;

const EVENTS_PER_SECOND: u64 = 10_000;
const SECONDS: u64 = 5;
/// Every fiftieth event is looked for.
const SAMPLED: u64 = 50;

/// A bound for a machine that runs other tests at the same time. Alone it is a tenth of it: run
/// `cargo xtask test --test system latency -- --nocapture`.
const BOUND: Duration = Duration::from_millis(2_500);

const DEPLOYMENT: &str = r#"
name = "latency"

[sources.events]
type = "nats"
url = "${NATS}"
stream = "EVENTS"

[operators.newest]
type = "aggregate"
from = "events"
windows = ["1d"]
measures.newest = "max(n)"

[sinks.warehouse]
type = "postgres"
from = ["newest"]
url = "${DATABASE}"
"#;

#[test]
fn a_change_is_soon_in_postgres() {
    let directory = TempDir::new().unwrap();
    let nats = NatsServer::start();
    let postgres = Postgres::start(&directory.path().join("postgres")).unwrap();
    let deployment = Deployment::new(&directory.path().join("run"), DEPLOYMENT)
        .set("NATS", nats.url())
        .set("DATABASE", postgres.url());
    let mut delays = block_on(async {
        let context = connect(&nats.url()).await;
        create(&context, "EVENTS", "events").await;
        let running = deployment.start();
        let (client, connection) =
            tokio_postgres::connect(&postgres.url(), NoTls).await.expect("Postgres answers");
        let driver = tokio::spawn(connection);
        // The first event is seen before the clock starts, so that start-up is not measured.
        context.publish("events.n", event(0)).await.unwrap().await.unwrap();
        while newest(&client).await.is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let started = Instant::now();
        let publisher = tokio::spawn(publish(context));
        let delays = watch(&client, started).await;
        publisher.await.unwrap();
        driver.abort();
        assert_eq!(running.terminate().status.code(), Some(0));
        delays
    });
    delays.sort();
    assert_eq!(delays.len() as u64, EVENTS_PER_SECOND * SECONDS / SAMPLED);
    let (p50, p99) = (delays[delays.len() / 2], delays[delays.len() * 99 / 100]);
    println!("event to row at {EVENTS_PER_SECOND} events/s: p50 {p50:?}, p99 {p99:?}");
    assert!(p99 < BOUND, "p99 is {p99:?}");
}

fn event(n: u64) -> bytes::Bytes {
    format!(r#"{{"n":{n}}}"#).into()
}

/// When event n is due.
fn due(started: Instant, n: u64) -> Instant {
    started + Duration::from_micros(n * 1_000_000 / EVENTS_PER_SECOND)
}

async fn publish(context: async_nats::jetstream::Context) {
    let started = Instant::now();
    let mut acknowledged = tokio::task::JoinSet::new();
    for n in 1..=EVENTS_PER_SECOND * SECONDS {
        tokio::time::sleep_until(due(started, n).into()).await;
        let ack = context.publish("events.n", event(n)).await.unwrap();
        acknowledged.spawn(async move { ack.await.map(|_| ()) });
        if acknowledged.len() > 2_000 {
            acknowledged.join_next().await.unwrap().unwrap().unwrap();
        }
    }
    while let Some(ack) = acknowledged.join_next().await {
        ack.unwrap().unwrap();
    }
}

/// Of each sampled event, how long after it was due a reader sees it.
async fn watch(client: &tokio_postgres::Client, started: Instant) -> Vec<Duration> {
    let mut delays = Vec::new();
    let mut next = SAMPLED;
    while next <= EVENTS_PER_SECOND * SECONDS {
        assert!(started.elapsed() < Duration::from_secs(60), "event {next} never came");
        let seen = newest(client).await.unwrap_or(0.0) as u64;
        let now = Instant::now();
        while next <= seen {
            delays.push(now.saturating_duration_since(due(started, next)));
            next += SAMPLED;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    delays
}

async fn newest(client: &tokio_postgres::Client) -> Option<f64> {
    // The table appears when the sink is claimed.
    let row = client.query_one("select max(newest) from newest", &[]).await.ok()?;
    row.get(0)
}
