//! Checkpoints and a Parquet sink in an object store: whatever is killed, taken over, cut off or
//! damaged, the bucket holds every row once.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use crate::support::nats_server::NatsServer;
use crate::support::python::python;
use crate::support::rounds;
use crate::support::rounds::Chance;
use crate::support::rows::{of_operator, parse};
use crate::support::s3_server::{BUCKET, S3Server, SECRET};
use crate::support::stream::{block_on, connect, create, publish};
use crate::support::trading::{Events, NATS_SOURCE, PIPELINE};
use crate::support::wait_until;
use crate::support::waterwheel::{Deployment, Waterwheel};

const ENGINE: &str = r#"
name = "trading"

[engine]
flush = "10ms"
workers = {workers}
checkpoint = { path = "s3://{bucket}/state", every = "100ms", keep = 3 }

[sinks.tables]
type = "parquet"
from = ["events", "volume", "fills", "fill_latency", "onboarding"]
path = "s3://{bucket}/tables"
roll = { rows = 500, every = "{roll}" }
"#;

/// What the log of the sink is called.
const LOG: &str = "tables/_waterwheel/trading.tables/log/";
const STAGING: &str = "tables/_waterwheel/trading.tables/staging/";

/// Servers, events, and one pipeline.
struct Stage {
    s3: S3Server,
    nats: NatsServer,
    events: Events,
    payloads: Vec<Vec<u8>>,
    published: usize,
    roll: &'static str,
    chance: Chance,
    directory: TempDir,
}

impl Stage {
    fn new(events: usize) -> Self {
        let directory = TempDir::new().unwrap();
        let events = Events::generate(directory.path(), events, "EVENTS");
        let nats = NatsServer::start();
        block_on(async { create(&connect(&nats.url()).await, "EVENTS", "events").await });
        let payloads = events.payloads();
        let (s3, chance) = (S3Server::start(), Chance::new());
        Self { s3, nats, events, payloads, published: 0, roll: "50ms", chance, directory }
    }

    /// Publishes so many more events, as far as there are any.
    fn publish(&mut self, count: usize) {
        let from = self.published;
        self.published = (from + count).min(self.payloads.len());
        let next = self.payloads[from..self.published].to_vec();
        block_on(async { publish(&connect(&self.nats.url()).await, "events.x", next).await });
    }

    /// Instances that run at the same time need other numbers of workers.
    fn deployment(&self, workers: u64) -> Deployment {
        let engine = ENGINE
            .replace("{workers}", &workers.to_string())
            .replace("{bucket}", BUCKET)
            .replace("{roll}", self.roll);
        let text = format!("{engine}{NATS_SOURCE}{PIPELINE}");
        let directory = self.directory.path().join(format!("run{workers}"));
        let deployment = Deployment::new(&directory, &text).set("NATS", self.nats.url());
        self.s3.known_to(deployment).set("UNTIL", "forever")
    }

    /// The number of the last entry of the log.
    fn commits(&self) -> u64 {
        let entries = self.s3.names(LOG);
        let number = |name: &String| name.strip_prefix(LOG)?[7..27].parse().ok();
        entries.iter().filter_map(number).max().unwrap_or(0)
    }

    fn wait_commit(&self, after: u64, running: &mut Waterwheel) {
        wait_until("something is committed", || {
            running.assert_running();
            self.commits() > after
        });
    }

    /// Publishes the rest, runs to the end, and compares.
    fn finish(&mut self) {
        self.publish(usize::MAX);
        let workers = self.chance.between(1, 4);
        let ending = self.deployment(workers).set("UNTIL", "final").run();
        assert_no_secret(&ending.stderr);
        let lake = self.s3.fetch().join("fetched/tables");
        self.events.assert_lake(&lake);
        assert_eq!(self.difference(&lake), (0, 0), "lost and doubled");
        assert_eq!(self.s3.names(STAGING), Vec::<String>::new(), "strays");
    }

    /// How many of the raw events are missing, and how many are there too often.
    fn difference(&self, lake: &Path) -> (usize, usize) {
        let read = parse(&python("read_lake.py", &[&lake]));
        let mut times: BTreeMap<String, usize> = BTreeMap::new();
        for row in of_operator(&read, "events") {
            *times.entry(row["id"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        let mut difference = (0, 0);
        for payload in &self.payloads {
            let event: serde_json::Value = serde_json::from_slice(payload).unwrap();
            match times.remove(event["id"].as_str().unwrap()) {
                None => difference.0 += 1,
                Some(count) => difference.1 += count - 1,
            }
        }
        (difference.0, difference.1 + times.len())
    }
}

fn assert_no_secret(said: &str) {
    assert!(!said.contains(SECRET), "{said}");
}

#[test]
fn kills_lose_nothing() {
    let kills = rounds(12, 200);
    let mut stage = Stage::new(kills * 150 + 2_000);
    let (mut counted, mut done, mut resumed) = (0, 0, 0);
    while counted < kills {
        let before = stage.commits();
        stage.publish(150);
        let workers = stage.chance.between(1, 4);
        let mut running = stage.deployment(workers).start();
        // Some kills hit the start and the replay.
        if stage.chance.between(0, 10) < 8 {
            // The claim is an entry, too.
            stage.wait_commit(before + 1, &mut running);
        }
        let pause = stage.chance.between(0, 300_000);
        std::thread::sleep(Duration::from_micros(pause));
        running.assert_running();
        let ending = running.kill();
        assert_no_secret(&ending.stderr);
        done += 1;
        resumed += usize::from(ending.stderr.contains("going on from a checkpoint"));
        counted += usize::from(stage.commits() > before + 1);
    }
    stage.finish();
    println!(
        "kills on S3: {done} cycles, {counted} counted, {resumed} went on from a checkpoint, 0 \
         lost, 0 doubled of {} events, {} commits, seed {}",
        stage.payloads.len(),
        stage.commits(),
        stage.chance.seed
    );
    assert!(resumed > 0, "no run went on from a checkpoint");
}

#[test]
fn a_newer_instance_takes_over() {
    let takeovers = rounds(4, 40);
    let mut stage = Stage::new(takeovers * 400 + 1_000);
    let mut older = stage.deployment(1).start();
    for round in 0..takeovers {
        let before = stage.commits();
        stage.publish(200);
        stage.wait_commit(before + 1, &mut older);
        let is_paused = round % 2 == 1;
        if is_paused {
            let pause = stage.chance.between(0, 100_000);
            std::thread::sleep(Duration::from_micros(pause));
            older.signal("STOP");
        }
        let before = stage.commits();
        let mut newer = stage.deployment(round as u64 % 2 + 2).start();
        stage.publish(200);
        stage.wait_commit(before + 2, &mut newer);
        if is_paused {
            older.signal("CONT");
        }
        let ending = older.wait();
        assert_eq!(ending.status.code(), Some(3), "takeover {round}: {}", ending.stderr);
        assert!(ending.stderr.contains("taken over"), "{}", ending.stderr);
        older = newer;
    }
    older.kill();
    stage.finish();
    println!(
        "two instances on S3: {takeovers} takeovers, {takeovers} older ones ended with 3, seed {}",
        stage.chance.seed
    );
}

#[test]
fn a_store_that_is_down_is_waited_for() {
    const CAUSE: &str = "no answer from the store of";
    let mut stage = Stage::new(4_000);
    // Rows wait for their file when the store goes away.
    stage.roll = "400ms";
    let mut running = stage.deployment(2).start();
    for round in 0..rounds(2, 10) {
        let before = stage.commits();
        stage.publish(400);
        stage.wait_commit(before + 1, &mut running);
        stage.publish(100);
        let pause = stage.chance.between(0, 400_000);
        std::thread::sleep(Duration::from_micros(pause));
        let heard = running.said().len();
        stage.s3.down();
        stage.publish(200);
        wait_until("the store is missed", || {
            running.assert_running();
            running.said()[heard..].contains(CAUSE)
        });
        // The sink, and the writer of checkpoints.
        std::thread::sleep(Duration::from_secs(3));
        let said = running.said()[heard..].to_owned();
        let told = said.lines().filter(|line| line.contains(CAUSE)).count();
        assert!((1..=3).contains(&told), "round {round}: told {told} times: {said}");
        let before = stage.commits();
        stage.s3.up();
        stage.wait_commit(before + 1, &mut running);
    }
    // What lasts shorter is not worth a word.
    let (heard, before) = (running.said().len(), stage.commits());
    stage.s3.be_busy(3);
    stage.s3.lose_answers(3);
    stage.publish(300);
    stage.wait_commit(before, &mut running);
    running.assert_running();
    let said = running.said()[heard..].to_owned();
    let ending = running.terminate();
    assert_eq!(ending.status.code(), Some(0), "{}", ending.stderr);
    assert_no_secret(&ending.stderr);
    assert!(!said.contains(CAUSE), "{said}");
    stage.finish();
    println!("a store that was down: 0 lost, 0 doubled, seed {}", stage.chance.seed);
}

#[test]
fn a_damaged_checkpoint_is_passed_over() {
    let mut stage = Stage::new(2_000);
    for (kind, told) in [("manifest", "is damaged"), ("segment", "is not what was written")] {
        let manifests = || stage.s3.names("state/trading/");
        let is_manifest = |name: &&String| name.ends_with(".manifest");
        let count = |names: Vec<String>| names.iter().filter(is_manifest).count();
        let mut running = stage.deployment(2).start();
        let newest = manifests().iter().filter(is_manifest).max().cloned();
        for _ in 0..4 {
            stage.publish(100);
            let before = stage.commits();
            stage.wait_commit(before, &mut running);
        }
        wait_until("there are newer checkpoints", || {
            running.assert_running();
            let names = stage.s3.names("state/trading/");
            names.iter().filter(|name| is_manifest(name) && Some(*name) > newest.as_ref()).count()
                > 1
        });
        assert_eq!(running.terminate().status.code(), Some(0));
        let names = stage.s3.names("state/trading/");
        assert!(count(names.clone()) <= 3, "three are kept: {names:?}");
        let newest = names.iter().filter(|name| name.ends_with(kind)).max().unwrap();
        stage.s3.damage(newest);
        let before = stage.commits();
        let mut running = stage.deployment(1).start();
        stage.publish(100);
        stage.wait_commit(before + 1, &mut running);
        let said = running.terminate().stderr;
        assert!(said.contains(told), "{said}");
        assert!(said.contains("trying the one before"), "{said}");
        assert!(said.contains("going on from a checkpoint"), "{said}");
    }
    stage.finish();
}

#[test]
fn what_waiting_cannot_mend_is_said() {
    let stage = Stage::new(10);
    let refused = stage.deployment(1).set("AWS_ACCESS_KEY_ID", "SOMEBODYELSE").start().wait();
    assert_eq!(refused.status.code(), Some(4), "{}", refused.stderr);
    assert!(refused.stderr.contains("InvalidAccessKeyId"), "{}", refused.stderr);
    assert_no_secret(&refused.stderr);

    let text = "name = \"p\"\n[sources.numbers]\ntype = \"generate\"\ncount = 10\n[sinks.lake]\n\
                type = \"parquet\"\nfrom = [\"numbers\"]\n";
    let deployment = |path: &str| {
        let text = format!("{text}path = \"{path}\"\n");
        stage.s3.known_to(Deployment::new(&stage.directory.path().join("other"), &text))
    };
    let nowhere = deployment("s3://nowhere/x").start().wait();
    assert_eq!(nowhere.status.code(), Some(4), "{}", nowhere.stderr);
    assert!(nowhere.stderr.contains("there is no bucket"), "{}", nowhere.stderr);
    let checked = deployment("s3://nowhere/x").connect().wait();
    assert_eq!(checked.status.code(), Some(1), "{}", checked.stderr);
    assert!(checked.stderr.contains("there is no bucket"), "{}", checked.stderr);
    let checked = deployment("s3://lake/x").connect().wait();
    assert_eq!(checked.status.code(), Some(0), "{}", checked.stderr);
    assert_eq!(stage.s3.names("x"), Vec::<String>::new(), "nothing is left behind");

    let far = |path: &str| {
        deployment(path).set("AWS_ENDPOINT_URL", "http://s3.example.com").command("check").wait()
    };
    let plain = far("s3://lake/x");
    assert_eq!(plain.status.code(), Some(1), "{}", plain.stderr);
    assert!(plain.stderr.contains("without TLS"), "{}", plain.stderr);
    let wanted = far("s3://lake/x\"\ninsecure = true\n# \"");
    assert_eq!(wanted.status.code(), Some(0), "{}", wanted.stderr);
}

#[test]
fn the_other_stores_are_known_by_their_environment() {
    let directory = TempDir::new().unwrap();
    let check = |path: &str, variables: &[(&str, &str)]| {
        let text = format!(
            "name = \"p\"\n[engine]\ncheckpoint = {{ path = \"{path}/state\" }}\n[sources.numbers]\n\
             type = \"generate\"\ncount = 10\n[sinks.lake]\ntype = \"parquet\"\n\
             from = [\"numbers\"]\npath = \"{path}\"\n"
        );
        let mut deployment = Deployment::new(directory.path(), &text);
        for (name, value) in variables {
            deployment = deployment.set(name, *value);
        }
        let ending = deployment.command("check").wait();
        assert_no_secret(&ending.stderr);
        (ending.status.code(), ending.stderr)
    };
    let key = "Y2FuYXJ5LW9mLXRoZS1vYmplY3Qtc3RvcmU=";
    let azure = [("AZURE_STORAGE_ACCOUNT_NAME", "acme"), ("AZURE_STORAGE_ACCOUNT_KEY", key)];
    let (code, said) = check("az://lake/x", &azure);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = check("az://lake/x", &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("the object store cannot be used"), "{said}");
    let (code, said) = check("gs://lake/x", &[("GOOGLE_SKIP_SIGNATURE", "true")]);
    assert_eq!(code, Some(0), "{said}");
    let half = [("AWS_ACCESS_KEY_ID", "A"), ("AWS_ENDPOINT_URL", "https://s3.example.com")];
    let (code, said) = check("s3://lake/x", &half);
    assert_eq!(code, Some(1), "{said}");
}
