//! The settings of the Parquet sink: `path`, `partition`, `roll`.

use std::sync::Arc;
use std::time::Duration;

use waterwheel_config::names::nearest;
use waterwheel_config::section::{Section, Spanned};
use waterwheel_config::units::SECOND_US;
use waterwheel_config::value::ColumnType;
use waterwheel_pipeline::contract::bucket::place;
use waterwheel_pipeline::contract::retain::{self, GRANULARITY, Retain};
use waterwheel_pipeline::contract::sink::{Emit, SinkContext, SinkInput};

use super::columns::{CHANGE_COLUMNS, Layout};
use super::partition::{Part, Partitioning};
use super::store::Store;
use super::writer::Input;

const DEFAULT_ROLL_ROWS: i64 = 1_000_000;
const MOST_ROLL_ROWS: i64 = 1_000_000_000;
const DEFAULT_ROLL_EVERY_US: i64 = 300 * SECOND_US;

/// The settings.
pub(super) struct Plan {
    pub(super) store: Store,
    /// The pipeline's and the sink's name.
    pub(super) label: String,
    pub(super) inputs: Arc<[Input]>,
    pub(super) emit: Emit,
    pub(super) roll_rows: u64,
    pub(super) roll_every: Duration,
}

/// Reads the settings; everything wrong becomes a finding.
pub(super) fn make_plan(section: &Section<'_>, context: &SinkContext) -> Option<Plan> {
    let retain = retain::read(section, context);
    let place = place(section, "lake");
    let partition = section.texts("partition");
    let roll = plan_roll(section);
    let inputs = plan_inputs(section, context, partition.as_deref(), retain.as_ref());
    let (roll_rows, roll_every) = roll?;
    let plan = Plan {
        store: place?.into(),
        label: format!("{}.{}", context.pipeline, context.sink),
        inputs: inputs?.into(),
        emit: context.emit,
        roll_rows,
        roll_every,
    };
    if partition.is_none() && section.has("partition") {
        return None;
    }
    Some(plan)
}

/// Rows and time; the defaults where the table is not written.
fn plan_roll(section: &Section<'_>) -> Option<(u64, Duration)> {
    let before = section.findings().errors();
    let (mut rows, mut every_us) = (DEFAULT_ROLL_ROWS, DEFAULT_ROLL_EVERY_US);
    if let Some(roll) = section.table("roll") {
        rows = roll.integer("rows", 1, MOST_ROLL_ROWS).map_or(rows, |rows| rows.value);
        if let Some(every) = roll.duration("every") {
            every_us = every.value;
            if every_us <= 0 {
                section.findings().error(every.span, "`every` must be longer than zero");
            }
        }
        roll.finish();
    }
    let every = Duration::from_micros(every_us.unsigned_abs());
    (section.findings().errors() == before).then_some((rows.unsigned_abs(), every))
}

fn plan_inputs(
    section: &Section<'_>,
    context: &SinkContext,
    partition: Option<&[Spanned<String>]>,
    retain: Option<&Retain>,
) -> Option<Vec<Input>> {
    let with_changes = context.emit == Emit::Changes;
    let before = section.findings().errors();
    let mut inputs = Vec::new();
    // A partition that one input lacks is told once, however many lack it.
    let mut told: Vec<&str> = Vec::new();
    for input in &context.inputs {
        let clashes = |name: &&&str| with_changes && input.schema.index_of(name).is_some();
        for name in CHANGE_COLUMNS.iter().filter(clashes) {
            let message = format!(
                "the column `{name}` of `{}` clashes with the `{name}` that changes carry",
                input.name
            );
            let help = "give the column another name, or choose `emit = \"final\"`";
            section.findings().error_help(section.word_in("from", &input.name), message, help);
        }
        let partitioning = match partition {
            None => Partitioning::default_of(&input.schema),
            Some(written) => Partitioning::new(
                written
                    .iter()
                    .enumerate()
                    .filter(|(index, name)| is_first(section, &written[..*index], name))
                    .filter(|(_, name)| !told.contains(&name.value.as_str()))
                    .map(|(_, name)| (name, plan_part(section, input, name)))
                    .collect::<Vec<_>>()
                    .into_iter()
                    .filter_map(|(name, part)| {
                        if part.is_none() {
                            told.push(&name.value);
                        }
                        part
                    })
                    .collect(),
            ),
        };
        let layout = Arc::new(Layout::new(&input.schema, with_changes));
        let periods = retain.map(|retain| retain.of(input)).unwrap_or_default();
        if section.findings().errors() == before {
            check_removable(section, input, &partitioning, &periods);
        }
        inputs.push(Input { name: input.name.clone(), layout, partitioning, periods });
    }
    (section.findings().errors() == before).then_some(inputs)
}

/// Reports directories that would never be old as a whole.
fn check_removable(
    section: &Section<'_>,
    input: &SinkInput,
    partitioning: &Partitioning,
    periods: &[(Option<String>, i64)],
) {
    let lacks = |name: &str| partitioning.names().all(|known| known != name);
    let is_by_granularity = periods.iter().any(|(granularity, _)| granularity.is_some());
    let (missing, help) = match periods {
        [] => return,
        _ if is_by_granularity && (lacks(GRANULARITY) || !partitioning.has_date()) => {
            (GRANULARITY, "write partition = [\"granularity\", \"date\"]")
        }
        _ if !partitioning.has_date() => ("date", "write partition = [\"date\"]"),
        _ => return,
    };
    let message = format!(
        "`retain` removes whole directories, and those of `{}` are not told apart by `{missing}`",
        input.name
    );
    section.findings().error_help(section.key_span("retain"), message, help);
}

/// Reports a partition that is named twice.
fn is_first(section: &Section<'_>, before: &[Spanned<String>], name: &Spanned<String>) -> bool {
    let repeated = before.iter().any(|earlier| earlier.value == name.value);
    if repeated {
        let message = format!("`{}` is named twice", name.value);
        section.findings().error(name.span.clone(), message);
    }
    !repeated
}

fn plan_part(
    section: &Section<'_>,
    input: &SinkInput,
    name: &Spanned<String>,
) -> Option<(String, Part)> {
    let schema = &input.schema;
    let error = |message: String, help: String| {
        section.findings().error_help(name.span.clone(), message, help);
        None
    };
    let column = schema.index_of(&name.value);
    if name.value == "date" {
        return match (schema.time, column) {
            (Some(_), Some(_)) => error(
                format!("`{}` has a column `date` besides its time", input.name),
                "give the column another name, or partition by something else".to_owned(),
            ),
            (Some(time), None) => Some(("date".to_owned(), Part::Date(time))),
            (None, Some(column)) => Some(("date".to_owned(), Part::Column(column))),
            (None, None) => error(
                format!("`{}` has no time to take the `date` from", input.name),
                "write `partition = []`, or name columns".to_owned(),
            ),
        };
    }
    let Some(column) = column else {
        let message = format!("`{}` has no column `{}` to partition by", input.name, name.value);
        let names = || schema.names().chain(["date"]);
        return match nearest(&name.value, names()) {
            Some(near) => error(message, format!("did you mean `{near}`?")),
            None => {
                error(message, format!("choose of: {}", names().collect::<Vec<_>>().join(", ")))
            }
        };
    };
    if schema.columns[column].kind == ColumnType::Json {
        let message = format!("`{}` is JSON, which cannot name a directory", name.value);
        return error(message, "partition by a column of another type".to_owned());
    }
    Some((name.value.clone(), Part::Column(column)))
}
