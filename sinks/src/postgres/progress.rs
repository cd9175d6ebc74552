//! The table `waterwheel.progress`: how far each sink is, and who may write to it.

use serde_json::Value as Json;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Row, Statement};
use waterwheel_pipeline::contract::epoch::{Generation, Progress};
use waterwheel_pipeline::contract::failpoint;
use waterwheel_pipeline::contract::fault::Fault;

use super::arrays::Watermark;
use super::fault::fault;
use super::tables::{probe_creation, probe_rights};

/// The progress table, as people know it.
pub(super) const PROGRESS: &str = "waterwheel.progress";

/// Begins a transaction that waits for every other one that creates things for waterwheel.
pub(super) const BEGIN_CREATING: &str =
    "BEGIN; SELECT pg_advisory_xact_lock(x'7761746572776865'::bigint)";

/// The same inside a transaction that has begun.
pub(super) const CREATING: &str = "SELECT pg_advisory_xact_lock(x'7761746572776865'::bigint)";

// Rewritten with every commit: room in the page keeps the new versions next to the old.
const CREATE: &str = "
    CREATE TABLE IF NOT EXISTS waterwheel.progress (
        pipeline text NOT NULL,
        sink text NOT NULL,
        generation bigint NOT NULL,
        session bigint NOT NULL,
        epoch bigint,
        positions jsonb,
        watermark timestamptz NOT NULL,
        record jsonb,
        finished boolean NOT NULL DEFAULT false,
        tables text[] NOT NULL DEFAULT '{}',
        updated_at timestamptz NOT NULL,
        PRIMARY KEY (pipeline, sink)
    ) WITH (fillfactor = 50)";

/// Whose progress it is: one row of the table.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    pub(super) pipeline: String,
    pub(super) sink: String,
}

/// The right to write: what the guard of every commit compares.
///
/// The generation fences off older instances. The session counts the connections: a commit whose
/// connection broke may still be on its way to the server, and must not arrive after the commits
/// of the connection that took its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    pub(super) generation: i64,
    pub(super) session: i64,
}

/// What a claim found.
pub(super) struct Claimed {
    pub(super) lease: Lease,
    pub(super) progress: Option<Progress>,
    /// The tables that hold the rows of the progress.
    pub(super) tables: Vec<String>,
}

/// Creates the schema and the table where they are missing.
pub(super) async fn ensure(client: &Client) -> Result<(), Fault> {
    let failed = |error: Error| fault(&error, format_args!("creating {PROGRESS}"));
    // Looked up first: `IF NOT EXISTS` asks for the right to create even where nothing is created.
    let found = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'waterwheel'), \
         to_regclass('waterwheel.progress') IS NOT NULL";
    let row = client.query_one(found, &[]).await.map_err(failed)?;
    let (has_schema, has_table): (bool, bool) = (row.get(0), row.get(1));
    if has_table {
        return Ok(());
    }
    let schema = if has_schema { "" } else { "CREATE SCHEMA IF NOT EXISTS waterwheel;" };
    let create = format!("{BEGIN_CREATING}; {schema} {CREATE}; COMMIT");
    client.batch_execute(&create).await.map_err(failed)
}

/// The generation as the table holds it.
pub(super) fn stored(generation: Generation) -> Result<i64, Fault> {
    i64::try_from(generation)
        .map_err(|_| Fault::stop(format_args!("generation {generation} is beyond bigint")))
}

/// Takes the row of the owner for a generation, which must be higher than what is stored, or
/// (`again`) not lower. Returns `Err(stored)` where it is not.
///
/// The statement writes before it reads: it waits for a commit that holds the row, and every
/// commit that comes later finds another generation or session and fails. A read, even one that
/// locks, would let a commit pass that was sent but had not locked the row yet.
pub(super) async fn claim(
    client: &Client,
    owner: &Owner,
    generation: i64,
    again: bool,
) -> Result<Result<Claimed, Generation>, Fault> {
    let failed = |error: Error| fault(&error, format_args!("claiming {PROGRESS}"));
    let beats = if again { "<=" } else { "<" };
    let parameters: [&(dyn ToSql + Sync); 3] = [&owner.pipeline, &owner.sink, &generation];
    if failpoint::has_bug("fence-by-lock") {
        let read = format!(
            "SELECT session, record, tables, generation FROM waterwheel.progress AS p
             WHERE pipeline = $1 AND sink = $2 AND p.generation {beats} $3 FOR UPDATE"
        );
        if let Some(row) = client.query_opt(&read, &parameters).await.map_err(failed)? {
            return claimed(&row, row.get(3), owner).map(Ok);
        }
    }
    let claim = format!(
        "INSERT INTO waterwheel.progress AS p
             (pipeline, sink, generation, session, watermark, updated_at)
         VALUES ($1, $2, $3, 1, '-infinity', clock_timestamp())
         ON CONFLICT (pipeline, sink) DO UPDATE
         SET generation = EXCLUDED.generation, session = p.session + 1,
             updated_at = EXCLUDED.updated_at
         WHERE p.generation {beats} EXCLUDED.generation
         RETURNING p.session, p.record, p.tables"
    );
    let Some(row) = client.query_opt(&claim, &parameters).await.map_err(failed)? else {
        let Some(newer) = read_generation(client, owner).await? else {
            return Err(Fault::retry(format_args!("{PROGRESS} changed while it was claimed")));
        };
        return Ok(Err(newer));
    };
    claimed(&row, generation, owner).map(Ok)
}

fn claimed(row: &Row, generation: i64, owner: &Owner) -> Result<Claimed, Fault> {
    let lease = Lease { generation, session: row.get(0) };
    let record: Option<Json> = row.get(1);
    let progress = record.map(serde_json::from_value).transpose().map_err(|error| {
        Fault::halt(format_args!("the record of sink {} in {PROGRESS}: {error}", owner.sink))
            .help("it was written by another version of waterwheel, or by hand")
    })?;
    Ok(Claimed { lease, progress, tables: row.get(2) })
}

/// Notes which tables hold the rows, so that a table that goes missing is noticed.
pub(super) async fn note_tables(
    client: &Client,
    owner: &Owner,
    lease: Lease,
    tables: &[String],
) -> Result<(), Fault> {
    let note = "UPDATE waterwheel.progress SET tables = $5 \
         WHERE pipeline = $1 AND sink = $2 AND generation = $3 AND session = $4";
    let Lease { generation, session } = lease;
    let noted = client
        .execute(note, &[&owner.pipeline, &owner.sink, &generation, &session, &tables])
        .await
        .map_err(|error| fault(&error, PROGRESS))?;
    if noted == 0 { Err(refused(client, owner, lease).await) } else { Ok(()) }
}

/// Prepares the guard: it moves the progress, and fails where the lease no longer holds.
///
/// It fails by itself, in the server: what follows it in the transaction is on its way before its
/// answer is back, so that looking at the count of rows here would be too late.
pub(super) async fn prepare_guard(client: &Client) -> Result<Statement, Error> {
    let guard = "
        WITH moved AS (
            UPDATE waterwheel.progress
            SET epoch = $5, positions = $6, watermark = $7, record = $8, finished = $9,
                updated_at = clock_timestamp()
            WHERE pipeline = $1 AND sink = $2 AND generation = $3 AND session = $4
            RETURNING 1
        )
        SELECT 1 / count(*) FROM moved";
    if failpoint::has_bug("guard-does-not-raise") {
        return client.prepare(&guard.replace("1 / count(*)", "count(*)")).await;
    }
    client.prepare(guard).await
}

/// True for the error by which the guard fails.
pub(super) fn is_refusal(error: &Error) -> bool {
    error.code() == Some(&SqlState::DIVISION_BY_ZERO)
}

/// The parameters of the guard for one commit.
pub(super) struct Move {
    lease: Lease,
    epoch: i64,
    positions: Json,
    watermark: Watermark,
    record: Json,
    finished: bool,
}

impl Move {
    /// Encodes the progress.
    pub(super) fn new(lease: Lease, progress: &Progress) -> Result<Self, Fault> {
        let unfit = |error: &dyn std::fmt::Display| {
            Fault::halt(format_args!("the progress cannot be stored: {error}"))
        };
        Ok(Self {
            lease,
            epoch: i64::try_from(progress.record.epoch).map_err(|error| unfit(&error))?,
            positions: serde_json::to_value(&progress.record.positions)
                .map_err(|error| unfit(&error))?,
            watermark: Watermark(progress.record.watermark()),
            record: serde_json::to_value(progress).map_err(|error| unfit(&error))?,
            finished: progress.finished,
        })
    }

    /// In the order of the guard's parameters.
    pub(super) fn parameters<'a>(&'a self, owner: &'a Owner) -> [&'a (dyn ToSql + Sync); 9] {
        [
            &owner.pipeline,
            &owner.sink,
            &self.lease.generation,
            &self.lease.session,
            &self.epoch,
            &self.positions,
            &self.watermark,
            &self.record,
            &self.finished,
        ]
    }
}

/// Why the lease does not hold, for the person who must act.
pub(super) async fn refused(client: &Client, owner: &Owner, lease: Lease) -> Fault {
    // A transaction that failed answers nothing more; should this fail as well, so does the read.
    let _ = client.batch_execute("ROLLBACK").await;
    match read_generation(client, owner).await {
        Ok(Some(stored)) if i64::try_from(stored).is_ok_and(|own| own == lease.generation) => {
            // Another connection of this instance, or of one that was given the same generation.
            Fault::halt(format_args!("sink {} was taken over by another connection", owner.sink))
                .help("run one instance of the pipeline")
        }
        Ok(None) => gone(owner),
        // Where even that cannot be read, the guard has still said no.
        Ok(Some(_)) | Err(_) => fenced(owner),
    }
}

/// The fault where somebody deleted the row.
pub(super) fn gone(owner: &Owner) -> Fault {
    Fault::halt(format_args!(
        "the row of pipeline {} and sink {} in {PROGRESS} is gone",
        owner.pipeline, owner.sink
    ))
    .help("put it back, or drop the sink's tables to have it filled from the stream again")
}

/// The fault of an instance that is no longer the newest.
pub(super) fn fenced(owner: &Owner) -> Fault {
    Fault::halt(format_args!(
        "a newer instance of pipeline {} has taken over sink {}",
        owner.pipeline, owner.sink
    ))
    .help("this instance wrote nothing since; run one instance of a pipeline")
}

/// What would go wrong when the sink opens, for `check --connect`.
pub(super) async fn probe(client: &Client) -> Result<Vec<String>, Error> {
    let found = "SELECT to_regclass('waterwheel.progress') IS NOT NULL";
    if !client.query_one(found, &[]).await?.get::<_, bool>(0) {
        return probe_creation(client, "waterwheel", PROGRESS).await;
    }
    probe_rights(client, PROGRESS, PROGRESS).await
}

async fn read_generation(client: &Client, owner: &Owner) -> Result<Option<Generation>, Fault> {
    let read = "SELECT generation FROM waterwheel.progress WHERE pipeline = $1 AND sink = $2";
    let row = client
        .query_opt(read, &[&owner.pipeline, &owner.sink])
        .await
        .map_err(|error| fault(&error, PROGRESS))?;
    Ok(row.map(|row| row.get::<_, i64>(0).unsigned_abs()))
}
