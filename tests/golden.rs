//! A new version of waterwheel goes on from what an older one left behind: checkpoints, and the log
//! of a lake.
//!
//! `golden/format_N` is the directory of a pipeline that was run over the first 800 of 1,200 events
//! (`scripts/events.py 1200`) by the last version that wrote format N of checkpoints. A new format
//! gets a directory of its own; the older ones stay.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::support::copy_directory;
use crate::support::say;
use crate::support::trading::Events;
use crate::support::waterwheel::Deployment;

const EVENTS: usize = 1_200;

/// The format that this version reads and writes.
const CURRENT: &str = "format_3";

#[test]
fn every_format_of_checkpoints_is_gone_on_from() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut formats: Vec<PathBuf> =
        fs::read_dir(&golden).unwrap().map(|entry| entry.unwrap().path()).collect();
    formats.sort();
    assert!(formats.iter().any(|format| format.ends_with(CURRENT)), "{formats:?}");
    for format in &formats {
        let directory = TempDir::new().unwrap();
        let run = directory.path().join("run");
        copy_directory(format, &run);
        let text = fs::read_to_string(run.join("pipeline.toml")).unwrap();
        let events = Events::generate(&run, EVENTS, "events.jsonl");
        let ending = Deployment::new(&run, &text).run();
        // A checkpoint of another format is never guessed at: everything is read again.
        let said =
            if format.ends_with(CURRENT) { "going on from a checkpoint" } else { "has format" };
        assert!(ending.stderr.contains(said), "{}: {}", format.display(), ending.stderr);
        events.assert_lake(&run.join("lake"));
    }
    say!("golden: {} formats of checkpoints, each gone on from", formats.len());
}
