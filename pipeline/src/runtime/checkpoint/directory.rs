//! The directory of a pipeline's checkpoints: files that are there whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::contract::epoch::{Epoch, Generation};
use crate::contract::failpoint;

/// What a file of the directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FileKind {
    Manifest,
    Segment,
}

/// A file's name: which generation wrote it, as of which epoch. Names sort in that order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileName {
    pub(super) generation: Generation,
    pub(super) epoch: Epoch,
    pub(super) kind: FileKind,
}

impl FileName {
    pub(super) fn text(self) -> String {
        let kind = match self.kind {
            FileKind::Manifest => "manifest",
            FileKind::Segment => "segment",
        };
        format!("{:010}-{:014}.{kind}", self.generation, self.epoch)
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        let (numbers, kind) = name.split_once('.')?;
        let (generation, epoch) = numbers.split_once('-')?;
        let kind = match kind {
            "manifest" => FileKind::Manifest,
            "segment" => FileKind::Segment,
            _ => return None,
        };
        Some(Self { generation: generation.parse().ok()?, epoch: epoch.parse().ok()?, kind })
    }
}

/// What was done to the directory, for tests of what a crash leaves behind.
#[derive(Clone, Debug)]
#[cfg_attr(not(test), expect(dead_code, reason = "only tests look at them"))]
pub(super) enum Operation {
    Write(PathBuf, Vec<u8>),
    SyncFile(PathBuf),
    Rename(PathBuf, PathBuf),
    Delete(PathBuf),
    SyncDirectory,
}

#[cfg(test)]
thread_local! {
    /// What this thread has done to directories.
    pub(super) static DONE: std::cell::RefCell<Vec<Operation>> = const { std::cell::RefCell::new(Vec::new()) };
}

#[cfg(test)]
fn note(operation: impl FnOnce() -> Operation) {
    DONE.with(|done| done.borrow_mut().push(operation()));
}

#[cfg(not(test))]
fn note(_: impl FnOnce() -> Operation) {}

/// What a file is called while it is written.
const ASIDE: &str = ".aside-";

/// One pipeline's directory of checkpoints.
#[derive(Clone, Debug)]
pub(in crate::runtime) struct Directory(PathBuf);

impl Directory {
    /// The directory of a pipeline below `path`; nothing is created yet.
    pub(in crate::runtime) fn new(path: &Path, pipeline: &str) -> Self {
        Self(path.join(pipeline))
    }

    /// For messages.
    pub(in crate::runtime) fn path(&self) -> &Path {
        &self.0
    }

    /// The files, in order of generation and epoch.
    pub(super) fn list(&self) -> io::Result<Vec<FileName>> {
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(FileName::parse(&entry?.file_name().to_string_lossy()));
        }
        names.sort_unstable();
        Ok(names)
    }

    pub(super) fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.0.join(name))
    }

    /// Writes a file that is there whole or not at all, and survives a loss of power once this
    /// returns.
    pub(super) fn write(&self, name: FileName, bytes: &[u8]) -> io::Result<()> {
        // What operators keep of events is nobody else's business.
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
        let (aside, place) = (self.aside(name), self.0.join(name.text()));
        let written = self.write_aside(&aside, bytes).and_then(|()| {
            failpoint::reach("checkpoint.file.synced");
            fs::rename(&aside, &place)?;
            note(|| Operation::Rename(aside.clone(), place.clone()));
            failpoint::reach("checkpoint.file.renamed");
            // A directory that is not synced may lose the name.
            self.sync()
        });
        if written.is_err() {
            // After a sync that failed nobody knows what the disk holds; it is written anew.
            let _ = fs::remove_file(&aside);
            let _ = fs::remove_file(&place);
        }
        written
    }

    fn write_aside(&self, aside: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(aside)?;
        file.write_all(bytes)?;
        note(|| Operation::Write(aside.to_owned(), bytes.to_owned()));
        failpoint::reach("checkpoint.file.written");
        file.sync_all()?;
        note(|| Operation::SyncFile(aside.to_owned()));
        Ok(())
    }

    fn aside(&self, name: FileName) -> PathBuf {
        self.0.join(format!("{ASIDE}{}-{}", std::process::id(), name.text()))
    }

    /// Deletes a file, if it is there.
    pub(super) fn delete(&self, name: FileName) -> io::Result<()> {
        let place = self.0.join(name.text());
        match fs::remove_file(&place) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => {
                note(|| Operation::Delete(place));
                Ok(())
            }
        }
    }

    /// Makes deletions durable: what is deleted later must not outlive what was deleted before.
    pub(super) fn sync(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()?;
        note(|| Operation::SyncDirectory);
        Ok(())
    }

    /// Deletes what generations before this one left unfinished.
    pub(super) fn delete_unfinished(&self, before: Generation) -> io::Result<()> {
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let written = name.strip_prefix(ASIDE).and_then(|rest| rest.split_once('-'));
            let older = written
                .and_then(|(_, name)| FileName::parse(name))
                .is_some_and(|name| name.generation < before);
            if older {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }
}
