//! How a pipeline stays alive: one generation of actors after another.
//!
//! ```text
//!  intake (one per source) ──▶ coordinator ──▶ worker (one per thread: decode, dataflow)
//!                                  ▲   │                │
//!                                  │   └──▶ outlet (one per sink)  ◀── by the coordinator ──┘
//! ```
//!
//! Every arrow is a bounded mailbox. The coordinator cuts the input into epochs, judges time, and
//! hands the changes of each finished epoch to the outlets. What fails ends the generation; the next
//! one starts from what the sinks have made durable.

mod actor;
mod backoff;
mod begin;
mod capture;
mod changes;
mod checkpoint;
pub mod cleaning;
mod coordinator;
mod cuts;
mod dataflow;
mod decisions;
pub mod decode;
pub mod faults;
mod final_gate;
pub mod gauges;
mod intake;
mod messages;
mod outlet;
pub mod pipeline;
pub mod rehearsal;
mod waiting;
