//! Runs a program on a row for an identity, in SQL's three-valued logic.
//!
//! Postgres promises no order of evaluation: with an operand that raises an error, `a or b` may be true or may fail,
//! and may fail while planning. So a condition has a set of possible outcomes, and only a set with a single meaning
//! is an answer.

use super::compile::{Expression, Program};
use super::parse::{Comparison, Test};
use super::single::Outcome;
use super::value::{self, ClaimsView, Trouble, Value};

/// What is known of a row's visibility.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Postgres would show the row.
    Visible,
    /// It would not, or perhaps raise an error.
    Hidden,
    /// It would raise an error, and so not show it.
    Raises,
    /// Only Postgres knows.
    Ask,
}

/// A row, by column.
pub trait Row {
    /// The column's text: `None` if the row does not carry it, `Some(None)` for NULL.
    fn value(&self, column: &str) -> Option<Option<&str>>;
}

/// A row that says nothing.
pub(super) struct Nothing;

impl Row for Nothing {
    fn value(&self, _column: &str) -> Option<Option<&str>> {
        None
    }
}

/// Possible outcomes of a condition, a bit each.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Outcomes(u8);

const TRUE: u8 = 1;
const FALSE: u8 = 2;
const NULL: u8 = 4;
const RAISES: u8 = 8;
/// What only Postgres knows may be anything.
const ANY: u8 = TRUE | FALSE | NULL | RAISES;
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

    fn of(value: &Result<Value<'_>, Trouble>) -> Self {
        Self(match value {
            Ok(Value::Bool(true)) => TRUE,
            Ok(Value::Bool(false)) => FALSE,
            Ok(Value::Null) => NULL,
            Err(Trouble::Raises) => RAISES,
            Ok(_) | Err(Trouble::Unsure) => ANY,
        })
    }

    fn negate(self) -> Self {
        self.combine(self, |a, b| match a {
            _ if a != b => 0,
            TRUE => FALSE,
            FALSE => TRUE,
            same => same,
        })
    }

    /// The one there is; none if several are possible.
    pub(super) fn only(self) -> Option<Outcome> {
        match self.0 {
            TRUE => Some(Outcome::True),
            FALSE => Some(Outcome::False),
            NULL => Some(Outcome::Null),
            RAISES => Some(Outcome::Raises),
            _ => None,
        }
    }

    /// Whether the condition may be true.
    pub(super) fn may_hold(self) -> bool {
        self.0 & TRUE != 0
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

impl Program {
    /// Whether the row is visible to an identity with these claims.
    pub fn evaluate(&self, row: &dyn Row, claims: &ClaimsView) -> Verdict {
        match (Run { row, claims }).truth(&self.condition) {
            Outcomes(TRUE) => Verdict::Visible,
            outcomes if outcomes.may_hold() => Verdict::Ask,
            Outcomes(RAISES) => Verdict::Raises,
            _ => Verdict::Hidden,
        }
    }

    /// Whether it raises an error for these claims, whatever the row.
    pub(crate) fn raises_for(&self, claims: &ClaimsView) -> bool {
        self.evaluate(&Nothing, claims) == Verdict::Raises
    }
}

/// An evaluation of expressions on a row for an identity.
pub(super) struct Run<'a> {
    pub(super) row: &'a dyn Row,
    pub(super) claims: &'a ClaimsView,
}

impl<'a> Run<'a> {
    pub(super) fn truth(&self, expression: &'a Expression) -> Outcomes {
        match expression {
            Expression::And(operands) => self.fold(operands, TRUE, and),
            Expression::Or(operands) => self.fold(operands, FALSE, or),
            Expression::Not(operand) => self.truth(operand).negate(),
            Expression::Is(operand, test @ (Test::True | Test::False), negated) => {
                let wanted = if *test == Test::True { TRUE } else { FALSE };
                let outcomes = self.truth(operand);
                outcomes.combine(outcomes, |a, b| match a {
                    _ if a != b => 0,
                    RAISES => RAISES,
                    a if (a == wanted) == *negated => FALSE,
                    _ => TRUE,
                })
            }
            Expression::Compare(comparison, left, right) => self.compared(*comparison, left, right),
            Expression::AnyOf(operand, members, negated) => {
                let mut outcomes = Outcomes(FALSE);
                for member in members {
                    let equal = self.compared(Comparison::Equal, operand, member);
                    // All members are evaluated before any is compared.
                    outcomes = outcomes.combine(equal, |a, b| if b == RAISES { RAISES } else { or(a, b) });
                }
                if *negated { outcomes.negate() } else { outcomes }
            }
            other => Outcomes::of(&self.value(other)),
        }
    }

    fn fold(&self, operands: &'a [Expression], start: u8, yields: fn(u8, u8) -> u8) -> Outcomes {
        operands.iter().fold(Outcomes(start), |outcomes, operand| {
            outcomes.combine(self.truth(operand), yields)
        })
    }

    pub(super) fn value(&self, expression: &'a Expression) -> Result<Value<'a>, Trouble> {
        match expression {
            Expression::Column(name, kind) => match self.row.value(name) {
                None => Err(Trouble::Unsure),
                Some(None) => Ok(Value::Null),
                // What the stream carries is valid; if we cannot read it, the fault is ours.
                Some(Some(text)) => value::read(text, *kind).map_err(|_| Trouble::Unsure),
            },
            Expression::Constant(value) => Ok(value.clone()),
            Expression::Unset => Ok(Value::Null),
            Expression::Claims => self.claims.json().map(Value::Json).ok_or(Trouble::Unsure),
            Expression::Cast(operand, kind) => value::cast(self.value(operand)?, *kind),
            Expression::Member(object, key, as_text) => value::member(&self.value(object)?, key, *as_text),
            Expression::Coalesce(operands) => self.coalesce(operands),
            Expression::NullIf(left, right) => {
                let (left, right) = self.both(left, right)?;
                let same = left != Value::Null && left == right;
                Ok(if same { Value::Null } else { left })
            }
            Expression::DistinctFrom(left, right, negated) => {
                let (left, right) = self.both(left, right)?;
                Ok(Value::Bool((left != right) != *negated))
            }
            Expression::Is(operand, Test::Null | Test::Unknown, negated) => {
                Ok(Value::Bool((self.value(operand)? == Value::Null) != *negated))
            }
            condition => match self.truth(condition) {
                Outcomes(TRUE) => Ok(Value::Bool(true)),
                Outcomes(FALSE) => Ok(Value::Bool(false)),
                Outcomes(NULL) => Ok(Value::Null),
                Outcomes(RAISES) => Err(Trouble::Raises),
                _ => Err(Trouble::Unsure),
            },
        }
    }

    fn compared(&self, comparison: Comparison, left: &'a Expression, right: &'a Expression) -> Outcomes {
        match (self.value(left), self.value(right)) {
            (Ok(left), Ok(right)) => Outcomes::of(&Ok(compare(comparison, &left, &right))),
            // The planner may see a constant NULL first, and then not look at the other side.
            (Ok(Value::Null), Err(Trouble::Raises)) if !left.is_constant() => Outcomes(RAISES),
            (Err(Trouble::Raises), Ok(Value::Null)) if !right.is_constant() => Outcomes(RAISES),
            (Ok(Value::Null), Err(_)) | (Err(_), Ok(Value::Null)) => Outcomes(NULL | RAISES),
            (Err(Trouble::Raises), _) | (_, Err(Trouble::Raises)) => Outcomes(RAISES),
            (Err(Trouble::Unsure), _) | (_, Err(Trouble::Unsure)) => Outcomes(ANY),
        }
    }

    /// Two operands that are both evaluated: if one raises, the whole does.
    fn both(&self, left: &'a Expression, right: &'a Expression) -> Result<(Value<'a>, Value<'a>), Trouble> {
        match (self.value(left), self.value(right)) {
            (Ok(left), Ok(right)) => Ok((left, right)),
            // The planner may see a constant NULL first, and then not look at the other side.
            (Ok(Value::Null), Err(Trouble::Raises)) if left.is_constant() => Err(Trouble::Unsure),
            (Err(Trouble::Raises), Ok(Value::Null)) if right.is_constant() => Err(Trouble::Unsure),
            (Err(Trouble::Raises), _) | (_, Err(Trouble::Raises)) => Err(Trouble::Raises),
            (Err(trouble), _) | (_, Err(trouble)) => Err(trouble),
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
