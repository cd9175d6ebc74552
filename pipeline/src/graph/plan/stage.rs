//! The stage of a deployment's tests: its sources and operators as they are, and sinks of the
//! stage's own that take everything which comes out.

use waterwheel_config::document::Document;

use super::{Planner, pipeline_name};
use crate::contract::catalog::Catalog;
use crate::contract::event::{DEAD_LETTER, RawColumns, dead_letter_schema, raw_schema};
use crate::contract::sink::{Emit, SinkContext, SinkSpec};
use crate::graph::engine::engine;
use crate::graph::rehearsal::{self, Files, Outlet, Rehearsal};
use crate::graph::{Deployment, InputRef, SinkNode};

/// A sink that takes everything.
pub struct StageSink {
    /// Its name, by which the sinks are ordered.
    pub name: &'static str,
    /// What it takes of a row that changes.
    pub emit: Emit,
    /// Where the rows go: by outlet, first the sources, then the operators, then the dead letters.
    pub spec: Box<dyn SinkSpec>,
}

/// Plans a document for its tests, with these sinks in place of its own, of which nothing is read;
/// `None` if it has errors.
pub fn plan_stage(
    document: &Document,
    catalog: &Catalog,
    sinks: Vec<StageSink>,
) -> Option<(Deployment, Vec<Rehearsal>)> {
    if document.findings.has_errors() {
        return None;
    }
    let root = document.root();
    let name = pipeline_name(&root);
    let engine = engine(&root);
    let mut planner = Planner { is_rehearsal: true, ..Planner::new(catalog) };
    planner.sources(&root, engine.keeps_checkpoints);
    planner.operators(&root);
    let sinks = planner.stage_sinks(name.as_deref().unwrap_or_default(), sinks);
    // What is wrong with the sinks is for `check` to say.
    root.node("sinks");
    let files = Files::beside(&document.path);
    let rehearsals = rehearsal::read(&root, &planner.source_names, &planner.outlets(), &files);
    root.finish();
    if document.findings.has_errors() {
        return None;
    }
    Some((planner.finish(name?, engine, sinks), rehearsals))
}

impl Planner<'_> {
    /// What tests may look at: sources, operators, dead letters.
    pub(super) fn outlets(&self) -> Vec<Outlet> {
        let sources = self.source_names.iter().map(|name| Outlet {
            name: name.clone(),
            input: self.known(name).planned(),
            schema: raw_schema(),
        });
        let operators = self.operator_names.iter().map(|name| {
            let input = self.known(name).planned();
            let schema = match input {
                Some(InputRef::Operator(index)) => self.operators[index].0.planned.schema.clone(),
                _ => raw_schema(),
            };
            Outlet { name: name.clone(), input, schema }
        });
        let dead = Outlet {
            name: DEAD_LETTER.to_owned(),
            input: Some(InputRef::DeadLetters),
            schema: dead_letter_schema(),
        };
        sources.chain(operators).chain([dead]).collect()
    }

    fn stage_sinks(&mut self, pipeline: &str, sinks: Vec<StageSink>) -> Vec<SinkNode> {
        if !sinks.is_empty() {
            for (index, source) in self.sources.iter().enumerate() {
                let mut projection = source.projection.borrow_mut();
                self.raw.insert(index, RawColumns::project(&mut projection));
            }
            for (index, events) in &self.events {
                self.operators[*index].0.raw = Some(RawColumns::of(events));
            }
        }
        let inputs: Vec<InputRef> = (0..self.sources.len())
            .map(InputRef::Source)
            .chain((0..self.operators.len()).map(InputRef::Operator))
            .chain([InputRef::DeadLetters])
            .collect();
        let stage_sink = |sink: StageSink| {
            let context = SinkContext {
                pipeline: pipeline.to_owned(),
                sink: sink.name.to_owned(),
                inputs: inputs.iter().map(|input| self.sink_input(*input)).collect(),
                emit: sink.emit,
            };
            let fingerprint = self.sink_fingerprint(&context, &inputs, &*sink.spec);
            SinkNode {
                name: sink.name.to_owned(),
                kind: "stage",
                guarantee: "nothing is lost, nothing comes twice",
                spec: sink.spec,
                inputs: inputs.clone(),
                context,
                fingerprint,
                begins_now: false,
            }
        };
        sinks.into_iter().map(stage_sink).collect()
    }
}
