//! The kinds of operator, one file each.

use waterwheel_pipeline::contract::operator::OperatorKind;

/// Every kind of operator.
pub const OPERATORS: &[OperatorKind] = &[];
