//! The operational codes (`protocol.md 12`).

use std::fmt;

macro_rules! codes {
    ($($code:ident),+ $(,)?) => {
        /// A code of the reference's table. Clients and people search for them, so they stay.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "the names are the table's; protocol.md 12 says when each is used")]
        pub enum ErrorCode { $($code),+ }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$code),+];

            /// The name as clients and logs show it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$code => stringify!($code)),+ }
            }
        }
    };
}

codes! {
    TopicNameRequired,
    InvalidJoinPayload,
    TenantNotFound,
    MissingAPIKey,
    InvalidJWTToken,
    MalformedJWT,
    JwtSignatureError,
    JwtSignerError,
    ErrorConnectingToWebsocket,
    ConnectionRateLimitReached,
    JoinsRateLimitReached,
    ClientJoinRateLimitReached,
    ChannelRateLimitReached,
    MessagePerSecondRateLimitReached,
    PresenceRateLimitReached,
    ClientPresenceRateLimitReached,
    Unauthorized,
    PrivateOnly,
    RealtimeDisabledForTenant,
    RealtimeRestarting,
    RlsPolicyError,
    UnableToSetPolicies,
    QueryCanceled,
    MissingPartition,
    IncreaseConnectionPool,
    UnableToConnectToProject,
    DatabaseLackOfConnections,
    DatabaseConnectionRateLimitReached,
    InitializingProjectConnection,
    UnableToReplayMessages,
    UnknownErrorOnChannel,
    TimeoutOnRpcCall,
    ErrorOnRpcCall,
    MusterJoinError,
    ChannelShutdown,
    RealtimeDisabledForConfiguration,
    ReconnectSubscribeToPostgres,
    UnableToSubscribeToPostgres,
    IncreaseSubscriptionConnectionPool,
    RateCounterError,
    PostgresChangesSubscribeTimeout,
    InvalidPresencePayload,
    UnableToHandlePresence,
    UnableToTrackPresence,
    UnknownPresenceEvent,
    UnableToHandleBroadcast,
    MalformedWebSocketMessage,
    UnknownErrorOnWebSocketMessage,
    UnprocessableEntity,
    UnknownErrorOnController,
    UnableToDeleteTenant,
    HttpServerError,
    HttpClientError,
    WarnSendingBroadcastMessage,
    UnableToBroadcastChanges,
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// The `reason` of a join error: `Code: text`. Two go without their code: a policy check that loses its connection,
/// and a failure nothing is known of, which has no text either (`protocol.md 3.4`).
#[must_use]
pub fn join_reason(code: ErrorCode, text: &str) -> String {
    match code {
        ErrorCode::UnableToSetPolicies => text.to_owned(),
        ErrorCode::UnknownErrorOnChannel if text.is_empty() => "Unknown Error on Channel".to_owned(),
        code => format!("{code}: {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_join_reason_is_the_code_and_the_text_with_two_exceptions() {
        for (code, text, reason) in [
            (
                ErrorCode::PrivateOnly,
                "This project only allows private channels",
                "PrivateOnly: This project only allows private channels",
            ),
            (ErrorCode::MalformedJWT, "x", "MalformedJWT: x"),
            (ErrorCode::UnknownErrorOnChannel, "x", "UnknownErrorOnChannel: x"),
            (ErrorCode::UnknownErrorOnChannel, "", "Unknown Error on Channel"),
            (
                ErrorCode::UnableToSetPolicies,
                "Realtime was unable to connect to the project database",
                "Realtime was unable to connect to the project database",
            ),
        ] {
            assert_eq!(join_reason(code, text), reason);
        }
    }
}
