//! What a component may know: batches of raw messages, events, rows, epochs, positions, faults, and
//! the traits of the three kinds of component.

pub mod batch;
pub mod bucket;
pub mod catalog;
pub mod clock;
pub mod epoch;
pub mod event;
pub mod failpoint;
pub mod fault;
pub mod fold;
pub mod here;
pub mod mapping;
pub mod nats;
pub mod operator;
pub mod position;
mod projection;
pub mod raw;
pub mod retain;
pub mod sink;
pub mod source;
pub mod state;
