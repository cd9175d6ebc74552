//! The stream of results as its readers see it: every change once, in commits that go forwards.

use std::collections::BTreeMap;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use futures::StreamExt;
use serde_json::Value;

use crate::support::rows::Row;
use crate::support::stream::{block_on, connect};
use crate::support::trading::OPERATORS;

/// The subject of the progress.
pub(super) const PROGRESS: &str = "waterwheel.progress.trading.results";

const SUBJECTS: &str = "results.";

/// A message of the stream.
pub(crate) struct Message {
    pub(crate) subject: String,
    epoch: Option<u64>,
    pub(crate) body: Value,
}

/// What the messages amount to.
#[derive(Debug, Default)]
pub(super) struct Results {
    /// Sequence and id of the raw events, in the order of the stream.
    pub(super) events: Vec<(u64, String)>,
    /// What is left when the last change of a key wins.
    rows: BTreeMap<(String, String), Row>,
    pub(super) commits: u64,
    /// Commits of several batches that a kill left half way; the next run made them again.
    pub(super) torn: u64,
}

impl Results {
    /// Reads the whole stream.
    pub(super) fn read(url: &str) -> Result<Self, String> {
        fold(&block_on(messages(url)).map_err(|error| format!("the stream of results: {error}"))?)
    }

    /// The rows of an operator at the end.
    pub(super) fn rows(&self, operator: &str) -> Vec<Row> {
        let of = self.rows.iter().filter(|((name, _), _)| name == operator);
        of.map(|(_, row)| row.clone()).collect()
    }
}

/// Every message of the stream of results in order.
pub(crate) async fn messages(url: &str) -> Result<Vec<Message>, async_nats::Error> {
    let stream = connect(url).await.get_stream("RESULTS").await?;
    let count = stream.cached_info().state.messages as usize;
    let config = pull::Config { ack_policy: AckPolicy::None, ..pull::Config::default() };
    let consumer = stream.create_consumer(config).await?;
    let mut found = Vec::with_capacity(count);
    while found.len() < count {
        let before = found.len();
        let mut batch = consumer.fetch().max_messages(2_000).messages().await?;
        while let Some(message) = batch.next().await {
            let message = message?;
            let header = |name| Some(message.headers.as_ref()?.get(name)?.as_str());
            found.push(Message {
                subject: message.subject.to_string(),
                epoch: header("Waterwheel-Epoch").and_then(|epoch| epoch.parse().ok()),
                body: serde_json::from_slice(&message.payload)?,
            });
        }
        if found.len() == before {
            return Err(format!("{before} of {count} messages came").into());
        }
    }
    Ok(found)
}

/// The commit that is being read.
#[derive(Default)]
struct Pending {
    events: Vec<(u64, String)>,
    epochs: Vec<u64>,
    /// True once one of its batches is in that is not the last one.
    is_begun: bool,
}

/// Follows the messages one by one. Batches are atomic, so that rows stand before a message of
/// progress; and what that says must be what the rows make.
fn fold(messages: &[Message]) -> Result<Results, String> {
    let mut results = Results::default();
    let mut pending = Pending::default();
    let (mut generation, mut ordinal, mut is_finished) = (0, 0, false);
    for message in messages {
        let Message { subject, body, .. } = message;
        if let Some(operator) = subject.strip_prefix(SUBJECTS) {
            pending.epochs.extend(message.epoch);
            results.change(operator, body, &mut pending)?;
            continue;
        }
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        let (new, chunk, chunks) =
            (number(&body["generation"]), number(&body["chunk"]), number(&body["chunks"]));
        let record = &body["progress"]["record"];
        let reached = number(&record["positions"]["events"]["ordinal"]);
        let finishes = body["progress"]["finished"] == true;
        if chunk == 0 {
            if new <= generation {
                return Err(format!("generation {new} claims after {generation}"));
            }
            generation = new;
            if (reached, finishes) != (ordinal, is_finished) {
                return Err(format!("a claim says {reached} and the last commit {ordinal}"));
            }
            if !pending.epochs.is_empty() && !pending.is_begun {
                return Err(format!("rows after {ordinal} have no progress"));
            }
            results.torn += u64::from(pending.is_begun);
            pending = Pending::default();
            continue;
        }
        if new != generation {
            return Err(format!("generation {new} commits under generation {generation}"));
        }
        if chunk < chunks {
            pending.is_begun = true;
            continue;
        }
        if reached < ordinal || (reached == ordinal && (is_finished || !finishes)) {
            return Err(format!("a commit of {reached} comes after one of {ordinal}"));
        }
        let epoch = number(&record["epoch"]);
        if pending.epochs.iter().any(|of| *of != epoch) {
            return Err(format!("rows of other epochs are in the commit of epoch {epoch}"));
        }
        results.events.append(&mut pending.events);
        if results.events.len() as u64 != reached {
            let count = results.events.len();
            return Err(format!("the commit of {reached} has {count} events up to it"));
        }
        (ordinal, is_finished) = (reached, finishes);
        pending = Pending::default();
        results.commits += 1;
    }
    match pending.epochs.len() {
        0 => Ok(results),
        rows => Err(format!("{rows} rows at the end have no progress")),
    }
}

impl Results {
    fn change(
        &mut self,
        operator: &str,
        body: &Value,
        pending: &mut Pending,
    ) -> Result<(), String> {
        let mut row = body.as_object().cloned().ok_or("a row is no object")?;
        let op = row.remove("op");
        if operator == "events" {
            let sequence = row.get("sequence").and_then(Value::as_u64).ok_or("no sequence")?;
            let id = row.get("id").and_then(Value::as_str).unwrap_or_default();
            pending.events.push((sequence, id.to_owned()));
            return Ok(());
        }
        let known = OPERATORS.iter().find(|(name, _)| *name == operator);
        let (_, columns) = known.ok_or_else(|| format!("results of {operator}"))?;
        let key: Vec<Option<&Value>> = columns.iter().map(|column| row.get(*column)).collect();
        let key = (operator.to_owned(), format!("{key:?}"));
        match op.as_ref().and_then(Value::as_str) {
            Some("upsert") => {
                self.rows.insert(key, row);
            }
            Some("delete") => {
                self.rows.remove(&key);
            }
            _ => return Err(format!("a row of {operator} has the op {op:?}")),
        }
        Ok(())
    }
}

mod tests {
    use serde_json::json;

    use super::*;

    fn claim(generation: u64, ordinal: u64) -> Message {
        progress(generation, ordinal, 0, 0)
    }

    fn commit(generation: u64, ordinal: u64) -> Message {
        progress(generation, ordinal, 1, 1)
    }

    fn progress(generation: u64, ordinal: u64, chunk: u64, chunks: u64) -> Message {
        let record = json!({ "epoch": ordinal, "positions": { "events": { "ordinal": ordinal } } });
        let progress = json!({ "record": record, "finished": false });
        let body = json!({ "generation": generation, "progress": progress, "chunk": chunk,
            "chunks": chunks });
        Message { subject: PROGRESS.to_owned(), epoch: None, body }
    }

    fn event(sequence: u64, epoch: u64) -> Message {
        let body = json!({ "op": "upsert", "sequence": sequence, "id": "x" });
        Message { subject: "results.events".to_owned(), epoch: Some(epoch), body }
    }

    #[test]
    fn whole_commits_are_followed() {
        let results = fold(&[
            claim(1, 0),
            event(1, 1),
            commit(1, 1),
            claim(3, 1),
            event(2, 2),
            progress(3, 1, 1, 2),
            claim(4, 1),
            event(2, 3),
            event(3, 3),
            commit(4, 3),
        ]);
        let results = results.unwrap();
        assert_eq!((results.commits, results.torn, results.events.len()), (2, 1, 3));
    }

    #[test]
    fn what_must_not_happen_is_noticed() {
        for (wrong, messages) in [
            ("no progress", vec![claim(1, 0), event(1, 1)]),
            ("no progress", vec![claim(1, 0), event(1, 1), claim(2, 0)]),
            ("comes after", vec![claim(1, 0), event(1, 1), commit(1, 1), commit(1, 1)]),
            ("2 events up to", vec![claim(1, 0), event(1, 1), event(1, 1), commit(1, 1)]),
            ("0 events up to", vec![claim(1, 0), commit(1, 1)]),
            ("other epochs", vec![claim(1, 0), event(1, 2), commit(1, 1)]),
            ("claims after", vec![claim(2, 0), claim(2, 0)]),
            ("the last commit", vec![claim(1, 0), event(1, 1), commit(1, 1), claim(2, 0)]),
            ("under generation", vec![claim(1, 0), claim(2, 0), event(1, 1), commit(1, 1)]),
        ] {
            let problem = fold(&messages).unwrap_err();
            assert!(problem.contains(wrong), "{wrong}: {problem}");
        }
    }
}
