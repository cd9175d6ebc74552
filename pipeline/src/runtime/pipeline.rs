//! Runs a deployment: one generation after another, until it ends, is told to stop, or finds
//! something that waiting cannot mend.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::actor::{Actor, Ending};
use super::begin::begin_now;
use super::changes;
pub use super::changes::OnChange;
use super::checkpoint::{self, FromWriter, Recovered, SinkHolds, Store, ToWriter, Writer};
use super::cleaning::Reports;
use super::coordinator::{Coordinator, DELIVERIES_MAX, OutletHandle, Start, Stopped};
use super::dataflow::{self, Resume};
use super::decisions::Decisions;
use super::faults;
use super::gauges::Gauges;
use super::intake::{Intake, MAILBOX_BATCHES};
use super::messages::FromIntake;
use super::outlet::Outlet;
use super::waiting::Waiting;
use crate::contract::epoch::{EpochRecord, Generation, NO_WATERMARK, Progress};
use crate::contract::fault::{Fault, Remedy};
use crate::contract::position::{Positions, carry_gaps};
use crate::contract::sink::{Claim, ClaimError, Sink};
use crate::contract::source::Reading;
use crate::graph::Deployment;

/// Reports from workers and outlets: larger than all that can be under way, so that no worker ever
/// waits for the coordinator while the coordinator waits for it.
const REPORTS: usize = 4096;

/// A generation that ran so long was none of a row of failures.
const WELL_RUN: Duration = Duration::from_secs(60);

/// Messages to and from the writer of checkpoints: two snapshots and their publication fit.
const SNAPSHOTS: usize = 8;

/// How a pipeline ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The end that `until` asked for; the next run goes on from here.
    End,
    /// Every window is closed and emitted.
    Finished,
    /// It had been finished by an earlier run.
    AlreadyFinished,
    /// Told to stop; everything read is committed.
    Drained,
}

/// Runs a deployment until it ends.
///
/// # Errors
/// A fault that waiting cannot mend.
pub async fn run(
    deployment: Arc<Deployment>,
    gauges: Arc<Gauges>,
    drain: CancellationToken,
    on_change: OnChange,
) -> Result<Outcome, Fault> {
    let mut waiting = Waiting::new(&gauges, "the pipeline");
    // The highest generation that this process has claimed.
    let mut own = None;
    loop {
        let began = Instant::now();
        let fault = match generation(&deployment, &gauges, &drain, on_change, &mut own).await {
            Ok(outcome) => return Ok(outcome),
            Err(fault) if fault.remedy == Remedy::Retry => fault,
            Err(fault) => return Err(fault),
        };
        tracing::warn!("starting again from what the sinks hold");
        if began.elapsed() > WELL_RUN {
            waiting.over();
        }
        tokio::select! {
            () = drain.cancelled() => return Ok(Outcome::Drained),
            () = waiting.pause(&fault) => waiting.tries_again(),
        }
    }
}

/// A sink that is claimed.
pub(super) struct Claimed {
    pub(super) sink: Box<dyn Sink>,
    pub(super) progress: Option<Progress>,
    /// See [`Claim::unfinished`].
    pub(super) unfinished: Vec<EpochRecord>,
}

async fn generation(
    deployment: &Arc<Deployment>,
    gauges: &Arc<Gauges>,
    drain: &CancellationToken,
    on_change: OnChange,
    own: &mut Option<Generation>,
) -> Result<Outcome, Fault> {
    gauges.reset();
    let store = deployment
        .checkpoint
        .as_ref()
        .map(|settings| Store::new(&settings.place, &deployment.name));
    let claim = claim_all(deployment, gauges, store.as_ref(), own);
    let (generation, mut claimed) = tokio::select! {
        () = drain.cancelled() => return Ok(Outcome::Drained),
        claimed = claim => claimed?,
    };
    changes::settle(deployment, generation, on_change, &mut claimed).await?;
    let origin = changes::origin(&claimed);
    tokio::select! {
        () = drain.cancelled() => return Ok(Outcome::Drained),
        begun = begin_now(deployment, generation, gauges, &origin, &mut claimed) => begun?,
    }
    // A sink that keeps no progress has no say in whether the pipeline is finished.
    let mut keepers = claimed.iter().filter(|claimed| claimed.sink.keeps_progress()).peekable();
    let is_finished = |claimed: &Claimed| claimed.progress.as_ref().is_some_and(|p| p.finished);
    if keepers.peek().is_some() && keepers.all(is_finished) {
        return Ok(Outcome::AlreadyFinished);
    }
    let (recovered, panicked) = match &store {
        Some(store) => {
            let recovered = recover(deployment, gauges, store, &claimed);
            tokio::select! {
                () = drain.cancelled() => return Ok(Outcome::Drained),
                recovered = recovered => recovered?,
            }
        }
        None => (None, faults::Read::new()),
    };
    let mut running =
        Running::start(deployment, gauges, generation, claimed, recovered, store, &panicked)?;
    let result = running.run(drain).await;
    running.end(result).await
}

/// How far the sink has come that is furthest behind.
fn least_positions(claimed: &[Claimed]) -> Positions {
    let recorded = claimed.iter().filter(|claimed| claimed.sink.keeps_progress());
    let positions = recorded
        .map(|claimed| claimed.progress.as_ref().map(|progress| progress.record.positions.clone()));
    let total = |positions: &Option<Positions>| {
        positions.iter().flatten().map(|(_, position)| u128::from(position.ordinal)).sum::<u128>()
    };
    positions.min_by_key(total).flatten().unwrap_or_default()
}

/// The checkpoint to go on from, if one fits what the sinks hold, and how far sources had been read
/// in panics.
async fn recover(
    deployment: &Arc<Deployment>,
    gauges: &Gauges,
    store: &Store,
    claimed: &[Claimed],
) -> Result<(Option<Recovered>, faults::Read), Fault> {
    let at = least_positions(claimed);
    let sinks: Vec<(String, Option<Progress>)> = deployment
        .sinks
        .iter()
        .zip(claimed)
        .filter(|(_, claimed)| claimed.sink.keeps_progress())
        .map(|(node, claimed)| (node.name.clone(), claimed.progress.clone()))
        .collect();
    let sinks = Arc::new(sinks);
    let mut waiting = Waiting::new(gauges, "the start");
    loop {
        let (deployment, store) = (deployment.clone(), store.clone());
        let (sinks, at) = (sinks.clone(), at.clone());
        let read = on_files(move || {
            let panicked = faults::begin(&store, &at)?;
            let sinks: Vec<SinkHolds<'_>> = sinks
                .iter()
                .map(|(name, progress)| SinkHolds { name, progress: progress.as_ref() })
                .collect();
            Ok((checkpoint::newest(&store, &deployment, &sinks)?, panicked))
        });
        match read.await {
            Err(fault) if fault.remedy == Remedy::Retry => waiting.pause(&fault).await,
            read => {
                waiting.over();
                return read;
            }
        }
    }
}

/// Files are read where waiting blocks nobody.
async fn on_files<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    tokio::task::spawn_blocking(read)
        .await
        .unwrap_or_else(|error| Err(Fault::halt(format!("checkpoints cannot be read: {error}"))))
}

/// Claims every sink for one generation, higher than any that a sink or a checkpoint holds. A process
/// that has claimed before only goes on from its own: a higher one is that of a newer instance, which
/// it must not fence off in its turn.
async fn claim_all(
    deployment: &Deployment,
    gauges: &Gauges,
    store: Option<&Store>,
    own: &mut Option<Generation>,
) -> Result<(Generation, Vec<Claimed>), Fault> {
    let mut waiting = Waiting::new(gauges, "the start");
    let mut generation = match (*own, store) {
        (Some(own), _) => own,
        (None, Some(store)) => loop {
            let store = store.clone();
            match on_files(move || store.generation()).await {
                Err(fault) if fault.remedy == Remedy::Retry => waiting.pause(&fault).await,
                listed => break listed?,
            }
        },
        (None, None) => 0,
    } + 1;
    'again: loop {
        let mut claimed = Vec::new();
        for node in &deployment.sinks {
            let mut sink = node.spec.build();
            sink.expect(&node.fingerprint);
            match sink.open(generation).await {
                Ok(claim) => {
                    if let Some(own) = own {
                        *own = generation;
                    }
                    let Claim { progress, unfinished, .. } = claim;
                    claimed.push(Claimed { sink, progress, unfinished });
                }
                Err(ClaimError::Stale(held)) if own.is_some_and(|own| held > own) => {
                    return Err(Fault::halt(format!(
                        "a newer instance (generation {held}) has taken over sink `{}`",
                        node.name
                    ))
                    .help("let one instance of a pipeline run at a time"));
                }
                Err(ClaimError::Stale(held)) => {
                    generation = held.max(generation) + 1;
                    continue 'again;
                }
                Err(ClaimError::Fault(fault)) => {
                    let fault = fault.within(format!("sink `{}`", node.name));
                    if fault.remedy != Remedy::Retry {
                        return Err(fault);
                    }
                    waiting.pause(&fault).await;
                    continue 'again;
                }
            }
        }
        waiting.over();
        *own = Some(generation);
        return Ok((generation, claimed));
    }
}

/// The actors of one generation.
struct Running {
    coordinator: Coordinator,
    intakes: Vec<Actor>,
    stop_intakes: CancellationToken,
    outlets: Vec<Actor>,
    workers: dataflow::Workers,
    /// What outlets need once the origin is known.
    waiting_outlets: Vec<Outlet>,
    /// Writes checkpoints, where any are taken.
    writer: Option<WriterHandle>,
}

/// The writer of checkpoints, and where it takes messages.
struct WriterHandle {
    actor: Actor,
    mailbox: mpsc::Sender<ToWriter>,
}

impl Running {
    fn start(
        deployment: &Arc<Deployment>,
        gauges: &Arc<Gauges>,
        generation: Generation,
        claimed: Vec<Claimed>,
        recovered: Option<Recovered>,
        store: Option<Store>,
        panicked: &faults::Read,
    ) -> Result<Self, Fault> {
        let recorded: Vec<Option<Progress>> =
            claimed.iter().map(|claimed| claimed.progress.clone()).collect();
        let unfinished: Vec<EpochRecord> =
            claimed.iter().flat_map(|claimed| claimed.unfinished.clone()).collect();
        // All sinks of a pipeline began at one place; a new one begins there too.
        let mut origin = changes::origin(&claimed);
        if let Some(recovered) = &recovered
            && origin.is_empty()
        {
            origin.clone_from(&recovered.origin);
        }
        let begin = recovered.as_ref().map_or(&origin, |recovered| &recovered.record.positions);
        let mut begin = begin.clone();
        carry_gaps(&mut begin, recorded.iter().flatten().map(|known| &known.record.positions));
        let resume = recovered.as_ref().map(|recovered| Resume {
            state: recovered.state.clone(),
            epoch: Start::first_epoch(&recorded, Some(recovered)) - 1,
            watermarks: deployment
                .sources
                .iter()
                .map(|node| recovered.record.watermarks.get(&node.name).copied())
                .map(|watermark| watermark.unwrap_or(NO_WATERMARK))
                .collect(),
        });
        let decisions = store
            .as_ref()
            .and_then(Store::local)
            .map(|directory| Decisions::open(directory, generation))
            .transpose()?;
        let (to_coordinator, from_workers) = mpsc::channel(REPORTS);
        let (workers, handles) = dataflow::start(deployment, &to_coordinator, resume)?;
        let (to_coordinator, from_writer) = mpsc::channel(SNAPSHOTS);
        let writer = start_writer(deployment, generation, store, to_coordinator);
        let (report, from_outlets) = mpsc::channel(REPORTS);
        let mut outlets = Vec::new();
        let mut waiting_outlets = Vec::new();
        let reports =
            deployment.report.clone().map(|to| Reports::new(&deployment.name, to)).map(Arc::new);
        for (index, (node, claimed)) in deployment.sinks.iter().zip(claimed).enumerate() {
            // Besides what `accepts` allows, the epochs under way and the last two fit.
            let (deliveries, mailbox) = mpsc::channel(2 * DELIVERIES_MAX);
            outlets.push(OutletHandle { deliveries, outstanding: 0 });
            waiting_outlets.push(Outlet {
                index,
                name: node.name.clone(),
                sink: claimed.sink,
                schemas: node.inputs.iter().map(|input| deployment.schema(*input)).collect(),
                fingerprint: node.fingerprint.clone(),
                taken: claimed.progress.clone(),
                unfinished: claimed.unfinished,
                recorded: claimed.progress,
                origin: Positions::new(),
                deliveries: mailbox,
                coordinator: report.clone(),
                gauges: gauges.clone(),
                reports: reports.clone(),
            });
        }
        let stop_intakes = CancellationToken::new();
        let mut intakes = Vec::new();
        let mut from_intakes = Vec::new();
        let mut released = Vec::new();
        for node in &deployment.sources {
            let (sender, receiver) = mpsc::channel(MAILBOX_BATCHES);
            let (release, listen) = watch::channel(None);
            from_intakes.push(receiver);
            released.push(release);
            let finished = recovered.as_ref().and_then(|recovered| recovered.finished(&node.name));
            if let Some(position) = finished {
                // Nothing is read of it any more; it need not even be there.
                let _ = sender.try_send(FromIntake::Opened(position));
                continue;
            }
            let panicked_at = panicked.get(&node.name).copied();
            let reading = Reading { panicked_at, ..deployment.reading(node) };
            let intake = Intake {
                name: node.name.clone(),
                source: node.spec.build_for(&reading),
                resume: begin.get(&node.name).cloned(),
                recorded: recorded
                    .iter()
                    .flatten()
                    .map(|progress| &progress.record)
                    .chain(&unfinished)
                    .filter_map(|record| record.positions.get(&node.name).cloned())
                    .collect(),
                released: listen,
                coordinator: sender,
                stop: stop_intakes.clone(),
                gauges: gauges.clone(),
            };
            intakes.push(Actor::start(format!("intake of `{}`", node.name), intake.run()));
        }
        let coordinator = Coordinator::new(Start {
            deployment: deployment.clone(),
            generation,
            gauges: gauges.clone(),
            intakes: from_intakes,
            released,
            workers: handles,
            from_workers,
            outlets,
            from_outlets,
            recorded,
            unfinished,
            recovered,
            origin,
            writer: writer.as_ref().map(|writer| writer.mailbox.clone()),
            from_writer,
            decisions,
        });
        Ok(Self {
            coordinator,
            intakes,
            stop_intakes,
            outlets: Vec::new(),
            workers,
            waiting_outlets,
            writer,
        })
    }

    async fn run(&mut self, drain: &CancellationToken) -> Result<Stopped, Fault> {
        let opened = tokio::select! {
            opened = self.coordinator.opened(drain) => opened,
            fault = first_fault(&mut self.intakes) => return Err(fault),
        };
        let Some(origin) = opened else {
            return Ok(Stopped::Drained);
        };
        for mut outlet in self.waiting_outlets.drain(..) {
            outlet.origin = origin.clone();
            let name = format!("outlet of `{}`", outlet.name);
            self.outlets.push(Actor::start(name, outlet.run()));
        }
        tokio::select! {
            stopped = self.coordinator.run(drain) => stopped,
            fault = first_fault(&mut self.intakes) => Err(fault),
        }
    }

    /// Ends the actors in the order of the flow. Where nothing went wrong the outlets first make
    /// everything durable.
    async fn end(self, result: Result<Stopped, Fault>) -> Result<Outcome, Fault> {
        let Self { coordinator, mut intakes, stop_intakes, mut outlets, workers, writer, .. } =
            self;
        stop_intakes.cancel();
        // An intake that faults closes its mailbox, which the coordinator may see before the fault.
        let mut result = result;
        for intake in &mut intakes {
            if let Ending::Fault(fault) = intake.ended().await {
                result = result.and(Err(fault));
            }
        }
        let has_unpublished = coordinator.has_unpublished();
        // Closes the mailboxes of workers and outlets.
        drop(coordinator);
        let stopped = match result {
            Ok(stopped) => stopped,
            Err(fault) => {
                drop(outlets);
                join_workers(workers).await;
                return Err(fault);
            }
        };
        let mut first = None;
        for outlet in &mut outlets {
            if let Ending::Fault(fault) = outlet.ended().await {
                first.get_or_insert(fault);
            }
        }
        join_workers(workers).await;
        if let Some(WriterHandle { mut actor, mailbox }) = writer {
            // Everything is durable, so the last snapshot may be gone on from.
            if first.is_none() && has_unpublished {
                let _ = mailbox.send(ToWriter::Publish).await;
            }
            drop(mailbox);
            actor.ended().await;
        }
        match first {
            Some(fault) => Err(fault),
            None => Ok(match stopped {
                Stopped::End => Outcome::End,
                Stopped::Finished => Outcome::Finished,
                Stopped::Drained => Outcome::Drained,
            }),
        }
    }
}

/// Starts the writer of checkpoints, if any are taken.
fn start_writer(
    deployment: &Arc<Deployment>,
    generation: Generation,
    store: Option<Store>,
    coordinator: mpsc::Sender<FromWriter>,
) -> Option<WriterHandle> {
    let settings = deployment.checkpoint.as_ref()?;
    let (mailbox, messages) = mpsc::channel(SNAPSHOTS);
    let writer = Writer {
        deployment: deployment.clone(),
        generation,
        store: store?,
        keep: settings.keep,
        mailbox: messages,
        coordinator,
    };
    let actor = Actor::start("writer of checkpoints", writer.run());
    Some(WriterHandle { actor, mailbox })
}

async fn join_workers(workers: dataflow::Workers) {
    // Threads are joined where waiting blocks nobody.
    let _ = tokio::task::spawn_blocking(move || workers.join()).await;
}

/// The first fault of any intake; never returns while none has one.
async fn first_fault(intakes: &mut [Actor]) -> Fault {
    let endings = intakes.iter_mut().map(|intake| {
        Box::pin(async {
            match intake.ended().await {
                Ending::Fault(fault) => fault,
                Ending::Done | Ending::Cancelled => std::future::pending().await,
            }
        })
    });
    let mut endings = endings.peekable();
    if endings.peek().is_none() {
        return std::future::pending().await;
    }
    futures::future::select_all(endings).await.0
}
