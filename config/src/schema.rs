//! The shape of the rows on an edge of the graph: columns, key, and what their times promise.

use std::sync::Arc;

use crate::calendar::Period;
use crate::value::{ColumnType, Row, Value};

/// One column of an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The name that expressions, tables and files use.
    pub name: String,
    /// The static type.
    pub kind: ColumnType,
    /// For a time that may drive windows downstream: how far its values may lie behind the
    /// operator's watermark, in microseconds. `None`: the column must not be used as `time`.
    pub behind_us: Option<i64>,
}

impl Column {
    /// A column that is no time.
    pub fn new(name: impl Into<String>, kind: ColumnType) -> Self {
        Self { name: name.into(), kind, behind_us: None }
    }

    /// A timestamp column whose values lie at most `behind_us` behind the watermark.
    pub fn time(name: impl Into<String>, behind_us: i64) -> Self {
        Self { name: name.into(), kind: ColumnType::Timestamp, behind_us: Some(behind_us) }
    }
}

/// When a row can no longer change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finality {
    /// As soon as it is out (raw events, pairs of raw events).
    Immediate,
    /// When the watermark reaches the timestamp in `column` plus `plus_us`.
    At {
        /// Index of a timestamp column.
        column: usize,
        /// Microseconds to add to it.
        plus_us: i64,
    },
    /// After silence: when the watermark reaches the timestamp that every row carries behind its
    /// columns, plus `expire_us`; with `None`, and no such timestamp, when the stream has ended. A key
    /// may come again after that, as a row of its own, which is the one that counts.
    Silent {
        /// Microseconds to add to it.
        expire_us: Option<i64>,
    },
    /// When the watermark reaches the end of a period, plus `plus_us`.
    PeriodEnd {
        /// Index of the timestamp column that holds the start of an earlier period, or of this one.
        start: usize,
        /// Index of the column that counts the periods from that one to this one.
        count: usize,
        /// What the periods are.
        period: Period,
        /// Microseconds to add to the end.
        plus_us: i64,
    },
}

impl Finality {
    /// The watermark at which a row is final; `None` where it always is, the largest number where only
    /// the end of the stream makes it so.
    pub fn of(self, row: &Row) -> Option<i64> {
        let value = |column: usize| row.values().get(column);
        match self {
            Self::Immediate => None,
            Self::At { column, plus_us } => match value(column) {
                Some(Value::Timestamp(micros)) => Some(micros.saturating_add(plus_us)),
                _ => None,
            },
            // Behind the columns.
            Self::Silent { expire_us: Some(expire_us) } => match row.values().last() {
                Some(Value::Timestamp(micros)) => Some(micros.saturating_add(expire_us)),
                _ => Some(i64::MAX),
            },
            Self::Silent { expire_us: None } => Some(i64::MAX),
            Self::PeriodEnd { start, count, period, plus_us } => {
                match (value(start), value(count)) {
                    (Some(Value::Timestamp(start)), Some(Value::Bigint(count))) => {
                        let count = u32::try_from(*count).ok()?.checked_add(1)?;
                        Some(period.after(*start, count).saturating_add(plus_us))
                    }
                    _ => None,
                }
            }
        }
    }

    /// The same where the watermark is another one that runs ahead of the operator's by `us`.
    #[must_use]
    pub fn delayed(mut self, us: i64) -> Self {
        match &mut self {
            Self::Immediate | Self::Silent { expire_us: None } => {}
            Self::At { plus_us, .. }
            | Self::PeriodEnd { plus_us, .. }
            | Self::Silent { expire_us: Some(plus_us) } => {
                *plus_us = plus_us.saturating_add(us);
            }
        }
        self
    }
}

/// What comes out of a source, an operator or `dead_letter`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    /// The columns in output order.
    pub columns: Vec<Column>,
    /// Indices of the key columns: at most one row per key at any time, NULLs equal to each other.
    pub key: Vec<usize>,
    /// When a row can no longer change.
    pub finality: Finality,
    /// True where rows only come, and none is ever changed or deleted.
    pub append_only: bool,
    /// The column that partitions by date and is the default `time`.
    pub time: Option<usize>,
}

/// Schemas are shared by everything that reads an edge.
pub type SchemaRef = Arc<Schema>;

impl Schema {
    /// The index of the column with this name.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    /// The names of the columns, for suggestions.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|column| column.name.as_str())
    }
}
