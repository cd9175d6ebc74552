//! Secrets never reach a finding, a log line or an error: they are masked where text is made.

use std::fmt;

use crate::mask::{stars, urls};

/// A text that cannot be printed by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps the text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one call that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The text with the user part of every URL in it, and values of well-known secret keys, as stars.
/// The length in bytes stays the same, so that spans into it stay right.
///
/// ```
/// use waterwheel_config::secret::redact;
/// assert_eq!(redact("nats://u:pw@host:4222"), "nats://****@host:4222");
/// assert_eq!(redact("postgres://h/db?password=pw&x=1"), "postgres://h/db?password=**&x=1");
/// ```
pub fn redact(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    mask_quoted(&mut bytes);
    mask_userinfo(&mut bytes);
    mask_assignments(&mut bytes);
    String::from_utf8(bytes).unwrap_or_else(|_| "***".to_owned())
}

/// What the keys of secrets are called.
const KEYS: [&str; 6] = ["password", "token", "seed", "nkey", "secret", "jwt"];

/// True for a key whose value is a secret.
pub(crate) fn is_secret_key(key: &str) -> bool {
    KEYS.contains(&key)
}

/// What a message quotes in backticks is one value.
fn mask_quoted(bytes: &mut [u8]) {
    let ticks: Vec<usize> =
        bytes.iter().enumerate().filter(|(_, byte)| **byte == b'`').map(|(at, _)| at).collect();
    for pair in ticks.chunks_exact(2) {
        urls(bytes, &(pair[0] + 1..pair[1]));
    }
}

/// What stands before the last `@` of a word, behind its scheme where it has one: people leave the
/// scheme out, and put characters into passwords that no URL may hold.
fn mask_userinfo(bytes: &mut [u8]) {
    let ends_word = |byte: &u8| b"\"'`, \t\r\n".contains(byte);
    let mut at = 0;
    while at < bytes.len() {
        let end = bytes[at..].iter().position(ends_word).map_or(bytes.len(), |length| at + length);
        if find(&bytes[at..end], b"://").is_some() {
            urls(bytes, &(at..end));
        } else if let Some(last) = bytes[at..end].iter().rposition(|byte| *byte == b'@') {
            stars(bytes, at..at + last);
        }
        at = end + 1;
    }
}

/// `password = "x"`, `token=x`, `"seed": "x"`: the value after a secret's key.
fn mask_assignments(bytes: &mut [u8]) {
    for key in KEYS {
        let mut at = 0;
        while let Some(found) = find(&bytes[at..], key.as_bytes()) {
            at += found + key.len();
            let mut start = at;
            let separators = |byte: &u8| matches!(byte, b'"' | b'\'' | b' ' | b'\t' | b'=' | b':');
            while bytes.get(start).is_some_and(separators) {
                start += 1;
            }
            if !bytes[at..start].iter().any(|byte| matches!(byte, b'=' | b':')) {
                continue;
            }
            // The brace of `${PW}` ends no value.
            let reference = if bytes[start..].starts_with(b"${") { 2 } else { 0 };
            let end = bytes[start + reference..]
                .iter()
                .position(|byte| matches!(byte, b'"' | b'\'' | b'\n' | b' ' | b'&' | b',' | b'}'))
                .map_or(bytes.len(), |length| start + reference + length);
            let closed = usize::from(reference > 0 && bytes.get(end) == Some(&b'}'));
            stars(bytes, start..end + closed);
            at = end;
        }
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_in_place() {
        for (text, masked) in [
            ("url = \"nats://token@h\"", "url = \"nats://*****@h\""),
            ("password = \"hunter2\"", "password = \"*******\""),
            ("password = \"${PW}\"", "password = \"${PW}\""),
            ("password = \"${PW:-hunter2}\"", "password = \"${PW:-********\""),
            ("url = \"p://${USER}:${PW}@h\"", "url = \"p://${USER}*${PW}@h\""),
            ("a://x:y@h,b://z@i/d", "a://***@h,b://*@i/d"),
            ("host=h password=abc user=u", "host=h password=*** user=u"),
            ("p://u:p@ss@h/d", "p://******@h/d"),
            ("nothing here", "nothing here"),
            ("`u:p?w#@h:4222` is no URL", "`******@h:4222` is no URL"),
            ("url = 'token@h'", "url = '*****@h'"),
            ("`p://u:a b@h` is bad", "`p://*****@h` is bad"),
        ] {
            assert_eq!(redact(text), masked);
            assert_eq!(redact(text).len(), text.len());
        }
    }

    #[test]
    fn a_secret_is_not_printed() {
        assert_eq!(format!("{:?}", Secret::new("pw")), "***");
    }
}
