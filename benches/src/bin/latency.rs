//! How long it takes from the moment an event is published until its result can be read.
//!
//! Publishes at a steady rate. Every so many events one is a probe, with a number of its own; the
//! pipeline counts probes by number. A probe was published when it was *to be* sent: where the
//! publisher or the server is slow, the delay counts. Prints one line of JSON.

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_nats::jetstream::{Context, stream};
use waterwheel_benches::observe::{Observer, Place};
use waterwheel_benches::options::Options;
use waterwheel_benches::publisher::{Publisher, connect};
use waterwheel_benches::spread::quantile_ms;
use waterwheel_sources::generate::{Market, MarketSpec};

const USAGE: &str = "\
usage: latency --url URL --prepare
       latency --url URL [--postgres URL] [--rate 50000] [--probes 200] [--warm-up 5] [--seconds 30]
--prepare makes the streams EVENTS (events.>) and RESULTS (results.>, waterwheel.progress.>) anew
--postgres names where the table `probes` appears; without it results come to the stream RESULTS
--rate and --probes are per second; a probe is one of the events";

const EVENTS: &str = "EVENTS";
const RESULTS: &str = "RESULTS";

/// How long the pipeline may take to start, and what is missing in the end to appear.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at the schedule: so late an event may be sent, which counts as its latency.
const TICK: Duration = Duration::from_micros(500);

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(said) => {
            print!("{said}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("latency: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<String, Box<dyn Error>> {
    let mut options = Options::parse(std::env::args().skip(1), USAGE, &["prepare"])?;
    let url: String = options.need("url")?;
    let context = connect(&url).await?;
    if options.flag("prepare") {
        options.finish()?;
        create(&context, EVENTS, &["events.>"]).await?;
        create(&context, RESULTS, &["results.>", "waterwheel.progress.>"]).await?;
        return Ok(String::new());
    }
    let place = match options.take::<String>("postgres")? {
        Some(postgres) => Place::Postgres(postgres),
        None => Place::Stream(url, RESULTS.to_owned()),
    };
    let load = Load {
        rate: options.take("rate")?.unwrap_or(50_000).max(1),
        probes: options.take("probes")?.unwrap_or(200).max(1),
        warm_up: options.take("warm-up")?.unwrap_or(5),
        seconds: options.take("seconds")?.unwrap_or(30),
    };
    options.finish()?;
    let observer = Observer::start(place);
    let mut publisher = Publisher::new(context, EVENTS);
    // The pipeline is up once the probe 0 is through.
    let now_us = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros();
    publisher.publish("events.probe", &probe(0, i64::try_from(now_us)?)).await?;
    wait(|| observer.read(|seen| seen.at.contains_key(&0)))?
        .then_some(())
        .ok_or("the pipeline did not count an event within a minute")?;
    let run = load.publish(publisher).await?;
    wait(|| observer.read(|seen| run.sent.iter().all(|(probe, ..)| seen.at.contains_key(probe))))?;
    Ok(format!("{}\n", report(&load, &run, &observer)?))
}

/// Makes a stream anew.
async fn create(context: &Context, name: &str, subjects: &[&str]) -> Result<(), Box<dyn Error>> {
    // Most often there is none.
    let _ = context.delete_stream(name).await;
    let config = stream::Config {
        name: name.to_owned(),
        subjects: subjects.iter().map(|subject| (*subject).to_owned()).collect(),
        storage: stream::StorageType::File,
        allow_atomic_publish: true,
        ..Default::default()
    };
    context.create_stream(config).await?;
    Ok(())
}

/// What is published.
struct Load {
    rate: u32,
    probes: u32,
    warm_up: u32,
    seconds: u32,
}

/// What was published.
struct Published {
    events: u64,
    seconds: f64,
    /// Each probe after the warm-up: its number, when it was to be sent, when it was.
    sent: Vec<(u64, Instant, Instant)>,
}

impl Load {
    /// Publishes by the schedule, which does not wait for anything.
    async fn publish(&self, mut publisher: Publisher) -> Result<Published, Box<dyn Error>> {
        let interval_us = i64::from(1_000_000 / self.rate).max(1);
        let start_us = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros())?;
        let spec = MarketSpec { users: 200_000, symbols: 50, interval_us, start_us, seed: 1 };
        let market = Market::new(spec);
        let total = u64::from(self.rate) * u64::from(self.warm_up + self.seconds);
        let warm = u64::from(self.rate) * u64::from(self.warm_up);
        let every = u64::from(self.rate / self.probes).max(1);
        let (mut sent, mut line) = (Vec::new(), Vec::new());
        let began = Instant::now();
        let due = |ordinal| began + Duration::from_secs_f64(ordinal as f64 / f64::from(self.rate));
        for ordinal in 1..=total {
            while Instant::now() < due(ordinal) {
                // This is the thread of main alone: the client works on others.
                std::thread::sleep(TICK);
            }
            if ordinal % every == 0 {
                let number = ordinal / every;
                let timestamp_us = start_us + interval_us * i64::try_from(ordinal)?;
                publisher.publish("events.probe", &probe(number, timestamp_us)).await?;
                if ordinal > warm {
                    sent.push((number, due(ordinal), Instant::now()));
                }
            } else {
                line.clear();
                let event = market.write_event(ordinal, &mut line);
                publisher.publish(event.subject, &line).await?;
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        Ok(Published { events: publisher.finish().await?, seconds, sent })
    }
}

fn probe(number: u64, timestamp_us: i64) -> Vec<u8> {
    format!(
        "{{\"id\":\"probe-{number}\",\"event_type\":\"probe\",\"timestamp\":{timestamp_us},\
         \"properties\":{{\"probe\":{number}}}}}"
    )
    .into_bytes()
}

/// Waits until something holds; false if it did not in time.
fn wait(holds: impl Fn() -> Result<bool, String>) -> Result<bool, String> {
    let began = Instant::now();
    while !holds()? {
        if began.elapsed() > PATIENCE {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(true)
}

fn report(load: &Load, run: &Published, observer: &Observer) -> Result<String, String> {
    let mut late: Vec<Duration> = run.sent.iter().map(|(_, due, sent)| *sent - *due).collect();
    late.sort_unstable();
    observer.read(|seen| {
        let took = |(number, due, _): &(u64, Instant, Instant)| {
            seen.at.get(number).map(|at| at.saturating_duration_since(*due))
        };
        let mut took: Vec<Duration> = run.sent.iter().filter_map(took).collect();
        took.sort_unstable();
        let mut looks = seen.looks.clone();
        looks.sort_unstable();
        serde_json::json!({
            "events": run.events,
            "events_per_second": run.events as f64 / run.seconds,
            "rate": load.rate,
            "probes": run.sent.len(),
            "missing": run.sent.len() - took.len(),
            "repeated": seen.repeated,
            "p50_ms": quantile_ms(&took, 0.5),
            "p90_ms": quantile_ms(&took, 0.9),
            "p99_ms": quantile_ms(&took, 0.99),
            "max_ms": quantile_ms(&took, 1.0),
            "sent_late_p50_ms": quantile_ms(&late, 0.5),
            "sent_late_p99_ms": quantile_ms(&late, 0.99),
            "look_p50_ms": quantile_ms(&looks, 0.5),
            "look_p99_ms": quantile_ms(&looks, 0.99),
        })
        .to_string()
    })
}
