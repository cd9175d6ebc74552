//! **lineage** follows every event's `causation_id` to the origin.
//!
//! ```toml
//! [operators.origins]
//! type = "lineage"
//! from = "events"
//! within = "1h"
//! ```
//!
//! A row per event: the origin that it was caused by in the end (`root_id`), over how many steps
//! (`depth`), how long after (`since_root_ms`). An event without a cause is its own root. Causes may
//! arrive after their effects; rows then change.
//!
//! - Ancestors more than `within` before the event, or after it, are not followed: the last one
//!   before that is the root. Nor are causes that are in no event. Where the root names a cause that was
//!   not reached, the event is an `orphan`.
//! - Of events with one id the first in the log counts (of several sources: the first of the first
//!   source by name; of rows: the first by time and key). One more than four times `within` and
//!   an hour away is another event.
//! - A cycle ends at its least id, which is then the root of all that leads to it; it is logged. So is
//!   a chain of more than 2^20 events taken for one.
//!
//! The relation of events and causes is a differential dataflow, see [`chains`]. An event leaves it
//! twice `within` and the lateness after its time.

mod chains;
mod events;
mod reading;
mod rows;
mod settings;

use std::sync::Arc;

use timely::dataflow::Scope;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::Concatenate;
use waterwheel_config::expr::Program;
use waterwheel_config::section::Section;
use waterwheel_config::units::SECOND_US;
use waterwheel_pipeline::contract::epoch::Epoch;
use waterwheel_pipeline::contract::fold::{Update, every_epoch, every_epoch_kept};
use waterwheel_pipeline::contract::operator::{
    Input, Operator, OperatorContext, OperatorKind, Planned, RenderContext, Rows, inputs_from,
};
use waterwheel_pipeline::contract::state::route;

use self::events::{Live, LiveEvents};
use self::reading::{Named, ReadNamed};
use self::rows::{LineageRows, Sizes};

/// The kind.
pub const KIND: OperatorKind = OperatorKind {
    name: "lineage",
    summary: "follows what caused each event to the origin",
    example: r#"[operators.origins]
type = "lineage"
from = "events"
within = "1h"
"#,
    inputs: inputs_from,
    plan,
};

/// Everything a worker needs to follow causes.
#[derive(Debug)]
struct Plan {
    inputs: Vec<InputPrograms>,
    within_us: i64,
}

/// Events of one id are one for at least so long.
const SAME_LEAST_US: i64 = 3_600 * SECOND_US;

impl Plan {
    /// How far apart events of one id may be to count as one.
    fn same_us(&self) -> i64 {
        self.within_us.saturating_mul(4).max(SAME_LEAST_US)
    }
}

/// The programs over one input.
#[derive(Debug)]
struct InputPrograms {
    condition: Option<Program>,
    id: Program,
    cause: Program,
    event_type: Program,
    /// The time of a row; events have their own.
    time_slot: Option<usize>,
    /// Of rows: the columns that make the row's key.
    key_columns: Vec<usize>,
}

struct Lineage(Arc<Plan>);

impl Operator for Lineage {
    fn render<'s>(
        &self,
        scope: Scope<'s, Epoch>,
        inputs: Vec<Input<'s>>,
        context: RenderContext,
    ) -> Rows<'s> {
        let clock = || context.clock.clone();
        let named: Vec<_> = inputs
            .into_iter()
            .enumerate()
            .map(|(index, input)| {
                let read = ReadNamed::new(self.0.clone(), index);
                match input {
                    Input::Events(events) => {
                        every_epoch(events, Pipeline, "LineageEvents", clock(), read).inner
                    }
                    Input::Rows(rows) => {
                        every_epoch(rows.inner, Pipeline, "LineageInput", clock(), read).inner
                    }
                }
            })
            .collect();
        let named = scope.concatenate(named);
        let owner = Exchange::new(|(one, _, _): &Update<Named>| route(one.id_hash()));
        let part = context.part("events");
        let sizes = Sizes::default();
        let live = LiveEvents::new(self.0.clone(), &context, sizes.clone());
        let live = every_epoch_kept(named, owner, "LineageLive", clock(), Some(part.clone()), live);
        let nodes = live.clone().flat_map(|live| match live {
            Live::Node(event) => Some(event),
            Live::Start(_) => None,
        });
        let starts = live.flat_map(|live| match live {
            Live::Start(event) => Some(event),
            Live::Node(_) => None,
        });
        let name = context.name.clone();
        let report = move |id: &str| {
            tracing::warn!(
                "operator `{name}`: events cause each other in a cycle; it ends at `{id}`"
            );
        };
        let rows = chains::rows(nodes, starts, self.0.within_us, &sizes, report);
        let rows_out = LineageRows::new(self.0.within_us, &context, part, sizes);
        every_epoch(rows.inner, Pipeline, "LineageRows", clock(), rows_out)
    }
}

fn plan(section: &Section<'_>, context: &mut OperatorContext) -> Option<Planned> {
    settings::plan(section, context)
}

#[cfg(test)]
mod tests;
