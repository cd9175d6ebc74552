//! From events and causes to rows: the relation, kept up to date by differential's iteration.
//!
//! To walk from cause to cause would take as many rounds as a chain is long, and for each event: time
//! quadratic in the chain. So chains are doubled first ([`jumps`]): from every event a jump over 1, 2,
//! 4, ... causes, each joined of two of the level below. A chain of n events has about n · log n
//! jumps in log n rounds, and one more event adds log n of them. Then each event walks to its root
//! ([`walk`]): always by the longest jump that stays within its bound of time, which takes log n steps.
//! A jump of the highest level in reach means that the way has no end: see [`uncoiled`].

use std::sync::Arc;

use differential_dataflow::VecCollection;
use differential_dataflow::operators::iterate::Variable;
use serde::{Deserialize, Serialize};
use timely::order::Product;
use waterwheel_config::value::Row;
use waterwheel_pipeline::contract::epoch::Epoch;
use xxhash_rust::xxh3::xxh3_128;

use super::reading::{Facts, id_hash};
use super::rows::{Sizes, row};

/// A relation of the outer scope.
type Relation<'s, D> = VecCollection<'s, Epoch, D, isize>;

/// Stands for an event: for its id and time, since one id may come back much later.
type Node = u128;

/// Jumps of this level go over 2^level causes; no chain is longer, unless it is a cycle.
const LEVEL_MOST: u8 = 20;

/// A way from one event up the chain of its causes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Jump {
    to: Node,
    /// The times of all events of the way, both ends included.
    earliest_us: i64,
    latest_us: i64,
    /// The least id of the way, the beginning left out, and whose it is.
    least: (Arc<str>, Node),
}

impl Jump {
    /// One way after the other, unless it spans more time than any event sees.
    fn then(&self, next: &Self, span_us: i64) -> Option<Self> {
        let earliest_us = self.earliest_us.min(next.earliest_us);
        let latest_us = self.latest_us.max(next.latest_us);
        let is_seen = latest_us.saturating_sub(earliest_us) <= span_us;
        let least = self.least.clone().min(next.least.clone());
        is_seen.then_some(Self { to: next.to, earliest_us, latest_us, least })
    }
}

/// A jump by its beginning and level.
type LevelJump = ((Node, u8), Jump);

/// An event with all jumps that begin at it, by level.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Record {
    facts: Facts,
    jumps: Vec<Jump>,
}

/// What a record is made of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Piece {
    Facts(Facts),
    Jump(u8, Jump),
}

/// An event on its way to the root.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Walker {
    event: Facts,
    depth: i64,
    /// True if its way ended nowhere, and it walks where cycles are cut.
    is_uncoiled: bool,
}

impl Walker {
    /// The longest jump in its bound of time.
    fn jump<'r>(&self, record: &'r Record, within_us: i64) -> Option<(u8, &'r Jump)> {
        let from_us = self.event.time_us.saturating_sub(within_us);
        let to_us = self.event.time_us.saturating_add(within_us);
        let levels = (0..=LEVEL_MOST).zip(&record.jumps).rev();
        let is_seen = |jump: &Jump| from_us <= jump.earliest_us && jump.latest_us <= to_us;
        levels.into_iter().find(|(_, jump)| is_seen(jump))
    }

    fn step(&self, record: &Record, within_us: i64) -> Step {
        match self.jump(record, within_us) {
            Some((LEVEL_MOST, _)) if !self.is_uncoiled => Step::Endless(self.event.clone()),
            Some((level, jump)) => {
                let depth = self.depth + (1 << level);
                Step::Moved(jump.to, Self { depth, ..self.clone() })
            }
            None => {
                let root = &record.facts;
                let is_orphan = !self.is_uncoiled && cause(root).is_some();
                Step::Arrived(row(&self.event, root, self.depth, is_orphan))
            }
        }
    }
}

/// What becomes of a walker at an event.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Moved(Node, Walker),
    Arrived(Row),
    Endless(Facts),
}

fn node(event: &Facts) -> Node {
    let mut bytes = event.id.as_bytes().to_vec();
    bytes.extend_from_slice(&event.time_us.to_le_bytes());
    xxh3_128(&bytes)
}

/// The cause to be followed. An event that is its own cause is a root: the shortest of cycles.
fn cause(event: &Facts) -> Option<&Arc<str>> {
    event.cause.as_ref().filter(|cause| **cause != event.id)
}

/// The rows of all starts, in the relation of all nodes. `report` is told the id at which a cycle
/// ends.
pub(super) fn rows<'s>(
    nodes: Relation<'s, Facts>,
    starts: Relation<'s, Facts>,
    within_us: i64,
    sizes: &Sizes,
    report: impl Fn(&str) + 'static,
) -> Relation<'s, Row> {
    let span_us = within_us.saturating_mul(2);
    let edges = edges(nodes.clone(), span_us);
    let jumps = jumps(edges.clone(), span_us, sizes);
    let nodes = nodes.map(|facts| (node(&facts), facts));
    let walkers = starts.map(|event| start(event, false));
    let steps = walk(walkers, records(nodes.clone(), jumps.clone()), within_us, sizes);
    let endless = steps.clone().flat_map(|step| match step {
        Step::Endless(event) => Some(start(event, true)),
        Step::Arrived(_) | Step::Moved(..) => None,
    });
    let uncoiled = uncoiled(nodes, edges, jumps, span_us, sizes, report);
    arrived(steps).concat(arrived(walk(endless, uncoiled, within_us, sizes)))
}

fn start(event: Facts, is_uncoiled: bool) -> (Node, Walker) {
    (node(&event), Walker { event, depth: 0, is_uncoiled })
}

fn arrived(steps: Relation<'_, Step>) -> Relation<'_, Row> {
    steps.flat_map(|step| match step {
        Step::Arrived(row) => Some(row),
        Step::Endless(_) | Step::Moved(..) => None,
    })
}

/// The jumps of level 0: from each event to its cause.
fn edges<'s>(nodes: Relation<'s, Facts>, span_us: i64) -> Relation<'s, LevelJump> {
    let causes =
        nodes.clone().map(|facts| (id_hash(&facts.id), (node(&facts), facts.time_us, facts.id)));
    let effects = nodes.flat_map(|facts| {
        cause(&facts).map(|cause| (id_hash(cause), (node(&facts), facts.time_us)))
    });
    effects.arrange_by_key_named("LineageEffects").join_core(
        causes.arrange_by_key_named("LineageCauses"),
        move |_, (effect, effect_us), (to, cause_us, id)| {
            let (earliest_us, latest_us) = (*effect_us.min(cause_us), *effect_us.max(cause_us));
            let is_seen = latest_us.saturating_sub(earliest_us) <= span_us;
            let least = (id.clone(), *to);
            let jump = Jump { to: *to, earliest_us, latest_us, least };
            is_seen.then_some(((*effect, 0), jump))
        },
    )
}

/// All jumps: a jump of each level is one of the level below, and another from where that ends. In
/// round n of the iteration come the jumps of level n, so that what is retracted is retracted in the
/// round that brought it, and nothing is left of it.
fn jumps<'s>(
    edges: Relation<'s, LevelJump>,
    span_us: i64,
    sizes: &Sizes,
) -> Relation<'s, LevelJump> {
    let outer = edges.inner.scope();
    let count = sizes.jumps.clone();
    outer
        .scoped::<Product<Epoch, u64>, _, _>("LineageJumps", |inner| {
            let (variable, longer) = Variable::new(inner, Product::new(Default::default(), 1));
            let all = edges.enter(inner).concat(longer);
            let ends = all.clone().map(|((from, level), jump)| ((jump.to, level), (from, jump)));
            let joined = ends.arrange_by_key_named("LineageJumpEnds").join_core(
                all.clone().arrange_by_key_named("LineageJumpStarts"),
                move |(_, level), (from, first), second| {
                    let is_last = *level == LEVEL_MOST;
                    let jump = if is_last { None } else { first.then(second, span_us) };
                    jump.map(|jump| ((*from, level + 1), jump))
                },
            );
            variable.set(joined);
            all.leave(outer)
        })
        .inspect(move |(_, _, diff)| count.add(*diff))
}

/// Each event with its jumps.
fn records<'s>(
    nodes: Relation<'s, (Node, Facts)>,
    jumps: Relation<'s, LevelJump>,
) -> Relation<'s, (Node, Record)> {
    let jumps = jumps.map(|((from, level), jump)| (from, Piece::Jump(level, jump)));
    nodes.map(|(node, facts)| (node, Piece::Facts(facts))).concat(jumps).reduce_named(
        "LineageRecords",
        |_, pieces, output| {
            let mut record: Option<Record> = None;
            for (piece, _) in pieces {
                match (piece, &mut record) {
                    (Piece::Facts(facts), _) => {
                        record = Some(Record { facts: facts.clone(), jumps: Vec::new() });
                    }
                    // They come in the order of their levels.
                    (Piece::Jump(_, jump), Some(record)) => record.jumps.push(jump.clone()),
                    (Piece::Jump(..), None) => {}
                }
            }
            output.extend(record.map(|record| (record, 1)));
        },
    )
}

/// Lets every walker go on until it arrives.
fn walk<'s>(
    walkers: Relation<'s, (Node, Walker)>,
    records: Relation<'s, (Node, Record)>,
    within_us: i64,
    sizes: &Sizes,
) -> Relation<'s, Step> {
    let outer = walkers.inner.scope();
    let count = sizes.walkers.clone();
    let records = records.arrange_by_key_named("LineageRecordsByNode");
    outer.scoped::<Product<Epoch, u64>, _, _>("LineageWalk", |inner| {
        let (variable, moved) = Variable::new(inner, Product::new(Default::default(), 1));
        let walkers = walkers.enter(inner).concat(moved);
        let steps = walkers
            .inspect(move |(_, _, diff)| count.add(*diff))
            .arrange_by_key_named("LineageWalkers")
            .join_core(records.enter(inner), move |_, walker, record| {
                Some(walker.step(record, within_us))
            });
        variable.set(steps.clone().flat_map(|step| match step {
            Step::Moved(to, walker) => Some((to, walker)),
            Step::Arrived(_) | Step::Endless(_) => None,
        }));
        steps.filter(|step| !matches!(step, Step::Moved(..))).leave(outer)
    })
}

/// The records of events from which a way has no end, with every cycle cut where it ends: behind its
/// least id. In good data there are none.
fn uncoiled<'s>(
    nodes: Relation<'s, (Node, Facts)>,
    edges: Relation<'s, LevelJump>,
    jumps: Relation<'s, LevelJump>,
    span_us: i64,
    sizes: &Sizes,
    report: impl Fn(&str) + 'static,
) -> Relation<'s, (Node, Record)> {
    let longest = jumps.filter(|((_, level), _)| *level == LEVEL_MOST);
    let longest = longest.map(|((from, _), jump)| (from, jump));
    // The longest jump ends on the cycle, and the longest from there goes over all of it.
    let on_cycles = longest.clone().map(|(_, jump)| jump.to).distinct();
    let ends = longest
        .clone()
        .semijoin(on_cycles)
        .map(|(_, jump)| jump.least)
        .distinct()
        .inspect(move |((id, _), _, diff)| {
            if *diff > 0 {
                report(id);
            }
        })
        .map(|(_, node)| node);
    let endless = longest.map(|(from, _)| from);
    let edges = edges
        .map(|((from, _), jump)| (from, jump))
        .semijoin(endless.clone())
        .antijoin(ends)
        .map(|(from, jump)| ((from, 0), jump));
    records(nodes.semijoin(endless), self::jumps(edges, span_us, sizes))
}
