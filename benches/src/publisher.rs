//! Publishes to a JetStream stream, and does not believe an event stored before the server says so.

use std::collections::VecDeque;
use std::error::Error;
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::context::{ContextBuilder, PublishAckFuture};
use bytes::BytesMut;

/// Acknowledgements outstanding: enough to keep the server busy.
const WINDOW: usize = 4_096;

/// Payloads are cut from buffers of this size, so that few allocations serve many of them.
const BUFFER_BYTES: usize = 256 << 10;

/// Publishes to one stream, a few thousand events ahead of their acknowledgements.
#[derive(Debug)]
pub struct Publisher {
    context: Context,
    stream: String,
    waiting: VecDeque<PublishAckFuture>,
    acknowledged: u64,
    buffer: BytesMut,
}

/// A context for so many acknowledgements on the way.
///
/// # Errors
/// The server cannot be reached.
pub async fn connect(url: &str) -> Result<Context, Box<dyn Error>> {
    let client = async_nats::connect(url).await?;
    let builder = ContextBuilder::new().max_ack_inflight(2 * WINDOW);
    Ok(builder.ack_timeout(Duration::from_secs(30)).build(client))
}

impl Publisher {
    /// Publishes to a stream that is there.
    pub fn new(context: Context, stream: &str) -> Self {
        Self {
            context,
            stream: stream.to_owned(),
            waiting: VecDeque::with_capacity(WINDOW),
            acknowledged: 0,
            buffer: BytesMut::new(),
        }
    }

    /// Sends one event; waits only where too many are not acknowledged yet.
    ///
    /// # Errors
    /// An earlier event was not stored, or the connection is gone.
    pub async fn publish(
        &mut self,
        subject: &'static str,
        line: &[u8],
    ) -> Result<(), Box<dyn Error>> {
        if self.buffer.capacity() < line.len() {
            self.buffer = BytesMut::with_capacity(BUFFER_BYTES.max(line.len()));
        }
        self.buffer.extend_from_slice(line);
        let payload = self.buffer.split().freeze();
        if self.waiting.len() == WINDOW {
            self.acknowledge().await?;
        }
        self.waiting.push_back(self.context.publish(subject, payload).await?);
        Ok(())
    }

    /// Waits for all acknowledgements, and returns how many events were stored.
    ///
    /// # Errors
    /// An event was not stored.
    pub async fn finish(mut self) -> Result<u64, Box<dyn Error>> {
        while !self.waiting.is_empty() {
            self.acknowledge().await?;
        }
        Ok(self.acknowledged)
    }

    /// Waits for the oldest acknowledgement and checks that it speaks of a new message of this stream.
    async fn acknowledge(&mut self) -> Result<(), Box<dyn Error>> {
        let Some(oldest) = self.waiting.pop_front() else {
            return Ok(());
        };
        let said = oldest.await?;
        if said.stream != self.stream || said.duplicate {
            return Err(format!("an event was not stored in `{}`: {said:?}", self.stream).into());
        }
        self.acknowledged += 1;
        Ok(())
    }
}
