//! Checkpoints: the state of the operators as of an epoch, so that a restart reads the stream from
//! there and not from its origin.
//!
//! A checkpoint is a cache. The sinks own the truth: one is published only once every sink has
//! committed through its epoch, and one that is damaged or does not fit is passed over for the one
//! before, in the end for the stream itself.
//!
//! On disk a pipeline has one directory, in an object store one prefix. A *segment* holds what one checkpoint saved ([`frame`]): of
//! some key groups everything, of the others what changed since the segment before. A *manifest*
//! names the segments that together make a checkpoint ([`manifest`]). Both are there
//! whole or not at all (on disk they are written aside, synced and renamed); a manifest comes after its
//! segments, and is deleted before them.

#[cfg(test)]
mod crash_images;
mod directory;
mod frame;
mod manifest;
mod recover;
mod store;
mod writer;

pub(super) use recover::{Recovered, SinkHolds, newest};
pub(super) use store::Store;
pub(super) use writer::{FromWriter, Snapshot, ToWriter, Writer};

/// How many flipped bits and cuts a test tries; `cargo xtask test --nightly` tries more.
#[cfg(test)]
fn damages() -> u32 {
    let is_nightly = std::env::var("WATERWHEEL_NIGHTLY").is_ok_and(|value| value == "1");
    if is_nightly { 10_000 } else { 2_000 }
}
