//! CloudEvents 1.0 in NATS messages: which mode a message is in, and where its attributes and its
//! data are.
//!
//! The binding's rule: a content type of `application/cloudevents...` means structured mode. Without
//! one a message with `ce-` headers is in binary mode; what has none may have come through a server
//! or a client that knew no headers, where only structured mode existed.

use std::borrow::Cow;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::dead::DeadLetter;
use super::envelope::{header, headers, write};
use super::names::Names;
use super::scan::{ScanError, Scanner};
use super::trie::PathTrie;
use super::{Content, Wanted, explain, written};
use crate::contract::batch::RawMessage;
use crate::contract::event::{Field, Projection, Slot};

/// The reason of what is no CloudEvent that can be read.
const REASON: &str = "not_cloudevent";

/// In which any CloudEvent has a header in binary mode.
const REQUIRED: [&str; 4] = ["specversion", "id", "type", "source"];

const PREFIX: &str = "ce-";

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// How to read the CloudEvents of one source.
#[derive(Debug)]
pub(super) struct CloudEvents {
    /// The wanted attributes and their slots.
    attributes: Vec<(String, usize)>,
    /// The wanted paths in the data.
    data: PathTrie,
    /// The same below `data`, and the attributes beside it.
    structured: PathTrie,
    version_slot: usize,
    data_slot: usize,
    base64_slot: usize,
}

/// What the messages of a batch had for names, in each mode.
pub(super) struct Modes<'t> {
    data: Names<'t>,
    structured: Names<'t>,
}

/// The mode of a message.
enum Mode {
    Binary,
    /// True if only the payload can tell.
    Structured(bool),
}

impl CloudEvents {
    pub(super) fn new(wanted: Wanted, projection: &mut Projection) -> Self {
        let Wanted { paths, mut attributes } = wanted;
        let mut slot = |name: &str| {
            let slot = projection.slot(&Field::Attribute(name.to_owned()));
            attributes.push((name.to_owned(), slot));
            slot
        };
        let (version_slot, data_slot, base64_slot) =
            (slot("specversion"), slot("data"), slot("data_base64"));
        attributes.sort();
        attributes.dedup();
        let (mut data, mut structured) = (PathTrie::default(), PathTrie::default());
        for (path, slot) in &paths {
            data.insert(path, *slot);
            let below: Vec<String> =
                std::iter::once("data".to_owned()).chain(path.clone()).collect();
            structured.insert(&below, *slot);
        }
        for (name, slot) in &attributes {
            structured.insert(std::slice::from_ref(name), *slot);
        }
        Self { attributes, data, structured, version_slot, data_slot, base64_slot }
    }

    /// What is known before a batch.
    pub(super) fn modes(&self) -> Modes<'_> {
        Modes { data: Names::new(&self.data), structured: Names::new(&self.structured) }
    }

    /// Fills the slots of the attributes and of the paths in the data; where the data is.
    pub(super) fn read(
        &self,
        modes: &mut Modes<'_>,
        slots: &mut [Slot],
        text: &mut String,
        scratch: &mut String,
        message: &RawMessage,
    ) -> Result<Content, DeadLetter> {
        let content = match mode(text, message)? {
            Mode::Binary => {
                self.fill_from_headers(slots, text, scratch, message);
                let (start, end) = (message.payload.start, message.payload.end);
                scan_data(&mut modes.data, slots, text, scratch, (start, end))
            }
            Mode::Structured(is_guess) => {
                self.scan_structured(modes, slots, text, scratch, message, is_guess)
            }
        }?;
        // A number or an object is no version.
        let version = slots[self.version_slot];
        let is_known = written(version, text, scratch)
            .is_some_and(|version| version == "1" || version.starts_with("1."));
        if version != Slot::Null && !is_known {
            let detail = "its specversion is not 1.0; other versions are not read";
            return Err(DeadLetter::new(REASON, detail));
        }
        // They are as long as the whole event, and no name stands for them.
        slots[self.data_slot] = Slot::Null;
        slots[self.base64_slot] = Slot::Null;
        Ok(content)
    }

    fn fill_from_headers(
        &self,
        slots: &mut [Slot],
        text: &str,
        scratch: &mut String,
        message: &RawMessage,
    ) {
        for (key, start, end) in headers(text, message) {
            let Some(name) = attribute_name(key) else {
                continue;
            };
            for (wanted, slot) in &self.attributes {
                // Of several headers the first counts, as everywhere.
                if !wanted.eq_ignore_ascii_case(name) || slots[*slot] != Slot::Null {
                    continue;
                }
                let written = text.get(start as usize..end as usize).unwrap_or_default();
                slots[*slot] = match decoded(written) {
                    Cow::Borrowed(_) => Slot::Text { start, end },
                    Cow::Owned(value) => write(scratch, |out| out.push_str(&value)),
                };
            }
        }
        // These two are no attributes, whatever headers there are.
        slots[self.data_slot] = Slot::Null;
        slots[self.base64_slot] = Slot::Null;
        // Older publishers have the type of the data where HTTP has it.
        for (_, slot) in self.attributes.iter().filter(|(name, _)| name == "datacontenttype") {
            if slots[*slot] == Slot::Null {
                slots[*slot] = header(text, message, "content-type");
            }
        }
    }

    fn scan_structured(
        &self,
        modes: &mut Modes<'_>,
        slots: &mut [Slot],
        text: &mut String,
        scratch: &mut String,
        message: &RawMessage,
        is_guess: bool,
    ) -> Result<Content, DeadLetter> {
        let payload = message.payload.clone();
        let mut scanner = Scanner::new(text, payload, &mut modes.structured, scratch);
        scanner.scan(slots).map_err(explain)?;
        let is_hostile = scanner.is_hostile;
        if slots[self.version_slot] == Slot::Null {
            let detail = match is_guess {
                true => "no CloudEvent: no `ce-` headers, and no `specversion` in the payload",
                false => "no CloudEvent: no `specversion` in the payload",
            };
            return Err(DeadLetter::new(REASON, detail));
        }
        match (slots[self.data_slot], slots[self.base64_slot]) {
            (data, Slot::Null) => match data {
                Slot::Null => Ok(Content { payload: Slot::Null, is_hostile }),
                Slot::Json { start, .. } if text.as_bytes().get(start as usize) == Some(&b'{') => {
                    Ok(Content { payload: data, is_hostile })
                }
                _ => Err(about_data(ScanError::NotObject)),
            },
            (Slot::Null, encoded) => {
                let Some(place) = decode_base64(encoded, text, scratch)? else {
                    let detail = "`data_base64` is no text in base64";
                    return Err(DeadLetter::new(REASON, detail));
                };
                let content = scan_data(&mut modes.data, slots, text, scratch, place)?;
                Ok(Content { is_hostile: content.is_hostile || is_hostile, ..content })
            }
            _ => Err(DeadLetter::new(REASON, "it has both `data` and `data_base64`")),
        }
    }
}

/// Reads data that stands alone: one JSON object, or nothing.
fn scan_data(
    names: &mut Names<'_>,
    slots: &mut [Slot],
    text: &str,
    scratch: &mut String,
    (start, end): (u32, u32),
) -> Result<Content, DeadLetter> {
    let data = text.get(start as usize..end as usize).unwrap_or_default();
    if matches!(data.trim_ascii(), "" | "null") {
        return Ok(Content { payload: Slot::Null, is_hostile: false });
    }
    let mut scanner = Scanner::new(text, start..end, names, scratch);
    scanner.scan(slots).map_err(about_data)?;
    Ok(Content { payload: Slot::Json { start, end }, is_hostile: scanner.is_hostile })
}

fn mode(text: &str, message: &RawMessage) -> Result<Mode, DeadLetter> {
    if message.headers.is_empty() {
        return Ok(Mode::Structured(true));
    }
    if let Slot::Text { start, end } = header(text, message, "content-type") {
        let written = text.get(start as usize..end as usize).unwrap_or_default();
        let media = written.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if let Some(form) = media.strip_prefix("application/cloudevents") {
            return match form {
                "" | "+json" => Ok(Mode::Structured(false)),
                _ => {
                    let help = match form.starts_with("-batch") {
                        true => "a batch of events: publish each as a message of its own",
                        false => "only application/cloudevents+json is read",
                    };
                    Err(DeadLetter::new(REASON, format!("its content type is {media}, {help}")))
                }
            };
        }
    }
    let is_binary = headers(text, message).any(|(key, ..)| {
        attribute_name(key)
            .is_some_and(|name| REQUIRED.iter().any(|known| known.eq_ignore_ascii_case(name)))
    });
    Ok(if is_binary { Mode::Binary } else { Mode::Structured(true) })
}

/// The attribute that a header holds.
fn attribute_name(header: &str) -> Option<&str> {
    let (prefix, name) = header.split_at_checked(PREFIX.len())?;
    prefix.eq_ignore_ascii_case(PREFIX).then_some(name)
}

/// The value of a header: without the quotes around it, percent-decoded once. What is no escape
/// stays as it is, and what is no UTF-8 then becomes U+FFFD.
fn decoded(value: &str) -> Cow<'_, str> {
    let inner = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    if inner.is_none() && !value.contains('%') {
        return Cow::Borrowed(value);
    }
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = inner.unwrap_or(value).as_bytes();
    while let [first, behind @ ..] = rest {
        let hex = |byte: &u8| char::from(*byte).to_digit(16);
        let (byte, behind) = match (first, behind) {
            (b'\\', [escaped, behind @ ..]) if inner.is_some() => (*escaped, behind),
            (b'%', [high, low, after @ ..]) => match (hex(high), hex(low)) {
                (Some(high), Some(low)) => ((high * 16 + low) as u8, after),
                _ => (b'%', behind),
            },
            _ => (*first, behind),
        };
        bytes.push(byte);
        rest = behind;
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

/// Appends what is encoded to the text; where it is, or nothing where it is no base64.
fn decode_base64(
    slot: Slot,
    text: &mut String,
    scratch: &str,
) -> Result<Option<(u32, u32)>, DeadLetter> {
    let Some(encoded) = written(slot, text, scratch) else {
        return Ok(None);
    };
    let Ok(bytes) = BASE64.decode(encoded) else {
        return Ok(None);
    };
    let Ok(data) = std::str::from_utf8(&bytes) else {
        return Err(DeadLetter::new("not_utf8", "the data is not valid UTF-8"));
    };
    let start = text.len() as u32;
    text.push_str(data);
    Ok(Some((start, text.len() as u32)))
}

fn about_data(error: ScanError) -> DeadLetter {
    let letter = explain(error);
    DeadLetter { detail: format!("the data of the CloudEvent: {}", letter.detail), ..letter }
}
