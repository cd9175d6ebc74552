//! One pass over a JSON text that checks all of it and keeps only the wanted paths.
//!
//! The whole text is checked, in the parts that nobody reads too: a dead letter must not depend on
//! what the deployment happens to name. The wanted paths form a trie; where the text leaves the
//! trie, values are skipped without building anything. Most names are not even read: they stand
//! where [`Names`] expects them. Recursion ends at [`DEPTH_MAX`].

use std::ops::Range;

use waterwheel_config::expr::Number;
use waterwheel_config::value::canonical_double;

use super::names::{Member, Names, Place};
use crate::contract::event::Slot;

/// Objects and lists nested deeper than this make a message a dead letter (SPEC 2).
pub(super) const DEPTH_MAX: usize = 64;

/// Why a text is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScanError {
    /// Not JSON, at this byte.
    Syntax(usize),
    /// JSON, but not an object.
    NotObject,
    /// A number beyond double range, at this byte.
    NumberRange(usize),
    /// Nested deeper than [`DEPTH_MAX`].
    TooDeep,
}

/// Scans one payload.
pub(super) struct Scanner<'a, 't> {
    bytes: &'a [u8],
    at: usize,
    /// The payload, and in the buffer what lies behind it.
    onward: &'a [u8],
    /// Where the payload begins in the buffer.
    offset: u32,
    names: &'a mut Names<'t>,
    scratch: &'a mut String,
    /// True once something was seen that sinks cannot take as written: `\u0000`, half a surrogate
    /// pair, or a number of more digits than Postgres has room for.
    pub(super) is_hostile: bool,
}

impl<'a, 't> Scanner<'a, 't> {
    /// A scanner of a payload in a batch's buffer.
    pub(super) fn new(
        buffer: &'a str,
        payload: Range<u32>,
        names: &'a mut Names<'t>,
        scratch: &'a mut String,
    ) -> Self {
        let (start, end) = (payload.start as usize, payload.end as usize);
        let bytes = buffer.get(start..end).unwrap_or_default().as_bytes();
        let onward = buffer.as_bytes().get(start..).unwrap_or_default();
        Self { bytes, at: 0, onward, offset: payload.start, names, scratch, is_hostile: false }
    }

    /// Checks the whole text and fills the slots.
    pub(super) fn scan(&mut self, slots: &mut [Slot]) -> Result<(), ScanError> {
        self.space();
        match self.peek() {
            Some(b'{') => self.object(Member::ROOT, slots, 1)?,
            Some(_) => {
                // A list is JSON, a truncated list is not: the reason should say which.
                self.value(Member::UNKNOWN, slots, 0)?;
                self.end()?;
                return Err(ScanError::NotObject);
            }
            None => return Err(ScanError::Syntax(self.at)),
        }
        self.end()
    }

    fn end(&mut self) -> Result<(), ScanError> {
        self.space();
        if self.at == self.bytes.len() { Ok(()) } else { Err(ScanError::Syntax(self.at)) }
    }

    #[inline]
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    #[inline]
    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    #[inline]
    fn expect(&mut self, byte: u8) -> Result<(), ScanError> {
        if self.peek() == Some(byte) {
            self.at += 1;
            Ok(())
        } else {
            Err(ScanError::Syntax(self.at))
        }
    }

    fn object(
        &mut self,
        object: Member,
        slots: &mut [Slot],
        depth: usize,
    ) -> Result<(), ScanError> {
        if depth > DEPTH_MAX {
            return Err(ScanError::TooDeep);
        }
        self.at += 1;
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        let mut place = self.names.inside(object);
        loop {
            self.space();
            let member = self.name(object, &mut place)?;
            self.space();
            self.value(member, slots, depth)?;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(ScanError::Syntax(self.at)),
            }
        }
    }

    /// Passes a name and its colon; the member that it begins.
    #[inline]
    fn name(&mut self, object: Member, place: &mut Option<Place>) -> Result<Member, ScanError> {
        let found = place.as_mut().and_then(|p| self.names.guess(p, &self.onward[self.at..]));
        match found {
            // Not one that ends in the next message.
            Some((member, length)) if self.at + length <= self.bytes.len() => {
                self.at += length;
                Ok(member)
            }
            _ => self.unexpected_name(object, place.as_mut()),
        }
    }

    #[inline(never)]
    fn unexpected_name(
        &mut self,
        object: Member,
        place: Option<&mut Place>,
    ) -> Result<Member, ScanError> {
        let before = self.at;
        let (start, end, escaped) = self.string()?;
        let node = match object.node {
            Some(node) if escaped => {
                let unescaped_at = self.scratch.len();
                unescape(&self.bytes[start..end], self.scratch);
                let name = &self.scratch.as_bytes()[unescaped_at..];
                let child = self.names.trie().child(node, name);
                self.scratch.truncate(unescaped_at);
                child
            }
            Some(node) => self.names.trie().child(node, &self.bytes[start..end]),
            None => None,
        };
        self.space();
        self.expect(b':')?;
        // One with escapes could be written in other ways: to expect this one gains nothing.
        match place {
            Some(place) if !escaped => {
                Ok(self.names.learn(place, &self.bytes[before..self.at], node))
            }
            _ => Ok(Member::unnamed(node)),
        }
    }

    fn value(&mut self, member: Member, slots: &mut [Slot], depth: usize) -> Result<(), ScanError> {
        let start = self.at;
        if let Some(node) = member.node {
            // Of duplicate keys the last one counts: what an earlier one set below is forgotten.
            for &slot in self.names.trie().slots_below(node) {
                slots[slot] = Slot::Null;
            }
        }
        let value = match self.peek() {
            Some(b'"') => return self.text(member, slots),
            Some(b'{') => {
                self.object(member, slots, depth + 1)?;
                Slot::Json { start: self.place(start), end: self.place(self.at) }
            }
            Some(b'[') => {
                self.list(slots, depth + 1)?;
                Slot::Json { start: self.place(start), end: self.place(self.at) }
            }
            Some(b't') => self.word(b"true", Slot::Boolean(true))?,
            Some(b'f') => self.word(b"false", Slot::Boolean(false))?,
            Some(b'n') => self.word(b"null", Slot::Null)?,
            Some(b'-' | b'0'..=b'9') => self.number(member.node.is_some())?,
            _ => return Err(ScanError::Syntax(self.at)),
        };
        for &slot in self.slots(member) {
            slots[slot] = value;
        }
        Ok(())
    }

    /// The slots that want a member's value.
    #[inline]
    fn slots(&self, member: Member) -> &'t [usize] {
        member.node.map_or(&[], |node| self.names.trie().slots(node))
    }

    #[inline]
    fn text(&mut self, member: Member, slots: &mut [Slot]) -> Result<(), ScanError> {
        let (start, end, escaped) = self.string()?;
        let wanted = self.slots(member);
        if escaped && !wanted.is_empty() {
            let before = self.scratch.len() as u32;
            unescape(&self.bytes[start..end], self.scratch);
            let text = Slot::Scratch { start: before, end: self.scratch.len() as u32 };
            wanted.iter().for_each(|slot| slots[*slot] = text);
            return Ok(());
        }
        // Made in its place: one made elsewhere in parts and then moved whole keeps the processor
        // waiting for the parts.
        let (start, end) = (self.place(start), self.place(end));
        wanted.iter().for_each(|slot| slots[*slot] = Slot::Text { start, end });
        Ok(())
    }

    fn list(&mut self, slots: &mut [Slot], depth: usize) -> Result<(), ScanError> {
        if depth > DEPTH_MAX {
            return Err(ScanError::TooDeep);
        }
        self.at += 1;
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.space();
            self.value(Member::UNKNOWN, slots, depth)?;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(ScanError::Syntax(self.at)),
            }
        }
    }

    fn word(&mut self, word: &[u8], slot: Slot) -> Result<Slot, ScanError> {
        if self.bytes[self.at..].starts_with(word) {
            self.at += word.len();
            Ok(slot)
        } else {
            Err(ScanError::Syntax(self.at))
        }
    }

    /// Passes a string; its inside as a range, and whether it holds escapes.
    #[inline]
    fn string(&mut self) -> Result<(usize, usize, bool), ScanError> {
        self.expect(b'"')?;
        let start = self.at;
        let mut escaped = false;
        loop {
            self.plain();
            match self.peek() {
                Some(b'"') => {
                    let end = self.at;
                    self.at += 1;
                    return Ok((start, end, escaped));
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                _ => return Err(ScanError::Syntax(self.at)),
            }
        }
    }

    /// Passes bytes that are neither quote, backslash nor control, eight at a time.
    #[inline]
    fn plain(&mut self) {
        const ONES: u64 = 0x0101_0101_0101_0101;
        const HIGHS: u64 = 0x8080_8080_8080_8080;
        // Classic "has a zero byte" arithmetic on each of the three conditions; a false positive
        // above a true one is harmless, since the lowest hit is what counts.
        while let Some(chunk) = self.bytes[self.at..].first_chunk::<8>() {
            let word = u64::from_le_bytes(*chunk);
            let quote = word ^ (ONES * u64::from(b'"'));
            let backslash = word ^ (ONES * u64::from(b'\\'));
            let hits = (quote.wrapping_sub(ONES) & !quote)
                | (backslash.wrapping_sub(ONES) & !backslash)
                | (word.wrapping_sub(ONES * 0x20) & !word);
            let hits = hits & HIGHS;
            if hits != 0 {
                self.at += (hits.trailing_zeros() / 8) as usize;
                return;
            }
            self.at += 8;
        }
        while self.peek().is_some_and(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
            self.at += 1;
        }
    }

    fn escape(&mut self) -> Result<(), ScanError> {
        let kind = self.bytes.get(self.at + 1).copied();
        match kind {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') => {
                let unit = hex4(self.bytes, self.at + 2).ok_or(ScanError::Syntax(self.at))?;
                // A pair is two escapes; here it only matters whether each half has its other.
                self.at += 6;
                match unit {
                    0 | 0xdc00..=0xdfff => self.is_hostile = true,
                    0xd800..=0xdbff => match low_surrogate(self.bytes, self.at) {
                        Some(_) => self.at += 6,
                        None => self.is_hostile = true,
                    },
                    _ => {}
                }
            }
            _ => return Err(ScanError::Syntax(self.at)),
        }
        Ok(())
    }

    fn number(&mut self, wanted: bool) -> Result<Slot, ScanError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        let digits_start = self.at;
        let digits = self.digits();
        if digits == 0 || (digits > 1 && self.bytes[digits_start] == b'0') {
            return Err(ScanError::Syntax(start));
        }
        let mut whole = true;
        let mut exponent = false;
        if self.peek() == Some(b'.') {
            whole = false;
            self.at += 1;
            if self.digits() == 0 {
                return Err(ScanError::Syntax(start));
            }
        }
        if let Some(b'e' | b'E') = self.peek() {
            (whole, exponent) = (false, true);
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            if self.digits() == 0 {
                return Err(ScanError::Syntax(start));
            }
        }
        // Shorter ones without an exponent have few digits.
        let length = self.at - start;
        if (exponent || length > 1_000) && is_beyond_numeric(&self.bytes[start..self.at]) {
            self.is_hostile = true;
        }
        // Without an exponent only a number of more than 308 digits can leave the range.
        if !wanted && !exponent && digits < 300 {
            return Ok(Slot::Null);
        }
        let text = std::str::from_utf8(&self.bytes[start..self.at]).unwrap_or_default();
        if whole && digits <= 18 {
            return text.parse().map(Slot::Integer).map_err(|_| ScanError::Syntax(start));
        }
        let slot = match Number::parse(text) {
            Some(Number::Integer(number)) => match (i64::try_from(number), u64::try_from(number)) {
                (Ok(number), _) => Slot::Integer(number),
                (_, Ok(number)) => Slot::Unsigned(number),
                _ => Slot::Float(number as f64),
            },
            Some(Number::Float(number)) => Slot::Float(number + 0.0),
            None => return Err(ScanError::NumberRange(start)),
        };
        Ok(slot)
    }

    #[inline]
    fn digits(&mut self) -> usize {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        self.at - start
    }

    fn place(&self, at: usize) -> u32 {
        self.offset + at as u32
    }
}

/// The text of a JSON string's inside, appended. U+0000 and halves of surrogate pairs become
/// U+FFFD.
fn unescape(inside: &[u8], out: &mut String) {
    let mut at = 0;
    while at < inside.len() {
        let plain = memchr::memchr(b'\\', &inside[at..]).unwrap_or(inside.len() - at);
        out.push_str(std::str::from_utf8(&inside[at..at + plain]).unwrap_or_default());
        at += plain;
        let Some(kind) = inside.get(at + 1) else {
            return;
        };
        at += 2;
        out.push(match kind {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let unit = hex4(inside, at).unwrap_or(0);
                at += 4;
                match unit {
                    0 => char::REPLACEMENT_CHARACTER,
                    0xd800..=0xdbff => match low_surrogate(inside, at) {
                        Some(low) => {
                            at += 6;
                            let code = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
                            char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
                        }
                        None => char::REPLACEMENT_CHARACTER,
                    },
                    // The low half alone is no character, and becomes U+FFFD here.
                    unit => char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER),
                }
            }
            other => char::from(*other),
        });
    }
}

/// A JSON text that every sink can take, appended: `\u0000` and halves of surrogate pairs are
/// written `\ufffd`, and numbers of too many digits as their doubles are.
pub(super) fn sanitise(json: &str, out: &mut String) {
    let bytes = json.as_bytes();
    let (mut at, mut copied) = (0, 0);
    while let Some(byte) = bytes.get(at) {
        at = match byte {
            b'"' => sanitise_string(json, at + 1, &mut copied, out),
            b'-' | b'0'..=b'9' => {
                let is_part =
                    |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
                let length = bytes[at..].iter().take_while(|byte| is_part(byte)).count();
                let number = &json[at..at + length];
                if is_beyond_numeric(number.as_bytes()) {
                    out.push_str(&json[copied..at]);
                    out.push_str(&canonical_double(number.parse().unwrap_or_default()));
                    copied = at + length;
                }
                at + length
            }
            _ => at + 1,
        }
    }
    out.push_str(&json[copied..]);
}

/// Passes a string whose inside begins at `at`; what follows it. The text is appended up to
/// `copied`.
fn sanitise_string(json: &str, mut at: usize, copied: &mut usize, out: &mut String) -> usize {
    let bytes = json.as_bytes();
    while let Some(found) = memchr::memchr2(b'\\', b'"', &bytes[at..]) {
        at += found;
        if bytes[at] == b'"' {
            return at + 1;
        }
        if bytes.get(at + 1) != Some(&b'u') {
            at = bytes.len().min(at + 2);
            continue;
        }
        let unit = hex4(bytes, at + 2).unwrap_or(0);
        let pair = (0xd800..=0xdbff).contains(&unit) && low_surrogate(bytes, at + 6).is_some();
        if unit == 0 || ((0xd800..=0xdfff).contains(&unit) && !pair) {
            out.push_str(&json[*copied..at]);
            out.push_str("\\ufffd");
            *copied = at + 6;
        }
        at += if pair { 12 } else { 6 };
    }
    bytes.len()
}

/// How many digits behind the point the `numeric` of Postgres has room for, which holds the numbers
/// of its `jsonb`.
const NUMERIC_SCALE_MAX: i64 = 16_383;

/// True for a number that the `numeric` of Postgres may refuse for how it is written: what counts
/// there are the digits, those of zero too.
fn is_beyond_numeric(number: &[u8]) -> bool {
    let exponent_at = number.iter().position(|byte| matches!(byte, b'e' | b'E'));
    let (digits, exponent) = number.split_at(exponent_at.unwrap_or(number.len()));
    let point = digits.iter().position(|byte| *byte == b'.');
    let scale = point.map_or(0, |point| digits.len() - point - 1) as i64;
    let size = exponent
        .iter()
        .filter(|byte| byte.is_ascii_digit())
        .fold(0_i64, |size, digit| (size * 10 + i64::from(digit - b'0')).min(1 << 40));
    let size_below = if exponent.get(1) == Some(&b'-') { size } else { -size };
    scale.max(size).max(scale + size_below) > NUMERIC_SCALE_MAX
}

fn hex4(bytes: &[u8], at: usize) -> Option<u32> {
    let mut unit = 0;
    for byte in bytes.get(at..at + 4)? {
        unit = unit * 16 + char::from(*byte).to_digit(16)?;
    }
    Some(unit)
}

fn low_surrogate(bytes: &[u8], at: usize) -> Option<u32> {
    if bytes.get(at..at + 2)? != b"\\u" {
        return None;
    }
    hex4(bytes, at + 2).filter(|unit| (0xdc00..=0xdfff).contains(unit))
}

#[cfg(test)]
mod tests {
    use super::super::trie::PathTrie;
    use super::*;
    use proptest::prelude::*;

    fn scan(text: &str, paths: &[&str]) -> Result<Vec<String>, ScanError> {
        scan_each(&[text], paths).remove(0)
    }

    /// Scans payloads that lie in one buffer.
    fn scan_each(payloads: &[&str], paths: &[&str]) -> Vec<Result<Vec<String>, ScanError>> {
        let mut trie = PathTrie::default();
        for (slot, path) in paths.iter().enumerate() {
            let path: Vec<String> = path.split('.').map(str::to_owned).collect();
            trie.insert(&path, slot);
        }
        let (buffer, mut end) = (payloads.concat(), 0);
        let mut names = Names::new(&trie);
        let mut scan = |payload: &&str| {
            let start = end;
            end += payload.len() as u32;
            let mut slots = vec![Slot::Null; paths.len()];
            let mut scratch = String::new();
            Scanner::new(&buffer, start..end, &mut names, &mut scratch).scan(&mut slots)?;
            Ok(slots.into_iter().map(|slot| shown(slot, &buffer, &scratch)).collect())
        };
        payloads.iter().map(&mut scan).collect()
    }

    fn shown(slot: Slot, text: &str, scratch: &str) -> String {
        match slot {
            Slot::Text { start, end } => format!("'{}'", &text[start as usize..end as usize]),
            Slot::Scratch { start, end } => {
                format!("'{}'", &scratch[start as usize..end as usize])
            }
            Slot::Json { start, end } => text[start as usize..end as usize].to_owned(),
            Slot::Integer(number) => number.to_string(),
            Slot::Unsigned(number) => number.to_string(),
            Slot::Float(number) => format!("{number:e}"),
            Slot::Boolean(flag) => flag.to_string(),
            _ => "null".to_owned(),
        }
    }

    #[test]
    fn wanted_paths_are_found() {
        let text = r#"{"a":{"b":"x","c":[1,{"b":2}]},"n":-12,"u":18446744073709551615,"f":1.5e2,"t":true,"e":"q\"\u00e9\ud83d\ude00\u0000\ud800"}"#;
        let found = scan(text, &["a.b", "a.c", "n", "u", "f", "t", "e", "missing", "a"]).unwrap();
        assert_eq!(
            found,
            [
                "'x'",
                r#"[1,{"b":2}]"#,
                "-12",
                "18446744073709551615",
                "1.5e2",
                "true",
                "'q\"é😀\u{fffd}\u{fffd}'",
                "null",
                r#"{"b":"x","c":[1,{"b":2}]}"#,
            ]
        );
    }

    #[test]
    fn names_that_begin_alike_are_told_apart() {
        let names =
            ["a", "ab", "abcdefg", "abcdefgh", "abcdefghi", "abcdefghj", "abcdefghijklmnopq"];
        let members = names.iter().enumerate().map(|(value, name)| format!("\"{name}\":{value}"));
        let text = format!("{{{},\"abc\":7,\"\":8}}", members.collect::<Vec<_>>().join(","));
        assert_eq!(scan(&text, &names).unwrap(), ["0", "1", "2", "3", "4", "5", "6"]);
        assert_eq!(scan(r#"{"a":5}"#, &["a", "b", "a\0"]).unwrap(), ["5", "null", "null"]);
        assert_eq!(scan(r#"{"a\u0062":5}"#, &["ab"]).unwrap(), ["5"]);
    }

    #[test]
    fn no_name_reaches_into_the_next_payload() {
        let whole = r#"{"a":{"b":1},"c":2}                "#;
        for cut in [r#"{"#, r#"{"a":{"#, r#"{"a":{"b":1},"#, r#"{"a":{"b":1},"c"#] {
            let error = Err(ScanError::Syntax(cut.len()));
            assert_eq!(scan(cut, &["a.b"]), error);
            // What follows would go on as was expected.
            let rest = &whole[cut.len()..];
            assert_eq!(scan_each(&[whole, cut, rest], &["a.b"])[1], error, "{cut}");
        }
    }

    #[test]
    fn of_duplicate_keys_the_last_counts() {
        let text = r#"{"a":{"b":1},"a":{"c":2},"d":1,"d":null,"\u0064x":7}"#;
        assert_eq!(scan(text, &["a.b", "a.c", "d", "dx"]).unwrap(), ["null", "2", "null", "7"]);
    }

    #[test]
    fn everything_is_checked_in_unread_parts_too() {
        for (text, error) in [
            ("", ScanError::Syntax(0)),
            ("[1]", ScanError::NotObject),
            ("\"x\"", ScanError::NotObject),
            ("[1", ScanError::Syntax(2)),
            ("{", ScanError::Syntax(1)),
            (r#"{"x":1e999}"#, ScanError::NumberRange(5)),
            (r#"{"x":-1e400,"y":1}"#, ScanError::NumberRange(5)),
            (r#"{"x":01}"#, ScanError::Syntax(5)),
            (r#"{"x":1.}"#, ScanError::Syntax(5)),
            (r#"{"x":+1}"#, ScanError::Syntax(5)),
            (r#"{"x":nul}"#, ScanError::Syntax(5)),
            (r#"{"x":"\q"}"#, ScanError::Syntax(6)),
            (r#"{"x":"\u12g4"}"#, ScanError::Syntax(6)),
            ("{\"x\":\"a\nb\"}", ScanError::Syntax(7)),
            (r#"{"x":1}}"#, ScanError::Syntax(7)),
            (r#"{"x":1,}"#, ScanError::Syntax(7)),
            (r#"{"x" 1}"#, ScanError::Syntax(5)),
        ] {
            assert_eq!(scan(text, &["y"]), Err(error), "{text}");
        }
        let digits = format!("{{\"x\":{}}}", "9".repeat(400));
        assert_eq!(scan(&digits, &[]), Err(ScanError::NumberRange(5)));
    }

    #[test]
    fn depth_ends_at_64() {
        let nested =
            |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1));
        assert!(scan(&nested(64), &[]).is_ok());
        assert_eq!(scan(&nested(65), &[]), Err(ScanError::TooDeep));
        assert_eq!(scan(&"[".repeat(100_000), &[]), Err(ScanError::TooDeep));
        assert_eq!(scan(&"{\"a\":".repeat(100_000), &["a"]), Err(ScanError::TooDeep));
    }

    #[test]
    fn hostile_escapes_are_written_anew() {
        let mut out = String::new();
        sanitise(r#"{"a":"\u0000\\u0000\ud800x\ud83d\ude00\udc00"}"#, &mut out);
        assert_eq!(out, r#"{"a":"\ufffd\\u0000\ufffdx\ud83d\ude00\ufffd"}"#);
    }

    #[test]
    fn numbers_of_too_many_digits_are_written_anew() {
        let nines = |count: usize| "9".repeat(count);
        for (number, written) in [
            ("1e-16384".to_owned(), "0"),
            ("-2.5E-16383".to_owned(), "0"),
            ("0e-99999".to_owned(), "0"),
            ("0.0e-99999999999999999999".to_owned(), "0"),
            ("0e99999999999999999999".to_owned(), "0"),
            (format!("1.{}", nines(16_384)), "2"),
            (format!("0.{}1", "0".repeat(20_000)), "0"),
            (format!("25{}e-131073", "0".repeat(131_073)), "25"),
        ] {
            let text =
                format!(r#"{{"a":[{number},1.5e2],"{number}\u0000":"{number}","b":{number}}}"#);
            let (trie, mut scratch, mut out) = (PathTrie::default(), String::new(), String::new());
            let mut names = Names::new(&trie);
            let mut scanner = Scanner::new(&text, 0..text.len() as u32, &mut names, &mut scratch);
            scanner.scan(&mut []).unwrap();
            assert!(scanner.is_hostile, "{number:.40}");
            sanitise(&text, &mut out);
            let expected =
                format!(r#"{{"a":[{written},1.5e2],"{number}\ufffd":"{number}","b":{written}}}"#);
            assert!(out == expected, "{number:.40}: {out:.200}");
        }
        let fine = [
            "1e-16383".to_owned(),
            format!("1.{}", nines(16_383)),
            nines(308),
            format!("{}e-400", nines(400)),
            format!("1e{}0", "0".repeat(1_000)),
            format!("0.{}1e16000", "0".repeat(16_000)),
        ];
        for number in fine {
            assert!(!is_beyond_numeric(number.as_bytes()), "{number:.40}");
        }
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<u64>().prop_map(Into::into),
            (-1e300f64..1e300).prop_map(Into::into),
            "\\PC{0,12}|[\"\\\\\n\t a-z]{0,12}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
                prop::collection::btree_map("[a-c]{1,2}", inner, 0..5)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json_on_what_is_json(bytes in "[\\[\\]{}\",:0-9eE.+\\- a\\\\u\ntrufalsn]{0,24}") {
            let text = format!("{{\"a\":{bytes}}}");
            let theirs = serde_json::from_str::<serde_json::Value>(&text);
            let ours = scan(&text, &["a"]);
            match theirs {
                Ok(_) => prop_assert!(ours.is_ok(), "{text}: {ours:?}"),
                // serde_json refuses halves of surrogate pairs, which become U+FFFD here.
                Err(error) if error.to_string().contains("surrogate")
                    || error.to_string().contains("hex escape") => {}
                Err(_) => prop_assert!(ours.is_err(), "{text}"),
            }
        }

        #[test]
        fn what_came_before_changes_nothing(
            values in prop::collection::vec((json(), json(), 0..200usize, any::<bool>()), 1..12),
        ) {
            let payload = |(a, b, length, is_spaced): (_, _, usize, _)| {
                let value = serde_json::json!({ "a": a, "b": { "a": b, "c": 1 } });
                let mut text = match is_spaced {
                    true => serde_json::to_string_pretty(&value).unwrap(),
                    false => value.to_string(),
                };
                // Some are cut off.
                text.truncate((0..=length).rev().find(|at| text.is_char_boundary(*at)).unwrap());
                text
            };
            let payloads: Vec<String> = values.into_iter().map(payload).collect();
            let payloads: Vec<&str> = payloads.iter().map(String::as_str).collect();
            let paths = ["a", "a.a", "a.b", "b.a.b", "b.c", "b.a.c.a"];
            let alone: Vec<_> = payloads.iter().map(|payload| scan(payload, &paths)).collect();
            prop_assert_eq!(scan_each(&payloads, &paths), alone);
        }

        #[test]
        fn finds_what_serde_json_finds(value in json()) {
            let text = serde_json::json!({ "a": value, "z": 1 }).to_string();
            let found = scan(&text, &["a", "z"]).unwrap();
            prop_assert_eq!(&found[1], "1");
            match &value {
                serde_json::Value::String(text) => {
                    prop_assert_eq!(&found[0], &format!("'{}'", text.replace('\0', "\u{fffd}")));
                }
                serde_json::Value::Number(number) if number.is_f64() => {
                    prop_assert_eq!(found[0].parse::<f64>().unwrap(), number.as_f64().unwrap());
                }
                other => prop_assert_eq!(&found[0], &other.to_string()),
            }
        }
    }
}
