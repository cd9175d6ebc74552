//! Finds operators that read their own output by way of others.

use std::collections::{BTreeMap, VecDeque};

use super::plan::OperatorDraft;

/// Reports each cycle once, at the first of its operators in the file. What only reads from a
/// cycle waits as well, and is not to blame.
pub(super) fn report_cycles(waiting: &[OperatorDraft<'_>]) {
    let mut told: Vec<usize> = Vec::new();
    for start in 0..waiting.len() {
        let Some(cycle) = cycle_through(waiting, start) else {
            continue;
        };
        if cycle.iter().any(|index| told.contains(index)) {
            continue;
        }
        let draft = &waiting[start];
        let back = cycle.get(1).map_or(&draft.name, |index| &waiting[*index].name);
        let input = draft.inputs.iter().find(|input| input.name == *back);
        let span = input.map_or_else(|| draft.section.span.clone(), |input| input.span.clone());
        let (message, help) = if cycle.len() == 1 {
            (format!("`{}` reads its own output", draft.name), "leave it out of its `from`")
        } else {
            let names = cycle.iter().chain([&start]).map(|index| waiting[*index].name.as_str());
            let names: Vec<&str> = names.collect();
            let path = names.join("` reads `");
            (format!("operators read in a circle: `{path}`"), "let one of them read something else")
        };
        draft.section.findings().error_help(span, message, help);
        told.extend(cycle);
    }
}

/// The operators from one back to itself, if it reads its own output by way of them.
fn cycle_through(waiting: &[OperatorDraft<'_>], start: usize) -> Option<Vec<usize>> {
    let inputs_of = |index: usize| {
        let names = waiting[index].inputs.iter().map(|input| input.name.as_str());
        names.filter_map(|name| waiting.iter().position(|draft| draft.name == name))
    };
    // Breadth first, so that the shortest way is told; the way back is kept in `from`.
    let mut from: BTreeMap<usize, usize> = BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(index) = queue.pop_front() {
        for input in inputs_of(index) {
            if input == start {
                let mut path = vec![index];
                while let Some(before) = path.last().and_then(|last| from.get(last)) {
                    path.push(*before);
                }
                path.reverse();
                return Some(path);
            }
            if let std::collections::btree_map::Entry::Vacant(unseen) = from.entry(input) {
                unseen.insert(index);
                queue.push_back(input);
            }
        }
    }
    None
}
