//! Tests that stand beside a pipeline, `[[tests]]` in its file: events in, and the rows expected.
//!
//! ```toml
//! [[tests]]
//! name = "fills are counted by minute"
//! events = [
//!     { timestamp = "2026-11-21T10:00:05Z", event_type = "order.filled", properties = { symbol = "BTC" } },
//!     { timestamp = "2026-11-21T10:00:40Z", event_type = "order.filled", properties = { symbol = "BTC" } },
//! ]
//! expect.volume = [
//!     { window_start = "2026-11-21T10:00:00Z", symbol = "BTC", trades = 2 },
//! ]
//! ```
//!
//! Here is what a test says. [`crate::runtime::rehearsal`] runs it.

mod expectation;
mod messages;
mod read;

use std::ops::RangeInclusive;

use serde_json::Value as Json;
use waterwheel_config::expr::Program;
use waterwheel_config::schema::SchemaRef;

use super::InputRef;

pub(super) use read::{Files, read};

/// What came out of a pipeline and can be looked at: an operator, a source, or `dead_letter`.
pub struct Outlet {
    /// Its name.
    pub name: String,
    /// Where it stands in the graph; `None` where it has errors of its own.
    pub input: Option<InputRef>,
    /// Its columns.
    pub schema: SchemaRef,
}

/// One `[[tests]]` of a pipeline.
#[derive(Debug)]
pub struct Rehearsal {
    /// What it shows, in the words of its author.
    pub name: String,
    /// What happens, in order; the last one is the end.
    pub steps: Vec<Step>,
}

/// One step of a test, and what is expected after it.
#[derive(Debug, Default)]
pub struct Step {
    /// What to call the time after it: `at the end`.
    pub moment: String,
    /// The virtual clock goes on to this time, in microseconds.
    pub advance_to_us: Option<i64>,
    /// The messages that arrive, in this order.
    pub messages: Vec<Message>,
    /// The process dies while they arrive, and starts anew.
    pub crashes: bool,
    /// Every source ends, and every window closes.
    pub finishes: bool,
    /// True if something was written under `expect`, whether it could be read or not.
    pub(super) is_asking: bool,
    /// What is expected then.
    pub expectations: Vec<Expectation>,
}

/// A message that arrives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The index of its source.
    pub source: usize,
    /// When the broker takes it, in microseconds; by default at its own time, or as late as the one before.
    pub at_us: Option<i64>,
    /// Its subject, where the test says.
    pub subject: Option<String>,
    /// Its headers, as `name:value\r\n` lines.
    pub headers: String,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// What is expected of one outlet at one time.
#[derive(Debug)]
pub struct Expectation {
    /// The name of the operator, the source, or `dead_letter`.
    pub name: String,
    /// Where it stands in the graph.
    pub input: InputRef,
    /// Its columns.
    pub schema: SchemaRef,
    /// Only its rows that can no longer change.
    pub only_final: bool,
    /// Only its rows for which this is true, and how that is written.
    pub condition: Option<(Program, String)>,
    /// These rows and no others.
    pub rows: Option<Vec<ExpectedRow>>,
    /// These rows, and perhaps others.
    pub contains: Vec<ExpectedRow>,
    /// No row like these.
    pub absent: Vec<ExpectedRow>,
    /// So many rows.
    pub count: Option<usize>,
}

/// The columns of a row that matter, by their index in the schema.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExpectedRow {
    /// In the order of the schema.
    pub cells: Vec<(usize, ExpectedValue)>,
}

/// What is expected in one column.
#[derive(Clone, Debug, PartialEq)]
pub enum ExpectedValue {
    /// SQL's NULL, written `"NULL"`.
    Null,
    /// True or false.
    Boolean(bool),
    /// A whole number, exactly.
    Integer(i64),
    /// A double, but for what rounding may do to it.
    Number(f64),
    /// A number within bounds, written `{ about = 100, within = 0.01 }`.
    About(f64, RangeInclusive<f64>),
    /// A time, in microseconds.
    Timestamp(i64),
    /// Text.
    Text(String),
    /// JSON of this meaning.
    Json(Json),
}
