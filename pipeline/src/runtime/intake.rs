//! The intake of one source: opens it, hands its batches on, and opens it again after a fault.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::actor::Ending;
use super::faults;
use super::gauges::Gauges;
use super::messages::FromIntake;
use super::waiting::Waiting;
use crate::contract::failpoint;
use crate::contract::fault::{Fault, Remedy};
use crate::contract::position::Position;
use crate::contract::source::{Next, Source, Standing};

/// Batches that wait for the coordinator: enough to bridge its pauses, few enough to bound memory.
pub(super) const MAILBOX_BATCHES: usize = 4;

/// How often a source from which nothing comes is asked how it stands.
const ASK_EVERY: Duration = Duration::from_millis(250);

/// What an intake needs.
pub(super) struct Intake {
    pub(super) name: String,
    pub(super) source: Box<dyn Source>,
    /// Where to begin; `None` on the first run.
    pub(super) resume: Option<Position>,
    /// Up to where the sinks have seen it, each by itself.
    pub(super) recorded: Vec<Position>,
    /// Up to where nothing is needed any more: the oldest checkpoint that is kept.
    pub(super) released: watch::Receiver<Option<Position>>,
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
            let opened = match self.open(position.as_ref()).await {
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
            // It may begin behind what is gone and accepted as such.
            position = Some(opened.clone());
            faults::note_read(&self.name, opened.ordinal);
            failpoint::reach("intake.opened");
            if std::mem::take(&mut is_first)
                && self.coordinator.send(FromIntake::Opened(opened)).await.is_err()
            {
                return Ending::Cancelled;
            }
            let fault = loop {
                match self.next(&mut waiting).await {
                    Ok(Next::Batch(batch)) => {
                        waiting.over();
                        let Some(end) = batch.end() else {
                            continue;
                        };
                        faults::note_read(&self.name, end.ordinal);
                        position = Some(end);
                        if self.coordinator.send(FromIntake::Batch(batch)).await.is_err() {
                            return Ending::Cancelled;
                        }
                        failpoint::reach("intake.batch.handed");
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

    /// Opens the source, and checks that it is what every sink has seen of it.
    async fn open(&mut self, position: Option<&Position>) -> Result<Position, Fault> {
        let opened = self.source.open(position).await?;
        for recorded in &self.recorded {
            self.source.verify(recorded).await?;
        }
        // A source that was opened again is told again.
        self.released.mark_changed();
        Ok(opened)
    }

    /// The next messages. What is released meanwhile is let go of at once.
    async fn next(&mut self, waiting: &mut Waiting<'_>) -> Result<Next, Fault> {
        loop {
            // What is dropped of `next` loses nothing.
            tokio::select! {
                biased;
                Ok(()) = self.released.changed() => {
                    if let Some(released) = &*self.released.borrow_and_update() {
                        self.source.release(released);
                    }
                }
                next = self.source.next() => return next,
                () = tokio::time::sleep(ASK_EVERY) => self.ask(waiting),
            }
        }
    }

    /// Says how the source stands, from which nothing comes.
    fn ask(&self, waiting: &mut Waiting<'_>) {
        match self.source.standing() {
            Standing::Reading => waiting.over(),
            Standing::Silent(silence) => {
                waiting.over();
                // A mailbox with messages in it says that the source is not silent.
                let _ =
                    self.coordinator.try_send(FromIntake::Silent { silence, at: Instant::now() });
            }
            Standing::Away(why) => waiting.tell(&Fault::retry(why)),
        }
    }
}
