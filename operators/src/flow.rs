//! **flow** follows everything that shares a key from its first event on: whether it gets done, how
//! long that takes, and by what path.
//!
//! ```toml
//! [operators.orders]
//! type = "flow"
//! from = "events"
//! by = "correlation_id"
//! done = "event_type = 'order.filled'"
//! timeout = "5m"
//! ```
//!
//! A flow holds the events of a key from its first one to `timeout` after it, that moment included;
//! the next event after that starts another. How events find their flow is in [`crate::spans`].

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use timely::dataflow::Scope;
use waterwheel_config::schema::{Column, Finality, Schema};
use waterwheel_config::section::Section;
use waterwheel_config::units::format_duration;
use waterwheel_config::value::{ColumnType, Row, Value, write_json_string};
use waterwheel_pipeline::contract::epoch::Epoch;
use waterwheel_pipeline::contract::operator::{
    Input, Operator, OperatorContext, OperatorKind, Planned, RenderContext, Rows, inputs_from,
};

use crate::key;
use crate::settings::timezone;
use crate::spans::{self, By, InputPrograms, Need, Settings, SpanEvent, Spans};

/// The kind.
pub const KIND: OperatorKind = OperatorKind {
    name: "flow",
    summary: "follows what shares a key until it is done or timed out",
    example: r#"[operators.orders]
type = "flow"
from = "events"
by = "correlation_id"
done = "event_type = 'order.filled'"
timeout = "5m"
"#,
    inputs: inputs_from,
    plan,
};

const OWN_COLUMNS: [&str; 6] = ["started_at", "last_at", "events", "status", "duration_ms", "path"];

const BY: By = By::Columns { default: "correlation_id", own: &OWN_COLUMNS };

/// The conditions, in the order of the bits of [`SpanEvent::marks`].
const CONDITIONS: [&str; 1] = ["done"];

/// How many event types the path has at most.
const PATH: usize = 64;

struct Flow {
    inputs: Arc<[InputPrograms]>,
    timeout_us: i64,
}

impl Operator for Flow {
    fn inputs_differ(&self) -> bool {
        Settings::inputs_differ(&self.inputs)
    }

    fn render<'s>(
        &self,
        scope: Scope<'s, Epoch>,
        inputs: Vec<Input<'s>>,
        context: RenderContext,
    ) -> Rows<'s> {
        let rules = Flows { timeout_us: self.timeout_us };
        spans::render(scope, inputs, &context, &self.inputs, Need::Everything, rules)
    }
}

fn plan(section: &Section<'_>, context: &mut OperatorContext) -> Option<Planned> {
    let timeout = section.require("timeout").and_then(|()| section.duration("timeout"));
    let settings = Settings::read(section, context, BY, &CONDITIONS, Need::Everything);
    let (timeout_us, settings) = (timeout?.value, settings?);
    let mut columns = settings.by;
    let started = columns.len();
    columns.extend([
        Column::time("started_at", 0),
        Column::time("last_at", 0),
        Column::new("events", ColumnType::Bigint),
        Column::new("status", ColumnType::Text),
        Column::new("duration_ms", ColumnType::Double),
        Column::new("path", ColumnType::Json),
    ]);
    let schema = Schema {
        columns,
        key: (0..=started).collect(),
        // By the watermark that goes out, which is held back by the timeout.
        finality: Finality::At { column: started, plus_us: 1 },
        append_only: false,
        time: Some(started),
    };
    let timeout = format_duration(timeout_us);
    let mut meaning = spans::meaning(section, BY, &CONDITIONS);
    meaning.add("timeout", timeout_us);
    Some(Planned {
        operator: Arc::new(Flow { inputs: settings.inputs.into(), timeout_us }),
        schema: Arc::new(schema),
        watermark: settings.watermark,
        held_back_us: timeout_us,
        state_bound: format!(
            "the flows that began in the last {timeout}, and their events that the watermark has not passed"
        ),
        meaning: meaning.finish(timezone(section)),
    })
}

/// A flow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct FlowSpan {
    started_us: i64,
    last_us: i64,
    events: i64,
    done_us: Option<i64>,
    is_timed_out: bool,
    path: Vec<Option<Arc<str>>>,
}

struct Flows {
    timeout_us: i64,
}

impl Spans for Flows {
    type Span = FlowSpan;
    type Output = Row;

    fn begin(&mut self, event: &SpanEvent, times: i64) -> Option<FlowSpan> {
        let mut flow = FlowSpan {
            started_us: event.time_us,
            last_us: event.time_us,
            events: 0,
            done_us: None,
            is_timed_out: false,
            path: Vec::new(),
        };
        self.add(&mut flow, event, times);
        Some(flow)
    }

    fn add(&mut self, flow: &mut FlowSpan, event: &SpanEvent, times: i64) {
        flow.last_us = event.time_us;
        flow.events += times;
        if event.marks & 1 != 0 {
            flow.done_us.get_or_insert(event.time_us);
        }
        let room = PATH.saturating_sub(flow.path.len());
        let types = std::iter::repeat_n(&event.event_type, times.unsigned_abs() as usize);
        flow.path.extend(types.take(room).cloned());
    }

    fn start_us(flow: &FlowSpan) -> i64 {
        flow.started_us
    }

    fn until_us(&self, flow: &FlowSpan) -> i64 {
        flow.started_us.saturating_add(self.timeout_us)
    }

    fn is_open(flow: &FlowSpan) -> bool {
        flow.done_us.is_none() && !flow.is_timed_out
    }

    fn close(flow: &mut FlowSpan) {
        flow.is_timed_out = true;
    }

    fn heap_bytes(flow: &FlowSpan) -> usize {
        flow.path.capacity() * size_of::<Option<Arc<str>>>()
    }

    fn changed(
        &mut self,
        key: &[u8],
        before: Option<&FlowSpan>,
        after: Option<&FlowSpan>,
        output: &mut Vec<(Row, isize)>,
    ) {
        output.extend(before.map(|flow| (row(key, flow), -1)));
        output.extend(after.map(|flow| (row(key, flow), 1)));
    }
}

fn row(key: &[u8], flow: &FlowSpan) -> Row {
    let status = match (flow.done_us, flow.is_timed_out) {
        (Some(_), _) => "done",
        (None, true) => "timed_out",
        (None, false) => "open",
    };
    let end_us = flow.done_us.unwrap_or(flow.last_us);
    let mut values = key::read_key(key);
    values.extend([
        Value::Timestamp(flow.started_us),
        Value::Timestamp(flow.last_us),
        Value::Bigint(flow.events),
        Value::Text(status.into()),
        Value::double(end_us.saturating_sub(flow.started_us) as f64 / 1e3),
        Value::Json(path_json(&flow.path).into()),
    ]);
    values.into()
}

/// The event types as a JSON list.
fn path_json(path: &[Option<Arc<str>>]) -> String {
    let mut json = String::from("[");
    for (index, event_type) in path.iter().enumerate() {
        if index > 0 {
            json.push(',');
        }
        match event_type {
            Some(event_type) => write_json_string(event_type, &mut json),
            None => json.push_str("null"),
        }
    }
    json.push(']');
    json
}

#[cfg(test)]
mod tests;
