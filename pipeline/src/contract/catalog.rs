//! The lists of kinds that a deployment can name. Help, `check` and documentation walk them.

use super::operator::OperatorKind;
use super::sink::SinkKind;
use super::source::SourceKind;

/// Every kind of component that this binary knows.
pub struct Catalog {
    /// Kinds of source.
    pub sources: &'static [SourceKind],
    /// Kinds of operator.
    pub operators: &'static [OperatorKind],
    /// Kinds of sink.
    pub sinks: &'static [SinkKind],
}
