//! What comes out of a worker's dataflow for the sinks, kept by epoch until the epoch is done.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Probe;
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::{ProbeHandle, Stream};

use super::messages::Updates;
use crate::contract::epoch::Epoch;
use crate::contract::event::EventBatch;
use crate::contract::operator::{Events, Rows};
use crate::contract::raw::{RawColumns, RawEvents};

/// What one input of a sink is given.
pub(super) enum Output<'s> {
    Rows(Rows<'s>),
    /// Raw events; where their columns are is known if any sink wants raw events of them.
    Events(Events<'s>, Option<RawColumns>),
}

/// What was brought out for one input of a sink and not fetched yet.
#[derive(Clone, Default)]
pub(super) struct Captured(Rc<RefCell<BTreeMap<Epoch, Updates>>>);

impl Captured {
    /// Keeps what comes out; the probe sees that it has.
    pub(super) fn of(output: Output<'_>, probe: &ProbeHandle<Epoch>) -> Self {
        match output {
            Output::Rows(rows) => {
                Self::keep(rows.inner, probe, |updates, row, diff| updates.rows.push((row, diff)))
            }
            Output::Events(events, columns) => {
                Self::keep(events, probe, move |updates, batch, _| {
                    if let Some(columns) = &columns {
                        // Where nobody else reads the batch it is not copied; its texts never are.
                        let batch: EventBatch = Rc::unwrap_or_clone(batch);
                        updates.events.push(RawEvents::new(batch, columns));
                    }
                })
            }
        }
    }

    fn keep<T: 'static>(
        items: Stream<'_, Epoch, Vec<(T, Epoch, isize)>>,
        probe: &ProbeHandle<Epoch>,
        mut add: impl FnMut(&mut Updates, T, isize) + 'static,
    ) -> Self {
        let captured = Self::default();
        let kept = captured.clone();
        let done: Stream<'_, Epoch, Vec<()>> = items
            .unary::<CapacityContainerBuilder<Vec<()>>, _, _, _>(Pipeline, "Capture", |_, _| {
                move |input, _output| {
                    input.for_each(|_time, items| {
                        let mut kept = kept.0.borrow_mut();
                        for (item, epoch, diff) in items.drain(..) {
                            add(kept.entry(epoch).or_default(), item, diff);
                        }
                    });
                }
            });
        done.probe_with(probe);
        captured
    }

    /// What came out in an epoch. What came and went within it is not there.
    pub(super) fn take(&self, epoch: Epoch) -> Updates {
        let mut updates = self.0.borrow_mut().remove(&epoch).unwrap_or_default();
        // Rows that only come need no sorting.
        if updates.rows.iter().any(|(_, diff)| *diff < 0) {
            differential_dataflow::consolidation::consolidate(&mut updates.rows);
        }
        updates
    }

    /// True if nothing is kept.
    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }
}
