//! The kinds of sink, one file each.

use waterwheel_pipeline::contract::sink::SinkKind;

mod json;
pub mod nats;
mod parquet;
pub mod postgres;
mod print;

/// Every kind of sink.
pub const SINKS: &[SinkKind] = &[nats::KIND, parquet::KIND, postgres::KIND, print::KIND];
