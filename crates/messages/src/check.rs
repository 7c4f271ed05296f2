//! A single check, the round trip that makes many, and what Postgres answers to it.

use std::fmt;
use std::sync::Arc;

use sqlx::Row;
use sqlx::postgres::{PgConnection, PgDatabaseError, PgRow};
use thiserror::Error;

use crate::rights::{Asked, Extensions};
use crate::rights_error::RightsError;

/// No further check of a call is begun once this long has passed: with the connections' limit of a statement this is
/// what a check may cost those that came with it.
const SLICE_MS: i32 = 50;

/// What is checked. Equal ones have the same answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Check {
    /// Who asks.
    pub(crate) asked: Asked,
    /// For what.
    pub(crate) to: To,
}

/// What somebody wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum To {
    Read(Extensions),
    Write,
}

impl To {
    fn broadcast(self) -> bool {
        match self {
            Self::Read(extensions) => extensions.broadcast(),
            Self::Write => true,
        }
    }

    fn presence(self) -> bool {
        match self {
            Self::Read(extensions) => extensions.presence(),
            Self::Write => true,
        }
    }
}

/// The answer to a check that did not fail; `None` for what was not asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) broadcast: Option<bool>,
    pub(crate) presence: Option<bool>,
    /// What Postgres says against a write.
    pub(crate) refusal: Option<Arc<str>>,
}

pub(crate) type Answer = Result<Verdict, RightsError>;

impl Check {
    /// A NUL in a parameter would fail the whole call, and the checks of others with it.
    pub(crate) fn representable(&self) -> Result<(), RightsError> {
        let asked = &self.asked;
        for (text, name) in [
            (&asked.role, "token's role"),
            (&asked.topic, "channel's topic"),
            (&asked.claims, "token's claims"),
            (&asked.headers, "request's headers"),
        ] {
            if text.contains('\0') {
                return Err(RightsError::Unrepresentable(name));
            }
        }
        Ok(())
    }
}

/// Why a call came to nothing as a whole.
#[derive(Debug, Error)]
pub(crate) enum CallError {
    /// There is no connection to be had.
    #[error("no connection: {0}")]
    Unreachable(Arc<str>),
    /// The connection did not last until the answer.
    #[error("the connection was lost: {0}")]
    Lost(Arc<str>),
    /// Postgres refused the call itself. Nothing is known of its checks.
    #[error("{0}")]
    Refused(Refusal),
}

/// What became of one check of a call.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Its answer.
    Answered(Answer),
    /// It was cancelled: by the time limit of the statement, or by somebody.
    Cancelled(Arc<str>),
    /// The call came to its end before.
    NotMade,
}

/// An error Postgres reports.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) sqlstate: Arc<str>,
    pub(crate) message: Arc<str>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.sqlstate, self.message)
    }
}

const QUERY_CANCELED: &str = "57014";
const CHECK_VIOLATION: &str = "23514";
const INSUFFICIENT_PRIVILEGE: &str = "42501";
const INVALID_PARAMETER_VALUE: &str = "22023";
/// The server is a standby: no rows for read policies to look at can be made there.
const READ_ONLY_TRANSACTION: &str = "25006";

/// Asks Postgres about all `checks` in one round trip, through `walcast.channel_rights` of our migrations. The
/// outcomes are in the order of the checks. Those with equal roles should be next to each other.
pub(crate) async fn make(
    connection: &mut PgConnection,
    checks: &[&Check],
) -> Result<Vec<Outcome>, CallError> {
    let column = |value: fn(&Check) -> bool| checks.iter().map(|check| value(check)).collect::<Vec<bool>>();
    let texts = |text: fn(&Asked) -> &str| {
        checks
            .iter()
            .map(|check| text(&check.asked))
            .collect::<Vec<&str>>()
    };
    let rows = sqlx::query(
        "select number, broadcast, presence, failed_at, state, relation, message \
         from walcast.channel_rights($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(column(|check| check.to == To::Write))
    .bind(column(|check| check.to.broadcast()))
    .bind(column(|check| check.to.presence()))
    .bind(texts(|asked| &asked.role))
    .bind(texts(|asked| &asked.claims))
    .bind(texts(|asked| &asked.topic))
    .bind(texts(|asked| &asked.headers))
    .bind(SLICE_MS)
    .fetch_all(connection)
    .await
    .map_err(call_error)?;
    let mut outcomes: Vec<Outcome> = checks.iter().map(|_| Outcome::NotMade).collect();
    for row in &rows {
        let (number, outcome) = outcome(row, checks).map_err(call_error)?;
        if let Some(place) = outcomes.get_mut(number) {
            *place = outcome;
        }
    }
    Ok(outcomes)
}

fn outcome(row: &PgRow, checks: &[&Check]) -> Result<(usize, Outcome), sqlx::Error> {
    let number = usize::try_from(row.try_get::<i32, _>("number")?)
        .ok()
        .and_then(|number| number.checked_sub(1))
        .unwrap_or(usize::MAX);
    let message: Arc<str> = row
        .try_get::<Option<&str>, _>("message")?
        .unwrap_or_default()
        .into();
    let outcome = match row.try_get::<Option<&str>, _>("failed_at")? {
        None => Outcome::Answered(Ok(Verdict {
            broadcast: row.try_get("broadcast")?,
            presence: row.try_get("presence")?,
            refusal: (!message.is_empty()).then_some(message),
        })),
        Some(failed_at) => {
            let sqlstate = row.try_get::<Option<&str>, _>("state")?.unwrap_or_default();
            let relation = row.try_get::<Option<&str>, _>("relation")?;
            match checks.get(number) {
                Some(check) => failure(&check.asked, failed_at, sqlstate, relation, message),
                None => Outcome::NotMade,
            }
        }
    };
    Ok((number, outcome))
}

fn failure(
    asked: &Asked,
    failed_at: &str,
    sqlstate: &str,
    relation: Option<&str>,
    message: Arc<str>,
) -> Outcome {
    let role = Arc::clone(&asked.role);
    let topic = Arc::clone(&asked.topic);
    let error = match (failed_at, sqlstate) {
        (_, QUERY_CANCELED) => return Outcome::Cancelled(message),
        (_, CHECK_VIOLATION) if relation == Some("messages") => RightsError::MissingPartition,
        (_, READ_ONLY_TRANSACTION) => RightsError::Unavailable(message),
        ("settings", INVALID_PARAMETER_VALUE) => RightsError::UnknownRole { role },
        ("settings", INSUFFICIENT_PRIVILEGE) => RightsError::RoleNotGranted { role, message },
        ("policies", INSUFFICIENT_PRIVILEGE) => RightsError::TableNotGranted { role, message },
        ("probe", sqlstate) => RightsError::Probe {
            topic,
            sqlstate: sqlstate.into(),
            message,
        },
        (_, sqlstate) => RightsError::Policy {
            role,
            topic,
            sqlstate: sqlstate.into(),
            message,
        },
    };
    Outcome::Answered(Err(error))
}

/// Sorts what the client library reports: what Postgres says of the statement, and everything else.
fn call_error(error: sqlx::Error) -> CallError {
    match error {
        sqlx::Error::Database(error) => {
            let ends_session = error
                .try_downcast_ref::<PgDatabaseError>()
                .is_some_and(|error| ends_session(error.code()));
            let sqlstate: Arc<str> = error.code().unwrap_or_default().into();
            let message: Arc<str> = error.message().into();
            if ends_session {
                CallError::Lost(message)
            } else {
                CallError::Refused(Refusal { sqlstate, message })
            }
        }
        other => CallError::Lost(other.to_string().into()),
    }
}

/// Connection exceptions, and those by which an operator ends a session or the server stops.
fn ends_session(sqlstate: &str) -> bool {
    sqlstate.starts_with("08") || sqlstate.starts_with("57P")
}

impl Refusal {
    /// As the answer to a check that was alone in its call.
    pub(crate) fn to_outcome(&self, asked: &Asked) -> Outcome {
        if *self.sqlstate == *QUERY_CANCELED {
            return Outcome::Cancelled(Arc::clone(&self.message));
        }
        // The function is not there, or not for us: no policy has been asked.
        const UNDEFINED_FUNCTION: &str = "42883";
        const INVALID_SCHEMA_NAME: &str = "3F000";
        if [UNDEFINED_FUNCTION, INVALID_SCHEMA_NAME, INSUFFICIENT_PRIVILEGE].contains(&self.sqlstate.as_ref())
        {
            return Outcome::Answered(Err(RightsError::Unavailable(Arc::clone(&self.message))));
        }
        Outcome::Answered(Err(RightsError::Policy {
            role: Arc::clone(&asked.role),
            topic: Arc::clone(&asked.topic),
            sqlstate: Arc::clone(&self.sqlstate),
            message: Arc::clone(&self.message),
        }))
    }
}
