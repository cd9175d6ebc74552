//! A real `nats-server` for one test: its own port and directory, killed when dropped.
//!
//! The binary is `$NATS_SERVER_BIN`, else `nats-server` on the PATH, else
//! `target/tools/nats-server`.

// Each crate that includes this file uses a part of it, as a private module.
#![allow(dead_code, unreachable_pub)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running server.
pub struct NatsServer {
    child: Child,
    directory: tempfile::TempDir,
    config: String,
    port: u16,
}

impl NatsServer {
    /// Starts a server with JetStream.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// Starts a server with JetStream and further lines of configuration.
    pub fn start_with(config: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let config = config.to_owned();
        let (child, port) = spawn(directory.path(), &config, None);
        Self { child, directory, config, port }
    }

    /// The URL that clients connect to.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The URL with a login in it.
    pub fn url_as(&self, login: &str) -> String {
        format!("nats://{login}@127.0.0.1:{}", self.port)
    }

    /// Where the server keeps its streams.
    pub fn store(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    /// Kills the server without any notice (SIGKILL).
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Lets the server stand still (SIGSTOP): connections stay, and nothing is answered.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        let status = Command::new("sh").arg("-c").arg(kill).status().expect("sh runs");
        assert!(status.success(), "the server is there to be sent {name}");
    }

    /// Changes the configuration for the next start.
    pub fn reconfigure(&mut self, config: &str) {
        config.clone_into(&mut self.config);
    }

    /// Starts the killed server again on the same port and store.
    pub fn restart(&mut self) {
        self.kill();
        let (child, port) = spawn(self.directory.path(), &self.config, Some(self.port));
        (self.child, self.port) = (child, port);
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts the server and waits for the file in which it says its port.
fn spawn(directory: &Path, config: &str, port: Option<u16>) -> (Child, u16) {
    let config_file = directory.join("server.conf");
    std::fs::write(&config_file, config).expect("a writable directory");
    let log = std::fs::File::create(directory.join("server.log")).expect("a writable directory");
    let mut child = Command::new(binary())
        .args(["-js", "-a", "127.0.0.1"])
        .args(["-p", &port.map_or("-1".to_owned(), |port| port.to_string())])
        .arg("-sd")
        .arg(directory.join("store"))
        .arg("--ports_file_dir")
        .arg(directory)
        .arg("-c")
        .arg(&config_file)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("nats-server starts");
    let ports_file = directory.join(format!("nats-server_{}.ports", child.id()));
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(port) = std::fs::read_to_string(&ports_file).ok().and_then(|it| port_in(&it)) {
            return (child, port);
        }
        let exited = child.try_wait().expect("a child process").is_some();
        if exited || Instant::now() > deadline {
            let log = std::fs::read_to_string(directory.join("server.log")).unwrap_or_default();
            panic!("nats-server did not come up:\n{log}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The first port in the file: `{"nats":["nats://127.0.0.1:43793"]}`, or `tls://` where it asks for it.
fn port_in(text: &str) -> Option<u16> {
    let after = text.split("nats://").nth(1).or_else(|| text.split("tls://").nth(1))?;
    after.split('"').next()?.rsplit(':').next()?.parse().ok()
}

fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("NATS_SERVER_BIN") {
        return path.into();
    }
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> =
        std::env::split_paths(&paths).map(|path| path.join("nats-server")).collect();
    // The workspace is the nearest directory above the crate that has the lock file.
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .find(|path| path.join("Cargo.lock").is_file());
    places.extend(workspace.map(|path| path.join("target/tools/nats-server")));
    places.into_iter().find(|path| path.is_file()).unwrap_or_else(|| {
        panic!("no nats-server: run `cargo xtask setup`, or set NATS_SERVER_BIN to the binary")
    })
}
