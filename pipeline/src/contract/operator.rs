//! What an operator is.

/// A kind of operator, for `check`, the documentation and the planner.
pub struct OperatorKind {
    /// The word for `type`.
    pub name: &'static str,
}
