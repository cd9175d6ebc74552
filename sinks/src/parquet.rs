//! `type = "parquet"`: rows as Parquet files in a directory that DuckDB and Polars read as it is.
//!
//! Files are zstd-compressed and lie in `<path>/<input>/date=2026-11-21/`. A new one begins after
//! `roll.rows` rows or `roll.every`, whichever comes first, even when no new row arrives. Only
//! whole, committed files are ever in an input's directory.
//!
//! Every column of the input is in the file, those that name directories too; `date` (the UTC date
//! of the input's time) is in the directory's name alone. Readers that take columns from directory
//! names (DuckDB does by default; `hive_partitioning = false` turns it off) then take those instead of
//! the file's: NULL and the empty text share the directory `__HIVE_DEFAULT_PARTITION__`, and a
//! value over 100 bytes is cut there.
//!
//! `<path>/_waterwheel/<pipeline>.<sink>/` holds the manifest log and the files that still grow. A
//! commit is: files are written and synced in `staging/`, one entry of the log that names them is
//! created exclusively (from here on the rows are committed), and the files are renamed to where
//! readers look. A restart finishes renames that a crash left out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use waterwheel_config::section::Section;
use waterwheel_config::units::format_duration;
use waterwheel_pipeline::contract::epoch::{Generation, Progress};
use waterwheel_pipeline::contract::failpoint;
use waterwheel_pipeline::contract::fault::Fault;
use waterwheel_pipeline::contract::retain::Cleaning;
use waterwheel_pipeline::contract::sink::{
    Changes, Claim, ClaimError, Commit, Emit, Sink, SinkContext, SinkKind, SinkSpec,
};

mod clean;
mod columns;
mod files;
mod manifest;
mod partition;
mod record;
mod settings;
mod store;
#[cfg(test)]
mod tests;
mod writer;

use columns::Operation;
use manifest::{DataFile, Log, generation_of, number_of};
use record::Record;
use settings::{Plan, make_plan};
use store::Store;
use writer::{Files, Input, Naming};

/// The kind of sink.
pub(crate) const KIND: SinkKind = SinkKind {
    name: "parquet",
    summary: "writes rows to Parquet files that DuckDB and Polars read without anything else",
    guarantee: "exactly once: a file is visible only whole and committed",
    example: r#"[sinks.lake]
type = "parquet"
from = ["events"]
path = "lake"
partition = ["date", "event_type"]
roll = { rows = 1_000_000, every = "5m" }
"#,
    default_emit: Emit::Final,
    plan,
};

/// Where the sink keeps its own files; readers of Parquet skip names that begin so.
const OWN_DIRECTORY: &str = "_waterwheel";

fn plan(section: &Section<'_>, context: &SinkContext) -> Option<Box<dyn SinkSpec>> {
    make_plan(section, context).map(|plan| Box::new(Spec(Arc::new(plan))) as Box<dyn SinkSpec>)
}

struct Spec(Arc<Plan>);

impl SinkSpec for Spec {
    fn build(&self) -> Box<dyn Sink> {
        let began = Instant::now();
        Box::new(ParquetSink::new(Arc::clone(&self.0), Arc::new(move || began.elapsed())))
    }

    fn describe(&self) -> String {
        let plan = &self.0;
        let mut by: Vec<&str> = Vec::new();
        for name in plan.inputs.iter().flat_map(|input| input.partitioning.names()) {
            if !by.contains(&name) {
                by.push(name);
            }
        }
        let by = if by.is_empty() { String::new() } else { format!(" by {}", by.join(", ")) };
        let every = format_duration(i64::try_from(plan.roll_every.as_micros()).unwrap_or(i64::MAX));
        let (path, rows) = (plan.store.show(""), plan.roll_rows);
        format!("Parquet files in `{path}`{by}, a new one every {every} or {rows} rows")
    }

    fn placement(&self, _input: usize) -> String {
        // Changes carry two columns more.
        format!("{:?}", self.0.emit)
    }

    fn resources(&self) -> Vec<String> {
        let place = |input: &Input| match &self.0.store {
            Store::Directory(path) => {
                // `lake` and `./lake` are one directory, and are shown as the shorter of them.
                let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                let here = std::env::current_dir().unwrap_or_default();
                let path = path.strip_prefix(here).unwrap_or(&path);
                format!("directory {}", path.join(&input.name).display())
            }
            Store::Bucket(bucket) => format!("objects below {}", bucket.address(&input.name)),
        };
        self.0.inputs.iter().map(place).collect()
    }
}

/// Time that only goes forward; a parameter, so that tests need not wait.
type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

struct ParquetSink {
    plan: Arc<Plan>,
    clock: Clock,
    owned: Option<Owned>,
    /// What the rows mean now, where that was said.
    expected: Option<String>,
}

/// What there is between claim and close.
struct Owned {
    log: Log,
    generation: Generation,
    files: Files,
    durable: Option<Progress>,
    /// The newest progress that waits for its commit, and since when anything waits.
    waiting: Option<(Progress, Duration)>,
    /// True from a fault until recovery: the rows that waited are lost.
    lost: bool,
}

impl ParquetSink {
    fn new(plan: Arc<Plan>, clock: Clock) -> Self {
        Self { plan, clock, owned: None, expected: None }
    }

    fn claim(&mut self, generation: Generation) -> Result<Claim, ClaimError> {
        let plan = &self.plan;
        plan.store.ensure_directory(&plan.log())?;
        plan.store.ensure_directory(&plan.staging())?;
        let mut log = plan.new_log();
        if log.newest()?.is_none() && !failpoint::has_bug("missing-progress-is-fresh") {
            plan.refuse_orphans()?;
        }
        let progress = log.claim(generation)?;
        failpoint::reach("parquet.claimed");
        plan.finish_reset(&log)?;
        plan.settle(&log, generation)?;
        let files = plan.files(&log, generation);
        let durable = progress.clone();
        let mut owned = Owned { log, generation, files, durable, waiting: None, lost: false };
        owned.finish_removal(plan)?;
        self.owned = Some(owned);
        Ok(Claim::new(generation, progress))
    }

    /// Runs a step; a fault in it loses what waits.
    fn step(
        &mut self,
        step: impl FnOnce(&Plan, &mut Owned, Duration) -> Result<(), Fault>,
    ) -> Result<Option<Progress>, Fault> {
        let (plan, now) = (Arc::clone(&self.plan), (self.clock)());
        let owned = self.owned.as_mut().ok_or_else(|| Fault::halt("the sink is not open"))?;
        if owned.lost {
            return Err(Fault::retry("rows were lost in a fault; the sink must recover first"));
        }
        let done = blocking(|| step(&plan, owned, now));
        if let Err(fault) = done {
            owned.discard(&plan);
            return Err(fault);
        }
        Ok(owned.durable.clone())
    }
}

#[async_trait]
impl Sink for ParquetSink {
    async fn open(&mut self, at_least: Generation) -> Result<Claim, ClaimError> {
        blocking(|| self.claim(at_least))
    }

    fn check_reset(&self) -> Result<(), Fault> {
        Ok(())
    }

    async fn reset(&mut self, begin: &Progress) -> Result<(), Fault> {
        self.step(|plan, owned, _| owned.reset(plan, begin)).map(|_| ())
    }

    fn takes_events(&self) -> bool {
        true
    }

    async fn commit(&mut self, commit: &Commit) -> Result<Option<Progress>, Fault> {
        self.step(|plan, owned, now| {
            owned.keep(plan, commit, now)?;
            if owned.files.full() || owned.due(plan, now) {
                owned.make_durable(plan)
            } else {
                Ok(())
            }
        })
    }

    async fn recover(&mut self) -> Result<Option<Progress>, Fault> {
        let plan = Arc::clone(&self.plan);
        let owned = self.owned.as_mut().ok_or_else(|| Fault::halt("the sink is not open"))?;
        blocking(|| owned.recover(&plan))
    }

    async fn tick(&mut self) -> Result<Option<Progress>, Fault> {
        self.step(|plan, owned, now| {
            owned.finish_removal(plan)?;
            if owned.due(plan, now) { owned.make_durable(plan) } else { Ok(()) }
        })
    }

    fn expect(&mut self, fingerprint: &str) {
        self.expected = Some(fingerprint.to_owned());
    }

    fn retains(&self) -> bool {
        self.plan.inputs.iter().any(|input| !input.periods.is_empty())
    }

    async fn clean(&mut self) -> Result<Cleaning, Fault> {
        let plan = Arc::clone(&self.plan);
        let expected = self.expected.as_deref();
        match &mut self.owned {
            Some(owned) if owned.lost => {
                Err(Fault::retry("rows were lost in a fault; the sink must recover first"))
            }
            Some(owned) => blocking(|| owned.clean(&plan)),
            None => blocking(|| plan.clean_beside(expected)),
        }
    }

    async fn close(&mut self) -> Result<Option<Progress>, Fault> {
        let Some(owned) = &self.owned else { return Ok(None) };
        let durable = if owned.lost {
            owned.durable.clone()
        } else {
            self.step(|plan, owned, _| owned.make_durable(plan))?
        };
        self.owned = None;
        Ok(durable)
    }

    async fn probe(&mut self) -> Vec<String> {
        let problem = |fault: Fault| fault.message;
        blocking(|| self.plan.check_writable().err().into_iter().map(problem).collect())
    }
}

impl Owned {
    /// Takes the rows of a commit into growing files.
    fn keep(&mut self, plan: &Plan, commit: &Commit, now: Duration) -> Result<(), Fault> {
        if commit.changes.len() != plan.inputs.len() {
            return Err(Fault::halt("a commit has other inputs than its sink"));
        }
        let epoch = commit.progress.record.epoch;
        for (index, changes) in commit.changes.iter().enumerate() {
            if plan.emit == Emit::Final && !changes.deletes.is_empty() {
                let name = &plan.inputs[index].name;
                return Err(Fault::halt(format!("a final row of `{name}` was deleted"))
                    .help("this is a defect of waterwheel: please report it"));
            }
            let Changes { upserts, deletes, events } = changes;
            let deletes = deletes.iter().map(Record::Row);
            self.files.append(index, deletes, Operation::Delete, epoch)?;
            let upserts = upserts.iter().map(Record::Row);
            let events = events.iter().flat_map(|events| {
                (0..events.len()).map(move |event| Record::Event(events, event))
            });
            self.files.append(index, upserts.chain(events), Operation::Upsert, epoch)?;
        }
        let news = self.durable.as_ref() != Some(&commit.progress);
        if news || self.waiting.is_some() || commit.changes.iter().any(|c| !c.is_empty()) {
            let since = self.waiting.take().map_or(now, |(_, since)| since);
            self.waiting = Some((commit.progress.clone(), since));
        }
        failpoint::reach("parquet.rows.kept");
        Ok(())
    }

    fn due(&self, plan: &Plan, now: Duration) -> bool {
        let since = self.waiting.as_ref().map(|(_, since)| *since);
        since.is_some_and(|since| now.saturating_sub(since) >= plan.roll_every)
    }

    /// Commits everything that waits.
    fn make_durable(&mut self, plan: &Plan) -> Result<(), Fault> {
        let Some((progress, _)) = self.waiting.take() else { return Ok(()) };
        let files = self.prepare(plan)?;
        let publish = || plan.publish(files.iter().map(|file| file.path.as_str()));
        if failpoint::has_bug("visible-before-manifest") {
            publish()?;
        }
        self.log.append(progress.clone(), files.clone())?;
        self.durable = Some(progress);
        publish().map_err(Fault::unknown_outcome)?;
        failpoint::reach("parquet.commit.done");
        self.files = plan.files(&self.log, self.generation);
        Ok(())
    }

    /// Empties the sink: by an entry of the log first, so that whatever comes in between, its files
    /// are removed before any other becomes visible.
    fn reset(&mut self, plan: &Plan, begin: &Progress) -> Result<(), Fault> {
        self.log.reset(begin.clone())?;
        self.durable = Some(begin.clone());
        self.waiting = None;
        plan.finish_reset(&self.log)?;
        plan.tell_what_stays()?;
        self.files = plan.files(&self.log, self.generation);
        Ok(())
    }

    /// Everything that can fail before a commit, so that little is left to fail after it.
    fn prepare(&mut self, plan: &Plan) -> Result<Vec<DataFile>, Fault> {
        let files = self.files.finish_all()?;
        if !files.is_empty() {
            plan.store.sync(&plan.staging())?;
            failpoint::reach("parquet.staging.synced");
        }
        for file in &files {
            if let Some((directory, _)) = file.path.rsplit_once('/') {
                plan.store.ensure_directory(directory)?;
            }
            if plan.store.has(&file.path)? {
                let target = plan.store.show(&file.path);
                return Err(Fault::halt(format!("`{target}` is there already")).help(
                    "the manifest log was removed or set back; restore it, or move the files away",
                ));
            }
        }
        Ok(files)
    }

    fn recover(&mut self, plan: &Plan) -> Result<Option<Progress>, Fault> {
        self.discard(plan);
        self.durable = self.log.recover()?;
        plan.settle(&self.log, self.generation)?;
        self.files = plan.files(&self.log, self.generation);
        self.lost = false;
        Ok(self.durable.clone())
    }

    /// Lets go of all growing files.
    fn discard(&mut self, plan: &Plan) {
        self.files = plan.files(&self.log, self.generation);
        self.waiting = None;
        self.lost = true;
    }
}

impl Plan {
    fn own(&self) -> String {
        format!("{OWN_DIRECTORY}/{}", self.label)
    }

    fn log(&self) -> String {
        format!("{}/log", self.own())
    }

    fn new_log(&self) -> Log {
        Log::new(self.store.clone(), self.log(), self.staging(), self.label.clone())
    }

    /// Files grow outside the inputs' directories: readers such as Polars take every file there for
    /// data, whatever its name.
    fn staging(&self) -> String {
        format!("{}/staging", self.own())
    }

    fn files(&self, log: &Log, generation: Generation) -> Files {
        let number = log.next_number();
        let (store, staging, label) = (self.store.clone(), self.staging(), self.label.clone());
        let naming = Naming { store, staging, label, generation, number };
        Files::new(naming, Arc::clone(&self.inputs), self.roll_rows)
    }

    /// Refuses to begin anew beside files of this sink: their rows would be there twice.
    fn refuse_orphans(&self) -> Result<(), Fault> {
        for input in self.inputs.iter() {
            if let Some(file) = self.store.find_prefixed(&input.name, &self.prefix())? {
                let log = self.store.show(&self.log());
                let message = format!("the manifest log `{log}` is empty, but not the lake");
                return Err(Fault::halt(format!("{message}: there is `{file}`"))
                    .help("restore the log from a backup, or move the files away to begin anew"));
            }
        }
        Ok(())
    }

    /// What the names of this sink's files begin with.
    fn prefix(&self) -> String {
        format!("part-{}-", self.label)
    }

    /// Removes the files of the time before the sink was emptied.
    fn finish_reset(&self, log: &Log) -> Result<(), Fault> {
        let Some(emptied) = log.emptied() else { return Ok(()) };
        let prefix = self.prefix();
        let is_old = |name: &str| {
            name.starts_with(&prefix) && number_of(name).is_some_and(|number| number < emptied)
        };
        for input in self.inputs.iter() {
            self.store.remove_files(&input.name, is_old)?;
        }
        Ok(())
    }

    /// Says which directories keep rows of inputs that are no longer named.
    fn tell_what_stays(&self) -> Result<(), Fault> {
        let is_input = |name: &String| self.inputs.iter().any(|input| input.name == *name);
        let others = self.store.tops()?.into_iter().filter(|name| !is_input(name));
        for name in others.filter(|name| name != OWN_DIRECTORY) {
            if self.store.find_prefixed(&name, &self.prefix())?.is_some() {
                tracing::warn!(
                    "`{}` is no longer written: it keeps its files; remove them if nobody reads them",
                    self.store.show(&name)
                );
            }
        }
        Ok(())
    }

    /// Finishes what a crash interrupted: committed files become visible, files that were never
    /// committed go. What a newer instance is writing stays.
    fn settle(&self, log: &Log, generation: Generation) -> Result<(), Fault> {
        let staging = self.staging();
        let staged = self.store.names(&staging)?;
        if staged.is_empty() {
            return Ok(());
        }
        let entries = log.entries()?;
        let files = entries.iter().flat_map(|entry| &entry.files);
        let committed: HashMap<&str, &str> =
            files.map(|file| (file.name(), file.path.as_str())).collect();
        let (mut unpublished, mut strays) = (Vec::new(), Vec::new());
        for name in &staged {
            if let Some(path) = committed.get(name.trim_end_matches(".tmp")) {
                unpublished.push(*path);
            } else if generation_of(name).is_some_and(|of| of <= generation)
                && !failpoint::has_bug("keeps-stray-files")
            {
                strays.push(format!("{staging}/{name}"));
            }
        }
        self.store.remove(&strays, "parquet.stray.removed")?;
        if unpublished.is_empty() || failpoint::has_bug("forgets-to-publish") {
            return Ok(());
        }
        self.publish(unpublished.into_iter())?;
        failpoint::reach("parquet.file.published");
        Ok(())
    }

    /// Gives committed files the names under which readers look.
    fn publish<'f>(&self, paths: impl Iterator<Item = &'f str>) -> Result<(), Fault> {
        let staging = self.staging();
        let moves: Vec<(String, String)> = paths
            .map(|path| {
                let name = path.rsplit('/').next().unwrap_or(path);
                (format!("{staging}/{name}.tmp"), path.to_owned())
            })
            .collect();
        self.store.publish(&moves)
    }

    fn check_writable(&self) -> Result<(), Fault> {
        self.store.check_writable()?;
        // Where a pipeline has never written, a directory has no log; a bucket has an empty one.
        if matches!(self.store, Store::Bucket(_)) || self.store.has(&self.log())? {
            self.new_log().newest()?;
        }
        Ok(())
    }
}

/// Tells the runtime that this thread is busy with files for a while, where it must know.
fn blocking<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}
