//! An arrangement that forgets: keys carry the event time at which nothing can ask for them any
//! more, and merging drops those that have passed it.
//!
//! Differential's arrangements never forget by themselves. Retracting what is too old would delete
//! the matches that it took part in, so expired keys are discarded instead, at no cost of their
//! own, by the merges that a spine does anyway (notes of Feldera's `integrate_trace_retain_keys`
//! and RisingWave's `SkipWatermarkIterator` describe the same). The contract: expiry is monotone in
//! the watermark, nothing with an expired key comes in, and nobody looks one up.

use std::cell::RefCell;
use std::rc::Rc;

use differential_dataflow::consolidation::consolidate;
use differential_dataflow::lattice::Lattice;
use differential_dataflow::trace::cursor::Cursor;
use differential_dataflow::trace::implementations::Vector;
use differential_dataflow::trace::implementations::ord_neu::{
    OrdValBatch, OrdValBatcher, OrdValBuilder,
};
use differential_dataflow::trace::implementations::spine_fueled::Spine;
use differential_dataflow::trace::rc_blanket_impls::RcBuilder;
use differential_dataflow::trace::{Batch, BatchReader, Builder, Description, Merger, Navigable};
use serde::{Deserialize, Serialize};
use timely::progress::Antichain;
use timely::progress::frontier::AntichainRef;
use waterwheel_config::value::Row;
use waterwheel_pipeline::contract::clock::Clock;
use waterwheel_pipeline::contract::epoch::Epoch;

/// A key and when it expires. Expiry comes first: what expires together lies together.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct ExpiringKey {
    /// Nothing asks for the key once the least watermark of all sources has reached this.
    pub(crate) expires_us: i64,
    /// The key itself.
    pub(crate) key: Box<[u8]>,
}

thread_local! {
    /// Mergers are made by the spine, which knows no watermarks; a worker is one thread with one
    /// clock, so they find it here.
    static CLOCK: RefCell<Clock> = RefCell::default();
}

/// Tells the arrangements of this worker the time.
pub(crate) fn set_clock(clock: &Clock) {
    CLOCK.with(|current| *current.borrow_mut() = clock.clone());
}

/// The watermark that was in force before every epoch that may still come.
fn watermark_before(since: AntichainRef<'_, Epoch>) -> Option<i64> {
    let epoch = since.iter().min()?;
    Some(CLOCK.with(|clock| clock.borrow().least_before(*epoch)))
}

type Inner = OrdValBatch<Vector<((ExpiringKey, Row), Epoch, isize)>>;
type InnerUpdates = Vec<((ExpiringKey, Row), Epoch, isize)>;
type InnerBuilder = OrdValBuilder<Vector<((ExpiringKey, Row), Epoch, isize)>, InnerUpdates>;
type InnerCursor = <Inner as Navigable>::Cursor;

/// The spine of an expiring arrangement.
pub(crate) type ExpiringSpine = Spine<Rc<ExpiringBatch>>;
/// Its batcher.
pub(crate) type ExpiringBatcher = OrdValBatcher<ExpiringKey, Row, Epoch, isize>;
/// Its builder.
pub(crate) type ExpiringBuilder = RcBuilder<BatchBuilder>;

/// A batch whose merger forgets.
pub(crate) struct ExpiringBatch(Inner);

impl BatchReader for ExpiringBatch {
    type Time = Epoch;
    fn len(&self) -> usize {
        self.0.len()
    }
    fn description(&self) -> &Description<Epoch> {
        self.0.description()
    }
}

impl Batch for ExpiringBatch {
    type Merger = ExpiringMerger;
    fn empty(lower: Antichain<Epoch>, upper: Antichain<Epoch>) -> Self {
        Self(Inner::empty(lower, upper))
    }
}

/// Builds batches as differential's own builder does.
pub(crate) struct BatchBuilder(InnerBuilder);

impl Builder for BatchBuilder {
    type Input = InnerUpdates;
    type Time = Epoch;
    type Output = ExpiringBatch;
    fn with_capacity(keys: usize, vals: usize, updates: usize) -> Self {
        Self(InnerBuilder::with_capacity(keys, vals, updates))
    }
    fn push(&mut self, chunk: &mut Self::Input) {
        self.0.push(chunk);
    }
    fn done(self, description: Description<Epoch>) -> Self::Output {
        ExpiringBatch(self.0.done(description))
    }
    fn seal(chain: &mut Vec<Self::Input>, description: Description<Epoch>) -> Self::Output {
        ExpiringBatch(<InnerBuilder as Builder>::seal(chain, description))
    }
}

/// Merges two batches and leaves out expired keys.
pub(crate) struct ExpiringMerger {
    left: InnerCursor,
    right: InnerCursor,
    since: Antichain<Epoch>,
    watermark_us: Option<i64>,
    description: Description<Epoch>,
    times: Vec<(Epoch, isize)>,
    chunk: InnerUpdates,
    builder: InnerBuilder,
}

/// Updates handed to the builder at a time.
const CHUNK_UPDATES: usize = 1024;

impl Merger<ExpiringBatch> for ExpiringMerger {
    fn new(left: &ExpiringBatch, right: &ExpiringBatch, frontier: AntichainRef<'_, Epoch>) -> Self {
        let since = left.description().since().join(right.description().since());
        let since = since.join(&frontier.to_owned());
        let description =
            Description::new(left.lower().clone(), right.upper().clone(), since.clone());
        Self {
            left: left.0.cursor(),
            right: right.0.cursor(),
            watermark_us: watermark_before(since.borrow()),
            since,
            description,
            times: Vec::new(),
            chunk: Vec::new(),
            // It grows: most keys may have expired.
            builder: InnerBuilder::with_capacity(0, 0, 0),
        }
    }

    fn work(&mut self, left: &ExpiringBatch, right: &ExpiringBatch, fuel: &mut isize) {
        while *fuel > 0 {
            let (takes_left, takes_right, key) =
                match (self.left.get_key(&left.0), self.right.get_key(&right.0)) {
                    (None, None) => break,
                    (Some(key), None) => (true, false, key),
                    (None, Some(key)) => (false, true, key),
                    (Some(a), Some(b)) => (a <= b, b <= a, a.min(b)),
                };
            *fuel -= 1;
            if self.watermark_us.is_none_or(|watermark_us| key.expires_us > watermark_us) {
                let sources =
                    [(takes_left, &mut self.left, left), (takes_right, &mut self.right, right)];
                *fuel -= merge_vals(key, sources, &self.since, &mut self.times, &mut self.chunk);
            }
            if takes_left {
                self.left.step_key(&left.0);
            }
            if takes_right {
                self.right.step_key(&right.0);
            }
            if self.chunk.len() >= CHUNK_UPDATES {
                self.builder.push(&mut self.chunk);
                self.chunk.clear();
            }
        }
    }

    fn done(mut self) -> ExpiringBatch {
        if !self.chunk.is_empty() {
            self.builder.push(&mut self.chunk);
        }
        ExpiringBatch(self.builder.done(self.description))
    }
}

/// Merges the values of one key; how many updates that took.
fn merge_vals(
    key: &ExpiringKey,
    [(takes_left, left_cursor, left), (takes_right, right_cursor, right)]: [(bool, &mut InnerCursor, &ExpiringBatch);
        2],
    since: &Antichain<Epoch>,
    times: &mut Vec<(Epoch, isize)>,
    chunk: &mut InnerUpdates,
) -> isize {
    let mut work = 0;
    loop {
        let a = if takes_left { left_cursor.get_val(&left.0) } else { None };
        let b = if takes_right { right_cursor.get_val(&right.0) } else { None };
        let (from_left, from_right, val) = match (a, b) {
            (None, None) => return work,
            (Some(val), None) => (true, false, val),
            (None, Some(val)) => (false, true, val),
            (Some(a), Some(b)) => (a <= b, b <= a, a.min(b)),
        };
        let mut load = |time: &Epoch, diff: &isize| {
            let mut time = *time;
            time.advance_by(since.borrow());
            times.push((time, *diff));
        };
        if from_left {
            left_cursor.map_times(&left.0, &mut load);
        }
        if from_right {
            right_cursor.map_times(&right.0, &mut load);
        }
        work += times.len() as isize;
        consolidate(times);
        for (time, diff) in times.drain(..) {
            chunk.push(((key.clone(), val.clone()), time, diff));
        }
        if from_left {
            left_cursor.step_val(&left.0);
        }
        if from_right {
            right_cursor.step_val(&right.0);
        }
    }
}

impl Navigable for ExpiringBatch {
    type Cursor = ExpiringCursor;
    fn cursor(&self) -> Self::Cursor {
        ExpiringCursor(self.0.cursor())
    }
}

/// The inner cursor; only the storage that it names differs.
pub(crate) struct ExpiringCursor(InnerCursor);

impl Cursor for ExpiringCursor {
    type Storage = ExpiringBatch;
    type Key<'a> = <InnerCursor as Cursor>::Key<'a>;
    type ValOwn = <InnerCursor as Cursor>::ValOwn;
    type Val<'a> = <InnerCursor as Cursor>::Val<'a>;
    type Time = Epoch;
    type TimeGat<'a> = <InnerCursor as Cursor>::TimeGat<'a>;
    type Diff = isize;
    type DiffGat<'a> = <InnerCursor as Cursor>::DiffGat<'a>;
    type KeyContainer = <InnerCursor as Cursor>::KeyContainer;
    type ValContainer = <InnerCursor as Cursor>::ValContainer;
    type TimeContainer = <InnerCursor as Cursor>::TimeContainer;
    type DiffContainer = <InnerCursor as Cursor>::DiffContainer;
    fn key_valid(&self, storage: &Self::Storage) -> bool {
        self.0.key_valid(&storage.0)
    }
    fn val_valid(&self, storage: &Self::Storage) -> bool {
        self.0.val_valid(&storage.0)
    }
    fn key<'a>(&self, storage: &'a Self::Storage) -> Self::Key<'a> {
        self.0.key(&storage.0)
    }
    fn val<'a>(&self, storage: &'a Self::Storage) -> Self::Val<'a> {
        self.0.val(&storage.0)
    }
    fn get_key<'a>(&self, storage: &'a Self::Storage) -> Option<Self::Key<'a>> {
        self.0.get_key(&storage.0)
    }
    fn get_val<'a>(&self, storage: &'a Self::Storage) -> Option<Self::Val<'a>> {
        self.0.get_val(&storage.0)
    }
    fn map_times<L: FnMut(Self::TimeGat<'_>, Self::DiffGat<'_>)>(
        &mut self,
        storage: &Self::Storage,
        logic: L,
    ) {
        self.0.map_times(&storage.0, logic);
    }
    fn step_key(&mut self, storage: &Self::Storage) {
        self.0.step_key(&storage.0);
    }
    fn seek_key(&mut self, storage: &Self::Storage, key: Self::Key<'_>) {
        self.0.seek_key(&storage.0, key);
    }
    fn step_val(&mut self, storage: &Self::Storage) {
        self.0.step_val(&storage.0);
    }
    fn seek_val(&mut self, storage: &Self::Storage, val: Self::Val<'_>) {
        self.0.seek_val(&storage.0, val);
    }
    fn rewind_keys(&mut self, storage: &Self::Storage) {
        self.0.rewind_keys(&storage.0);
    }
    fn rewind_vals(&mut self, storage: &Self::Storage) {
        self.0.rewind_vals(&storage.0);
    }
}
