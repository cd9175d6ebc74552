//! The table `engine`: how the dataflow runs, and where its state is saved.

use std::path::{Path, PathBuf};

use waterwheel_config::section::{Section, Spanned};

use super::CheckpointSettings;
use super::tables::KEYS;

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
    /// True if there is a table for them, whatever is wrong with it.
    pub(super) keeps_checkpoints: bool,
}

/// Reads `engine`.
pub(super) fn engine(root: &Section<'_>) -> Engine {
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (checkpoint, keeps_checkpoints) = (None, false);
    let mut settings =
        Engine { workers, flush_us: FLUSH_DEFAULT_US, checkpoint, keeps_checkpoints };
    let Some(engine) = root.table_as_meant("engine", &KEYS) else {
        return settings;
    };
    if let Some(workers) = engine.integer("workers", 1, 256) {
        settings.workers = workers.value as usize;
    }
    settings.flush_us =
        bounded(&engine, "flush", 1_000..=60_000_000, "from 1ms to 1m").unwrap_or(FLUSH_DEFAULT_US);
    settings.keeps_checkpoints = engine.has("checkpoint");
    settings.checkpoint = engine.table("checkpoint").and_then(self::checkpoint);
    engine.finish();
    settings
}

fn checkpoint(table: Section<'_>) -> Option<CheckpointSettings> {
    let path = table.required_text("path").and_then(|path| directory(&table, &path));
    let every = bounded(&table, "every", 100_000..=86_400_000_000, "from 100ms to 1d");
    let keep = table.integer("keep", KEEP_LEAST, 1_000).map_or(KEEP_LEAST, |keep| keep.value);
    table.finish();
    Some(CheckpointSettings {
        path: path?,
        every_us: every.unwrap_or(EVERY_DEFAULT_US),
        keep: keep as usize,
    })
}

/// A directory on this machine; object stores are not built yet.
fn directory(table: &Section<'_>, path: &Spanned<String>) -> Option<PathBuf> {
    if path.value.contains("://") {
        table.findings().error_help(
            path.span.clone(),
            "checkpoints in an object store are not built yet",
            "name a directory: path = \"state\"",
        );
        return None;
    }
    if path.value.is_empty() {
        let help = "name a directory: path = \"state\"";
        table.findings().error_help(path.span.clone(), "`path` is empty", help);
        return None;
    }
    Some(Path::new(&path.value).to_owned())
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
