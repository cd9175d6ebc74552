//! The number of workers is a matter of speed, never of results.

use tempfile::TempDir;

use crate::support::nats_server::NatsServer;
use crate::support::rows::parse;
use crate::support::stream::{block_on, connect, create, publish};
use crate::support::trading::{Events, NATS_SOURCE, PRINT_SINK, deployment};
use crate::support::waterwheel::Deployment;

#[test]
fn one_two_and_three_workers_print_the_same() {
    let directory = TempDir::new().unwrap();
    let nats = NatsServer::start();
    let events = Events::generate(directory.path(), 10_000, "EVENTS");
    block_on(async {
        let context = connect(&nats.url()).await;
        create(&context, "EVENTS", "events").await;
        publish(&context, "events.trading", events.payloads()).await;
    });
    let printed = [1, 2, 3].map(|workers| {
        let text = deployment(&[NATS_SOURCE, PRINT_SINK])
            .replace("[engine]\n", &format!("[engine]\nworkers = {workers}\n"));
        let run = directory.path().join(format!("run{workers}"));
        let ending = Deployment::new(&run, &text).set("NATS", nats.url()).run();
        let mut lines: Vec<String> = ending.stdout.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    });
    events.assert_lines("print", &parse(&printed[0].join("\n")));
    assert!(printed[0] == printed[1], "two workers differ from one");
    assert!(printed[0] == printed[2], "three workers differ from one");
}
