//! A parsed TOML file: a tree in which every key and value knows its place.

use std::fmt;

use toml::de::{DeTable, DeValue};

use crate::finding::{Findings, Span};
use crate::section::Section;

/// A key with its place.
#[derive(Clone, Debug)]
pub struct Key {
    /// The key as written, without quotes.
    pub name: String,
    /// Where it stands.
    pub span: Span,
}

/// A value with its place.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where it stands.
    pub span: Span,
    /// What it is.
    pub kind: NodeKind,
}

/// What a value is.
#[derive(Clone, Debug)]
pub enum NodeKind {
    /// A string, before `${VAR}` is replaced.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// A number with a fraction.
    Float(f64),
    /// True or false.
    Boolean(bool),
    /// A date or time, as written.
    Datetime(String),
    /// A list.
    Array(Vec<Node>),
    /// A table, in the order of the file.
    Table(Vec<(Key, Node)>),
}

impl NodeKind {
    /// What to call it in a finding.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) => "a whole number",
            Self::Float(_) => "a number",
            Self::Boolean(_) => "true or false",
            Self::Datetime(_) => "a date",
            Self::Array(_) => "a list",
            Self::Table(_) => "a table",
        }
    }
}

/// Looks up an environment variable; a parameter, so that tests need no environment.
pub type Environment = Box<dyn Fn(&str) -> Option<String>>;

/// A deployment file with what was found in it so far.
pub struct Document {
    /// The path as the user gave it, for messages.
    pub path: String,
    /// The text of the file.
    pub source: String,
    /// What was found so far.
    pub findings: Findings,
    environment: Environment,
    root: Node,
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Document").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Document {
    /// Parses the text. Syntax errors become findings; what could be read stays usable.
    pub fn parse(path: &str, source: &str, environment: Environment) -> Self {
        let findings = Findings::default();
        let (table, errors) = DeTable::parse_recoverable(source);
        for error in errors {
            findings.error(error.span().unwrap_or(0..0), error.message().to_owned());
        }
        let span = table.span();
        let root = Node { span, kind: convert_table(table.into_inner()) };
        Self { path: path.to_owned(), source: source.to_owned(), findings, environment, root }
    }

    /// The whole file as a section.
    pub fn root(&self) -> Section<'_> {
        let entries = match &self.root.kind {
            NodeKind::Table(entries) => entries.as_slice(),
            _ => &[],
        };
        // The root's own findings (a missing key) point at the first character.
        Section::new(self, "the deployment".to_owned(), 0..0, entries)
    }

    /// Replaces `${VAR}` and `${VAR:-default}`; an undefined variable is a finding.
    pub(crate) fn expand(&self, text: &str, span: &Span) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            out.push_str(&rest[..start]);
            let Some(length) = rest[start..].find('}') else {
                self.findings.error(span.clone(), "`${` without a closing `}`");
                return out;
            };
            let inner = &rest[start + 2..start + length];
            let (name, default) = match inner.split_once(":-") {
                Some((name, default)) => (name, Some(default)),
                None => (inner, None),
            };
            match (self.environment)(name).or_else(|| default.map(str::to_owned)) {
                Some(value) => out.push_str(&value),
                None => self.findings.error_help(
                    crate::finding::word_span(&self.source, span, name),
                    format!("the environment variable `{name}` is not set"),
                    format!("set it, or give a default: ${{{name}:-value}}"),
                ),
            }
            rest = &rest[start + length + 1..];
        }
        out.push_str(rest);
        out
    }

    /// All findings as text, see [`Findings::render`].
    pub fn render_findings(&self, colour: bool) -> String {
        self.findings.render(&self.path, &self.source, colour)
    }
}

fn convert_table(table: DeTable<'_>) -> NodeKind {
    let mut entries: Vec<(Key, Node)> = table
        .into_iter()
        .map(|(key, value)| {
            let span = key.span();
            (Key { name: key.into_inner().into_owned(), span }, convert(value))
        })
        .collect();
    // The parser sorts by name; people and output columns go by the order of the file.
    entries.sort_by_key(|(key, _)| key.span.start);
    NodeKind::Table(entries)
}

fn convert(value: toml::Spanned<DeValue<'_>>) -> Node {
    let span = value.span();
    let kind = match value.into_inner() {
        DeValue::String(text) => NodeKind::Text(text.into_owned()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or_else(|_| NodeKind::Float(f64::INFINITY), NodeKind::Integer),
        DeValue::Float(number) => NodeKind::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(flag) => NodeKind::Boolean(flag),
        DeValue::Datetime(time) => NodeKind::Datetime(time.to_string()),
        DeValue::Array(items) => NodeKind::Array(items.into_iter().map(convert).collect()),
        DeValue::Table(table) => convert_table(table),
    };
    Node { span, kind }
}
