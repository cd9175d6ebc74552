//! Running other programs: cargo, Python, and what the project itself builds.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Outcome;

/// The root of the repository.
pub(crate) fn root() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

/// The cargo that runs this.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Runs a program to its end; its output goes where ours goes.
pub(crate) fn run(command: &mut Command) -> Outcome<()> {
    let status = command.status().map_err(|error| format!("{}: {error}", name(command)))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{} failed ({status})", name(command)).into())
    }
}

/// Runs a program to its end and returns what it prints; its errors become ours.
pub(crate) fn output(command: &mut Command) -> Outcome<String> {
    let output = command.output().map_err(|error| format!("{}: {error}", name(command)))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let problem = String::from_utf8_lossy(&output.stderr);
    Err(format!("{} failed ({}):\n{}", name(command), output.status, problem.trim_end()).into())
}

/// Builds programs of the workspace in release and returns where they are. `$WATERWHEEL_PROGRAMS`
/// names a directory that holds them already: another commit's, to compare the two.
pub(crate) fn build(programs: &[&str]) -> Outcome<PathBuf> {
    if let Some(built) = std::env::var_os("WATERWHEEL_PROGRAMS").map(PathBuf::from) {
        eprintln!("xtask: the programs are those in {}", built.display());
        return match programs.iter().find(|program| !built.join(program).is_file()) {
            None => Ok(built),
            Some(program) => Err(format!("{} holds no {program}", built.display()).into()),
        };
    }
    let mut command = cargo();
    command.args(["build", "--release", "-p", "waterwheel", "-p", "waterwheel-benches"]);
    for program in programs {
        command.args(["--bin", program]);
    }
    run(&mut command)?;
    Ok(target().join("release"))
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    root().join(target.unwrap_or_else(|| "target".into()))
}

fn name(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let program = program.file_name().unwrap_or(program.as_os_str());
    let first = command.get_args().next().unwrap_or_default();
    format!("`{} {}`", program.to_string_lossy(), first.to_string_lossy())
}
