//! `retain`: how long a sink keeps its rows, and what it says when it has removed what is older.
//!
//! ```toml
//! retain = "90d"                           # everything
//! retain = { "1m" = "365d", "1h" = "2y" }  # windows by their granularity; others stay
//! ```
//!
//! A row's age is counted in event time, from its time (`timestamp`, `window_start` or the like) to
//! the watermark that the sink has recorded: the same stream leaves the same rows, whenever it is
//! read. Rows that can still change stay, however old they are.

use std::collections::BTreeMap;
use std::fmt::Display;

use waterwheel_config::names::nearest;
use waterwheel_config::section::Section;

use super::epoch::{FINAL_WATERMARK, NO_WATERMARK, Progress};
use super::fault::Fault;
use super::sink::{SinkContext, SinkInput, is_same_meaning};

/// The column by which windows are told apart.
pub const GRANULARITY: &str = "granularity";

/// How long rows stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Retain {
    /// All rows, in microseconds.
    All(i64),
    /// Windows of these granularities, in microseconds.
    ByGranularity(BTreeMap<String, i64>),
}

impl Retain {
    /// The periods that rows of an input stay, each with the granularity that it is for; none where
    /// they stay for good.
    pub fn of(&self, input: &SinkInput) -> Vec<(Option<String>, i64)> {
        if input.schema.time.is_none() {
            return Vec::new();
        }
        match self {
            Self::All(us) => vec![(None, *us)],
            Self::ByGranularity(_) if input.schema.index_of(GRANULARITY).is_none() => Vec::new(),
            Self::ByGranularity(periods) => periods
                .iter()
                .filter(|(name, _)| is_granularity(input, name))
                .map(|(name, us)| (Some(name.clone()), *us))
                .collect(),
        }
    }

    /// True where one period serves all rows of an input.
    pub fn is_one(&self) -> bool {
        matches!(self, Self::All(_))
    }
}

/// Where nobody knows the granularities of an input, it may have any.
fn is_granularity(input: &SinkInput, name: &str) -> bool {
    input.granularities.is_empty() || input.granularities.iter().any(|known| known == name)
}

/// Reads the key `retain`; everything wrong with it becomes a finding.
pub fn read(section: &Section<'_>, context: &SinkContext) -> Option<Retain> {
    use waterwheel_config::document::NodeKind;
    if !section.has("retain") {
        let _ = section.node("retain");
        return None;
    }
    let is_table = matches!(section.node("retain")?.kind, NodeKind::Table(_));
    let before = section.findings().errors();
    let retain = if is_table { by_granularity(section, context) } else { all(section) }?;
    if section.findings().errors() > before {
        return None;
    }
    let (kept, cleaned): (Vec<_>, Vec<_>) =
        context.inputs.iter().partition(|input| retain.of(input).is_empty());
    let span = section.key_span("retain");
    let lack = if is_table { "granularity" } else { "time" };
    let names = |inputs: &[&SinkInput]| {
        inputs.iter().map(|input| format!("`{}`", input.name)).collect::<Vec<_>>().join(", ")
    };
    if cleaned.is_empty() && !kept.is_empty() {
        section.findings().error_help(
            span,
            format!("nothing grows old here: {} has no {lack}", names(&kept)),
            "leave `retain` out",
        );
        return None;
    }
    if !kept.is_empty() && !is_table {
        section.findings().warning(
            span,
            format!("the rows of {} stay for good: they have no {lack}", names(&kept)),
            "write them with a sink of their own, without `retain`",
        );
    }
    Some(retain)
}

fn all(section: &Section<'_>) -> Option<Retain> {
    let period = section.duration("retain")?;
    if period.value <= 0 {
        section.findings().error(period.span, "`retain` must be longer than zero");
        return None;
    }
    Some(Retain::All(period.value))
}

fn by_granularity(section: &Section<'_>, context: &SinkContext) -> Option<Retain> {
    let table = section.table("retain")?;
    let known: Vec<&str> =
        context.inputs.iter().flat_map(|input| &input.granularities).map(String::as_str).collect();
    let mut periods = BTreeMap::new();
    for (key, _) in table.entries() {
        let windowed = |input: &SinkInput| input.schema.index_of(GRANULARITY).is_some();
        let inputs = context.inputs.iter().filter(|input| windowed(input));
        if inputs.clone().next().is_some()
            && !inputs.clone().any(|input| is_granularity(input, &key.name))
        {
            let help = match nearest(&key.name, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the windows written here are: {}", known.join(", ")),
            };
            let message = format!("no input of {} has windows `{}`", section.what, key.name);
            section.findings().error_help(key.span.clone(), message, help);
        }
        let Some(period) = table.duration(&key.name) else { continue };
        if period.value <= 0 {
            let message = format!("the period of `{}` must be longer than zero", key.name);
            section.findings().error(period.span, message);
        }
        periods.insert(key.name.clone(), period.value);
    }
    table.finish();
    if periods.is_empty() && !section.findings().has_errors() {
        section.findings().error_help(
            section.key_span("retain"),
            "`retain` names no windows",
            "write a period for all rows, or one for each granularity: { \"1m\" = \"365d\" }",
        );
    }
    Some(Retain::ByGranularity(periods))
}

/// Refuses to clean a place whose rows have another meaning than a deployment gives them, where that
/// is known: by other settings other rows would be old.
///
/// # Errors
/// A halt that names the place, such as `the tables of sink warehouse`.
pub fn check_meaning(
    expected: Option<&str>,
    recorded: &Progress,
    place: impl Display,
) -> Result<(), Fault> {
    if expected.is_none_or(|expected| is_same_meaning(expected, &recorded.fingerprint)) {
        return Ok(());
    }
    Err(Fault::halt(format_args!("{place} were written by another deployment than this one"))
        .help("run the pipeline with this file first, or clean with the file that runs"))
}

/// From when ages are counted back, in event time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Now {
    /// Nothing has been read: nothing is old.
    Unknown,
    /// The watermark.
    At(i64),
    /// The stream has ended, and with it the watermark: the newest row stands for it.
    Newest,
}

impl Now {
    /// By what a sink has recorded.
    pub fn of(progress: Option<&Progress>) -> Self {
        match progress.map(|progress| progress.record.watermark()) {
            None | Some(NO_WATERMARK) => Self::Unknown,
            Some(FINAL_WATERMARK) => Self::Newest,
            Some(micros) => Self::At(micros),
        }
    }
}

/// What was removed from one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cleaned {
    /// The input whose rows they were.
    pub input: String,
    /// The table or the directory.
    pub place: String,
    /// The windows that they were, where only those were looked for.
    pub granularity: Option<String>,
    /// Everything before this time, in microseconds, is gone, unless it can still change or stands
    /// in a partition that is not old as a whole.
    pub before_us: i64,
    /// How many rows; `None` where only whole files were counted. Of a large partition it is what
    /// the server estimates.
    pub rows: Option<u64>,
    /// How many partitions or directories went as a whole.
    pub partitions: u64,
    /// How many files.
    pub files: u64,
}

impl Cleaned {
    /// Adds another step's to it; false where it is of another place.
    pub fn absorb(&mut self, other: &Self) -> bool {
        if self.place != other.place || self.granularity != other.granularity {
            return false;
        }
        self.before_us = self.before_us.max(other.before_us);
        self.rows = self.rows.map(|rows| rows + other.rows.unwrap_or(0)).or(other.rows);
        self.partitions += other.partitions;
        self.files += other.files;
        true
    }
}

/// What one step of cleaning did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cleaning {
    /// What it removed.
    pub removed: Vec<Cleaned>,
    /// True if nothing that is older is left.
    pub is_done: bool,
}

impl Cleaning {
    /// There is nothing to do.
    pub fn done() -> Self {
        Self { removed: Vec::new(), is_done: true }
    }
}

/// Adds what steps removed, place by place.
pub fn add_up(all: &mut Vec<Cleaned>, removed: Vec<Cleaned>) {
    for cleaned in removed {
        if !all.iter_mut().any(|known| known.absorb(&cleaned)) {
            all.push(cleaned);
        }
    }
}
