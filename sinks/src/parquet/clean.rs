//! `retain`: removes whole directories of a date once all of it is older.
//!
//! The files are noted in the manifest log first, in an entry that is created exclusively as that of
//! a commit is: an older instance finds its number taken and removes nothing, a reader of the log
//! knows before a file goes, and what a crash leaves is removed by the next start. Somebody who is no
//! instance notes them in the name of whoever owns the log, who goes on behind that entry.

use std::collections::{BTreeMap, BTreeSet};

use waterwheel_config::units::DAY_US;
use waterwheel_pipeline::contract::failpoint;
use waterwheel_pipeline::contract::fault::Fault;
use waterwheel_pipeline::contract::retain::{Cleaned, Cleaning, Now, check_meaning};

use super::Owned;
use super::manifest::{Entry, Log};
use super::settings::Plan;
use super::writer::Input;

/// How many files one step removes, and those that share a directory with the last.
const STEP_FILES: usize = 1_000;

/// Files that are old, by what is told of them: the input, its windows, and before when.
type Old<'p> = BTreeMap<(&'p str, Option<&'p str>, i64), Vec<String>>;

impl Owned {
    /// Removes what is old, and before that what an earlier removal left.
    pub(super) fn clean(&mut self, plan: &Plan) -> Result<Cleaning, Fault> {
        self.finish_removal(plan)?;
        let cleaning = plan.clean_through(&mut self.log, None)?;
        self.log.removal_finished();
        Ok(cleaning)
    }

    /// Removes files that were noted by a removal that ended early, or by somebody else's.
    pub(super) fn finish_removal(&mut self, plan: &Plan) -> Result<(), Fault> {
        if !self.log.removed().is_empty() {
            plan.store.remove_below(self.log.removed())?;
            self.log.removal_finished();
        }
        Ok(())
    }
}

impl Plan {
    /// Removes what is old without being an instance.
    pub(super) fn clean_beside(&self, expected: Option<&str>) -> Result<Cleaning, Fault> {
        let mut log = self.new_log();
        if !self.store.has_directory(&self.log())? {
            return Ok(Cleaning::done());
        }
        self.clean_through(&mut log, expected)
    }

    fn clean_through(&self, log: &mut Log, expected: Option<&str>) -> Result<Cleaning, Fault> {
        let old = std::cell::RefCell::new(Old::new());
        let noted = log.note_removed(|newest| {
            let found = self.old(newest, expected)?;
            let files = found.values().flatten().cloned().collect();
            old.replace(found);
            Ok(files)
        })?;
        let Some(files) = noted else { return Ok(Cleaning::done()) };
        failpoint::reach("parquet.clean.noted");
        self.store.remove_below(&files)?;
        failpoint::reach("parquet.clean.done");
        let told =
            |((input, granularity, before_us), files): ((&str, Option<&str>, i64), Vec<String>)| {
                let directories: BTreeSet<&str> =
                    files.iter().filter_map(|file| Some(file.rsplit_once('/')?.0)).collect();
                Cleaned {
                    input: input.to_owned(),
                    place: self.store.show(input),
                    granularity: granularity.map(str::to_owned),
                    before_us,
                    rows: None,
                    partitions: directories.len() as u64,
                    files: files.len() as u64,
                }
            };
        let removed = old.into_inner().into_iter().map(told).collect();
        Ok(Cleaning { removed, is_done: false })
    }

    /// The files of this sink that are old by what an entry of the log has recorded.
    fn old(&self, newest: &Entry, expected: Option<&str>) -> Result<Old<'_>, Fault> {
        let mut old = Old::new();
        let Some(progress) = &newest.progress else { return Ok(old) };
        let place = self.store.show("");
        check_meaning(expected, progress, format_args!("the files in `{place}`"))?;
        let mut count = 0;
        for input in self.inputs.iter().filter(|input| !input.periods.is_empty()) {
            let prefix = self.prefix();
            let mut files = self.store.files(&input.name)?;
            files.retain(|file| file.rsplit('/').next().is_some_and(|it| it.starts_with(&prefix)));
            // Those of a directory together.
            files.sort_unstable();
            let now_us = match Now::of(Some(progress)) {
                Now::Unknown => None,
                Now::At(micros) => Some(micros),
                // The first moment of the newest day that has a file.
                Now::Newest => {
                    let days = files.iter().filter_map(|file| input.day_end(file));
                    days.max().map(|end_us| end_us - DAY_US)
                }
            };
            let Some(now_us) = now_us else { continue };
            let mut last = "";
            for file in &files {
                let directory = file.rsplit_once('/').map_or("", |(directory, _)| directory);
                if count >= STEP_FILES && directory != last {
                    break;
                }
                let Some((granularity, before_us)) = input.old(file, now_us) else { continue };
                old.entry((&input.name, granularity, before_us)).or_default().push(file.clone());
                (count, last) = (count + 1, directory);
            }
        }
        Ok(old)
    }
}

impl Input {
    /// When the day ends whose directory a file is in, in microseconds.
    fn day_end(&self, file: &str) -> Option<i64> {
        let directory = file.strip_prefix(&self.name)?.strip_prefix('/')?.rsplit_once('/')?.0;
        self.partitioning.day_end(directory)
    }

    /// If all of the directory of a file is older than its period: the windows that the period is
    /// for, and before when that is.
    fn old(&self, file: &str, now_us: i64) -> Option<(Option<&str>, i64)> {
        let end_us = self.day_end(file)?;
        self.periods.iter().find_map(|(granularity, period_us)| {
            let before_us = now_us.saturating_sub(*period_us);
            let spare_us = if failpoint::has_bug("clean-ignores-period") { DAY_US } else { 0 };
            let granularity = granularity.as_deref();
            let is_meant =
                granularity.is_none_or(|name| self.partitioning.is_in(file, "granularity", name));
            (is_meant && end_us <= before_us.saturating_add(spare_us))
                .then_some((granularity, before_us))
        })
    }
}
