//! What a power cut may leave of the directory, at every step of a short history: each such image
//! is opened again, and must hold whole commits, nothing else, and no less than was promised.
//!
//! What was not synced may be there, missing, empty or torn; of names that were not synced any part
//! may be there. A rename is one change, as on every journaling file system: its old name may
//! survive beside the new one, but is never gone before the new one is there.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;

use super::files::steps::{self, Step};
use super::*;

/// So that each commit is written at once, in two partitions.
const SETTINGS: &str = "roll = { rows = 2 }";
/// Rows of one commit.
const ROWS: usize = 3;
/// Of so many names that wait to be durable every part is tried; of more, a choice.
const ALL_SUBSETS: usize = 8;
const CHOSEN_SUBSETS: usize = 100;

/// How a file looks that was never synced.
#[derive(Clone, Copy, PartialEq)]
enum Unsynced {
    Whole,
    Empty,
    Torn,
    Zeros,
}

#[derive(Clone, Copy, PartialEq)]
enum Node {
    Directory,
    /// By its number.
    File(usize),
}

#[derive(Clone)]
enum Change {
    Add(PathBuf, Node),
    Remove(PathBuf),
    /// The old name goes, once the new one is there.
    Forget {
        old: PathBuf,
        new: PathBuf,
        node: Node,
    },
}

impl Change {
    fn directory(&self) -> &Path {
        let (Self::Add(path, _) | Self::Remove(path) | Self::Forget { old: path, .. }) = self;
        path.parent().expect("below the root")
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            Self::Add(path, node) => {
                names.insert(path.clone(), *node);
            }
            Self::Remove(path) => {
                names.remove(path);
            }
            Self::Forget { old, new, node } => {
                names.remove(old);
                names.insert(new.clone(), *node);
            }
        }
    }
}

/// A file system after some steps: what is durable, and what may be.
#[derive(Clone, Default)]
struct Disk {
    /// By the number of a file: what it holds once it is synced, and whether it is.
    files: Vec<(Vec<u8>, bool)>,
    live: BTreeMap<PathBuf, Node>,
    durable: BTreeMap<PathBuf, Node>,
    pending: Vec<Change>,
    /// Up to which epoch the sink has said that it holds all.
    acknowledged: u64,
}

impl Disk {
    /// Takes a step; `rest` are those that come later, which know what a file is going to hold.
    fn step(&mut self, step: &Step, rest: &[Step]) {
        match step {
            Step::Create(path) => {
                self.files.push((content(path, rest), false));
                self.change(Change::Add(path.clone(), Node::File(self.files.len() - 1)));
            }
            Step::SyncFile(path, content) => {
                if let Some(Node::File(number)) = self.live.get(path) {
                    self.files[*number] = (content.clone(), true);
                }
            }
            Step::Link(from, to) => self.change(Change::Add(to.clone(), self.live[from])),
            Step::Rename(from, to) => {
                let node = self.live[from];
                self.change(Change::Add(to.clone(), node));
                let (old, new) = (from.clone(), to.clone());
                self.change(Change::Forget { old, new, node });
            }
            Step::Remove(path) => self.change(Change::Remove(path.clone())),
            Step::MakeDirectory(path) => self.change(Change::Add(path.clone(), Node::Directory)),
            Step::SyncDirectory(path) => {
                let pending = std::mem::take(&mut self.pending);
                let (synced, left): (Vec<Change>, Vec<Change>) =
                    pending.into_iter().partition(|change| change.directory() == path);
                synced.iter().for_each(|change| change.apply(&mut self.durable));
                self.pending = left;
            }
            Step::Acknowledged(epoch) => self.acknowledged = *epoch,
        }
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.live);
        self.pending.push(change);
    }

    /// Every part of the pending changes that may have become durable, as bits; of too many a part.
    fn subsets(&self, chance: &mut Chance) -> BTreeSet<u64> {
        let count = self.pending.len().min(63);
        let all = (1 << count) - 1;
        if count <= ALL_SUBSETS {
            return (0..=all).collect();
        }
        let single = (0..count).flat_map(|bit| [1 << bit, all ^ (1 << bit), (1 << bit) - 1]);
        let mut chosen: BTreeSet<u64> = single.chain([0, all]).collect();
        chosen.extend((0..CHOSEN_SUBSETS).map(|_| chance.next() & all));
        chosen
    }

    /// The names and contents of one image, sorted by name; `None` stands for a directory.
    fn image(&self, subset: u64, unsynced: Unsynced) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        let mut names = self.durable.clone();
        let chosen = self.pending.iter().enumerate().filter(|(bit, _)| subset >> bit & 1 == 1);
        chosen.for_each(|(_, change)| change.apply(&mut names));
        let content = |node: Node| match node {
            Node::Directory => None,
            Node::File(number) => {
                let (whole, is_synced) = &self.files[number];
                Some(match unsynced {
                    _ if *is_synced => whole.clone(),
                    Unsynced::Whole => whole.clone(),
                    Unsynced::Empty => Vec::new(),
                    Unsynced::Torn => whole[..whole.len() / 2].to_vec(),
                    Unsynced::Zeros => vec![0; whole.len()],
                })
            }
        };
        names.iter().map(|(path, node)| (path.clone(), content(*node))).collect()
    }

    fn has_unsynced(&self, subset: u64) -> bool {
        let whole = self.image(subset, Unsynced::Whole);
        whole != self.image(subset, Unsynced::Zeros) || whole != self.image(subset, Unsynced::Empty)
    }
}

/// What a file is going to hold: a cut may come in the middle of writing it.
fn content(path: &Path, rest: &[Step]) -> Vec<u8> {
    let mut path = path;
    for step in rest {
        match step {
            Step::SyncFile(synced, content) if synced == path => return content.clone(),
            Step::Rename(from, to) if from == path => path = to,
            Step::Remove(removed) if removed == path => break,
            _ => {}
        }
    }
    b"PAR1 not much of a file".to_vec()
}

/// Numbers by chance (SplitMix64).
struct Chance(u64);

impl Chance {
    fn new() -> Self {
        let asked = std::env::var("WATERWHEEL_SEED").ok();
        let seed = asked.map(|seed| seed.parse().expect("WATERWHEEL_SEED is a whole number"));
        Self(seed.unwrap_or_else(|| u64::from(std::process::id())))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

/// True in a run that repeats everything more often.
pub(super) fn is_nightly() -> bool {
    std::env::var("WATERWHEEL_NIGHTLY").is_ok_and(|value| value == "1")
}

/// In memory, where there is such a place: thousands of images are synced again and again.
fn fast_directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.or_else(|_| tempfile::tempdir()).expect("a directory")
}

fn bench() -> Bench {
    Bench::at(fast_directory(), SETTINGS, raw_schema(), Emit::Final)
}

/// The rows of one epoch: of two days, so that they are two files.
fn rows_of(epoch: u64) -> Vec<Row> {
    let from = (epoch as usize - 1) * ROWS;
    let row = |n: usize| {
        let day = if n % ROWS == 1 { "2026-11-22T10:00:00Z" } else { "2026-11-21T10:00:00Z" };
        raw(&format!("{n:03}"), "order.filled", day)
    };
    (from..from + ROWS).map(row).collect()
}

fn ids_through(epoch: u64) -> Vec<String> {
    ids(0, epoch as usize * ROWS)
}

async fn commit(bench: &mut Bench, epoch: u64) {
    assert_eq!(bench.commit(epoch, rows_of(epoch)).await.expect("written"), Some(epoch));
    steps::note(|| Step::Acknowledged(epoch));
}

/// Commits, a kill, a commit that is in the log but not yet visible, takeovers, and rows that are
/// kept and lost. How many epochs there are in all.
async fn history(first: Bench) -> u64 {
    let (mut second, mut third, mut fourth) = (first.again(), first.again(), first.again());
    let (mut first, plan) = (first, third.plan.clone());
    assert_eq!(first.open(1).await, None);
    commit(&mut first, 1).await;
    commit(&mut first, 2).await;
    first.owned().keep(&plan, &change(3), Duration::ZERO).expect("kept");
    std::mem::forget(first.sink);

    assert_eq!(second.open(2).await, Some(2));
    commit(&mut second, 3).await;
    let owned = second.owned();
    owned.keep(&plan, &change(4), Duration::ZERO).expect("kept");
    let files = owned.prepare(&plan).expect("written");
    owned.log.append(progress(4), files.clone()).expect("in the log");
    plan.publish(files.iter().take(1).map(|file| file.path.as_str())).expect("renamed");
    std::mem::forget(second.sink);

    assert_eq!(third.open(3).await, Some(4));
    steps::note(|| Step::Acknowledged(4));
    commit(&mut third, 5).await;
    third.owned().keep(&plan, &change(6), Duration::ZERO).expect("kept");
    std::mem::forget(third.sink);

    assert_eq!(fourth.open(4).await, Some(5));
    commit(&mut fourth, 6).await;
    fourth.sink.close().await.expect("closed");
    6
}

fn change(epoch: u64) -> Commit {
    let changes = vec![Changes::new(rows_of(epoch))];
    Commit { progress: progress(epoch), changes }
}

/// Opens an image: whole commits up to the progress, no less than was acknowledged; then the rest of
/// the history goes in as if nothing had happened.
async fn check(image: &BTreeMap<PathBuf, Option<Vec<u8>>>, acknowledged: u64, last: u64) {
    let mut bench = bench();
    for (path, content) in image {
        let path = bench.root.path().join(path);
        // What lies in a directory that is not there cannot be reached.
        if path.parent().is_some_and(Path::is_dir) {
            match content {
                None => fs::create_dir(path).expect("made"),
                Some(bytes) => fs::write(path, bytes).expect("written"),
            }
        }
    }
    let held = bench.open(10).await.unwrap_or(0);
    assert!((acknowledged..=last).contains(&held), "{acknowledged} was promised, {held} is held");
    assert_eq!(bench.ids(), ids_through(held), "whole commits up to {held}, and nothing else");
    assert_eq!(bench.staged(), Vec::<String>::new());
    let entries = bench.owned().log.entries().expect("read");
    let named: BTreeSet<String> =
        entries.iter().flat_map(|entry| &entry.files).map(|file| file.path.clone()).collect();
    assert_eq!(named, bench.visible().into_iter().collect(), "the manifest names what is visible");
    for epoch in held + 1..=last {
        commit(&mut bench, epoch).await;
    }
    let mut again = bench.again();
    drop(bench);
    assert_eq!(again.open(11).await, Some(last));
    assert_eq!(again.ids(), ids_through(last), "the whole history");
}

#[tokio::test]
async fn every_image_of_a_crash_is_right() {
    let first = bench();
    let root = first.root.path().to_owned();
    steps::begin();
    let last = history(first).await;
    let steps: Vec<Step> = steps::end().into_iter().map(|step| relative(step, &root)).collect();

    let mut chance = Chance::new();
    let seed = chance.0;
    println!("crash images: {} steps, seed {seed}", steps.len());
    let (mut disk, mut seen, mut states) = (Disk::default(), HashSet::new(), 0);
    for at in 0..=steps.len() {
        for subset in disk.subsets(&mut chance) {
            let all = [Unsynced::Whole, Unsynced::Empty, Unsynced::Torn, Unsynced::Zeros];
            let variants = if disk.has_unsynced(subset) { &all[..] } else { &all[..1] };
            for unsynced in variants {
                states += 1;
                let image = disk.image(subset, *unsynced);
                if seen.insert((image.clone(), disk.acknowledged)) {
                    check(&image, disk.acknowledged, last).await;
                }
            }
        }
        if let Some(step) = steps.get(at) {
            disk.step(step, &steps[at..]);
        }
    }
    println!(
        "crash images: {} different ones of {states} states at {} steps are right, seed {seed}",
        seen.len(),
        steps.len()
    );
    assert!(seen.len() >= 500, "{} images", seen.len());
}

fn relative(step: Step, root: &Path) -> Step {
    let cut = |path: PathBuf| path.strip_prefix(root).expect("below the root").to_owned();
    match step {
        Step::Create(path) => Step::Create(cut(path)),
        Step::SyncFile(path, content) => Step::SyncFile(cut(path), content),
        Step::Link(from, to) => Step::Link(cut(from), cut(to)),
        Step::Rename(from, to) => Step::Rename(cut(from), cut(to)),
        Step::Remove(path) => Step::Remove(cut(path)),
        Step::MakeDirectory(path) => Step::MakeDirectory(cut(path)),
        Step::SyncDirectory(path) => Step::SyncDirectory(cut(path)),
        Step::Acknowledged(epoch) => Step::Acknowledged(epoch),
    }
}

/// What is left at the end of the history if steps of a kind had been left out after the fifth
/// commit: to show that the images find such a mistake.
async fn check_without(is_left_out: fn(&Step) -> bool) {
    let first = bench();
    let root = first.root.path().to_owned();
    steps::begin();
    let last = history(first).await;
    let steps: Vec<Step> = steps::end().into_iter().map(|step| relative(step, &root)).collect();
    let is_fifth = |step: &Step| matches!(step, Step::Acknowledged(5));
    let fifth = steps.iter().position(is_fifth).expect("a fifth commit");
    let mut disk = Disk::default();
    for (at, step) in steps.iter().enumerate() {
        if at < fifth || !is_left_out(step) {
            disk.step(step, &steps[at..]);
        }
    }
    check(&disk.image(0, Unsynced::Zeros), disk.acknowledged, last).await;
}

#[tokio::test]
#[should_panic(expected = "6 was promised, 5 is held")]
async fn an_entry_whose_name_is_not_synced_is_found() {
    check_without(|step| matches!(step, Step::SyncDirectory(path) if path.ends_with("log"))).await;
}

#[tokio::test]
#[should_panic(expected = "Parquet")]
async fn a_file_that_is_not_synced_is_found() {
    check_without(
        |step| matches!(step, Step::SyncFile(path, _) if path.to_string_lossy().contains("part-")),
    )
    .await;
}

#[tokio::test]
async fn flipped_bits_in_the_log_are_found_or_do_no_harm() {
    let mut chance = Chance::new();
    let (seed, count) = (chance.0, if is_nightly() { 20_000 } else { 1_000 });
    println!("bit flips: seed {seed}");
    let (mut found, mut harmless) = (0, 0);
    // With everything visible, and with a commit whose files still wait.
    for is_whole in [true, false] {
        let first = bench();
        let mut reader = first.again();
        let mut writer = first;
        writer.open(1).await;
        commit(&mut writer, 1).await;
        commit(&mut writer, 2).await;
        if !is_whole {
            let plan = writer.plan.clone();
            let owned = writer.owned();
            owned.keep(&plan, &change(3), Duration::ZERO).expect("kept");
            let files = owned.prepare(&plan).expect("written");
            owned.log.append(progress(3), files).expect("in the log");
        }
        std::mem::forget(writer.sink);
        let held = if is_whole { 2 } else { 3 };
        let image = snapshot(reader.root.path());
        let logged: Vec<&PathBuf> =
            image.keys().filter(|path| path.to_string_lossy().ends_with(".json")).collect();
        for _ in 0..count / 2 {
            let path = logged[chance.next() as usize % logged.len()];
            let mut bytes = image[path].clone();
            let bit = chance.next() as usize % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            restore(reader.root.path(), &image);
            fs::write(reader.root.path().join(path), bytes).expect("written");
            match reader.sink.open(2).await {
                Err(ClaimError::Fault(fault)) => {
                    assert_eq!(fault.remedy, Remedy::Halt, "{fault}");
                    assert!(fault.message.contains("commit-"), "{fault}");
                    found += 1;
                }
                Err(ClaimError::Stale(generation)) => panic!("generation {generation} was read"),
                Ok(claim) => {
                    let progress = claim.progress.expect("progress").record.epoch;
                    assert_eq!(progress, held, "bit {bit} of {}", path.display());
                    assert_eq!(reader.ids(), ids_through(held), "bit {bit} of {}", path.display());
                    harmless += 1;
                }
            }
            reader.sink.owned = None;
        }
    }
    println!(
        "bit flips: {found} found, {harmless} harmless, of {count}, none read wrong, seed {seed}"
    );
    assert!(found > harmless / 10, "most entries are read");
}

/// Every file below a directory, by its path from there.
fn snapshot(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).expect("read") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                pending.push(path);
            } else {
                let name = path.strip_prefix(root).expect("below").to_owned();
                found.insert(name, fs::read(path).expect("read"));
            }
        }
    }
    found
}

fn restore(root: &Path, image: &BTreeMap<PathBuf, Vec<u8>>) {
    for path in snapshot(root).into_keys().filter(|path| !image.contains_key(path)) {
        fs::remove_file(root.join(path)).expect("removed");
    }
    for (path, bytes) in image {
        fs::write(root.join(path), bytes).expect("written");
    }
}
