//! Tables of which whole partitions grow old: which partitions there are, and how new ones come.
//!
//! A table that one period of `retain` serves is partitioned by its time. Rows for which there is no
//! partition go to the one that Postgres calls default (here `<table>_rest`), so that no row is ever
//! refused: partitions are made as rows come, and where one cannot be made (its rows are elsewhere, a
//! reader holds the table), the rest takes its rows and they are deleted one by one.
//!
//! A comment marks what is ours. A partition without it is somebody else's, and left alone.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error};
use waterwheel_config::units::DAY_US;
use waterwheel_config::value::{Row, Value, format_timestamp};
use waterwheel_pipeline::contract::fault::Fault;
use waterwheel_pipeline::contract::retain::Now;
use xxhash_rust::xxh3::xxh3_64;

use super::fault::is_broken;
use super::tables::{Table, TableName, literal, quote};

const HOUR_US: i64 = DAY_US / 24;

/// What the comment of a partition begins with; its bounds follow, in microseconds.
const PARTITION_MARK: &str = "waterwheel partition ";
/// What the comment of the rest begins with; the length of partitions follows.
const REST_MARK: &str = "waterwheel rest ";

/// Besides those that `retain` asks for.
const SPARE_PARTITIONS: i64 = 64;

/// What is kept of the name of a table whose partitions' names would be too long.
const KEPT_NAME_BYTES: usize = 34;
const LONGEST_SUFFIX_BYTES: usize = 12;

/// How long something may wait for readers of a table, while others wait for it.
pub(super) const LOCK_BRIEFLY: &str = "SET LOCAL lock_timeout = '250ms'";

/// How a table is laid out in the database.
#[derive(Debug, Default)]
pub(super) struct Layout {
    /// Its unique index is over the key and the time.
    pub(super) time_joins_key: bool,
    /// The partitions, where they are ours.
    pub(super) partitions: Option<Partitions>,
}

/// A partition of ours: its bounds and its name.
#[derive(Clone, Debug)]
pub(super) struct Partition {
    pub(super) start_us: i64,
    pub(super) end_us: i64,
    pub(super) name: TableName,
}

/// The partitions of a table.
#[derive(Debug)]
pub(super) struct Partitions {
    /// Where rows without a partition are.
    pub(super) rest: TableName,
    unit_us: i64,
    by_start: BTreeMap<i64, Partition>,
    /// Starts of partitions that cannot be made.
    left_out: BTreeSet<i64>,
}

/// How much time a partition takes, so that there are some hundred at the most.
fn unit_us(period_us: i64) -> i64 {
    match period_us / DAY_US {
        ..2 => HOUR_US,
        2..=120 => DAY_US,
        121..=3_650 => 30 * DAY_US,
        _ => 365 * DAY_US,
    }
}

/// The statements that make a table partitioned: what stands behind its columns, and what follows.
pub(super) fn create_sql(table: &Table, time: usize, period_us: i64) -> (String, String) {
    let column = quote(&table.schema.columns[time].name);
    let (rest, parent) = (rest_name(table).quoted(), table.name.quoted());
    let mark = literal(&format!("{REST_MARK}{}", unit_us(period_us)));
    let fillfactor = table.fillfactor();
    let rest = format!(
        "CREATE TABLE {rest} PARTITION OF {parent} DEFAULT WITH (fillfactor = {fillfactor});
         COMMENT ON TABLE {rest} IS {mark};"
    );
    (format!("PARTITION BY RANGE ({column})"), rest)
}

fn beside(table: &Table, suffix: &str) -> TableName {
    let TableName { schema, name } = &table.name;
    // Names are ASCII.
    let name = if name.len() + LONGEST_SUFFIX_BYTES > 63 {
        format!("{}_{:016x}{suffix}", &name[..KEPT_NAME_BYTES], xxh3_64(name.as_bytes()))
    } else {
        format!("{name}{suffix}")
    };
    TableName { schema: schema.clone(), name }
}

fn rest_name(table: &Table) -> TableName {
    beside(table, "_rest")
}

fn partition_name(table: &Table, start_us: i64) -> TableName {
    // 2026-11-21T05:00:00Z
    let text: String =
        format_timestamp(start_us).chars().filter(char::is_ascii_digit).take(10).collect();
    beside(table, &format!("_p{text}"))
}

/// The partitions that a table has; `None` where they are not ours.
pub(super) async fn load(client: &Client, table: &Table) -> Result<Option<Partitions>, Error> {
    let children = "
        SELECT cn.nspname::text, c.relname::text, obj_description(c.oid, 'pg_class')
        FROM pg_class p
        JOIN pg_namespace n ON n.oid = p.relnamespace
        JOIN pg_inherits i ON i.inhparent = p.oid
        JOIN pg_class c ON c.oid = i.inhrelid
        JOIN pg_namespace cn ON cn.oid = c.relnamespace
        WHERE n.nspname = $1 AND p.relname = $2 AND p.relkind = 'p' AND NOT i.inhdetachpending";
    let rows = client.query(children, &[&table.name.schema, &table.name.name]).await?;
    let (mut rest, mut by_start) = (None, BTreeMap::new());
    for row in rows {
        let name = TableName { schema: row.get(0), name: row.get(1) };
        let comment: Option<&str> = row.get(2);
        let comment = comment.unwrap_or_default();
        let numbers = |text: &str| -> Vec<i64> {
            text.split(' ').filter_map(|number| number.parse().ok()).collect()
        };
        if let Some(Ok(unit_us)) = comment.strip_prefix(REST_MARK).map(str::parse) {
            rest = Some((name, unit_us));
        } else if let Some([start_us, end_us]) =
            comment.strip_prefix(PARTITION_MARK).map(numbers).as_deref()
        {
            let partition = Partition { start_us: *start_us, end_us: *end_us, name };
            by_start.insert(*start_us, partition);
        }
    }
    Ok(rest.filter(|(_, unit_us)| *unit_us > 0).map(|(rest, unit_us)| Partitions {
        rest,
        unit_us,
        by_start,
        left_out: BTreeSet::new(),
    }))
}

impl Partitions {
    /// Those that hold nothing newer than a time, the oldest first.
    pub(super) fn before(&self, cutoff_us: i64) -> impl Iterator<Item = &Partition> {
        self.by_start.values().filter(move |partition| partition.end_us <= cutoff_us)
    }

    fn is_covered(&self, time_us: i64) -> bool {
        let before = self.by_start.range(..=time_us).next_back();
        before.is_some_and(|(_, partition)| time_us < partition.end_us)
    }

    /// The starts of partitions that rows lack.
    fn missing(&self, rows: &[Row], time: usize, oldest_us: Option<i64>) -> BTreeSet<i64> {
        let mut missing = BTreeSet::new();
        // Neighbours mostly share a partition.
        let mut last = None;
        for row in rows {
            let Some(Value::Timestamp(micros)) = row.values().get(time) else { continue };
            let Some(start_us) = micros.div_euclid(self.unit_us).checked_mul(self.unit_us) else {
                continue;
            };
            if last.replace(start_us) == Some(start_us) {
                continue;
            }
            // What is too old already is deleted from the rest.
            let is_old = oldest_us.is_some_and(|oldest| start_us + self.unit_us <= oldest);
            if !is_old && !self.is_covered(*micros) && !self.left_out.contains(&start_us) {
                missing.insert(start_us);
            }
        }
        missing
    }

    /// Makes the partitions that rows lack, as far as that is possible.
    pub(super) async fn make_for(
        &mut self,
        client: &Client,
        table: &Table,
        rows: &[Row],
        now: Now,
    ) -> Result<(), Fault> {
        let (Some(time), Some(period_us)) = (table.schema.time, table.one_period_us()) else {
            return Ok(());
        };
        let newest = || {
            let times = rows.iter().filter_map(|row| match row.values().get(time) {
                Some(Value::Timestamp(micros)) => Some(*micros),
                _ => None,
            });
            times.max()
        };
        let now_us = match now {
            Now::At(micros) => Some(micros),
            Now::Unknown | Now::Newest => newest(),
        };
        let oldest_us = now_us.map(|now| now.saturating_sub(period_us));
        for start_us in self.missing(rows, time, oldest_us) {
            // Whatever times people write into events, the partitions stay countable.
            let most = period_us / self.unit_us + SPARE_PARTITIONS;
            let end_us = start_us + self.unit_us;
            let mut overlapping = self.by_start.range(..end_us);
            let is_free = overlapping.next_back().is_none_or(|(_, last)| last.end_us <= start_us);
            if self.by_start.len() as i64 >= most || !is_free {
                self.left_out.insert(start_us);
                continue;
            }
            let name = partition_name(table, start_us);
            let partition = Partition { start_us, end_us, name };
            match make(client, table, time, &partition).await {
                Ok(()) => {
                    self.by_start.insert(start_us, partition);
                }
                Err(error) if is_broken(&error) => return Err(table.fault(&error)),
                Err(error) => {
                    client.batch_execute("ROLLBACK").await.map_err(|error| table.fault(&error))?;
                    self.left_out.insert(start_us);
                    let held = error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE);
                    let table = table.name.plain();
                    tracing::info!(
                        "partition {} of {table} is not made{}: its rows go to {}",
                        partition.name.plain(),
                        if held { ", a reader holds the table" } else { "" },
                        self.rest.plain()
                    );
                    tracing::debug!(%error, "the partition was refused");
                }
            }
        }
        Ok(())
    }
}

/// Makes a partition beside the table and attaches it, for which nobody who reads the other
/// partitions is waited for; made in place, it would lock out every reader.
async fn make(
    client: &Client,
    table: &Table,
    time: usize,
    partition: &Partition,
) -> Result<(), Error> {
    let (parent, name) = (table.name.quoted(), partition.name.quoted());
    let column = quote(&table.schema.columns[time].name);
    let rest = rest_name(table).quoted();
    let [from, to] =
        [partition.start_us, partition.end_us].map(|us| literal(&format_timestamp(us)));
    let within = format!("{column} >= {from} AND {column} < {to}");
    let (start_us, end_us) = (partition.start_us, partition.end_us);
    let mark = literal(&format!("{PARTITION_MARK}{start_us} {end_us}"));
    let fillfactor = table.fillfactor();
    // Rows that are in the rest stay there: looked up before anything is locked.
    let make = format!(
        "BEGIN; {LOCK_BRIEFLY};
         SELECT 1 / (CASE WHEN EXISTS (SELECT FROM {rest} WHERE {within}) THEN 0 ELSE 1 END);
         CREATE TABLE {name} (LIKE {parent}) WITH (fillfactor = {fillfactor});
         COMMENT ON TABLE {name} IS {mark};
         ALTER TABLE {parent} ATTACH PARTITION {name} FOR VALUES FROM ({from}) TO ({to});
         COMMIT"
    );
    client.batch_execute(&make).await
}
