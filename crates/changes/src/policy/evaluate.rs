//! Runs a program on a row for an identity, in SQL's three-valued logic.
//!
//! Postgres promises no order of evaluation: with an operand that raises an error, `a or b` may be true or may fail,
//! and may fail while planning. So a condition has a set of possible outcomes, and only a set with a single meaning
//! is an answer.

use super::compile::{Expression, Program};
use super::parse::{Comparison, Test};
use super::value::{self, ClaimsView, Trouble, Value};

/// What is known of a row's visibility.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Postgres would show the row.
    Visible,
    /// It would not, or would raise an error.
    Hidden,
    /// Only Postgres knows.
    Ask,
}

/// A row, by column.
pub trait Row {
    /// The column's text: `None` if the row does not carry it, `Some(None)` for NULL.
    fn value(&self, column: &str) -> Option<Option<&str>>;
}

/// Possible outcomes of a condition, a bit each.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Outcomes(u8);

const TRUE: u8 = 1;
const FALSE: u8 = 2;
const NULL: u8 = 4;
const RAISES: u8 = 8;
const EACH: [u8; 4] = [TRUE, FALSE, NULL, RAISES];

impl Outcomes {
    /// All outcomes of an operator, given what it yields for single ones.
    fn combine(self, other: Self, yields: impl Fn(u8, u8) -> u8) -> Self {
        let mut all = 0;
        for a in EACH.into_iter().filter(|a| self.0 & a != 0) {
            for b in EACH.into_iter().filter(|b| other.0 & b != 0) {
                all |= yields(a, b);
            }
        }
        Self(all)
    }
}

fn and(a: u8, b: u8) -> u8 {
    match (a, b) {
        (FALSE, RAISES) | (RAISES, FALSE) => FALSE | RAISES,
        (RAISES, _) | (_, RAISES) => RAISES,
        (FALSE, _) | (_, FALSE) => FALSE,
        (NULL, _) | (_, NULL) => NULL,
        _ => TRUE,
    }
}

fn or(a: u8, b: u8) -> u8 {
    match (a, b) {
        (TRUE, RAISES) | (RAISES, TRUE) => TRUE | RAISES,
        (RAISES, _) | (_, RAISES) => RAISES,
        (TRUE, _) | (_, TRUE) => TRUE,
        (NULL, _) | (_, NULL) => NULL,
        _ => FALSE,
    }
}

fn not(a: u8) -> u8 {
    match a {
        TRUE => FALSE,
        FALSE => TRUE,
        same => same,
    }
}

impl Program {
    /// Whether the row is visible to an identity with these claims.
    pub fn evaluate(&self, row: &dyn Row, claims: &ClaimsView) -> Verdict {
        match (Run { row, claims }).truth(&self.condition) {
            Ok(Outcomes(TRUE)) => Verdict::Visible,
            Ok(Outcomes(outcomes)) if outcomes & TRUE == 0 => Verdict::Hidden,
            _ => Verdict::Ask,
        }
    }
}

/// Postgres must be asked.
struct Unsure;

struct Run<'a> {
    row: &'a dyn Row,
    claims: &'a ClaimsView,
}

impl<'a> Run<'a> {
    fn truth(&self, expression: &'a Expression) -> Result<Outcomes, Unsure> {
        match expression {
            Expression::And(operands) => self.fold(operands, TRUE, and),
            Expression::Or(operands) => self.fold(operands, FALSE, or),
            Expression::Not(operand) => {
                let outcomes = self.truth(operand)?;
                Ok(outcomes.combine(outcomes, |a, b| if a == b { not(a) } else { 0 }))
            }
            Expression::Is(operand, test @ (Test::True | Test::False), negated) => {
                let wanted = if *test == Test::True { TRUE } else { FALSE };
                let outcomes = self.truth(operand)?;
                Ok(outcomes.combine(outcomes, |a, b| match a {
                    _ if a != b => 0,
                    RAISES => RAISES,
                    a if (a == wanted) == *negated => FALSE,
                    _ => TRUE,
                }))
            }
            other => match self.value(other) {
                Ok(Value::Bool(true)) => Ok(Outcomes(TRUE)),
                Ok(Value::Bool(false)) => Ok(Outcomes(FALSE)),
                Ok(Value::Null) => Ok(Outcomes(NULL)),
                Err(Trouble::Raises) => Ok(Outcomes(RAISES)),
                Ok(_) | Err(Trouble::Unsure) => Err(Unsure),
            },
        }
    }

    fn fold(
        &self,
        operands: &'a [Expression],
        start: u8,
        yields: fn(u8, u8) -> u8,
    ) -> Result<Outcomes, Unsure> {
        let mut outcomes = Outcomes(start);
        for operand in operands {
            outcomes = outcomes.combine(self.truth(operand)?, yields);
        }
        Ok(outcomes)
    }

    fn value(&self, expression: &'a Expression) -> Result<Value<'a>, Trouble> {
        match expression {
            Expression::Column(name, kind) => match self.row.value(name) {
                None => Err(Trouble::Unsure),
                Some(None) => Ok(Value::Null),
                // What the stream carries is valid; if we cannot read it, the fault is ours.
                Some(Some(text)) => value::read(text, *kind).map_err(|_| Trouble::Unsure),
            },
            Expression::Constant(value) => Ok(value.clone()),
            Expression::Claims => self.claims.json().map(Value::Json).ok_or(Trouble::Unsure),
            Expression::Cast(operand, kind) => value::cast(self.value(operand)?, *kind),
            Expression::Member(object, key, as_text) => value::member(&self.value(object)?, key, *as_text),
            Expression::Coalesce(operands) => self.coalesce(operands),
            Expression::NullIf(left, right) => {
                let (left, right) = (self.value(left)?, self.value(right)?);
                let same = left != Value::Null && left == right;
                Ok(if same { Value::Null } else { left })
            }
            Expression::Compare(comparison, left, right) => {
                Ok(compare(*comparison, &self.value(left)?, &self.value(right)?))
            }
            Expression::AnyOf(operand, members, negated) => self.any_of(operand, members, *negated),
            Expression::DistinctFrom(left, right, negated) => {
                Ok(Value::Bool((self.value(left)? != self.value(right)?) != *negated))
            }
            Expression::Is(operand, Test::Null, negated) => {
                Ok(Value::Bool((self.value(operand)? == Value::Null) != *negated))
            }
            condition => match self.truth(condition) {
                Ok(Outcomes(TRUE)) => Ok(Value::Bool(true)),
                Ok(Outcomes(FALSE)) => Ok(Value::Bool(false)),
                Ok(Outcomes(NULL)) => Ok(Value::Null),
                Ok(Outcomes(RAISES)) => Err(Trouble::Raises),
                Ok(_) | Err(Unsure) => Err(Trouble::Unsure),
            },
        }
    }

    /// The first that is not NULL. One behind it that raises may still be tried by the planner.
    fn coalesce(&self, operands: &'a [Expression]) -> Result<Value<'a>, Trouble> {
        let mut found = Value::Null;
        for operand in operands {
            let value = self.value(operand);
            if found == Value::Null {
                found = value?;
            } else if value.is_err() {
                return Err(Trouble::Unsure);
            }
        }
        Ok(found)
    }

    fn any_of(
        &self,
        operand: &'a Expression,
        members: &'a [Expression],
        negated: bool,
    ) -> Result<Value<'a>, Trouble> {
        let value = self.value(operand)?;
        let (mut found, mut unknown) = (false, false);
        for member in members {
            match compare(Comparison::Equal, &value, &self.value(member)?) {
                Value::Bool(equal) => found |= equal,
                _ => unknown = true,
            }
        }
        Ok(match (found, unknown) {
            (true, _) => Value::Bool(!negated),
            (false, true) => Value::Null,
            (false, false) => Value::Bool(negated),
        })
    }
}

/// Both sides are of one class of types, so equality is equality of values; only integers are ordered.
fn compare<'a>(comparison: Comparison, left: &Value<'_>, right: &Value<'_>) -> Value<'a> {
    if *left == Value::Null || *right == Value::Null {
        return Value::Null;
    }
    let ordered = match (left, right) {
        (Value::Int(left), Value::Int(right)) => Some(left.cmp(right)),
        _ => None,
    };
    Value::Bool(match comparison {
        Comparison::Equal => left == right,
        Comparison::NotEqual => left != right,
        Comparison::Less => ordered.is_some_and(std::cmp::Ordering::is_lt),
        Comparison::LessOrEqual => ordered.is_some_and(std::cmp::Ordering::is_le),
        Comparison::Greater => ordered.is_some_and(std::cmp::Ordering::is_gt),
        Comparison::GreaterOrEqual => ordered.is_some_and(std::cmp::Ordering::is_ge),
    })
}
