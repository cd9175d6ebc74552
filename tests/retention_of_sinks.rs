//! What `retain` removes from Postgres and from a lake, at once and beside a running pipeline: all of
//! what is old, nothing else, wherever it is killed on the way.

use std::path::PathBuf;

use futures::StreamExt;
use serde_json::{Value, json};
use tempfile::TempDir;
use waterwheel_config::value::format_timestamp;
use waterwheel_pipeline::contract::failpoint::POINTS;

use crate::support::nats_server::NatsServer;
use crate::support::postgres::Postgres;
use crate::support::python::python;
use crate::support::rows::parse;
use crate::support::say;
use crate::support::stream::{block_on, connect, create, publish};
use crate::support::wait_until;
use crate::support::waterwheel::{Deployment, Ending};

const HOUR_US: i64 = 3_600_000_000;
const DAY_HOURS: i64 = 24;
/// 2026-03-01.
const START_HOUR: i64 = 492_312;

const DEPLOYMENT: &str = r#"
name = "trading"

[engine]
flush = "10ms"
report = { subject = "ops.cleaned", url = "${NATS}" }

[sources.events]
type = "nats"
url = "${NATS}"
stream = "EVENTS"
until = "${UNTIL:-end}"
lateness = "1h"

[operators.volume]
type = "aggregate"
from = "events"
by = ["properties.symbol"]
windows = ["1h", "1d"]
measures.trades = "count(*)"

[sinks.warehouse]
type = "postgres"
from = ["volume", "events"]
url = "${DATABASE}"
retain = "3d"

[sinks.detail]
type = "postgres"
from = ["volume"]
url = "${DATABASE}"
table.volume = "detail.volume"
retain = { "1h" = "2d" }

[sinks.lake]
type = "parquet"
from = ["volume", "events"]
path = "${LAKE}"
roll = { rows = 200, every = "100ms" }
retain = "3d"
"#;

/// Two events an hour.
fn events(hours: std::ops::Range<i64>) -> impl Iterator<Item = Vec<u8>> {
    hours.flat_map(|hour| ["A", "B"].map(|symbol| (hour, symbol))).map(|(hour, symbol)| {
        let timestamp = format_timestamp((START_HOUR + hour) * HOUR_US);
        let id = format!("{hour}-{symbol}");
        let event = json!({ "id": id, "event_type": "tick", "timestamp": timestamp,
            "properties": { "symbol": symbol } });
        event.to_string().into_bytes()
    })
}

struct Stage {
    directory: TempDir,
    postgres: Postgres,
    nats: NatsServer,
    /// How many hours of events there are.
    hours: i64,
}

impl Stage {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let postgres = Postgres::start(&directory.path().join("postgres")).unwrap();
        let nats = NatsServer::start();
        block_on(async {
            let context = connect(&nats.url()).await;
            create(&context, "EVENTS", "events").await;
            create(&context, "OPS", "ops").await;
        });
        Self { directory, postgres, nats, hours: 0 }
    }

    fn lake(&self) -> PathBuf {
        self.directory.path().join("lake")
    }

    fn deployment(&self) -> Deployment {
        Deployment::new(&self.directory.path().join("work"), DEPLOYMENT)
            .set("NATS", self.nats.url())
            .set("DATABASE", self.postgres.url())
            .set("LAKE", self.lake().as_os_str())
    }

    fn publish(&mut self, hours: i64) {
        let range = self.hours..self.hours + hours;
        self.hours = range.end;
        block_on(async {
            publish(&connect(&self.nats.url()).await, "events.tick", events(range)).await
        });
    }

    fn numbers(&self, query: &str) -> Vec<i64> {
        let text = self.postgres.query(query).unwrap();
        text.split_whitespace().map(|number| number.parse().unwrap()).collect()
    }

    /// The hours of the events in a place, each twice.
    fn hours(&self, table: &str, time: &str, more: &str) -> Vec<i64> {
        self.numbers(&format!(
            "SELECT (extract(epoch FROM {time}) / 3600)::bigint - {START_HOUR} FROM {table} {more} ORDER BY 1"
        ))
    }

    fn lake_hours(&self, operator: &str, time: &str, granularity: Option<&str>) -> Vec<i64> {
        let rows = parse(&python("read_lake.py", &[&self.lake()]));
        let is_of = |row: &&serde_json::Map<String, Value>| {
            row["operator"] == operator
                && granularity.is_none_or(|granularity| row["granularity"] == granularity)
        };
        let hour = |row: &serde_json::Map<String, Value>| {
            let time = row[time].as_str().unwrap();
            waterwheel_config::timestamp::parse(time).unwrap() / HOUR_US - START_HOUR
        };
        let mut hours: Vec<i64> = rows.iter().filter(is_of).map(hour).collect();
        hours.sort_unstable();
        hours
    }

    /// Everything that is to be there is, once, and nothing that is old as a whole.
    fn check(&self) -> Result<(), String> {
        // The last event less the lateness.
        let watermark = self.hours - 2;
        let twice = |from: i64, to: i64| -> Vec<i64> {
            (from.max(0)..to).flat_map(|hour| [hour, hour]).collect()
        };
        let day = (watermark - 3 * DAY_HOURS).div_euclid(DAY_HOURS) * DAY_HOURS;
        let closed = watermark;
        let by_hour = "WHERE granularity = '1h'";
        let found = [
            ("events", self.hours("events", "timestamp", ""), twice(day, self.hours)),
            ("volume", self.hours("volume", "window_start", by_hour), twice(day, self.hours)),
            (
                "detail",
                self.hours("detail.volume", "window_start", by_hour),
                twice(watermark - 2 * DAY_HOURS, self.hours),
            ),
            ("lake events", self.lake_hours("events", "timestamp", None), twice(day, self.hours)),
            (
                "lake volume",
                self.lake_hours("volume", "window_start", Some("1h")),
                twice(day, closed),
            ),
        ];
        for (place, found, expected) in found {
            if found != expected {
                let ends =
                    |hours: &[i64]| (hours.len(), hours.first().copied(), hours.last().copied());
                let (found, expected) = (ends(&found), ends(&expected));
                return Err(format!("{place}: {found:?}, not {expected:?}, watermark {watermark}"));
            }
        }
        let days = self.numbers("SELECT count(*) FROM detail.volume WHERE granularity = '1d'");
        let all = 2 * ((self.hours + DAY_HOURS - 1) / DAY_HOURS);
        if days != [all] { Err(format!("{days:?} days of {all}")) } else { Ok(()) }
    }

    /// True once nothing old is left, while somebody removes it: files may go that a reader opens.
    fn is_cleaned(&self) -> bool {
        let watermark = self.hours - 2;
        let day = (watermark - 3 * DAY_HOURS).div_euclid(DAY_HOURS) * DAY_HOURS;
        let oldest = format_timestamp((START_HOUR + day) * HOUR_US);
        let is_old =
            |name: String| name.strip_prefix("date=").is_some_and(|date| date < &oldest[..10]);
        let names = |input| std::fs::read_dir(self.lake().join(input)).unwrap();
        let mut directories = ["events", "volume"].into_iter().flat_map(names);
        let first = |hours: Vec<i64>| hours.first().copied();
        first(self.hours("events", "timestamp", "")) == Some(day)
            && first(self.hours("detail.volume", "window_start", "WHERE granularity = '1h'"))
                == Some(watermark - 2 * DAY_HOURS)
            && !directories.any(|entry| is_old(entry.unwrap().file_name().into_string().unwrap()))
    }

    fn reports(&self) -> Vec<Value> {
        block_on(async {
            let stream = connect(&self.nats.url()).await.get_stream("OPS").await.unwrap();
            let count = stream.cached_info().state.messages as usize;
            if count == 0 {
                return Vec::new();
            }
            let config = async_nats::jetstream::consumer::pull::Config::default();
            let consumer = stream.create_consumer(config).await.unwrap();
            let messages = consumer.fetch().max_messages(count).messages().await.unwrap();
            let body = |message: Result<async_nats::jetstream::Message, _>| {
                serde_json::from_slice(&message.ok()?.payload).ok()
            };
            messages.filter_map(|message| std::future::ready(body(message))).collect().await
        })
    }
}

fn assert_success(ending: &Ending) {
    assert!(ending.status.success(), "{}: {}", ending.status, ending.stderr);
}

#[test]
fn what_is_old_goes_and_is_told() {
    let mut stage = Stage::new();
    let deployment = stage.deployment();
    let nothing = deployment.command("clean").wait();
    assert_success(&nothing);
    assert_eq!(nothing.stdout.matches("nothing is older").count(), 3, "{}", nothing.stdout);
    // What is too old already when it comes goes to no partition.
    for days in [3, 7] {
        stage.publish(days * DAY_HOURS);
        deployment.run();
    }
    assert_eq!(stage.numbers("SELECT count(*) FROM events"), [480]);
    let cleaned = deployment.command("clean").wait();
    assert_success(&cleaned);
    stage.check().unwrap();
    let words: Vec<Vec<&str>> =
        cleaned.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    let line = |sink: &str, place: &str| {
        words.iter().find(|line| line[0] == sink && line[1].ends_with(place)).unwrap().clone()
    };
    // Six days of two events an hour.
    assert_eq!(line("warehouse", "public.events")[3..6], ["2026-03-07T22:00:00Z", "288", "3"]);
    let detail = line("detail", "detail.volume");
    assert_eq!([detail[2], detail[3], detail[5]], ["1h", "2026-03-08T22:00:00Z", "-"]);
    // The start of the second run may have removed the first ones.
    let rows: i64 = detail[4].parse().unwrap();
    assert!([380, 336].contains(&rows), "{rows}");
    assert_eq!(line("lake", "lake/events")[4..6], ["-", "6"]);
    let reports = stage.reports();
    let of = |sink: &str| reports.iter().find(|it| it["properties"]["sink"] == sink).unwrap();
    assert_eq!(of("detail")["event_type"], "waterwheel.cleaned");
    let told: i64 = reports
        .iter()
        .filter(|it| it["properties"]["sink"] == "detail")
        .map(|it| it["properties"]["rows"].as_i64().unwrap())
        .sum();
    assert_eq!(told, 380, "what the start removed is told as well");
    assert_eq!(of("lake")["properties"]["partitions"], 6);

    // A pipeline that starts does the same by itself, and goes on.
    stage.publish(2 * DAY_HOURS);
    deployment.run();
    let running = deployment.clone().set("UNTIL", "forever").start();
    wait_until("all three sinks are cleaned", || {
        let said = running.said();
        ["public.events", "detail.volume", "lake/events"].iter().all(|it| said.contains(it))
            && stage.is_cleaned()
    });
    assert_success(&running.terminate());
    stage.check().unwrap();
    assert_success(&deployment.command("clean").wait());
}

#[test]
fn a_clean_beside_a_run_fences_nobody_off() {
    let mut stage = Stage::new();
    let deployment = stage.deployment();
    stage.publish(5 * DAY_HOURS);
    deployment.run();
    let mut running = deployment.clone().set("UNTIL", "forever").start();
    let mut removed = 0;
    for _ in 0..6 {
        stage.publish(DAY_HOURS + 5);
        let cleaned = deployment.command("clean").wait();
        assert_success(&cleaned);
        removed += cleaned.stdout.lines().filter(|line| line.contains("2026-")).count();
        running.assert_running();
    }
    let all = format!(
        "SELECT count(*) FROM events WHERE timestamp >= to_timestamp({})",
        (START_HOUR + stage.hours - DAY_HOURS) * 3600
    );
    wait_until("all is read", || stage.numbers(&all) == [2 * DAY_HOURS]);
    let ending = running.terminate();
    assert_success(&ending);
    assert!(!ending.stderr.contains("starting again"), "{}", ending.stderr);
    // What the watermark moved since; another instance than any before.
    assert_success(&deployment.command("clean").wait());
    stage.check().unwrap();
    assert!(removed > 0, "nothing was removed while it ran");
    deployment.run();
    stage.check().unwrap();
}

/// Kills at every point of a cleaning, of a command and of a pipeline that runs.
#[test]
fn a_crash_on_the_way_is_made_good() {
    let mut stage = Stage::new();
    let deployment = stage.deployment();
    let points: Vec<&str> =
        POINTS.iter().copied().filter(|point| point.contains(".clean.")).collect();
    assert_eq!(points.len(), 6);
    stage.publish(5 * DAY_HOURS);
    deployment.run();
    let mut crashes = 0;
    for (round, point) in points.iter().flat_map(|point| [point; 4]).enumerate() {
        stage.publish(30);
        deployment.run();
        let crashing =
            deployment.clone().set("WATERWHEEL_CRASH_AT", format!("{point}:{}", 1 + round % 2));
        let ending = if round % 4 < 2 {
            crashing.command("clean").wait()
        } else {
            let mut running = crashing.set("UNTIL", "forever").start();
            wait_until("it crashes, or all is removed", || {
                running.has_ended() || stage.is_cleaned()
            });
            running.kill()
        };
        crashes += usize::from(ending.stderr.contains(&format!("crashing at {point}")));
        if round % 3 == 0 {
            deployment.run();
        }
        assert_success(&deployment.command("clean").wait());
        if let Err(problem) = stage.check() {
            panic!("round {round}, {point}: {problem}\n{}", ending.stderr);
        }
    }
    say!("retention of sinks: {} rounds, {crashes} crashes", points.len() * 4);
    assert!(crashes * 3 >= points.len() * 4, "{crashes} crashes are too few");
}
