//! **sessions** puts together the events of somebody that follow each other closely.
//!
//! ```toml
//! [operators.visits]
//! type = "sessions"
//! from = "events"
//! by = "user_id"
//! gap = "30m"
//! ```
//!
//! A new session begins when more than `gap` passes between two neighbours. An event that comes late
//! may join two sessions, whose rows then go. How events find their session is in [`crate::spans`].

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use timely::dataflow::Scope;
use waterwheel_config::schema::{Column, Finality, Schema};
use waterwheel_config::section::Section;
use waterwheel_config::units::format_duration;
use waterwheel_config::value::{ColumnType, Row, Value};
use waterwheel_pipeline::contract::epoch::Epoch;
use waterwheel_pipeline::contract::operator::{
    Input, Operator, OperatorContext, OperatorKind, Planned, RenderContext, Rows, inputs_from,
};

use crate::key;
use crate::settings::timezone;
use crate::spans::{self, By, InputPrograms, Need, Settings, SpanEvent, Spans};

/// The kind.
pub const KIND: OperatorKind = OperatorKind {
    name: "sessions",
    summary: "puts together the events of somebody that follow each other closely",
    example: r#"[operators.visits]
type = "sessions"
from = "events"
by = "user_id"
gap = "30m"
"#,
    inputs: inputs_from,
    plan,
};

const OWN_COLUMNS: [&str; 6] =
    ["session_start", "session_end", "events", "duration_seconds", "first_type", "last_type"];

const BY: By = By::Columns { default: "user_id", own: &OWN_COLUMNS };

struct SessionsOperator {
    inputs: Arc<[InputPrograms]>,
    gap_us: i64,
}

impl Operator for SessionsOperator {
    fn inputs_differ(&self) -> bool {
        Settings::inputs_differ(&self.inputs)
    }

    fn render<'s>(
        &self,
        scope: Scope<'s, Epoch>,
        inputs: Vec<Input<'s>>,
        context: RenderContext,
    ) -> Rows<'s> {
        let rules = Sessions { gap_us: self.gap_us };
        spans::render(scope, inputs, &context, &self.inputs, Need::Everything, rules)
    }
}

fn plan(section: &Section<'_>, context: &mut OperatorContext) -> Option<Planned> {
    let gap = section.require("gap").and_then(|()| section.duration("gap"));
    let settings = Settings::read(section, context, BY, &[], Need::Everything);
    let (gap_us, settings) = (gap?.value, settings?);
    let mut columns = settings.by;
    let start = columns.len();
    columns.extend([
        // A session that goes on may have begun any time ago.
        Column::new("session_start", ColumnType::Timestamp),
        Column::time("session_end", 0),
        Column::new("events", ColumnType::Bigint),
        Column::new("duration_seconds", ColumnType::Double),
        Column::new("first_type", ColumnType::Text),
        Column::new("last_type", ColumnType::Text),
    ]);
    let schema = Schema {
        columns,
        key: (0..=start).collect(),
        // By the watermark that goes out, which is held back by the gap.
        finality: Finality::At { column: start + 1, plus_us: 1 },
        append_only: false,
        time: Some(start),
    };
    let gap = format_duration(gap_us);
    let mut meaning = spans::meaning(section, BY, &[]);
    meaning.add("gap", gap_us);
    Some(Planned {
        operator: Arc::new(SessionsOperator { inputs: settings.inputs.into(), gap_us }),
        schema: Arc::new(schema),
        watermark: settings.watermark,
        held_back_us: gap_us,
        state_bound: format!(
            "the sessions with an event in the last {gap}, and their events that the watermark has not passed"
        ),
        meaning: meaning.finish(timezone(section)),
    })
}

/// A session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Session {
    start_us: i64,
    end_us: i64,
    events: i64,
    first_type: Option<Arc<str>>,
    last_type: Option<Arc<str>>,
}

struct Sessions {
    gap_us: i64,
}

impl Spans for Sessions {
    type Span = Session;
    type Output = Row;

    fn begin(&mut self, event: &SpanEvent, times: i64) -> Option<Session> {
        Some(Session {
            start_us: event.time_us,
            end_us: event.time_us,
            events: times,
            first_type: event.event_type.clone(),
            last_type: event.event_type.clone(),
        })
    }

    fn add(&mut self, session: &mut Session, event: &SpanEvent, times: i64) {
        session.end_us = event.time_us;
        session.events += times;
        session.last_type.clone_from(&event.event_type);
    }

    fn start_us(session: &Session) -> i64 {
        session.start_us
    }

    fn until_us(&self, session: &Session) -> i64 {
        session.end_us.saturating_add(self.gap_us)
    }

    fn heap_bytes(_session: &Session) -> usize {
        0
    }

    fn changed(
        &mut self,
        key: &[u8],
        before: Option<&Session>,
        after: Option<&Session>,
        output: &mut Vec<(Row, isize)>,
    ) {
        output.extend(before.map(|session| (row(key, session), -1)));
        output.extend(after.map(|session| (row(key, session), 1)));
    }
}

fn row(key: &[u8], session: &Session) -> Row {
    let text =
        |text: &Option<Arc<str>>| text.clone().map_or(Value::Null, |text| Value::Text(text.into()));
    let duration_us = session.end_us.saturating_sub(session.start_us);
    let mut values = key::read_key(key);
    values.extend([
        Value::Timestamp(session.start_us),
        Value::Timestamp(session.end_us),
        Value::Bigint(session.events),
        Value::double(duration_us as f64 / 1e6),
        text(&session.first_type),
        text(&session.last_type),
    ]);
    values.into()
}

#[cfg(test)]
mod tests;
