//! The filter grammar of a binding (`protocol.md 7.2`, `database.md 2.2`): text to conditions.
//!
//! Evaluation against rows is the business of the index and of the table's task.

use crate::elixir;
use std::fmt;
use thiserror::Error;

/// An operator as written in a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operator {
    /// `eq`
    Eq,
    /// `neq`
    Neq,
    /// `lt`
    Lt,
    /// `lte`
    Lte,
    /// `gt`
    Gt,
    /// `gte`
    Gte,
    /// `in`
    In,
    /// `like`
    Like,
    /// `ilike`
    Ilike,
    /// `is`
    Is,
    /// `match`
    Match,
    /// `imatch`
    Imatch,
    /// `isdistinct`
    IsDistinct,
}

const OPERATORS: [(&str, Operator); 13] = [
    ("eq", Operator::Eq),
    ("neq", Operator::Neq),
    ("lt", Operator::Lt),
    ("lte", Operator::Lte),
    ("gt", Operator::Gt),
    ("gte", Operator::Gte),
    ("in", Operator::In),
    ("like", Operator::Like),
    ("ilike", Operator::Ilike),
    ("is", Operator::Is),
    ("match", Operator::Match),
    ("imatch", Operator::Imatch),
    ("isdistinct", Operator::IsDistinct),
];

impl Operator {
    /// Exactly one of the thirteen lower-case names.
    fn parse(name: &str) -> Option<Self> {
        OPERATORS
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, operator)| *operator)
    }

    /// The name as written in filters.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        OPERATORS
            .iter()
            .find(|(_, operator)| *operator == self)
            .map_or("", |(name, _)| name)
    }
}

/// One condition of a filter; all conditions of a filter must hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Condition {
    /// Column name, compared exactly.
    pub column: String,
    /// What is asked of the column.
    pub operator: Operator,
    /// The value's text; for `in` a Postgres array literal `{…}`.
    pub value: String,
    /// `not.` was written.
    pub negated: bool,
}

impl Condition {
    /// As the client writes it, without escapes: `id=not.eq.1`.
    pub(crate) fn as_written(&self) -> String {
        let not = if self.negated { "not." } else { "" };
        format!("{}={not}{}.{}", self.column, self.operator.as_str(), self.value)
    }
}

/// As the reference dumps it: `{"id", "eq", "1", false}`.
impl fmt::Display for Condition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{{{}, {}, {}, {}}}",
            elixir::quoted(&self.column),
            elixir::quoted(self.operator.as_str()),
            elixir::quoted(&self.value),
            self.negated
        )
    }
}

/// Why a filter cannot be read. The texts are those of `protocol.md 7.2`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FilterError {
    /// Two commas in a row, or one at an end.
    #[error("Error parsing `filter` params: filter must not contain empty segments (check for extra commas)")]
    EmptySegment,
    /// Not `column=operator.value`, or an unknown operator.
    #[error("Error parsing `filter` params: {}", elixir::list(.0))]
    Malformed(Vec<String>),
    /// `in` without parentheses.
    #[error("Error parsing `filter` params: `in` filter value must be wrapped by parentheses")]
    InNotWrapped,
}

/// Reads a whole filter. Blank text is no filter.
///
/// # Errors
/// The first segment that cannot be read.
pub fn parse(filter: &str) -> Result<Vec<Condition>, FilterError> {
    let filter = filter.trim();
    if filter.is_empty() {
        return Ok(Vec::new());
    }
    split(filter)
        .into_iter()
        .map(|segment| parse_segment(segment.trim()))
        .collect()
}

/// Splits at commas outside parentheses and quotes. A quote opens only after `.`, `(` or a comma inside
/// parentheses; elsewhere it is an ordinary character (`5" tall`).
fn split(filter: &str) -> Vec<&str> {
    let bytes = filter.as_bytes();
    let mut segments = Vec::new();
    let (mut start, mut depth, mut quoted) = (0, 0_usize, false);
    let mut previous = 0_u8;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if quoted {
            match byte {
                // The protected byte is skipped with its backslash.
                b'\\' => at += 1,
                b'"' => quoted = false,
                _ => {}
            }
        } else {
            match byte {
                b'"' if matches!(previous, b'.' | b'(') || (previous == b',' && depth > 0) => quoted = true,
                b'(' => depth += 1,
                b')' => depth = depth.saturating_sub(1),
                b',' if depth == 0 => {
                    segments.push(&filter[start..at]);
                    start = at + 1;
                }
                _ => {}
            }
        }
        previous = byte;
        at += 1;
    }
    segments.push(&filter[start..]);
    segments
}

fn parse_segment(segment: &str) -> Result<Condition, FilterError> {
    if segment.is_empty() {
        return Err(FilterError::EmptySegment);
    }
    let malformed =
        |parts: &[&str]| FilterError::Malformed(parts.iter().map(|part| (*part).to_owned()).collect());
    let Some((column, rest)) = segment.split_once('=') else {
        return Err(malformed(&[segment]));
    };
    let (negated, rest) = rest
        .strip_prefix("not.")
        .map_or((false, rest), |rest| (true, rest));
    let Some((name, value)) = rest.split_once('.') else {
        return Err(malformed(&[rest]));
    };
    let Some(operator) = Operator::parse(name) else {
        return Err(malformed(&[name, value]));
    };
    let value = if operator == Operator::In {
        let inner = value.strip_prefix('(').and_then(|inner| inner.strip_suffix(')'));
        format!("{{{}}}", inner.ok_or(FilterError::InNotWrapped)?)
    } else {
        unquote(value).unwrap_or_else(|| value.to_owned())
    };
    Ok(Condition {
        column: column.to_owned(),
        operator,
        value,
        negated,
    })
}

/// The content of a value that is one complete quoted string, `\x` reduced to `x`.
fn unquote(value: &str) -> Option<String> {
    let inner = value.strip_prefix('"')?;
    let mut content = String::with_capacity(inner.len());
    let mut characters = inner.chars();
    loop {
        match characters.next()? {
            '\\' => content.push(characters.next()?),
            '"' => return characters.as_str().is_empty().then_some(content),
            plain => content.push(plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn condition(column: &str, negated: bool, operator: Operator, value: &str) -> Condition {
        Condition {
            column: column.into(),
            operator,
            value: value.into(),
            negated,
        }
    }

    #[test]
    fn filters_parse_as_in_the_table_of_the_spec() {
        use Operator::{Eq, Gt, In, Lt, Neq};
        let cases: [(&str, Vec<Condition>); 14] = [
            ("", vec![]),
            ("  ", vec![]),
            (
                "id=gt.0,id=lt.100",
                vec![condition("id", false, Gt, "0"), condition("id", false, Lt, "100")],
            ),
            (
                "name=in.(red,blue),q=gt.0",
                vec![
                    condition("name", false, In, "{red,blue}"),
                    condition("q", false, Gt, "0"),
                ],
            ),
            (r#"name=eq."a,b""#, vec![condition("name", false, Eq, "a,b")]),
            (
                r#"name=eq."she said \"hi\"""#,
                vec![condition("name", false, Eq, r#"she said "hi""#)],
            ),
            (
                r#"name=eq."ab"cd"#,
                vec![condition("name", false, Eq, r#""ab"cd"#)],
            ),
            (
                r#"desc=eq.5" tall,id=gt.0"#,
                vec![
                    condition("desc", false, Eq, r#"5" tall"#),
                    condition("id", false, Gt, "0"),
                ],
            ),
            (
                "a=eq.x),b=eq.y",
                vec![condition("a", false, Eq, "x)"), condition("b", false, Eq, "y")],
            ),
            (
                r#"tags=in.("a,b",c)"#,
                vec![condition("tags", false, In, r#"{"a,b",c}"#)],
            ),
            (r#"name=not.neq."a,b""#, vec![condition("name", true, Neq, "a,b")]),
            ("a=eq.(x,b=eq.y", vec![condition("a", false, Eq, "(x,b=eq.y")]),
            (r#"a=eq."""#, vec![condition("a", false, Eq, "")]),
            ("=eq.1", vec![condition("", false, Eq, "1")]),
        ];
        for (filter, expected) in cases {
            assert_eq!(parse(filter), Ok(expected), "{filter}");
        }
    }

    #[test]
    fn unreadable_filters_say_so_in_the_references_words() {
        let cases = [
            ("wrong", r#"["wrong"]"#),
            ("id=foo.hey", r#"["foo", "hey"]"#),
            ("id=eq", r#"["eq"]"#),
            ("id=5", r#"["5"]"#),
            ("id=not.", r#"[""]"#),
            ("id=not.not.eq.1", r#"["not", "eq.1"]"#),
            ("id=EQ.1", r#"["EQ", "1"]"#),
            (
                "id=eq.1,,n=eq.2",
                "filter must not contain empty segments (check for extra commas)",
            ),
            (
                "id=eq.1,",
                "filter must not contain empty segments (check for extra commas)",
            ),
            ("id=in.1,2", "`in` filter value must be wrapped by parentheses"),
        ];
        for (filter, tail) in cases {
            let error = parse(filter).unwrap_err().to_string();
            assert_eq!(
                error,
                format!("Error parsing `filter` params: {tail}"),
                "{filter}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(filter in "[a-z\\.\"\\\\(),= ünot]{0,40}") {
            let _ = parse(&filter);
        }

        #[test]
        fn a_quoted_value_comes_back_whole(value in "\\PC{0,20}") {
            let escaped = value.replace('\\', "\\\\").replace('"', "\\\"");
            let parsed = parse(&format!("a=eq.\"{escaped}\",b=eq.1")).unwrap();
            prop_assert_eq!(&parsed[0].value, &value);
            prop_assert_eq!(parsed.len(), 2);
        }
    }
}
