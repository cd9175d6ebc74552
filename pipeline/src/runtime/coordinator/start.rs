//! How a coordinator begins: what it is given, and where a replay must cut.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{mpsc, watch};

use super::epochs::OpenEpoch;
use super::saves::Saves;
use super::sources::SourceState;
use super::turns::Turns;
use super::{Coordinator, OutletHandle};
use crate::contract::epoch::{Epoch, EpochRecord, Generation, Progress};
use crate::contract::position::{Position, Positions};
use crate::graph::Deployment;
use crate::runtime::checkpoint::{FromWriter, Recovered, ToWriter};
use crate::runtime::cuts::Cuts;
use crate::runtime::dataflow::WorkerHandle;
use crate::runtime::decisions::Decisions;
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
    /// Where commits stood that were begun and not ended.
    pub(in crate::runtime) unfinished: Vec<EpochRecord>,
    /// The checkpoint to go on from.
    pub(in crate::runtime) recovered: Option<Recovered>,
    /// Where each source began when the pipeline was new, as far as that is known.
    pub(in crate::runtime) origin: Positions,
    /// Where snapshots go, if any are taken.
    pub(in crate::runtime) writer: Option<mpsc::Sender<ToWriter>>,
    pub(in crate::runtime) from_writer: mpsc::Receiver<FromWriter>,
    /// Where decisions of the clock are made durable, if there is a place for them.
    pub(in crate::runtime) decisions: Option<Decisions>,
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
        let begun = match &start.recovered {
            Some(recovered) => recovered.record.clone(),
            None => EpochRecord {
                epoch: 0,
                generation: start.generation,
                positions: start.origin.clone(),
                watermarks: BTreeMap::new(),
            },
        };
        let recorded = start.recorded.iter().flatten().map(|progress| &progress.record);
        let ahead = recorded.chain(&start.unfinished);
        let cuts = Cuts::new(ahead.filter(|ahead| !ahead.is_at_or_before(&begun)).cloned());
        let largest_us = start.recovered.map(|recovered| recovered.largest_us).unwrap_or_default();
        let mut decided = start.decisions.as_ref().map(|log| log.ahead(&begun.positions));
        let mut ahead_of =
            |name: &str| decided.as_mut().and_then(|it| it.remove(name)).unwrap_or_default();
        let sources = start
            .deployment
            .sources
            .iter()
            .map(|node| SourceState {
                messages: resumed.get(&node.name).map_or(0, |position| position.messages),
                largest_us: largest_us.get(&node.name).copied(),
                read_us: largest_us.get(&node.name).copied(),
                ahead: ahead_of(&node.name),
                ..SourceState::new(
                    &node.name,
                    node.lateness_us,
                    begun.watermarks.get(&node.name).copied(),
                )
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
            turns: Turns::new(start.workers.len()),
            workers: start.workers,
            from_workers: start.from_workers,
            outlets: start.outlets,
            from_outlets: start.from_outlets,
            from_writer: start.from_writer,
            saves: Saves::new(start.writer, every_us, resumed, start.recorded),
            origin: start.origin,
            cuts,
            decisions: start.decisions,
            holder: None,
            next_epoch: first + 1,
            next_batch: 0,
            open: OpenEpoch::new(first),
            sealed: VecDeque::new(),
            flowing: VecDeque::new(),
            stopping: None,
        }
    }
}
