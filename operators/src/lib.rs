//! The kinds of operator, one file each.

pub mod aggregate;
pub mod derive;
pub mod filter;
pub mod flow;
pub mod funnel;
pub mod join;
pub mod lineage;
pub mod retention;
pub mod sample;
pub mod sessions;

mod accumulator;
mod by;
mod exact_sum;
mod key;
mod limbs;
mod meaning;
mod measure;
mod moments;
mod passing;
mod registers;
mod settings;
mod sketch;
mod spans;
#[cfg(test)]
mod testing;

use waterwheel_pipeline::contract::operator::OperatorKind;

/// Every kind of operator.
pub const OPERATORS: &[OperatorKind] = &[
    aggregate::KIND,
    join::KIND,
    flow::KIND,
    lineage::KIND,
    funnel::KIND,
    retention::KIND,
    sessions::KIND,
    sample::KIND,
    filter::KIND,
    derive::KIND,
];
