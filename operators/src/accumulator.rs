//! What a measure keeps of the events of a group: mergeable in any order, and subtractable where
//! the input may take events back.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::BuildHasherDefault;

use serde::{Deserialize, Serialize};
use waterwheel_config::expr::{Number, Val};
use waterwheel_config::value::{ColumnType, Value};

use crate::exact_sum::ExactSum;
use crate::key;
use crate::sketch::Sketch;

/// Which accumulator a measure needs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum AccumulatorKind {
    /// Rows, or values that are not NULL.
    Count,
    /// Exact sum and count of numbers.
    Sum,
    /// The least or greatest value of a type.
    Extreme { greatest: bool, kind: ColumnType },
    /// The number of different values.
    Distinct,
    /// Quantiles.
    Sketch,
    /// How often a condition is true, and how often it is known.
    Share,
}

/// Already hashed values need no second hash.
#[derive(Default)]
pub(crate) struct IdentityHasher(u64);

impl std::hash::Hasher for IdentityHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }
}

/// Builds hashers for identities.
pub(crate) type Identities = BuildHasherDefault<IdentityHasher>;

/// The state of one measure in one group.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Accumulator {
    Count(i64),
    Sum {
        sum: ExactSum,
        count: i64,
    },
    Extreme {
        greatest: bool,
        kind: ColumnType,
        value: Option<Value>,
    },
    /// Every value with its count: what is left when the extreme one is taken back.
    ExtremeCounted {
        greatest: bool,
        kind: ColumnType,
        values: BTreeMap<Value, i64>,
    },
    /// A handful of identities; most groups never have more.
    DistinctFew(Vec<u128>),
    Distinct(HashSet<u128, Identities>),
    DistinctCounted(HashMap<u128, i64, Identities>),
    Sketch(Sketch),
    Share {
        yes: i64,
        known: i64,
    },
}

/// Up to this many identities a linear search beats a hash set, and takes a third of the space.
const FEW_MAX: usize = 16;

impl Accumulator {
    /// An empty accumulator; `retracting` where events may be taken back.
    pub(crate) fn new(kind: &AccumulatorKind, retracting: bool) -> Self {
        match kind {
            AccumulatorKind::Count => Self::Count(0),
            AccumulatorKind::Sum => Self::Sum { sum: ExactSum::default(), count: 0 },
            AccumulatorKind::Extreme { greatest, kind } if retracting => {
                Self::ExtremeCounted { greatest: *greatest, kind: *kind, values: BTreeMap::new() }
            }
            AccumulatorKind::Extreme { greatest, kind } => {
                Self::Extreme { greatest: *greatest, kind: *kind, value: None }
            }
            AccumulatorKind::Distinct if retracting => Self::DistinctCounted(HashMap::default()),
            AccumulatorKind::Distinct => Self::DistinctFew(Vec::new()),
            AccumulatorKind::Sketch => Self::Sketch(Sketch::default()),
            AccumulatorKind::Share => Self::Share { yes: 0, known: 0 },
        }
    }

    /// Counts a value `times` times; negative to take it back. NULL is ignored, as in SQL.
    #[inline]
    pub(crate) fn add(&mut self, value: &Val<'_>, times: isize) {
        let count = times as i64;
        match self {
            Self::Count(total) => {
                if !value.is_null() {
                    *total += count;
                }
            }
            Self::Sum { sum, count: total } => {
                if let Some(number) = value.number() {
                    sum.add(number, times);
                    *total += count;
                }
            }
            Self::Extreme { greatest, kind: ColumnType::Double, value: kept } => {
                if let Some(number) = value.number().map(Number::to_f64) {
                    keep_extreme(kept, Value::double(number), *greatest);
                }
            }
            Self::Extreme { greatest, kind, value: kept } => {
                keep_extreme(kept, value.to_value(*kind), *greatest);
            }
            Self::ExtremeCounted { kind, values, .. } => {
                let value = value.to_value(*kind);
                if !value.is_null() {
                    add_count(values, value, count);
                }
            }
            Self::DistinctFew(_) | Self::Distinct(_) => {
                if let Some(identity) = key::identity(value) {
                    self.insert(identity);
                }
            }
            Self::DistinctCounted(counts) => {
                if let Some(identity) = key::identity(value) {
                    let total = counts.entry(identity).or_default();
                    *total += count;
                    if *total == 0 {
                        counts.remove(&identity);
                    }
                }
            }
            Self::Sketch(sketch) => {
                if let Some(number) = value.number() {
                    sketch.add(number.to_f64(), count);
                }
            }
            Self::Share { yes, known } => {
                if let Some(flag) = value.truth() {
                    *known += count;
                    *yes += if flag { count } else { 0 };
                }
            }
        }
    }

    /// Adds what another accumulator of the same kind has counted.
    pub(crate) fn merge(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::Count(a), Self::Count(b)) => *a += b,
            (Self::Sum { sum, count }, Self::Sum { sum: b, count: m }) => {
                sum.merge(&b);
                *count += m;
            }
            (Self::Extreme { greatest, value, .. }, Self::Extreme { value: Some(other), .. }) => {
                keep_extreme(value, other, *greatest);
            }
            (Self::ExtremeCounted { values, .. }, Self::ExtremeCounted { values: others, .. }) => {
                for (value, count) in others {
                    add_count(values, value, count);
                }
            }
            (Self::DistinctFew(_) | Self::Distinct(_), Self::DistinctFew(others)) => {
                for identity in others {
                    self.insert(identity);
                }
            }
            (Self::Distinct(mine), Self::Distinct(others)) => mine.extend(others),
            (Self::DistinctFew(mine), Self::Distinct(mut others)) => {
                others.extend(mine.drain(..));
                *self = Self::Distinct(others);
            }
            (Self::DistinctCounted(mine), Self::DistinctCounted(others)) => {
                for (identity, count) in others {
                    let total = mine.entry(identity).or_default();
                    *total += count;
                    if *total == 0 {
                        mine.remove(&identity);
                    }
                }
            }
            (Self::Sketch(a), Self::Sketch(b)) => a.merge(&b),
            (Self::Share { yes, known }, Self::Share { yes: y, known: k }) => {
                *yes += y;
                *known += k;
            }
            // Accumulators of one place in the plan are of one kind.
            _ => {}
        }
    }

    /// About how many bytes it takes beside itself.
    pub(crate) fn size_bytes(&self) -> usize {
        match self {
            Self::DistinctFew(few) => few.capacity() * 16,
            Self::Distinct(set) => set.capacity() * 18,
            Self::DistinctCounted(map) => map.capacity() * 34,
            Self::ExtremeCounted { values, .. } => values.len() * 48,
            Self::Sketch(sketch) => sketch.size_bytes(),
            Self::Sum { sum: ExactSum::Wide(_), .. } => 560,
            _ => 0,
        }
    }

    fn insert(&mut self, identity: u128) {
        match self {
            Self::DistinctFew(few) => {
                if few.contains(&identity) {
                    return;
                }
                if few.len() < FEW_MAX {
                    few.push(identity);
                    return;
                }
                let mut set: HashSet<u128, Identities> = few.drain(..).collect();
                set.insert(identity);
                *self = Self::Distinct(set);
            }
            Self::Distinct(set) => {
                set.insert(identity);
            }
            _ => {}
        }
    }
}

fn keep_extreme(kept: &mut Option<Value>, value: Value, greatest: bool) {
    if value.is_null() {
        return;
    }
    let better = match kept {
        None => true,
        Some(kept) if greatest => value > *kept,
        Some(kept) => value < *kept,
    };
    if better {
        *kept = Some(value);
    }
}

fn add_count(values: &mut BTreeMap<Value, i64>, value: Value, count: i64) {
    let total = values.entry(value.clone()).or_default();
    *total += count;
    if *total == 0 {
        values.remove(&value);
    }
}
