//! Plans deployments with the real operators, and drives their dataflow as the runtime does: decode,
//! judge in log order, note the watermarks, let the epoch flow.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use differential_dataflow::AsCollection;
use differential_dataflow::consolidation::consolidate;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::{Input as _, Probe};
use timely::dataflow::{InputHandle, ProbeHandle};
use timely::worker::Worker;
use waterwheel_config::document::Document;
use waterwheel_config::section::Section;
use waterwheel_config::value::Row;
use waterwheel_pipeline::contract::batch::{BatchBuilder, RawBatch};
use waterwheel_pipeline::contract::catalog::Catalog;
use waterwheel_pipeline::contract::clock::{Clock, StateGauge};
use waterwheel_pipeline::contract::epoch::{Epoch, FINAL_WATERMARK, NO_WATERMARK};
use waterwheel_pipeline::contract::event::EventBatch;
use waterwheel_pipeline::contract::operator::{
    Decoder, Decoders, Events, Input, RenderContext, Rows,
};
use waterwheel_pipeline::contract::raw::{RawColumns, RawEvents};
use waterwheel_pipeline::contract::sink::{Emit, Sink, SinkContext, SinkKind, SinkSpec};
use waterwheel_pipeline::contract::source::{Source, SourceKind, SourceSpec, Until};
use waterwheel_pipeline::contract::state::{Keeper, KeyGroup, Restore, SavedPart, SavedState};
use waterwheel_pipeline::graph::{Deployment, InputRef, plan};

use super::log::{Message, Script, Step};
use super::waiting::wait;
use crate::OPERATORS;

type Planned = Result<Arc<Deployment>, String>;
struct Scripted;

impl SourceSpec for Scripted {
    fn build(&self, _until: Until) -> Box<dyn Source> {
        unreachable!("scripts are not read by the runtime")
    }

    fn describe(&self) -> String {
        "a script".to_owned()
    }

    fn meaning(&self) -> String {
        String::new()
    }
}

struct Nowhere;

impl SinkSpec for Nowhere {
    fn build(&self) -> Box<dyn Sink> {
        unreachable!("nothing is written")
    }

    fn describe(&self) -> String {
        "nowhere".to_owned()
    }

    fn resources(&self) -> Vec<String> {
        Vec::new()
    }
}

fn plan_source(_section: &Section<'_>) -> Option<Box<dyn SourceSpec>> {
    Some(Box::new(Scripted))
}

fn plan_sink(_section: &Section<'_>, _context: &SinkContext) -> Option<Box<dyn SinkSpec>> {
    Some(Box::new(Nowhere))
}

const CATALOG: Catalog = Catalog {
    sources: &[SourceKind {
        name: "script",
        summary: "what a test says",
        example: "",
        default_until: |_| Until::End,
        plan: plan_source,
    }],
    operators: OPERATORS,
    sinks: &[SinkKind {
        name: "nowhere",
        summary: "what nobody reads",
        guarantee: "",
        example: "",
        default_emit: Emit::Changes,
        plan: plan_sink,
    }],
};

/// Plans operators over the sources `events0`, `events1` and so on, one per lateness (`"30s"`);
/// `Err` has the findings.
pub(crate) fn deployment(lateness: &[&str], operators: &str) -> Planned {
    deployment_into(lateness, operators, &[])
}

/// The same with a sink for these operators: only for a sink do events become rows.
pub(crate) fn deployment_into(lateness: &[&str], operators: &str, sink: &[&str]) -> Planned {
    let sources: String = lateness
        .iter()
        .enumerate()
        .map(|(index, lateness)| {
            format!("[sources.events{index}]\ntype = \"script\"\nlateness = \"{lateness}\"\n")
        })
        .collect();
    let inputs: String = sink.iter().map(|name| format!(", \"{name}\"")).collect();
    let sink = format!("[sinks.out]\ntype = \"nowhere\"\nfrom = [\"events0\"{inputs}]\n");
    let text = format!("name = \"test\"\n{sources}{operators}\n{sink}");
    let document = Document::parse("test.toml", &text, Box::new(|_| None));
    plan(&document, &CATALOG).map(Arc::new).ok_or_else(|| document.render_findings(false))
}

/// What one epoch brought out.
#[derive(Clone, Debug, Default)]
pub(crate) struct EpochOutcome {
    /// By operator, in the order of the deployment; consolidated.
    pub(crate) changes: Vec<Vec<(Row, isize)>>,
    /// By operator: the state of all workers when the epoch was done.
    pub(crate) state_bytes: Vec<usize>,
    /// How many events took part.
    pub(crate) accepted: usize,
    /// How many were late.
    pub(crate) late: usize,
    /// How many messages were no events.
    pub(crate) dead: usize,
    /// The state, where it was saved.
    saved: Option<Vec<SavedPart>>,
}

/// What a script brought out.
#[derive(Debug)]
pub(crate) struct Run {
    /// Epoch by epoch. With a script that becomes final there is one more at the end.
    pub(crate) epochs: Vec<EpochOutcome>,
    /// What all workers saved, by epoch.
    pub(crate) saved: BTreeMap<usize, Vec<SavedPart>>,
}

/// Which part of a script is run, from what, and where its state is saved.
#[derive(Clone, Default)]
pub(crate) struct Stretch {
    /// The first epoch.
    pub(crate) first: usize,
    /// The state after the epoch before it.
    pub(crate) restore: Option<Arc<dyn SavedState>>,
    /// The epochs after which state is saved, with the key groups that are saved whole.
    pub(crate) saves: BTreeMap<usize, Range<KeyGroup>>,
    /// True if rows are wanted only when they are final, of all operators that feed no other.
    pub(crate) only_final: bool,
}

struct EpochPlan {
    watermarks: Vec<i64>,
    batches: Vec<BatchPlan>,
}

struct BatchPlan {
    source: usize,
    worker: usize,
    raw: RawBatch,
    carried_us: Option<i64>,
}

/// Runs a script through the operators of a deployment. `Err` says what a worker died of.
pub(crate) fn run(
    deployment: &Arc<Deployment>,
    workers: usize,
    script: &Script,
) -> Result<Run, String> {
    run_stretch(deployment, workers, script, &Stretch::default())
}

/// Runs the part of a script that lies in a stretch.
pub(crate) fn run_stretch(
    deployment: &Arc<Deployment>,
    workers: usize,
    script: &Script,
    stretch: &Stretch,
) -> Result<Run, String> {
    let epochs = Arc::new(cut(deployment, script));
    let failed = Arc::new(AtomicBool::new(false));
    let mut config = match workers {
        1 => timely::Config::thread(),
        count => timely::Config::process(count),
    };
    let differential = differential_dataflow::Config::default().idle_merge_effort(Some(1000));
    differential_dataflow::configure(&mut config.worker, &differential);
    let (deployment, in_flight) = (deployment.clone(), script.in_flight);
    let (plans, part) = (epochs.clone(), stretch.clone());
    let guards = timely::execute(config, move |worker| {
        let guard = Guard(failed.clone());
        WorkerRun::new(worker, &deployment, &failed, &plans, &part)
            .run(worker, &plans, &part, in_flight, guard)
    })?;
    let outcomes: Result<Vec<_>, String> = guards.join().into_iter().collect();
    let mut merged = vec![EpochOutcome::default(); epochs.len() - stretch.first];
    let mut saved: BTreeMap<usize, Vec<SavedPart>> = BTreeMap::new();
    for outcomes in outcomes? {
        for (index, (merged, mut outcome)) in merged.iter_mut().zip(outcomes?).enumerate() {
            if let Some(parts) = outcome.saved.take() {
                saved.entry(stretch.first + index).or_default().extend(parts);
            }
            merge(merged, outcome);
        }
    }
    for outcome in &mut merged {
        outcome.changes.iter_mut().for_each(consolidate);
    }
    Ok(Run { epochs: merged, saved })
}

fn merge(merged: &mut EpochOutcome, outcome: EpochOutcome) {
    merged.accepted += outcome.accepted;
    merged.late += outcome.late;
    merged.dead += outcome.dead;
    merged.changes.resize_with(outcome.changes.len(), Vec::new);
    merged.state_bytes.resize(outcome.state_bytes.len(), 0);
    for (mine, theirs) in merged.changes.iter_mut().zip(outcome.changes) {
        mine.extend(theirs);
    }
    for (mine, theirs) in merged.state_bytes.iter_mut().zip(outcome.state_bytes) {
        *mine += theirs;
    }
}

/// Cuts the log as the script says, and judges time in log order as the coordinator does.
fn cut(deployment: &Deployment, script: &Script) -> Vec<EpochPlan> {
    let count = deployment.sources.len();
    let mut builders: Vec<BatchBuilder> =
        (0..count).map(|source| BatchBuilder::new(Message::stream(source).into(), 0)).collect();
    let (mut ordinals, mut largest_us) = (vec![0; count], vec![None; count]);
    let (mut epochs, mut batches) = (Vec::new(), Vec::new());
    let last = [Step::Batch { worker: 0 }, Step::Epoch];
    // What comes after the last cut belongs to a last epoch.
    let ends = matches!(script.steps.last(), Some(Step::Epoch));
    let last = last.iter().filter(|_| !ends);
    for step in script.steps.iter().chain(last) {
        match step {
            Step::Message(message) => {
                ordinals[message.source] += 1;
                builders[message.source].push(
                    ordinals[message.source],
                    message.sequence,
                    message.received_at_us,
                    message.subject.as_bytes(),
                    b"",
                    message.payload.as_bytes(),
                );
            }
            Step::Batch { .. } | Step::Epoch => {
                let worker = if let Step::Batch { worker } = step { *worker } else { 0 };
                for (source, builder) in builders.iter_mut().enumerate() {
                    if builder.is_empty() {
                        continue;
                    }
                    let raw = builder.finish(None);
                    let decoded = deployment.sources[source].decode.decode(raw.clone());
                    let carried_us = largest_us[source];
                    largest_us[source] = largest_us[source].max(decoded.timestamp_max_us);
                    batches.push(BatchPlan { source, worker, raw, carried_us });
                }
            }
        }
        if let Step::Epoch = step {
            let watermark = |(source, largest_us): (usize, &Option<i64>)| match largest_us {
                Some(largest_us) => deployment.sources[source].decode.watermark(*largest_us),
                None => NO_WATERMARK,
            };
            let watermarks = largest_us.iter().enumerate().map(watermark).collect();
            epochs.push(EpochPlan { watermarks, batches: std::mem::take(&mut batches) });
        }
    }
    if script.is_final {
        epochs.push(EpochPlan { watermarks: vec![FINAL_WATERMARK; count], batches });
    }
    epochs
}

/// Tells the other workers that this one has died, so that they do not wait for it.
struct Guard(Arc<AtomicBool>);

impl Drop for Guard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::SeqCst);
        }
    }
}

type Handle<D> = InputHandle<Epoch, CapacityContainerBuilder<Vec<(D, Epoch, isize)>>>;
type Captured = Rc<RefCell<BTreeMap<Epoch, Vec<(Row, isize)>>>>;

/// One worker with the rendered operators.
struct WorkerRun {
    deployment: Arc<Deployment>,
    failed: Arc<AtomicBool>,
    events: Vec<Handle<Rc<EventBatch>>>,
    dead: Handle<Row>,
    captured: Vec<Captured>,
    states: Vec<StateGauge>,
    probe: ProbeHandle<Epoch>,
    clock: Clock,
    keeper: Keeper,
}

impl WorkerRun {
    fn new(
        worker: &mut Worker,
        deployment: &Arc<Deployment>,
        failed: &Arc<AtomicBool>,
        plans: &[EpochPlan],
        stretch: &Stretch,
    ) -> Self {
        let (probe, clock) = (ProbeHandle::new(), Clock::default());
        let restore = stretch.restore.clone().map(|state| {
            let before = stretch.first - 1;
            clock.set(before as Epoch, plans[before].watermarks.as_slice().into());
            let (worker, workers) = (worker.index(), worker.peers());
            Restore { state, epoch: before as Epoch, worker, workers }
        });
        let keeper = Keeper::new(restore);
        worker.dataflow::<Epoch, _, _>(|scope| {
            let (events, streams): (Vec<_>, Vec<Events<'_>>) =
                deployment.sources.iter().map(|_| scope.new_input()).unzip();
            let (dead, letters) = scope.new_input();
            let letters: Rows<'_> = letters.as_collection();
            let (mut outputs, mut captured, mut states) = (Vec::<Input<'_>>::new(), vec![], vec![]);
            let decoders = deployment.sources.iter().map(|source| -> Decoder {
                let plan = source.decode.clone();
                Arc::new(move |raw| plan.decode(raw).batch)
            });
            let decoders: Decoders = decoders.collect();
            for (index, node) in deployment.operators.iter().enumerate() {
                let input = |input: &InputRef| match *input {
                    InputRef::Source(index) => Input::Events(streams[index].clone()),
                    InputRef::Operator(index) => outputs[index].clone(),
                    InputRef::DeadLetters => Input::Rows(letters.clone()),
                };
                let state = StateGauge::default();
                let context = RenderContext {
                    clock: clock.clone(),
                    watermark: node.planned.watermark.clone(),
                    state: state.clone(),
                    name: node.name.clone(),
                    fingerprint: node.fingerprint,
                    keeper: keeper.clone(),
                    decoders: Rc::clone(&decoders),
                    only_final: stretch.only_final && !deployment.feeds_operator(index),
                };
                let inputs = node.inputs.iter().map(input).collect();
                let operator = &node.planned.operator;
                let (output, rows) = if node.gives_events {
                    let events = operator.render_events(scope, inputs, context);
                    (Input::Events(events.clone()), raw_rows(events, node.raw.clone()))
                } else {
                    let rows = operator.render(scope, inputs, context);
                    (Input::Rows(rows.clone()), rows)
                };
                captured.push(capture(rows, &probe));
                outputs.push(output);
                states.push(state);
            }
            let (deployment, failed) = (deployment.clone(), failed.clone());
            let (probe, clock, keeper) = (probe.clone(), clock.clone(), keeper.clone());
            Self { deployment, failed, events, dead, captured, states, probe, clock, keeper }
        })
    }

    fn run(
        mut self,
        worker: &mut Worker,
        plans: &[EpochPlan],
        stretch: &Stretch,
        in_flight: usize,
        _guard: Guard,
    ) -> Result<Vec<EpochOutcome>, String> {
        let first = stretch.first;
        self.restore(worker, first as Epoch)?;
        let mut outcomes = Vec::new();
        for (epoch, plan) in plans.iter().enumerate().skip(first) {
            if let Some(whole) = stretch.saves.get(&epoch) {
                self.keeper.request(epoch as Epoch, whole.clone());
            }
            outcomes.push(self.close(worker, epoch as Epoch, plan));
            if let Some(oldest) = epoch.checked_sub(in_flight).filter(|oldest| *oldest >= first) {
                self.finish(worker, oldest, &mut outcomes[oldest - first])?;
            }
        }
        for epoch in plans.len().saturating_sub(in_flight).max(first)..plans.len() {
            self.finish(worker, epoch, &mut outcomes[epoch - first])?;
        }
        let (captured, failed) = (self.captured.clone(), self.failed.clone());
        drop(self);
        wait(worker, &failed, Worker::has_dataflows)?;
        if captured.iter().any(|captured| !captured.borrow().is_empty()) {
            return Err("rows came out after the last epoch".to_owned());
        }
        Ok(outcomes)
    }

    /// Lets what was restored come to rest; nothing of it may come out again.
    fn restore(&mut self, worker: &mut Worker, first: Epoch) -> Result<(), String> {
        self.events.iter_mut().for_each(|events| events.advance_to(first));
        self.dead.advance_to(first);
        wait(worker, &self.failed, |_| self.probe.less_than(&first))?;
        self.keeper.restored();
        if let Some(fault) = self.keeper.fault() {
            return Err(fault.to_string());
        }
        match self.captured.iter().all(|captured| captured.borrow().is_empty()) {
            true => Ok(()),
            false => Err("what was restored came out again".to_owned()),
        }
    }

    /// Judges this worker's batches of an epoch and lets them flow, as the pipeline does: each as soon as
    /// it can be judged, and the clock comes last.
    fn close(&mut self, worker: &mut Worker, epoch: Epoch, plan: &EpochPlan) -> EpochOutcome {
        let mut outcome = EpochOutcome::default();
        self.events.iter_mut().for_each(|events| events.advance_to(epoch));
        self.dead.advance_to(epoch);
        for (index, batch) in plan.batches.iter().enumerate() {
            if batch.worker % worker.peers() != worker.index() {
                continue;
            }
            let decode = &self.deployment.sources[batch.source].decode;
            let mut decoded = decode.decode(batch.raw.clone());
            let late = decode.judge(&mut decoded.batch, batch.carried_us);
            outcome.late += late.len();
            outcome.dead += decoded.dead.len();
            outcome.accepted += decoded.batch.events.len() - late.len();
            for row in decoded.dead.into_iter().chain(late) {
                self.dead.send((row, epoch, 1));
            }
            self.events[batch.source].send((Rc::new(decoded.batch), epoch, 1));
            // Some come in pieces and some together.
            if (index as Epoch + epoch).is_multiple_of(2) {
                self.dead.flush();
                self.events[batch.source].flush();
                worker.step();
            }
        }
        self.clock.set(epoch, plan.watermarks.as_slice().into());
        self.events.iter_mut().for_each(|events| events.advance_to(epoch + 1));
        self.dead.advance_to(epoch + 1);
        outcome
    }

    /// Waits until an epoch has flowed through, and takes what came out.
    fn finish(
        &mut self,
        worker: &mut Worker,
        epoch: usize,
        outcome: &mut EpochOutcome,
    ) -> Result<(), String> {
        let time = epoch as Epoch;
        wait(worker, &self.failed, |_| self.probe.less_than(&(time + 1)))?;
        self.clock.forget_before(time);
        let take = |captured: &Captured| captured.borrow_mut().remove(&time).unwrap_or_default();
        outcome.changes = self.captured.iter().map(take).collect();
        outcome.state_bytes = self.states.iter().map(StateGauge::get).collect();
        outcome.saved = self.keeper.take(time);
        match self.keeper.fault() {
            Some(fault) => Err(fault.to_string()),
            None => Ok(()),
        }
    }
}

fn raw_rows<'s>(events: Events<'s>, columns: Option<RawColumns>) -> Rows<'s> {
    events.as_collection().flat_map(move |batch| {
        let events = columns.iter().map(|columns| RawEvents::new((*batch).clone(), columns));
        events.flat_map(|events| events.rows().collect::<Vec<_>>()).collect::<Vec<_>>()
    })
}

fn capture(rows: Rows<'_>, probe: &ProbeHandle<Epoch>) -> Captured {
    let captured = Captured::default();
    let kept = captured.clone();
    let keep = move |(row, epoch, diff): &(Row, Epoch, isize)| {
        kept.borrow_mut().entry(*epoch).or_default().push((row.clone(), *diff));
    };
    rows.inspect(keep).inner.probe_with(probe);
    captured
}
