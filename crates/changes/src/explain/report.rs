//! What is asked, and what is answered.

use crate::binding::BindingError;
use crate::claims::Claims;
use crate::visibility::VisibilityError;
use serde::Serialize;
use serde_json::{Map, Value};
use std::sync::Arc;
use thiserror::Error;

/// A question: would this user receive this row?
#[derive(Clone, Debug)]
pub struct Inquiry {
    /// Who.
    pub claims: Arc<Claims>,
    /// Why his token is refused, if it is. All else is judged as if it were not.
    pub token_refused: Option<TokenRefused>,
    /// By which subscription: an entry of a join's `config.postgres_changes`.
    pub entry: Map<String, Value>,
    /// Which row, by its whole primary key. None: only what is known when the subscription is made is judged.
    pub key: Option<Map<String, Value>>,
}

/// Why a token is refused.
#[derive(Clone, Debug)]
pub struct TokenRefused {
    /// A sentence, without the token.
    pub reason: String,
    /// What to do.
    pub remedy: String,
}

/// The answer.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// Whether the row would be received; `None` if that hangs on what was not asked or cannot be known.
    pub visible: Option<bool>,
    /// Who was judged.
    pub identity: IdentityShown,
    /// What was supposed to happen to the row: `INSERT`, `UPDATE` or `DELETE`.
    pub judged_as: &'static str,
    /// What delivery checks, in its order. After the first that fails the others are judged all the same.
    pub checks: Vec<Check>,
    /// The policies for SELECT that apply to the role, by name.
    pub policies: Vec<PolicyShown>,
}

/// Who was judged.
#[derive(Clone, Debug, Serialize)]
pub struct IdentityShown {
    /// The database role.
    pub role: String,
    /// The claim `sub`.
    pub sub: Option<String>,
}

/// A check that delivery makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "&'static str")]
pub enum CheckName {
    /// The token is valid, and its role exists.
    Token,
    /// There is such a table.
    Table,
    /// Its changes, and those of this row, are offered.
    Publication,
    /// It has a primary key, without which no row can be judged.
    PrimaryKey,
    /// The role may select the primary key, or of a deleted row anything.
    SelectRight,
    /// The role may select what the subscription selects.
    Columns,
    /// The filter fits the table.
    FilterValid,
    /// There is such a row.
    Row,
    /// The row passes the filter.
    Filter,
    /// Row level security lets the role see anything at all.
    RowSecurity,
    /// The policies let the role see this row.
    Policies,
}

impl CheckName {
    /// The name as JSON has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Table => "table",
            Self::Publication => "publication",
            Self::PrimaryKey => "primary_key",
            Self::SelectRight => "select_right",
            Self::Columns => "columns",
            Self::FilterValid => "filter_valid",
            Self::Row => "row",
            Self::Filter => "filter",
            Self::RowSecurity => "row_security",
            Self::Policies => "policies",
        }
    }
}

impl From<CheckName> for &'static str {
    fn from(name: CheckName) -> Self {
        name.as_str()
    }
}

/// What a check found.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// Which one.
    pub check: CheckName,
    /// Whether it lets the row through; `None` if it could not be made.
    pub passed: Option<bool>,
    /// A sentence.
    pub detail: String,
    /// What to do about it, in SQL where SQL does it.
    pub remedy: Option<String>,
}

/// Permissive policies admit rows, restrictive ones hold back what is admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyKind {
    /// One of them has to hold.
    Permissive,
    /// All of them have to hold.
    Restrictive,
}

/// Who evaluated a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decided {
    /// Walcast.
    Compiled,
    /// Postgres.
    Asked,
}

/// A policy and what it is for the row.
#[derive(Clone, Debug, Serialize)]
pub struct PolicyShown {
    /// Its name.
    pub name: String,
    /// Whether it admits or holds back.
    pub kind: PolicyKind,
    /// Whom it is for; `public` is everybody.
    pub roles: Vec<String>,
    /// Its expression, as Postgres prints it with all names qualified.
    pub using: String,
    /// Whether it holds; NULL does not. `None`: it raised, could not be evaluated apart from its table, or there is no
    /// row.
    pub result: Option<bool>,
    /// Who evaluated it.
    pub decided: Decided,
    /// The error it raised.
    pub raised: Option<String>,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ExplainError {
    /// The subscription cannot be read.
    #[error(transparent)]
    Binding(#[from] BindingError),
    /// The subscription names more than one table.
    #[error("`postgres_changes` names more than one table: give the exact `schema` and `table` of the row")]
    Wildcard,
    /// The key is none of the table.
    #[error("{0}")]
    Key(String),
    /// As many explanations as allowed are being made.
    #[error("other explanations are being made: ask again in a moment")]
    Busy,
    /// Postgres could not be asked.
    #[error("the database could not be asked ({0}): ask again when it can be reached")]
    Database(#[from] sqlx::Error),
    /// Delivery itself could not decide.
    #[error("nothing could be decided, and nothing would be delivered: {0}")]
    Undecided(String),
}

impl From<VisibilityError> for ExplainError {
    fn from(error: VisibilityError) -> Self {
        match error {
            VisibilityError::Postgres(error) => Self::Database(error),
            error @ VisibilityError::StillRunning(_) => Self::Undecided(error.to_string()),
        }
    }
}
