//! A private Postgres for one test: its own directory, port and socket, gone when it is dropped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio_postgres::NoTls;

const STARTS_WITHIN: Duration = Duration::from_secs(60);

/// A running server with the superuser `postgres`, who needs no password.
pub(super) struct TestServer {
    directory: TempDir,
    binaries: PathBuf,
    settings: Vec<String>,
    port: u16,
    process: Option<Child>,
}

impl TestServer {
    /// Starts a server that does not wait for the disk.
    pub(super) async fn start() -> Self {
        Self::start_with(&["fsync=off"]).await
    }

    /// Starts a server with settings such as `ssl=on`. Relative paths start at [`Self::data`].
    pub(super) async fn start_with(settings: &[&str]) -> Self {
        let mut server = Self::create(settings);
        server.run().await;
        server
    }

    /// Makes the data directory, and starts nothing yet.
    pub(super) fn create(settings: &[&str]) -> Self {
        let binaries = find_binaries();
        let directory = tempfile::Builder::new().prefix("waterwheel-postgres-").tempdir().unwrap();
        if is_root() {
            let owned = Command::new("chown").args(["nobody", path(directory.path())]).status();
            assert!(owned.unwrap().success(), "chown of the test directory failed");
        }
        let server = Self {
            settings: settings.iter().map(ToString::to_string).collect(),
            binaries,
            directory,
            port: 0,
            process: None,
        };
        let made = server
            .command("initdb")
            .args(["-D", path(&server.data()), "-U", "postgres", "-A", "trust", "-N"])
            .args(["-E", "UTF8", "--locale=C"])
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        // The role `locked` is the one that needs a password.
        let access =
            "host all locked all scram-sha-256\nhost all all all trust\nlocal all all trust\n";
        fs::write(server.data().join("pg_hba.conf"), access).unwrap();
        server
    }

    /// The data directory.
    pub(super) fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Where it listens on 127.0.0.1.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// The URL of its database `postgres` for the superuser.
    pub(super) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres?sslmode=disable", self.port)
    }

    /// Starts the server, on its port if it had one, and waits until it answers.
    pub(super) async fn run(&mut self) {
        let log = self.directory.path().join("log");
        // Another process may take the port that was free a moment ago.
        for _ in 0..5 {
            if self.port == 0 {
                self.port = free_port();
            }
            let output = fs::File::options().create(true).append(true).open(&log).unwrap();
            let mut command = self.command("postgres");
            command.args(["-D", path(&self.data()), "-p", &self.port.to_string()]);
            command.args(["-k", path(self.directory.path()), "-h", "127.0.0.1"]);
            for setting in &self.settings {
                command.args(["-c", setting]);
            }
            command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
            self.process = Some(command.spawn().unwrap());
            if self.answers().await {
                return;
            }
            self.stop();
            self.port = 0;
        }
        panic!("postgres does not start:\n{}", fs::read_to_string(&log).unwrap_or_default());
    }

    async fn answers(&mut self) -> bool {
        let deadline = Instant::now() + STARTS_WITHIN;
        while Instant::now() < deadline {
            let exited =
                self.process.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some());
            if exited {
                return false;
            }
            if tokio_postgres::connect(&self.url(), NoTls).await.is_ok() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    /// Ends the server at once, as a crash does.
    pub(super) fn stop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        // SIGQUIT and not SIGKILL: the server then takes its children and shared memory with it.
        let _ = Command::new("kill").args(["-QUIT", &process.id().to_string()]).status();
        let _ = process.wait();
    }

    /// Postgres refuses to run as root.
    fn command(&self, program: &str) -> Command {
        let program = self.binaries.join(program);
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.current_dir(self.directory.path());
        command
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn find_binaries() -> PathBuf {
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let mut candidates: Vec<PathBuf> = std::env::split_paths(&on_path).collect();
    let mut installed: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .map(|versions| versions.flatten().map(|version| version.path().join("bin")).collect())
        .unwrap_or_default();
    installed.sort();
    candidates.extend(installed.into_iter().rev());
    candidates
        .into_iter()
        .find(|directory| {
            directory.join("initdb").is_file() && directory.join("postgres").is_file()
        })
        .expect("these tests need Postgres: initdb and postgres on PATH or in /usr/lib/postgresql")
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("the command `id`");
    id.stdout.starts_with(b"0\n")
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}
