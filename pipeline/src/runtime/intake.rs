//! The intake of one source: opens it, hands its batches on, and opens it again after a fault.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::actor::Ending;
use super::gauges::Gauges;
use super::messages::FromIntake;
use crate::contract::fault::{Fault, Remedy};
use crate::contract::position::Position;
use crate::contract::source::{Next, Source};

/// Batches that wait for the coordinator: enough to bridge its pauses, few enough to bound memory.
pub(super) const MAILBOX_BATCHES: usize = 4;

const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MOST: Duration = Duration::from_secs(5);

/// What an intake needs.
pub(super) struct Intake {
    pub(super) name: String,
    pub(super) source: Box<dyn Source>,
    /// Where to begin; `None` on the first run.
    pub(super) resume: Option<Position>,
    pub(super) coordinator: mpsc::Sender<FromIntake>,
    pub(super) stop: CancellationToken,
    pub(super) gauges: Arc<Gauges>,
}

impl Intake {
    /// The life of the actor.
    pub(super) async fn run(mut self) -> Ending {
        let stop = self.stop.clone();
        let ending = tokio::select! {
            () = stop.cancelled() => Ending::Cancelled,
            ending = self.read() => ending,
        };
        self.source.close().await;
        ending
    }

    async fn read(&mut self) -> Ending {
        let mut position = self.resume.take();
        let mut is_first = true;
        let mut backoff = BACKOFF_FIRST;
        loop {
            let opened = match self.source.open(position.as_ref()).await {
                Ok(opened) => opened,
                Err(fault) if fault.remedy == Remedy::Retry => {
                    wait(&self.name, &self.gauges, &fault, &mut backoff).await;
                    continue;
                }
                Err(fault) => {
                    return Ending::Fault(fault.within(format!("source `{}`", self.name)));
                }
            };
            self.gauges.set_waiting(None);
            backoff = BACKOFF_FIRST;
            position.get_or_insert_with(|| opened.clone());
            if std::mem::take(&mut is_first)
                && self.coordinator.send(FromIntake::Opened(opened)).await.is_err()
            {
                return Ending::Cancelled;
            }
            let fault = loop {
                match self.source.next().await {
                    Ok(Next::Batch(batch)) => {
                        let Some(end) = batch.end() else {
                            continue;
                        };
                        position = Some(end);
                        if self.coordinator.send(FromIntake::Batch(batch)).await.is_err() {
                            return Ending::Cancelled;
                        }
                    }
                    Ok(Next::End) => {
                        let _ = self.coordinator.send(FromIntake::End).await;
                        return Ending::Done;
                    }
                    Err(fault) => break fault,
                }
            };
            if fault.remedy != Remedy::Retry {
                return Ending::Fault(fault.within(format!("source `{}`", self.name)));
            }
            wait(&self.name, &self.gauges, &fault, &mut backoff).await;
        }
    }
}

async fn wait(name: &str, gauges: &Gauges, fault: &Fault, backoff: &mut Duration) {
    if *backoff == BACKOFF_FIRST {
        tracing::warn!(source = %name, "{fault}; waiting for it");
    }
    gauges.set_waiting(Some(format!("source `{name}`: {fault}")));
    tokio::time::sleep(*backoff).await;
    *backoff = (*backoff * 2).min(BACKOFF_MOST);
}
