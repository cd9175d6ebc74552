//! The graph that a deployment file describes: sources, operators in the order of the flow, sinks.

mod cycles;
mod declared;
mod engine;
pub mod explain;
pub(crate) mod fingerprint;
mod plan;
pub mod rehearsal;
mod sources;
mod stand_in;
mod tables;

use std::sync::Arc;

use waterwheel_config::schema::SchemaRef;

use crate::contract::bucket::Place;
use crate::contract::clock::Watermark;
use crate::contract::event::{dead_letter_schema, raw_schema};
use crate::contract::nats::ConnectionSpec;
use crate::contract::operator::Planned;
use crate::contract::position::Gap;
use crate::contract::raw::RawColumns;
use crate::contract::sink::{Emit, SinkContext, SinkSpec, is_same_meaning};
use crate::contract::source::{Reading, SourceSpec, Until};
use crate::runtime::decode::DecodePlan;

pub use plan::{StageSink, check, plan, plan_stage};

/// A deployment without findings, ready to be run.
pub struct Deployment {
    /// Keys progress, checkpoints and metrics.
    pub name: String,
    /// How many dataflow workers.
    pub workers: usize,
    /// The longest that an event waits before its changes go to the sinks.
    pub flush_us: i64,
    /// Where and how often the state of the operators is saved, if it is.
    pub checkpoint: Option<CheckpointSettings>,
    /// Where it is told what `retain` has removed, if anywhere.
    pub report: Option<ReportTo>,
    /// The sources, by name.
    pub sources: Vec<SourceNode>,
    /// The operators, each after its inputs.
    pub operators: Vec<OperatorNode>,
    /// The sinks, by name.
    pub sinks: Vec<SinkNode>,
}

/// Where and how often the state of the operators is saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointSettings {
    /// The directory or the bucket; every pipeline has one of its own below.
    pub place: Place,
    /// The time between two checkpoints, in microseconds.
    pub every_us: i64,
    /// How many are kept.
    pub keep: usize,
}

/// A subject on which the pipeline tells what it did.
#[derive(Clone, Debug)]
pub struct ReportTo {
    /// The servers.
    pub connection: ConnectionSpec,
    /// The subject.
    pub subject: String,
}

/// Where an input comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputRef {
    /// A source, by index.
    Source(usize),
    /// An operator, by index.
    Operator(usize),
    /// The dead letters of all sources.
    DeadLetters,
}

/// A source of the graph.
pub struct SourceNode {
    /// Its name.
    pub name: String,
    /// The word for `type`.
    pub kind: &'static str,
    /// Its settings.
    pub spec: Box<dyn SourceSpec>,
    /// When its reading ends.
    pub until: Until,
    /// What may be missing from it in this run, as the command line says.
    pub accepted_gaps: Vec<Gap>,
    /// How far behind the largest timestamp an event may be.
    pub lateness_us: i64,
    /// After so long a silence others no longer wait for it, in microseconds.
    pub idle_after_us: Option<i64>,
    /// How far it may be ahead of another source that has messages, in event time.
    pub skew_max_us: i64,
    /// How its messages are decoded.
    pub decode: Arc<DecodePlan>,
    /// How raw rows are made of its events, where a sink wants them.
    pub raw: Option<RawColumns>,
}

/// An operator of the graph.
pub struct OperatorNode {
    /// Its name.
    pub name: String,
    /// The word for `type`.
    pub kind: &'static str,
    /// Where its inputs come from.
    pub inputs: Vec<InputRef>,
    /// What it does.
    pub planned: Planned,
    /// A hash over everything that gives its rows and its state their meaning.
    pub fingerprint: u128,
    /// True if it lets events through.
    pub gives_events: bool,
    /// How raw rows are made of these, where a sink wants them.
    pub raw: Option<RawColumns>,
}

/// A sink of the graph.
pub struct SinkNode {
    /// Its name.
    pub name: String,
    /// The word for `type`.
    pub kind: &'static str,
    /// What a crash can do to its content.
    pub guarantee: &'static str,
    /// Its settings.
    pub spec: Box<dyn SinkSpec>,
    /// Where its inputs come from, in the order of `from`.
    pub inputs: Vec<InputRef>,
    /// What it knows of the pipeline.
    pub context: SinkContext,
    /// A hash over everything that gives its rows their meaning, and one for each part of it.
    pub fingerprint: String,
    /// Where the pipeline runs already and it is new, it takes what comes from now on.
    pub begins_now: bool,
}

impl SinkNode {
    /// True if rows that were written under a fingerprint have the same meaning as its own.
    pub fn means(&self, recorded: &str) -> bool {
        is_same_meaning(&self.fingerprint, recorded)
    }
}

impl Deployment {
    /// How a source is to be read.
    pub fn reading(&self, source: &SourceNode) -> Reading {
        Reading {
            until: source.until,
            pipeline: self.name.clone(),
            source: source.name.clone(),
            accepted_gaps: source.accepted_gaps.clone(),
            is_checkpointed: self.checkpoint.is_some(),
            panicked_at: None,
        }
    }

    /// Notes that a range of a source may be missing in this run; without a name it is the only
    /// source from which anything can be.
    ///
    /// # Errors
    /// Which sources there are, where the name is none of them or is needed.
    pub fn accept_gap(&mut self, source: Option<&str>, gap: Gap) -> Result<(), String> {
        let names: Vec<String> = self
            .sources
            .iter()
            .filter(|node| node.spec.has_gaps())
            .map(|node| node.name.clone())
            .collect();
        let known = || format!("`{}`", names.join("`, `"));
        let wanted = match (source, names.as_slice()) {
            (_, []) => return Err("no source of this deployment can have gaps".to_owned()),
            (Some(name), _) if names.iter().any(|known| known == name) => name,
            (Some(name), _) => {
                return Err(format!("`{name}` is no source that can have gaps: {}", known()));
            }
            (None, [only]) => only,
            (None, [first, ..]) => {
                return Err(format!(
                    "several sources can have gaps, {}: write {first}:{gap}",
                    known()
                ));
            }
        };
        if let Some(node) = self.sources.iter_mut().find(|node| node.name == wanted) {
            node.accepted_gaps.push(gap);
        }
        Ok(())
    }

    /// The schema of an edge.
    pub fn schema(&self, input: InputRef) -> SchemaRef {
        match input {
            InputRef::Source(_) => raw_schema(),
            InputRef::Operator(index) => self.operators[index].planned.schema.clone(),
            InputRef::DeadLetters => dead_letter_schema(),
        }
    }

    /// The watermark of an edge.
    pub fn watermark(&self, input: InputRef) -> Watermark {
        match input {
            InputRef::Source(index) => Watermark::source(index as u16),
            InputRef::Operator(index) => {
                let planned = &self.operators[index].planned;
                planned.watermark.delayed(planned.held_back_us)
            }
            InputRef::DeadLetters => {
                let sources: Vec<Watermark> =
                    (0..self.sources.len()).map(|index| Watermark::source(index as u16)).collect();
                Watermark::least(&sources)
            }
        }
    }

    /// The name of an edge's origin.
    pub fn input_name(&self, input: InputRef) -> &str {
        match input {
            InputRef::Source(index) => &self.sources[index].name,
            InputRef::Operator(index) => &self.operators[index].name,
            InputRef::DeadLetters => crate::contract::event::DEAD_LETTER,
        }
    }

    /// True if another operator reads an operator's rows.
    pub fn feeds_operator(&self, operator: usize) -> bool {
        let input = InputRef::Operator(operator);
        self.operators.iter().any(|node| node.inputs.contains(&input))
    }

    /// True if nobody wants an operator's rows before they are final.
    pub fn wants_only_final(&self, operator: usize) -> bool {
        !self.feeds_operator(operator) && !self.emits_changes(InputRef::Operator(operator))
    }

    /// True if a sink writes changes of this input as they happen.
    pub fn emits_changes(&self, input: InputRef) -> bool {
        self.sinks
            .iter()
            .any(|sink| sink.context.emit == Emit::Changes && sink.inputs.contains(&input))
    }
}
