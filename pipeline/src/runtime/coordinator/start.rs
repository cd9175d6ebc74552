//! How a coordinator begins: what it is given, and where a replay must cut.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{mpsc, watch};

use super::epochs::{OpenEpoch, SourceState};
use super::saves::Saves;
use super::{Coordinator, OutletHandle};
use crate::contract::epoch::{Epoch, Generation, Progress};
use crate::contract::position::{Position, Positions};
use crate::graph::Deployment;
use crate::runtime::checkpoint::{FromWriter, Recovered, ToWriter};
use crate::runtime::cuts::{Cuts, is_at_or_before};
use crate::runtime::dataflow::WorkerHandle;
use crate::runtime::gauges::Gauges;
use crate::runtime::messages::{FromIntake, FromOutlet, FromWorker};

/// What a coordinator needs to begin.
pub(in crate::runtime) struct Start {
    pub(in crate::runtime) deployment: Arc<Deployment>,
    pub(in crate::runtime) generation: Generation,
    pub(in crate::runtime) gauges: Arc<Gauges>,
    pub(in crate::runtime) intakes: Vec<mpsc::Receiver<FromIntake>>,
    /// By source: tells its intake what will never be read again.
    pub(in crate::runtime) released: Vec<watch::Sender<Option<Position>>>,
    pub(in crate::runtime) workers: Vec<WorkerHandle>,
    pub(in crate::runtime) from_workers: mpsc::Receiver<FromWorker>,
    pub(in crate::runtime) outlets: Vec<OutletHandle>,
    pub(in crate::runtime) from_outlets: mpsc::Receiver<FromOutlet>,
    /// What each sink recorded; nothing, if it is new.
    pub(in crate::runtime) recorded: Vec<Option<Progress>>,
    /// The checkpoint to go on from.
    pub(in crate::runtime) recovered: Option<Recovered>,
    /// Where each source began when the pipeline was new, as far as that is known.
    pub(in crate::runtime) origin: Positions,
    /// Where snapshots go, if any are taken.
    pub(in crate::runtime) writer: Option<mpsc::Sender<ToWriter>>,
    pub(in crate::runtime) from_writer: mpsc::Receiver<FromWriter>,
}

impl Start {
    /// The first epoch of this generation: numbers only grow, whatever is recorded where.
    pub(in crate::runtime) fn first_epoch(
        recorded: &[Option<Progress>],
        recovered: Option<&Recovered>,
    ) -> Epoch {
        let recorded = recorded.iter().flatten().map(|progress| progress.record.epoch);
        let recovered = recovered.map(|recovered| recovered.record.epoch);
        recorded.chain(recovered).max().map_or(1, |epoch| epoch + 1)
    }
}

impl Coordinator {
    pub(in crate::runtime) fn new(start: Start) -> Self {
        let first = Start::first_epoch(&start.recorded, start.recovered.as_ref());
        let resumed = start.recovered.as_ref().map(|recovered| recovered.record.positions.clone());
        let resumed = resumed.unwrap_or_default();
        // What the checkpoint holds as well needs no cut, and what holds nothing neither.
        let begun = if start.recovered.is_some() { &resumed } else { &start.origin };
        let ahead = start.recorded.iter().flatten().map(|progress| &progress.record.positions);
        let cuts = Cuts::new(ahead.filter(|ahead| !is_at_or_before(ahead, begun)).cloned());
        let largest_us = start.recovered.map(|recovered| recovered.largest_us).unwrap_or_default();
        let sources = start
            .deployment
            .sources
            .iter()
            .map(|node| SourceState {
                messages: resumed.get(&node.name).map_or(0, |position| position.messages),
                largest_us: largest_us.get(&node.name).copied(),
                ..SourceState::default()
            })
            .collect();
        let every_us = start.deployment.checkpoint.as_ref().map_or(0, |settings| settings.every_us);
        start.gauges.replaying.store(cuts.is_ahead(), Ordering::Relaxed);
        Self {
            deployment: start.deployment,
            generation: start.generation,
            gauges: start.gauges,
            sources,
            intakes: start.intakes,
            released: start.released,
            workers: start.workers,
            next_worker: 0,
            from_workers: start.from_workers,
            outlets: start.outlets,
            from_outlets: start.from_outlets,
            from_writer: start.from_writer,
            saves: Saves::new(start.writer, every_us, resumed, start.recorded),
            origin: start.origin,
            cuts,
            next_epoch: first + 1,
            next_batch: 0,
            open: OpenEpoch::new(first),
            sealed: VecDeque::new(),
            flowing: VecDeque::new(),
            stopping: None,
        }
    }
}
