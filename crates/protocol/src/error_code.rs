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

/// The `reason` of a join error: `Code: text`. A policy check that loses its connection goes without its code
/// (`protocol.md 3.4`).
#[must_use]
pub fn join_reason(code: ErrorCode, text: &str) -> String {
    match code {
        ErrorCode::UnableToSetPolicies => text.to_owned(),
        code => format!("{code}: {text}"),
    }
}
