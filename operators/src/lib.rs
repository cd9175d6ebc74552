//! The kinds of operator, one file each.

pub mod aggregate;
pub mod funnel;
pub mod join;

mod accumulator;
mod exact_sum;
mod expiring;
mod key;
mod limbs;
mod meaning;
mod measure;
mod moments;
mod registers;
mod settings;
mod sketch;
#[cfg(test)]
mod testing;

use waterwheel_pipeline::contract::operator::OperatorKind;

/// Every kind of operator.
pub const OPERATORS: &[OperatorKind] = &[aggregate::KIND, join::KIND, funnel::KIND];
