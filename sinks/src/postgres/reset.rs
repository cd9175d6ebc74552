//! Empties the tables of a sink, to be filled anew: everything in one transaction.

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error};
use waterwheel_pipeline::contract::epoch::Progress;
use waterwheel_pipeline::contract::fault::Fault;

use super::fault::fault;
use super::progress::{self, CREATING, Claimed, Move, Owner, PROGRESS};
use super::tables::{Found, FoundView, Table, ensure_schema, find_view};

/// Empties the tables, makes them what they must be, and records `begin`. A fault leaves the
/// connection inside the transaction, which ends with the connection.
pub(super) async fn empty(
    client: &Client,
    owner: &Owner,
    tables: &[Table],
    claimed: Claimed,
    begin: &Progress,
) -> Result<Claimed, Fault> {
    let failed = |error: Error| fault(&error, PROGRESS);
    let guard = progress::prepare_guard(client).await.map_err(failed)?;
    client
        .batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
        .await
        .map_err(failed)?;
    let step = Move::new(claimed.lease, begin)?;
    if let Err(error) = client.execute(&guard, &step.parameters(owner)).await {
        return Err(match progress::is_refusal(&error) {
            true => progress::refused(client, owner, claimed.lease).await,
            false => failed(error),
        });
    }
    client.batch_execute(CREATING).await.map_err(failed)?;
    let mut names = Vec::new();
    for table in tables {
        let name = table.name.plain();
        empty_table(client, table, claimed.tables.contains(&name)).await?;
        names.push(name);
    }
    names.sort();
    progress::note_tables(client, owner, claimed.lease, &names).await?;
    client
        .batch_execute("COMMIT")
        .await
        .map_err(|error| fault(&error, "committing").unknown_outcome())?;
    for left in claimed.tables.iter().filter(|table| !names.contains(table)) {
        tracing::warn!(
            sink = %owner.sink,
            "table {left} is no longer written: it keeps its rows; drop it if nobody reads it"
        );
    }
    Ok(Claimed { lease: claimed.lease, progress: Some(begin.clone()), tables: names })
}

/// Makes a table what it must be, without rows. `is_ours` says that the sink has filled it.
async fn empty_table(client: &Client, table: &Table, is_ours: bool) -> Result<(), Fault> {
    let failed = |error: Error| table.fault(&error);
    let found = table.inspect(client).await.map_err(failed)?;
    let name = table.name.plain();
    if found == Found::Missing {
        ensure_schema(client, &table.name.schema).await.map_err(failed)?;
        return client.batch_execute(&table.create_sql()).await.map_err(failed);
    }
    if !is_ours {
        return match found {
            Found::Fits if !table.has_rows(client).await? => Ok(()),
            _ => Err(Fault::halt(format_args!(
                "table {name} is there already, and not filled by this sink"
            ))
            .help("drop it, or take another name with `table.<input>`")),
        };
    }
    if found == Found::Fits && table.is_indexed_as_set(client).await.map_err(failed)? {
        // Whatever people have put on top of the table stays: rights, views, indexes.
        return remove_rows(client, table).await.map_err(failed);
    }
    let mut recreate = String::new();
    if let Some(view) = table.view()
        && let FoundView::Ours(_) = find_view(client, &view).await.map_err(failed)?
    {
        recreate.push_str(&format!("DROP VIEW {};", view.quoted()));
    }
    recreate.push_str(&format!("DROP TABLE {};", table.name.quoted()));
    recreate.push_str(&table.create_sql());
    client.batch_execute(&recreate).await.map_err(|error| {
        let is_needed = error.code() == Some(&SqlState::DEPENDENT_OBJECTS_STILL_EXIST);
        let fault = failed(error);
        match is_needed {
            true => fault.help(
                "the table must be made anew: drop what depends on it, and create that again \
                 afterwards",
            ),
            false => fault,
        }
    })
}

async fn remove_rows(client: &Client, table: &Table) -> Result<(), Error> {
    let name = table.name.quoted();
    let may = "SELECT has_table_privilege($1::text, 'TRUNCATE')";
    // A prepared table may be another role's, which grants DELETE alone.
    let verb = match client.query_one(may, &[&name]).await?.get(0) {
        true => "TRUNCATE",
        false => "DELETE FROM",
    };
    client.batch_execute(&format!("{verb} {name}")).await
}
