//! Sources that others need not wait for: those that are finished, and those that are silent for
//! longer than `idle_after`.
//!
//! That a source is finished follows from its log. That one is silent is decided by the clock, here
//! and nowhere else: the decision and how far it let the watermark go are made durable before anything
//! rests on them (see [`Decisions`](crate::runtime::decisions)).

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::{Coordinator, Seal};
use crate::contract::epoch::{FINAL_WATERMARK, NO_WATERMARK};
use crate::contract::failpoint;
use crate::contract::fault::Fault;
use crate::contract::position::Positions;
use crate::contract::source::Until;
use crate::runtime::decisions::Decision;

/// What an intake has said of silence holds for so long.
const FRESH: Duration = Duration::from_secs(1);

/// A source that holds the watermark is told of once it has been silent for so long.
const HOLDS_AFTER: chrono::TimeDelta = chrono::TimeDelta::seconds(10);

/// A silent source that holds the watermark.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Holder {
    source: usize,
    since: DateTime<Utc>,
}

impl Coordinator {
    /// A source has had nothing for so long, and nothing waits: others need not wait for it where its
    /// `idle_after` says so.
    pub(super) fn hear_silence(&mut self, source: usize, silence: Duration, at: Instant) {
        self.set_pending(source, 0);
        let (node, state) = (&self.deployment.sources[source], &self.sources[source]);
        let is_silent_enough = node
            .idle_after_us
            .is_some_and(|after| silence.as_micros() >= after.unsigned_abs().into());
        // What is replayed was decided before, and what has come since has ended the silence.
        let is_present = !self.cuts.is_ahead()
            && state.ahead.is_empty()
            && state.held.is_none()
            && self.intakes[source].is_empty()
            && at.elapsed() < FRESH;
        if !is_silent_enough
            || !is_present
            || state.is_idle
            || state.ended
            || self.stopping.is_some()
        {
            return;
        }
        tracing::info!(
            "source `{}` is silent since {}: others no longer wait for it",
            node.name,
            state.heard_at.format("%H:%M:%SZ")
        );
        self.sources[source].is_idle = true;
        self.open.decided.push(source);
        failpoint::reach("idle.decided");
        self.seal(Seal::Mark);
    }

    /// Makes decisions durable. The task waits for the disk: nothing may go on before.
    pub(super) fn make_durable(&mut self, decisions: &[Decision]) -> Result<(), Fault> {
        if decisions.is_empty() {
            return Ok(());
        }
        match &mut self.decisions {
            Some(log) => log.append(decisions),
            // A deployment whose sources may be idle has a place for it; one that no longer has
            // cannot go on from where they were.
            None => Err(Fault::stop(
                "a source was not waited for while it was silent, and there is no place to note how \
                 far the others got",
            )
            .help("give the pipeline `checkpoint = { path = \"...\" }` under [engine] again")),
        }
    }

    /// No replay begins before these positions any more.
    pub(super) fn forget_decisions(&mut self, oldest: &Positions) {
        if let Some(log) = &mut self.decisions
            && let Err(error) = log.forget_before(oldest)
        {
            tracing::warn!("the log of idle sources cannot be shortened: {error}");
        }
    }

    /// At a cut: what a sink has recorded of the watermarks holds here.
    pub(super) fn take_recorded(&mut self) {
        for (index, node) in self.deployment.sources.iter().enumerate() {
            let watermark_us = self.cuts.watermark(&node.name);
            self.open.recorded_us.push(match watermark_us {
                FINAL_WATERMARK => NO_WATERMARK,
                watermark_us => watermark_us,
            });
            let state = &mut self.sources[index];
            if self.cuts.is_final(&node.name) && !state.is_finished {
                // Whatever has been added to it since.
                (state.is_finished, state.ended, state.held) = (true, true, None);
                self.open.finishing.push(index);
            }
        }
    }

    /// The sources that have come to their final end, which no epoch says yet.
    pub(super) fn finishing(&mut self) -> Vec<usize> {
        let nodes = self.deployment.sources.iter().zip(&mut self.sources).enumerate();
        let ends = nodes.filter_map(|(index, (node, state))| {
            let is_new = node.until == Until::Final
                && state.ended
                && state.held.is_none()
                && !std::mem::replace(&mut state.is_finished, true);
            is_new.then_some(index)
        });
        ends.collect()
    }

    /// A source that has come to its final end holds nothing any more. At a cut the record says
    /// whether it had ended there.
    pub(super) fn finish_ended(&mut self) {
        if self.cuts.is_ahead() {
            return;
        }
        let finishing = self.finishing();
        if finishing.is_empty() {
            return;
        }
        for index in &finishing {
            tracing::info!("source `{}` is finished", self.deployment.sources[*index].name);
        }
        self.open.finishing = finishing;
        self.seal(Seal::Mark);
    }

    /// Notes which silent source holds the watermark of the others.
    pub(super) fn note_holder(&mut self) {
        let found = self.holder();
        if found == self.holder {
            return;
        }
        let name = |holder: &Holder| self.deployment.sources[holder.source].name.clone();
        if let Some(holder) = &found {
            tracing::warn!(
                help = "give it `idle_after`, if the others need not wait for it",
                "source `{}` is silent since {}, and holds the watermark",
                name(holder),
                holder.since.format("%H:%M:%SZ")
            );
        }
        let shown = found.as_ref().map(|holder| (name(holder), holder.since));
        self.gauges.set_holder(shown);
        self.holder = found;
    }

    fn holder(&self) -> Option<Holder> {
        if self.sources.len() < 2 {
            return None;
        }
        let states = self.sources.iter().enumerate();
        let open: Vec<(usize, i64)> = states
            .map(|(index, state)| (index, state.watermark_us()))
            .filter(|(_, watermark_us)| *watermark_us != FINAL_WATERMARK)
            .collect();
        let (source, least_us) = *open.iter().min_by_key(|(_, watermark_us)| *watermark_us)?;
        let state = &self.sources[source];
        let holds = open.iter().any(|(_, watermark_us)| *watermark_us > least_us)
            && state.pending == 0
            && !state.is_idle
            && Utc::now() - state.heard_at >= HOLDS_AFTER;
        holds.then_some(Holder { source, since: state.heard_at })
    }
}
