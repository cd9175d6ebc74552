//! The real binary as a child process, with a deployment of its own.

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use super::DEADLINE;

/// A deployment file in a directory, and the variables that it names.
#[derive(Clone)]
pub(crate) struct Deployment {
    directory: PathBuf,
    file: PathBuf,
    variables: Vec<(String, OsString)>,
}

impl Deployment {
    /// Writes the deployment into `directory`, which is also where its processes run.
    pub(crate) fn new(directory: &Path, text: &str) -> Self {
        fs::create_dir_all(directory).expect("a directory");
        let file = directory.join("pipeline.toml");
        fs::write(&file, text).expect("the deployment is written");
        Self { directory: directory.to_owned(), file, variables: Vec::new() }
    }

    /// Sets a variable for `${NAME}`; a later value of the same name wins.
    pub(crate) fn set(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    /// Starts `waterwheel run`.
    pub(crate) fn start(&self) -> Waterwheel {
        self.command("run")
    }

    /// Starts `waterwheel run <file> --rebuild`.
    pub(crate) fn rebuild(&self) -> Waterwheel {
        self.command_with("run", &["--rebuild"])
    }

    /// Starts `waterwheel <command> <file>`.
    pub(crate) fn command(&self, command: &str) -> Waterwheel {
        self.command_with(command, &[])
    }

    /// Starts `waterwheel <command> <file> <options>`.
    pub(crate) fn command_with(&self, command: &str, options: &[&str]) -> Waterwheel {
        let mut child = Command::new(env!("CARGO_BIN_EXE_waterwheel"))
            .arg(command)
            .arg(&self.file)
            .args(options)
            .current_dir(&self.directory)
            .env_remove("NATS_URL")
            .env_remove("DATABASE_URL")
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("waterwheel starts");
        let stdout = collect(child.stdout.take().expect("piped"));
        let stderr = collect(child.stderr.take().expect("piped"));
        Waterwheel { child, stdout: Some(stdout), stderr: Some(stderr) }
    }

    /// Runs to the end; panics unless it succeeds.
    pub(crate) fn run(&self) -> Ending {
        let ending = self.start().wait();
        assert!(ending.status.success(), "{}: {}", ending.status, ending.stderr);
        ending
    }
}

/// How a process ended and what it said.
pub(crate) struct Ending {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A running process; killed when dropped.
pub(crate) struct Waterwheel {
    child: Child,
    stdout: Option<Pipe>,
    stderr: Option<Pipe>,
}

impl Waterwheel {
    /// What it has said on stderr so far.
    pub(crate) fn said(&self) -> String {
        self.stderr.as_ref().map(Pipe::text).unwrap_or_default()
    }

    /// What it has printed on stdout so far.
    pub(crate) fn printed(&self) -> String {
        self.stdout.as_ref().map(Pipe::text).unwrap_or_default()
    }

    /// Sends it a signal: `STOP` makes it stand still, `CONT` go on.
    pub(crate) fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        let status = Command::new("sh").arg("-c").arg(kill).status().expect("sh runs");
        assert!(status.success(), "the process is there to be sent {name}");
    }

    /// The memory that it has now.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(path).expect("the process is there");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kilobytes << 10
    }

    /// True once it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child can be asked").is_some()
    }

    /// Panics with what it said if it has ended by itself.
    pub(crate) fn assert_running(&mut self) {
        if self.has_ended() {
            let ending = self.ending();
            panic!("waterwheel ended with {}: {}", ending.status, ending.stderr);
        }
    }

    /// Waits until it ends by itself; kills it and panics if that takes too long.
    pub(crate) fn wait(mut self) -> Ending {
        let started = Instant::now();
        while !self.has_ended() {
            if started.elapsed() > DEADLINE {
                let ending = self.kill();
                panic!("waterwheel did not end within {DEADLINE:?}: {}", ending.stderr);
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        self.ending()
    }

    /// Asks it to drain, commit and end, as a supervisor does.
    pub(crate) fn terminate(self) -> Ending {
        self.signal("TERM");
        self.wait()
    }

    /// Ends it at once, as `kill -9` or the loss of the machine does.
    pub(crate) fn kill(mut self) -> Ending {
        // It may have ended by itself in the meantime.
        let _ = self.child.kill();
        self.ending()
    }

    fn ending(&mut self) -> Ending {
        let status = self.child.wait().expect("a child can be waited for");
        let stdout = self.stdout.take().map(Pipe::whole).unwrap_or_default();
        let stderr = self.stderr.take().map(Pipe::whole).unwrap_or_default();
        Ending { status, stdout, stderr }
    }
}

impl Drop for Waterwheel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a child says, read along: a child whose pipe is full would stop.
struct Pipe {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Pipe {
    /// All that was said so far.
    fn text(&self) -> String {
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// All that was said, once the child is gone.
    fn whole(self) -> String {
        let Self { bytes, reader } = self;
        reader.join().expect("a reader does not panic");
        let bytes = bytes.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

fn collect(mut pipe: impl Read + Send + 'static) -> Pipe {
    let bytes = Arc::new(Mutex::new(Vec::new()));
    let shared = bytes.clone();
    let reader = std::thread::spawn(move || {
        let mut chunk = vec![0; 64 << 10];
        while let Ok(length @ 1..) = pipe.read(&mut chunk) {
            shared.lock().unwrap_or_else(PoisonError::into_inner).extend(&chunk[..length]);
        }
    });
    Pipe { bytes, reader }
}
