//! The words of an SQL expression.

/// Longer expressions are left to Postgres.
const MAX_TEXT_BYTES: usize = 16 * 1024;

/// A word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A name or keyword written without quotes, in lower case.
    Word(String),
    /// A name in double quotes: never a keyword.
    Quoted(String),
    /// A string literal.
    Text(String),
    /// A number, as written.
    Number(String),
    /// An operator, `::` among them.
    Operator(String),
    /// One of `( ) [ ] , .`.
    Mark(char),
}

/// Splits an expression; `None` for anything unusual (escape strings, comments, dollar quotes, parameters).
pub(super) fn tokens(text: &str) -> Option<Vec<Token>> {
    if text.len() > MAX_TEXT_BYTES {
        return None;
    }
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            ' ' | '\n' | '\t' | '\r' => 1,
            '(' | ')' | '[' | ']' | ',' | '.' => {
                found.push(Token::Mark(first));
                1
            }
            '\'' => quoted(rest, '\'', Token::Text, &mut found)?,
            '"' => quoted(rest, '"', Token::Quoted, &mut found)?,
            'a'..='z' | 'A'..='Z' | '_' => {
                let end = rest
                    .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                    .unwrap_or(rest.len());
                let word = rest.get(..end)?.to_ascii_lowercase();
                // e'…', b'…', x'…', n'…', u&'…' are other kinds of literals.
                if rest.get(end..)?.starts_with(['\'', '$'])
                    || (word == "u" && rest.get(end..)?.starts_with('&'))
                {
                    return None;
                }
                found.push(Token::Word(word));
                end
            }
            '0'..='9' => {
                let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
                // Only whole numbers; a fraction or an exponent makes it a numeric.
                if rest
                    .get(end..)?
                    .starts_with(|c: char| c == '.' || c == '_' || c.is_ascii_alphabetic())
                {
                    return None;
                }
                found.push(Token::Number(rest.get(..end)?.to_owned()));
                end
            }
            ':' | '=' | '<' | '>' | '-' | '!' | '+' | '*' | '/' | '~' | '@' | '#' | '%' | '^' | '&' | '|'
            | '?' => {
                let end = rest
                    .find(|c: char| !":=<>-!+*/~@#%^&|?".contains(c))
                    .unwrap_or(rest.len());
                let operator = rest.get(..end)?;
                if operator.contains("--") || operator.contains("/*") {
                    return None;
                }
                found.push(Token::Operator(operator.to_owned()));
                end
            }
            _ => return None,
        };
        rest = rest.get(length..)?;
    }
    Some(found)
}

/// Reads a literal with doubled quotes inside; returns its length in the text.
fn quoted(rest: &str, quote: char, make: fn(String) -> Token, found: &mut Vec<Token>) -> Option<usize> {
    let mut content = String::new();
    let mut characters = rest.char_indices().skip(1).peekable();
    while let Some((at, character)) = characters.next() {
        if character != quote {
            // With standard_conforming_strings off a backslash would mean something.
            if character == '\\' {
                return None;
            }
            content.push(character);
        } else if characters.peek().is_some_and(|(_, next)| *next == quote) {
            content.push(quote);
            characters.next();
        } else {
            found.push(make(content));
            return Some(at + 1);
        }
    }
    None
}
