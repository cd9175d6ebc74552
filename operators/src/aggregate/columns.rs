//! The columns of an aggregate: their names, and which of them would have the same one.

use waterwheel_config::schema::Column;
use waterwheel_config::section::{Section, Spanned};
use waterwheel_config::value::ColumnType;

use crate::by::NamedColumn;

/// The columns that every aggregate with windows has.
const OWN: [&str; 3] = ["granularity", "window_start", "window_end"];

/// The name of the column of a breakdown.
pub(super) fn breakdown_name(column: &NamedColumn) -> String {
    format!("{}_breakdown", column.alias)
}

/// The columns behind those of the group.
pub(super) struct MeasureColumns {
    pub(super) all: Vec<Column>,
    /// The indices of those that are compared with the window before.
    pub(super) compared: Vec<usize>,
}

/// The columns of measures and breakdowns, and what `compare` adds.
pub(super) fn measure_columns(
    names: Vec<String>,
    kinds: &[ColumnType],
    is_compared: bool,
) -> MeasureColumns {
    let is_number = |kind: &ColumnType| matches!(kind, ColumnType::Bigint | ColumnType::Double);
    let numbers = kinds.iter().enumerate().filter(|(_, kind)| is_compared && is_number(kind));
    let compared: Vec<usize> = numbers.map(|(index, _)| index).collect();
    let changes: Vec<Column> = compared
        .iter()
        .flat_map(|index| ["change", "change_pct"].map(|end| format!("{}_{end}", names[*index])))
        .map(|name| Column::new(name, ColumnType::Double))
        .collect();
    let plain = names.into_iter().zip(kinds).map(|(name, kind)| Column::new(name, *kind));
    MeasureColumns { all: plain.chain(changes).collect(), compared }
}

/// Reports columns that have the name of another one.
pub(super) fn refuse_taken_names(
    section: &Section<'_>,
    by: &[NamedColumn],
    measures: &[(String, Spanned<String>)],
    breakdown: &[NamedColumn],
) {
    let own: &[&str] = if section.has("windows") { &OWN } else { &[] };
    let is_own = |name: &str| own.contains(&name);
    let is_by = |name: &str| by.iter().any(|column| column.alias == name);
    let is_measure = |name: &str| measures.iter().any(|(measure, _)| measure == name);
    for column in by.iter().filter(|column| is_own(&column.alias)) {
        section.findings().error_help(
            column.text.span.clone(),
            format!("every aggregate has a column `{}` of its own", column.alias),
            format!("give this one another name: by = {{ name = \"{}\" }}", column.ast),
        );
    }
    let table = section.copy().table("measures");
    for (name, text) in measures {
        let message = if is_own(name) {
            format!("every aggregate has a column `{name}` of its own")
        } else if is_by(name) {
            format!("there are two columns named `{name}`, this one and that of `by`")
        } else {
            continue;
        };
        let span = table.as_ref().map_or_else(|| text.span.clone(), |table| table.key_span(name));
        section.findings().error_help(span, message, "give the measure another name");
    }
    for column in breakdown {
        let name = breakdown_name(column);
        let other = if is_by(&name) {
            "by"
        } else if is_measure(&name) {
            "measures"
        } else {
            continue;
        };
        section.findings().error_help(
            column.text.span.clone(),
            format!("there are two columns named `{name}`, this one and that of `{other}`"),
            format!("give this one another name: breakdown = {{ name = \"{}\" }}", column.ast),
        );
    }
    if !section.has("compare") {
        return;
    }
    for (name, text) in measures {
        for added in ["change", "change_pct"].map(|end| format!("{name}_{end}")) {
            let is_breakdown = breakdown.iter().any(|column| breakdown_name(column) == added);
            if is_by(&added) || is_measure(&added) || is_breakdown {
                section.findings().error_help(
                    text.span.clone(),
                    format!("`compare` adds a column `{added}`, and there is one already"),
                    "give one of them another name",
                );
            }
        }
    }
}
