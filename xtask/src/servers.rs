//! The servers of the demo and the benches, in the care of a [`Scratch`].

#[path = "../../tests/support/postgres.rs"]
pub(crate) mod postgres;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use postgres::Postgres;

use crate::Outcome;
use crate::scratch::Scratch;

const START_DEADLINE: Duration = Duration::from_secs(30);

/// A nats-server with JetStream, ended when dropped. (That of the tests can also crash and come
/// back, panics where it cannot start, and needs a crate; `cargo xtask` must be built at once.)
pub(crate) struct NatsServer {
    child: Child,
    url: String,
}

impl NatsServer {
    /// Starts the program on a free port; its streams are kept in the scratch directory.
    pub(crate) fn start(program: &Path, scratch: &mut Scratch) -> Outcome<Self> {
        let directory = scratch.path().join("nats");
        fs::create_dir(&directory)?;
        let log = directory.join("nats-server.log");
        let child = Command::new(program)
            .args(["-js", "-a", "127.0.0.1", "-p", "-1", "-sd"])
            .arg(directory.join("store"))
            .arg("--ports_file_dir")
            .arg(&directory)
            .arg("-l")
            .arg(&log)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut server = Self { child, url: String::new() };
        scratch.watch(server.pid())?;
        let started = Instant::now();
        loop {
            if let Some(url) = url_in(&directory) {
                server.url = url;
                return Ok(server);
            }
            let ended = server.child.try_wait()?.is_some();
            if ended || started.elapsed() > START_DEADLINE {
                let log = fs::read_to_string(&log).unwrap_or_default();
                return Err(format!("nats-server did not start:\n{log}").into());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// What clients connect to.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        // It may have ended by itself; waiting is what matters.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Out of the file that the server writes once it listens: `{"nats":["nats://127.0.0.1:43793"]}`.
fn url_in(directory: &Path) -> Option<String> {
    let file = fs::read_dir(directory)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "ports"))?;
    let ports: serde_json::Value = serde_json::from_str(&fs::read_to_string(file).ok()?).ok()?;
    ports["nats"][0].as_str().map(str::to_owned)
}

/// Starts a private Postgres on a free port.
pub(crate) fn start_postgres(scratch: &mut Scratch) -> Outcome<Postgres> {
    let server = Postgres::start(&scratch.path().join("postgres"))?;
    if let Some(pid) = server.pid() {
        scratch.watch(pid)?;
    }
    Ok(server)
}
