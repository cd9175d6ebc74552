//! Reads a JetStream stream in the order of its sequence.
//!
//! ```toml
//! [sources.events]
//! type = "nats"
//! url = "nats://127.0.0.1:4222"   # and the other keys of a connection: context, creds, nkey, user, password, token, tls
//! stream = "EVENTS"               # never created or changed by waterwheel
//! subjects = ["events.>"]         # default: everything in the stream
//! start = "first"                 # first | new | an RFC 3339 time | a sequence number: used only without progress
//! ```
//!
//! Reading leaves nothing behind in a stream with limits retention, the default: the consumer is
//! ephemeral and acknowledges nothing; how far the stream was read is known by the sinks. A work queue
//! and a stream with interest retention take checkpoints (`checkpoint` under `[engine]`), and forget a
//! message once no checkpoint that is kept needs it: consumers called `waterwheel-<pipeline>-<source>`
//! see to that, and deleting those of interest retention by hand loses messages. At the
//! start, and whenever the connection comes back, the stream is compared with what was read of it:
//! one that was recreated, purged, cut or rewritten halts the pipeline, and so do limits of the
//! stream that remove what was not read yet. `waterwheel run FILE --accept-gap events:101..110` goes
//! on without messages that a halt names, for good: every sink records it. With `subjects`, messages
//! of other subjects that are gone count as gone too after a restart: nothing tells them apart.
//!
//! A server that goes away is waited for. The rights that it takes: to publish to
//! `$JS.API.STREAM.INFO.<stream>`, `$JS.API.STREAM.MSG.GET.<stream>`,
//! `$JS.API.CONSUMER.CREATE.<stream>.>`, `$JS.API.CONSUMER.{INFO,DELETE,MSG.NEXT}.<stream>.*`, and
//! to subscribe to `_INBOX.>`; of a work queue `$JS.ACK.<stream>.>` and of interest retention
//! `$JS.API.CONSUMER.NAMES.<stream>` besides.

mod careful;
mod pull;
mod reply;
mod retention;
mod run;
mod stream;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use waterwheel_config::document::NodeKind;
use waterwheel_config::section::Section;
use waterwheel_config::timestamp;
use waterwheel_pipeline::contract::failpoint;
use waterwheel_pipeline::contract::fault::Fault;
use waterwheel_pipeline::contract::nats::api::StreamInfo;
use waterwheel_pipeline::contract::nats::{self as connection, ConnectionSpec, subject};
use waterwheel_pipeline::contract::position::{Gap, Position};
use waterwheel_pipeline::contract::source::{
    Next, Reading, Source, SourceKind, SourceSpec, Standing, Until,
};

use self::pull::Reader;
use self::retention::{Retention, keep_interest};
use self::run::Run;
use self::stream::Anchors;

/// The kind `nats`.
pub const KIND: SourceKind = SourceKind {
    name: "nats",
    summary: "reads a JetStream stream, from its beginning and then as messages arrive",
    example: "[sources.events]\ntype = \"nats\"\nurl = \"nats://127.0.0.1:4222\"\nstream = \"EVENTS\"\nsubjects = [\"events.>\"]\n",
    default_until: |_| Until::Forever,
    plan,
};

/// Where to begin without progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    First,
    New,
    /// The first message the server took at or after this, in microseconds.
    Time(i64),
    Sequence(u64),
}

#[derive(Clone, Debug)]
struct Settings {
    connection: ConnectionSpec,
    stream: String,
    subjects: Vec<String>,
    start: Start,
    /// The source's name; empty where nobody gave it one.
    name: String,
    /// What may be gone, as the command line says.
    accepted_gaps: Vec<Gap>,
    /// What the consumers of a stream that forgets by itself are called; `None` where such a stream
    /// cannot be read.
    consumer: Option<String>,
}

fn plan(section: &Section<'_>) -> Option<Box<dyn SourceSpec>> {
    let connection = connection::read(section);
    let stream = section.required_text("stream").and_then(|stream| {
        let checked = subject::check_stream_name(&stream.value);
        checked.map_err(|problem| section.findings().error(stream.span, problem)).ok()?;
        Some(stream.value)
    });
    let subjects = subjects(section);
    let start = start(section);
    Some(Box::new(Spec(Arc::new(Settings {
        connection: connection?,
        stream: stream?,
        subjects: subjects?,
        start: start?,
        name: String::new(),
        accepted_gaps: Vec::new(),
        consumer: None,
    }))))
}

fn subjects(section: &Section<'_>) -> Option<Vec<String>> {
    if section.node("subjects").is_none() {
        return Some(Vec::new());
    }
    let patterns = section.texts("subjects")?;
    let findings = section.findings();
    if patterns.is_empty() {
        let help = "leave it out to read everything in the stream";
        findings.error_help(section.key_span("subjects"), "`subjects` names no subject", help);
        return None;
    }
    let mut good = true;
    for (index, pattern) in patterns.iter().enumerate() {
        if let Err(problem) = subject::check_pattern(&pattern.value) {
            findings.error(pattern.span.clone(), problem);
            good = false;
        }
        let overlapping =
            patterns[..index].iter().find(|other| subject::overlaps(&other.value, &pattern.value));
        if let Some(other) = overlapping {
            let message = format!("`{}` and `{}` overlap", other.value, pattern.value);
            let help = "a message must match one of the subjects only: keep the wider one";
            findings.error_help(pattern.span.clone(), message, help);
            good = false;
        }
    }
    // One that matches everything is no filter, and the server reads faster without.
    let everything = patterns.iter().any(|pattern| pattern.value == ">");
    let texts = patterns.into_iter().map(|pattern| pattern.value);
    good.then(|| if everything { Vec::new() } else { texts.collect() })
}

fn start(section: &Section<'_>) -> Option<Start> {
    let Some(node) = section.node("start") else { return Some(Start::First) };
    let found = match &node.kind {
        NodeKind::Integer(number) => u64::try_from(*number).ok().map(Start::Sequence),
        NodeKind::Datetime(time) => timestamp::parse(time).map(Start::Time),
        NodeKind::Text(_) => parse_start(&section.node_text(node, "start")?.value),
        _ => None,
    };
    if found.is_none_or(|start| start == Start::Sequence(0)) {
        let message = "`start` is no place in a stream";
        let help = "write \"first\", \"new\", an RFC 3339 time, or a sequence number from 1";
        section.findings().error_help(node.span.clone(), message, help);
        return None;
    }
    found
}

fn parse_start(text: &str) -> Option<Start> {
    match text {
        "first" => Some(Start::First),
        "new" => Some(Start::New),
        _ => {
            let sequence = text.parse().ok().map(Start::Sequence);
            sequence.or_else(|| timestamp::parse(text).map(Start::Time))
        }
    }
}

struct Spec(Arc<Settings>);

impl SourceSpec for Spec {
    fn build(&self, until: Until) -> Box<dyn Source> {
        Box::new(NatsSource::new(self.0.clone(), until))
    }

    fn build_for(&self, reading: &Reading) -> Box<dyn Source> {
        let settings = Settings {
            name: reading.source.clone(),
            accepted_gaps: reading.accepted_gaps.clone(),
            // Names have no `-` of their own.
            consumer: reading
                .is_checkpointed
                .then(|| format!("waterwheel-{}-{}", reading.pipeline, reading.source)),
            ..(*self.0).clone()
        };
        let source = NatsSource::new(Arc::new(settings), reading.until);
        Box::new(NatsSource { panicked_at: reading.panicked_at, ..source })
    }

    fn has_gaps(&self) -> bool {
        true
    }

    fn can_be_silent(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        format!("stream {} at {}", self.0.stream, self.0.connection.describe())
    }

    fn meaning(&self) -> String {
        let mut subjects = self.0.subjects.clone();
        subjects.sort();
        format!("stream {} subjects {subjects:?}", self.0.stream)
    }

    fn stream(&self) -> Option<String> {
        Some(self.0.stream.clone())
    }

    fn may_hold(&self, position: &Position) -> bool {
        position.stream == self.0.stream
    }
}

/// The source `nats`.
struct NatsSource {
    settings: Arc<Settings>,
    until: Until,
    /// The last sequence to read; kept when the source is opened again, so that a fault does not
    /// move the end.
    bound: Option<u64>,
    /// After which message, and up to where, nothing passes the filter: see [`Run::clear`].
    clear: (u64, u64),
    /// By what the stream is known again.
    anchors: Anchors,
    /// How far an earlier process had read when it panicked, until that is behind us.
    panicked_at: Option<u64>,
    run: Option<Run>,
}

impl NatsSource {
    fn new(settings: Arc<Settings>, until: Until) -> Self {
        let (clear, anchors) = ((0, 0), Anchors::default());
        Self { settings, until, bound: None, clear, anchors, panicked_at: None, run: None }
    }
}

#[async_trait]
impl Source for NatsSource {
    async fn open(&mut self, resume: Option<&Position>) -> Result<Position, Fault> {
        self.close().await;
        let settings = &self.settings;
        let connection = connection::connect(&settings.connection, "waterwheel").await?;
        let info = stream::info(&connection.api, &settings.stream).await?;
        let retention = Retention::of(&info, settings)?;
        let clear = match resume {
            Some(resume) if resume.ordinal == self.clear.0 => self.clear.1,
            _ => 0,
        };
        let api = &connection.api;
        let mut position = match resume {
            None => stream::begin(api, &info, settings).await?,
            Some(resume) => {
                let anchors = &self.anchors;
                stream::resume(api, &info, settings, &retention, resume, anchors, clear).await?
            }
        };
        if let Retention::Interest(prefix) = &retention {
            let is_resumed = resume.is_some();
            keep_interest(api, &info, settings, prefix, &position, is_resumed).await?;
        }
        if self.until != Until::Forever {
            self.bound.get_or_insert(info.last_seq);
        }
        let after = position.ordinal;
        let reader = Reader::create(&connection, settings, &retention, after, 0).await?;
        // The beginning of a stream at its limits moves while one looks.
        if resume.is_none() && settings.start == Start::First {
            position.ordinal = position.ordinal.max(reader.begins_after);
        } else if let Some(gap) = retention.gap(settings, after.max(clear), reader.begins_after + 1)
        {
            return Err(stream::gone(&info, gap));
        }
        let bound = self.bound;
        let settings = settings.clone();
        let begin = position.clone();
        let mut run = Run::new(connection, settings, retention, begin, reader, bound, clear)
            .known_by(self.anchors.clone());
        if let Some(panicked_at) = self.panicked_at {
            run.begin_carefully(panicked_at).await;
        }
        self.run = Some(run);
        failpoint::reach("nats.source.opened");
        Ok(position)
    }

    async fn verify(&mut self, recorded: &Position) -> Result<(), Fault> {
        match &self.run {
            Some(run) => stream::check_seen(&run.connection.api, recorded).await,
            None => Ok(()),
        }
    }

    async fn next(&mut self) -> Result<Next, Fault> {
        match &mut self.run {
            Some(run) => run.next().await,
            None => Err(Fault::halt("the nats source was asked for messages while closed")),
        }
    }

    fn standing(&self) -> Standing {
        self.run.as_ref().map_or(Standing::Reading, Run::standing)
    }

    fn release(&mut self, durable: &Position) {
        if let Some(run) = &mut self.run {
            run.release(durable.ordinal);
        }
    }

    async fn close(&mut self) {
        if let Some(run) = self.run.take() {
            (self.clear, self.anchors) = (run.clear(), run.anchors());
            if !run.is_careful() {
                self.panicked_at = None;
            }
            run.close().await;
        }
    }

    async fn probe(&mut self) -> Vec<String> {
        let problems = match self.probe_reading().await {
            Ok(problems) => problems,
            Err(fault) => {
                let help = fault.help.map(|help| format!(" ({help})")).unwrap_or_default();
                vec![format!("{}{help}", fault.message)]
            }
        };
        self.close().await;
        problems
    }
}

impl NatsSource {
    async fn probe_reading(&mut self) -> Result<Vec<String>, Fault> {
        let settings = self.settings.clone();
        let connection = connection::connect(&settings.connection, "waterwheel").await?;
        let info = stream::info(&connection.api, &settings.stream).await?;
        // To read a stream that forgets is to take it from who reads it now.
        if Retention::of(&info, &settings)? == Retention::Limits {
            self.open(None).await?;
        }
        Ok(unmatched_subjects(&info, &settings))
    }
}

/// Filters that no message of the stream can match.
fn unmatched_subjects(info: &StreamInfo, settings: &Settings) -> Vec<String> {
    // A mirror names no subjects, and a sourcing stream may hold others.
    if info.subjects.is_empty() || info.config.get("sources").is_some() {
        return Vec::new();
    }
    let matches = |filter: &str| info.subjects.iter().any(|it| subject::overlaps(it, filter));
    let unmatched = settings.subjects.iter().filter(|filter| !matches(filter));
    unmatched
        .map(|filter| {
            let captured = info.subjects.join(", ");
            format!("stream {} captures {captured}, which never matches `{filter}`", info.name)
        })
        .collect()
}
