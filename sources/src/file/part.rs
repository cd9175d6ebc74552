//! One part of the log while it is read: its lines become the messages of batches.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use waterwheel_pipeline::contract::batch::{
    BATCH_BYTES_MAX, BATCH_MESSAGES_MAX, RawBatch, RawMessage,
};
use waterwheel_pipeline::contract::fault::Fault;

use super::lines::{Lines, Step};
use super::{FoundFile, Reader, fault};

/// A byte order mark.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// A part of the log: a file, or standard input.
pub(super) enum Part {
    File(FoundFile),
    Reader(Arc<str>, Reader),
}

impl Part {
    pub(super) fn name(&self) -> &Arc<str> {
        match self {
            Self::File(file) => &file.name,
            Self::Reader(name, _) => name,
        }
    }

    pub(super) fn open(self) -> Result<OpenPart, Fault> {
        let (name, reader, waits): (_, Reader, _) = match self {
            Self::Reader(name, reader) => (name, reader, true),
            Self::File(FoundFile { name, path, size_bytes }) => {
                let file = File::open(&path).map_err(|error| fault(&path, "open", &error))?;
                match size_bytes {
                    Some(size_bytes) => (name, Box::new(file.take(size_bytes)), false),
                    None => (name, Box::new(file), true),
                }
            }
        };
        // The subject of every message; it stands once in every batch.
        let lines = Lines::new(reader, name.as_bytes());
        Ok(OpenPart { name, lines, waits, line: 0, messages: Vec::new() })
    }
}

/// The part of the log that is being read.
pub(super) struct OpenPart {
    pub(super) name: Arc<str>,
    pub(super) lines: Lines<Reader>,
    /// True where reading may wait for somebody to write: what is at hand is handed on before.
    waits: bool,
    /// The number of the last line read.
    pub(super) line: u64,
    /// Of the next batch; they lie in the buffer of `lines`.
    messages: Vec<RawMessage>,
}

impl OpenPart {
    /// The next line, if one is at hand or may be waited for.
    pub(super) fn step(&mut self) -> Result<Step, Fault> {
        let may_read = !self.waits || self.messages.is_empty();
        let step = self.lines.step(may_read);
        let step = step.map_err(|error| fault(Path::new(&*self.name), "read", &error))?;
        if let Step::Line(_) = step {
            self.line += 1;
        }
        Ok(step)
    }

    /// Where in a line the message is: without `\r`, without a byte order mark in front of the first
    /// one; `None` for a blank line.
    pub(super) fn payload(&self, line: Range<usize>) -> Option<Range<usize>> {
        let bytes = self.lines.bytes(&line);
        let begin = if self.line == 1 && bytes.starts_with(MARK) { MARK.len() } else { 0 };
        let end = bytes.len() - usize::from(bytes.last() == Some(&b'\r'));
        let bytes = bytes.get(begin..end)?;
        // Almost every line begins with a brace: the rest is looked at only where one does not.
        let blank = bytes.first() != Some(&b'{') && bytes.trim_ascii().is_empty();
        (!blank).then_some(line.start + begin..line.start + end)
    }

    /// Adds a line to the next batch.
    pub(super) fn push(&mut self, ordinal: u64, line: Range<usize>) {
        let Some(payload) = self.payload(line) else {
            return;
        };
        // A buffer is far from 4 GiB: see `LINE_BYTES_MAX`.
        let short = |at: usize| at as u32;
        self.messages.push(RawMessage {
            ordinal,
            sequence: self.line,
            received_at_us: None,
            subject: 0..short(self.name.len()),
            headers: 0..0,
            payload: short(payload.start)..short(payload.end),
        });
    }

    /// True when the batch should be handed on.
    pub(super) fn is_full(&self) -> bool {
        self.messages.len() >= BATCH_MESSAGES_MAX || self.lines.given_bytes() >= BATCH_BYTES_MAX
    }

    /// What was added; `None` if that is nothing.
    pub(super) fn batch(&mut self) -> Option<RawBatch> {
        let buffer = self.lines.take();
        let likely = Vec::with_capacity(self.messages.len());
        let messages = std::mem::replace(&mut self.messages, likely);
        (!messages.is_empty()).then(|| RawBatch {
            stream: self.name.clone(),
            created: 0,
            gaps: Arc::default(),
            buffer: buffer.into(),
            messages,
            pending: None,
        })
    }
}
