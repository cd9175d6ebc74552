//! Secrets never reach a finding, a log line or an error: they are masked where text is made.

use std::fmt;

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
    mask_userinfo(&mut bytes);
    mask_assignments(&mut bytes);
    String::from_utf8(bytes).unwrap_or_else(|_| "***".to_owned())
}

/// A user part ends at the last `@` before the end of the authority.
fn mask_userinfo(bytes: &mut [u8]) {
    let mut at = 0;
    while let Some(found) = find(&bytes[at..], b"://") {
        let start = at + found + 3;
        let end = bytes[start..]
            .iter()
            .position(|byte| matches!(byte, b'"' | b'\'' | b'\n' | b' ' | b',' | b'?' | b'#'))
            .map_or(bytes.len(), |length| start + length);
        if let Some(last) = bytes[start..end].iter().rposition(|&byte| byte == b'@') {
            bytes[start..start + last].fill(b'*');
        }
        at = end;
    }
}

/// `password = "x"`, `token=x`, `"seed": "x"`: the value after a secret's key.
fn mask_assignments(bytes: &mut [u8]) {
    const KEYS: [&[u8]; 6] = [b"password", b"token", b"seed", b"nkey", b"secret", b"jwt"];
    for key in KEYS {
        let mut at = 0;
        while let Some(found) = find(&bytes[at..], key) {
            at += found + key.len();
            let mut start = at;
            let separators = |byte: &u8| matches!(byte, b'"' | b'\'' | b' ' | b'\t' | b'=' | b':');
            while bytes.get(start).is_some_and(separators) {
                start += 1;
            }
            if !bytes[at..start].iter().any(|byte| matches!(byte, b'=' | b':')) {
                continue;
            }
            // A reference to the environment holds no secret, and the reader needs its name.
            if bytes[start..].starts_with(b"${") {
                continue;
            }
            let end = bytes[start..]
                .iter()
                .position(|byte| matches!(byte, b'"' | b'\'' | b'\n' | b' ' | b'&' | b',' | b'}'))
                .map_or(bytes.len(), |length| start + length);
            bytes[start..end].fill(b'*');
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
            ("a://x:y@h,b://z@i/d", "a://***@h,b://*@i/d"),
            ("host=h password=abc user=u", "host=h password=*** user=u"),
            ("p://u:p@ss@h/d", "p://******@h/d"),
            ("nothing here", "nothing here"),
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
