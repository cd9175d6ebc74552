//! Subjects and patterns of subjects: what is valid, what covers what.

/// Checks a subject in which `*` and a last `>` may stand for tokens.
///
/// # Errors
/// What is wrong, in a sentence without a full stop.
pub fn check_pattern(pattern: &str) -> Result<(), String> {
    let tokens: Vec<&str> = pattern.split('.').collect();
    let last = tokens.len() - 1;
    for (index, token) in tokens.iter().enumerate() {
        let wildcard = *token == "*" || (*token == ">" && index == last);
        if token.is_empty() {
            return Err(format!("`{pattern}` is no subject: it has an empty token"));
        }
        if token.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(format!("`{pattern}` is no subject: it holds white space"));
        }
        if *token == ">" && index != last {
            return Err(format!("`{pattern}` is no subject: `>` may only be the last token"));
        }
        if !wildcard && token.contains(['*', '>']) {
            return Err(format!("`{pattern}` is no subject: a wildcard must be a whole token"));
        }
    }
    Ok(())
}

/// Checks the name of a stream.
///
/// # Errors
/// What is wrong, in a sentence without a full stop.
pub fn check_stream_name(name: &str) -> Result<(), String> {
    let forbidden = |c: char| ".*>/\\".contains(c) || c.is_whitespace() || c.is_control();
    if name.is_empty() || name.len() > 255 || name.contains(forbidden) {
        return Err(format!(
            "`{name}` is no name of a stream: it may not be empty or hold `.`, `*`, `>`, `/`, `\\` or white space"
        ));
    }
    Ok(())
}

/// True if every subject that matches `inner` also matches `outer`.
pub fn covers(outer: &str, inner: &str) -> bool {
    let (mut outer, mut inner) = (outer.split('.'), inner.split('.'));
    loop {
        match (outer.next(), inner.next()) {
            (Some(">"), Some(_)) => return true,
            (Some("*"), Some(token)) if token != ">" => {}
            (Some(a), Some(b)) if a == b => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

/// True if some subject matches both patterns.
pub fn overlaps(left: &str, right: &str) -> bool {
    let (mut left, mut right) = (left.split('.'), right.split('.'));
    loop {
        match (left.next(), right.next()) {
            (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
            (Some("*"), Some(_)) | (Some(_), Some("*")) => {}
            (Some(a), Some(b)) if a == b => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for good in ["a", "a.*.b", "a.>", ">", "a-b_%20.c"] {
            assert_eq!(check_pattern(good), Ok(()), "{good}");
        }
        for bad in ["", "a..b", "a b", ">.a", "a*", "a.b>", ".a", "a."] {
            assert!(check_pattern(bad).is_err(), "{bad}");
        }
        assert!(check_stream_name("EVENTS").is_ok());
        assert!(check_stream_name("a.b").is_err());
    }

    #[test]
    fn what_covers_and_overlaps_what() {
        for (outer, inner, covered, overlapping) in [
            (">", "a.b", true, true),
            ("a.>", "a", false, false),
            ("a.>", "a.*.c", true, true),
            ("a.*", "a.b", true, true),
            ("a.*", "a.>", false, true),
            ("a.b", "a.*", false, true),
            ("*.b", "a.*", false, true),
            ("a.b", "a.c", false, false),
            ("a.b", "a.b.c", false, false),
        ] {
            assert_eq!(covers(outer, inner), covered, "{outer} {inner}");
            assert_eq!(overlaps(outer, inner), overlapping, "{outer} {inner}");
            assert_eq!(overlaps(inner, outer), overlapping, "{inner} {outer}");
        }
    }
}
