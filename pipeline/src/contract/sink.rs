//! What a sink is: it stores rows and progress in one atomic step, and refuses a stale generation.

use async_trait::async_trait;
use waterwheel_config::schema::SchemaRef;
use waterwheel_config::section::Section;
use waterwheel_config::value::Row;

use super::epoch::{EpochRecord, Generation, Progress};
use super::fault::Fault;
use super::raw::RawEvents;
use super::retain::Cleaning;

/// What a sink writes of a row that changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emit {
    /// Every change as it happens.
    Changes,
    /// Each row once, when it can no longer change.
    Final,
}

/// What one of a sink's inputs is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputRole {
    /// The raw events of a source.
    RawEvents,
    /// The rows of an operator.
    Operator,
    /// The built-in dead letters.
    DeadLetters,
}

/// True if two fingerprints of a sink ([`Progress::fingerprint`]) stand for one meaning of its rows.
pub fn is_same_meaning(one: &str, other: &str) -> bool {
    let total = |text: &str| text.split(' ').next().map(str::to_owned);
    total(one) == total(other)
}

/// One input of a sink, by its index in [`Commit::changes`].
#[derive(Clone, Debug)]
pub struct SinkInput {
    /// The name of the source, the operator, or `dead_letter`.
    pub name: String,
    /// What it is.
    pub role: InputRole,
    /// Its columns and key. Its finality counts by the watermark that the sink records, that of the
    /// sources: what holds the operator's own watermark back is added.
    pub schema: SchemaRef,
    /// The granularities of its windows, where they are known.
    pub granularities: Vec<String>,
}

/// What a sink must know of the pipeline around it.
#[derive(Clone, Debug)]
pub struct SinkContext {
    /// The pipeline's name: keys the progress.
    pub pipeline: String,
    /// The sink's name: keys the progress.
    pub sink: String,
    /// The inputs in the order of `from`.
    pub inputs: Vec<SinkInput>,
    /// What it writes of a row that changes.
    pub emit: Emit,
}

/// What changed in one input since the last commit, each key at most once in all.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// New rows and new values of rows.
    pub upserts: Vec<Row>,
    /// Rows that are gone, as they last were.
    pub deletes: Vec<Row>,
    /// New raw events, for a sink that takes them as they are ([`Sink::takes_events`]).
    pub events: Vec<RawEvents>,
}

impl Changes {
    /// New rows, and no row is gone.
    pub fn new(upserts: Vec<Row>) -> Self {
        Self { upserts, ..Self::default() }
    }

    /// How many rows changed.
    pub fn len(&self) -> usize {
        let events = self.events.iter().map(RawEvents::len).sum::<usize>();
        self.upserts.len() + self.deletes.len() + events
    }

    /// True if nothing changed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One atomic step of a sink.
#[derive(Clone, Debug)]
pub struct Commit {
    /// What the sink's content equals after this step. Its positions may have moved without any
    /// row having changed.
    pub progress: Progress,
    /// The changes by input.
    pub changes: Vec<Changes>,
}

/// What a sink found when it was claimed.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The generation that now owns the sink.
    pub generation: Generation,
    /// The progress of the last commit; `None` if there never was one.
    pub progress: Option<Progress>,
    /// Where commits stood that were begun and not ended, of which rows may be there already: empty
    /// where a commit is one step. The next commits end in these places too, so that every such row
    /// comes again; with other places a row that went back to what it was would be left as it is.
    pub unfinished: Vec<EpochRecord>,
}

impl Claim {
    /// Of a sink whose commits are one step.
    pub fn new(generation: Generation, progress: Option<Progress>) -> Self {
        Self { generation, progress, unfinished: Vec::new() }
    }
}

/// How a claim failed.
#[derive(Debug)]
pub enum ClaimError {
    /// The sink holds this or a higher generation: claim again with a higher one.
    Stale(Generation),
    /// Anything else.
    Fault(Fault),
}

impl From<Fault> for ClaimError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// A kind of sink, for `check`, the documentation and the planner.
pub struct SinkKind {
    /// The word for `type`.
    pub name: &'static str,
    /// What it writes, in one sentence.
    pub summary: &'static str,
    /// What a crash can do to its content, in one sentence.
    pub guarantee: &'static str,
    /// A complete example of its table.
    pub example: &'static str,
    /// `emit` where the deployment does not say.
    pub default_emit: Emit,
    /// Reads the settings of the kind; everything wrong becomes a finding. `type`, `from` and
    /// `emit` are read by the planner.
    pub plan: fn(&Section<'_>, &SinkContext) -> Option<Box<dyn SinkSpec>>,
}

/// The settings of one sink, ready to be built.
pub trait SinkSpec: Send + Sync {
    /// Builds the sink; nothing is opened yet.
    fn build(&self) -> Box<dyn Sink>;

    /// What it writes to, in a few words, for `explain` (no secret).
    fn describe(&self) -> String;

    /// The settings that decide where the rows of an input go and what is written of them: under
    /// other ones the rows written so far would be elsewhere or otherwise, so a change counts as a
    /// change of meaning.
    fn placement(&self, _input: usize) -> String {
        String::new()
    }

    /// What no two sinks of a pipeline may share: tables, directories, subjects.
    fn resources(&self) -> Vec<String>;
}

/// A store of rows and progress.
#[async_trait]
pub trait Sink: Send {
    /// False for a sink that keeps no progress, and so is given everything again in every run.
    fn keeps_progress(&self) -> bool {
        true
    }

    /// True if it takes raw events as they are, without rows being made of them
    /// ([`Changes::events`]).
    fn takes_events(&self) -> bool {
        false
    }

    /// Claims the sink for a generation of at least `at_least`, creates what is missing, and reads
    /// the progress. The claim is written before anything is read, so that an older instance
    /// cannot commit in between; it fails with [`ClaimError::Stale`] where the sink already holds
    /// `at_least` or a higher generation.
    async fn open(&mut self, at_least: Generation) -> Result<Claim, ClaimError>;

    /// Says, before the sink is opened, what its rows mean now (see [`Progress::fingerprint`]). Where
    /// its progress has another meaning, what holds its rows need not be as it must be now:
    /// [`Sink::open`] then reads the progress and looks no further.
    fn expect(&mut self, _fingerprint: &str) {}

    /// Whether [`Sink::reset`] can be done at all; if not, why and what to do instead.
    fn check_reset(&self) -> Result<(), Fault> {
        Err(Fault::halt("it cannot be written anew").help(
            "empty the place of its rows and remove its progress, or give it another place or name",
        ))
    }

    /// Removes, under the claimed generation, all rows that it holds of its inputs, and records
    /// `begin`, the progress of a sink that holds nothing yet: in one step, or so that a crash on
    /// the way is finished by the next [`Sink::open`]. A stale generation is refused as in
    /// [`Sink::commit`].
    async fn reset(&mut self, _begin: &Progress) -> Result<(), Fault> {
        self.check_reset()
    }

    /// Records where a sink that holds nothing begins, durably before this returns. A sink that keeps
    /// no progress has nothing to record.
    async fn begin(&mut self, begin: &Progress) -> Result<(), Fault> {
        if self.keeps_progress() { self.reset(begin).await } else { Ok(()) }
    }

    /// Makes the changes and the progress durable in one step, or keeps them for a step of its own
    /// (a file that is still growing). Returns the newest progress that is durable.
    ///
    /// A stale generation is refused inside the step by [`super::fault::Remedy::Halt`]. After a
    /// fault with [`super::fault::Remedy::Retry`] the runtime calls [`Sink::recover`], and then
    /// commits again what is not in the progress.
    async fn commit(&mut self, commit: &Commit) -> Result<Option<Progress>, Fault>;

    /// Reads the progress again under the claimed generation, after a fault. A sink that kept
    /// changes for a later step and has lost them returns a progress from before them; the runtime
    /// then starts a new generation.
    async fn recover(&mut self) -> Result<Option<Progress>, Fault>;

    /// Called about once a second while nothing is committed, for steps that time makes due.
    /// Returns the newest progress that is durable.
    async fn tick(&mut self) -> Result<Option<Progress>, Fault> {
        Ok(None)
    }

    /// True if it has `retain`: rows that are older are to be removed, see [`Sink::clean`].
    fn retains(&self) -> bool {
        false
    }

    /// Removes the next part of what is older than `retain`, in a step so short that a commit can
    /// wait for it. The first step of all, and the one after a step that was done, begin a new pass.
    ///
    /// In a sink that is open it is fenced as a commit is. In one that was never opened it removes
    /// what the recorded progress says is old, without claiming the sink: an instance that runs goes
    /// on. A fault leaves commits alone; the next step tries again.
    async fn clean(&mut self) -> Result<Cleaning, Fault> {
        Ok(Cleaning::done())
    }

    /// Makes everything kept so far durable, and lets go. Returns the newest progress.
    async fn close(&mut self) -> Result<Option<Progress>, Fault>;

    /// Reaches the server and checks what `check --connect` promises: one line per problem.
    /// Changes nothing.
    async fn probe(&mut self) -> Vec<String> {
        Vec::new()
    }
}
