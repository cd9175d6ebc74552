//! What the wall clock decided: that a source was not waited for, and how far the others got
//! meanwhile.
//!
//! Everything else follows from the streams. These few facts do not, so they are written to a small
//! log and synced before anything rests on them, and a replay takes them from there. A line says that
//! behind a place of a source's log no event below a watermark takes part. While the source is silent
//! that watermark moves on with the others; how far it was when a sink committed stands in the sink's
//! progress, and how far it was when the source spoke again stands here.
//!
//! A line is a checksum and JSON. Each generation first writes that it begins: what an older one
//! writes after that, which no sink takes from it any more, counts for nothing.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::contract::epoch::Generation;
use crate::contract::failpoint;
use crate::contract::fault::Fault;
use crate::contract::position::{Position, Positions};

/// The file beside the checkpoints.
const FILE: &str = "idle";

/// While it is written anew.
const ASIDE: &str = ".aside-idle";

/// Below this size nothing is dropped: a replay from further back than the oldest checkpoint then
/// takes old decisions too.
const DROP_FROM_BYTES: u64 = 1 << 20;

/// Behind a place of a source's log no event below a watermark takes part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Decision {
    /// The source's name.
    pub(super) source: String,
    /// After the last message that was read before.
    pub(super) after: Position,
    /// The watermark, in microseconds.
    pub(super) watermark_us: i64,
}

/// A line of the log.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    generation: Generation,
    /// None: the generation begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    decision: Option<Decision>,
}

/// The log, open for one generation.
#[derive(Debug)]
pub(super) struct Decisions {
    directory: PathBuf,
    generation: Generation,
    /// `None` until something is written.
    file: Option<File>,
    size_bytes: u64,
    /// What counts, in the order in which it was decided.
    known: Vec<Decision>,
}

impl Decisions {
    /// Opens the log of a pipeline. Nothing is created before there is something to write.
    pub(super) fn open(directory: &Path, generation: Generation) -> Result<Self, Fault> {
        let mut log = Self {
            directory: directory.to_owned(),
            generation,
            file: None,
            size_bytes: 0,
            known: Vec::new(),
        };
        if log.path().exists() {
            log.begin().map_err(|error| log.fault(&error))?;
            let bytes = fs::read(log.path()).map_err(|error| log.fault(&error))?;
            log.known = read(&bytes, &log.path())?;
        }
        Ok(log)
    }

    fn path(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    fn fault(&self, error: &io::Error) -> Fault {
        Fault::retry(format!(
            "the log of idle sources, {}, cannot be written: {error}",
            self.path().display()
        ))
    }

    /// The decisions about each source that a replay from these positions must take again.
    pub(super) fn ahead(&self, begin: &Positions) -> BTreeMap<String, VecDeque<Decision>> {
        let mut ahead: BTreeMap<String, VecDeque<Decision>> = BTreeMap::new();
        for decision in &self.known {
            if is_ahead(decision, begin) {
                ahead.entry(decision.source.clone()).or_default().push_back(decision.clone());
            }
        }
        for decisions in ahead.values_mut() {
            decisions.make_contiguous().sort_by_key(|decision| decision.after.ordinal);
        }
        ahead
    }

    /// Makes decisions durable.
    pub(super) fn append(&mut self, decisions: &[Decision]) -> Result<(), Fault> {
        self.try_append(decisions).map_err(|error| {
            // What is in the file now nobody knows; the next generation reads it.
            self.file = None;
            self.fault(&error)
        })?;
        self.known.extend_from_slice(decisions);
        failpoint::reach("idle.log.durable");
        Ok(())
    }

    fn try_append(&mut self, decisions: &[Decision]) -> io::Result<()> {
        if self.file.is_none() {
            self.begin()?;
        }
        let lines: Vec<Line> = decisions.iter().map(|decision| self.line(Some(decision))).collect();
        self.write(&lines)
    }

    /// Says that the generation begins.
    fn begin(&mut self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        let mut options = OpenOptions::new();
        let mut file =
            options.read(true).append(true).create(true).mode(0o600).open(self.path())?;
        self.size_bytes = file.metadata()?.len();
        let text = fs::read(self.path())?;
        // A line that a crash cut off was never relied on.
        if text.last().is_some_and(|last| *last != b'\n') {
            file.write_all(b"\n")?;
        }
        self.file = Some(file);
        self.write(&[self.line(None)])?;
        File::open(&self.directory)?.sync_all()
    }

    fn line(&self, decision: Option<&Decision>) -> Line {
        Line { generation: self.generation, decision: decision.cloned() }
    }

    fn write(&mut self, lines: &[Line]) -> io::Result<()> {
        let Some(file) = &mut self.file else {
            return Err(io::Error::other("the log is not open"));
        };
        let bytes = to_bytes(lines)?;
        file.write_all(&bytes)?;
        failpoint::reach("idle.log.written");
        file.sync_all()?;
        self.size_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Nothing before these positions will be read again: forgets what was decided there, once that
    /// is worth it.
    pub(super) fn forget_before(&mut self, oldest: &Positions) -> io::Result<()> {
        if self.size_bytes < DROP_FROM_BYTES {
            return Ok(());
        }
        self.drop_before(oldest)
    }

    fn drop_before(&mut self, oldest: &Positions) -> io::Result<()> {
        let kept: Vec<Decision> =
            self.known.iter().filter(|decision| is_ahead(decision, oldest)).cloned().collect();
        if kept.len() * 2 > self.known.len() {
            return Ok(());
        }
        let mut lines = vec![self.line(None)];
        lines.extend(kept.iter().map(|decision| self.line(Some(decision))));
        let bytes = to_bytes(&lines)?;
        let aside = self.directory.join(ASIDE);
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&aside, self.path())?;
        File::open(&self.directory)?.sync_all()?;
        self.file = Some(OpenOptions::new().append(true).open(self.path())?);
        (self.known, self.size_bytes) = (kept, bytes.len() as u64);
        Ok(())
    }
}

/// True if a replay from these positions comes past the place of the decision.
fn is_ahead(decision: &Decision, begin: &Positions) -> bool {
    begin.get(&decision.source).is_none_or(|begin| decision.after.ordinal >= begin.ordinal)
}

fn to_bytes(lines: &[Line]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for line in lines {
        let json = serde_json::to_vec(line)?;
        writeln!(bytes, "{:08x} {}", crc32c::crc32c(&json), String::from_utf8_lossy(&json))?;
    }
    Ok(bytes)
}

/// The decisions that count. A damaged line is one that a crash cut off, if a generation begins behind
/// it; else the disk has lost something.
fn read(bytes: &[u8], path: &Path) -> Result<Vec<Decision>, Fault> {
    let mut known = Vec::new();
    let (mut newest, mut damaged) = (0, None);
    for (index, text) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if text.is_empty() {
            continue;
        }
        match (parse(text), damaged) {
            (None, None) => damaged = Some(index + 1),
            (Some(Line { generation, decision: None }), _) => {
                damaged = None;
                newest = newest.max(generation);
            }
            (_, Some(number)) => {
                return Err(Fault::halt(format!(
                    "line {number} of the log of idle sources, {}, is damaged: what was decided there \
                     is not known, and events that were late then would count now",
                    path.display()
                ))
                .help(
                    "restore the file from a backup, or give the pipeline another `name` and its \
                     sinks other places, to compute everything anew",
                ));
            }
            (Some(Line { generation, decision: Some(decision) }), None) => {
                if generation >= newest {
                    known.push(decision);
                }
            }
        }
    }
    Ok(known)
}

fn parse(text: &[u8]) -> Option<Line> {
    let (sum, json) = std::str::from_utf8(text).ok()?.split_once(' ')?;
    let sum = u32::from_str_radix(sum, 16).ok()?;
    (crc32c::crc32c(json.as_bytes()) == sum).then(|| serde_json::from_str(json).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::position::position_at;

    fn decision(ordinal: u64, watermark_us: i64) -> Decision {
        Decision { source: "a".to_owned(), after: position_at(ordinal), watermark_us }
    }

    fn from(ordinal: u64) -> Positions {
        [("a".to_owned(), position_at(ordinal))].into()
    }

    fn opened(place: &Path, generation: Generation) -> Decisions {
        Decisions::open(place, generation).unwrap()
    }

    #[test]
    fn what_was_decided_is_known_to_the_next_generation() {
        let place = tempfile::TempDir::new().unwrap();
        let mut log = opened(place.path(), 1);
        assert!(!place.path().join(FILE).exists(), "nothing is written without need");
        log.append(&[decision(5, 100), decision(5, 200)]).unwrap();
        log.append(&[decision(9, 300)]).unwrap();
        let mut log = opened(place.path(), 2);
        log.append(&[decision(7, 250)]).unwrap();
        let log = opened(place.path(), 3);
        let ahead = |ordinal| -> Vec<i64> {
            let ahead = log.ahead(&from(ordinal)).remove("a").unwrap_or_default();
            ahead.iter().map(|decision| decision.watermark_us).collect()
        };
        assert_eq!(ahead(0), [100, 200, 250, 300]);
        assert_eq!((ahead(7), ahead(9), ahead(10)), (vec![250, 300], vec![300], vec![]));
    }

    #[test]
    fn an_older_generation_writes_in_vain() {
        let place = tempfile::TempDir::new().unwrap();
        let mut older = opened(place.path(), 1);
        older.append(&[decision(5, 100)]).unwrap();
        let mut newer = opened(place.path(), 2);
        older.append(&[decision(6, 900)]).unwrap();
        newer.append(&[decision(7, 300)]).unwrap();
        assert_eq!(opened(place.path(), 3).known, [decision(5, 100), decision(7, 300)]);
    }

    #[test]
    fn a_line_cut_off_was_never_relied_on_and_a_damaged_one_halts() {
        let place = tempfile::TempDir::new().unwrap();
        let file = place.path().join(FILE);
        let mut log = opened(place.path(), 1);
        log.append(&[decision(5, 100)]).unwrap();
        log.append(&[decision(6, 200)]).unwrap();
        let whole = fs::read(&file).unwrap();
        let begin = whole.len() - 20;
        for length in begin..whole.len() - 1 {
            fs::write(&file, &whole[..length]).unwrap();
            let mut next = opened(place.path(), 2);
            assert_eq!(next.known, [decision(5, 100)], "{length}");
            next.append(&[decision(7, 300)]).unwrap();
            let known = opened(place.path(), 3).known;
            assert_eq!(known, [decision(5, 100), decision(7, 300)], "{length}");
        }
        let second = whole.iter().position(|byte| *byte == b'\n').unwrap() + 12;
        for damaged in [second, second + 9] {
            let mut bytes = whole.clone();
            bytes[damaged] ^= 1;
            fs::write(&file, &bytes).unwrap();
            let halted = Decisions::open(place.path(), 2).unwrap_err();
            assert!(halted.message.contains("line 2"), "{halted}");
        }
    }

    #[test]
    fn what_no_checkpoint_needs_is_dropped() {
        let place = tempfile::TempDir::new().unwrap();
        let mut log = opened(place.path(), 1);
        let all: Vec<Decision> = (1..=100).map(|n| decision(n, n as i64)).collect();
        log.append(&all).unwrap();
        log.forget_before(&from(90)).unwrap();
        assert_eq!(log.known.len(), 100, "a small log is kept whole");
        log.drop_before(&from(90)).unwrap();
        log.append(&[decision(101, 101)]).unwrap();
        let known = opened(place.path(), 2).known;
        assert_eq!((known.len(), known[0].after.ordinal), (12, 90));
    }
}
