//! Where a scenario plays: the servers, one pipeline with all three sinks, a publisher, a watch.
//!
//! A scenario plays in episodes. Each has a stream, a database and a lake of its own and ends with a
//! comparison, so that the stream stays short however many faults there are.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::stream::{Config, RetentionPolicy};
use tempfile::TempDir;

use super::load::Load;
use super::results::Results;
use super::truth::{Difference, Truth};
use super::watch::{Eyes, Places, Points, SINKS, Watch};
use super::{Counts, Options};
use crate::support::nats_server::NatsServer;
use crate::support::postgres::Postgres;
use crate::support::proxy::Proxy;
use crate::support::python::python;
use crate::support::rounds::Chance;
use crate::support::stream::{block_on, connect};
use crate::support::trading::PIPELINE;
use crate::support::waterwheel::{Deployment, Ending, Waterwheel};

const CHECKPOINT: &str = r#"checkpoint = { path = "${STATE}", every = "100ms", keep = 3 }"#;

const DEPLOYMENT: &str = r#"
name = "trading"

[engine]
flush = "10ms"
workers = {workers}
{checkpoint}

[sources.events]
type = "nats"
url = "${NATS}"
stream = "EVENTS"
start = "first"
until = "${UNTIL:-forever}"
lateness = "30s"

[sinks.warehouse]
type = "postgres"
from = ["events", "volume", "fills", "fill_latency", "onboarding"]
url = "${DATABASE}"
indexes = false

[sinks.lake]
type = "parquet"
from = ["events", "volume", "fills", "fill_latency", "onboarding"]
path = "${LAKE}"
roll = { rows = 500, every = "{roll}" }

[sinks.results]
type = "nats"
from = ["events", "volume", "fills", "fill_latency", "onboarding"]
url = "${NATS}"
subject = "results.{operator}"
"#;

/// What an episode is like.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// How often the lake begins new files.
    pub(super) roll: &'static str,
    /// The stream keeps messages only until they are acknowledged.
    pub(super) is_work_queue: bool,
    /// The pipeline keeps checkpoints; without them each start reads the stream from its beginning.
    pub(super) has_checkpoints: bool,
}

/// Where a scenario does not say.
pub(super) const ORDINARY: Shape =
    Shape { roll: "60ms", is_work_queue: false, has_checkpoints: true };

/// An episode with fewer messages would have no funnel, no fill, or no late event.
const EVENTS_LEAST: usize = 800;

/// How long a pipeline may take to get on that takes milliseconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The servers and the pipeline of a scenario.
pub(super) struct Stage {
    // The first one: its threads end before the servers do.
    episode: Option<Episode>,
    pub(super) chance: Chance,
    pub(super) nats: NatsServer,
    pub(super) postgres: Postgres,
    bug: Option<&'static str>,
    lines: Arc<Vec<Vec<u8>>>,
    episodes: usize,
    shape: Shape,
    /// What was found in all episodes.
    total: Total,
    // The last one: removed after the servers have ended.
    directory: TempDir,
}

struct Episode {
    load: Load,
    watch: Watch,
    places: Places,
    database: String,
}

#[derive(Default)]
struct Total {
    messages: u64,
    commits: u64,
    torn: u64,
    looks: u64,
    backwards: u64,
    difference: Difference,
}

impl Stage {
    /// Starts the servers and makes so many events: the most that an episode can publish.
    pub(super) fn new(options: &Options, events: usize) -> Self {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("events.jsonl");
        python("events.py", &[&events.to_string(), &file]);
        let text = std::fs::read_to_string(&file).unwrap();
        let lines = text.lines().map(|line| line.as_bytes().to_vec()).collect();
        Self {
            episode: None,
            chance: Chance::from_seed(options.seed),
            nats: NatsServer::start(),
            postgres: Postgres::start(&directory.path().join("postgres")).unwrap(),
            bug: options.bug,
            lines: Arc::new(lines),
            episodes: 0,
            shape: ORDINARY,
            total: Total::default(),
            directory,
        }
    }

    /// Begins an episode.
    pub(super) fn begin(&mut self) {
        self.begin_as(ORDINARY);
    }

    /// Begins an episode that is like this.
    pub(super) fn begin_as(&mut self, shape: Shape) {
        self.shape = shape;
        self.episodes += 1;
        let database = format!("episode_{}", self.episodes);
        self.postgres.query(&format!("create database {database}")).unwrap();
        let is_first = self.episodes == 1;
        block_on(async {
            let context = connect(&self.nats.url()).await;
            for (name, subjects) in [
                ("EVENTS", &["events.>"][..]),
                ("RESULTS", &["results.>", "waterwheel.progress.>"]),
            ] {
                if !is_first {
                    context.delete_stream(name).await.unwrap();
                }
                let is_work_queue = shape.is_work_queue && name == "EVENTS";
                let retention = if is_work_queue {
                    RetentionPolicy::WorkQueue
                } else {
                    RetentionPolicy::Limits
                };
                let config = Config {
                    retention,
                    name: name.to_owned(),
                    subjects: subjects.iter().map(|subject| (*subject).to_owned()).collect(),
                    allow_atomic_publish: name == "RESULTS",
                    ..Config::default()
                };
                context.create_stream(config).await.unwrap();
            }
        });
        let places = Places {
            postgres: self.postgres.url_of(&database),
            nats: self.nats.url(),
            lake: self.directory.path().join(format!("lake{}", self.episodes)),
        };
        let seed = self.chance.between(0, u64::MAX);
        let load = Load::start(self.nats.url(), self.lines.clone(), seed);
        self.episode =
            Some(Episode { load, watch: Watch::start(places.clone()), places, database });
    }

    fn episode(&self) -> &Episode {
        self.episode.as_ref().expect("an episode has begun")
    }

    /// Lets so many more messages come quickly.
    pub(super) fn allow(&self, count: usize) {
        self.episode().load.allow(count);
    }

    /// The lake of the episode.
    pub(super) fn lake(&self) -> PathBuf {
        self.episode().places.lake.clone()
    }

    /// The database of the episode.
    pub(super) fn database(&self) -> &str {
        &self.episode().database
    }

    /// A proxy in front of Postgres.
    pub(super) fn proxy(&self) -> Proxy {
        let url = self.postgres.url();
        let port = url.rsplit(':').next().and_then(|rest| rest.split('/').next());
        Proxy::start(port.and_then(|port| port.parse().ok()).expect("a port in the URL"))
    }

    /// The pipeline with so many workers; instances that run at the same time need other numbers.
    pub(super) fn deployment(&self, workers: u64) -> Deployment {
        let checkpoint = if self.shape.has_checkpoints { CHECKPOINT } else { "" };
        let text = DEPLOYMENT
            .replace("{workers}", &workers.to_string())
            .replace("{checkpoint}", checkpoint)
            .replace("{roll}", self.shape.roll);
        let directory = self.directory.path();
        let places = &self.episode().places;
        let run = directory.join(format!("run{}_{workers}", self.episodes));
        let deployment = Deployment::new(&run, &format!("{text}{PIPELINE}"))
            .set("NATS", &places.nats)
            .set("DATABASE", &places.postgres)
            .set("LAKE", &places.lake)
            .set("STATE", directory.join(format!("state{}", self.episodes)));
        match self.bug {
            Some(bug) => deployment.set("WATERWHEEL_SEEDED_BUGS", bug),
            None => deployment,
        }
    }

    /// Starts the pipeline with one to three workers.
    pub(super) fn start(&mut self) -> Waterwheel {
        let workers = self.chance.between(1, 4);
        self.deployment(workers).start()
    }

    /// Lets time pass: at most so much, by chance. This is the moment of the fault.
    pub(super) fn pass(&mut self, most_ms: u64) {
        let micros = self.chance.between(0, most_ms * 1000);
        std::thread::sleep(Duration::from_micros(micros));
    }

    /// How far the sinks were at the watch's last look.
    pub(super) fn points(&self) -> Points {
        self.episode().watch.points()
    }

    /// How far the sinks are now.
    pub(super) fn look(&self) -> Result<Points, String> {
        let look = Eyes::new(self.episode().places.clone()).look();
        let mut points = Points::default();
        for (index, point) in look.points.iter().enumerate() {
            points[index] = point.ok_or_else(|| format!("{} cannot be seen", SINKS[index]))?;
        }
        Ok(points)
    }

    /// Waits until it is so; the process must not end by itself meanwhile.
    pub(super) fn wait(
        &self,
        what: &str,
        running: &mut Waterwheel,
        mut is_so: impl FnMut(&Points) -> bool,
    ) -> Result<(), String> {
        let started = Instant::now();
        while !is_so(&self.points()) {
            if running.has_ended() {
                return Err(format!("waterwheel ended by itself: {}", running.said()));
            }
            self.patience(started, what, running)?;
        }
        Ok(())
    }

    /// Waits until some sink has committed more than at `before`.
    pub(super) fn wait_commit(
        &self,
        before: &Points,
        running: &mut Waterwheel,
    ) -> Result<(), String> {
        self.wait("something is committed", running, |now| advanced(before, now) > 0)
    }

    /// Waits until the process ends by itself.
    pub(super) fn wait_end(&self, what: &str, mut running: Waterwheel) -> Result<Ending, String> {
        let started = Instant::now();
        while !running.has_ended() {
            self.patience(started, what, &mut running)?;
        }
        Ok(running.wait())
    }

    fn patience(&self, since: Instant, what: &str, running: &mut Waterwheel) -> Result<(), String> {
        let found = self.episode().watch.found();
        if let Some(problem) = found.problems.first() {
            return Err(problem.clone());
        }
        if since.elapsed() > PATIENCE {
            let (load, said) = (&self.episode().load, running.said());
            return Err(format!(
                "waited {PATIENCE:?} in vain until {what}: {:?}, {} published, {}: {said}",
                found.points,
                load.published(),
                if load.goes_on() { "more to come" } else { "no more to come" },
            ));
        }
        std::thread::sleep(Duration::from_millis(2));
        Ok(())
    }

    /// Ends the episode: runs to the end of the stream and compares every sink with the recompute.
    pub(super) fn finish(&mut self) -> Result<(), String> {
        let workers = self.chance.between(1, 4);
        let deployment = self.deployment(workers).set("UNTIL", "final");
        let started = Instant::now();
        self.allow(EVENTS_LEAST);
        while self.episode().load.published() < EVENTS_LEAST && self.episode().load.goes_on() {
            if started.elapsed() > PATIENCE {
                return Err("the publisher is stuck".to_owned());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let Some(Episode { load, watch, places, database }) = self.episode.take() else {
            return Err("no episode has begun".to_owned());
        };
        let published = load.stop()?;
        let ending = deployment.start().wait();
        if !ending.status.success() {
            return Err(format!("the last run: {}: {}", ending.status, ending.stderr));
        }
        let found = watch.stop()?;
        if let Some(problem) = found.problems.first() {
            return Err(problem.clone());
        }
        let results = Results::read(&places.nats)?;
        let truth = Truth::of(&self.lines[..published], self.directory.path());
        let differences = [
            truth.postgres(&self.postgres, &database),
            truth.lake(&places.lake),
            truth.results(&results),
        ];
        for (sink, difference) in SINKS.iter().zip(differences) {
            if difference != Difference::default() {
                return Err(format!("{sink}, of {published} events: {difference:?}"));
            }
            self.total.difference.lost += difference.lost;
            self.total.difference.doubled += difference.doubled;
        }
        no_strays(&places.lake)?;
        self.total.messages += published as u64;
        self.total.commits += results.commits;
        self.total.torn += results.torn;
        self.total.looks += found.looks;
        self.total.backwards += found.backwards;
        Ok(())
    }

    /// What a scenario reports.
    pub(super) fn counts(&self, done: String) -> Counts {
        let Total { messages, commits, torn, looks, backwards, difference } = &self.total;
        let Difference { lost, doubled } = difference;
        Counts(format!(
            "{done}, {lost} lost, {doubled} doubled, prefix backwards {backwards} of {looks} looks, \
             {messages} messages, {commits} commits on nats ({torn} torn between batches)"
        ))
    }
}

/// How many sinks have committed more than before.
pub(super) fn advanced(before: &Points, now: &Points) -> usize {
    before.iter().zip(now).filter(|(before, now)| now.ordinal > before.ordinal).count()
}

/// A finished lake has nothing left in its staging directory.
fn no_strays(lake: &std::path::Path) -> Result<(), String> {
    for own in std::fs::read_dir(lake.join("_waterwheel")).into_iter().flatten().flatten() {
        let staging = std::fs::read_dir(own.path().join("staging")).into_iter().flatten();
        let left: Vec<String> =
            staging.flatten().map(|file| file.file_name().to_string_lossy().into_owned()).collect();
        if !left.is_empty() {
            return Err(format!("the lake keeps stray files: {}", left.join(", ")));
        }
    }
    Ok(())
}
