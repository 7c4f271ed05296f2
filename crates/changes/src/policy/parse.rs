//! Words to a tree. The grammar is that of expressions as `pg_get_expr` prints them: every operator in parentheses
//! of its own. What does not fit is refused, so precedence never has to be guessed.

use super::token::{Token, tokens};

/// Deeper nesting is left to Postgres.
const MAX_DEPTH: usize = 64;

/// An operator between two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// What `IS` tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Test {
    Null,
    True,
    False,
    /// As `Null`, of a truth value.
    Unknown,
}

/// An expression, not yet typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Column(String),
    Text(String),
    Number(String),
    Bool(bool),
    Null,
    Cast(Box<Node>, String),
    /// `schema.name()`, or without a schema one of `pg_catalog`.
    Call {
        schema: Option<String>,
        name: String,
        arguments: Vec<Node>,
    },
    Coalesce(Vec<Node>),
    NullIf(Box<Node>, Box<Node>),
    Compare(Comparison, Box<Node>, Box<Node>),
    /// `->` (false) or `->>` (true).
    Member(Box<Node>, Box<Node>, bool),
    /// `= ANY (ARRAY[…])` (false) or `<> ALL (ARRAY[…])` (true).
    AnyOf(Box<Node>, Vec<Node>, bool),
    DistinctFrom(Box<Node>, Box<Node>, bool),
    Is(Box<Node>, Test, bool),
    Not(Box<Node>),
    And(Vec<Node>),
    Or(Vec<Node>),
}

/// Reads a printed expression.
pub(super) fn expression(text: &str) -> Option<Node> {
    let mut parser = Parser {
        tokens: tokens(text)?,
        at: 0,
        depth: 0,
    };
    let node = parser.expression()?;
    (parser.at == parser.tokens.len()).then_some(node)
}

/// Reads the body of an SQL function: `select <expression>`, perhaps with a semicolon, or `RETURN <expression>`.
pub(super) fn function_body(text: &str) -> Option<Node> {
    let text = text.trim();
    let text = text.strip_suffix(';').unwrap_or(text);
    let mut parser = Parser {
        tokens: tokens(text)?,
        at: 0,
        depth: 0,
    };
    (parser.word("select") || parser.word("return")).then_some(())?;
    let node = parser.expression()?;
    (parser.at == parser.tokens.len()).then_some(node)
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn word(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Word(found)) if found == word);
        self.at += usize::from(found);
        found
    }

    fn mark(&mut self, mark: char) -> bool {
        let found = self.peek() == Some(&Token::Mark(mark));
        self.at += usize::from(found);
        found
    }

    fn operator(&mut self) -> Option<String> {
        let Some(Token::Operator(operator)) = self.peek() else {
            return None;
        };
        let operator = operator.clone();
        self.at += 1;
        Some(operator)
    }

    /// One operand, or operands joined by one kind of operator.
    fn expression(&mut self) -> Option<Node> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let first = self.term()?;
        let node = if self.word("and") {
            self.list(first, "and").map(Node::And)?
        } else if self.word("or") {
            self.list(first, "or").map(Node::Or)?
        } else {
            first
        };
        self.depth -= 1;
        Some(node)
    }

    fn list(&mut self, first: Node, word: &str) -> Option<Vec<Node>> {
        let mut nodes = vec![first, self.term()?];
        while self.word(word) {
            nodes.push(self.term()?);
        }
        Some(nodes)
    }

    /// An operand, or two with an operator between them.
    fn term(&mut self) -> Option<Node> {
        if self.word("not") {
            return Some(Node::Not(Box::new(self.operand()?)));
        }
        let left = self.members()?;
        if self.word("is") {
            let negated = self.word("not");
            return Some(match () {
                () if self.word("null") => Node::Is(Box::new(left), Test::Null, negated),
                () if self.word("true") => Node::Is(Box::new(left), Test::True, negated),
                () if self.word("false") => Node::Is(Box::new(left), Test::False, negated),
                () if self.word("unknown") => Node::Is(Box::new(left), Test::Unknown, negated),
                () if self.word("distinct") && self.word("from") => {
                    Node::DistinctFrom(Box::new(left), Box::new(self.operand()?), negated)
                }
                () => return None,
            });
        }
        let Some(operator) = self.operator() else {
            return Some(left);
        };
        let comparison = match operator.as_str() {
            "=" if self.word("any") => return Some(Node::AnyOf(Box::new(left), self.array()?, false)),
            "<>" if self.word("all") => return Some(Node::AnyOf(Box::new(left), self.array()?, true)),
            "=" => Comparison::Equal,
            "<>" => Comparison::NotEqual,
            "<" => Comparison::Less,
            "<=" => Comparison::LessOrEqual,
            ">" => Comparison::Greater,
            ">=" => Comparison::GreaterOrEqual,
            _ => return None,
        };
        Some(Node::Compare(
            comparison,
            Box::new(left),
            Box::new(self.members()?),
        ))
    }

    /// An operand, perhaps with members taken from it; these operators bind stronger than comparisons, and from left
    /// to right.
    fn members(&mut self) -> Option<Node> {
        let mut node = self.operand()?;
        loop {
            let Some(Token::Operator(operator)) = self.peek() else {
                return Some(node);
            };
            let (is_path, as_text) = match operator.as_str() {
                "->" => (false, false),
                "->>" => (false, true),
                "#>" => (true, false),
                "#>>" => (true, true),
                _ => return Some(node),
            };
            self.at += 1;
            if !is_path {
                node = Node::Member(Box::new(node), Box::new(self.operand()?), as_text);
                continue;
            }
            let mut path = self.path()?.into_iter().peekable();
            path.peek()?;
            while let Some(key) = path.next() {
                let is_last = path.peek().is_none();
                node = Node::Member(Box::new(node), Box::new(Node::Text(key)), as_text && is_last);
            }
        }
    }

    /// The keys of `'{a,b}'::text[]`. One that might be a position in an array is refused.
    fn path(&mut self) -> Option<Vec<String>> {
        let Some(Token::Text(literal)) = self.peek().cloned() else {
            return None;
        };
        self.at += 1;
        if self.peek() == Some(&Token::Operator("::".to_owned())) {
            self.at += 1;
            (self.type_word()? == "text" && self.mark('[') && self.mark(']')).then_some(())?;
        }
        let keys = elements(&literal)?;
        let is_name = |key: &String| key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        keys.iter().all(is_name).then_some(keys)
    }

    /// `(ARRAY[a, b])`, for a `varchar` column `((ARRAY[a, b])::text[])`, or `('{a,b}'::text[])`.
    fn array(&mut self) -> Option<Vec<Node>> {
        self.mark('(').then_some(())?;
        if let Some(Token::Text(literal)) = self.peek().cloned() {
            self.at += 1;
            (self.operator()? == "::").then_some(())?;
            let element = self.type_word()?;
            (self.mark('[') && self.mark(']') && self.mark(')')).then_some(())?;
            let nodes = elements(&literal)?
                .into_iter()
                .map(|text| Node::Cast(Box::new(Node::Text(text)), element.clone()));
            return Some(nodes.collect());
        }
        let is_cast = self.mark('(');
        (self.word("array") && self.mark('[')).then_some(())?;
        let mut nodes = vec![self.expression()?];
        while self.mark(',') {
            nodes.push(self.expression()?);
        }
        (self.mark(']') && self.mark(')')).then_some(())?;
        if is_cast {
            let cast = self.operator()? == "::" && self.word("text") && self.mark('[') && self.mark(']');
            (cast && self.mark(')')).then_some(())?;
        }
        Some(nodes)
    }

    fn operand(&mut self) -> Option<Node> {
        let mut node = self.primary()?;
        while self.peek() == Some(&Token::Operator("::".to_owned())) {
            self.at += 1;
            node = Node::Cast(Box::new(node), self.type_name()?);
        }
        Some(node)
    }

    /// A built-in type's name; any qualified one is not built in, arrays and modifiers are not understood.
    fn type_name(&mut self) -> Option<String> {
        let name = self.type_word()?;
        let ends = !matches!(self.peek(), Some(Token::Mark('(' | '[' | '.')));
        ends.then_some(name)
    }

    fn type_word(&mut self) -> Option<String> {
        let Some(Token::Word(name)) = self.peek().cloned() else {
            return None;
        };
        self.at += 1;
        let spelled = match name.as_str() {
            "character" if self.word("varying") => "varchar",
            "text" | "varchar" | "uuid" | "json" | "jsonb" => name.as_str(),
            "boolean" | "bool" => "bool",
            "smallint" | "int2" => "int2",
            "integer" | "int" | "int4" => "int4",
            "bigint" | "int8" => "int8",
            _ => return None,
        };
        Some(spelled.to_owned())
    }

    fn primary(&mut self) -> Option<Node> {
        if self.mark('(') {
            // A scalar sub-select without FROM is its expression.
            let selects = self.word("select");
            let node = self.expression()?;
            if selects && self.word("as") {
                matches!(self.peek(), Some(Token::Word(_) | Token::Quoted(_))).then_some(())?;
                self.at += 1;
            }
            return self.mark(')').then_some(node);
        }
        let token = self.peek()?.clone();
        self.at += 1;
        match token {
            Token::Text(text) => Some(Node::Text(text)),
            Token::Number(number) => Some(Node::Number(number)),
            Token::Quoted(name) => self.named(name),
            Token::Word(word) => match word.as_str() {
                "true" => Some(Node::Bool(true)),
                "false" => Some(Node::Bool(false)),
                "null" => Some(Node::Null),
                "coalesce" => self.arguments().map(Node::Coalesce),
                "nullif" => {
                    let mut arguments = self.arguments()?.into_iter();
                    let pair = (arguments.next()?, arguments.next()?);
                    arguments
                        .next()
                        .is_none()
                        .then(|| Node::NullIf(Box::new(pair.0), Box::new(pair.1)))
                }
                // Keywords that begin something else.
                "select" | "array" | "case" | "row" | "exists" | "any" | "all" | "and" | "or" | "is"
                | "not" | "collate" | "operator" | "current_user" | "session_user" | "user"
                | "current_role" | "current_date" | "current_time" | "current_timestamp" | "localtime"
                | "localtimestamp" | "current_catalog" | "current_schema" | "cast" | "extract"
                | "interval" => None,
                _ => self.named(word),
            },
            _ => None,
        }
    }

    /// A column or a call.
    fn named(&mut self, name: String) -> Option<Node> {
        if self.peek() == Some(&Token::Mark('(')) {
            return Some(Node::Call {
                schema: None,
                name,
                arguments: self.arguments()?,
            });
        }
        if !self.mark('.') {
            return Some(Node::Column(name));
        }
        let (Token::Word(function) | Token::Quoted(function)) = self.peek()?.clone() else {
            return None;
        };
        self.at += 1;
        // A qualified column would come from a sub-query; only calls are qualified here.
        (self.peek() == Some(&Token::Mark('('))).then_some(())?;
        Some(Node::Call {
            schema: Some(name),
            name: function,
            arguments: self.arguments()?,
        })
    }

    fn arguments(&mut self) -> Option<Vec<Node>> {
        self.mark('(').then_some(())?;
        let mut arguments = Vec::new();
        if self.mark(')') {
            return Some(arguments);
        }
        loop {
            arguments.push(self.expression()?);
            if self.mark(')') {
                return Some(arguments);
            }
            self.mark(',').then_some(())?;
        }
    }
}

/// The elements of an array literal without quotes, blanks, NULLs or arrays in it.
fn elements(literal: &str) -> Option<Vec<String>> {
    let inner = literal.strip_prefix('{')?.strip_suffix('}')?;
    let plain = |element: &str| {
        !element.is_empty()
            && !element.eq_ignore_ascii_case("null")
            && element
                .chars()
                .all(|c| c.is_alphanumeric() || "_-.@:/+".contains(c))
    };
    inner
        .split(',')
        .map(|element| plain(element).then(|| element.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_expressions_parse() {
        let column = |name: &str| Box::new(Node::Column(name.into()));
        let uid = || {
            Box::new(Node::Call {
                schema: Some("auth".into()),
                name: "uid".into(),
                arguments: vec![],
            })
        };
        let equal = |a, b| Node::Compare(Comparison::Equal, a, b);
        for (text, expected) in [
            ("true", Node::Bool(true)),
            ("(user_id = auth.uid())", equal(column("user_id"), uid())),
            (
                "(user_id = ( SELECT auth.uid() AS uid))",
                equal(column("user_id"), uid()),
            ),
            ("(\"Odd\" IS NOT NULL)", Node::Is(column("Odd"), Test::Null, true)),
            (
                "((a = auth.uid()) OR (NOT b) OR (c IS TRUE))",
                Node::Or(vec![
                    equal(column("a"), uid()),
                    Node::Not(column("b")),
                    Node::Is(column("c"), Test::True, false),
                ]),
            ),
            (
                "((s)::text = ANY (ARRAY['a'::text, 'b'::text]))",
                Node::AnyOf(
                    Box::new(Node::Cast(column("s"), "text".into())),
                    vec![
                        Node::Cast(Box::new(Node::Text("a".into())), "text".into()),
                        Node::Cast(Box::new(Node::Text("b".into())), "text".into()),
                    ],
                    false,
                ),
            ),
            (
                "((claims() #>> '{a,b}'::text[]) = 'x'::text)",
                equal(
                    Box::new(Node::Member(
                        Box::new(Node::Member(
                            Box::new(Node::Call {
                                schema: None,
                                name: "claims".into(),
                                arguments: vec![],
                            }),
                            Box::new(Node::Text("a".into())),
                            false,
                        )),
                        Box::new(Node::Text("b".into())),
                        true,
                    )),
                    Box::new(Node::Cast(Box::new(Node::Text("x".into())), "text".into())),
                ),
            ),
            (
                "(n = ANY ('{1,2}'::integer[]))",
                Node::AnyOf(
                    column("n"),
                    ["1", "2"]
                        .map(|n| Node::Cast(Box::new(Node::Text(n.into())), "int4".into()))
                        .into(),
                    false,
                ),
            ),
            ("(a IS NOT UNKNOWN)", Node::Is(column("a"), Test::Unknown, true)),
        ] {
            assert_eq!(expression(text), Some(expected), "{text}");
        }
        // A body is printed by people.
        assert_eq!(
            function_body("select claims -> 'a' ->> 'b' = 'c';"),
            expression("(((claims -> 'a') ->> 'b') = 'c')")
        );
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in [
            "",
            "(a = b) extra",
            "(a OPERATOR(evil.=) b)",
            "(EXISTS ( SELECT 1 FROM t))",
            "(user_id = ( SELECT t.x FROM t))",
            "(a = b AND c = d OR e)",
            "(a ~~ 'x%'::text)",
            "(CURRENT_USER = 'x'::name)",
            "((a)::evil.uuid = b)",
            "((a)::numeric = b)",
            "(a = E'\\x')",
            "((a COLLATE \"C\") = b)",
            "(a = 1.5)",
            "(a = 'x'::character varying(3))",
            "(t.* IS NOT NULL)",
            "(a = $1)",
            "(a = ANY ('{1,NULL}'::integer[]))",
            "(a = ANY ('{\"a b\"}'::text[]))",
            "(a = ANY ('{{a},{b}}'::text[]))",
            "(a = ANY ('{}'::text[]))",
            "((a #>> '{0}'::text[]) = b)",
            "((a #>> '{}'::text[]) = b)",
            "((a #>> path) = b)",
            "(a = b -- c\n)",
        ] {
            assert_eq!(expression(text), None, "{text}");
        }
        let deep = format!("{}true{}", "(".repeat(5_000), ")".repeat(5_000));
        assert_eq!(expression(&deep), None);
    }
}
