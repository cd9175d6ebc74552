//! Frames: the items of one key group of one part of the state, with all that is needed to notice
//! that they are not what they should be.
//!
//! A frame is, in little-endian numbers: the magic `wwst`; the format's version (u16); the key group
//! (u16); the fingerprint of the part (u128); the length of its name (u16) and the name; the length
//! of the items (u32), and compressed (u32); the CRC-32C of the frame without this field (u32); and
//! the items, bincode rows one after another, compressed by zstd.

use std::io::Write;
use std::ops::Range;

use zstd::bulk::Compressor;

use crate::contract::state::{KEY_GROUPS, KeyGroup};

const MAGIC: [u8; 4] = *b"wwst";

/// How frames and the items of operators in them are written; a reader refuses any other. Whoever
/// changes what an operator saves counts this up.
const VERSION: u16 = 3;

/// Fast rather than small: most of a checkpoint is read never, and the rest once.
const COMPRESSION_LEVEL: i32 = -3;

/// What is before the name.
const HEAD_BYTES: usize = 4 + 2 + 2 + 16 + 2;

/// The frame that stands at some place of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) name: String,
    pub(super) fingerprint: u128,
    pub(super) group: KeyGroup,
    /// How long the items are, uncompressed.
    items_bytes: usize,
    /// Where in the segment they are, compressed.
    compressed: Range<usize>,
}

/// Why bytes are not what was written.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Damage(pub(super) String);

impl Damage {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

/// What compresses the items of frames, one frame after another.
pub(super) fn compressor() -> std::io::Result<Compressor<'static>> {
    Compressor::new(COMPRESSION_LEVEL)
}

/// Appends a frame to a segment.
pub(super) fn write(
    segment: &mut Vec<u8>,
    compressor: &mut Compressor<'_>,
    name: &str,
    fingerprint: u128,
    group: KeyGroup,
    items: &[u8],
) -> std::io::Result<()> {
    let too_long = |_| std::io::Error::other(format!("the state of `{name}` is too large"));
    let compressed = compressor.compress(items)?;
    let start = segment.len();
    segment.write_all(&MAGIC)?;
    segment.write_all(&VERSION.to_le_bytes())?;
    segment.write_all(&group.to_le_bytes())?;
    segment.write_all(&fingerprint.to_le_bytes())?;
    segment.write_all(&u16::try_from(name.len()).map_err(too_long)?.to_le_bytes())?;
    segment.write_all(name.as_bytes())?;
    segment.write_all(&u32::try_from(items.len()).map_err(too_long)?.to_le_bytes())?;
    segment.write_all(&u32::try_from(compressed.len()).map_err(too_long)?.to_le_bytes())?;
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&segment[start..]), &compressed);
    segment.write_all(&checksum.to_le_bytes())?;
    segment.write_all(&compressed)
}

/// All frames of a segment.
pub(super) fn read_all(segment: &[u8]) -> Result<Vec<Frame>, Damage> {
    let mut frames = Vec::new();
    let mut at = 0;
    while at < segment.len() {
        let frame = read(segment, at)?;
        at = frame.compressed.end;
        frames.push(frame);
    }
    Ok(frames)
}

/// The frame that begins at `start`.
fn read(segment: &[u8], start: usize) -> Result<Frame, Damage> {
    let mut at = start;
    let mut take = |count: usize| {
        let bytes = segment.get(at..at.saturating_add(count));
        at = at.saturating_add(count);
        bytes.ok_or_else(|| Damage::new(format!("the frame at byte {start} is cut off")))
    };
    if take(4)? != MAGIC {
        return Err(Damage::new(format!("there is no frame at byte {start}")));
    }
    let version = u16::from_le_bytes(array(take(2)?));
    let group = u16::from_le_bytes(array(take(2)?));
    let fingerprint = u128::from_le_bytes(array(take(16)?));
    let name_length = u16::from_le_bytes(array(take(2)?));
    let name = take(usize::from(name_length))?;
    let items_bytes = u32::from_le_bytes(array(take(4)?)) as usize;
    let compressed_bytes = u32::from_le_bytes(array(take(4)?)) as usize;
    let checksum = u32::from_le_bytes(array(take(4)?));
    let compressed = take(compressed_bytes)?;
    let head_end = start + HEAD_BYTES + usize::from(name_length) + 8;
    let computed = crc32c::crc32c_append(crc32c::crc32c(&segment[start..head_end]), compressed);
    if computed != checksum {
        return Err(Damage::new(format!("the frame at byte {start} has another checksum")));
    }
    // What the checksum vouches for was written so: only the version can be another.
    if version != VERSION || group >= KEY_GROUPS {
        return Err(Damage::new(format!(
            "the frame at byte {start} has format {version}, and this version of waterwheel reads \
             format {VERSION}"
        )));
    }
    let name = String::from_utf8_lossy(name).into_owned();
    let compressed = at - compressed_bytes..at;
    Ok(Frame { name, fingerprint, group, items_bytes, compressed })
}

impl Frame {
    /// The items of a frame of this segment.
    pub(super) fn items(&self, segment: &[u8]) -> Result<Vec<u8>, Damage> {
        let compressed = segment.get(self.compressed.clone()).unwrap_or_default();
        let items = zstd::bulk::decompress(compressed, self.items_bytes)
            .map_err(|error| Damage::new(format!("a frame of `{}`: {error}", self.name)))?;
        if items.len() != self.items_bytes {
            return Err(Damage::new(format!("a frame of `{}` has another length", self.name)));
        }
        Ok(items)
    }
}

/// The bytes as an array; the caller took just so many.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn segment() -> Vec<u8> {
        let (mut segment, mut compressor) = (Vec::new(), compressor().unwrap());
        for group in [0, 7, 1023] {
            let items: Vec<u8> =
                (0..200_u32).map(|byte| (byte * u32::from(group | 3) / 5) as u8).collect();
            write(&mut segment, &mut compressor, "volume.windows", 1 << 100, group, &items)
                .unwrap();
        }
        segment
    }

    #[test]
    fn frames_read_back() {
        let segment = segment();
        let frames = read_all(&segment).unwrap();
        assert_eq!(frames.iter().map(|frame| frame.group).collect::<Vec<_>>(), [0, 7, 1023]);
        assert_eq!(frames[1].fingerprint, 1 << 100);
        assert_eq!(frames[1].items(&segment).unwrap().len(), 200);
        assert_eq!(read_all(&[]).unwrap(), []);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(super::super::damages()))]

        #[test]
        fn every_flipped_bit_is_noticed(bit in 0..segment().len() * 8) {
            let mut damaged = segment();
            damaged[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(read_all(&damaged).is_err());
        }

        #[test]
        fn a_segment_that_is_cut_off_is_noticed(at in 1..segment().len()) {
            let whole = segment();
            let frames = read_all(&whole).unwrap();
            let ends: Vec<usize> = frames.iter().map(|frame| frame.compressed.end).collect();
            // Cut between two frames it is one of fewer: the manifest knows its length.
            prop_assert_eq!(read_all(&whole[..at]).is_err(), !ends.contains(&at));
        }
    }
}
