//! Publishes every change as a JSON message into a JetStream stream.
//!
//! ```toml
//! [sinks.results]
//! type = "nats"
//! from = ["volume"]
//! url = "nats://127.0.0.1:4222"               # and the other keys of a connection: context, creds, nkey, user, password, token, tls
//! subject = "results.{operator}.{symbol}"     # `{operator}` is the input's name, other names are columns
//! ```
//!
//! The payload is one JSON object of the row's columns and `"op"`: `upsert` with the new values of
//! a row, or `delete` with its last ones. `Waterwheel-Epoch` and `Waterwheel-Watermark` (RFC 3339;
//! `final` after the last event, absent before the first) are headers.
//!
//! **Subjects.** Of a value that stands in the subject, letters, digits, `_` and `-` stay, and every
//! other byte becomes `%` and two hexadecimal digits. NULL and the empty text become `_`, and the
//! text `_` becomes `%5F`. What would be longer than 128 bytes is cut and ends in `%~` and a hash. So data
//! can add no token, no wildcard and no white space.
//!
//! **The stream** is yours: it captures the results and `waterwheel.progress.<pipeline>.<sink>`,
//! where the progress is kept. With `allow_atomic` on it (nats-server 2.12 or later) up to 999 rows
//! and their progress appear in one step, and a second instance of the pipeline is refused in that
//! step. A commit of more rows appears step by step. If the pipeline is killed between two steps,
//! the next run publishes the whole commit again, as absolute values: whoever keeps the last value
//! per key ends up right. Without `allow_atomic`, or on an older server, rows may be published
//! again after every fault: *at least once*.
//!
//! Without its progress message nobody knows what of the result is in the stream. So a stream is
//! refused whose limits could remove it: `max_msgs` and `max_bytes` need `discard = new` (the sink
//! then waits while the stream is full), `max_age` needs `allow_msg_ttl` (nats-server 2.11 or
//! later: the progress then never expires), and the retention must be `limits`. A sink that finds
//! results on its subjects and no progress halts.

mod messages;
mod publish;
mod template;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use waterwheel_config::section::Section;
use waterwheel_pipeline::contract::epoch::{Generation, Progress};
use waterwheel_pipeline::contract::failpoint;
use waterwheel_pipeline::contract::fault::Fault;
use waterwheel_pipeline::contract::nats::{self as connection, ConnectionSpec};
use waterwheel_pipeline::contract::sink::{
    Changes, Claim, ClaimError, Commit, Emit, Sink, SinkContext, SinkKind, SinkSpec,
};

use self::messages::Messages;
use self::publish::{Outlet, Stored};
use self::template::Template;

/// The kind `nats`.
pub const KIND: SinkKind = SinkKind {
    name: "nats",
    summary: "publishes every change as a JSON message into a JetStream stream",
    guarantee: "exactly once where the stream has allow_atomic (nats-server 2.12 or later), at least once elsewhere",
    example: "[sinks.results]\ntype = \"nats\"\nfrom = [\"volume\"]\nurl = \"nats://127.0.0.1:4222\"\nsubject = \"results.{operator}.{symbol}\"\n",
    default_emit: Emit::Changes,
    plan,
};

struct Settings {
    connection: ConnectionSpec,
    context: SinkContext,
    /// The subject of each input, in their order.
    templates: Vec<Template>,
}

fn plan(section: &Section<'_>, context: &SinkContext) -> Option<Box<dyn SinkSpec>> {
    section.refuse(&["kv"]);
    let connection = connection::read(section);
    let subject = if section.has("kv") {
        section.text("subject")?
    } else {
        section.required_text("subject")?
    };
    let findings_before = section.findings().len();
    let templates: Vec<Option<Template>> = context
        .inputs
        .iter()
        .map(|input| {
            let complain = |word: &str, message, help: Option<String>| {
                let span = section.word(&subject.span, word);
                match help {
                    Some(help) => section.findings().error_help(span, message, help),
                    None => section.findings().error(span, message),
                }
            };
            if input.schema.index_of("op").is_some() {
                let message = format!("`{}` has a column `op`, which messages need", input.name);
                let span = section.word_in("from", &input.name);
                section.findings().error_help(span, message, "give the column another name");
            }
            let progress = progress_subject(context);
            Template::parse(&subject.value, input, &progress)
                .map_err(|wrong| complain(&wrong.word, wrong.message, wrong.help))
                .ok()
        })
        .collect();
    if section.findings().len() > findings_before || section.has("kv") {
        return None;
    }
    let templates = templates.into_iter().collect::<Option<Vec<_>>>()?;
    let settings = Settings { connection: connection?, context: context.clone(), templates };
    Some(Box::new(Spec(Arc::new(settings))))
}

fn progress_subject(context: &SinkContext) -> String {
    format!("waterwheel.progress.{}.{}", context.pipeline, context.sink)
}

struct Spec(Arc<Settings>);

impl SinkSpec for Spec {
    fn build(&self) -> Box<dyn Sink> {
        Box::new(NatsSink { settings: self.0.clone(), open: None })
    }

    fn describe(&self) -> String {
        let subjects: Vec<&str> = self.0.templates.iter().map(Template::pattern).collect();
        format!("subjects {} at {}", subjects.join(", "), self.0.connection.describe())
    }

    fn placement(&self, input: usize) -> String {
        format!("{:?}", self.0.templates.get(input))
    }

    fn resources(&self) -> Vec<String> {
        let address = self.0.connection.describe();
        let of = |template: &Template| format!("subject {} at {address}", template.pattern());
        self.0.templates.iter().map(of).collect()
    }
}

/// The sink `nats`.
struct NatsSink {
    settings: Arc<Settings>,
    open: Option<Open>,
}

struct Open {
    outlet: Outlet,
    generation: Generation,
    progress: Option<Progress>,
    /// The sequence of the progress message that the next one must follow.
    guard: u64,
    /// A commit that was begun and not ended, and how many of its chunks are in.
    begun: Option<(Progress, usize)>,
}

fn closed() -> Fault {
    Fault::halt("the nats sink was used while closed")
}

impl NatsSink {
    async fn outlet(&self) -> Result<Outlet, Fault> {
        let connection = connection::connect(&self.settings.connection, "waterwheel").await?;
        let patterns: Vec<&str> = self.settings.templates.iter().map(Template::pattern).collect();
        Outlet::find(connection, progress_subject(&self.settings.context), &patterns).await
    }
}

#[async_trait]
impl Sink for NatsSink {
    async fn open(&mut self, at_least: Generation) -> Result<Claim, ClaimError> {
        self.open = None;
        let outlet = self.outlet().await?;
        for problem in outlet.problems() {
            tracing::warn!(sink = %self.settings.context.sink, "{problem}");
        }
        if let Some(fault) = outlet.refusal() {
            return Err(fault.into());
        }
        let mut was_there = false;
        loop {
            let (guard, progress) = match outlet.stored().await? {
                Some((_, stored)) if stored.generation >= at_least => {
                    return Err(ClaimError::Stale(stored.generation));
                }
                Some((guard, stored)) => (guard, stored.progress),
                None if was_there => return Err(outlet.gone().into()),
                None => {
                    outlet.refuse_orphans().await?;
                    (0, None)
                }
            };
            was_there = guard > 0;
            // What was read counts only if nobody wrote since: the guard sees to that.
            let claim = Stored::claim(at_least, progress.clone());
            if let Some(guard) = outlet.replace(guard, &claim).await? {
                let generation = at_least;
                failpoint::reach("nats.sink.claimed");
                let claimed = progress.clone();
                self.open =
                    Some(Open { outlet, generation, progress: claimed, guard, begun: None });
                return Ok(Claim { generation: at_least, progress });
            }
        }
    }

    fn check_reset(&self) -> Result<(), Fault> {
        let progress = progress_subject(&self.settings.context);
        let subjects = self.settings.templates.iter().map(Template::pattern);
        let purges: Vec<String> = subjects
            .chain([progress.as_str()])
            .map(|subject| format!("nats stream purge STREAM --subject='{subject}'"))
            .collect();
        Err(Fault::halt("the messages in a stream that is not waterwheel's are not removed").help(
            format!(
                "purge them and the progress ({}), or choose another `subject` and purge the \
                 progress; then run again",
                purges.join("; ")
            ),
        ))
    }

    async fn begin(&mut self, begin: &Progress) -> Result<(), Fault> {
        let changes = self.settings.context.inputs.iter().map(|_| Changes::default()).collect();
        self.commit(&Commit { progress: begin.clone(), changes }).await.map(|_| ())
    }

    async fn commit(&mut self, commit: &Commit) -> Result<Option<Progress>, Fault> {
        let open = self.open.as_mut().ok_or_else(closed)?;
        let settings = &self.settings;
        let messages = Messages::new(
            &settings.context,
            &settings.templates,
            commit,
            open.outlet.payload_bytes_max(),
        );
        open.publish(messages, commit).await?;
        open.progress = Some(commit.progress.clone());
        failpoint::reach("nats.sink.commit.done");
        Ok(open.progress.clone())
    }

    async fn recover(&mut self) -> Result<Option<Progress>, Fault> {
        let open = self.open.as_mut().ok_or_else(closed)?;
        open.read_again().await?;
        Ok(open.progress.clone())
    }

    async fn close(&mut self) -> Result<Option<Progress>, Fault> {
        Ok(self.open.take().and_then(|open| open.progress))
    }

    async fn probe(&mut self) -> Vec<String> {
        match self.outlet().await {
            Ok(outlet) => {
                let refusal = outlet.refusal().map(|fault| with_help(&fault));
                refusal.into_iter().chain(outlet.problems()).collect()
            }
            Err(fault) => vec![with_help(&fault)],
        }
    }
}

fn with_help(fault: &Fault) -> String {
    let help = fault.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
    format!("{}{help}", fault.message)
}

impl Open {
    /// Publishes the messages of a commit and its progress in chunks, each closed by a progress
    /// message that only the last one moves on. A commit that is made again after a fault goes on
    /// behind the chunks that are in.
    async fn publish(&mut self, mut messages: Messages<'_>, commit: &Commit) -> Result<(), Fault> {
        let chunks = self.outlet.chunks(messages.len());
        let done = match self.begun.take() {
            Some((begun, done)) if begun == commit.progress => done,
            _ => 0,
        };
        messages.skip(done * self.outlet.chunk_len());
        self.begun = Some((commit.progress.clone(), done));
        for chunk in done + 1..=chunks {
            let last = chunk == chunks;
            let progress = if last { Some(commit.progress.clone()) } else { self.progress.clone() };
            let stored = Stored { generation: self.generation, progress, chunk, chunks };
            let rows = messages.take(self.outlet.chunk_len());
            match self.outlet.publish(rows, self.guard, &stored).await? {
                Some(guard) => self.guard = guard,
                None => {
                    self.read_again().await?;
                    return Err(Fault::retry("a commit that seemed lost has arrived on NATS")
                        .unknown_outcome());
                }
            }
        }
        self.begun = None;
        Ok(())
    }

    async fn read_again(&mut self) -> Result<(), Fault> {
        let generation = self.generation;
        match self.outlet.stored().await? {
            Some((guard, stored)) if stored.generation == generation => {
                (self.guard, self.progress) = (guard, stored.progress);
                if let Some((_, done)) = &mut self.begun {
                    *done = if stored.chunk < stored.chunks { stored.chunk } else { 0 };
                }
                Ok(())
            }
            Some((_, stored)) => Err(Fault::halt(format!(
                "another instance has taken over: it is generation {}, this one is {generation}",
                stored.generation
            ))
            .help("run one instance of a pipeline at a time")),
            None => Err(self.outlet.gone()),
        }
    }
}
