//! The intake of one source: opens it, hands its batches on, and opens it again after a fault.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::actor::Ending;
use super::gauges::Gauges;
use super::messages::FromIntake;
use super::waiting::Waiting;
use crate::contract::fault::Remedy;
use crate::contract::position::Position;
use crate::contract::source::{Next, Source};

/// Batches that wait for the coordinator: enough to bridge its pauses, few enough to bound memory.
pub(super) const MAILBOX_BATCHES: usize = 4;

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
        let gauges = self.gauges.clone();
        let mut waiting = Waiting::new(&gauges, format!("source `{}`", self.name));
        loop {
            let opened = match self.source.open(position.as_ref()).await {
                Ok(opened) => opened,
                Err(fault) if fault.remedy == Remedy::Retry => {
                    waiting.pause(&fault).await;
                    continue;
                }
                Err(fault) => {
                    return Ending::Fault(fault.within(format!("source `{}`", self.name)));
                }
            };
            waiting.over();
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
            waiting.pause(&fault).await;
        }
    }
}
