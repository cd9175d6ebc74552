//! The rows of one side under one key, in order of time: what may match lies together, so that a
//! probe looks at no other row, however many the key has.

use std::collections::BTreeMap;

use smallvec::SmallVec;
use waterwheel_config::value::Row;

/// Up to this many rows a sorted list beats a tree, and takes a fraction of the space. Most keys of
/// a join have a handful. Tests have few rows, and want both.
const FEW_MAX: usize = if cfg!(test) { 4 } else { 32 };

/// How often a row is there, and what is known of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// How often it came, less how often it was taken back.
    pub(super) times: i64,
    /// How many partners it has, each as often as it is there.
    pub(super) partners: i64,
    /// True if it changed since it was last saved.
    pub(super) is_unsaved: bool,
    /// True if a checkpoint holds it.
    pub(super) is_saved: bool,
}

/// What becomes of a row that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Changed {
    /// It was not there before.
    Added,
    /// It is there more or less often.
    Kept,
    /// It is there no more.
    Removed {
        /// The row, if a checkpoint holds it.
        saved: Option<Row>,
    },
}

/// The time of a row, the row, and what is known of it.
pub(super) type TimedRow = (i64, Row, Counts);

/// Rows by time, those of one time by their content.
#[derive(Debug)]
pub(super) enum TimedRows {
    /// Most keys have one row of each side, which lies with the key.
    Few(SmallVec<[TimedRow; 1]>),
    Many(BTreeMap<(i64, Row), Counts>),
}

impl Default for TimedRows {
    fn default() -> Self {
        Self::Few(SmallVec::new())
    }
}

impl TimedRows {
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Few(rows) => rows.is_empty(),
            Self::Many(rows) => rows.is_empty(),
        }
    }

    /// The time of the first row.
    pub(super) fn first_us(&self) -> Option<i64> {
        match self {
            Self::Few(rows) => rows.first().map(|(time_us, _, _)| *time_us),
            Self::Many(rows) => rows.first_key_value().map(|((time_us, _), _)| *time_us),
        }
    }

    /// Adds `times` to a row; a new one gets these partners.
    pub(super) fn change(&mut self, time_us: i64, row: Row, times: i64, partners: i64) -> Changed {
        let added = Counts { times, partners, is_unsaved: true, is_saved: false };
        match self {
            Self::Few(rows) => {
                // In order, most rows come last.
                let is_last =
                    rows.last().is_none_or(|(last_us, last, _)| (*last_us, last) < (time_us, &row));
                let at = match is_last {
                    true => Err(rows.len()),
                    false => rows.binary_search_by(|(other_us, other, _)| {
                        (*other_us, other).cmp(&(time_us, &row))
                    }),
                };
                match at {
                    Ok(at) => {
                        rows[at].2.change(times);
                        if rows[at].2.times != 0 {
                            return Changed::Kept;
                        }
                        let (_, row, counts) = rows.remove(at);
                        Changed::Removed { saved: counts.is_saved.then_some(row) }
                    }
                    Err(at) if rows.len() < FEW_MAX => {
                        rows.insert(at, (time_us, row, added));
                        Changed::Added
                    }
                    Err(_) => {
                        let few = std::mem::take(rows).into_iter();
                        let many = few.map(|(time_us, row, counts)| ((time_us, row), counts));
                        *self = Self::Many(many.collect());
                        self.change(time_us, row, times, partners)
                    }
                }
            }
            Self::Many(rows) => {
                let key = (time_us, row);
                let Some(counts) = rows.get_mut(&key) else {
                    rows.insert(key, added);
                    return Changed::Added;
                };
                counts.change(times);
                let Counts { times, is_saved, .. } = *counts;
                if times != 0 {
                    return Changed::Kept;
                }
                rows.remove(&key);
                Changed::Removed { saved: is_saved.then_some(key.1) }
            }
        }
    }

    /// Visits the rows from one time through another. `none` is a row without values.
    pub(super) fn visit_between(
        &mut self,
        (from_us, through_us): (i64, i64),
        none: &Row,
        mut visit: impl FnMut(&Row, &mut Counts),
    ) {
        match self {
            Self::Few(rows) => {
                let from = rows.partition_point(|(time_us, _, _)| *time_us < from_us);
                let near = rows[from..].iter_mut();
                for (_, row, counts) in near.take_while(|(time_us, _, _)| *time_us <= through_us) {
                    visit(row, counts);
                }
            }
            Self::Many(rows) => {
                // A row without values is the least of its time.
                for ((time_us, row), counts) in rows.range_mut((from_us, none.clone())..) {
                    if *time_us > through_us {
                        break;
                    }
                    visit(row, counts);
                }
            }
        }
    }

    /// Takes out the rows before a time.
    pub(super) fn expire(&mut self, before_us: i64, mut expired: impl FnMut(Row, Counts)) {
        match self {
            Self::Few(rows) => {
                let count = rows.partition_point(|(time_us, _, _)| *time_us < before_us);
                rows.drain(..count).for_each(|(_, row, counts)| expired(row, counts));
            }
            Self::Many(rows) => {
                while let Some(first) = rows.first_entry()
                    && first.key().0 < before_us
                {
                    let ((_, row), counts) = first.remove_entry();
                    expired(row, counts);
                }
            }
        }
    }

    /// Visits all rows.
    pub(super) fn visit(&mut self, mut visit: impl FnMut(&Row, &mut Counts)) {
        match self {
            Self::Few(rows) => rows.iter_mut().for_each(|(_, row, counts)| visit(row, counts)),
            Self::Many(rows) => rows.iter_mut().for_each(|((_, row), counts)| visit(row, counts)),
        }
    }

    /// Sets a row to what was saved of it; zero times is none.
    pub(super) fn set(&mut self, time_us: i64, row: Row, counts: Counts) {
        let mut rows = match std::mem::take(self) {
            Self::Few(rows) => {
                rows.into_iter().map(|(time_us, row, counts)| ((time_us, row), counts)).collect()
            }
            Self::Many(rows) => rows,
        };
        match counts.times {
            0 => drop(rows.remove(&(time_us, row))),
            _ => drop(rows.insert((time_us, row), counts)),
        }
        *self = match rows.len() {
            0..=FEW_MAX => {
                Self::Few(rows.into_iter().map(|((time_us, row), c)| (time_us, row, c)).collect())
            }
            _ => Self::Many(rows),
        };
    }
}

impl Counts {
    fn change(&mut self, times: i64) {
        self.times += times;
        self.is_unsaved = true;
    }
}
