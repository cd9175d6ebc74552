//! Rows as one binary array per column: what the statements of a commit take as parameters.

use std::borrow::Borrow;
use std::error::Error;
use std::fmt;

use bytes::{BufMut, BytesMut};
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use waterwheel_config::value::{ColumnType, Row, Value, without_nul};
use waterwheel_pipeline::contract::epoch::{FINAL_WATERMARK, NO_WATERMARK};

/// 2000-01-01T00:00:00Z, where Postgres begins to count.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// Before this Postgres has no timestamps: 4714-11-24 BC, counted from 2000-01-01.
const POSTGRES_EARLIEST_US: i64 = -211_813_488_000_000_000;

/// One column of some rows. It is encoded straight into the message to the server.
pub(super) struct ColumnArray<'a, R> {
    pub(super) rows: &'a [R],
    pub(super) column: usize,
    pub(super) kind: ColumnType,
    /// The longest text in bytes that the column can hold; a longer one is NULL.
    pub(super) longest_bytes: Option<usize>,
}

impl<R> fmt::Debug for ColumnArray<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The library logs parameters; the data of users stays out of logs.
        write!(f, "{} values of {}", self.rows.len(), self.kind)
    }
}

impl<R: Borrow<Row>> ToSql for ColumnArray<'_, R> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_i32(1); // dimensions
        out.put_i32(1); // may hold NULLs: the server looks for itself
        out.put_u32(element_type(self.kind).oid());
        out.put_i32(i32::try_from(self.rows.len())?);
        out.put_i32(1); // lower bound
        for row in self.rows {
            let value = row.borrow().values().get(self.column).unwrap_or(&Value::Null);
            self.put(value, out)?;
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        // The statements cast every parameter to the array type of its column.
        true
    }

    to_sql_checked!();
}

impl<R> ColumnArray<'_, R> {
    fn put(&self, value: &Value, out: &mut BytesMut) -> Result<(), Box<dyn Error + Sync + Send>> {
        match (self.kind, value) {
            (_, Value::Null) => out.put_i32(-1),
            (ColumnType::Text, Value::Text(text)) => {
                if self.longest_bytes.is_some_and(|longest| text.len() > longest) {
                    out.put_i32(-1);
                    return Ok(());
                }
                let text = without_nul(text);
                out.put_i32(i32::try_from(text.len())?);
                out.put_slice(text.as_bytes());
            }
            (ColumnType::Bigint, Value::Bigint(number)) => {
                out.put_i32(8);
                out.put_i64(*number);
            }
            (ColumnType::Double, Value::Double(number)) => {
                out.put_i32(8);
                out.put_f64(number.get());
            }
            (ColumnType::Boolean, Value::Boolean(flag)) => {
                out.put_i32(1);
                out.put_u8(u8::from(*flag));
            }
            (ColumnType::Timestamp, Value::Timestamp(micros)) => {
                out.put_i32(8);
                out.put_i64(postgres_time(*micros));
            }
            (ColumnType::Json, Value::Json(text)) => {
                out.put_i32(i32::try_from(text.len() + 1)?);
                out.put_u8(1); // the version of jsonb's binary form
                out.put_slice(text.as_bytes());
            }
            // An operator that breaks its own schema: the message names no value, it may be secret.
            (kind, _) => return Err(format!("a value is not of its column's type {kind}").into()),
        }
        Ok(())
    }
}

/// A watermark as `timestamptz`: the ends of time are Postgres' infinities.
#[derive(Debug)]
pub(super) struct Watermark(pub(super) i64);

impl ToSql for Watermark {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_i64(postgres_time(self.0));
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TIMESTAMPTZ
    }

    to_sql_checked!();
}

/// Microseconds since 1970 as Postgres counts them. What is before its time is its `-infinity`.
fn postgres_time(micros: i64) -> i64 {
    match micros {
        // Postgres spells its infinities with the same two numbers.
        NO_WATERMARK | FINAL_WATERMARK => micros,
        _ => {
            let shifted = micros.saturating_sub(POSTGRES_EPOCH_US);
            if shifted < POSTGRES_EARLIEST_US { i64::MIN } else { shifted }
        }
    }
}

fn element_type(kind: ColumnType) -> Type {
    match kind {
        ColumnType::Text => Type::TEXT,
        ColumnType::Bigint => Type::INT8,
        ColumnType::Double => Type::FLOAT8,
        ColumnType::Boolean => Type::BOOL,
        ColumnType::Timestamp => Type::TIMESTAMPTZ,
        ColumnType::Json => Type::JSONB,
    }
}
