//! Where a pipeline's checkpoints are: a directory, or a bucket.
//!
//! Either way a file is there whole or not at all, and what is deleted later never outlives what was
//! deleted before. An object needs nothing for that: it is there once its request is answered.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::path::Path;

use super::directory::{Directory, FileName};
use crate::contract::bucket::{Bucket, Place};
use crate::contract::epoch::Generation;
use crate::contract::fault::Fault;

/// The checkpoints of one pipeline.
#[derive(Clone, Debug)]
pub(in crate::runtime) enum Store {
    Directory(Directory),
    Bucket(Bucket),
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(directory) => directory.path().display().fmt(f),
            Self::Bucket(bucket) => bucket.fmt(f),
        }
    }
}

impl Store {
    /// That of a pipeline below a place; nothing is created yet.
    pub(in crate::runtime) fn new(place: &Place, pipeline: &str) -> Self {
        match place {
            Place::Directory(path) => Self::Directory(Directory::new(path, pipeline)),
            Place::Bucket(bucket) => Self::Bucket(bucket.below(pipeline)),
        }
    }

    /// Where it is on this machine; `None` of a bucket.
    pub(in crate::runtime) fn local(&self) -> Option<&Path> {
        match self {
            Self::Directory(directory) => Some(directory.path()),
            Self::Bucket { .. } => None,
        }
    }

    /// The highest generation that has written here; zero if none has.
    pub(in crate::runtime) fn generation(&self) -> Result<Generation, Fault> {
        let names = self.list().map_err(|error| self.unlisted(error))?;
        Ok(names.iter().map(|name| name.generation).max().unwrap_or(0))
    }

    /// What it means that the files could not be listed.
    pub(super) fn unlisted(&self, error: io::Error) -> Fault {
        let doing = format!("cannot list the checkpoints in {self}");
        match as_fault(&error) {
            Some(fault) => fault.within(doing),
            None => Fault::retry(format!("{doing}: {error}")),
        }
    }

    /// The address of a file, for messages.
    pub(super) fn address(&self, name: &str) -> String {
        match self {
            Self::Directory(directory) => directory.path().join(name).display().to_string(),
            Self::Bucket(bucket) => bucket.address(name),
        }
    }

    /// The files, in order of generation and epoch.
    pub(super) fn list(&self) -> io::Result<Vec<FileName>> {
        match self {
            Self::Directory(directory) => directory.list(),
            Self::Bucket(bucket) => {
                let listed = bucket.list("").map_err(io::Error::other)?;
                let mut names: Vec<_> =
                    listed.iter().filter_map(|name| FileName::parse(name)).collect();
                names.sort_unstable();
                Ok(names)
            }
        }
    }

    pub(super) fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        match self {
            Self::Directory(directory) => directory.read(name),
            Self::Bucket(bucket) => {
                let read = bucket.read(name).map_err(io::Error::other)?;
                read.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "it is gone"))
            }
        }
    }

    /// Writes a file that is there whole or not at all, and durable once this returns.
    pub(super) fn write(&self, name: FileName, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Directory(directory) => directory.write(name, bytes),
            Self::Bucket(bucket) => {
                bucket.write_from(&name.text(), &mut &bytes[..]).map_err(io::Error::other)
            }
        }
    }

    /// Deletes files, those that are there.
    pub(super) fn delete(&self, name: FileName) -> io::Result<()> {
        match self {
            Self::Directory(directory) => directory.delete(name),
            Self::Bucket(bucket) => bucket.delete(&[name.text()]).map_err(io::Error::other),
        }
    }

    /// Makes deletions durable: what is deleted later must not outlive what was deleted before.
    pub(super) fn sync(&self) -> io::Result<()> {
        match self {
            Self::Directory(directory) => directory.sync(),
            Self::Bucket(_) => Ok(()),
        }
    }

    /// Deletes what generations before this one left unfinished.
    pub(super) fn delete_unfinished(&self, before: Generation) -> io::Result<()> {
        match self {
            Self::Directory(directory) => directory.delete_unfinished(before),
            // An object that was not finished is none.
            Self::Bucket(_) => Ok(()),
        }
    }

    /// The lines of a note that lies beside the checkpoints.
    pub(in crate::runtime) fn read_note(&self, note: &str) -> Result<String, Fault> {
        match self {
            // What cannot be read tells nothing.
            Self::Directory(directory) => {
                Ok(fs::read_to_string(directory.path().join(note)).unwrap_or_default())
            }
            Self::Bucket(bucket) => {
                let mut lines = String::new();
                for name in bucket.list(note)? {
                    let line = bucket.read(&name)?.unwrap_or_default();
                    lines.push_str(&String::from_utf8_lossy(&line));
                }
                Ok(lines)
            }
        }
    }

    /// Adds a line to a note. Objects cannot grow, so that each line is one of its own.
    pub(in crate::runtime) fn append_note(&self, note: &str, line: &str) -> io::Result<()> {
        match self {
            Self::Directory(directory) => {
                fs::create_dir_all(directory.path())?;
                let file = directory.path().join(note);
                let mut file = OpenOptions::new().create(true).append(true).open(file)?;
                writeln!(file, "{line}")
            }
            Self::Bucket(bucket) => {
                let name = format!("{note}/{:016x}", RandomState::new().hash_one(0_u8));
                bucket.write(&name, format!("{line}\n").into_bytes()).map_err(io::Error::other)
            }
        }
    }

    /// The address of a note, for messages.
    pub(in crate::runtime) fn note_address(&self, note: &str) -> String {
        self.address(note)
    }
}

/// The fault that an error of a bucket is.
pub(super) fn as_fault(error: &io::Error) -> Option<Fault> {
    error.get_ref()?.downcast_ref::<Fault>().cloned()
}
