//! Positions: how far a source has been read, and enough to notice that it is no longer the same.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A place between two messages of a source's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The name of the stream or the path of the file.
    pub stream: String,
    /// Tells two logs of one name apart: a stream's time of creation in nanoseconds, zero for files.
    pub created: i64,
    /// The ordinal of the last message before the place: a stream's sequence, a count of lines;
    /// zero is the beginning.
    pub ordinal: u64,
    /// A hash of the last message before the place (see [`fingerprint`]); zero at the beginning or
    /// where it was never read.
    pub fingerprint: u64,
    /// What is gone from the log before the place without having been read, as somebody accepted:
    /// in order, apart from each other. Kept for good, so that it need not be accepted again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Gap>,
    /// How many messages were read from the origin up to the place: one that is deleted after it was
    /// read would not be counted in a replay. Sources leave it at zero, which is not compared.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub messages: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A range of ordinals that were never read, both ends included. As text: `101..110`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Gap {
    /// The first one.
    pub from: u64,
    /// The last one.
    pub to: u64,
}

impl Gap {
    /// How many they are.
    pub fn count(self) -> u64 {
        (self.to - self.from).saturating_add(1)
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}..{}", self.from, self.to)
    }
}

impl FromStr for Gap {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let ends = text.split_once("..").and_then(|(from, to)| {
            Some(Self { from: from.trim().parse().ok()?, to: to.trim().parse().ok()? })
        });
        match ends {
            Some(gap) if gap.from >= 1 && gap.from <= gap.to => Ok(gap),
            _ => Err(format!(
                "`{text}` is no range of sequences: write the first and the last, as in 101..110"
            )),
        }
    }
}

/// Gaps in order, and with what touches made one.
pub fn join_gaps(gaps: impl IntoIterator<Item = Gap>) -> Vec<Gap> {
    let mut sorted: Vec<Gap> = gaps.into_iter().collect();
    sorted.sort_unstable();
    let mut joined: Vec<Gap> = Vec::with_capacity(sorted.len());
    for gap in sorted {
        match joined.last_mut() {
            Some(last) if gap.from <= last.to.saturating_add(1) => last.to = last.to.max(gap.to),
            _ => joined.push(gap),
        }
    }
    joined
}

/// What of a range lies in none of the gaps, in order.
pub fn outside_gaps(range: Gap, gaps: &[Gap]) -> Vec<Gap> {
    let mut outside = Vec::new();
    let mut from = range.from;
    for gap in join_gaps(gaps.iter().copied()) {
        if gap.from > from && from <= range.to {
            outside.push(Gap { from, to: range.to.min(gap.from - 1) });
        }
        from = from.max(gap.to.saturating_add(1));
    }
    if from <= range.to {
        outside.push(Gap { from, to: range.to });
    }
    outside
}

/// Gives the positions from which sources are read again the gaps that later positions recorded:
/// what was accepted once is accepted for good, also where reading begins before it.
pub fn carry_gaps<'p>(
    positions: &mut Positions,
    recorded: impl IntoIterator<Item = &'p Positions>,
) {
    for (source, later) in recorded.into_iter().flatten() {
        if let Some(position) = positions.get_mut(source)
            && position.created == later.created
        {
            let all = position.gaps.iter().chain(&later.gaps).copied();
            position.gaps = join_gaps(all);
        }
    }
}

/// One position per source, by the source's name.
pub type Positions = BTreeMap<String, Position>;

/// The hash of a message that a position keeps: its broker's timestamp and its payload.
pub fn fingerprint(received_at_us: Option<i64>, payload: &[u8]) -> u64 {
    let seed = received_at_us.unwrap_or(0).cast_unsigned();
    // Zero is taken: it says that there is no message.
    xxhash_rust::xxh3::xxh3_64_with_seed(payload, seed).max(1)
}

/// A position of a log called `s`, for tests to which nothing else matters.
#[cfg(test)]
pub(crate) fn position_at(ordinal: u64) -> Position {
    Position {
        stream: "s".to_owned(),
        created: 0,
        ordinal,
        fingerprint: 0,
        gaps: Vec::new(),
        messages: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps(text: &str) -> Vec<Gap> {
        text.split_whitespace().map(|gap| gap.parse().unwrap()).collect()
    }

    #[test]
    fn gaps_are_read_and_written() {
        let gap: Gap = "101..110".parse().unwrap();
        assert_eq!((gap, gap.count()), (Gap { from: 101, to: 110 }, 10));
        assert_eq!(gap.to_string(), "101..110");
        for wrong in ["", "1", "1..", "..2", "5..4", "0..3", "1...3", "a..b", "-1..2"] {
            assert!(wrong.parse::<Gap>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn gaps_join_and_are_taken_from_a_range() {
        assert_eq!(join_gaps(gaps("7..9 1..3 4..5 8..12 20..20")), gaps("1..5 7..12 20..20"));
        for (range, known, outside) in [
            ("1..10", "", "1..10"),
            ("1..10", "1..10", ""),
            ("1..10", "1..4", "5..10"),
            ("5..10", "1..4 20..30", "5..10"),
            ("1..10", "3..4 8..20", "1..2 5..7"),
            ("5..10", "1..7", "8..10"),
        ] {
            let found = outside_gaps(range.parse().unwrap(), &gaps(known));
            assert_eq!(found, gaps(outside), "{range} without {known}");
        }
    }

    #[test]
    fn what_was_accepted_once_is_known_at_the_beginning() {
        let position = |created, ordinal, known: &str| Position {
            stream: "S".to_owned(),
            created,
            ordinal,
            fingerprint: 0,
            gaps: gaps(known),
            messages: 0,
        };
        let at = |position| Positions::from([("events".to_owned(), position)]);
        let mut origin = at(position(7, 0, ""));
        let recorded = [at(position(7, 40, "1..5")), at(position(7, 90, "6..9 50..60"))];
        carry_gaps(&mut origin, recorded.iter().chain([&at(position(8, 99, "80..90"))]));
        assert_eq!(origin["events"].gaps, gaps("1..9 50..60"));
    }

    #[test]
    fn positions_without_gaps_are_stored_as_before() {
        let text = r#"{"stream":"S","created":7,"ordinal":3,"fingerprint":9}"#;
        let position: Position = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&position).unwrap(), text);
        let gap = Position { gaps: gaps("1..2"), ..position };
        let again: Position = serde_json::from_str(&serde_json::to_string(&gap).unwrap()).unwrap();
        assert_eq!(again, gap);
    }
}
