//! The patterns of `LIKE`: `%` for any text, `_` for any one character, and an escape.

/// A pattern, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    tokens: Vec<Token>,
    form: LikeForm,
}

/// How a pattern is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LikeForm {
    /// The character that takes the meaning from the one behind it; `None` for `ESCAPE ''`.
    pub escape: Option<char>,
    /// True for `ILIKE`.
    pub ignores_case: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    AnyText,
    AnyCharacter,
    Character(char),
}

impl Pattern {
    /// Takes a pattern apart.
    pub fn new(pattern: &str, form: LikeForm) -> Self {
        let folded;
        let pattern = if form.ignores_case {
            folded = pattern.to_lowercase();
            &folded
        } else {
            pattern
        };
        let mut tokens = Vec::new();
        let mut characters = pattern.chars();
        while let Some(character) = characters.next() {
            tokens.push(match character {
                // An escape at the end stands for itself.
                escape if Some(escape) == form.escape => {
                    Token::Character(characters.next().unwrap_or(escape))
                }
                '%' => Token::AnyText,
                '_' => Token::AnyCharacter,
                other => Token::Character(other),
            });
        }
        Self { tokens, form }
    }

    /// True if all of the text is as the pattern says.
    pub fn matches(&self, text: &str) -> bool {
        if self.form.ignores_case {
            self.matches_exactly(&text.to_lowercase())
        } else {
            self.matches_exactly(text)
        }
    }

    /// Greedy with one point to come back to, the last `%`: enough, since a later `%` takes in
    /// what an earlier one could. Neither recursion nor a copy of the text.
    fn matches_exactly(&self, text: &str) -> bool {
        let tokens = &self.tokens;
        let (mut at, mut token, mut retry) = (0, 0, None);
        while let Some(character) = text[at..].chars().next() {
            match tokens.get(token) {
                Some(Token::AnyText) => {
                    retry = Some((token, at));
                    token += 1;
                    continue;
                }
                Some(Token::AnyCharacter) => {}
                Some(Token::Character(wanted)) if *wanted == character => {}
                _ => {
                    let Some((star, from)) = retry else {
                        return false;
                    };
                    let skipped = text[from..].chars().next().map_or(1, char::len_utf8);
                    retry = Some((star, from + skipped));
                    (token, at) = (star + 1, from + skipped);
                    continue;
                }
            }
            token += 1;
            at += character.len_utf8();
        }
        tokens[token..].iter().all(|token| *token == Token::AnyText)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAIN: LikeForm = LikeForm { escape: Some('\\'), ignores_case: false };

    #[test]
    fn like_matches_as_sql_does() {
        for (text, pattern, matches) in [
            ("order.filled", "order.%", true),
            ("order.filled", "order._illed", true),
            ("order", "order.%", false),
            ("100%", "100\\%", true),
            ("1000", "100\\%", false),
            ("", "%", true),
            ("", "", true),
            ("a", "", false),
            ("abcabc", "%bc", true),
            ("abcab", "%bc", false),
            ("héé", "h__", true),
            ("ééh", "%é_", true),
            ("a\\", "a\\", true),
            ("ABC", "abc", false),
        ] {
            assert_eq!(Pattern::new(pattern, PLAIN).matches(text), matches, "{text} ~ {pattern}");
        }
        let bang = LikeForm { escape: Some('!'), ignores_case: false };
        assert!(Pattern::new("50!%\\%", bang).matches("50%\\ off"));
        let none = LikeForm { escape: None, ignores_case: false };
        assert!(Pattern::new("a\\_", none).matches("a\\b"));
        let folding = LikeForm { ignores_case: true, ..PLAIN };
        assert!(Pattern::new("ZÜr%", folding).matches("züRICH"));
    }

    /// What a pattern means, by recursion.
    fn means(pattern: &[char], text: &[char]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some(('%', rest)) => (0..=text.len()).any(|skipped| means(rest, &text[skipped..])),
            Some(('_', rest)) => !text.is_empty() && means(rest, &text[1..]),
            Some((wanted, rest)) => text.first() == Some(wanted) && means(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn matches_what_the_pattern_means(text in "[abé]{0,9}", pattern in "[abé%_]{0,7}") {
            let characters = |text: &str| text.chars().collect::<Vec<_>>();
            let expected = means(&characters(&pattern), &characters(&text));
            prop_assert_eq!(Pattern::new(&pattern, PLAIN).matches(&text), expected);
        }
    }
}
