//! What a source is: it opens at a position and hands on batches of raw messages in log order.

use async_trait::async_trait;
use waterwheel_config::section::Section;

use super::batch::RawBatch;
use super::fault::Fault;
use super::position::Position;

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

/// What comes next.
#[derive(Debug)]
pub enum Next {
    /// Messages, in log order, without a gap that the source did not check.
    Batch(RawBatch),
    /// The end that `until` asked for.
    End,
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

    /// What it reads, in a few words, for `explain` (no secret): ``stream EVENTS on host:4222``.
    fn describe(&self) -> String;

    /// Everything about the log that changes what is read of it or what that means, in resolved
    /// settings; not the place of the log, the login, or how much of it is read.
    fn meaning(&self) -> String;

    /// False where messages carry no time of a broker, which `max_future` is measured by.
    fn has_broker_time(&self) -> bool {
        true
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

    /// The next messages. Cancel-safe: a call that is dropped loses nothing. Waits while the log
    /// has nothing new.
    async fn next(&mut self) -> Result<Next, Fault>;

    /// Everything up to here is durable in every sink and will never be asked for again.
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
