//! Sinks that are emptied to be filled anew.

use super::*;

/// What stands where the sink begins again.
fn begin(fingerprint: &str) -> Progress {
    Progress { fingerprint: fingerprint.to_owned(), ..progress(0, NO_WATERMARK) }
}

/// A table of other columns for the same input.
fn wider() -> SinkInput {
    let mut schema = (*volume_schema()).clone();
    schema.columns.push(Column::new("notional", ColumnType::Double));
    input("volume", InputRole::Operator, Arc::new(schema))
}

async fn filled(server: &TestServer) {
    let mut sink = sink_at(&server.url(), "", vec![operator()]);
    sink.open(1).await.expect("a claim");
    sink.commit(&commit(1, vec![volume(1, Some("A"), 1)], vec![])).await.expect("a commit");
    sink.close().await.expect("closed");
}

#[tokio::test]
async fn a_reset_keeps_what_people_put_on_a_table_that_fits() {
    let server = TestServer::start().await;
    filled(&server).await;
    run(&server, "CREATE VIEW top AS SELECT * FROM volume").await;
    let mut sink = sink_at(&server.url(), "", vec![operator()]);
    sink.expect("g");
    let claim = sink.open(2).await.expect("a claim");
    assert_eq!(claim.progress.map(|progress| progress.fingerprint).as_deref(), Some("f"));
    assert_eq!(lines(&server, VOLUMES).await, ["1|A|1"], "opening empties nothing");
    sink.reset(&begin("g")).await.expect("reset");
    assert!(lines(&server, VOLUMES).await.is_empty());
    sink.commit(&commit(2, vec![volume(2, Some("B"), 2)], vec![])).await.expect("a commit");
    assert_eq!(lines(&server, "SELECT trades FROM top").await, ["2"]);
}

#[tokio::test]
async fn a_reset_makes_a_table_of_other_columns_anew() {
    let server = TestServer::start().await;
    filled(&server).await;
    let mut sink = sink_at(&server.url(), "", vec![wider()]);
    sink.expect("g");
    sink.open(2).await.expect("the table is looked at later");
    sink.reset(&begin("g")).await.expect("reset");
    assert!(lines(&server, "SELECT notional FROM volume_final").await.is_empty());
    let recorded =
        lines(&server, "SELECT generation, epoch, record->>'fingerprint' FROM waterwheel.progress")
            .await;
    assert_eq!(recorded, ["2|0|g"]);
    // A crash here: the next run simply goes on.
    let mut again = sink_at(&server.url(), "", vec![wider()]);
    again.expect("g");
    let claim = again.open(3).await.expect("a claim");
    assert_eq!(claim.progress, Some(begin("g")));
}

/// All of it or nothing: a view of somebody's holds one table, so the other keeps its rows too.
#[tokio::test]
async fn a_reset_that_fails_changes_nothing() {
    let server = TestServer::start().await;
    filled(&server).await;
    run(&server, "CREATE VIEW top AS SELECT * FROM volume").await;
    let mut sink = sink_at(&server.url(), "", vec![wider()]);
    sink.expect("g");
    sink.open(2).await.expect("a claim");
    let fault = sink.reset(&begin("g")).await.expect_err("it is depended on");
    assert_eq!(fault.remedy, Remedy::Halt);
    assert!(fault.help.as_deref().unwrap_or_default().contains("depends on it"), "{fault}");
    drop(sink);
    assert_eq!(lines(&server, VOLUMES).await, ["1|A|1"]);
    let recorded = lines(&server, "SELECT epoch, record->>'fingerprint' FROM waterwheel.progress");
    assert_eq!(recorded.await, ["1|f"]);
}

#[tokio::test]
async fn a_fenced_instance_cannot_reset() {
    let server = TestServer::start().await;
    filled(&server).await;
    let mut old = sink_at(&server.url(), "", vec![operator()]);
    old.expect("g");
    old.open(2).await.expect("a claim");
    let mut new = sink_at(&server.url(), "", vec![operator()]);
    new.open(3).await.expect("a claim");
    let fault = old.reset(&begin("g")).await.expect_err("fenced");
    assert_eq!(fault.remedy, Remedy::Halt);
    assert_eq!(lines(&server, VOLUMES).await, ["1|A|1"]);
}

#[tokio::test]
async fn a_reset_does_not_touch_tables_of_others() {
    let server = TestServer::start().await;
    filled(&server).await;
    run(&server, "CREATE TABLE notes (n int); INSERT INTO notes VALUES (7)").await;
    let mut sink = sink_at(&server.url(), "table.volume = \"notes\"", vec![operator()]);
    sink.expect("g");
    sink.open(2).await.expect("a claim");
    let fault = sink.reset(&begin("g")).await.expect_err("not ours");
    assert!(fault.message.contains("public.notes"), "{fault}");
    drop(sink);
    assert_eq!(lines(&server, "SELECT n FROM notes").await, ["7"]);
    // An input that goes elsewhere leaves its old table as it is.
    let mut sink = sink_at(&server.url(), "table.volume = \"elsewhere\"", vec![operator()]);
    sink.expect("g");
    sink.open(3).await.expect("a claim");
    sink.reset(&begin("g")).await.expect("reset");
    assert_eq!(lines(&server, VOLUMES).await, ["1|A|1"]);
    assert!(lines(&server, "SELECT trades FROM elsewhere").await.is_empty());
}

/// The indexes of raw events come and go with the setting.
#[tokio::test]
async fn a_reset_follows_indexes() {
    let server = TestServer::start().await;
    let raw = || vec![input("events", InputRole::RawEvents, raw_schema())];
    let count = "SELECT count(*) FROM pg_index WHERE indrelid = 'events'::regclass";
    for (generation, keys, indexes) in
        [(1, "indexes = false", "1"), (2, "indexes = true", "5"), (3, "indexes = false", "1")]
    {
        let mut sink = sink_at(&server.url(), keys, raw());
        let meaning = format!("g{generation}");
        sink.expect(&meaning);
        let claim = sink.open(generation).await.expect("a claim");
        if claim.progress.is_some() {
            sink.reset(&begin(&meaning)).await.expect("reset");
        }
        assert_eq!(lines(&server, count).await, [indexes], "{keys}");
        let commit = Commit {
            progress: begin(&meaning),
            changes: vec![Changes::new(vec![raw_event(1, &"u".repeat(2000))])],
        };
        sink.commit(&commit).await.expect("a commit");
    }
}
