//! Streams that forget by themselves.

use super::*;

/// Waits until the stream holds so many messages, while the source goes on.
async fn holds(stream: &Stream, source: &mut Box<dyn Source>, messages: u64) {
    let started = std::time::Instant::now();
    loop {
        let _ = tokio::time::timeout(Duration::from_millis(20), source.next()).await;
        let state = stream.api("STREAM.INFO.S", json!({})).await["state"].clone();
        if state["messages"] == messages {
            return;
        }
        assert!(started.elapsed() < LIMIT / 4, "{messages} messages are left: {state}");
    }
}

/// Reads, dies, and reads again from a checkpoint.
async fn forgets_what_was_released(retention: &str, settings: &str, subject: &str) {
    let mut server = NatsServer::start();
    let stream = Stream::create(&server, json!({ "retention": retention })).await;
    let url = server.url();
    let publish = async |stream: &Stream, from: u64, to: u64| {
        for number in from..to {
            stream.one(subject, None, number.to_string().into_bytes(), number + 1 == to).await;
        }
    };
    let mut first = checkpointed(&url, settings);
    first.open(None).await.unwrap();
    publish(&stream, 0, 1_000).await;
    let (all, _) = read(&mut first, 1_000).await;
    assert_eq!(numbers(&all), (0..1_000).collect::<Vec<_>>());
    // To have read is not to let go.
    holds(&stream, &mut first, 1_000).await;
    let position =
        |ordinal: u64, end: &Position| Position { ordinal, fingerprint: 0, ..end.clone() };
    let begin =
        Position { stream: "S".into(), created: 0, ordinal: 0, fingerprint: 0, gaps: Vec::new() };
    first.release(&position(400, &begin));
    holds(&stream, &mut first, 600).await;
    // More than was handed on is not let go of.
    first.release(&position(5_000, &begin));
    holds(&stream, &mut first, 0).await;
    publish(&stream, 1_000, 2_000).await;
    let (_, end) = read(&mut first, 1_000).await;
    let end = end.unwrap();
    first.release(&position(1_200, &end));
    holds(&stream, &mut first, 800).await;
    // Killed: nothing is closed, and the next run begins at a checkpoint behind what was released.
    std::mem::forget(first);
    let mut second = checkpointed(&url, settings);
    second.open(Some(&position(1_500, &end))).await.unwrap();
    publish(&stream, 2_000, 2_100).await;
    let (rest, _) = read(&mut second, 600).await;
    assert_eq!(numbers(&rest), (1_500..2_100).collect::<Vec<_>>());
    holds(&stream, &mut second, 900).await;
    // Neither a server that is killed nor a consumer that is gone loses or repeats anything.
    server.restart();
    let stream = Stream { client: async_nats::connect(server.url()).await.unwrap() };
    publish(&stream, 2_100, 2_200).await;
    let (rest, end) = read(&mut second, 100).await;
    assert_eq!(numbers(&rest), (2_100..2_200).collect::<Vec<_>>());
    second.release(&end.unwrap());
    holds(&stream, &mut second, 0).await;
    second.close().await;
}

#[tokio::test]
async fn a_work_queue_forgets_what_was_released() {
    forgets_what_was_released("workqueue", "", "ev.a").await;
    forgets_what_was_released("workqueue", "subjects = [\"ev.a\", \"ev.b\"]", "ev.a").await;
}

#[tokio::test]
async fn a_stream_with_interest_retention_forgets_what_was_released() {
    forgets_what_was_released("interest", "", "ev.a").await;
    forgets_what_was_released("interest", "subjects = \"ev.a\"", "ev.a").await;
}

#[tokio::test]
async fn what_nobody_kept_is_missed() {
    let server = NatsServer::start();
    let stream = Stream::create(&server, json!({ "retention": "interest" })).await;
    let mut reader = checkpointed(&server.url(), "");
    reader.open(None).await.unwrap();
    stream.publish(0, 100).await;
    let (_, end) = read(&mut reader, 100).await;
    let end = end.unwrap();
    reader.close().await;
    // Nothing came meanwhile, so nothing is lost.
    stream.api("CONSUMER.DELETE.S.waterwheel-trading-events-1", json!({})).await;
    let mut reader = checkpointed(&server.url(), "");
    reader.open(Some(&end)).await.unwrap();
    reader.close().await;
    stream.api("CONSUMER.DELETE.S.waterwheel-trading-events-101", json!({})).await;
    let other = json!({ "stream_name": "S", "config": { "durable_name": "other", "ack_policy": "explicit" } });
    stream.publish(100, 150).await;
    stream.api("CONSUMER.CREATE.S.other", other).await;
    stream.publish(150, 200).await;
    let fault = checkpointed(&server.url(), "").open(Some(&end)).await.unwrap_err();
    assert_eq!(fault.remedy, Remedy::Halt);
    assert!(fault.message.contains("50 messages that are still to be read: 101 to 150"), "{fault}");
    let fault = checkpointed(&server.url(), "subjects = \"ev.even\"").open(Some(&end)).await;
    let fault = fault.unwrap_err();
    assert!(fault.message.contains("that kept its messages for this pipeline is gone"), "{fault}");
}

#[tokio::test]
async fn a_queue_that_lost_messages_halts() {
    let server = NatsServer::start();
    let stream = Stream::create(&server, json!({ "retention": "workqueue" })).await;
    let mut reader = checkpointed(&server.url(), "");
    reader.open(None).await.unwrap();
    stream.publish(0, 100).await;
    let (_, end) = read(&mut reader, 100).await;
    reader.close().await;
    stream.publish(100, 150).await;
    stream.api("STREAM.PURGE.S", json!({ "seq": 131 })).await;
    let fault = checkpointed(&server.url(), "").open(end.as_ref()).await.unwrap_err();
    assert!(fault.message.contains("30 messages that are still to be read: 101 to 130"), "{fault}");
}
