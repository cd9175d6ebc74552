//! **sample** thins a stream but keeps what matters.
//!
//! ```toml
//! [operators.thin]
//! type = "sample"
//! from = "events"
//! keep = "event_type in ('SIGNAL', 'FILL')"
//! context = 5
//! by = "user_id"
//! context_within = "1m"
//! rate = 0.1
//! ```
//!
//! What matches `keep` passes, and so do its `context` nearest neighbours before and after: events of
//! the same `by`, in the order of timestamp, source and sequence, at most `context_within` away. Of
//! the rest an event passes with probability `min(1, rate · (1 + min(3, n/10 + 2c/n)))`, where n
//! counts the up to 5 neighbours before and up to 5 after that are at most `context_within` away, and
//! c those of them that match `keep` (with n = 0 the probability is `rate`). It is drawn from a hash
//! of the event's key, so that a replay keeps the same events.
//!
//! Whether an event passes is decided once, when the watermark shows that no neighbour can come any
//! more: `context_within` after its timestamp. Nothing is taken back after that, and the watermark of
//! what comes out is held back by `context_within`. An event whose `by` is NULL has no neighbours.

mod groups;
mod neighbours;
mod reading;
mod settings;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use timely::dataflow::Scope;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::Concatenate;
use waterwheel_config::expr::Program;
use waterwheel_config::section::Section;
use waterwheel_pipeline::contract::batch::BatchBuilder;
use waterwheel_pipeline::contract::epoch::Epoch;
use waterwheel_pipeline::contract::event::EventBatch;
use waterwheel_pipeline::contract::fold::{Fold, Update, every_epoch, every_epoch_kept};
use waterwheel_pipeline::contract::operator::{
    Decoders, Events, Input, Operator, OperatorContext, OperatorKind, Planned, RenderContext, Rows,
    inputs_from,
};
use waterwheel_pipeline::contract::state::route;

use self::groups::Groups;
use self::reading::{Candidate, Item, Message, ReadCandidates};
use crate::key::KeyPlan;

/// The kind.
pub const KIND: OperatorKind = OperatorKind {
    name: "sample",
    summary: "thins a stream but keeps what matters, with what is around it",
    example: r#"[operators.thin]
type = "sample"
from = "events"
keep = "event_type in ('SIGNAL', 'FILL')"
context = 5
by = "user_id"
context_within = "1m"
rate = 0.1
"#,
    inputs: inputs_from,
    plan,
};

/// Everything a worker needs to sample.
#[derive(Debug)]
struct Plan {
    condition: Option<Program>,
    keep: Option<Program>,
    by: KeyPlan,
    /// The time of a row; events have their own.
    time_slot: Option<usize>,
    /// Of rows: the columns that make the row's key.
    key_columns: Vec<usize>,
    context: usize,
    within_us: i64,
    rate: f64,
}

struct Sample(Arc<Plan>);

impl Sample {
    /// The items that pass, each on the worker that owns its group.
    fn passing<'s>(
        &self,
        scope: Scope<'s, Epoch>,
        inputs: Vec<Input<'s>>,
        context: &RenderContext,
    ) -> differential_dataflow::VecCollection<'s, Epoch, Item, isize> {
        let read = || ReadCandidates::new(self.0.clone());
        let clock = || context.clock.clone();
        let candidates: Vec<_> = inputs
            .into_iter()
            .map(|input| match input {
                Input::Events(events) => {
                    every_epoch(events, Pipeline, "SampleEvents", clock(), read()).inner
                }
                Input::Rows(rows) => {
                    every_epoch(rows.inner, Pipeline, "SampleRows", clock(), read()).inner
                }
            })
            .collect();
        let candidates = scope.concatenate(candidates);
        let owner = Exchange::new(|(one, _, _): &Update<Candidate>| route(one.group_hash()));
        let groups = Groups::new(self.0.clone(), context);
        let part = Some(context.part("groups"));
        every_epoch_kept(candidates, owner, "SampleGroups", clock(), part, groups)
    }
}

impl Operator for Sample {
    fn render<'s>(
        &self,
        scope: Scope<'s, Epoch>,
        inputs: Vec<Input<'s>>,
        context: RenderContext,
    ) -> Rows<'s> {
        self.passing(scope, inputs, &context).flat_map(|item| match item {
            Item::Row(row) => Some(row),
            Item::Message(_) => None,
        })
    }

    fn render_events<'s>(
        &self,
        scope: Scope<'s, Epoch>,
        inputs: Vec<Input<'s>>,
        context: RenderContext,
    ) -> Events<'s> {
        let passing = self.passing(scope, inputs, &context).inner;
        let decode = DecodeAgain(context.decoders);
        every_epoch(passing, Pipeline, "SampleDecode", context.clock, decode).inner
    }
}

/// Makes events again of the messages that pass.
struct DecodeAgain(Decoders);

impl Fold<Item, Rc<EventBatch>> for DecodeAgain {
    fn epoch(
        &mut self,
        _epoch: Epoch,
        items: Vec<(Item, isize)>,
        output: &mut Vec<(Rc<EventBatch>, isize)>,
    ) {
        let mut streams: BTreeMap<(u16, Arc<str>), Vec<Message>> = BTreeMap::new();
        for (item, _) in items {
            if let Item::Message(message) = item {
                let stream = (message.source, message.stream.clone());
                streams.entry(stream).or_default().push(message);
            }
        }
        for ((source, stream), mut messages) in streams {
            let Some(decoder) = self.0.get(usize::from(source)) else {
                continue;
            };
            messages.sort_unstable_by_key(|message| message.ordinal);
            let mut builder = BatchBuilder::new(stream, 0);
            let mut decode = |builder: &mut BatchBuilder| {
                output.push((Rc::new(decoder(builder.finish(None))), 1));
            };
            for message in &messages {
                message.push_to(&mut builder);
                if builder.is_full() {
                    decode(&mut builder);
                }
            }
            if !builder.is_empty() {
                decode(&mut builder);
            }
        }
    }
}

fn plan(section: &Section<'_>, context: &mut OperatorContext) -> Option<Planned> {
    settings::plan(section, context)
}

#[cfg(test)]
mod tests;
