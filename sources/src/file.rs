//! Reads JSON Lines files as one log: a file, a glob in name order, or standard input.
//!
//! ```toml
//! [sources.history]
//! type = "file"
//! path = "archive/*.jsonl"     # or one file, or "-" for standard input
//! ```
//!
//! Every line is a message; `subject` and `stream` are the path of its file as the glob finds it
//! (`stdin` for `-`), `sequence` is its line number, `received_at` is NULL. Lines end in `\n` or
//! `\r\n`, the last one may lack it; blank lines are no messages but count as lines. A relative
//! path starts at the working directory; a glob does not match hidden files, and its files are read
//! in the order of their whole paths.
//!
//! A file ends where it ended when it was opened. A later run reads what was appended since (with
//! `until = "end"`); it halts when what was read before is no longer the same. Standard input
//! cannot be read twice, so a run over it starts from nothing or not at all.

mod lines;
mod part;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use glob::{MatchOptions, Pattern};
use tokio::sync::{mpsc, oneshot};
use waterwheel_config::section::Section;
use waterwheel_pipeline::contract::batch::RawBatch;
use waterwheel_pipeline::contract::fault::Fault;
use waterwheel_pipeline::contract::position::{Position, fingerprint};
use waterwheel_pipeline::contract::source::{Next, Source, SourceKind, SourceSpec, Until};

use lines::Step;
use part::{OpenPart, Part};

/// The kind `file`.
pub const KIND: SourceKind = SourceKind {
    name: "file",
    summary: "Reads JSON Lines files as one log: a file, a glob in name order, or standard input.",
    example: "\
[sources.history]
type = \"file\"
path = \"archive/*.jsonl\"   # a file, a glob read in name order as one log, or \"-\" for stdin
",
    default_until: |_| Until::Final,
    plan,
};

fn plan(section: &Section<'_>) -> Option<Box<dyn SourceSpec>> {
    let findings = section.findings();
    if let Some(until) = section.text("until").filter(|until| until.value == "forever") {
        let help = "write `until = \"final\"` (the default) or `until = \"end\"`";
        findings.error_help(until.span, "a file is never read for ever: it ends", help);
    }
    let path = section.required_text("path")?;
    if path.value.is_empty() {
        findings.error_help(path.span, "`path` is empty", "name a file, a glob, or `-` for stdin");
        return None;
    }
    if let Err(error) = Pattern::new(&path.value) {
        let message = format!("`{}` is not a glob: {}", path.value, error.msg);
        findings.error_help(
            path.span,
            message,
            "put `[` and `]` around what is meant as such: `[[]`",
        );
        return None;
    }
    let input = match path.value.as_str() {
        "-" => Input::once("stdin", Box::new(io::stdin())),
        _ => Input::Files(path.value),
    };
    Some(Box::new(FileSpec { input }))
}

struct FileSpec {
    input: Input,
}

impl SourceSpec for FileSpec {
    fn build(&self, _until: Until) -> Box<dyn Source> {
        Box::new(FileSource { input: self.input.clone(), batches: None, ended: false })
    }

    fn describe(&self) -> String {
        match &self.input {
            Input::Files(pattern) => format!("file {pattern}"),
            Input::Once(name, _) => name.to_string(),
        }
    }

    fn meaning(&self) -> String {
        String::new()
    }

    fn has_broker_time(&self) -> bool {
        false
    }

    fn stream(&self) -> Option<String> {
        match &self.input {
            Input::Files(pattern) => Some(pattern.clone()),
            Input::Once(name, _) => Some(name.to_string()),
        }
    }

    fn may_hold(&self, position: &Position) -> bool {
        position.created == 0
    }
}

/// Where lines come from.
#[derive(Clone)]
enum Input {
    /// A path or a glob.
    Files(String),
    /// A name, and a reader that can be taken once in the life of the process.
    Once(Arc<str>, Arc<Mutex<Option<Reader>>>),
}

type Reader = Box<dyn Read + Send>;

impl Input {
    fn once(name: &str, reader: Reader) -> Self {
        Self::Once(name.into(), Arc::new(Mutex::new(Some(reader))))
    }

    /// The parts of the log, in order; at least one.
    fn parts(&self, resume: Option<&Position>) -> Result<VecDeque<Part>, Fault> {
        match self {
            Self::Files(pattern) => Ok(find(pattern)?.into_iter().map(Part::File).collect()),
            Self::Once(name, reader) => {
                let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
                match reader.take().filter(|_| resume.is_none_or(|place| place.ordinal == 0)) {
                    Some(reader) => Ok([Part::Reader(name.clone(), reader)].into()),
                    None => Err(Fault::stop(format!(
                        "{name} was read before and cannot be read a second time"
                    ))
                    .help("write the events to a file and name it in `path`, or start without progress")),
                }
            }
        }
    }
}

/// A file, as it was when the log was opened.
#[derive(Clone, Debug)]
struct FoundFile {
    name: Arc<str>,
    path: PathBuf,
    /// Its size; `None` for pipes and devices.
    size_bytes: Option<u64>,
}

/// The files that a path or a glob names, in name order; at least one.
fn find(pattern: &str) -> Result<Vec<FoundFile>, Fault> {
    // A file whose name happens to look like a glob is meant as it stands.
    if Path::new(pattern).exists() || Pattern::escape(pattern) == pattern {
        return Ok(vec![look_at(PathBuf::from(pattern))?]);
    }
    let options = MatchOptions { require_literal_leading_dot: true, ..MatchOptions::new() };
    let found = glob::glob_with(pattern, options)
        .map_err(|error| Fault::stop(format!("`{pattern}` is not a glob: {}", error.msg)))?;
    let mut files = Vec::new();
    for path in found {
        match path {
            Ok(path) => files.push(look_at(path)?),
            Err(error) => return Err(fault(error.path(), "read", error.error())),
        }
    }
    if files.is_empty() {
        return Err(Fault::stop(format!("no file matches `{pattern}`"))
            .help("correct `path`; a relative one starts at the working directory"));
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn look_at(path: PathBuf) -> Result<FoundFile, Fault> {
    let metadata = std::fs::metadata(&path).map_err(|error| fault(&path, "open", &error))?;
    if metadata.is_dir() {
        return Err(Fault::stop(format!("`{}` is a directory", path.display()))
            .help("name the files in it, for example with `*.jsonl` at the end of `path`"));
    }
    let name = path.to_string_lossy().as_ref().into();
    Ok(FoundFile { name, path, size_bytes: metadata.is_file().then_some(metadata.len()) })
}

fn fault(path: &Path, action: &str, error: &io::Error) -> Fault {
    let message = format!("cannot {action} `{}`: {error}", path.display());
    match error.kind() {
        ErrorKind::NotFound => Fault::stop(message)
            .help("correct `path`; a relative one starts at the working directory"),
        ErrorKind::PermissionDenied => {
            Fault::stop(message).help("give the user that runs waterwheel the right to read it")
        }
        ErrorKind::IsADirectory | ErrorKind::NotADirectory | ErrorKind::InvalidInput => {
            Fault::stop(message)
        }
        _ => Fault::retry(message),
    }
}

/// The source: a thread reads ahead, by at most [`BATCHES_AHEAD`].
struct FileSource {
    input: Input,
    batches: Option<mpsc::Receiver<Result<Next, Fault>>>,
    ended: bool,
}

/// Enough to read while the dataflow works, and no more: each takes memory (see `BATCH_BYTES_MAX`).
const BATCHES_AHEAD: usize = 2;

#[async_trait]
impl Source for FileSource {
    async fn open(&mut self, resume: Option<&Position>) -> Result<Position, Fault> {
        (self.batches, self.ended) = (None, false);
        let (opened, opening) = oneshot::channel();
        let (batches, receiver) = mpsc::channel(BATCHES_AHEAD);
        let (input, resume) = (self.input.clone(), resume.cloned());
        // A thread of its own and not one of the runtime's: a read of standard input or of a pipe
        // may never return, and must not keep the process from ending. It ends with the channel.
        std::thread::Builder::new()
            .name("file".to_owned())
            .spawn(move || read_log(&input, resume.as_ref(), opened, &batches))
            .map_err(|error| {
                Fault::retry(format!("cannot start the thread that reads: {error}"))
            })?;
        let position = opening.await.map_err(|_| vanished())??;
        self.batches = Some(receiver);
        Ok(position)
    }

    async fn next(&mut self) -> Result<Next, Fault> {
        if self.ended {
            return Ok(Next::End);
        }
        let Some(batches) = &mut self.batches else {
            return Err(Fault::halt("the file was asked for lines before it was opened"));
        };
        let next = batches.recv().await.unwrap_or_else(|| Err(vanished()));
        self.ended = matches!(next, Ok(Next::End));
        next
    }

    async fn close(&mut self) {
        self.batches = None;
    }

    async fn probe(&mut self) -> Vec<String> {
        let Input::Files(pattern) = &self.input else {
            return Vec::new();
        };
        let problems = find(pattern).map(|files| {
            // To open a pipe would wait for its writer.
            let regular = files.iter().filter(|file| file.size_bytes.is_some());
            let opened = regular.map(|file| (file, File::open(&file.path)));
            opened
                .filter_map(|(file, opened)| Some(fault(&file.path, "open", &opened.err()?)))
                .map(|fault| fault.to_string())
                .collect()
        });
        problems.unwrap_or_else(|fault| vec![fault.to_string()])
    }
}

fn vanished() -> Fault {
    Fault::halt("the thread that reads the file ended without a word")
}

/// The life of the thread.
fn read_log(
    input: &Input,
    resume: Option<&Position>,
    opened: oneshot::Sender<Result<Position, Fault>>,
    batches: &mpsc::Sender<Result<Next, Fault>>,
) {
    let start = input.parts(resume).and_then(|parts| {
        let mut log = Log { parts, current: None, ordinal: 0 };
        let position = log.skip(resume, || opened.is_closed())?;
        Ok((log, position))
    });
    let mut log = match start {
        Ok((log, position)) => {
            // Nobody waits any more: the channel of batches says so next.
            let _ = opened.send(Ok(position));
            log
        }
        Err(fault) => {
            let _ = opened.send(Err(fault));
            return;
        }
    };
    loop {
        let next = log.next_batch().map(|batch| batch.map_or(Next::End, Next::Batch));
        let last = !matches!(next, Ok(Next::Batch(_)));
        if batches.blocking_send(next).is_err() || last {
            return;
        }
    }
}

/// All files as one log; the ordinal of a message counts the lines of all of them.
struct Log {
    parts: VecDeque<Part>,
    current: Option<OpenPart>,
    ordinal: u64,
}

impl Log {
    /// Opens the next part if none is open; `None` at the end.
    fn part(&mut self) -> Result<Option<&mut OpenPart>, Fault> {
        if self.current.is_none() {
            let Some(next) = self.parts.pop_front() else {
                return Ok(None);
            };
            self.current = Some(next.open()?);
        }
        Ok(self.current.as_mut())
    }

    /// Passes over the lines before a position, and checks that they are still what they were.
    fn skip(
        &mut self,
        resume: Option<&Position>,
        given_up: impl Fn() -> bool,
    ) -> Result<Position, Fault> {
        let Some(resume) = resume.filter(|resume| resume.ordinal > 0) else {
            let stream = self.parts.front().map(|part| part.name().to_string()).unwrap_or_default();
            return Ok(Position {
                stream,
                created: 0,
                ordinal: 0,
                fingerprint: 0,
                gaps: Vec::new(),
                messages: 0,
            });
        };
        let mut ordinal = 0;
        while let Some(part) = self.part()? {
            let line = match part.step()? {
                Step::Line(line) => line,
                Step::Full => {
                    part.lines.take();
                    continue;
                }
                Step::Wait | Step::End => {
                    self.current = None;
                    if given_up() {
                        break;
                    }
                    continue;
                }
            };
            ordinal += 1;
            if ordinal < resume.ordinal {
                continue;
            }
            let payload = part.payload(line).unwrap_or_default();
            let payload = part.lines.bytes(&payload);
            let same_place = *part.name == *resume.stream && resume.created == 0;
            if !same_place || ![0, fingerprint(None, payload)].contains(&resume.fingerprint) {
                let found = format!("line {} of `{}` lies there", part.line, part.name);
                return Err(rewritten(resume, &found));
            }
            self.ordinal = ordinal;
            return Ok(resume.clone());
        }
        Err(rewritten(resume, &format!("the log has only {ordinal} lines")))
    }

    /// The next messages, of one part; `None` at the end of the last.
    fn next_batch(&mut self) -> Result<Option<RawBatch>, Fault> {
        loop {
            let mut ordinal = self.ordinal;
            let Some(part) = self.part()? else {
                return Ok(None);
            };
            let ended = loop {
                match part.step()? {
                    Step::End => break true,
                    Step::Wait | Step::Full => break false,
                    Step::Line(line) => {
                        ordinal += 1;
                        part.push(ordinal, line);
                        if part.is_full() {
                            break false;
                        }
                    }
                }
            };
            let batch = part.batch();
            self.ordinal = ordinal;
            if ended {
                self.current = None;
            }
            if batch.is_some() {
                return Ok(batch);
            }
        }
    }
}

fn rewritten(resume: &Position, found: &str) -> Fault {
    Fault::halt(format!(
        "the files are not those that were read before: {} lines were read, the last of them in `{}`, and now {found}",
        resume.ordinal, resume.stream
    ))
    .help("put the files back as they were, or give the pipeline another `name` to read them from the beginning")
}

#[cfg(test)]
mod tests;
