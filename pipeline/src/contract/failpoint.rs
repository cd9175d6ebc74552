//! Places at which a test build can be made to crash, and bugs that it can be made to have: how the
//! fault tests reach every moment of a commit, and prove that they would notice a mistake.
//!
//! In a release build both functions are constants. In a debug build `WATERWHEEL_CRASH_AT=point:n`
//! aborts the process when it reaches a point for the n-th time, as a power cut would; and
//! `WATERWHEEL_SEEDED_BUGS=name,name` switches bugs on.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

/// Every point at which a process can be made to crash. The fault tests walk the list.
pub const POINTS: &[&str] = &[
    "epoch.sealed",
    "epoch.delivered",
    "checkpoint.file.written",
    "checkpoint.file.synced",
    "checkpoint.file.renamed",
    "checkpoint.segment.durable",
    "checkpoint.manifest.durable",
    "checkpoint.manifest.deleted",
    "checkpoint.segment.deleted",
];

/// Every bug that can be switched on, and what it does. The fault tests must catch each.
pub const SEEDED_BUGS: &[(&str, &str)] = &[];

/// Where a crash was asked for: the point, and how often it must be reached.
static CRASH_AT: LazyLock<Option<(String, u64)>> = LazyLock::new(|| {
    let asked = std::env::var("WATERWHEEL_CRASH_AT").ok()?;
    let (point, count) = asked.rsplit_once(':')?;
    Some((point.to_owned(), count.parse().ok()?))
});

static REACHED: LazyLock<Mutex<HashMap<&'static str, u64>>> = LazyLock::new(Mutex::default);

static BUGS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let asked = std::env::var("WATERWHEEL_SEEDED_BUGS").unwrap_or_default();
    asked.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
});

/// Notes that the process is at a point, and crashes there if it was asked to.
#[inline]
pub fn reach(point: &'static str) {
    if cfg!(debug_assertions) {
        crash_if_asked(point);
    }
}

fn crash_if_asked(point: &'static str) {
    debug_assert!(POINTS.contains(&point), "`{point}` is not in the list of points");
    let Some((asked, count)) = &*CRASH_AT else {
        return;
    };
    if asked != point {
        return;
    }
    let mut reached = REACHED.lock().unwrap_or_else(PoisonError::into_inner);
    let times = reached.entry(point).or_default();
    *times += 1;
    if *times == *count {
        eprintln!("crashing at {point}, as asked");
        std::process::abort();
    }
}

/// True if this bug was switched on.
#[inline]
pub fn has_bug(name: &'static str) -> bool {
    cfg!(debug_assertions) && is_switched_on(name)
}

fn is_switched_on(name: &'static str) -> bool {
    debug_assert!(
        SEEDED_BUGS.iter().any(|(known, _)| *known == name),
        "`{name}` is not in the list of bugs"
    );
    BUGS.iter().any(|bug| bug == name)
}
