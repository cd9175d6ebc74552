//! `cargo xtask demo`: the demo deployment on a real server, and what comes out of it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Map, Value};

use crate::Outcome;
use crate::process::{build, output, root};
use crate::scratch::Scratch;
use crate::servers::postgres::Postgres;
use crate::servers::{NatsServer, start_postgres};
use crate::text::{bar, decimal, table, whole};
use crate::tools;

const EVENTS: u64 = 200_000;
const BAR_WIDTH: usize = 30;

/// Joins the deployment where there is a Postgres.
const WAREHOUSE: &str = r#"
[sinks.warehouse]
type = "postgres"
from = ["volume", "fills", "fill_latency", "onboarding"]
url = "${DATABASE_URL}"
"#;

/// One row of a print sink.
type Row = Map<String, Value>;

/// Runs the demo from the build to the last line; stops what it started.
pub(crate) fn run() -> Outcome<()> {
    let nats_server = tools::nats_server()?;
    let programs = build(&["waterwheel", "publish"])?;
    let mut scratch = Scratch::new()?;
    let nats = NatsServer::start(&nats_server, &mut scratch)?;
    let postgres = match start_postgres(&mut scratch) {
        Ok(postgres) => Some(postgres),
        Err(problem) => {
            println!("Without Postgres ({problem})");
            None
        }
    };
    let stores = if postgres.is_some() { "Parquet and Postgres" } else { "Parquet" };
    println!("{} trading events, {}", whole(EVENTS), version(&nats_server)?);

    let started = Instant::now();
    publish(&programs, &nats)?;
    let rate = whole((EVENTS as f64 / started.elapsed().as_secs_f64()) as u64);
    println!("  published   {rate:>9} events/s into a JetStream stream on disk");

    let mut demo =
        Demo { programs, scratch, nats, postgres, lake: root().join("target/demo/lake") };
    let started = Instant::now();
    let rows = demo.process()?;
    let seconds = started.elapsed().as_secs_f64();
    let rate = whole((EVENTS as f64 / seconds) as u64);
    println!("  processed   {rate:>9} events/s into {stores}, start and end included");
    println!();
    show_volume(&rows);
    show_funnel(&rows);
    show_latency(&rows);
    demo.show_postgres()?;
    demo.show_files()
}

/// Everything that runs; dropped from top to bottom, so that the servers end before their directory.
struct Demo {
    programs: PathBuf,
    nats: NatsServer,
    postgres: Option<Postgres>,
    lake: PathBuf,
    scratch: Scratch,
}

impl Demo {
    /// Runs the deployment to the end of the stream and returns what it prints.
    fn process(&mut self) -> Outcome<Vec<Row>> {
        // The stream is new, so the results must be.
        if self.lake.exists() {
            fs::remove_dir_all(&self.lake)?;
        }
        let mut deployment = fs::read_to_string(root().join("config/deployments/demo.toml"))?;
        if self.postgres.is_some() {
            deployment.push_str(WAREHOUSE);
        }
        let file = self.scratch.path().join("demo.toml");
        fs::write(&file, deployment)?;
        let printed = self.scratch.path().join("rows.jsonl");
        let log = self.scratch.path().join("waterwheel.log");
        let mut command = Command::new(self.programs.join("waterwheel"));
        command
            .arg("run")
            .arg(&file)
            .current_dir(self.scratch.path())
            .env("NATS_URL", self.nats.url())
            .env("LAKE", &self.lake)
            .env("UNTIL", "final")
            .env_remove("STREAM")
            .stdout(File::create(&printed)?)
            .stderr(File::create(&log)?);
        if let Some(postgres) = &self.postgres {
            command.env("DATABASE_URL", postgres.url());
        }
        self.scratch.run(&mut command).map_err(|problem| {
            format!("{problem}:\n{}", fs::read_to_string(&log).unwrap_or_default())
        })?;
        let lines = fs::read_to_string(&printed)?;
        let rows = lines.lines().map(serde_json::from_str).collect::<Result<Vec<Row>, _>>();
        Ok(rows
            .map_err(|problem| format!("waterwheel printed something else than rows: {problem}"))?)
    }

    fn show_postgres(&self) -> Outcome<()> {
        let Some(postgres) = &self.postgres else { return Ok(()) };
        let sql = "select symbol, window_start, trades, round(notional) as notional, traders\n  \
                   from volume where granularity = '1h' order by notional desc limit 3";
        println!("Postgres has the same, live:\n  {sql}");
        for line in postgres.table(sql)?.lines().filter(|line| !line.is_empty()) {
            println!("  {line}");
        }
        println!();
        Ok(())
    }

    fn show_files(&self) -> Outcome<()> {
        let (count, bytes) = parquet_files(&self.lake)?;
        let lake = self.lake.strip_prefix(root()).unwrap_or(&self.lake).display();
        println!(
            "{count} Parquet files ({} KiB) stay in {lake}, for any reader:",
            whole(bytes / 1024)
        );
        println!(
            "  duckdb -c \"select symbol, avg(latency_ms) from '{lake}/fills/**/*.parquet' group by 1\""
        );
        println!("Everything else was temporary. The deployment: config/deployments/demo.toml");
        Ok(())
    }
}

fn publish(programs: &Path, nats: &NatsServer) -> Outcome<()> {
    output(
        Command::new(programs.join("publish"))
            .args(["--url", nats.url(), "--stream", "EVENTS", "--create"])
            .args(["--count", &EVENTS.to_string(), "--hours", "2", "--users", "5000"])
            .stdin(Stdio::null()),
    )?;
    Ok(())
}

fn version(nats_server: &Path) -> Outcome<String> {
    // "nats-server: v2.15.1"
    let text = output(Command::new(nats_server).arg("--version"))?;
    Ok(text.trim().replace(": v", " "))
}

fn show_volume(rows: &[Row]) {
    let minutes: Vec<&Row> =
        of(rows, "volume").filter(|row| text(row, "granularity") == "1m").collect();
    let Some(last) = minutes.iter().map(|row| text(row, "window_start")).max() else { return };
    let mut top: Vec<&Row> =
        minutes.into_iter().filter(|row| text(row, "window_start") == last).collect();
    top.sort_by(|left, right| number(right, "notional").total_cmp(&number(left, "notional")));
    println!("Top symbols of the last minute ({} UTC)", minute(last));
    let rows: Vec<Vec<String>> = top.iter().take(5).map(|row| volume_cells(row)).collect();
    println!(
        "{}",
        table(&["symbol", "trades", "notional", "avg price", "p95 price", "traders"], &rows)
    );
}

fn volume_cells(row: &Row) -> Vec<String> {
    vec![
        text(row, "symbol").to_owned(),
        decimal(number(row, "trades"), 0),
        decimal(number(row, "notional"), 2),
        decimal(number(row, "avg_price"), 2),
        decimal(number(row, "p95_price"), 2),
        decimal(number(row, "traders"), 0),
    ]
}

fn show_funnel(rows: &[Row]) {
    let steps: Vec<&Row> = of(rows, "onboarding").collect();
    // The period that most users entered.
    let first = steps
        .iter()
        .filter(|row| number(row, "step") == 1.0)
        .max_by(|left, right| number(left, "users").total_cmp(&number(right, "users")));
    let Some(first) = first else { return };
    let period = text(first, "window_start");
    let mut steps: Vec<&Row> =
        steps.into_iter().filter(|row| text(row, "window_start") == period).collect();
    steps.sort_by(|left, right| number(left, "step").total_cmp(&number(right, "step")));
    println!("Onboarding within an hour, on {}", period.get(..10).unwrap_or(period));
    let cells = |row: &&Row| {
        let share = number(row, "overall_rate");
        let since = match row.get("avg_seconds_from_first").and_then(Value::as_f64) {
            Some(seconds) => format!("after {} s", decimal(seconds, 1)),
            None => String::new(),
        };
        vec![
            format!("{:<15} {:<BAR_WIDTH$}", text(row, "step_name"), bar(share, BAR_WIDTH)),
            decimal(number(row, "users"), 0),
            format!("{} %", decimal(100.0 * share, 1)),
            since,
        ]
    };
    let rows: Vec<Vec<String>> = steps.iter().map(cells).collect();
    println!("{}", table(&["step", "users", "of all", "on average"], &rows));
}

fn show_latency(rows: &[Row]) {
    let mut minutes: Vec<&Row> = of(rows, "fill_latency").collect();
    minutes.sort_by_key(|row| text(row, "window_start"));
    let slowest = minutes.iter().map(|row| number(row, "p95_ms")).fold(0.0, f64::max);
    println!("From order to fill, the last 5 minutes (p95 as a bar)");
    let cells = |row: &&Row| {
        let p95_ms = number(row, "p95_ms");
        vec![
            minute(text(row, "window_start")),
            decimal(number(row, "fills"), 0),
            decimal(number(row, "avg_ms"), 0),
            decimal(p95_ms, 0),
            format!("{:<BAR_WIDTH$}", bar(p95_ms / slowest, BAR_WIDTH)),
        ]
    };
    let rows: Vec<Vec<String>> = minutes.iter().rev().take(5).rev().map(cells).collect();
    println!("{}", table(&["minute", "fills", "avg ms", "p95 ms", ""], &rows));
}

fn of<'a>(rows: &'a [Row], operator: &'a str) -> impl Iterator<Item = &'a Row> {
    rows.iter().filter(move |row| text(row, "operator") == operator)
}

fn text<'a>(row: &'a Row, column: &str) -> &'a str {
    row.get(column).and_then(Value::as_str).unwrap_or_default()
}

fn number(row: &Row, column: &str) -> f64 {
    row.get(column).and_then(Value::as_f64).unwrap_or_default()
}

/// Date and minute of an RFC 3339 time.
fn minute(time: &str) -> String {
    time.get(..16).unwrap_or(time).replace('T', " ")
}

/// How many files there are below, and their size.
fn parquet_files(directory: &Path) -> Outcome<(usize, u64)> {
    let (mut count, mut bytes) = (0, 0);
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            let (files, size) = parquet_files(&path)?;
            (count, bytes) = (count + files, bytes + size);
        } else if path.extension().is_some_and(|extension| extension == "parquet") {
            (count, bytes) = (count + 1, bytes + fs::metadata(&path)?.len());
        }
    }
    Ok((count, bytes))
}
