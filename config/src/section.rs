//! Reads the settings of one table of the file, and reports every key that nobody asked for.
//!
//! A component asks for its keys one by one; each getter reports what is wrong with its value and
//! goes on, so that `check` shows every finding at once. [`Section::finish`] then reports the keys
//! that were never asked for, with the nearest one that was, and a section that goes away reports
//! the keys that are missing, unless a misspelt one was meant.

mod secrets;

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use crate::document::{Document, Key, Node, NodeKind};
use crate::finding::{Findings, Span, word_span};
use crate::names::nearest;
use crate::secret::is_secret_key;
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
    refused: RefCell<Vec<String>>,
    missing: RefCell<Vec<Missing>>,
    /// True for a section that is read without a trace.
    is_copy: bool,
}

/// A key that is not written.
#[derive(Debug)]
struct Missing {
    key: String,
    span: Span,
    message: String,
    help: Option<String>,
}

impl<'d> Section<'d> {
    pub(crate) fn new(
        document: &'d Document,
        what: String,
        span: Span,
        entries: &'d [(Key, Node)],
    ) -> Self {
        let (asked, refused, missing) = Default::default();
        Self { document, what, span, entries, asked, refused, missing, is_copy: false }
    }

    /// The same table with nothing asked for, to read it without a trace.
    pub fn copy(&self) -> Self {
        let mut copy = Self::new(self.document, self.what.clone(), self.span.clone(), self.entries);
        copy.is_copy = true;
        copy
    }

    /// While `read` runs, an undefined `${VAR}` is no finding but stands for its own name: for
    /// settings that are to be checked though nothing will be done with them.
    pub fn with_stand_in_variables<T>(&self, read: impl FnOnce(&Self) -> T) -> T {
        self.document.with_stand_ins(|| read(self))
    }

    /// Where findings go.
    pub fn findings(&self) -> &'d Findings {
        &self.document.findings
    }

    /// A path that the deployment names, which starts where its file is.
    pub fn beside(&self, path: &str) -> PathBuf {
        let file = Path::new(&self.document.path);
        file.parent().map_or_else(|| path.into(), |directory| directory.join(path))
    }

    /// The place of a word inside a span, to underline just what is wrong.
    pub fn word(&self, span: &Span, word: &str) -> Span {
        word_span(&self.document.source, span, word)
    }

    /// The place of a word inside the value of a key, or of the key where it is not there.
    pub fn word_in(&self, key: &str, word: &str) -> Span {
        let Some(node) = self.entry(key) else {
            return self.span.clone();
        };
        let span = self.word(&node.span, word);
        if span == node.span { self.key_span(key) } else { span }
    }

    /// The place of a key's value.
    pub fn value_span(&self, key: &str) -> Option<Span> {
        self.entry(key).map(|node| node.span.clone())
    }

    /// The raw value of a key, marked as asked for.
    pub fn node(&self, key: &str) -> Option<&'d Node> {
        self.asked.borrow_mut().push(key.to_owned());
        let node = self.entry(key)?;
        self.show(key, node);
        Some(node)
    }

    fn entry(&self, key: &str) -> Option<&'d Node> {
        self.entries.iter().find(|(name, _)| name.name == key).map(|(_, node)| node)
    }

    /// A value that somebody asked for by the name of no secret may stand in a finding.
    fn show(&self, key: &str, node: &'d Node) {
        if !self.is_copy && !is_secret_key(key) {
            self.document.show(node);
        }
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
        for (key, node) in self.entries {
            self.asked.borrow_mut().push(key.name.clone());
            self.show(&key.name, node);
        }
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
        self.missing(key, self.span.clone(), format!("{} needs the key `{key}`", self.what), None);
        None
    }

    /// Notes that a key is missing. It is reported when the section goes away, unless a misspelt
    /// key turns out to be meant: that one is reported then, and one mistake is one finding.
    pub fn missing(&self, key: &str, span: Span, message: String, help: Option<&str>) {
        self.asked.borrow_mut().push(key.to_owned());
        let (key, help) = (key.to_owned(), help.map(str::to_owned));
        self.missing.borrow_mut().push(Missing { key, span, message, help });
    }

    /// A string from a node that the caller took, with the environment's variables put in.
    pub fn node_text(&self, node: &Node, key: &str) -> Option<Spanned<String>> {
        match &node.kind {
            NodeKind::Text(text) => {
                self.document.expand(text, &node.span).map(|text| Spanned::new(text, &node.span))
            }
            other => self.mismatch(node, key, "a string", other),
        }
    }

    /// One string or a list of strings.
    pub fn texts(&self, key: &str) -> Option<Vec<Spanned<String>>> {
        let node = self.node(key)?;
        match &node.kind {
            NodeKind::Array(items) => {
                let texts: Vec<_> = items.iter().map(|item| self.node_text(item, key)).collect();
                texts.into_iter().collect()
            }
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
        let node = self.node(key)?;
        match &node.kind {
            NodeKind::Text(_) => self.parsed(key, parse_duration),
            other => self.mismatch(node, key, "a duration such as \"30s\"", other),
        }
    }

    /// A size in bytes: a whole number, or text such as `1MiB`.
    pub fn size(&self, key: &str) -> Option<Spanned<u64>> {
        let node = self.node(key)?;
        match &node.kind {
            NodeKind::Integer(_) => self
                .integer(key, 0, i64::MAX)
                .map(|size| Spanned { value: size.value.unsigned_abs(), span: size.span }),
            NodeKind::Text(_) => self.parsed(key, parse_size),
            other => self.mismatch(node, key, "a size such as \"1MiB\"", other),
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
                let message = match most {
                    i64::MAX => format!("`{key}` must be {least} or more"),
                    _ => format!("`{key}` must be from {least} to {most}"),
                };
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

    /// The table under a key or, where the key is not written, under the key that it was misspelt
    /// as, so that what is in it can be read as it was meant. `keys` are all keys of this section.
    pub fn table_as_meant(&self, key: &str, keys: &[&str]) -> Option<Section<'d>> {
        if self.has(key) {
            return self.table(key);
        }
        self.asked.borrow_mut().push(key.to_owned());
        let meant =
            |name: &str| !keys.contains(&name) && nearest(name, keys.iter().copied()) == Some(key);
        let (name, node) = self.entries.iter().find(|(name, _)| meant(&name.name))?;
        matches!(node.kind, NodeKind::Table(_)).then_some(())?;
        self.node_table(node, &name.span, &format!("`{key}` of {}", self.what))
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
            self.refused.borrow_mut().push((*key).to_owned());
            if let Some(node) = self.entry(key) {
                self.show(key, node);
                self.findings().error_help(
                    self.key_span(key),
                    format!("`{key}` is not built yet"),
                    "leave it out; this version refuses what it would otherwise ignore",
                );
            }
        }
    }

    /// Reports every key that was not asked for, and every key that is missing.
    pub fn finish(self) {
        for (key, _) in self.entries {
            let is_known = |known: &RefCell<Vec<String>>| known.borrow().contains(&key.name);
            if is_known(&self.asked) || is_known(&self.refused) {
                continue;
            }
            self.unknown_key(key);
        }
    }

    /// Ends a section of which nobody can say what keys it has, because its `type` is not known:
    /// only what was written in place of a missing key can be told.
    pub fn abandon(self) {
        for (key, _) in self.entries {
            let missing = self.missing.borrow();
            let meant = nearest(&key.name, missing.iter().map(|missing| missing.key.as_str()));
            let is_meant = meant.is_some();
            drop(missing);
            if is_meant {
                self.unknown_key(key);
            }
        }
    }

    fn unknown_key(&self, key: &Key) {
        let (asked, refused) = (self.asked.borrow(), self.refused.borrow());
        let message = format!("{} has no key `{}`", self.what, key.name);
        let known = asked.iter().chain(refused.iter()).map(String::as_str);
        let help = match nearest(&key.name, known) {
            Some(near) => {
                self.missing.borrow_mut().retain(|missing| missing.key != near);
                if let Some(node) = self.entry(&key.name) {
                    self.show(near, node);
                }
                format!("did you mean `{near}`?")
            }
            None => {
                let mut keys: Vec<&str> = Vec::new();
                for name in asked.iter().map(String::as_str) {
                    if !keys.contains(&name) {
                        keys.push(name);
                    }
                }
                format!("its keys are: {}", keys.join(", "))
            }
        };
        self.findings().error_help(key.span.clone(), message, help);
    }

    fn mismatch<T>(&self, node: &Node, key: &str, wanted: &str, found: &NodeKind) -> Option<T> {
        let key = if key.contains('`') { key.to_owned() } else { format!("`{key}`") };
        let message = format!("{key} must be {wanted}, not {}", found.name());
        self.findings().error(node.span.clone(), message);
        None
    }
}

/// However a component stops reading its section, what it missed is told.
impl Drop for Section<'_> {
    fn drop(&mut self) {
        for Missing { span, message, help, .. } in self.missing.take() {
            match help {
                Some(help) => self.document.findings.error_help(span, message, help),
                None => self.document.findings.error(span, message),
            }
        }
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
    fn a_misspelt_key_is_one_finding() {
        let document = document("fush = \"1s\"\ncolour = \"red\"\n");
        let root = document.root();
        assert!(root.require("flush").is_none());
        assert!(root.require("name").is_none());
        root.finish();
        let text = document.render_findings(false);
        assert_eq!(document.findings.len(), 3, "{text}");
        for part in ["did you mean `flush`?", "needs the key `name`", "its keys are: flush, name"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn what_is_missing_is_told_without_finish() {
        let document = document("tpye = \"x\"\ncolour = \"red\"\n");
        let root = document.root();
        assert!(root.require("name").is_none());
        drop(root);
        let root = document.root();
        assert!(root.require("type").is_none());
        root.abandon();
        let text = document.render_findings(false);
        assert_eq!(document.findings.len(), 2, "{text}");
        assert!(text.contains("needs the key `name`"), "{text}");
        assert!(text.contains("did you mean `type`?"), "{text}");
    }

    #[test]
    fn the_value_of_a_misspelt_key_may_be_a_secret() {
        let document =
            document("t = { pasword = \"hunter2\", token = \"hunter2\", user = \"me\" }\n");
        let table = document.root().table("t").expect("a table");
        for key in ["user", "password", "token"] {
            table.text(key);
        }
        table.finish();
        let text = document.render_findings(false);
        let shown = "{ pasword = \"*******\", token = \"*******\", user = \"me\" }";
        assert!(text.contains(shown), "{text}");
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
