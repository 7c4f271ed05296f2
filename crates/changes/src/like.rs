//! `like` as Postgres matches it in a UTF-8 database under a deterministic collation: `%` is any run of characters,
//! `_` one character, and a backslash takes away the meaning of what follows.

/// Steps a match may take. Beyond, Postgres is asked, which has a time limit and does not hold up other work here.
const MAX_STEPS: usize = 1 << 20;

/// A pattern that can be matched here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    tokens: Vec<Token>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Literal(char),
    AnyOne,
    AnyRun,
}

impl Pattern {
    /// `None` for a pattern that ends in an escape: Postgres raises for some texts and not for others.
    pub(crate) fn read(pattern: &str) -> Option<Self> {
        let mut tokens = Vec::with_capacity(pattern.len());
        let mut characters = pattern.chars();
        while let Some(character) = characters.next() {
            let token = match character {
                '\\' => Token::Literal(characters.next()?),
                '_' => Token::AnyOne,
                '%' => Token::AnyRun,
                plain => Token::Literal(plain),
            };
            if (token, tokens.last()) != (Token::AnyRun, Some(&Token::AnyRun)) {
                tokens.push(token);
            }
        }
        Some(Self { tokens })
    }

    /// Whether all of `text` matches; `None` when finding out may take too long.
    pub(crate) fn matches(&self, text: &str) -> Option<bool> {
        // Only what follows a run is ever tried again.
        let retries = self.tokens.contains(&Token::AnyRun);
        if retries && self.tokens.len().saturating_mul(text.len()) > MAX_STEPS {
            return None;
        }
        let mut rest = text.chars();
        let mut at = 0;
        // Where the last run stands, and the text from which what follows it is tried.
        let mut run = None;
        loop {
            match self.tokens.get(at) {
                Some(Token::AnyRun) => {
                    at += 1;
                    if at == self.tokens.len() {
                        return Some(true);
                    }
                    run = Some((at, rest.clone()));
                    continue;
                }
                None if rest.as_str().is_empty() => return Some(true),
                token => {
                    let Some(character) = rest.next() else {
                        // What is left of the pattern wants more text than there is, however far the run reaches.
                        return Some(false);
                    };
                    let fits = match token {
                        Some(Token::Literal(literal)) => *literal == character,
                        Some(Token::AnyOne) => true,
                        _ => false,
                    };
                    if fits {
                        at += 1;
                        continue;
                    }
                }
            }
            // The run takes one character more.
            let Some((after, from)) = &mut run else {
                return Some(false);
            };
            if from.next().is_none() {
                return Some(false);
            }
            at = *after;
            rest = from.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_characters_and_runs() {
        let cases = [
            ("", "", true),
            ("", "a", false),
            ("%", "", true),
            ("a%", "abc", true),
            ("%c", "abc", true),
            ("%b", "abc", false),
            ("a_c", "aüc", true),
            ("_", "👩", true),
            ("__", "é", false),
            ("%aab%", "aaaaabx", true),
            ("%a%b%", "xbxa", false),
            (r"100\%", "100%", true),
            (r"100\%", "100x", false),
            (r"a\_c", "abc", false),
            (r"\\%", r"\x", true),
            (r"\ü", "ü", true),
            ("%_", "", false),
            ("_%_", "ab", true),
            ("%%%_", "a", true),
        ];
        for (pattern, text, expected) in cases {
            let found = Pattern::read(pattern).unwrap().matches(text);
            assert_eq!(found, Some(expected), "{text} like {pattern}");
        }
        assert_eq!(Pattern::read(r"abc\"), None);
    }

    #[test]
    fn a_match_that_would_take_long_is_left_to_postgres() {
        let text = "a".repeat(100_000);
        let slow = Pattern::read(&format!("%{}b", "a".repeat(1_000))).unwrap();
        assert_eq!(slow.matches(&text), None);
        let prefix = Pattern::read(&"a".repeat(1_000)).unwrap();
        assert_eq!(prefix.matches(&text), Some(false));
        assert_eq!(Pattern::read("%b").unwrap().matches(&text), Some(false));
    }
}
