//! The kinds of sink, one file each.

use waterwheel_pipeline::contract::sink::SinkKind;

/// Every kind of sink.
pub const SINKS: &[SinkKind] = &[];
