//! Streams that lose the progress, and a login that is good no more.

use std::time::{Duration, Instant};

use super::*;

#[tokio::test]
async fn a_stream_that_could_lose_the_progress_is_refused() {
    let server = NatsServer::start();
    let hour = 3_600_000_000_000_u64;
    for (config, word) in [
        (json!({ "max_age": hour }), "max_age"),
        (json!({ "max_age": hour, "discard": "new" }), "max_age"),
        (json!({ "max_msgs": 1_000_000 }), "max_msgs"),
        (json!({ "max_bytes": 1_000_000_000 }), "max_bytes"),
        (json!({ "retention": "interest" }), "interest retention"),
        (json!({ "retention": "workqueue" }), "workqueue retention"),
        (
            json!({ "discard": "new", "discard_new_per_subject": true, "max_msgs_per_subject": 5 }),
            "discard_new_per_subject",
        ),
    ] {
        let mut all = atomic();
        all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
        let results = Results::create(&server, all).await;
        let problems = sink(&server).probe().await;
        assert!(problems.len() == 1 && problems[0].contains(word), "{word}: {problems:?}");
        let Err(ClaimError::Fault(fault)) = sink(&server).open(1).await else { panic!("{word}") };
        assert_eq!(fault.remedy, Remedy::Stop, "{fault}");
        assert!(fault.message.contains(word) && fault.help.is_some(), "{fault}");
        assert!(results.all().await.is_empty(), "{word}: nothing was written");
        results.api("STREAM.DELETE.R", json!({})).await;
    }
    for config in [
        json!({ "allow_atomic": true, "max_msgs": 100, "max_bytes": 1_000_000, "discard": "new" }),
        json!({ "allow_atomic": true, "max_msgs_per_subject": 1 }),
        json!({ "allow_atomic": true, "max_age": hour, "allow_msg_ttl": true }),
    ] {
        let results = Results::create(&server, config.clone()).await;
        assert_eq!(sink(&server).probe().await, [""; 0], "{config}");
        sink(&server).open(1).await.unwrap();
        results.api("STREAM.DELETE.R", json!({})).await;
    }
}

#[tokio::test]
async fn the_progress_outlives_the_results() {
    let server = NatsServer::start();
    let second = 1_000_000_000_u64;
    let config = json!({ "allow_atomic": true, "max_age": second, "allow_msg_ttl": true });
    let results = Results::create(&server, config).await;
    let mut writer = sink(&server);
    writer.open(1).await.unwrap();
    let first = many(1, 1_500);
    writer.commit(&first).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let info = results.api("STREAM.INFO.R", json!({})).await;
        // The claim, and one for each of the two batches.
        if info["state"]["messages"] == 3 {
            break;
        }
        assert!(Instant::now() < deadline, "the results expire: {info}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(sink(&server).open(2).await.unwrap().progress, Some(first.progress));
    let second = commit(2, &[("A", 1)], &[]);
    assert_eq!(writer.commit(&second).await.unwrap_err().remedy, Remedy::Halt);
}

#[tokio::test]
async fn results_without_progress_halt() {
    let server = NatsServer::start();
    let results = Results::create(&server, atomic()).await;
    let mut writer = sink(&server);
    writer.open(1).await.unwrap();
    writer.commit(&commit(1, &[("A", 1), ("B", 1)], &[])).await.unwrap();
    results.api("STREAM.PURGE.R", json!({ "filter": "waterwheel.progress.>" })).await;
    let Err(ClaimError::Fault(fault)) = sink(&server).open(2).await else { panic!("a fault") };
    assert_eq!(fault.remedy, Remedy::Halt);
    assert!(fault.message.contains("message 2 on results.volume.A"), "{fault}");
    assert!(fault.help.unwrap().contains("purge the results as well, on results.volume.*"));
    assert_eq!(writer.recover().await.unwrap_err().remedy, Remedy::Halt);
    // Other subjects of the stream are nobody's results.
    results.api("STREAM.PURGE.R", json!({ "filter": "results.volume.>" })).await;
    results
        .api("STREAM.UPDATE.R", {
            let mut config = results.api("STREAM.INFO.R", json!({})).await["config"].clone();
            config["subjects"] = json!(["results.>", "waterwheel.progress.>", "other"]);
            config
        })
        .await;
    results.client.request("other", "{}".into()).await.unwrap();
    assert_eq!(sink(&server).open(1).await.unwrap().progress, None);
}

#[tokio::test]
async fn a_login_that_is_refused_later_stops_the_sink() {
    let users = |password: &str| {
        format!("authorization {{ users: [ {{ user: ann, password: \"{password}\" }} ] }}\n")
    };
    let mut server = NatsServer::start_with(&users("one"));
    let ann = async_nats::ConnectOptions::new().user_and_password("ann".into(), "one".into());
    let results = Results { client: ann.connect(server.url()).await.unwrap() };
    let subjects = json!(["results.>", "waterwheel.progress.>"]);
    let config = json!({ "name": "R", "subjects": subjects, "allow_atomic": true });
    results.api("STREAM.CREATE.R", config).await;
    let mut writer = sink_at(&server.url_as("ann:one"));
    writer.open(1).await.unwrap();
    server.reconfigure(&users("two"));
    server.restart();
    let mut fault = writer.commit(&commit(1, &[("A", 1)], &[])).await.unwrap_err();
    for _ in 0..5 {
        if fault.remedy != Remedy::Retry {
            break;
        }
        fault = writer.recover().await.unwrap_err();
    }
    assert_eq!(fault.remedy, Remedy::Stop, "{fault}");
    assert!(fault.message.contains("refuses the login"), "{fault}");
}

/// The stream is its owner's: nothing is removed from it, and the owner is told how.
#[tokio::test]
async fn a_reset_is_refused_with_what_to_purge() {
    let server = NatsServer::start();
    let mut sink = sink(&server);
    let refused = sink.check_reset().expect_err("refused");
    let help = refused.help.clone().unwrap_or_default();
    for subject in ["waterwheel.progress.", "results."] {
        assert!(help.contains(&format!("--subject='{subject}")), "{help}");
    }
    let begin = commit(0, &[], &[]).progress;
    let fault = sink.reset(&begin).await.expect_err("refused");
    assert_eq!((fault.remedy, fault.help), (Remedy::Halt, refused.help));
}
