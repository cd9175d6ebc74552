//! The baseline: a bare pull consumer of async-nats that counts the messages of a stream.
//!
//! Nothing can read a stream through this client for less: no acknowledgements, large pulls, and
//! nothing done with a message. Prints one line of JSON.

use std::process::ExitCode;
use std::time::Instant;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use futures::StreamExt;
use waterwheel_benches::options::Options;
use waterwheel_benches::processor;

const USAGE: &str = "usage: drain --url URL --stream NAME [--batch 5000]";

#[tokio::main]
async fn main() -> ExitCode {
    match drain().await {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("drain: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn drain() -> Result<String, Box<dyn std::error::Error>> {
    let mut options = Options::parse(std::env::args().skip(1), USAGE, &[])?;
    let url: String = options.need("url")?;
    let name: String = options.need("stream")?;
    let batch = options.take("batch")?.unwrap_or(5_000);
    options.finish()?;

    let client = async_nats::connect(&url).await?;
    let stream = async_nats::jetstream::new(client).get_stream(&name).await?;
    let last = stream.cached_info().state.last_sequence;
    let (began, used) = (Instant::now(), processor::own_seconds()?);
    let config = pull::Config {
        ack_policy: AckPolicy::None,
        deliver_policy: DeliverPolicy::All,
        ..Default::default()
    };
    let consumer = stream.create_consumer(config).await?;
    let mut messages = consumer.stream().max_messages_per_batch(batch).messages().await?;
    let (mut events, mut bytes, mut sequence) = (0_u64, 0, 0);
    while sequence < last {
        let message = messages.next().await.ok_or("the consumer ended before the stream")??;
        // Every reader of a stream must know where it is.
        sequence = message.info().map_err(|error| error.to_string())?.stream_sequence;
        events += 1;
        bytes += message.payload.len();
    }
    let (seconds, used) = (began.elapsed().as_secs_f64(), processor::own_seconds()? - used);
    Ok(serde_json::json!({
        "events": events,
        "bytes": bytes,
        "seconds": seconds,
        "cpu_seconds": used,
    })
    .to_string())
}
