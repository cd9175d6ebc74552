//! Where a lake is, a directory or a bucket, and the steps of a commit on either.
//!
//! Names are those below the sink's `path`. What differs: in a directory a file grows in place and is
//! made durable by syncs; in a bucket it grows on this machine, in memory and then in a temporary file
//! without a name, and is there once it is uploaded whole. An entry of the log is created exclusively
//! by a hard link, or by a conditional write; a file becomes visible by renaming, or by a copy within
//! the store after which its staged object is deleted.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use tempfile::SpooledTempFile;
use waterwheel_pipeline::contract::bucket::{Bucket, Place};
use waterwheel_pipeline::contract::failpoint;
use waterwheel_pipeline::contract::fault::Fault;

use super::files::{
    create, create_new, ensure_directory, fault, files_below, find_prefixed, link_exclusively,
    names, nonce, remove, remove_files, remove_listed, rename, sync_directory, sync_file,
};

/// What a file that grows for a bucket holds in memory before it goes to a temporary file.
const SPOOLED_BYTES: usize = 1 << 20;

/// A larger object could not be copied at once (5 GiB is the most that S3 copies).
const OBJECT_BYTES: usize = 1 << 30;

/// Where the lake is.
#[derive(Clone, Debug)]
pub(super) enum Store {
    Directory(PathBuf),
    Bucket(Bucket),
}

impl From<Place> for Store {
    fn from(place: Place) -> Self {
        match place {
            Place::Directory(path) => Self::Directory(path),
            Place::Bucket(bucket) => Self::Bucket(bucket),
        }
    }
}

/// A file that grows.
pub(super) enum Growing {
    File(File, PathBuf),
    Spool(SpooledTempFile),
}

impl Write for Growing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File(file, _) => file.write(bytes),
            Self::Spool(spool) => spool.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::File(file, _) => file.flush(),
            Self::Spool(spool) => spool.flush(),
        }
    }
}

impl Store {
    /// For messages.
    pub(super) fn show(&self, name: &str) -> String {
        match self {
            Self::Directory(path) if name.is_empty() => path.display().to_string(),
            Self::Directory(path) => path.join(name).display().to_string(),
            Self::Bucket(bucket) => bucket.address(name),
        }
    }

    /// What a file may have before another begins.
    pub(super) fn most_bytes(&self) -> usize {
        match self {
            Self::Directory(_) => usize::MAX,
            Self::Bucket(_) => OBJECT_BYTES,
        }
    }

    /// Makes that there is a directory; a bucket has none.
    pub(super) fn ensure_directory(&self, name: &str) -> Result<(), Fault> {
        match self {
            Self::Directory(path) => ensure_directory(&path.join(name)),
            Self::Bucket(_) => Ok(()),
        }
    }

    /// Makes the names in a directory durable, as those in a bucket are at once.
    pub(super) fn sync(&self, directory: &str) -> Result<(), Fault> {
        match self {
            Self::Directory(path) => sync_directory(&path.join(directory)),
            Self::Bucket(_) => Ok(()),
        }
    }

    /// The names right below a directory, in no order.
    pub(super) fn names(&self, directory: &str) -> Result<Vec<String>, Fault> {
        match self {
            Self::Directory(path) => names(&path.join(directory)),
            Self::Bucket(bucket) => bucket.below(directory).list(""),
        }
    }

    /// The names of the directories right below the lake, and of other things in it.
    pub(super) fn tops(&self) -> Result<Vec<String>, Fault> {
        match self {
            Self::Directory(path) => names(path),
            Self::Bucket(bucket) => bucket.directories(),
        }
    }

    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>, Fault> {
        match self {
            Self::Directory(path) => {
                let path = path.join(name);
                fs::read(&path).map_err(|error| fault(&error, "read", &path))
            }
            Self::Bucket(bucket) => bucket
                .read(name)?
                .ok_or_else(|| Fault::retry(format!("there is no `{}`", bucket.address(name)))),
        }
    }

    pub(super) fn has(&self, name: &str) -> Result<bool, Fault> {
        match self {
            Self::Directory(path) => Ok(path.join(name).exists()),
            Self::Bucket(bucket) => bucket.has(name),
        }
    }

    /// Begins a file that nobody sees yet.
    pub(super) fn begin(&self, staged: &str) -> Result<Growing, Fault> {
        match self {
            Self::Directory(path) => {
                let path = path.join(staged);
                match create_new(&path) {
                    Ok(file) => Ok(Growing::File(file, path)),
                    Err(error) => Err(fault(&error, "create", &path)),
                }
            }
            Self::Bucket(_) => Ok(Growing::Spool(SpooledTempFile::new(SPOOLED_BYTES))),
        }
    }

    /// What an error in writing a file means.
    pub(super) fn fault(&self, error: &io::Error, staged: &str) -> Fault {
        match self {
            Self::Directory(path) => fault(error, "write", &path.join(staged)),
            Self::Bucket(_) => fault(
                error,
                "write a file in the directory of temporary ones",
                &std::env::temp_dir(),
            ),
        }
    }

    /// Makes a file durable that has been written, under its staged name; how long it is. After an
    /// error the file is never touched again: what a failed sync leaves behind, nobody knows.
    pub(super) fn finish(&self, file: &mut Growing, staged: &str) -> Result<u64, Fault> {
        match (file, self) {
            (Growing::File(file, path), _) => {
                let synced = sync_file(file, path).and_then(|()| file.metadata());
                Ok(synced.map_err(|error| fault(&error, "write", path))?.len())
            }
            (Growing::Spool(spool), Self::Bucket(bucket)) => {
                let length = spool.stream_position().and_then(|length| {
                    spool.seek(SeekFrom::Start(0))?;
                    Ok(length)
                });
                let length = length.map_err(|error| self.fault(&error, staged))?;
                bucket.write_from(staged, spool)?;
                Ok(length)
            }
            (Growing::Spool(_), Self::Directory(_)) => {
                Err(Fault::halt("a file for a bucket was to go to a directory"))
            }
        }
    }

    /// Creates a file whole or not at all, durably; false where its name is taken. A network may say
    /// so to the second try of a request that worked.
    pub(super) fn create(&self, name: &str, staged: &str, bytes: &[u8]) -> Result<bool, Fault> {
        match self {
            Self::Directory(path) => create_linked(&path.join(name), &path.join(staged), bytes),
            Self::Bucket(bucket) if failpoint::has_bug("manifest-not-exclusive") => {
                bucket.write(name, bytes.to_vec()).map(|()| true)
            }
            Self::Bucket(bucket) => {
                failpoint::reach("parquet.manifest.written");
                let created = bucket.create(name, bytes.to_vec())?;
                failpoint::reach("parquet.manifest.linked");
                Ok(created)
            }
        }
    }

    /// Refuses a bucket that does not create exclusively; `name` was just created with these bytes.
    pub(super) fn check_exclusive(&self, name: &str, bytes: &[u8]) -> Result<(), Fault> {
        match self {
            Self::Directory(_) => Ok(()),
            Self::Bucket(bucket) => bucket.check_exclusive(name, bytes.to_vec()),
        }
    }

    /// Takes files away. They may be gone: other instances tidy up, too.
    pub(super) fn remove(&self, names: &[String], reach: &'static str) -> Result<(), Fault> {
        match self {
            Self::Directory(path) => {
                for name in names {
                    let path = path.join(name);
                    match remove(&path) {
                        Err(error) if error.kind() != ErrorKind::NotFound => {
                            return Err(fault(&error, "remove", &path));
                        }
                        _ => failpoint::reach(reach),
                    }
                }
                Ok(())
            }
            Self::Bucket(bucket) => {
                bucket.delete(names)?;
                names.iter().for_each(|_| failpoint::reach(reach));
                Ok(())
            }
        }
    }

    /// Makes staged files visible: pairs of the staged and the final name. A newer instance may have
    /// been quicker: it finishes what it finds.
    pub(super) fn publish(&self, moves: &[(String, String)]) -> Result<(), Fault> {
        match self {
            Self::Directory(path) => publish_renamed(path, moves),
            Self::Bucket(bucket) => {
                for (staged, target) in bucket.rename(moves)? {
                    if !bucket.has(&target)? {
                        let staged = bucket.address(&staged);
                        return Err(Fault::retry(format!("there is no `{staged}`")).help(
                            "if somebody deleted it, restore it from the bucket's versions",
                        ));
                    }
                }
                moves.iter().for_each(|_| failpoint::reach("parquet.file.visible"));
                Ok(())
            }
        }
    }

    /// True if anything is in a directory.
    pub(super) fn has_directory(&self, name: &str) -> Result<bool, Fault> {
        match self {
            Self::Directory(path) => Ok(path.join(name).is_dir()),
            Self::Bucket(bucket) => Ok(!bucket.list(name)?.is_empty()),
        }
    }

    /// Every file below a directory, in no order.
    pub(super) fn files(&self, directory: &str) -> Result<Vec<String>, Fault> {
        match self {
            Self::Directory(path) => files_below(path, directory),
            Self::Bucket(bucket) => bucket.list(directory),
        }
    }

    /// Removes files below the inputs' directories, durably. Some may be gone.
    pub(super) fn remove_below(&self, names: &[String]) -> Result<(), Fault> {
        match self {
            Self::Directory(path) => remove_listed(path, names),
            Self::Bucket(bucket) => {
                bucket.delete(names)?;
                names.iter().for_each(|_| failpoint::reach("parquet.clean.removed"));
                Ok(())
            }
        }
    }

    /// The first file below a directory whose name begins so.
    pub(super) fn find_prefixed(
        &self,
        directory: &str,
        prefix: &str,
    ) -> Result<Option<String>, Fault> {
        match self {
            Self::Directory(path) => {
                let found = find_prefixed(&path.join(directory), prefix)?;
                Ok(found.map(|path| path.display().to_string()))
            }
            Self::Bucket(bucket) => {
                let listed = bucket.list(directory)?;
                let found = listed.into_iter().find(|name| last(name).starts_with(prefix));
                Ok(found.map(|name| bucket.address(&name)))
            }
        }
    }

    /// Removes the files below a directory whose names are chosen, durably.
    pub(super) fn remove_files(
        &self,
        directory: &str,
        chosen: impl Fn(&str) -> bool,
    ) -> Result<(), Fault> {
        match self {
            Self::Directory(path) => remove_files(&path.join(directory), chosen),
            Self::Bucket(bucket) => {
                let listed = bucket.list(directory)?;
                let names: Vec<String> =
                    listed.into_iter().filter(|name| chosen(last(name))).collect();
                bucket.delete(&names)
            }
        }
    }

    /// Whether it can be written, leaving nothing behind.
    pub(super) fn check_writable(&self) -> Result<(), Fault> {
        match self {
            Self::Directory(path) => check_directory(path),
            Self::Bucket(bucket) => bucket.below("_waterwheel").check(true),
        }
    }
}

fn last(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

fn create_linked(path: &Path, staged: &Path, bytes: &[u8]) -> Result<bool, Fault> {
    let written = create(staged).and_then(|mut file| {
        file.write_all(bytes)?;
        sync_file(&file, staged)
    });
    let written = written.map_err(|error| fault(&error, "write", staged));
    let linked = written.and_then(|()| {
        failpoint::reach("parquet.manifest.written");
        if failpoint::has_bug("manifest-not-exclusive") {
            let copied = fs::copy(staged, path);
            return copied.map(|_| true).map_err(|error| fault(&error, "create", path));
        }
        link_exclusively(staged, path)
    });
    // What is left of it is removed by the next claim.
    let _ = remove(staged);
    if !linked? {
        return Ok(false);
    }
    failpoint::reach("parquet.manifest.linked");
    sync_directory(path.parent().unwrap_or(path))?;
    failpoint::reach("parquet.manifest.synced");
    Ok(true)
}

fn publish_renamed(lake: &Path, moves: &[(String, String)]) -> Result<(), Fault> {
    let mut directories = HashSet::new();
    for (staged, target) in moves {
        let (staged, target) = (lake.join(staged), lake.join(target));
        let directory = target.parent().unwrap_or(lake).to_owned();
        ensure_directory(&directory)?;
        match rename(&staged, &target) {
            Ok(()) => failpoint::reach("parquet.file.visible"),
            Err(_) if !staged.exists() && target.exists() => {}
            Err(error) => return Err(fault(&error, "make visible", &target)),
        }
        directories.insert(directory);
    }
    directories.iter().try_for_each(|directory| sync_directory(directory))
}

fn check_directory(path: &Path) -> Result<(), Fault> {
    let parents = path.ancestors().filter(|path| !path.as_os_str().is_empty());
    let existing = parents.chain([Path::new(".")]).find(|path| path.exists());
    let existing = existing.unwrap_or(path);
    if !existing.is_dir() {
        return Err(Fault::stop(format!("`{}` is not a directory", existing.display())));
    }
    let file = existing.join(format!(".waterwheel-check-{}", nonce()));
    fs::File::create_new(&file).map_err(|error| fault(&error, "write to", existing))?;
    fs::remove_file(&file).map_err(|error| fault(&error, "remove", &file))
}
