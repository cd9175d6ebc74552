//! A key-value bucket that a pipeline keeps under kills: a foreign client finds in it exactly the rows
//! that Postgres has.

use async_nats::jetstream;
use serde_json::json;
use tempfile::TempDir;

use crate::support::nats_server::NatsServer;
use crate::support::postgres::Postgres;
use crate::support::python::python;
use crate::support::rounds::Chance;
use crate::support::say;
use crate::support::stream::{block_on, connect, create, publish};
use crate::support::waterwheel::Deployment;
use crate::support::{rounds, wait_until};

const DEPLOYMENT: &str = r#"
name = "prices"

[sources.events]
type = "nats"
url = "${NATS}"
stream = "EVENTS"

[operators.totals]
type = "aggregate"
from = "events"
by = ["symbol"]
windows = ["1d"]
measures.events = "count(*)"
measures.total = "sum(n)"

[sinks.warehouse]
type = "postgres"
from = ["totals"]
url = "${DATABASE}"

[sinks.latest]
type = "nats"
from = ["totals"]
url = "${NATS}"
kv = "prices"
"#;

/// More keys than one atomic batch has messages.
const SYMBOLS: u64 = 3_000;

#[test]
fn a_bucket_with_batches_is_kept_under_kills() {
    is_kept(true);
}

#[test]
fn a_bucket_without_batches_is_kept_under_kills() {
    is_kept(false);
}

fn is_kept(allow_atomic: bool) {
    let directory = TempDir::new().unwrap();
    let nats = NatsServer::start();
    let postgres = Postgres::start(&directory.path().join("postgres")).unwrap();
    let deployment = Deployment::new(&directory.path().join("run"), DEPLOYMENT)
        .set("NATS", nats.url())
        .set("DATABASE", postgres.url());
    block_on(async {
        let context = connect(&nats.url()).await;
        create(&context, "EVENTS", "events").await;
        create_bucket(&context, allow_atomic).await;
    });
    let mut chance = Chance::new();
    let (kills, seed) = (rounds(5, 100), chance.seed);
    println!("bucket, atomic {allow_atomic}: {kills} kills, seed {seed}");
    let mut last = 0;
    for kill in 0..=kills {
        let count = chance.between(2_000, 8_000);
        last = block_on(async {
            let context = connect(&nats.url()).await;
            publish(&context, "events.n", (last..last + count).map(event)).await
        });
        let mut running = deployment.start();
        let is_last = kill == kills;
        let aim = if is_last { last } else { last - chance.between(0, count) };
        wait_until("Postgres is there", || {
            running.assert_running();
            ordinal(&postgres) >= aim
        });
        match is_last {
            true => assert_eq!(running.terminate().status.code(), Some(0)),
            false => drop(running.kill()),
        }
    }
    let found = python("read_bucket.py", &[&nats.url(), &"prices"]);
    let rows = "select symbol, events, total::bigint from totals order by symbol collate \"C\"";
    let expected = postgres.query(rows).unwrap();
    assert!(expected.lines().count() as u64 == SYMBOLS, "every symbol has come");
    assert_eq!(found.lines().collect::<Vec<_>>(), expected.lines().collect::<Vec<_>>());
    say!("bucket, atomic {allow_atomic}: {kills} kills, every key as in postgres, seed {seed}");
}

fn event(n: u64) -> Vec<u8> {
    let symbol = n * 7919 % SYMBOLS;
    format!(r#"{{"timestamp":"2026-01-01T00:00:00Z","symbol":"s {symbol}","n":{n}}}"#).into_bytes()
}

/// How far Postgres says that it is.
fn ordinal(postgres: &Postgres) -> u64 {
    let sql =
        "select positions->'events'->>'ordinal' from waterwheel.progress where sink = 'warehouse'";
    let said = postgres.query(sql).unwrap_or_default();
    said.trim().parse().unwrap_or(0)
}

/// As `nats kv add` makes it.
async fn create_bucket(context: &jetstream::Context, allow_atomic: bool) {
    let config = json!({
        "name": "KV_prices", "subjects": ["$KV.prices.>"], "max_msgs_per_subject": 1,
        "discard": "new", "storage": "file", "allow_rollup_hdrs": true, "deny_delete": true,
        "allow_direct": true, "allow_atomic": allow_atomic,
    });
    let made: serde_json::Value =
        context.request("STREAM.CREATE.KV_prices", &config).await.unwrap();
    assert!(made["error"].is_null(), "{made}");
}
