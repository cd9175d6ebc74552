//! Fingerprints: a hash over everything that changes the meaning of an operator's or a sink's rows.
//!
//! They are made of resolved settings, so that a default that is written out, and another spelling of
//! the same, change nothing.

use std::collections::BTreeMap;

/// The hash of a sink's own part for where the rows of an input go.
pub(crate) const PLACE: &str = ":place:";

/// A hash of meanings.
pub(super) fn fingerprint(meanings: &[String]) -> u128 {
    xxhash_rust::xxh3::xxh3_128(meanings.join("\n--\n").as_bytes())
}

/// What a sink's rows mean, and the parts that this comes from: each source and operator by its
/// name, and for each input ([`PLACE`] and its name) where its rows go.
#[derive(Debug, Default)]
pub(super) struct Parts(BTreeMap<String, String>);

impl Parts {
    pub(super) fn add(&mut self, name: impl Into<String>, meaning: &str) {
        let hash = xxhash_rust::xxh3::xxh3_64(meaning.as_bytes());
        self.0.insert(name.into(), format!("{hash:016x}"));
    }

    /// As it stands in a sink's progress: the hash of all that matters to the sink, then the parts.
    /// Sources that its rows do not rest on are among these, because the progress holds a position
    /// in each.
    pub(super) fn text(&self, meanings: &[String]) -> String {
        let mut text = format!("{:032x}", fingerprint(meanings));
        for (name, hash) in &self.0 {
            text.push_str(&format!(" {name}={hash}"));
        }
        text
    }
}

/// The parts of a fingerprint of a sink; none, if it was written without them.
pub(crate) fn parts(text: &str) -> BTreeMap<&str, &str> {
    text.split(' ').filter_map(|part| part.split_once('=')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::sink::is_same_meaning as is_same;

    #[test]
    fn a_fingerprint_names_its_parts() {
        let mut some = Parts::default();
        some.add("events", "a");
        let mut more = Parts::default();
        more.add("events", "b");
        more.add(":place:volume", "x=y z");
        let meanings = ["m".to_owned()];
        let (some, more) = (some.text(&meanings), more.text(&meanings));
        assert!(is_same(&some, &more));
        assert!(!is_same(&some, &Parts::default().text(&[])));
        assert_eq!(parts(&more).keys().collect::<Vec<_>>(), [&":place:volume", &"events"]);
        assert_ne!(parts(&some)["events"], parts(&more)["events"]);
        assert!(parts("0123456789abcdef0123456789abcdef").is_empty());
    }
}
