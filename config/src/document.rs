//! A parsed TOML file: a tree in which every key and value knows its place.

use std::cell::{Cell, RefCell};
use std::fmt;

use toml::de::{DeTable, DeValue};

use crate::finding::{Findings, Span};
use crate::section::Section;
use crate::{mask, syntax};

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
            Self::Float(_) => "a fraction",
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
    /// The places of the values that may be shown, see [`crate::mask`].
    shown: RefCell<Vec<Span>>,
    /// The lines that could not be parsed.
    broken: Vec<Span>,
    /// True while an undefined variable stands for its own name.
    stands_in: Cell<bool>,
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
        let errors = errors.iter().map(|error| (error.span().unwrap_or(0..0), error.message()));
        let broken = syntax::report(source, errors, &findings);
        let span = table.span();
        let root = Node { span, kind: convert_table(table.into_inner()) };
        let (path, source) = (path.to_owned(), source.to_owned());
        let (shown, stands_in) = Default::default();
        Self { path, source, findings, environment, root, shown, broken, stands_in }
    }

    /// Lets a value be shown in findings: somebody asked for it, so it is no misspelt secret.
    pub(crate) fn show(&self, node: &Node) {
        match &node.kind {
            NodeKind::Table(_) => {}
            NodeKind::Array(items) => items.iter().for_each(|item| self.show_all(item)),
            _ => self.shown.borrow_mut().push(node.span.clone()),
        }
    }

    fn show_all(&self, node: &Node) {
        match &node.kind {
            NodeKind::Table(entries) => entries.iter().for_each(|(_, node)| self.show_all(node)),
            _ => self.show(node),
        }
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
    pub(crate) fn expand(&self, text: &str, span: &Span) -> Option<String> {
        let mut complete = true;
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            out.push_str(&rest[..start]);
            let Some(length) = rest[start..].find('}') else {
                let help = "write `${NAME}` or `${NAME:-default}`";
                self.findings.error_help(span.clone(), "`${` without a closing `}`", help);
                return None;
            };
            let inner = &rest[start + 2..start + length];
            let (name, default) = match inner.split_once(":-") {
                Some((name, default)) => (name, Some(default)),
                None => (inner, None),
            };
            let stand_in = || self.stands_in.get().then(|| name.to_owned());
            let value = (self.environment)(name).or_else(|| default.map(str::to_owned));
            match value.or_else(stand_in) {
                Some(value) => out.push_str(&value),
                None => {
                    complete = false;
                    self.findings.error_help(
                        crate::finding::word_span(&self.source, span, name),
                        format!("the environment variable `{name}` is not set"),
                        format!("set it, or give a default: ${{{name}:-value}}"),
                    );
                }
            }
            rest = &rest[start + length + 1..];
        }
        out.push_str(rest);
        complete.then_some(out)
    }

    /// While `read` runs, an undefined variable is no finding but stands for its own name.
    pub(crate) fn with_stand_ins<T>(&self, read: impl FnOnce() -> T) -> T {
        let before = self.stands_in.replace(true);
        let result = read();
        self.stands_in.set(before);
        result
    }

    /// All findings as text, see [`Findings::render`]. Of the values on the shown lines only those
    /// are legible that a component asked for by the name of no secret.
    pub fn render_findings(&self, colour: bool) -> String {
        let mut bytes = self.source.clone().into_bytes();
        self.mask(&self.root, &mut bytes);
        for line in &self.broken {
            mask::line(&mut bytes, line);
        }
        let masked = String::from_utf8(bytes).unwrap_or_default();
        self.findings.render(&self.path, &masked, colour)
    }

    fn mask(&self, node: &Node, bytes: &mut [u8]) {
        match &node.kind {
            NodeKind::Table(entries) => {
                entries.iter().for_each(|(_, node)| self.mask(node, bytes));
            }
            NodeKind::Array(items) => items.iter().for_each(|item| self.mask(item, bytes)),
            NodeKind::Boolean(_) => {}
            _ if self.shown.borrow().contains(&node.span) => mask::urls(bytes, &node.span),
            _ => mask::value(bytes, &node.span),
        }
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
