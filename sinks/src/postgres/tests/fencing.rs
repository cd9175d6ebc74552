//! Two instances, and connections that break.

use std::cell::Cell;

use super::*;

#[tokio::test]
async fn an_older_instance_cannot_commit() {
    let server = TestServer::start().await;
    let mut old = sink_at(&server.url(), "", vec![operator()]);
    old.open(1).await.expect("a claim");
    old.commit(&commit(1, vec![volume(1, Some("A"), 1)], vec![])).await.expect("a commit");
    let mut new = sink_at(&server.url(), "", vec![operator()]);
    new.open(2).await.expect("a claim");
    for late in [commit(2, vec![volume(2, Some("B"), 2)], vec![]), commit(2, vec![], vec![])] {
        let fault = old.commit(&late).await.expect_err("a halt");
        assert_eq!(fault.remedy, Remedy::Halt);
        assert!(fault.message.contains("newer instance of pipeline trading"), "{fault}");
        // Reconnecting does not help it.
        let fault = old.recover().await.expect_err("a halt");
        assert_eq!(fault.remedy, Remedy::Halt);
        old = {
            let mut again = sink_at(&server.url(), "", vec![operator()]);
            assert!(matches!(again.open(2).await, Err(ClaimError::Stale(2))));
            sink_with_lease_of(&server, 1).await
        };
    }
    assert_eq!(lines(&server, VOLUMES).await, ["1|A|1"]);
    let epoch = "SELECT generation, epoch FROM waterwheel.progress";
    assert_eq!(lines(&server, epoch).await, ["2|1"]);
    new.commit(&commit(2, vec![volume(2, Some("B"), 3)], vec![])).await.expect("a commit");
}

/// A sink that believes in a generation that it does not hold, as one that was paused does.
async fn sink_with_lease_of(server: &TestServer, generation: i64) -> Box<dyn Sink> {
    let schema = volume_schema();
    let table = TableName::parse("volume").expect("a name");
    let table = Table::new(table, &input("volume", InputRole::Operator, schema), true, None);
    let settings = Settings {
        address: Address::parse(&server.url(), None, false).expect("an address"),
        owner: Owner { pipeline: "trading".into(), sink: "warehouse".into() },
        tables: vec![table.expect("a table")],
    };
    let mut sink = PostgresSink::new(Arc::new(settings));
    let connection = sink.connect().await.expect("a connection");
    let statements =
        Statements::prepare(&connection.client, &sink.settings.tables, &[Layout::default()]).await;
    let statements = statements.unwrap_or_else(|fault| panic!("{fault}"));
    let lease = Lease { generation, session: 1 };
    sink.generation = Some(generation);
    sink.session =
        Some(Session { connection, statements, layouts: vec![Layout::default()], lease });
    Box::new(sink)
}

#[tokio::test]
async fn a_lost_connection_is_recovered() {
    let mut server = TestServer::start().await;
    let mut sink = sink_at(&server.url(), "", vec![operator()]);
    sink.open(1).await.expect("a claim");
    let first = commit(1, vec![volume(1, Some("A"), 1)], vec![]);
    sink.commit(&first).await.expect("a commit");
    // The connection that still stands for the session before the recovery.
    let mut ghost = sink_with_lease_of(&server, 1).await;
    run(
        &server,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE application_name = 'waterwheel trading warehouse' AND query LIKE 'COMMIT%'",
    )
    .await;
    let second = commit(2, vec![volume(2, Some("B"), 2)], vec![]);
    let fault = sink.commit(&second).await.expect_err("a fault");
    assert_eq!(fault.remedy, Remedy::Retry, "{fault}");
    // Until it is recovered, nothing else is tried.
    assert_eq!(sink.commit(&second).await.expect_err("a fault").remedy, Remedy::Retry);
    assert_eq!(sink.recover().await.expect("a progress"), Some(first.progress.clone()));
    sink.commit(&second).await.expect("a commit");

    // A commit of the lost connection that arrives only now must not undo that.
    let late = commit(1, vec![volume(2, Some("B"), 1)], vec![]);
    let fault = ghost.commit(&late).await.expect_err("a halt");
    assert_eq!(fault.remedy, Remedy::Halt, "{fault}");
    assert_eq!(lines(&server, VOLUMES).await, ["1|A|1", "2|B|2"]);

    server.stop();
    let third = commit(3, vec![volume(3, Some("C"), 3)], vec![]);
    assert_eq!(sink.commit(&third).await.expect_err("a fault").remedy, Remedy::Retry);
    let fault = sink.recover().await.expect_err("a fault");
    assert_eq!(fault.remedy, Remedy::Retry, "{fault}");
    server.run().await;
    assert_eq!(sink.recover().await.expect("a progress"), Some(second.progress));
    sink.commit(&third).await.expect("a commit");
    assert_eq!(lines(&server, VOLUMES).await, ["1|A|1", "2|B|2", "3|C|3"]);

    run(&server, "DELETE FROM waterwheel.progress").await;
    let fault = sink.commit(&commit(4, vec![], vec![])).await.expect_err("a halt");
    assert!(fault.message.contains("is gone"), "{fault}");
    assert_eq!(sink.recover().await.expect_err("a halt").remedy, Remedy::Halt);
}

#[tokio::test]
async fn a_connection_lost_while_committing_leaves_the_outcome_open() {
    let server = TestServer::start().await;
    let mut sink = sink_at(&server.url(), "", vec![operator()]);
    sink.open(1).await.expect("a claim");
    // A constraint that is checked by COMMIT, and ends its own session there.
    run(
        &server,
        "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS
         'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END';
         CREATE CONSTRAINT TRIGGER t AFTER INSERT ON volume DEFERRABLE INITIALLY DEFERRED
         FOR EACH ROW EXECUTE FUNCTION die()",
    )
    .await;
    let step = commit(1, vec![volume(1, Some("A"), 1)], vec![]);
    let fault = sink.commit(&step).await.expect_err("a fault");
    assert_eq!((fault.remedy, fault.outcome), (Remedy::Retry, Outcome::Unknown), "{fault}");
    run(&server, "DROP TRIGGER t ON volume").await;
    assert_eq!(sink.recover().await.expect("a progress"), None);
    sink.commit(&step).await.expect("a commit");
    assert_eq!(lines(&server, VOLUMES).await, ["1|A|1"]);
}

#[tokio::test]
async fn many_instances_can_start_at_once() {
    let server = TestServer::start().await;
    let open = |generation| {
        let mut sink = sink_at(&server.url(), "table.volume = \"live.volume\"", vec![operator()]);
        async move { sink.open(generation).await }
    };
    let opened = futures::future::join_all((1..=6).map(open)).await;
    let mut won = 0;
    for result in opened {
        match result {
            Ok(_) => won += 1,
            Err(ClaimError::Stale(_)) => {}
            // Overtaken between its claim and its first note.
            Err(ClaimError::Fault(fault)) => assert_eq!(fault.remedy, Remedy::Halt, "{fault}"),
        }
    }
    assert!(won >= 1);
    let indexes = "SELECT count(*) FROM pg_indexes WHERE schemaname = 'live'";
    assert_eq!(lines(&server, indexes).await, ["1"]);
}

#[tokio::test]
async fn a_takeover_while_the_older_instance_commits_finds_all_that_it_wrote() {
    let server = TestServer::start().await;
    let mut older = sink_at(&server.url(), "", vec![operator()]);
    older.open(1).await.expect("a claim");
    let mut ordinal = 0;
    for generation in 2..40 {
        let mut newer = sink_at(&server.url(), "", vec![operator()]);
        let taken_over = Cell::new(false);
        let written = async {
            // The row always tells the progress that it was written with.
            let mut durable = ordinal;
            loop {
                let too_late = taken_over.get();
                let row = volume(1, None, i64::try_from(durable + 1).expect("a small number"));
                match older.commit(&commit(durable + 1, vec![row], vec![])).await {
                    Ok(_) => durable += 1,

                    Err(fault) => break (durable, fault),
                }
                assert!(!too_late, "generation {generation} was overtaken");
            }
        };
        let claim = async {
            let claim = newer.open(generation).await;
            taken_over.set(true);
            claim
        };
        let ((written, fault), claim) = tokio::join!(written, claim);
        assert_eq!(fault.remedy, Remedy::Halt, "{fault}");
        let found = claim.expect("a claim").progress.map_or(0, |progress| progress.record.epoch);
        assert_eq!(found, written, "generation {generation}");
        let shown = lines(&server, "SELECT trades FROM volume").await;
        assert_eq!(shown.first().map_or("0", String::as_str), written.to_string());
        (older, ordinal) = (newer, written);
    }
    assert!(ordinal > 0, "the instances never met");
}
