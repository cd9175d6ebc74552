//! The tables and views of a sink: their names, what creates them, and what is wrong with them.

use tokio_postgres::{Client, Error};
use waterwheel_config::schema::{Finality, Schema, SchemaRef};
use waterwheel_config::value::ColumnType;
use waterwheel_pipeline::contract::fault::Fault;
use waterwheel_pipeline::contract::retain::Retain;
use waterwheel_pipeline::contract::sink::{InputRole, SinkInput};
use xxhash_rust::xxh3::xxh3_64;

use super::fault::fault;
use super::finality;
use super::partitions::{self, Layout};
use super::progress::{BEGIN_CREATING, Owner, PROGRESS};

/// Postgres cuts longer identifiers off, so that two names could become one.
const LONGEST_NAME_BYTES: usize = 63;

/// The columns that every table has already.
const SYSTEM_COLUMNS: [&str; 6] = ["tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"];

/// The columns of raw events with an index.
const INDEXED: [&str; 3] = ["user_id", "event_type", "correlation_id"];

/// An entry of a B-tree holds 2,704 bytes; whatever is longer than this is NULL in an indexed
/// column of raw events (the payload still has it), so that one message cannot stop the rest.
const LONGEST_INDEXED_BYTES: usize = 1024;

/// A schema and a name, unquoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableName {
    pub(super) schema: String,
    pub(super) name: String,
}

impl TableName {
    /// Reads `name` or `schema.name`; without a schema it is `public`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (schema, name) = text.split_once('.').unwrap_or(("public", text));
        for part in [schema, name] {
            check_identifier(part)?;
        }
        if schema == "information_schema" || schema.starts_with("pg_") {
            return Err(format!("the schema `{schema}` belongs to Postgres"));
        }
        Ok(Self { schema: schema.to_owned(), name: name.to_owned() })
    }

    /// The view that shows what is final.
    pub(super) fn final_view(&self) -> Self {
        Self { schema: self.schema.clone(), name: format!("{}_final", self.name) }
    }

    /// As SQL writes it.
    pub(super) fn quoted(&self) -> String {
        format!("{}.{}", quote(&self.schema), quote(&self.name))
    }

    /// As people write it.
    pub(super) fn plain(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }
}

/// The rule for names in `table`: what SQL reads without quotes as it is written.
fn check_identifier(text: &str) -> Result<(), String> {
    let mut bytes = text.bytes();
    let word = bytes.next().is_some_and(|first| first.is_ascii_lowercase() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if !word {
        return Err(format!(
            "`{text}` is not a table name; write lowercase letters, digits and underscores: `schema.name`"
        ));
    }
    check_length(text)
}

fn check_length(text: &str) -> Result<(), String> {
    if text.len() > LONGEST_NAME_BYTES {
        return Err(format!(
            "`{text}` is longer than the {LONGEST_NAME_BYTES} bytes that Postgres keeps of a name"
        ));
    }
    Ok(())
}

/// An identifier in quotes. Every name that reaches a statement goes through here.
pub(super) fn quote(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

pub(super) fn literal(text: &str) -> String {
    // `standard_conforming_strings` is on since 9.1, and backslashes are in no name.
    format!("'{}'", text.replace('\'', "''"))
}

/// The table of one input.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) name: TableName,
    pub(super) schema: SchemaRef,
    role: InputRole,
    indexes: bool,
    /// The name of its input.
    pub(super) input: String,
    /// How long its rows stay, each period with the granularity that it is for; none: for good.
    pub(super) periods: Vec<(Option<String>, i64)>,
}

impl Table {
    /// The table of an input. The error is a sentence for a finding.
    pub(super) fn new(
        name: TableName,
        input: &SinkInput,
        indexes: bool,
        retain: Option<&Retain>,
    ) -> Result<Self, String> {
        for column in &input.schema.columns {
            check_length(&column.name)?;
            if column.name.is_empty() || column.name.contains('\0') {
                return Err(format!("`{}` has a column without a usable name", input.name));
            }
            if SYSTEM_COLUMNS.contains(&column.name.as_str()) {
                let (input, column) = (&input.name, &column.name);
                return Err(format!(
                    "`{input}` has a column `{column}`, a name that Postgres keeps for itself; give the column another name"
                ));
            }
        }
        if input.schema.key.len() > 32 {
            return Err(format!("the key of `{}` has more than 32 columns", input.name));
        }
        let indexes = indexes && input.role == InputRole::RawEvents;
        let (schema, role) = (input.schema.clone(), input.role);
        let periods = retain.map(|retain| retain.of(input)).unwrap_or_default();
        let table = Self { name, schema, role, indexes, input: input.name.clone(), periods };
        if let Some(view) = table.view() {
            check_length(&view.name)?;
        }
        Ok(table)
    }

    /// The name of the view `<table>_final`, which operators have.
    pub(super) fn view(&self) -> Option<TableName> {
        (self.role == InputRole::Operator).then(|| self.name.final_view())
    }

    /// Where the rows go, and what is written of them.
    pub(super) fn placement(&self) -> String {
        // Texts that an index cannot hold are left out of an indexed table.
        let indexed = if self.indexes { " indexed" } else { "" };
        format!("{}{indexed}", self.name.plain())
    }

    /// The period that serves all rows, where it is one.
    pub(super) fn one_period_us(&self) -> Option<i64> {
        match self.periods.as_slice() {
            [(None, us)] => Some(*us),
            _ => None,
        }
    }

    /// True if the time of a row never changes, so that key and time together are as unique as the
    /// key alone.
    fn is_time_of_key(&self) -> bool {
        self.schema
            .time
            .is_some_and(|time| self.schema.append_only || self.schema.key.contains(&time))
    }

    /// How full pages are made: rows that change leave room for their next version in the same
    /// page, which spares the index an entry.
    pub(super) fn fillfactor(&self) -> u8 {
        if self.schema.append_only { 100 } else { 80 }
    }

    /// The longest text that a column can hold, where there is a limit.
    pub(super) fn longest_bytes(&self, column: usize) -> Option<usize> {
        let indexed = self.indexes && INDEXED.contains(&self.schema.columns[column].name.as_str());
        indexed.then_some(LONGEST_INDEXED_BYTES)
    }

    /// The names of the columns, quoted.
    pub(super) fn columns(&self) -> Vec<String> {
        self.schema.columns.iter().map(|column| quote(&column.name)).collect()
    }

    /// What `ON CONFLICT` and the unique index name: the key, or a constant where the key is empty
    /// and the table holds one row.
    pub(super) fn conflict_target(&self, layout: &Layout) -> String {
        let key = self.unique_columns(layout.time_joins_key);
        if key.is_empty() {
            return "(true)".to_owned();
        }
        key.iter().map(|name| quote(name)).collect::<Vec<_>>().join(", ")
    }

    /// The columns of the unique index.
    fn unique_columns(&self, time_joins_key: bool) -> Vec<&str> {
        let time =
            self.schema.time.filter(|time| time_joins_key && !self.schema.key.contains(time));
        let key = self.schema.key.iter().copied().chain(time);
        key.map(|at| self.schema.columns[at].name.as_str()).collect()
    }

    /// Everything that creates the table, without its view.
    pub(super) fn create_sql(&self) -> String {
        let table = self.name.quoted();
        let columns = self.schema.columns.iter();
        let columns: Vec<String> =
            columns.map(|column| format!("{} {}", quote(&column.name), column.kind)).collect();
        // Whole partitions can go where one period serves the table.
        let partitioned = self
            .one_period_us()
            .zip(self.schema.time)
            .filter(|_| self.is_time_of_key())
            .map(|(period_us, time)| partitions::create_sql(self, time, period_us));
        let layout = Layout { time_joins_key: partitioned.is_some(), partitions: None };
        let (head, rest) = partitioned.unwrap_or_else(|| {
            (format!("WITH (fillfactor = {})", self.fillfactor()), String::new())
        });
        let mut sql = format!(
            "CREATE TABLE {table} ({}) {head};
             CREATE UNIQUE INDEX ON {table} ({}) NULLS NOT DISTINCT; {rest}",
            columns.join(", "),
            self.conflict_target(&layout),
        );
        // What is old is found by it; windows of one granularity are found by the key.
        if let (Some(_), Some(time)) = (self.one_period_us(), self.time()) {
            sql.push_str(&format!("CREATE INDEX ON {table} ({time});"));
        }
        if self.indexes {
            // jsonb_path_ops answers `payload @> ...`, at a third of the size and cost.
            sql.push_str(&format!(
                "CREATE INDEX ON {table} (user_id, timestamp);
                 CREATE INDEX ON {table} (event_type, timestamp);
                 CREATE INDEX ON {table} (correlation_id);
                 CREATE INDEX ON {table} USING gin (payload jsonb_path_ops);"
            ));
        }
        sql
    }

    /// The query of the view `<table>_final`.
    fn view_query(&self, owner: &Owner) -> String {
        let table = self.name.quoted();
        let columns = self.columns().join(", ");
        // No column says since when it is silent.
        if matches!(self.schema.finality, Finality::Silent { .. }) {
            return format!(
                "SELECT {columns} FROM {table} WHERE (
                     SELECT finished FROM waterwheel.progress
                     WHERE pipeline = {} AND sink = {})",
                literal(&owner.pipeline),
                literal(&owner.sink),
            );
        }
        let Some((moment, plus_us)) = finality::moment(&self.schema) else {
            return format!("SELECT {columns} FROM {table}");
        };
        format!(
            "SELECT {columns} FROM {table} WHERE {moment} + interval '{plus_us} microseconds' <= (
                     SELECT watermark FROM waterwheel.progress
                     WHERE pipeline = {} AND sink = {})",
            literal(&owner.pipeline),
            literal(&owner.sink),
        )
    }

    pub(super) fn fault(&self, error: &Error) -> Fault {
        fault(error, format_args!("table {}", self.name.plain()))
    }

    /// Creates the table and its view where they are missing, and refuses them where they are not
    /// as they must be. A table that holds rows of the progress (`filled`) cannot be missing.
    pub(super) async fn ensure(
        &self,
        client: &Client,
        owner: &Owner,
        filled: bool,
    ) -> Result<(), Fault> {
        let failed = |error: Error| self.fault(&error);
        let mut found = self.inspect(client).await.map_err(failed)?;
        if found == Found::Missing && filled {
            return Err(self.gone(owner));
        }
        if found == Found::Missing {
            client.batch_execute(BEGIN_CREATING).await.map_err(failed)?;
            // Another instance may have created it while this one waited.
            found = self.inspect(client).await.map_err(failed)?;
            if found == Found::Missing {
                ensure_schema(client, &self.name.schema).await.map_err(failed)?;
                client.batch_execute(&self.create_sql()).await.map_err(failed)?;
                found = Found::Fits;
            }
            client.batch_execute("COMMIT").await.map_err(failed)?;
        }
        if let Found::Differs(differences) = found {
            return Err(Fault::halt(format_args!(
                "table {} is not as it must be: {}",
                self.name.plain(),
                differences.join("; ")
            ))
            .help(
                "change the table back, or take another name with `table.<input>`, or drop the \
                 sink's tables and its row in waterwheel.progress to have them filled again",
            ));
        }
        self.ensure_view(client, owner).await
    }

    fn gone(&self, owner: &Owner) -> Fault {
        Fault::halt(format_args!(
            "table {} is gone, but {PROGRESS} says that it holds rows of pipeline {} and sink {}",
            self.name.plain(),
            owner.pipeline,
            owner.sink
        ))
        .help(
            "restore it, or drop the sink's other tables and its row in waterwheel.progress to \
             have all of them filled again",
        )
    }

    async fn ensure_view(&self, client: &Client, owner: &Owner) -> Result<(), Fault> {
        let Some(view) = self.view() else { return Ok(()) };
        let failed = |error: Error| fault(&error, format_args!("view {}", view.plain()));
        let query = self.view_query(owner);
        // A comment marks the view as ours and tells whether it is still the right one; replacing
        // it with every start would lock out its readers.
        let mark = format!("waterwheel {:016x}: rows that are final", xxh3_64(query.as_bytes()));
        match find_view(client, &view).await.map_err(failed)? {
            FoundView::Missing => {}
            FoundView::Ours(found) if found == mark => return Ok(()),
            FoundView::Ours(_) => {}
            FoundView::Foreign => {
                return Err(Fault::halt(format_args!(
                    "{} is in the way: the sink shows there what is final in {}",
                    view.plain(),
                    self.name.plain()
                ))
                .help("rename it, or take another name with `table.<input>`"));
            }
        }
        let name = view.quoted();
        let create = format!(
            "{BEGIN_CREATING}; CREATE OR REPLACE VIEW {name} AS {query};
             COMMENT ON VIEW {name} IS {}; COMMIT",
            literal(&mark)
        );
        client.batch_execute(&create).await.map_err(failed)
    }

    /// True if the table holds a row.
    pub(super) async fn has_rows(&self, client: &Client) -> Result<bool, Fault> {
        let exists = format!("SELECT EXISTS (SELECT FROM {})", self.name.quoted());
        let row = client.query_one(&exists, &[]).await.map_err(|error| self.fault(&error))?;
        Ok(row.get(0))
    }

    /// Compares the table with what it must be.
    pub(super) async fn inspect(&self, client: &Client) -> Result<Found, Error> {
        let columns = "
            SELECT c.oid, c.relkind::text, a.attname::text, format_type(a.atttypid, a.atttypmod)
            FROM pg_class c
            JOIN pg_namespace n ON n.oid = c.relnamespace
            LEFT JOIN pg_attribute a
                ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
            WHERE n.nspname = $1 AND c.relname = $2
            ORDER BY a.attnum";
        let rows = client.query(columns, &[&self.name.schema, &self.name.name]).await?;
        let Some(first) = rows.first() else { return Ok(Found::Missing) };
        let is_partitioned = first.get::<_, &str>(1) == "p";
        if !["r", "p"].contains(&first.get::<_, &str>(1)) {
            return Ok(Found::Differs(vec!["it is no table".to_owned()]));
        }
        let columns: Vec<(&str, &str)> = rows
            .iter()
            .filter_map(|row| Some((row.get::<_, Option<&str>>(2)?, row.get(3))))
            .collect();
        let mut differences = differences(&self.schema, &columns);
        if differences.is_empty()
            && !self.has_key(client, first.get(0), false).await?
            && !(is_partitioned
                && self.is_time_of_key()
                && self.has_key(client, first.get(0), true).await?)
        {
            differences.push(format!(
                "it has no unique index over ({}) NULLS NOT DISTINCT",
                self.conflict_target(&Layout::default())
            ));
        }
        Ok(if differences.is_empty() { Found::Fits } else { Found::Differs(differences) })
    }

    /// How a table that fits is laid out.
    pub(super) async fn layout(&self, client: &Client) -> Result<Layout, Error> {
        let oid = "SELECT $1::text::regclass::oid";
        let table: u32 = client.query_one(oid, &[&self.name.quoted()]).await?.get(0);
        let time_joins_key = !self.has_key(client, table, false).await?;
        Ok(Layout { time_joins_key, partitions: partitions::load(client, self).await? })
    }

    /// True if there is a unique index over the key, or over the key and the time.
    async fn has_key(&self, client: &Client, table: u32, with_time: bool) -> Result<bool, Error> {
        // NULLs need no care where the columns cannot hold any, as those of a primary key.
        let index = "
            SELECT EXISTS (
                SELECT FROM pg_index i,
                LATERAL (
                    SELECT coalesce(array_agg(a.attname::text), '{}') AS names,
                           coalesce(bool_and(a.attnotnull), false) AS filled
                    FROM pg_attribute a
                    WHERE a.attrelid = i.indrelid
                    AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
                ) AS key
                WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indimmediate
                AND i.indpred IS NULL AND (i.indexprs IS NOT NULL) = (cardinality($2::text[]) = 0)
                AND key.names @> $2 AND key.names <@ $2
                AND (i.indnullsnotdistinct OR key.filled)
            )";
        let key = self.unique_columns(with_time);
        Ok(client.query_one(index, &[&table, &key]).await?.get(0))
    }

    /// True if the table has, or lacks, the index over the payload as it must.
    pub(super) async fn is_indexed_as_set(&self, client: &Client) -> Result<bool, Error> {
        if self.role != InputRole::RawEvents {
            return Ok(true);
        }
        let index = "
            SELECT EXISTS (
                SELECT FROM pg_index i
                JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
                WHERE i.indrelid = $1::text::regclass AND a.amname = 'gin' AND i.indisvalid
            )";
        let found: bool = client.query_one(index, &[&self.name.quoted()]).await?.get(0);
        Ok(found == self.indexes)
    }

    /// What would go wrong when the sink opens, for `check --connect`.
    pub(super) async fn probe(&self, client: &Client) -> Result<Vec<String>, Error> {
        let table = self.name.plain();
        if let Some(view) = self.view()
            && let FoundView::Foreign = find_view(client, &view).await?
        {
            return Ok(vec![format!("{} is in the way of the view for {table}", view.plain())]);
        }
        match self.inspect(client).await? {
            Found::Differs(differences) => {
                Ok(differences.iter().map(|what| format!("table {table}: {what}")).collect())
            }
            Found::Missing => probe_creation(client, &self.name.schema, &table).await,
            Found::Fits => probe_rights(client, &self.name.quoted(), &table).await,
        }
    }
}

/// Says which rights to a table are missing.
pub(super) async fn probe_rights(
    client: &Client,
    quoted: &str,
    table: &str,
) -> Result<Vec<String>, Error> {
    let rights = "SELECT r FROM unnest('{SELECT,INSERT,UPDATE,DELETE}'::text[]) AS r \
         WHERE NOT has_table_privilege($1::text, r)";
    let missing = client.query(rights, &[&quoted]).await?;
    let line =
        |row: &tokio_postgres::Row| format!("table {table}: no right to {}", row.get::<_, &str>(0));
    Ok(missing.iter().map(line).collect())
}

/// Says so where a table cannot be created.
pub(super) async fn probe_creation(
    client: &Client,
    schema: &str,
    table: &str,
) -> Result<Vec<String>, Error> {
    let asked = "SELECT CASE WHEN EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)
             THEN has_schema_privilege($1::text, 'CREATE')
             ELSE has_database_privilege(current_database(), 'CREATE') END";
    let allowed: bool = client.query_one(asked, &[&schema]).await?.get(0);
    let problem = || format!("table {table} is missing, and there is no right to create it");
    Ok(if allowed { Vec::new() } else { vec![problem()] })
}

pub(super) async fn ensure_schema(client: &Client, schema: &str) -> Result<(), Error> {
    // Looked up first: `IF NOT EXISTS` asks for the right to create even where nothing is created.
    let found = "SELECT FROM pg_namespace WHERE nspname = $1";
    if client.query_opt(found, &[&schema]).await?.is_none() {
        client.batch_execute(&format!("CREATE SCHEMA {}", quote(schema))).await?;
    }
    Ok(())
}

/// How a table was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// There is nothing of that name.
    Missing,
    /// It is as it must be.
    Fits,
    /// What is different.
    Differs(Vec<String>),
}

fn differences(schema: &Schema, found: &[(&str, &str)]) -> Vec<String> {
    let mut differences = Vec::new();
    for column in &schema.columns {
        let wanted = type_name(column.kind);
        match found.iter().find(|(name, _)| *name == column.name) {
            None => differences.push(format!("column {} {} is missing", column.name, column.kind)),
            Some((_, kind)) if *kind != wanted => {
                differences.push(format!("column {} is {kind}, not {wanted}", column.name));
            }
            Some(_) => {}
        }
    }
    for (name, kind) in found {
        if schema.index_of(name).is_none() {
            differences.push(format!("column {name} {kind} is none of the pipeline's"));
        }
    }
    differences
}

/// The type as `format_type` spells it.
fn type_name(kind: ColumnType) -> &'static str {
    match kind {
        ColumnType::Timestamp => "timestamp with time zone",
        other => other.name(),
    }
}

pub(super) enum FoundView {
    Missing,
    /// With its mark.
    Ours(String),
    Foreign,
}

pub(super) async fn find_view(client: &Client, view: &TableName) -> Result<FoundView, Error> {
    let asked = "
        SELECT c.relkind::text, obj_description(c.oid, 'pg_class')
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = $1 AND c.relname = $2";
    let Some(row) = client.query_opt(asked, &[&view.schema, &view.name]).await? else {
        return Ok(FoundView::Missing);
    };
    let comment: Option<String> = row.get(1);
    Ok(match comment {
        Some(mark) if row.get::<_, &str>(0) == "v" && mark.starts_with("waterwheel ") => {
            FoundView::Ours(mark)
        }
        _ => FoundView::Foreign,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_sql_reads_without_quotes() {
        let name = |text| TableName::parse(text).map(|name| name.plain());
        assert_eq!(name("volume"), Ok("public.volume".to_owned()));
        assert_eq!(name("live.volume_1m"), Ok("live.volume_1m".to_owned()));
        let long = "x".repeat(64);
        for bad in ["", "a.b.c", "Volume", "a b", "1a", "a.", "pg_catalog.a", "a\"b", &long] {
            assert!(name(bad).is_err(), "{bad}");
        }
        assert_eq!(quote("a\"b"), "\"a\"\"b\"");
    }
}
