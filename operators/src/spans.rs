//! Stretches of a key's events in event time: flows, sessions, memberships. An operator says what
//! begins one and until when an event belongs to it ([`Spans`]); everything else is here.
//!
//! The worker that decoded an event evaluates the operator's expressions over it ([`find`]) and sends
//! what counts to the worker that owns the key. There the key's events are taken from left to right
//! in order of (timestamp, source, sequence), exactly also where they come out of order or are taken
//! back ([`cell`]), and forgotten as soon as the watermark shows that nothing more can belong to
//! their span ([`owner`]).

mod cell;
mod find;
mod owner;
mod settings;
#[cfg(test)]
pub(crate) mod testing;

use std::sync::Arc;

use differential_dataflow::VecCollection;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use timely::dataflow::Scope;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::Concatenate;
use waterwheel_pipeline::contract::epoch::Epoch;
use waterwheel_pipeline::contract::fold::{Update, every_epoch, every_epoch_kept};
use waterwheel_pipeline::contract::operator::{Input, RenderContext};
use waterwheel_pipeline::contract::state::route;

use self::find::FindEvents;
pub(crate) use self::find::{InputPrograms, Need};
use self::owner::KeySpans;
pub(crate) use self::settings::{By, Settings, meaning};
use crate::key;

/// What of an event counts. The order of the fields is the order of events (SPEC 4): time, source,
/// sequence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct SpanEvent {
    /// Event time.
    pub(crate) time_us: i64,
    /// The index of the source.
    pub(crate) source: u16,
    /// The place in the source.
    pub(crate) sequence: (u64, u64),
    /// Which of the operator's conditions hold, as bits.
    pub(crate) marks: u8,
    /// The type, where the operator needs it and there is one.
    pub(crate) event_type: Option<Arc<str>>,
}

/// An event under its key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct KeyedEvent {
    /// The key (see [`key::KeyPlan`]).
    pub(crate) key: Arc<[u8]>,
    /// The event.
    pub(crate) event: SpanEvent,
}

/// What an operator makes of the events of a key.
pub(crate) trait Spans: 'static {
    /// A stretch of events.
    type Span: Clone + PartialEq + Serialize + DeserializeOwned + 'static;
    /// What comes out of it.
    type Output: Clone + 'static;

    /// The span that begins with an event, if that may begin one.
    fn begin(&mut self, event: &SpanEvent, times: i64) -> Option<Self::Span>;

    /// Adds an event that belongs to a span and is none of those before its last one.
    fn add(&mut self, span: &mut Self::Span, event: &SpanEvent, times: i64);

    /// Where a span begins; no two of a key begin together.
    fn start_us(span: &Self::Span) -> i64;

    /// The last moment at which an event belongs to a span: it is final once the watermark has
    /// passed that. Later spans of a key end later.
    fn until_us(&self, span: &Self::Span) -> i64;

    /// True if the span becomes another one by itself when the watermark passes its end.
    fn is_open(_span: &Self::Span) -> bool {
        false
    }

    /// The watermark has passed the end of an open span.
    fn close(_span: &mut Self::Span) {}

    /// About how many bytes a span takes beside itself.
    fn heap_bytes(span: &Self::Span) -> usize;

    /// A span of a key came, changed, or is gone.
    fn changed(
        &mut self,
        key: &[u8],
        before: Option<&Self::Span>,
        after: Option<&Self::Span>,
        output: &mut Vec<(Self::Output, isize)>,
    );

    /// The epoch is over; the watermark is given.
    fn finish(&mut self, _watermark_us: i64, _output: &mut Vec<(Self::Output, isize)>) {}
}

/// Builds both stages into the dataflow.
pub(crate) fn render<'s, R: Spans>(
    scope: Scope<'s, Epoch>,
    inputs: Vec<Input<'s>>,
    context: &RenderContext,
    programs: &Arc<[InputPrograms]>,
    need: Need,
    rules: R,
) -> VecCollection<'s, Epoch, R::Output, isize> {
    let clock = || context.clock.clone();
    let events: Vec<_> = inputs
        .into_iter()
        .enumerate()
        .map(|(index, input)| {
            let find = FindEvents::new(programs.clone(), index, need);
            match input {
                Input::Events(events) => {
                    every_epoch(events, Pipeline, "SpanEvents", clock(), find).inner
                }
                Input::Rows(rows) => {
                    every_epoch(rows.inner, Pipeline, "SpanRows", clock(), find).inner
                }
            }
        })
        .collect();
    let events = scope.concatenate(events);
    let owner = Exchange::new(|(event, _, _): &Update<KeyedEvent>| route(key::hash(&event.key)));
    let part = context.part("keys");
    let spans = KeySpans::new(rules, context, part.is_kept());
    every_epoch_kept(events, owner, "Spans", clock(), Some(part), spans)
}
