//! Watches where results appear, and notes when each probe is there for the first time.
//!
//! A probe is an event with a number of its own; the pipeline counts probes by number, so that the
//! row of a number is there as soon as that very event is counted.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{AckPolicy, pull};
use futures::StreamExt;
use tokio_postgres::{NoTls, Statement};

/// Between two looks at a table.
const BETWEEN_LOOKS: Duration = Duration::from_micros(500);

/// Where the results appear.
#[derive(Clone, Debug)]
pub enum Place {
    /// The table `probes` with the column `probe`, of the server at this address.
    Postgres(String),
    /// Messages on the subject `results.probes` in a stream; the server's address, and its name.
    Stream(String, String),
}

/// What was seen until now.
#[derive(Debug, Default)]
pub struct Seen {
    /// When each probe was there for the first time.
    pub at: HashMap<u64, Instant>,
    /// How long each look at a table took.
    pub looks: Vec<Duration>,
    /// Probes that were there more often than once.
    pub repeated: u64,
    /// Why the watching ended.
    pub problem: Option<String>,
}

/// Watches on a thread of its own, until the process ends.
#[derive(Debug)]
pub struct Observer {
    seen: Arc<Mutex<Seen>>,
    _thread: JoinHandle<()>,
}

impl Observer {
    /// Begins to watch.
    pub fn start(place: Place) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = Arc::clone(&seen);
        let thread = thread::spawn(move || {
            let ended = watch(&place, &shared);
            let problem = ended.err().map(|error| error.to_string());
            with(&shared, |seen| seen.problem = Some(problem.unwrap_or_else(|| "it ended".into())));
        });
        Self { seen, _thread: thread }
    }

    /// Reads what was seen.
    ///
    /// # Errors
    /// The watching has ended.
    pub fn read<T>(&self, what: impl FnOnce(&Seen) -> T) -> Result<T, String> {
        with(&self.seen, |seen| match &seen.problem {
            Some(problem) => Err(format!("cannot watch the results: {problem}")),
            None => Ok(what(seen)),
        })
    }
}

fn with<T>(seen: &Mutex<Seen>, work: impl FnOnce(&mut Seen) -> T) -> T {
    work(&mut seen.lock().unwrap_or_else(PoisonError::into_inner))
}

fn watch(place: &Place, seen: &Mutex<Seen>) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match place {
        Place::Postgres(url) => runtime.block_on(watch_table(url, seen)),
        Place::Stream(url, name) => runtime.block_on(watch_stream(url, name, seen)),
    }
}

/// Looks for rows beyond the probes that are all there, again and again; an index answers that.
async fn watch_table(url: &str, seen: &Mutex<Seen>) -> Result<(), Box<dyn Error>> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    let statement = prepared(&client).await?;
    let mut complete = -1_i64;
    loop {
        let began = Instant::now();
        let rows = client.query(&statement, &[&complete]).await?;
        let at = Instant::now();
        with(seen, |seen| {
            seen.looks.push(at - began);
            for row in &rows {
                let probe: i64 = row.get(0);
                seen.at.entry(probe.unsigned_abs()).or_insert(at);
            }
            while seen.at.contains_key(&(complete + 1).unsigned_abs()) {
                complete += 1;
            }
        });
        // The connection may sleep with us: nothing is on the way. Timers of tokio are too coarse.
        thread::sleep(BETWEEN_LOOKS);
    }
}

/// The table appears when the pipeline starts.
async fn prepared(client: &tokio_postgres::Client) -> Result<Statement, Box<dyn Error>> {
    const SQL: &str = "select probe from probes where probe > $1 order by probe";
    loop {
        let there = client.query_one("select to_regclass('probes') is not null", &[]).await?;
        if there.get(0) {
            return Ok(client.prepare(SQL).await?);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// As a consumer of the stream, which gets what is stored there; on the bare subject a message can
/// be heard that is not stored yet.
async fn watch_stream(url: &str, name: &str, seen: &Mutex<Seen>) -> Result<(), Box<dyn Error>> {
    let context = async_nats::jetstream::new(async_nats::connect(url).await?);
    let config = pull::Config {
        ack_policy: AckPolicy::None,
        filter_subject: "results.probes".to_owned(),
        ..Default::default()
    };
    let consumer = context.get_stream(name).await?.create_consumer(config).await?;
    let mut messages = consumer.messages().await?;
    while let Some(message) = messages.next().await {
        let at = Instant::now();
        let row: serde_json::Value = serde_json::from_slice(&message?.payload)?;
        let probe = row["probe"].as_u64().ok_or("a result is of no probe")?;
        with(seen, |seen| match seen.at.entry(probe) {
            std::collections::hash_map::Entry::Vacant(first) => _ = first.insert(at),
            std::collections::hash_map::Entry::Occupied(_) => seen.repeated += 1,
        });
    }
    Ok(())
}
