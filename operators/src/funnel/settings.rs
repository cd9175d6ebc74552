//! The settings of a funnel.

use chrono_tz::Tz;
use waterwheel_config::calendar::Period;
use waterwheel_config::document::NodeKind;
use waterwheel_config::expr::{self, Ast};
use waterwheel_config::section::{Section, Spanned};
use waterwheel_config::value::Value;
use waterwheel_pipeline::contract::clock::Watermark;
use waterwheel_pipeline::contract::operator::{InputPlan, OperatorContext};

use super::InputPrograms;
use crate::meaning::Meaning;
use crate::settings::{Intake, TimeColumn, key_columns, refuse_later_choices, timezone};

/// How many steps a funnel may have.
const STEPS: std::ops::RangeInclusive<usize> = 2..=20;

/// What the settings say.
pub(super) struct Settings {
    pub(super) inputs: Vec<InputPrograms>,
    pub(super) watermarks: Vec<Watermark>,
    pub(super) step_names: Vec<Value>,
    pub(super) within_us: i64,
    pub(super) period: Period,
}

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
    meaning.add("time", or("time", "timestamp"));
    meaning.finish(timezone(section))
}

impl Settings {
    pub(super) fn read(section: &Section<'_>, context: &OperatorContext) -> Option<Self> {
        let before = section.findings().len();
        section.refuse(&["breakdown"]);
        let help = "this version has order = \"ordered\", which is the default";
        refuse_later_choices(section, "order", &["ordered", "strict", "any"], help);
        let zone = timezone(section);
        let within_us = within(section);
        let period = period(section, zone);
        let by = section.text("by");
        let intake = Intake::read(section, zone);
        let steps = steps(section);
        let (mut inputs, mut watermarks) = (Vec::new(), Vec::new());
        for input in &context.inputs {
            let planned = plan_input(section, input, &intake, by.as_ref(), &steps);
            if let Some((programs, behind_us)) = planned {
                inputs.push(programs);
                watermarks.push(input.watermark.delayed(behind_us));
            }
        }
        if section.findings().len() > before {
            return None;
        }
        let step_names = steps.iter().map(|(name, _)| Value::text(name)).collect();
        Some(Self { inputs, watermarks, step_names, within_us: within_us?, period: period? })
    }
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

fn plan_input(
    section: &Section<'_>,
    input: &InputPlan,
    intake: &Intake,
    by: Option<&Spanned<String>>,
    steps: &[(String, Spanned<String>)],
) -> Option<(InputPrograms, i64)> {
    let mut intake = intake.of(section, input);
    let scope = &mut intake.scope;
    let user = match by {
        Some(text) => expr::compile_text(section, text, scope).map(|typed| typed.program),
        None => default_user(section, scope),
    };
    let steps: Vec<_> =
        steps.iter().map(|(_, text)| expr::condition(section, text, scope)).collect();
    let steps: Option<Vec<_>> = steps.into_iter().collect();
    let (TimeColumn { slot: time_slot, behind_us }, user) = (intake.time?, user?);
    let (condition, key_columns) = (intake.condition, key_columns(input));
    input.need_keys(condition.as_ref(), vec![user.clone()]);
    Some((InputPrograms { condition, user, steps: steps?, time_slot, key_columns }, behind_us))
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
