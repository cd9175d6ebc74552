//! Finds the checkpoint to begin with: the newest that is whole, fits the deployment, and is not
//! ahead of any sink.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::directory::{FileKind, FileName};
use super::frame::{self, Damage, Frame};
use super::manifest::{Manifest, Segment};
use super::store::{Store, as_fault};
use crate::contract::epoch::{EpochRecord, FINAL_WATERMARK, Progress};
use crate::contract::fault::Fault;
use crate::contract::position::{Position, Positions};
use crate::contract::sink::Emit;
use crate::contract::state::{KEY_GROUPS, KeyGroup, SavedState};
use crate::graph::{Deployment, InputRef, OperatorNode};
use crate::runtime::final_gate::final_part;

/// The state to begin with.
pub(in crate::runtime) struct Recovered {
    /// What is true at the end of the epoch as of which the state holds.
    pub(in crate::runtime) record: EpochRecord,
    /// The largest timestamp accepted from each source.
    pub(in crate::runtime) largest_us: BTreeMap<String, i64>,
    /// Where each source began when the pipeline was new.
    pub(in crate::runtime) origin: Positions,
    /// The state of the operators.
    pub(in crate::runtime) state: Arc<dyn SavedState>,
}

impl Recovered {
    /// Where a source has come to its final end, if it has.
    pub(in crate::runtime) fn finished(&self, source: &str) -> Option<Position> {
        let is_final = self.record.watermarks.get(source) == Some(&FINAL_WATERMARK);
        self.record.positions.get(source).filter(|_| is_final).cloned()
    }
}

/// What a sink that keeps progress holds.
pub(in crate::runtime) struct SinkHolds<'a> {
    /// Its name.
    pub(in crate::runtime) name: &'a str,
    /// What it recorded; `None` if it is new.
    pub(in crate::runtime) progress: Option<&'a Progress>,
}

/// Why a checkpoint is passed over.
enum Unfit {
    /// It is no longer what was written.
    Damaged(String),
    /// It is not for this deployment or these sinks.
    Other(String),
    /// Nobody knows: the store does not let it be read.
    Fault(Fault),
}

impl Unfit {
    /// A file cannot be read.
    fn unread(file: &str, error: &std::io::Error) -> Self {
        match as_fault(error) {
            Some(fault) => Self::Fault(fault),
            None => Self::Damaged(format!("{file}: {error}")),
        }
    }
}

impl From<Damage> for Unfit {
    fn from(damage: Damage) -> Self {
        Self::Damaged(damage.to_string())
    }
}

/// The newest checkpoint that fits; `None` if there is none, and everything is read again.
pub(in crate::runtime) fn newest(
    store: &Store,
    deployment: &Deployment,
    sinks: &[SinkHolds<'_>],
) -> Result<Option<Recovered>, Fault> {
    if let Some(new) = sinks.iter().find(|sink| sink.progress.is_none()) {
        tracing::debug!(sink = new.name, "the sink is new: everything is read for it");
        return Ok(None);
    }
    let names = store.list().map_err(|error| store.unlisted(error))?;
    let manifests = names.into_iter().rev().filter(|name| name.kind == FileKind::Manifest);
    let mut passed_over = 0;
    for name in manifests {
        let file = store.address(&name.text());
        match load(store, name, deployment, sinks) {
            Ok(recovered) => {
                tracing::info!(checkpoint = %file, "going on from a checkpoint");
                return Ok(Some(recovered));
            }
            Err(Unfit::Damaged(why)) => {
                tracing::warn!("checkpoint {file} is damaged: {why}; trying the one before");
            }
            Err(Unfit::Other(why)) => {
                tracing::info!("checkpoint {file} does not fit: {why}");
            }
            Err(Unfit::Fault(fault)) => return Err(fault),
        }
        passed_over += 1;
    }
    if passed_over > 0 {
        tracing::warn!("none of {passed_over} checkpoints fits; everything is read again");
    }
    Ok(None)
}

fn load(
    store: &Store,
    name: FileName,
    deployment: &Deployment,
    sinks: &[SinkHolds<'_>],
) -> Result<Recovered, Unfit> {
    let file = name.text();
    let bytes = store.read(&file).map_err(|error| Unfit::unread(&file, &error))?;
    let manifest = Manifest::parse(&bytes)?;
    for sink in sinks {
        let Some(progress) = sink.progress else {
            continue;
        };
        if !manifest.record.is_at_or_before(&progress.record) {
            return Err(Unfit::Other(format!("it is ahead of sink `{}`", sink.name)));
        }
        if manifest.origin != progress.origin {
            let why = format!("sink `{}` began at another place of the stream", sink.name);
            return Err(Unfit::Other(why));
        }
    }
    let operators: BTreeMap<String, String> = operators(deployment);
    if let Some((changed, _)) =
        operators.iter().find(|(name, print)| manifest.operators.get(*name) != Some(*print))
    {
        return Err(Unfit::Other(format!("it has no state of operator `{changed}` as it is now")));
    }
    let segments = manifest
        .segments
        .iter()
        .map(|segment| read_segment(store, segment))
        .collect::<Result<Vec<_>, _>>()?;
    let state = Loaded::index(&manifest.segments, segments)?;
    let Manifest { record, largest_us, origin, .. } = manifest;
    Ok(Recovered { record, largest_us, origin, state: Arc::new(state) })
}

/// The operators of a deployment with their fingerprints, and what else has state: the rows that are
/// held back for a sink until they are final.
pub(super) fn operators(deployment: &Deployment) -> BTreeMap<String, String> {
    let print = |node: &OperatorNode| format!("{:032x}", node.fingerprint);
    let operators = deployment.operators.iter().map(|node| (node.name.clone(), print(node)));
    let held = deployment.sinks.iter().flat_map(|sink| {
        sink.inputs.iter().filter_map(move |input| match input {
            InputRef::Operator(index) if sink.context.emit == Emit::Final => {
                let node = &deployment.operators[*index];
                Some((final_part(node, sink), print(node)))
            }
            _ => None,
        })
    });
    operators.chain(held).collect()
}

fn read_segment(store: &Store, segment: &Segment) -> Result<Vec<u8>, Unfit> {
    let file = &segment.file;
    // The name comes from a file that anybody might have written.
    if FileName::parse(file).is_none_or(|name| name.kind != FileKind::Segment) {
        return Err(Unfit::Damaged(format!("`{file}` is no segment's name")));
    }
    let bytes = store.read(file).map_err(|error| Unfit::unread(file, &error))?;
    if bytes.len() as u64 != segment.size_bytes || crc32c::crc32c(&bytes) != segment.crc32c {
        return Err(Unfit::Damaged(format!("{file} is not what was written")));
    }
    Ok(bytes)
}

/// Where a frame is: the index of its segment, and itself.
type Place = (usize, Frame);

/// Segments in memory, still compressed.
struct Loaded {
    segments: Vec<Vec<u8>>,
    /// By part, then by key group: the frames from the last whole one on.
    places: HashMap<String, HashMap<KeyGroup, Vec<Place>>>,
}

impl Loaded {
    fn index(manifest: &[Segment], segments: Vec<Vec<u8>>) -> Result<Self, Damage> {
        // What comes before the last segment that holds a group whole no longer counts.
        let since: Vec<usize> = (0..KEY_GROUPS)
            .map(|group| {
                let holds = |segment: &Segment| (segment.whole.0..segment.whole.1).contains(&group);
                manifest
                    .iter()
                    .rposition(holds)
                    .ok_or_else(|| Damage::new(format!("no segment holds key group {group} whole")))
            })
            .collect::<Result<_, _>>()?;
        let mut places: HashMap<String, HashMap<KeyGroup, Vec<Place>>> = HashMap::new();
        for (index, segment) in segments.iter().enumerate() {
            for frame in frame::read_all(segment)? {
                if index >= since[usize::from(frame.group)] {
                    let groups = places.entry(frame.name.clone()).or_default();
                    groups.entry(frame.group).or_default().push((index, frame));
                }
            }
        }
        Ok(Self { segments, places })
    }
}

impl SavedState for Loaded {
    fn read(&self, part: &str, fingerprint: u128, group: KeyGroup) -> Result<Vec<Vec<u8>>, Fault> {
        let places = self.places.get(part).and_then(|groups| groups.get(&group));
        let items = places.into_iter().flatten().map(|(segment, frame)| {
            if frame.fingerprint != fingerprint {
                return Err(Damage::new(format!("a frame of `{part}` has another meaning")));
            }
            frame.items(&self.segments[*segment])
        });
        items.collect::<Result<_, _>>().map_err(|damage| Fault::halt(format!("{damage}")))
    }
}
