//! Keeps one Postgres table per input equal to the pipeline's result: rows and progress in one
//! transaction.
//!
//! ```toml
//! [sinks.warehouse]
//! type = "postgres"
//! from = ["volume", "events", "dead_letter"]
//! url = "${DATABASE_URL}"                # postgres://user:password@host:5432/database
//! table.volume = "live.volume"           # default: the input's name, in the schema `public`
//! indexes = true                         # for raw events; false leaves the secondary ones out
//! tls_ca = "ca.pem"                      # default: the system's certificates
//! retain = "90d"                         # removes what is older; or { "1m" = "365d", "1h" = "2y" }
//! ```
//!
//! Postgres 15 or later, encoding UTF8. Schemas, tables and views that are missing are created.
//! `sslmode` in the URL is `disable`, `prefer` (the default: encrypts where the server can, trusts
//! any certificate) or `require` (verifies certificate and host name, as libpq's `verify-full`
//! does, which is accepted too); `tls_ca` implies `require`.
//!
//! - A row is one row of the table, by the key: a unique index with NULLS NOT DISTINCT.
//! - `<table>_final`, a view beside each operator's table, shows the rows that can no longer change.
//! - Raw events are indexed by (user_id, timestamp), (event_type, timestamp), correlation_id, and
//!   the payload for `@>`. A text over 1 KiB in an indexed column is NULL; the payload has it.
//! - `waterwheel.progress` holds one row per pipeline and sink: positions, watermark, generation.
//!
//! The sink halts rather than guess: where a table was altered, where one is gone though the
//! progress speaks of its rows, and where one holds rows that no progress speaks of.

mod arrays;
mod clean;
mod connect;
mod fault;
mod finality;
mod partitions;
mod progress;
mod reset;
mod tables;
#[cfg(test)]
mod test_server;
#[cfg(test)]
mod tests;
mod write;

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use waterwheel_config::names::nearest;
use waterwheel_config::section::Section;
use waterwheel_pipeline::contract::epoch::{Generation, Progress};
use waterwheel_pipeline::contract::failpoint;
use waterwheel_pipeline::contract::fault::Fault;
use waterwheel_pipeline::contract::here::INSECURE;
use waterwheel_pipeline::contract::retain::{self, Cleaning, Now, Retain};
use waterwheel_pipeline::contract::sink::{
    Claim, ClaimError, Commit, Emit, InputRole, Sink, SinkContext, SinkKind, SinkSpec,
    is_same_meaning,
};

use clean::Pass;
use connect::{Address, Connection};
use partitions::Layout;
use progress::{Claimed, Lease, Move, Owner};
use tables::{Table, TableName};
use write::{Failure, Statements};

/// The kind `postgres`.
pub const KIND: SinkKind = SinkKind {
    name: "postgres",
    summary: "keeps one table per input equal to the result, with a view of what is final",
    guarantee: "exactly once: rows and progress commit in one transaction, older instances are fenced off",
    example: r#"[sinks.warehouse]
type = "postgres"
from = ["volume"]
url = "${DATABASE_URL:-postgres://localhost/analytics}"
"#,
    default_emit: Emit::Changes,
    plan,
};

/// The settings of one sink.
#[derive(Debug)]
struct Settings {
    address: Address,
    owner: Owner,
    /// By the index of the input.
    tables: Vec<Table>,
}

fn plan(section: &Section<'_>, context: &SinkContext) -> Option<Box<dyn SinkSpec>> {
    // What is wrong with it may be how its password is written.
    let url = section.required_secret("url");
    let tls_ca = section.text("tls_ca").map(|path| path.value.into());
    let insecure = section.boolean(INSECURE).is_some_and(|flag| flag.value);
    let address = url.and_then(|url| {
        let parsed = Address::parse(&url.value, tls_ca, insecure);
        let help =
            "write postgres://host:5432/database, with a user and a password if it takes them";
        parsed.map_err(|message| section.findings().error_help(url.span, message, help)).ok()
    });
    let indexes = plan_indexes(section, context);
    let retain = retain::read(section, context);
    let tables = plan_tables(section, context, indexes, retain.as_ref());
    let owner = Owner { pipeline: context.pipeline.clone(), sink: context.sink.clone() };
    Some(Box::new(Spec(Arc::new(Settings { address: address?, owner, tables: tables? }))))
}

fn plan_indexes(section: &Section<'_>, context: &SinkContext) -> bool {
    let Some(indexes) = section.boolean("indexes") else { return true };
    if !context.inputs.iter().any(|input| input.role == InputRole::RawEvents) {
        section.findings().warning(
            section.key_span("indexes"),
            "`indexes` is for the tables of raw events, and this sink has none",
            "leave it out, or name a source in `from`",
        );
    }
    indexes.value
}

/// The tables of the inputs; `None` where one of them has a finding.
fn plan_tables(
    section: &Section<'_>,
    context: &SinkContext,
    indexes: bool,
    retain: Option<&Retain>,
) -> Option<Vec<Table>> {
    let findings = section.findings();
    let before = findings.errors();
    let mut overrides = HashMap::new();
    if let Some(written) = section.table("table") {
        for (key, node) in written.entries() {
            let inputs = || context.inputs.iter().map(|input| input.name.as_str());
            if !inputs().any(|input| input == key.name) {
                let help = match nearest(&key.name, inputs()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "`table` takes the names in `from`".to_owned(),
                };
                let message = format!("`{}` is no input of {}", key.name, section.what);
                findings.error_help(key.span.clone(), message, help);
            }
            if let Some(name) = written.node_text(node, &key.name) {
                overrides.insert(key.name.as_str(), name);
            }
        }
    }
    // Names taken so far, of tables and views, each with the input it is for.
    let mut taken = HashMap::from([(progress::PROGRESS.to_owned(), "the progress")]);
    let mut tables = Vec::new();
    for input in &context.inputs {
        let (text, span) = match overrides.get(input.name.as_str()) {
            Some(name) => (name.value.as_str(), name.span.clone()),
            None => (input.name.as_str(), section.word_in("from", &input.name)),
        };
        let table =
            TableName::parse(text).and_then(|name| Table::new(name, input, indexes, retain));
        let table = match table {
            Ok(table) => table,
            Err(message) => {
                findings.error(span, message);
                continue;
            }
        };
        for name in std::iter::once(table.name.clone()).chain(table.view()) {
            if let Some(other) = taken.insert(name.plain(), &input.name) {
                findings.error_help(
                    span.clone(),
                    format!(
                        "{} would be written for `{}` and for {other}",
                        name.plain(),
                        input.name
                    ),
                    format!("give one of them another name: table.{} = \"...\"", input.name),
                );
            }
        }
        tables.push(table);
    }
    (findings.errors() == before).then_some(tables)
}

struct Spec(Arc<Settings>);

impl SinkSpec for Spec {
    fn build(&self) -> Box<dyn Sink> {
        Box::new(PostgresSink::new(Arc::clone(&self.0)))
    }

    fn describe(&self) -> String {
        let tables: Vec<String> = self.0.tables.iter().map(|table| table.name.plain()).collect();
        let noun = if tables.len() == 1 { "table" } else { "tables" };
        format!("{noun} {} in postgres at {}", tables.join(", "), self.0.address.shown)
    }

    fn placement(&self, input: usize) -> String {
        self.0.tables.get(input).map(Table::placement).unwrap_or_default()
    }

    fn resources(&self) -> Vec<String> {
        let names = |table: &Table| std::iter::once(table.name.clone()).chain(table.view());
        let resource = |name: TableName| {
            format!("postgres table {} at {}", name.plain(), self.0.address.shown)
        };
        self.0.tables.iter().flat_map(names).map(resource).collect()
    }
}

/// A connection that may commit.
struct Session {
    connection: Connection,
    statements: Statements,
    /// By the index of the input.
    layouts: Vec<Layout>,
    lease: Lease,
}

struct PostgresSink {
    settings: Arc<Settings>,
    /// The generation that was claimed.
    generation: Option<i64>,
    session: Option<Session>,
    durable: Option<Progress>,
    /// What the rows mean now, where that was said.
    expected: Option<String>,
    /// What is removed by `retain` at the moment.
    pass: Option<Pass>,
}

impl PostgresSink {
    fn new(settings: Arc<Settings>) -> Self {
        let (generation, session, durable) = (None, None, None);
        Self { settings, generation, session, durable, expected: None, pass: None }
    }

    async fn connect(&self) -> Result<Connection, Fault> {
        let Owner { pipeline, sink } = &self.settings.owner;
        self.settings.address.connect(&format!("waterwheel {pipeline} {sink}")).await
    }

    /// Checks and creates the tables, and makes the connection ready to commit.
    async fn begin_session(
        &mut self,
        connection: Connection,
        claimed: &Claimed,
    ) -> Result<(), Fault> {
        let Settings { owner, tables, .. } = &*self.settings;
        let client = &connection.client;
        for table in tables {
            let name = table.name.plain();
            let filled = claimed.progress.is_some() && claimed.tables.contains(&name);
            table.ensure(client, owner, filled).await?;
            // Of a sink that has written nothing, rows are another's, or of another name's.
            if claimed.progress.is_none()
                && !failpoint::has_bug("missing-progress-is-fresh")
                && table.has_rows(client).await?
            {
                return Err(Fault::halt(format_args!(
                    "table {name} holds rows, but {} has no progress of pipeline {} and sink {}",
                    progress::PROGRESS,
                    owner.pipeline,
                    owner.sink
                ))
                .help("empty or drop the table, or take another name with `table.<input>`"));
            }
        }
        let mut names: Vec<String> = tables.iter().map(|table| table.name.plain()).collect();
        names.sort();
        if names != claimed.tables {
            progress::note_tables(client, owner, claimed.lease, &names).await?;
        }
        let mut layouts = Vec::new();
        for table in tables {
            layouts.push(table.layout(client).await.map_err(|error| table.fault(&error))?);
        }
        let statements = Statements::prepare(client, tables, &layouts).await?;
        self.generation = Some(claimed.lease.generation);
        self.durable.clone_from(&claimed.progress);
        self.session = Some(Session { connection, statements, layouts, lease: claimed.lease });
        failpoint::reach("postgres.tables.ready");
        Ok(())
    }
}

#[async_trait]
impl Sink for PostgresSink {
    fn expect(&mut self, fingerprint: &str) {
        self.expected = Some(fingerprint.to_owned());
    }

    async fn open(&mut self, at_least: Generation) -> Result<Claim, ClaimError> {
        self.session = None;
        let wanted = progress::stored(at_least)?;
        let connection = self.connect().await?;
        progress::ensure(&connection.client).await?;
        let owner = &self.settings.owner;
        let claimed = progress::claim(&connection.client, owner, wanted, false).await?;
        let claimed = claimed.map_err(ClaimError::Stale)?;
        failpoint::reach("postgres.claimed");
        let is_other = |expected: &String| {
            let recorded = claimed.progress.as_ref().map(|progress| &progress.fingerprint);
            recorded.is_some_and(|recorded| !is_same_meaning(expected, recorded))
        };
        if self.expected.as_ref().is_some_and(is_other) {
            self.generation = Some(claimed.lease.generation);
            connection.close().await;
            return Ok(Claim::new(at_least, claimed.progress));
        }
        self.begin_session(connection, &claimed).await?;
        Ok(Claim::new(at_least, claimed.progress))
    }

    fn check_reset(&self) -> Result<(), Fault> {
        Ok(())
    }

    async fn reset(&mut self, begin: &Progress) -> Result<(), Fault> {
        self.session = None;
        let Some(generation) = self.generation else {
            return Err(Fault::stop("the sink was never opened"));
        };
        let connection = self.connect().await?;
        let Settings { owner, tables, .. } = &*self.settings;
        let claimed = progress::claim(&connection.client, owner, generation, true).await?;
        let claimed = claimed.map_err(|_| progress::fenced(owner))?;
        let emptied = reset::empty(&connection.client, owner, tables, claimed, begin).await?;
        self.begin_session(connection, &emptied).await
    }

    async fn commit(&mut self, commit: &Commit) -> Result<Option<Progress>, Fault> {
        let Settings { owner, tables, .. } = &*self.settings;
        if commit.changes.len() != tables.len() {
            return Err(Fault::halt("a commit does not fit the inputs of the sink"));
        }
        // Taken out, and put back after success only: what fails or is cancelled on the way leaves
        // the connection inside a transaction, which ends with the connection.
        let Some(mut session) = self.session.take() else {
            return Err(Fault::retry("the connection to postgres is lost"));
        };
        let Session { connection, statements, layouts, lease } = &mut session;
        let client = &connection.client;
        let now = Now::of(Some(&commit.progress));
        for ((table, layout), changes) in tables.iter().zip(layouts).zip(&commit.changes) {
            if let Some(partitions) = &mut layout.partitions {
                partitions.make_for(client, table, &changes.upserts, now).await?;
            }
        }
        let step = Move::new(*lease, &commit.progress)?;
        match write::write(client, statements, tables, owner, &step, &commit.changes).await {
            Ok(()) => {}
            Err(Failure::Refused) => return Err(progress::refused(client, owner, *lease).await),
            Err(Failure::Fault(fault)) => return Err(fault),
        }
        self.session = Some(session);
        self.durable = Some(commit.progress.clone());
        Ok(self.durable.clone())
    }

    async fn recover(&mut self) -> Result<Option<Progress>, Fault> {
        self.session = None;
        let Some(generation) = self.generation else {
            return Err(Fault::stop("the sink was never opened"));
        };
        let connection = self.connect().await?;
        let owner = &self.settings.owner;
        // Claimed again, not just read: a commit of the lost connection may still be under way. A
        // generation that is lower than ours comes from a server that forgot the claim.
        let claimed = progress::claim(&connection.client, owner, generation, true).await?;
        let claimed = claimed.map_err(|_| progress::fenced(owner))?;
        if claimed.progress.is_none() && self.durable.is_some() {
            return Err(progress::gone(owner));
        }
        self.begin_session(connection, &claimed).await?;
        Ok(claimed.progress)
    }

    fn retains(&self) -> bool {
        self.settings.tables.iter().any(|table| !table.periods.is_empty())
    }

    async fn clean(&mut self) -> Result<Cleaning, Fault> {
        let lease = self.session.as_ref().map(|session| session.lease);
        // A connection of its own: what goes wrong here leaves the one of the commits alone.
        let mut pass = match self.pass.take() {
            Some(pass) => pass,
            None if self.generation.is_some() && lease.is_none() => {
                return Err(Fault::retry("the connection to postgres is lost"));
            }
            None => Pass::new(self.connect().await?),
        };
        let Settings { owner, tables, .. } = &*self.settings;
        let cleaning = pass.step(tables, owner, lease, self.expected.as_deref()).await?;
        if cleaning.is_done {
            pass.end().await;
        } else {
            self.pass = Some(pass);
        }
        Ok(cleaning)
    }

    async fn close(&mut self) -> Result<Option<Progress>, Fault> {
        if let Some(pass) = self.pass.take() {
            pass.end().await;
        }
        if let Some(session) = self.session.take() {
            session.connection.close().await;
        }
        Ok(self.durable.clone())
    }

    async fn probe(&mut self) -> Vec<String> {
        let connection = match self.connect().await {
            Ok(connection) => connection,
            Err(fault) => return vec![with_help(&fault)],
        };
        let client = &connection.client;
        let mut problems = Vec::new();
        let mut keep =
            |what: String, probed: Result<Vec<String>, tokio_postgres::Error>| match probed {
                Ok(lines) => problems.extend(lines),
                Err(error) => problems.push(with_help(&fault::fault(&error, what))),
            };
        keep(progress::PROGRESS.to_owned(), progress::probe(client).await);
        for table in &self.settings.tables {
            keep(format!("table {}", table.name.plain()), table.probe(client).await);
        }
        connection.close().await;
        problems
    }
}

fn with_help(fault: &Fault) -> String {
    match &fault.help {
        Some(help) => format!("{fault}; {help}"),
        None => fault.to_string(),
    }
}
