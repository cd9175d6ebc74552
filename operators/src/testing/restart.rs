//! Runs that end in the middle and go on from what was saved, with another number of workers.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use waterwheel_pipeline::contract::fault::Fault;
use waterwheel_pipeline::contract::state::{KEY_GROUPS, KeyGroup, SavedPart, SavedState};
use waterwheel_pipeline::graph::Deployment;

use super::drive::{EpochOutcome, Stretch, run_stretch};
use super::log::{Script, Step};
use super::random::Random;

/// What was saved at one epoch.
struct Segment {
    whole: Range<KeyGroup>,
    items: HashMap<(String, KeyGroup), Vec<Vec<u8>>>,
}

/// Which rows a run brings out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Every change.
    Changes,
    /// Those that are final; others as well in some of the stretches.
    Final,
}

/// Saved state in memory, put together as a checkpoint is.
struct Chain(Vec<Segment>);

impl SavedState for Chain {
    fn read(&self, part: &str, _: u128, group: KeyGroup) -> Result<Vec<Vec<u8>>, Fault> {
        let since = self.0.iter().rposition(|segment| segment.whole.contains(&group));
        let segments = &self.0[since.expect("the first segment holds everything")..];
        let key = (part.to_owned(), group);
        Ok(segments
            .iter()
            .filter_map(|segment| segment.items.get(&key))
            .flatten()
            .cloned()
            .collect())
    }
}

/// Runs a script as [`super::run`] does, but for most scripts in several stretches: each saves its
/// state now and then, and the next goes on from what was saved last or, like after a crash, before.
pub(crate) fn run_restarted(
    deployment: &Arc<Deployment>,
    workers: usize,
    script: &Script,
    wanted: Wanted,
) -> Result<Vec<EpochOutcome>, String> {
    let epochs = script.steps.iter().filter(|step| matches!(step, Step::Epoch)).count();
    // Decided by the script, so that a shorter one that fails is the same test.
    let mut random = Random::new((epochs * 31 + script.steps.len()) as u64);
    let restarts = if epochs < 2 { 0 } else { random.below(4) };
    let mut outcomes: Vec<EpochOutcome> = Vec::new();
    let mut stretch = Stretch::default();
    for round in 0..=restarts {
        stretch.saves = saves(&mut random, stretch.first, epochs);
        stretch.only_final = wanted == Wanted::Final && random.once_in(2);
        let workers = if round == 0 { workers } else { 1 + random.below(4) };
        let run = run_stretch(deployment, workers, script, &stretch)?;
        let kept: Vec<usize> = run.saved.keys().copied().collect();
        outcomes.truncate(stretch.first);
        outcomes.extend(run.epochs);
        if kept.is_empty() || round == restarts {
            break;
        }
        // What came after the checkpoint is computed again, and must be the same.
        let last = kept[random.below(kept.len())];
        let chain = kept
            .iter()
            .filter(|epoch| **epoch <= last)
            .map(|epoch| segment(stretch.saves[epoch].clone(), run.saved[epoch].clone()));
        stretch.restore = Some(Arc::new(Chain(chain.collect())));
        stretch.first = last + 1;
    }
    Ok(outcomes)
}

/// After which epochs to save: the first time everything, later a slice of the key groups.
fn saves(random: &mut Random, first: usize, epochs: usize) -> BTreeMap<usize, Range<KeyGroup>> {
    let mut saves = BTreeMap::new();
    // The last epoch that is not final: nothing is gone on with after a final one.
    for epoch in first..epochs.saturating_sub(1) {
        if random.below(3) == 0 {
            continue;
        }
        let whole = match (saves.is_empty(), random.below(3)) {
            (true, _) => 0..KEY_GROUPS,
            (false, 0) => 0..0,
            (false, _) => {
                let start = random.below(usize::from(KEY_GROUPS)) as KeyGroup;
                start..start + (KEY_GROUPS - start) / 2
            }
        };
        saves.insert(epoch, whole);
    }
    saves
}

fn segment(whole: Range<KeyGroup>, parts: Vec<SavedPart>) -> Segment {
    let mut items: HashMap<(String, KeyGroup), Vec<Vec<u8>>> = HashMap::new();
    for part in parts {
        for (group, bytes) in part.groups {
            items.entry((part.name.to_string(), group)).or_default().push(bytes);
        }
    }
    Segment { whole, items }
}
