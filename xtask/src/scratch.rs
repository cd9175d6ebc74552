//! A temporary directory with the servers that live in it: both are gone however this process ends.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::Outcome;

/// Outlives us, even `kill -9`: it reads a pipe that ends when we end, and then cleans up. It must
/// not be ended by the same Ctrl-C.
const JANITOR: &str = r#"
trap '' INT TERM HUP
while read -r word pid; do
    case $word in
        watch) pids="$pids $pid" ;;
        forget) left=; for each in $pids; do [ "$each" = "$pid" ] || left="$left $each"; done; pids=$left ;;
    esac
done
for pid in $pids; do kill -TERM "$pid" 2>/dev/null; done
tries=0
for pid in $pids; do
    while [ $tries -lt 50 ] && kill -0 "$pid" 2>/dev/null; do sleep 0.05; tries=$((tries + 1)); done
    kill -KILL "$pid" 2>/dev/null
done
rm -rf -- "$1"
"#;

/// Removed with all that it holds when dropped, or when this process dies.
pub(crate) struct Scratch {
    directory: PathBuf,
    janitor: Child,
}

impl Scratch {
    /// Makes a directory that nobody else uses.
    pub(crate) fn new() -> Outcome<Self> {
        let moment = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
        let name = format!("waterwheel-{}-{moment}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory)?;
        let janitor = Command::new("sh")
            .args(["-c", JANITOR, "sh"])
            .arg(&directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { directory, janitor })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.directory
    }

    /// Runs a program to its end, or to ours.
    pub(crate) fn run(&mut self, command: &mut Command) -> Outcome<()> {
        let mut child = command.stdin(Stdio::null()).spawn()?;
        self.watch(child.id())?;
        let status = child.wait()?;
        self.forget(child.id())?;
        let program = Path::new(command.get_program()).file_name().unwrap_or_default();
        let failure = || format!("{} failed ({status})", program.to_string_lossy());
        if status.success() { Ok(()) } else { Err(failure().into()) }
    }

    /// This process must not outlive us.
    pub(crate) fn watch(&mut self, pid: u32) -> Outcome<()> {
        self.tell("watch", pid)
    }

    /// This process has ended, and its number may soon be another's.
    pub(crate) fn forget(&mut self, pid: u32) -> Outcome<()> {
        self.tell("forget", pid)
    }

    fn tell(&mut self, word: &str, pid: u32) -> Outcome<()> {
        if let Some(pipe) = &mut self.janitor.stdin {
            writeln!(pipe, "{word} {pid}")?;
        }
        Ok(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.janitor.stdin.take());
        let _ = self.janitor.wait();
    }
}
