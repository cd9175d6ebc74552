//! Every state in which a loss of power may leave a directory of checkpoints, and what is gone on
//! from in each.
//!
//! A file that was not synced may be empty, half written or whole; a name that was made, changed or
//! deleted since the directory was last synced may be as before or as after, each for itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::directory::{DONE, Directory, Operation};
use super::recover::{Recovered, SinkHolds, newest};
use super::store::Store;
use super::writer::{Snapshot, Written};
use crate::contract::epoch::{Epoch, EpochRecord, Progress};
use crate::contract::position::{Position, Positions};
use crate::contract::state::{KEY_GROUPS, KeyGroup, SavedPart};
use crate::graph::Deployment;

const CHECKPOINTS: Epoch = 9;
const KEEP: usize = 3;

fn positions(ordinal: u64) -> Positions {
    let position = Position {
        stream: "s".to_owned(),
        created: 1,
        ordinal,
        fingerprint: 9,
        gaps: Vec::new(),
        messages: 0,
    };
    [("events".to_owned(), position)].into()
}

fn record(epoch: Epoch) -> EpochRecord {
    let watermarks = [("events".to_owned(), epoch as i64)].into();
    EpochRecord { epoch, generation: 1, positions: positions(epoch * 10), watermarks }
}

fn deployment() -> Deployment {
    Deployment {
        name: "trading".to_owned(),
        workers: 1,
        flush_us: 1,
        checkpoint: None,
        report: None,
        sources: Vec::new(),
        operators: Vec::new(),
        sinks: Vec::new(),
    }
}

/// The groups that have items, and which of them change at an epoch.
const GROUPS: [KeyGroup; 4] = [0, 300, 600, 1023];

fn changes(epoch: Epoch, group: KeyGroup) -> bool {
    (epoch + u64::from(group)).is_multiple_of(2)
}

/// What a group holds after an epoch: the epoch in which it changed last.
fn expected(epoch: Epoch, group: KeyGroup) -> Epoch {
    (1..=epoch).rev().find(|epoch| changes(*epoch, group)).unwrap_or(0)
}

fn snapshot(epoch: Epoch) -> Snapshot {
    let whole = match epoch {
        1 => 0..KEY_GROUPS,
        _ => {
            let slice = (epoch % 4) as u16 * 256;
            slice..slice + 256
        }
    };
    let saved = GROUPS.iter().filter(|group| whole.contains(group) || changes(epoch, **group));
    let groups = saved.map(|group| (*group, expected(epoch, *group).to_le_bytes().to_vec()));
    let part =
        SavedPart { name: "volume.windows".into(), fingerprint: 7, groups: groups.collect() };
    Snapshot {
        record: record(epoch),
        largest_us: BTreeMap::new(),
        origin: positions(0),
        whole,
        parts: vec![part],
    }
}

/// What is gone on from when every sink holds everything.
fn recovered(directory: &Directory) -> Option<Recovered> {
    let progress = Progress {
        record: record(CHECKPOINTS),
        origin: positions(0),
        fingerprint: String::new(),
        finished: false,
    };
    let sinks = [SinkHolds { name: "warehouse", progress: Some(&progress) }];
    newest(&Store::Directory(directory.clone()), &deployment(), &sinks)
        .expect("the directory can be listed")
}

/// Panics unless the state is that of its epoch; the epoch.
fn judge(recovered: &Recovered) -> Epoch {
    let epoch = recovered.record.epoch;
    for group in GROUPS {
        let runs = recovered.state.read("volume.windows", 7, group).expect("it can be read");
        let last = runs.last().map_or(0, |bytes| u64::from_le_bytes(bytes[..].try_into().unwrap()));
        assert_eq!(last, expected(epoch, group), "group {group} after epoch {epoch}");
    }
    epoch
}

/// A directory as it may be: what each name stands for.
type Image = BTreeMap<PathBuf, Vec<u8>>;

/// A file or a change of a name that is not yet safe.
#[derive(Default)]
struct Disk {
    /// What every sync up to now has made safe.
    safe: Image,
    /// Files whose bytes are not safe.
    unsynced: BTreeSet<PathBuf>,
    /// Changes of names since the directory was synced, in order: the name, and what it stands for.
    pending: Vec<(PathBuf, Option<Vec<u8>>)>,
}

impl Disk {
    fn current(&self) -> Image {
        let mut image = self.safe.clone();
        for (name, bytes) in &self.pending {
            apply(&mut image, name, bytes.as_ref());
        }
        image
    }

    fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Write(name, bytes) => {
                self.unsynced.insert(name.clone());
                self.pending.push((name.clone(), Some(bytes.clone())));
            }
            Operation::SyncFile(name) => {
                self.unsynced.remove(name);
            }
            Operation::Rename(from, to) => {
                let bytes = self.current().remove(from);
                if self.unsynced.remove(from) {
                    self.unsynced.insert(to.clone());
                }
                self.pending.push((to.clone(), bytes));
                self.pending.push((from.clone(), None));
            }
            Operation::Delete(name) => self.pending.push((name.clone(), None)),
            Operation::SyncDirectory => {
                self.safe = self.current();
                self.pending.clear();
            }
        }
    }

    /// Every image that a crash may leave now.
    fn images(&self) -> Vec<Image> {
        let mut images = Vec::new();
        for kept in 0..1_u32 << self.pending.len().min(12) {
            let mut image = self.safe.clone();
            for (index, (name, bytes)) in self.pending.iter().enumerate() {
                if kept & (1 << index) != 0 {
                    apply(&mut image, name, bytes.as_ref());
                }
            }
            for cut in [0, 1, 2] {
                let mut torn = image.clone();
                for (name, bytes) in &mut torn {
                    if self.unsynced.contains(name) {
                        bytes.truncate(bytes.len() * cut / 2);
                    }
                }
                images.push(torn);
            }
        }
        images.sort();
        images.dedup();
        images
    }
}

fn apply(image: &mut Image, name: &Path, bytes: Option<&Vec<u8>>) {
    match bytes {
        Some(bytes) => drop(image.insert(name.to_owned(), bytes.clone())),
        None => drop(image.remove(name)),
    }
}

#[test]
fn whatever_a_crash_leaves_is_gone_on_from_rightly() {
    let place = tempfile::TempDir::new().unwrap();
    let directory = Directory::new(place.path(), "trading");
    let store = Store::Directory(directory.clone());
    let deployment = Arc::new(deployment());
    let mut written = Written::default();
    let mut disk = Disk::default();
    let (mut images, mut found) = (0, BTreeSet::new());
    for epoch in 1..=CHECKPOINTS {
        // What has been published is never lost again, and nothing newer exists.
        for (published, step) in [(epoch - 1, 0), (epoch - 1, 1)] {
            DONE.with(|done| done.borrow_mut().clear());
            match step {
                0 => written.save(&store, &deployment, snapshot(epoch)).unwrap(),
                _ => drop(written.publish(&store, 1, KEEP).unwrap()),
            }
            for operation in DONE.with(|done| done.borrow_mut().split_off(0)) {
                disk.apply(&operation);
                for image in disk.images() {
                    images += 1;
                    let crashed = tempfile::TempDir::new().unwrap();
                    let copy = Directory::new(crashed.path(), "trading");
                    fs::create_dir(copy.path()).unwrap();
                    for (name, bytes) in image {
                        fs::write(copy.path().join(name.file_name().unwrap()), bytes).unwrap();
                    }
                    let epoch = recovered(&copy).as_ref().map_or(0, judge);
                    assert!(epoch >= published, "checkpoint {published} is lost: {epoch}");
                    found.insert(epoch);
                }
            }
        }
        assert_eq!(recovered(&directory).as_ref().map(judge), Some(epoch));
    }
    println!("crash images: {images} states, {} checkpoints gone on from, 0 wrong", found.len());
    assert!(images > 200 && found.len() as u64 == CHECKPOINTS + 1, "{images} {found:?}");
    let kept = fs::read_dir(directory.path()).unwrap().count();
    assert!(kept <= KEEP + 8, "{kept} files are left");
}
