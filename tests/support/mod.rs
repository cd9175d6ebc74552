//! What whole-system tests stand on: real servers, the real binary, independent readers.

pub(crate) mod accounts;
pub(crate) mod nats_server;
pub(crate) mod postgres;
pub(crate) mod proxy;
pub(crate) mod python;
pub(crate) mod rounds;
pub(crate) mod rows;
pub(crate) mod s3_server;
pub(crate) mod stream;
pub(crate) mod trading;
pub(crate) mod waterwheel;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

pub(crate) use rounds::rounds;

/// Prints a line that is seen of tests that pass, too: the counts of what was done.
macro_rules! say {
    ($($part:tt)*) => {{
        use std::io::Write as _;
        // Only `print!` is captured.
        let _ = writeln!(std::io::stdout(), $($part)*);
    }};
}
pub(crate) use say;

/// How long anything may take that takes milliseconds on an idle machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// Polls until the condition holds; panics with `what` if it does not in time.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Copies a directory with everything in it.
pub(crate) fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
