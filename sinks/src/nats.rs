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
//! **A bucket.** `kv = "prices"` in the place of `subject` keeps the latest row of each key in a
//! key-value bucket instead: under `<operator>.<key>...`, a token for each column of the row's key,
//! encoded as above but with `=` for `%`. A deleted row leaves its key's delete marker. The progress is
//! the key `waterwheel.progress.<pipeline>.<sink>` beside them. What is said below of the stream holds
//! for that of the bucket, `KV_<bucket>`.
//!
//! **The stream** is yours: it captures the results and `waterwheel.progress.<pipeline>.<sink>`,
//! where the progress is kept. With `allow_atomic` on it (nats-server 2.12 or later) up to 999 rows
//! and their progress appear in one step, and a second instance of the pipeline is refused in that
//! step. A commit of more rows appears step by step. If the pipeline is killed between two steps,
//! the next run publishes the whole commit again, up to the same place and as absolute values: whoever
//! keeps the last value per key ends up right. Without `allow_atomic`, or on an older server, rows may
//! be published again after every fault, in the same way: *at least once*.
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
use waterwheel_config::section::{Section, Spanned};
use waterwheel_pipeline::contract::epoch::{EpochRecord, Generation, Progress};
use waterwheel_pipeline::contract::failpoint;
use waterwheel_pipeline::contract::fault::Fault;
use waterwheel_pipeline::contract::nats::{self as connection, ConnectionSpec};
use waterwheel_pipeline::contract::sink::{
    Changes, Claim, ClaimError, Commit, Emit, Sink, SinkContext, SinkInput, SinkKind, SinkSpec,
};

use self::messages::{Form, Messages};
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
    /// Where the progress is kept.
    progress_subject: String,
    form: Form,
    /// The subject of each input, in their order.
    templates: Vec<Template>,
}

fn plan(section: &Section<'_>, context: &SinkContext) -> Option<Box<dyn SinkSpec>> {
    let connection = connection::read(section);
    let bucket = section.text("kv");
    let settings = match bucket {
        Some(bucket) => into_bucket(section, context, &bucket),
        None => onto_subjects(section, context),
    };
    let (progress_subject, form, templates) = settings?;
    let (connection, context) = (connection?, context.clone());
    let settings = Settings { connection, context, progress_subject, form, templates };
    Some(Box::new(Spec(Arc::new(settings))))
}

type Place = (String, Form, Vec<Template>);

/// Each row under its key.
fn into_bucket(
    section: &Section<'_>,
    context: &SinkContext,
    bucket: &Spanned<String>,
) -> Option<Place> {
    let findings = section.findings();
    if let Some(subject) = section.text("subject") {
        let message = "`subject` and `kv` are two places for the same rows";
        findings.error_help(subject.span, message, "leave one of them out");
        return None;
    }
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if bucket.value.is_empty() || !bucket.value.bytes().all(is_name) {
        let message = format!("`{}` cannot be the name of a bucket", bucket.value);
        let help = "a bucket's name is made of letters, digits, `_` and `-`";
        findings.error_help(bucket.span.clone(), message, help);
        return None;
    }
    let progress = progress_subject(context);
    // The progress is a key beside those of the inputs.
    let own = progress.split('.').next().unwrap_or_default();
    if context.inputs.iter().any(|input| input.name == own) {
        let message = format!("keys under `{own}` are those of the progress");
        findings.error_help(section.word_in("from", own), message, "give the input another name");
        return None;
    }
    let template = |input| Template::of_keys(&bucket.value, input);
    let templates = context.inputs.iter().map(template).collect();
    Some((format!("{}.{progress}", template::keys(&bucket.value)), Form::Entry, templates))
}

/// Each change as a message of its own.
fn onto_subjects(section: &Section<'_>, context: &SinkContext) -> Option<Place> {
    let subject = section.required_text("subject")?;
    let progress = progress_subject(context);
    let template = |input: &SinkInput| {
        let complain = |word: &str, message, help: Option<String>| {
            let span = section.word(&subject.span, word);
            match help {
                Some(help) => section.findings().error_help(span, message, help),
                None => section.findings().error(span, message),
            }
        };
        let has_op = input.schema.index_of("op").is_some();
        if has_op {
            let message = format!("`{}` has a column `op`, which messages need", input.name);
            let span = section.word_in("from", &input.name);
            section.findings().error_help(span, message, "give the column another name");
        }
        let template = Template::parse(&subject.value, input, &progress)
            .map_err(|wrong| complain(&wrong.word, wrong.message, wrong.help));
        template.ok().filter(|_| !has_op)
    };
    let templates: Vec<Option<Template>> = context.inputs.iter().map(template).collect();
    let templates = templates.into_iter().collect::<Option<Vec<_>>>()?;
    Some((progress, Form::Change, templates))
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
    /// Where commits stood of which rows may be in the stream, and no progress.
    unfinished: Vec<EpochRecord>,
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
        Outlet::find(connection, self.settings.progress_subject.clone(), &patterns).await
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
            let (guard, before) = match outlet.stored().await? {
                Some((_, stored)) if stored.generation >= at_least => {
                    return Err(ClaimError::Stale(stored.generation));
                }
                Some((guard, stored)) => (guard, Some(stored)),
                None if was_there => return Err(outlet.gone().into()),
                None => {
                    outlet.refuse_orphans().await?;
                    (0, None)
                }
            };
            was_there = guard > 0;
            // What was read counts only if nobody wrote since: the guard sees to that.
            let claim = Stored::claim(at_least, before);
            if let Some(guard) = outlet.replace(guard, &claim).await? {
                failpoint::reach("nats.sink.claimed");
                let Stored { generation, progress, unfinished, .. } = claim;
                self.open = Some(Open {
                    outlet,
                    generation,
                    progress: progress.clone(),
                    unfinished: unfinished.clone(),
                    guard,
                    begun: None,
                });
                return Ok(Claim { generation, progress, unfinished });
            }
        }
    }

    fn check_reset(&self) -> Result<(), Fault> {
        let progress = &self.settings.progress_subject;
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
            settings.form,
            (open.progress.as_ref(), commit),
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
    ///
    /// Before or with the first row that is visible without its progress, the place of the commit is
    /// noted: if this process dies, the next one's commit must end there too, or a key that went
    /// back to its old value behind it would keep the value of the commit that was cut off.
    async fn publish(&mut self, mut messages: Messages<'_>, commit: &Commit) -> Result<(), Fault> {
        let chunks = self.outlet.chunks(messages.len());
        let done = match self.begun.take() {
            Some((begun, done)) if begun == commit.progress => done,
            _ => 0,
        };
        messages.skip(done * self.outlet.chunk_len());
        self.begun = Some((commit.progress.clone(), done));
        let record = &commit.progress.record;
        let is_one_step = messages.len() == 0 || (self.outlet.is_atomic() && chunks == 1);
        let is_noted = self.unfinished.iter().any(|known| known.is_same_place(record));
        let mut first = done + 1;
        if !is_one_step && !is_noted {
            self.unfinished.push(record.clone());
            // Where rows do not come in one step with a progress message, the note goes ahead.
            if !self.outlet.is_atomic() {
                first = 0;
            }
        }
        for chunk in first..=chunks {
            let (progress, unfinished) = match chunk == chunks {
                true => (Some(commit.progress.clone()), self.still_unfinished(record)),
                false => (self.progress.clone(), self.unfinished.clone()),
            };
            let generation = self.generation;
            let stored = Stored { generation, progress, chunk, chunks, unfinished };
            let rows = messages.take(if chunk == 0 { 0 } else { self.outlet.chunk_len() });
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
        self.unfinished = self.still_unfinished(record);
        Ok(())
    }

    /// What is unfinished when a commit up to this place is in.
    fn still_unfinished(&self, record: &EpochRecord) -> Vec<EpochRecord> {
        let is_ahead = |known: &&EpochRecord| !known.is_at_or_before(record);
        self.unfinished.iter().filter(is_ahead).cloned().collect()
    }

    async fn read_again(&mut self) -> Result<(), Fault> {
        let generation = self.generation;
        match self.outlet.stored().await? {
            Some((guard, stored)) if stored.generation == generation => {
                (self.guard, self.progress) = (guard, stored.progress);
                self.unfinished = stored.unfinished;
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
