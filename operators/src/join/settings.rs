//! The settings of a join.

use chrono_tz::Tz;
use waterwheel_config::expr::{self, Binding, ExprError, Program, Scope};
use waterwheel_config::section::{Section, Spanned};
use waterwheel_config::units::format_duration;
use waterwheel_config::value::ColumnType;
use waterwheel_pipeline::contract::operator::{
    InputFlow, InputName, InputPlan, InputScope, OperatorContext,
};

use super::Side;
use super::side::SidePlan;
use crate::meaning::Meaning;
use crate::settings::{is_table, key_columns};

/// `−before ≤ right − left ≤ after`, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) before_us: i64,
    pub(super) after_us: i64,
}

impl Bound {
    /// How far before and behind a row of a side its partners may lie.
    pub(super) fn reach_us(self, side: Side) -> (i64, i64) {
        match side {
            Side::Left => (self.before_us, self.after_us),
            Side::Right => (self.after_us, self.before_us),
        }
    }

    /// What bounds the state, in words.
    pub(super) fn state_bound(self) -> String {
        let (left, right) = (format_duration(self.after_us), format_duration(self.before_us));
        format!(
            "left rows for {left} and right rows for {right} after their time, and the lateness"
        )
    }
}

/// Of which sides rows without a partner come out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unmatched {
    left: bool,
    right: bool,
}

impl Unmatched {
    fn read(section: &Section<'_>) -> Self {
        let choice = section.choice("unmatched", &["none", "left", "right", "both"]);
        let choice = choice.map_or("none", |choice| choice.value);
        Self { left: matches!(choice, "left" | "both"), right: matches!(choice, "right" | "both") }
    }

    #[cfg(test)]
    pub(super) fn both() -> Self {
        Self { left: true, right: true }
    }

    pub(super) fn of(self, side: Side) -> bool {
        match side {
            Side::Left => self.left,
            Side::Right => self.right,
        }
    }

    /// How long after its time a row may come out because it has no partner.
    pub(super) fn held_back_us(self, bound: Bound) -> i64 {
        [Side::Left, Side::Right]
            .into_iter()
            .filter(|side| self.of(*side))
            .map(|side| bound.reach_us(side).1)
            .max()
            .unwrap_or(0)
    }
}

/// What the settings say.
pub(super) struct Settings {
    pub(super) left: SidePlan,
    pub(super) right: SidePlan,
    pub(super) bound: Bound,
    pub(super) unmatched: Unmatched,
    pub(super) select: Vec<(String, Program, ColumnType)>,
    pub(super) captures: Vec<(Side, usize)>,
}

/// The names of both inputs, the left one first.
pub(super) fn inputs(section: &Section<'_>) -> Vec<InputName> {
    ["left", "right"]
        .iter()
        .filter_map(|side| {
            section.require(side)?;
            // That it is missing is told when the side is read.
            let from = section.table(side)?.text("from")?;
            Some(InputName { name: from.value, span: from.span })
        })
        .collect()
}

/// The settings that change the meaning of the rows.
pub(super) fn meaning(section: &Section<'_>) -> String {
    let mut meaning = Meaning::default();
    for side in ["left", "right"] {
        // Which inputs they are is for the planner.
        let table = section.table(side).map(|table| table.copy());
        if let Some(condition) = table.and_then(|table| table.text("where")) {
            meaning.expression(side, &condition.value);
        }
    }
    if let Some((left, right)) = on(section) {
        meaning.expression("on left", &left.value);
        meaning.expression("on right", &right.value);
    }
    if let Some(Bound { before_us, after_us }) = bound(section) {
        meaning.add("within", format!("{before_us} {after_us}"));
    }
    for (key, node) in section.table("select").iter().flat_map(Section::entries) {
        if let Some(text) = section.node_text(node, &key.name) {
            meaning.expression(&format!("select {}", key.name), &text.value);
        }
    }
    let unmatched = section.text("unmatched");
    meaning.add("unmatched", unmatched.map_or_else(|| "none".to_owned(), |text| text.value));
    // Expressions over two inputs go by UTC.
    meaning.finish(Tz::UTC)
}

impl Settings {
    pub(super) fn read(section: &Section<'_>, context: &OperatorContext) -> Option<Self> {
        let stand_ins = [InputPlan::stand_in("left"), InputPlan::stand_in("right")];
        let (left, right) = match context.inputs.as_slice() {
            [left, right] => (left, right),
            // A side that is missing is a finding, and the other settings may have theirs.
            _ => (&stand_ins[0], &stand_ins[1]),
        };
        let before = section.findings().errors();
        let unmatched = Unmatched::read(section);
        let bound = bound(section);
        let on = on(section);
        let left_side = side(section, "left", left, on.as_ref().map(|(left, _)| left));
        let right_side = side(section, "right", right, on.as_ref().map(|(_, right)| right));
        let mut scope = PairScope {
            left: left.scope(Tz::UTC),
            right: right.scope(Tz::UTC),
            captured: [Vec::new(), Vec::new()],
            captures: Vec::new(),
        };
        let select = select(section, &mut scope);
        let PairScope { captured: [left_captured, right_captured], captures, .. } = scope;
        if section.findings().errors() > before {
            return None;
        }
        let (mut left, mut right) = (left_side?, right_side?);
        left.captured = left_captured;
        right.captured = right_captured;
        Some(Self { left, right, bound: bound?, unmatched, select, captures })
    }
}

fn bound(section: &Section<'_>) -> Option<Bound> {
    section.require("within")?;
    if !is_table(section, "within") {
        let after_us = section.duration("within")?.value;
        return Some(Bound { before_us: 0, after_us });
    }
    let table = section.table("within")?;
    if !table.has("before") && !table.has("after") {
        table.findings().error_help(
            table.span.clone(),
            "`within` gives no bound",
            "write within = { before = \"5s\", after = \"30s\" }",
        );
    }
    let before_us = table.duration("before").map_or(0, |before| before.value);
    let after_us = table.duration("after").map_or(0, |after| after.value);
    table.finish();
    Some(Bound { before_us, after_us })
}

fn on(section: &Section<'_>) -> Option<(Spanned<String>, Spanned<String>)> {
    section.require("on")?;
    if !is_table(section, "on") {
        let on = section.text("on")?;
        return Some((on.clone(), on));
    }
    let table = section.table("on")?;
    let both = (table.required_text("left"), table.required_text("right"));
    table.finish();
    Some((both.0?, both.1?))
}

fn side(
    section: &Section<'_>,
    name: &str,
    input: &InputPlan,
    on: Option<&Spanned<String>>,
) -> Option<SidePlan> {
    let table = section.table(name)?;
    let _ = table.required_text("from");
    let mut scope = input.scope(Tz::UTC);
    let condition = table.text("where").and_then(|text| expr::condition(&table, &text, &mut scope));
    table.finish();
    let key = expr::compile_text(section, on?, &mut scope)?.program;
    input.need_keys(condition.as_ref(), vec![key.clone()]);
    let (time_slot, behind_us) = time(section, name, input, &mut scope)?;
    let id_slot = match &input.flow {
        InputFlow::Events(_) => scope.resolve(&["id".to_owned()]).ok().map(|id| id.slot),
        InputFlow::Rows(schema) => schema.index_of("id"),
    };
    let key_columns = key_columns(input);
    Some(SidePlan { condition, key, time_slot, behind_us, id_slot, key_columns, captured: vec![] })
}

/// The column of event time, and how far it may lie behind the input's watermark.
fn time(
    section: &Section<'_>,
    side: &str,
    input: &InputPlan,
    scope: &mut InputScope<'_>,
) -> Option<(usize, i64)> {
    let InputFlow::Rows(schema) = &input.flow else {
        let binding = scope.resolve(&["timestamp".to_owned()]).ok()?;
        return Some((binding.slot, 0));
    };
    let found = schema.index_of("timestamp").or(schema.time);
    let usable = found.and_then(|slot| Some((slot, schema.columns[slot].behind_us?)));
    if usable.is_none() {
        section.findings().error_help(
            section.key_span(side),
            format!("rows of `{}` have no time by which they could be joined", input.name),
            "join events, or rows with a `timestamp` that the watermark bounds (of a join, for example)",
        );
    }
    usable
}

fn select(section: &Section<'_>, scope: &mut PairScope<'_>) -> Vec<(String, Program, ColumnType)> {
    const TAKEN: [&str; 6] =
        ["left_key", "right_key", "left_id", "right_id", "timestamp", "matched"];
    if !section.has("select") {
        let _ = section.node("select");
        return Vec::new();
    }
    let Some(table) = section.table("select") else {
        return Vec::new();
    };
    let mut columns = Vec::new();
    for (key, node) in table.entries() {
        if TAKEN.contains(&key.name.as_str()) {
            let message = format!("there are two columns named `{}`", key.name);
            table.findings().error_help(key.span.clone(), message, "give it another name");
        }
        let Some(text) = table.node_text(node, &key.name) else {
            continue;
        };
        let Some(typed) = expr::compile_text(&table, &text, scope) else {
            continue;
        };
        if typed.kind == expr::Kind::Interval {
            table.findings().error_help(
                text.span,
                "a time difference is no column",
                "write `millis(right.timestamp - left.timestamp)` for milliseconds",
            );
            continue;
        }
        columns.push((key.name.clone(), typed.program, typed.kind.column_type()));
    }
    columns
}

/// Resolves `left.x` and `right.x`, and notes what each side must carry.
struct PairScope<'a> {
    left: InputScope<'a>,
    right: InputScope<'a>,
    /// The slots that each side carries.
    captured: [Vec<usize>; 2],
    captures: Vec<(Side, usize)>,
}

impl Scope for PairScope<'_> {
    fn resolve(&mut self, path: &[String]) -> Result<Binding, ExprError> {
        let (side, rest) = match path {
            [first, rest @ ..] if first == "left" && !rest.is_empty() => (Side::Left, rest),
            [first, rest @ ..] if first == "right" && !rest.is_empty() => (Side::Right, rest),
            _ => {
                let name = path.join(".");
                return Err(ExprError::new(&name, format!("`{name}` names no side of the join"))
                    .help("put `left.` or `right.` in front of the field"));
            }
        };
        let inner = match side {
            Side::Left => self.left.resolve(rest)?,
            Side::Right => self.right.resolve(rest)?,
        };
        let captured = &mut self.captured[side as usize];
        let column = captured.iter().position(|slot| *slot == inner.slot).unwrap_or_else(|| {
            captured.push(inner.slot);
            captured.len() - 1
        });
        let slot = self.captures.iter().position(|known| *known == (side, column));
        let slot = slot.unwrap_or_else(|| {
            self.captures.push((side, column));
            self.captures.len() - 1
        });
        Ok(Binding { slot, kind: inner.kind })
    }
}
