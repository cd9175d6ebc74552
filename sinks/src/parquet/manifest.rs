//! The manifest log: numbered entries that say which files are committed, up to which progress, and
//! which instance of the pipeline owns the directory.
//!
//! An entry is created exclusively under the next number and never changed. A claim is an entry
//! too (without files, repeating the progress), so that it takes the number under which an older
//! instance would commit next: that instance's commit then fails, however late it comes.

mod removals;

use serde::{Deserialize, Serialize};
use waterwheel_pipeline::contract::epoch::{Generation, Progress};
use waterwheel_pipeline::contract::fault::Fault;
use waterwheel_pipeline::contract::sink::ClaimError;

use super::files::nonce;
use super::store::Store;

/// How an entry is written; a reader refuses any other.
const VERSION: u32 = 1;
/// Entries that are kept, for people and for files that still wait to become visible.
const KEPT_ENTRIES: u64 = 100;
/// How often a claim is tried while others claim too.
const CLAIM_ATTEMPTS: usize = 100;

/// A file of a commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DataFile {
    /// Below the sink's `path`.
    pub(super) path: String,
    pub(super) rows: u64,
    pub(super) bytes: u64,
}

impl DataFile {
    /// The name without its directories.
    pub(super) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }
}

/// One entry of the log: a commit, or a claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    version: u32,
    number: u64,
    /// The oldest entry that still counts. A lower one can only come from an instance that slept
    /// until its number was free again; it means nothing.
    first: u64,
    pub(super) generation: Generation,
    /// Tells two instances with one generation apart.
    instance: String,
    pub(super) progress: Option<Progress>,
    pub(super) files: Vec<DataFile>,
    /// The sink was emptied by the entry of this number, and perhaps files of earlier ones are still
    /// there; zero once they are gone.
    #[serde(default, skip_serializing_if = "is_zero")]
    emptied: u64,
    /// Committed files, below the sink's `path`, that were too old and are removed, or will be.
    /// Entries repeat them until the files are gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) removed: Vec<String>,
    /// Over the entry with this field empty.
    checksum: String,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Entry {
    fn sealed(mut self) -> Result<Self, Fault> {
        self.checksum.clear();
        let bytes = serde_json::to_vec(&self).map_err(Fault::halt)?;
        self.checksum = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&bytes));
        Ok(self)
    }
}

/// What became of an attempt to write an entry.
enum Placed {
    /// It is the newest.
    Newest,
    /// Another instance has the number.
    Taken,
    /// Another instance went on from there before this one looked again.
    Overtaken,
}

/// The log of one sink.
#[derive(Debug)]
pub(super) struct Log {
    store: Store,
    directory: String,
    staging: String,
    label: String,
    instance: String,
    /// The entry that this instance wrote last.
    own: Option<Entry>,
}

impl Log {
    /// The log in a directory of a store; `label` is the pipeline's and the sink's name.
    pub(super) fn new(store: Store, directory: String, staging: String, label: String) -> Self {
        Self { store, directory, staging, label, instance: nonce(), own: None }
    }

    /// The number of the next entry of this instance.
    pub(super) fn next_number(&self) -> u64 {
        self.own.as_ref().map_or(1, |entry| entry.number + 1)
    }

    /// The newest entry on disk.
    pub(super) fn newest(&self) -> Result<Option<Entry>, Fault> {
        self.numbers()?.last().map(|&number| self.read(number)).transpose()
    }

    /// The entries that count, oldest first.
    pub(super) fn entries(&self) -> Result<Vec<Entry>, Fault> {
        let Some(newest) = self.newest()? else { return Ok(Vec::new()) };
        let mut entries = Vec::new();
        for number in newest.first..newest.number {
            entries.push(self.read(number)?);
        }
        entries.push(newest);
        Ok(entries)
    }

    /// Takes the log for a generation.
    pub(super) fn claim(&mut self, generation: Generation) -> Result<Option<Progress>, ClaimError> {
        for _ in 0..CLAIM_ATTEMPTS {
            let last = self.newest()?;
            if let Some(last) = last.as_ref().filter(|last| last.generation >= generation) {
                return Err(ClaimError::Stale(last.generation));
            }
            let entry = self.repeat(last, generation)?;
            if let Placed::Newest = self.place(&entry)? {
                self.store.check_exclusive(&self.path(entry.number), &to_bytes(&entry)?)?;
                let progress = entry.progress.clone();
                self.own = Some(entry);
                return Ok(progress);
            }
        }
        let directory = self.store.show(&self.directory);
        Err(Fault::retry(format!("cannot claim `{directory}`: others claim it all the time"))
            .help("stop the other instances of this pipeline")
            .into())
    }

    /// An entry without files that repeats the progress.
    fn repeat(&self, last: Option<Entry>, generation: Generation) -> Result<Entry, Fault> {
        let entry = Entry {
            version: VERSION,
            number: last.as_ref().map_or(1, |last| last.number + 1),
            first: last.as_ref().map_or(1, |last| last.first),
            generation,
            instance: self.instance.clone(),
            emptied: last.as_ref().map_or(0, |last| last.emptied),
            removed: last.as_ref().map_or_else(Vec::new, |last| last.removed.clone()),
            progress: last.and_then(|last| last.progress),
            files: Vec::new(),
            checksum: String::new(),
        };
        entry.sealed()
    }

    /// Writes a commit: once this returns, it is durable.
    pub(super) fn append(&mut self, progress: Progress, files: Vec<DataFile>) -> Result<(), Fault> {
        self.follow(|last, number| Entry {
            version: VERSION,
            number,
            first: last.first.max(number.saturating_sub(KEPT_ENTRIES - 1)),
            generation: last.generation,
            instance: last.instance.clone(),
            progress: Some(progress.clone()),
            files: files.clone(),
            emptied: 0,
            removed: last.removed.clone(),
            checksum: String::new(),
        })?;
        self.prune();
        Ok(())
    }

    /// Writes an entry behind the last one of this instance. Where somebody who is no instance has
    /// noted removals in its name ([`Log::note_removed`]), they are taken over, and it comes behind
    /// them.
    fn follow(&mut self, make: impl Fn(&Entry, u64) -> Entry) -> Result<(), Fault> {
        for _ in 0..CLAIM_ATTEMPTS {
            let last =
                self.own.as_ref().ok_or_else(|| Fault::halt("the sink was never claimed"))?;
            let entry = make(last, last.number + 1).sealed()?;
            match self.place(&entry)? {
                Placed::Newest => {
                    self.own = Some(entry);
                    return Ok(());
                }
                Placed::Taken if self.adopts()? => {}
                Placed::Taken => return Err(self.superseded()?),
                Placed::Overtaken if self.adopts().map_err(Fault::unknown_outcome)? => {
                    return Ok(());
                }
                Placed::Overtaken => return Err(self.superseded()?.unknown_outcome()),
            }
        }
        Err(self.superseded()?)
    }

    /// Takes over the newest entry if it was written in the name of this instance.
    fn adopts(&mut self) -> Result<bool, Fault> {
        let newest = self.newest()?.filter(|newest| newest.instance == self.instance);
        let adopts = newest.is_some();
        if adopts {
            self.own = newest;
        }
        Ok(adopts)
    }

    /// Writes that the sink holds nothing any more and begins with this progress: once this returns,
    /// that is durable, and the files of all earlier entries are to be removed.
    pub(super) fn reset(&mut self, begin: Progress) -> Result<(), Fault> {
        self.follow(|last, number| Entry {
            version: VERSION,
            number,
            // What was committed before no longer counts, wherever its files are.
            first: number,
            generation: last.generation,
            instance: last.instance.clone(),
            progress: Some(begin.clone()),
            files: Vec::new(),
            emptied: number,
            removed: Vec::new(),
            checksum: String::new(),
        })
    }

    /// The number of the entry that emptied the sink, while files of earlier ones may be there.
    pub(super) fn emptied(&self) -> Option<u64> {
        self.own.as_ref().map(|own| own.emptied).filter(|number| *number > 0)
    }

    /// Reads again, after a fault, what was written last; refuses if it was another instance.
    ///
    /// What failed may still be on its way and arrive at any time. So that it counts from here on or
    /// never, the next number is taken by a claim: what comes after that finds its number taken.
    pub(super) fn recover(&mut self) -> Result<Option<Progress>, Fault> {
        self.store.sync(&self.directory)?;
        for _ in 0..CLAIM_ATTEMPTS {
            let Some(newest) = self.newest()? else {
                let directory = self.store.show(&self.directory);
                return Err(Fault::retry(format!("the manifest log `{directory}` is gone"))
                    .help("if it is on a disk that is not there now, attach that again"));
            };
            if newest.instance != self.instance {
                return Err(self.superseded()?);
            }
            let generation = newest.generation;
            let entry = self.repeat(Some(newest), generation)?;
            if let Placed::Newest = self.place(&entry)? {
                let progress = entry.progress.clone();
                self.own = Some(entry);
                return Ok(progress);
            }
        }
        Err(self.superseded()?)
    }

    /// The file of an entry.
    fn path(&self, number: u64) -> String {
        format!("{}/commit-{number:020}.json", self.directory)
    }

    /// The numbers on disk, in order.
    fn numbers(&self) -> Result<Vec<u64>, Fault> {
        let number =
            |name: &String| name.strip_prefix("commit-")?.strip_suffix(".json")?.parse().ok();
        let mut numbers: Vec<u64> =
            self.store.names(&self.directory)?.iter().filter_map(number).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn read(&self, number: u64) -> Result<Entry, Fault> {
        let path = self.path(number);
        let bytes = self.store.read(&path)?;
        read_entry(&bytes, number).map_err(|problem| {
            Fault::halt(format!("the manifest `{}` {problem}", self.store.show(&path))).help(
                "restore the sink's directory from a backup, or move the whole directory away and \
                 fill it again",
            )
        })
    }

    fn place(&self, entry: &Entry) -> Result<Placed, Fault> {
        if !self.create(entry)? {
            return Ok(Placed::Taken);
        }
        let numbers = self.numbers().map_err(Fault::unknown_outcome)?;
        if numbers.last().is_none_or(|&newest| newest <= entry.number) {
            return Ok(Placed::Newest);
        }
        let newest = self.newest().map_err(Fault::unknown_outcome)?;
        if newest.is_some_and(|newest| entry.number < newest.first) {
            // The number was free because what had it is long gone. Nobody reads such an entry.
            let _ = self.store.remove(&[self.path(entry.number)], "parquet.entry.pruned");
        }
        Ok(Placed::Overtaken)
    }

    /// Creates an entry whole or not at all; false where its number is taken.
    fn create(&self, entry: &Entry) -> Result<bool, Fault> {
        let name =
            staged_name("commit", &self.label, entry.generation, entry.number, &self.instance);
        let staged = format!("{}/{name}.json.tmp", self.staging);
        match self.store.create(&self.path(entry.number), &staged, &to_bytes(entry)?)? {
            true => Ok(true),
            // A network may say so to the second try of a request that worked.
            false => Ok(self.read(entry.number)? == *entry),
        }
    }

    /// Removes entries that no longer count.
    fn prune(&self) {
        let Some(own) = &self.own else { return };
        // Nothing rests on it: what cannot be removed now is removed after the next commit.
        let mut gone = self.numbers().unwrap_or_default();
        gone.retain(|number| *number < own.first);
        let gone: Vec<String> = gone.into_iter().map(|number| self.path(number)).collect();
        let _ = self.store.remove(&gone, "parquet.entry.pruned");
    }

    fn superseded(&self) -> Result<Fault, Fault> {
        let generation = self.newest()?.map_or(0, |newest| newest.generation);
        let directory = self.store.show(&self.directory);
        let message =
            format!("a newer instance (generation {generation}) has taken over `{directory}`");
        Ok(Fault::halt(message)
            .help("leave this one stopped, or stop the newer one and start this one again"))
    }
}

/// What the names in the staging directory begin with, up to their ending.
pub(super) fn staged_name(
    kind: &str,
    label: &str,
    generation: Generation,
    number: u64,
    last: impl std::fmt::Display,
) -> String {
    format!("{kind}-{label}-{generation:010}-{number:010}-{last}")
}

/// The number of the entry that a name was given for.
pub(super) fn number_of(name: &str) -> Option<u64> {
    name.split('-').nth(3)?.parse().ok()
}

/// The generation of the instance that gave a name.
pub(super) fn generation_of(name: &str) -> Option<Generation> {
    name.split('-').nth(2)?.parse().ok()
}

fn to_bytes(entry: &Entry) -> Result<Vec<u8>, Fault> {
    let mut bytes = serde_json::to_vec(entry).map_err(Fault::halt)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn read_entry(bytes: &[u8], number: u64) -> Result<Entry, String> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let damaged = |error: serde_json::Error| format!("is damaged: {error}");
    let version: Version = serde_json::from_slice(bytes).map_err(damaged)?;
    if version.version != VERSION {
        return Err(format!("has version {}, which this waterwheel cannot read", version.version));
    }
    let entry: Entry = serde_json::from_slice(bytes).map_err(damaged)?;
    let sealed = entry.clone().sealed().map_err(|fault| fault.message)?;
    if sealed != entry {
        return Err("is damaged: its checksum is wrong".to_owned());
    }
    if entry.number != number {
        return Err(format!("is damaged: it is entry {}", entry.number));
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::Path;
    use waterwheel_pipeline::contract::epoch::EpochRecord;
    use waterwheel_pipeline::contract::fault::{Outcome, Remedy};

    fn log(root: &Path) -> Log {
        fs::create_dir_all(root.join("log")).expect("a directory");
        fs::create_dir_all(root.join("staging")).expect("a directory");
        let store = Store::Directory(root.to_owned());
        Log::new(store, "log".to_owned(), "staging".to_owned(), "p.s".to_owned())
    }

    fn progress(epoch: u64) -> Progress {
        let (positions, watermarks) =
            (BTreeMap::new(), BTreeMap::from([("e".to_owned(), i64::MIN)]));
        let record = EpochRecord { epoch, generation: 1, positions, watermarks };
        Progress { record, origin: BTreeMap::new(), fingerprint: "f".to_owned(), finished: false }
    }

    #[test]
    fn a_claim_repeats_the_progress() {
        let root = tempfile::tempdir().expect("a directory");
        let mut first = log(root.path());
        assert_eq!(first.claim(3).expect("claimed"), None);
        first.append(progress(7), Vec::new()).expect("written");
        let mut second = log(root.path());
        assert!(matches!(second.claim(3), Err(ClaimError::Stale(3))));
        assert_eq!(second.claim(4).expect("claimed"), Some(progress(7)));
        assert_eq!(second.next_number(), 4);
        assert_eq!(fs::read_dir(root.path().join("staging")).expect("read").count(), 0);
    }

    #[test]
    fn an_older_instance_cannot_commit() {
        let root = tempfile::tempdir().expect("a directory");
        let (mut old, mut new) = (log(root.path()), log(root.path()));
        old.claim(1).expect("claimed");
        new.claim(2).expect("claimed");
        let fault = old.append(progress(1), Vec::new()).expect_err("fenced");
        assert_eq!((fault.remedy, fault.outcome), (Remedy::Halt, Outcome::NotWritten));
        assert!(fault.message.contains("newer instance (generation 2)"), "{fault}");
        assert_eq!(old.recover().expect_err("fenced").remedy, Remedy::Halt);
        new.append(progress(2), Vec::new()).expect("written");
        assert_eq!(new.recover().expect("read"), Some(progress(2)));
    }

    #[test]
    fn an_instance_that_slept_past_the_kept_entries_cannot_commit() {
        let root = tempfile::tempdir().expect("a directory");
        let (mut old, mut new) = (log(root.path()), log(root.path()));
        old.claim(1).expect("claimed");
        new.claim(2).expect("claimed");
        for epoch in 1..=KEPT_ENTRIES + 5 {
            new.append(progress(epoch), Vec::new()).expect("written");
        }
        assert_eq!(new.numbers().expect("read").len() as u64, KEPT_ENTRIES);
        assert!(
            !root.path().join(new.path(old.next_number())).exists(),
            "the number is free again"
        );
        let fault = old.append(progress(1), Vec::new()).expect_err("fenced");
        assert_eq!(fault.remedy, Remedy::Halt);
        assert!(!root.path().join(new.path(old.next_number())).exists(), "its entry is gone");
        assert_eq!(new.recover().expect("read"), Some(progress(KEPT_ENTRIES + 5)));
    }

    #[test]
    fn only_one_of_many_gets_a_generation() {
        let root = tempfile::tempdir().expect("a directory");
        let claim = |_| {
            let mut log = log(root.path());
            std::thread::spawn(move || log.claim(1).is_ok())
        };
        let threads: Vec<_> = (0..8).map(claim).collect();
        let won = threads.into_iter().filter_map(|thread| thread.join().ok()).filter(|won| *won);
        assert_eq!(won.count(), 1);
    }

    #[test]
    fn every_damage_halts_and_names_the_file() {
        let root = tempfile::tempdir().expect("a directory");
        let mut log = log(root.path());
        log.claim(1).expect("claimed");
        log.append(progress(1), Vec::new()).expect("written");
        let path = root.path().join(log.path(2));
        let whole = fs::read(&path).expect("read");
        let text_bytes = whole.len() - 1;
        for length in 0..text_bytes {
            fs::write(&path, &whole[..length]).expect("written");
            let fault = log.newest().expect_err("a fault");
            assert_eq!(fault.remedy, Remedy::Halt);
            assert!(fault.message.contains("commit-00000000000000000002.json"), "{fault}");
        }
        for at in 0..text_bytes {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&path, damaged).expect("written");
            assert!(log.newest().is_err(), "byte {at}");
        }
        fs::write(&path, &whole).expect("written");
        assert!(log.newest().is_ok());
    }
}
