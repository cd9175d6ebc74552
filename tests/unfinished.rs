//! A commit to NATS of more than one batch that is cut off between two of them is ended where it would
//! have ended, also where the events behind it take back what it said.
//!
//! A run that ended it elsewhere would see keys go from their old value to their old value, publish
//! nothing for them, and leave the value of the commit that was cut off in the stream.

use std::collections::BTreeMap;

use async_nats::jetstream::stream::Config;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::faults::results::{Message, messages};
use crate::support::nats_server::NatsServer;
use crate::support::stream::{block_on, connect, create, publish};
use crate::support::wait_until;
use crate::support::waterwheel::Deployment;

/// More changes than two batches of the sink hold.
const ACCOUNTS: usize = 2_400;
const BATCHES: u64 = 3;

/// How often it may happen that a run commits what stands before the large commit by itself.
const TRIES: usize = 10;

const DEPLOYMENT: &str = r#"
name = "trading"

[engine]
flush = "10ms"

[sources.events]
type = "nats"
url = "${EVENTS}"
stream = "EVENTS"
start = "first"
until = "end"
lateness = "1h"

# One event changes the balances of all accounts of its group.
[operators.bookings]
type = "join"
left = { from = "events", where = "event_type = 'account.opened'" }
right = { from = "events", where = "event_type = 'amount.booked'" }
on = "correlation_id"
within = "1h"
select.account = "left.user_id"
select.amount = "right.properties.amount"

[operators.balances]
type = "aggregate"
from = "bookings"
by = ["account"]
windows = ["1d"]
measures.balance = "sum(amount)"
"#;

const RESULTS: &str = r#"
[sinks.results]
type = "nats"
from = ["balances"]
url = "${RESULTS}"
subject = "results.{operator}"
"#;

/// Another sink, so that there is a place to cut at before the large commit; behind the first by name,
/// so that it is claimed after that.
const SHADOW: &str = r#"
[sinks.shadow]
type = "nats"
from = ["balances"]
url = "${EVENTS}"
subject = "shadow.{operator}"
"#;

#[test]
fn a_commit_that_was_cut_off_ends_where_it_would_have() {
    for batches in 1..BATCHES {
        is_ended_after(batches);
    }
}

/// Kills a run after so many batches of a commit, takes all back that it said, and goes on.
fn is_ended_after(batches: u64) {
    let mut stage = Stage::new();
    let both = format!("{RESULTS}{SHADOW}");
    stage.open_accounts();
    stage.book("all", 10);
    stage.book("one", 10);
    stage.deployment(&both).run();
    let mut tries = 0;
    loop {
        let before = stage.published;
        stage.book("one", 1);
        stage.deployment(SHADOW).run();
        stage.book("all", 5);
        stage.crash(batches);
        let last = stage.last(&stage.results, "results");
        // The small change ahead of the large one may have had an epoch and a commit of its own.
        if ordinal(&last["progress"]["record"]) == before {
            let step = (&last["chunk"], &last["chunks"]);
            assert_eq!(step, (&json!(batches), &json!(BATCHES)), "{last}");
            assert_eq!(ordinal(&last["unfinished"][0]), stage.published, "{last}");
            break;
        }
        tries += 1;
        assert!(tries < TRIES, "the large change does not come with the small one: {last}");
        stage.book("all", -5);
        stage.deployment(&both).run();
    }
    let large = stage.published;
    let changed = stage.balances().values().filter(|balance| **balance == 15.0).count();
    assert!(changed > 0, "nothing of the commit is to be seen");

    stage.book("all", -5);
    stage.go_on_late(&both);
    let expected = stage.expected();
    let found = stage.balances();
    let wrong = expected.iter().filter(|(account, balance)| found.get(*account) != Some(balance));
    let wrong: Vec<_> =
        wrong.map(|(account, balance)| (account, balance, found.get(account))).collect();
    assert!(wrong.is_empty(), "{} balances are wrong: {:?} ...", wrong.len(), wrong.first());
    assert_eq!(found.len(), expected.len());
    let ends = stage.ends();
    assert!(ends.ends_with(&[large, stage.published]), "commits end at {ends:?}");
    let last = stage.last(&stage.results, "results");
    assert!(last["unfinished"].as_array().is_none_or(Vec::is_empty), "{last}");
}

/// Events and the shadow on one server, the results on another.
struct Stage {
    events: NatsServer,
    results: NatsServer,
    published: usize,
    /// By group: what was booked.
    booked: BTreeMap<&'static str, i64>,
    directory: TempDir,
}

impl Stage {
    fn new() -> Self {
        let (events, results) = (NatsServer::start(), NatsServer::start());
        block_on(async {
            create(&connect(&events.url()).await, "EVENTS", "events").await;
            for (server, name, subject) in
                [(&events, "SHADOW", "shadow.>"), (&results, "RESULTS", "results.>")]
            {
                let config = Config {
                    name: name.to_owned(),
                    subjects: vec![subject.to_owned(), "waterwheel.progress.>".to_owned()],
                    allow_atomic_publish: true,
                    ..Config::default()
                };
                connect(&server.url()).await.create_stream(config).await.unwrap();
            }
        });
        let directory = TempDir::new().unwrap();
        Self { events, results, published: 0, booked: BTreeMap::new(), directory }
    }

    /// The accounts of the group `all`, and the one of the group `one`.
    fn open_accounts(&mut self) {
        let accounts = (0..ACCOUNTS).map(|number| (format!("account-{number}"), "all"));
        let events: Vec<Vec<u8>> = accounts
            .chain([("account-of-one".to_owned(), "one")])
            .enumerate()
            .map(|(index, (account, group))| event(index, "account.opened", &account, group, 0))
            .collect();
        self.publish(events);
    }

    /// Books an amount on every account of a group.
    fn book(&mut self, group: &'static str, amount: i64) {
        *self.booked.entry(group).or_default() += amount;
        self.publish(vec![event(self.published, "amount.booked", "bank", group, amount)]);
    }

    fn publish(&mut self, events: Vec<Vec<u8>>) {
        let count = events.len();
        block_on(async {
            publish(&connect(&self.events.url()).await, "events.trading", events).await
        });
        self.published += count;
    }

    /// What every account holds in the end.
    fn expected(&self) -> BTreeMap<String, f64> {
        let of = |group| self.booked[group] as f64;
        let all = (0..ACCOUNTS).map(|number| (format!("account-{number}"), of("all")));
        all.chain([("account-of-one".to_owned(), of("one"))]).collect()
    }

    fn deployment(&self, sinks: &str) -> Deployment {
        Deployment::new(&self.directory.path().join("run"), &format!("{DEPLOYMENT}{sinks}"))
            .set("EVENTS", self.events.url())
            .set("RESULTS", self.results.url())
    }

    /// Runs without the shadow until so many batches of a commit are in, or a commit as a whole.
    fn crash(&self, batches: u64) {
        let at = format!("nats.sink.batch.acked:{batches}");
        let ending = self.deployment(RESULTS).set("WATERWHEEL_CRASH_AT", &at).start().wait();
        let is_there = ending.stderr.contains("crashing at nats.sink.batch.acked, as asked");
        assert!(is_there, "`{at}` was not reached: {}: {}", ending.status, ending.stderr);
    }

    /// Runs to the end, where the results are not answered before everything waits for them: whatever
    /// may be gathered into one commit then is.
    fn go_on_late(&self, sinks: &str) {
        let claimed = |last: &Value| last["generation"].as_u64();
        let before = claimed(&self.last(&self.results, "results"));
        // Nothing is read before the results stand still.
        self.events.pause();
        let mut running = self.deployment(sinks).start();
        wait_until("the results are claimed", || {
            running.assert_running();
            claimed(&self.last(&self.results, "results")) > before
        });
        self.results.pause();
        self.events.resume();
        wait_until("the shadow has everything", || {
            running.assert_running();
            ordinal(&self.last(&self.events, "shadow")["progress"]["record"]) == self.published
        });
        self.results.resume();
        let ending = running.wait();
        assert!(ending.status.success(), "{}: {}", ending.status, ending.stderr);
    }

    /// The last message of progress of a sink.
    fn last(&self, server: &NatsServer, sink: &str) -> Value {
        let stream = sink.to_uppercase();
        let subject = format!("waterwheel.progress.trading.{sink}");
        block_on(async {
            let stream = connect(&server.url()).await.get_stream(stream).await.unwrap();
            let last = stream.get_last_raw_message_by_subject(&subject).await.unwrap();
            serde_json::from_slice(&last.payload).unwrap()
        })
    }

    fn messages(&self) -> Vec<Message> {
        block_on(messages(&self.results.url())).unwrap()
    }

    /// What readers make of the results: of each account the last value.
    fn balances(&self) -> BTreeMap<String, f64> {
        let rows = self.messages().into_iter().filter(|it| it.subject == "results.balances");
        let balance = |Message { body, .. }: Message| {
            assert_eq!(body["op"], "upsert", "{body}");
            (body["account"].as_str().unwrap().to_owned(), body["balance"].as_f64().unwrap())
        };
        rows.map(balance).collect()
    }

    /// Where whole commits ended.
    fn ends(&self) -> Vec<usize> {
        let progress = self.messages().into_iter().map(|message| message.body);
        let whole = progress.filter(|body| {
            body["chunks"].as_u64().is_some_and(|chunks| chunks > 0 && body["chunk"] == chunks)
        });
        whole.map(|body| ordinal(&body["progress"]["record"])).collect()
    }
}

fn event(number: usize, kind: &str, user: &str, group: &str, amount: i64) -> Vec<u8> {
    let event = json!({
        "id": format!("event-{number}"),
        "event_type": kind,
        "user_id": user,
        "correlation_id": group,
        "timestamp": format!("2026-03-01T12:00:00.{number:06}Z"),
        "properties": { "amount": amount },
    });
    event.to_string().into_bytes()
}

/// How far the events were read.
fn ordinal(record: &Value) -> usize {
    record["positions"]["events"]["ordinal"].as_u64().unwrap_or(0) as usize
}
