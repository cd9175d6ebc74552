//! A changed deployment halts with a list, and `--rebuild` makes every sink what a fresh pipeline
//! would have made of it, wherever it is killed on the way; what is not changed is not touched.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tempfile::TempDir;

use crate::support::nats_server::NatsServer;
use crate::support::postgres::Postgres;
use crate::support::python::python;
use crate::support::rounds;
use crate::support::say;
use crate::support::stream::{block_on, connect, create, publish};
use crate::support::trading::Events;
use crate::support::wait_until;
use crate::support::waterwheel::{Deployment, Ending};

mod between_sinks;

const EVENTS: usize = 6_000;
/// How many are there at first, and how many come with every other round.
const FIRST: usize = 3_000;
const MORE: usize = 500;

const DEPLOYMENT: &str = r#"
name = "trading"

[engine]
flush = "10ms"
checkpoint = { path = "state", every = "100ms" }

[sources.events]
type = "nats"
url = "${NATS}"
stream = "EVENTS"
start = "first"
until = "end"
lateness = "30s"

[operators.volume]
type = "aggregate"
from = "events"
where = "event_type = 'order.filled'"
by = ["properties.symbol"]
windows = ["1m", "1h"]
measures.trades = "count(*)"
measures.notional = "sum(properties.price * properties.quantity)"
measures.traders = "count(distinct user_id)"

[operators.fills]
type = "join"
left = { from = "events", where = "event_type = 'order.placed'" }
right = { from = "events", where = "event_type = 'order.filled'" }
on = "correlation_id"
within = "30s"
select.symbol = "left.properties.symbol"
select.latency_ms = "millis(right.timestamp - left.timestamp)"

[operators.fill_latency]
type = "aggregate"
from = "fills"
by = ["symbol"]
windows = ["1m"]
measures.fills = "count(*)"
measures.p95_ms = "quantile(0.95, latency_ms)"

[operators.onboarding]
type = "funnel"
from = "events"
within = "1h"
window = "1d"
steps = [
    { name = "viewed", where = "event_type = 'page.viewed'" },
    { name = "ordered", where = "event_type = 'order.placed'" },
]

[sinks.archive]
type = "parquet"
from = ["events", "dead_letter"]
path = "${LAKE}/archive"

[sinks.lake]
type = "parquet"
from = ["volume"]
path = "${LAKE}/lake"
roll = { rows = 500, every = "1s" }

[sinks.pairs]
type = "postgres"
from = ["fills"]
url = "${DATABASE}"

[sinks.users]
type = "postgres"
from = ["onboarding"]
url = "${DATABASE}"

[sinks.warehouse]
type = "postgres"
from = ["volume", "fill_latency"]
url = "${DATABASE}"
"#;

const SINKS: [&str; 5] = ["archive", "lake", "pairs", "users", "warehouse"];

/// Each on top of those before: what is replaced by what, the sinks that this empties, and the
/// operators that compute something else.
const EDITS: [(&str, &str, &[&str], &[&str]); 10] = [
    (
        "where = \"event_type = 'order.filled'\"\nby",
        "where = \"event_type = 'order.filled' and properties.quantity > 1\"\nby",
        &["lake", "warehouse"],
        &["volume"],
    ),
    // Another table is needed.
    (
        "measures.traders = \"count(distinct user_id)\"",
        "measures.low = \"min(properties.price)\"",
        &["lake", "warehouse"],
        &["volume"],
    ),
    ("within = \"30s\"", "within = \"2s\"", &["pairs", "warehouse"], &["fills", "fill_latency"]),
    ("window = \"1d\"", "window = \"1h\"", &["users"], &["onboarding"]),
    ("from = [\"volume\", \"fill_latency\"]", "from = [\"volume\"]", &["warehouse"], &[]),
    (
        "lateness = \"30s\"",
        "lateness = \"5s\"",
        &["archive", "lake", "pairs", "users", "warehouse"],
        &["volume", "fills", "fill_latency", "onboarding"],
    ),
    ("from = [\"volume\"]\nurl", "from = [\"volume\"]\nemit = \"final\"\nurl", &["warehouse"], &[]),
    ("path = \"${LAKE}/lake\"", "path = \"${LAKE}/lake\"\nemit = \"changes\"", &["lake"], &[]),
    ("windows = [\"1m\", \"1h\"]", "windows = [\"5m\"]", &["lake", "warehouse"], &["volume"]),
    (
        "from = [\"onboarding\"]",
        "from = [\"onboarding\", \"fill_latency\"]\ntable.fill_latency = \"live.fill_latency\"",
        &["users"],
        &["fill_latency"],
    ),
];

#[test]
fn edits_are_rebuilt() {
    for pass in 0..rounds(1, 2) {
        edit_after_edit(pass);
    }
}

/// Other edits are killed on the way in another pass.
fn edit_after_edit(pass: usize) {
    let stage = Stage::new();
    let mut published = stage.publish(0, FIRST);
    let mut text = DEPLOYMENT.to_owned();
    stage.deployment(&text).run();
    let mut kills = 0;
    let mut halts_after_kills = 0;
    for (round, (from, to, emptied, computed)) in EDITS.iter().enumerate() {
        assert_eq!(text.matches(from).count(), 1, "{from}");
        text = text.replace(from, to);
        let is_growing = round % 2 == 1;
        if is_growing {
            published += stage.publish(published, MORE);
        }
        let kept: Vec<&str> = SINKS.into_iter().filter(|sink| !emptied.contains(sink)).collect();
        let before = stage.untouched(&kept);
        let deployment = stage.deployment(&text);
        assert_halts(&deployment.start().wait(), emptied, &kept, computed);
        if (round + pass) % 3 == 2 {
            assert_success(&deployment.rebuild().wait());
        } else {
            let place = stage.place(emptied);
            let mut running = deployment.rebuild();
            wait_until("the last sink is emptied, or it has ended", || {
                stage.place(emptied) != place || running.has_ended()
            });
            running.kill();
            kills += 1;
            let mut ending = deployment.start().wait();
            // Where not every sink had been emptied, the consent is asked for again.
            if ending.status.code() == Some(3) {
                halts_after_kills += 1;
                ending = deployment.rebuild().wait();
            }
            assert_success(&ending);
        }
        stage.assert_as_fresh(&text, round);
        if !is_growing {
            assert_eq!(stage.untouched(&kept), before, "round {round}: {kept:?}");
        }
        let again = deployment.rebuild().wait();
        assert_success(&again);
        assert!(!again.stderr.contains("rebuilding"), "nothing was changed: {}", again.stderr);
    }
    say!(
        "edits: {} edits, {kills} kills on the way, {halts_after_kills} of them before every sink was \
         emptied",
        EDITS.len()
    );
}

/// What is written out is no change, and a source that is added is none for sinks that do not read it.
#[test]
fn harmless_edits_are_none() {
    let stage = Stage::new();
    stage.publish(0, FIRST);
    stage.deployment(DEPLOYMENT).run();
    let before = stage.untouched(&SINKS);
    let text = DEPLOYMENT
        .replace("lateness = \"30s\"", "lateness = \"30s\"\nmax_future = \"30000ms\"")
        .replace("window = \"1d\"", "window = \"1d\"\norder = \"ordered\"\ntimezone = \"UTC\"")
        .replace("by = [\"properties.symbol\"]", "by = { symbol = \"properties.symbol\" }")
        .replace("within = \"30s\"", "within = { before = \"0s\", after = \"30s\" }")
        .replace("[\"volume\", \"fill_latency\"]", "[\"fill_latency\", \"volume\"]");
    stage.deployment(&text).run();
    assert_eq!(stage.untouched(&SINKS), before);
}

/// The pipeline began in the middle of the stream, and what is rebuilt does too.
#[test]
fn a_rebuild_begins_where_the_pipeline_began() {
    let stage = Stage::new();
    stage.publish(0, FIRST);
    let begun = DEPLOYMENT.replace("start = \"first\"", "start = 1001");
    stage.deployment(&begun).run();
    // All sinks are emptied, so that none keeps rows that tell.
    let changed = |start: &str| {
        DEPLOYMENT
            .replace("start = \"first\"", start)
            .replace("lateness = \"30s\"", "lateness = \"20s\"")
    };
    let deployment = stage.deployment(&changed("start = \"new\""));
    let place = stage.place(&SINKS);
    let mut running = deployment.rebuild();
    wait_until("the last sink is emptied, or it has ended", || {
        stage.place(&SINKS) != place || running.has_ended()
    });
    running.kill();
    assert_success(&deployment.start().wait());
    stage.assert_as_fresh(&changed("start = 1001"), 0);
}

/// A checkpoint from before a sink held its rows back until they are final knows nothing of these
/// rows, though all operators are the same. The sink has been filled beyond it when the crash comes.
#[test]
fn an_older_checkpoint_is_passed_over_by_a_sink_that_holds_rows_back() {
    let stage = Stage::new();
    let mut published = stage.publish(0, FIRST);
    stage.deployment(DEPLOYMENT).run();
    // So few that windows stay open that nothing changes any more.
    published += stage.publish(published, 3);
    let warehouse = "from = [\"volume\", \"fill_latency\"]";
    let text = DEPLOYMENT.replace(warehouse, &format!("{warehouse}\nemit = \"final\""));
    let endless = text.replace("until = \"end\"", "until = \"forever\"");
    let mut running =
        stage.deployment(&endless.replace("every = \"100ms\"", "every = \"1d\"")).rebuild();
    let ordinal =
        "select positions->'events'->>'ordinal' from waterwheel.progress where sink = 'warehouse'";
    wait_until("the sink has passed the checkpoint, or it has ended", || {
        let ordinal = stage.query(ordinal).trim().parse::<usize>();
        let is_emptied = stage.query("select count(*) from public.volume").trim() != "0";
        (is_emptied && ordinal.is_ok_and(|ordinal| ordinal > FIRST)) || running.has_ended()
    });
    running.assert_running();
    running.kill();
    stage.publish(published, EVENTS - published);
    let ending = stage.deployment(&text).start().wait();
    assert_success(&ending);
    assert!(ending.stderr.contains(".final.warehouse` as it is now"), "{}", ending.stderr);
    stage.assert_as_fresh(&text, 0);
}

fn assert_success(ending: &Ending) {
    assert!(ending.status.success(), "{}: {}", ending.status, ending.stderr);
}

fn assert_halts(ending: &Ending, emptied: &[&str], kept: &[&str], computed: &[&str]) {
    let stderr = &ending.stderr;
    assert_eq!(ending.status.code(), Some(3), "{stderr}");
    let told = |what: &str| -> Vec<String> {
        // Logs are JSON, where a line break is written `\n`.
        let list = stderr.split(&format!("- {what}: ")).nth(1);
        let list = list.unwrap_or_else(|| panic!("`{what}` in {stderr}"));
        let list = list.split("\\n").next().unwrap_or_default();
        let mut names = Vec::new();
        let mut depth = 0;
        let mut name = String::new();
        for letter in list.chars().chain([',']) {
            match letter {
                '(' => depth += 1,
                ')' => depth -= 1,
                ',' if depth == 0 => names.push(std::mem::take(&mut name).trim().to_owned()),
                letter if depth == 0 => name.push(letter),
                _ => {}
            }
        }
        names.retain(|name| name != "none");
        names.sort();
        names
    };
    let sorted = |names: &[&str]| {
        let mut names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(told("sinks emptied and filled again"), sorted(emptied), "{stderr}");
    assert_eq!(told("sinks kept as they are"), sorted(kept), "{stderr}");
    assert_eq!(told("operators computed anew"), sorted(computed), "{stderr}");
    assert!(stderr.contains("events (from message 1 of EVENTS"), "{stderr}");
    assert!(stderr.contains("--rebuild"), "{stderr}");
}

/// Servers, events, and a pipeline that is edited again and again.
struct Stage {
    nats: NatsServer,
    postgres: Postgres,
    events: Events,
    directory: TempDir,
}

impl Stage {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let nats = NatsServer::start();
        let postgres = Postgres::start(&directory.path().join("postgres")).unwrap();
        let events = Events::generate(directory.path(), EVENTS, "EVENTS");
        block_on(async { create(&connect(&nats.url()).await, "EVENTS", "events").await });
        Self { nats, postgres, events, directory }
    }

    fn publish(&self, from: usize, count: usize) -> usize {
        let payloads = self.events.payloads().into_iter().skip(from).take(count);
        block_on(async {
            publish(&connect(&self.nats.url()).await, "events.trading", payloads).await
        });
        count
    }

    fn deployment(&self, text: &str) -> Deployment {
        self.deployment_in("run", text, &self.postgres.url())
    }

    fn deployment_in(&self, directory: &str, text: &str, database: &str) -> Deployment {
        Deployment::new(&self.directory.path().join(directory), text)
            .set("NATS", self.nats.url())
            .set("LAKE", self.lake(directory))
            .set("DATABASE", database)
    }

    fn lake(&self, directory: &str) -> PathBuf {
        self.directory.path().join(directory).join("lake")
    }

    fn query(&self, sql: &str) -> String {
        self.postgres.query(sql).unwrap()
    }

    /// Something that changes when the last of these sinks is emptied.
    fn place(&self, sinks: &[&str]) -> String {
        let last = sinks.iter().max().unwrap();
        match *last {
            "archive" | "lake" => {
                format!("{:?}", files(&self.lake("run").join(last)).keys().collect::<Vec<_>>())
            }
            last => self
                .query(&format!("select positions from waterwheel.progress where sink = '{last}'")),
        }
    }

    /// What would be another if something had been written to these sinks, even the same.
    fn untouched(&self, sinks: &[&str]) -> BTreeMap<String, String> {
        let seen = |sink: &&str| {
            let versions = |tables: &[&str]| -> String {
                let rows = |table: &&str| {
                    self.query(&format!("select xmin, ctid, t from {table} t order by ctid"))
                };
                tables.iter().map(rows).collect()
            };
            let seen = match *sink {
                "pairs" => versions(&["fills"]),
                "users" => versions(&["onboarding"]),
                "warehouse" => versions(&["volume"]),
                lake => format!("{:?}", files(&self.lake("run").join(lake))),
            };
            ((*sink).to_owned(), seen)
        };
        sinks.iter().map(seen).collect()
    }

    /// Panics unless all sinks hold what a pipeline holds that never was another.
    fn assert_as_fresh(&self, text: &str, round: usize) {
        let (name, database) = (format!("fresh{round}"), format!("fresh{round}"));
        self.query(&format!("create database {database}"));
        let url = self.postgres.url().replace("/postgres", &format!("/{database}"));
        self.deployment_in(&name, text, &url).run();
        for lake in ["archive", "lake"] {
            let rows = |directory: &str| {
                let printed = python("read_lake.py", &[&self.lake(directory).join(lake)]);
                let mut rows: Vec<String> = printed.lines().map(without_epoch).collect();
                rows.sort();
                rows
            };
            let (fresh, rebuilt) = (rows(&name), rows("run"));
            assert!(!fresh.is_empty(), "nothing is expected of {lake}");
            match lake == "lake" && text.contains("emit = \"changes\"") {
                // How often a row changes between two commits is a matter of speed.
                true => assert_eq!(last_values(&rebuilt), last_values(&fresh), "round {round}"),
                false => assert!(
                    rebuilt == fresh,
                    "round {round}: {lake}: {}",
                    first_difference(&fresh, &rebuilt)
                ),
            }
        }
        let mut tables = vec!["public.volume", "public.fills", "public.onboarding"];
        match (text.contains("live.fill_latency"), text.contains("\"volume\", \"fill_latency\"]")) {
            (true, _) => tables.push("live.fill_latency"),
            (_, true) => tables.push("public.fill_latency"),
            _ => {}
        }
        for table in tables {
            let rows = |url: &str| {
                let sql = format!("select row_to_json(t) from {table} t");
                let printed = self.postgres.query_at(url, &sql).unwrap();
                let mut rows: Vec<String> = printed.lines().map(str::to_owned).collect();
                rows.sort();
                rows
            };
            let (fresh, rebuilt) = (rows(&url), rows(&self.postgres.url()));
            assert!(!fresh.is_empty(), "nothing is expected of {table}");
            let difference = first_difference(&fresh, &rebuilt);
            assert!(rebuilt == fresh, "round {round}: {table}: {difference}");
        }
    }
}

/// Of a row of changes, which of its epochs it came in is a matter of speed.
fn without_epoch(line: &str) -> String {
    let mut row: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap();
    row.remove("epoch");
    serde_json::to_string(&row).unwrap()
}

/// The rows that changes leave behind, by their key. A measure that grows does so from row to row.
fn last_values(rows: &[String]) -> BTreeMap<String, (u64, String)> {
    let mut last: BTreeMap<String, (u64, String)> = BTreeMap::new();
    for line in rows {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let key = format!("{}|{}|{}", row["granularity"], row["window_start"], row["symbol"]);
        let trades = row["trades"].as_u64().unwrap();
        let entry = last.entry(key).or_default();
        *entry = entry.clone().max((trades, line.clone()));
    }
    last
}

fn first_difference(fresh: &[String], rebuilt: &[String]) -> String {
    let missing = fresh.iter().find(|row| !rebuilt.contains(row));
    let surplus = rebuilt.iter().find(|row| !fresh.contains(row));
    format!(
        "{} rows instead of {}; missing {missing:?}, surplus {surplus:?}",
        rebuilt.len(),
        fresh.len()
    )
}

/// The files that readers see, with what tells a version of one from another.
fn files(directory: &Path) -> BTreeMap<PathBuf, (u64, SystemTime)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() {
            if !name.to_string_lossy().starts_with('_') {
                found.extend(files(&path));
            }
        } else if let Ok(metadata) = entry.metadata() {
            found.insert(path, (metadata.len(), metadata.modified().unwrap()));
        }
    }
    found
}
