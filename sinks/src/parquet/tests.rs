//! The sink on real directories, read back with the Parquet reader.

mod buckets;
mod crash_images;
mod events;
mod retention;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::properties::ReaderProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::serialized_reader::ReadOptionsBuilder;
use parquet::record::Field;
use tempfile::TempDir;
use waterwheel_config::document::Document;
use waterwheel_config::schema::{Column, Finality, Schema, SchemaRef};
use waterwheel_config::timestamp;
use waterwheel_config::value::{ColumnType, Row, Value};
use waterwheel_pipeline::contract::epoch::EpochRecord;
use waterwheel_pipeline::contract::event::raw_schema;
use waterwheel_pipeline::contract::fault::Remedy;
use waterwheel_pipeline::contract::sink::{Changes, InputRole, SinkInput};

use super::*;

/// A sink, its directory and its clock.
struct Bench {
    root: Arc<TempDir>,
    plan: Arc<Plan>,
    now_us: Arc<AtomicU64>,
    sink: ParquetSink,
}

impl Bench {
    fn new(settings: &str, schema: SchemaRef, emit: Emit) -> Self {
        Self::at(tempfile::tempdir().expect("a directory"), settings, schema, emit)
    }

    fn at(root: TempDir, settings: &str, schema: SchemaRef, emit: Emit) -> Self {
        let root = Arc::new(root);
        let path = root.path().join("lake");
        let source = format!("path = \"{}\"\n{settings}", path.display());
        let plan = plan_of(&source, schema, emit).unwrap_or_else(|findings| panic!("{findings}"));
        let now_us = Arc::new(AtomicU64::new(0));
        let sink = sink(&plan, &now_us);
        Self { root, plan, now_us, sink }
    }

    fn raw(settings: &str) -> Self {
        Self::new(settings, raw_schema(), Emit::Final)
    }

    /// The same sink once more: a restart, or a second instance.
    fn again(&self) -> Self {
        let (root, plan) = (Arc::clone(&self.root), Arc::clone(&self.plan));
        let now_us = Arc::clone(&self.now_us);
        let sink = sink(&plan, &now_us);
        Self { root, plan, now_us, sink }
    }

    fn lake(&self) -> &Path {
        match &self.plan.store {
            Store::Directory(path) => path,
            Store::Bucket(bucket) => panic!("{bucket} is no directory"),
        }
    }

    async fn open(&mut self, generation: u64) -> Option<u64> {
        let claim = self.sink.open(generation).await;
        let claim = claim.unwrap_or_else(|error| panic!("{error:?}"));
        assert_eq!(claim.generation, generation);
        claim.progress.map(|progress| progress.record.epoch)
    }

    async fn commit(&mut self, epoch: u64, rows: Vec<Row>) -> Result<Option<u64>, Fault> {
        let changes = vec![Changes::new(rows)];
        let commit = Commit { progress: progress(epoch), changes };
        Ok(self.sink.commit(&commit).await?.map(|progress| progress.record.epoch))
    }

    async fn tick(&mut self, after: Duration) -> Option<u64> {
        let after_us = u64::try_from(after.as_micros()).expect("a duration");
        self.now_us.fetch_add(after_us, Ordering::Relaxed);
        let durable = self.sink.tick().await.expect("no fault");
        durable.map(|progress| progress.record.epoch)
    }

    /// The ids of all visible rows, in order.
    fn ids(&self) -> Vec<String> {
        let mut ids: Vec<String> =
            self.visible().iter().flat_map(|file| column(&self.lake().join(file), "id")).collect();
        ids.sort();
        ids
    }

    /// Every file that a reader of the input sees, whatever its name, below the input's directory.
    fn visible(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut pending = vec![self.lake().join("events")];
        while let Some(directory) = pending.pop() {
            for entry in fs::read_dir(directory).into_iter().flatten() {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    pending.push(path);
                } else {
                    let path = path.strip_prefix(self.lake()).expect("below");
                    found.push(path.to_string_lossy().into_owned());
                }
            }
        }
        found.sort();
        found
    }

    fn staged(&self) -> Vec<String> {
        self.plan.store.names(&self.plan.staging()).expect("read")
    }

    fn owned(&mut self) -> &mut Owned {
        self.sink.owned.as_mut().expect("open")
    }
}

fn plan_of(source: &str, schema: SchemaRef, emit: Emit) -> Result<Arc<Plan>, String> {
    let document = Document::parse("t.toml", source, Box::new(|_| None));
    let input = SinkInput {
        name: "events".to_owned(),
        role: InputRole::RawEvents,
        schema,
        granularities: Vec::new(),
    };
    let context = SinkContext {
        pipeline: "trading".to_owned(),
        sink: "lake".to_owned(),
        inputs: vec![input],
        emit,
    };
    let section = document.root();
    let spec = make_plan(&section, &context);
    section.finish();
    spec.filter(|_| document.findings.is_empty())
        .map(Arc::new)
        .ok_or_else(|| document.render_findings(false))
}

fn sink(plan: &Arc<Plan>, now_us: &Arc<AtomicU64>) -> ParquetSink {
    let now_us = Arc::clone(now_us);
    let clock = move || Duration::from_micros(now_us.load(Ordering::Relaxed));
    ParquetSink::new(Arc::clone(plan), Arc::new(clock))
}

fn progress(epoch: u64) -> Progress {
    let (positions, watermarks) = (BTreeMap::new(), BTreeMap::new());
    let record = EpochRecord { epoch, generation: 1, positions, watermarks };
    Progress { record, origin: BTreeMap::new(), fingerprint: "f".to_owned(), finished: false }
}

fn micros(text: &str) -> i64 {
    timestamp::parse(text).expect("a timestamp")
}

fn raw(id: &str, kind: &str, time: &str) -> Row {
    let time = micros(time);
    Row::from(vec![
        Value::text(id),
        Value::text(kind),
        Value::Timestamp(time),
        Value::text("u1"),
        Value::Null,
        Value::text("c1"),
        Value::Null,
        Value::text("desk"),
        Value::text("events.x"),
        Value::text("EVENTS"),
        Value::Bigint(1),
        Value::Timestamp(time + 5),
        Value::Boolean(false),
        Value::Json("{\"a\":1}".into()),
    ])
}

/// Rows `from..to` of one day.
fn rows(from: usize, to: usize) -> Vec<Row> {
    (from..to).map(|n| raw(&format!("{n:03}"), "order.filled", "2026-11-21T10:00:00Z")).collect()
}

fn ids(from: usize, to: usize) -> Vec<String> {
    (from..to).map(|n| format!("{n:03}")).collect()
}

/// One column of a file, as the reader of the Parquet crate prints its values.
fn column(path: &Path, name: &str) -> Vec<String> {
    let reader = SerializedFileReader::new(File::open(path).expect("a file")).expect("Parquet");
    let row = |row: Result<parquet::record::Row, _>| {
        let row = row.expect("a row");
        let found = row.get_column_iter().find(|(column, _)| *column == name);
        match found.map(|(_, field)| field.clone()).expect("the column") {
            Field::Str(text) => text,
            Field::TimestampMicros(micros) => micros.to_string(),
            other => other.to_string(),
        }
    };
    reader.get_row_iter(None).expect("rows").map(row).collect()
}

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn rows_roll_files() {
    let mut bench = Bench::raw("roll = { rows = 10, every = \"5m\" }");
    assert_eq!(bench.open(1).await, None);
    assert_eq!(bench.commit(1, rows(0, 6)).await.expect("kept"), None);
    assert_eq!(bench.visible(), Vec::<String>::new());
    assert_eq!(bench.commit(2, rows(6, 25)).await.expect("written"), Some(2));
    assert_eq!(bench.ids(), ids(0, 25));
    let names = [1, 2, 3].map(|n| {
        format!("events/date=2026-11-21/part-trading.lake-0000000001-0000000002-{n:04}.parquet")
    });
    assert_eq!(bench.visible(), names);
    let lengths: Vec<_> =
        names.iter().map(|name| column(&bench.lake().join(name), "id").len()).collect();
    assert_eq!(lengths, [10, 10, 5]);
    assert_eq!(bench.staged(), Vec::<String>::new());
}

#[tokio::test]
async fn time_rolls_files_though_nothing_comes() {
    let mut bench = Bench::raw("");
    bench.open(1).await;
    assert_eq!(bench.commit(1, rows(0, 3)).await.expect("kept"), None);
    assert_eq!(bench.tick(4 * MINUTE).await, None);
    assert_eq!(bench.commit(2, rows(3, 4)).await.expect("kept"), None);
    assert_eq!(bench.tick(MINUTE).await, Some(2), "five minutes after the first row");
    assert_eq!(bench.ids(), ids(0, 4));
    let entries = bench.owned().log.entries().expect("read").len();
    assert_eq!(bench.tick(60 * MINUTE).await, Some(2));
    assert_eq!(bench.owned().log.entries().expect("read").len(), entries, "nothing to say");
    assert_eq!(bench.commit(3, Vec::new()).await.expect("kept"), Some(2));
    assert_eq!(bench.tick(5 * MINUTE).await, Some(3), "progress without rows");
    assert_eq!(bench.visible().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_commits_what_waits() {
    let mut bench = Bench::raw("");
    bench.open(1).await;
    bench.commit(1, rows(0, 3)).await.expect("kept");
    assert_eq!(bench.sink.close().await.expect("closed"), Some(progress(1)));
    assert_eq!(bench.ids(), ids(0, 3));
    assert_eq!(bench.again().open(2).await, Some(1));
}

#[tokio::test]
async fn a_restart_gives_each_row_once() {
    let mut bench = Bench::raw("roll = { rows = 5 }");
    bench.open(1).await;
    assert_eq!(bench.commit(1, rows(0, 5)).await.expect("written"), Some(1));
    assert_eq!(bench.commit(2, rows(5, 8)).await.expect("kept"), Some(1));
    let mut next = bench.again();
    // Killed: nothing of the old instance runs any more, not even its destructors.
    std::mem::forget(bench.sink);
    assert_eq!(next.open(2).await, Some(1));
    assert_eq!(next.staged(), Vec::<String>::new());
    assert_eq!(next.ids(), ids(0, 5));
    assert_eq!(next.commit(2, rows(5, 8)).await.expect("kept"), Some(1));
    next.sink.close().await.expect("closed");
    assert_eq!(next.ids(), ids(0, 8));
}

#[tokio::test]
async fn a_crash_at_any_step_loses_nothing_and_doubles_nothing() {
    let two_days = || {
        let (a, b) = ("2026-11-21T00:00:00Z", "2026-11-22T00:00:00Z");
        vec![raw("000", "x", a), raw("001", "x", b), raw("002", "x", a)]
    };
    // What had happened when it crashed, and whether that was a commit.
    for (step, committed) in [("rows", false), ("files", false), ("entry", true), ("one", true)] {
        let mut bench = Bench::raw("");
        bench.open(1).await;
        bench.commit(1, two_days()).await.expect("kept");
        let plan = Arc::clone(&bench.plan);
        let owned = bench.owned();
        if step != "rows" {
            let files = owned.prepare(&plan).expect("written");
            assert_eq!(files.iter().map(|file| file.rows).collect::<Vec<_>>(), [2, 1]);
            if step != "files" {
                owned.log.append(progress(1), files.clone()).expect("committed");
            }
            if step == "one" {
                plan.publish(files.iter().take(1).map(|file| file.path.as_str())).expect("renamed");
            }
        }
        let mut next = bench.again();
        std::mem::forget(bench.sink);
        assert_eq!(next.open(2).await, committed.then_some(1), "{step}");
        if !committed {
            assert_eq!(next.ids(), Vec::<String>::new(), "{step}");
            next.commit(1, two_days()).await.expect("kept");
            next.sink.close().await.expect("closed");
        }
        assert_eq!(next.ids(), ids(0, 3), "{step}");
        assert_eq!(next.staged(), Vec::<String>::new(), "{step}");
    }
}

#[tokio::test]
async fn files_of_a_newer_instance_are_left_alone() {
    let mut bench = Bench::raw("");
    bench.open(3).await;
    let foreign = "part-trading.lake-0000000009-0000000007-0001.parquet.tmp";
    let older = "part-trading.lake-0000000002-0000000007-0001.parquet.tmp";
    for name in [foreign, older, "notes.txt"] {
        fs::write(bench.lake().join(bench.plan.staging()).join(name), "x").expect("written");
    }
    bench.again().open(4).await;
    let mut left = bench.staged();
    left.sort();
    assert_eq!(left, ["notes.txt", foreign]);
}

#[tokio::test]
async fn an_older_instance_is_fenced_off() {
    let mut old = Bench::raw("roll = { rows = 4 }");
    old.open(1).await;
    old.commit(1, rows(0, 4)).await.expect("written");
    old.commit(2, rows(4, 6)).await.expect("kept");
    let mut new = old.again();
    assert!(matches!(new.sink.open(1).await, Err(ClaimError::Stale(1))));
    assert_eq!(new.open(2).await, Some(1));
    let fault = old.commit(3, rows(6, 9)).await.expect_err("fenced");
    assert_eq!(fault.remedy, Remedy::Halt, "{fault}");
    assert!(fault.message.contains("newer instance (generation 2)"), "{fault}");
    assert_eq!(old.sink.recover().await.expect_err("fenced").remedy, Remedy::Halt);
    assert_eq!(new.commit(2, rows(4, 8)).await.expect("written"), Some(2));
    assert_eq!(new.ids(), ids(0, 8));
}

#[tokio::test]
async fn an_older_instance_that_committed_just_before_is_finished_by_the_newer() {
    let mut old = Bench::raw("");
    old.open(1).await;
    old.commit(1, rows(0, 4)).await.expect("kept");
    let plan = Arc::clone(&old.plan);
    let files = old.owned().prepare(&plan).expect("written");
    old.owned().log.append(progress(1), files.clone()).expect("committed");
    let mut new = old.again();
    assert_eq!(new.open(2).await, Some(1));
    // It wakes up and goes on where it was.
    plan.publish(files.iter().map(|file| file.path.as_str())).expect("already there");
    assert_eq!(new.ids(), ids(0, 4));
}

#[tokio::test]
async fn a_fault_loses_only_what_waits() {
    let mut bench = Bench::raw("roll = { rows = 4 }");
    bench.open(1).await;
    bench.commit(1, rows(0, 4)).await.expect("written");
    bench.commit(2, rows(4, 6)).await.expect("kept");
    let (staging, away) = (bench.lake().join(bench.plan.staging()), bench.lake().join("away"));
    fs::rename(&staging, &away).expect("moved");
    let fault = bench.commit(3, rows(6, 8)).await.expect_err("a fault");
    assert_eq!(fault.remedy, Remedy::Retry, "{fault}");
    assert_eq!(bench.commit(3, Vec::new()).await.expect_err("lost").remedy, Remedy::Retry);
    assert_eq!(bench.sink.recover().await.expect_err("still away").remedy, Remedy::Retry);
    fs::rename(&away, &staging).expect("moved back");
    assert_eq!(bench.sink.recover().await.expect("recovered"), Some(progress(1)));
    assert_eq!(bench.staged(), Vec::<String>::new());
    assert_eq!(bench.commit(2, rows(4, 8)).await.expect("written"), Some(2));
    assert_eq!(bench.ids(), ids(0, 8));
}

#[tokio::test]
async fn a_log_that_was_removed_is_not_taken_for_a_new_sink() {
    let mut bench = Bench::raw("");
    bench.open(1).await;
    bench.commit(1, rows(0, 4)).await.expect("kept");
    bench.sink.close().await.expect("closed");
    fs::remove_dir_all(bench.lake().join(OWN_DIRECTORY)).expect("removed");
    match bench.again().sink.open(2).await {
        Err(ClaimError::Fault(fault)) => {
            assert_eq!(fault.remedy, Remedy::Halt);
            assert!(fault.message.contains("part-trading.lake-"), "{fault}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn values_name_directories() {
    let mut bench = Bench::raw("partition = [\"date\", \"event_type\"]");
    bench.open(1).await;
    let mut without_time = raw("003", "", "2026-11-21T00:00:00Z").values().to_vec();
    without_time[2] = Value::Null;
    let kept = vec![
        raw("000", "order.filled", "2026-11-21T23:59:59.999999Z"),
        raw("001", "../../etc", "2026-11-22T00:00:00Z"),
        raw("002", "order.filled", "2026-11-21T00:00:00Z"),
        Row::from(without_time),
    ];
    bench.commit(1, kept).await.expect("kept");
    bench.sink.close().await.expect("closed");
    let visible = bench.visible();
    let mut directories: Vec<&str> =
        visible.iter().filter_map(|path| path.rsplit_once('/')).map(|(at, _)| at).collect();
    directories.sort_unstable();
    let null = "__HIVE_DEFAULT_PARTITION__";
    assert_eq!(
        directories,
        [
            "events/date=2026-11-21/event_type=order%2Efilled".to_owned(),
            "events/date=2026-11-22/event_type=%2E%2E%2F%2E%2E%2Fetc".to_owned(),
            format!("events/date={null}/event_type={null}"),
        ]
    );
    assert_eq!(bench.ids(), ids(0, 4));
    let etc = visible.iter().find(|path| path.contains("etc")).expect("a file");
    assert_eq!(column(&bench.lake().join(etc), "event_type"), ["../../etc"]);
}

#[tokio::test]
async fn more_partitions_than_open_files() {
    let mut bench = Bench::raw("partition = [\"event_type\"]");
    bench.open(1).await;
    for round in 0..2 {
        let row = |n: usize| {
            raw(&format!("{:03}", round * 100 + n), &format!("t{n}"), "2026-11-21T00:00:00Z")
        };
        bench.commit(round as u64 + 1, (0..100).map(row).collect()).await.expect("kept");
        let open: usize = bench.owned().files.open_files();
        assert_eq!(open, 64);
    }
    bench.sink.close().await.expect("closed");
    assert_eq!(bench.ids(), ids(0, 200));
}

fn typed_schema() -> SchemaRef {
    let columns = vec![
        Column::new("name", ColumnType::Text),
        Column::new("trades", ColumnType::Bigint),
        Column::new("notional", ColumnType::Double),
        Column::new("open", ColumnType::Boolean),
        Column::time("window_start", 0),
        Column::new("venue_breakdown", ColumnType::Json),
    ];
    Arc::new(Schema {
        columns,
        key: vec![0],
        finality: Finality::Immediate,
        append_only: false,
        time: Some(4),
    })
}

#[tokio::test]
async fn every_type_with_and_without_a_value() {
    let mut bench = Bench::new("", typed_schema(), Emit::Changes);
    bench.open(1).await;
    let time = micros("2026-11-21T10:00:00.000001Z");
    let full = Row::from(vec![
        Value::text("é"),
        Value::Bigint(i64::MIN),
        Value::double(0.1),
        Value::Boolean(true),
        Value::Timestamp(time),
        Value::Json("{\"x\":1}".into()),
    ]);
    let nulls = Row::from(vec![Value::Null; 6]);
    // No column holds the type that it is given here.
    let wrong = Row::from(vec![Value::Bigint(1); 6]);
    let changes =
        vec![Changes { deletes: vec![full.clone()], ..Changes::new(vec![full, nulls, wrong]) }];
    bench.sink.commit(&Commit { progress: progress(7), changes }).await.expect("kept");
    bench.sink.close().await.expect("closed");
    let visible = bench.visible();
    assert_eq!(visible.len(), 2);
    let [dated, undated] = [0, 1].map(|n| bench.lake().join(&visible[n]));
    for (name, value) in [
        ("name", "é"),
        ("trades", "-9223372036854775808"),
        ("notional", "0.1"),
        ("open", "true"),
        ("window_start", time.to_string().as_str()),
        ("venue_breakdown", "{\"x\":1}"),
        ("epoch", "7"),
    ] {
        assert_eq!(column(&dated, name), [value, value], "{name}");
        if name != "epoch" {
            let second = if name == "trades" { "1" } else { "null" };
            assert_eq!(column(&undated, name), ["null", second], "{name}");
        }
    }
    assert_eq!(column(&dated, "op"), ["delete", "upsert"]);
    assert_eq!(column(&undated, "op"), ["upsert", "upsert"]);
    let schema = ParquetRecordBatchReaderBuilder::try_new(File::open(&dated).expect("a file"));
    let schema = schema.expect("Parquet").schema().clone();
    let shown: Vec<String> =
        schema.fields().iter().map(|f| format!("{}: {}", f.name(), f.data_type())).collect();
    assert_eq!(
        shown,
        [
            "name: Utf8",
            "trades: Int64",
            "notional: Float64",
            "open: Boolean",
            "window_start: Timestamp(µs, \"UTC\")",
            "venue_breakdown: Utf8",
            "op: Utf8",
            "epoch: Int64",
        ]
    );
}

#[tokio::test]
async fn a_final_row_cannot_be_deleted() {
    let mut bench = Bench::new("", typed_schema(), Emit::Final);
    bench.open(1).await;
    let row = Row::from(vec![Value::Null; 6]);
    let changes = vec![Changes { deletes: vec![row], ..Changes::default() }];
    let fault = bench.sink.commit(&Commit { progress: progress(1), changes }).await;
    assert_eq!(fault.expect_err("a fault").remedy, Remedy::Halt);
}

#[tokio::test]
async fn ids_have_bloom_filters_and_pages_are_zstd() {
    let mut bench = Bench::raw("partition = []");
    bench.open(1).await;
    bench.commit(1, rows(0, 4)).await.expect("kept");
    bench.sink.close().await.expect("closed");
    let file = File::open(bench.lake().join(&bench.visible()[0])).expect("a file");
    let properties = ReaderProperties::builder().set_read_bloom_filter(true).build();
    let options = ReadOptionsBuilder::new().with_reader_properties(properties).build();
    let reader = SerializedFileReader::new_with_options(file, options).expect("Parquet");
    let group = reader.get_row_group(0).expect("a row group");
    let names = raw_schema().names().map(str::to_owned).collect::<Vec<_>>();
    for (index, name) in names.iter().enumerate() {
        let filter = group.get_column_bloom_filter(index);
        let wanted = ["id", "correlation_id", "user_id"].contains(&name.as_str());
        assert_eq!(filter.is_some(), wanted, "{name}");
        let compression = format!("{:?}", group.metadata().column(index).compression());
        assert!(compression.starts_with("ZSTD"), "{name}: {compression}");
    }
    let filter = group.get_column_bloom_filter(0).expect("a filter");
    assert!(filter.check("003") && !filter.check("nobody"));
}

#[tokio::test]
async fn probing_leaves_nothing_behind() {
    let mut bench = Bench::raw("");
    assert_eq!(bench.sink.probe().await, Vec::<String>::new());
    assert!(!bench.lake().exists());
    assert_eq!(fs::read_dir(bench.root.path()).expect("read").count(), 0);
    fs::write(bench.lake(), "a file").expect("written");
    let problems = bench.sink.probe().await;
    assert!(problems.len() == 1 && problems[0].contains("is not a directory"), "{problems:?}");
}

#[test]
fn settings_that_are_wrong_are_found() {
    for (source, finding) in [
        ("", "needs the key `path`"),
        ("path = \"s3://\"", "`s3://` names no bucket"),
        ("path = \"s3://bucket/a//b\"", "`a//b` cannot name objects"),
        (
            "path = \"s3://id:key@bucket/a\"",
            "credentials and the endpoint come from the environment",
        ),
        ("path = \"ftp://h/x\"", "`ftp://` is not a place for files"),
        ("path = \"l\"\ninsecure = true", "`insecure` is about servers"),
        ("path = \"\"", "`path` is empty"),
        ("path = \"l\"\npartition = []\nretain = \"1d\"", "told apart by `date`"),
        ("path = \"l\"\nretain = { \"1m\" = \"1d\" }", "nothing grows old here"),
        ("path = \"l\"\ncompression = \"gzip\"", "has no key `compression`"),
        ("path = \"l\"\npartition = [\"event_typ\"]", "did you mean `event_type`?"),
        ("path = \"l\"\npartition = [\"payload\"]", "`payload` is JSON"),
        ("path = \"l\"\npartition = [\"source\", \"source\"]", "`source` is named twice"),
        ("path = \"l\"\nroll = { rows = 0 }", "`rows` must be from 1"),
        ("path = \"l\"\nroll = { every = \"0s\" }", "longer than zero"),
        ("path = \"l\"\nroll = { ever = \"1s\" }", "did you mean `every`?"),
        ("path = \"l\"\nroll = 3", "must be a table"),
    ] {
        let findings = plan_of(source, raw_schema(), Emit::Final).map(|_| ()).expect_err(source);
        assert!(findings.contains(finding), "{finding} in\n{findings}");
    }
}

#[test]
fn columns_that_clash_are_found() {
    let schema = |name: &str, time| {
        let columns = vec![Column::new(name, ColumnType::Text), Column::time("at", 0)];
        let (key, finality) = (vec![0], Finality::Immediate);
        Arc::new(Schema { columns, key, finality, append_only: false, time })
    };
    let source = "path = \"l\"\npartition = [\"date\"]";
    for (name, time, finding) in [
        ("op", Some(1), "the column `op` of `events` clashes"),
        ("date", Some(1), "has a column `date` besides its time"),
        ("x", None, "has no time to take the `date` from"),
    ] {
        let findings = plan_of(source, schema(name, time), Emit::Changes).map(|_| ());
        let findings = findings.expect_err(name);
        assert!(findings.contains(finding), "{finding} in\n{findings}");
    }
    assert!(plan_of(source, schema("op", Some(1)), Emit::Final).is_ok());
    assert!(plan_of("path = \"l\"", schema("date", Some(1)), Emit::Final).is_ok());
}

#[test]
fn the_plan_describes_itself() {
    let plan = plan_of("path = \"/data/lake/\"", raw_schema(), Emit::Final).expect("a plan");
    let spec = Spec(plan);
    assert_eq!(
        spec.describe(),
        "Parquet files in `/data/lake/` by date, a new one every 5m or 1000000 rows"
    );
    assert_eq!(spec.resources(), ["directory /data/lake/events"]);
}

/// What stands where a sink begins again.
fn begin() -> Progress {
    Progress { fingerprint: "other".to_owned(), ..progress(0) }
}

async fn filled() -> Bench {
    let mut bench = Bench::raw("partition = [\"date\", \"event_type\"]");
    bench.open(1).await;
    for (epoch, id, day) in [(1, "a", "2026-05-04"), (2, "b", "2026-05-05")] {
        let row = raw(id, "e", &format!("{day}T12:00:00Z"));
        bench.commit(epoch, vec![row]).await.expect("no fault");
        bench.tick(Duration::from_secs(600)).await;
    }
    assert_eq!(bench.ids(), ["a", "b"]);
    bench
}

#[tokio::test]
async fn a_reset_leaves_nothing_but_the_progress() {
    let mut bench = filled().await;
    // Files of another sink in the same directories stay.
    let other =
        bench.lake().join("events").join("part-trading.other-0000000001-0000000002-0001.parquet");
    fs::write(&other, "x").expect("written");
    bench.sink.reset(&begin()).await.expect("reset");
    assert_eq!(bench.visible(), ["events/part-trading.other-0000000001-0000000002-0001.parquet"]);
    assert!(!bench.lake().join("events/date=2026-05-04").exists(), "empty directories go");
    fs::remove_file(&other).expect("removed");
    let mut again = bench.again();
    assert_eq!(again.open(2).await, Some(0));
    again.commit(3, vec![raw("c", "e", "2026-05-04T12:00:00Z")]).await.expect("no fault");
    again.sink.close().await.expect("closed");
    assert_eq!(again.ids(), ["c"]);
}

/// A crash at every moment between the entry of the log and the last removed file.
#[tokio::test]
async fn a_reset_that_was_interrupted_is_finished() {
    for removed in 0..=2 {
        let mut bench = filled().await;
        bench.owned().log.reset(begin()).expect("written");
        for file in bench.visible().iter().take(removed) {
            fs::remove_file(bench.lake().join(file)).expect("removed");
        }
        let mut again = bench.again();
        let claim = again.sink.open(2).await.expect("claimed");
        assert_eq!(claim.progress, Some(begin()));
        assert!(again.visible().is_empty(), "{removed}: {:?}", again.visible());
        again.commit(3, vec![raw("c", "e", "2026-05-04T12:00:00Z")]).await.expect("no fault");
        again.sink.close().await.expect("closed");
        // What was committed since stays, however often it is opened.
        let mut last = again.again();
        last.open(3).await;
        assert_eq!(last.ids(), ["c"]);
    }
}

#[tokio::test]
async fn a_fenced_instance_cannot_reset() {
    let mut bench = filled().await;
    let mut newer = bench.again();
    newer.open(2).await;
    let fault = bench.sink.reset(&begin()).await.expect_err("fenced");
    assert_eq!(fault.remedy, Remedy::Halt);
    assert_eq!(newer.ids(), ["a", "b"]);
}

/// A file that was committed and not yet visible when the sink was emptied never becomes visible.
#[tokio::test]
async fn what_was_staged_before_a_reset_never_appears() {
    let mut bench = filled().await;
    let visible = bench.visible();
    let name = visible[0].rsplit('/').next().expect("a name");
    let staged = bench.lake().join(bench.plan.staging()).join(format!("{name}.tmp"));
    fs::rename(bench.lake().join(&visible[0]), staged).expect("moved back");
    bench.owned().log.reset(begin()).expect("written");
    let mut again = bench.again();
    again.open(2).await;
    assert!(again.visible().is_empty() && again.staged().is_empty());
}
