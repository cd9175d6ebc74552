//! Watermarks of several sources with decisions of the clock, in a run and in its replays: what is
//! late must follow from the logs and the decisions alone.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::epochs::{Batch, OpenEpoch};
use super::sources::{SourceState, View, ready};
use crate::contract::batch::{BatchBuilder, RawBatch};
use crate::contract::epoch::{EpochRecord, FINAL_WATERMARK, NO_WATERMARK};
use crate::contract::position::{Position, Positions, position_at};
use crate::runtime::cuts::{Cuts, is_held};
use crate::runtime::decisions::Decision;

/// By source: what its log holds, and how late an event may be.
#[derive(Clone, Debug)]
struct Log {
    timestamps: Vec<i64>,
    lateness_us: i64,
}

/// What happens next in a run.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// So many messages of a source come.
    Read(usize, usize),
    /// A source is silent for too long.
    Silence(usize),
    /// What has come is decoded.
    Judge,
    /// The epoch is full.
    Seal,
}

fn name(source: usize) -> String {
    ["a", "b", "c"][source].to_owned()
}

/// What the coordinator does, without workers and sinks.
struct Run {
    logs: Vec<Log>,
    states: Vec<SourceState>,
    read: Vec<usize>,
    open: OpenEpoch,
    batches: Vec<(u64, usize, std::ops::Range<usize>)>,
    next_batch: u64,
    cuts: Cuts,
    decisions: Vec<Decision>,
    /// By source, which events were late.
    late: Vec<Vec<bool>>,
    records: Vec<EpochRecord>,
    /// By source, after the last epoch.
    watermarks: Vec<i64>,
    /// The records that were cut at in a replay.
    cut_at: Vec<EpochRecord>,
}

impl Run {
    fn new(logs: &[Log], decisions: &[Decision], cuts: Vec<EpochRecord>) -> Self {
        let states = logs.iter().enumerate().map(|(source, log)| {
            let mut state = SourceState::new(&name(source), log.lateness_us, None);
            let own = decisions.iter().filter(|decision| decision.source == name(source));
            state.ahead = own.cloned().collect::<VecDeque<_>>();
            state.ahead.make_contiguous().sort_by_key(|decision| decision.after.ordinal);
            state.open_at(position_at(0));
            state
        });
        Self {
            states: states.collect(),
            read: vec![0; logs.len()],
            late: logs.iter().map(|_| Vec::new()).collect(),
            logs: logs.to_vec(),
            open: OpenEpoch::new(1),
            batches: Vec::new(),
            next_batch: 0,
            cuts: Cuts::new(cuts),
            decisions: Vec::new(),
            records: Vec::new(),
            watermarks: logs.iter().map(|_| NO_WATERMARK).collect(),
            cut_at: Vec::new(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Read(source, count) => self.bring(source, count),
            Step::Silence(source) => {
                let state = &mut self.states[source];
                let is_live = !self.cuts.is_ahead() && state.ahead.is_empty() && !state.ended;
                if is_live && !std::mem::replace(&mut state.is_idle, true) {
                    self.open.decided.push(source);
                    self.seal();
                }
            }
            Step::Judge => self.judge(),
            Step::Seal => self.seal(),
        }
    }

    fn bring(&mut self, source: usize, count: usize) {
        let at = self.read[source];
        let through = self.logs[source].timestamps.len().min(at + count);
        let state = &mut self.states[source];
        if through == at || state.held.is_some() || state.ended {
            return;
        }
        let mut builder = BatchBuilder::new("s".into(), 0);
        for ordinal in at as u64 + 1..=through as u64 {
            builder.push(ordinal, ordinal, None, b"", b"", b"");
        }
        self.read[source] = through;
        state.held = Some(builder.finish(None));
        self.feed();
    }

    fn feed(&mut self) {
        loop {
            for source in 0..self.states.len() {
                let bound = self.cuts.bound(&name(source));
                while let Some((batch, moved_us)) = self.states[source].take_through(bound) {
                    self.dispatch(source, &batch, moved_us);
                }
            }
            let at_cut = |source: usize| {
                let bound = self.cuts.bound(&name(source));
                bound.is_some_and(|bound| self.states[source].is_at(bound))
            };
            if !self.cuts.is_ahead() || !(0..self.states.len()).all(at_cut) {
                return;
            }
            for source in 0..self.states.len() {
                let recorded_us = self.cuts.watermark(&name(source));
                let is_final = recorded_us == FINAL_WATERMARK;
                self.open.recorded_us.push(if is_final { NO_WATERMARK } else { recorded_us });
            }
            self.seal();
            self.cut_at.extend(self.records.last().cloned());
            self.cuts.pass();
        }
    }

    fn dispatch(&mut self, source: usize, raw: &RawBatch, moved_us: Option<i64>) {
        let state = &mut self.states[source];
        let after = state.position.replace(raw.end().unwrap());
        state.is_idle = false;
        let first = raw.messages[0].ordinal as usize - 1;
        let events = first..first + raw.messages.len();
        let timestamps = &self.logs[source].timestamps[events.clone()];
        let timestamp_max_us = Some(timestamps.iter().max().copied());
        let id = self.next_batch;
        self.next_batch += 1;
        self.batches.push((id, source, events));
        let batch = Batch { id, source, worker: 0, after, moved_us, timestamp_max_us };
        self.open.add(batch, raw.messages.len());
    }

    /// Judges what has come of the epoch.
    fn judge(&mut self) {
        let (judged, decisions) = self.open.judge_batches(&mut self.states);
        self.decisions.extend(decisions);
        for ((id, source, events), judged) in self.batches.drain(..).zip(judged) {
            assert_eq!(judged.id, id);
            let carried = judged.carried;
            let (log, mut largest_us) = (&self.logs[source], carried.largest_us);
            for index in events {
                let timestamp_us = log.timestamps[index];
                let is_late = timestamp_us < carried.floor_us
                    || largest_us.is_some_and(|it| timestamp_us < it - log.lateness_us);
                self.late[source].push(is_late);
                if !is_late {
                    // Windows that the watermark has passed are closed.
                    assert!(
                        timestamp_us >= self.watermarks[source],
                        "an event for a closed window"
                    );
                    largest_us = largest_us.max(Some(timestamp_us));
                }
            }
        }
    }

    fn seal(&mut self) {
        self.judge();
        let next = OpenEpoch::new(self.open.epoch + 1);
        let mut sealed = std::mem::replace(&mut self.open, next);
        let states = self.states.iter().enumerate();
        sealed.idle = states.filter(|(_, state)| state.is_idle).map(|(index, _)| index).collect();
        let positions = self.states.iter().map(|state| {
            (state.name.clone(), position_at(state.position.as_ref().map_or(0, |it| it.ordinal)))
        });
        sealed.positions = positions.collect::<Positions>();
        let (watermarks, decisions) = sealed.judge_end(&mut self.states);
        assert!(sealed.is_judged());
        for (before_us, after_us) in self.watermarks.iter().zip(&watermarks) {
            assert!(before_us <= after_us, "a watermark went back");
        }
        self.watermarks.clone_from(&watermarks);
        self.decisions.extend(decisions);
        self.records.push(EpochRecord {
            epoch: sealed.epoch,
            generation: 1,
            positions: sealed.positions,
            watermarks: (0..self.logs.len()).map(name).zip(watermarks).collect(),
        });
    }

    /// Reads what is left.
    fn finish(&mut self) {
        while self.cuts.is_ahead()
            || (0..self.logs.len()).any(|it| self.read[it] < self.logs[it].timestamps.len())
        {
            for source in 0..self.logs.len() {
                self.bring(source, 5);
            }
        }
        self.seal();
    }
}

/// What is late, by SPEC 3: from each log and the decisions about it.
fn expected(logs: &[Log], decisions: &[Decision]) -> Vec<Vec<bool>> {
    let one = |(source, log): (usize, &Log)| {
        let mut largest_us: Option<i64> = None;
        let each = log.timestamps.iter().enumerate().map(|(index, timestamp_us)| {
            let is_late = largest_us.is_some_and(|it| *timestamp_us < it - log.lateness_us)
                || decisions.iter().any(|decision| {
                    decision.source == name(source)
                        && decision.after.ordinal <= index as u64
                        && *timestamp_us < decision.watermark_us
                });
            if !is_late {
                largest_us = largest_us.max(Some(*timestamp_us));
            }
            is_late
        });
        each.collect()
    };
    logs.iter().enumerate().map(one).collect()
}

fn logs() -> impl Strategy<Value = Vec<Log>> {
    let log =
        (prop::collection::vec(0..30_i64, 0..40), 0..40_i64).prop_map(|(jitter, lateness_us)| {
            // Time goes on, with events that come out of order.
            let timestamps = jitter.iter().enumerate().map(|(index, it)| index as i64 * 10 - it);
            Log { timestamps: timestamps.collect(), lateness_us }
        });
    prop::collection::vec(log, 2..=3)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..3_usize, 1..7_usize).prop_map(|(source, count)| Step::Read(source, count)),
        2 => (0..3_usize).prop_map(Step::Silence),
        2 => Just(Step::Judge),
        3 => Just(Step::Seal),
    ];
    prop::collection::vec(step, 0..60)
}

fn run(run: &mut Run, steps: &[Step]) {
    for step in steps {
        let is_there = |source: usize| source < run.logs.len();
        match *step {
            Step::Read(source, _) | Step::Silence(source) if !is_there(source) => {}
            step => run.step(step),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// A run, in which the clock decides, and a replay of it, read otherwise, cut at what some sinks
    /// had recorded, and then gone on with: with other decisions where the first had come to none.
    #[test]
    fn a_replay_decides_as_the_run_did(
        logs in logs(),
        first in steps(),
        again in steps(),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
    ) {
        let mut live = Run::new(&logs, &[], Vec::new());
        run(&mut live, &first);
        live.seal();
        let recorded = |pick: &prop::sample::Index| pick.get(&live.records).clone();
        let mut held: Vec<EpochRecord> = picks.iter().map(recorded).collect();
        held.retain(|record| record.positions.values().any(|it| it.ordinal > 0));
        let mut replay = Run::new(&logs, &live.decisions, held.clone());
        run(&mut replay, &again);
        replay.finish();

        // Whatever is behind the last record may be decided anew; what was decided stands.
        let mut all = live.decisions.clone();
        all.extend(replay.decisions.clone());
        prop_assert_eq!(&replay.late, &expected(&logs, &all));
        let until = |source: usize| {
            let last = held.iter().map(|record| record.positions[&name(source)].ordinal).max();
            last.unwrap_or(0) as usize
        };
        for source in 0..logs.len() {
            let (then, now) = (&live.late[source], &replay.late[source]);
            prop_assert_eq!(&then[..until(source)], &now[..until(source)]);
        }
        // At a cut everything is where it was, so that nothing is given twice and nothing left out.
        for record in &held {
            let cut = replay.cut_at.iter().find(|cut| {
                cut.positions == record.positions && cut.watermarks == record.watermarks
            });
            prop_assert!(cut.is_some(), "no cut at {record:?}, only at {:?}", replay.cut_at);
            let cut_at = cut.map(|cut| cut.epoch).unwrap_or_default();
            for epoch in &replay.records {
                let is_held = is_held(epoch, record, &Positions::new());
                // An epoch that changes nothing may count as either.
                let is_same = epoch.positions == record.positions
                    && epoch.watermarks == record.watermarks;
                prop_assert_eq!(is_held, epoch.epoch <= cut_at || is_same);
            }
        }
    }

    /// Whatever is read when, a run decides by itself what a replay decides from the log.
    #[test]
    fn what_is_late_follows_from_the_logs_and_the_decisions(logs in logs(), steps in steps()) {
        let mut live = Run::new(&logs, &[], Vec::new());
        run(&mut live, &steps);
        live.finish();
        prop_assert_eq!(&live.late, &expected(&logs, &live.decisions));
    }

    #[test]
    fn none_runs_ahead_and_something_is_always_read(
        sources in prop::collection::vec((any::<bool>(), prop::option::of(0..100_i64), 0..30_i64), 1..5),
    ) {
        let view = |(index, (is_pending, read_us, skew_max_us))| View {
            index, is_pending, read_us, is_ahead_of_workers: false, skew_max_us,
        };
        let views: Vec<View> = sources.into_iter().enumerate().map(view).collect();
        let ready = ready(&views);
        let has_pending = views.iter().any(|view| view.is_pending);
        prop_assert!(!has_pending || ready.iter().any(|index| views[*index].is_pending));
        for (view, other) in views.iter().flat_map(|view| views.iter().map(move |it| (view, it))) {
            let (Some(own), Some(theirs)) = (view.read_us, other.read_us) else { continue };
            if other.is_pending && own - theirs > view.skew_max_us {
                prop_assert!(!ready.contains(&view.index));
            }
        }
        let waits_for_none = |it: &usize| {
            let own = views[*it];
            views.iter().filter(|other| other.is_pending && other.index != *it).all(|other| {
                let is_near = |theirs: i64| own.read_us.is_none_or(|it| it - theirs <= own.skew_max_us);
                other.read_us.map_or(own.read_us.is_none(), is_near)
            })
        };
        for view in &views {
            let is_ready = ready.contains(&view.index);
            prop_assert_eq!(is_ready, waits_for_none(&view.index), "{:?}", view);
        }
    }
}

#[test]
fn a_silent_source_holds_until_it_is_not_waited_for() {
    let log = |timestamps: &[i64]| Log { timestamps: timestamps.to_vec(), lateness_us: 5 };
    let logs = [log(&[10, 100, 200, 300]), log(&[12, 150, 290])];
    let mut run = Run::new(&logs, &[], Vec::new());
    let watermarks = |run: &Run| -> Vec<i64> {
        run.records.last().unwrap().watermarks.values().copied().collect()
    };
    run.step(Step::Read(0, 3));
    run.step(Step::Read(1, 1));
    run.step(Step::Seal);
    assert_eq!(watermarks(&run), [195, 7]);
    run.step(Step::Silence(1));
    assert_eq!(watermarks(&run), [195, 195], "it goes with the others");
    run.step(Step::Read(0, 1));
    run.step(Step::Seal);
    assert_eq!(watermarks(&run), [295, 295]);
    // It speaks again: 150 and 290 lie in windows that are final.
    run.step(Step::Read(1, 2));
    run.step(Step::Seal);
    assert_eq!(run.late[1], [false, true, true]);
    assert_eq!(watermarks(&run), [295, 295], "and is waited for where it was left");
    let decided: Vec<(u64, i64)> =
        run.decisions.iter().map(|it| (it.after.ordinal, it.watermark_us)).collect();
    assert_eq!(decided, [(1, 195), (1, 295)]);
}

#[test]
fn where_all_are_silent_all_are_where_the_first_of_them_is() {
    let log = |timestamps: &[i64]| Log { timestamps: timestamps.to_vec(), lateness_us: 0 };
    let mut run = Run::new(&[log(&[10]), log(&[70])], &[], Vec::new());
    for step in [Step::Read(0, 1), Step::Read(1, 1), Step::Silence(1), Step::Silence(0)] {
        run.step(step);
    }
    assert_eq!(run.records.last().unwrap().watermark(), 70);
}

/// SPEC 3: the watermark is the least of the inputs', so that is how far one is moved that is not
/// waited for: what it says behind that is in time.
#[test]
fn a_silent_source_goes_with_the_one_that_is_furthest_behind() {
    let log = |timestamps: &[i64]| Log { timestamps: timestamps.to_vec(), lateness_us: 5 };
    let mut run = Run::new(&[log(&[200]), log(&[100]), log(&[10, 94, 95])], &[], Vec::new());
    for source in 0..3 {
        run.step(Step::Read(source, 1));
    }
    run.step(Step::Silence(2));
    let watermarks: Vec<i64> = run.records[0].watermarks.values().copied().collect();
    assert_eq!(watermarks, [195, 95, 95]);
    run.finish();
    assert_eq!(run.late[2], [false, true, false]);
}

#[test]
fn a_source_that_has_come_to_its_end_holds_nothing() {
    let state = |name| SourceState::new(name, 5, None);
    let mut states = [state("a"), state("b")];
    (states[0].largest_us, states[1].largest_us) = (Some(100), Some(20));
    let mut epoch = OpenEpoch::new(1);
    assert_eq!(epoch.judge_end(&mut states).0, [95, 15]);
    epoch.finishing.push(1);
    assert_eq!(epoch.judge_end(&mut states).0, [95, FINAL_WATERMARK]);
    // It is so for good.
    let again = SourceState::new("b", 5, Some(FINAL_WATERMARK));
    assert_eq!((again.watermark_us(), again.ended), (FINAL_WATERMARK, true));
    // Sources that are not finished go on from where an earlier run left them.
    assert_eq!(SourceState::new("a", 5, Some(95)).watermark_us(), 95);
}

/// A stream of the same name that was made anew, or another one, is not the log that was silent.
#[test]
fn what_was_decided_about_another_log_counts_for_nothing() {
    let at = position_at(3);
    let decided = |after| Decision { source: name(0), after, watermark_us: 100 };
    let mut state = SourceState::new(&name(0), 5, None);
    state.ahead = VecDeque::from([
        decided(Position { created: 7, ..at.clone() }),
        decided(at.clone()),
        decided(Position { stream: "another".to_owned(), ..at.clone() }),
    ]);
    state.open_at(position_at(0));
    assert_eq!(state.ahead, [decided(at)]);
}
