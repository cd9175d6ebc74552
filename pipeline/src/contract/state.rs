//! How an operator's state outlives its process: saved as of an epoch, by key group, and given back
//! to whichever worker owns the group next time.
//!
//! Keys fall into [`KEY_GROUPS`] groups by a hash that never changes, and a worker owns whole groups,
//! so that a checkpoint can be read by any number of workers. A stateful fold gives each of its parts
//! a name ([`Keeper::part`]). When the runtime asks for a checkpoint, the fold writes after that
//! epoch, for some groups everything ([`Saver::is_whole`]), for the others what changed since it was
//! last asked. Giving back is the same in order: the last whole record of a group, and all later
//! changes.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use bincode::Options;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::epoch::Epoch;
use super::fault::Fault;

/// How many groups the keys of an operator fall into: never another number, since it is in every
/// checkpoint.
pub const KEY_GROUPS: u16 = 1024;

/// One of the [`KEY_GROUPS`].
pub type KeyGroup = u16;

/// The group of a key, by the key's hash. From the upper half: hash tables place entries by the
/// lower one, and all of a worker's keys would share it.
pub fn key_group(hash: u64) -> KeyGroup {
    ((hash >> 32) % u64::from(KEY_GROUPS)) as KeyGroup
}

/// Where a key belongs, for an exchange: the remainder by the number of workers is its owner.
pub fn route(hash: u64) -> u64 {
    u64::from(key_group(hash))
}

/// What one worker saved of one part of the state, encoded, by key group.
#[derive(Clone, Debug)]
pub struct SavedPart {
    /// The part's name, unique in the deployment.
    pub name: Arc<str>,
    /// A hash over everything that gives the state its meaning.
    pub fingerprint: u128,
    /// Items of every group that has any.
    pub groups: Vec<(KeyGroup, Vec<u8>)>,
}

/// A checkpoint that is given back.
pub trait SavedState: Send + Sync {
    /// The encoded items of a group, in the order in which they were saved under this fingerprint.
    ///
    /// # Errors
    /// They cannot be read, or have another meaning.
    fn read(&self, part: &str, fingerprint: u128, group: KeyGroup) -> Result<Vec<Vec<u8>>, Fault>;
}

/// What a worker restores.
#[derive(Clone)]
pub struct Restore {
    /// The checkpoint.
    pub state: Arc<dyn SavedState>,
    /// The epoch of this run as of which the state holds: the one before its first.
    pub epoch: Epoch,
    /// The worker's index.
    pub worker: usize,
    /// How many workers there are.
    pub workers: usize,
}

/// One worker's side of checkpoints, shared by its operators. The default one keeps nothing.
#[derive(Clone, Default)]
pub struct Keeper(Option<Rc<Kept>>);

#[derive(Default)]
struct Kept {
    /// The groups to be saved whole at an epoch.
    requests: RefCell<BTreeMap<Epoch, Range<KeyGroup>>>,
    saved: RefCell<BTreeMap<Epoch, Vec<SavedPart>>>,
    restore: Option<Restore>,
    is_restoring: Cell<bool>,
    fault: RefCell<Option<Fault>>,
}

impl Keeper {
    /// A keeper for a run that takes checkpoints, or begins with one.
    pub fn new(restore: Option<Restore>) -> Self {
        let is_restoring = Cell::new(restore.is_some());
        Self(Some(Rc::new(Kept { restore, is_restoring, ..Kept::default() })))
    }

    /// Asks every part for its state after an epoch; `whole` are the groups to be saved whole. Must
    /// be asked before the epoch is closed.
    pub fn request(&self, epoch: Epoch, whole: Range<KeyGroup>) {
        if let Some(kept) = &self.0 {
            kept.requests.borrow_mut().insert(epoch, whole);
        }
    }

    /// What the parts saved as of an epoch that has flowed through; `None` if nobody asked.
    pub fn take(&self, epoch: Epoch) -> Option<Vec<SavedPart>> {
        let kept = self.0.as_ref()?;
        kept.requests.borrow_mut().remove(&epoch)?;
        Some(kept.saved.borrow_mut().remove(&epoch).unwrap_or_default())
    }

    /// The first thing that went wrong in saving or restoring.
    pub fn fault(&self) -> Option<Fault> {
        self.0.as_ref()?.fault.borrow_mut().take()
    }

    /// True until everything restored lies in its place: what comes out until then was out before.
    pub fn is_restoring(&self) -> bool {
        self.0.as_ref().is_some_and(|kept| kept.is_restoring.get())
    }

    /// Everything restored lies in its place.
    pub fn restored(&self) {
        if let Some(kept) = &self.0 {
            kept.is_restoring.set(false);
        }
    }

    /// A part of the state by a name that is unique in the deployment.
    pub fn part(&self, name: &str, fingerprint: u128) -> StatePart {
        StatePart { keeper: self.clone(), name: name.into(), fingerprint }
    }
}

/// One named part of an operator's state on one worker.
#[derive(Clone)]
pub struct StatePart {
    keeper: Keeper,
    name: Arc<str>,
    fingerprint: u128,
}

impl StatePart {
    /// True if checkpoints are taken, so that a part must know what changes between them.
    pub fn is_kept(&self) -> bool {
        self.keeper.0.is_some()
    }

    /// True until everything restored lies in its place.
    pub fn is_restoring(&self) -> bool {
        self.keeper.is_restoring()
    }

    /// As of which epoch state is restored, if any is.
    pub fn restored_epoch(&self) -> Option<Epoch> {
        Some(self.keeper.0.as_ref()?.restore.as_ref()?.epoch)
    }

    /// What to save after this epoch; `None` if nobody asks.
    pub fn saver(&self, epoch: Epoch) -> Option<Saver> {
        let whole = self.keeper.0.as_ref()?.requests.borrow().get(&epoch)?.clone();
        Some(Saver { epoch, whole, groups: vec![Vec::new(); usize::from(KEY_GROUPS)], fault: None })
    }

    /// Hands in what was saved.
    pub fn save(&self, saver: Saver) {
        let Some(kept) = &self.keeper.0 else {
            return;
        };
        if let Some(fault) = saver.fault {
            kept.fault.borrow_mut().get_or_insert(fault);
        }
        let groups: Vec<(KeyGroup, Vec<u8>)> =
            (0..KEY_GROUPS).zip(saver.groups).filter(|(_, items)| !items.is_empty()).collect();
        let part = SavedPart { name: self.name.clone(), fingerprint: self.fingerprint, groups };
        kept.saved.borrow_mut().entry(saver.epoch).or_default().push(part);
    }

    /// Gives back what this worker owns, item by item in the order in which they were saved.
    pub fn restore<T: DeserializeOwned>(&self, mut apply: impl FnMut(T)) {
        let Some(kept) = &self.keeper.0 else {
            return;
        };
        let Some(Restore { state, worker, workers, .. }) = &kept.restore else {
            return;
        };
        for group in (*worker..usize::from(KEY_GROUPS)).step_by((*workers).max(1)) {
            let restored = state
                .read(&self.name, self.fingerprint, group as KeyGroup)
                .and_then(|runs| runs.iter().try_for_each(|run| decode(run, &mut apply)));
            if let Err(fault) = restored {
                let fault = fault.within(format!("the saved state of `{}`", self.name));
                kept.fault.borrow_mut().get_or_insert(fault);
                return;
            }
        }
    }
}

/// Reads items until the bytes end.
fn decode<T: DeserializeOwned>(mut bytes: &[u8], apply: &mut impl FnMut(T)) -> Result<(), Fault> {
    while !bytes.is_empty() {
        // The limit keeps a length that is wrong from asking for all memory.
        let options = bincode::options()
            .with_fixint_encoding()
            .allow_trailing_bytes()
            .with_limit(bytes.len() as u64);
        let item = options
            .deserialize_from(&mut bytes)
            .map_err(|error| Fault::halt(format!("an item cannot be read: {error}")))?;
        apply(item);
    }
    Ok(())
}

/// Where a part writes its state.
pub struct Saver {
    epoch: Epoch,
    whole: Range<KeyGroup>,
    groups: Vec<Vec<u8>>,
    fault: Option<Fault>,
}

impl Saver {
    /// True if everything of this group must be written, not only what changed.
    pub fn is_whole(&self, group: KeyGroup) -> bool {
        self.whole.contains(&group)
    }

    /// True if any group must be written whole.
    pub fn has_whole(&self) -> bool {
        !self.whole.is_empty()
    }

    /// Writes one item.
    pub fn put<T: Serialize>(&mut self, group: KeyGroup, item: &T) {
        let Some(items) = self.groups.get_mut(usize::from(group)) else {
            return;
        };
        if let Err(error) = bincode::serialize_into(items, item) {
            self.fault = Some(Fault::halt(format!("state cannot be saved: {error}")));
        }
    }
}
