//! What an operator is: a plan, made once from its settings, that renders itself into the dataflow
//! of every worker.
//!
//! Everything between operators is a differential collection of [`Row`]s. From sources come
//! batches of events instead, which an operator reads where they were decoded: it evaluates its
//! expressions on borrowed fields, combines what it can, and only then sends anything to another
//! worker.

use std::rc::Rc;
use std::sync::Arc;

use chrono_tz::Tz;
use differential_dataflow::VecCollection;
use timely::dataflow::operators::generic::operator::empty;
use timely::dataflow::{Scope, Stream};
use waterwheel_config::expr::{self, Binding, ExprError, Fields, Kind, Val};
use waterwheel_config::finding::Span;
use waterwheel_config::names::nearest;
use waterwheel_config::schema::SchemaRef;
use waterwheel_config::section::Section;
use waterwheel_config::value::Row;

use super::batch::RawBatch;
use super::clock::{Clock, StateGauge, Watermark};
use super::epoch::Epoch;
use super::event::{Envelope, EventBatch, EventFields, EventView, Field};
use super::mapping::{EventFormat, is_attribute};
use super::state::{Keeper, StatePart};

/// A collection of rows.
pub type Rows<'s> = VecCollection<'s, Epoch, Row, isize>;

/// Batches of events, each on the worker that decoded it, as updates of multiplicity one.
pub type Events<'s> = Stream<'s, Epoch, Vec<(Rc<EventBatch>, Epoch, isize)>>;

/// A kind of operator, for `check`, the documentation and the planner.
pub struct OperatorKind {
    /// The word for `type`.
    pub name: &'static str,
    /// What it computes, in one sentence.
    pub summary: &'static str,
    /// A complete example of its table.
    pub example: &'static str,
    /// Where its inputs are named: keys whose values are names of inputs, in the order in which
    /// [`OperatorContext::inputs`] holds them.
    pub inputs: fn(&Section<'_>) -> Vec<InputName>,
    /// Reads the settings; everything wrong becomes a finding. It asks for all of its keys whatever
    /// it finds, since those that nobody asked for are reported as unknown.
    pub plan: fn(&Section<'_>, &mut OperatorContext) -> Option<Planned>,
}

/// The name of an input and where it stands.
#[derive(Clone, Debug)]
pub struct InputName {
    /// The name of a source, an operator, or `dead_letter`.
    pub name: String,
    /// Where it stands.
    pub span: Span,
}

/// The inputs under `from`: one name or a list.
pub fn inputs_from(section: &Section<'_>) -> Vec<InputName> {
    if section.require("from").is_none() {
        return Vec::new();
    }
    let Some(names) = section.texts("from") else {
        return Vec::new();
    };
    if names.is_empty() {
        section.findings().error(section.key_span("from"), "`from` names no input");
    }
    let mut inputs: Vec<InputName> = Vec::new();
    for name in names {
        if inputs.iter().any(|earlier| earlier.name == name.value) {
            let message = format!("`{}` is named twice", name.value);
            section.findings().error_help(name.span, message, "name each input once");
        } else {
            inputs.push(InputName { name: name.value, span: name.span });
        }
    }
    inputs
}

/// What an operator knows of one of its inputs while it is planned.
#[derive(Clone, Debug)]
pub struct InputPlan {
    /// The name of the source or operator.
    pub name: String,
    /// What flows in.
    pub flow: InputFlow,
    /// The watermark of what flows in.
    pub watermark: Watermark,
}

/// What flows into an operator.
#[derive(Clone, Debug)]
pub enum InputFlow {
    /// Events of sources, by what is decoded of them.
    Events(EventFields),
    /// Rows of another operator, or dead letters.
    Rows(SchemaRef),
}

impl InputPlan {
    /// Stands in for an input of which nothing is known, so that the settings of what reads it can
    /// be checked all the same: in events every name is a field.
    pub fn stand_in(name: &str) -> Self {
        let flow = InputFlow::Events(EventFields::default());
        Self { name: name.to_owned(), flow, watermark: Watermark::source(0) }
    }

    /// The scope in which expressions over this input are compiled.
    pub fn scope(&self, zone: Tz) -> InputScope<'_> {
        InputScope { input: self, zone }
    }

    /// True if rows never change or disappear once they are out.
    pub fn append_only(&self) -> bool {
        match &self.flow {
            InputFlow::Events(_) => true,
            InputFlow::Rows(schema) => schema.append_only,
        }
    }

    /// Notes that these expressions are keys, for the events that pass the condition.
    pub fn need_keys(&self, condition: Option<&expr::Program>, keys: Vec<expr::Program>) {
        if let InputFlow::Events(events) = &self.flow {
            events.need_keys(condition, &keys);
        }
    }
}

/// Resolves names to the fields of events or the columns of rows.
#[derive(Debug)]
pub struct InputScope<'a> {
    input: &'a InputPlan,
    zone: Tz,
}

impl expr::Scope for InputScope<'_> {
    fn resolve(&mut self, path: &[String]) -> Result<Binding, ExprError> {
        match &self.input.flow {
            InputFlow::Rows(schema) => resolve_column(&self.input.name, schema, path),
            InputFlow::Events(events) => {
                let (fields, kind) = event_fields(path, events)?;
                Ok(Binding { slot: events.slot_of(&fields), kind })
            }
        }
    }

    fn timezone(&self) -> Tz {
        self.zone
    }
}

/// What a name means in the events of each source.
fn event_fields(path: &[String], events: &EventFields) -> Result<(Vec<Field>, Kind), ExprError> {
    let known: Result<Vec<_>, _> =
        events.formats().into_iter().map(|format| event_field(path, format)).collect();
    let (fields, kinds): (Vec<Field>, Vec<Kind>) = known?.into_iter().unzip();
    // Whether a name is of the envelope does not depend on how events are written.
    let kind = kinds.first().copied().unwrap_or(Kind::Any);
    let kind = events.declared_type(&fields).map_or(kind, Kind::from);
    Ok((fields, kind))
}

fn event_field(path: &[String], format: EventFormat) -> Result<(Field, Kind), ExprError> {
    let field = match path {
        [name] => match Envelope::named(name) {
            Some(envelope @ (Envelope::Timestamp | Envelope::ReceivedAt)) => {
                return Ok((Field::Envelope(envelope), Kind::Timestamp));
            }
            Some(envelope) => Field::Envelope(envelope),
            None if format.payload_path(path).is_empty() => Field::Payload,
            None => Field::Path(path.to_vec()),
        },
        [first, name] if format == EventFormat::CloudEvents && first == "ce" => {
            if !is_attribute(name) {
                let message = format!("`{name}` is no attribute of a CloudEvent");
                return Err(ExprError::new(name, message).help(
                    "their names are lower-case letters and digits; for a field of the data write payload.ce",
                ));
            }
            Field::Attribute(name.clone())
        }
        path => Field::Path(format.payload_path(path).to_vec()),
    };
    Ok((field, Kind::Any))
}

fn resolve_column(input: &str, schema: &SchemaRef, path: &[String]) -> Result<Binding, ExprError> {
    let name = path.join(".");
    if let Some(slot) = schema.index_of(&name) {
        return Ok(Binding { slot, kind: schema.columns[slot].kind.into() });
    }
    let error = ExprError::new(&name, format!("`{input}` has no column `{name}`"));
    Err(match nearest(&name, schema.names()) {
        Some(near) => error.help(format!("did you mean `{near}`?")),
        None => {
            let names: Vec<&str> = schema.names().collect();
            error.help(format!("its columns are: {}", names.join(", ")))
        }
    })
}

/// A row as the fields of an expression: a slot is a column.
#[derive(Clone, Copy, Debug)]
pub struct RowView<'a>(pub &'a Row);

impl Fields for RowView<'_> {
    fn get(&self, slot: usize) -> Val<'_> {
        self.0.values().get(slot).map_or(Val::Null, Val::from)
    }
}

/// What the planner gives an operator.
#[derive(Debug)]
pub struct OperatorContext {
    /// The operator's name.
    pub name: String,
    /// Its inputs, in the order of [`OperatorKind::inputs`].
    pub inputs: Vec<InputPlan>,
    /// To be set by an operator that lets events through: their fields. It is rendered by
    /// [`Operator::render_events`] then, and what reads it sees events and not rows.
    pub events: Option<EventFields>,
}

/// A planned operator.
#[derive(Clone)]
pub struct Planned {
    /// Renders it.
    pub operator: Arc<dyn Operator>,
    /// What comes out.
    pub schema: SchemaRef,
    /// The watermark in force inside: that of the inputs, held back by how far the times that the
    /// operator goes by may lie behind it.
    pub watermark: Watermark,
    /// How much further the watermark of what comes out is held back, in microseconds: for
    /// operators that bring rows out later than their times.
    pub held_back_us: i64,
    /// What bounds its state, in a sentence for `explain`.
    pub state_bound: String,
    /// Everything that changes the meaning of its rows, for the fingerprint; its inputs' own
    /// meaning is added by the planner.
    pub meaning: String,
}

/// One input, rendered; the same for what comes out of an operator.
#[derive(Clone)]
pub enum Input<'s> {
    /// Events of a source.
    Events(Events<'s>),
    /// Rows.
    Rows(Rows<'s>),
}

/// What an operator knows while it renders itself on one worker.
#[derive(Clone)]
pub struct RenderContext {
    /// The watermarks of every epoch.
    pub clock: Clock,
    /// The watermark in force inside the operator, see [`Planned::watermark`].
    pub watermark: Watermark,
    /// Where it reports the size of its state.
    pub state: StateGauge,
    /// Its name, and a hash over everything that gives its state a meaning.
    pub name: String,
    /// See [`RenderContext::name`].
    pub fingerprint: u128,
    /// Saves its state and gives it back.
    pub keeper: Keeper,
    /// Decodes messages of a source again, by the source's index: for an operator that keeps events.
    pub decoders: Decoders,
    /// True if nobody wants its rows before they are final: it may keep each until then. The state
    /// that it goes on from may be of a deployment where somebody did, and the other way round.
    pub only_final: bool,
}

/// Makes events of messages that were events before; as many of them, and none is late.
pub type Decoder = Arc<dyn Fn(RawBatch) -> EventBatch + Send + Sync>;

/// By the index of the source.
pub type Decoders = Rc<[Decoder]>;

impl RenderContext {
    /// A named part of the operator's state.
    pub fn part(&self, name: &str) -> StatePart {
        self.keeper.part(&format!("{}.{name}", self.name), self.fingerprint)
    }
}

/// A planned operator, shared by all workers.
pub trait Operator: Send + Sync {
    /// True if its inputs play different roles, so that to exchange them changes its rows.
    fn inputs_differ(&self) -> bool {
        false
    }

    /// The granularities of its windows, as its rows name them.
    fn granularities(&self) -> Vec<String> {
        Vec::new()
    }

    /// Builds the operator into a worker's dataflow. Every worker renders every operator, in the
    /// same order.
    fn render<'s>(
        &self,
        scope: Scope<'s, Epoch>,
        inputs: Vec<Input<'s>>,
        context: RenderContext,
    ) -> Rows<'s>;

    /// The same for an operator that lets events through, see [`OperatorContext::events`]: no event
    /// that comes out is late.
    fn render_events<'s>(
        &self,
        scope: Scope<'s, Epoch>,
        _inputs: Vec<Input<'s>>,
        _context: RenderContext,
    ) -> Events<'s> {
        empty(scope)
    }
}

/// One item of an input, whichever it is, as the fields of an expression.
#[derive(Clone, Copy, Debug)]
pub enum Item<'a> {
    /// An event.
    Event(EventView<'a>),
    /// A row.
    Row(RowView<'a>),
}

impl Fields for Item<'_> {
    #[inline]
    fn get(&self, slot: usize) -> Val<'_> {
        match self {
            Self::Event(event) => event.val(slot),
            Self::Row(row) => row.get(slot),
        }
    }
}
