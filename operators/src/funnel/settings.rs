//! The settings of a funnel.

use chrono_tz::Tz;
use waterwheel_config::calendar::Period;
use waterwheel_config::document::NodeKind;
use waterwheel_config::expr::{self, Ast, Program};
use waterwheel_config::section::{Section, Spanned};
use waterwheel_config::value::Value;
use waterwheel_pipeline::contract::clock::Watermark;
use waterwheel_pipeline::contract::operator::{InputPlan, OperatorContext};

use super::{InputPrograms, Order, Rules};
use crate::meaning::Meaning;
use crate::settings::{Intake, TimeColumn, key_columns, timezone};

/// How many steps a funnel may have.
const STEPS: std::ops::RangeInclusive<usize> = 2..=20;

/// What the settings say.
pub(super) struct Settings {
    pub(super) inputs: Vec<InputPrograms>,
    pub(super) watermarks: Vec<Watermark>,
    pub(super) step_names: Vec<Value>,
    pub(super) rules: Rules,
    pub(super) period: Period,
    /// The name of the column of the breakdown.
    pub(super) breakdown: Option<String>,
}

/// The columns that every funnel has.
const OWN_COLUMNS: [&str; 10] = [
    "window_start",
    "window_end",
    "step",
    "step_name",
    "users",
    "conversion_rate",
    "drop_off_rate",
    "overall_rate",
    "avg_seconds_from_previous",
    "avg_seconds_from_first",
];

/// The settings that change the meaning of the rows.
pub(super) fn meaning(section: &Section<'_>) -> String {
    let mut meaning = Meaning::default();
    let or = |key: &str, default: &str| {
        section.text(key).map_or_else(|| default.to_owned(), |text| text.value)
    };
    if let Some(condition) = section.text("where") {
        meaning.expression("where", &condition.value);
    }
    meaning.expression("by", &or("by", "user_id"));
    for (name, condition) in steps(section) {
        meaning.expression(&format!("step {name:?}"), &condition.value);
    }
    meaning.add("within", within(section).unwrap_or_default());
    meaning.add("order", or("order", "ordered"));
    meaning.period("window", &or("window", ""));
    if let Some(breakdown) = section.text("breakdown") {
        meaning.expression("breakdown", &breakdown.value);
    }
    meaning.add("time", or("time", "timestamp"));
    meaning.finish(timezone(section))
}

impl Settings {
    pub(super) fn read(section: &Section<'_>, context: &OperatorContext) -> Option<Self> {
        let before = section.findings().errors();
        let order = order(section);
        let breakdown = breakdown(section);
        let zone = timezone(section);
        let within_us = within(section);
        let period = period(section, zone);
        let by = section.text("by");
        let intake = Intake::read(section, zone);
        let steps = steps(section);
        let (mut inputs, mut watermarks) = (Vec::new(), Vec::new());
        for input in &context.inputs {
            let written =
                Written { order, by: by.as_ref(), steps: &steps, breakdown: breakdown.as_ref() };
            let planned = written.plan_input(section, input, &intake);
            if let Some((programs, behind_us)) = planned {
                inputs.push(programs);
                watermarks.push(input.watermark.delayed(behind_us));
            }
        }
        if section.findings().errors() > before {
            return None;
        }
        let rules = Rules {
            order,
            steps: steps.len(),
            within_us: within_us?,
            has_breakdown: breakdown.is_some(),
        };
        let name = |(index, (name, _)): (usize, &(String, _))| match order {
            Order::Ordered | Order::Strict => Value::text(name),
            Order::Any => Value::text(&format!("{} of {}", index + 1, steps.len())),
        };
        let step_names = steps.iter().enumerate().map(name).collect();
        let breakdown = breakdown.map(|(name, _)| name);
        Some(Self { inputs, watermarks, step_names, rules, period: period?, breakdown })
    }
}

fn order(section: &Section<'_>) -> Order {
    match section.choice("order", &["ordered", "strict", "any"]).map(|choice| choice.value) {
        Some("strict") => Order::Strict,
        Some("any") => Order::Any,
        _ => Order::Ordered,
    }
}

/// The path of the breakdown, and the name of its column: the last segment.
fn breakdown(section: &Section<'_>) -> Option<(String, Spanned<String>)> {
    let text = section.text("breakdown")?;
    let name = match expr::parse(&text.value) {
        Ok(Ast::Identifier(name)) => name.value,
        Ok(Ast::CompoundIdentifier(names)) => names.last()?.value.clone(),
        Ok(_) => {
            let message = format!("`{}` is no path", text.value);
            let help = "name one field: breakdown = \"properties.venue\"";
            section.findings().error_help(text.span, message, help);
            return None;
        }
        Err(error) => {
            expr::report(section, &text, &error);
            return None;
        }
    };
    if OWN_COLUMNS.contains(&name.as_str()) {
        let message = format!("every funnel has a column `{name}` of its own");
        let help = "choose a path that ends in another name";
        section.findings().error_help(text.span, message, help);
        return None;
    }
    Some((name, text))
}

fn within(section: &Section<'_>) -> Option<i64> {
    section.require("within")?;
    section.duration("within").map(|within| within.value)
}

fn period(section: &Section<'_>, zone: Tz) -> Option<Period> {
    section.require("window")?;
    section.parsed("window", |text| Period::parse(text, zone)).map(|period| period.value)
}

fn steps(section: &Section<'_>) -> Vec<(String, Spanned<String>)> {
    if section.require("steps").is_none() {
        return Vec::new();
    }
    let Some(node) = section.node("steps") else {
        return Vec::new();
    };
    let NodeKind::Array(items) = &node.kind else {
        section.findings().error_help(
            node.span.clone(),
            format!("`steps` must be a list, not {}", node.kind.name()),
            "write steps = [{ name = \"...\", where = \"...\" }, ...]",
        );
        return Vec::new();
    };
    if !STEPS.contains(&items.len()) {
        let message = format!("a funnel has from 2 to 20 steps, this one has {}", items.len());
        section.findings().error(section.key_span("steps"), message);
    }
    items
        .iter()
        .enumerate()
        .filter_map(|(index, item)| {
            let what = format!("step {} of {}", index + 1, section.what);
            let table = section.node_table(item, &item.span, &what)?;
            let both = (table.required_text("name"), table.required_text("where"));
            table.finish();
            Some((both.0?.value, both.1?))
        })
        .collect()
}

/// The expressions as written, which are compiled for each input.
struct Written<'a> {
    order: Order,
    by: Option<&'a Spanned<String>>,
    steps: &'a [(String, Spanned<String>)],
    breakdown: Option<&'a (String, Spanned<String>)>,
}

impl Written<'_> {
    /// The programs over an input, and how far its time may lie behind its watermark.
    fn plan_input(
        &self,
        section: &Section<'_>,
        input: &InputPlan,
        intake: &Intake,
    ) -> Option<(InputPrograms, i64)> {
        let mut intake = intake.of(section, input);
        let scope = &mut intake.scope;
        let user = match self.by {
            Some(text) => expr::compile_text(section, text, scope).map(|typed| typed.program),
            None => default_user(section, scope),
        };
        let steps = self.steps.iter().map(|(_, text)| expr::condition(section, text, scope));
        let steps: Vec<Option<Program>> = steps.collect();
        let breakdown = match self.breakdown {
            Some((_, text)) => Some(expr::compile_text(section, text, scope)?.program),
            None => None,
        };
        let (TimeColumn { slot: time_slot, behind_us }, user) = (intake.time?, user?);
        let steps: Vec<Program> = steps.into_iter().collect::<Option<_>>()?;
        let (condition, key_columns) = (intake.condition, key_columns(input));
        input.need_keys(condition.as_ref(), vec![user.clone()]);
        if let Some(breakdown) = &breakdown {
            let entry = self.entry(condition.as_ref(), &user, &steps);
            input.need_keys(Some(&entry), vec![breakdown.clone()]);
        }
        let programs = InputPrograms { condition, user, steps, breakdown, time_slot, key_columns };
        Some((programs, behind_us))
    }

    /// Where a path may begin, so that the breakdown is needed.
    fn entry(&self, condition: Option<&Program>, user: &Program, steps: &[Program]) -> Program {
        let has_user = Program::Not(Box::new(Program::IsNull(Box::new(user.clone()))));
        let step = match self.order {
            Order::Ordered | Order::Strict => Program::And(steps.iter().take(1).cloned().collect()),
            Order::Any => Program::Or(steps.to_vec()),
        };
        Program::And(condition.cloned().into_iter().chain([has_user, step]).collect())
    }
}

/// `by` is the user where it is not written.
fn default_user(section: &Section<'_>, scope: &mut dyn expr::Scope) -> Option<expr::Program> {
    let ast: Result<Ast, _> = expr::parse("user_id");
    match ast.and_then(|ast| expr::compile(&ast, scope)) {
        Ok(typed) => Some(typed.program),
        Err(error) => {
            let help = "name the column of the user with `by`";
            section.findings().error_help(section.span.clone(), error.message, help);
            None
        }
    }
}
