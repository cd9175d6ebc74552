//! The source against a real server: order, resuming, and everything that can happen to a stream.

mod elsewhere;
mod gaps;
#[path = "../../../tests/support/nats_server.rs"]
mod nats_server;
mod pulls;
mod queues;

use std::path::Path;
use std::time::Duration;

use async_nats::{Client, HeaderMap};
use serde_json::{Value, json};
use waterwheel_config::document::Document;
use waterwheel_pipeline::contract::batch::RawBatch;
use waterwheel_pipeline::contract::fault::{Fault, Remedy};
use waterwheel_pipeline::contract::position::{Gap, Position};
use waterwheel_pipeline::contract::source::{Next, Reading, Source, SourceSpec, Until};

use self::nats_server::NatsServer;
use super::KIND;

/// A test that waits longer than this has failed.
const LIMIT: Duration = Duration::from_secs(60);

fn source(url: &str, settings: &str, until: Until) -> Box<dyn Source> {
    spec(url, settings).build(until)
}

/// A source `events` whose run was started with `--accept-gap`.
fn accepting(url: &str, settings: &str, gaps: &str) -> Box<dyn Source> {
    spec(url, settings).build_for(&reading(gaps, false))
}

/// A source `events` of a pipeline that keeps checkpoints.
fn checkpointed(url: &str, settings: &str) -> Box<dyn Source> {
    spec(url, settings).build_for(&reading("", true))
}

fn reading(gaps: &str, is_checkpointed: bool) -> Reading {
    Reading {
        until: Until::Forever,
        pipeline: "trading".into(),
        source: "events".into(),
        accepted_gaps: self::ranges(gaps),
        is_checkpointed,
        panicked_at: None,
    }
}

fn ranges(text: &str) -> Vec<Gap> {
    text.split_whitespace().map(|gap| gap.parse().unwrap()).collect()
}

fn spec(url: &str, settings: &str) -> Box<dyn SourceSpec> {
    let text = format!("url = \"{url}\"\nstream = \"S\"\n{settings}");
    let document = Document::parse("t.toml", &text, Box::new(|_| None));
    let root = document.root();
    let spec = (KIND.plan)(&root);
    root.finish();
    assert!(!document.findings.has_errors(), "{}", document.render_findings(false));
    spec.unwrap()
}

fn findings(text: &str) -> String {
    let document = Document::parse("t.toml", text, Box::new(|_| None));
    let root = document.root();
    (KIND.plan)(&root);
    root.finish();
    document.render_findings(false)
}

struct Stream {
    client: Client,
}

impl Stream {
    async fn create(server: &NatsServer, config: Value) -> Self {
        let stream = Self { client: async_nats::connect(server.url()).await.unwrap() };
        stream.make(config).await;
        stream
    }

    async fn make(&self, config: Value) {
        let mut all = json!({ "name": "S", "subjects": ["ev.>"], "storage": "file" });
        all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
        self.api("STREAM.CREATE.S", all).await;
    }

    async fn api(&self, call: &str, body: Value) -> Value {
        let body = body.to_string().into();
        let answer = self.client.request(format!("$JS.API.{call}"), body).await.unwrap();
        let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
        assert!(answer.get("error").is_none(), "{call}: {answer}");
        answer
    }

    /// Publishes payloads `from..to`, on alternating subjects, and waits until they are stored.
    async fn publish(&self, from: u64, to: u64) {
        for number in from..to {
            let subject = if number.is_multiple_of(2) { "ev.even" } else { "ev.odd" };
            let last = number + 1 == to;
            self.one(subject, None, number.to_string().into_bytes(), last).await;
        }
    }

    async fn one(&self, subject: &str, headers: Option<HeaderMap>, payload: Vec<u8>, wait: bool) {
        let (subject, headers) = (subject.to_owned(), headers.unwrap_or_default());
        if wait {
            let ack = self.client.request_with_headers(subject, headers, payload.into()).await;
            let ack: Value = serde_json::from_slice(&ack.unwrap().payload).unwrap();
            assert!(ack.get("error").is_none(), "{ack}");
        } else if headers.is_empty() {
            self.client.publish(subject, payload.into()).await.unwrap();
        } else {
            self.client.publish_with_headers(subject, headers, payload.into()).await.unwrap();
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Read {
    sequence: u64,
    subject: String,
    headers: String,
    payload: Vec<u8>,
}

fn messages(batch: &RawBatch) -> Vec<Read> {
    let text = |range| String::from_utf8(batch.bytes(range).to_vec()).unwrap();
    let read = batch.messages.iter().map(|message| {
        assert_eq!(message.ordinal, message.sequence);
        assert!(message.received_at_us.unwrap() > 1_600_000_000_000_000);
        Read {
            sequence: message.sequence,
            subject: text(&message.subject),
            headers: text(&message.headers),
            payload: batch.bytes(&message.payload).to_vec(),
        }
    });
    read.collect()
}

async fn next(source: &mut Box<dyn Source>) -> Result<Next, Fault> {
    tokio::time::timeout(LIMIT, source.next()).await.expect("the source has something to say")
}

/// Reads `count` messages, or to the end if there are fewer; and the position behind them.
async fn read(source: &mut Box<dyn Source>, count: usize) -> (Vec<Read>, Option<Position>) {
    let (mut all, mut end) = (Vec::new(), None);
    while all.len() < count {
        match next(source).await.unwrap() {
            Next::Batch(batch) => {
                all.extend(messages(&batch));
                end = batch.end();
            }
            Next::End => break,
        }
    }
    (all, end)
}

/// Reads until the source reports a fault.
async fn fault(source: &mut Box<dyn Source>) -> Fault {
    loop {
        match next(source).await {
            Ok(Next::Batch(_)) => {}
            Ok(Next::End) => panic!("the source ended"),
            Err(fault) => return fault,
        }
    }
}

async fn open_fault(url: &str, settings: &str, resume: &Position) -> Fault {
    source(url, settings, Until::Forever).open(Some(resume)).await.unwrap_err()
}

fn numbers(read: &[Read]) -> Vec<u64> {
    read.iter().map(|it| String::from_utf8_lossy(&it.payload).parse().unwrap()).collect()
}

#[tokio::test]
async fn many_messages_come_in_order_and_whole() {
    let server = NatsServer::start();
    let stream = Stream::create(&server, json!({})).await;
    stream.publish(0, 19_998).await;
    let mut headers = HeaderMap::new();
    headers.append("X-B", "2");
    headers.append("X-A", "1: one");
    headers.append("X-B", "3");
    stream.one("ev.headers", Some(headers), Vec::new(), true).await;
    let mut forged = HeaderMap::new();
    forged.insert("Status", "503");
    stream.one("ev.last", Some(forged), b"\xff\x00".to_vec(), true).await;

    let mut source = source(&server.url(), "", Until::Final);
    let begin = source.open(None).await.unwrap();
    assert_eq!((begin.ordinal, begin.fingerprint), (0, 0));
    let (read, end) = read(&mut source, usize::MAX).await;
    assert_eq!(read.len(), 20_000);
    assert!(read.iter().zip(1..).all(|(it, sequence)| it.sequence == sequence));
    assert_eq!(numbers(&read[..19_998]), (0..19_998).collect::<Vec<_>>());
    assert_eq!(read[1].subject, "ev.odd");
    assert_eq!((read[1].headers.as_str(), read[19_998].payload.len()), ("", 0));
    assert_eq!(read[19_998].headers, "X-A:1: one\r\nX-B:2\r\nX-B:3\r\n");
    assert_eq!(read[19_999].headers, "Status:503\r\n");
    assert_eq!(read[19_999].payload, b"\xff\x00");
    let end = end.unwrap();
    assert_eq!((end.ordinal, end.created), (20_000, begin.created));
    source.close().await;
    // It is deleted without waiting for the answer.
    let started = std::time::Instant::now();
    while stream.api("STREAM.INFO.S", json!({})).await["state"]["consumer_count"] != 0 {
        assert!(started.elapsed().as_secs() < 10, "the consumer is deleted");
    }
}

#[tokio::test]
async fn filters_pass_their_subjects_alone() {
    let server = NatsServer::start();
    let stream = Stream::create(&server, json!({})).await;
    stream.publish(0, 1_000).await;
    stream.one("ev.third", None, b"1000".to_vec(), true).await;
    stream.one("ev.odd", None, b"1001".to_vec(), true).await;
    for (subjects, expected) in [
        ("subjects = \"ev.even\"", (0..1_000).step_by(2).collect::<Vec<u64>>()),
        ("subjects = [\"ev.even\", \"ev.third\"]", {
            (0..1_000).step_by(2).chain([1_000]).collect()
        }),
        ("subjects = [\"ev.none\"]", Vec::new()),
        ("subjects = [\">\"]", (0..1_002).collect()),
    ] {
        let mut source = source(&server.url(), subjects, Until::End);
        source.open(None).await.unwrap();
        let (read, end) = read(&mut source, usize::MAX).await;
        assert_eq!(numbers(&read), expected, "{subjects}");
        // And behind the last one nothing is left.
        if let Some(end) = end {
            source.open(Some(&end)).await.unwrap();
            assert!(matches!(next(&mut source).await, Ok(Next::End)), "{subjects}");
        }
    }
}

#[tokio::test]
async fn reading_goes_on_where_it_stopped() {
    let server = NatsServer::start();
    let stream = Stream::create(&server, json!({})).await;
    stream.publish(0, 5_000).await;
    let mut first = source(&server.url(), "", Until::Forever);
    first.open(None).await.unwrap();
    let Ok(Next::Batch(mut batch)) = next(&mut first).await else { panic!("a batch") };
    let middle = batch.messages[batch.messages.len() / 2].ordinal;
    let position = batch.split_through(middle).end().unwrap();
    first.close().await;

    let mut second = source(&server.url(), "start = \"new\"", Until::Forever);
    assert_eq!(second.open(Some(&position)).await.unwrap(), position);
    stream.publish(5_000, 5_010).await;
    let (read, _) = read(&mut second, 5_010 - middle as usize).await;
    assert_eq!(numbers(&read), (middle..5_010).collect::<Vec<_>>());
}

#[tokio::test]
async fn every_start_finds_its_place() {
    let server = NatsServer::start();
    let stream = Stream::create(&server, json!({})).await;
    stream.publish(0, 10).await;
    let fifth = stream.api("STREAM.MSG.GET.S", json!({ "seq": 5 })).await;
    let fifth = fifth["message"]["time"].as_str().unwrap().to_owned();
    // Times are kept to the microsecond, so the message before may count as well.
    for (start, ordinals) in [
        ("\"first\"", 0..=0),
        ("\"new\"", 10..=10),
        ("4", 3..=3),
        ("\"11\"", 10..=10),
        (&format!("\"{fifth}\""), 3..=4),
        ("2001-01-01T00:00:00Z", 0..=0),
        ("\"2999-01-01T00:00:00Z\"", 10..=10),
    ] {
        let mut source = source(&server.url(), &format!("start = {start}"), Until::Forever);
        let position = source.open(None).await.unwrap();
        assert!(ordinals.contains(&position.ordinal), "{start}: {position:?}");
        assert_eq!(position.fingerprint, 0);
        assert!(position.created > 0);
    }
    stream.api("STREAM.PURGE.S", json!({ "seq": 4 })).await;
    for (start, remedy, part) in [
        ("2", Remedy::Halt, "`start` is 2: stream S no longer holds 2 messages"),
        ("12", Remedy::Stop, "`start` is 12, and stream S ends at 10"),
    ] {
        let mut source = source(&server.url(), &format!("start = {start}"), Until::Forever);
        let fault = source.open(None).await.unwrap_err();
        assert_eq!(fault.remedy, remedy, "{start}");
        assert!(fault.message.contains(part), "{fault}");
    }
    let mut source = source(&server.url(), "", Until::Forever);
    assert_eq!(source.open(None).await.unwrap().ordinal, 3, "the first message left");
}

#[tokio::test]
async fn the_end_is_the_last_message_present_at_start() {
    let server = NatsServer::start();
    let stream = Stream::create(&server, json!({})).await;
    let mut empty = source(&server.url(), "", Until::End);
    empty.open(None).await.unwrap();
    stream.publish(0, 100).await;
    assert!(matches!(next(&mut empty).await, Ok(Next::End)));

    let mut filled = source(&server.url(), "", Until::End);
    filled.open(None).await.unwrap();
    stream.publish(100, 200).await;
    let (messages, _) = read(&mut filled, usize::MAX).await;
    assert_eq!(numbers(&messages), (0..100).collect::<Vec<_>>());
    assert!(matches!(next(&mut filled).await, Ok(Next::End)), "the end stays the end");

    // The last messages are deleted: there is nothing at the bound itself.
    for sequence in [199, 200] {
        stream.api("STREAM.MSG.DELETE.S", json!({ "seq": sequence })).await;
    }
    let mut cut = source(&server.url(), "", Until::End);
    cut.open(None).await.unwrap();
    assert_eq!(read(&mut cut, usize::MAX).await.0.len(), 198);
}

#[tokio::test]
async fn a_stream_that_is_not_the_same_halts() {
    let server = NatsServer::start();
    let stream = Stream::create(&server, json!({})).await;
    stream.publish(0, 100).await;
    let mut reader = source(&server.url(), "", Until::End);
    let origin = reader.open(None).await.unwrap();
    let (_, end) = read(&mut reader, usize::MAX).await;
    let end = end.unwrap();
    reader.close().await;
    let url = server.url();

    // Rewritten: another message where the position was.
    let rewritten = Position { fingerprint: end.fingerprint ^ 1, ..end.clone() };
    let fault = open_fault(&url, "", &rewritten).await;
    assert_eq!(fault.remedy, Remedy::Halt);
    assert!(fault.message.contains("message 100 is not the one"), "{fault}");

    // Purged up to what was read is fine; the beginning is gone for whoever needs it.
    stream.api("STREAM.PURGE.S", json!({ "keep": 0 })).await;
    let mut kept = source(&url, "", Until::Forever);
    assert_eq!(kept.open(Some(&end)).await.unwrap(), end);
    let fault = open_fault(&url, "", &origin).await;
    assert_eq!(fault.remedy, Remedy::Halt);
    assert!(fault.message.contains("100 messages that are still to be read: 1 to 100"), "{fault}");

    // Purged beyond it.
    stream.publish(100, 120).await;
    stream.api("STREAM.PURGE.S", json!({ "seq": 111 })).await;
    let fault = open_fault(&url, "", &end).await;
    assert!(fault.message.contains("10 messages that are still to be read: 101 to 110"), "{fault}");

    // Recreated, shorter and longer.
    for count in [5, 500] {
        stream.api("STREAM.DELETE.S", json!({})).await;
        stream.make(json!({})).await;
        stream.publish(0, count).await;
        let fault = open_fault(&url, "", &end).await;
        assert_eq!(fault.remedy, Remedy::Halt);
        assert!(fault.message.contains("deleted and created again"), "{fault}");
    }
    let other = Position { stream: "T".into(), ..end };
    assert_eq!(open_fault(&url, "", &other).await.remedy, Remedy::Halt);
}

#[tokio::test]
async fn a_login_that_is_refused_later_stops_the_reader() {
    let users = |password: &str| {
        format!("authorization {{ users: [ {{ user: ann, password: \"{password}\" }} ] }}\n")
    };
    let mut server = NatsServer::start_with(&users("one"));
    let ann = async_nats::ConnectOptions::new().user_and_password("ann".into(), "one".into());
    let stream = Stream { client: ann.connect(server.url()).await.unwrap() };
    stream.make(json!({})).await;
    stream.publish(0, 10).await;
    let mut reader = source(&server.url_as("ann:one"), "", Until::Forever);
    reader.open(None).await.unwrap();
    read(&mut reader, 10).await;
    // Away and back with the same login is nothing.
    server.restart();
    let ann = async_nats::ConnectOptions::new().user_and_password("ann".into(), "one".into());
    let stream = Stream { client: ann.connect(server.url()).await.unwrap() };
    stream.publish(10, 11).await;
    assert_eq!(numbers(&read(&mut reader, 1).await.0), [10]);
    server.reconfigure(&users("two"));
    server.restart();
    let refused = fault(&mut reader).await;
    assert_eq!(refused.remedy, Remedy::Stop);
    assert!(refused.message.contains("refuses the login"), "{refused}");
    assert!(!format!("{refused:?}").contains("one\""), "{refused:?}");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn a_store_put_back_to_an_older_copy_halts() {
    let mut server = NatsServer::start();
    let stream = Stream::create(&server, json!({})).await;
    stream.publish(0, 10).await;
    server.kill();
    let backup = tempfile::tempdir().unwrap();
    copy(&server.store(), backup.path());
    server.restart();
    let stream = Stream { client: async_nats::connect(server.url()).await.unwrap() };
    stream.publish(10, 20).await;
    let mut reader = source(&server.url(), "", Until::Forever);
    reader.open(None).await.unwrap();
    let (_, end) = read(&mut reader, 20).await;
    let end = end.unwrap();

    server.kill();
    std::fs::remove_dir_all(server.store()).unwrap();
    copy(backup.path(), &server.store());
    server.restart();
    // The reader that is running sees it, and one that starts as well.
    let running = fault(&mut reader).await;
    assert_eq!(running.remedy, Remedy::Halt);
    assert!(running.message.contains("20 was read up to, and it now ends at 10"), "{running}");
    assert_eq!(open_fault(&server.url(), "", &end).await.remedy, Remedy::Halt);

    // Longer than before, with other messages under the old sequences.
    let stream = Stream { client: async_nats::connect(server.url()).await.unwrap() };
    stream.publish(50, 80).await;
    let fault = open_fault(&server.url(), "", &end).await;
    assert!(fault.message.contains("rewritten"), "{fault}");
}

#[tokio::test]
async fn killed_servers_and_deleted_consumers_lose_and_repeat_nothing() {
    let mut server = NatsServer::start();
    let mut stream = Stream::create(&server, json!({})).await;
    let mut reader = source(&server.url(), "", Until::Forever);
    reader.open(None).await.unwrap();
    let mut all = Vec::new();
    for round in 0..6_u64 {
        stream.publish(round * 3_000, (round + 1) * 3_000).await;
        // In the middle of what was published, something happens.
        while (all.len() as u64) < round * 3_000 + 500 {
            let Ok(Next::Batch(batch)) = next(&mut reader).await else { panic!("a batch") };
            all.extend(messages(&batch));
        }
        if round % 2 == 0 {
            server.restart();
            stream = Stream { client: async_nats::connect(server.url()).await.unwrap() };
        } else {
            let names = stream.api("CONSUMER.NAMES.S", json!({})).await;
            for name in names["consumers"].as_array().unwrap() {
                let call = format!("CONSUMER.DELETE.S.{}", name.as_str().unwrap());
                stream.api(&call, json!({})).await;
            }
        }
    }
    while all.len() < 18_000 {
        let Ok(Next::Batch(batch)) = next(&mut reader).await else { panic!("a batch") };
        all.extend(messages(&batch));
    }
    assert_eq!(numbers(&all), (0..18_000).collect::<Vec<_>>());
    assert!(all.iter().zip(1..).all(|(it, sequence)| it.sequence == sequence));
    // And an idle reader is not confused either.
    server.restart();
    stream = Stream { client: async_nats::connect(server.url()).await.unwrap() };
    stream.publish(18_000, 18_001).await;
    assert_eq!(numbers(&read(&mut reader, 1).await.0), [18_000]);
}

#[tokio::test]
async fn calls_that_are_dropped_lose_nothing() {
    let mut server = NatsServer::start();
    let stream = Stream::create(&server, json!({})).await;
    stream.publish(0, 20_000).await;
    let mut reader = source(&server.url(), "", Until::End);
    reader.open(None).await.unwrap();
    let (mut all, mut dropped) = (Vec::new(), 0);
    loop {
        if all.len() > 5_000 && dropped < 1_000 {
            dropped = 1_000;
            server.restart();
        }
        match tokio::time::timeout(Duration::from_micros(200), reader.next()).await {
            Err(_) => dropped += 1,
            Ok(Ok(Next::Batch(batch))) => all.extend(messages(&batch)),
            Ok(Ok(Next::End)) => break,
            Ok(Err(fault)) => panic!("{fault}"),
        }
    }
    assert!(dropped > 1_000, "no call was dropped");
    assert_eq!(numbers(&all), (0..20_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_delivery_that_is_missing_is_read_again() {
    let server = NatsServer::start();
    let stream = Stream::create(&server, json!({})).await;
    stream.publish(0, 100).await;
    let mut pulls = stream.client.subscribe("$JS.API.CONSUMER.MSG.NEXT.>").await.unwrap();
    stream.client.flush().await.unwrap();
    let mut reader = source(&server.url(), "", Until::Forever);
    reader.open(None).await.unwrap();
    let mut all = read(&mut reader, 100).await.0;
    // As if delivery 101, with message 101, had been dropped on the way: 102 comes alone.
    let inbox = futures::StreamExt::next(&mut pulls).await.unwrap().reply.unwrap();
    let reply = "$JS.ACK.S.c.1.102.102.1700000000000000000.0";
    stream.client.publish_with_reply(inbox, reply, "forged".into()).await.unwrap();
    stream.client.flush().await.unwrap();
    stream.publish(100, 110).await;
    all.extend(read(&mut reader, 10).await.0);
    assert_eq!(numbers(&all), (0..110).collect::<Vec<_>>());
}

#[tokio::test]
async fn deleted_messages_are_passed_over_and_purged_ones_halt() {
    let server = NatsServer::start();
    let stream = Stream::create(&server, json!({})).await;
    stream.publish(0, 100).await;
    for sequence in [3, 4, 50, 99] {
        stream.api("STREAM.MSG.DELETE.S", json!({ "seq": sequence })).await;
    }
    let mut reader = source(&server.url(), "", Until::Forever);
    reader.open(None).await.unwrap();
    let (read, _) = read(&mut reader, 96).await;
    assert!([3, 4, 50, 99].iter().all(|gone| read.iter().all(|it| it.sequence != *gone)));
    // Nobody asks for messages while a full window of them is published and purged: what was not
    // under way to the reader yet is lost to it.
    stream.publish(100, 40_000).await;
    stream.api("STREAM.PURGE.S", json!({ "seq": 39_990 })).await;
    let fault = fault(&mut reader).await;
    assert_eq!(fault.remedy, Remedy::Halt);
    assert!(fault.message.contains("still to be read") && fault.message.contains("39989"));
}

#[tokio::test]
async fn a_stream_that_is_deleted_under_the_reader_stops_it() {
    let server = NatsServer::start();
    let stream = Stream::create(&server, json!({})).await;
    stream.publish(0, 10).await;
    let mut reader = source(&server.url(), "", Until::Forever);
    reader.open(None).await.unwrap();
    read(&mut reader, 10).await;
    stream.api("STREAM.DELETE.S", json!({})).await;
    let gone = fault(&mut reader).await;
    assert_eq!(gone.remedy, Remedy::Stop);
    assert!(gone.message.contains("there is no stream S"), "{gone}");
    assert!(gone.help.unwrap().contains("never creates"));
}

#[tokio::test]
async fn a_message_of_ten_megabytes_passes() {
    let server = NatsServer::start_with("max_payload: 16777216\n");
    let stream = Stream::create(&server, json!({})).await;
    let large: Vec<u8> = (0..10_000_000_u32).map(|at| (at % 251) as u8).collect();
    for round in 0..4_u8 {
        stream.one("ev.small", None, vec![round], true).await;
        stream.one("ev.large", None, large.clone(), true).await;
    }
    let mut source = source(&server.url(), "", Until::End);
    source.open(None).await.unwrap();
    let (read, _) = read(&mut source, usize::MAX).await;
    assert_eq!(read.len(), 8);
    for (round, pair) in read.chunks(2).enumerate() {
        assert_eq!(pair[0].payload, [round as u8]);
        assert!(pair[1].payload == large);
    }
}

#[tokio::test]
async fn a_message_from_before_the_limit_was_lowered_passes() {
    let mut server = NatsServer::start_with("max_payload: 33554432\n");
    let stream = Stream::create(&server, json!({})).await;
    stream.one("ev.large", None, vec![7; 20_000_000], true).await;
    server.reconfigure("max_payload: 1048576\n");
    server.restart();
    let mut source = source(&server.url(), "", Until::End);
    source.open(None).await.unwrap();
    assert_eq!(read(&mut source, usize::MAX).await.0[0].payload.len(), 20_000_000);
}

#[tokio::test]
async fn logins_and_rights() {
    let users = r#"authorization { users: [
        { user: ann, password: "p%s$" }
        { user: bob, password: hunter2, permissions: { publish: ["$JS.API.STREAM.INFO.>"], subscribe: ["_INBOX.>"] } }
    ] }
    "#;
    let server = NatsServer::start_with(users);
    let mut good = source(&server.url_as("ann:p%25s$"), "", Until::End);
    // The login is right, so that the missing stream is what is wrong.
    let fault = good.open(None).await.unwrap_err();
    assert_eq!(fault.remedy, Remedy::Stop);
    assert!(fault.message.contains("no stream S"), "{fault}");

    let settings = "user = \"ann\"\npassword = \"hunter3\"";
    for (url, settings) in [
        (server.url_as("ann:hunter3"), ""),
        (server.url(), settings),
        (server.url(), "token = \"hunter3\""),
        (server.url(), "creds = \"/nonexistent/hunter3\""),
        (server.url(), ""),
    ] {
        let mut refused = source(&url, settings, Until::End);
        let fault = refused.open(None).await.unwrap_err();
        assert_eq!(fault.remedy, Remedy::Stop, "{settings} {fault}");
        let printed = format!("{fault:?} {fault}");
        assert!(settings.contains("creds") || !printed.contains("hunter3"), "{printed}");
    }

    let ann = async_nats::ConnectOptions::new().user_and_password("ann".into(), "p%s$".into());
    let stream = Stream { client: ann.connect(server.url()).await.unwrap() };
    stream.make(json!({})).await;
    let mut denied = source(&server.url_as("bob:hunter2"), "", Until::End);
    let problems = denied.probe().await;
    assert!(problems[0].contains("CONSUMER.CREATE.S"), "{problems:?}");
    assert!(problems[0].contains("ermissions"), "{problems:?}");
}

#[tokio::test]
async fn probes_say_what_is_wrong() {
    let mut server = NatsServer::start();
    let stream = Stream::create(&server, json!({ "retention": "workqueue" })).await;
    let problems = source(&server.url(), "", Until::Forever).probe().await;
    assert!(problems[0].contains("workqueue retention"), "{problems:?}");
    assert!(problems[0].contains("keep checkpoints"), "{problems:?}");
    let fault = source(&server.url(), "", Until::Forever).open(None).await.unwrap_err();
    assert_eq!(fault.remedy, Remedy::Stop);
    assert!(checkpointed(&server.url(), "").probe().await.is_empty());
    let info = stream.api("STREAM.INFO.S", json!({})).await;
    assert_eq!(info["state"]["consumer_count"], 0, "to look takes nothing from whoever reads");
    stream.api("STREAM.DELETE.S", json!({})).await;
    stream.make(json!({})).await;
    let problems =
        source(&server.url(), "subjects = [\"ev.a\", \"x.>\"]", Until::Forever).probe().await;
    assert_eq!(problems, ["stream S captures ev.>, which never matches `x.>`"]);
    assert!(source(&server.url(), "", Until::Forever).probe().await.is_empty());
    server.kill();
    let fault = source(&server.url(), "", Until::Forever).open(None).await.unwrap_err();
    assert_eq!(fault.remedy, Remedy::Retry);
}

#[test]
fn wrong_settings_are_findings() {
    for (text, part) in [
        ("type = 1", "needs the key `stream`"),
        ("stream = \"a.b\"", "is no name of a stream"),
        ("stream = \"S\"\nsubjects = []", "names no subject"),
        ("stream = \"S\"\nsubjects = [\"a..b\"]", "empty token"),
        ("stream = \"S\"\nsubjects = [\"a.*\", \"a.b\"]", "overlap"),
        ("stream = \"S\"\nstart = \"latest\"", "no place in a stream"),
        ("stream = \"S\"\nstart = 0", "no place in a stream"),
        ("stream = \"S\"\nstart = true", "no place in a stream"),
        ("stream = \"S\"\nsubject = \"a\"", "did you mean `subjects`?"),
    ] {
        let found = findings(text);
        assert!(found.contains(part), "{text}\n{found}");
    }
    let text =
        "url = \"nats://bob:${PW:-hunter2}@h\"\nstream = \"S\"\nsubjects = \"a\"\nstart = \"new\"";
    assert_eq!(findings(text), "");
    let document = Document::parse("t.toml", text, Box::new(|_| None));
    let spec = (KIND.plan)(&document.root()).unwrap();
    assert_eq!(spec.describe(), "stream S at h:4222");
}
