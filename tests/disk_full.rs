//! A Parquet sink on a full disk waits, says why, and goes on by itself when there is room again;
//! without room for checkpoints a pipeline runs on, and saves what it could not when there is room.
//!
//! The disk is a small tmpfs of the test's own. It takes the right to mount: of root, or of the
//! user's own namespace (`unshare --user --map-root-user --mount`), in which the pipeline then runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::support::nats_server::NatsServer;
use crate::support::python::python;
use crate::support::rounds;
use crate::support::rounds::Chance;
use crate::support::rows::{of_operator, parse};
use crate::support::say;
use crate::support::stream::{block_on, connect, create, publish};
use crate::support::wait_until;
use crate::support::waterwheel::{Deployment, Waterwheel};

const PIPELINE: &str = r#"
name = "full"

[engine]
flush = "10ms"
checkpoint = { path = "${STATE}", every = "100ms" }

[sources.events]
type = "nats"
url = "${NATS}"
stream = "EVENTS"
start = "first"
until = "${UNTIL}"
lateness = "30s"

[operators.volume]
type = "aggregate"
from = "events"
windows = ["1d"]
measures.events = "count(*)"
measures.total = "sum(n)"

[sinks.lake]
type = "parquet"
from = ["events", "volume"]
path = "${LAKE}"
roll = { every = "100ms" }
"#;

/// What the disk holds.
const DISK: &str = "8m";

/// What the person reads.
const CAUSE: &str = "No space left on device";

/// Set where this program runs in a namespace of its own.
const INSIDE: &str = "WATERWHEEL_TEST_NAMESPACE";

/// What is on the small disk.
#[derive(Clone, Copy, PartialEq)]
enum OnDisk {
    Lake,
    Checkpoints,
}

#[test]
fn a_full_disk_is_waited_for() {
    on_small_disks("a_full_disk_is_waited_for", OnDisk::Lake);
}

#[test]
fn a_full_disk_of_checkpoints_stops_nothing() {
    on_small_disks("a_full_disk_of_checkpoints_stops_nothing", OnDisk::Checkpoints);
}

fn on_small_disks(test: &str, on_disk: OnDisk) {
    let directory = TempDir::new().unwrap();
    match Disk::mount(directory.path()) {
        Ok(_) => fill_and_free_often(on_disk),
        Err(problem) if std::env::var_os(INSIDE).is_some() => panic!("no small disk: {problem}"),
        Err(problem) if !has_namespaces() => {
            println!("disk full: NOT TESTED: {problem}, and no namespaces of users here");
        }
        Err(_) => run_inside(test),
    }
}

/// True if an ordinary account may have a namespace in which it mounts what it likes.
fn has_namespaces() -> bool {
    let mut unshare = Command::new("unshare");
    let tried = unshare.args(["--user", "--map-root-user", "--mount", "true"]).output();
    tried.is_ok_and(|tried| tried.status.success())
}

/// Runs this test once more in a namespace of its own.
fn run_inside(test: &str) {
    let this = std::env::current_exe().unwrap();
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount"])
        .arg(this)
        .args(["--exact", "--nocapture", &format!("disk_full::{test}")])
        .env(INSIDE, "1")
        .status()
        .expect("unshare runs");
    assert!(status.success(), "in a namespace of its own: {status}");
}

fn fill_and_free_often(on_disk: OnDisk) {
    let mut chance = Chance::new();
    let (count, seed) = (rounds(3, 20), chance.seed);
    println!("disk full, seed {seed}");
    let mut warnings = 0;
    for round in 0..count {
        let said = match on_disk {
            OnDisk::Lake => fill_and_free(&mut chance),
            OnDisk::Checkpoints => run_on_without_checkpoints(&mut chance),
        };
        let told = said.lines().filter(|line| line.contains(CAUSE)).count();
        assert!(told > 0, "round {round}: the cause is in {said}");
        // Once by the commit that fails, once by the attempt to begin again.
        assert!(told <= 8, "round {round}: not again and again, in {said}");
        warnings += told;
    }
    let what = if on_disk == OnDisk::Lake { "disk full" } else { "disk full of checkpoints" };
    say!(
        "{what}: {count} of {count} went on with nothing lost; the cause was said {warnings} times, seed {seed}"
    );
}

/// Lets the disk run full under the pipeline, frees it, and compares; what the pipeline said.
fn fill_and_free(chance: &mut Chance) -> String {
    let mut stage = Stage::new(OnDisk::Lake);
    stage.publish(chance.between(10, 200));
    let mut running = stage.deployment("forever").start();
    stage.wait_visible(stage.published, &mut running);

    // Full to the last page, or with a little room in which a commit gets stuck halfway.
    stage.disk.fill(chance.between(0, 12) * 4_096);
    stage.publish(chance.between(500, 3_000));
    let before = running.said().len();
    wait_until("the full disk is noticed, or the process has ended", || {
        running.said()[before..].contains(CAUSE) || running.has_ended()
    });
    running.assert_running();
    stage.publish(chance.between(1, 500));
    // It keeps waiting, and what is visible stays whole.
    std::thread::sleep(Duration::from_millis(chance.between(0, 1_500)));
    running.assert_running();
    stage.assert_prefix();

    stage.disk.free();
    stage.wait_visible(stage.published, &mut running);
    let ending = running.terminate();
    assert_eq!(ending.status.code(), Some(0), "{}", ending.stderr);
    stage.deployment("final").run();
    stage.assert_whole();
    ending.stderr
}

/// Lets the disk of the checkpoints run full, which holds nothing up; frees it, kills the pipeline,
/// and lets it go on from a checkpoint that was made afterwards; what the pipeline said.
fn run_on_without_checkpoints(chance: &mut Chance) -> String {
    let mut stage = Stage::new(OnDisk::Checkpoints);
    let mut running = stage.deployment("forever").start();
    stage.disk.fill(chance.between(0, 12) * 64);
    stage.publish(chance.between(500, 1_500));
    stage.wait_visible(stage.published, &mut running);
    wait_until("the full disk is noticed, or the process has ended", || {
        // There is a checkpoint to write only where something has happened since the last.
        stage.publish(1);
        running.said().contains(CAUSE) || running.has_ended()
    });
    running.assert_running();
    stage.publish(chance.between(1, 500));
    stage.wait_visible(stage.published, &mut running);
    assert!(stage.checkpointed() < stage.published, "no room, and yet a checkpoint");

    stage.disk.free();
    let published = stage.published;
    wait_until("a checkpoint holds everything, or the process has ended", || {
        stage.publish(1);
        stage.checkpointed() >= published || running.has_ended()
    });
    running.assert_running();
    let said = running.kill().stderr;
    stage.publish(chance.between(1, 500));
    let ending = stage.deployment("final").run();
    assert!(ending.stderr.contains("going on from a checkpoint"), "{}", ending.stderr);
    stage.assert_whole();
    said
}

struct Stage {
    on_disk: OnDisk,
    nats: NatsServer,
    disk: Disk,
    directory: TempDir,
    published: u64,
}

impl Stage {
    fn new(on_disk: OnDisk) -> Self {
        let directory = TempDir::new().unwrap();
        let disk = Disk::mount(&directory.path().join("disk")).unwrap();
        let nats = NatsServer::start();
        block_on(async { create(&connect(&nats.url()).await, "EVENTS", "events").await });
        Self { on_disk, nats, disk, directory, published: 0 }
    }

    fn deployment(&self, until: &str) -> Deployment {
        Deployment::new(&self.directory.path().join("run"), PIPELINE)
            .set("NATS", self.nats.url())
            .set("LAKE", self.place(OnDisk::Lake))
            .set("STATE", self.place(OnDisk::Checkpoints))
            .set("UNTIL", until)
    }

    /// Where something is: on the small disk or beside it.
    fn place(&self, what: OnDisk) -> PathBuf {
        let name = if what == OnDisk::Lake { "lake" } else { "state" };
        let disk = if what == self.on_disk { self.disk.path() } else { self.directory.path() };
        disk.join(name)
    }

    /// The message that the newest checkpoint reaches to; 0 without one.
    fn checkpointed(&self) -> u64 {
        let names = fs::read_dir(self.place(OnDisk::Checkpoints).join("full"));
        let mut manifests: Vec<PathBuf> = names
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|kind| kind == "manifest"))
            .collect();
        manifests.sort();
        let newest = manifests.last().and_then(|path| fs::read_to_string(path).ok());
        let newest = newest.and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok());
        let position = newest.map(|it| it["record"]["positions"]["events"]["ordinal"].clone());
        position.and_then(|it| it.as_u64()).unwrap_or(0)
    }

    /// Publishes messages that compress badly, so that the disk fills.
    fn publish(&mut self, count: u64) {
        let numbers = self.published..self.published + count;
        let payloads = numbers.map(|n| {
            let noise: String = (n * 100..n * 100 + 12)
                .map(|seed| format!("{:016x}", Chance::from_seed(seed).between(0, u64::MAX)))
                .collect();
            let (second, micro) = (n / 1_000 % 60, n % 1_000);
            format!(
                r#"{{"event_type":"e","timestamp":"2026-05-04T12:00:{second:02}.000{micro:03}Z","n":{n},"noise":"{noise}"}}"#
            )
            .into_bytes()
        });
        block_on(async { publish(&connect(&self.nats.url()).await, "events.x", payloads).await });
        self.published += count;
    }

    /// The sequences that a reader of the lake sees, in order.
    fn visible(&self) -> Vec<u64> {
        let lake = parse(&python("read_lake.py", &[&self.place(OnDisk::Lake)]));
        let rows = of_operator(&lake, "events");
        let mut found: Vec<u64> =
            rows.iter().map(|row| row["sequence"].as_u64().unwrap()).collect();
        found.sort_unstable();
        found
    }

    /// Waits until the log of the sink says that everything up to a message is committed.
    fn wait_visible(&self, sequence: u64, running: &mut Waterwheel) {
        let log = self.place(OnDisk::Lake).join("_waterwheel/full.lake/log");
        let position = format!("\"ordinal\":{sequence},");
        wait_until(&format!("message {sequence} is committed, or the process has ended"), || {
            let mut entries: Vec<PathBuf> =
                fs::read_dir(&log).into_iter().flatten().flatten().map(|it| it.path()).collect();
            entries.sort();
            let newest = entries.last().and_then(|entry| fs::read_to_string(entry).ok());
            newest.is_some_and(|entry| entry.contains(&position)) || running.has_ended()
        });
        running.assert_running();
    }

    fn assert_prefix(&self) {
        let visible = self.visible();
        assert!(visible.iter().copied().eq(1..=visible.len() as u64), "a first part: {visible:?}");
    }

    fn assert_whole(&self) {
        let visible = self.visible();
        let whole: Vec<u64> = (1..=self.published).collect();
        let first = visible.iter().zip(&whole).find(|(is, due)| is != due);
        assert!(
            visible == whole,
            "every message, once: {} rows of {} messages, the first that differs: {first:?}",
            visible.len(),
            whole.len()
        );
        let lake = parse(&python("read_lake.py", &[&self.place(OnDisk::Lake)]));
        let volume = of_operator(&lake, "volume");
        let events: u64 = volume.iter().map(|row| row["events"].as_u64().unwrap()).sum();
        assert_eq!(events, self.published, "{volume:?}");
        let staging = self.place(OnDisk::Lake).join("_waterwheel/full.lake/staging");
        let mut staged = fs::read_dir(staging).unwrap();
        assert!(staged.next().is_none(), "nothing unfinished is left");
    }
}

/// A small disk.
struct Disk {
    path: PathBuf,
}

impl Disk {
    fn mount(path: &Path) -> Result<Self, String> {
        fs::create_dir_all(path).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={DISK}"), "tmpfs"])
            .arg(path)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("mount: {error}"))?;
        if !mounted.status.success() {
            return Err(String::from_utf8_lossy(&mounted.stderr).trim().to_owned());
        }
        Ok(Self { path: path.to_owned() })
    }

    fn path(&self) -> &Path {
        &self.path
    }

    /// Fills it, but for so many bytes.
    fn fill(&self, but_bytes: u64) {
        use std::io::Write;
        let mut file = fs::File::create(self.path.join("filler")).unwrap();
        let page = [1; 4_096];
        let mut bytes = 0;
        while file.write_all(&page).is_ok() {
            bytes += page.len() as u64;
        }
        file.set_len(bytes.saturating_sub(but_bytes)).unwrap();
    }

    fn free(&self) {
        fs::remove_file(self.path.join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}
