//! What the TOML parser found, in words for a person.

use crate::finding::{Findings, Span};

/// Reports the errors of the parser, and returns the lines on which they stand.
pub(crate) fn report<'e>(
    source: &str,
    errors: impl Iterator<Item = (Span, &'e str)>,
    findings: &Findings,
) -> Vec<Span> {
    let mut errors: Vec<(Span, &str)> = errors.collect();
    errors.sort_by_key(|(span, _)| span.start);
    let mut lines: Vec<Span> = Vec::new();
    // One mistake is one finding: where this ends, the parser has found its feet again.
    let mut confused_until = 0;
    for (mut span, message) in errors {
        // What an open list lacks is missed at the start of the next line, and belongs on this one.
        if message.contains("array") && source[..span.start].ends_with('\n') {
            let end = source[..span.start].trim_end().len();
            span = end..end;
        }
        let line = line_at(source, span.start);
        let is_repeated = lines.contains(&line);
        lines.push(line.clone());
        if span.start < confused_until || is_repeated {
            continue;
        }
        let is_header = source[line].trim_start().starts_with('[');
        // Of a table that is there twice, every key is; and an open array swallows what follows.
        if message.contains("array") {
            confused_until = source.len();
        } else if message == "duplicate key" && is_header {
            confused_until = next_header(source, span.end);
        }
        let (message, help) = in_words(message, is_header);
        match help {
            Some(help) => findings.error_help(span, message, help),
            None => findings.error(span, message),
        }
    }
    lines
}

/// The parser's message, and what to write instead where the parser does not say.
fn in_words(message: &str, is_header: bool) -> (String, Option<&'static str>) {
    match message {
        "duplicate key" if is_header => {
            ("this table is there twice".to_owned(), Some("keep one, or give one another name"))
        }
        _ if message.contains("array") => (
            format!("this is no TOML: {message}"),
            Some("a list begins with `[`, ends with `]`, and has commas between its items"),
        ),
        "duplicate key" => ("this key is there twice".to_owned(), Some("keep one of them")),
        _ if message.starts_with("invalid boolean") || message.contains("must be quoted") => {
            ("a text must stand in quotes".to_owned(), Some("write key = \"text\""))
        }
        _ if message.starts_with("invalid basic string") => {
            ("the text has no closing quote".to_owned(), Some("end it with `\"` on the same line"))
        }
        _ if message.starts_with("invalid literal string") => {
            ("the text has no closing quote".to_owned(), Some("end it with `'` on the same line"))
        }
        _ => (format!("this is no TOML: {message}"), None),
    }
}

fn line_at(source: &str, at: usize) -> Span {
    let at = (0..=at.min(source.len())).rev().find(|at| source.is_char_boundary(*at)).unwrap_or(0);
    let start = source[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let end = source[at..].find('\n').map_or(source.len(), |length| at + length);
    start..end
}

fn next_header(source: &str, from: usize) -> usize {
    source
        .get(from..)
        .and_then(|rest| rest.find("\n["))
        .map_or(source.len(), |length| from + length)
}

#[cfg(test)]
mod tests {
    use crate::document::Document;

    fn findings(source: &str) -> String {
        Document::parse("t.toml", source, Box::new(|_| None)).render_findings(false)
    }

    #[test]
    fn a_table_that_is_there_twice_is_one_finding() {
        let text = findings("[a]\nx = 1\n[a]\nx = 2\ny = 1\n[b]\nz = 1\nz = 2\n");
        assert_eq!(text.matches("error:").count(), 2, "{text}");
        for part in ["t.toml:3:2", "this table is there twice", "t.toml:8:1"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn an_open_list_is_told_where_it_stands() {
        let text = findings("z = y\na = [\"x\"\nb = 1\nc = 2\n[t]\nd = e\n");
        assert_eq!(text.matches("error:").count(), 2, "{text}");
        assert!(text.contains("t.toml:1:5") && text.contains("t.toml:2:9"), "{text}");
    }

    #[test]
    fn a_broken_line_shows_no_value() {
        for source in ["pasword = \"hunter2\n", "token = hunter2\n", "a = [\n\"hunter2\n]\n"] {
            let text = findings(source);
            assert!(text.contains("error:") && !text.contains("hunter2"), "{text}");
        }
    }
}
