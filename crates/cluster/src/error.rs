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
}
