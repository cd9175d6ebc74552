//! One run of a deployment under `benches/`, in a directory of its own.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::usage::{Usage, measure_while};
use crate::Outcome;
use crate::process::root;
use crate::scratch::Scratch;

/// A deployment that is about to run.
pub(super) struct Pipeline {
    /// Where it runs, and where everything of it is: `lake`, `state`, `log`.
    directory: PathBuf,
    command: Command,
}

impl Pipeline {
    /// Puts the deployment into a new directory; `${LAKE}` is `lake` in it.
    pub(super) fn new(program: &Path, directory: PathBuf, deployment: &str) -> Outcome<Self> {
        fs::create_dir(&directory)?;
        let file = directory.join("deployment.toml");
        fs::write(&file, deployment)?;
        let mut command = Command::new(program);
        command.arg("run").arg(&file).current_dir(&directory);
        command.env("LAKE", directory.join("lake"));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(directory.join("log"))?);
        Ok(Self { directory, command })
    }

    /// Sets a variable of the deployment.
    pub(super) fn with(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// What starts it.
    pub(super) fn command(&mut self) -> &mut Command {
        &mut self.command
    }

    /// Its rows in Parquet.
    pub(super) fn lake(&self) -> PathBuf {
        self.directory.join("lake")
    }

    /// Runs it to its end, and does something all the while.
    pub(super) fn run(
        &mut self,
        scratch: &mut Scratch,
        meanwhile: &mut dyn FnMut(u32),
    ) -> Outcome<Usage> {
        measure_while(&mut self.command, scratch, meanwhile).map_err(|problem| self.told(&problem))
    }

    /// A problem, and what the log says of it.
    pub(super) fn told(&self, problem: &dyn std::fmt::Display) -> Box<dyn std::error::Error> {
        let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        format!("{problem}\n{log}").into()
    }

    /// Fails where no checkpoint was completed: a time without one would not count.
    pub(super) fn need_checkpoint(&self) -> Outcome<()> {
        match self.checkpoints() {
            0 => Err(self.told(&"no checkpoint was completed: take more events")),
            _ => Ok(()),
        }
    }

    /// How many checkpoints were completed: each leaves a manifest, and the deployments keep them all.
    pub(super) fn checkpoints(&self) -> usize {
        let inside = |directory: &Path| -> Vec<PathBuf> {
            let entries = fs::read_dir(directory).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).collect()
        };
        let is_manifest = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "manifest");
        let pipelines = inside(&self.directory.join("state"));
        pipelines.iter().flat_map(|pipeline| inside(pipeline)).filter(is_manifest).count()
    }
}

/// The text of a deployment under `benches/`.
pub(super) fn text_of(file: &str) -> Outcome<String> {
    let path = root().join("benches").join(file);
    fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()).into())
}

/// The same pipeline with a file as its source.
pub(super) fn from_file(deployment: &str) -> Outcome<String> {
    const SOURCE: &str =
        "[sources.events]\ntype = \"file\"\npath = \"${FILE}\"\nlateness = \"30s\"\n\n";
    let begin = deployment.find("[sources.").ok_or("the deployment has no source")?;
    let end = deployment.find("[operators.").ok_or("the deployment has no operator")?;
    Ok(format!("{}{SOURCE}{}", &deployment[..begin], &deployment[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deployments_can_read_a_file() {
        for file in ["aggregate.toml", "all.toml"] {
            let text = from_file(&text_of(file).unwrap()).unwrap();
            assert!(text.contains("${FILE}") && !text.contains("${NATS}"), "{text}");
            assert!(text.contains("checkpoint = "), "{text}");
        }
    }
}
