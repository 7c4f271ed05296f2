//! What can prevent the partitions from being kept.

use sqlx::error::DatabaseError;
use thiserror::Error;

/// Why nothing could be done. It is tried again.
#[derive(Debug, Error)]
pub enum UpkeepError {
    /// There is no such table.
    #[error("there is no table realtime.messages: run `walcast migrate`")]
    NoTable,
    /// It is one of an early reference server.
    #[error(
        "realtime.messages is not partitioned, as the reference server once made it: let that server migrate it, or rename it and run `walcast migrate`"
    )]
    NotPartitioned,
    /// Postgres lets only an owner make and drop partitions.
    #[error(
        "the role {role} may not keep the partitions of realtime.messages: grant \"{owner}\" to \"{role}\""
    )]
    NotOwner {
        /// The role Walcast connects with.
        role: String,
        /// Whose the table is.
        owner: String,
    },
    /// Postgres' clock is before our era or after the year 9999.
    #[error("Postgres says that the messages are to be kept since {0}: set its clock")]
    Clock(String),
    /// Postgres did not answer in time.
    #[error("Postgres did not answer within {limit_s} s: see pg_stat_activity for what keeps it busy")]
    TimedOut {
        /// The limit.
        limit_s: u64,
    },
    /// It cannot be asked.
    #[error("Postgres cannot be asked: {0}; check that it runs and lets Walcast in")]
    Postgres(#[from] sqlx::Error),
}

/// Why one partition is not as it should be. It is tried again.
#[derive(Debug, Error)]
pub enum PartitionFailure {
    /// It does not exist: messages of its day are refused.
    #[error(
        "realtime.{name} could not be made a partition, so that messages of its day cannot be stored: {cause}{}",
        remedy(.cause)
    )]
    Create {
        /// The partition.
        name: String,
        /// What Postgres says.
        cause: sqlx::Error,
    },
    /// It still exists, though its messages are older than they may become.
    #[error("realtime.{name} is too old and could not be dropped: {cause}{}", remedy(.cause))]
    Drop {
        /// The partition.
        name: String,
        /// What Postgres says.
        cause: sqlx::Error,
    },
}

impl PartitionFailure {
    /// The code it is logged under, the reference's.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Create { .. } => "PartitionCreationFailed",
            Self::Drop { .. } => "JanitorFailedToDeleteOldMessages",
        }
    }
}

fn remedy(cause: &sqlx::Error) -> &'static str {
    let code = cause.as_database_error().and_then(DatabaseError::code);
    match code.as_deref() {
        Some("55P03") => "; a long transaction uses the table: see pg_stat_activity",
        Some("42P07") => "; a table that is no partition has its name: attach or rename it",
        Some("23514") => "; the default partition has messages of that day: move them",
        Some("2BP01") => "; drop what depends on it, or detach it",
        Some("42501") => "; grant create on schema realtime to the role Walcast connects with",
        _ => "",
    }
}
