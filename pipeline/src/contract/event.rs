//! Events as operators see them: batches of decoded fields, and the schemas of raw events and dead
//! letters.

use std::sync::Arc;

use waterwheel_config::schema::{Column, Finality, Schema, SchemaRef};
use waterwheel_config::value::ColumnType;

/// The columns of raw events, in this order.
pub const RAW_COLUMNS: [&str; 14] = [
    "id",
    "event_type",
    "timestamp",
    "user_id",
    "session_id",
    "correlation_id",
    "causation_id",
    "source",
    "subject",
    "stream",
    "sequence",
    "received_at",
    "late",
    "payload",
];

/// The schema of raw events: every message that is an event is one row, late ones included.
pub fn raw_schema() -> SchemaRef {
    let columns = RAW_COLUMNS
        .iter()
        .map(|name| match *name {
            "timestamp" => Column::time(*name, 0),
            "received_at" => Column::new(*name, ColumnType::Timestamp),
            "sequence" => Column::new(*name, ColumnType::Bigint),
            "late" => Column::new(*name, ColumnType::Boolean),
            "payload" => Column::new(*name, ColumnType::Json),
            _ => Column::new(*name, ColumnType::Text),
        })
        .collect();
    Arc::new(Schema {
        columns,
        key: vec![9, 10],
        finality: Finality::Immediate,
        append_only: true,
        time: Some(2),
    })
}

/// The name of the built-in stream of messages that are no events.
pub const DEAD_LETTER: &str = "dead_letter";

/// The schema of dead letters.
pub fn dead_letter_schema() -> SchemaRef {
    let text = |name: &str| Column::new(name, ColumnType::Text);
    let columns = vec![
        text("source"),
        text("stream"),
        text("subject"),
        Column::new("sequence", ColumnType::Bigint),
        Column::new("timestamp", ColumnType::Timestamp),
        text("reason"),
        text("detail"),
        text("payload"),
        text("payload_base64"),
    ];
    Arc::new(Schema {
        columns,
        key: vec![1, 3],
        finality: Finality::Immediate,
        append_only: true,
        time: Some(4),
    })
}
