//! What a source is: it opens at a position and hands on batches of raw messages in log order.

use std::time::Duration;

use async_trait::async_trait;
use waterwheel_config::section::Section;

use super::batch::RawBatch;
use super::fault::Fault;
use super::position::{Gap, Position};

/// When a source's reading ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Never.
    Forever,
    /// At the last message present at start; windows stay open for the next run.
    End,
    /// As `End`; then every window is closed and emitted.
    Final,
}

/// How a source is to be read in one run of the pipeline.
#[derive(Clone, Debug)]
pub struct Reading {
    /// When it ends.
    pub until: Until,
    /// The pipeline's name: with the source's it names what the source keeps at its server.
    pub pipeline: String,
    /// The source's name.
    pub source: String,
    /// What the person who started the run accepts as lost (`--accept-gap`).
    pub accepted_gaps: Vec<Gap>,
    /// True if checkpoints are kept, so that no restart reads again what was released (see
    /// [`Source::release`]). Without them a restart reads from where the pipeline began.
    pub is_checkpointed: bool,
    /// How far the source had been read when an earlier process panicked, if the sinks have not come
    /// past that: a message soon behind it may be the cause, and come again.
    pub panicked_at: Option<u64>,
}

/// What comes next.
#[derive(Debug)]
pub enum Next {
    /// Messages, in log order, without a gap that the source did not check.
    Batch(RawBatch),
    /// The end that `until` asked for.
    End,
}

/// How a log stands while nothing comes from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing is to be said.
    Reading,
    /// It certainly has had nothing new for so long: it was connected and asked for more all the
    /// time, and nothing waits.
    Silent(Duration),
    /// It cannot be read at the moment, and is waited for: why, with no secret.
    Away(String),
}

/// A kind of source, for `check`, the documentation and the planner.
pub struct SourceKind {
    /// The word for `type`.
    pub name: &'static str,
    /// What it reads, in one sentence.
    pub summary: &'static str,
    /// A complete example of its table.
    pub example: &'static str,
    /// `until` where the deployment does not say.
    pub default_until: fn(&Section<'_>) -> Until,
    /// Reads the settings of the kind; everything wrong becomes a finding. The keys that all
    /// sources share (`type`, `until`, `lateness`, `max_future`, `max_bytes`, `event`) are read by
    /// the planner.
    pub plan: fn(&Section<'_>) -> Option<Box<dyn SourceSpec>>,
}

/// The settings of one source, ready to be built.
pub trait SourceSpec: Send + Sync {
    /// Builds the source; nothing is opened yet.
    fn build(&self, until: Until) -> Box<dyn Source>;

    /// Builds the source for one run; nothing is opened yet. For kinds that need to know more than
    /// when to end.
    fn build_for(&self, reading: &Reading) -> Box<dyn Source> {
        self.build(reading.until)
    }

    /// True if messages of the log may be gone before they were read, and somebody may accept that.
    fn has_gaps(&self) -> bool {
        false
    }

    /// True if it can be silent, and says so ([`Standing::Silent`]): what `idle_after` needs.
    fn can_be_silent(&self) -> bool {
        false
    }

    /// What it reads, in a few words, for `explain` (no secret): ``stream EVENTS on host:4222``.
    fn describe(&self) -> String;

    /// Everything about the log that changes what is read of it or what that means, in resolved
    /// settings; not the place of the log, the login, or how much of it is read.
    fn meaning(&self) -> String;

    /// False where messages carry no time of a broker, which `max_future` is measured by.
    fn has_broker_time(&self) -> bool {
        true
    }

    /// The name of the log, which its messages carry as their stream, as far as the settings tell.
    fn stream(&self) -> Option<String> {
        None
    }

    /// True if this can be a position in the log that it reads, as far as the settings tell.
    fn may_hold(&self, _position: &Position) -> bool {
        true
    }
}

/// A log that can be read from a position.
#[async_trait]
pub trait Source: Send {
    /// Opens the log after `resume`, or at the configured start where there is none. Returns the
    /// position before the first message that [`Source::next`] will hand on.
    ///
    /// Called again after a fault, with the position of the last message handed on.
    async fn open(&mut self, resume: Option<&Position>) -> Result<Position, Fault>;

    /// Halts unless the log still holds, at a position up to which a sink has seen it, the message
    /// that was there. Called for an open source, before the first message is asked for.
    async fn verify(&mut self, _recorded: &Position) -> Result<(), Fault> {
        Ok(())
    }

    /// The next messages. Cancel-safe: a call that is dropped loses nothing. Waits while the log
    /// has nothing new.
    async fn next(&mut self) -> Result<Next, Fault>;

    /// How the log stands. Asked now and then while [`Source::next`] waits.
    fn standing(&self) -> Standing {
        Standing::Reading
    }

    /// Everything up to here is durable in every sink and will never be asked for again, also not
    /// by a run that starts from the oldest checkpoint: a queue may forget it now.
    fn release(&mut self, _durable: &Position) {}

    /// Lets go of what it holds open.
    async fn close(&mut self) {}

    /// Reaches the server and checks what `check --connect` promises: one line per problem.
    async fn probe(&mut self) -> Vec<String> {
        match self.open(None).await {
            Ok(_) => Vec::new(),
            Err(fault) => vec![fault.to_string()],
        }
    }
}
