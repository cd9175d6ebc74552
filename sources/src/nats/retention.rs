//! Streams that forget messages by themselves: which consumer keeps them for us, and how they are
//! let go of once no restart will ask for them again.
//!
//! A *work queue* removes a message when its one consumer acknowledges it. It is read with a
//! consumer that acknowledges explicitly; a new one, made at every start, is given everything again
//! that was not acknowledged, in order.
//!
//! A stream with *interest* retention removes a message when no consumer waits for it any more. It
//! is read like any other, while a durable consumer that nobody reads from waits for everything
//! behind what was released. Moving on means to make the next such consumer before the last is
//! deleted.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use serde_json::{Value, json};
use waterwheel_pipeline::contract::failpoint;
use waterwheel_pipeline::contract::fault::{Fault, Remedy};
use waterwheel_pipeline::contract::nats::Connection;
use waterwheel_pipeline::contract::nats::api::{Api, StreamInfo};
use waterwheel_pipeline::contract::position::{Gap, Position};

use super::Settings;
use super::pull::Reader;
use super::run::Work;
use super::stream::{START_OVER, gap_behind};

/// No such consumer.
const CONSUMER_NOT_FOUND: u64 = 10014;

/// What removes the messages of a stream, besides its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Retention {
    /// Nothing.
    Limits,
    /// An acknowledgement of the consumer of this name.
    WorkQueue(String),
    /// That no consumer waits for a message; ours have names that begin so.
    Interest(String),
}

impl Retention {
    /// That of a stream; stops where it cannot be read without losing messages.
    pub(super) fn of(info: &StreamInfo, settings: &Settings) -> Result<Self, Fault> {
        let retention = info.config["retention"].as_str().unwrap_or("limits");
        let stream = &info.name;
        match (retention, &settings.consumer) {
            ("limits", _) => Ok(Self::Limits),
            ("workqueue", Some(name)) => Ok(Self::WorkQueue(name.clone())),
            ("interest", Some(name)) => Ok(Self::Interest(format!("{name}-"))),
            ("workqueue" | "interest", None) => Err(Fault::stop(format!(
                "stream {stream} has {retention} retention: it forgets what was read, and without \
                 checkpoints every start reads from the beginning"
            ))
            .help(
                "keep checkpoints, with `checkpoint` under [engine], or let a stream with limits \
                 retention source this one, and read that",
            )),
            (other, _) => {
                Err(Fault::stop(format!("stream {stream} has the unknown retention {other}")))
            }
        }
    }

    /// True if what is gone before the first message left may be of subjects that are not read:
    /// other consumers let go of those.
    pub(super) fn hides_gaps(&self, settings: &Settings) -> bool {
        *self != Self::Limits && !settings.subjects.is_empty()
    }

    /// What is gone that was still to be read; [`gap_behind`] where that can be known.
    pub(super) fn gap(&self, settings: &Settings, read: u64, first_seq: u64) -> Option<Gap> {
        if self.hides_gaps(settings) { None } else { gap_behind(read, first_seq) }
    }
}

/// Sees to it that a stream with interest retention keeps what comes behind a position that was
/// opened. Where nothing kept it since an earlier run, something may be lost.
pub(super) async fn keep_interest(
    api: &Api,
    info: &StreamInfo,
    settings: &Settings,
    prefix: &str,
    position: &Position,
    is_resumed: bool,
) -> Result<(), Fault> {
    let kept = keepers(api, &info.name, prefix).await?;
    if kept.iter().any(|first| *first <= position.ordinal + 1) {
        return Ok(());
    }
    // Passing over what was accepted as lost begins anew.
    let is_whole = position.ordinal >= info.last_seq
        || (settings.subjects.is_empty() && info.deleted == 0)
        || position.gaps.last().is_some_and(|gap| gap.to == position.ordinal);
    if is_resumed && !is_whole {
        return Err(Fault::halt(format!(
            "stream {} has interest retention, and the consumer {prefix}... that kept its messages \
             for this pipeline is gone: of those from {} to {} some may be lost",
            info.name,
            position.ordinal + 1,
            info.last_seq
        ))
        .help(START_OVER));
    }
    wait_behind(api, &info.name, &settings.subjects, prefix, position.ordinal).await
}

/// Moves on to a consumer that waits for what is behind `after`, and deletes those before it.
pub(super) async fn wait_behind(
    api: &Api,
    stream: &str,
    filters: &[String],
    prefix: &str,
    after: u64,
) -> Result<(), Fault> {
    let first = after + 1;
    let name = format!("{prefix}{first}");
    let mut config = json!({
        "name": name,
        "durable_name": name,
        "description": "keeps messages for waterwheel until it needs them no more; nobody reads from it",
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": first,
        "ack_policy": "explicit",
        "replay_policy": "instant",
    });
    let mut call = format!("CONSUMER.CREATE.{stream}.{name}");
    add_filters(&mut call, &mut config, filters);
    let body = json!({ "stream_name": stream, "config": config });
    let what = format!("stream {stream}: making the consumer {name}");
    api.call(&call, &body).await.map_err(|error| error.fault(&what))?;
    for old in keepers(api, stream, prefix).await? {
        if old < first {
            let call = format!("CONSUMER.DELETE.{stream}.{prefix}{old}");
            match api.call(&call, &Value::Null).await {
                Err(error) if error.err_code() == CONSUMER_NOT_FOUND => {}
                deleted => {
                    deleted.map_err(|error| error.fault(&format!("stream {stream}: {call}")))?;
                }
            }
            failpoint::reach("nats.source.released");
        }
    }
    Ok(())
}

/// From which sequences on our consumers wait.
async fn keepers(api: &Api, stream: &str, prefix: &str) -> Result<Vec<u64>, Fault> {
    let what = format!("stream {stream}: listing its consumers");
    let mut found = Vec::new();
    let mut offset = 0;
    loop {
        let page =
            api.call(&format!("CONSUMER.NAMES.{stream}"), &json!({ "offset": offset })).await;
        let page = page.map_err(|error| error.fault(&what))?;
        let names = page["consumers"].as_array().map_or(&[][..], Vec::as_slice);
        let number = |name: &Value| name.as_str()?.strip_prefix(prefix)?.parse::<u64>().ok();
        found.extend(names.iter().filter_map(number));
        offset += names.len() as u64;
        if names.is_empty() || page["total"].as_u64().is_none_or(|total| offset >= total) {
            return Ok(found);
        }
    }
}

/// Puts filters into the request for a consumer.
pub(super) fn add_filters(call: &mut String, config: &mut Value, filters: &[String]) {
    match filters {
        [] => {}
        [filter] => {
            // With the filter in the subject, rights can be given by filter.
            call.push('.');
            call.push_str(filter);
            config["filter_subject"] = json!(filter);
        }
        several => config["filter_subjects"] = json!(several),
    }
}

/// What a stream may forget, and how it is told so.
pub(super) struct Release {
    pub(super) retention: Retention,
    /// Nothing up to here will be asked for again.
    released: u64,
    /// Up to where a stream with interest retention was told, and the telling.
    told: u64,
    telling: Option<Work<Result<(), Fault>>>,
}

impl Release {
    /// Nothing may be forgotten yet.
    pub(super) fn new(retention: Retention) -> Self {
        Self { retention, released: 0, told: 0, telling: None }
    }

    /// Everything up to the sequence may be forgotten.
    pub(super) fn allow(&mut self, sequence: u64) {
        self.released = self.released.max(sequence);
    }

    /// Tells the stream; what takes a while goes on beside the reading. Says so where the reader
    /// is of no use any more.
    pub(super) async fn tell(
        &mut self,
        connection: &Connection,
        settings: &Arc<Settings>,
        reader: &mut Option<Reader>,
        read: u64,
    ) -> Result<Option<String>, Fault> {
        match &self.retention {
            Retention::Limits => {}
            Retention::WorkQueue(_) => {
                let through = if failpoint::has_bug("ack-on-read") { read } else { self.released };
                if let Some(reader) = reader {
                    return Ok(reader.acknowledge(through).await.err());
                }
            }
            Retention::Interest(prefix) => {
                if self.telling.is_none() && self.told < self.released {
                    self.told = self.released;
                    let (api, settings) = (connection.api.clone(), settings.clone());
                    let (prefix, after) = (prefix.clone(), self.released);
                    self.telling = Some(Box::pin(async move {
                        let Settings { stream, subjects, .. } = &*settings;
                        wait_behind(&api, stream, subjects, &prefix, after).await
                    }));
                }
                if let Poll::Ready(told) = futures::poll!(pin!(self.told())) {
                    told?;
                }
            }
        }
        Ok(None)
    }

    /// True while the stream is being told.
    pub(super) fn is_told(&self) -> bool {
        self.telling.is_some()
    }

    /// Waits until the stream was told; for ever where it is told nothing.
    pub(super) async fn told(&mut self) -> Result<(), Fault> {
        let Some(telling) = &mut self.telling else { return std::future::pending().await };
        let told = telling.await;
        self.telling = None;
        match told {
            Err(fault) if fault.remedy == Remedy::Retry => {
                tracing::warn!(%fault, "messages are not let go of yet; the next checkpoint tries again");
                Ok(())
            }
            told => told,
        }
    }
}

/// What was delivered of a work queue and not acknowledged yet.
#[derive(Debug, Default)]
pub(super) struct Unacknowledged {
    /// What stands before and behind the numbers in a reply subject of the consumer.
    frame: Option<(String, String)>,
    /// The sequence in the stream and that of the consumer, as they were delivered.
    waiting: VecDeque<(u64, u64)>,
}

impl Unacknowledged {
    /// Notes a delivery and its reply subject.
    pub(super) fn note(&mut self, reply: &str, stream_sequence: u64, consumer_sequence: u64) {
        if self.frame.is_none() {
            self.frame = frame(reply);
        }
        self.waiting.push_back((stream_sequence, consumer_sequence));
    }

    /// The subject that acknowledges the first one, if that lies before or at a sequence.
    pub(super) fn first_through(&self, sequence: u64) -> Option<String> {
        let (stream_sequence, consumer_sequence) = *self.waiting.front()?;
        let (before, behind) = self.frame.as_ref()?;
        // The server reads nothing but the two sequences.
        (stream_sequence <= sequence)
            .then(|| format!("{before}1.{stream_sequence}.{consumer_sequence}.0.0{behind}"))
    }

    /// The first one was acknowledged.
    pub(super) fn pass(&mut self) {
        self.waiting.pop_front();
    }
}

/// Splits `$JS.ACK.<stream>.<consumer>.` or its newer form from the five numbers, and those from
/// what follows.
fn frame(reply: &str) -> Option<(String, String)> {
    let dots: Vec<usize> = reply.match_indices('.').map(|(at, _)| at).collect();
    // `$JS` `ACK` stream consumer, or `$JS` `ACK` domain account stream consumer.
    let names = if dots.len() == 8 { 4 } else { 6 };
    let before = reply.get(..=*dots.get(names - 1)?)?;
    let behind = dots.get(names + 4).map_or("", |at| &reply[*at..]);
    Some((before.to_owned(), behind.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_take_the_form_of_the_reply() {
        for (reply, expected) in [
            ("$JS.ACK.S.c.1.7.3.1700000000.9", "$JS.ACK.S.c.1.7.3.0.0"),
            ("$JS.ACK.hub.hash.S.c.1.7.3.1700000000.9", "$JS.ACK.hub.hash.S.c.1.7.3.0.0"),
            ("$JS.ACK._.hash.S.c.1.7.3.17.9.random", "$JS.ACK._.hash.S.c.1.7.3.0.0.random"),
        ] {
            let mut waiting = Unacknowledged::default();
            waiting.note(reply, 7, 3);
            waiting.note(reply, 9, 4);
            assert_eq!(waiting.first_through(6), None);
            assert_eq!(waiting.first_through(8).as_deref(), Some(expected));
            waiting.pass();
            assert_eq!(waiting.first_through(8), None, "{reply}");
        }
    }
}
