//! Runs a deployment: one generation after another, until it ends, is told to stop, or finds
//! something that waiting cannot mend.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::actor::{Actor, Ending};
use super::coordinator::{Coordinator, DELIVERIES_MAX, OutletHandle, Start, Stopped};
use super::dataflow;
use super::gauges::Gauges;
use super::intake::{Intake, MAILBOX_BATCHES};
use super::outlet::Outlet;
use crate::contract::epoch::{Generation, Progress};
use crate::contract::fault::{Fault, Remedy};
use crate::contract::position::{Positions, carry_gaps};
use crate::contract::sink::{ClaimError, Sink};
use crate::graph::Deployment;

const BACKOFF_FIRST: Duration = Duration::from_millis(200);
const BACKOFF_MOST: Duration = Duration::from_secs(15);

/// Reports from workers and outlets: larger than all that can be under way, so that no worker ever
/// waits for the coordinator while the coordinator waits for it.
const REPORTS: usize = 4096;

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
) -> Result<Outcome, Fault> {
    let mut backoff = BACKOFF_FIRST;
    loop {
        let fault = match generation(&deployment, &gauges, &drain).await {
            Ok(outcome) => return Ok(outcome),
            Err(fault) if fault.remedy == Remedy::Retry => fault,
            Err(fault) => return Err(fault),
        };
        tracing::warn!("{fault}; starting again from what the sinks hold");
        gauges.set_waiting(Some(fault.to_string()));
        tokio::select! {
            () = drain.cancelled() => return Ok(Outcome::Drained),
            () = tokio::time::sleep(backoff) => {}
        }
        backoff = (backoff * 2).min(BACKOFF_MOST);
    }
}

/// A sink that is claimed.
struct Claimed {
    sink: Box<dyn Sink>,
    progress: Option<Progress>,
}

async fn generation(
    deployment: &Arc<Deployment>,
    gauges: &Arc<Gauges>,
    drain: &CancellationToken,
) -> Result<Outcome, Fault> {
    gauges.reset();
    let claim = claim_all(deployment, gauges);
    let (generation, claimed) = tokio::select! {
        () = drain.cancelled() => return Ok(Outcome::Drained),
        claimed = claim => claimed?,
    };
    gauges.set_waiting(None);
    check_fingerprints(deployment, &claimed)?;
    let recorded: Vec<Progress> =
        claimed.iter().filter_map(|claimed| claimed.progress.clone()).collect();
    // A sink that keeps no progress has no say in whether the pipeline is finished.
    let mut keepers = claimed.iter().filter(|claimed| claimed.sink.keeps_progress()).peekable();
    let is_finished = |claimed: &Claimed| claimed.progress.as_ref().is_some_and(|p| p.finished);
    if keepers.peek().is_some() && keepers.all(is_finished) {
        return Ok(Outcome::AlreadyFinished);
    }
    // All sinks of a pipeline began at one place; a new one begins there too.
    let mut origin = recorded.first().map(|progress| progress.origin.clone()).unwrap_or_default();
    carry_gaps(&mut origin, recorded.iter().map(|progress| &progress.record.positions));
    let mut running = Running::start(deployment, gauges, generation, claimed, recorded, &origin)?;
    let result = running.run(drain).await;
    running.end(result).await
}

/// Claims every sink for one generation, higher than any that a sink holds.
async fn claim_all(
    deployment: &Deployment,
    gauges: &Gauges,
) -> Result<(Generation, Vec<Claimed>), Fault> {
    let mut generation = 1;
    let mut backoff = BACKOFF_FIRST;
    'again: loop {
        let mut claimed = Vec::new();
        for node in &deployment.sinks {
            let mut sink = node.spec.build();
            match sink.open(generation).await {
                Ok(claim) => claimed.push(Claimed { sink, progress: claim.progress }),
                Err(ClaimError::Stale(held)) => {
                    generation = held.max(generation) + 1;
                    continue 'again;
                }
                Err(ClaimError::Fault(fault)) => {
                    let fault = fault.within(format!("sink `{}`", node.name));
                    if fault.remedy != Remedy::Retry {
                        return Err(fault);
                    }
                    if backoff == BACKOFF_FIRST {
                        tracing::warn!("{fault}; waiting for it");
                    }
                    gauges.set_waiting(Some(fault.to_string()));
                    tokio::time::sleep(backoff).await;
                    backoff = (backoff * 2).min(BACKOFF_MOST);
                    continue 'again;
                }
            }
        }
        return Ok((generation, claimed));
    }
}

/// Refuses to write rows of one meaning beside rows of another.
fn check_fingerprints(deployment: &Deployment, claimed: &[Claimed]) -> Result<(), Fault> {
    for (node, claimed) in deployment.sinks.iter().zip(claimed) {
        let Some(progress) = &claimed.progress else {
            continue;
        };
        if progress.fingerprint != node.fingerprint {
            return Err(Fault::halt(format!(
                "the deployment was changed: sink `{}` holds rows that another configuration computed",
                node.name
            ))
            .help(
                "run the old configuration, or give the pipeline another `name` and the sink other \
                 tables, directories or subjects, to compute everything anew",
            ));
        }
    }
    Ok(())
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
    origin: Positions,
}

impl Running {
    fn start(
        deployment: &Arc<Deployment>,
        gauges: &Arc<Gauges>,
        generation: Generation,
        claimed: Vec<Claimed>,
        recorded: Vec<Progress>,
        origin: &Positions,
    ) -> Result<Self, Fault> {
        let (to_coordinator, from_workers) = mpsc::channel(REPORTS);
        let (workers, handles) = dataflow::start(deployment, &to_coordinator)?;
        let (report, from_outlets) = mpsc::channel(REPORTS);
        let mut outlets = Vec::new();
        let mut waiting_outlets = Vec::new();
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
                recorded: claimed.progress,
                origin: Positions::new(),
                deliveries: mailbox,
                coordinator: report.clone(),
                gauges: gauges.clone(),
            });
        }
        let stop_intakes = CancellationToken::new();
        let mut intakes = Vec::new();
        let mut from_intakes = Vec::new();
        for node in &deployment.sources {
            let (sender, receiver) = mpsc::channel(MAILBOX_BATCHES);
            from_intakes.push(receiver);
            let intake = Intake {
                name: node.name.clone(),
                source: node.spec.build_for(&deployment.reading(node)),
                resume: origin.get(&node.name).cloned(),
                recorded: recorded
                    .iter()
                    .filter_map(|progress| progress.record.positions.get(&node.name).cloned())
                    .collect(),
                released: watch::channel(None).1,
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
            workers: handles,
            from_workers,
            outlets,
            from_outlets,
            recorded,
        });
        Ok(Self {
            coordinator,
            intakes,
            stop_intakes,
            outlets: Vec::new(),
            workers,
            waiting_outlets,
            origin: origin.clone(),
        })
    }

    async fn run(&mut self, drain: &CancellationToken) -> Result<Stopped, Fault> {
        let opened = tokio::select! {
            opened = self.coordinator.opened(drain) => opened,
            fault = first_fault(&mut self.intakes) => return Err(fault),
        };
        let Some(opened) = opened else {
            return Ok(Stopped::Drained);
        };
        for (source, position) in opened {
            self.origin.entry(source).or_insert(position);
        }
        for mut outlet in self.waiting_outlets.drain(..) {
            outlet.origin = self.origin.clone();
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
        let Self { coordinator, mut intakes, stop_intakes, mut outlets, workers, .. } = self;
        stop_intakes.cancel();
        // An intake that faults closes its mailbox, which the coordinator may see before the fault.
        let mut result = result;
        for intake in &mut intakes {
            if let Ending::Fault(fault) = intake.ended().await {
                result = result.and(Err(fault));
            }
        }
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
    futures::future::select_all(endings).await.0
}
