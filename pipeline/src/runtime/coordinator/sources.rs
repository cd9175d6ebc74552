//! What the coordinator knows of each source, and from which it takes the next messages.

use std::collections::VecDeque;
use std::task::Poll;

use chrono::{DateTime, Utc};
use tokio::sync::mpsc;

use super::Coordinator;
use crate::contract::batch::RawBatch;
use crate::contract::epoch::{FINAL_WATERMARK, NO_WATERMARK};
use crate::contract::position::Position;
use crate::runtime::decisions::Decision;
use crate::runtime::messages::FromIntake;

/// What is known of a source.
///
/// Reading runs ahead of flowing: the first fields tell of what was taken from the source, the last
/// ones of the epochs that flow.
#[derive(Debug)]
pub(super) struct SourceState {
    pub(super) name: String,
    pub(super) lateness_us: i64,
    /// After the last message that was handed to a worker.
    pub(super) position: Option<Position>,
    /// How many messages were handed to workers since the pipeline's origin.
    pub(super) messages: u64,
    /// A batch that waits, because a cut lies in front of it or within it.
    pub(super) held: Option<RawBatch>,
    /// Nothing more is taken from it.
    pub(super) ended: bool,
    /// An epoch says that it is finished.
    pub(super) is_finished: bool,
    /// It is not waited for.
    pub(super) is_idle: bool,
    /// Messages that it knows to wait behind the last batch.
    pub(super) pending: u64,
    /// When the last messages came.
    pub(super) heard_at: DateTime<Utc>,
    /// The largest timestamp that is decoded.
    pub(super) read_us: Option<i64>,
    /// Batches that workers have not decoded yet.
    pub(super) undecoded: usize,
    /// What was decided in an earlier run about what comes now.
    pub(super) ahead: VecDeque<Decision>,

    /// The largest timestamp accepted in the epochs that flow.
    pub(super) largest_us: Option<i64>,
    /// The watermark that the others had reached when it had been silent.
    pub(super) floor_us: i64,
    /// As much of that as the log of decisions knows.
    pub(super) logged_us: i64,
    /// It is finished.
    pub(super) is_final: bool,
}

impl SourceState {
    /// A source of which nothing is known, or that an earlier run left with this watermark.
    pub(super) fn new(name: &str, lateness_us: i64, watermark_us: Option<i64>) -> Self {
        let is_final = watermark_us == Some(FINAL_WATERMARK);
        Self {
            name: name.to_owned(),
            lateness_us,
            position: None,
            messages: 0,
            held: None,
            ended: is_final,
            is_finished: is_final,
            is_idle: false,
            pending: 0,
            heard_at: Utc::now(),
            read_us: None,
            undecoded: 0,
            ahead: VecDeque::new(),
            largest_us: None,
            floor_us: watermark_us.filter(|_| !is_final).unwrap_or(NO_WATERMARK),
            logged_us: NO_WATERMARK,
            is_final,
        }
    }

    /// It is open at this position.
    pub(super) fn open_at(&mut self, position: Position) {
        // What was decided about another log counts for nothing.
        self.ahead.retain(|decision| {
            decision.after.created == position.created && decision.after.stream == position.stream
        });
        self.position = Some(position);
    }

    /// The held messages up to and including an ordinal, or all where there is no bound; fewer where
    /// a decision lies among them. With them, how far the watermark had been moved before they came.
    pub(super) fn take_through(&mut self, bound: Option<u64>) -> Option<(RawBatch, Option<i64>)> {
        let mut held = self.held.take()?;
        let first = held.messages.first()?.ordinal;
        if bound.is_some_and(|bound| first > bound) {
            self.held = Some(held);
            return None;
        }
        let mut moved_us = None;
        while self.ahead.front().is_some_and(|decision| decision.after.ordinal < first)
            && let Some(decision) = self.ahead.pop_front()
        {
            moved_us = moved_us.max(Some(decision.watermark_us));
        }
        let decided = self.ahead.front().map(|decision| decision.after.ordinal);
        let Some(through) = [bound, decided].into_iter().flatten().min() else {
            return Some((held, moved_us));
        };
        let head = held.split_through(through);
        if !held.messages.is_empty() {
            self.held = Some(held);
        }
        Some((head, moved_us))
    }

    /// True if nothing up to and including the ordinal is still to come.
    pub(super) fn is_at(&self, bound: u64) -> bool {
        self.position.as_ref().is_none_or(|position| position.ordinal >= bound)
            || self.ended
            // What waits lies beyond: the messages up to the bound have been deleted since.
            || self.held.is_some()
    }

    /// The watermark after the epochs that flow.
    pub(super) fn watermark_us(&self) -> i64 {
        if self.is_final { FINAL_WATERMARK } else { self.own_watermark_us().max(self.floor_us) }
    }

    /// The watermark that follows from its own log.
    pub(super) fn own_watermark_us(&self) -> i64 {
        self.largest_us.map_or(NO_WATERMARK, |largest| largest.saturating_sub(self.lateness_us))
    }

    /// Notes that no event behind a position takes part that lies below the watermark; what the log is
    /// to know of it.
    pub(super) fn decide(&mut self, after: Option<&Position>) -> Option<Decision> {
        // A source that is open has a position.
        let after = Position { gaps: Vec::new(), messages: 0, ..after?.clone() };
        self.logged_us = self.logged_us.max(self.floor_us);
        let watermark_us = self.own_watermark_us().max(self.floor_us);
        Some(Decision { source: self.name.clone(), after, watermark_us })
    }
}

/// How a source stands that something may be taken from.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    pub(super) index: usize,
    /// It has messages.
    pub(super) is_pending: bool,
    /// The largest timestamp that is decoded.
    pub(super) read_us: Option<i64>,
    /// Its batches are taken faster than they are decoded.
    pub(super) is_ahead_of_workers: bool,
    /// How far it may be ahead of one that has messages.
    pub(super) skew_max_us: i64,
}

/// From which of them something is taken, the one that is furthest behind first. That one waits for
/// none, so that something is always read.
pub(super) fn ready(views: &[View]) -> Vec<usize> {
    let waits = |view: &View| {
        let mut others =
            views.iter().filter(|other| other.is_pending && other.index != view.index).peekable();
        if others.peek().is_none() {
            return false;
        }
        let Some(own_us) = view.read_us else { return view.is_ahead_of_workers };
        // How far ahead it is shows once its batches are decoded.
        view.is_ahead_of_workers
            || others.any(|other| {
                let is_far = |theirs_us| own_us.saturating_sub(theirs_us) > view.skew_max_us;
                other.read_us.is_none_or(is_far)
            })
    };
    let mut ready: Vec<&View> = views.iter().filter(|view| !waits(view)).collect();
    ready.sort_by_key(|view| view.read_us);
    ready.into_iter().map(|view| view.index).collect()
}

impl Coordinator {
    /// The sources from which something may be taken, in the order in which they are asked.
    pub(super) fn readable(&self) -> Vec<usize> {
        let view = |index: usize| {
            let (node, state) = (&self.deployment.sources[index], &self.sources[index]);
            let bound = self.cuts.bound(&node.name);
            let is_closed = state.ended
                || state.held.is_some()
                || bound.is_some_and(|bound| state.is_at(bound));
            (!is_closed).then(|| View {
                index,
                is_pending: state.pending > 0 || !self.intakes[index].is_empty(),
                read_us: state.read_us,
                is_ahead_of_workers: state.undecoded > 2 * self.workers.len(),
                skew_max_us: node.skew_max_us,
            })
        };
        ready(&(0..self.sources.len()).filter_map(view).collect::<Vec<_>>())
    }
}

/// The next message of any of these sources, the first of them first.
pub(super) async fn next_message(
    intakes: &mut [mpsc::Receiver<FromIntake>],
    readable: &[usize],
) -> (usize, Option<FromIntake>) {
    std::future::poll_fn(|context| {
        for index in readable {
            if let Poll::Ready(message) = intakes[*index].poll_recv(context) {
                return Poll::Ready((*index, message));
            }
        }
        Poll::Pending
    })
    .await
}
