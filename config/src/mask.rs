//! Puts stars over what may be a secret in the text of a deployment, so that the lines which
//! findings show can be read but not abused. The length in bytes stays the same.

use std::ops::Range;

/// A number with fewer digits is no secret worth guessing.
const NUMBER_BYTES: usize = 6;

/// Masks a value of which nobody knows what it is: the value of a misspelt key may be a password.
pub(crate) fn value(bytes: &mut [u8], span: &Range<usize>) {
    let Some(text) = bytes.get(span.clone()) else {
        return;
    };
    let is_quoted = matches!(text.first(), Some(b'"' | b'\''));
    if is_quoted {
        let quotes = text.iter().take(3).filter(|byte| Some(*byte) == text.first()).count();
        let quotes = if quotes == 3 && text.len() >= 6 { 3 } else { 1 };
        let (start, end) = (span.start + quotes, span.end.saturating_sub(quotes));
        stars(bytes, start..end.max(start));
    } else if text.len() >= NUMBER_BYTES {
        stars(bytes, span.clone());
    }
}

/// Masks a line that could not be parsed: everything behind its `=`, but for punctuation, which is
/// what such a line is wrong in.
pub(crate) fn line(bytes: &mut [u8], span: &Range<usize>) {
    let Some(text) = bytes.get_mut(span.clone()) else {
        return;
    };
    let is_header = text.trim_ascii_start().first() == Some(&b'[');
    let start = match text.iter().position(|byte| *byte == b'=') {
        Some(equals) => equals,
        None if is_header => return,
        None => 0,
    };
    for byte in &mut text[start..] {
        if !b" \t\r\"'[]{},=".contains(byte) {
            *byte = b'*';
        }
    }
}

/// Masks the user parts of the URLs in a text that is known to be one value: there a password ends
/// at the last `@`, whatever is in it, or where the next URL of a list begins.
pub(crate) fn urls(bytes: &mut [u8], span: &Range<usize>) {
    let Some(text) = bytes.get(span.clone()) else {
        return;
    };
    let starts: Vec<usize> =
        text.windows(3).enumerate().filter(|(_, it)| it == b"://").map(|(at, _)| at + 3).collect();
    let ends = starts.iter().skip(1).map(|next| {
        let before = &text[..next - 3];
        before.iter().rposition(|byte| !byte.is_ascii_alphanumeric()).unwrap_or(0)
    });
    let ends: Vec<usize> = ends.chain([text.len()]).collect();
    let users: Vec<Range<usize>> = starts
        .iter()
        .zip(ends)
        .filter_map(|(start, end)| {
            let url = text.get(*start..end)?;
            let secret = match url.iter().rposition(|byte| *byte == b'@') {
                Some(last) => 0..last,
                None => no_port(url)?,
            };
            Some(span.start + start + secret.start..span.start + start + secret.end)
        })
        .collect();
    users.into_iter().for_each(|user| stars(bytes, user));
}

/// What stands where a port belongs and is none: whoever forgets `@host` writes a password there.
fn no_port(url: &[u8]) -> Option<Range<usize>> {
    let host = url.iter().position(|byte| b"/?#,\"'".contains(byte)).unwrap_or(url.len());
    let colon = url[..host].iter().position(|byte| *byte == b':')?;
    let port = &url[colon + 1..host];
    let is_address = url.first() == Some(&b'[');
    (!is_address && !port.iter().all(u8::is_ascii_digit)).then_some(colon + 1..host)
}

/// Stars over a range, but for line ends and the names in `${NAME}`, which the reader needs.
pub(crate) fn stars(bytes: &mut [u8], range: Range<usize>) {
    let Some(text) = bytes.get_mut(range) else {
        return;
    };
    let mut at = 0;
    while at < text.len() {
        if let Some(length) = reference(&text[at..]) {
            at += length;
            continue;
        }
        if !matches!(text[at], b'\n' | b'\r') {
            text[at] = b'*';
        }
        at += 1;
    }
}

/// The length of `${NAME}` or of `${NAME:-`; what follows the latter is a default, perhaps secret.
fn reference(text: &[u8]) -> Option<usize> {
    let inner = text.strip_prefix(b"${")?;
    let name =
        inner.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_').count();
    match &inner[name..] {
        [b'}', ..] => Some(2 + name + 1),
        [b':', b'-', ..] => Some(2 + name + 2),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(text: &str, mask: fn(&mut [u8], &Range<usize>)) -> String {
        let mut bytes = text.as_bytes().to_vec();
        mask(&mut bytes, &(0..text.len()));
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn values_keep_their_quotes_and_references() {
        for (text, shown) in [
            ("\"hunter2\"", "\"*******\""),
            ("'h\u{e9}'", "'***'"),
            ("\"\"\"a\nb\"\"\"", "\"\"\"*\n*\"\"\""),
            ("\"${USER}:${PW:-hunter2}\"", "\"${USER}*${PW:-********\""),
            ("1234567", "*******"),
            ("12", "12"),
            ("\"", "\""),
        ] {
            assert_eq!(masked(text, value), shown, "{text}");
        }
    }

    #[test]
    fn a_password_may_hold_anything() {
        for (text, shown) in [
            ("nats://u:a b,c@d@h:1", "nats://*********@h:1"),
            ("nats://h:1,tls://u:p@i", "nats://h:1,tls://***@i"),
            ("nats://h:1", "nats://h:1"),
            ("nats://[::1]:1", "nats://[::1]:1"),
            ("p://user:hunter2", "p://user:*******"),
            ("p://user:hunter2/db", "p://user:*******/db"),
            ("p://h:${PORT}/db", "p://h:${PORT}/db"),
            ("count(*) @ 1", "count(*) @ 1"),
        ] {
            assert_eq!(masked(text, urls), shown, "{text}");
        }
    }

    #[test]
    fn broken_lines_keep_their_punctuation() {
        for (text, shown) in [
            ("pasword = \"hunter2", "pasword = \"*******"),
            ("pasword = hunter2", "pasword = *******"),
            ("[sources.x", "[sources.x"),
            ("  \"hunter2\"", "  \"*******\""),
        ] {
            assert_eq!(masked(text, line), shown, "{text}");
        }
    }
}
