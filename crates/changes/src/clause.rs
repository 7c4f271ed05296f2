//! The parts of a filter, all of which must hold: a condition, or several joined by `or` and `and`.
//!
//! `or=(a.eq.1,and(b.lt.2,c.not.is.null))` is PostgREST's way to write it. The reference knows conditions alone.

use crate::condition::Answer;
use crate::elixir;
use std::fmt;

/// A part of a filter, of conditions as parsed or as made ready for a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Clause<C> {
    /// One condition.
    Condition(C),
    /// Several, joined.
    Group(Group<C>),
}

/// Clauses in parentheses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group<C> {
    /// What joins them.
    pub junction: Junction,
    /// `not.` was written.
    pub negated: bool,
    /// At least one.
    pub members: Vec<Clause<C>>,
}

/// What joins the clauses of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Junction {
    /// All must hold.
    And,
    /// One must hold.
    Or,
}

impl Junction {
    /// As written in filters.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::And => "and",
            Self::Or => "or",
        }
    }
}

impl<C> Clause<C> {
    /// The condition, if it is one that has to hold by itself.
    pub(crate) fn condition(&self) -> Option<&C> {
        match self {
            Self::Condition(condition) => Some(condition),
            Self::Group(_) => None,
        }
    }

    /// All conditions, in the order they are written.
    pub(crate) fn conditions(&self) -> Vec<&C> {
        match self {
            Self::Condition(condition) => vec![condition],
            Self::Group(group) => group.members.iter().flat_map(Self::conditions).collect(),
        }
    }

    /// The same with other conditions, in the order of [`Clause::conditions`] and as many.
    pub(crate) fn with<D>(&self, conditions: impl IntoIterator<Item = D>) -> Clause<D> {
        self.take_from(&mut conditions.into_iter())
            .unwrap_or_else(Clause::nothing)
    }

    fn take_from<D>(&self, conditions: &mut impl Iterator<Item = D>) -> Option<Clause<D>> {
        Some(match self {
            Self::Condition(_) => Clause::Condition(conditions.next()?),
            Self::Group(group) => {
                let members = group.members.iter().map(|member| member.take_from(conditions));
                Clause::Group(Group {
                    junction: group.junction,
                    negated: group.negated,
                    members: members.collect::<Option<_>>()?,
                })
            }
        })
    }

    /// What never holds: one of none.
    fn nothing() -> Self {
        Self::Group(Group {
            junction: Junction::Or,
            negated: false,
            members: Vec::new(),
        })
    }

    /// Evaluates with SQL's three values. What is not known is so only as long as it matters.
    pub(crate) fn evaluate<'a>(&'a self, answer: &mut impl FnMut(&'a C) -> Answer) -> Answer {
        let group = match self {
            Self::Condition(condition) => return answer(condition),
            Self::Group(group) => group,
        };
        // One of them holds unless all of them do not.
        let is_or = group.junction == Junction::Or;
        let mut all = Answer::True;
        for member in &group.members {
            if all == Answer::False {
                break;
            }
            let value = member.evaluate(answer);
            all = match (all, if is_or { !value } else { value }) {
                (Answer::False, _) | (_, Answer::False) => Answer::False,
                (Answer::Ask, _) | (_, Answer::Ask) => Answer::Ask,
                (Answer::Null, _) | (_, Answer::Null) => Answer::Null,
                (known, Answer::True) => known,
            };
        }
        if is_or == group.negated { all } else { !all }
    }
}

/// As error texts show it: `{"or", [{"a", "eq", "1", false}, {"b", "lt", "2", false}], false}`.
impl<C: fmt::Display> fmt::Display for Clause<C> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Condition(condition) => condition.fmt(formatter),
            Self::Group(group) => {
                write!(formatter, "{{{}, [", elixir::quoted(group.junction.as_str()))?;
                for (at, member) in group.members.iter().enumerate() {
                    write!(formatter, "{}{member}", if at > 0 { ", " } else { "" })?;
                }
                write!(formatter, "], {}}}", group.negated)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_have_the_three_values_of_sql_and_what_does_not_matter_is_not_asked() {
        use Answer::{Ask, False, Null, True};
        let cases = [
            ([True, True], True, True),
            ([True, False], False, True),
            ([False, False], False, False),
            ([True, Null], Null, True),
            ([False, Null], False, Null),
            ([Null, Null], Null, Null),
            ([True, Ask], Ask, True),
            ([False, Ask], False, Ask),
            ([Null, Ask], Ask, Ask),
            ([Ask, Ask], Ask, Ask),
        ];
        for (answers, and, or) in cases {
            let reversed = [answers[1], answers[0]];
            for members in [answers, reversed] {
                for (junction, expected) in [(Junction::And, and), (Junction::Or, or)] {
                    for negated in [false, true] {
                        let group = Clause::Group(Group {
                            junction,
                            negated,
                            members: members.map(Clause::Condition).to_vec(),
                        });
                        let expected = if negated { !expected } else { expected };
                        let found = group.evaluate(&mut |answer| *answer);
                        assert_eq!(found, expected, "{junction:?} of {members:?}, negated: {negated}");
                    }
                }
            }
        }
    }
}
