//! What `retain` removes, and what it leaves.

use super::*;
use waterwheel_pipeline::contract::retain::Cleaned;

const DAY_US: i64 = 24 * HOUR_US;

/// Cleans until nothing is left, and tells what went.
async fn clean(sink: &mut dyn Sink) -> Result<Vec<Cleaned>, Fault> {
    let mut removed = Vec::new();
    for _ in 0..1_000 {
        let step = sink.clean().await?;
        waterwheel_pipeline::contract::retain::add_up(&mut removed, step.removed);
        if step.is_done {
            return Ok(removed);
        }
    }
    panic!("cleaning has no end: {removed:?}");
}

fn at(ordinal: u64, watermark: i64, upserts: Vec<Row>) -> Commit {
    let changes = vec![Changes::new(upserts)];
    Commit { progress: progress(ordinal, watermark), changes }
}

fn hourly(hours: std::ops::Range<i64>) -> Vec<Row> {
    hours.map(|hour| volume(hour, Some("A"), hour)).collect()
}

const HOURS: &str = "SELECT min(extract(epoch FROM window_start)::bigint / 3600), \
     max(extract(epoch FROM window_start)::bigint / 3600), count(*) FROM volume";
const PARTS: &str = "SELECT string_agg(inhrelid::regclass::text, ' ' ORDER BY inhrelid::regclass::text) FROM pg_inherits \
     WHERE inhparent = 'volume'::regclass";

#[tokio::test]
async fn whole_partitions_go_once_all_of_them_is_old() {
    let server = TestServer::start().await;
    let retain = "retain = \"2d\"";
    let mut sink = sink_at(&server.url(), retain, vec![operator()]);
    assert!(sink.retains());
    sink.open(1).await.expect("a claim");
    // Six days, the last of them open.
    sink.commit(&at(1, 5 * DAY_US + HOUR_US, hourly(72..125))).await.expect("a commit");
    let days = "volume_p1970010400 volume_p1970010500 volume_p1970010600 volume_rest";
    assert_eq!(lines(&server, PARTS).await, [days]);
    // What is older than the period goes to the rest; so does what is absurd.
    sink.commit(&at(2, 5 * DAY_US + HOUR_US, hourly(0..30))).await.expect("a commit");
    let far = 9_000 * 24 * 365 / 10;
    sink.commit(&at(3, 5 * DAY_US + HOUR_US, hourly(far..far + 1))).await.expect("a commit");
    assert_eq!(lines(&server, "SELECT count(*) FROM volume_rest").await, ["30"]);

    // A stranger's partition, and a stranger's table by its side.
    run(
        &server,
        "CREATE TABLE theirs PARTITION OF volume FOR VALUES FROM ('1960-01-01') TO ('1961-01-01')",
    )
    .await;
    run(&server, "INSERT INTO theirs VALUES ('1960-05-01', 'old', 1)").await;
    run(&server, "CREATE TABLE volume_p1970010100 (x int)").await;

    // Three days and an hour: the period ends within the first day that has a partition.
    let removed = clean(&mut *sink).await.expect("cleaned");
    assert_eq!(removed.len(), 1, "{removed:?}");
    assert_eq!((removed[0].rows, removed[0].partitions), (Some(30), 0));
    assert_eq!(removed[0].before_us, 3 * DAY_US + HOUR_US);
    let hours = format!("{HOURS} WHERE symbol = 'A'");
    assert_eq!(lines(&server, &hours).await, [format!("72|{far}|54")]);

    // A day further the partition is old as a whole.
    sink.commit(&at(4, 6 * DAY_US, vec![])).await.expect("a commit");
    let removed = clean(&mut *sink).await.expect("cleaned");
    assert_eq!((removed[0].rows, removed[0].partitions), (Some(24), 1));
    assert_eq!(lines(&server, &hours).await, [format!("96|{far}|30")]);
    assert!(!lines(&server, PARTS).await[0].contains("volume_p1970010400"));
    assert_eq!(lines(&server, "SELECT symbol FROM theirs").await, ["old"]);
    assert_eq!(clean(&mut *sink).await.expect("cleaned"), []);

    // Changes of rows that are gone fail nothing; the newest are as they must be.
    let mut late = at(5, 6 * DAY_US, vec![volume(73, Some("A"), 7), volume(100, Some("A"), 7)]);
    late.changes[0].deletes.push(volume(75, Some("A"), 75));
    sink.commit(&late).await.expect("a commit");
    assert_eq!(lines(&server, "SELECT count(*) FROM volume WHERE trades = 7").await, ["2"]);
    assert_eq!(clean(&mut *sink).await.expect("cleaned")[0].rows, Some(1));

    // The next instance finds everything as it was.
    let mut next = sink_at(&server.url(), retain, vec![operator()]);
    next.open(2).await.expect("the table fits");
    next.commit(&at(6, 6 * DAY_US, hourly(125..150))).await.expect("a commit");
    assert_eq!(lines(&server, "SELECT count(*) FROM volume_p1970010700").await, ["6"]);
    // And without `retain` the table fits as well.
    let mut plain = sink_at(&server.url(), "", vec![operator()]);
    plain.open(3).await.expect("the table fits");
    plain.commit(&at(7, 6 * DAY_US, hourly(140..150))).await.expect("a commit");
    assert!(!plain.retains());
}

#[tokio::test]
async fn of_raw_events_the_time_joins_the_key() {
    let server = TestServer::start().await;
    let events = || vec![input("events", InputRole::RawEvents, raw_schema())];
    let mut sink = sink_at(&server.url(), "retain = \"1h\"", events());
    sink.open(1).await.expect("a claim");
    let rows = || vec![raw_event(1, "u"), raw_event(HOUR_US / 1_000, "v")];
    for (ordinal, watermark) in [(1, HOUR_US), (2, 2 * HOUR_US)] {
        // The same again, as after a progress that was set back.
        sink.commit(&at(ordinal, watermark, rows())).await.expect("a commit");
    }
    assert_eq!(lines(&server, "SELECT count(*) FROM events").await, ["2"]);
    let removed = clean(&mut *sink).await.expect("cleaned");
    assert_eq!((removed[0].rows, removed[0].partitions), (Some(1), 1));
    assert_eq!(lines(&server, "SELECT user_id FROM events").await, ["v"]);
    let probed = sink_at(&server.url(), "retain = \"1h\"", events()).probe().await;
    assert_eq!(probed, Vec::<String>::new());
}

#[tokio::test]
async fn windows_have_periods_of_their_own() {
    let server = TestServer::start().await;
    let retain = "retain = { \"1m\" = \"2h\", \"1h\" = \"1d\" }";
    let mut sink = sink_at(&server.url(), retain, vec![windows()]);
    sink.open(1).await.expect("a claim");
    let row = |granularity: &str, start: i64, length: i64, symbol: Option<&str>| {
        let end = Value::Timestamp(start + length);
        let symbol = symbol.map_or(Value::Null, Value::text);
        let start = Value::Timestamp(start);
        Row::from(vec![Value::text(granularity), start, end, symbol, Value::Bigint(1)])
    };
    let minute = HOUR_US / 60;
    let mut rows = Vec::new();
    for at in 0..48 * 60 {
        rows.push(row("1m", at * minute, minute, Some("A")));
        if at % 60 == 0 {
            rows.push(row("1h", at * minute, HOUR_US, None));
        }
    }
    // More than one step deletes, of a granularity that stays for good, and one that is open still.
    rows.extend((0..9_000).map(|at| row("1m", at, minute, Some("B"))));
    rows.push(row("1mo", 0, DAY_US, None));
    rows.push(row("1h", 2 * HOUR_US, 60 * DAY_US, Some("open")));
    sink.commit(&at(1, 48 * HOUR_US, rows)).await.expect("a commit");
    let removed = clean(&mut *sink).await.expect("cleaned");
    let told: Vec<_> = removed.iter().map(|it| (it.granularity.as_deref(), it.rows)).collect();
    assert_eq!(told, [(Some("1h"), Some(24)), (Some("1m"), Some(46 * 60 + 9_000))]);
    let left = "SELECT granularity, coalesce(symbol, ''), count(*), \
         min(extract(epoch FROM window_start)::int / 60) FROM volume GROUP BY 1, 2 ORDER BY 1, 2";
    assert_eq!(
        lines(&server, left).await,
        ["1h||24|1440", "1h|open|1|120", "1m|A|120|2760", "1mo||1|0"]
    );
    // It can no longer change: now it goes.
    sink.commit(&at(2, 90 * DAY_US, vec![])).await.expect("a commit");
    clean(&mut *sink).await.expect("cleaned");
    assert_eq!(lines(&server, left).await, ["1mo||1|0"]);
}

#[tokio::test]
async fn a_table_that_was_there_is_cleaned_row_by_row() {
    let server = TestServer::start().await;
    let mut sink = sink_at(&server.url(), "", vec![operator()]);
    sink.open(1).await.expect("a claim");
    sink.commit(&at(1, 100 * HOUR_US, hourly(0..100))).await.expect("a commit");
    let mut sink = sink_at(&server.url(), "retain = \"1d\"", vec![operator()]);
    sink.open(2).await.expect("the table fits");
    assert_eq!(clean(&mut *sink).await.expect("cleaned")[0].rows, Some(76));
    assert_eq!(lines(&server, HOURS).await, ["76|99|24"]);
    // The stream has ended: the newest row stands for the watermark.
    sink.commit(&at(2, FINAL_WATERMARK, hourly(100..150))).await.expect("a commit");
    assert_eq!(clean(&mut *sink).await.expect("cleaned")[0].rows, Some(49));
    assert_eq!(lines(&server, HOURS).await, ["125|149|25"]);
    // Nothing was ever read: nothing is old.
    run(&server, "UPDATE waterwheel.progress SET record = jsonb_set(record, '{record,watermarks,events}', '-9223372036854775808')").await;
    let mut beside = sink_at(&server.url(), "retain = \"1h\"", vec![operator()]);
    assert_eq!(clean(&mut *beside).await.expect("cleaned"), []);
}

#[tokio::test]
async fn only_the_newest_instance_cleans_and_whoever_is_none() {
    let server = TestServer::start().await;
    let retain = "retain = { \"1m\" = \"1d\", \"1h\" = \"1d\" }";
    let planned = || sink_at(&server.url(), retain, vec![windows()]);
    // Before anything ran there is nothing to do.
    assert_eq!(clean(&mut *planned()).await.expect("cleaned"), []);
    let (mut old, mut new) = (planned(), planned());
    old.open(1).await.expect("a claim");
    let row = |at: i64| {
        let (start, end) = (Value::Timestamp(at * HOUR_US), Value::Timestamp((at + 1) * HOUR_US));
        Row::from(vec![Value::text("1h"), start, end, Value::Null, Value::Bigint(1)])
    };
    let rows = || (0..100).map(row).collect::<Vec<_>>();
    old.commit(&at(1, 100 * HOUR_US, rows())).await.expect("a commit");
    new.open(2).await.expect("a claim");
    let fault = clean(&mut *old).await.expect_err("fenced");
    assert_eq!(fault.remedy, Remedy::Halt, "{fault}");
    assert_eq!(lines(&server, HOURS).await, ["0|99|100"]);

    // One that is no instance cleans, and the one that runs goes on.
    let mut beside = planned();
    assert_eq!(clean(&mut *beside).await.expect("cleaned")[0].rows, Some(76));
    assert_eq!(lines(&server, HOURS).await, ["76|99|24"]);
    new.commit(&at(2, 110 * HOUR_US, vec![row(105)])).await.expect("a commit");
    assert_eq!(clean(&mut *new).await.expect("cleaned")[0].rows, Some(10));
    assert!(matches!(planned().open(2).await, Err(ClaimError::Stale(2))));

    // A deployment that means other rows cleans none.
    let mut other = planned();
    other.expect("another");
    let fault = clean(&mut *other).await.expect_err("a halt");
    assert!(fault.message.contains("another deployment"), "{fault}");
}

#[tokio::test]
async fn a_reader_is_waited_for_without_holding_commits() {
    let server = TestServer::start().await;
    let mut sink = sink_at(&server.url(), "retain = \"2d\"", vec![operator()]);
    sink.open(1).await.expect("a claim");
    sink.commit(&at(1, 5 * DAY_US, hourly(72..120))).await.expect("a commit");
    sink.commit(&at(2, 9 * DAY_US, vec![])).await.expect("a commit");
    let (reader, driver) = client(&server).await;
    reader.batch_execute("BEGIN; SELECT FROM volume").await.expect("a read");
    let began = Instant::now();
    let step = sink.clean().await.expect("a step");
    assert!(step.removed.is_empty() && !step.is_done, "{step:?}");
    sink.commit(&at(3, 9 * DAY_US, vec![volume(216, None, 1)])).await.expect("a commit");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    // What came meanwhile is in the rest: its partition could not be made.
    assert_eq!(lines(&server, "SELECT trades FROM volume_rest").await, ["1"]);
    reader.batch_execute("COMMIT").await.expect("an end");
    driver.abort();
    let removed = clean(&mut *sink).await.expect("cleaned");
    assert_eq!((removed[0].rows, removed[0].partitions), (Some(48), 2));
}
