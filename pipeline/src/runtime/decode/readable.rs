//! The messages of a batch as text: which of them are UTF-8, and all of those in one piece.

use std::collections::HashMap;
use std::ops::Range;

use crate::contract::batch::RawMessage;

/// The buffer of a batch as text.
pub(super) struct Readable {
    pub(super) text: String,
    /// By index, the messages that are not UTF-8. In the text they are blotted out.
    pub(super) broken: HashMap<usize, Broken>,
}

/// A message as it came.
pub(super) struct Broken {
    pub(super) subject: Vec<u8>,
    pub(super) payload: Vec<u8>,
}

/// Reads a buffer as text, in place.
///
/// One check over the whole buffer is several times cheaper than one per message. Parts of a valid
/// whole are valid where they begin and end at character boundaries.
pub(super) fn readable(buffer: Vec<u8>, messages: &[RawMessage]) -> Readable {
    let ranges = |message: &RawMessage| {
        [&message.subject, &message.headers, &message.payload]
            .map(|range| range.start as usize..range.end as usize)
    };
    let broken = |is_whole: &dyn Fn(Range<usize>) -> bool, bytes: &[u8]| {
        let is_broken = |message: &RawMessage| !ranges(message).into_iter().all(is_whole);
        let each = messages.iter().enumerate().filter(|(_, message)| is_broken(message));
        each.map(|(index, message)| {
            let [subject, _, payload] = ranges(message).map(|range| bytes[range].to_vec());
            (index, Broken { subject, payload })
        })
        .collect::<HashMap<_, _>>()
    };
    let bytes = match String::from_utf8(buffer) {
        Ok(text) => {
            let is_boundary = |at| text.is_char_boundary(at);
            let is_whole = |range: Range<usize>| is_boundary(range.start) && is_boundary(range.end);
            let broken = broken(&is_whole, text.as_bytes());
            return Readable { text, broken };
        }
        Err(error) => error.into_bytes(),
    };
    let broken = broken(&|range| std::str::from_utf8(&bytes[range]).is_ok(), &bytes);
    // The buffer may hold more than these messages, where a batch was split.
    let mut blotted = vec![b'?'; bytes.len()];
    let whole = messages.iter().enumerate().filter(|(index, _)| !broken.contains_key(index));
    for range in whole.flat_map(|(_, message)| ranges(message)) {
        blotted[range.clone()].copy_from_slice(&bytes[range]);
    }
    Readable { text: String::from_utf8(blotted).unwrap_or_default(), broken }
}
