//! Publishes the benchmark's events to a JetStream stream, or writes them to a file.
//!
//! The events are those of the source `generate`, spread over some hours of event time; the same
//! options give the same events. Every publish is acknowledged, a few thousand at a time.

use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::process::ExitCode;
use std::time::Instant;

use async_nats::jetstream::{Context, stream};
use waterwheel_benches::options::Options;
use waterwheel_benches::publisher::{Publisher, connect};
use waterwheel_sources::generate::{Market, MarketSpec};

const USAGE: &str = "\
usage: publish --url URL --stream NAME --count N [--create] [--first N]
       publish --file PATH --count N [--first N]
options of both: [--seed 1] [--users 200000] [--symbols 50] [--hours 24]
--create makes the stream, with file storage and the subjects events.>
--first begins at another event than the first, for example to go on";

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("publish: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let mut options = Options::parse(std::env::args().skip(1), USAGE, &["create"])?;
    let count: u64 = options.need("count")?;
    let first = options.take("first")?.unwrap_or(1).max(1);
    let hours: i64 = options.take("hours")?.unwrap_or(24);
    let total = i64::try_from(count)?.max(1);
    let default = MarketSpec::default();
    let market = Market::new(MarketSpec {
        seed: options.take("seed")?.unwrap_or(default.seed),
        users: options.take("users")?.unwrap_or(200_000),
        symbols: options.take("symbols")?.unwrap_or(50),
        interval_us: hours.checked_mul(3_600_000_000).ok_or("too many hours")? / total,
        ..default
    });
    let events = Events { market, ordinals: first..=count };
    let began = Instant::now();
    if let Some(path) = options.take::<String>("file")? {
        options.finish()?;
        write(events, &path)?;
    } else {
        let (url, stream): (String, String) = (options.need("url")?, options.need("stream")?);
        let create = options.flag("create");
        options.finish()?;
        publish(events, &url, &stream, create).await?;
    }
    let (seconds, events) = (began.elapsed().as_secs_f64(), (count + 1).saturating_sub(first));
    let rate = events as f64 / seconds;
    eprintln!("{events} events in {seconds:.1} s: {rate:.0} events/s");
    Ok(())
}

struct Events {
    market: Market,
    ordinals: std::ops::RangeInclusive<u64>,
}

fn write(events: Events, path: &str) -> Result<(), Box<dyn Error>> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut line = Vec::new();
    for ordinal in events.ordinals {
        line.clear();
        events.market.write_event(ordinal, &mut line);
        line.push(b'\n');
        file.write_all(&line)?;
    }
    file.flush()?;
    Ok(())
}

async fn publish(
    events: Events,
    url: &str,
    name: &str,
    create: bool,
) -> Result<(), Box<dyn Error>> {
    let context = connect(url).await?;
    if create {
        create_stream(&context, name).await?;
    }
    let before = context.get_stream(name).await?.cached_info().state.messages;
    let mut publisher = Publisher::new(context.clone(), name);
    let mut line = Vec::new();
    for ordinal in events.ordinals {
        line.clear();
        let event = events.market.write_event(ordinal, &mut line);
        publisher.publish(event.subject, &line).await?;
    }
    let acknowledged = publisher.finish().await?;
    let after = context.get_stream(name).await?.cached_info().state.messages;
    if before + acknowledged != after {
        return Err(format!(
            "{acknowledged} events were acknowledged, but the stream grew from {before} to {after} messages"
        )
        .into());
    }
    Ok(())
}

async fn create_stream(context: &Context, name: &str) -> Result<(), Box<dyn Error>> {
    let config = stream::Config {
        name: name.to_owned(),
        subjects: vec!["events.>".to_owned()],
        storage: stream::StorageType::File,
        ..Default::default()
    };
    context.create_stream(config).await?;
    Ok(())
}
