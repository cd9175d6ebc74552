//! Looks at the sinks all the time, as their readers do: what they show must be a prefix of the
//! stream, and the prefix must never go backwards.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use async_nats::jetstream::{self, stream::Stream};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio_postgres::NoTls;

/// The sinks of the deployment.
pub(super) const SINKS: [&str; 3] = ["warehouse", "lake", "results"];

/// Between two looks.
const EVERY: Duration = Duration::from_millis(8);

/// A server that says nothing for so long has given no answer.
const ANSWER: Duration = Duration::from_secs(2);

/// The progress, and what the tables show, of one snapshot.
const SNAPSHOT: &str = "
    select p.generation, coalesce(p.epoch, 0),
           coalesce((p.positions->'events'->>'ordinal')::bigint, 0),
           (select count(*) from events), (select coalesce(max(sequence), 0)::bigint from events),
           (select coalesce(sum(trades), 0)::bigint from volume where granularity = '1h'),
           (select count(*) from events where event_type = 'order.filled' and not late)
    from waterwheel.progress p where p.pipeline = 'trading' and p.sink = 'warehouse'";

/// How far a sink is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Point {
    pub(super) generation: u64,
    pub(super) epoch: u64,
    /// The sequence of the last message that it has.
    pub(super) ordinal: u64,
}

/// How far each sink is, in the order of [`SINKS`].
pub(super) type Points = [Point; 3];

/// Where the sinks are.
#[derive(Clone)]
pub(super) struct Places {
    pub(super) postgres: String,
    pub(super) nats: String,
    pub(super) lake: PathBuf,
}

/// A thread that looks until it is stopped.
pub(super) struct Watch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    found: Mutex<Found>,
    is_over: AtomicBool,
}

/// What the looks have shown.
#[derive(Clone, Default)]
pub(super) struct Found {
    pub(super) points: Points,
    /// How often all that was found was compared with what was found before.
    pub(super) looks: u64,
    /// How often a sink was seen to go backwards.
    pub(super) backwards: u64,
    pub(super) problems: Vec<String>,
}

impl Watch {
    pub(super) fn start(places: Places) -> Self {
        let shared = Arc::new(Shared::default());
        let watching = shared.clone();
        let thread = std::thread::spawn(move || {
            let mut eyes = Eyes::new(places);
            while !watching.is_over.load(Ordering::Relaxed) {
                let look = eyes.look();
                watching.found().add(&look);
                std::thread::sleep(EVERY);
            }
        });
        Self { shared, thread: Some(thread) }
    }

    /// What was found so far.
    pub(super) fn found(&self) -> Found {
        self.shared.found().clone()
    }

    /// How far the sinks were at the last look.
    pub(super) fn points(&self) -> Points {
        self.shared.found().points
    }

    /// Ends it.
    pub(super) fn stop(mut self) -> Result<Found, String> {
        self.shared.is_over.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        if matches!(ended, Some(Err(_))) {
            return Err("the watch panicked".to_owned());
        }
        Ok(self.found())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Shared {
    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one look showed; a sink that cannot be seen shows nothing.
#[derive(Default)]
pub(super) struct Look {
    pub(super) points: [Option<Point>; 3],
    problem: Option<String>,
}

impl Found {
    fn add(&mut self, look: &Look) {
        self.problems.extend(look.problem.clone());
        for (index, new) in look.points.iter().enumerate() {
            let Some(new) = new else { continue };
            let old = self.points[index];
            let is_backwards = new.generation < old.generation
                || new.epoch < old.epoch
                || new.ordinal < old.ordinal;
            if is_backwards {
                self.backwards += 1;
                self.problems.push(format!("{} went from {old:?} to {new:?}", SINKS[index]));
            }
            self.points[index] = *new;
            self.looks += 1;
        }
    }
}

/// Connections to the sinks, made again when they break.
pub(super) struct Eyes {
    runtime: Runtime,
    places: Places,
    client: Option<tokio_postgres::Client>,
    stream: Option<Stream>,
}

impl Eyes {
    pub(super) fn new(places: Places) -> Self {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { runtime, places, client: None, stream: None }
    }

    /// Looks at every sink once.
    pub(super) fn look(&mut self) -> Look {
        let mut look = Look::default();
        let Self { runtime, places, client, stream } = self;
        let warehouse = async {
            tokio::time::timeout(ANSWER, warehouse(client, &places.postgres)).await.ok().flatten()
        };
        if let Some((point, problem)) = runtime.block_on(warehouse) {
            look.points[0] = Some(point);
            look.problem = problem;
        } else {
            self.client = None;
        }
        look.points[1] = lake(&places.lake);
        let results = async {
            tokio::time::timeout(ANSWER, results(stream, &places.nats)).await.ok().flatten()
        };
        look.points[2] = runtime.block_on(results);
        if look.points[2].is_none() {
            self.stream = None;
        }
        look
    }
}

/// How far Postgres is, and what is wrong with what it shows.
async fn warehouse(
    client: &mut Option<tokio_postgres::Client>,
    url: &str,
) -> Option<(Point, Option<String>)> {
    if client.is_none() {
        let (fresh, connection) = tokio_postgres::connect(url, NoTls).await.ok()?;
        tokio::spawn(connection);
        *client = Some(fresh);
    }
    // Before the first run there are no tables.
    let row = client.as_ref()?.query_opt(SNAPSHOT, &[]).await.ok()??;
    let number = |at: usize| row.get::<_, i64>(at).unsigned_abs();
    let point = Point { generation: number(0), epoch: number(1), ordinal: number(2) };
    let shown = (number(3), number(4));
    let problem = if shown != (point.ordinal, point.ordinal) {
        Some(format!("a snapshot shows {} events, the last {}, at {point:?}", shown.0, shown.1))
    } else if number(5) != number(6) {
        Some(format!("a snapshot shows {} trades of {} fills, at {point:?}", number(5), number(6)))
    } else {
        None
    };
    Some((point, problem))
}

/// How far the lake's manifest is.
fn lake(directory: &Path) -> Option<Point> {
    let newest = manifest(directory)?;
    let text = fs::read_to_string(newest).ok()?;
    let entry: Value = serde_json::from_str(&text).ok()?;
    Some(point(&entry))
}

/// The newest entry of the lake's manifest.
fn manifest(directory: &Path) -> Option<PathBuf> {
    let own = fs::read_dir(directory.join("_waterwheel")).ok()?.flatten().next()?.path();
    let entries = fs::read_dir(own.join("log")).ok()?.flatten().map(|entry| entry.path());
    entries.filter(|path| path.extension().is_some_and(|end| end == "json")).max()
}

/// How far the results on NATS are.
async fn results(stream: &mut Option<Stream>, url: &str) -> Option<Point> {
    if stream.is_none() {
        let client = async_nats::connect(url).await.ok()?;
        *stream = Some(jetstream::new(client).get_stream("RESULTS").await.ok()?);
    }
    let last = stream.as_ref()?.get_last_raw_message_by_subject(super::results::PROGRESS).await;
    let stored: Value = serde_json::from_slice(&last.ok()?.payload).ok()?;
    Some(point(&stored))
}

/// What a lake's manifest and a progress message on NATS have in common.
fn point(stored: &Value) -> Point {
    let record = &stored["progress"]["record"];
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    Point {
        generation: number(&stored["generation"]),
        epoch: number(&record["epoch"]),
        ordinal: number(&record["positions"]["events"]["ordinal"]),
    }
}

mod tests {
    use super::*;

    #[test]
    fn a_sink_that_goes_backwards_is_noticed() {
        let look = |ordinal| Look {
            points: [None, Some(Point { generation: 1, epoch: 1, ordinal }), None],
            problem: None,
        };
        let mut found = Found::default();
        found.add(&look(5));
        found.add(&look(5));
        found.add(&look(6));
        assert_eq!((found.backwards, found.problems.len()), (0, 0));
        found.add(&look(5));
        assert_eq!((found.backwards, found.problems.len()), (1, 1));
    }
}
