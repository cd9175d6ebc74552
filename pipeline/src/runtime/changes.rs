//! What a change of the deployment means for sinks that hold rows of the old one: a list of what is
//! kept, rewritten and read again, and, where that is wanted, doing it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::begin;
use super::pipeline::Claimed;
use crate::contract::epoch::{EpochRecord, Generation, Progress};
use crate::contract::failpoint;
use crate::contract::fault::Fault;
use crate::contract::position::Positions;
use crate::graph::fingerprint::{PLACE, parts};
use crate::graph::{Deployment, InputRef, SinkNode};

/// What to do where a sink holds rows that another configuration computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnChange {
    /// Stop, and say what would be done.
    Halt,
    /// Empty the sink and fill it anew from where the pipeline began.
    Rebuild,
}

/// Makes every claimed sink one that can be gone on with.
pub(super) async fn settle(
    deployment: &Deployment,
    generation: Generation,
    on_change: OnChange,
    claimed: &mut [Claimed],
) -> Result<(), Fault> {
    let changes = Changes::find(deployment, claimed);
    if changes.is_empty() {
        forget_changed_sources(deployment, claimed);
        return Ok(());
    }
    if on_change == OnChange::Halt {
        return Err(changes.fault());
    }
    for index in changes.rewritten.keys() {
        let refused = claimed[*index].sink.check_reset();
        refused.map_err(|fault| fault.within(sink_name(deployment, *index)))?;
    }
    tracing::info!("rebuilding:{}", changes.list());
    forget_changed_sources(deployment, claimed);
    let recorded = || claimed.iter().filter_map(|claimed| claimed.progress.as_ref());
    let epoch = recorded().map(|progress| progress.record.epoch).max().unwrap_or(0);
    let origin = origin(claimed);
    let kept =
        claimed.iter().enumerate().filter(|(index, _)| !changes.rewritten.contains_key(index));
    let now = begin::furthest(kept.map(|(_, claimed)| claimed));
    for index in changes.rewritten.into_keys() {
        let node = &deployment.sinks[index];
        let now = now.clone().filter(|_| node.begins_now);
        // It holds what the pipeline's result is over nothing, as of where the pipeline began.
        let now = now.unwrap_or_else(|| Progress {
            record: EpochRecord {
                epoch,
                generation,
                positions: origin.clone(),
                watermarks: BTreeMap::new(),
            },
            origin: origin.clone(),
            fingerprint: String::new(),
            finished: false,
        });
        let begin = begin::progress(now, generation, origin.clone(), &node.fingerprint);
        let reset = claimed[index].sink.reset(&begin).await;
        reset.map_err(|fault| fault.within(sink_name(deployment, index)))?;
        failpoint::reach("rebuild.sink.emptied");
        claimed[index].progress = Some(begin);
    }
    Ok(())
}

/// Where each source began when the pipeline was new, as far as any sink knows.
pub(super) fn origin(claimed: &[Claimed]) -> Positions {
    let recorded = claimed.iter().filter_map(|claimed| claimed.progress.as_ref());
    let mut origin = Positions::new();
    for (source, position) in recorded.flat_map(|progress| &progress.origin) {
        origin.entry(source.clone()).or_insert_with(|| position.clone());
    }
    origin
}

/// Takes a source for one that has not been read where its messages are no longer what they were
/// when a sink noted its position. The rows of a sink that is kept do not rest on it.
fn forget_changed_sources(deployment: &Deployment, claimed: &mut [Claimed]) {
    for claimed in claimed.iter_mut() {
        let Some(progress) = &mut claimed.progress else { continue };
        for node in &deployment.sources {
            if progress.origin.get(&node.name).is_some_and(|origin| !node.spec.may_hold(origin)) {
                progress.origin.remove(&node.name);
            }
        }
    }
    let origin = origin(claimed);
    for (node, claimed) in deployment.sinks.iter().zip(claimed) {
        let Some(progress) = &mut claimed.progress else { continue };
        let (now, then) = (parts(&node.fingerprint), parts(&progress.fingerprint));
        for source in &deployment.sources {
            let name = source.name.as_str();
            if then.contains_key(name) && now.get(name) == then.get(name) {
                continue;
            }
            progress.record.watermarks.remove(name);
            match origin.get(name) {
                Some(begin) => {
                    progress.record.positions.insert(name.to_owned(), begin.clone());
                }
                None => drop(progress.record.positions.remove(name)),
            }
        }
    }
}

fn sink_name(deployment: &Deployment, index: usize) -> String {
    format!("sink `{}`", deployment.sinks[index].name)
}

/// What a change of the deployment does.
struct Changes {
    /// By the index of the sink: why.
    rewritten: BTreeMap<usize, Vec<String>>,
    /// The sinks that are rewritten, by name.
    rewritten_names: Vec<String>,
    /// The sinks whose rows are right.
    kept: Vec<String>,
    /// The operators that compute what they did.
    same: Vec<String>,
    /// The operators that compute something else, and why.
    rebuilt: Vec<String>,
    /// From where each source is read.
    read_again: Vec<String>,
}

impl Changes {
    fn find(deployment: &Deployment, claimed: &[Claimed]) -> Self {
        let mut rewritten = BTreeMap::new();
        let (mut rewritten_names, mut kept) = (Vec::new(), Vec::new());
        // The sources and operators that have another meaning now, and all that sinks know of.
        let (mut changed, mut known) = (BTreeSet::new(), BTreeSet::new());
        // What any sink rests on now.
        let mut wanted = BTreeSet::new();
        for (index, (node, claimed)) in deployment.sinks.iter().zip(claimed).enumerate() {
            wanted.extend(parts(&node.fingerprint).keys().map(|name| (*name).to_owned()));
            let Some(progress) = &claimed.progress else { continue };
            known.extend(parts(&progress.fingerprint).keys().map(|name| (*name).to_owned()));
            if node.means(&progress.fingerprint) {
                kept.push(node.name.clone());
                continue;
            }
            let (now, then) = (parts(&node.fingerprint), parts(&progress.fingerprint));
            let is_other =
                |(name, hash): &(&&str, &&str)| then.get(**name).is_some_and(|then| then != *hash);
            changed.extend(now.iter().filter(is_other).map(|(name, _)| (*name).to_owned()));
            rewritten.insert(index, reasons(node, &now, &then));
            rewritten_names.push(node.name.clone());
        }
        let (mut same, mut rebuilt) = (Vec::new(), Vec::new());
        for node in &deployment.operators {
            let is_changed = |input: &&InputRef| changed.contains(deployment.input_name(**input));
            let inputs: Vec<String> = node
                .inputs
                .iter()
                .filter(is_changed)
                .map(|input| format!("`{}`", deployment.input_name(*input)))
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect();
            let name = &node.name;
            if !inputs.is_empty() {
                // No sink may know it.
                changed.insert(name.clone());
                rebuilt.push(format!("{name} (reads {})", inputs.join(", ")));
            } else if changed.contains(name) {
                rebuilt.push(format!("{name} (its own settings)"));
            } else if known.contains(name) {
                same.push(name.clone());
            } else if wanted.contains(name) {
                rebuilt.push(format!("{name} (new)"));
            }
        }
        let began = origin(claimed);
        let read_again = deployment
            .sources
            .iter()
            .map(|node| {
                let change = if changed.contains(&node.name) { ", changed" } else { "" };
                match began.get(&node.name).filter(|began| node.spec.may_hold(began)) {
                    Some(began) => format!(
                        "{} (from message {} of {}, where the pipeline began{change})",
                        node.name,
                        began.ordinal + 1,
                        began.stream
                    ),
                    None => format!("{} (from its start{change})", node.name),
                }
            })
            .collect();
        Self { rewritten, rewritten_names, kept, same, rebuilt, read_again }
    }

    fn is_empty(&self) -> bool {
        self.rewritten.is_empty()
    }

    fn fault(&self) -> Fault {
        let (noun, verb) = match self.rewritten_names.as_slice() {
            [_] => ("sink", "holds"),
            _ => ("sinks", "hold"),
        };
        let names: Vec<String> =
            self.rewritten_names.iter().map(|name| format!("`{name}`")).collect();
        Fault::halt(format!(
            "the deployment was changed: {noun} {} {verb} rows that another configuration computed{}",
            names.join(", "),
            self.list()
        ))
        .help(
            "`waterwheel run FILE --rebuild` does this; or run the old configuration; or give the \
             pipeline another `name`, and the sinks other tables, directories or subjects",
        )
    }

    /// Every line begins with a line break.
    fn list(&self) -> String {
        let rewritten = self.rewritten_names.iter().zip(self.rewritten.values());
        let rewritten: Vec<String> =
            rewritten.map(|(name, why)| format!("{name} ({})", why.join("; "))).collect();
        let mut list = String::new();
        for (what, names) in [
            ("sinks kept as they are", &self.kept),
            ("sinks emptied and filled again", &rewritten),
            ("operators unchanged", &self.same),
            ("operators computed anew", &self.rebuilt),
            ("sources read again", &self.read_again),
        ] {
            let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            // Writing to a String cannot fail.
            let _ = write!(list, "\n- {what}: {names}");
        }
        list
    }
}

/// Why the rows of a sink are no longer right.
fn reasons(
    node: &SinkNode,
    now: &BTreeMap<&str, &str>,
    then: &BTreeMap<&str, &str>,
) -> Vec<String> {
    let mut reasons = Vec::new();
    for input in &node.context.inputs {
        let name = input.name.as_str();
        let place = format!("{PLACE}{name}");
        if !then.contains_key(place.as_str()) {
            reasons.push(format!("`{name}` is new to it"));
        } else if now.get(name) != then.get(name) {
            reasons.push(format!("`{name}` changed"));
        } else if now.get(place.as_str()) != then.get(place.as_str()) {
            reasons.push(format!("rows of `{name}` go elsewhere, or are written otherwise"));
        }
    }
    let inputs = then.keys().filter_map(|name| name.strip_prefix(PLACE));
    for name in inputs.filter(|name| !now.contains_key(format!("{PLACE}{name}").as_str())) {
        reasons.push(format!("it no longer takes `{name}`"));
    }
    if then.is_empty() {
        // An earlier version kept one hash of everything.
        return vec!["what was changed is not known".to_owned()];
    }
    reasons
}
