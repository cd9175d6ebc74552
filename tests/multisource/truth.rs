//! What must come out of two logs and the decisions about them, computed from SPEC 3 and 4 alone.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::stage::{Event, Side, instant};
use crate::support::rows::Row;

/// How late an event may be, in seconds.
pub(super) const LATENESS: i64 = 10;

/// How long after a left event a right one is its partner, in seconds.
const WITHIN: i64 = 30;

/// Behind the first so many messages of a source no event before a time takes part.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Decision {
    pub(super) side: Side,
    pub(super) after: usize,
    pub(super) watermark_us: i64,
}

/// What was found, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) late: usize,
    /// Of these the ones that only a decision makes late.
    pub(super) late_of_silence: usize,
    pub(super) decisions: usize,
    pub(super) pairs: usize,
    pub(super) unmatched: usize,
}

/// By table: its rows.
pub(super) type Tables = BTreeMap<&'static str, Vec<Row>>;

/// The tables of a finished pipeline.
pub(super) fn tables(logs: &[(Side, &[Event])], decisions: &[Decision]) -> (Tables, Counts) {
    let mut counts = Counts { decisions: decisions.len(), ..Counts::default() };
    let mut tables = Tables::new();
    let mut accepted: BTreeMap<Side, Vec<(usize, Event)>> = BTreeMap::new();
    for (side, log) in logs {
        let mut largest: Option<i64> = None;
        for (index, event) in log.iter().enumerate() {
            let is_late = largest.is_some_and(|largest| event.second < largest - LATENESS);
            let of_silence = decisions.iter().any(|decision| {
                decision.side == *side
                    && decision.after <= index
                    && instant(event.second) * 1_000_000 < decision.watermark_us
            });
            let sequence = index + 1;
            let row = json!({"sequence": sequence, "late": is_late || of_silence});
            tables.entry(side.name()).or_default().extend(row.as_object().cloned());
            if is_late || of_silence {
                counts.late += 1;
                counts.late_of_silence += usize::from(!is_late);
                let row = json!({"source": side.name(), "sequence": sequence, "reason": "late"});
                tables.entry("dead_letter").or_default().extend(row.as_object().cloned());
            } else {
                largest = largest.max(Some(event.second));
                accepted.entry(*side).or_default().push((sequence, event.clone()));
            }
        }
    }
    let mut windows: BTreeMap<(i64, &str), (u64, i64)> = BTreeMap::new();
    for (side, (_, event)) in
        accepted.iter().flat_map(|(side, all)| all.iter().map(move |it| (side, it)))
    {
        let window = windows.entry((event.second.div_euclid(60), side.name())).or_default();
        *window = (window.0 + 1, window.1 + event.amount);
    }
    let row = |((minute, side), (n, total)): (&(i64, &str), &(u64, i64))| json!({"minute": minute, "side": side, "n": n, "total": *total as f64});
    let rows = windows.iter().map(row).filter_map(|row| row.as_object().cloned());
    tables.insert("counts", rows.collect());
    let mut pairs = Vec::new();
    let none = Vec::new();
    let left = accepted.get(&Side::Left).unwrap_or(&none);
    let right = accepted.get(&Side::Right).unwrap_or(&none);
    let is_pair = |left: &Event, right: &Event| {
        left.order == right.order && (0..=WITHIN).contains(&(right.second - left.second))
    };
    for (sequence, event) in left {
        let partners: Vec<usize> =
            right.iter().filter(|(_, other)| is_pair(event, other)).map(|it| it.0).collect();
        counts.unmatched += usize::from(partners.is_empty());
        counts.pairs += partners.len();
        let key = Value::String(format!("LEFT:{sequence}"));
        if partners.is_empty() {
            pairs.push(json!({"left_key": key, "right_key": null}));
        }
        for partner in partners {
            pairs.push(json!({"left_key": key, "right_key": format!("RIGHT:{partner}")}));
        }
    }
    for (sequence, event) in right {
        if !left.iter().any(|(_, other)| is_pair(other, event)) {
            counts.unmatched += 1;
            pairs.push(json!({"left_key": null, "right_key": format!("RIGHT:{sequence}")}));
        }
    }
    tables.insert("pairs", pairs.into_iter().filter_map(|row| row.as_object().cloned()).collect());
    tables.entry("dead_letter").or_default();
    (tables, counts)
}
