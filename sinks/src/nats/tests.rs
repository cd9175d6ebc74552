//! The sink against a real server: what readers of the stream see, and who may write.

mod bucket;
mod limits;
#[path = "../../../tests/support/nats_server.rs"]
mod nats_server;
mod unfinished;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_nats::Client;
use base64_free::decode;
use serde_json::{Value as Json, json};
use waterwheel_config::document::Document;
use waterwheel_config::schema::{Column, Finality, Schema};
use waterwheel_config::value::{ColumnType, Row, Value};
use waterwheel_pipeline::contract::epoch::{EpochRecord, FINAL_WATERMARK, Progress};
use waterwheel_pipeline::contract::fault::{Fault, Outcome, Remedy};
use waterwheel_pipeline::contract::position::{Gap, Position};
use waterwheel_pipeline::contract::sink::{
    Changes, ClaimError, Commit, Emit, InputRole, Sink, SinkContext, SinkInput,
};

use self::nats_server::NatsServer;
use super::KIND;

/// Just enough base64 to read what the server's API gives.
mod base64_free {
    pub(super) fn decode(text: &str) -> Vec<u8> {
        let value = |byte: u8| match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            _ => 63,
        };
        let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'=').map(value).collect();
        digits
            .chunks(4)
            .flat_map(|chunk| {
                let bits = chunk.iter().fold(0_u32, |bits, digit| bits << 6 | u32::from(*digit));
                let bits = bits << (6 * (4 - chunk.len()));
                bits.to_be_bytes()[1..chunk.len()].to_vec()
            })
            .collect()
    }
}

fn context() -> SinkContext {
    let schema = Schema {
        columns: vec![
            Column::new("symbol", ColumnType::Text),
            Column::new("trades", ColumnType::Bigint),
        ],
        key: vec![0],
        finality: Finality::Immediate,
        append_only: false,
        time: None,
    };
    let input = SinkInput {
        name: "volume".into(),
        role: InputRole::Operator,
        schema: Arc::new(schema),
        granularities: vec![],
    };
    SinkContext {
        pipeline: "trading".into(),
        sink: "results".into(),
        inputs: vec![input],
        emit: Emit::Changes,
    }
}

fn findings(settings: &str) -> String {
    let document = Document::parse("t.toml", settings, Box::new(|_| None));
    let root = document.root();
    (KIND.plan)(&root, &context());
    root.finish();
    document.render_findings(false)
}

fn sink(server: &NatsServer) -> Box<dyn Sink> {
    sink_at(&server.url())
}

fn sink_at(url: &str) -> Box<dyn Sink> {
    sink_of(url, "subject = \"results.{operator}.{symbol}\"", "results.volume.*")
}

fn sink_of(url: &str, place: &str, pattern: &str) -> Box<dyn Sink> {
    let text = format!("url = \"{url}\"\n{place}");
    let document = Document::parse("t.toml", &text, Box::new(|_| None));
    let root = document.root();
    let spec = (KIND.plan)(&root, &context());
    root.finish();
    assert!(!document.findings.has_errors(), "{}", document.render_findings(false));
    let spec = spec.unwrap();
    let host = url.rsplit(['/', '@']).next().unwrap();
    assert_eq!(spec.resources(), [format!("subject {pattern} at {host}")]);
    spec.build()
}

/// A commit up to a position, with rows `(symbol, trades)`.
fn commit(ordinal: u64, upserts: &[(&str, i64)], deletes: &[(&str, i64)]) -> Commit {
    let rows = |rows: &[(&str, i64)]| -> Vec<Row> {
        rows.iter()
            .map(|(symbol, trades)| Row::from(vec![Value::text(symbol), Value::Bigint(*trades)]))
            .collect()
    };
    let gaps = vec![Gap { from: 1, to: 3 }];
    let position = Position {
        stream: "S".into(),
        created: 7,
        ordinal,
        fingerprint: u64::MAX,
        gaps,
        messages: 0,
    };
    let record = EpochRecord {
        epoch: ordinal + 1,
        generation: 1,
        positions: BTreeMap::from([("events".to_owned(), position)]),
        watermarks: BTreeMap::from([("events".to_owned(), 1_500_000)]),
    };
    let (origin, fingerprint) = (BTreeMap::new(), "f".to_owned());
    Commit {
        progress: Progress { record, origin, fingerprint, finished: false },
        changes: vec![Changes { deletes: rows(deletes), ..Changes::new(rows(upserts)) }],
    }
}

fn many(ordinal: u64, count: i64) -> Commit {
    let names: Vec<String> = (0..count).map(|number| format!("S{number}")).collect();
    let rows: Vec<(&str, i64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    commit(ordinal, &rows, &[])
}

struct Results {
    client: Client,
}

impl Results {
    async fn connect(server: &NatsServer) -> Self {
        Self { client: async_nats::connect(server.url()).await.unwrap() }
    }

    async fn create(server: &NatsServer, config: Json) -> Self {
        let results = Self::connect(server).await;
        let mut all = json!({ "name": "R", "subjects": ["results.>", "waterwheel.progress.>"] });
        all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
        let name = all["name"].as_str().unwrap().to_owned();
        results.api(&format!("STREAM.CREATE.{name}"), all).await;
        results
    }

    async fn api(&self, call: &str, body: Json) -> Json {
        let body = body.to_string().into();
        let answer = self.client.request(format!("$JS.API.{call}"), body).await.unwrap();
        let answer: Json = serde_json::from_slice(&answer.payload).unwrap();
        assert!(answer.get("error").is_none(), "{call}: {answer}");
        answer
    }

    /// All messages of the stream: subject, headers and payload.
    async fn all(&self) -> Vec<(String, String, Json)> {
        let info = self.api("STREAM.INFO.R", json!({})).await;
        let mut all = Vec::new();
        for sequence in 1..=info["state"]["last_seq"].as_u64().unwrap() {
            let message = self.api("STREAM.MSG.GET.R", json!({ "seq": sequence })).await;
            let message = &message["message"];
            let text = |key: &str| decode(message[key].as_str().unwrap_or_default());
            all.push((
                message["subject"].as_str().unwrap().to_owned(),
                String::from_utf8(text("hdrs")).unwrap(),
                serde_json::from_slice(&text("data")).unwrap(),
            ));
        }
        all
    }

    async fn rows(&self) -> Vec<(String, String, Json)> {
        let mut all = self.all().await;
        all.retain(|(subject, _, _)| subject.starts_with("results."));
        all
    }
}

fn atomic() -> Json {
    json!({ "allow_atomic": true })
}

#[tokio::test]
async fn commits_become_messages_and_progress() {
    let server = NatsServer::start();
    let results = Results::create(&server, atomic()).await;
    let mut writer = sink(&server);
    assert!(writer.probe().await.is_empty());
    let claim = writer.open(3).await.unwrap();
    assert_eq!((claim.generation, claim.progress), (3, None));

    let first = commit(10, &[("BTC", 1), ("a.b > *", 2)], &[]);
    assert_eq!(writer.commit(&first).await.unwrap(), Some(first.progress.clone()));
    // Positions move on without a row, and the input ends.
    let mut second = commit(20, &[], &[("BTC", 1)]);
    second.progress.record.watermarks.insert("events".into(), FINAL_WATERMARK);
    writer.commit(&commit(15, &[], &[])).await.unwrap();
    writer.commit(&second).await.unwrap();
    assert_eq!(writer.close().await.unwrap(), Some(second.progress.clone()));

    let rows = results.rows().await;
    assert_eq!(rows.len(), 3);
    assert_eq!(rows[0].0, "results.volume.BTC");
    assert_eq!(rows[0].2, json!({ "op": "upsert", "symbol": "BTC", "trades": 1 }));
    assert_eq!(rows[1].0, "results.volume.a%2Eb%20%3E%20%2A");
    assert_eq!(rows[1].2["symbol"], "a.b > *");
    assert_eq!(rows[2].2, json!({ "op": "delete", "symbol": "BTC", "trades": 1 }));
    assert!(rows[0].1.contains("Waterwheel-Epoch: 11\r\n"), "{}", rows[0].1);
    assert!(rows[0].1.contains("Waterwheel-Watermark: 1970-01-01T00:00:01.5Z\r\n"));
    assert!(rows[2].1.contains("Waterwheel-Watermark: final\r\n"));
    assert!(!rows[0].1.contains("Nats-Msg-Id"), "a duplicate would refuse the whole batch");

    // The next generation finds it all.
    let mut next = sink(&server);
    assert!(matches!(next.open(3).await, Err(ClaimError::Stale(3))));
    assert!(matches!(next.open(2).await, Err(ClaimError::Stale(3))));
    assert_eq!(next.open(4).await.unwrap().progress, Some(second.progress));
}

#[tokio::test]
async fn the_trace_of_one_message_goes_on() {
    let server = NatsServer::start();
    let results = Results::create(&server, atomic()).await;
    let mut writer = sink(&server);
    writer.open(1).await.unwrap();
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let mut traced = commit(10, &[("ETH", 1), ("BTC", 2)], &[]);
    let behind = traced.changes[0].upserts[1].values().iter().cloned();
    traced.changes[0].upserts[1] = behind.chain([Value::text(trace)]).collect();
    writer.commit(&traced).await.unwrap();
    let rows = results.rows().await;
    assert!(!rows[0].1.contains("traceparent"), "{}", rows[0].1);
    assert!(rows[1].1.contains(&format!("traceparent: {trace}\r\n")), "{}", rows[1].1);
    assert_eq!(rows[1].2, json!({ "op": "upsert", "symbol": "BTC", "trades": 2 }));
}

#[tokio::test]
async fn a_large_commit_goes_out_in_batches_and_counts_at_the_end() {
    let server = NatsServer::start();
    let results = Results::create(&server, atomic()).await;
    let mut writer = sink(&server);
    writer.open(1).await.unwrap();
    for (ordinal, count) in [(1, 998), (2, 999), (3, 1_000), (4, 2_500)] {
        let commit = many(ordinal, count);
        assert_eq!(writer.commit(&commit).await.unwrap(), Some(commit.progress));
    }
    let all = results.all().await;
    let progress: Vec<_> =
        all.iter().filter(|(subject, _, _)| subject.starts_with("waterwheel.")).collect();
    assert_eq!(all.len() - progress.len(), 998 + 999 + 1_000 + 2_500);
    let shown: Vec<_> = progress
        .iter()
        .map(|(_, _, body)| {
            let position = &body["progress"]["record"]["positions"]["events"]["ordinal"];
            (body["chunk"].as_u64().unwrap(), body["chunks"].as_u64().unwrap(), position.as_u64())
        })
        .collect();
    // The claim, then every commit: only its last chunk moves the progress on.
    let expected = [
        (0, 0, None),
        (1, 1, Some(1)),
        (1, 1, Some(2)),
        (1, 2, Some(2)),
        (2, 2, Some(3)),
        (1, 3, Some(3)),
        (2, 3, Some(3)),
        (3, 3, Some(4)),
    ];
    assert_eq!(shown, expected);
}

#[tokio::test]
async fn an_older_instance_is_fenced_off() {
    for config in [atomic(), json!({})] {
        let server = NatsServer::start();
        let results = Results::create(&server, config.clone()).await;
        let (mut old, mut new) = (sink(&server), sink(&server));
        old.open(1).await.unwrap();
        old.commit(&commit(1, &[("A", 1)], &[])).await.unwrap();
        let claim = new.open(2).await.unwrap();
        assert_eq!(claim.progress, Some(commit(1, &[], &[]).progress));
        let fault = old.commit(&commit(2, &[("A", 2)], &[])).await.unwrap_err();
        assert_eq!(fault.remedy, Remedy::Halt, "{fault}");
        assert!(fault.message.contains("another instance has taken over"), "{fault}");
        assert_eq!(old.recover().await.unwrap_err().remedy, Remedy::Halt);
        if config == atomic() {
            assert_eq!(results.rows().await.len(), 1, "nothing of the refused commit is stored");
        }
        new.commit(&commit(2, &[("A", 3)], &[])).await.unwrap();
        assert_eq!(results.rows().await.last().unwrap().2["trades"], 3);
    }
}

#[tokio::test]
async fn of_two_claims_at_once_one_wins() {
    let server = NatsServer::start();
    Results::create(&server, atomic()).await;
    for generation in 1..=20 {
        let (mut left, mut right) = (sink(&server), sink(&server));
        let (left, right) = tokio::join!(left.open(generation), right.open(generation));
        let won = [&left, &right].iter().filter(|claim| claim.is_ok()).count();
        assert_eq!(won, 1);
        for claim in [left, right] {
            assert!(matches!(claim, Ok(_) | Err(ClaimError::Stale(_))));
        }
    }
}

/// Does what the runtime does about a fault, until the commit is in.
async fn commit_through(writer: &mut Box<dyn Sink>, commit: &Commit) -> usize {
    let mut faults = 0;
    loop {
        let fault: Fault = match writer.commit(commit).await {
            Ok(_) => return faults,
            Err(fault) => fault,
        };
        faults += 1;
        assert!(faults < 50, "it goes on and on: {fault}");
        assert_eq!(fault.remedy, Remedy::Retry, "{fault}");
        let progress = loop {
            match writer.recover().await {
                Ok(progress) => break progress,
                Err(fault) => assert_eq!(fault.remedy, Remedy::Retry, "{fault}"),
            }
        };
        if progress.as_ref() == Some(&commit.progress) {
            return faults;
        }
    }
}

#[tokio::test]
async fn a_server_that_is_killed_loses_and_repeats_nothing() {
    let mut server = NatsServer::start();
    let mut results = Results::create(&server, atomic()).await;
    let mut writer = sink(&server);
    writer.open(1).await.unwrap();
    let mut faults = 0;
    for round in 1..=6_u64 {
        let commit = many(round, 3_500);
        let kill = async {
            // While the commit is under way: as soon as something of it is there, or soon after.
            let wanted = round * 997;
            loop {
                let info = results.api("STREAM.INFO.R", json!({})).await;
                if info["state"]["messages"].as_u64().unwrap()
                    >= (round - 1) * 3_504 + wanted % 3_000
                {
                    break;
                }
            }
        };
        let ready = tokio::select! {
            biased;
            () = kill => true,
            _ = writer.commit(&commit) => false,
        };
        if ready {
            server.restart();
            results = Results::connect(&server).await;
            // The call was dropped: what it did is unknown.
            if writer.recover().await.unwrap().as_ref() == Some(&commit.progress) {
                continue;
            }
            faults += 1 + commit_through(&mut writer, &commit).await;
        }
    }
    assert!(faults > 0, "no commit was interrupted");
    let rows = results.rows().await;
    assert_eq!(rows.len(), 6 * 3_500);
    let mut next = sink(&server);
    assert_eq!(next.open(2).await.unwrap().progress, Some(many(6, 0).progress));
}

#[tokio::test]
async fn a_server_that_is_away_is_an_unknown_outcome() {
    let mut server = NatsServer::start();
    let results = Results::create(&server, atomic()).await;
    let mut writer = sink(&server);
    writer.open(1).await.unwrap();
    server.kill();
    let first = commit(1, &[("A", 1)], &[]);
    let fault = writer.commit(&first).await.unwrap_err();
    assert_eq!((fault.remedy, fault.outcome), (Remedy::Retry, Outcome::Unknown), "{fault}");
    server.restart();
    commit_through(&mut writer, &first).await;
    drop(results);
    assert_eq!(Results::connect(&server).await.rows().await.len(), 1);
}

#[tokio::test]
async fn streams_without_batches_are_at_least_once_and_say_so() {
    let server = NatsServer::start();
    let results = Results::create(&server, json!({})).await;
    let mut writer = sink(&server);
    let problems = writer.probe().await;
    assert!(problems[0].contains("at least once"), "{problems:?}");
    writer.open(1).await.unwrap();
    let first = many(1, 1_500);
    writer.commit(&first).await.unwrap();
    results.cut_off(None, &first, (0, 1)).await;
    let mut next = sink(&server);
    assert_eq!(next.open(2).await.unwrap().progress, None);
    // A commit made again within the stream's window of duplicates is recognised, row by row.
    next.commit(&first).await.unwrap();
    next.commit(&commit(2, &[("S0", 2)], &[])).await.unwrap();
    next.commit(&commit(3, &[("S0", 1)], &[])).await.unwrap();
    let rows = results.rows().await;
    assert_eq!(rows.len(), 1_502, "a value that comes back is no duplicate");
    assert!(rows[0].1.contains("Nats-Msg-Id: trading.results."), "{}", rows[0].1);
    assert_eq!(sink(&server).open(3).await.unwrap().progress, Some(commit(3, &[], &[]).progress));
}

#[tokio::test]
async fn a_stream_that_does_not_fit_says_what_to_add() {
    let server = NatsServer::start();
    let wrong = async |server: &NatsServer| match sink(server).open(1).await {
        Err(ClaimError::Fault(fault)) => fault,
        other => panic!("{other:?}"),
    };
    let fault = wrong(&server).await;
    assert_eq!(fault.remedy, Remedy::Stop);
    assert!(fault.message.contains("no stream captures waterwheel.progress.trading.results"));
    assert!(fault.help.unwrap().contains("nats stream add RESULTS"));

    let results = Results::create(&server, json!({ "subjects": ["results.>"] })).await;
    let help = wrong(&server).await.help.unwrap();
    let expected = "nats stream edit R --subjects='results.>,waterwheel.progress.trading.results'";
    assert_eq!(help, expected);
    results.api("STREAM.DELETE.R", json!({})).await;

    let narrow = json!({ "subjects": ["results.volume.BTC", "waterwheel.progress.>"] });
    let results = Results::create(&server, narrow).await;
    let fault = wrong(&server).await;
    assert!(fault.message.contains("but not results.volume.*"), "{fault}");
    results.api("STREAM.DELETE.R", json!({})).await;
}

#[tokio::test]
async fn rows_that_do_not_fit_halt_and_full_streams_wait() {
    let server = NatsServer::start_with("max_payload: 65536\n");
    let full = json!({ "allow_atomic": true, "max_msgs": 5, "discard": "new" });
    let results = Results::create(&server, full).await;
    let mut writer = sink(&server);
    writer.open(1).await.unwrap();
    let long = "x".repeat(70_000);
    let fault = writer.commit(&commit(1, &[(&long, 1)], &[])).await.unwrap_err();
    assert_eq!(fault.remedy, Remedy::Halt);
    assert!(fault.message.contains("70038 bytes"), "{}", &fault.message[70_000..]);

    writer.commit(&commit(1, &[("A", 1)], &[])).await.unwrap();
    let second = commit(2, &[("A", 2), ("B", 1)], &[]);
    let fault = writer.commit(&second).await.unwrap_err();
    assert_eq!(fault.remedy, Remedy::Retry, "{fault}");
    assert_eq!(writer.recover().await.unwrap(), Some(commit(1, &[], &[]).progress));
    results.api("STREAM.PURGE.R", json!({ "filter": "results.>" })).await;
    commit_through(&mut writer, &second).await;

    // Without its progress message nobody knows what is in the stream.
    results.api("STREAM.PURGE.R", json!({})).await;
    let fault = writer.commit(&commit(3, &[("A", 3)], &[])).await.unwrap_err();
    assert_eq!(fault.remedy, Remedy::Halt);
    assert!(fault.message.contains("is gone from stream R"), "{fault}");
}

#[test]
fn wrong_settings_are_findings() {
    for (settings, part) in [
        ("url = \"h\"", "needs the key `subject`"),
        ("subject = \"r.{simbol}\"", "t.toml:1:15"),
        ("subject = \"r.{simbol}\"", "did you mean `symbol`?"),
        ("subject = \"r\"\nkv = \"b\"", "`subject` and `kv` are two places"),
        ("kv = \"a.b\"", "`a.b` cannot be the name of a bucket"),
        ("subjects = \"r\"", "did you mean `subject`?"),
    ] {
        let found = findings(settings);
        assert!(found.contains(part), "{settings}\n{found}");
    }
    assert_eq!(findings("subject = \"r.{symbol}\"\nurl = \"h\""), "");
}
