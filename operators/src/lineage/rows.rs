//! The rows of a lineage: made where the way to the root ends, and kept from changing once they are
//! final.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use differential_dataflow::consolidation::consolidate;
use waterwheel_config::value::{Row, Value};
use waterwheel_pipeline::contract::clock::{Clock, StateGauge, Watermark};
use waterwheel_pipeline::contract::epoch::Epoch;
use waterwheel_pipeline::contract::fold::Fold;
use waterwheel_pipeline::contract::operator::RenderContext;
use waterwheel_pipeline::contract::state::StatePart;

use super::reading::Facts;

/// The column of event time.
pub(super) const TIMESTAMP: usize = 6;

/// The row of an event whose way ends at a root.
pub(super) fn row(event: &Facts, root: &Facts, depth: i64, is_orphan: bool) -> Row {
    let since_us = event.time_us.saturating_sub(root.time_us);
    let text = |text: &Arc<str>| Value::Text(text.clone().into());
    let values = vec![
        text(&event.id),
        text(&root.id),
        event.cause.as_ref().map_or(Value::Null, text),
        Value::Bigint(depth),
        event.event_type.clone(),
        root.event_type.clone(),
        Value::Timestamp(event.time_us),
        Value::double(since_us as f64 / 1_000.0),
        Value::Boolean(is_orphan),
    ];
    values.into()
}

/// How much the relation holds on one worker.
#[derive(Clone, Default)]
pub(super) struct Sizes {
    pub(super) events: Count,
    pub(super) jumps: Count,
    pub(super) walkers: Count,
}

/// A number of updates.
#[derive(Clone, Default)]
pub(super) struct Count(Rc<Cell<isize>>);

impl Count {
    pub(super) fn add(&self, change: isize) {
        self.0.set(self.0.get() + change);
    }
}

impl Sizes {
    /// About what it takes: what is known of an event, and what the arrangements hold of it.
    fn bytes(&self) -> usize {
        let bytes = |count: &Count, each: usize| count.0.get().max(0).unsigned_abs() * each;
        bytes(&self.events, 400) + bytes(&self.jumps, 300) + bytes(&self.walkers, 160)
    }
}

/// Passes changes on, but not those that come of forgetting: they concern rows that were final
/// before.
pub(super) struct LineageRows {
    within_us: i64,
    clock: Clock,
    watermark: Watermark,
    part: StatePart,
    sizes: Sizes,
    gauge: StateGauge,
}

impl LineageRows {
    pub(super) fn new(
        within_us: i64,
        context: &RenderContext,
        part: StatePart,
        sizes: Sizes,
    ) -> Self {
        Self {
            within_us,
            clock: context.clock.clone(),
            watermark: context.watermark.clone(),
            part,
            sizes,
            gauge: context.state.clone(),
        }
    }
}

impl Fold<Row, Row> for LineageRows {
    fn epoch(&mut self, epoch: Epoch, mut rows: Vec<(Row, isize)>, output: &mut Vec<(Row, isize)>) {
        self.gauge.set(self.sizes.bytes());
        // Rows of restored events were out before.
        if self.part.is_restoring() {
            return;
        }
        consolidate(&mut rows);
        let watermark_us = self.clock.before(epoch, &self.watermark);
        output.extend(rows.into_iter().filter(|(row, _)| match row.values().get(TIMESTAMP) {
            Some(Value::Timestamp(time_us)) => {
                watermark_us <= time_us.saturating_add(self.within_us)
            }
            _ => false,
        }));
    }
}
