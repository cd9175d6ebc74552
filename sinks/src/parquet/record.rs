//! What becomes a row of a file: a row, or an event of a batch that nobody has made a row of.

use waterwheel_config::value::{Row, Value};
use waterwheel_pipeline::contract::raw::RawEvents;

/// One of either.
#[derive(Clone, Copy, Debug)]
pub(super) enum Record<'a> {
    Row(&'a Row),
    /// By its index.
    Event(&'a RawEvents, usize),
}

impl Record<'_> {
    /// Looks at what stands in a column. For texts [`Record::text`] costs less.
    #[inline]
    pub(super) fn value<T>(self, column: usize, look: impl FnOnce(&Value) -> T) -> T {
        match self {
            Self::Row(row) => look(row.values().get(column).unwrap_or(&Value::Null)),
            Self::Event(events, event) => look(&events.value(event, column)),
        }
    }

    /// Looks at the text in a column of texts or of JSON; `None` for NULL, and where another value
    /// stands in it.
    #[inline]
    pub(super) fn text<T>(self, column: usize, look: impl FnOnce(Option<&str>) -> T) -> T {
        match self {
            Self::Row(row) => look(row.values().get(column).and_then(Value::written)),
            Self::Event(events, event) => events.text(event, column, look),
        }
    }
}
