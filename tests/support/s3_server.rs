//! An S3 server of the test's own: moto, on a free port of this machine, with its objects in memory.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::{Mutex, PoisonError};

use tempfile::TempDir;

use super::python::command;
use super::wait_until;
use super::waterwheel::Deployment;

/// The bucket that the server has.
pub(crate) const BUCKET: &str = "lake";

/// What must never be printed.
pub(crate) const SECRET: &str = "canary-of-the-object-store";

const KEY_ID: &str = "KEYOFTHETEST";

/// A running server; ended when dropped.
pub(crate) struct S3Server {
    child: Child,
    pipes: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
    port: u16,
    /// Where objects are fetched to.
    directory: TempDir,
}

impl S3Server {
    pub(crate) fn start() -> Self {
        let directory = TempDir::new().expect("a directory");
        let file = directory.path().join("port");
        let mut child = command("s3_server.py", &[&file, &KEY_ID, &BUCKET])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("python starts");
        let mut port = None;
        wait_until("the S3 server listens", || {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            port = text.ends_with('\n').then(|| text.trim().parse().expect("a port"));
            assert!(child.try_wait().expect("a child").is_none(), "the S3 server has ended");
            port.is_some()
        });
        let pipes = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let pipes = Mutex::new((pipes.0, BufReader::new(pipes.1)));
        Self { child, pipes, port: port.expect("a port"), directory }
    }

    fn tell(&self, words: &str) -> String {
        let mut pipes = self.pipes.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(pipes.0, "{words}").expect("the S3 server listens to its input");
        let mut answer = String::new();
        pipes.1.read_line(&mut answer).expect("the S3 server answers");
        assert!(!answer.is_empty(), "the S3 server ended at `{words}`");
        answer
    }

    /// Closes the port; what is stored stays.
    pub(crate) fn down(&self) {
        self.tell("down");
    }

    /// Opens the port again.
    pub(crate) fn up(&self) {
        self.tell("up");
    }

    /// Answers the next requests with this word in their name with 503.
    pub(crate) fn be_busy(&self, requests: u64, word: &str) {
        self.tell(&format!("busy {requests} {word}"));
    }

    /// Carries out the next writes without an answer.
    pub(crate) fn lose_answers(&self, writes: u64) {
        self.tell(&format!("lose {writes}"));
    }

    /// The names of all objects below a prefix, in order.
    pub(crate) fn names(&self, prefix: &str) -> Vec<String> {
        let names: Vec<String> = serde_json::from_str(&self.tell("list")).expect("a list");
        names.into_iter().filter(|name| name.starts_with(prefix)).collect()
    }

    /// Changes a bit of an object.
    pub(crate) fn damage(&self, name: &str) {
        self.tell(&format!("damage {name}"));
    }

    /// Adds an object that is like another.
    pub(crate) fn copy(&self, from: &str, to: &str) {
        self.tell(&format!("copy {from} {to}"));
    }

    /// Lets the next write with this word in its name wait on its way.
    pub(crate) fn hold(&self, word: &str) {
        self.tell(&format!("hold {word}"));
    }

    /// True once there is such a write.
    pub(crate) fn is_held(&self) -> bool {
        self.tell("held").trim() == "true"
    }

    /// Carries it out.
    pub(crate) fn release(&self) {
        self.tell("release");
    }

    /// A directory with the objects below a prefix as they are now.
    pub(crate) fn fetch(&self, prefix: &str) -> PathBuf {
        let path = self.directory.path().join("fetched");
        let _ = std::fs::remove_dir_all(&path);
        self.tell(&format!("fetch {} {prefix}", path.display()));
        path.join(prefix)
    }

    /// A deployment that finds this server in its environment.
    pub(crate) fn known_to(&self, deployment: Deployment) -> Deployment {
        deployment
            .set("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", self.port))
            .set("AWS_ACCESS_KEY_ID", KEY_ID)
            .set("AWS_SECRET_ACCESS_KEY", SECRET)
            .set("AWS_REGION", "us-east-1")
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
