//! The kinds of source, one file each.

use waterwheel_pipeline::contract::source::SourceKind;

/// Every kind of source.
pub const SOURCES: &[SourceKind] = &[];
