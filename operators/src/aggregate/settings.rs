//! The settings of an aggregate.

use chrono_tz::Tz;
use waterwheel_config::calendar::Period;
use waterwheel_config::expr;
use waterwheel_config::schema::Column;
use waterwheel_config::section::{Section, Spanned};
use waterwheel_config::value::ColumnType;
use waterwheel_pipeline::contract::clock::Watermark;
use waterwheel_pipeline::contract::operator::{InputPlan, OperatorContext};

use super::InputPrograms;
use super::levels::{Level, levels};
use crate::accumulator::AccumulatorKind;
use crate::by::{ByColumn, by_columns, key_plan, named_texts};
use crate::meaning::Meaning;
use crate::measure::{Feed, Reading, compile_measure};
use crate::settings::{Intake, TimeColumn, timezone};

/// What the settings say.
pub(super) struct Settings {
    pub(super) zone: Tz,
    pub(super) inputs: Vec<InputPrograms>,
    pub(super) watermarks: Vec<Watermark>,
    pub(super) levels: Vec<Level>,
    pub(super) panes: Vec<Period>,
    /// The columns of the group.
    pub(super) by: Vec<Column>,
    /// The columns of the measures.
    pub(super) measures: Vec<Column>,
    pub(super) accumulators: Vec<AccumulatorKind>,
    pub(super) readings: Vec<(Reading, usize)>,
}

/// The settings that change the meaning of the rows.
pub(super) fn meaning(section: &Section<'_>, zone: Tz) -> String {
    let mut meaning = Meaning::default();
    let time = section.text("time");
    meaning.add("time", time.map_or_else(|| "timestamp".to_owned(), |time| time.value));
    if let Some(condition) = section.text("where") {
        meaning.expression("where", &condition.value);
    }
    for column in by_columns(section) {
        meaning.expression(&format!("by {}", column.alias), &column.text.value);
    }
    let mut windows = section.texts("windows").unwrap_or_default();
    windows.sort_by(|one, other| one.value.cmp(&other.value));
    windows.iter().for_each(|window| meaning.period("window", &window.value));
    for (name, text) in measures(section) {
        meaning.expression(&format!("measure {name}"), &text.value);
    }
    meaning.finish(zone)
}

impl Settings {
    pub(super) fn read(section: &Section<'_>, context: &OperatorContext) -> Option<Self> {
        section.refuse(&["breakdown", "compare", "expire"]);
        let zone = timezone(section);
        let before = section.findings().len();
        let levels = levels(section, zone);
        let written = Written {
            intake: Intake::read(section, zone),
            by: by_columns(section),
            measures: measures(section),
        };
        written.refuse_taken_names(section);
        let (mut inputs, mut shapes, mut watermarks) = (Vec::new(), Vec::new(), Vec::new());
        for input in &context.inputs {
            if let Some((programs, shape, behind_us)) = written.plan_input(section, input) {
                watermarks.push(input.watermark.delayed(behind_us));
                inputs.push(programs);
                shapes.push(shape);
            }
        }
        if section.findings().len() > before {
            return None;
        }
        let (by_names, measure_names) = written.names();
        let names: Vec<&str> = by_names.iter().chain(&measure_names).copied().collect();
        check_shapes(section, &context.inputs, &shapes, &names)?;
        let shape = shapes.into_iter().next()?;
        let (levels, panes) = levels?;
        let columns = |names: Vec<&str>, kinds: Vec<ColumnType>| {
            names.into_iter().zip(kinds).map(|(name, kind)| Column::new(name, kind)).collect()
        };
        Some(Self {
            zone,
            inputs,
            watermarks,
            levels,
            panes,
            by: columns(by_names, shape.by),
            measures: columns(measure_names, shape.measures),
            accumulators: shape.accumulators,
            readings: shape.readings,
        })
    }
}

/// What all inputs must agree on.
#[derive(Clone, Debug, PartialEq)]
struct InputShape {
    by: Vec<ColumnType>,
    measures: Vec<ColumnType>,
    accumulators: Vec<AccumulatorKind>,
    readings: Vec<(Reading, usize)>,
}

/// Reports the first column that two inputs would fill with different types.
fn check_shapes(
    section: &Section<'_>,
    inputs: &[InputPlan],
    shapes: &[InputShape],
    names: &[&str],
) -> Option<()> {
    let (first, others) = shapes.split_first()?;
    let kinds = |shape: &InputShape| -> Vec<ColumnType> {
        shape.by.iter().chain(&shape.measures).copied().collect()
    };
    for (input, other) in inputs.iter().skip(1).zip(others) {
        let pairs = || kinds(first).into_iter().zip(kinds(other)).zip(names);
        let (one, another) = (&inputs[0].name, &input.name);
        let message = match pairs().find(|((this, that), _)| this != that) {
            Some(((this, that), name)) => {
                format!("`{name}` would be {this} from `{one}` and {that} from `{another}`")
            }
            None if first == other => continue,
            None => format!("the measures of `{one}` and of `{another}` cannot be combined"),
        };
        let help = "give them one type with cast(... as ...), or take one input";
        section.findings().error_help(section.word_in("from", another), message, help);
        return None;
    }
    Some(())
}

fn measures(section: &Section<'_>) -> Vec<(String, Spanned<String>)> {
    match section.require("measures") {
        Some(()) => named_texts(section, "measures"),
        None => Vec::new(),
    }
}

/// The expressions as written, which are compiled for each input.
struct Written {
    intake: Intake,
    by: Vec<ByColumn>,
    measures: Vec<(String, Spanned<String>)>,
}

impl Written {
    /// The names of the columns of the group and of the measures.
    fn names(&self) -> (Vec<&str>, Vec<&str>) {
        (
            self.by.iter().map(|column| column.alias.as_str()).collect(),
            self.measures.iter().map(|(name, _)| name.as_str()).collect(),
        )
    }

    /// Reports columns that have the name of another one.
    fn refuse_taken_names(&self, section: &Section<'_>) {
        const OWN: [&str; 3] = ["granularity", "window_start", "window_end"];
        for column in self.by.iter().filter(|column| OWN.contains(&column.alias.as_str())) {
            section.findings().error_help(
                column.text.span.clone(),
                format!("every aggregate has a column `{}` of its own", column.alias),
                format!("give this one another name: by = {{ name = \"{}\" }}", column.ast),
            );
        }
        let table = section.copy().table("measures");
        for (name, text) in &self.measures {
            let message = if OWN.contains(&name.as_str()) {
                format!("every aggregate has a column `{name}` of its own")
            } else if self.by.iter().any(|column| column.alias == *name) {
                format!("there are two columns named `{name}`, this one and that of `by`")
            } else {
                continue;
            };
            let span =
                table.as_ref().map_or_else(|| text.span.clone(), |table| table.key_span(name));
            section.findings().error_help(span, message, "give the measure another name");
        }
    }

    /// The programs over an input, and how far its time may lie behind its watermark.
    fn plan_input(
        &self,
        section: &Section<'_>,
        input: &InputPlan,
    ) -> Option<(InputPrograms, InputShape, i64)> {
        let mut intake = self.intake.of(section, input);
        let scope = &mut intake.scope;
        let key = key_plan(section, &self.by, input, scope);
        let mut shape = InputShape {
            by: key.kinds.clone(),
            measures: Vec::new(),
            accumulators: Vec::new(),
            readings: Vec::new(),
        };
        let mut feeds: Vec<Feed> = Vec::new();
        for (_, text) in &self.measures {
            match compile_measure(&text.value, scope) {
                Ok(measure) => {
                    // avg(x) and sum(x) share one accumulator, as do quantiles of one argument.
                    let known = (0..feeds.len()).find(|&index| {
                        feeds[index] == measure.feed
                            && shape.accumulators[index] == measure.accumulator
                    });
                    let index = known.unwrap_or_else(|| {
                        feeds.push(measure.feed);
                        shape.accumulators.push(measure.accumulator);
                        feeds.len() - 1
                    });
                    shape.readings.push((measure.reading, index));
                    shape.measures.push(measure.column);
                }
                Err(error) => expr::report(section, text, &error),
            }
        }
        let TimeColumn { slot: time_slot, behind_us } = intake.time?;
        let condition = intake.condition;
        input.need_keys(condition.as_ref(), key.programs.clone());
        Some((InputPrograms { condition, key, feeds, time_slot }, shape, behind_us))
    }
}
