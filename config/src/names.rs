//! Names, and the nearest valid one for a misspelt one.

/// True for `[a-z][a-z0-9_]{0,39}`, the rule for pipelines, sources, operators and sinks.
pub fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_lowercase())
        && text.len() <= 40
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// The candidate that the writer most likely meant, if one is near enough to be worth saying.
///
/// ```
/// use waterwheel_config::names::nearest;
/// assert_eq!(nearest("windws", ["windows", "where"]), Some("windows"));
/// assert_eq!(nearest("zzz", ["windows", "where"]), None);
/// ```
pub fn nearest<'a>(
    written: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let lowered = written.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| {
            (strsim::damerau_levenshtein(&lowered, &candidate.to_lowercase()), candidate)
        })
        .filter(|(distance, candidate)| {
            *distance <= (candidate.len().max(written.len()) / 3).max(1)
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_for_names() {
        for good in ["a", "trading", "a_1", &"x".repeat(40)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "1a", "A", "a-b", "a.b", &"x".repeat(41)] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
