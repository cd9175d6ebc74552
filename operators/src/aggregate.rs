//! **aggregate** counts, sums and measures groups of events in windows of event time.
//!
//! ```toml
//! [operators.volume]
//! type = "aggregate"
//! from = "events"
//! where = "event_type = 'order.filled'"
//! by = ["properties.symbol"]
//! windows = ["1m", "1h", "1d"]
//! measures.trades = "count(*)"
//! measures.notional = "sum(properties.price * properties.quantity)"
//! ```
//!
//! Every worker first combines the events of an epoch that it decoded itself into one partial per
//! group and pane ([`combine`]); partials then move to the worker that owns the group, which keeps
//! the open windows of every granularity ([`windows`]) and drops each whole when the watermark
//! reaches its end.

mod combine;
mod windows;

use std::sync::Arc;

use chrono_tz::Tz;
use timely::dataflow::Scope;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::Concatenate;
use waterwheel_config::calendar::Period;
use waterwheel_config::expr::{self, Ast, Kind, Program};
use waterwheel_config::schema::{Column, Finality, Schema};
use waterwheel_config::section::{Section, Spanned};
use waterwheel_config::value::{ColumnType, Value};
use waterwheel_pipeline::contract::epoch::Epoch;
use waterwheel_pipeline::contract::operator::{
    Input, InputFlow, InputPlan, Operator, OperatorContext, OperatorKind, Planned, RenderContext,
    Rows, inputs_from,
};

use self::combine::{Combiner, Partial};
use self::windows::OpenWindows;
use crate::accumulator::{Accumulator, AccumulatorKind};
use crate::key::KeyPlan;
use crate::meaning::Meaning;
use crate::measure::{Feed, Reading, compile_measure};
use waterwheel_pipeline::contract::fold::{Update, every_epoch, every_epoch_kept};
use waterwheel_pipeline::contract::state::route;

/// The kind.
pub const KIND: OperatorKind = OperatorKind {
    name: "aggregate",
    summary: "counts, sums and measures groups of events in windows of event time",
    example: r#"[operators.volume]
type = "aggregate"
from = "events"
by = ["properties.symbol"]
windows = ["1m", "1h"]
measures.trades = "count(*)"
"#,
    inputs: inputs_from,
    plan,
};

/// Everything a worker needs to compute an aggregate.
#[derive(Debug)]
struct Plan {
    inputs: Vec<InputPrograms>,
    accumulators: Vec<AccumulatorKind>,
    /// True where an input may take rows back.
    retracting: bool,
    /// How each measure reads which accumulator.
    readings: Vec<(Reading, usize)>,
    /// The panes in which events are combined; every level is a union of panes of one of them.
    panes: Vec<Period>,
    levels: Vec<Level>,
}

/// The programs over one input.
#[derive(Debug)]
struct InputPrograms {
    condition: Option<Program>,
    key: KeyPlan,
    /// What feeds each accumulator.
    feeds: Vec<Feed>,
    /// The column of event time; events have their own.
    time_slot: Option<usize>,
}

/// One granularity.
#[derive(Debug)]
struct Level {
    /// As written: "1m".
    granularity: Value,
    period: Period,
    /// The index of its panes.
    pane: usize,
}

struct Aggregate(Arc<Plan>);

impl Operator for Aggregate {
    fn render<'s>(
        &self,
        scope: Scope<'s, Epoch>,
        inputs: Vec<Input<'s>>,
        context: RenderContext,
    ) -> Rows<'s> {
        let partials: Vec<_> = inputs
            .into_iter()
            .enumerate()
            .map(|(index, input)| {
                let combiner = Combiner::new(self.0.clone(), index);
                let clock = context.clock.clone();
                match input {
                    Input::Events(events) => {
                        every_epoch(events, Pipeline, "CombineEvents", clock, combiner).inner
                    }
                    Input::Rows(rows) => {
                        every_epoch(rows.inner, Pipeline, "CombineRows", clock, combiner).inner
                    }
                }
            })
            .collect();
        let windows = OpenWindows::new(self.0.clone(), &context);
        let owner = Exchange::new(|(partial, _, _): &Update<Partial>| route(partial.hash));
        let part = Some(context.part("windows"));
        let partials = scope.concatenate(partials);
        every_epoch_kept(partials, owner, "Windows", context.clock, part, windows)
    }
}

fn plan(section: &Section<'_>, context: &mut OperatorContext) -> Option<Planned> {
    section.refuse(&["breakdown", "compare", "expire"]);
    let zone = timezone(section);
    let before = section.findings().len();
    let levels = levels(section, zone);
    let time = section.text("time");
    let conditions = section.text("where");
    let by = by_columns(section);
    let measures = measure_texts(section);
    refuse_taken_names(section, &by, &measures);
    let mut inputs = Vec::new();
    let mut shapes: Vec<InputShape> = Vec::new();
    let mut watermark = Vec::new();
    for input in &context.inputs {
        let planned =
            plan_input(section, input, zone, time.as_ref(), conditions.as_ref(), &by, &measures);
        let Some((programs, shape, delay_us)) = planned else {
            continue;
        };
        watermark.push(input.watermark.delayed(delay_us));
        inputs.push(programs);
        shapes.push(shape);
    }
    if section.findings().len() > before {
        return None;
    }
    check_shapes(section, &context.inputs, &shapes, &by, &measures)?;
    let shape = shapes.into_iter().next()?;
    let (levels, panes) = levels?;
    let schema = schema(&levels, &by, &measures, &shape);
    let meaning = meaning(section, zone);
    let retracting = context.inputs.iter().any(|input| !input.append_only());
    let state_bound = state_bound(&levels);
    let plan = Plan {
        inputs,
        accumulators: shape.accumulators,
        retracting,
        readings: shape.readings,
        panes,
        levels,
    };
    Some(Planned {
        operator: Arc::new(Aggregate(Arc::new(plan))),
        schema: Arc::new(schema),
        watermark: waterwheel_pipeline::contract::clock::Watermark::least(&watermark),
        held_back_us: 0,
        state_bound,
        meaning,
    })
}

/// What all inputs must agree on.
#[derive(Clone, Debug, PartialEq)]
struct InputShape {
    by: Vec<ColumnType>,
    columns: Vec<ColumnType>,
    accumulators: Vec<AccumulatorKind>,
    readings: Vec<(Reading, usize)>,
}

/// Reports the first column that two inputs would fill with different types.
fn check_shapes(
    section: &Section<'_>,
    inputs: &[InputPlan],
    shapes: &[InputShape],
    by: &[ByColumn],
    measures: &[(String, Spanned<String>)],
) -> Option<()> {
    let (first, others) = shapes.split_first()?;
    let names = by.iter().map(|column| &column.alias).chain(measures.iter().map(|(name, _)| name));
    let names: Vec<&String> = names.collect();
    let kinds = |shape: &InputShape| -> Vec<ColumnType> {
        shape.by.iter().chain(&shape.columns).copied().collect()
    };
    for (input, other) in inputs.iter().skip(1).zip(others) {
        let pairs = || kinds(first).into_iter().zip(kinds(other)).zip(&names);
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

/// A `by` column as written.
struct ByColumn {
    alias: String,
    text: Spanned<String>,
    ast: Ast,
}

/// Reads `timezone`; UTC by default.
pub(crate) fn timezone(section: &Section<'_>) -> Tz {
    let parse = |text: &str| {
        text.parse::<Tz>().map_err(|_| {
            let near = chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name());
            let near = waterwheel_config::names::nearest(text, near);
            match near {
                Some(near) => format!("there is no timezone `{text}`; did you mean `{near}`?"),
                None => {
                    format!("there is no timezone `{text}`; write a name such as Europe/Berlin")
                }
            }
        })
    };
    section.parsed("timezone", parse).map_or(Tz::UTC, |zone| zone.value)
}

fn levels(section: &Section<'_>, zone: Tz) -> Option<(Vec<Level>, Vec<Period>)> {
    if !section.has("windows") {
        let what = &section.what;
        let message =
            format!("{what} has no `windows`, and one row over all time is not built yet");
        let help = "write for example windows = [\"1m\", \"1h\"]";
        section.missing("windows", section.span.clone(), message, Some(help));
        return None;
    }
    if let Some(node) = section.node("windows")
        && is_hopping(node)
    {
        section.findings().error_help(
            node.span.clone(),
            "hopping windows are not built yet",
            "write lengths only: windows = [\"1m\", \"1h\"]",
        );
        return None;
    }
    let texts = section.texts("windows")?;
    let is_empty = texts.is_empty();
    let mut written: Vec<(String, Period)> = Vec::new();
    for text in texts {
        match Period::parse(&text.value, zone) {
            Ok(_) if written.iter().any(|(label, _)| *label == text.value) => {
                section
                    .findings()
                    .error(text.span, format!("the window `{}` is there twice", text.value));
            }
            Ok(period) => written.push((text.value, period)),
            Err(message) => section.findings().error(text.span, message),
        }
    }
    if is_empty {
        let help = "write for example windows = [\"1m\", \"1h\"]";
        let span = section.key_span("windows");
        section.findings().error_help(span, "`windows` names no window", help);
    }
    // Their order means nothing, and the state goes by it.
    written.sort_by_cached_key(|(label, period)| (period.longest_us(), label.clone()));
    let panes = panes(&written)?;
    let levels = written
        .into_iter()
        .map(|(label, period)| Level {
            granularity: Value::text(&label),
            period,
            pane: panes.iter().position(|pane| period.is_union_of(*pane)).unwrap_or(0),
        })
        .collect();
    Some((levels, panes))
}

fn is_hopping(node: &waterwheel_config::document::Node) -> bool {
    use waterwheel_config::document::NodeKind;
    match &node.kind {
        NodeKind::Table(_) => true,
        NodeKind::Array(items) => items.iter().any(|item| matches!(item.kind, NodeKind::Table(_))),
        _ => false,
    }
}

/// The panes from which all windows can be rolled up: the greatest common divisor of the fixed
/// lengths, and the finest calendar period where a timezone's days are no union of those.
fn panes(written: &[(String, Period)]) -> Option<Vec<Period>> {
    let fixed = written.iter().filter_map(|(_, period)| match period {
        Period::Fixed(length_us) => Some(*length_us),
        _ => None,
    });
    let mut panes: Vec<Period> =
        fixed.reduce(greatest_common_divisor).map(Period::Fixed).into_iter().collect();
    let mut calendar: Vec<Period> = written
        .iter()
        .map(|(_, period)| *period)
        .filter(|period| !panes.iter().any(|pane| period.is_union_of(*pane)))
        .collect();
    // Days come before weeks and months, which are unions of them.
    calendar.sort_by_key(|period| period.longest_us());
    for period in calendar {
        if !panes.iter().any(|pane| period.is_union_of(*pane)) {
            panes.push(period);
        }
    }
    (!panes.is_empty()).then_some(panes)
}

fn greatest_common_divisor(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

fn by_columns(section: &Section<'_>) -> Vec<ByColumn> {
    let mut columns: Vec<ByColumn> = Vec::new();
    let mut push = |alias: Option<String>, text: Spanned<String>| match expr::parse(&text.value) {
        Ok(ast) => {
            let alias = alias.or_else(|| last_segment(&ast));
            let Some(alias) = alias else {
                section.findings().error_help(
                    text.span.clone(),
                    "a computed column needs a name",
                    format!("write by = {{ name = \"{ast}\" }}"),
                );
                return;
            };
            if columns.iter().any(|column| column.alias == alias) {
                section.findings().error_help(
                    text.span.clone(),
                    format!("there are two columns named `{alias}`"),
                    format!("give one of them another name: by = {{ name = \"{ast}\" }}"),
                );
                return;
            }
            columns.push(ByColumn { alias, text, ast });
        }
        Err(error) => expr::report(section, &text, &error),
    };
    if !section.has("by") {
        let _ = section.node("by");
        return columns;
    }
    let is_table = section
        .node("by")
        .is_some_and(|node| matches!(node.kind, waterwheel_config::document::NodeKind::Table(_)));
    if is_table {
        if let Some(table) = section.table("by") {
            for (key, node) in table.entries() {
                if let Some(text) = table.node_text(node, &key.name) {
                    push(Some(key.name.clone()), text);
                }
            }
        }
    } else {
        for text in section.texts("by").unwrap_or_default() {
            push(None, text);
        }
    }
    columns
}

/// Reports columns that have the name of another one.
fn refuse_taken_names(
    section: &Section<'_>,
    by: &[ByColumn],
    measures: &[(String, Spanned<String>)],
) {
    const OWN: [&str; 3] = ["granularity", "window_start", "window_end"];
    for column in by.iter().filter(|column| OWN.contains(&column.alias.as_str())) {
        section.findings().error_help(
            column.text.span.clone(),
            format!("every aggregate has a column `{}` of its own", column.alias),
            format!("give this one another name: by = {{ name = \"{}\" }}", column.ast),
        );
    }
    let table = section.copy().table("measures");
    for (name, text) in measures {
        let message = if OWN.contains(&name.as_str()) {
            format!("every aggregate has a column `{name}` of its own")
        } else if by.iter().any(|column| column.alias == *name) {
            format!("there are two columns named `{name}`, this one and that of `by`")
        } else {
            continue;
        };
        let span = table.as_ref().map_or_else(|| text.span.clone(), |table| table.key_span(name));
        section.findings().error_help(span, message, "give the measure another name");
    }
}

fn last_segment(ast: &Ast) -> Option<String> {
    match ast {
        Ast::Identifier(name) => Some(name.value.clone()),
        Ast::CompoundIdentifier(names) => names.last().map(|name| name.value.clone()),
        Ast::Nested(inner) => last_segment(inner),
        _ => None,
    }
}

fn measure_texts(section: &Section<'_>) -> Vec<(String, Spanned<String>)> {
    if section.require("measures").is_none() {
        return Vec::new();
    }
    let Some(table) = section.table("measures") else {
        return Vec::new();
    };
    table
        .entries()
        .filter_map(|(key, node)| Some((key.name.clone(), table.node_text(node, &key.name)?)))
        .collect()
}

fn plan_input(
    section: &Section<'_>,
    input: &InputPlan,
    zone: Tz,
    time: Option<&Spanned<String>>,
    condition: Option<&Spanned<String>>,
    by: &[ByColumn],
    measures: &[(String, Spanned<String>)],
) -> Option<(InputPrograms, InputShape, i64)> {
    let time = time_column(section, input, time);
    let mut scope = input.scope(zone);
    // What is wrong with one setting must not hide what is wrong with the next.
    let condition = condition.and_then(|text| expr::condition(section, text, &mut scope));
    let mut key = KeyPlan { programs: Vec::new(), kinds: Vec::new() };
    for column in by {
        match expr::compile(&column.ast, &mut scope) {
            Ok(typed) => {
                key.programs.push(typed.program);
                key.kinds.push(by_type(&column.ast, typed.kind, &input.flow));
            }
            Err(error) => expr::report(section, &column.text, &error),
        }
    }
    let mut shape = InputShape {
        by: key.kinds.clone(),
        columns: Vec::new(),
        accumulators: Vec::new(),
        readings: Vec::new(),
    };
    let mut feeds: Vec<Feed> = Vec::new();
    for (_, text) in measures {
        match compile_measure(&text.value, &mut scope) {
            Ok(measure) => {
                // avg(x) and sum(x) share one accumulator, as do quantiles of one argument.
                let known = (0..feeds.len()).find(|&index| {
                    feeds[index] == measure.feed && shape.accumulators[index] == measure.accumulator
                });
                let index = known.unwrap_or_else(|| {
                    feeds.push(measure.feed);
                    shape.accumulators.push(measure.accumulator);
                    feeds.len() - 1
                });
                shape.readings.push((measure.reading, index));
                shape.columns.push(measure.column);
            }
            Err(error) => expr::report(section, text, &error),
        }
    }
    let (time_slot, delay_us) = time?;
    input.need_keys(condition.as_ref(), key.programs.clone());
    Some((InputPrograms { condition, key, feeds, time_slot }, shape, delay_us))
}

/// Group columns are text (SPEC 2), unless a cast chooses, or an operator's column has a type.
fn by_type(ast: &Ast, kind: Kind, flow: &InputFlow) -> ColumnType {
    let bare = last_segment(ast).is_some();
    match (ast, flow) {
        (Ast::Cast { .. }, _) => kind.column_type(),
        (_, InputFlow::Rows(_)) if bare => kind.column_type(),
        _ if kind == Kind::Timestamp => ColumnType::Timestamp,
        _ => ColumnType::Text,
    }
}

/// The slot of event time and how far it may lie behind the input's watermark.
pub(crate) fn time_column(
    section: &Section<'_>,
    input: &InputPlan,
    time: Option<&Spanned<String>>,
) -> Option<(Option<usize>, i64)> {
    let name = time.map_or("timestamp", |time| time.value.as_str());
    let span = time.map_or_else(|| section.word_in("from", &input.name), |time| time.span.clone());
    let InputFlow::Rows(schema) = &input.flow else {
        if name == "timestamp" {
            return Some((None, 0));
        }
        section.findings().error_help(
            span,
            format!("events of `{}` have their time in `timestamp`", input.name),
            "leave `time` out; to take another field as event time, map it in the source's `event` table",
        );
        return None;
    };
    let usable = || {
        let times = schema.columns.iter().filter(|column| column.behind_us.is_some());
        let names: Vec<&str> = times.map(|column| column.name.as_str()).collect();
        match names.as_slice() {
            [] => format!("`{}` has no column that can drive windows", input.name),
            names => format!("choose with time = \"...\" one of: {}", names.join(", ")),
        }
    };
    let Some(slot) = schema.index_of(name) else {
        section.findings().error_help(
            span,
            format!("`{}` has no column `{name}` to take the time from", input.name),
            usable(),
        );
        return None;
    };
    let Some(behind_us) = schema.columns[slot].behind_us else {
        section.findings().error_help(
            span,
            format!(
                "nothing bounds how far `{name}` of `{}` lies behind the watermark",
                input.name
            ),
            usable(),
        );
        return None;
    };
    Some((Some(slot), behind_us))
}

fn schema(
    levels: &[Level],
    by: &[ByColumn],
    measures: &[(String, Spanned<String>)],
    shape: &InputShape,
) -> Schema {
    let longest_us = levels.iter().map(|level| level.period.longest_us()).max().unwrap_or(0);
    let mut columns = vec![
        Column::new("granularity", ColumnType::Text),
        Column::time("window_start", longest_us),
        Column::time("window_end", 0),
    ];
    let by = by.iter().zip(&shape.by);
    columns.extend(by.map(|(column, kind)| Column::new(&column.alias, *kind)));
    let key = [0, 1].into_iter().chain(3..columns.len()).collect();
    let measures = measures.iter().zip(&shape.columns);
    columns.extend(measures.map(|((name, _), kind)| Column::new(name, *kind)));
    Schema {
        columns,
        key,
        finality: Finality::At { column: 2, plus_us: 0 },
        append_only: false,
        time: Some(1),
    }
}

fn state_bound(levels: &[Level]) -> String {
    let names: Vec<String> = levels.iter().map(|level| level.granularity.to_plain()).collect();
    format!("the groups of the open windows ({})", names.join(", "))
}

/// The settings that change the meaning of the rows.
fn meaning(section: &Section<'_>, zone: Tz) -> String {
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
    for (name, text) in measure_texts(section) {
        meaning.expression(&format!("measure {name}"), &text.value);
    }
    meaning.finish(zone)
}

/// Empty accumulators of a plan.
fn accumulators(plan: &Plan) -> Vec<Accumulator> {
    plan.accumulators.iter().map(|kind| Accumulator::new(kind, plan.retracting)).collect()
}

#[cfg(test)]
mod tests;
