//! What a measure keeps of the events of a group: mergeable in any order, and subtractable where
//! the input may take events back.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::BuildHasherDefault;

use serde::{Deserialize, Serialize};
use waterwheel_config::expr::{Number, Val};
use waterwheel_config::value::{ColumnType, Value};

use crate::exact_sum::ExactSum;
use crate::key;
use crate::moments::Moments;
use crate::registers::Registers;
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
    /// The first or last value of a type.
    Edge { last: bool, kind: ColumnType },
    /// The standard deviation.
    Moments,
    /// About how many different values there are.
    Registers,
    /// How often each value came.
    Breakdown,
    /// The time of the first and the last event.
    Span,
}

/// Where an item stands in the order of events: time, source, place in its source's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Place {
    /// Event time.
    pub(crate) time_us: i64,
    /// Sources go by their names; rows of operators come after all events.
    pub(crate) source: u16,
    /// Rows have no log: a hash of their key orders them the same in every run.
    pub(crate) sequence: u128,
}

/// The source of rows of operators.
pub(crate) const ROWS: u16 = u16::MAX;

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
    Edge {
        last: bool,
        kind: ColumnType,
        value: Option<Box<(Place, Value)>>,
    },
    /// Every value in order, with its count.
    EdgeCounted {
        last: bool,
        kind: ColumnType,
        values: BTreeMap<(Place, Value), i64>,
    },
    // Boxed like the edges: what most groups have decides the size of all.
    Moments(Box<Moments>),
    Registers(Registers),
    Breakdown(BTreeMap<Box<str>, i64>),
    Span(Option<(i64, i64)>),
    /// Every time with its count.
    SpanCounted(BTreeMap<i64, i64>),
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
            AccumulatorKind::Edge { last, kind } if retracting => {
                Self::EdgeCounted { last: *last, kind: *kind, values: BTreeMap::new() }
            }
            AccumulatorKind::Edge { last, kind } => {
                Self::Edge { last: *last, kind: *kind, value: None }
            }
            AccumulatorKind::Moments => Self::Moments(Box::default()),
            AccumulatorKind::Registers => Self::Registers(Registers::default()),
            AccumulatorKind::Breakdown => Self::Breakdown(BTreeMap::new()),
            AccumulatorKind::Span if retracting => Self::SpanCounted(BTreeMap::new()),
            AccumulatorKind::Span => Self::Span(None),
        }
    }

    /// Counts a value `times` times; negative to take it back. NULL is ignored, as in SQL.
    #[inline]
    pub(crate) fn add(&mut self, value: &Val<'_>, times: isize, place: &Place) {
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
            Self::Edge { last, kind, value: kept } => {
                // Only what would be kept is worth a copy.
                let may_be_kept = match kept {
                    None => true,
                    Some(kept) if *last => *place >= kept.0,
                    Some(kept) => *place <= kept.0,
                };
                if may_be_kept {
                    let value = value.to_value(*kind);
                    if !value.is_null() {
                        keep_edge(kept, (*place, value), *last);
                    }
                }
            }
            Self::EdgeCounted { kind, values, .. } => {
                let value = value.to_value(*kind);
                if !value.is_null() {
                    add_count(values, (*place, value), count);
                }
            }
            Self::Moments(moments) => {
                if let Some(number) = value.number() {
                    moments.add(number, times);
                }
            }
            Self::Registers(registers) => {
                if let Some(identity) = key::identity(value) {
                    registers.insert(identity as u64);
                }
            }
            Self::Breakdown(counts) => {
                if let Some(text) = value.canonical_text() {
                    match counts.get_mut(text.as_ref()) {
                        Some(total) if *total + count != 0 => *total += count,
                        _ => add_count(counts, text.into(), count),
                    }
                }
            }
            Self::Span(span) => widen(span, (place.time_us, place.time_us)),
            Self::SpanCounted(times) => add_count(times, place.time_us, count),
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
                add_counts(values, others);
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
            (Self::Edge { last, value, .. }, Self::Edge { value: Some(other), .. }) => {
                keep_edge(value, *other, *last);
            }
            (Self::EdgeCounted { values, .. }, Self::EdgeCounted { values: others, .. }) => {
                add_counts(values, others);
            }
            (Self::Moments(a), Self::Moments(b)) => a.merge(&b),
            (Self::Registers(a), Self::Registers(b)) => a.merge(b),
            (Self::Breakdown(a), Self::Breakdown(b)) => add_counts(a, b),
            (Self::Span(a), Self::Span(Some(b))) => widen(a, b),
            (Self::SpanCounted(a), Self::SpanCounted(b)) => add_counts(a, b),
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
            Self::Sum { sum, .. } => sum.size_bytes(),
            Self::Edge { value, .. } => value.as_ref().map_or(0, |_| size_of::<(Place, Value)>()),
            Self::EdgeCounted { values, .. } => values.len() * 80,
            Self::Moments(moments) => size_of::<Moments>() + moments.size_bytes(),
            Self::Registers(registers) => registers.size_bytes(),
            Self::Breakdown(counts) => counts.keys().map(|text| text.len() + 40).sum(),
            Self::SpanCounted(times) => times.len() * 16,
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

fn keep_edge(kept: &mut Option<Box<(Place, Value)>>, other: (Place, Value), last: bool) {
    match kept {
        None => *kept = Some(Box::new(other)),
        Some(kept) if (last && other > **kept) || (!last && other < **kept) => **kept = other,
        Some(_) => {}
    }
}

fn widen(span: &mut Option<(i64, i64)>, (first, last): (i64, i64)) {
    let (begin, end) = span.unwrap_or((first, last));
    *span = Some((begin.min(first), end.max(last)));
}

fn add_count<T: Ord>(counts: &mut BTreeMap<T, i64>, value: T, count: i64) {
    match counts.entry(value) {
        Entry::Vacant(entry) => drop(entry.insert(count)),
        Entry::Occupied(mut entry) => {
            *entry.get_mut() += count;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

fn add_counts<T: Ord>(counts: &mut BTreeMap<T, i64>, others: BTreeMap<T, i64>) {
    for (value, count) in others {
        add_count(counts, value, count);
    }
}
