//! What gives an operator's rows their meaning, in words that are the same however it is written.

use std::fmt::Display;

use chrono_tz::Tz;
use waterwheel_config::calendar::Period;
use waterwheel_config::expr;

/// Collects the settings of an operator, each resolved: a default that is written out reads like one
/// that is not.
#[derive(Debug, Default)]
pub(crate) struct Meaning {
    text: String,
    /// True once something goes by the timezone.
    has_local_time: bool,
}

impl Meaning {
    /// Adds a setting.
    pub(crate) fn add(&mut self, key: &str, value: impl Display) {
        // Quoted, so that no value can read like two settings.
        self.text.push_str(&format!("{key} {:?}\n", value.to_string()));
    }

    /// Adds an expression: the spaces between its words mean nothing.
    pub(crate) fn expression(&mut self, key: &str, written: &str) {
        let plain = expr::parse(written).map_or_else(|_| written.to_owned(), |ast| ast.to_string());
        let lowered = plain.to_lowercase();
        self.has_local_time |= ["date_trunc", "extract"].iter().any(|word| lowered.contains(word));
        self.add(key, plain);
    }

    /// Adds a window; one that hops is written `size/every`.
    pub(crate) fn period(&mut self, key: &str, written: &str) {
        let is_fixed = |part| matches!(Period::parse(part, Tz::UTC), Ok(Period::Fixed(_)));
        self.has_local_time |= !written.split('/').all(is_fixed);
        self.add(key, written);
    }

    /// All of it; the timezone only where something goes by it.
    pub(crate) fn finish(mut self, zone: Tz) -> String {
        if self.has_local_time {
            self.add("timezone", zone);
        }
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timezone_counts_where_something_goes_by_it() {
        let with = |fill: fn(&mut Meaning), zone: Tz| {
            let mut meaning = Meaning::default();
            fill(&mut meaning);
            meaning.finish(zone)
        };
        let local: [fn(&mut Meaning); 3] = [
            |meaning| meaning.period("window", "1d"),
            |meaning| meaning.expression("where", "EXTRACT(hour from timestamp) > 8"),
            |meaning| meaning.expression("by", "date_trunc('day', timestamp)"),
        ];
        for fill in local {
            assert_ne!(with(fill, Tz::UTC), with(fill, Tz::Europe__Berlin));
        }
        let elsewhere: [fn(&mut Meaning); 2] = [
            |meaning| meaning.period("window", "24h"),
            |meaning| meaning.expression("where", "a = 1"),
        ];
        for fill in elsewhere {
            assert_eq!(with(fill, Tz::UTC), with(fill, Tz::Europe__Berlin));
        }
    }

    #[test]
    fn spaces_count_in_texts_alone() {
        let of = |written: &str| {
            let mut meaning = Meaning::default();
            meaning.expression("where", written);
            meaning.finish(Tz::UTC)
        };
        assert_eq!(of("a='x' and  b"), of(" a = 'x' AND b"));
        assert_ne!(of("a = 'x y'"), of("a = 'x  y'"));
        assert_ne!(of("A = 1"), of("a = 1"));
    }
}
