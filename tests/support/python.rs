//! Runs the Python scripts beside the tests: clients and readers that share no code with waterwheel.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Runs `tests/scripts/<script>` and returns what it prints; panics with its errors if it fails.
pub(crate) fn python(script: &str, arguments: &[&dyn AsRef<OsStr>]) -> String {
    let output = command(script, arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("python: {error}"));
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script} failed: {problem}");
    String::from_utf8(output.stdout).expect("scripts print UTF-8")
}

/// `tests/scripts/<script>`, ready to be run.
pub(crate) fn command(script: &str, arguments: &[&dyn AsRef<OsStr>]) -> Command {
    let mut command = Command::new(interpreter());
    command
        .arg(root().join("tests/scripts").join(script))
        .args(arguments.iter().map(|argument| argument.as_ref()));
    command
}

/// The root of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// `$WATERWHEEL_PYTHON`, else the one that `cargo xtask setup` made.
fn interpreter() -> PathBuf {
    let made = || root().join("target/tools/venv/bin/python");
    let path = std::env::var_os("WATERWHEEL_PYTHON").map_or_else(made, PathBuf::from);
    assert!(path.is_file(), "no {}: run `cargo xtask setup`", path.display());
    path
}
