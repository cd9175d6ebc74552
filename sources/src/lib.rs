//! The kinds of source, one file each.

pub mod file;
pub mod generate;
pub mod nats;

use waterwheel_pipeline::contract::source::SourceKind;

/// Every kind of source.
pub const SOURCES: &[SourceKind] = &[file::KIND, generate::KIND, nats::KIND];
