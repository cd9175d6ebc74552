//! Fingerprints: a hash over everything that changes the meaning of a sink's rows.

use waterwheel_config::section::Section;

/// Settings of a source that do not change what its events mean: where it is, how it is reached, and
/// how much of it is read.
const SOURCE_PLACES: [&str; 13] = [
    "url", "creds", "nkey", "user", "password", "token", "tls", "context", "until", "start",
    "path", "rate", "count",
];

/// What a source's settings mean.
pub(super) fn source_meaning(section: &Section<'_>) -> String {
    let mut settings: Vec<String> = section
        .entries()
        .filter(|(key, _)| !SOURCE_PLACES.contains(&key.name.as_str()))
        .map(|(key, node)| format!("{} {}", key.name, section.written(node)))
        .collect();
    settings.sort();
    settings.join("\n")
}

/// A hash of meanings.
pub(super) fn fingerprint(meanings: &[String]) -> u128 {
    xxhash_rust::xxh3::xxh3_128(meanings.join("\n--\n").as_bytes())
}
