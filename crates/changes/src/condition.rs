//! A filter's condition on one table: decided here where equal values print alike, else left to Postgres.

use crate::catalog::TextEquality;
use crate::filter::{Condition, Operator};
use std::borrow::Cow;

/// A condition made ready for one table: its value in the column's canonical text.
#[derive(Clone, Debug)]
pub(crate) struct TypedCondition {
    pub(crate) condition: Condition,
    pub(crate) cast_type: String,
    pub(crate) equality: TextEquality,
    /// Canonical, normalised text; `None` when only Postgres can compare.
    pub(crate) key: Option<String>,
}

/// The answer of a condition or a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Truth {
    Holds,
    /// False or NULL: both mean "does not match".
    Fails,
    Ask,
}

impl TypedCondition {
    /// Evaluates on a column's text; `None` is NULL or a column the change does not carry.
    pub(crate) fn evaluate(&self, value: Option<&str>) -> Truth {
        let Some(value) = value else {
            return self.evaluate_null();
        };
        // NaN and the infinities of numbers count as NULL here (`database.md 2.6`).
        let Some(normal) = normalise(value, self.equality) else {
            return self.evaluate_null();
        };
        match (&self.key, self.condition.operator) {
            (Some(key), Operator::Eq | Operator::Neq) => {
                let equal = normal == key.as_str();
                if (equal == (self.condition.operator == Operator::Eq)) == self.condition.negated {
                    Truth::Fails
                } else {
                    Truth::Holds
                }
            }
            (_, Operator::Is) if self.condition.value == "null" => {
                if self.condition.negated {
                    Truth::Holds
                } else {
                    Truth::Fails
                }
            }
            _ => Truth::Ask,
        }
    }

    /// NULL matches only `is.null`, `is.unknown`, the negated boolean tests, `isdistinct`, and `not.in` of nothing
    /// (`database.md 2.6`).
    fn evaluate_null(&self) -> Truth {
        let holds = match (self.condition.operator, self.condition.value.as_str()) {
            (Operator::Is, "null" | "unknown") | (Operator::IsDistinct, _) => !self.condition.negated,
            (Operator::Is, _) => self.condition.negated,
            (Operator::In, list) => self.condition.negated && list.trim_matches(['{', '}']).trim().is_empty(),
            _ => false,
        };
        if holds { Truth::Holds } else { Truth::Fails }
    }
}

/// The form of a value's text under which equal values are byte-equal; `None` for a number that counts as NULL.
pub(crate) fn normalise(text: &str, equality: TextEquality) -> Option<Cow<'_, str>> {
    match equality {
        TextEquality::Bytes | TextEquality::Ask => Some(Cow::Borrowed(text)),
        TextEquality::Padded => Some(Cow::Borrowed(text.trim_end_matches(' '))),
        TextEquality::Numeric => {
            if matches!(text, "NaN" | "Infinity" | "-Infinity") {
                return None;
            }
            if text.contains('.') && !text.contains(['e', 'E']) {
                let trimmed = text.trim_end_matches('0').trim_end_matches('.');
                return Some(if trimmed == "-0" {
                    Cow::Borrowed("0")
                } else {
                    Cow::Borrowed(trimmed)
                });
            }
            Some(if text == "-0" {
                Cow::Borrowed("0")
            } else {
                Cow::Borrowed(text)
            })
        }
    }
}
