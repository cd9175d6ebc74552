//! Folds that see each epoch once, whole and in order, however its data arrived.
//!
//! Batches of an epoch come in any order and number. Results must not depend on that, so a fold
//! waits until the frontier has passed an epoch, and is then called once with all its updates. It is
//! called for epochs without data too: time passes in them. Only what combines updates or looks at
//! each by itself is given them as they come ([`Fold::IS_PIECEWISE`]): so the batches of an epoch need
//! not all wait in memory, and are used while they are still in the processor's cache.

use std::collections::BTreeMap;

use differential_dataflow::{AsCollection, VecCollection};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::ParallelizationContract;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::Operator;

use super::clock::Clock;
use super::epoch::Epoch;
use super::state::{Saver, StatePart};

/// A datum, its epoch and how often it comes.
pub type Update<D> = (D, Epoch, isize);

/// The state and the step of a fold.
pub trait Fold<D, O>: 'static {
    /// True where an epoch may come in pieces, in any order: [`Fold::epoch`] is called with each, and
    /// then [`Fold::end`]. The clock does not know the epoch's watermarks before the end.
    const IS_PIECEWISE: bool = false;

    /// Applies one epoch; what comes out goes to `output` with its multiplicity.
    fn epoch(&mut self, epoch: Epoch, updates: Vec<(D, isize)>, output: &mut Vec<(O, isize)>);

    /// All pieces of the epoch have come.
    fn end(&mut self, _epoch: Epoch, _output: &mut Vec<(O, isize)>) {}

    /// Writes the state as it is after the epoch that was applied last. For folds without state
    /// between epochs there is nothing to do.
    fn save(&mut self, _saver: &mut Saver) {}

    /// Takes back what was saved, before the first epoch.
    fn restore(&mut self, _part: &StatePart) {}
}

/// Runs a fold without state between epochs over a stream of updates.
pub fn every_epoch<'s, D, O, P, F>(
    stream: Stream<'s, Epoch, Vec<Update<D>>>,
    pact: P,
    name: &str,
    clock: Clock,
    fold: F,
) -> VecCollection<'s, Epoch, O, isize>
where
    D: Clone + 'static,
    O: Clone + 'static,
    P: ParallelizationContract<Epoch, Vec<Update<D>>>,
    F: Fold<D, O>,
{
    every_epoch_kept(stream, pact, name, clock, None, fold)
}

/// Runs a fold over a stream of updates; its state is saved in checkpoints under `part`.
pub fn every_epoch_kept<'s, D, O, P, F>(
    stream: Stream<'s, Epoch, Vec<Update<D>>>,
    pact: P,
    name: &str,
    clock: Clock,
    part: Option<StatePart>,
    mut fold: F,
) -> VecCollection<'s, Epoch, O, isize>
where
    D: Clone + 'static,
    O: Clone + 'static,
    P: ParallelizationContract<Epoch, Vec<Update<D>>>,
    F: Fold<D, O>,
{
    let mut waiting: BTreeMap<Epoch, Vec<(D, isize)>> = BTreeMap::new();
    let mut next: Epoch = 0;
    let mut results = Vec::new();
    if let Some(part) = &part {
        fold.restore(part);
    }
    stream
        .unary_frontier::<CapacityContainerBuilder<Vec<Update<O>>>, _, _, _>(
            pact,
            name,
            move |capability, _info| {
                // Held, because time that passes may bring rows out of an epoch without data.
                let mut capability = Some(capability);
                move |(input, frontier), output| {
                    input.for_each(|_time, updates| {
                        for (datum, epoch, diff) in updates.drain(..) {
                            waiting.entry(epoch).or_default().push((datum, diff));
                        }
                    });
                    let Some(held) = capability.as_mut() else {
                        return;
                    };
                    let mut give = |held: &Capability<Epoch>, epoch, results: &mut Vec<_>| {
                        if !results.is_empty() {
                            let mut session = output.session(held);
                            results
                                .drain(..)
                                .for_each(|(row, diff)| session.give((row, epoch, diff)));
                        }
                    };
                    let closed = frontier.frontier().first().copied();
                    for epoch in clock.between(next, closed) {
                        let updates = waiting.remove(&epoch).unwrap_or_default();
                        fold.epoch(epoch, updates, &mut results);
                        fold.end(epoch, &mut results);
                        if let Some(part) = &part
                            && let Some(mut saver) = part.saver(epoch)
                        {
                            fold.save(&mut saver);
                            part.save(saver);
                        }
                        held.downgrade(&epoch);
                        give(held, epoch, &mut results);
                        next = epoch + 1;
                    }
                    let Some(closed) = closed else {
                        capability = None;
                        return;
                    };
                    held.downgrade(&closed.max(next));
                    // Nothing of an earlier epoch is still to come.
                    if F::IS_PIECEWISE
                        && let Some(updates) = waiting.remove(&closed)
                    {
                        fold.epoch(closed, updates, &mut results);
                        give(held, closed, &mut results);
                    }
                }
            },
        )
        .as_collection()
}
