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
//! The stream needs limits retention, the default. Reading leaves nothing behind in it: the consumer
//! is ephemeral and acknowledges nothing; how far the stream was read is known by the sinks. At the
//! start, and whenever the connection comes back, the stream is compared with what was read of it:
//! one that was recreated, purged, cut or rewritten halts the pipeline. With `subjects`, messages
//! of other subjects that are gone count as gone too after a restart: nothing tells them apart.
//!
//! A server that goes away is waited for. The rights that it takes: to publish to
//! `$JS.API.STREAM.INFO.<stream>`, `$JS.API.STREAM.MSG.GET.<stream>`,
//! `$JS.API.CONSUMER.CREATE.<stream>.>`, `$JS.API.CONSUMER.{INFO,DELETE,MSG.NEXT}.<stream>.*`, and
//! to subscribe to `_INBOX.>`.

mod pull;
mod reply;
mod run;
mod stream;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use waterwheel_config::document::NodeKind;
use waterwheel_config::section::Section;
use waterwheel_config::timestamp;
use waterwheel_pipeline::contract::fault::Fault;
use waterwheel_pipeline::contract::nats::api::Api;
use waterwheel_pipeline::contract::nats::{self as connection, ConnectionSpec, subject};
use waterwheel_pipeline::contract::position::Position;
use waterwheel_pipeline::contract::source::{Next, Source, SourceKind, SourceSpec, Until};

use self::pull::Reader;
use self::run::Run;

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
    let settings =
        Settings { connection: connection?, stream: stream?, subjects: subjects?, start: start? };
    Some(Box::new(Spec(Arc::new(settings))))
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
        Box::new(NatsSource {
            settings: self.0.clone(),
            until,
            bound: None,
            clear: (0, 0),
            run: None,
        })
    }

    fn describe(&self) -> String {
        format!("stream {} at {}", self.0.stream, self.0.connection.describe())
    }

    fn meaning(&self) -> String {
        let mut subjects = self.0.subjects.clone();
        subjects.sort();
        format!("stream {} subjects {subjects:?}", self.0.stream)
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
    run: Option<Run>,
}

#[async_trait]
impl Source for NatsSource {
    async fn open(&mut self, resume: Option<&Position>) -> Result<Position, Fault> {
        self.close().await;
        let settings = &self.settings;
        let connection = connection::connect(&settings.connection, "waterwheel").await?;
        let info = stream::info(&connection.api, &settings.stream).await?;
        stream::check_retention(&info)?;
        let clear = match resume {
            Some(resume) if resume.ordinal == self.clear.0 => self.clear.1,
            _ => 0,
        };
        let (mut position, info) = match resume {
            None => (stream::begin(&connection.api, &info, settings.start).await?, info),
            Some(resume) => {
                stream::check_identity(&info, resume)?;
                (resume.clone(), stream::verify(&connection.api, resume, clear).await?)
            }
        };
        if self.until != Until::Forever {
            self.bound.get_or_insert(info.last_seq);
        }
        let name: Arc<str> = settings.stream.as_str().into();
        let after = position.ordinal;
        let reader = Reader::create(&connection, &name, &settings.subjects, after, 0).await?;
        if reader.begins_after > after.max(clear) {
            // The beginning of a stream at its limits moves while one looks.
            if resume.is_some() || settings.start != Start::First {
                return Err(stream::gone(&info, after + 1, reader.begins_after + 1));
            }
            position.ordinal = reader.begins_after;
        }
        let bound = self.bound;
        let run = Run::new(connection, settings.clone(), position.clone(), reader, bound, clear);
        self.run = Some(run);
        Ok(position)
    }

    async fn next(&mut self) -> Result<Next, Fault> {
        match &mut self.run {
            Some(run) => run.next().await,
            None => Err(Fault::halt("the nats source was asked for messages while closed")),
        }
    }

    async fn close(&mut self) {
        if let Some(run) = self.run.take() {
            self.clear = run.clear();
            run.close().await;
        }
    }

    async fn probe(&mut self) -> Vec<String> {
        let problems = match self.open(None).await {
            Ok(_) => match &self.run {
                Some(run) => {
                    let api = run.connection.api.clone();
                    unmatched_subjects(api, self.settings.clone()).await
                }
                None => Vec::new(),
            },
            Err(fault) => {
                let help = fault.help.map(|help| format!(" ({help})")).unwrap_or_default();
                vec![format!("{}{help}", fault.message)]
            }
        };
        self.close().await;
        problems
    }
}

/// Filters that no message of the stream can match.
async fn unmatched_subjects(api: Api, settings: Arc<Settings>) -> Vec<String> {
    let info = match stream::info(&api, &settings.stream).await {
        Ok(info) => info,
        Err(fault) => return vec![fault.message],
    };
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
