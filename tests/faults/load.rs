//! A publisher that keeps publishing while everything else fails.
//!
//! Each message names the one that must stand before it, so that line n of the events becomes
//! message n of the stream however often the server dies.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::{self, Context};

use crate::support::DEADLINE;
use crate::support::rounds::Chance;
use crate::support::stream::block_on;

/// How long an acknowledgement may take before the stream is asked what it holds.
const ACKNOWLEDGED: Duration = Duration::from_millis(500);

/// Publishes until it is stopped or the events run out.
pub(crate) struct Load {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<(), String>>>,
}

struct Shared {
    url: String,
    lines: Arc<Vec<Vec<u8>>>,
    /// Up to here in bursts, beyond one by one.
    allowed: AtomicUsize,
    published: AtomicUsize,
    is_over: AtomicBool,
}

impl Load {
    pub(crate) fn start(url: String, lines: Arc<Vec<Vec<u8>>>, seed: u64) -> Self {
        let shared = Arc::new(Shared {
            url,
            lines,
            allowed: AtomicUsize::new(0),
            published: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
        });
        let publishing = shared.clone();
        let thread = std::thread::spawn(move || block_on(publishing.publish(seed)));
        Self { shared, thread: Some(thread) }
    }

    /// Lets so many more messages come in bursts.
    pub(crate) fn allow(&self, count: usize) {
        let from = self.published().max(self.shared.allowed.load(Ordering::Relaxed));
        self.shared.allowed.store(from + count, Ordering::Relaxed);
    }

    /// How many messages the stream has acknowledged.
    pub(crate) fn published(&self) -> usize {
        self.shared.published.load(Ordering::SeqCst)
    }

    /// True while there is more to publish, and nothing has gone wrong.
    pub(crate) fn goes_on(&self) -> bool {
        let is_over = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
        !is_over && self.published() < self.shared.lines.len()
    }

    /// Ends it; how many messages the stream holds.
    pub(crate) fn stop(mut self) -> Result<usize, String> {
        self.shared.is_over.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        match ended {
            Some(Ok(Ok(()))) => block_on(self.shared.last()),
            Some(Ok(Err(problem))) => Err(format!("the publisher: {problem}")),
            Some(Err(_)) | None => Err("the publisher panicked".to_owned()),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Shared {
    async fn publish(&self, seed: u64) -> Result<(), String> {
        let mut chance = Chance::from_seed(seed);
        let mut context = None;
        while !self.is_over.load(Ordering::Relaxed) {
            let from = self.published.load(Ordering::SeqCst);
            let is_burst = from < self.allowed.load(Ordering::Relaxed);
            let most = if is_burst { chance.between(1, 25) as usize } else { 1 };
            let lines = &self.lines[from..(from + most).min(self.lines.len())];
            match self.burst(&mut context, from, lines).await {
                Ok(()) => self.published.store(from + lines.len(), Ordering::SeqCst),
                Err(_) => {
                    // What became of it only the stream knows.
                    context = None;
                    let last = self.last().await?;
                    if last < from {
                        return Err(format!("the stream holds {last} of {from} messages"));
                    }
                    self.published.store(last, Ordering::SeqCst);
                }
            }
            let pause_us = if is_burst { chance.between(500, 20_000) } else { 15_000 };
            tokio::time::sleep(Duration::from_micros(pause_us)).await;
        }
        Ok(())
    }

    async fn burst(
        &self,
        context: &mut Option<Context>,
        from: usize,
        lines: &[Vec<u8>],
    ) -> Result<(), async_nats::Error> {
        if context.is_none() {
            let mut fresh = jetstream::new(async_nats::connect(&self.url).await?);
            fresh.set_timeout(ACKNOWLEDGED);
            *context = Some(fresh);
        }
        let Some(context) = context else { return Ok(()) };
        let mut waiting = Vec::new();
        for (index, line) in lines.iter().enumerate() {
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Expected-Last-Sequence", (from + index).to_string());
            let payload = line.clone().into();
            waiting.push(context.publish_with_headers("events.trading", headers, payload).await?);
        }
        for acknowledged in waiting {
            acknowledged.await?;
        }
        Ok(())
    }

    /// How many messages the stream holds; waits for the server.
    async fn last(&self) -> Result<usize, String> {
        let started = Instant::now();
        loop {
            match self.ask().await {
                Ok(last) => return Ok(last),
                Err(problem) if started.elapsed() > DEADLINE => return Err(problem.to_string()),
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    async fn ask(&self) -> Result<usize, async_nats::Error> {
        let mut context = jetstream::new(async_nats::connect(&self.url).await?);
        context.set_timeout(ACKNOWLEDGED);
        let stream = tokio::time::timeout(ACKNOWLEDGED, context.get_stream("EVENTS")).await??;
        Ok(stream.cached_info().state.last_sequence as usize)
    }
}
