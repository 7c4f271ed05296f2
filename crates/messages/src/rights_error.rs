//! Why a right was not granted: what the server logs, and what each way in says to the client (`database.md 3.4`,
//! `protocol.md 3.4`, `4.3`, `5.7`).

use std::sync::Arc;

use thiserror::Error;
use walcast_protocol::ErrorCode;

use crate::rights::Lacks;

/// Why a check gave no right. `Display` is for the log: it names cause and remedy, and may quote what Postgres or the
/// application's policies say, which clients are not told.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RightsError {
    /// The policies do not allow it.
    #[error("the role {role} {} the private channel {topic}: {}", lacks.act(), lacks.remedy())]
    Denied {
        /// Of the token.
        role: Arc<str>,
        /// Without `realtime:`.
        topic: Arc<str>,
        /// What it may not do.
        lacks: Lacks,
    },
    /// A new token may read less than the one before, though not nothing.
    #[error(
        "with its new token the role {role} may no longer read all it could of the private channel {topic}: the \
         SELECT policies on realtime.messages decide by the token's claims"
    )]
    Revoked {
        /// Of the new token.
        role: Arc<str>,
        /// Without `realtime:`.
        topic: Arc<str>,
    },
    /// The token's role does not exist.
    #[error(
        "the token's role \"{role}\" is no role of the database: create it, or sign tokens with one that exists"
    )]
    UnknownRole {
        /// Of the token.
        role: Arc<str>,
    },
    /// We may not act as the token's role.
    #[error(
        "Walcast may not act as the token's role \"{role}\" ({message}): grant it to the role Walcast connects as"
    )]
    RoleNotGranted {
        /// Of the token.
        role: Arc<str>,
        /// What Postgres says.
        message: Arc<str>,
    },
    /// The role cannot read the table at all.
    #[error(
        "the role {role} may not read private channels ({message}): grant usage on schema realtime and select on \
         realtime.messages to it"
    )]
    TableNotGranted {
        /// Of the token.
        role: Arc<str>,
        /// What Postgres says.
        message: Arc<str>,
    },
    /// The row that read policies are to look at cannot be written.
    #[error(
        "the probe row for the private channel {topic} cannot be written ({sqlstate} {message}): Walcast must connect \
         as the owner of realtime.messages, a superuser, or a role with BYPASSRLS that may insert there; triggers on \
         the table must let the row pass"
    )]
    Probe {
        /// Without `realtime:`.
        topic: Arc<str>,
        /// SQLSTATE.
        sqlstate: Arc<str>,
        /// What Postgres says.
        message: Arc<str>,
    },
    /// A policy raised, or what it needs is not there.
    #[error(
        "checking the policies on realtime.messages for the role {role} on the private channel {topic} failed: \
         {sqlstate} {message}; correct the policy that raised it"
    )]
    Policy {
        /// Of the token.
        role: Arc<str>,
        /// Without `realtime:`.
        topic: Arc<str>,
        /// SQLSTATE.
        sqlstate: Arc<str>,
        /// What Postgres says.
        message: Arc<str>,
    },
    /// What policies are to see is no text Postgres can hold.
    #[error("the {0} contains a NUL character, which Postgres cannot hold in a text: leave it out")]
    Unrepresentable(&'static str),
    /// The policies did not come to an end.
    #[error(
        "checking the policies on realtime.messages was cancelled ({0}): make them faster, or see what they wait for"
    )]
    Cancelled(Arc<str>),
    /// There is nowhere to write today's rows.
    #[error(
        "realtime.messages has no partition for the present day (UTC): the server creates partitions itself, look for \
         why it could not"
    )]
    MissingPartition,
    /// There are more checks than the database gets done.
    #[error("the check found no free connection within {waited_ms} ms: {remedy}")]
    Exhausted {
        /// Milliseconds; 0 if it was turned away at once.
        waited_ms: u64,
        /// What to do.
        remedy: &'static str,
    },
    /// The database does not answer.
    #[error("the database cannot be asked about private channels: {0}")]
    Unavailable(Arc<str>),
}

impl RightsError {
    /// The operational code to log it under (`protocol.md 12`).
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Denied { .. } | Self::Revoked { .. } => ErrorCode::Unauthorized,
            Self::UnknownRole { .. }
            | Self::RoleNotGranted { .. }
            | Self::TableNotGranted { .. }
            | Self::Probe { .. }
            | Self::Policy { .. }
            | Self::Unrepresentable(_) => ErrorCode::RlsPolicyError,
            Self::Cancelled(_) => ErrorCode::QueryCanceled,
            Self::MissingPartition => ErrorCode::MissingPartition,
            Self::Exhausted { .. } => ErrorCode::IncreaseConnectionPool,
            Self::Unavailable(_) => ErrorCode::UnableToConnectToProject,
        }
    }

    /// Code and text of the error reply to a join of `topic`; [`walcast_protocol::join_reason`] puts them together
    /// (`protocol.md 3.4`). What a policy raised is not told to the client.
    #[must_use]
    pub fn join_reply(&self, topic: &str) -> (ErrorCode, String) {
        match self.code() {
            ErrorCode::RlsPolicyError | ErrorCode::Unauthorized => {
                (ErrorCode::Unauthorized, unreadable(topic))
            }
            code @ ErrorCode::QueryCanceled => {
                (code, "the policies took too long and were cancelled".to_owned())
            }
            code @ ErrorCode::MissingPartition => (
                code,
                "Realtime was unable to find the expected messages partition".to_owned(),
            ),
            code @ ErrorCode::IncreaseConnectionPool => {
                (code, "Please increase your connection pool size".to_owned())
            }
            code => (code, NO_DATABASE.to_owned()),
        }
    }

    /// The `message` of the `system` event that closes the channel of `topic` when the check of a new token ends like
    /// this (`protocol.md 4.3`).
    #[must_use]
    pub fn refresh_message(&self, topic: &str) -> String {
        match self {
            Self::Revoked { .. } => {
                format!("You no longer have permission to read from this Channel topic: {topic}")
            }
            Self::Cancelled(_) => "Query was cancelled, please try again".to_owned(),
            Self::MissingPartition => NO_DATABASE.to_owned(),
            other => other.join_reply(topic).1,
        }
    }

    /// Status and `message` of the response when a single broadcast over HTTP ends like this (`protocol.md 5.7`).
    #[must_use]
    pub fn http_response(&self) -> (u16, &'static str) {
        match self.code() {
            ErrorCode::Unauthorized => (403, "Unauthorized"),
            ErrorCode::RlsPolicyError => (422, "RLS policy error"),
            ErrorCode::QueryCanceled => (422, "Query canceled"),
            ErrorCode::MissingPartition => (422, "Missing messages partition"),
            ErrorCode::IncreaseConnectionPool => (429, "Connection pool exhausted"),
            _ => (422, "Tenant database unavailable"),
        }
    }
}

const NO_DATABASE: &str = "Realtime was unable to connect to the project database";

fn unreadable(topic: &str) -> String {
    format!("You do not have permissions to read from this Channel topic: {topic}")
}

impl Lacks {
    fn act(&self) -> &'static str {
        match self {
            Self::ReadBroadcast => "may not receive broadcasts of",
            Self::ReadPresence => "may not receive presence of",
            Self::ReadBroadcastAndPresence => "may receive neither broadcasts nor presence of",
            Self::WriteBroadcast(_) => "may not broadcast to",
            Self::WritePresence(_) => "may not be present in",
        }
    }

    fn remedy(&self) -> String {
        const NO_POLICY: &str = "no policy lets it";
        let (what, command, extension) = match self {
            Self::ReadBroadcast => (NO_POLICY, "select", "extension = 'broadcast'"),
            Self::ReadPresence => (NO_POLICY, "select", "extension = 'presence'"),
            Self::ReadBroadcastAndPresence => (NO_POLICY, "select", "extension in ('broadcast', 'presence')"),
            Self::WriteBroadcast(said) => (said.as_ref(), "insert", "extension = 'broadcast'"),
            Self::WritePresence(said) => (said.as_ref(), "insert", "extension = 'presence'"),
        };
        format!(
            "{what}; it needs the right to {command} on realtime.messages and a policy for {command} that is true for \
             {extension} and this realtime.topic()"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use walcast_protocol::join_reason;

    #[test]
    fn each_failure_has_the_texts_of_the_reference() {
        const UNREADABLE: &str =
            "Unauthorized: You do not have permissions to read from this Channel topic: room";
        let role: Arc<str> = "authenticated".into();
        let topic: Arc<str> = "room".into();
        let said: Arc<str> = "said".into();
        let denied = RightsError::Denied {
            role: role.clone(),
            topic: topic.clone(),
            lacks: Lacks::ReadBroadcast,
        };
        let revoked = RightsError::Revoked {
            role: role.clone(),
            topic: topic.clone(),
        };
        let raised = RightsError::Policy {
            role: role.clone(),
            topic,
            sqlstate: "22012".into(),
            message: said.clone(),
        };
        let unknown = RightsError::UnknownRole { role };
        for (error, join, refresh, http) in [
            (
                denied,
                UNREADABLE,
                "You do not have permissions to read from this Channel topic: room",
                (403, "Unauthorized"),
            ),
            (
                revoked,
                UNREADABLE,
                "You no longer have permission to read from this Channel topic: room",
                (403, "Unauthorized"),
            ),
            (
                raised,
                UNREADABLE,
                "You do not have permissions to read from this Channel topic: room",
                (422, "RLS policy error"),
            ),
            (
                unknown,
                UNREADABLE,
                "You do not have permissions to read from this Channel topic: room",
                (422, "RLS policy error"),
            ),
            (
                RightsError::Cancelled(said.clone()),
                "QueryCanceled: the policies took too long and were cancelled",
                "Query was cancelled, please try again",
                (422, "Query canceled"),
            ),
            (
                RightsError::MissingPartition,
                "MissingPartition: Realtime was unable to find the expected messages partition",
                "Realtime was unable to connect to the project database",
                (422, "Missing messages partition"),
            ),
            (
                RightsError::Exhausted {
                    waited_ms: 5,
                    remedy: "",
                },
                "IncreaseConnectionPool: Please increase your connection pool size",
                "Please increase your connection pool size",
                (429, "Connection pool exhausted"),
            ),
            (
                RightsError::Unavailable(said),
                "UnableToConnectToProject: Realtime was unable to connect to the project database",
                "Realtime was unable to connect to the project database",
                (422, "Tenant database unavailable"),
            ),
        ] {
            let (code, text) = error.join_reply("room");
            assert_eq!(join_reason(code, &text), join, "{error:?}");
            assert_eq!(error.refresh_message("room"), refresh, "{error:?}");
            assert_eq!(error.http_response(), http, "{error:?}");
        }
    }

    #[test]
    fn a_refusal_says_which_right_which_role_lacks_and_what_helps() {
        let refusal = |lacks| {
            RightsError::Denied {
                role: "anon".into(),
                topic: "room".into(),
                lacks,
            }
            .to_string()
        };
        assert_eq!(
            refusal(Lacks::ReadPresence),
            "the role anon may not receive presence of the private channel room: no policy lets it; it needs the right \
             to select on realtime.messages and a policy for select that is true for extension = 'presence' and this \
             realtime.topic()"
        );
        assert_eq!(
            refusal(Lacks::WriteBroadcast(
                "permission denied for table messages".into()
            )),
            "the role anon may not broadcast to the private channel room: permission denied for table messages; it \
             needs the right to insert on realtime.messages and a policy for insert that is true for extension = \
             'broadcast' and this realtime.topic()"
        );
    }
}
