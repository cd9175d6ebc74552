//! The stream that keeps results and progress, and the two ways to publish into it: atomic batches
//! where the stream allows them, acknowledged single messages elsewhere.
//!
//! The progress message is written under the condition that the one before it is still the last on
//! its subject. That makes a claim, and fences off whoever claimed before.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use async_nats::{HeaderMap, Request};
use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use waterwheel_pipeline::contract::epoch::{EpochRecord, Generation, Progress};
use waterwheel_pipeline::contract::event::TRACEPARENT;
use waterwheel_pipeline::contract::failpoint;
use waterwheel_pipeline::contract::fault::Fault;
use waterwheel_pipeline::contract::nats::api::{
    ApiError, STREAM_NOT_FOUND, StreamInfo, WRONG_LAST_SEQUENCE,
};
use waterwheel_pipeline::contract::nats::{Connection, subject};

use super::messages::Outgoing;

/// The server takes at most this many messages in one batch.
const BATCH_MESSAGES_MAX: usize = 1000;

/// How many rows are made into messages at once where there are no batches.
const ROWS_AT_ONCE: usize = 10_000;

/// How many acknowledgements are outstanding at most.
const WINDOW: usize = 256;

/// The level of the API since which batches are atomic.
const ATOMIC_LEVEL: u64 = 2;

/// Faults of the stream's store and of the server's resources: they pass.
const PASSING: [u64; 6] = [10008, 10023, 10077, 10176, 10210, 10047];

/// The body of a progress message.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Stored {
    pub(super) generation: Generation,
    /// The progress of the last whole commit.
    pub(super) progress: Option<Progress>,
    /// How many batches of the commit at hand are in, this one included.
    pub(super) chunk: usize,
    /// How many it has. If `chunk` is less, rows ahead of `progress` may have been published.
    pub(super) chunks: usize,
    /// Where the commits stood of which such rows are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) unfinished: Vec<EpochRecord>,
}

impl Stored {
    /// The claim of a generation: it knows what the one before knew.
    pub(super) fn claim(generation: Generation, before: Option<Self>) -> Self {
        let (progress, unfinished) =
            before.map(|before| (before.progress, before.unfinished)).unwrap_or_default();
        Self { generation, progress, chunk: 0, chunks: 0, unfinished }
    }
}

/// Where the sink publishes.
pub(super) struct Outlet {
    connection: Connection,
    progress_subject: String,
    stream: StreamInfo,
    /// The subjects of the results.
    patterns: Vec<String>,
    atomic: bool,
    /// The progress is exempt from the stream's `max_age`.
    never_expires: bool,
}

impl Outlet {
    /// Finds the stream that captures the progress and every result.
    pub(super) async fn find(
        connection: Connection,
        progress_subject: String,
        patterns: &[&str],
    ) -> Result<Self, Fault> {
        let api = &connection.api;
        let streams = api.streams_with(&progress_subject).await;
        let streams = streams.map_err(|error| error.fault("looking for the stream of results"))?;
        let Some(name) = streams.first() else {
            if let Some(bucket) = bucket_of(&progress_subject) {
                return Err(Fault::stop(format!("there is no key-value bucket `{bucket}`"))
                    .help(format!("make it: nats kv add {bucket}")));
            }
            return Err(uncaptured(&connection, &progress_subject, patterns).await);
        };
        let stream =
            api.stream_info(name).await.map_err(|error| error.fault(&format!("stream {name}")))?;
        let captured =
            |pattern: &str| stream.subjects.iter().any(|it| subject::covers(it, pattern));
        let missing: Vec<&str> = patterns.iter().copied().filter(|it| !captured(it)).collect();
        if !missing.is_empty() {
            return Err(Fault::stop(format!(
                "stream {name} captures {progress_subject}, but not {}",
                missing.join(", ")
            ))
            .help(format!(
                "results and progress must be in one stream: {}",
                edit(&stream, &missing)
            )));
        }
        let level = api.level().await.map_err(|error| error.fault("JetStream"))?;
        let atomic = level >= ATOMIC_LEVEL && stream.config["allow_atomic"] == Value::Bool(true);
        // A server that does not know the key does not give it back.
        let never_expires = stream.config["allow_msg_ttl"] == Value::Bool(true);
        let patterns = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        Ok(Self { connection, progress_subject, stream, patterns, atomic, never_expires })
    }

    /// The fault where the progress message was there and is no longer.
    pub(super) fn gone(&self) -> Fault {
        Fault::halt(format!(
            "the progress message on {} is gone from stream {}: nobody knows what of the result is \
             in it",
            self.progress_subject, self.stream.name
        ))
        .help(self.after_loss())
    }

    fn after_loss(&self) -> String {
        format!(
            "limits or a purge removed it: restore stream {} from a backup, or purge the results as \
             well, on {}, to have them published again from the beginning",
            self.stream.name,
            self.patterns.join(", ")
        )
    }

    /// Refuses to begin anew beside results of before: they would be published twice.
    pub(super) async fn refuse_orphans(&self) -> Result<(), Fault> {
        if failpoint::has_bug("missing-progress-is-fresh") {
            return Ok(());
        }
        let name = &self.stream.name;
        for pattern in &self.patterns {
            let found = self.connection.api.first_message_on(name, pattern).await;
            let found = found.map_err(|error| error.fault(&format!("stream {name}")))?;
            if let Some(found) = found {
                return Err(Fault::halt(format!(
                    "stream {name} holds results, such as message {} on {}, and no progress on {}",
                    found.sequence, found.subject, self.progress_subject
                ))
                .help(self.after_loss()));
            }
        }
        Ok(())
    }

    /// Why the stream may lose the progress message, or refuse it for good.
    pub(super) fn refusal(&self) -> Option<Fault> {
        let config = &self.stream.config;
        let is_set = |key: &str| config[key].as_i64().is_some_and(|limit| limit > 0);
        let discards_new = config["discard"] == "new";
        let retention = config["retention"].as_str().unwrap_or("limits");
        let (why, help) = if retention != "limits" {
            let help = "use a stream with limits retention for the results".to_owned();
            (format!("has {retention} retention, which removes"), help)
        } else if let Some(key) = ["max_msgs", "max_bytes"].into_iter().find(|key| is_set(key))
            && !discards_new
        {
            let help = format!("set discard to new, or take {key} away");
            (format!("has {key} and discards old messages, which removes"), help)
        } else if is_set("max_age") && !self.never_expires {
            let help = "set allow_msg_ttl (nats-server 2.11 or later), under which the progress \
                        never expires, or take max_age away";
            ("has max_age, which removes".to_owned(), help.to_owned())
        } else if config["discard_new_per_subject"] == Value::Bool(true)
            && is_set("max_msgs_per_subject")
        {
            let help = "take discard_new_per_subject away".to_owned();
            ("has discard_new_per_subject, which soon refuses".to_owned(), help)
        } else {
            return None;
        };
        let (name, progress) = (&self.stream.name, &self.progress_subject);
        let message = format!("stream {name} {why} the progress message on {progress}");
        Some(Fault::stop(format!("{message}: results would be lost or published twice")).help(help))
    }

    /// What keeps the sink from being exactly once.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let name = &self.stream.name;
        if !self.atomic {
            problems.push(format!(
                "results are published at least once: stream {name} has no atomic batches; with \
                 nats-server 2.12 or later set allow_atomic on it"
            ));
        }
        problems
    }

    /// The last progress message and its sequence.
    pub(super) async fn stored(&self) -> Result<Option<(u64, Stored)>, Fault> {
        let what = format!("reading {} in stream {}", self.progress_subject, self.stream.name);
        let last =
            self.connection.api.last_message(&self.stream.name, &self.progress_subject).await;
        let Some(last) = last.map_err(|error| error.fault(&what))? else { return Ok(None) };
        let stored = serde_json::from_slice(&last.payload).map_err(|error| {
            Fault::halt(format!("{what}: message {} is no progress: {error}", last.sequence))
                .help("nothing but waterwheel may publish there")
        })?;
        Ok(Some((last.sequence, stored)))
    }

    /// Writes a progress message by itself. `None` if `guard` is not the last one.
    pub(super) async fn replace(&self, guard: u64, stored: &Stored) -> Result<Option<u64>, Fault> {
        let (headers, payload) = self.progress_message(guard, stored)?;
        self.settle(self.request(self.progress_subject.clone(), headers, payload).await)
    }

    /// True if rows appear in one step with the progress message behind them.
    pub(super) fn is_atomic(&self) -> bool {
        self.atomic
    }

    /// How many rows go out with one progress message.
    pub(super) fn chunk_len(&self) -> usize {
        if self.atomic { BATCH_MESSAGES_MAX - 1 } else { ROWS_AT_ONCE }
    }

    /// How many times that is for a commit.
    pub(super) fn chunks(&self, rows: usize) -> usize {
        rows.div_ceil(self.chunk_len()).max(1)
    }

    /// Publishes rows and progress. `None` if `guard` is not the last progress message.
    pub(super) async fn publish(
        &self,
        (rows, headers): (Vec<Outgoing>, HeaderMap),
        guard: u64,
        stored: &Stored,
    ) -> Result<Option<u64>, Fault> {
        self.check_sizes(&rows)?;
        if rows.is_empty() {
            return self.replace(guard, stored).await;
        }
        if self.atomic && !failpoint::has_bug("dedupe-window") {
            return self.publish_batch(rows, headers, guard, stored).await;
        }
        let sent = stream::iter(rows.into_iter().map(|row| {
            let mut headers = headers.clone();
            headers.insert("Nats-Msg-Id", row.id.as_str());
            add_headers(&mut headers, &row);
            self.request(row.subject, headers, row.payload)
        }));
        // All of them are in before the progress says so.
        sent.buffered(WINDOW)
            .try_for_each(|_| std::future::ready(Ok(())))
            .await
            .map_err(|error| self.publish_fault(&error))?;
        self.replace(guard, stored).await
    }

    async fn publish_batch(
        &self,
        rows: Vec<Outgoing>,
        headers: HeaderMap,
        guard: u64,
        stored: &Stored,
    ) -> Result<Option<u64>, Fault> {
        let inbox = self.connection.client.new_inbox();
        let batch_id = inbox.rsplit('.').next().unwrap_or_default();
        let numbered = |mut headers: HeaderMap, number: usize| {
            headers.insert("Nats-Batch-Id", batch_id);
            headers.insert("Nats-Batch-Sequence", number.to_string());
            headers
        };
        let count = rows.len();
        failpoint::reach("nats.sink.batch.begun");
        for (index, row) in rows.into_iter().enumerate() {
            let mut headers = numbered(headers.clone(), index + 1);
            add_headers(&mut headers, &row);
            if index + 1 == count && failpoint::has_bug("progress-apart") {
                headers.insert("Nats-Batch-Commit", "1");
                let ended = self.end_batch(row.subject, headers, row.payload).await;
                ended.map_err(|error| self.publish_fault(&error))?;
                return self.replace(guard, stored).await;
            }
            // The first one is answered, so that a stream that takes no batches shows at once. The
            // others are not: what is wrong with them shows at the end.
            if index == 0 {
                let first = self.request(row.subject, headers, row.payload).await;
                first.map_err(|error| self.publish_fault(&error))?;
                failpoint::reach("nats.sink.batch.opened");
                continue;
            }
            let client = &self.connection.client;
            let sent = client.publish_with_headers(row.subject, headers, row.payload).await;
            sent.map_err(|error| Fault::retry(format!("publishing to NATS: {error}")))?;
        }
        failpoint::reach("nats.sink.rows.sent");
        let (headers, payload) = self.progress_message(guard, stored)?;
        let mut headers = numbered(headers, count + 1);
        headers.insert("Nats-Batch-Commit", "1");
        self.settle(self.end_batch(self.progress_subject.clone(), headers, payload).await)
    }

    /// Publishes the last message of a batch and waits for the stream's answer.
    async fn end_batch(
        &self,
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<u64, ApiError> {
        let mut answer = pin!(self.request(subject, headers, payload));
        let answered = match futures::poll!(answer.as_mut()) {
            Poll::Ready(answered) => answered,
            Poll::Pending => {
                if failpoint::is_awaited("nats.sink.batch.sent") {
                    let _ = self.connection.client.flush().await;
                    // The server reads what it was sent in its own time.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                failpoint::reach("nats.sink.batch.sent");
                answer.await
            }
        };
        if answered.is_ok() {
            failpoint::reach("nats.sink.batch.acked");
        }
        answered
    }

    fn progress_message(&self, guard: u64, stored: &Stored) -> Result<(HeaderMap, Bytes), Fault> {
        let payload = serde_json::to_vec(stored)
            .map_err(|error| Fault::halt(format!("progress cannot be written as JSON: {error}")))?;
        let mut headers = HeaderMap::new();
        if !failpoint::has_bug("dedupe-window") {
            headers.insert("Nats-Expected-Last-Subject-Sequence", guard.to_string());
        }
        if self.never_expires {
            headers.insert("Nats-TTL", "never");
        }
        Ok((headers, payload.into()))
    }

    /// Publishes one message and waits for the stream's answer: the message's sequence, or zero
    /// where a batch goes on.
    async fn request(
        &self,
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<u64, ApiError> {
        let request = Request::new().headers(headers).payload(payload);
        let answer = self.connection.api.request(subject, request).await?;
        if answer.payload.is_empty() {
            return Ok(0);
        }
        let answer: Value = serde_json::from_slice(&answer.payload)
            .map_err(|error| ApiError::Unanswered(format!("the answer is not JSON: {error}")))?;
        match ApiError::of_answer(&answer) {
            Some(error) => Err(error),
            None => Ok(answer["seq"].as_u64().unwrap_or(0)),
        }
    }

    fn settle(&self, answer: Result<u64, ApiError>) -> Result<Option<u64>, Fault> {
        match answer {
            Ok(0) => {
                Err(Fault::halt("the stream stored the progress without a sequence")
                    .unknown_outcome())
            }
            Ok(sequence) => Ok(Some(sequence)),
            Err(error) if error.err_code() == WRONG_LAST_SEQUENCE => Ok(None),
            Err(error) => Err(self.publish_fault(&error)),
        }
    }

    fn publish_fault(&self, error: &ApiError) -> Fault {
        let what = format!("publishing into stream {}", self.stream.name);
        match error {
            ApiError::Unanswered(_) => error.fault(&what).unknown_outcome(),
            ApiError::Refused { code, err_code, description } => {
                let message = format!("{what}: {description} ({err_code})");
                if *code >= 500 || PASSING.contains(err_code) {
                    Fault::retry(message)
                } else if *err_code == STREAM_NOT_FOUND {
                    Fault::stop(message)
                } else {
                    Fault::halt(message)
                }
            }
            ApiError::Denied(_) | ApiError::LoginRefused(_) => error.fault(&what),
        }
    }

    /// How many bytes the payload of a message may have.
    pub(super) fn payload_bytes_max(&self) -> usize {
        const HEADERS_BYTES: usize = 512;
        let mut limit = self.connection.client.max_payload();
        if let Some(size) = self.stream.config["max_msg_size"].as_u64() {
            limit = limit.min(usize::try_from(size).unwrap_or(limit));
        }
        limit.saturating_sub(HEADERS_BYTES)
    }

    /// A message over the limit would close the connection, again and again.
    fn check_sizes(&self, rows: &[Outgoing]) -> Result<(), Fault> {
        let limit = self.payload_bytes_max();
        let too_large = rows.iter().find(|row| row.payload.len() > limit);
        too_large.map_or(Ok(()), |row| {
            let size = row.payload.len();
            Err(Fault::halt(format!(
                "the row `{}` is a message of {size} bytes, and the limit is {limit}",
                row.key
            ))
            .help("raise max_payload of the server and max_msg_size of the stream, or leave columns out"))
        })
    }
}

/// What a row carries besides.
fn add_headers(headers: &mut HeaderMap, row: &Outgoing) {
    if row.is_marker {
        headers.insert("KV-Operation", "DEL");
    }
    if let Some(trace) = &row.traceparent {
        headers.insert(TRACEPARENT, trace.as_str());
    }
    if let Some(columns) = &row.left_out {
        headers.insert("Waterwheel-Left-Out", columns.as_str());
    }
}

/// The bucket whose key this subject is.
fn bucket_of(subject: &str) -> Option<&str> {
    subject.strip_prefix("$KV.")?.split('.').next()
}

/// No stream captures the progress: says what to add to which.
async fn uncaptured(connection: &Connection, progress: &str, patterns: &[&str]) -> Fault {
    let fault = Fault::stop(format!("no stream captures {progress}"));
    let mut wanted = vec![progress];
    for pattern in patterns {
        let Ok(streams) = connection.api.streams_with(pattern).await else { break };
        if let Some(name) = streams.first()
            && let Ok(stream) = connection.api.stream_info(name).await
        {
            wanted.extend(
                patterns.iter().filter(|pattern| {
                    !stream.subjects.iter().any(|it| subject::covers(it, pattern))
                }),
            );
            return fault.help(edit(&stream, &wanted));
        }
    }
    wanted.extend(patterns);
    fault.help(format!(
        "make a stream for the results: nats stream add RESULTS --subjects='{}', with allow_atomic",
        wanted.join(",")
    ))
}

fn edit(stream: &StreamInfo, missing: &[&str]) -> String {
    let mut all: Vec<&str> = stream.subjects.iter().map(String::as_str).collect();
    all.extend(missing);
    all.dedup();
    format!("nats stream edit {} --subjects='{}'", stream.name, all.join(","))
}
