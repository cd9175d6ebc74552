//! Positions: how far a source has been read, and enough to notice that it is no longer the same.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A place between two messages of a source's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The name of the stream or the path of the file.
    pub stream: String,
    /// Tells two logs of one name apart: a stream's time of creation in nanoseconds, zero for files.
    pub created: i64,
    /// The ordinal of the last message before the place: a stream's sequence, a count of lines;
    /// zero is the beginning.
    pub ordinal: u64,
    /// A hash of the last message before the place (see [`fingerprint`]); zero at the beginning or
    /// where it was never read.
    pub fingerprint: u64,
}

/// One position per source, by the source's name.
pub type Positions = BTreeMap<String, Position>;

/// The hash of a message that a position keeps: its broker's timestamp and its payload.
pub fn fingerprint(received_at_us: Option<i64>, payload: &[u8]) -> u64 {
    let seed = received_at_us.unwrap_or(0).cast_unsigned();
    // Zero is taken: it says that there is no message.
    xxhash_rust::xxh3::xxh3_64_with_seed(payload, seed).max(1)
}
