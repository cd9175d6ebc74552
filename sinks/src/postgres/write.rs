//! One commit: the statements of a transaction, sent without waiting for the answers in between.
//!
//! The rows of a statement travel as one binary array per column, which `unnest` turns into rows
//! again. A staging table filled by COPY does the same with one more round trip per table, writes
//! every row twice, and would have to be either created in each transaction (the catalogue grows)
//! or kept for the life of the connection (a temporary table that nothing can vacuum holds back
//! the server's transaction horizon, and this connection lives for months).

use std::borrow::Borrow;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::task::Poll;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio_postgres::types::BorrowToSql;
use tokio_postgres::{Client, Error, Statement};
use waterwheel_config::schema::Finality;
use waterwheel_config::value::{Row, Value};
use waterwheel_pipeline::contract::failpoint;
use waterwheel_pipeline::contract::fault::Fault;
use waterwheel_pipeline::contract::sink::Changes;

use super::arrays::ColumnArray;
use super::fault::{fault, is_broken};
use super::partitions::Layout;
use super::progress::{self, Move, Owner};
use super::tables::{Table, quote};

/// What one statement carries at most.
const CHUNK_ROWS: usize = 10_000;
const CHUNK_BYTES: usize = 4 << 20;

/// What may be on its way without an answer.
const IN_FLIGHT_BYTES: usize = 16 << 20;

/// Which columns of a key are NULL.
type NullKeys = Vec<bool>;

/// The prepared statements of one connection.
pub(super) struct Statements {
    begin: Statement,
    guard: Statement,
    commit: Statement,
    upserts: Vec<Statement>,
    deletes: HashMap<(usize, NullKeys), Statement>,
}

impl Statements {
    /// Prepares what every commit needs.
    pub(super) async fn prepare(
        client: &Client,
        tables: &[Table],
        layouts: &[Layout],
    ) -> Result<Self, Fault> {
        let failed = |error: Error| fault(&error, "preparing the statements");
        // Said in full, so that no default of the role changes what a commit means.
        let begin = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";
        let mut statements = Self {
            begin: client.prepare(begin).await.map_err(failed)?,
            guard: progress::prepare_guard(client).await.map_err(failed)?,
            commit: client.prepare("COMMIT").await.map_err(failed)?,
            upserts: Vec::new(),
            deletes: HashMap::new(),
        };
        for (table, layout) in tables.iter().zip(layouts) {
            let prepared = client.prepare(&upsert_sql(table, layout)).await;
            statements.upserts.push(prepared.map_err(|error| table_fault(&error, table))?);
        }
        Ok(statements)
    }

    /// Prepares the deletes that this commit needs and none did before.
    async fn prepare_deletes(
        &mut self,
        client: &Client,
        tables: &[Table],
        deletes: &[Deletes<'_>],
    ) -> Result<(), Fault> {
        for Deletes { input, nulls, .. } in deletes {
            let kind = (*input, nulls.clone());
            if let Entry::Vacant(missing) = self.deletes.entry(kind) {
                let table = &tables[*input];
                let prepared = client.prepare(&delete_sql(table, nulls)).await;
                missing.insert(prepared.map_err(|error| table_fault(&error, table))?);
            }
        }
        Ok(())
    }
}

fn table_fault(error: &Error, table: &Table) -> Fault {
    fault(error, format_args!("table {}", table.name.plain()))
}

/// Rows that are there already are rewritten, in append-only tables too: whatever stood there, the
/// table equals the pipeline's result afterwards.
fn upsert_sql(table: &Table, layout: &Layout) -> String {
    let columns = table.columns();
    let arrays = arrays(table, 0..columns.len());
    // A partition's own column stays as it is: the row stays where it is.
    let joins = |at: usize| layout.time_joins_key && table.schema.time == Some(at);
    let is_key = |at: &usize| table.schema.key.contains(at) || joins(*at);
    let set: Vec<String> = (0..columns.len())
        .filter(|at| !is_key(at))
        .map(|at| format!("{0} = EXCLUDED.{0}", columns[at]))
        .collect();
    let action = if set.is_empty() {
        // All columns are key: a row that is there is the same row.
        "NOTHING".to_owned()
    } else {
        format!("UPDATE SET {}", set.join(", "))
    };
    format!(
        "INSERT INTO {} ({}) SELECT * FROM unnest({arrays}) ON CONFLICT ({}) DO {action}",
        table.name.quoted(),
        columns.join(", "),
        table.conflict_target(layout),
    )
}

/// `IS NOT DISTINCT FROM` cannot use an index, but `=` and `IS NULL` can: so the keys are deleted
/// by which of their columns are NULL.
fn delete_sql(table: &Table, nulls: &[bool]) -> String {
    let key = &table.schema.key;
    let name = |at: usize| quote(&table.schema.columns[key[at]].name);
    let (null, filled): (Vec<usize>, Vec<usize>) = (0..key.len()).partition(|&at| nulls[at]);
    let mut conditions: Vec<String> =
        null.iter().map(|&at| format!("t.{} IS NULL", name(at))).collect();
    conditions.extend(filled.iter().map(|&at| format!("t.{} = gone.k{at}", name(at))));
    let condition =
        if conditions.is_empty() { "true".to_owned() } else { conditions.join(" AND ") };
    let table_name = table.name.quoted();
    if filled.is_empty() {
        return format!("DELETE FROM {table_name} AS t WHERE {condition}");
    }
    let arrays = arrays(table, filled.iter().map(|&at| key[at]));
    let names: Vec<String> = filled.iter().map(|at| format!("k{at}")).collect();
    let names = names.join(", ");
    format!(
        "DELETE FROM {table_name} AS t USING unnest({arrays}) AS gone({names}) WHERE {condition}"
    )
}

fn arrays(table: &Table, columns: impl Iterator<Item = usize>) -> String {
    let array = |(at, column): (usize, usize)| {
        format!("${}::{}[]", at + 1, table.schema.columns[column].kind)
    };
    columns.enumerate().map(array).collect::<Vec<_>>().join(", ")
}

/// Rows of one input that one statement deletes.
struct Deletes<'a> {
    input: usize,
    nulls: NullKeys,
    rows: Vec<&'a Row>,
}

fn group_deletes<'a>(tables: &[Table], changes: &'a [Changes]) -> Vec<Deletes<'a>> {
    let mut groups: Vec<Deletes<'a>> = Vec::new();
    let mut places: HashMap<(usize, NullKeys), usize> = HashMap::new();
    for (input, changes) in changes.iter().enumerate() {
        for row in &changes.deletes {
            let nulls: NullKeys = row.key(&tables[input].schema.key).map(Value::is_null).collect();
            let place = *places.entry((input, nulls.clone())).or_insert_with(|| {
                groups.push(Deletes { input, nulls, rows: Vec::new() });
                groups.len() - 1
            });
            groups[place].rows.push(row);
        }
    }
    groups
}

/// The rows that are written of each input: of a key that came again in one commit the last one, since
/// no statement may touch a row twice.
fn upserts<'a>(tables: &[Table], changes: &'a [Changes]) -> Vec<Vec<&'a Row>> {
    let rows = |(table, changes): (&Table, &'a Changes)| -> Vec<&'a Row> {
        let rows = changes.upserts.iter();
        match table.schema.finality {
            Finality::Silent { .. } => {
                let key = |row: &'a Row| row.key(&table.schema.key).cloned().collect();
                let last: HashMap<Vec<Value>, &Row> = rows.map(|row| (key(row), row)).collect();
                last.into_values().collect()
            }
            _ => rows.collect(),
        }
    };
    tables.iter().zip(changes).map(rows).collect()
}

/// Writes the changes and moves the progress in one transaction.
///
/// `BEGIN` is waited for: were it to fail with the rest on its way, every statement would commit
/// on its own. All else goes out at once. The guard comes first: it takes the lock of the
/// progress row before any row of data is touched, so that a takeover either waits for this
/// transaction or makes it fail before it did anything, and transactions that write the same
/// tables never run side by side (which is why rows need no sorting against deadlocks).
pub(super) async fn write(
    client: &Client,
    statements: &mut Statements,
    tables: &[Table],
    owner: &Owner,
    step: &Move,
    changes: &[Changes],
) -> Result<(), Failure> {
    if changes.iter().all(Changes::is_empty) {
        return move_alone(client, statements, tables, owner, step).await;
    }
    let deletes = group_deletes(tables, changes);
    let upserts = upserts(tables, changes);
    statements.prepare_deletes(client, tables, &deletes).await?;
    let (before, after) =
        (failpoint::has_bug("progress-before-rows"), failpoint::has_bug("progress-after-rows"));
    if before {
        move_alone(client, statements, tables, owner, step).await?;
    }
    let begun = client.execute(&statements.begin, &[]).await;
    begun.map_err(|error| fault(&error, "beginning a transaction"))?;
    failpoint::reach("postgres.commit.begun");

    let mut flight = Flight::new(client, tables);
    if !before && !after {
        flight.send(Part::Guard, 0, &statements.guard, step.parameters(owner).to_vec()).await?;
        failpoint::reach("postgres.progress.written");
    }
    for Deletes { input, nulls, rows } in &deletes {
        let table = &tables[*input];
        let statement = &statements.deletes[&(*input, nulls.clone())];
        let columns: Vec<usize> = table
            .schema
            .key
            .iter()
            .copied()
            .zip(nulls)
            .filter_map(|(column, null)| (!null).then_some(column))
            .collect();
        flight.send_rows(*input, statement, &columns, rows).await?;
    }
    for (input, rows) in upserts.iter().enumerate() {
        let columns: Vec<usize> = (0..tables[input].schema.columns.len()).collect();
        flight.send_rows(input, &statements.upserts[input], &columns, rows).await?;
    }
    failpoint::reach("postgres.rows.written");
    flight.send(Part::Commit, 0, &statements.commit, Vec::<&str>::new()).await?;
    if failpoint::is_awaited("postgres.commit.sent") {
        // Another task writes to the socket.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    failpoint::reach("postgres.commit.sent");
    flight.land(0).await?;
    failpoint::reach("postgres.commit.done");
    if after {
        move_alone(client, statements, tables, owner, step).await?;
    }
    Ok(())
}

/// Moves the progress where no row changed: the guard alone is a transaction of its own.
async fn move_alone(
    client: &Client,
    statements: &Statements,
    tables: &[Table],
    owner: &Owner,
    step: &Move,
) -> Result<(), Failure> {
    let mut flight = Flight::new(client, tables);
    flight.commit_sent = true;
    flight.send(Part::Guard, 0, &statements.guard, step.parameters(owner).to_vec()).await?;
    flight.land(0).await
}

/// How a commit failed.
pub(super) enum Failure {
    /// The guard said no.
    Refused,
    /// Anything else.
    Fault(Fault),
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// A part of the transaction, for messages.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Guard,
    Rows(usize),
    Commit,
}

/// How many rows a statement touched, once it is answered.
type Answer<'a> = BoxFuture<'a, Result<u64, Error>>;

/// The statements that were sent and not yet answered, in order.
struct Flight<'a> {
    client: &'a Client,
    tables: &'a [Table],
    /// Each with its size in bytes.
    waiting: VecDeque<(Part, usize, Answer<'a>)>,
    in_flight_bytes: usize,
    commit_sent: bool,
}

impl<'a> Flight<'a> {
    fn new(client: &'a Client, tables: &'a [Table]) -> Self {
        let waiting = VecDeque::new();
        Self { client, tables, waiting, in_flight_bytes: 0, commit_sent: false }
    }

    async fn send_rows<R: Borrow<Row> + Send + Sync>(
        &mut self,
        input: usize,
        statement: &'a Statement,
        columns: &[usize],
        rows: &'a [R],
    ) -> Result<(), Failure> {
        let table = &self.tables[input];
        let mut rest = rows;
        while !rest.is_empty() {
            let (length, bytes) = chunk(rest);
            let (now, later) = rest.split_at(length);
            rest = later;
            let array = |&column: &usize| ColumnArray {
                rows: now,
                column,
                kind: table.schema.columns[column].kind,
                longest_bytes: table.longest_bytes(column),
            };
            let arrays: Vec<_> = columns.iter().map(array).collect();
            self.send(Part::Rows(input), bytes, statement, arrays).await?;
        }
        Ok(())
    }

    /// Sends a statement, and waits for older ones while too much is on its way.
    async fn send<P: BorrowToSql + Send + 'a>(
        &mut self,
        part: Part,
        bytes: usize,
        statement: &'a Statement,
        parameters: Vec<P>,
    ) -> Result<(), Failure> {
        self.land(IN_FLIGHT_BYTES).await?;
        self.commit_sent |= part == Part::Commit;
        let mut answer = self.client.execute_raw(statement, parameters).boxed();
        // The library encodes and sends at the first poll, so that this one gives the order.
        if let Poll::Ready(answered) = futures::poll!(answer.as_mut()) {
            // What could not be sent must end the transaction here: a COMMIT behind it would
            // commit a part.
            answered.map_err(|error| self.failure(part, &error))?;
            return Ok(());
        }
        self.in_flight_bytes += bytes;
        self.waiting.push_back((part, bytes, answer));
        Ok(())
    }

    /// Waits for answers in order until at most so many bytes are on their way.
    async fn land(&mut self, at_most_bytes: usize) -> Result<(), Failure> {
        while self.in_flight_bytes > at_most_bytes || at_most_bytes == 0 {
            let Some((part, bytes, answer)) = self.waiting.pop_front() else { break };
            answer.await.map_err(|error| self.failure(part, &error))?;
            self.in_flight_bytes -= bytes;
        }
        Ok(())
    }

    fn failure(&self, part: Part, error: &Error) -> Failure {
        if part == Part::Guard && progress::is_refusal(error) {
            return Failure::Refused;
        }
        let fault = match part {
            Part::Guard => fault(error, progress::PROGRESS),
            Part::Rows(input) => table_fault(error, &self.tables[input]),
            Part::Commit => fault(error, "committing"),
        };
        // An error that leaves the connection whole made the server roll back.
        let unknown = self.commit_sent && (part == Part::Commit || is_broken(error));
        Failure::Fault(if unknown { fault.unknown_outcome() } else { fault })
    }
}

/// How many of the rows the next statement carries, and about how many bytes they are.
fn chunk<R: Borrow<Row>>(rows: &[R]) -> (usize, usize) {
    let mut bytes = 0;
    for (at, row) in rows.iter().take(CHUNK_ROWS).enumerate() {
        bytes += size_bytes(row.borrow());
        if bytes >= CHUNK_BYTES {
            return (at + 1, bytes);
        }
    }
    (rows.len().min(CHUNK_ROWS), bytes)
}

fn size_bytes(row: &Row) -> usize {
    let size = |value: &Value| value.written().map_or(12, |text| text.len() + 4);
    row.values().iter().map(size).sum()
}
