//! What can go wrong between nodes.

/// Something shared could not be reached or changed. Nothing is known to have happened, but it may have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// There is no connection, or it broke, or nothing came back in time.
    #[error("Redis is away ({0}); it is tried again until it answers")]
    Away(String),
    /// Redis answered with an error.
    #[error(
        "Redis refused a command: {0}; see its log, its memory limit and the rights of the configured user"
    )]
    Refused(String),
    /// Redis answered with something else than was asked for.
    #[error("Redis answered with {0}; does something else use keys under WALCAST_REDIS_PREFIX?")]
    Malformed(String),
    /// More bytes than travel in one piece.
    #[error("{what} of {bytes} bytes is above the limit of {limit_bytes}; send less at once")]
    TooLong {
        /// What is too long.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// The most there may be.
        limit_bytes: usize,
    },
    /// A newer holder of the lease has written already.
    #[error("the lease with token {token} was lost to another holder; acquire it again before writing")]
    Fenced {
        /// The token that is too old.
        token: u64,
    },
}
