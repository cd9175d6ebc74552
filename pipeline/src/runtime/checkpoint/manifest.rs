//! Manifests: which segments make a checkpoint, and what was true when it was taken.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::directory::{FileKind, FileName};
use super::frame::Damage;
use crate::contract::epoch::EpochRecord;
use crate::contract::position::Positions;
use crate::contract::state::KeyGroup;

/// How manifests are written; a reader refuses any other.
const VERSION: u32 = 1;

/// A checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    version: u32,
    /// What is true at the end of the epoch as of which the state holds.
    pub(super) record: EpochRecord,
    /// The largest timestamp accepted from each source: what lateness is judged by.
    pub(super) largest_us: BTreeMap<String, i64>,
    /// Where each source began when the pipeline was new.
    pub(super) origin: Positions,
    /// The operators, with a hash over what gives each one's state its meaning.
    pub(super) operators: BTreeMap<String, String>,
    /// The oldest first; the first one holds all key groups whole.
    pub(super) segments: Vec<Segment>,
    /// Over the manifest with this field empty.
    checksum: String,
}

/// One segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Segment {
    pub(super) file: String,
    pub(super) size_bytes: u64,
    pub(super) crc32c: u32,
    /// The key groups of which it holds everything, from the first to before the last.
    pub(super) whole: (KeyGroup, KeyGroup),
}

impl Manifest {
    pub(super) fn new(
        record: EpochRecord,
        largest_us: BTreeMap<String, i64>,
        origin: Positions,
        operators: BTreeMap<String, String>,
        segments: Vec<Segment>,
    ) -> Self {
        let checksum = String::new();
        Self { version: VERSION, record, largest_us, origin, operators, segments, checksum }
    }

    pub(super) fn name(&self) -> FileName {
        let EpochRecord { epoch, generation, .. } = self.record;
        FileName { generation, epoch, kind: FileKind::Manifest }
    }

    pub(super) fn to_bytes(&self) -> std::io::Result<Vec<u8>> {
        let mut sealed = self.clone();
        sealed.checksum = sealed.computed_checksum()?;
        Ok(serde_json::to_vec(&sealed)?)
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Damage> {
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        let damaged = |error: serde_json::Error| Damage::new(format!("it cannot be read: {error}"));
        let Head { version } = serde_json::from_slice(bytes).map_err(damaged)?;
        if version != VERSION {
            return Err(Damage::new(format!(
                "it has format {version}, and this version of waterwheel reads format {VERSION}"
            )));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(damaged)?;
        let computed = manifest.computed_checksum().map_err(|error| Damage(error.to_string()))?;
        if computed != manifest.checksum {
            return Err(Damage::new("it has another checksum"));
        }
        // What does not change the meaning of JSON would not change the checksum either.
        if manifest.to_bytes().ok().as_deref() != Some(bytes) {
            return Err(Damage::new("it is written otherwise than waterwheel writes it"));
        }
        Ok(manifest)
    }

    fn computed_checksum(&self) -> std::io::Result<String> {
        let unsealed = Self { checksum: String::new(), ..self.clone() };
        Ok(format!("{:08x}", crc32c::crc32c(&serde_json::to_vec(&unsealed)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::position::Position;
    use proptest::prelude::*;

    fn manifest() -> Manifest {
        let position = Position {
            stream: "S".to_owned(),
            created: 7,
            ordinal: 90,
            fingerprint: 12345,
            gaps: Vec::new(),
            messages: 0,
        };
        let positions: Positions = [("events".to_owned(), position)].into();
        let watermarks = [("events".to_owned(), 1_000)].into();
        let record =
            EpochRecord { epoch: 5, generation: 2, positions: positions.clone(), watermarks };
        let segment =
            Segment { file: "a.segment".to_owned(), size_bytes: 10, crc32c: 99, whole: (0, 1024) };
        let operators = [("volume".to_owned(), "ff".to_owned())].into();
        Manifest::new(
            record,
            [("events".to_owned(), 1_500)].into(),
            positions,
            operators,
            vec![segment],
        )
    }

    #[test]
    fn a_manifest_reads_back() {
        let written = manifest();
        let read = Manifest::parse(&written.to_bytes().unwrap()).unwrap();
        assert_eq!(Manifest { checksum: String::new(), ..read }, written);
    }

    #[test]
    fn another_format_is_named() {
        let text = String::from_utf8(manifest().to_bytes().unwrap()).unwrap();
        let newer = text.replace("\"version\":1", "\"version\":2");
        let damage = Manifest::parse(newer.as_bytes()).unwrap_err();
        assert!(damage.to_string().contains("format 2"), "{damage}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(super::super::damages()))]

        #[test]
        fn every_flipped_bit_is_noticed(bit in 0..manifest().to_bytes().unwrap().len() * 8) {
            let mut damaged = manifest().to_bytes().unwrap();
            damaged[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Manifest::parse(&damaged).is_err());
        }
    }
}
