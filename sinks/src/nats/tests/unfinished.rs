//! Commits that were cut off: the next instance knows where they would have ended.

use super::*;

impl Results {
    /// Sets the progress back to where it stood before a commit, as if the process had died behind so
    /// many of the commit's steps.
    pub(super) async fn cut_off(
        &self,
        before: Option<Progress>,
        commit: &Commit,
        (chunk, chunks): (usize, usize),
    ) {
        let message = json!({
            "generation": 1, "progress": before, "chunk": chunk, "chunks": chunks,
            "unfinished": [commit.progress.record],
        });
        let subject = "waterwheel.progress.trading.results".to_owned();
        self.client.request(subject, message.to_string().into()).await.unwrap();
    }
}

/// Where the commits stood that the last progress message calls unfinished.
async fn unfinished(results: &Results) -> Vec<u64> {
    let mut progress = results.all().await.into_iter().map(|(_, _, body)| body);
    let last = progress.rfind(|body| !body["generation"].is_null()).unwrap();
    let records = last["unfinished"].as_array().cloned().unwrap_or_default();
    let ordinal = |record: &Json| record["positions"]["events"]["ordinal"].as_u64().unwrap();
    records.iter().map(ordinal).collect()
}

#[tokio::test]
async fn a_step_of_a_large_commit_names_its_end() {
    let server = NatsServer::start();
    let results = Results::create(&server, atomic()).await;
    let mut writer = sink(&server);
    writer.open(1).await.unwrap();
    writer.commit(&many(4, 2_500)).await.unwrap();
    let steps = results.all().await.into_iter().filter(|(_, _, body)| body["chunks"] == 3);
    let ends =
        steps.map(|(_, _, body)| body["unfinished"][0]["positions"]["events"]["ordinal"].as_u64());
    assert_eq!(ends.collect::<Vec<_>>(), [Some(4), Some(4), None]);
    // One that is a single step needs none.
    writer.commit(&many(5, 999)).await.unwrap();
    assert!(unfinished(&results).await.is_empty());
}

#[tokio::test]
async fn without_batches_the_end_is_named_ahead_of_the_rows() {
    let server = NatsServer::start();
    let results = Results::create(&server, json!({})).await;
    let mut writer = sink(&server);
    writer.open(1).await.unwrap();
    writer.commit(&commit(7, &[("A", 1)], &[])).await.unwrap();
    writer.commit(&commit(8, &[], &[])).await.unwrap();
    let seen = results.all().await.into_iter().map(|(subject, _, body)| {
        let end = body["unfinished"][0]["positions"]["events"]["ordinal"].as_u64();
        (subject.starts_with("results."), end)
    });
    // The claim, the note, the row, the progress; and one without rows.
    let expected = [(false, None), (false, Some(7)), (true, None), (false, None), (false, None)];
    assert_eq!(seen.collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn it_is_known_until_a_commit_has_come_there() {
    let server = NatsServer::start();
    let results = Results::create(&server, atomic()).await;
    let mut writer = sink(&server);
    writer.open(1).await.unwrap();
    writer.commit(&many(10, 1)).await.unwrap();
    // The first step of three of a commit up to 20, after which the process died.
    let record = many(20, 0).progress.record;
    results.cut_off(Some(many(10, 0).progress), &many(20, 0), (1, 3)).await;

    let mut next = sink(&server);
    let claim = next.open(2).await.unwrap();
    assert_eq!(claim.progress, Some(many(10, 0).progress));
    assert_eq!(claim.unfinished, std::slice::from_ref(&record));
    // Another sink's place lies before it.
    next.commit(&many(15, 2)).await.unwrap();
    assert_eq!(unfinished(&results).await, [20]);
    assert_eq!(sink(&server).open(3).await.unwrap().unfinished, [record]);
    let mut last = sink(&server);
    last.open(4).await.unwrap();
    last.commit(&many(20, 3)).await.unwrap();
    assert!(unfinished(&results).await.is_empty());
    assert!(sink(&server).open(5).await.unwrap().unfinished.is_empty());
}

#[tokio::test]
async fn without_batches_the_second_half_of_a_repetition_wins() {
    let server = NatsServer::start();
    let results = Results::create(&server, json!({})).await;
    let mut writer = sink(&server);
    writer.open(1).await.unwrap();
    writer.commit(&commit(10, &[("A", 1)], &[])).await.unwrap();
    writer.commit(&commit(20, &[("A", 3)], &[])).await.unwrap();
    let before = Some(commit(10, &[], &[]).progress);
    results.cut_off(before, &commit(20, &[], &[]), (0, 1)).await;
    let mut next = sink(&server);
    next.open(2).await.unwrap();
    next.commit(&commit(15, &[("A", 2)], &[])).await.unwrap();
    next.commit(&commit(20, &[("A", 3)], &[])).await.unwrap();
    let rows = results.rows().await;
    let trades: Vec<_> = rows.iter().map(|(_, _, row)| row["trades"].as_i64()).collect();
    assert_eq!(trades, [Some(1), Some(3), Some(2), Some(3)], "{rows:?}");
}
