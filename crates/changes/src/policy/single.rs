//! Each policy by itself: for people, who want to know which of them hides a row.

use super::compile::{self, Expression};
use super::evaluate::{Row, Run};
use super::facts::PolicyFacts;
use super::value::ClaimsView;

/// What a condition is for a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    True,
    False,
    Null,
    /// Postgres raises an error.
    Raises,
}

/// A policy for SELECT that applies to a role.
pub(crate) struct Single {
    pub(crate) name: String,
    pub(crate) is_permissive: bool,
    /// Whom it is for; `public` is everybody.
    pub(crate) roles: Vec<String>,
    /// Its expression, as printed under an empty search path.
    pub(crate) using: String,
    /// `None`: only Postgres can evaluate it.
    condition: Option<Expression>,
}

/// The policies that apply to the role the facts are about, by name.
pub(crate) fn singles(facts: &PolicyFacts) -> Vec<Single> {
    facts
        .policies
        .iter()
        .map(|policy| Single {
            name: policy.name.clone(),
            is_permissive: policy.permissive,
            roles: policy.roles.clone(),
            using: policy.using.clone(),
            condition: compile::condition(facts, policy)
                .ok()
                .filter(|_| facts.may_use_schema),
        })
        .collect()
}

impl Single {
    /// What the policy says of a row; `None` if only Postgres can tell.
    pub(crate) fn outcome(&self, row: &dyn Row, claims: &ClaimsView) -> Option<Outcome> {
        let condition = self.condition.as_ref()?;
        Run { row, claims }.truth(condition).only()
    }
}
