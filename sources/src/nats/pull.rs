//! One consumer and the messages that it delivers: pull requests, statuses, and holes.
//!
//! The consumer is ephemeral and asks for no acknowledgements, unless the stream is a work queue: how
//! far the stream was read is known by the sinks alone. Whatever goes wrong, the consumer is thrown away and another one is made
//! behind the last message taken.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, Subscriber};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;
use waterwheel_pipeline::contract::failpoint;
use waterwheel_pipeline::contract::fault::Fault;
use waterwheel_pipeline::contract::nats::Connection;
use waterwheel_pipeline::contract::nats::api::ApiError;

use super::Settings;
use super::reply::Delivery;
use super::retention::{Retention, Unacknowledged, add_filters};

/// Messages of one pull request. Two requests are never more than a subscription holds.
const PULL_MESSAGES: u64 = 8192;

/// Bytes of one pull request: two of them stay far below the 64 MiB at which a server cuts a slow
/// client off.
const PULL_BYTES: u64 = 8 << 20;

/// A message of more than this cannot be pulled.
const PULL_BYTES_MAX: u64 = 256 << 20;

/// A pull request ends after this long without messages.
const PULL_EXPIRES: Duration = Duration::from_secs(5);

/// The server is heard from at least this often while a request waits.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// After this silence the consumer is given up.
const SILENCE: Duration = Duration::from_millis(2500);

/// The server removes the consumer of a reader that is gone.
const INACTIVE_THRESHOLD: Duration = Duration::from_secs(300);

/// A message of a work queue is given again after this long without an acknowledgement: much
/// longer than anybody waits between two checkpoints.
const ACK_WAIT: Duration = Duration::from_secs(365 * 24 * 3600);

/// What a message of the inbox is.
pub(super) enum Heard {
    /// A message of the stream.
    Message(Delivery),
    /// The server's housekeeping.
    Housekeeping,
    /// The consumer must be thrown away; why.
    Broken(String),
}

/// What waits at the server of one pull request.
struct Pull {
    messages: u64,
    bytes: u64,
}

/// A consumer, its inbox and its pull requests.
pub(super) struct Reader {
    connection: Connection,
    pub(super) inbox: Subscriber,
    pub(super) connects: watch::Receiver<u64>,
    stream: Arc<str>,
    name: String,
    inbox_subject: String,
    next_subject: String,
    consumer_sequence: u64,
    /// Of a work queue: what was delivered and is to be acknowledged.
    unacknowledged: Option<Unacknowledged>,
    pulls: VecDeque<Pull>,
    /// Requests that were served and of which the server has not said so yet. It does so behind the
    /// first messages of the next, and not every server does.
    served: u64,
    pull_bytes: u64,
    /// Since when nothing has been delivered,
    quiet_since: Instant,
    /// and when the server last said so.
    quiet_until: Option<Instant>,
    /// When the server was last heard.
    pub(super) heard_at: Instant,
    /// How many messages waited when the consumer was made.
    pub(super) pending: u64,
    /// The sequence behind which the server begins; more than was asked for where messages are
    /// gone.
    pub(super) begins_after: u64,
}

impl Reader {
    /// Makes a consumer behind the sequence `after`.
    pub(super) async fn create(
        connection: &Connection,
        settings: &Settings,
        retention: &Retention,
        after: u64,
        least_pull_bytes: u64,
    ) -> Result<Self, Fault> {
        let stream: Arc<str> = settings.stream.as_str().into();
        let what = format!("stream {stream}: making a consumer");
        let mut connects = connection.connects();
        connects.mark_unchanged();
        // An inbox of its own, so that nothing from an earlier consumer mixes in.
        let inbox_subject = connection.client.new_inbox();
        let name = match retention {
            Retention::WorkQueue(name) => name.clone(),
            _ => format!("waterwheel_{}", inbox_subject.rsplit('.').next().unwrap_or("reader")),
        };
        let is_queue = matches!(retention, Retention::WorkQueue(_));
        let inbox = connection
            .client
            .subscribe(inbox_subject.clone())
            .await
            .map_err(|error| Fault::retry(format!("{what}: {error}")))?;
        if is_queue {
            // A queue has one consumer for a subject, and what it was given it is not given again.
            let call = format!("CONSUMER.DELETE.{stream}.{name}");
            match connection.api.call(&call, &Value::Null).await {
                Err(ApiError::Refused { .. }) => {}
                deleted => {
                    deleted.map_err(|error| error.fault(&what))?;
                }
            }
        }
        let (call, body) = create_request(settings, retention, &name, after);
        let created =
            connection.api.call(&call, &body).await.map_err(|error| error.fault(&what))?;
        check_created(&created, &body).map_err(|why| Fault::stop(format!("{what}: {why}")))?;
        let max_payload = connection.client.max_payload() as u64;
        Ok(Self {
            connection: connection.clone(),
            inbox,
            connects,
            unacknowledged: is_queue.then(Unacknowledged::default),
            next_subject: connection.api.subject(&format!("CONSUMER.MSG.NEXT.{stream}.{name}")),
            stream,
            name,
            inbox_subject,
            consumer_sequence: 0,
            pulls: VecDeque::new(),
            served: 0,
            // The largest message must fit with its subject and headers.
            pull_bytes: PULL_BYTES.max(max_payload + (64 << 10)).max(least_pull_bytes),
            quiet_since: Instant::now(),
            quiet_until: None,
            heard_at: Instant::now(),
            pending: created["num_pending"].as_u64().unwrap_or(u64::MAX),
            begins_after: created["delivered"]["stream_seq"].as_u64().unwrap_or(after),
        })
    }

    /// When to give up if the server stays silent.
    pub(super) fn silent_at(&self) -> Instant {
        self.heard_at + SILENCE
    }

    /// For how long the server has certainly delivered nothing while it was asked for more: it says so
    /// every now and then.
    pub(super) fn silence(&self) -> Option<Duration> {
        let until = self.quiet_until.filter(|_| !self.pulls.is_empty())?;
        Some(until.saturating_duration_since(self.quiet_since))
    }

    /// Asks for more when the request before is half served, so that the server never waits for
    /// us; two requests at most, so that what is under way has a bound.
    pub(super) async fn pull(&mut self) -> Result<(), String> {
        let half_served =
            |pull: &Pull| pull.messages <= PULL_MESSAGES / 2 || pull.bytes <= self.pull_bytes / 2;
        let wanted = match self.pulls.len() {
            0 => true,
            1 => self.pulls.front().is_some_and(half_served),
            _ => false,
        };
        if !wanted {
            return Ok(());
        }
        let request = format!(
            r#"{{"batch":{PULL_MESSAGES},"max_bytes":{},"expires":{},"idle_heartbeat":{}}}"#,
            self.pull_bytes,
            PULL_EXPIRES.as_nanos(),
            HEARTBEAT.as_nanos()
        );
        let (subject, inbox) = (self.next_subject.clone(), self.inbox_subject.clone());
        let sent = self.connection.client.publish_with_reply(subject, inbox, request.into()).await;
        sent.map_err(|error| format!("a pull request could not be sent: {error}"))?;
        self.pulls.push_back(Pull { messages: PULL_MESSAGES, bytes: self.pull_bytes });
        Ok(())
    }

    /// Takes note of a message of the inbox.
    pub(super) fn hear(&mut self, message: &Message) -> Heard {
        // A stored message may carry a status line of its own, so the reply subject decides.
        let delivery = message.reply.as_ref().and_then(|reply| Delivery::parse(reply));
        let Some(delivery) = delivery else { return self.hear_status(message) };
        let expected = self.consumer_sequence + 1;
        if delivery.consumer_sequence != expected {
            return Heard::Broken(format!(
                "delivery {} came where {expected} was due",
                delivery.consumer_sequence
            ));
        }
        self.consumer_sequence = expected;
        (self.quiet_since, self.quiet_until) = (Instant::now(), None);
        if let (Some(unacknowledged), Some(reply)) = (&mut self.unacknowledged, &message.reply) {
            unacknowledged.note(reply, delivery.stream_sequence, delivery.consumer_sequence);
        }
        if let Some(pull) = self.pulls.front_mut() {
            pull.messages = pull.messages.saturating_sub(1);
            pull.bytes = pull.bytes.saturating_sub(message.length as u64);
            if pull.messages == 0 {
                self.pulls.pop_front();
                self.served += 1;
            }
        }
        Heard::Message(delivery)
    }

    fn hear_status(&mut self, message: &Message) -> Heard {
        let said = message.description.as_deref().unwrap_or_default();
        match message.status.map(|status| status.as_u16()) {
            Some(100) => self.hear_heartbeat(message),
            Some(404 | 408) => {
                self.quiet_until = Some(Instant::now());
                self.pulls.pop_front();
                Heard::Housekeeping
            }
            Some(409) if said.eq_ignore_ascii_case("Batch Completed") => {
                match self.served {
                    0 => drop(self.pulls.pop_front()),
                    _ => self.served -= 1,
                }
                Heard::Housekeeping
            }
            Some(409) if said.to_ascii_lowercase().contains("maxbytes") => self.hear_full(message),
            Some(status) => Heard::Broken(format!("the server says {status} {said}")),
            None => Heard::Housekeeping,
        }
    }

    /// A heartbeat says up to where the server has delivered: what is missing then was lost on the way,
    /// and no later message may ever show it.
    fn hear_heartbeat(&mut self, message: &Message) -> Heard {
        if let Some(delivered) = header_number(message, "Nats-Last-Consumer")
            && delivered > self.consumer_sequence
        {
            return Heard::Broken(format!(
                "deliveries {} to {delivered} did not come",
                self.consumer_sequence + 1
            ));
        }
        self.quiet_until = Some(Instant::now());
        Heard::Housekeeping
    }

    /// A request ends when the next message does not fit into the rest of it. If it does not fit
    /// into a whole one either, the requests must be larger.
    fn hear_full(&mut self, message: &Message) -> Heard {
        self.pulls.pop_front();
        let left = header_number(message, "Nats-Pending-Bytes");
        if left.is_some_and(|left| left >= self.pull_bytes) {
            if self.pull_bytes >= PULL_BYTES_MAX {
                return Heard::Broken(format!("a message is over {PULL_BYTES_MAX} bytes"));
            }
            self.pull_bytes *= 2;
        }
        Heard::Housekeeping
    }

    /// Of a work queue: acknowledges what was delivered up to a sequence. A call that is dropped
    /// leaves the rest for the next.
    pub(super) async fn acknowledge(&mut self, through: u64) -> Result<(), String> {
        let Some(unacknowledged) = &mut self.unacknowledged else { return Ok(()) };
        while let Some(subject) = unacknowledged.first_through(through) {
            let sent = self.connection.client.publish(subject, "".into()).await;
            sent.map_err(|error| format!("an acknowledgement could not be sent: {error}"))?;
            unacknowledged.pass();
            failpoint::reach("nats.source.released");
        }
        Ok(())
    }

    /// How large the requests have become.
    pub(super) fn pull_bytes(&self) -> u64 {
        self.pull_bytes
    }

    /// The call that asks for the consumer's state.
    pub(super) fn info_call(&self) -> String {
        format!("CONSUMER.INFO.{}.{}", self.stream, self.name)
    }

    /// How many messages were delivered.
    pub(super) fn delivered(&self) -> u64 {
        self.consumer_sequence
    }

    /// Deletes the consumer, without waiting for an answer.
    pub(super) async fn close(mut self) {
        let call = format!("CONSUMER.DELETE.{}.{}", self.stream, self.name);
        let subject = self.connection.api.subject(&call);
        // If it cannot be deleted, the server does so after a while.
        if let Err(error) = self.connection.client.publish(subject, "".into()).await {
            tracing::debug!(stream = %self.stream, %error, "a consumer was not deleted");
        }
        let _ = self.inbox.unsubscribe().await;
    }
}

/// A number in a header of the server's.
fn header_number(message: &Message, name: &str) -> Option<u64> {
    message.headers.as_ref()?.get(name)?.as_str().parse().ok()
}

fn create_request(
    settings: &Settings,
    retention: &Retention,
    name: &str,
    after: u64,
) -> (String, Value) {
    let Settings { stream, subjects, .. } = settings;
    let mut call = format!("CONSUMER.CREATE.{stream}.{name}");
    let mut config = json!({
        "name": name,
        "description": "reads for waterwheel",
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": after + 1,
        "ack_policy": "none",
        "replay_policy": "instant",
        "mem_storage": true,
        "inactive_threshold": INACTIVE_THRESHOLD.as_nanos() as u64,
    });
    if *retention == Retention::Limits {
        // Others want consumers that are replicated as the stream is.
        config["num_replicas"] = json!(1);
    }
    if matches!(retention, Retention::WorkQueue(_)) {
        // Servers take nothing else of a queue; what was read before is passed over here.
        config["deliver_policy"] = json!("all");
        config["ack_policy"] = json!("explicit");
        config["ack_wait"] = json!(ACK_WAIT.as_nanos() as u64);
        config["max_ack_pending"] = json!(-1);
        config["opt_start_seq"] = Value::Null;
    }
    add_filters(&mut call, &mut config, subjects);
    (call, json!({ "stream_name": stream, "config": config }))
}

/// Servers ignore keys that they do not know, so what was made is compared with what was asked for.
fn check_created(created: &Value, body: &Value) -> Result<(), String> {
    for key in ["ack_policy", "opt_start_seq", "filter_subject", "filter_subjects"] {
        let asked = &body["config"][key];
        if !asked.is_null() && created["config"][key] != *asked {
            return Err(format!("the server did not take `{key}`; it must be 2.10 or later"));
        }
    }
    Ok(())
}
