//! The settings that operators over the spans of a key share: `by`, `where`, `time`, `timezone`, and
//! conditions of their own.

use waterwheel_config::expr;
use waterwheel_config::schema::Column;
use waterwheel_config::section::{Section, Spanned};
use waterwheel_config::value::ColumnType;
use waterwheel_pipeline::contract::clock::Watermark;
use waterwheel_pipeline::contract::operator::{InputFlow, InputPlan, OperatorContext};

use super::{InputPrograms, Need};
use crate::by::{NamedColumn, key_plan, named_columns};
use crate::key::KeyPlan;
use crate::meaning::Meaning;
use crate::settings::{Intake, TimeColumn, key_columns, timezone};

/// How an operator takes its key.
#[derive(Clone, Copy, Debug)]
pub(crate) enum By {
    /// As columns of its rows, beside those of its own.
    Columns {
        /// The path where nothing is written.
        default: &'static str,
        /// The operator's own columns.
        own: &'static [&'static str],
    },
    /// As one expression that stands for somebody, and does not come out.
    Identity {
        /// The path where nothing is written.
        default: &'static str,
    },
}

/// What the settings say.
pub(crate) struct Settings {
    /// The programs over each input.
    pub(crate) inputs: Vec<InputPrograms>,
    /// The watermark inside the operator.
    pub(crate) watermark: Watermark,
    /// The columns of the key.
    pub(crate) by: Vec<Column>,
}

/// What of the shared settings changes the meaning of the rows.
pub(crate) fn meaning(section: &Section<'_>, by: By, conditions: &[&str]) -> Meaning {
    let mut meaning = Meaning::default();
    for column in by.read(section) {
        meaning.expression(&format!("by {}", column.alias), &column.text.value);
    }
    for key in ["where"].iter().chain(conditions) {
        if let Some(condition) = section.text(key) {
            meaning.expression(key, &condition.value);
        }
    }
    let time = section.text("time");
    meaning.add("time", time.map_or_else(|| "timestamp".to_owned(), |time| time.value));
    meaning
}

impl By {
    fn read(self, section: &Section<'_>) -> Vec<NamedColumn> {
        let (Self::Columns { default, .. } | Self::Identity { default }) = self;
        if !section.has("by") {
            let _ = section.node("by");
            let text = Spanned { value: default.to_owned(), span: section.span.clone() };
            let column = |ast| NamedColumn { alias: default.to_owned(), text, ast };
            return expr::parse(default).ok().map(column).into_iter().collect();
        }
        match self {
            Self::Columns { .. } => named_columns(section, "by"),
            Self::Identity { .. } => {
                let Some(text) = section.text("by") else {
                    return Vec::new();
                };
                match expr::parse(&text.value) {
                    Ok(ast) => vec![NamedColumn { alias: default.to_owned(), text, ast }],
                    Err(error) => {
                        expr::report(section, &text, &error);
                        Vec::new()
                    }
                }
            }
        }
    }

    /// Reports columns of the key that cannot be.
    fn check(self, section: &Section<'_>, columns: &[NamedColumn]) {
        let Self::Columns { own, .. } = self else {
            return;
        };
        let is_list = !crate::settings::is_table(section, "by")
            && section.copy().texts("by").is_some_and(|texts| texts.is_empty());
        if section.has("by") && columns.is_empty() && is_list {
            let help = "name the path whose values belong together, or leave `by` out";
            section.findings().error_help(section.key_span("by"), "`by` names no key", help);
        }
        for column in columns.iter().filter(|column| own.contains(&column.alias.as_str())) {
            section.findings().error_help(
                column.text.span.clone(),
                format!("{} has a column `{}` of its own", section.what, column.alias),
                format!("give this one another name: by = {{ name = \"{}\" }}", column.ast),
            );
        }
    }

    /// The programs of the key over one input.
    fn plan(
        self,
        section: &Section<'_>,
        columns: &[NamedColumn],
        scope: &mut waterwheel_pipeline::contract::operator::InputScope<'_>,
    ) -> KeyPlan {
        let mut key = if section.has("by") {
            key_plan(section, columns, scope)
        } else {
            default_key(section, columns, scope)
        };
        if let Self::Identity { .. } = self {
            // Equal texts are one, whatever the types of the inputs.
            key.kinds.fill(ColumnType::Text);
        }
        key
    }
}

/// The key where `by` is not written: what is wrong with it is told of the operator.
fn default_key(
    section: &Section<'_>,
    columns: &[NamedColumn],
    scope: &mut waterwheel_pipeline::contract::operator::InputScope<'_>,
) -> KeyPlan {
    let known = columns.iter().all(|column| match expr::compile(&column.ast, scope) {
        Ok(_) => true,
        Err(error) => {
            let help = "name what belongs together with `by`";
            section.findings().error_help(section.span.clone(), error.message, help);
            false
        }
    });
    let columns = if known { columns } else { &[] };
    key_plan(section, columns, scope)
}

impl Settings {
    /// Reads the settings. `conditions` are keys that must be there; they become the marks of events.
    pub(crate) fn read(
        section: &Section<'_>,
        context: &OperatorContext,
        by: By,
        conditions: &[&str],
        need: Need,
    ) -> Option<Self> {
        let before = section.findings().errors();
        let intake = Intake::read(section, timezone(section));
        let columns = by.read(section);
        by.check(section, &columns);
        let conditions: Vec<_> =
            conditions.iter().filter_map(|key| section.required_text(key)).collect();
        let (mut inputs, mut watermarks) = (Vec::new(), Vec::new());
        for input in &context.inputs {
            let mut intake = intake.of(section, input);
            let scope = &mut intake.scope;
            let key = by.plan(section, &columns, scope);
            let marks: Vec<_> = conditions
                .iter()
                .filter_map(|text| expr::condition(section, text, scope))
                .collect();
            let event_type = (need == Need::Everything).then(|| event_type(input, scope)).flatten();
            let Some(TimeColumn { slot: time_slot, behind_us }) = intake.time else {
                continue;
            };
            let (condition, key_columns) = (intake.condition, key_columns(input));
            input.need_keys(condition.as_ref(), key.programs.clone());
            watermarks.push(input.watermark.delayed(behind_us));
            inputs.push(InputPrograms {
                condition,
                key,
                marks,
                event_type,
                time_slot,
                key_columns,
            });
        }
        if section.findings().errors() > before {
            return None;
        }
        check_kinds(section, &context.inputs, &inputs, &columns)?;
        let kinds = inputs.first()?.key.kinds.clone();
        let names = columns.into_iter().map(|column| column.alias);
        let by = names.zip(kinds).map(|(name, kind)| Column::new(name, kind)).collect();
        Some(Self { inputs, watermark: Watermark::least(&watermarks), by })
    }

    /// True if it counts which of the inputs comes first: of rows at one time, those of the first
    /// one do; events go by their source.
    pub(crate) fn inputs_differ(inputs: &[InputPrograms]) -> bool {
        inputs.iter().filter(|input| input.time_slot.is_some()).count() > 1
    }
}

/// Where the event type of an input stands.
fn event_type(input: &InputPlan, scope: &mut dyn expr::Scope) -> Option<usize> {
    let path = ["event_type".to_owned()];
    match &input.flow {
        InputFlow::Events(_) => scope.resolve(&path).ok().map(|found| found.slot),
        InputFlow::Rows(schema) => schema.index_of("event_type"),
    }
}

/// Reports the first column of the key that two inputs would fill with different types.
fn check_kinds(
    section: &Section<'_>,
    inputs: &[InputPlan],
    programs: &[InputPrograms],
    columns: &[NamedColumn],
) -> Option<()> {
    let (first, others) = programs.split_first()?;
    for (input, other) in inputs.iter().skip(1).zip(others) {
        let mut pairs = columns.iter().zip(first.key.kinds.iter().zip(&other.key.kinds));
        if let Some((column, (this, that))) = pairs.find(|(_, (this, that))| this != that) {
            let (name, one, another) = (&column.alias, &inputs[0].name, &input.name);
            let message =
                format!("`{name}` would be {this} from `{one}` and {that} from `{another}`");
            let help = "give them one type with cast(... as ...), or take one input";
            section.findings().error_help(section.word_in("from", another), message, help);
            return None;
        }
    }
    Some(())
}
