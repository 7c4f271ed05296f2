//! The filter grammar of a binding (`protocol.md 7.2`, `database.md 2.2`): text to conditions, and with
//! [`Grammar::Groups`] to groups of them.
//!
//! Evaluation against rows is the business of the index and of the table's task.

use crate::clause::{Clause, Group, Junction};
use crate::elixir;
use std::fmt;
use thiserror::Error;

/// Groups may be in groups this deep.
const MAX_DEPTH: usize = 8;
/// A group may have this many conditions, those of the groups in it included.
const MAX_CONDITIONS: usize = 100;

/// Which filters are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grammar {
    /// The reference's: conditions, all of which must hold.
    Reference,
    /// Also `or=(a.eq.1,and(b.lt.2,c.not.is.null))`, `and=(…)`, `not.or=(…)` and `not.and=(…)`, as PostgREST has them.
    /// Nothing that the reference understands means anything else.
    Groups,
}

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
    /// A group does not end with the parenthesis it begins with.
    #[error("Error parsing `filter` params: `{}` filter value must be wrapped by parentheses", .0.as_str())]
    GroupNotWrapped(Junction),
    /// A group with more conditions than one may have.
    #[error("Error parsing `filter` params: too many conditions in `{}` filter. Maximum {MAX_CONDITIONS}", .0.as_str())]
    TooManyConditions(Junction),
    /// Groups in groups in groups.
    #[error("Error parsing `filter` params: `{}` filter is nested too deeply. Maximum {MAX_DEPTH}", .0.as_str())]
    TooDeep(Junction),
}

/// Reads a whole filter. Blank text is no filter.
///
/// # Errors
/// The first segment that cannot be read.
pub fn parse(filter: &str, grammar: Grammar) -> Result<Vec<Clause<Condition>>, FilterError> {
    let filter = filter.trim();
    if filter.is_empty() {
        return Ok(Vec::new());
    }
    split(filter, 0)
        .into_iter()
        .map(|segment| parse_segment(segment.trim(), grammar))
        .collect()
}

/// The commas and parentheses outside quotes, with their place and how many parentheses are open before them. A quote
/// opens only after `.`, `(` or a comma inside parentheses; elsewhere it is an ordinary character (`5" tall`).
struct Marks<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
    previous: u8,
}

impl<'a> Marks<'a> {
    /// `depth` is how many parentheses are open where `text` begins.
    fn new(text: &'a str, depth: usize) -> Self {
        Self {
            bytes: text.as_bytes(),
            at: 0,
            depth,
            // What stands before the text of a group is its parenthesis.
            previous: if depth > 0 { b'(' } else { 0 },
        }
    }

    /// The place after the quote that ends what begins here.
    fn after_quoted(&self) -> usize {
        let mut at = self.at + 1;
        while let Some(byte) = self.bytes.get(at) {
            match byte {
                // The protected byte is skipped with its backslash.
                b'\\' => at += 2,
                b'"' => return at + 1,
                _ => at += 1,
            }
        }
        at
    }
}

impl Iterator for Marks<'_> {
    type Item = (usize, u8, usize);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (at, byte, depth) = (self.at, *self.bytes.get(self.at)?, self.depth);
            let opens = matches!(self.previous, b'.' | b'(') || (self.previous == b',' && depth > 0);
            self.previous = byte;
            if byte == b'"' && opens {
                self.at = self.after_quoted();
                continue;
            }
            self.at += 1;
            match byte {
                b'(' => self.depth += 1,
                b')' => self.depth = depth.saturating_sub(1),
                b',' => {}
                _ => continue,
            }
            return Some((at, byte, depth));
        }
    }
}

/// Splits at the commas where as many parentheses are open as at the beginning.
fn split(text: &str, depth: usize) -> Vec<&str> {
    let mut segments = Vec::new();
    let mut start = 0;
    for (at, byte, open) in Marks::new(text, depth) {
        if byte == b',' && open == depth {
            segments.push(&text[start..at]);
            start = at + 1;
        }
    }
    segments.push(&text[start..]);
    segments
}

fn parse_segment(segment: &str, grammar: Grammar) -> Result<Clause<Condition>, FilterError> {
    if segment.is_empty() {
        return Err(FilterError::EmptySegment);
    }
    let Some((column, rest)) = segment.split_once('=') else {
        return Err(malformed(&[segment]));
    };
    if grammar == Grammar::Groups && rest.starts_with('(') {
        let (negated, word) = strip_not(column);
        let junctions = [Junction::Or, Junction::And];
        if let Some(junction) = junctions.into_iter().find(|junction| junction.as_str() == word) {
            return parse_group(rest, junction, negated, 1, &mut 0).map(Clause::Group);
        }
    }
    parse_condition(column.to_owned(), rest).map(Clause::Condition)
}

/// `(member,member)`, in which `count` conditions have been read so far.
fn parse_group(
    text: &str,
    junction: Junction,
    negated: bool,
    depth: usize,
    count: &mut usize,
) -> Result<Group<Condition>, FilterError> {
    let closing = Marks::new(text, 0).find(|(_, byte, open)| *byte == b')' && *open == 1);
    let inner = closing
        .filter(|(at, ..)| at + 1 == text.len())
        .and_then(|(at, ..)| text.get(1..at))
        .ok_or(FilterError::GroupNotWrapped(junction))?;
    if depth > MAX_DEPTH {
        return Err(FilterError::TooDeep(junction));
    }
    let mut members = Vec::new();
    for member in split(inner, 1) {
        members.push(parse_member(member.trim(), depth, count)?);
        if *count > MAX_CONDITIONS {
            return Err(FilterError::TooManyConditions(junction));
        }
    }
    Ok(Group {
        junction,
        negated,
        members,
    })
}

/// `column.[not.]op.value`, `or(…)`, `not.and(…)`. A column's name may be quoted.
fn parse_member(member: &str, depth: usize, count: &mut usize) -> Result<Clause<Condition>, FilterError> {
    if member.is_empty() {
        return Err(FilterError::EmptySegment);
    }
    let (negated, rest) = strip_not(member);
    for junction in [Junction::Or, Junction::And] {
        if let Some(group) = rest.strip_prefix(junction.as_str())
            && group.starts_with('(')
        {
            return parse_group(group, junction, negated, depth + 1, count).map(Clause::Group);
        }
    }
    *count += 1;
    let quoted_end = member
        .starts_with('"')
        .then(|| Marks::new(member, 1).after_quoted());
    let column_end = quoted_end.or_else(|| member.find('.'));
    let parts = column_end
        .and_then(|end| member.split_at_checked(end))
        .and_then(|(column, rest)| Some((column, rest.strip_prefix('.')?)));
    let Some((column, rest)) = parts else {
        return Err(malformed(&[member]));
    };
    let column = unquote(column).unwrap_or_else(|| column.to_owned());
    parse_condition(column, rest).map(Clause::Condition)
}

/// `[not.]op.value`.
fn parse_condition(column: String, text: &str) -> Result<Condition, FilterError> {
    let (negated, text) = strip_not(text);
    let Some((name, value)) = text.split_once('.') else {
        return Err(malformed(&[text]));
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
        column,
        operator,
        value,
        negated,
    })
}

fn strip_not(text: &str) -> (bool, &str) {
    text.strip_prefix("not.")
        .map_or((false, text), |text| (true, text))
}

fn malformed(parts: &[&str]) -> FilterError {
    FilterError::Malformed(parts.iter().map(|part| (*part).to_owned()).collect())
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
            let expected: Vec<_> = expected.into_iter().map(Clause::Condition).collect();
            for grammar in [Grammar::Reference, Grammar::Groups] {
                assert_eq!(parse(filter, grammar).as_ref(), Ok(&expected), "{filter}");
            }
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
            for grammar in [Grammar::Reference, Grammar::Groups] {
                let error = parse(filter, grammar).unwrap_err().to_string();
                assert_eq!(
                    error,
                    format!("Error parsing `filter` params: {tail}"),
                    "{filter}"
                );
            }
        }
    }

    #[test]
    fn groups_read_as_in_postgrest() {
        let cases = [
            ("or=(a.eq.1)", r#"{"or", [{"a", "eq", "1", false}], false}"#),
            (
                " or=( a.eq.1 , b.not.lt.2 ) ",
                r#"{"or", [{"a", "eq", "1", false}, {"b", "lt", "2", true}], false}"#,
            ),
            (
                "or=(a.eq.1,b.lt.2,and(c.eq.3,d.not.is.null))",
                r#"{"or", [{"a", "eq", "1", false}, {"b", "lt", "2", false}, {"and", [{"c", "eq", "3", false}, {"d", "is", "null", true}], false}], false}"#,
            ),
            (
                "not.and=(a.eq.1,not.or(b.eq.2,c.eq.3))",
                r#"{"and", [{"a", "eq", "1", false}, {"or", [{"b", "eq", "2", false}, {"c", "eq", "3", false}], true}], true}"#,
            ),
            (
                r#"or=(a.in.(1,"x,)y"),b.eq."),(",c.eq.5" tall,"d.e".eq.f(g,h))"#,
                r#"{"or", [{"a", "in", "{1,\"x,)y\"}", false}, {"b", "eq", "),(", false}, {"c", "eq", "5\" tall", false}, {"d.e", "eq", "f(g,h)", false}], false}"#,
            ),
            // A column may have that name.
            ("or=eq.1", r#"{"or", "eq", "1", false}"#),
        ];
        for (filter, expected) in cases {
            let clauses = parse(filter, Grammar::Groups).unwrap_or_else(|error| panic!("{filter}: {error}"));
            assert_eq!(clauses.len(), 1, "{filter}");
            assert_eq!(clauses[0].to_string(), expected, "{filter}");
        }
        let clauses = parse("a=eq.1,or=(b.eq.2,c.eq.3),d=in.(4,5)", Grammar::Groups).unwrap();
        assert_eq!(clauses.len(), 3);
    }

    #[test]
    fn unreadable_groups_say_so() {
        let empty = "filter must not contain empty segments (check for extra commas)";
        let unwrapped = "`or` filter value must be wrapped by parentheses";
        let many = format!("or=({})", vec!["a.eq.1"; 101].join(","));
        let deep = format!("or=({}a.eq.1{}", "and(".repeat(8), ")".repeat(9));
        let cases = [
            ("or=()", empty),
            ("or=(a.eq.1,,b.eq.2)", empty),
            ("or=(a.eq.1,)", empty),
            ("or=(a.eq.1,and())", empty),
            ("or=(a.eq.1", unwrapped),
            ("or=(a.eq.1,b.eq.2", unwrapped),
            ("or=(a.eq.1)x", unwrapped),
            ("or=(a.eq.1)x(b.eq.2)", unwrapped),
            (
                "or=(and(a.eq.1)x)",
                "`and` filter value must be wrapped by parentheses",
            ),
            ("or=(a.eq.1),b", r#"["b"]"#),
            ("or=(a)", r#"["a"]"#),
            ("or=(a.eq)", r#"["eq"]"#),
            ("or=(a.foo.hey)", r#"["foo", "hey"]"#),
            ("or=(a=eq.1)", r#"["1"]"#),
            ("or=(a.not.not.eq.1)", r#"["not", "eq.1"]"#),
            (r#"or=("a"eq.1)"#, r#"["\"a\"eq.1"]"#),
            ("or=(a.in.1)", "`in` filter value must be wrapped by parentheses"),
            ("or=a.eq.1", r#"["a", "eq.1"]"#),
            ("xor=(a.eq.1)", r#"["(a", "eq.1)"]"#),
            (&many, "too many conditions in `or` filter. Maximum 100"),
            (&deep, "`and` filter is nested too deeply. Maximum 8"),
        ];
        for (filter, tail) in cases {
            let error = parse(filter, Grammar::Groups).unwrap_err().to_string();
            assert_eq!(
                error,
                format!("Error parsing `filter` params: {tail}"),
                "{filter}"
            );
        }
    }

    #[test]
    fn groups_are_refused_in_the_references_words_unless_they_are_wanted() {
        let cases = [
            ("or=(a.eq.1,b.lt.2)", r#"["(a", "eq.1,b.lt.2)"]"#),
            ("id=eq.1,not.or=(a.eq.1)", r#"["(a", "eq.1)"]"#),
            ("or=()", r#"["()"]"#),
        ];
        for (filter, tail) in cases {
            let error = parse(filter, Grammar::Reference).unwrap_err().to_string();
            assert_eq!(
                error,
                format!("Error parsing `filter` params: {tail}"),
                "{filter}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(filter in "(or=\\()?([a-z\\.\"\\\\(),= ünot]|and\\(|a\\.eq\\.){0,40}") {
            let _ = parse(&filter, Grammar::Reference);
            let _ = parse(&filter, Grammar::Groups);
        }

        #[test]
        fn a_quoted_value_comes_back_whole(value in "\\PC{0,20}") {
            let escaped = value.replace('\\', "\\\\").replace('"', "\\\"");
            let parsed = parse(&format!("a=eq.\"{escaped}\",b=eq.1"), Grammar::Reference).unwrap();
            prop_assert_eq!(&parsed[0].condition().unwrap().value, &value);
            prop_assert_eq!(parsed.len(), 2);
            let parsed = parse(&format!("or=(a.eq.\"{escaped}\",b.eq.1)"), Grammar::Groups).unwrap();
            prop_assert_eq!(&parsed[0].conditions()[0].value, &value);
            prop_assert_eq!(parsed[0].conditions().len(), 2);
        }
    }
}
