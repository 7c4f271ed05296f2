//! Policies to programs: the tree is typed, helpers are put in place of their calls, and what is not certain is
//! refused with a reason.

use super::facts::{Policy, PolicyFacts};
use super::parse::{self, Comparison, Node, Test};
use super::route::Routes;
use super::value::{self, Kind, Value};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Helpers may call helpers, but not for ever.
const MAX_CALLS: usize = 4;

/// How visibility of a table's rows to a role is found out.
#[derive(Clone, Debug, PartialEq)]
pub enum Access {
    /// Every row is visible: no row security, or a role that is exempt.
    NoRls,
    /// No row is: row security is on and no permissive policy applies.
    Hidden,
    /// Decided here.
    Compiled(Program),
    /// Only Postgres can tell.
    Ask {
        /// What is not understood, for people.
        reason: String,
    },
}

/// All policies that apply, as one condition.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    pub(super) condition: Expression,
    /// Names of the policies, sorted.
    policies: Vec<String>,
    /// How identities are found by a row; `None`: each has to be tried.
    routes: Option<Arc<Routes>>,
}

impl Access {
    /// How the identities that may see a row are found; `None`: each has to be tried.
    pub(crate) fn routes(&self) -> Option<Arc<Routes>> {
        match self {
            Self::Compiled(program) => program.routes.clone(),
            Self::Hidden => Some(Arc::new(Routes::NONE)),
            Self::NoRls | Self::Ask { .. } => None,
        }
    }

    /// Names of the policies that were compiled.
    pub(crate) fn policies(&self) -> &[String] {
        match self {
            Self::Compiled(program) => &program.policies,
            _ => &[],
        }
    }

    /// Names of all columns of the row that count.
    pub(crate) fn row_columns(&self) -> BTreeSet<&str> {
        let mut names = BTreeSet::new();
        if let Self::Compiled(program) = self {
            program.condition.visit(&mut |expression| {
                if let Expression::Column(name, _) = expression {
                    names.insert(name.as_str());
                }
            });
        }
        names
    }

    /// Names of the columns whose values are read here.
    pub(crate) fn columns(&self) -> Vec<String> {
        let mut names = Vec::new();
        if let Self::Compiled(program) = self {
            program.condition.visit(&mut |expression| {
                if let Expression::Column(name, kind) = expression
                    && *kind != Kind::Other
                {
                    names.push(name.clone());
                }
            });
        }
        names
    }
}

/// A typed expression.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Expression {
    Column(String, Kind),
    Constant(Value<'static>),
    /// `current_setting('request.jwt.claims', true)` read as JSON.
    Claims,
    /// A setting nobody makes: NULL, but not known to be so when the planner looks.
    Unset,
    Cast(Box<Expression>, Kind),
    Member(Box<Expression>, String, bool),
    Coalesce(Vec<Expression>),
    NullIf(Box<Expression>, Box<Expression>),
    Compare(Comparison, Box<Expression>, Box<Expression>),
    AnyOf(Box<Expression>, Vec<Expression>, bool),
    DistinctFrom(Box<Expression>, Box<Expression>, bool),
    Is(Box<Expression>, Test, bool),
    Not(Box<Expression>),
    And(Vec<Expression>),
    Or(Vec<Expression>),
}

/// What an expression depends on.
#[derive(Clone, Copy, Default)]
pub(super) struct Reads {
    pub(super) row: bool,
    pub(super) claims: bool,
}

impl Expression {
    /// Calls `seen` for this expression and each that is part of it.
    fn visit<'a>(&'a self, seen: &mut impl FnMut(&'a Self)) {
        seen(self);
        match self {
            Self::Column(..) | Self::Claims | Self::Unset | Self::Constant(_) => {}
            Self::Cast(operand, _)
            | Self::Member(operand, ..)
            | Self::Is(operand, ..)
            | Self::Not(operand) => operand.visit(seen),
            Self::NullIf(left, right)
            | Self::Compare(_, left, right)
            | Self::DistinctFrom(left, right, _) => {
                left.visit(seen);
                right.visit(seen);
            }
            Self::AnyOf(operand, members, _) => {
                operand.visit(seen);
                members.iter().for_each(|member| member.visit(seen));
            }
            Self::Coalesce(operands) | Self::And(operands) | Self::Or(operands) => {
                operands.iter().for_each(|operand| operand.visit(seen));
            }
        }
    }

    pub(super) fn reads(&self) -> Reads {
        let mut reads = Reads::default();
        self.visit(&mut |expression| match expression {
            Self::Column(..) => reads.row = true,
            Self::Claims | Self::Unset => reads.claims = true,
            _ => {}
        });
        reads
    }

    pub(super) fn is_constant(&self) -> bool {
        let Reads { row, claims } = self.reads();
        !row && !claims
    }
}

/// Decides how to find out.
#[must_use]
pub fn compile(facts: &PolicyFacts) -> Access {
    if !facts.enabled || facts.exempt {
        return Access::NoRls;
    }
    if !facts.policies.iter().any(|policy| policy.permissive) {
        return Access::Hidden;
    }
    if !facts.may_use_schema {
        return Access::Ask {
            reason: "the role may not use the table's schema".to_owned(),
        };
    }
    let (mut admitting, mut restricting) = (Vec::new(), Vec::new());
    for policy in &facts.policies {
        match condition(facts, policy) {
            Ok(condition) if policy.permissive => admitting.push(condition),
            Ok(condition) => restricting.push(condition),
            Err(reason) => {
                return Access::Ask {
                    reason: format!("policy \"{}\": {reason}", policy.name),
                };
            }
        }
    }
    restricting.push(Expression::Or(admitting));
    let condition = Expression::And(restricting);
    let mut policies: Vec<String> = facts.policies.iter().map(|policy| policy.name.clone()).collect();
    policies.sort_unstable();
    Access::Compiled(Program {
        policies,
        routes: Routes::of(&condition).map(Arc::new),
        condition,
    })
}

/// A policy's expression, or why it is not understood.
pub(super) fn condition(facts: &PolicyFacts, policy: &Policy) -> Result<Expression, String> {
    let Some(node) = parse::expression(&policy.using) else {
        return Err(format!(
            "its expression {} has a part that is not understood",
            policy.using
        ));
    };
    Compiler { facts, calls: 0 }.condition(&node)
}

/// An expression and its kind. `None`: a literal that takes the kind of what it meets.
type Typed = (Expression, Option<Kind>);

struct Compiler<'a> {
    facts: &'a PolicyFacts,
    calls: usize,
}

impl Compiler<'_> {
    fn condition(&self, node: &Node) -> Result<Expression, String> {
        let typed = self.expression(node)?;
        self.settle(typed, Kind::Bool)
    }

    fn conditions(&self, nodes: &[Node]) -> Result<Vec<Expression>, String> {
        nodes.iter().map(|node| self.condition(node)).collect()
    }

    /// Gives a literal the kind it is used as; any other expression must have it already.
    fn settle(&self, (expression, kind): Typed, wanted: Kind) -> Result<Expression, String> {
        match (kind, expression) {
            (Some(kind), expression) if kind == wanted => Ok(expression),
            (None, Expression::Constant(Value::Text(text))) => match value::read(&text, wanted) {
                Ok(value) => Ok(Expression::Constant(owned(value)?)),
                Err(_) => Err(format!(
                    "the literal '{text}' is not certain to be understood as Postgres does"
                )),
            },
            (None, Expression::Constant(Value::Null)) => Ok(Expression::Constant(Value::Null)),
            _ => Err("an operand is of a type that is not understood here".to_owned()),
        }
    }

    /// Two operands that are compared: one class of types on both sides.
    fn pair(&self, left: &Node, right: &Node) -> Result<(Expression, Expression, Kind), String> {
        let (left, right) = (self.expression(left)?, self.expression(right)?);
        let kind = left.1.or(right.1).unwrap_or(Kind::Text);
        if let (Some(a), Some(b)) = (left.1, right.1)
            && a.is_integer()
            && b.is_integer()
        {
            return Ok((left.0, right.0, Kind::Int8));
        }
        if matches!(kind, Kind::Json | Kind::Other | Kind::ClaimsText) {
            return Err("a comparison of values of a type that is not understood here".to_owned());
        }
        Ok((self.settle(left, kind)?, self.settle(right, kind)?, kind))
    }

    fn expression(&self, node: &Node) -> Result<Typed, String> {
        let boolean = |expression| Ok((expression, Some(Kind::Bool)));
        match node {
            Node::Column(name) => self.column(name),
            Node::Text(text) => Ok((Expression::Constant(Value::Text(Cow::Owned(text.clone()))), None)),
            Node::Null => Ok((Expression::Constant(Value::Null), None)),
            Node::Bool(flag) => boolean(Expression::Constant(Value::Bool(*flag))),
            Node::Number(digits) => {
                let number: i64 = digits
                    .parse()
                    .map_err(|_| format!("the number {digits} is too large"))?;
                let kind = if i32::try_from(number).is_ok() {
                    Kind::Int4
                } else {
                    Kind::Int8
                };
                Ok((Expression::Constant(Value::Int(number)), Some(kind)))
            }
            Node::Cast(inner, type_name) => self.cast(inner, Kind::of_type(type_name)),
            Node::Call {
                schema,
                name,
                arguments,
            } => self.call(schema.as_deref(), name, arguments),
            Node::Member(object, key, as_text) => {
                let object = self.expression(object)?;
                let key = match self.expression(key)? {
                    (Expression::Constant(Value::Text(key)), None | Some(Kind::Text)) => key.into_owned(),
                    _ => return Err("a JSON key that is not a constant".to_owned()),
                };
                if object.1 != Some(Kind::Json) {
                    return Err("a JSON operator on something that is not JSON".to_owned());
                }
                let kind = if *as_text { Kind::Text } else { Kind::Json };
                Ok((Expression::Member(Box::new(object.0), key, *as_text), Some(kind)))
            }
            Node::Coalesce(nodes) => {
                let typed = nodes
                    .iter()
                    .map(|node| self.expression(node))
                    .collect::<Result<Vec<_>, _>>()?;
                if typed.iter().any(|(_, kind)| *kind == Some(Kind::ClaimsText)) {
                    return coalesce_claims(typed);
                }
                let kind = typed.iter().find_map(|(_, kind)| *kind).unwrap_or(Kind::Text);
                let settled = typed
                    .into_iter()
                    .map(|typed| self.settle(typed, kind))
                    .collect::<Result<_, _>>()?;
                Ok((Expression::Coalesce(settled), Some(kind)))
            }
            Node::NullIf(value, excluded) => {
                let left = self.expression(value)?;
                // The claims are never the empty text.
                if left.1 == Some(Kind::ClaimsText)
                    && matches!(&**excluded, Node::Text(text) if text.is_empty())
                    || matches!(&**excluded, Node::Cast(inner, _) if left.1 == Some(Kind::ClaimsText) && **inner == Node::Text(String::new()))
                {
                    return Ok(left);
                }
                let (left, right, kind) = self.pair(value, excluded)?;
                Ok((Expression::NullIf(Box::new(left), Box::new(right)), Some(kind)))
            }
            Node::Compare(comparison, left, right) => {
                let (left, right, kind) = self.pair(left, right)?;
                // Postgres fails to plan a condition that says of claims that they equal themselves, in whatever words.
                let of_claims = |side: &Expression| side.reads().claims && !side.reads().row;
                if of_claims(&left) && of_claims(&right) {
                    return Err("a comparison of claims with each other".to_owned());
                }
                let orders = !matches!(comparison, Comparison::Equal | Comparison::NotEqual);
                if orders && kind != Kind::Int8 && !kind.is_integer() {
                    return Err("an order that may depend on a collation".to_owned());
                }
                boolean(Expression::Compare(*comparison, Box::new(left), Box::new(right)))
            }
            Node::AnyOf(value, members, negated) => {
                let mut settled = None;
                let mut list = Vec::with_capacity(members.len());
                for member in members {
                    let (left, right, _) = self.pair(value, member)?;
                    settled = Some(left);
                    list.push(right);
                }
                let value = settled.ok_or("an empty list")?;
                boolean(Expression::AnyOf(Box::new(value), list, *negated))
            }
            Node::DistinctFrom(left, right, negated) => {
                let (left, right, _) = self.pair(left, right)?;
                boolean(Expression::DistinctFrom(
                    Box::new(left),
                    Box::new(right),
                    *negated,
                ))
            }
            Node::Is(inner, test, negated) => {
                let inner = self.expression(inner)?;
                let inner = match test {
                    Test::Null if inner.1 == Some(Kind::ClaimsText) => {
                        return Err("a test of the claims".to_owned());
                    }
                    Test::Null => inner.0,
                    Test::True | Test::False | Test::Unknown => self.settle(inner, Kind::Bool)?,
                };
                let test = if *test == Test::Unknown { Test::Null } else { *test };
                boolean(Expression::Is(Box::new(inner), test, *negated))
            }
            Node::Not(inner) => boolean(Expression::Not(Box::new(self.condition(inner)?))),
            Node::And(nodes) => boolean(Expression::And(self.conditions(nodes)?)),
            Node::Or(nodes) => boolean(Expression::Or(self.conditions(nodes)?)),
        }
    }

    fn column(&self, name: &str) -> Result<Typed, String> {
        if self.calls > 0 {
            return Err(format!("a function's body that names {name}"));
        }
        let column = self
            .facts
            .columns
            .get(name)
            .ok_or_else(|| format!("\"{name}\", which is no column"))?;
        let kind = match Kind::of_type(&column.type_name) {
            Kind::Text if !column.deterministic => Kind::Other,
            Kind::Json => Kind::Other,
            kind => kind,
        };
        // A varchar is compared after a cast that pg_get_expr() shows, and is text for all else.
        Ok((Expression::Column(name.to_owned(), kind), Some(kind)))
    }

    fn cast(&self, inner: &Node, to: Kind) -> Result<Typed, String> {
        let (expression, kind) = self.expression(inner)?;
        let Some(from) = kind else {
            return Ok((self.settle((expression, None), to)?, Some(to)));
        };
        match (from, to) {
            (Kind::ClaimsText, Kind::Json) => Ok((Expression::Claims, Some(Kind::Json))),
            (Kind::ClaimsText, Kind::Text) => Ok((expression, Some(Kind::ClaimsText))),
            (from, to) if from == to => Ok((expression, Some(to))),
            (Kind::Text, Kind::Bool | Kind::Int2 | Kind::Int4 | Kind::Int8 | Kind::Uuid)
            | (Kind::Bool | Kind::Int2 | Kind::Int4 | Kind::Int8 | Kind::Uuid, Kind::Text) => {
                Ok((Expression::Cast(Box::new(expression), to), Some(to)))
            }
            (Kind::Int4, Kind::Bool) | (Kind::Bool, Kind::Int4) => {
                Ok((Expression::Cast(Box::new(expression), to), Some(to)))
            }
            (from, to) if from.is_integer() && to.is_integer() => {
                Ok((Expression::Cast(Box::new(expression), to), Some(to)))
            }
            _ => Err("a cast between types that are not understood here".to_owned()),
        }
    }

    fn call(&self, schema: Option<&str>, name: &str, arguments: &[Node]) -> Result<Typed, String> {
        let Some(schema) = schema else {
            return self.current_setting(name, arguments);
        };
        let key = format!("{schema}.{name}");
        let refuse = |what: &str| Err(format!("the function {key}(), {what}"));
        let Some(function) = self.facts.functions.get(&key).filter(|_| arguments.is_empty()) else {
            return refuse("which is not one without arguments that can be read");
        };
        if !function.acceptable {
            return refuse("which is not plain, stable SQL that the role may run with its own rights");
        }
        if !function.resolved && self.facts.shadowed {
            return refuse(
                "whose body may mean something else here, for names it uses exist outside pg_catalog, too",
            );
        }
        if self.calls >= MAX_CALLS {
            return refuse("which calls functions too deeply");
        }
        let Some(body) = parse::function_body(&function.body) else {
            return refuse("whose body is not understood");
        };
        let inner = Compiler {
            facts: self.facts,
            calls: self.calls + 1,
        };
        let returns = Kind::of_type(&function.returns);
        match inner.expression(&body)? {
            (expression, Some(kind)) if kind == returns && kind != Kind::Other => {
                Ok((expression, Some(kind)))
            }
            _ => refuse("whose body is of another type than it returns"),
        }
    }

    fn current_setting(&self, name: &str, arguments: &[Node]) -> Result<Typed, String> {
        let literal = |node: &Node| match node {
            Node::Text(text) => Some(text.clone()),
            Node::Cast(inner, kind) if kind == "text" => match &**inner {
                Node::Text(text) => Some(text.clone()),
                _ => None,
            },
            _ => None,
        };
        let [setting, Node::Bool(true)] = arguments else {
            return Err(format!("the function {name}()"));
        };
        let setting = literal(setting).filter(|_| name == "current_setting");
        match setting.as_deref().map(str::to_ascii_lowercase).as_deref() {
            Some("request.jwt.claims") => Ok((Expression::Claims, Some(Kind::ClaimsText))),
            // Only the whole object is set when visibility is checked; these are NULL.
            Some(setting) if setting == "request.jwt.claim" || setting.starts_with("request.jwt.claim.") => {
                Ok((Expression::Unset, Some(Kind::Text)))
            }
            _ => Err(format!(
                "the function {name}() with something else than the claims"
            )),
        }
    }
}

/// `coalesce(<unset setting>, claims)`: the claims, as everything before is NULL.
fn coalesce_claims(typed: Vec<Typed>) -> Result<Typed, String> {
    for (expression, kind) in typed {
        match (expression, kind) {
            (Expression::Constant(Value::Null) | Expression::Unset, _) => {}
            (Expression::NullIf(value, _), _) if *value == Expression::Unset => {}
            (claims, Some(Kind::ClaimsText)) => return Ok((claims, Some(Kind::ClaimsText))),
            _ => break,
        }
    }
    Err("a choice between the claims and something else".to_owned())
}

fn owned(value: Value<'_>) -> Result<Value<'static>, String> {
    Ok(match value {
        Value::Null => Value::Null,
        Value::Bool(flag) => Value::Bool(flag),
        Value::Int(number) => Value::Int(number),
        Value::Uuid(uuid) => Value::Uuid(uuid),
        Value::Text(text) => Value::Text(Cow::Owned(text.into_owned())),
        Value::Json(_) | Value::Opaque => {
            return Err("a literal of a type that is not understood here".to_owned());
        }
    })
}
