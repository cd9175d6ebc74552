//! Findings: what is wrong in a deployment file, where, and what to write instead.

use std::cell::RefCell;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use crate::secret::redact;

/// A byte range in the deployment file.
pub type Span = Range<usize>;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The deployment cannot run.
    Error,
    /// It can run, but the writer should know.
    Warning,
}

/// One thing that is wrong, with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The offending words.
    pub span: Span,
    /// What is wrong: lowercase, no full stop.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
}

/// Collects findings, so that one `check` shows them all.
#[derive(Debug, Default)]
pub struct Findings(RefCell<Vec<Finding>>);

impl Findings {
    /// Adds an error. What stands behind a semicolon is what to write instead.
    pub fn error(&self, span: Span, message: impl Into<String>) {
        let message = message.into();
        match split_help(&message) {
            Some((what, help)) => self.error_help(span, what, help),
            None => self.push(Severity::Error, span, message, None),
        }
    }

    /// Adds an error with what to write instead.
    pub fn error_help(&self, span: Span, message: impl Into<String>, help: impl Into<String>) {
        self.push(Severity::Error, span, message.into(), Some(help.into()));
    }

    /// Adds a warning with what to write instead.
    pub fn warning(&self, span: Span, message: impl Into<String>, help: impl Into<String>) {
        self.push(Severity::Warning, span, message.into(), Some(help.into()));
    }

    fn push(&self, severity: Severity, span: Span, message: String, help: Option<String>) {
        self.0.borrow_mut().push(Finding { severity, span, message, help });
    }

    /// True if the deployment cannot run.
    pub fn has_errors(&self) -> bool {
        self.errors() > 0
    }

    /// How many errors there are, to see whether a step added one.
    pub fn errors(&self) -> usize {
        self.0.borrow().iter().filter(|finding| finding.severity == Severity::Error).count()
    }

    /// How many findings there are.
    pub fn len(&self) -> usize {
        self.0.borrow().len()
    }

    /// Forgets those of the findings from the index on that `is_kept` does not keep.
    pub fn retain_from(&self, from: usize, is_kept: impl Fn(&Finding) -> bool) {
        let mut index = 0;
        self.0.borrow_mut().retain(|finding| {
            index += 1;
            index <= from || is_kept(finding)
        });
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// The findings in the order of the file, each once.
    pub fn sorted(&self) -> Vec<Finding> {
        let mut findings = self.0.borrow().clone();
        findings.sort_by(|a, b| {
            (a.span.start, a.span.end, &a.message).cmp(&(b.span.start, b.span.end, &b.message))
        });
        findings.dedup();
        findings
    }

    /// All findings as text for a person: each with `file:line:column`, the line, the offending
    /// words underlined, and the help. Secrets in the shown lines are masked.
    pub fn render(&self, path: &str, source: &str, colour: bool) -> String {
        let masked = redact(source);
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let mut out = String::new();
        for finding in self.sorted() {
            let level = match finding.severity {
                Severity::Error => Level::ERROR,
                Severity::Warning => Level::WARNING,
            };
            let message = redact(&finding.message);
            let snippet = Snippet::source(&masked)
                .path(path)
                .annotation(AnnotationKind::Primary.span(shown(&masked, &finding.span)));
            let mut report = vec![level.primary_title(&message).element(snippet)];
            let help = finding.help.as_deref().map(redact);
            if let Some(help) = &help {
                report.push(Group::with_title(Level::HELP.secondary_title(help.as_str())));
            }
            out.push_str(&renderer.render(&report));
            out.push_str("\n\n");
        }
        out
    }
}

/// Splits at a semicolon that does not stand in quoted words.
fn split_help(message: &str) -> Option<(&str, &str)> {
    let outside = |(at, _): &(usize, &str)| message[..*at].matches('`').count().is_multiple_of(2);
    let (at, _) = message.match_indices("; ").find(outside)?;
    Some((&message[..at], &message[at + 2..]))
}

/// Clips a span to its first line and to character boundaries: an underline over ten lines helps
/// nobody.
fn shown(source: &str, span: &Span) -> Span {
    let boundary = |mut at: usize| {
        at = at.min(source.len());
        while !source.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let start = boundary(span.start);
    let end = boundary(span.end.max(start));
    let line_end = source[start..end].find('\n').map_or(end, |length| start + length);
    // The renderer shows a place without width only at the end of a line as it should.
    let next = source[start..].chars().next().filter(|letter| start == line_end && *letter != '\n');
    start..line_end + next.map_or(0, char::len_utf8)
}

/// The place of a word inside a span of the source, or the whole span where it is not found.
pub fn word_span(source: &str, span: &Span, word: &str) -> Span {
    let found = source.get(span.clone()).filter(|_| !word.is_empty()).and_then(|text| {
        // The parser writes keywords and types in capitals, whatever the writer did.
        let is_word = |at: &usize| {
            text.get(*at..*at + word.len()).is_some_and(|found| found.eq_ignore_ascii_case(word))
        };
        (0..text.len()).filter(is_word).find(|&at| {
            let is_letter = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
            let goes_on = |inside, outside| is_letter(inside) && is_letter(outside);
            let after = &text[at + word.len()..];
            !goes_on(word.chars().next(), text[..at].chars().next_back())
                && !goes_on(word.chars().next_back(), after.chars().next())
        })
    });
    found.map_or_else(|| span.clone(), |at| span.start + at..span.start + at + word.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_shows_its_place_and_no_secret() {
        let source = "a = 1\nurl = \"nats://u:hunter2@h\"\n";
        let findings = Findings::default();
        findings.error_help(6..9, "unknown key `url`", "did you mean `uri`?");
        let text = findings.render("x.toml", source, false);
        assert!(text.contains("x.toml:2:1"), "{text}");
        assert!(text.contains("did you mean `uri`?"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn help_stands_behind_a_semicolon() {
        let findings = Findings::default();
        findings.error(0..1, "`a; b` is wrong; write c");
        findings.error(1..2, "`a; b` is wrong");
        let found: Vec<_> =
            findings.sorted().into_iter().map(|found| (found.message, found.help)).collect();
        let wrong = "`a; b` is wrong".to_owned();
        assert_eq!(found, [(wrong.clone(), Some("write c".to_owned())), (wrong, None)]);
    }

    #[test]
    fn words_are_found_whole() {
        let source = "where = \"user_ids > user_id\"";
        assert_eq!(word_span(source, &(8..source.len()), "user_id"), 20..27);
        assert_eq!(word_span(source, &(8..source.len()), "nope"), 8..source.len());
    }
}
