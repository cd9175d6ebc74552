//! The files that are still growing: one per input and partition, under names that no reader sees.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use parquet::arrow::arrow_writer::{ArrowWriter, ArrowWriterOptions};
use parquet::errors::ParquetError;
use waterwheel_pipeline::contract::epoch::{Epoch, Generation};
use waterwheel_pipeline::contract::failpoint;
use waterwheel_pipeline::contract::fault::Fault;

use super::columns::{Columns, Layout, Operation};
use super::manifest::{DataFile, staged_name};
use super::partition::{PartValue, Partitioning};
use super::record::Record;
use super::store::{Growing, Store};

/// Files that grow at the same time; beyond, the one that was quiet longest is finished.
const OPEN_FILES: usize = 64;
/// What all growing files together may hold in memory before the largest writes a row group.
const MEMORY_BYTES: usize = 32 << 20;
/// Rows and bytes that wait as columns before they are encoded.
const WAITING_ROWS: usize = 8192;
const WAITING_BYTES: usize = 4 << 20;

/// One input of the sink.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) name: String,
    pub(super) layout: Arc<Layout>,
    pub(super) partitioning: Partitioning,
    /// How long its rows stay, each period with the granularity that it is for; none: for good.
    pub(super) periods: Vec<(Option<String>, i64)>,
}

/// How files are named: unique over all lives of the pipeline and over pipelines that share a
/// directory.
#[derive(Clone, Debug)]
pub(super) struct Naming {
    /// Where the lake is.
    pub(super) store: Store,
    /// The directory of files that nobody sees yet.
    pub(super) staging: String,
    /// The pipeline's and the sink's name.
    pub(super) label: String,
    /// The owner.
    pub(super) generation: Generation,
    /// The manifest entry that will name the files.
    pub(super) number: u64,
}

/// A file that grows.
struct OpenFile {
    /// Below the sink's `path`, once it is visible.
    path: String,
    store: Store,
    staged: String,
    layout: Arc<Layout>,
    columns: Columns,
    writer: ArrowWriter<Growing>,
    rows: u64,
    used_at: u64,
}

/// All growing files of one commit, and those that are finished and wait for it.
pub(super) struct Files {
    naming: Naming,
    inputs: Arc<[Input]>,
    roll_rows: u64,
    /// By input and partition.
    open: Vec<HashMap<Vec<PartValue>, OpenFile>>,
    finished: Vec<DataFile>,
    sequence: u32,
    uses: u64,
    full: bool,
}

impl Files {
    /// No file yet.
    pub(super) fn new(naming: Naming, inputs: Arc<[Input]>, roll_rows: u64) -> Self {
        let open = inputs.iter().map(|_| HashMap::new()).collect();
        let finished = Vec::new();
        Self { naming, inputs, roll_rows, open, finished, sequence: 0, uses: 0, full: false }
    }

    /// True once a file has all the rows that it may have.
    pub(super) fn full(&self) -> bool {
        self.full
    }

    /// Appends rows of one input to the files of their partitions.
    pub(super) fn append<'r>(
        &mut self,
        index: usize,
        rows: impl Iterator<Item = Record<'r>>,
        operation: Operation,
        epoch: Epoch,
    ) -> Result<(), Fault> {
        let inputs = Arc::clone(&self.inputs);
        let Some(input) = inputs.get(index) else {
            return Err(Fault::halt("a commit has more inputs than its sink"));
        };
        for (values, rows) in grouped(&input.partitioning, rows) {
            let mut rest = rows.as_slice();
            while !rest.is_empty() {
                let roll_rows = self.roll_rows;
                let file = self.file(index, input, &values)?;
                let room = usize::try_from(roll_rows - file.rows).unwrap_or(usize::MAX);
                let (now, later) = rest.split_at(rest.len().min(room).min(WAITING_ROWS));
                file.append(now, operation, epoch)?;
                rest = later;
                let has_all_rows = file.rows == roll_rows;
                if has_all_rows || file.writer.bytes_written() >= file.store.most_bytes() {
                    self.full |= has_all_rows;
                    self.finish(index, &values)?;
                }
            }
        }
        self.bound_memory()
    }

    /// Finishes every file; each is then whole and durable under its growing name.
    pub(super) fn finish_all(&mut self) -> Result<Vec<DataFile>, Fault> {
        for file in self.open.iter_mut().flat_map(HashMap::drain).map(|(_, file)| file) {
            self.finished.push(file.finish()?);
        }
        self.finished.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(std::mem::take(&mut self.finished))
    }

    /// The file that takes the rows of a partition.
    fn file(
        &mut self,
        index: usize,
        input: &Input,
        values: &[PartValue],
    ) -> Result<&mut OpenFile, Fault> {
        if !self.open[index].contains_key(values) {
            self.make_room()?;
        }
        self.uses += 1;
        let file = match self.open[index].entry(values.to_vec()) {
            Entry::Occupied(file) => file.into_mut(),
            Entry::Vacant(place) => {
                self.sequence += 1;
                place.insert(OpenFile::create(&self.naming, self.sequence, input, values)?)
            }
        };
        file.used_at = self.uses;
        Ok(file)
    }

    /// How many files grow.
    pub(super) fn open_files(&self) -> usize {
        self.open.iter().map(HashMap::len).sum()
    }

    fn finish(&mut self, index: usize, values: &[PartValue]) -> Result<(), Fault> {
        if let Some(file) = self.open[index].remove(values) {
            self.finished.push(file.finish()?);
        }
        Ok(())
    }

    /// Finishes the file that was quiet longest where too many are open.
    fn make_room(&mut self) -> Result<(), Fault> {
        if self.open_files() < OPEN_FILES {
            return Ok(());
        }
        let files = self.open.iter().enumerate().flat_map(|(index, files)| {
            files.iter().map(move |(values, file)| (file.used_at, index, values))
        });
        let quiet = files.min_by_key(|(used_at, ..)| *used_at);
        let Some((index, values)) = quiet.map(|(_, index, values)| (index, values.clone())) else {
            return Ok(());
        };
        self.finish(index, &values)
    }

    /// Writes out row groups until the growing files fit into memory.
    fn bound_memory(&mut self) -> Result<(), Fault> {
        loop {
            let files = || self.open.iter().flat_map(HashMap::values);
            let total: usize = files().map(OpenFile::memory_bytes).sum();
            if total <= MEMORY_BYTES {
                return Ok(());
            }
            let files = self.open.iter_mut().flat_map(HashMap::values_mut);
            let Some(largest) = files.max_by_key(|file| file.memory_bytes()) else { return Ok(()) };
            largest.write_row_group()?;
        }
    }
}

impl OpenFile {
    fn create(
        naming: &Naming,
        sequence: u32,
        input: &Input,
        values: &[PartValue],
    ) -> Result<Self, Fault> {
        let Naming { store, staging, label, generation, number } = naming;
        let name = staged_name("part", label, *generation, *number, format_args!("{sequence:04}"));
        let name = format!("{name}.parquet");
        let staged = format!("{staging}/{name}.tmp");
        let mut path = format!("{}/", input.name);
        let directory = input.partitioning.directory(values);
        if !directory.is_empty() {
            path.push_str(&directory);
            path.push('/');
        }
        path.push_str(&name);
        let file = store.begin(&staged)?;
        // The embedded Arrow schema would only say that text has 64-bit offsets.
        let options = ArrowWriterOptions::new()
            .with_properties(input.layout.properties())
            .with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(file, input.layout.arrow(), options)
            .map_err(|error| parquet_fault(error, store, &staged))?;
        let layout = Arc::clone(&input.layout);
        let columns = Columns::new(&layout);
        failpoint::reach("parquet.file.created");
        let store = store.clone();
        Ok(Self { path, store, staged, layout, columns, writer, rows: 0, used_at: 0 })
    }

    fn append(
        &mut self,
        rows: &[Record<'_>],
        operation: Operation,
        epoch: Epoch,
    ) -> Result<(), Fault> {
        self.columns.extend(rows, operation, epoch);
        self.rows += rows.len() as u64;
        if self.columns.rows >= WAITING_ROWS || self.columns.bytes >= WAITING_BYTES {
            self.encode()?;
        }
        Ok(())
    }

    fn memory_bytes(&self) -> usize {
        self.writer.memory_size() + self.columns.bytes
    }

    fn encode(&mut self) -> Result<(), Fault> {
        let batch = self.columns.take(&self.layout).map_err(Fault::halt)?;
        self.writer.write(&batch).map_err(|error| parquet_fault(error, &self.store, &self.staged))
    }

    fn write_row_group(&mut self) -> Result<(), Fault> {
        self.encode()?;
        self.writer.flush().map_err(|error| parquet_fault(error, &self.store, &self.staged))
    }

    /// Writes what is left and makes the file durable.
    fn finish(mut self) -> Result<DataFile, Fault> {
        self.encode()?;
        let Self { store, staged, writer, .. } = &mut self;
        writer.finish().map_err(|error| parquet_fault(error, store, staged))?;
        failpoint::reach("parquet.file.written");
        writer.sync().map_err(|error| store.fault(&error, staged))?;
        let bytes = store.finish(writer.inner_mut(), staged)?;
        failpoint::reach("parquet.file.synced");
        Ok(DataFile { path: self.path, rows: self.rows, bytes })
    }
}

/// The rows of one partition.
type Group<'r> = (Vec<PartValue>, Vec<Record<'r>>);

/// The rows by partition, in the order in which partitions come up.
fn grouped<'r>(
    partitioning: &Partitioning,
    rows: impl Iterator<Item = Record<'r>>,
) -> Vec<Group<'r>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut places: HashMap<Vec<PartValue>, usize> = HashMap::new();
    let mut place = 0;
    for row in rows {
        // Neighbours mostly share a partition, which then costs a comparison and no more.
        if !groups.get(place).is_some_and(|(values, _)| partitioning.holds(values, row)) {
            let values = partitioning.values(row);
            place = *places.entry(values).or_insert_with_key(|values| {
                groups.push((values.clone(), Vec::new()));
                groups.len() - 1
            });
        }
        if let Some((_, group)) = groups.get_mut(place) {
            group.push(row);
        }
    }
    groups
}

fn parquet_fault(error: ParquetError, store: &Store, staged: &str) -> Fault {
    match error {
        ParquetError::External(inner) => match inner.downcast::<std::io::Error>() {
            Ok(error) => store.fault(&error, staged),
            Err(error) => Fault::halt(format!("cannot write `{}`: {error}", store.show(staged))),
        },
        error => Fault::halt(format!("cannot write `{}`: {error}", store.show(staged))),
    }
}
