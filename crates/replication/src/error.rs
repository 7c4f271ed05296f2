//! Why the stream does not run, each with what to do about it.

use std::io;
use thiserror::Error;

/// What is going on when Postgres answers with an error that means different things at different times.
pub(crate) const LOGGING_IN: &str = "logging in";
pub(crate) const CREATING_SLOT: &str = "creating the slot";
pub(crate) const STARTING: &str = "starting replication";

/// Why the replication connection could not be made or was lost.
#[derive(Debug, Error)]
pub enum StreamError {
    /// Nothing answers.
    #[error("Postgres cannot be reached at {endpoint}: {error}. Check host, port and whether it runs")]
    Connect {
        /// What was tried.
        endpoint: String,
        /// Why it failed.
        error: io::Error,
    },
    /// It took too long.
    #[error("Postgres at {endpoint} did not answer within {timeout_ms} ms")]
    ConnectTimeout {
        /// What was tried.
        endpoint: String,
        /// The limit.
        timeout_ms: u64,
    },
    /// The server has TLS switched off.
    #[error(
        "sslmode demands TLS, but Postgres does not offer it: set ssl = on there, or sslmode=prefer or disable here"
    )]
    TlsNotOffered,
    /// TLS failed.
    #[error(
        "the TLS connection to Postgres failed: {0}. Check sslmode, sslrootcert and the server's certificate"
    )]
    Tls(String),
    /// An authentication method we do not speak.
    #[error(
        "Postgres asks for the authentication method {0}, which is not supported: use scram-sha-256 in pg_hba.conf"
    )]
    AuthenticationMethod(&'static str),
    /// A password is asked for, and there is none.
    #[error("Postgres asks for a password and none is configured")]
    NoPassword,
    /// The server did not prove that it knows the password.
    #[error("the authentication exchange failed: {0}")]
    Authentication(String),
    /// Wrong password.
    #[error("Postgres refused the password: {0}. Check user and password of the database URL")]
    WrongPassword(String),
    /// The role does not exist or may not log in, or pg_hba.conf refuses.
    #[error(
        "Postgres refused the login: {0}. Check that the role exists and has LOGIN, and that pg_hba.conf lets this host in (the lines of the database count, not those of \"replication\")"
    )]
    LoginRefused(String),
    /// There is no such database.
    #[error(
        "Postgres does not know the database: {0}. Check the name at the end of the database URL, or create it"
    )]
    UnknownDatabase(String),
    /// All connections are in use.
    #[error(
        "Postgres takes no more connections: {0}. Raise max_connections, or close connections nobody uses"
    )]
    TooManyConnections(String),
    /// A standby of Postgres 15 or older.
    #[error(
        "this server is a standby that cannot decode its log: {0}. Connect to the primary, or use Postgres 16 or newer"
    )]
    Standby(String),
    /// The role lacks REPLICATION.
    #[error("the role may not start replication: {0}. Run: alter role <role> replication")]
    NoReplicationRight(String),
    /// `wal_level` is too low.
    #[error("Postgres does not decode its log: {0}. Set wal_level = logical and restart it")]
    WalLevel(String),
    /// No slot is free.
    #[error(
        "no replication slot is free: {0}. Raise max_replication_slots, or drop slots nobody uses (see pg_replication_slots)"
    )]
    NoFreeSlot(String),
    /// No walsender is free.
    #[error("no walsender is free: {0}. Raise max_wal_senders")]
    NoFreeWalsender(String),
    /// The publication does not exist, and our role may not create it.
    #[error("the publication \"{name}\" does not exist ({cause}). Run: create publication \"{name}\"")]
    NoPublication {
        /// Its name.
        name: String,
        /// Why it was not created, or that it was dropped.
        cause: String,
    },
    /// Any other answer of Postgres.
    #[error("Postgres answered while {doing}: {message} (SQLSTATE {code})")]
    Postgres {
        /// What was going on.
        doing: &'static str,
        /// SQLSTATE.
        code: String,
        /// Its message.
        message: String,
    },
    /// Another session uses the permanent slot.
    #[error(
        "the replication slot is in use: {0}. Another server uses the same WALCAST_SLOT_NAME, or one that is gone has not been missed yet"
    )]
    SlotInUse(String),
    /// The permanent slot is not ours.
    #[error(
        "the replication slot \"{name}\" is of {owner}, not of this database and pgoutput. Set WALCAST_SLOT_NAME to a name of its own"
    )]
    ForeignSlot {
        /// Its name.
        name: String,
        /// Whose it is.
        owner: String,
    },
    /// Another session has the lock that allows to stream.
    #[error(
        "another server streams from this database as \"{name}\" (process {pid}). If it is of another cluster, give this one a WALCAST_REDIS_PREFIX of its own"
    )]
    Guarded {
        /// The name of the lock.
        name: String,
        /// The process id of its session in Postgres, 0 if it has gone.
        pid: u32,
    },
    /// The node that reads the log for all has said so.
    #[error("the node that reads the database's log for all says: {0}")]
    Elsewhere(String),
    /// This node turns to another source of changes.
    #[error("{0}")]
    Switched(&'static str),
    /// The connection broke.
    #[error("the connection to Postgres broke: {0}")]
    Io(#[from] io::Error),
    /// Silence.
    #[error("Postgres has been silent for {0} ms although it was asked for a sign of life")]
    Silent(u64),
    /// The server stopped sending in good order.
    #[error("Postgres ended the stream; it is probably shutting down")]
    Ended,
    /// Not Postgres, or a protocol we do not know.
    #[error("Postgres sent something that is not understood: {0}")]
    Protocol(String),
    /// A single message is larger than we hold.
    #[error(
        "a message of {bytes} bytes is over the limit of {limit_bytes} bytes. Raise max_message_bytes, or take the table with such rows out of the publication"
    )]
    MessageTooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
}

impl StreamError {
    /// Sorts an error answer of Postgres.
    pub(crate) fn from_answer(doing: &'static str, code: String, message: String) -> Self {
        match (code.as_str(), doing) {
            ("28P01", _) => Self::WrongPassword(message),
            ("28000", _) => Self::LoginRefused(message),
            ("3D000", _) => Self::UnknownDatabase(message),
            ("53300", _) if message.contains("max_wal_senders") => Self::NoFreeWalsender(message),
            ("53300", _) => Self::TooManyConnections(message),
            ("55006", CREATING_SLOT | STARTING) => Self::SlotInUse(message),
            ("53400", CREATING_SLOT) => Self::NoFreeSlot(message),
            ("42501", LOGGING_IN | CREATING_SLOT | STARTING) => Self::NoReplicationRight(message),
            ("55000", CREATING_SLOT) if message.contains("wal_level") => Self::WalLevel(message),
            ("0A000", CREATING_SLOT) if message.contains("recovery") => Self::Standby(message),
            _ => Self::Postgres { doing, code, message },
        }
    }
}
