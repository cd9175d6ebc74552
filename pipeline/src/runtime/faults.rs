//! Panics that come again at the same place of the stream: after the third the pipeline halts,
//! instead of being started again for ever by whatever supervises it.
//!
//! A message may be what did it, so the next process is told how far each source had been read.
//!
//! They end the process, so they are kept beside the checkpoints, where there are any. A process that
//! is killed records nothing, and what is down outside is waited for without being counted.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::checkpoint::Store;
use crate::contract::fault::Fault;
use crate::contract::position::Positions;

/// So many panics at one place, and the next start halts.
const PANICS_MAX: usize = 3;

/// The note beside the checkpoints.
const NOTE: &str = "panics";

/// One panic: how far every sink had come when the generation began, and what happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Recorded {
    at: Positions,
    message: String,
    /// How far each source had been read.
    #[serde(default)]
    read: Read,
}

/// By the names of sources, the ordinal of the last message that was read.
pub(super) type Read = BTreeMap<String, u64>;

/// How far the sources of the running generation are read.
static READ: Mutex<Read> = Mutex::new(Read::new());

/// A source was read up to here.
pub(super) fn note_read(source: &str, ordinal: u64) {
    let mut read = READ.lock().unwrap_or_else(PoisonError::into_inner);
    match read.get_mut(source) {
        Some(last) => *last = ordinal,
        None => {
            read.insert(source.to_owned(), ordinal);
        }
    }
}

/// What a panic must know: where to write, and where the running generation began.
static RUNNING: Mutex<Option<(Store, Positions)>> = Mutex::new(None);

/// A generation begins where the sinks are at `at`; halts if too many ended there in a panic. How far
/// sources had been read in those panics that the sinks have not come past.
pub(super) fn begin(store: &Store, at: &Positions) -> Result<Read, Fault> {
    let text = store.read_note(NOTE)?;
    // A line that a crash cut off tells nothing.
    let recorded = text.lines().filter_map(|line| serde_json::from_str::<Recorded>(line).ok());
    let recorded: Vec<Recorded> = recorded.collect();
    let here: Vec<&Recorded> = recorded.iter().filter(|recorded| recorded.at == *at).collect();
    if here.len() < PANICS_MAX {
        READ.lock().unwrap_or_else(PoisonError::into_inner).clear();
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) = Some((store.clone(), at.clone()));
        return Ok(ahead(&recorded, at));
    }
    let last = here.last().map_or("", |recorded| recorded.message.as_str());
    let places: Vec<String> = at
        .iter()
        .map(|(source, position)| format!("`{source}` after message {}", position.ordinal))
        .collect();
    let place = if places.is_empty() { "the beginning".to_owned() } else { places.join(", ") };
    Err(Fault::halt(format!(
        "waterwheel has panicked {} times at one place of the stream ({place}); the last time: {last}",
        here.len()
    ))
    .help(format!(
        "this is a bug: please report it; to try again, for example with another version, delete {}",
        store.note_address(NOTE)
    )))
}

fn ahead(recorded: &[Recorded], at: &Positions) -> Read {
    let mut ahead = Read::new();
    for (source, ordinal) in recorded.iter().flat_map(|recorded| &recorded.read) {
        if *ordinal >= at.get(source).map_or(0, |position| position.ordinal) {
            let furthest = ahead.entry(source.clone()).or_default();
            *furthest = (*ordinal).max(*furthest);
        }
    }
    ahead
}

/// Notes a panic of this process, for the next one. Called while panicking.
pub fn record_panic(message: &str) {
    // Whoever panics may hold the lock.
    let Ok(running) = RUNNING.try_lock() else {
        return;
    };
    if let Some((store, at)) = &*running {
        let read = READ.try_lock().map(|read| read.clone()).unwrap_or_default();
        append(store, &Recorded { at: at.clone(), message: message.to_owned(), read });
    }
}

fn append(store: &Store, recorded: &Recorded) {
    let line = serde_json::to_string(recorded).map_err(std::io::Error::other);
    if let Err(error) = line.and_then(|line| store.append_note(NOTE, &line)) {
        eprintln!("cannot record a fault in {}: {error}", store.note_address(NOTE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::bucket::Place;
    use crate::contract::position::position_at;

    fn positions(ordinal: u64) -> Positions {
        [("events".to_owned(), position_at(ordinal))].into()
    }

    #[test]
    fn the_fourth_start_at_one_place_halts() {
        let place = tempfile::TempDir::new().unwrap();
        let place = Place::Directory(place.path().to_owned());
        let directory = Store::new(&place, "trading");
        let mut panicked = Read::new();
        for _ in 0..PANICS_MAX {
            let ahead = begin(&directory, &positions(7)).unwrap();
            assert_eq!(ahead, panicked);
            note_read("events", 6);
            note_read("events", 40);
            panicked = [("events".to_owned(), 40)].into();
            record_panic("index out of bounds");
        }
        let halted = begin(&directory, &positions(7)).unwrap_err();
        assert!(halted.message.contains("after message 7"), "{halted}");
        assert!(halted.message.contains("index out of bounds"), "{halted}");
        // Elsewhere they count for nothing.
        assert_eq!(begin(&directory, &positions(40)).unwrap(), panicked);
        assert_eq!(begin(&directory, &positions(41)).unwrap(), Read::new());
    }
}
