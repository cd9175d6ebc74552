//! The tables of a deployment: their names, and the kinds that they choose.

use waterwheel_config::finding::Span;
use waterwheel_config::names::is_name;
use waterwheel_config::section::Section;

use crate::contract::event::DEAD_LETTER;

/// The keys of a deployment.
pub(super) const KEYS: [&str; 6] = ["name", "engine", "sources", "operators", "sinks", "tests"];

/// The tables under `[<key>.<name>]`, with their names checked.
pub(super) fn named_tables<'d>(
    root: &Section<'d>,
    key: &str,
    what: &str,
) -> Vec<(String, Section<'d>)> {
    let Some(table) = root.table_as_meant(key, &KEYS) else {
        return Vec::new();
    };
    let mut sections = Vec::new();
    for (name, node) in table.entries() {
        if !is_name(&name.name) || name.name == DEAD_LETTER {
            refuse_name(&table, &name.span, &name.name);
        }
        let what = format!("{what} `{}`", name.name);
        if let Some(section) = table.node_table(node, &name.span, &what) {
            sections.push((name.name.clone(), section));
        }
    }
    sections
}

/// Reports a name that is none.
pub(super) fn refuse_name(section: &Section<'_>, span: &Span, name: &str) {
    let help = if name == DEAD_LETTER {
        "every deployment has a stream of that name: its dead letters; take another one".to_owned()
    } else {
        let rule = "a name begins with a to z and goes on with a to z, 0 to 9 and _, 40 characters at most";
        match like(name) {
            Some(like) => format!("{rule}: `{like}`"),
            None => rule.to_owned(),
        }
    };
    section.findings().error_help(span.clone(), format!("`{name}` is no name"), help);
}

/// A name that is like what was written.
fn like(written: &str) -> Option<String> {
    let lowered = written.trim().to_lowercase();
    let letter = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '_' };
    let name: String = lowered.chars().map(letter).take(40).collect();
    is_name(&name).then_some(name)
}

/// The kind that `type` names.
pub(super) fn chosen_kind(section: &Section<'_>, names: &[&'static str]) -> Option<&'static str> {
    if section.has("type") {
        return section.choice("type", names).map(|choice| choice.value);
    }
    let message = format!("{} needs the key `type`", section.what);
    let help = format!("choose one of: {}", names.join(", "));
    section.missing("type", section.span.clone(), message, Some(&help));
    None
}

/// Reports that a deployment has none of what it needs, unless the table is there and is no table.
pub(super) fn none_of(root: &Section<'_>, key: &str, message: String, help: &str) {
    if !root.has(key) {
        root.missing(key, root.span.clone(), message, Some(help));
    } else if root.copy().table(key).is_some() {
        root.findings().error_help(root.key_span(key), message, help);
    }
}
