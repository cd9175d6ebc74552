//! Places at which a test build can be made to crash, and bugs that it can be made to have: how the
//! fault tests reach every moment of a commit, and prove that they would notice a mistake.
//!
//! In a release build both functions are constants. In a debug build `WATERWHEEL_CRASH_AT=point:n`
//! aborts the process when it reaches a point for the n-th time, as a power cut would; and
//! `WATERWHEEL_SEEDED_BUGS=name,name` switches bugs on.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

/// Every point at which a process can be made to crash. The fault tests walk the list. An ordinary
/// run with the sinks postgres, parquet and nats reaches all but these:
///
/// | point | is reached by |
/// |---|---|
/// | `nats.source.released` | a stream with work-queue or interest retention, and two checkpoints |
/// | `nats.source.verified` | a run that resumes, and a connection that comes back |
/// | `parquet.stray.removed` | a start after a crash that left a file behind in `staging/` |
/// | `parquet.file.published` | a start after a crash between a commit and its files' renaming |
/// | `parquet.entry.pruned` | the 101st commit |
/// | `postgres.clean.guarded`, `postgres.clean.removed`, `postgres.clean.committed` | `retain` on postgres |
/// | `parquet.clean.noted`, `parquet.clean.removed`, `parquet.clean.done` | `retain` on parquet |
/// | `rebuild.sink.emptied` | `--rebuild` after a change |
/// | `idle.decided`, `idle.log.written`, `idle.log.durable` | a source with `idle_after` that is silent |
pub const POINTS: &[&str] = &[
    // A sink holds nothing any more; others may be left to be emptied.
    "rebuild.sink.emptied",
    "intake.opened",
    "intake.batch.handed",
    "epoch.sealed",
    "epoch.delivered",
    // A source is not waited for any more; nobody knows yet.
    "idle.decided",
    // That is in the log, which is not synced yet.
    "idle.log.written",
    "idle.log.durable",
    // The consumer is made; nothing is read yet.
    "nats.source.opened",
    // A stream was compared with a position.
    "nats.source.verified",
    "nats.source.batch.read",
    // Messages of a work queue are acknowledged, or those of interest retention moved on from.
    "nats.source.released",
    // The claim is written, the tables are not looked at yet.
    "postgres.claimed",
    "postgres.tables.ready",
    "postgres.commit.begun",
    // Sent inside the transaction; the answers may be under way.
    "postgres.progress.written",
    "postgres.rows.written",
    // COMMIT is on its way, and nobody has seen its answer.
    "postgres.commit.sent",
    "postgres.commit.done",
    // A step of cleaning holds the progress.
    "postgres.clean.guarded",
    // Old rows or a partition are removed in its transaction.
    "postgres.clean.removed",
    "postgres.clean.committed",
    "parquet.claimed",
    "parquet.rows.kept",
    "parquet.file.created",
    "parquet.file.written",
    "parquet.file.synced",
    "parquet.staging.synced",
    // An entry of the log is whole under a name of its own.
    "parquet.manifest.written",
    // It has its number; the directory is not synced yet.
    "parquet.manifest.linked",
    "parquet.manifest.synced",
    "parquet.file.visible",
    "parquet.commit.done",
    "parquet.stray.removed",
    "parquet.file.published",
    "parquet.entry.pruned",
    // Old files are noted in the log, and still there.
    "parquet.clean.noted",
    "parquet.clean.removed",
    "parquet.clean.done",
    "nats.sink.claimed",
    "nats.sink.batch.begun",
    // The first message of a batch is answered.
    "nats.sink.batch.opened",
    "nats.sink.rows.sent",
    // The last message is on its way, and nobody has seen its answer.
    "nats.sink.batch.sent",
    "nats.sink.batch.acked",
    "nats.sink.commit.done",
    "checkpoint.file.written",
    "checkpoint.file.synced",
    "checkpoint.file.renamed",
    "checkpoint.segment.durable",
    "checkpoint.manifest.durable",
    "checkpoint.manifest.deleted",
    "checkpoint.segment.deleted",
];

/// Every bug that can be switched on, and what it does. The fault tests must catch each.
pub const SEEDED_BUGS: &[(&str, &str)] = &[
    (
        "progress-before-rows",
        "postgres: the progress is committed in a transaction before the one of the rows",
    ),
    (
        "progress-after-rows",
        "postgres: the rows are committed first, the progress in a second transaction",
    ),
    (
        "fence-by-lock",
        "postgres: a claim reads the progress row with a lock instead of writing a new lease",
    ),
    (
        "guard-does-not-raise",
        "postgres: the guard of a stale instance moves nothing, and its rows commit all the same",
    ),
    ("clean-ignores-period", "cleaning takes rows that are a day too young"),
    ("visible-before-manifest", "parquet: files become visible before the entry that names them"),
    ("manifest-not-exclusive", "parquet: an entry of the log replaces one that has its number"),
    ("keeps-stray-files", "parquet: what a crash left in the staging directory stays there"),
    (
        "forgets-to-publish",
        "parquet: a restart leaves committed files invisible that a crash kept from their places",
    ),
    (
        "dedupe-window",
        "nats sink: rows go out with Nats-Msg-Id alone, and the progress without its fence",
    ),
    (
        "ends-elsewhere",
        "nats sink: a commit that was cut off between two batches is gathered with what follows it",
    ),
    ("progress-apart", "nats sink: the progress message is published after the batch, not in it"),
    (
        "anchor-unchecked",
        "nats source: neither the time of creation nor the hash of the last message is compared",
    ),
    (
        "ack-on-read",
        "nats source: messages of a work queue are acknowledged as they are read, not once no \
         checkpoint needs them",
    ),
    ("gap-unchecked", "nats source: what is gone before the first message left is passed over"),
    (
        "missing-progress-is-fresh",
        "all sinks: rows that no progress speaks of are taken for nothing, and written again",
    ),
];

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

/// True if the process was asked to crash at this point: where something has to be on its way by
/// then, it is worth waiting for.
#[inline]
pub fn is_awaited(point: &'static str) -> bool {
    cfg!(debug_assertions) && CRASH_AT.as_ref().is_some_and(|(asked, _)| asked == point)
}

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
