//! Steps on the file system that survive a power cut, and what their errors mean.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use waterwheel_pipeline::contract::failpoint;
use waterwheel_pipeline::contract::fault::Fault;

/// Linux and macOS agree on these; the standard library has no names for them.
const NOT_PERMITTED: i32 = 1;
const IO_FAILED: i32 = 5;
const TOO_MANY_FILES_ON_MACHINE: i32 = 23;
const TOO_MANY_FILES: i32 = 24;

/// What an error means for the pipeline. A class that nobody knows halts it.
pub(super) fn fault(error: &io::Error, doing: &str, path: &Path) -> Fault {
    let message = format!("cannot {doing} `{}`: {error}", path.display());
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Fault::retry(message).help("free some space; the pipeline then goes on by itself")
        }
        ErrorKind::NotFound
        | ErrorKind::Interrupted
        | ErrorKind::TimedOut
        | ErrorKind::ResourceBusy
        | ErrorKind::StaleNetworkFileHandle => Fault::retry(message),
        ErrorKind::PermissionDenied => Fault::stop(message)
            .help("give the user that runs waterwheel the right to write there, and start again"),
        ErrorKind::ReadOnlyFilesystem | ErrorKind::NotADirectory => {
            Fault::stop(message).help("set `path` to a directory that can be written")
        }
        _ => match error.raw_os_error() {
            Some(IO_FAILED | TOO_MANY_FILES | TOO_MANY_FILES_ON_MACHINE) => Fault::retry(message),
            _ => Fault::halt(message),
        },
    }
}

/// Creates a file that is not there yet.
pub(super) fn create_new(path: &Path) -> io::Result<File> {
    let file = File::create_new(path)?;
    #[cfg(test)]
    steps::note(|| steps::Step::Create(path.to_owned()));
    Ok(file)
}

/// Creates a file, empty even if it was there.
pub(super) fn create(path: &Path) -> io::Result<File> {
    let file = File::create(path)?;
    #[cfg(test)]
    steps::note(|| steps::Step::Create(path.to_owned()));
    Ok(file)
}

/// Makes what was written to a file durable; its name is not durable with it.
pub(super) fn sync_file(file: &File, path: &Path) -> io::Result<()> {
    file.sync_all()?;
    #[cfg(test)]
    steps::note(|| steps::Step::SyncFile(path.to_owned(), fs::read(path).unwrap_or_default()));
    // The path is for the tests alone.
    let _ = path;
    Ok(())
}

/// Gives a file another name, in place of whatever had it.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    #[cfg(test)]
    steps::note(|| steps::Step::Rename(from.to_owned(), to.to_owned()));
    Ok(())
}

/// Takes a file's name away.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path)?;
    #[cfg(test)]
    steps::note(|| steps::Step::Remove(path.to_owned()));
    Ok(())
}

/// Makes the names in a directory durable.
pub(super) fn sync_directory(path: &Path) -> Result<(), Fault> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    #[cfg(test)]
    steps::note(|| steps::Step::SyncDirectory(path.to_owned()));
    synced.map_err(|error| match fault(&error, "make durable the directory", path) {
        // After a failed sync the kernel may take what it could not write for written, so that
        // neither another attempt nor what is read back says what is on the disk.
        fault if error.raw_os_error() == Some(IO_FAILED) => {
            Fault::halt(fault.message).help("check the disk, then start again").unknown_outcome()
        }
        fault => fault.unknown_outcome(),
    })
}

/// Creates a directory and what is missing above it, durably.
pub(super) fn ensure_directory(path: &Path) -> Result<(), Fault> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    ensure_directory(parent)?;
    match fs::create_dir(path) {
        Ok(()) => {
            #[cfg(test)]
            steps::note(|| steps::Step::MakeDirectory(path.to_owned()));
            sync_directory(parent)
        }
        // Another instance may have been quicker.
        Err(_) if path.is_dir() => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            Err(Fault::stop(format!("`{}` is a file, not a directory", path.display()))
                .help("move it away, or set another `path`"))
        }
        Err(error) => Err(fault(&error, "create the directory", path)),
    }
}

/// The names in a directory, in no order.
pub(super) fn names(directory: &Path) -> Result<Vec<String>, Fault> {
    let read = |error: &io::Error| fault(error, "read the directory", directory);
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(|error| read(&error))? {
        let entry = entry.map_err(|error| read(&error))?;
        // Every name of ours is ASCII; others are not ours.
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

/// Gives a file a name unless the name is taken: true if it now has it.
pub(super) fn link_exclusively(from: &Path, to: &Path) -> Result<bool, Fault> {
    match fs::hard_link(from, to) {
        Ok(()) => {
            #[cfg(test)]
            steps::note(|| steps::Step::Link(from.to_owned(), to.to_owned()));
            Ok(true)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error)
            if error.kind() == ErrorKind::Unsupported
                || error.raw_os_error() == Some(NOT_PERMITTED) =>
        {
            Err(Fault::stop(format!(
                "the file system of `{}` has no hard links, which exactly-once commits need",
                to.display()
            ))
            .help("set `path` to a directory on another file system"))
        }
        Err(error) => Err(fault(&error, "create", to)),
    }
}

/// A name that no other instance has thought of.
pub(super) fn nonce() -> String {
    use std::hash::{BuildHasher, Hasher, RandomState};
    format!("{:016x}", RandomState::new().build_hasher().finish())
}

/// The first file below a directory whose name begins so.
pub(super) fn find_prefixed(directory: &Path, prefix: &str) -> Result<Option<PathBuf>, Fault> {
    let mut found = None;
    walk(directory, &mut |path, name| {
        let is_found = name.starts_with(prefix);
        if is_found {
            found = Some(path.to_owned());
        }
        Ok(!is_found)
    })?;
    Ok(found)
}

/// Removes the files below a directory whose names are chosen, durably, and the directories between
/// that are empty then.
pub(super) fn remove_files(directory: &Path, chosen: impl Fn(&str) -> bool) -> Result<(), Fault> {
    let mut changed = BTreeSet::new();
    walk(directory, &mut |path, name| {
        if chosen(name) {
            match fs::remove_file(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(fault(&error, "remove", path));
                }
                _ => changed.extend(path.parent().map(Path::to_owned)),
            }
        }
        Ok(true)
    })?;
    for parent in changed.iter().rev() {
        if parent.is_dir() {
            sync_directory(parent)?;
        }
        // One that holds something stays; nothing rests on those that are empty.
        for empty in parent.ancestors().take_while(|above| *above != directory) {
            if fs::remove_dir(empty).is_err() {
                break;
            }
        }
    }
    Ok(())
}

/// Every file below a directory of the lake, by its name from the lake.
pub(super) fn files_below(lake: &Path, directory: &str) -> Result<Vec<String>, Fault> {
    let mut found = Vec::new();
    walk(&lake.join(directory), &mut |path, _| {
        if path.is_file() {
            let name = path.strip_prefix(lake).ok().and_then(Path::to_str);
            found.extend(name.map(str::to_owned));
        }
        Ok(true)
    })?;
    Ok(found)
}

/// Removes files of the lake, durably, and the directories below its inputs' that are empty then.
pub(super) fn remove_listed(lake: &Path, names: &[String]) -> Result<(), Fault> {
    let mut changed = BTreeSet::new();
    for name in names {
        let path = lake.join(name);
        match remove(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(fault(&error, "remove", &path));
            }
            _ => failpoint::reach("parquet.clean.removed"),
        }
        changed.extend(path.parent().map(|parent| {
            let input = name.split('/').next().unwrap_or_default();
            (parent.to_owned(), lake.join(input))
        }));
    }
    for (parent, input) in changed.iter().rev() {
        if parent.is_dir() {
            sync_directory(parent)?;
        }
        for empty in parent.ancestors().take_while(|above| *above != input.as_path()) {
            if fs::remove_dir(empty).is_err() {
                break;
            }
        }
    }
    Ok(())
}

/// Shows every name below a directory, until it is told to stop.
fn walk(
    directory: &Path,
    show: &mut dyn FnMut(&Path, &str) -> Result<bool, Fault>,
) -> Result<(), Fault> {
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        if !directory.is_dir() {
            continue;
        }
        for name in names(&directory)? {
            let path = directory.join(&name);
            if !show(&path, &name)? {
                return Ok(());
            }
            // A link may lead in circles.
            if path.is_dir() && !path.is_symlink() {
                pending.push(path);
            }
        }
    }
    Ok(())
}

/// What was done to the file system, in order, so that tests can take it apart.
#[cfg(test)]
pub(super) mod steps {
    use std::cell::RefCell;
    use std::path::PathBuf;

    /// One change of the file system, or a step towards making one durable.
    #[derive(Clone, Debug)]
    pub(in super::super) enum Step {
        Create(PathBuf),
        /// With what the file holds.
        SyncFile(PathBuf, Vec<u8>),
        Link(PathBuf, PathBuf),
        Rename(PathBuf, PathBuf),
        Remove(PathBuf),
        MakeDirectory(PathBuf),
        SyncDirectory(PathBuf),
        /// The sink told its caller that it holds everything up to this epoch.
        Acknowledged(u64),
    }

    thread_local! {
        static STEPS: RefCell<Option<Vec<Step>>> = const { RefCell::new(None) };
    }

    /// Notes the steps of this thread from here on.
    pub(in super::super) fn begin() {
        STEPS.with_borrow_mut(|steps| *steps = Some(Vec::new()));
    }

    /// The steps since the beginning.
    pub(in super::super) fn end() -> Vec<Step> {
        STEPS.with_borrow_mut(Option::take).unwrap_or_default()
    }

    /// Notes a step, if anyone asked for it.
    pub(in super::super) fn note(step: impl FnOnce() -> Step) {
        STEPS.with_borrow_mut(|steps| {
            if let Some(steps) = steps {
                steps.push(step());
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waterwheel_pipeline::contract::fault::Remedy;

    #[test]
    fn errors_have_their_remedy() {
        for (code, remedy) in [
            (28, Remedy::Retry), // no space left
            (5, Remedy::Retry),  // input/output error
            (2, Remedy::Retry),  // no such file or directory
            (13, Remedy::Stop),  // permission denied
            (30, Remedy::Stop),  // read-only file system
            (22, Remedy::Halt),  // invalid argument: nobody knows why
        ] {
            let error = io::Error::from_raw_os_error(code);
            assert_eq!(fault(&error, "write", Path::new("x")).remedy, remedy, "{error}");
        }
    }

    #[test]
    fn a_name_is_given_once() {
        let root = tempfile::tempdir().expect("a directory");
        let (from, to) = (root.path().join("a"), root.path().join("b"));
        fs::write(&from, "x").expect("written");
        assert!(link_exclusively(&from, &to).expect("linked"));
        assert!(!link_exclusively(&from, &to).expect("taken"));
        assert_eq!(
            link_exclusively(&root.path().join("c"), &to).map_err(|fault| fault.remedy),
            Err(Remedy::Retry)
        );
    }

    #[test]
    fn a_file_is_no_directory() {
        let root = tempfile::tempdir().expect("a directory");
        let file = root.path().join("f");
        fs::write(&file, "x").expect("written");
        for path in [file.clone(), file.join("below")] {
            let fault = ensure_directory(&path).expect_err("a fault");
            assert_eq!(fault.remedy, Remedy::Stop, "{fault}");
        }
        ensure_directory(&root.path().join("a/b/c")).expect("created");
        assert!(root.path().join("a/b/c").is_dir());
    }
}
