//! The subject of a message: a template into which values are put so that they stay one token.

use waterwheel_config::names::nearest;
use waterwheel_config::value::{Row, Value};
use waterwheel_pipeline::contract::nats::subject;
use waterwheel_pipeline::contract::sink::SinkInput;
use xxhash_rust::xxh3::xxh3_64;

/// A value takes at most this much of a subject, so that no line of the protocol gets too long.
const VALUE_BYTES_MAX: usize = 128;

/// The template of one input.
#[derive(Debug)]
pub(super) struct Template {
    pieces: Vec<Piece>,
    pattern: String,
    escape: Escape,
}

/// How a byte is written that may not stand in a token as it is.
#[derive(Clone, Copy, Debug)]
enum Escape {
    /// As in a URL.
    Percent,
    /// Keys of buckets know no `%`.
    Equals,
}

#[derive(Debug)]
enum Piece {
    Literal(String),
    Column(usize),
}

/// What is wrong with a template, and the word of it that is.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) word: String,
    pub(super) message: String,
    pub(super) help: Option<String>,
}

impl Wrong {
    fn new(word: &str, message: impl Into<String>, help: Option<String>) -> Self {
        Self { word: word.to_owned(), message: message.into(), help }
    }
}

impl Template {
    pub(super) fn parse(text: &str, input: &SinkInput, progress: &str) -> Result<Self, Wrong> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            let Some(length) = rest[open..].find('}') else {
                return Err(Wrong::new(text, "`{` without a closing `}`", None));
            };
            push_literal(&mut pieces, &rest[..open]);
            match &rest[open + 1..open + length] {
                "operator" => push_literal(&mut pieces, &input.name),
                name => pieces.push(Piece::Column(column(name, input)?)),
            }
            rest = &rest[open + length + 1..];
        }
        push_literal(&mut pieces, rest);
        let pattern = pattern(&pieces);
        let literals = pieces.iter().filter_map(|piece| match piece {
            Piece::Literal(literal) => Some(literal.as_str()),
            Piece::Column(_) => None,
        });
        if literals.clone().any(|literal| literal.contains(['*', '>', '}'])) {
            let message = format!("`{text}` is no subject to publish on");
            let help = "a subject holds no `*`, no `>`, and braces only around names";
            return Err(Wrong::new(text, message, Some(help.to_owned())));
        }
        subject::check_pattern(&pattern).map_err(|problem| Wrong::new(text, problem, None))?;
        if pattern.starts_with('$') || pattern.starts_with('*') {
            let message = format!("`{text}` may name subjects of the system");
            let help = "let it begin with a word of its own, such as `results`";
            return Err(Wrong::new(text, message, Some(help.to_owned())));
        }
        if subject::overlaps(&pattern, progress) {
            let message = format!("`{text}` may name `{progress}`, where the progress is kept");
            return Err(Wrong::new(text, message, None));
        }
        Ok(Self { pieces, pattern, escape: Escape::Percent })
    }

    /// The keys of an input's rows in a bucket: its name and a token for each column of their key.
    pub(super) fn of_keys(bucket: &str, input: &SinkInput) -> Self {
        let mut pieces = Vec::new();
        push_literal(&mut pieces, &format!("{}.{}", keys(bucket), input.name));
        for column in &input.schema.key {
            push_literal(&mut pieces, ".");
            pieces.push(Piece::Column(*column));
        }
        Self { pattern: pattern(&pieces), pieces, escape: Escape::Equals }
    }

    /// The subjects that it can name.
    pub(super) fn pattern(&self) -> &str {
        &self.pattern
    }

    /// The subject for a row.
    pub(super) fn subject(&self, row: &Row) -> String {
        let mut out = String::with_capacity(64);
        for piece in &self.pieces {
            match piece {
                Piece::Literal(literal) => out.push_str(literal),
                Piece::Column(column) => {
                    encode(row.values().get(*column), self.escape, &mut out);
                }
            }
        }
        out
    }
}

/// What the subjects of a bucket's keys begin with.
pub(super) fn keys(bucket: &str) -> String {
    format!("$KV.{bucket}")
}

fn push_literal(pieces: &mut Vec<Piece>, text: &str) {
    match pieces.last_mut() {
        Some(Piece::Literal(literal)) => literal.push_str(text),
        _ => pieces.push(Piece::Literal(text.to_owned())),
    }
}

fn column(name: &str, input: &SinkInput) -> Result<usize, Wrong> {
    input.schema.index_of(name).ok_or_else(|| {
        let message = format!("`{}` has no column `{name}`", input.name);
        let help = match nearest(name, input.schema.names().chain(["operator"])) {
            Some(near) => format!("did you mean `{near}`?"),
            None => {
                let names: Vec<&str> = input.schema.names().collect();
                format!("its columns are: {}", names.join(", "))
            }
        };
        Wrong::new(name, message, Some(help))
    })
}

/// The template with `*` for every token that holds a column.
fn pattern(pieces: &[Piece]) -> String {
    let marked: String = pieces
        .iter()
        .map(|piece| match piece {
            Piece::Literal(literal) => literal.as_str(),
            // No literal holds this one: it is no white space, and no subject has it.
            Piece::Column(_) => "\u{0}",
        })
        .collect();
    let tokens = marked.split('.').map(|token| if token.contains('\0') { "*" } else { token });
    tokens.collect::<Vec<_>>().join(".")
}

fn encode(value: Option<&Value>, escape: Escape, out: &mut String) {
    let (escape, cut) = match escape {
        Escape::Percent => ('%', "%~"),
        // No escape has two of them.
        Escape::Equals => ('=', "=="),
    };
    let text = value.map(Value::to_plain).unwrap_or_default();
    match text.as_str() {
        "" => return out.push('_'),
        "_" => return out.extend([escape, '5', 'F']),
        _ => {}
    }
    let start = out.len();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') {
            out.push(char::from(byte));
        } else {
            let digit = |value: u8| char::from(b"0123456789ABCDEF"[usize::from(value & 15)]);
            out.extend([escape, digit(byte >> 4), digit(byte)]);
        }
        if out.len() - start > VALUE_BYTES_MAX {
            // All that is written is ASCII; a cut escape is harmless before the hash.
            out.truncate(start + VALUE_BYTES_MAX - 18);
            out.push_str(&format!("{cut}{:016x}", xxh3_64(text.as_bytes())));
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use waterwheel_config::schema::{Column, Finality, Schema};
    use waterwheel_config::value::ColumnType;
    use waterwheel_pipeline::contract::sink::InputRole;

    fn input() -> SinkInput {
        let schema = Schema {
            columns: vec![
                Column::new("symbol", ColumnType::Text),
                Column::new("count", ColumnType::Bigint),
            ],
            key: vec![0],
            finality: Finality::Immediate,
            append_only: false,
            time: None,
        };
        SinkInput {
            name: "volume".into(),
            role: InputRole::Operator,
            schema: Arc::new(schema),
            granularities: vec![],
        }
    }

    fn parse(text: &str) -> Result<Template, Wrong> {
        Template::parse(text, &input(), "waterwheel.progress.p.s")
    }

    fn subject(text: &str, symbol: Value) -> String {
        parse(text).unwrap().subject(&Row::from(vec![symbol, Value::Bigint(-7)]))
    }

    #[test]
    fn data_adds_no_token() {
        for (symbol, token) in [
            (Value::text("BTC-USD_1"), "BTC-USD_1"),
            (Value::text("a.b"), "a%2Eb"),
            (Value::text("*"), "%2A"),
            (Value::text(">"), "%3E"),
            (Value::text("a b\r\nPUB"), "a%20b%0D%0APUB"),
            (Value::text("é%"), "%C3%A9%25"),
            (Value::text(""), "_"),
            (Value::Null, "_"),
            (Value::text("_"), "%5F"),
            (Value::Boolean(true), "true"),
        ] {
            let subject = subject("r.{operator}.{symbol}.x{count}", symbol);
            assert_eq!(subject, format!("r.volume.{token}.x-7"));
        }
    }

    #[test]
    fn long_values_are_cut_and_stay_different() {
        let long = |last: &str| Value::text(&format!("{}{last}", "é".repeat(1000)));
        let (one, two) = (subject("r.{symbol}", long("1")), subject("r.{symbol}", long("2")));
        assert_ne!(one, two);
        assert!(one.len() <= 2 + VALUE_BYTES_MAX && one.contains("%~"), "{one}");
        let fits = "x".repeat(VALUE_BYTES_MAX);
        assert_eq!(subject("r.{symbol}", Value::text(&fits)), format!("r.{fits}"));
    }

    #[test]
    fn the_pattern_says_what_can_be_named() {
        for (text, pattern) in [
            ("results.{operator}.{symbol}", "results.volume.*"),
            ("r.a-{symbol}-{count}.z", "r.*.z"),
            ("r", "r"),
        ] {
            assert_eq!(parse(text).unwrap().pattern(), pattern);
        }
    }

    #[test]
    fn wrong_templates() {
        for (text, part) in [
            ("r.{simbol}", "did you mean `symbol`?"),
            ("r.{oprator}", "did you mean `operator`?"),
            ("r.{price_of_it}", "its columns are: symbol, count"),
            ("r.{symbol", "without a closing"),
            ("r..{symbol}", "empty token"),
            ("r.>", "no subject to publish"),
            ("r.*.x", "no subject to publish"),
            ("r.x}", "no subject to publish"),
            ("r s", "white space"),
            ("$JS.{symbol}", "subjects of the system"),
            ("{symbol}.x", "subjects of the system"),
            ("waterwheel.progress.{symbol}.s", "where the progress is kept"),
        ] {
            let wrong = parse(text).unwrap_err();
            let all = format!("{} {}", wrong.message, wrong.help.unwrap_or_default());
            assert!(all.contains(part), "{text}: {all}");
        }
    }
}
