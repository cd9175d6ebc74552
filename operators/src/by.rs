//! Columns as they are written under `by` and `breakdown`: paths, each named by its last segment, or a
//! table of named expressions.

use waterwheel_config::expr::{self, Ast};
use waterwheel_config::section::{Section, Spanned};
use waterwheel_pipeline::contract::operator::InputScope;

use crate::key::KeyPlan;
use crate::measure::bare_type;
use crate::settings::is_table;

/// An expression with the name of its column.
pub(crate) struct NamedColumn {
    /// The column's name.
    pub(crate) alias: String,
    /// The expression and where it stands.
    pub(crate) text: Spanned<String>,
    /// The expression, parsed.
    pub(crate) ast: Ast,
}

/// The columns that stand under a key; none where it is not written.
pub(crate) fn named_columns(section: &Section<'_>, key: &str) -> Vec<NamedColumn> {
    let mut columns: Vec<NamedColumn> = Vec::new();
    let mut push = |alias: Option<String>, text: Spanned<String>| match expr::parse(&text.value) {
        Ok(ast) => {
            let alias = alias.or_else(|| last_segment(&ast));
            let Some(alias) = alias else {
                section.findings().error_help(
                    text.span.clone(),
                    "a computed column needs a name",
                    format!("write {key} = {{ name = \"{ast}\" }}"),
                );
                return;
            };
            if columns.iter().any(|column| column.alias == alias) {
                section.findings().error_help(
                    text.span.clone(),
                    format!("there are two columns named `{alias}`"),
                    format!("give one of them another name: {key} = {{ name = \"{ast}\" }}"),
                );
                return;
            }
            columns.push(NamedColumn { alias, text, ast });
        }
        Err(error) => expr::report(section, &text, &error),
    };
    if !section.has(key) {
        let _ = section.node(key);
        return columns;
    }
    if is_table(section, key) {
        for (name, text) in named_texts(section, key) {
            push(Some(name), text);
        }
    } else {
        for text in section.texts(key).unwrap_or_default() {
            push(None, text);
        }
    }
    columns
}

/// The programs of the columns over one input; fewer than columns where a finding says why.
pub(crate) fn key_plan(
    section: &Section<'_>,
    columns: &[NamedColumn],
    scope: &mut InputScope<'_>,
) -> KeyPlan {
    let mut key = KeyPlan { programs: Vec::new(), kinds: Vec::new() };
    for column in columns {
        match expr::compile(&column.ast, scope) {
            Ok(typed) => {
                key.programs.push(typed.program);
                key.kinds.push(bare_type(&column.ast, typed.kind));
            }
            Err(error) => expr::report(section, &column.text, &error),
        }
    }
    key
}

/// The entries of a table of expressions.
pub(crate) fn named_texts(section: &Section<'_>, key: &str) -> Vec<(String, Spanned<String>)> {
    let Some(table) = section.table(key) else {
        return Vec::new();
    };
    table
        .entries()
        .filter_map(|(key, node)| Some((key.name.clone(), table.node_text(node, &key.name)?)))
        .collect()
}

/// The name that a path gives to its column.
fn last_segment(ast: &Ast) -> Option<String> {
    match ast {
        Ast::Identifier(name) => Some(name.value.clone()),
        Ast::CompoundIdentifier(names) => names.last().map(|name| name.value.clone()),
        Ast::Nested(inner) => last_segment(inner),
        _ => None,
    }
}
