//! Rows become columns: Arrow builders, and how Parquet stores each type.

use std::sync::Arc;

use arrow_array::builder::{
    BooleanBuilder, Float64Builder, Int64Builder, LargeStringBuilder, TimestampMicrosecondBuilder,
};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{ArrowError, DataType, Field, SchemaRef as ArrowSchemaRef, TimeUnit};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use waterwheel_config::schema::Schema;
use waterwheel_config::value::{ColumnType, Value};
use waterwheel_pipeline::contract::epoch::Epoch;

use super::record::Record;

/// Columns that are looked up by one value among millions.
const BLOOM_COLUMNS: [&str; 3] = ["id", "correlation_id", "user_id"];
const BLOOM_FALSE_POSITIVES: f64 = 0.01;
/// What DuckDB reads as one piece of work; it also bounds what an open file holds in memory.
const ROW_GROUP_ROWS: usize = 122_880;
const ROW_GROUP_BYTES: usize = 64 << 20;
/// A dictionary that grows beyond this is given up: what hardly repeats is only hashed in vain. The
/// words that events share need far less.
const DICTIONARY_BYTES_MAX: usize = 64 << 10;
/// Rows of a row group are read column by column; so many of them stay in the processor's cache.
const CACHED_ROWS: usize = 256;

/// What happened to a row, for files that carry changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Upsert,
    Delete,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Upsert => "upsert",
            Self::Delete => "delete",
        }
    }
}

/// The columns after the input's own, in files that carry changes.
pub(super) const CHANGE_COLUMNS: [&str; 2] = ["op", "epoch"];

/// What all files of one input have in common.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    types: Vec<ColumnType>,
    with_changes: bool,
    arrow: ArrowSchemaRef,
    properties: WriterProperties,
}

impl Layout {
    /// The layout of an input's rows, with `op` and `epoch` where files carry changes.
    pub(super) fn new(schema: &Schema, with_changes: bool) -> Self {
        let mut fields: Vec<Field> = schema
            .columns
            .iter()
            .map(|column| Field::new(&column.name, arrow_type(column.kind), true))
            .collect();
        if with_changes {
            fields.push(Field::new(CHANGE_COLUMNS[0], DataType::LargeUtf8, false));
            fields.push(Field::new(CHANGE_COLUMNS[1], DataType::Int64, false));
        }
        Self {
            types: schema.columns.iter().map(|column| column.kind).collect(),
            with_changes,
            arrow: Arc::new(arrow_schema::Schema::new(fields)),
            properties: properties(schema, with_changes),
        }
    }

    /// The schema that the writer is opened with.
    pub(super) fn arrow(&self) -> ArrowSchemaRef {
        Arc::clone(&self.arrow)
    }

    /// How Parquet stores it.
    pub(super) fn properties(&self) -> WriterProperties {
        self.properties.clone()
    }
}

fn arrow_type(kind: ColumnType) -> DataType {
    match kind {
        // 64-bit offsets: a batch of huge payloads must not overflow. Parquet stores both alike.
        ColumnType::Text | ColumnType::Json => DataType::LargeUtf8,
        ColumnType::Bigint => DataType::Int64,
        ColumnType::Double => DataType::Float64,
        ColumnType::Boolean => DataType::Boolean,
        ColumnType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
    }
}

fn properties(schema: &Schema, with_changes: bool) -> WriterProperties {
    let mut builder = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_dictionary_page_size_limit(DICTIONARY_BYTES_MAX)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES));
    let own = schema.columns.iter().map(|column| (column.name.as_str(), column.kind));
    let epoch = with_changes.then_some((CHANGE_COLUMNS[1], ColumnType::Bigint));
    for (name, kind) in own.chain(epoch) {
        let path = || ColumnPath::new(vec![name.to_owned()]);
        if kind == ColumnType::Text && BLOOM_COLUMNS.contains(&name) {
            builder = builder
                .set_column_bloom_filter_enabled(path(), true)
                .set_column_bloom_filter_fpp(path(), BLOOM_FALSE_POSITIVES);
        }
        match kind {
            // Sequences and times grow by small steps; a dictionary of them is only work.
            ColumnType::Bigint | ColumnType::Timestamp => {
                builder = builder
                    .set_column_dictionary_enabled(path(), false)
                    .set_column_encoding(path(), Encoding::DELTA_BINARY_PACKED);
            }
            // Payloads hardly ever repeat, and nobody asks for the least of them.
            ColumnType::Json => {
                builder = builder
                    .set_column_dictionary_enabled(path(), false)
                    .set_column_statistics_enabled(path(), EnabledStatistics::None);
            }
            ColumnType::Text if name == "id" => {
                builder = builder.set_column_dictionary_enabled(path(), false);
            }
            _ => {}
        }
    }
    builder.build()
}

/// Rows that wait to be encoded, as columns.
pub(super) struct Columns {
    builders: Vec<Builder>,
    operations: Option<(LargeStringBuilder, Int64Builder)>,
    /// How many rows wait.
    pub(super) rows: usize,
    /// About how many bytes they hold.
    pub(super) bytes: usize,
}

enum Builder {
    Text(LargeStringBuilder),
    Bigint(Int64Builder),
    Double(Float64Builder),
    Boolean(BooleanBuilder),
    Timestamp(TimestampMicrosecondBuilder),
}

impl Columns {
    /// Empty columns.
    pub(super) fn new(layout: &Layout) -> Self {
        let builder = |kind: &ColumnType| match kind {
            ColumnType::Text | ColumnType::Json => Builder::Text(LargeStringBuilder::new()),
            ColumnType::Bigint => Builder::Bigint(Int64Builder::new()),
            ColumnType::Double => Builder::Double(Float64Builder::new()),
            ColumnType::Boolean => Builder::Boolean(BooleanBuilder::new()),
            ColumnType::Timestamp => Builder::Timestamp(
                TimestampMicrosecondBuilder::new().with_data_type(arrow_type(*kind)),
            ),
        };
        Self {
            builders: layout.types.iter().map(builder).collect(),
            operations: layout.with_changes.then(Default::default),
            rows: 0,
            bytes: 0,
        }
    }

    /// Appends rows.
    pub(super) fn extend(&mut self, rows: &[Record<'_>], operation: Operation, epoch: Epoch) {
        for rows in rows.chunks(CACHED_ROWS) {
            for (column, builder) in self.builders.iter_mut().enumerate() {
                self.bytes += builder.extend(column, rows);
            }
        }
        if let Some((operations, epochs)) = &mut self.operations {
            for _ in rows {
                operations.append_value(operation.name());
                epochs.append_value(epoch.cast_signed());
            }
        }
        self.rows += rows.len();
    }

    /// Takes what waits as one batch.
    pub(super) fn take(&mut self, layout: &Layout) -> Result<RecordBatch, ArrowError> {
        let mut arrays: Vec<ArrayRef> = self.builders.iter_mut().map(Builder::finish).collect();
        if let Some((operations, epochs)) = &mut self.operations {
            arrays.push(Arc::new(operations.finish()));
            arrays.push(Arc::new(epochs.finish()));
        }
        self.rows = 0;
        self.bytes = 0;
        RecordBatch::try_new(layout.arrow(), arrays)
    }
}

impl Builder {
    /// Appends one column of the rows; returns about how many bytes that took. A value that the
    /// column cannot hold is NULL.
    fn extend(&mut self, column: usize, rows: &[Record<'_>]) -> usize {
        match self {
            Self::Text(builder) => {
                let before = builder.values_slice().len();
                for row in rows {
                    row.text(column, |text| builder.append_option(text));
                }
                builder.values_slice().len() - before + 8 * rows.len()
            }
            Self::Bigint(builder) => {
                builder.extend(rows.iter().map(|row| {
                    row.value(column, |value| match value {
                        Value::Bigint(number) => Some(*number),
                        _ => None,
                    })
                }));
                8 * rows.len()
            }
            Self::Double(builder) => {
                builder.extend(rows.iter().map(|row| {
                    row.value(column, |value| match value {
                        Value::Double(number) => Some(number.get()),
                        _ => None,
                    })
                }));
                8 * rows.len()
            }
            Self::Boolean(builder) => {
                builder.extend(rows.iter().map(|row| {
                    row.value(column, |value| match value {
                        Value::Boolean(flag) => Some(*flag),
                        _ => None,
                    })
                }));
                rows.len()
            }
            Self::Timestamp(builder) => {
                builder.extend(rows.iter().map(|row| {
                    row.value(column, |value| match value {
                        Value::Timestamp(micros) => Some(*micros),
                        _ => None,
                    })
                }));
                8 * rows.len()
            }
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Text(builder) => Arc::new(builder.finish()),
            Self::Bigint(builder) => Arc::new(builder.finish()),
            Self::Double(builder) => Arc::new(builder.finish()),
            Self::Boolean(builder) => Arc::new(builder.finish()),
            Self::Timestamp(builder) => Arc::new(builder.finish()),
        }
    }
}
