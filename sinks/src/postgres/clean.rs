//! `retain`: removes what is older, a whole partition or some thousand rows at a time.
//!
//! Every step is a transaction that begins by locking the row of the progress, as commits and claims
//! do: it sees the watermark that its rows belong to, an instance that is no longer the newest
//! removes nothing, and whoever takes over waits for the step to end. The step of somebody who is no
//! instance (`waterwheel clean`) takes the same lock and changes nothing there.

use serde_json::Value as Json;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error};
use waterwheel_config::schema::Finality;
use waterwheel_pipeline::contract::epoch::Progress;
use waterwheel_pipeline::contract::failpoint;
use waterwheel_pipeline::contract::fault::Fault;
use waterwheel_pipeline::contract::retain::{Cleaned, Cleaning, GRANULARITY, Now, check_meaning};

use super::arrays::Watermark;
use super::connect::Connection;
use super::fault::fault;
use super::finality;
use super::partitions::{self, LOCK_BRIEFLY, Partition};
use super::progress::{self, Lease, Owner, PROGRESS};
use super::tables::{Found, Table, TableName, literal, quote};

/// What one step deletes at most.
const STEP_ROWS: i64 = 5_000;

/// Partitions up to this size are counted before they go; of others the server's estimate is told.
const COUNTED_BYTES: i64 = 64 << 20;

/// How often a partition is tried that a reader holds.
const TRIES: u32 = 40;

/// What one pass removes, step by step.
pub(super) struct Pass {
    connection: Connection,
    /// Where it is: the table, and which of its periods.
    table: usize,
    period: usize,
    /// The partitions of the table are done.
    partitions_done: bool,
    /// Partitions that others' objects depend on.
    kept: Vec<TableName>,
    tries: u32,
}

/// A step as its transaction sees it.
struct Step<'a> {
    client: &'a Client,
    table: &'a Table,
    granularity: Option<&'a str>,
    watermark: i64,
    cutoff_us: i64,
}

/// What came of an attempt.
enum Removed {
    /// That, and there may be more.
    Some(Cleaned),
    /// Nothing is left.
    Nothing,
    /// Somebody holds the table.
    Held,
}

impl Pass {
    pub(super) fn new(connection: Connection) -> Self {
        let (table, period, tries) = (0, 0, 0);
        Self { connection, table, period, partitions_done: false, kept: Vec::new(), tries }
    }

    /// Lets go of the server.
    pub(super) async fn end(self) {
        self.connection.close().await;
    }

    /// The next step. After a fault the pass is over: its connection may be inside a transaction.
    pub(super) async fn step(
        &mut self,
        tables: &[Table],
        owner: &Owner,
        lease: Option<Lease>,
        expected: Option<&str>,
    ) -> Result<Cleaning, Fault> {
        loop {
            let Some(table) = tables.get(self.table) else { return Ok(Cleaning::done()) };
            let Some((granularity, period_us)) = table.periods.get(self.period) else {
                (self.table, self.period, self.partitions_done) = (self.table + 1, 0, false);
                continue;
            };
            let begun = begin(&self.connection.client, owner, lease, expected).await?;
            let Some((progress, filled)) = begun else { return Ok(Cleaning::done()) };
            failpoint::reach("postgres.clean.guarded");
            let removed = match filled.contains(&table.name.plain()) {
                true => {
                    let granularity = granularity.as_deref();
                    self.remove(table, granularity, *period_us, &progress).await?
                }
                // Not ours yet, whatever is in it.
                false => Removed::Nothing,
            };
            let failed = |error: Error| table.fault(&error);
            let end = if matches!(removed, Removed::Some(_)) { "COMMIT" } else { "ROLLBACK" };
            self.connection.client.batch_execute(end).await.map_err(failed)?;
            match removed {
                Removed::Some(cleaned) => {
                    failpoint::reach("postgres.clean.committed");
                    self.tries = 0;
                    return Ok(Cleaning { removed: vec![cleaned], is_done: false });
                }
                Removed::Held if self.tries < TRIES => {
                    self.tries += 1;
                    return Ok(Cleaning::default());
                }
                Removed::Held => {
                    let table = table.name.plain();
                    tracing::warn!(
                        "old partitions of {table} stay for now: readers hold the table"
                    );
                    (self.partitions_done, self.tries) = (true, 0);
                }
                Removed::Nothing if !self.partitions_done => self.partitions_done = true,
                Removed::Nothing => (self.period, self.partitions_done) = (self.period + 1, false),
            }
        }
    }

    async fn remove(
        &mut self,
        table: &Table,
        granularity: Option<&str>,
        period_us: i64,
        progress: &Progress,
    ) -> Result<Removed, Fault> {
        let client = &self.connection.client;
        let failed = |error: Error| table.fault(&error);
        if table.inspect(client).await.map_err(failed)? != Found::Fits {
            return Ok(Removed::Nothing);
        }
        let now_us = match Now::of(Some(progress)) {
            Now::Unknown => None,
            Now::At(micros) => Some(micros),
            Now::Newest => newest(client, table).await.map_err(failed)?,
        };
        let Some(now_us) = now_us else { return Ok(Removed::Nothing) };
        let watermark = progress.record.watermark();
        let cutoff_us = now_us.saturating_sub(period_us);
        let step = Step { client, table, granularity, watermark, cutoff_us };
        let loaded = partitions::load(client, table).await.map_err(failed)?;
        let Some(partitions) = loaded else { return step.delete(&table.name).await };
        if self.partitions_done {
            return step.delete(&partitions.rest).await;
        }
        for partition in partitions.before(cutoff_us) {
            if self.kept.contains(&partition.name) || !step.is_final(partition).await? {
                continue;
            }
            return match step.drop(partition).await {
                Ok(cleaned) => Ok(Removed::Some(cleaned)),
                Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                    Ok(Removed::Held)
                }
                Err(error) if error.code() == Some(&SqlState::DEPENDENT_OBJECTS_STILL_EXIST) => {
                    let name = partition.name.plain();
                    tracing::warn!("partition {name} stays: something else depends on it");
                    self.kept.push(partition.name.clone());
                    // The transaction is over; the next one looks at the others.
                    Ok(Removed::Held)
                }
                Err(error) => Err(failed(error)),
            };
        }
        Ok(Removed::Nothing)
    }
}

/// Begins a transaction that holds the progress; `None` where there is none, and nothing began.
async fn begin(
    client: &Client,
    owner: &Owner,
    lease: Option<Lease>,
    expected: Option<&str>,
) -> Result<Option<(Progress, Vec<String>)>, Fault> {
    let failed = |error: Error| fault(&error, PROGRESS);
    let there = "SELECT to_regclass('waterwheel.progress') IS NOT NULL";
    if !client.query_one(there, &[]).await.map_err(failed)?.get::<_, bool>(0) {
        return Ok(None);
    }
    let begin = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";
    client.batch_execute(begin).await.map_err(failed)?;
    let hold = "SELECT record, tables, generation, session FROM waterwheel.progress \
         WHERE pipeline = $1 AND sink = $2 FOR NO KEY UPDATE";
    let row = client.query_opt(hold, &[&owner.pipeline, &owner.sink]).await.map_err(failed)?;
    if let Some(lease) = lease {
        let is_held = |row: &tokio_postgres::Row| {
            (row.get::<_, i64>(2), row.get::<_, i64>(3)) == (lease.generation, lease.session)
        };
        if !row.as_ref().is_some_and(is_held) {
            return Err(progress::refused(client, owner, lease).await);
        }
    }
    let record = row.as_ref().and_then(|row| row.get::<_, Option<Json>>(0));
    let (Some(row), Some(record)) = (row, record) else {
        client.batch_execute("ROLLBACK").await.map_err(failed)?;
        return Ok(None);
    };
    let progress: Progress = serde_json::from_value(record).map_err(|error| {
        Fault::halt(format_args!("the record of sink {} in {PROGRESS}: {error}", owner.sink))
            .help("it was written by another version of waterwheel, or by hand")
    })?;
    if lease.is_none() {
        check_meaning(expected, &progress, format_args!("the tables of sink {}", owner.sink))?;
    }
    Ok(Some((progress, row.get(1))))
}

/// The newest time in a table, for which there is no watermark any more.
async fn newest(client: &Client, table: &Table) -> Result<Option<i64>, Error> {
    let Some(time) = table.time() else { return Ok(None) };
    let newest = format!(
        "SELECT (extract(epoch FROM max({time})) * 1000000)::bigint FROM {}",
        table.name.quoted()
    );
    Ok(client.query_one(&newest, &[]).await?.get(0))
}

impl Step<'_> {
    fn cleaned(&self, rows: u64, partitions: u64) -> Cleaned {
        Cleaned {
            input: self.table.input.clone(),
            place: self.table.name.plain(),
            granularity: self.granularity.map(str::to_owned),
            before_us: self.cutoff_us,
            rows: Some(rows),
            partitions,
            files: 0,
        }
    }

    /// True of rows that can no longer change, in SQL, with the watermark as its parameter.
    fn finality(&self) -> Option<String> {
        let (moment, plus_us) = finality::moment(&self.table.schema)?;
        Some(format!("{moment} + interval '{plus_us} microseconds' <= $1"))
    }

    /// Deletes some rows of a table, or of one of its partitions.
    async fn delete(&self, from: &TableName) -> Result<Removed, Fault> {
        let Some(time) = self.table.time() else { return Ok(Removed::Nothing) };
        let cutoff = Watermark(self.cutoff_us);
        let mut condition = format!("{time} < $2 AND $1::timestamptz IS NOT NULL");
        if failpoint::has_bug("clean-ignores-period") {
            condition = condition.replace(" < $2", " < $2::timestamptz + interval '1 day'");
        }
        if let Some(granularity) = self.granularity {
            condition.push_str(&format!(" AND {GRANULARITY} = {}", literal(granularity)));
        }
        if let Some(is_final) = self.finality() {
            condition.push_str(&format!(" AND {is_final}"));
        }
        let from = from.quoted();
        // A place in a table is unique in one partition alone.
        let delete = format!(
            "WITH old AS MATERIALIZED (
                 SELECT tableoid, ctid FROM {from} WHERE {condition} LIMIT {STEP_ROWS})
             DELETE FROM {from} AS t USING old
             WHERE t.ctid = old.ctid AND t.tableoid = old.tableoid"
        );
        let deleted = self
            .client
            .execute(&delete, &[&Watermark(self.watermark), &cutoff])
            .await
            .map_err(|error| self.table.fault(&error))?;
        failpoint::reach("postgres.clean.removed");
        Ok(match deleted {
            0 => Removed::Nothing,
            rows => Removed::Some(self.cleaned(rows, 0)),
        })
    }

    /// True if no row of an old partition can still change.
    async fn is_final(&self, partition: &Partition) -> Result<bool, Fault> {
        // Where its end says so, nobody need look.
        if let Finality::At { column, plus_us } = self.table.schema.finality
            && self.table.schema.time == Some(column)
        {
            return Ok(partition.end_us.saturating_add(plus_us) <= self.watermark);
        }
        let Some(is_final) = self.finality() else { return Ok(true) };
        let open = format!(
            "SELECT EXISTS (SELECT FROM {} WHERE NOT ({is_final}))",
            partition.name.quoted()
        );
        let open = self.client.query_one(&open, &[&Watermark(self.watermark)]).await;
        Ok(!open.map_err(|error| self.table.fault(&error))?.get::<_, bool>(0))
    }

    /// Drops a partition. Readers of the table are waited for only briefly: commits wait meanwhile.
    async fn drop(&self, partition: &Partition) -> Result<Cleaned, Error> {
        let (parent, name) = (self.table.name.quoted(), partition.name.quoted());
        let lock = format!("{LOCK_BRIEFLY}; LOCK TABLE ONLY {parent} IN ACCESS EXCLUSIVE MODE");
        self.client.batch_execute(&lock).await?;
        let size = "SELECT pg_table_size($1::text::regclass), \
             greatest((SELECT reltuples::bigint FROM pg_class WHERE oid = $1::text::regclass), 0)";
        let row = self.client.query_one(size, &[&name]).await?;
        let (bytes, estimate): (i64, i64) = (row.get(0), row.get(1));
        let rows = if bytes <= COUNTED_BYTES {
            self.client.query_one(&format!("SELECT count(*) FROM {name}"), &[]).await?.get(0)
        } else {
            estimate
        };
        self.client.batch_execute(&format!("DROP TABLE {name}")).await?;
        failpoint::reach("postgres.clean.removed");
        Ok(self.cleaned(rows.unsigned_abs(), 1))
    }
}

impl Table {
    /// The name of the time of its rows, quoted.
    pub(super) fn time(&self) -> Option<String> {
        self.schema.time.map(|time| quote(&self.schema.columns[time].name))
    }
}
