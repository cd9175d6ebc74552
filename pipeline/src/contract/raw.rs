//! Raw events on their way to a sink: the decoded events of a batch, and which of their fields are the
//! columns of [`raw_schema`].
//!
//! A row of raw events is fourteen values, most of them texts of their own: to build it costs more
//! than to decode its event. So the batch itself goes to the sink, which reads from it what it needs.

use std::sync::Arc;

use waterwheel_config::expr::Val;
use waterwheel_config::value::{ColumnType, Row, Value};

use super::event::{Envelope, EventBatch, EventFields, Field, Projection, TRACEPARENT, raw_schema};

/// Where the columns of raw events stand in an event.
#[derive(Clone, Debug)]
pub struct RawColumns {
    columns: Arc<[RawColumn]>,
    traceparent: usize,
}

#[derive(Clone, Copy, Debug)]
struct RawColumn {
    kind: ColumnType,
    /// In which slot its value is; none for the column that says whether the event is late.
    slot: Option<usize>,
}

impl RawColumns {
    /// Allots the slots that raw events need.
    pub fn project(projection: &mut Projection) -> Self {
        Self::allot(&mut |field| projection.slot(field))
    }

    /// The same for the events on an edge.
    pub fn of(events: &EventFields) -> Self {
        Self::allot(&mut |field| events.slot(field))
    }

    fn allot(slot: &mut dyn FnMut(&Field) -> usize) -> Self {
        let schema = raw_schema();
        let columns = schema.columns.iter().map(|column| {
            let field = match (column.name.as_str(), Envelope::named(&column.name)) {
                (_, Some(envelope)) => Some(Field::Envelope(envelope)),
                ("late", None) => None,
                _ => Some(Field::Payload),
            };
            RawColumn { kind: column.kind, slot: field.map(|field| slot(&field)) }
        });
        let columns = columns.collect();
        Self { columns, traceparent: slot(&Field::Header(TRACEPARENT)) }
    }
}

/// The events of a batch as rows of [`raw_schema`] that nobody has written out.
#[derive(Clone, Debug)]
pub struct RawEvents {
    batch: EventBatch,
    columns: RawColumns,
}

impl RawEvents {
    /// All events of a batch, late ones included.
    pub fn new(batch: EventBatch, columns: &RawColumns) -> Self {
        Self { batch, columns: columns.clone() }
    }

    /// How many rows they are.
    pub fn len(&self) -> usize {
        self.batch.events.len()
    }

    /// True if there is no event.
    pub fn is_empty(&self) -> bool {
        self.batch.events.is_empty()
    }

    /// What an event has for a column, and the column's type.
    #[inline]
    fn val(&self, event: usize, column: usize) -> (Val<'_>, ColumnType) {
        match self.columns.columns.get(column) {
            Some(RawColumn { slot: Some(slot), kind }) => {
                (self.batch.view(event).val(*slot), *kind)
            }
            Some(RawColumn { slot: None, kind }) => {
                (Val::Boolean(self.batch.events[event].late), *kind)
            }
            None => (Val::Null, ColumnType::Text),
        }
    }

    /// What stands in a column of an event.
    #[inline]
    pub fn value(&self, event: usize, column: usize) -> Value {
        let (val, kind) = self.val(event, column);
        val.to_value(kind)
    }

    /// Looks at the text in a column of texts or of JSON, as [`RawEvents::value`] has it, without
    /// making a value of it; `None` for NULL.
    #[inline]
    pub fn text<T>(&self, event: usize, column: usize, look: impl FnOnce(Option<&str>) -> T) -> T {
        match self.val(event, column) {
            (val, ColumnType::Text) => look(val.canonical_text().as_deref()),
            (Val::Json(text), ColumnType::Json) => look(Some(text)),
            _ => look(None),
        }
    }

    /// The row of an event, with its trace if it has one (see [`super::event::traceparent`]).
    pub fn row(&self, event: usize) -> Row {
        let trace = self.batch.view(event).val(self.columns.traceparent);
        let trace = trace.to_value(ColumnType::Text);
        (0..self.columns.columns.len())
            .map(|column| self.value(event, column))
            .chain((!trace.is_null()).then_some(trace))
            .collect()
    }

    /// The rows of all events, in log order.
    pub fn rows(&self) -> impl Iterator<Item = Row> {
        (0..self.len()).map(|event| self.row(event))
    }
}
