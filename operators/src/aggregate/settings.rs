//! The settings of an aggregate.

use chrono_tz::Tz;
use waterwheel_config::calendar::Period;
use waterwheel_config::expr::{self, ExprError};
use waterwheel_config::schema::Column;
use waterwheel_config::section::{Section, Spanned};
use waterwheel_config::value::ColumnType;
use waterwheel_pipeline::contract::clock::Watermark;
use waterwheel_pipeline::contract::operator::{InputPlan, OperatorContext};

use super::InputPrograms;
use super::columns::{breakdown_name, measure_columns, refuse_taken_names};
use super::levels::{Level, levels, written_windows};
use crate::accumulator::AccumulatorKind;
use crate::by::{NamedColumn, named_columns, named_texts};
use crate::key::KeyPlan;
use crate::meaning::Meaning;
use crate::measure::{Feed, Measure, Reading, bare_type, compile_measure, goes_by_time};
use crate::settings::{Intake, TimeColumn, TimeNeed, key_columns, timezone};

/// What the settings say.
pub(super) struct Settings {
    pub(super) zone: Tz,
    pub(super) inputs: Vec<InputPrograms>,
    pub(super) watermarks: Vec<Watermark>,
    /// None where there is one row per group over all time.
    pub(super) levels: Vec<Level>,
    pub(super) panes: Vec<Period>,
    /// After how much silence a group over all time is forgotten.
    pub(super) expire_us: Option<i64>,
    /// The columns of the group.
    pub(super) by: Vec<Column>,
    /// The columns of the measures, and what is added to them.
    pub(super) measures: Vec<Column>,
    pub(super) accumulators: Vec<AccumulatorKind>,
    pub(super) readings: Vec<(Reading, usize)>,
    /// The measures that are compared with those of the window before.
    pub(super) compared: Vec<usize>,
}

/// The settings that change the meaning of the rows.
pub(super) fn meaning(section: &Section<'_>, zone: Tz) -> String {
    let mut meaning = Meaning::default();
    let time = section.text("time");
    meaning.add("time", time.map_or_else(|| "timestamp".to_owned(), |time| time.value));
    if let Some(condition) = section.text("where") {
        meaning.expression("where", &condition.value);
    }
    for column in named_columns(section, "by") {
        meaning.expression(&format!("by {}", column.alias), &column.text.value);
    }
    let windows = if section.has("windows") { written_windows(section, zone) } else { None };
    let mut windows: Vec<String> =
        windows.into_iter().flatten().map(|window| window.label).collect();
    windows.sort();
    windows.iter().for_each(|window| meaning.period("window", window));
    if let Some(expire) = section.duration("expire") {
        meaning.add("expire", expire.value);
    }
    for (name, text) in measures(section) {
        meaning.expression(&format!("measure {name}"), &text.value);
    }
    for column in named_columns(section, "breakdown") {
        meaning.expression(&format!("breakdown {}", column.alias), &column.text.value);
    }
    if let Some(compare) = section.text("compare") {
        meaning.add("compare", compare.value);
    }
    meaning.finish(zone)
}

impl Settings {
    pub(super) fn read(section: &Section<'_>, context: &OperatorContext) -> Option<Self> {
        let zone = timezone(section);
        let before = section.findings().errors();
        let extent = Extent::read(section, zone);
        let written = Written {
            intake: Intake::read(section, zone),
            by: named_columns(section, "by"),
            measures: measures(section),
            breakdown: named_columns(section, "breakdown"),
            has_windows: section.has("windows"),
            expires: extent.expire_us.is_some(),
        };
        let is_compared = is_compared(section);
        refuse_taken_names(section, &written.by, &written.measures, &written.breakdown);
        let (mut inputs, mut shapes, mut watermarks) = (Vec::new(), Vec::new(), Vec::new());
        for input in &context.inputs {
            if let Some((programs, shape, behind_us)) = written.plan_input(section, input) {
                watermarks.push(input.watermark.delayed(behind_us));
                inputs.push(programs);
                shapes.push(shape);
            }
        }
        if section.findings().errors() > before {
            return None;
        }
        let names: Vec<&str> = written.by.iter().map(|column| column.alias.as_str()).collect();
        let measure_names = written.measure_names();
        let all_names = names.iter().copied().chain(measure_names.iter().map(String::as_str));
        check_shapes(section, &context.inputs, &shapes, &all_names.collect::<Vec<_>>())?;
        let shape = shapes.into_iter().next()?;
        written.refuse_forgetful(section, &context.inputs, &shape)?;
        let measures = measure_columns(measure_names, &shape.measures, is_compared);
        if is_compared && measures.compared.is_empty() {
            let span = section.key_span("compare");
            section.findings().error_help(
                span,
                "none of the measures is a number, which `compare` could compare",
                "leave it out, or add a measure such as count(*)",
            );
            return None;
        }
        let (levels, panes) = extent.windows?;
        extent_warning(section, &levels, extent.expire_us, &written.by);
        let by = names.into_iter().zip(&shape.by);
        Some(Self {
            zone,
            inputs,
            watermarks,
            levels,
            panes,
            expire_us: extent.expire_us,
            by: by.map(|(name, kind)| Column::new(name, *kind)).collect(),
            measures: measures.all,
            accumulators: shape.accumulators,
            readings: shape.readings,
            compared: measures.compared,
        })
    }
}

/// Which part of time a row is about.
struct Extent {
    windows: Option<(Vec<Level>, Vec<Period>)>,
    expire_us: Option<i64>,
}

impl Extent {
    fn read(section: &Section<'_>, zone: Tz) -> Self {
        let expire = section.duration("expire");
        if section.has("windows") {
            if section.has("expire") {
                section.findings().error_help(
                    section.key_span("expire"),
                    "`expire` is for groups over all time: windows end by themselves",
                    "leave out `expire`, or leave out `windows`",
                );
            }
            return Self { windows: levels(section, zone), expire_us: None };
        }
        let _ = section.node("windows");
        if let Some(expire) = expire.as_ref().filter(|expire| expire.value == 0) {
            section.findings().error(expire.span.clone(), "`expire` must be longer than zero");
        }
        // Within a pane of its length no silence lasts as long.
        let expire_us = expire.map(|expire| expire.value.max(1));
        let pane = Period::Fixed(expire_us.unwrap_or(i64::MAX));
        Self { windows: Some((Vec::new(), vec![pane])), expire_us }
    }
}

fn extent_warning(
    section: &Section<'_>,
    levels: &[Level],
    expire_us: Option<i64>,
    by: &[NamedColumn],
) {
    if levels.is_empty() && expire_us.is_none() && !by.is_empty() {
        section.findings().warning(
            section.span.clone(),
            format!("{} keeps every group that there ever was", section.what),
            "write windows = [\"1h\"], or expire = \"30d\" to forget a group after so much silence",
        );
    }
}

/// Reads `compare`.
fn is_compared(section: &Section<'_>) -> bool {
    let compare = section.choice("compare", &["previous"]);
    if compare.is_some() && !section.has("windows") {
        section.findings().error_help(
            section.key_span("compare"),
            "`compare` needs windows: nothing comes before all time",
            "write for example windows = [\"1h\"]",
        );
    }
    compare.is_some()
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
    by: Vec<NamedColumn>,
    measures: Vec<(String, Spanned<String>)>,
    breakdown: Vec<NamedColumn>,
    has_windows: bool,
    expires: bool,
}

impl Written {
    /// The names of the columns of measures and breakdowns.
    fn measure_names(&self) -> Vec<String> {
        let measures = self.measures.iter().map(|(name, _)| name.clone());
        measures.chain(self.breakdown.iter().map(breakdown_name)).collect()
    }

    /// What the times of the items must be good for.
    fn time_need(&self, section: &Section<'_>) -> TimeNeed {
        if self.has_windows || self.expires {
            TimeNeed::Bounded
        } else if section.has("time")
            || self.measures.iter().any(|(_, text)| goes_by_time(&text.value))
        {
            TimeNeed::Any
        } else {
            TimeNeed::None
        }
    }

    /// The programs over an input, and how far its time may lie behind its watermark.
    fn plan_input(
        &self,
        section: &Section<'_>,
        input: &InputPlan,
    ) -> Option<(InputPrograms, InputShape, i64)> {
        let mut intake = self.intake.for_need(section, input, self.time_need(section));
        let scope = &mut intake.scope;
        let mut key = KeyPlan { programs: Vec::new(), kinds: Vec::new() };
        for column in &self.by {
            match expr::compile(&column.ast, scope) {
                Ok(typed) => {
                    key.programs.push(typed.program);
                    key.kinds.push(bare_type(&column.ast, typed.kind));
                }
                Err(error) => expr::report(section, &column.text, &error),
            }
        }
        let mut shape = InputShape {
            by: key.kinds.clone(),
            measures: Vec::new(),
            accumulators: Vec::new(),
            readings: Vec::new(),
        };
        let mut feeds: Vec<Feed> = Vec::new();
        for (_, text) in &self.measures {
            match compile_measure(&text.value, scope) {
                Ok(measure) => shape.add(measure, &mut feeds),
                Err(error) => expr::report(section, text, &error),
            }
        }
        for column in &self.breakdown {
            match expr::compile(&column.ast, scope) {
                Ok(typed) => shape.add(Measure::breakdown(typed.program), &mut feeds),
                Err(error) => expr::report(section, &column.text, &error),
            }
        }
        if self.expires {
            feeds.push(Feed { argument: None, filter: None });
            shape.accumulators.push(AccumulatorKind::Span);
        }
        let TimeColumn { slot: time_slot, behind_us } = intake.time?;
        let condition = intake.condition;
        input.need_keys(condition.as_ref(), key.programs.clone());
        let key_columns = key_columns(input);
        Some((InputPrograms { condition, key, feeds, time_slot, key_columns }, shape, behind_us))
    }

    /// Reports measures that cannot take back what they counted, over rows that change.
    fn refuse_forgetful(
        &self,
        section: &Section<'_>,
        inputs: &[InputPlan],
        shape: &InputShape,
    ) -> Option<()> {
        let Some(input) = inputs.iter().find(|input| !input.append_only()) else {
            return Some(());
        };
        let mut is_fine = true;
        for ((_, text), (reading, _)) in self.measures.iter().zip(&shape.readings) {
            if *reading == Reading::Approximate {
                is_fine = false;
                let message = format!(
                    "`approx_count_distinct` cannot take back what it counted, and rows of `{}` change",
                    input.name
                );
                let error = ExprError::new("approx_count_distinct", message)
                    .help("write count(distinct ...), which can");
                expr::report(section, text, &error);
            }
        }
        is_fine.then_some(())
    }
}

impl InputShape {
    /// Adds a measure; avg(x) and sum(x) share one accumulator, as do quantiles of one argument.
    fn add(&mut self, measure: Measure, feeds: &mut Vec<Feed>) {
        let known = (0..feeds.len()).find(|&index| {
            feeds[index] == measure.feed && self.accumulators[index] == measure.accumulator
        });
        let index = known.unwrap_or_else(|| {
            feeds.push(measure.feed);
            self.accumulators.push(measure.accumulator);
            feeds.len() - 1
        });
        self.readings.push((measure.reading, index));
        self.measures.push(measure.column);
    }
}
