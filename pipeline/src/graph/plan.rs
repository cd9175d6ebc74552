//! From a document to a deployment: names are resolved, cycles found, components planned in the
//! order of the flow. Everything wrong becomes a finding; planning goes on as far as it can.

mod stage;

use std::collections::BTreeMap;
use std::sync::Arc;

use waterwheel_config::document::Document;
use waterwheel_config::names::{is_name, nearest};
use waterwheel_config::schema::Finality;
use waterwheel_config::section::Section;

use super::cycles::report_cycles;
use super::engine::{Engine, engine};
use super::fingerprint::{PLACE, Parts, fingerprint};
use super::rehearsal::{self, Files};
use super::sources::{Beside, SourceDraft, plan_source};
use super::stand_in::{self, Known};
use super::tables::{chosen_kind, named_tables, none_of, refuse_name};
use super::{Deployment, InputRef, OperatorNode, SinkNode, SourceNode};
use crate::contract::catalog::Catalog;
use crate::contract::clock::Watermark;
use crate::contract::event::{DEAD_LETTER, EventFields, dead_letter_schema, raw_schema};
use crate::contract::operator::{
    InputFlow, InputName, InputPlan, OperatorContext, OperatorKind, Planned,
};
use crate::contract::raw::RawColumns;
use crate::contract::sink::{Emit, InputRole, SinkContext, SinkInput, SinkSpec};
use crate::runtime::decode::DecodePlan;

pub use stage::{StageSink, plan_stage};

/// Plans a document; `None` if it has errors, which are then among its findings.
pub fn plan(document: &Document, catalog: &Catalog) -> Option<Deployment> {
    plan_with(document, catalog, &Files::Left)
}

/// As [`plan`], and looks at the files that the tests of the deployment name.
pub fn check(document: &Document, catalog: &Catalog) -> Option<Deployment> {
    plan_with(document, catalog, &Files::beside(&document.path))
}

fn plan_with(document: &Document, catalog: &Catalog, files: &Files) -> Option<Deployment> {
    // In what is no TOML, what seems to be missing may be there.
    if document.findings.has_errors() {
        return None;
    }
    let root = document.root();
    let name = pipeline_name(&root);
    let engine = engine(&root);
    let mut planner = Planner::new(catalog);
    planner.sources(&root, engine.keeps_checkpoints);
    planner.operators(&root);
    let sinks = planner.sinks(&root, name.as_deref().unwrap_or_default());
    planner.warn_of_unread(&root, &sinks);
    rehearsal::read(&root, &planner.source_names, &planner.outlets(), files);
    root.finish();
    if document.findings.has_errors() {
        return None;
    }
    Some(planner.finish(name?, engine, sinks))
}

fn pipeline_name(root: &Section<'_>) -> Option<String> {
    let name = root.required_text("name")?;
    if is_name(&name.value) {
        return Some(name.value);
    }
    refuse_name(root, &name.span, &name.value);
    None
}

struct Planner<'c> {
    catalog: &'c Catalog,
    sources: Vec<SourceDraft>,
    /// The names of all sources in the file, planned or not.
    source_names: Vec<String>,
    operators: Vec<(OperatorNode, String)>,
    /// Of operators that let events through: their fields, by the operator's index.
    events: BTreeMap<usize, EventFields>,
    /// The names of all operators in the file, planned or not.
    operator_names: Vec<String>,
    raw: BTreeMap<usize, RawColumns>,
    /// True where no server is reached, so that what names one need not be known.
    is_rehearsal: bool,
}

/// An operator's table before it is planned.
pub(super) struct OperatorDraft<'d> {
    pub(super) name: String,
    pub(super) section: Section<'d>,
    kind: &'static OperatorKind,
    pub(super) inputs: Vec<InputName>,
}

impl<'c> Planner<'c> {
    fn new(catalog: &'c Catalog) -> Self {
        Self {
            catalog,
            sources: Vec::new(),
            source_names: Vec::new(),
            operators: Vec::new(),
            events: BTreeMap::new(),
            operator_names: Vec::new(),
            raw: BTreeMap::new(),
            is_rehearsal: false,
        }
    }

    fn sources(&mut self, root: &Section<'_>, keeps_checkpoints: bool) {
        let mut tables = named_tables(root, "sources", "source");
        // Events of one time are taken in the order of their sources, which must not depend on how
        // the file is laid out.
        tables.sort_by(|(one, _), (other, _)| one.cmp(other));
        let is_alone = tables.len() == 1;
        for (name, section) in tables {
            self.source_names.push(name.clone());
            let index = self.sources.len() as u16;
            let beside = Beside { is_alone, keeps_checkpoints, is_rehearsal: self.is_rehearsal };
            self.sources.extend(plan_source(section, &name, index, beside, self.catalog));
        }
        if self.source_names.is_empty() {
            let message = "the deployment has no source".to_owned();
            let help = "add a table: [sources.events] with type = \"nats\" and stream = \"...\"";
            none_of(root, "sources", message, help);
        }
    }

    fn operators(&mut self, root: &Section<'_>) {
        let names: Vec<&'static str> =
            self.catalog.operators.iter().map(|kind| kind.name).collect();
        let mut waiting = Vec::new();
        for (mut name, section) in named_tables(root, "operators", "operator") {
            if self.source_names.contains(&name) {
                section.findings().error_help(
                    section.span.clone(),
                    format!("`{name}` is the name of a source already"),
                    "give one of them another name: `from` could mean either",
                );
                // The name goes on to mean the source.
                name = format!("operators.{name}");
            }
            self.operator_names.push(name.clone());
            let Some(kind) = chosen_kind(&section, &names) else {
                section.abandon();
                continue;
            };
            if let Some(kind) = self.catalog.operators.iter().find(|known| known.name == kind) {
                let inputs = (kind.inputs)(&section);
                waiting.push(OperatorDraft { name, section, kind, inputs });
            }
        }
        for draft in &waiting {
            for input in &draft.inputs {
                self.report_unknown(&draft.section, input);
            }
        }
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
        report_cycles(&waiting);
        for draft in waiting {
            self.plan_operator(draft);
        }
    }

    fn plan_operator(&mut self, draft: OperatorDraft<'_>) {
        let known: Vec<Known> = draft.inputs.iter().map(|input| self.known(&input.name)).collect();
        let plans = draft.inputs.iter().zip(&known).map(|(input, known)| match known {
            Known::Planned(input) => self.input_plan(*input),
            _ => InputPlan::stand_in(&input.name),
        });
        let mut plans: Vec<InputPlan> = plans.collect();
        if plans.is_empty() {
            plans.push(InputPlan::stand_in(DEAD_LETTER));
        }
        let guessed = known.is_empty() || known.contains(&Known::Unplanned);
        let mut context = OperatorContext { name: draft.name.clone(), inputs: plans, events: None };
        let before = draft.section.findings().len();
        let planned = (draft.kind.plan)(&draft.section, &mut context);
        if guessed {
            stand_in::forget_guesses(&draft.section, before);
        }
        draft.section.finish();
        let inputs: Option<Vec<InputRef>> = known.into_iter().map(Known::planned).collect();
        // An input that could not be planned has its own findings.
        let (Some(planned), Some(inputs)) = (planned, inputs) else {
            return;
        };
        let meaning = self.meaning(draft.kind.name, &planned, &inputs);
        let fingerprint = fingerprint(std::slice::from_ref(&meaning));
        let (name, kind, raw) = (draft.name, draft.kind.name, None);
        let gives_events = context.events.is_some();
        let node = OperatorNode { name, kind, inputs, planned, fingerprint, gives_events, raw };
        if let Some(events) = context.events {
            self.events.insert(self.operators.len(), events);
        }
        self.operators.push((node, meaning));
    }

    /// A sink takes this input: events become rows there, which need all of their fields.
    fn need_raw(&mut self, input: InputRef) {
        match input {
            InputRef::Source(index) => {
                let mut projection = self.sources[index].projection.borrow_mut();
                self.raw.insert(index, RawColumns::project(&mut projection));
            }
            InputRef::Operator(index) => {
                if let Some(events) = self.events.get(&index) {
                    self.operators[index].0.raw = Some(RawColumns::of(events));
                }
            }
            InputRef::DeadLetters => {}
        }
    }

    fn meaning(&self, kind: &str, planned: &Planned, inputs: &[InputRef]) -> String {
        let hash =
            |input: &InputRef| format!("{:032x}", fingerprint(&[self.input_meaning(*input)]));
        let mut reads: Vec<String> = inputs.iter().map(hash).collect();
        if !planned.operator.inputs_differ() {
            reads.sort();
        }
        let types = self.take_named_types();
        format!("{kind}\n{}\nreads {}{types}", planned.meaning, reads.join(" "))
    }

    /// The declared types of the paths that the operator names which was planned last, whichever way
    /// the events came to it. A path that nobody names is of no type.
    fn take_named_types(&self) -> String {
        let types = self.sources.iter().flat_map(|source| {
            let named = source.projection.borrow_mut().take_named_types();
            named.into_iter().map(|named| format!("\ntype {} {named:?}", source.name))
        });
        types.collect()
    }

    /// What gives a sink's rows their meaning, see [`SinkNode::fingerprint`].
    fn sink_fingerprint(
        &self,
        context: &SinkContext,
        inputs: &[InputRef],
        spec: &dyn SinkSpec,
    ) -> String {
        let mut parts = Parts::default();
        for source in &self.sources {
            parts.add(&source.name, &source.meaning);
        }
        let mut meanings = Vec::new();
        for (index, (input, known)) in inputs.iter().zip(&context.inputs).enumerate() {
            let name = &known.name;
            let meaning = self.input_meaning(*input);
            parts.add(name, &meaning);
            self.add_operators(*input, &mut parts);
            let mut place = spec.placement(index);
            // What is final at once comes out the same.
            if known.schema.finality != Finality::Immediate {
                place.push_str(&format!(" {:?}", context.emit));
            }
            parts.add(format!("{PLACE}{name}"), &place);
            meanings.push(format!("{name}\n{meaning}\n{place}"));
        }
        meanings.sort();
        parts.text(&meanings)
    }

    /// Adds every operator that an input rests on.
    fn add_operators(&self, input: InputRef, parts: &mut Parts) {
        if let InputRef::Operator(index) = input {
            let (node, meaning) = &self.operators[index];
            parts.add(&node.name, meaning);
            node.inputs.iter().for_each(|input| self.add_operators(*input, parts));
        }
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
                flow: InputFlow::Events(EventFields::source(
                    self.sources[index].projection.clone(),
                )),
                watermark: Watermark::source(index as u16),
            },
            InputRef::Operator(index) => {
                let node = &self.operators[index].0;
                let rows = || InputFlow::Rows(node.planned.schema.clone());
                InputPlan {
                    name: node.name.clone(),
                    flow: self.events.get(&index).cloned().map_or_else(rows, InputFlow::Events),
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

    /// What is known of an input by its name.
    fn known(&self, name: &str) -> Known {
        if name == DEAD_LETTER {
            return Known::Planned(InputRef::DeadLetters);
        }
        if let Some(index) = self.sources.iter().position(|source| source.name == name) {
            return Known::Planned(InputRef::Source(index));
        }
        if self.source_names.iter().any(|source| source == name) {
            return Known::UnplannedSource;
        }
        let operator = self.operators.iter().position(|(node, _)| node.name == name);
        operator.map_or(Known::Unplanned, |index| Known::Planned(InputRef::Operator(index)))
    }

    /// Reports the name of an input that is nowhere in the file.
    fn report_unknown(&self, section: &Section<'_>, input: &InputName) {
        let known = || {
            let names = self.source_names.iter().chain(&self.operator_names);
            names.map(String::as_str).chain([DEAD_LETTER])
        };
        if known().any(|name| name == input.name) {
            return;
        }
        let message = format!("there is no source or operator `{}`", input.name);
        let help = match nearest(&input.name, known()) {
            Some(near) => format!("did you mean `{near}`?"),
            // It names the source that is missing, and that is a finding already.
            None if self.source_names.is_empty() => return,
            None => format!("there are: {}", known().collect::<Vec<_>>().join(", ")),
        };
        section.findings().error_help(input.span.clone(), message, help);
    }

    fn sinks(&mut self, root: &Section<'_>, pipeline: &str) -> Vec<SinkNode> {
        let mut sinks: Vec<SinkNode> = Vec::new();
        let mut taken: BTreeMap<String, String> = BTreeMap::new();
        let mut written = 0;
        for (name, section) in named_tables(root, "sinks", "sink") {
            written += 1;
            let (findings, span) = (section.findings(), section.span.clone());
            let Some(sink) = self.plan_sink(section, &name, pipeline) else {
                continue;
            };
            // One finding for a pair: where a table is shared, so is what belongs to it.
            let mut shared: Vec<String> = Vec::new();
            for resource in sink.spec.resources() {
                if let Some(other) = taken.insert(resource.clone(), name.clone())
                    && !shared.contains(&other)
                {
                    let message = format!("sinks `{other}` and `{name}` both write to {resource}");
                    let help = "let one of them write elsewhere, or leave the input out of one";
                    findings.error_help(span.clone(), message, help);
                    shared.push(other);
                }
            }
            sinks.push(sink);
        }
        if written == 0 {
            let message = "the deployment has no sink: nothing would come out".to_owned();
            let help = "add a table: [sinks.out] with type = \"print\" and from = [\"...\"]";
            none_of(root, "sinks", message, help);
        }
        sinks.sort_by(|a, b| a.name.cmp(&b.name));
        sinks
    }

    fn plan_sink(&mut self, section: Section<'_>, name: &str, pipeline: &str) -> Option<SinkNode> {
        let kinds: Vec<&'static str> = self.catalog.sinks.iter().map(|kind| kind.name).collect();
        let chosen = chosen_kind(&section, &kinds);
        let kind = self.catalog.sinks.iter().find(|kind| Some(kind.name) == chosen);
        let Some(kind) = kind else {
            section.abandon();
            return None;
        };
        let emit = section.choice("emit", &["changes", "final"]);
        let emit = emit.map_or(kind.default_emit, |emit| match emit.value {
            "final" => Emit::Final,
            _ => Emit::Changes,
        });
        let begins_now =
            section.choice("begin", &["start", "now"]).is_some_and(|it| it.value == "now");
        let names = crate::contract::operator::inputs_from(&section);
        names.iter().for_each(|input| self.report_unknown(&section, input));
        let known: Vec<Known> = names.iter().map(|input| self.known(&input.name)).collect();
        known.iter().filter_map(|known| known.planned()).for_each(|input| self.need_raw(input));
        let inputs = names.iter().zip(&known).map(|(input, known)| match known {
            Known::Planned(input) => self.sink_input(*input),
            known => stand_in::sink_input(&input.name, *known),
        });
        let context = SinkContext {
            pipeline: pipeline.to_owned(),
            sink: name.to_owned(),
            inputs: inputs.collect(),
            emit,
        };
        let before = section.findings().len();
        let spec = (kind.plan)(&section, &context);
        if known.is_empty() || known.contains(&Known::Unplanned) {
            stand_in::forget_guesses(&section, before);
        }
        section.finish();
        let inputs: Vec<InputRef> = known.into_iter().map(Known::planned).collect::<Option<_>>()?;
        let spec = spec?;
        let fingerprint = self.sink_fingerprint(&context, &inputs, &*spec);
        Some(SinkNode {
            name: name.to_owned(),
            kind: kind.name,
            guarantee: kind.guarantee,
            spec,
            inputs,
            context,
            fingerprint,
            begins_now,
        })
    }

    fn sink_input(&self, input: InputRef) -> SinkInput {
        match input {
            InputRef::Source(index) => SinkInput {
                name: self.sources[index].name.clone(),
                role: InputRole::RawEvents,
                schema: raw_schema(),
                granularities: Vec::new(),
            },
            InputRef::Operator(index) => {
                let node = &self.operators[index].0;
                let mut schema = (*node.planned.schema).clone();
                let planned = &node.planned;
                let delay_us = planned.watermark.delay_us().saturating_add(planned.held_back_us);
                schema.finality = schema.finality.delayed(delay_us);
                let role = match node.gives_events {
                    true => InputRole::RawEvents,
                    false => InputRole::Operator,
                };
                let granularities = planned.operator.granularities();
                SinkInput { name: node.name.clone(), role, schema: Arc::new(schema), granularities }
            }
            InputRef::DeadLetters => SinkInput {
                name: DEAD_LETTER.to_owned(),
                role: InputRole::DeadLetters,
                schema: dead_letter_schema(),
                granularities: Vec::new(),
            },
        }
    }

    fn warn_of_unread(&self, root: &Section<'_>, sinks: &[SinkNode]) {
        let Some(table) = root.table("operators").filter(|_| !sinks.is_empty()) else {
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

    fn finish(self, name: String, engine: Engine, sinks: Vec<SinkNode>) -> Deployment {
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
                accepted_gaps: Vec::new(),
                lateness_us: draft.settings.lateness_us,
                idle_after_us: draft.idle_after_us,
                skew_max_us: draft.skew_max_us,
                decode: Arc::new(DecodePlan::new(draft.settings, draft.projection.take())),
                raw: raw.get(&index).cloned(),
            })
            .collect();
        let operators = self.operators.into_iter().map(|(node, _)| node).collect();
        let Engine { workers, flush_us, checkpoint, report, keeps_checkpoints: _ } = engine;
        Deployment { name, workers, flush_us, checkpoint, report, sources, operators, sinks }
    }
}
