//! Reads the settings of one table of the file, and reports every key that nobody asked for.
//!
//! A component asks for its keys one by one; each getter reports what is wrong with its value and
//! goes on, so that `check` shows every finding at once. [`Section::finish`] then reports the keys
//! that were never asked for, with the nearest one that was.

use std::cell::RefCell;

use crate::document::{Document, Key, Node, NodeKind};
use crate::finding::{Findings, Span, word_span};
use crate::names::nearest;
use crate::units::{parse_duration, parse_size};

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub span: Span,
}

impl<T> Spanned<T> {
    fn new(value: T, span: &Span) -> Self {
        Self { value, span: span.clone() }
    }
}

/// One table of the file and the keys that were asked for.
#[derive(Debug)]
pub struct Section<'d> {
    document: &'d Document,
    /// What to call the table in findings: ``operator `volume` ``.
    pub what: String,
    /// The place of the table's name.
    pub span: Span,
    entries: &'d [(Key, Node)],
    asked: RefCell<Vec<String>>,
}

impl<'d> Section<'d> {
    pub(crate) fn new(
        document: &'d Document,
        what: String,
        span: Span,
        entries: &'d [(Key, Node)],
    ) -> Self {
        Self { document, what, span, entries, asked: RefCell::default() }
    }

    /// The same table with nothing asked for, to read it without a trace.
    pub fn copy(&self) -> Self {
        Self::new(self.document, self.what.clone(), self.span.clone(), self.entries)
    }

    /// Where findings go.
    pub fn findings(&self) -> &'d Findings {
        &self.document.findings
    }

    /// The place of a word inside a span, to underline just what is wrong.
    pub fn word(&self, span: &Span, word: &str) -> Span {
        word_span(&self.document.source, span, word)
    }

    /// The raw value of a key, marked as asked for.
    pub fn node(&self, key: &str) -> Option<&'d Node> {
        self.asked.borrow_mut().push(key.to_owned());
        self.entries.iter().find(|(name, _)| name.name == key).map(|(_, node)| node)
    }

    /// True if the key is written, without asking for it.
    pub fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|(name, _)| name.name == key)
    }

    /// The place of a key, or of the table where it is not written.
    pub fn key_span(&self, key: &str) -> Span {
        let found = self.entries.iter().find(|(name, _)| name.name == key);
        found.map_or_else(|| self.span.clone(), |(name, _)| name.span.clone())
    }

    /// All keys with their values, in the order of the file; all count as asked for.
    pub fn entries(&self) -> impl Iterator<Item = (&'d Key, &'d Node)> + use<'d> {
        let mut asked = self.asked.borrow_mut();
        asked.extend(self.entries.iter().map(|(key, _)| key.name.clone()));
        self.entries.iter().map(|(key, node)| (key, node))
    }

    /// A string, with the environment's variables put in.
    pub fn text(&self, key: &str) -> Option<Spanned<String>> {
        let node = self.node(key)?;
        self.node_text(node, key)
    }

    /// A string that must be there.
    pub fn required_text(&self, key: &str) -> Option<Spanned<String>> {
        self.require(key)?;
        self.text(key)
    }

    /// Reports a missing key; `None` if it is missing.
    pub fn require(&self, key: &str) -> Option<()> {
        if self.has(key) {
            return Some(());
        }
        self.asked.borrow_mut().push(key.to_owned());
        self.findings().error(self.span.clone(), format!("{} needs the key `{key}`", self.what));
        None
    }

    /// A string from a node that the caller took, with the environment's variables put in.
    pub fn node_text(&self, node: &Node, key: &str) -> Option<Spanned<String>> {
        match &node.kind {
            NodeKind::Text(text) => {
                Some(Spanned::new(self.document.expand(text, &node.span), &node.span))
            }
            other => self.mismatch(node, key, "a string", other),
        }
    }

    /// One string or a list of strings.
    pub fn texts(&self, key: &str) -> Option<Vec<Spanned<String>>> {
        let node = self.node(key)?;
        match &node.kind {
            NodeKind::Array(items) => items.iter().map(|item| self.node_text(item, key)).collect(),
            NodeKind::Text(_) => self.node_text(node, key).map(|text| vec![text]),
            other => self.mismatch(node, key, "a string or a list of strings", other),
        }
    }

    /// One of a closed list of words.
    pub fn choice(&self, key: &str, choices: &[&'static str]) -> Option<Spanned<&'static str>> {
        let text = self.text(key)?;
        if let Some(choice) = choices.iter().find(|choice| **choice == text.value) {
            return Some(Spanned::new(*choice, &text.span));
        }
        let message = format!("`{}` is not a choice for `{key}`", text.value);
        let help = match nearest(&text.value, choices.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("choose one of: {}", choices.join(", ")),
        };
        self.findings().error_help(text.span, message, help);
        None
    }

    /// A duration in microseconds.
    pub fn duration(&self, key: &str) -> Option<Spanned<i64>> {
        self.parsed(key, parse_duration)
    }

    /// A size in bytes: a whole number, or text such as `1MiB`.
    pub fn size(&self, key: &str) -> Option<Spanned<u64>> {
        match self.node(key)?.kind {
            NodeKind::Integer(_) => self
                .integer(key, 0, i64::MAX)
                .map(|size| Spanned { value: size.value.unsigned_abs(), span: size.span }),
            _ => self.parsed(key, parse_size),
        }
    }

    /// A string that a parser understands; its error becomes the finding.
    pub fn parsed<T>(
        &self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<Spanned<T>> {
        let text = self.text(key)?;
        match parse(&text.value) {
            Ok(value) => Some(Spanned { value, span: text.span }),
            Err(message) => {
                self.findings().error(text.span, message);
                None
            }
        }
    }

    /// A whole number within bounds, both included.
    pub fn integer(&self, key: &str, least: i64, most: i64) -> Option<Spanned<i64>> {
        let node = self.node(key)?;
        match &node.kind {
            NodeKind::Integer(number) if (least..=most).contains(number) => {
                Some(Spanned::new(*number, &node.span))
            }
            NodeKind::Integer(_) => {
                let message = format!("`{key}` must be from {least} to {most}");
                self.findings().error(node.span.clone(), message);
                None
            }
            other => self.mismatch(node, key, "a whole number", other),
        }
    }

    /// True or false.
    pub fn boolean(&self, key: &str) -> Option<Spanned<bool>> {
        let node = self.node(key)?;
        match &node.kind {
            NodeKind::Boolean(flag) => Some(Spanned::new(*flag, &node.span)),
            other => self.mismatch(node, key, "true or false", other),
        }
    }

    /// A table under a key.
    pub fn table(&self, key: &str) -> Option<Section<'d>> {
        let node = self.node(key)?;
        self.node_table(node, &self.key_span(key), &format!("`{key}` of {}", self.what))
    }

    /// A table from a node that the caller took.
    pub fn node_table(&self, node: &'d Node, span: &Span, what: &str) -> Option<Section<'d>> {
        match &node.kind {
            NodeKind::Table(entries) => {
                Some(Section::new(self.document, what.to_owned(), span.clone(), entries))
            }
            other => self.mismatch(node, what, "a table", other),
        }
    }

    /// Refuses keys that the contract names and this version does not do yet.
    pub fn refuse(&self, keys: &[&str]) {
        for key in keys {
            if self.node(key).is_some() {
                self.findings().error_help(
                    self.key_span(key),
                    format!("`{key}` is not built yet"),
                    "leave it out; this version refuses what it would otherwise ignore",
                );
            }
        }
    }

    /// Reports every key that was not asked for.
    pub fn finish(self) {
        let asked = self.asked.borrow();
        for (key, _) in self.entries {
            if asked.contains(&key.name) {
                continue;
            }
            let message = format!("{} has no key `{}`", self.what, key.name);
            match nearest(&key.name, asked.iter().map(String::as_str)) {
                Some(near) => {
                    let help = format!("did you mean `{near}`?");
                    self.findings().error_help(key.span.clone(), message, help);
                }
                None => self.findings().error(key.span.clone(), message),
            }
        }
    }

    fn mismatch<T>(&self, node: &Node, key: &str, wanted: &str, found: &NodeKind) -> Option<T> {
        let key = if key.contains('`') { key.to_owned() } else { format!("`{key}`") };
        let message = format!("{key} must be {wanted}, not {}", found.name());
        self.findings().error(node.span.clone(), message);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(source: &str) -> Document {
        let environment = |name: &str| (name == "HOME_URL").then(|| "nats://h".to_owned());
        Document::parse("t.toml", source, Box::new(environment))
    }

    #[test]
    fn every_finding_is_reported_at_once() {
        let document = document("flush = \"10x\"\nworkers = \"two\"\nflsh = 1\n");
        let root = document.root();
        assert!(root.duration("flush").is_none());
        assert!(root.integer("workers", 1, 64).is_none());
        assert!(root.required_text("name").is_none());
        root.finish();
        let text = document.render_findings(false);
        for part in ["t.toml:1:9", "t.toml:2:11", "needs the key `name`", "did you mean `flush`?"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert_eq!(document.findings.len(), 4);
    }

    #[test]
    fn variables_are_put_in() {
        let document = document("a = \"${HOME_URL}/x\"\nb = \"${NOPE:-y}\"\nc = \"${NOPE}\"");
        let root = document.root();
        assert_eq!(root.text("a").map(|text| text.value), Some("nats://h/x".to_owned()));
        assert_eq!(root.text("b").map(|text| text.value), Some("y".to_owned()));
        root.text("c");
        assert!(document.render_findings(false).contains("`NOPE` is not set"));
    }

    #[test]
    fn tables_keep_the_order_of_the_file() {
        let document = document("[m]\nz = 1\na = 2\n");
        let root = document.root();
        let table = root.table("m").expect("a table");
        let keys: Vec<_> = table.entries().map(|(key, _)| key.name.as_str()).collect();
        assert_eq!(keys, ["z", "a"]);
    }
}
