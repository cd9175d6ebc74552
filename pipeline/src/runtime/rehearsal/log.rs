//! The log of a test: a source in memory, which grows while it is read.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::watch;
use waterwheel_config::timestamp::LATEST_US;

use crate::contract::batch::{BATCH_MESSAGES_MAX, BatchBuilder};
use crate::contract::fault::Fault;
use crate::contract::position::{Position, fingerprint};
use crate::contract::source::{Next, Source, SourceSpec, Until};
use crate::graph::rehearsal::Message;
use crate::runtime::decode::DecodePlan;

/// A log that was created at no particular time.
const CREATED: i64 = 1;

/// The messages of one source.
pub(super) struct Log {
    stream: Arc<str>,
    has_broker_time: bool,
    state: Mutex<State>,
    /// Told at every change.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    messages: Vec<Logged>,
    has_ended: bool,
    /// True once something was released: a checkpoint is there.
    is_released: bool,
}

struct Logged {
    sequence: u64,
    received_at_us: Option<i64>,
    subject: String,
    headers: String,
    payload: Vec<u8>,
}

impl Log {
    pub(super) fn new(stream: &str, has_broker_time: bool) -> Self {
        let (changed, _) = watch::channel(());
        Self { stream: stream.into(), has_broker_time, state: Mutex::default(), changed }
    }

    pub(super) fn stream(&self) -> Arc<str> {
        self.stream.clone()
    }

    pub(super) fn has_broker_time(&self) -> bool {
        self.has_broker_time
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time that a message carries itself, by the mapping of its source; `None` for one that has
    /// none, or is no event.
    pub(super) fn own_time(
        &self,
        decode: &DecodePlan,
        subject: &str,
        message: &Message,
    ) -> Option<i64> {
        let mut builder = BatchBuilder::new(self.stream.clone(), CREATED);
        let (subject, headers) = (subject.as_bytes(), message.headers.as_bytes());
        // No event lies in the future of this, and one without a time takes it over.
        builder.push(1, 1, Some(LATEST_US), subject, headers, &message.payload);
        let decoded = decode.decode(builder.finish(None));
        decoded.timestamp_max_us.filter(|time| *time < LATEST_US)
    }

    /// A message arrives.
    pub(super) fn push(&self, sequence: u64, at_us: i64, subject: String, message: &Message) {
        let received_at_us = self.has_broker_time.then_some(at_us);
        let (headers, payload) = (message.headers.clone(), message.payload.clone());
        self.state().messages.push(Logged { sequence, received_at_us, subject, headers, payload });
        self.changed.send_replace(());
    }

    /// Nothing will arrive any more.
    pub(super) fn end(&self) {
        self.state().has_ended = true;
        self.changed.send_replace(());
    }

    /// The ordinal of the last message.
    pub(super) fn last(&self) -> u64 {
        self.state().messages.last().map_or(0, |message| message.sequence)
    }

    /// Waits until a checkpoint was published.
    pub(super) async fn released(&self) {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            if self.state().is_released || changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// The next messages behind an ordinal.
    fn next(&self, ordinal: u64) -> Option<Next> {
        let state = self.state();
        let begin = state.messages.partition_point(|message| message.sequence <= ordinal);
        let waiting = state.messages.get(begin..).unwrap_or_default();
        if waiting.is_empty() {
            return state.has_ended.then_some(Next::End);
        }
        // Batches of changing sizes, small ones first: even a few events go to several workers.
        let size = (1 + begin % 3).max(begin / 16).min(BATCH_MESSAGES_MAX).min(waiting.len());
        let mut builder = BatchBuilder::new(self.stream.clone(), CREATED);
        for message in &waiting[..size] {
            let Logged { sequence, received_at_us, subject, headers, payload } = message;
            let (subject, headers) = (subject.as_bytes(), headers.as_bytes());
            builder.push(*sequence, *sequence, *received_at_us, subject, headers, payload);
        }
        Some(Next::Batch(builder.finish(Some((waiting.len() - size) as u64))))
    }

    fn position(&self, ordinal: u64) -> Position {
        let state = self.state();
        let read = state.messages.iter().find(|message| message.sequence == ordinal);
        let mark = |message: &Logged| fingerprint(message.received_at_us, &message.payload);
        Position {
            stream: self.stream.to_string(),
            created: CREATED,
            ordinal,
            fingerprint: read.map_or(0, mark),
            gaps: Vec::new(),
            messages: 0,
        }
    }
}

/// A log in place of a source.
pub(super) struct LogSpec {
    log: Arc<Log>,
    description: String,
    meaning: String,
}

impl LogSpec {
    pub(super) fn new(log: Arc<Log>, original: &dyn SourceSpec) -> Self {
        Self { log, description: original.describe(), meaning: original.meaning() }
    }
}

impl SourceSpec for LogSpec {
    fn build(&self, _until: Until) -> Box<dyn Source> {
        let changed = self.log.changed.subscribe();
        Box::new(LogSource { log: self.log.clone(), changed, ordinal: 0 })
    }

    fn describe(&self) -> String {
        self.description.clone()
    }

    fn meaning(&self) -> String {
        self.meaning.clone()
    }

    fn has_broker_time(&self) -> bool {
        self.log.has_broker_time
    }
}

struct LogSource {
    log: Arc<Log>,
    changed: watch::Receiver<()>,
    ordinal: u64,
}

#[async_trait]
impl Source for LogSource {
    async fn open(&mut self, resume: Option<&Position>) -> Result<Position, Fault> {
        self.ordinal = resume.map_or(0, |position| position.ordinal);
        Ok(self.log.position(self.ordinal))
    }

    async fn next(&mut self) -> Result<Next, Fault> {
        loop {
            self.changed.borrow_and_update();
            if let Some(next) = self.log.next(self.ordinal) {
                if let Next::Batch(batch) = &next {
                    self.ordinal = batch.messages.last().map_or(self.ordinal, |last| last.ordinal);
                }
                return Ok(next);
            }
            if self.changed.changed().await.is_err() {
                return Ok(Next::End);
            }
        }
    }

    fn release(&mut self, _durable: &Position) {
        self.log.state().is_released = true;
        self.log.changed.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(source: &mut dyn Source) -> Vec<u64> {
        let mut ordinals = Vec::new();
        while let Ok(Next::Batch(batch)) = source.next().await {
            ordinals.extend(batch.messages.iter().map(|message| message.ordinal));
        }
        ordinals
    }

    #[tokio::test]
    async fn a_log_gives_what_is_behind_a_position() {
        let log = Arc::new(Log::new("EVENTS", true));
        for sequence in [1, 3, 4, 7, 8, 9, 20] {
            log.push(sequence, 5, "events".to_owned(), &Message::default());
        }
        assert_eq!(log.last(), 20);
        log.end();
        let spec = LogSpec { log: log.clone(), description: String::new(), meaning: String::new() };
        let mut source = spec.build(Until::Final);
        let begin = source.open(None).await.expect("it opens");
        assert_eq!((begin.ordinal, begin.fingerprint), (0, 0));
        assert_eq!(read(&mut *source).await, [1, 3, 4, 7, 8, 9, 20]);
        let again = source.open(Some(&log.position(4))).await.expect("it opens");
        assert_eq!((again.ordinal, again.fingerprint), (4, fingerprint(Some(5), b"")));
        assert_eq!(read(&mut *source).await, [7, 8, 9, 20]);
    }
}
