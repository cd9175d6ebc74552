//! Reading past messages on which the client library breaks: one by one, until none like them comes
//! any more.

use waterwheel_pipeline::contract::fault::Fault;

use super::super::careful::{Careful, Found};
use super::super::retention::Retention;
use super::{Run, Work};

/// Messages that the client does not read and that lie no further apart count as near each other.
const NEAR: u64 = 100_000;

/// What is known of messages that the client does not read.
#[derive(Default)]
pub(super) struct PastBad {
    /// While messages are read one by one,
    careful: Option<Careful>,
    /// and what is under way.
    reading: Option<Work<Result<Vec<Found>, Fault>>>,
    /// True if nothing was found that way since the last consumer was made.
    pub(super) is_looked_for: bool,
    /// How large the window was the last time, and where that ended.
    before: (u64, u64),
    /// How many messages the client would not have read.
    unreadable: u64,
}

impl Run {
    /// True while messages are read one by one.
    pub(in crate::nats) fn is_careful(&self) -> bool {
        self.past_bad.careful.is_some()
    }

    /// Reads messages one by one first: an earlier process panicked when it had read up to here.
    pub(in crate::nats) async fn begin_carefully(&mut self, panicked_at: u64) {
        if self.ended || matches!(self.release.retention, Retention::WorkQueue(_)) {
            return;
        }
        if let Some(reader) = self.reader.take() {
            reader.close().await;
        }
        tracing::warn!(
            stream = %self.stream,
            after = self.taken,
            "an earlier process panicked: reading message by message until well behind {panicked_at}"
        );
        self.past_bad.careful = Some(Careful::after_panic(panicked_at));
    }

    /// If the last consumer that was made brought nothing either, messages are read one by one: a
    /// consumer would deliver the same message to the same client.
    pub(super) fn is_stuck(&mut self) -> bool {
        // A queue gives nothing but to its consumer.
        let is_queue = matches!(self.release.retention, Retention::WorkQueue(_));
        let is_stuck = self.attempts > 0
            && self.reviving.is_none()
            && !self.past_bad.is_looked_for
            && !is_queue;
        if is_stuck {
            let (window, ended_at) = self.past_bad.before;
            let window = if self.taken < ended_at + NEAR { window } else { 0 };
            self.past_bad.careful = Some(Careful::after_loss(window));
            self.past_bad.is_looked_for = true;
        }
        is_stuck
    }

    /// Reads the next messages one by one, while that is due.
    pub(super) async fn read_carefully(&mut self) -> Result<(), Fault> {
        if self.past_bad.careful.is_none() {
            return Ok(());
        }
        if self.past_bad.reading.is_none() {
            self.past_bad.reading = Some(Box::pin(self.scene().read(self.taken)));
        }
        let Some(reading) = &mut self.past_bad.reading else { return Ok(()) };
        let read = reading.await;
        self.past_bad.reading = None;
        let read = read?;
        let mut is_over = read.is_empty();
        for found in read {
            let sequence = found.message.sequence;
            if self.ended {
                return Ok(());
            }
            if !found.is_readable {
                self.note_unreadable(sequence);
            }
            self.take_found(&found);
            is_over |= self
                .past_bad
                .careful
                .as_mut()
                .is_none_or(|careful| careful.pass(sequence, found.is_readable));
        }
        if is_over && let Some(careful) = self.past_bad.careful.take() {
            self.past_bad.before = (careful.window(), self.taken);
            let unreadable = self.past_bad.unreadable;
            tracing::info!(stream = %self.stream, after = self.taken, unreadable, "read message by message");
        }
        Ok(())
    }

    /// Says so once.
    fn note_unreadable(&mut self, sequence: u64) {
        self.past_bad.unreadable += 1;
        if self.past_bad.unreadable == 1 {
            tracing::warn!(
                stream = %self.stream,
                sequence,
                help = "correct whoever publishes it: each such message costs a new connection",
                "a message breaks the rules of the protocol in its headers or its subject; it and \
                 those like it are read one by one"
            );
        }
    }

    fn take_found(&mut self, found: &Found) {
        self.headers.clear();
        write_headers(&found.headers, &mut self.headers);
        self.headers.extend_from_slice(&found.raw_headers);
        let message = &found.message;
        self.pending = u64::MAX;
        self.accept(message.sequence, message.time_ns, &found.subject, &message.payload);
    }
}

/// Headers as `name:value\r\n` lines, by name: the client keeps them in no order, and the same log
/// must give the same batches.
pub(super) fn write_headers(headers: &async_nats::HeaderMap, out: &mut Vec<u8>) {
    let mut sorted: Vec<_> = headers.iter().collect();
    sorted.sort_unstable_by_key(|(name, _)| AsRef::<[u8]>::as_ref(*name));
    for (name, values) in sorted {
        for value in values {
            out.extend_from_slice(name.as_ref());
            out.push(b':');
            out.extend_from_slice(value.as_ref());
            out.extend_from_slice(b"\r\n");
        }
    }
}
