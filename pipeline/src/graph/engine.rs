//! The table `engine`: how the dataflow runs, and where its state is saved.

use waterwheel_config::section::Section;

use super::tables::KEYS;
use super::{CheckpointSettings, ReportTo};
use crate::contract::bucket::{Place, place};
use crate::contract::nats::{self, subject};

/// The default of `flush`.
const FLUSH_DEFAULT_US: i64 = 100_000;

/// The default of `checkpoint.every`.
const EVERY_DEFAULT_US: i64 = 10_000_000;

/// The default and the least of `checkpoint.keep`: a sink that is restored from a backup may have
/// lost what the newest ones rest on.
const KEEP_LEAST: i64 = 3;

/// How the dataflow runs.
pub(super) struct Engine {
    pub(super) workers: usize,
    pub(super) flush_us: i64,
    pub(super) checkpoint: Option<CheckpointSettings>,
    pub(super) report: Option<ReportTo>,
    /// True if there is a table for them, whatever is wrong with it, and they are not in a bucket: what
    /// the clock decides is written beside them, one synced line after another.
    pub(super) keeps_checkpoints: bool,
}

/// Reads `engine`.
pub(super) fn engine(root: &Section<'_>) -> Engine {
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (checkpoint, keeps_checkpoints) = (None, false);
    let mut settings =
        Engine { workers, flush_us: FLUSH_DEFAULT_US, checkpoint, report: None, keeps_checkpoints };
    let Some(engine) = root.table_as_meant("engine", &KEYS) else {
        return settings;
    };
    if let Some(workers) = engine.integer("workers", 1, 256) {
        settings.workers = workers.value as usize;
    }
    settings.flush_us =
        bounded(&engine, "flush", 1_000..=60_000_000, "from 1ms to 1m").unwrap_or(FLUSH_DEFAULT_US);
    settings.checkpoint = engine.table("checkpoint").and_then(self::checkpoint);
    settings.report = engine.table("report").and_then(report);
    let is_remote = |it: &CheckpointSettings| matches!(it.place, Place::Bucket(_));
    settings.keeps_checkpoints =
        engine.has("checkpoint") && !settings.checkpoint.as_ref().is_some_and(is_remote);
    engine.finish();
    settings
}

fn checkpoint(table: Section<'_>) -> Option<CheckpointSettings> {
    let place = place(&table, "state");
    let every = bounded(&table, "every", 100_000..=86_400_000_000, "from 100ms to 1d");
    let keep = table.integer("keep", KEEP_LEAST, 1_000).map_or(KEEP_LEAST, |keep| keep.value);
    table.finish();
    Some(CheckpointSettings {
        place: place?,
        every_us: every.unwrap_or(EVERY_DEFAULT_US),
        keep: keep as usize,
    })
}

/// Where the pipeline tells what `retain` has removed.
fn report(table: Section<'_>) -> Option<ReportTo> {
    let connection = nats::read(&table);
    let subject = table.required_text("subject").and_then(|subject| {
        let problem = match subject::check_pattern(&subject.value) {
            Ok(()) if subject.value.contains(['*', '>']) => {
                Some(format!("`{}` is no subject to publish on", subject.value))
            }
            Ok(()) if subject.value.starts_with('$') => {
                Some(format!("`{}` is a subject of the system", subject.value))
            }
            checked => checked.err(),
        };
        let Some(problem) = problem else { return Some(subject.value) };
        table.findings().error(subject.span, problem);
        None
    });
    table.finish();
    Some(ReportTo { connection: connection?, subject: subject? })
}

fn bounded(
    section: &Section<'_>,
    key: &str,
    bounds: std::ops::RangeInclusive<i64>,
    words: &str,
) -> Option<i64> {
    let duration = section.duration(key)?;
    if !bounds.contains(&duration.value) {
        section.findings().error(duration.span, format!("`{key}` must be {words}"));
    }
    Some(duration.value)
}
