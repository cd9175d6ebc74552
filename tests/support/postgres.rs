//! A private Postgres on a free port of its own, run by an ordinary account, ended when dropped.
//!
//! The system tests and `cargo xtask` share this file, so it needs nothing but the standard library.
#![allow(dead_code, reason = "each of its users needs another part")]

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const START_DEADLINE: Duration = Duration::from_secs(60);
const PORT_ATTEMPTS: usize = 10;

/// A running (or killed) instance; its data stay in its directory, so that it can be started again.
pub(crate) struct Postgres {
    programs: PathBuf,
    directory: PathBuf,
    account: Option<Account>,
    child: Option<Child>,
    port: u16,
}

/// Whom the server runs as: Postgres refuses root.
#[derive(Clone, Copy)]
struct Account {
    user: u32,
    group: u32,
}

impl Postgres {
    /// Creates a database cluster in `directory` and starts it.
    pub(crate) fn start(directory: &Path) -> io::Result<Self> {
        let programs = find()?;
        fs::create_dir_all(directory)?;
        let account = account_for(directory)?;
        let mut postgres =
            Self { programs, directory: directory.to_owned(), account, child: None, port: 0 };
        if let Some(account) = account {
            chown(directory, Some(account.user), Some(account.group))?;
            let_through(directory)?;
        }
        postgres.create()?;
        postgres.restart()?;
        Ok(postgres)
    }

    /// What clients connect to.
    pub(crate) fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// What clients of another database connect to.
    pub(crate) fn url_of(&self, database: &str) -> String {
        format!("postgres://waterwheel@127.0.0.1:{}/{database}", self.port)
    }

    /// Runs SQL with psql and returns what it prints: rows by line, columns by tab, no header.
    pub(crate) fn query(&self, sql: &str) -> io::Result<String> {
        self.query_in("postgres", sql)
    }

    /// Runs SQL in another database than the one of [`Self::url`].
    pub(crate) fn query_in(&self, database: &str, sql: &str) -> io::Result<String> {
        self.psql(database, &["--no-align", "--tuples-only", "--field-separator=\t"], sql)
    }

    /// The same in another database of the server.
    pub(crate) fn query_at(&self, url: &str, sql: &str) -> io::Result<String> {
        self.psql_at(url, &["--no-align", "--tuples-only", "--field-separator=\t"], sql)
    }

    /// Runs SQL with psql and returns the table that a person would see.
    pub(crate) fn table(&self, sql: &str) -> io::Result<String> {
        self.psql("postgres", &["--pset=footer=off"], sql)
    }

    /// The process id, while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Ends it at once; what clients had not committed is gone, as after a crash of the server.
    pub(crate) fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // SIGQUIT ends the whole family without a checkpoint; SIGKILL would orphan its processes.
        let quit = Command::new("sh").arg("-c").arg(format!("kill -QUIT {}", child.id())).status();
        if !quit.is_ok_and(|status| status.success()) {
            let _ = child.kill();
        }
        let _ = child.wait();
    }

    /// Starts it again with the same data, on the same port if it ever had one.
    pub(crate) fn restart(&mut self) -> io::Result<()> {
        self.kill();
        if self.port != 0 {
            return self.launch(self.port);
        }
        let mut last = io::Error::other("no free port");
        // Another program may take the port between the search and the start.
        for _ in 0..PORT_ATTEMPTS {
            let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
            match self.launch(port) {
                Ok(()) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn create(&self) -> io::Result<()> {
        let output = self
            .command("initdb")
            .arg("--pgdata")
            .arg(self.data())
            .args(["--username=waterwheel", "--auth=trust", "--encoding=UTF8", "--no-locale"])
            .args(["--no-sync", "--no-instructions"])
            .output()?;
        if output.status.success() {
            return Ok(());
        }
        let problem = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(format!("initdb: {problem}")))
    }

    fn launch(&mut self, port: u16) -> io::Result<()> {
        let log = fs::File::create(self.log())?;
        let mut child = self
            .command("postgres")
            .arg("-D")
            .arg(self.data())
            .args(["-p", &port.to_string()])
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="])
            // The machine does not lose power in a test: spare the disk, keep the semantics.
            .args(["-c", "fsync=off", "-c", "full_page_writes=off", "-c", "timezone=UTC"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let started = Instant::now();
        let problem = loop {
            if self.is_ready(child.id()) {
                self.port = port;
                self.child = Some(child);
                return Ok(());
            }
            if let Some(status) = child.try_wait()? {
                break format!("postgres ended with {status}");
            }
            if started.elapsed() > START_DEADLINE {
                break "postgres did not start in time".to_owned();
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let _ = child.kill();
        let _ = child.wait();
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        Err(io::Error::other(format!("{problem}:\n{log}")))
    }

    /// The server says so in the eighth line of its pid file.
    fn is_ready(&self, pid: u32) -> bool {
        let text = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        let mut lines = text.lines();
        lines.next() == Some(&pid.to_string())
            && lines.nth(6).is_some_and(|line| line.trim() == "ready")
    }

    fn psql(&self, database: &str, arguments: &[&str], sql: &str) -> io::Result<String> {
        self.psql_at(&self.url_of(database), arguments, sql)
    }

    fn psql_at(&self, url: &str, arguments: &[&str], sql: &str) -> io::Result<String> {
        let output = Command::new(self.programs.join("psql"))
            .args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--dbname", url])
            .args(arguments)
            .args(["--command", sql])
            .env("PGTZ", "UTC")
            .stdin(Stdio::null())
            .output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let problem = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(format!("psql: {problem}")))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.current_dir(&self.directory);
        if let Some(account) = self.account {
            command.uid(account.user).gid(account.group);
        }
        command
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn log(&self) -> PathBuf {
        self.directory.join("postgres.log")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The directory of `postgres`, `initdb` and `psql`: `$POSTGRES_BIN_DIR`, else that of the
/// `postgres` on `$PATH`, else the newest of Debian's.
pub(crate) fn find() -> io::Result<PathBuf> {
    if let Some(directory) = std::env::var_os("POSTGRES_BIN_DIR") {
        return Ok(directory.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path)
        // The one on the path may be a link into the directory where its companions are.
        .filter_map(|directory| fs::canonicalize(directory.join("postgres")).ok())
        .filter_map(|program| program.parent().map(Path::to_owned));
    let mut debian: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_string_lossy().parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    debian.sort();
    let debian = debian.into_iter().rev().map(|(_, directory)| directory);
    let complete = |directory: &PathBuf| {
        ["postgres", "initdb", "psql"].iter().all(|name| directory.join(name).is_file())
    };
    on_path.chain(debian).find(complete).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            "no Postgres (postgres, initdb and psql): install it (Debian: `apt-get install \
             postgresql`), or set POSTGRES_BIN_DIR",
        )
    })
}

/// For root the account `postgres`, or `nobody`; anyone else is an ordinary account already. The
/// directory was just made, so its owner is who runs this.
fn account_for(directory: &Path) -> io::Result<Option<Account>> {
    if fs::metadata(directory)?.uid() != 0 {
        return Ok(None);
    }
    let accounts = fs::read_to_string("/etc/passwd")?;
    let entry = ["postgres", "nobody"].iter().find_map(|name| {
        let fields = accounts
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .find(|fields| fields.first() == Some(name))?;
        let user = fields.get(2)?.parse().ok()?;
        let group = fields.get(3)?.parse().ok()?;
        Some(Account { user, group })
    });
    entry.map(Some).ok_or_else(|| {
        io::Error::other("Postgres does not run as root, and there is no account for it")
    })
}

/// Temporary directories are closed to other accounts: opens the way to `directory`.
fn let_through(directory: &Path) -> io::Result<()> {
    let temporary = fs::canonicalize(std::env::temp_dir())?;
    let directory = fs::canonicalize(directory)?;
    let above = directory.ancestors().skip(1);
    for parent in above.take_while(|parent| **parent != temporary && parent.starts_with(&temporary))
    {
        let mut permissions = fs::metadata(parent)?.permissions();
        permissions.set_mode(permissions.mode() | 0o111);
        fs::set_permissions(parent, permissions)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_instance_comes_back_with_its_data() {
        let directory = std::env::temp_dir().join(format!("postgres-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let mut postgres = Postgres::start(&directory.join("instance")).unwrap();
        postgres.query("create table kept as select 1 as a, 'x' as b").unwrap();
        postgres.kill();
        assert!(postgres.query("select 1").is_err(), "a killed server answers nothing");
        postgres.restart().unwrap();
        assert_eq!(postgres.query("select * from kept").unwrap(), "1\tx\n");
        assert!(postgres.query("select nonsense").unwrap_err().to_string().contains("nonsense"));
        drop(postgres);
        fs::remove_dir_all(&directory).unwrap();
    }
}
