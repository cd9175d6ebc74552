//! Runs the tests that stand beside a pipeline: the deployment's own dataflow, fed by a log in
//! memory, with sinks in memory, under a virtual clock.
//!
//! Nothing here computes a result. A test goes through the same intake, decoding, epochs, operators,
//! checkpoints and recovery as a pipeline that runs; only what would reach a server is replaced.

mod compare;
mod difference;
mod log;
mod memory;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use waterwheel_config::document::Document;

use self::log::{Log, LogSpec};
use self::memory::{Memory, MemorySpec};
use super::changes::OnChange;
use super::gauges::Gauges;
use super::pipeline::{self, Outcome};
use crate::contract::bucket::Place;
use crate::contract::catalog::Catalog;
use crate::contract::fault::Fault;
use crate::contract::sink::Emit;
use crate::contract::source::Until;
use crate::graph::rehearsal::{Expectation, Message, Rehearsal, Step};
use crate::graph::{CheckpointSettings, Deployment, StageSink, plan_stage};

pub use self::difference::Difference;

/// More than one, so that rows cross threads as they do in a pipeline that runs; few, so that many
/// tests start quickly. How many there are changes no result.
const WORKERS: std::ops::RangeInclusive<usize> = 2..=4;

/// A test takes milliseconds. What takes so long will never come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs one test: what came out otherwise than expected, in the order of the test.
///
/// # Errors
/// The pipeline stopped, or cannot be set up.
pub async fn run(
    document: &Document,
    catalog: &Catalog,
    rehearsal: &Rehearsal,
) -> Result<Vec<Difference>, Fault> {
    let mut stage = Stage::new(document, catalog, rehearsal)?;
    let mut life = stage.begin();
    let mut differences = Vec::new();
    for step in &rehearsal.steps {
        if let Some(time) = step.advance_to_us {
            stage.clock_us = stage.clock_us.max(time);
        }
        let (before, rest) = match step.crashes {
            true => step.messages.split_at(step.messages.len() / 2),
            false => step.messages.split_at(0),
        };
        if step.crashes {
            stage.has_checkpoint(&mut life).await?;
            stage.arrive(before);
            stage.settle(&mut life).await?;
            // Nothing is drained and nothing is closed.
            drop(life);
            life = stage.begin();
        }
        stage.arrive(rest);
        stage.settle(&mut life).await?;
        if step.finishes {
            stage.logs.iter().for_each(|log| log.end());
            patiently(&mut life).await??;
            life = Box::pin(std::future::pending());
        }
        differences.extend(stage.compare(step));
    }
    Ok(differences)
}

/// A pipeline from its start to its end, or until it is dropped.
type Life = Pin<Box<dyn Future<Output = Result<Outcome, Fault>>>>;

/// Everything around the pipeline.
struct Stage {
    deployment: Arc<Deployment>,
    /// By source.
    logs: Vec<Arc<Log>>,
    /// Every row as it is.
    changes: Arc<Memory>,
    /// Only rows that are final.
    finals: Arc<Memory>,
    /// The broker's time, in microseconds.
    clock_us: i64,
    /// By the name of a stream, its last sequence: sources may share a stream.
    sequences: BTreeMap<Arc<str>, u64>,
    /// Where checkpoints are kept while the test runs.
    _checkpoints: Option<TempDir>,
}

impl Stage {
    fn new(document: &Document, catalog: &Catalog, rehearsal: &Rehearsal) -> Result<Self, Fault> {
        let (changes, finals) = (Arc::<Memory>::default(), Arc::<Memory>::default());
        let sink = |name, emit, memory: &Arc<Memory>| StageSink {
            name,
            emit,
            spec: Box::new(MemorySpec { memory: memory.clone() }),
        };
        let sinks =
            vec![sink("changes", Emit::Changes, &changes), sink("final", Emit::Final, &finals)];
        let planned = plan_stage(document, catalog, sinks);
        let Some((mut deployment, _)) = planned else {
            return Err(Fault::stop("the deployment has errors"));
        };
        for memory in [&changes, &finals] {
            memory.take_schemas(&deployment);
        }
        deployment.workers = deployment.workers.clamp(*WORKERS.start(), *WORKERS.end());
        let mut logs = Vec::new();
        for node in &mut deployment.sources {
            let stream = node.spec.stream().unwrap_or_else(|| node.name.clone());
            let log = Arc::new(Log::new(&stream, node.spec.has_broker_time()));
            node.spec = Box::new(LogSpec::new(log.clone(), &*node.spec));
            // A test that does not finish never comes to the end of a log.
            node.until = Until::Final;
            logs.push(log);
        }
        let mut checkpoints = None;
        deployment.checkpoint = None;
        if rehearsal.steps.iter().any(|step| step.crashes) {
            let directory = TempDir::with_prefix("waterwheel-test-").map_err(|error| {
                Fault::stop(format!("cannot make a directory for checkpoints: {error}"))
            })?;
            let place = Place::Directory(directory.path().to_owned());
            deployment.checkpoint = Some(CheckpointSettings { place, every_us: 0, keep: 3 });
            checkpoints = Some(directory);
        }
        Ok(Self {
            deployment: Arc::new(deployment),
            logs,
            changes,
            finals,
            clock_us: 0,
            sequences: BTreeMap::new(),
            _checkpoints: checkpoints,
        })
    }

    /// Starts the pipeline from what its sinks hold.
    fn begin(&self) -> Life {
        let (gauges, drain) = (Arc::<Gauges>::default(), CancellationToken::new());
        Box::pin(pipeline::run(self.deployment.clone(), gauges, drain, OnChange::Halt))
    }

    /// Messages arrive at the broker, one after another.
    fn arrive(&mut self, messages: &[Message]) {
        for message in messages {
            let (Some(log), Some(node)) =
                (self.logs.get(message.source), self.deployment.sources.get(message.source))
            else {
                continue;
            };
            let sequence = self.sequences.entry(log.stream()).or_default();
            *sequence += 1;
            let subject = message.subject.clone().unwrap_or_else(|| match log.has_broker_time() {
                true => node.name.clone(),
                false => log.stream().to_string(),
            });
            let own_us = || log.own_time(&node.decode, &subject, message);
            let known_us = message.at_us.or_else(own_us);
            self.clock_us = known_us.map_or(self.clock_us, |known| known.max(self.clock_us));
            let at_us = message.at_us.unwrap_or(self.clock_us);
            log.push(*sequence, at_us, subject, message);
        }
    }

    /// Waits until every message is in both sinks.
    async fn settle(&self, life: &mut Life) -> Result<(), Fault> {
        let ends: BTreeMap<String, u64> = self
            .deployment
            .sources
            .iter()
            .zip(&self.logs)
            .map(|(node, log)| (node.name.clone(), log.last()))
            .collect();
        // Every message is a row of its source or a dead letter, so each is committed at once.
        let settled = async {
            self.changes.reached(&ends).await;
            self.finals.reached(&ends).await;
        };
        patiently(while_alive(life, settled)).await?
    }

    /// Waits until some of what was read has become a checkpoint, if anything was read.
    async fn has_checkpoint(&self, life: &mut Life) -> Result<(), Fault> {
        match self.logs.iter().find(|log| log.last() > 0) {
            Some(log) => patiently(while_alive(life, log.released())).await?,
            None => Ok(()),
        }
    }

    fn compare<'a>(&'a self, step: &'a Step) -> impl Iterator<Item = Difference> + 'a {
        step.expectations.iter().filter_map(|expectation| {
            let rows = self.rows(expectation);
            let mismatch = compare::compare(expectation, &rows)?;
            Some(Difference::new(&step.moment, expectation, mismatch))
        })
    }

    fn rows(&self, expectation: &Expectation) -> Vec<waterwheel_config::value::Row> {
        let memory = if expectation.only_final { &self.finals } else { &self.changes };
        let inputs = self.deployment.sinks.first().map(|sink| sink.inputs.as_slice());
        let table = inputs.and_then(|all| all.iter().position(|it| *it == expectation.input));
        table.map_or_else(Vec::new, |table| memory.rows(table))
    }
}

/// The result of some work, unless the pipeline ends before.
async fn while_alive(life: &mut Life, work: impl Future<Output = ()>) -> Result<(), Fault> {
    tokio::select! {
        biased;
        () = work => Ok(()),
        ended = life => match ended {
            Ok(outcome) => Err(Fault::halt(format!("the pipeline ended too early: {outcome:?}"))),
            Err(fault) => Err(fault),
        },
    }
}

async fn patiently<T>(work: impl Future<Output = T>) -> Result<T, Fault> {
    tokio::time::timeout(PATIENCE, work)
        .await
        .map_err(|_| Fault::halt(format!("the pipeline came to no result within {PATIENCE:?}")))
}
