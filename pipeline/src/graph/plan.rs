//! From a document to a deployment: names are resolved, cycles found, components planned in the
//! order of the flow. Everything wrong becomes a finding; planning goes on as far as it can.

use std::collections::BTreeMap;
use std::sync::Arc;

use waterwheel_config::document::Document;
use waterwheel_config::finding::Span;
use waterwheel_config::names::{is_name, nearest};
use waterwheel_config::section::Section;

use super::fingerprint::fingerprint;
use super::sources::{SourceDraft, plan_source};
use super::{Deployment, InputRef, OperatorNode, SinkNode, SourceNode};
use crate::contract::catalog::Catalog;
use crate::contract::clock::Watermark;
use crate::contract::event::{DEAD_LETTER, RawColumns, dead_letter_schema, raw_schema};
use crate::contract::operator::{
    InputFlow, InputName, InputPlan, OperatorContext, OperatorKind, Planned,
};
use crate::contract::sink::{Emit, InputRole, SinkContext, SinkInput};
use crate::runtime::decode::DecodePlan;

/// The default of `flush`.
const FLUSH_DEFAULT_US: i64 = 100_000;

/// Plans a document; `None` if it has errors, which are then among its findings.
pub fn plan(document: &Document, catalog: &Catalog) -> Option<Deployment> {
    let root = document.root();
    let name = pipeline_name(&root);
    let (workers, flush_us) = engine(&root);
    root.refuse(&["tests"]);
    let mut planner = Planner::new(catalog);
    planner.sources(&root);
    planner.operators(&root);
    let sinks = planner.sinks(&root, name.as_deref().unwrap_or_default());
    planner.warn_of_unread(&root, &sinks);
    root.finish();
    if document.findings.has_errors() {
        return None;
    }
    Some(planner.finish(name?, workers, flush_us, sinks))
}

fn pipeline_name(root: &Section<'_>) -> Option<String> {
    let name = root.required_text("name")?;
    if is_name(&name.value) {
        return Some(name.value);
    }
    refuse_name(root, &name.span, &name.value);
    None
}

fn refuse_name(section: &Section<'_>, span: &Span, name: &str) {
    section.findings().error_help(
        span.clone(),
        format!("`{name}` is no name"),
        "a name begins with a to z and goes on with a to z, 0 to 9 and _, 40 characters at most",
    );
}

fn engine(root: &Section<'_>) -> (usize, i64) {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let Some(engine) = root.table("engine") else {
        return (cores, FLUSH_DEFAULT_US);
    };
    let workers = engine.integer("workers", 1, 256).map_or(cores, |workers| workers.value as usize);
    let flush = engine.duration("flush");
    if let Some(flush) = &flush
        && !(1_000..=60_000_000).contains(&flush.value)
    {
        engine.findings().error(flush.span.clone(), "`flush` must be from 1ms to 1m");
    }
    engine.refuse(&["checkpoint"]);
    engine.finish();
    (workers, flush.map_or(FLUSH_DEFAULT_US, |flush| flush.value))
}

struct Planner<'c> {
    catalog: &'c Catalog,
    sources: Vec<SourceDraft>,
    /// The names of all sources in the file, planned or not.
    source_names: Vec<String>,
    operators: Vec<(OperatorNode, String)>,
    /// The names of all operators in the file, planned or not.
    operator_names: Vec<String>,
    raw: BTreeMap<usize, RawColumns>,
}

/// An operator's table before it is planned.
struct OperatorDraft<'d> {
    name: String,
    section: Section<'d>,
    kind: &'static OperatorKind,
    inputs: Vec<InputName>,
}

impl<'c> Planner<'c> {
    fn new(catalog: &'c Catalog) -> Self {
        Self {
            catalog,
            sources: Vec::new(),
            source_names: Vec::new(),
            operators: Vec::new(),
            operator_names: Vec::new(),
            raw: BTreeMap::new(),
        }
    }

    fn sources(&mut self, root: &Section<'_>) {
        for (name, section) in named_tables(root, "sources", "source") {
            self.source_names.push(name.clone());
            let index = self.sources.len() as u16;
            if let Some(source) = plan_source(&section, &name, index, self.catalog) {
                self.sources.push(source);
                section.finish();
            }
        }
        if self.source_names.is_empty() && !root.has("sources") {
            root.findings().error(root.span.clone(), "the deployment has no source");
        }
    }

    fn operators(&mut self, root: &Section<'_>) {
        let names: Vec<&'static str> =
            self.catalog.operators.iter().map(|kind| kind.name).collect();
        let mut waiting = Vec::new();
        for (name, section) in named_tables(root, "operators", "operator") {
            if self.source_names.contains(&name) {
                let message = format!("`{name}` is the name of a source already");
                section.findings().error(section.span.clone(), message);
            }
            self.operator_names.push(name.clone());
            if section.require("type").is_none() {
                continue;
            }
            let Some(chosen) = operator_kind(&section, &names) else {
                continue;
            };
            let kind = self.catalog.operators.iter().find(|kind| kind.name == chosen);
            if let Some(kind) = kind {
                let inputs = (kind.inputs)(&section);
                waiting.push(OperatorDraft { name, section, kind, inputs });
            }
        }
        waiting
            .retain(|draft| draft.inputs.iter().all(|input| self.is_known(&draft.section, input)));
        self.plan_in_order(waiting);
    }

    /// Plans each operator once its inputs are planned; what is left then waits for itself.
    fn plan_in_order(&mut self, mut waiting: Vec<OperatorDraft<'_>>) {
        loop {
            let ready = waiting.iter().position(|draft| {
                !draft
                    .inputs
                    .iter()
                    .any(|input| waiting.iter().any(|other| other.name == input.name))
            });
            let Some(ready) = ready else {
                break;
            };
            let draft = waiting.remove(ready);
            self.plan_operator(draft);
        }
        for draft in waiting {
            let looped =
                draft.inputs.iter().find(|input| self.operator_names.contains(&input.name));
            let span =
                looped.map_or_else(|| draft.section.span.clone(), |input| input.span.clone());
            let message =
                format!("`{}` reads its own output, directly or by way of others", draft.name);
            draft.section.findings().error(span, message);
        }
    }

    fn plan_operator(&mut self, draft: OperatorDraft<'_>) {
        let inputs: Option<Vec<InputRef>> =
            draft.inputs.iter().map(|input| self.resolve(&input.name)).collect();
        // An input that could not be planned has its own findings.
        let Some(inputs) = inputs else {
            return;
        };
        let plans = inputs.iter().map(|input| self.input_plan(*input)).collect();
        let mut context = OperatorContext { name: draft.name.clone(), inputs: plans };
        let Some(planned) = (draft.kind.plan)(&draft.section, &mut context) else {
            return;
        };
        draft.section.finish();
        let meaning = self.meaning(draft.kind.name, &planned, &inputs);
        let watermark = planned.watermark.clone();
        let node =
            OperatorNode { name: draft.name, kind: draft.kind.name, inputs, planned, watermark };
        self.operators.push((node, meaning));
    }

    fn meaning(&self, kind: &str, planned: &Planned, inputs: &[InputRef]) -> String {
        let inputs: Vec<String> = inputs.iter().map(|input| self.input_meaning(*input)).collect();
        format!("{kind}\n{}\nreads {}", planned.meaning, fingerprint(&inputs))
    }

    fn input_meaning(&self, input: InputRef) -> String {
        match input {
            InputRef::Source(index) => self.sources[index].meaning.clone(),
            InputRef::Operator(index) => self.operators[index].1.clone(),
            InputRef::DeadLetters => {
                let sources: Vec<&str> =
                    self.sources.iter().map(|source| source.meaning.as_str()).collect();
                sources.join("\n")
            }
        }
    }

    fn input_plan(&self, input: InputRef) -> InputPlan {
        match input {
            InputRef::Source(index) => InputPlan {
                name: self.sources[index].name.clone(),
                flow: InputFlow::Events(self.sources[index].projection.clone()),
                watermark: Watermark::source(index as u16),
            },
            InputRef::Operator(index) => {
                let node = &self.operators[index].0;
                InputPlan {
                    name: node.name.clone(),
                    flow: InputFlow::Rows(node.planned.schema.clone()),
                    watermark: node.planned.watermark.delayed(node.planned.held_back_us),
                }
            }
            InputRef::DeadLetters => {
                // A dead letter's time is its own, which nothing bounds.
                let mut schema = (*dead_letter_schema()).clone();
                for column in &mut schema.columns {
                    column.behind_us = None;
                }
                let sources: Vec<Watermark> =
                    (0..self.sources.len()).map(|index| Watermark::source(index as u16)).collect();
                InputPlan {
                    name: DEAD_LETTER.to_owned(),
                    flow: InputFlow::Rows(Arc::new(schema)),
                    watermark: Watermark::least(&sources),
                }
            }
        }
    }

    fn resolve(&self, name: &str) -> Option<InputRef> {
        if name == DEAD_LETTER {
            return Some(InputRef::DeadLetters);
        }
        let source = self.sources.iter().position(|source| source.name == name);
        let operator = || self.operators.iter().position(|(node, _)| node.name == name);
        source.map(InputRef::Source).or_else(|| operator().map(InputRef::Operator))
    }

    /// Reports the name of an input that is nowhere in the file.
    fn is_known(&self, section: &Section<'_>, input: &InputName) -> bool {
        let known = || {
            let names = self.source_names.iter().chain(&self.operator_names);
            names.map(String::as_str).chain([DEAD_LETTER])
        };
        if known().any(|name| name == input.name) {
            return true;
        }
        let message = format!("there is no source or operator `{}`", input.name);
        let help = match nearest(&input.name, known()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("there are: {}", known().collect::<Vec<_>>().join(", ")),
        };
        section.findings().error_help(input.span.clone(), message, help);
        false
    }

    fn sinks(&mut self, root: &Section<'_>, pipeline: &str) -> Vec<SinkNode> {
        let names: Vec<&'static str> = self.catalog.sinks.iter().map(|kind| kind.name).collect();
        let mut sinks: Vec<SinkNode> = Vec::new();
        let mut taken: BTreeMap<String, String> = BTreeMap::new();
        let mut written = 0;
        for (name, section) in named_tables(root, "sinks", "sink") {
            written += 1;
            let Some(sink) = self.plan_sink(&section, &name, pipeline, &names) else {
                continue;
            };
            for resource in sink.spec.resources() {
                if let Some(other) = taken.insert(resource.clone(), name.clone()) {
                    let message = format!("sinks `{other}` and `{name}` both write to {resource}");
                    section.findings().error(section.span.clone(), message);
                }
            }
            section.finish();
            sinks.push(sink);
        }
        if written == 0 && !root.has("sinks") {
            root.findings().error_help(
                root.span.clone(),
                "the deployment has no sink: nothing would come out",
                "add one: [sinks.out] type = \"print\" from = [\"...\"]",
            );
        }
        sinks.sort_by(|a, b| a.name.cmp(&b.name));
        sinks
    }

    fn plan_sink(
        &mut self,
        section: &Section<'_>,
        name: &str,
        pipeline: &str,
        kinds: &[&'static str],
    ) -> Option<SinkNode> {
        section.require("type")?;
        let chosen = section.choice("type", kinds)?;
        let kind = self.catalog.sinks.iter().find(|kind| kind.name == chosen.value)?;
        let emit = section.choice("emit", &["changes", "final"]);
        let emit = emit.map_or(kind.default_emit, |emit| match emit.value {
            "final" => Emit::Final,
            _ => Emit::Changes,
        });
        let names = crate::contract::operator::inputs_from(section);
        let all_known = names.iter().filter(|input| !self.is_known(section, input)).count() == 0;
        let inputs: Option<Vec<InputRef>> =
            names.iter().map(|input| self.resolve(&input.name)).collect();
        let (true, Some(inputs)) = (all_known, inputs) else {
            return None;
        };
        for input in &inputs {
            if let InputRef::Source(index) = input {
                let mut projection = self.sources[*index].projection.borrow_mut();
                self.raw.insert(*index, RawColumns::project(&mut projection));
            }
        }
        let context = SinkContext {
            pipeline: pipeline.to_owned(),
            sink: name.to_owned(),
            inputs: inputs.iter().map(|input| self.sink_input(*input)).collect(),
            emit,
        };
        let spec = (kind.plan)(section, &context)?;
        let mut meanings: Vec<String> =
            inputs.iter().map(|input| self.input_meaning(*input)).collect();
        meanings.push(format!("{emit:?}"));
        Some(SinkNode {
            name: name.to_owned(),
            kind: kind.name,
            guarantee: kind.guarantee,
            spec,
            inputs,
            context,
            fingerprint: fingerprint(&meanings),
        })
    }

    fn sink_input(&self, input: InputRef) -> SinkInput {
        match input {
            InputRef::Source(index) => SinkInput {
                name: self.sources[index].name.clone(),
                role: InputRole::RawEvents,
                schema: raw_schema(),
            },
            InputRef::Operator(index) => {
                let node = &self.operators[index].0;
                SinkInput {
                    name: node.name.clone(),
                    role: InputRole::Operator,
                    schema: node.planned.schema.clone(),
                }
            }
            InputRef::DeadLetters => SinkInput {
                name: DEAD_LETTER.to_owned(),
                role: InputRole::DeadLetters,
                schema: dead_letter_schema(),
            },
        }
    }

    fn warn_of_unread(&self, root: &Section<'_>, sinks: &[SinkNode]) {
        let Some(table) = root.table("operators") else {
            return;
        };
        for (index, (node, _)) in self.operators.iter().enumerate() {
            let input = InputRef::Operator(index);
            let read = self.operators.iter().any(|(other, _)| other.inputs.contains(&input))
                || sinks.iter().any(|sink| sink.inputs.contains(&input));
            if !read && !root.findings().has_errors() {
                root.findings().warning(
                    table.key_span(&node.name),
                    format!("nothing reads `{}`", node.name),
                    "name it in the `from` of a sink, or leave it out",
                );
            }
        }
    }

    fn finish(
        self,
        name: String,
        workers: usize,
        flush_us: i64,
        sinks: Vec<SinkNode>,
    ) -> Deployment {
        let raw = self.raw;
        let sources = self
            .sources
            .into_iter()
            .enumerate()
            .map(|(index, draft)| SourceNode {
                name: draft.name,
                kind: draft.kind,
                spec: draft.spec,
                until: draft.until,
                lateness_us: draft.settings.lateness_us,
                decode: Arc::new(DecodePlan::new(draft.settings, draft.projection.take())),
                raw: raw.get(&index).cloned(),
            })
            .collect();
        let operators = self.operators.into_iter().map(|(node, _)| node).collect();
        Deployment { name, workers, flush_us, sources, operators, sinks }
    }
}

/// The kinds of operator that the contract names and this version refuses.
const OPERATORS_NOT_YET: [&str; 6] =
    ["flow", "lineage", "retention", "sessions", "sample", "filter"];

fn operator_kind(section: &Section<'_>, names: &[&'static str]) -> Option<&'static str> {
    let text = section.text("type")?;
    if OPERATORS_NOT_YET.contains(&text.value.as_str()) || text.value == "derive" {
        section.findings().error_help(
            text.span,
            format!("operators of type `{}` are not built yet", text.value),
            format!("this version has: {}", names.join(", ")),
        );
        return None;
    }
    section.choice("type", names).map(|choice| choice.value)
}

/// The tables under `[<key>.<name>]`, with their names checked.
fn named_tables<'d>(root: &Section<'d>, key: &str, what: &str) -> Vec<(String, Section<'d>)> {
    let Some(table) = root.table(key) else {
        return Vec::new();
    };
    let mut sections = Vec::new();
    for (name, node) in table.entries() {
        if !is_name(&name.name) || name.name == DEAD_LETTER {
            refuse_name(&table, &name.span, &name.name);
        }
        let what = format!("{what} `{}`", name.name);
        if let Some(section) = table.node_table(node, &name.span, &what) {
            sections.push((name.name.clone(), section));
        }
    }
    sections
}
