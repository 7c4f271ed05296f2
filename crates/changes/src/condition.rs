//! A filter's condition on one table: decided here with Postgres' exact meaning where that is certain, else left to
//! Postgres (`database.md 2.6`).

use crate::filter::{Condition, Operator};
use crate::like::Pattern;
use crate::scalar::{Family, Reading, Scalar};
use std::cmp::Ordering;
use std::ops::Not;
use std::sync::Arc;

/// A condition made ready for one table.
#[derive(Clone, Debug)]
pub(crate) struct TypedCondition {
    pub(crate) condition: Condition,
    pub(crate) cast_type: String,
    pub(crate) family: Family,
    pub(crate) operand: Operand,
}

/// What a column is compared with.
#[derive(Clone, Debug)]
pub(crate) enum Operand {
    /// `eq` to `gte` and `isdistinct`.
    Value(Scalar<'static>),
    /// The place of an enum's label among the others, for `lt` to `gte`.
    Label(Arc<[String]>, usize),
    /// `in`: the values, ascending, without NULL.
    List {
        values: Vec<Scalar<'static>>,
        has_null: bool,
    },
    /// `like`
    Like(Pattern),
    /// `ilike` with an ASCII pattern in lower case, where the letters of ASCII are folded as everywhere.
    AsciiIlike(Pattern),
    /// `is`: the condition's own word says it.
    Word,
    /// Only Postgres can compare.
    Ask,
}

/// The value of a condition: SQL's three, or not known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    True,
    False,
    Null,
    Ask,
}

/// The answer of a whole filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Truth {
    Holds,
    /// False or NULL: both mean "does not match".
    Fails,
    Ask,
}

impl From<bool> for Answer {
    fn from(value: bool) -> Self {
        if value { Self::True } else { Self::False }
    }
}

impl From<Option<bool>> for Answer {
    fn from(value: Option<bool>) -> Self {
        value.map_or(Self::Null, Self::from)
    }
}

impl Not for Answer {
    type Output = Self;

    fn not(self) -> Self {
        match self {
            Self::True => Self::False,
            Self::False => Self::True,
            Self::Null | Self::Ask => self,
        }
    }
}

impl TypedCondition {
    /// Reads and evaluates a column's text; `None` is NULL.
    pub(crate) fn evaluate(&self, text: Option<&str>) -> Answer {
        self.evaluate_read(text, &self.family.read(text))
    }

    /// Evaluates on a column's text and what its family reads in it.
    pub(crate) fn evaluate_read(&self, text: Option<&str>, reading: &Reading<'_>) -> Answer {
        let answer = match (reading, text) {
            (Reading::Null, _) | (_, None) => self.of_null(),
            (Reading::Value(value), Some(text)) => self.of_value(value, text),
            (Reading::Unclear, Some(text)) => self.of_unclear(text),
        };
        if self.condition.negated { !answer } else { answer }
    }

    /// The values this condition is true for and for no others.
    pub(crate) fn only_values(&self) -> Option<&[Scalar<'static>]> {
        match (self.condition.operator, &self.operand) {
            _ if self.condition.negated => None,
            (Operator::Eq, Operand::Value(value)) => Some(std::slice::from_ref(value)),
            (Operator::In, Operand::List { values, .. }) => Some(values),
            _ => None,
        }
    }

    fn of_null(&self) -> Answer {
        match (self.condition.operator, &self.operand) {
            (Operator::Is, _) => matches!(self.condition.value.as_str(), "null" | "unknown").into(),
            (Operator::IsDistinct, _) => Answer::True,
            // There is nothing that NULL could be compared with.
            (Operator::In, Operand::List { values, has_null }) if values.is_empty() && !has_null => {
                Answer::False
            }
            _ => Answer::Null,
        }
    }

    fn of_unclear(&self, text: &str) -> Answer {
        match &self.operand {
            Operand::Word if self.condition.value == "null" => Answer::False,
            Operand::List { values, has_null } if values.is_empty() && !has_null => Answer::False,
            Operand::Like(_) | Operand::AsciiIlike(_) => self.matches(text),
            _ => Answer::Ask,
        }
    }

    fn of_value(&self, value: &Scalar<'_>, text: &str) -> Answer {
        match (self.condition.operator, &self.operand) {
            (Operator::Eq, Operand::Value(operand)) => (value == operand).into(),
            (Operator::Neq | Operator::IsDistinct, Operand::Value(operand)) => (value != operand).into(),
            (_, Operand::Value(operand)) => self.is_ordered(value.cmp(operand)),
            (_, Operand::Label(labels, place)) => match labels.iter().position(|label| label == text) {
                Some(found) => self.is_ordered(found.cmp(place)),
                // The enum has got a label since.
                None => Answer::Ask,
            },
            (_, Operand::List { values, has_null }) => match values.binary_search(value) {
                Ok(_) => Answer::True,
                Err(_) if *has_null => Answer::Null,
                Err(_) => Answer::False,
            },
            (_, Operand::Word) => match self.condition.value.as_str() {
                "true" => (*value == Scalar::Number(1)).into(),
                "false" => (*value == Scalar::Number(0)).into(),
                _ => Answer::False,
            },
            (_, Operand::Like(_) | Operand::AsciiIlike(_)) => self.matches(text),
            (_, Operand::Ask) => Answer::Ask,
        }
    }

    fn matches(&self, text: &str) -> Answer {
        let found = match &self.operand {
            Operand::Like(pattern) => pattern.matches(text),
            Operand::AsciiIlike(pattern) if text.is_ascii() => pattern.matches(&text.to_ascii_lowercase()),
            _ => None,
        };
        found.map_or(Answer::Ask, Answer::from)
    }

    fn is_ordered(&self, order: Ordering) -> Answer {
        match self.condition.operator {
            Operator::Lt => order.is_lt().into(),
            Operator::Lte => order.is_le().into(),
            Operator::Gt => order.is_gt().into(),
            Operator::Gte => order.is_ge().into(),
            _ => Answer::Ask,
        }
    }
}
