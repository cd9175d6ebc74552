//! The middle of waterwheel: what a component may know ([`contract`]), the graph that a deployment
//! file describes ([`graph`]), and how a pipeline stays alive ([`runtime`]).
//!
//! Imports point one way: sources, operators and sinks see `contract` only; `graph` and `runtime`
//! see `contract`; the binary sees all.

pub mod contract;
pub mod graph;
pub mod runtime;
