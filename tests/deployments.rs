//! The ready deployments on real servers: a client that is not ours publishes the events of each one's
//! first test, and what a person then sees in Postgres or in the lake is what its page shows.
//!
//! `config/deployments/README.md` holds the tables word for word; `UPDATE_GOLDEN=1` writes them there
//! anew, for a person to judge. That the numbers are right, the deployments' own tests say by hand.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::support::nats_server::NatsServer;
use crate::support::postgres::Postgres;
use crate::support::python::{python, root};
use crate::support::waterwheel::Deployment;
use crate::support::{copy_directory, wait_until};

#[test]
fn a_trading_coach() {
    assert_shown("trading-coach", &into_postgres("trading-coach", "warehouse"));
}

#[test]
fn an_exchange() {
    assert_shown("exchange", &into_postgres("exchange", "results"));
}

#[test]
fn a_product() {
    assert_shown("product", &into_postgres("product", "warehouse"));
}

#[test]
fn an_operations_bus() {
    assert_shown("operations-bus", &into_postgres("operations-bus", "warehouse"));
}

#[test]
fn the_trace_of_a_backtest() {
    let name = "backtest-tracing";
    let directory = TempDir::new().unwrap();
    let nats = NatsServer::start();
    publish(&nats, name);
    let deployment = deployment(&directory, name).set("NATS_URL", nats.url());
    // It ends with its stream.
    deployment.run();
    let statements = fs::read_to_string(statements(name)).unwrap();
    let lake = directory.path().join("run/lake").display().to_string();
    let file = directory.path().join("statements.sql");
    fs::write(&file, statements.replace("'lake/", &format!("'{lake}/"))).unwrap();
    assert_shown(name, &python("show_lake.py", &[&file]));
}

/// Runs a deployment until its sink has all of the events, and shows what the statements give.
fn into_postgres(name: &str, sink: &str) -> String {
    let directory = TempDir::new().unwrap();
    let nats = NatsServer::start();
    let postgres = Postgres::start(&directory.path().join("postgres")).unwrap();
    let last = publish(&nats, name);
    let mut running = deployment(&directory, name)
        .set("NATS_URL", nats.url())
        .set("DATABASE_URL", postgres.url())
        .start();
    let progress = format!(
        "SELECT 1 FROM waterwheel.progress, jsonb_each(positions) WHERE sink = '{sink}' AND value ->> 'ordinal' = '{last}'"
    );
    wait_until("the sink has every event", || {
        running.assert_running();
        postgres.query(&progress).is_ok_and(|rows| !rows.trim().is_empty())
    });
    assert_eq!(running.terminate().status.code(), Some(0));
    let statements = fs::read_to_string(statements(name)).unwrap();
    let mut said = String::new();
    for line in statements.lines() {
        match line.starts_with("--") {
            true => said.push_str(&format!("{line}\n")),
            false => said.push_str(&format!("{}\n", trimmed(&postgres.table(line).unwrap()))),
        }
    }
    said
}

/// Publishes the events of the deployment's first test; the sequence of the last one.
fn publish(nats: &NatsServer, name: &str) -> u64 {
    let last = python("publish_tests.py", &[&nats.url(), &stream(name), &file(name)]);
    last.trim().parse().expect("a sequence")
}

/// The deployment as it stands in the repository, but that its events may still be to come.
fn deployment(directory: &TempDir, name: &str) -> Deployment {
    let text = fs::read_to_string(file(name)).unwrap();
    let text = match text.contains("max_future") {
        true => text,
        false => text.replacen("\nstream = ", "\nmax_future = \"100y\"\nstream = ", 1),
    };
    let run = directory.path().join("run");
    copy_directory(&root().join("config/deployments/schemas"), &run.join("schemas"));
    Deployment::new(&run, &text).set("STREAM", stream(name))
}

fn stream(name: &str) -> String {
    name.to_uppercase()
}

fn file(name: &str) -> PathBuf {
    root().join(format!("config/deployments/{name}.toml"))
}

fn statements(name: &str) -> PathBuf {
    root().join(format!("tests/deployments/{name}.sql"))
}

/// Compares what is said with the block behind the deployment's mark on the page; with
/// `UPDATE_GOLDEN=1` the page shows it from now on.
fn assert_shown(name: &str, said: &str) {
    let mut page = fs::read_to_string(page_file()).unwrap();
    let mark = format!("<!-- {name} -->\n```text\n");
    let start = page.find(&mark).unwrap_or_else(|| panic!("the page shows {name}")) + mark.len();
    let end = start + page[start..].find("\n```").expect("the block ends");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        page.replace_range(start..end, said.trim_end());
        fs::write(page_file(), page).unwrap();
        return;
    }
    assert_eq!(said.trim_end(), &page[start..end]);
}

fn page_file() -> PathBuf {
    root().join("config/deployments/README.md")
}

/// Without the spaces that psql puts at the ends of lines.
fn trimmed(table: &str) -> String {
    table.trim_end().lines().map(|line| format!("{}\n", line.trim_end())).collect()
}
