//! The dataflow workers: threads that decode batches and run the timely dataflow.
//!
//! The only file that names a timely worker. Each worker renders the same graph in the same order.
//! Its loop takes messages from its mailbox, lets timely work, and reports each epoch that has
//! flowed through.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use differential_dataflow::input::InputSession;
use timely::communication::WorkerGuards;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::{Input as _, Probe};
use timely::dataflow::{InputHandle, ProbeHandle};
use timely::worker::Worker;
use tokio::sync::mpsc;
use waterwheel_config::value::Row;

use super::capture::{Captured, Output};
use super::final_gate::{final_only, final_part};
use super::messages::{BatchId, Carried, Closing, Counts, EpochOutput, FromWorker, ToWorker};
use crate::contract::clock::{Clock, StateGauge};
use crate::contract::epoch::Epoch;
use crate::contract::event::EventBatch;
use crate::contract::fault::Fault;
use crate::contract::operator::{Decoder, Decoders, Events, Input, RenderContext, Rows};
use crate::contract::sink::Emit;
use crate::contract::state::{Keeper, Restore, SavedState};
use crate::graph::{Deployment, InputRef, SinkNode};
use crate::runtime::decode::{DecodePlan, Decoded};

/// Messages that wait for a worker. The coordinator bounds what is under way, see its limits; this
/// only has to be larger.
const MAILBOX_MESSAGES: usize = 1024;

/// How long an idle worker sleeps; it is woken by its mailbox and by other workers.
const PARK: Duration = Duration::from_secs(1);

/// The coordinator's end of a worker.
pub(super) struct WorkerHandle {
    /// `None` only while it is dropped.
    mailbox: Option<SyncSender<ToWorker>>,
    thread: Thread,
}

impl Drop for WorkerHandle {
    fn drop(&mut self) {
        // A parked worker does not see by itself that its mailbox is closed.
        self.mailbox = None;
        self.thread.unpark();
    }
}

impl WorkerHandle {
    /// Sends a message and wakes the worker.
    pub(super) fn send(&self, message: ToWorker) -> Result<(), Fault> {
        // Never full: the coordinator keeps less under way than fits.
        let sent = self.mailbox.as_ref().is_some_and(|mailbox| mailbox.try_send(message).is_ok());
        self.thread.unpark();
        if sent { Ok(()) } else { Err(Fault::halt("a dataflow worker is gone")) }
    }
}

/// The running workers; dropping the handles ends them.
pub(super) struct Workers {
    guards: WorkerGuards<()>,
}

impl Workers {
    /// Waits until all have ended, which they do once their mailboxes are closed.
    pub(super) fn join(self) {
        for guard in self.guards.join() {
            if let Err(error) = guard {
                tracing::error!("a dataflow worker failed: {error}");
            }
        }
    }
}

/// The state that workers begin with.
#[derive(Clone)]
pub(super) struct Resume {
    pub(super) state: Arc<dyn SavedState>,
    /// As of which epoch of this generation it holds: the one before the first.
    pub(super) epoch: Epoch,
    /// The watermark of each source after that epoch.
    pub(super) watermarks: Vec<i64>,
}

/// Starts the workers of a deployment.
pub(super) fn start(
    deployment: &Arc<Deployment>,
    coordinator: &mpsc::Sender<FromWorker>,
    resume: Option<Resume>,
) -> Result<(Workers, Vec<WorkerHandle>), Fault> {
    let count = deployment.workers;
    let (mailboxes, receivers): (Vec<_>, Vec<_>) =
        (0..count).map(|_| sync_channel(MAILBOX_MESSAGES)).unzip();
    let receivers = Mutex::new(receivers.into_iter().map(Some).collect::<Vec<_>>());
    let (registry, registered) = sync_channel(count);
    let mut config = match count {
        1 => timely::Config::thread(),
        count => timely::Config::process(count),
    };
    let differential = differential_dataflow::Config::default().idle_merge_effort(Some(1000));
    differential_dataflow::configure(&mut config.worker, &differential);
    let (deployment, coordinator) = (deployment.clone(), coordinator.clone());
    let guards = timely::execute(config, move |worker| {
        let index = worker.index();
        let mailbox = receivers.lock().unwrap_or_else(PoisonError::into_inner)[index].take();
        let _ = registry.send((index, std::thread::current()));
        if let Some(mailbox) = mailbox {
            let (deployment, coordinator) = (deployment.clone(), coordinator.clone());
            let resume = resume.clone();
            WorkerLoop::new(worker, deployment, mailbox, coordinator, resume).run(worker);
        }
    })
    .map_err(|error| Fault::halt(format!("cannot start the dataflow workers: {error}")))?;
    let mut threads: Vec<(usize, Thread)> = registered.iter().take(count).collect();
    threads.sort_by_key(|(index, _)| *index);
    let handles = mailboxes
        .into_iter()
        .zip(threads)
        .map(|(mailbox, (_, thread))| WorkerHandle { mailbox: Some(mailbox), thread })
        .collect();
    Ok((Workers { guards }, handles))
}

/// Where the batches of one source enter the dataflow.
type EventInput = InputHandle<Epoch, CapacityContainerBuilder<Vec<(Rc<EventBatch>, Epoch, isize)>>>;

/// The inputs of the dataflow, and what comes out of it.
struct Graph {
    events: Vec<EventInput>,
    dead: InputSession<Epoch, Row, isize>,
    /// By sink, then by input.
    captured: Vec<Vec<Captured>>,
    states: Vec<StateGauge>,
    probe: ProbeHandle<Epoch>,
    clock: Clock,
    keeper: Keeper,
}

impl Graph {
    fn render(worker: &mut Worker, deployment: &Deployment, clock: Clock, keeper: Keeper) -> Self {
        let probe = ProbeHandle::new();
        worker.dataflow::<Epoch, _, _>(|scope| {
            let (events, streams): (Vec<_>, Vec<_>) =
                deployment.sources.iter().map(|_| scope.new_input()).unzip();
            let mut dead = InputSession::new();
            let dead_rows: Rows<'_> = dead.to_collection(scope);
            let mut edges =
                Edges { deployment, events: streams, dead: dead_rows, outputs: Vec::new() };
            let sources = deployment.sources.iter();
            let decoders: Decoders = sources.map(|source| decoder(&source.decode)).collect();
            let mut states = Vec::new();
            for (index, node) in deployment.operators.iter().enumerate() {
                let inputs = node.inputs.iter().map(|input| edges.input(*input)).collect();
                let state = StateGauge::default();
                let context = RenderContext {
                    clock: clock.clone(),
                    watermark: node.planned.watermark.clone(),
                    state: state.clone(),
                    name: node.name.clone(),
                    fingerprint: node.fingerprint,
                    keeper: keeper.clone(),
                    decoders: Rc::clone(&decoders),
                    only_final: deployment.wants_only_final(index),
                };
                let operator = &node.planned.operator;
                edges.outputs.push(match node.gives_events {
                    false => {
                        let rows = operator.render(scope, inputs, context);
                        rows.clone().inner.probe_with(&probe);
                        Input::Rows(rows)
                    }
                    true => {
                        let events = operator.render_events(scope, inputs, context);
                        Input::Events(events.probe_with(&probe))
                    }
                });
                states.push(state);
            }
            let captured = deployment
                .sinks
                .iter()
                .map(|sink| {
                    sink.inputs
                        .iter()
                        .map(|input| {
                            Captured::of(edges.sink_input(*input, sink, &clock, &keeper), &probe)
                        })
                        .collect()
                })
                .collect();
            Self { events, dead, captured, states, probe, clock, keeper }
        })
    }

    fn state_bytes(&self) -> usize {
        self.states.iter().map(StateGauge::get).sum()
    }
}

/// What flows on each edge while the graph is rendered.
struct Edges<'d, 's> {
    deployment: &'d Deployment,
    events: Vec<Events<'s>>,
    dead: Rows<'s>,
    /// What comes out of each operator.
    outputs: Vec<Input<'s>>,
}

impl<'s> Edges<'_, 's> {
    fn input(&self, input: InputRef) -> Input<'s> {
        match input {
            InputRef::Source(index) => Input::Events(self.events[index].clone()),
            InputRef::Operator(index) => self.outputs[index].clone(),
            InputRef::DeadLetters => Input::Rows(self.dead.clone()),
        }
    }

    fn sink_input(
        &self,
        input: InputRef,
        sink: &SinkNode,
        clock: &Clock,
        keeper: &Keeper,
    ) -> Output<'s> {
        let node = match input {
            InputRef::DeadLetters => return Output::Rows(self.dead.clone()),
            InputRef::Source(index) => {
                let raw = self.deployment.sources[index].raw.clone();
                return Output::Events(self.events[index].clone(), raw);
            }
            InputRef::Operator(index) => index,
        };
        let rows = match self.outputs[node].clone() {
            Input::Rows(rows) => rows,
            // They are final as soon as they are out.
            Input::Events(events) => {
                return Output::Events(events, self.deployment.operators[node].raw.clone());
            }
        };
        Output::Rows(match sink.context.emit {
            Emit::Changes => rows,
            Emit::Final => {
                let finality = self.deployment.schema(input).finality;
                let node = &self.deployment.operators[node];
                let part = keeper.part(&final_part(node, sink), node.fingerprint);
                final_only(rows, finality, clock.clone(), self.deployment.watermark(input), part)
            }
        })
    }
}

fn decoder(plan: &Arc<DecodePlan>) -> Decoder {
    let plan = plan.clone();
    Arc::new(move |raw| plan.decode(raw).batch)
}

/// A decoded batch that waits until all before it are decoded.
struct Waiting {
    source: u16,
    decoded: Decoded,
}

struct WorkerLoop {
    deployment: Arc<Deployment>,
    mailbox: Receiver<ToWorker>,
    coordinator: mpsc::Sender<FromWorker>,
    graph: Graph,
    waiting: HashMap<BatchId, Waiting>,
    /// Of the epoch that closes next.
    counts: Counts,
    /// Closed epochs that still flow, with what was counted in each.
    flowing: VecDeque<(Epoch, Counts)>,
    /// As of which epoch state was restored, if any was.
    resumed: Option<Epoch>,
}

impl WorkerLoop {
    fn new(
        worker: &mut Worker,
        deployment: Arc<Deployment>,
        mailbox: Receiver<ToWorker>,
        coordinator: mpsc::Sender<FromWorker>,
        resume: Option<Resume>,
    ) -> Self {
        let clock = Clock::default();
        let restore = resume.map(|Resume { state, epoch, watermarks }| {
            clock.set(epoch, watermarks.into());
            Restore { state, epoch, worker: worker.index(), workers: worker.peers() }
        });
        let resumed = restore.as_ref().map(|restore| restore.epoch);
        let keeper = match (&deployment.checkpoint, restore) {
            (None, None) => Keeper::default(),
            (_, restore) => Keeper::new(restore),
        };
        let graph = Graph::render(worker, &deployment, clock, keeper);
        Self {
            deployment,
            mailbox,
            coordinator,
            graph,
            waiting: HashMap::new(),
            counts: Counts::default(),
            flowing: VecDeque::new(),
            resumed,
        }
    }

    fn run(mut self, worker: &mut Worker) {
        self.restore(worker);
        loop {
            match self.mailbox.try_recv() {
                Ok(message) => {
                    self.take(message);
                    worker.step();
                }
                Err(TryRecvError::Empty) => {
                    worker.step_or_park(Some(PARK));
                }
                Err(TryRecvError::Disconnected) => break,
            }
            if !self.report_done() {
                break;
            }
        }
        // Closing the inputs lets every worker's operators end.
        drop(self.graph);
        while worker.has_dataflows() {
            worker.step_or_park(Some(PARK));
        }
    }

    /// Lets what was restored come to rest before anything new flows. All of it was out before, so
    /// nothing comes out.
    fn restore(&mut self, worker: &mut Worker) {
        if let Some(epoch) = self.resumed {
            let began = Instant::now();
            self.advance_inputs(epoch + 1);
            while self.graph.probe.less_than(&(epoch + 1)) {
                worker.step_or_park(Some(PARK));
            }
            self.graph.keeper.restored();
            if worker.index() == 0 {
                let rest_ms = began.elapsed().as_millis() as u64;
                tracing::info!(rest_ms, "the state is restored");
            }
            for captured in self.graph.captured.iter().flatten() {
                debug_assert!(captured.is_empty(), "what was restored came out again");
            }
        }
    }

    fn advance_inputs(&mut self, epoch: Epoch) {
        for events in &mut self.graph.events {
            events.advance_to(epoch);
        }
        self.graph.dead.advance_to(epoch);
        self.graph.dead.flush();
    }

    fn take(&mut self, message: ToWorker) {
        match message {
            ToWorker::Batch { id, source, raw } => {
                let decoded = self.deployment.sources[usize::from(source)].decode.decode(raw);
                let timestamp_max_us = decoded.timestamp_max_us;
                self.waiting.insert(id, Waiting { source, decoded });
                self.report(FromWorker::Decoded { id, timestamp_max_us });
            }
            ToWorker::Judge { epoch, id, carried } => {
                if let Some(waiting) = self.waiting.remove(&id) {
                    self.judge(epoch, waiting, carried);
                }
            }
            ToWorker::Close(closing) => self.close(&closing),
        }
    }

    /// Judges a batch and lets it flow.
    fn judge(&mut self, epoch: Epoch, waiting: Waiting, carried: Carried) {
        let Waiting { source, decoded: Decoded { mut batch, dead, .. } } = waiting;
        let index = usize::from(source);
        let plan = &self.deployment.sources[index].decode;
        let late = plan.judge_above(&mut batch, carried.largest_us, carried.floor_us);
        self.counts.late += late.len() as u64;
        self.counts.dead += (late.len() + dead.len()) as u64;
        self.counts.accepted += (batch.events.len() - late.len()) as u64;
        self.advance_inputs(epoch);
        for row in dead.into_iter().chain(late) {
            self.graph.dead.insert(row);
        }
        self.graph.dead.flush();
        self.graph.events[index].send((Rc::new(batch), epoch, 1));
        self.graph.events[index].flush();
    }

    /// Closes an epoch, so that its results come out.
    fn close(&mut self, closing: &Closing) {
        let epoch = closing.epoch;
        self.graph.clock.set(epoch, closing.watermarks.as_slice().into());
        if let Some(whole) = &closing.save {
            self.graph.keeper.request(epoch, whole.clone());
        }
        self.advance_inputs(epoch + 1);
        self.flowing.push_back((epoch, std::mem::take(&mut self.counts)));
    }

    /// Reports the epochs that have flowed through; false if nobody listens any more.
    fn report_done(&mut self) -> bool {
        if let Some(fault) = self.graph.keeper.fault() {
            self.report(FromWorker::Fault(fault));
            return false;
        }
        while let Some((epoch, counts)) = self.flowing.front().copied() {
            if self.graph.probe.less_than(&(epoch + 1)) {
                break;
            }
            self.flowing.pop_front();
            self.graph.clock.forget_before(epoch);
            let sinks = self
                .graph
                .captured
                .iter()
                .map(|inputs| inputs.iter().map(|input| input.take(epoch)).collect())
                .collect();
            let state_bytes = self.graph.state_bytes();
            let saved = self.graph.keeper.take(epoch).unwrap_or_default();
            let output = EpochOutput { epoch, sinks, counts, state_bytes, saved };
            if !self.report(FromWorker::Done(Box::new(output))) {
                return false;
            }
        }
        true
    }

    fn report(&self, message: FromWorker) -> bool {
        self.coordinator.blocking_send(message).is_ok()
    }
}
