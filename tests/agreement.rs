//! Whoever looks sees the same: psql, DuckDB and a recompute in Python agree to the last row.

use tempfile::TempDir;

use crate::support::nats_server::NatsServer;
use crate::support::postgres::Postgres;
use crate::support::python::python;
use crate::support::rows::parse;
use crate::support::trading::{
    Events, NATS_SOURCE, PARQUET_SINK, POSTGRES_SINK, PRINT_SINK, deployment,
};
use crate::support::waterwheel::Deployment;

#[test]
fn postgres_parquet_and_a_recompute_agree() {
    let directory = TempDir::new().unwrap();
    let nats = NatsServer::start();
    let postgres = Postgres::start(&directory.path().join("postgres")).unwrap();
    let events = Events::generate(directory.path(), 20_000, "EVENTS");
    // Published by the client of another language, in the order of the file.
    python("publish.py", &[&nats.url(), &"EVENTS", &"events", &events.file]);
    let lake = directory.path().join("lake");
    let text = deployment(&[NATS_SOURCE, POSTGRES_SINK, PARQUET_SINK, PRINT_SINK]);
    let deployment = Deployment::new(&directory.path().join("run"), &text)
        .set("NATS", nats.url())
        .set("DATABASE", postgres.url())
        .set("LAKE", &lake);

    let first = deployment.run();
    events.assert_postgres(&postgres);
    events.assert_lake(&lake);
    events.assert_lines("print", &parse(&first.stdout));

    // A finished pipeline stays as it is.
    deployment.run();
    events.assert_postgres(&postgres);
    events.assert_lake(&lake);
}
