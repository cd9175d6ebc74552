mod faults;
mod fencing;
mod finality;
mod resets;
mod retention;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::{NoTls, SimpleQueryMessage};
use waterwheel_config::document::Document;
use waterwheel_config::schema::{Column, Finality, Schema};
use waterwheel_config::value::{ColumnType, Row, Value};
use waterwheel_pipeline::contract::epoch::{EpochRecord, FINAL_WATERMARK, NO_WATERMARK};
use waterwheel_pipeline::contract::event::{dead_letter_schema, raw_schema};
use waterwheel_pipeline::contract::fault::{Outcome, Remedy};
use waterwheel_pipeline::contract::position::{Gap, Position};
use waterwheel_pipeline::contract::sink::{Changes, SinkInput};

use super::test_server::TestServer;
use super::*;

const HOUR_US: i64 = 3_600_000_000;

/// Window, group (may be NULL) and a measure.
fn volume_schema() -> Arc<Schema> {
    Arc::new(Schema {
        columns: vec![
            Column::time("window_start", HOUR_US),
            Column::new("symbol", ColumnType::Text),
            Column::new("trades", ColumnType::Bigint),
        ],
        key: vec![0, 1],
        finality: Finality::At { column: 0, plus_us: HOUR_US },
        append_only: false,
        time: Some(0),
    })
}

fn volume(hour: i64, symbol: Option<&str>, trades: i64) -> Row {
    let symbol = symbol.map_or(Value::Null, Value::text);
    Row::from(vec![Value::Timestamp(hour * HOUR_US), symbol, Value::Bigint(trades)])
}

fn raw_event(sequence: i64, user: &str) -> Row {
    let text = |text: &str| Value::text(text);
    Row::from(vec![
        text(&format!("id-{sequence}")),
        text("order.filled"),
        Value::Timestamp(sequence * 1_000),
        text(user),
        Value::Null,
        text("c-1"),
        Value::Null,
        Value::Null,
        text("events.order"),
        text("EVENTS"),
        Value::Bigint(sequence),
        Value::Timestamp(sequence * 1_000),
        Value::Boolean(false),
        Value::Json(r#"{"properties": {"symbol": "BTC"}}"#.into()),
    ])
}

fn input(name: &str, role: InputRole, schema: Arc<Schema>) -> SinkInput {
    SinkInput { name: name.to_owned(), role, schema, granularities: Vec::new() }
}

fn operator() -> SinkInput {
    input("volume", InputRole::Operator, volume_schema())
}

/// An aggregate's windows: granularity, start, end, group, measure.
fn windows() -> SinkInput {
    let schema = Schema {
        columns: vec![
            Column::new("granularity", ColumnType::Text),
            Column::time("window_start", HOUR_US),
            Column::time("window_end", 0),
            Column::new("symbol", ColumnType::Text),
            Column::new("trades", ColumnType::Bigint),
        ],
        key: vec![0, 1, 3],
        finality: Finality::At { column: 2, plus_us: 0 },
        append_only: false,
        time: Some(1),
    };
    let mut input = input("volume", InputRole::Operator, Arc::new(schema));
    input.granularities = vec!["1m".into(), "1h".into()];
    input
}

fn timeless() -> Arc<Schema> {
    Arc::new(Schema {
        columns: vec![Column::new("trades", ColumnType::Bigint)],
        key: vec![],
        finality: Finality::Immediate,
        append_only: false,
        time: None,
    })
}

/// Plans a sink; the error is what `check` would print.
fn planned(keys: &str, inputs: Vec<SinkInput>) -> Result<Box<dyn SinkSpec>, String> {
    let document = Document::parse("t.toml", &format!("[s]\n{keys}\n"), Box::new(|_| None));
    let root = document.root();
    let section = root.table("s").expect("a table");
    let context = SinkContext {
        pipeline: "trading".into(),
        sink: "warehouse".into(),
        inputs,
        emit: Emit::Changes,
    };
    let spec = plan(&section, &context);
    section.finish();
    if document.findings.has_errors() {
        Err(document.render_findings(false))
    } else {
        Ok(spec.expect("a spec"))
    }
}

fn sink_at(url: &str, more: &str, inputs: Vec<SinkInput>) -> Box<dyn Sink> {
    planned(&format!("url = \"{url}\"\n{more}"), inputs).expect("a plan").build()
}

fn progress(ordinal: u64, watermark: i64) -> Progress {
    let position = Position {
        stream: "EVENTS".into(),
        created: i64::MIN,
        ordinal,
        fingerprint: u64::MAX - 1,
        gaps: vec![Gap { from: 1, to: 3 }],
        messages: ordinal,
    };
    let record = EpochRecord {
        epoch: ordinal,
        generation: 1,
        positions: BTreeMap::from([("events".to_owned(), position)]),
        watermarks: BTreeMap::from([("events".to_owned(), watermark)]),
    };
    Progress { record, origin: BTreeMap::new(), fingerprint: "f".into(), finished: false }
}

fn commit(ordinal: u64, upserts: Vec<Row>, deletes: Vec<Row>) -> Commit {
    let changes = vec![Changes { upserts, deletes, ..Changes::default() }];
    Commit { progress: progress(ordinal, NO_WATERMARK), changes }
}

/// A client, and the task that drives it.
async fn client(server: &TestServer) -> (tokio_postgres::Client, tokio::task::JoinHandle<()>) {
    let (client, connection) =
        tokio_postgres::connect(&server.url(), NoTls).await.expect("a client");
    let driver = tokio::spawn(async { drop(connection.await) });
    (client, driver)
}

/// What psql would print of a query: columns by `|`, NULL as nothing.
async fn lines(server: &TestServer, query: &str) -> Vec<String> {
    let (client, driver) = client(server).await;
    client.batch_execute("SET timezone = 'UTC'").await.expect("a setting");
    let messages = client.simple_query(query).await.expect(query);
    driver.abort();
    let line = |message: SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => {
            let cells = (0..row.len()).map(|at| row.get(at).unwrap_or("").to_owned());
            Some(cells.collect::<Vec<_>>().join("|"))
        }
        _ => None,
    };
    messages.into_iter().filter_map(line).collect()
}

async fn run(server: &TestServer, statement: &str) {
    lines(server, statement).await;
}

const VOLUMES: &str = "SELECT extract(epoch FROM window_start)::int / 3600, symbol, trades \
     FROM volume ORDER BY 1, 2";

#[test]
fn plan_reports_what_is_wrong() {
    let url = "url = \"postgres://u:hunter2@h/d\"\n";
    let events = || input("events", InputRole::RawEvents, raw_schema());
    let long = format!("table.volume = \"{}\"", "v".repeat(60));
    for (keys, inputs, wrong) in [
        ("", vec![operator()], "needs the key `url`"),
        ("url = \"mysql://u:hunter2@h\"", vec![operator()], "not a Postgres URL"),
        ("table.volum = \"x\"", vec![operator()], "did you mean `volume`?"),
        ("table.volume = \"Live.Volume\"", vec![operator()], "not a table name"),
        (&long, vec![operator()], "longer than the 63 bytes"),
        ("retain = \"90\"", vec![operator()], "not a duration"),
        ("retain = \"0d\"", vec![operator()], "longer than zero"),
        ("retain = 90", vec![operator()], "a duration such as"),
        ("retain = {}", vec![windows()], "names no windows"),
        ("retain = { \"1 m\" = \"1d\" }", vec![windows()], "did you mean `1m`?"),
        ("retain = { \"1m\" = \"0s\" }", vec![windows()], "longer than zero"),
        ("retain = { \"1m\" = \"1d\" }", vec![operator()], "nothing grows old here"),
        ("retain = \"1d\"", vec![input("total", InputRole::Operator, timeless())], "has no time"),
        ("table.volume = \"events\"", vec![operator(), events()], "for `events` and for volume"),
        ("table.events = \"volume_final\"", vec![operator(), events()], "volume_final would be"),
        ("table.volume = \"waterwheel.progress\"", vec![operator()], "the progress"),
        ("indexes = 1", vec![events()], "true or false"),
        ("tables = 1", vec![operator()], "did you mean `table`?"),
    ] {
        let keys = if keys.contains("url") || wrong.contains("url") {
            keys.to_owned()
        } else {
            format!("{url}{keys}")
        };
        let text = planned(&keys, inputs).err().unwrap_or_else(|| panic!("no finding: {keys}"));
        assert!(text.contains(wrong), "{wrong} in\n{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
    let spec =
        planned(&format!("{url}table.volume = \"live.v\""), vec![operator()]).expect("a plan");
    assert_eq!(spec.describe(), "table live.v in postgres at h:5432/d");
    let resources = ["live.v", "live.v_final"].map(|t| format!("postgres table {t} at h:5432/d"));
    assert_eq!(spec.resources(), resources);
}

#[tokio::test]
async fn rows_come_change_and_go() {
    let server = TestServer::start().await;
    let mut sink = sink_at(&server.url(), "", vec![operator()]);
    let claim = sink.open(1).await.expect("a claim");
    assert_eq!((claim.generation, claim.progress), (1, None));

    let rows = vec![
        volume(1, Some("A"), 1),
        volume(1, None, 2),
        volume(2, None, 3),
        volume(2, Some("B"), 4),
        volume(3, Some("C"), 5),
    ];
    let first = commit(1, rows, vec![]);
    assert_eq!(sink.commit(&first).await.expect("a commit"), Some(first.progress.clone()));
    let upserts = vec![volume(1, None, 20), volume(4, Some("D"), 6)];
    let deletes = vec![volume(2, None, 3), volume(3, Some("C"), 5), volume(9, None, 9)];
    let second = commit(2, upserts, deletes);
    sink.commit(&second).await.expect("a commit");
    assert_eq!(lines(&server, VOLUMES).await, ["1|A|1", "1||20", "2|B|4", "4|D|6"]);

    // A commit without changes moves the progress.
    let third = commit(3, vec![], vec![]);
    sink.commit(&third).await.expect("a commit");
    let shown = "SELECT generation, epoch, positions->'events'->>'ordinal', watermark, finished, \
         tables FROM waterwheel.progress WHERE pipeline = 'trading' AND sink = 'warehouse'";
    assert_eq!(lines(&server, shown).await, ["1|3|3|-infinity|f|{public.volume}"]);

    assert_eq!(sink.close().await.expect("an end"), Some(third.progress.clone()));
    let mut next = sink_at(&server.url(), "", vec![operator()]);
    assert!(matches!(next.open(1).await, Err(ClaimError::Stale(1))));
    assert_eq!(next.open(2).await.expect("a claim").progress, Some(third.progress));
}

#[tokio::test]
async fn a_table_without_a_key_holds_one_row() {
    let server = TestServer::start().await;
    let schema = Arc::new(Schema {
        columns: vec![Column::new("trades", ColumnType::Bigint)],
        key: vec![],
        finality: Finality::Immediate,
        append_only: false,
        time: None,
    });
    let inputs = || vec![input("total", InputRole::Operator, schema.clone())];
    let mut sink = sink_at(&server.url(), "", inputs());
    sink.open(1).await.expect("a claim");
    let row = |trades| Row::from(vec![Value::Bigint(trades)]);
    sink.commit(&commit(1, vec![row(1)], vec![])).await.expect("a commit");
    sink.commit(&commit(2, vec![row(2)], vec![])).await.expect("a commit");
    assert_eq!(lines(&server, "SELECT * FROM total_final").await, ["2"]);
    sink_at(&server.url(), "", inputs()).open(2).await.expect("the table is as it must be");
    sink.recover().await.expect_err("a newer instance");
    let mut sink = sink_at(&server.url(), "", inputs());
    sink.open(3).await.expect("a claim");
    sink.commit(&commit(3, vec![], vec![row(2)])).await.expect("a commit");
    assert!(lines(&server, "TABLE total").await.is_empty());
}

#[tokio::test]
async fn of_a_key_that_comes_again_in_one_commit_the_last_row_stays() {
    let server = TestServer::start().await;
    let schema = Arc::new(Schema {
        columns: vec![
            Column::new("user_id", ColumnType::Text),
            Column::new("trades", ColumnType::Bigint),
        ],
        key: vec![0],
        finality: Finality::Silent { expire_us: Some(HOUR_US) },
        append_only: false,
        time: None,
    });
    let mut sink =
        sink_at(&server.url(), "", vec![input("total", InputRole::Operator, schema.clone())]);
    sink.open(1).await.expect("a claim");
    // Behind the columns stands the time of the last event.
    let row = |user: &str, trades, last_us| {
        Row::from(vec![Value::text(user), Value::Bigint(trades), Value::Timestamp(last_us)])
    };
    let rows = vec![row("a", 5, 1), row("b", 1, 2), row("a", 3, 9 * HOUR_US)];
    sink.commit(&commit(1, rows, vec![])).await.expect("a commit");
    assert_eq!(lines(&server, "SELECT * FROM total ORDER BY user_id").await, ["a|3", "b|1"]);
    // No column says since when they are silent, and the pipeline goes on.
    assert!(lines(&server, "SELECT * FROM total_final").await.is_empty());
}

#[tokio::test]
async fn every_type_arrives_as_it_was() {
    let server = TestServer::start().await;
    let types = [
        ("number", ColumnType::Bigint),
        ("a \"text\"", ColumnType::Text),
        ("ratio", ColumnType::Double),
        ("flag", ColumnType::Boolean),
        ("at", ColumnType::Timestamp),
        ("json", ColumnType::Json),
    ];
    let schema = Arc::new(Schema {
        columns: types.iter().map(|(name, kind)| Column::new(*name, *kind)).collect(),
        key: vec![0],
        finality: Finality::Immediate,
        append_only: false,
        time: None,
    });
    let mut sink = sink_at(
        &server.url(),
        "table.all = \"live.everything\"",
        vec![input("all", InputRole::Operator, schema)],
    );
    sink.open(1).await.expect("a claim");
    let row = |values: [Value; 6]| Row::from(values.to_vec());
    let rows = vec![
        row([
            Value::Bigint(i64::MIN),
            Value::text("tab\t 'quote' \\ ü 🦀"),
            Value::double(0.1),
            Value::Boolean(true),
            Value::Timestamp(waterwheel_config::timestamp::EARLIEST_US),
            Value::Json(r#"{"b": [1, 2.50], "a": "é"}"#.into()),
        ]),
        row([
            Value::Bigint(1),
            // Not through `Value::text`, which would replace the zero byte.
            Value::Text("a\0b".into()),
            Value::double(-1.797e308),
            Value::Boolean(false),
            Value::Timestamp(waterwheel_config::timestamp::LATEST_US),
            Value::Json("null".into()),
        ]),
        row([
            Value::Bigint(i64::MAX),
            Value::Null,
            Value::Null,
            Value::Null,
            Value::Null,
            Value::Null,
        ]),
    ];
    sink.commit(&commit(1, rows, vec![])).await.expect("a commit");
    assert_eq!(
        lines(&server, "SELECT * FROM live.everything ORDER BY number").await,
        [
            "-9223372036854775808|tab\t 'quote' \\ ü 🦀|0.1|t|0001-01-01 00:00:00+00|{\"a\": \"é\", \"b\": [1, 2.50]}",
            "1|a\u{fffd}b|-1.797e+308|f|9999-12-31 23:59:59.999999+00|null",
            "9223372036854775807|||||",
        ]
    );
    let kinds = "SELECT string_agg(format_type(atttypid, atttypmod), ',' ORDER BY attnum) \
         FROM pg_attribute WHERE attrelid = 'live.everything'::regclass AND attnum > 0";
    let wanted = "bigint,text,double precision,boolean,timestamp with time zone,jsonb";
    assert_eq!(lines(&server, kinds).await, [wanted]);

    // A row that breaks its schema is nobody's data: it halts, and nothing of its commit stays.
    let broken = vec![
        row([Value::Bigint(2), Value::Null, Value::Null, Value::Null, Value::Null, Value::Null]),
        row([Value::text("x"), Value::Null, Value::Null, Value::Null, Value::Null, Value::Null]),
    ];
    let fault = sink.commit(&commit(2, broken, vec![])).await.expect_err("a halt");
    assert_eq!(fault.remedy, Remedy::Halt, "{fault}");
    assert!(fault.message.contains("live.everything"), "{fault}");
    assert_eq!(lines(&server, "SELECT count(*) FROM live.everything").await, ["3"]);
}

#[tokio::test]
async fn raw_events_and_dead_letters_have_their_tables() {
    let server = TestServer::start().await;
    let inputs = || {
        vec![
            input("events", InputRole::RawEvents, raw_schema()),
            input("dead_letter", InputRole::DeadLetters, dead_letter_schema()),
        ]
    };
    let mut sink = sink_at(&server.url(), "", inputs());
    sink.open(1).await.expect("a claim");
    let long = "x".repeat(5_000);
    let events = vec![raw_event(1, "u1"), raw_event(2, &long)];
    let letter = Row::from(
        ["events", "EVENTS", "events.x", "7", "", "not an object", "", "[]", ""]
            .iter()
            .enumerate()
            .map(|(at, text)| match at {
                3 => Value::Bigint(7),
                4 => Value::Timestamp(0),
                _ => Value::text(text),
            })
            .collect::<Vec<_>>(),
    );
    let changes = |upserts| Changes::new(upserts);
    let both = Commit {
        progress: progress(1, NO_WATERMARK),
        changes: vec![changes(events.clone()), changes(vec![letter.clone()])],
    };
    sink.commit(&both).await.expect("a commit");
    // The same again, as after a progress that was set back: the rows are rewritten.
    sink.commit(&both).await.expect("a commit");
    let shown = "SELECT sequence, user_id, payload->'properties'->>'symbol' FROM events ORDER BY 1";
    assert_eq!(lines(&server, shown).await, ["1|u1|BTC", "2||BTC"]);
    assert_eq!(lines(&server, "SELECT reason FROM dead_letter").await, ["not an object"]);
    assert!(lines(&server, "SELECT to_regclass('events_final')").await == [""]);
    let indexes = "SELECT substring(indexdef FROM 'USING .*') FROM pg_indexes \
         WHERE tablename = 'events' ORDER BY 1";
    assert_eq!(
        lines(&server, indexes).await,
        [
            "USING btree (correlation_id)",
            "USING btree (event_type, \"timestamp\")",
            "USING btree (stream, sequence) NULLS NOT DISTINCT",
            "USING btree (user_id, \"timestamp\")",
            "USING gin (payload jsonb_path_ops)",
        ]
    );

    run(&server, "DELETE FROM waterwheel.progress").await;
    let more = "indexes = false\ntable.events = \"bare\"\ntable.dead_letter = \"bare_letter\"";
    let mut bare = sink_at(&server.url(), more, inputs());
    bare.open(1).await.expect("a claim");
    bare.commit(&both).await.expect("a commit");
    assert_eq!(lines(&server, &indexes.replace("'events'", "'bare'")).await.len(), 1);
    // Without an index there is no limit.
    let length = "SELECT max(length(user_id)) FROM bare";
    assert_eq!(lines(&server, length).await, ["5000"]);
}

#[tokio::test]
async fn the_view_shows_what_is_final() {
    let server = TestServer::start().await;
    let mut sink = sink_at(&server.url(), "", vec![operator()]);
    sink.open(1).await.expect("a claim");
    let rows = vec![volume(1, Some("A"), 1), volume(2, Some("A"), 2), volume(3, Some("A"), 3)];
    let at = |watermark, changes: Vec<Row>| Commit {
        progress: progress(1, watermark),
        changes: vec![Changes::new(changes)],
    };
    let shown = "SELECT trades FROM volume_final ORDER BY 1";
    sink.commit(&at(NO_WATERMARK, rows)).await.expect("a commit");
    assert!(lines(&server, shown).await.is_empty());
    // The second window ends at 3 h: final when the watermark reaches it, and not before.
    sink.commit(&at(3 * HOUR_US - 1, vec![])).await.expect("a commit");
    assert_eq!(lines(&server, shown).await, ["1"]);
    sink.commit(&at(3 * HOUR_US, vec![])).await.expect("a commit");
    assert_eq!(lines(&server, shown).await, ["1", "2"]);
    sink.commit(&at(FINAL_WATERMARK, vec![])).await.expect("a commit");
    assert_eq!(lines(&server, shown).await, ["1", "2", "3"]);
    let watermark = "SELECT watermark FROM waterwheel.progress";
    assert_eq!(lines(&server, watermark).await, ["infinity"]);

    // Opened again the view is left alone; something else of that name is not touched.
    let view = "SELECT xmin FROM pg_class WHERE relname = 'volume_final'";
    let before = lines(&server, view).await;
    sink_at(&server.url(), "", vec![operator()]).open(2).await.expect("a claim");
    assert_eq!(lines(&server, view).await, before);
    run(&server, "DROP VIEW volume_final; CREATE TABLE volume_final (x int)").await;
    let mut other = sink_at(&server.url(), "", vec![operator()]);
    let Err(ClaimError::Fault(fault)) = other.open(3).await else { panic!("a halt") };
    assert_eq!(fault.remedy, Remedy::Halt);
    assert!(fault.message.contains("volume_final is in the way"), "{fault}");
}

#[tokio::test]
async fn a_commit_is_all_or_nothing() {
    let server = TestServer::start().await;
    let mut sink = sink_at(&server.url(), "", vec![operator()]);
    sink.open(1).await.expect("a claim");
    run(&server, "ALTER TABLE volume ADD CONSTRAINT small CHECK (trades < 25000)").await;
    // Three statements, of which the last one fails.
    let rows = (0..25_001).map(|at| volume(at, None, at)).collect();
    let fault = sink.commit(&commit(1, rows, vec![])).await.expect_err("a halt");
    assert_eq!((fault.remedy, fault.outcome), (Remedy::Halt, Outcome::NotWritten), "{fault}");
    assert!(fault.message.contains("table public.volume") && fault.message.contains("23514"));
    assert!(lines(&server, VOLUMES).await.is_empty());
    assert_eq!(lines(&server, "SELECT epoch FROM waterwheel.progress").await, [""]);
}

/// Prints what commits cost; run it with `--nocapture`.
#[tokio::test]
async fn commits_are_quick() {
    let server = TestServer::start_with(&[]).await;
    let mut sink = sink_at(
        &server.url(),
        "",
        vec![operator(), input("events", InputRole::RawEvents, raw_schema())],
    );
    sink.open(1).await.expect("a claim");
    let mut ordinal = 0;
    let mut step = |volumes: Vec<Row>, deletes: Vec<Row>, events: Vec<Row>| {
        ordinal += 1;
        let volumes = Changes { upserts: volumes, deletes, ..Changes::default() };
        let events = Changes::new(events);
        Commit { progress: progress(ordinal, NO_WATERMARK), changes: vec![volumes, events] }
    };
    let groups = |trades: i64| -> Vec<Row> {
        (0..10_000).map(|at| volume(at / 10, Some(&format!("S{}", at % 10)), trades)).collect()
    };
    let events = |from: i64| (from..from + 10_000).map(|at| raw_event(at, "u1")).collect();
    let large = [
        ("insert", step(groups(1), vec![], vec![])),
        ("update", step(groups(2), vec![], vec![])),
        ("raw events", step(vec![], vec![], events(0))),
        ("delete", step(vec![], groups(2), vec![])),
    ];
    for (what, commit) in large {
        let started = Instant::now();
        sink.commit(&commit).await.expect(what);
        let took = started.elapsed();
        println!("{what}: 10,000 rows in {took:?}, {:.0} rows/s", 1e4 / took.as_secs_f64());
        assert!(took < Duration::from_secs(30), "{what} took {took:?}");
    }
    assert_eq!(lines(&server, "SELECT count(*) FROM volume").await, ["0"]);
    let mut times: Vec<Duration> = Vec::new();
    for round in 0..200 {
        let rows = (0..50).map(|at| volume(at, Some("A"), round)).collect();
        let commit = step(rows, vec![], vec![]);
        let started = Instant::now();
        sink.commit(&commit).await.expect("a commit");
        times.push(started.elapsed());
    }
    times.sort();
    println!("50 rows: median {:?}, p99 {:?}", times[100], times[197]);
}
