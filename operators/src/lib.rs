//! The kinds of operator, one file each.

pub mod aggregate;
pub mod flow;
pub mod funnel;
pub mod join;
pub mod retention;
pub mod sessions;

mod accumulator;
mod by;
mod exact_sum;
mod expiring;
mod key;
mod meaning;
mod measure;
mod settings;
mod sketch;
mod spans;
#[cfg(test)]
mod testing;

use waterwheel_pipeline::contract::operator::OperatorKind;

/// Every kind of operator.
pub const OPERATORS: &[OperatorKind] =
    &[aggregate::KIND, join::KIND, flow::KIND, funnel::KIND, retention::KIND, sessions::KIND];
