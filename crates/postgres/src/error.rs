//! Why there is no Postgres, in sentences that say what to do about it.

use std::io;
use std::path::PathBuf;

/// Why no installed Postgres can be used.
#[derive(Debug, thiserror::Error)]
pub enum InstallationError {
    /// `WALCAST_PG_BIN` points at a folder that is no `bin` folder of a usable Postgres.
    #[error("WALCAST_PG_BIN is {folder}, but {reason}; let it name the folder that holds initdb, pg_ctl and postgres", folder = folder.display())]
    Configured {
        /// The folder it names.
        folder: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing suitable is installed.
    #[error("no {wish} is installed; install one (Debian: apt install postgresql), run scripts/fetch-postgres, or let WALCAST_PG_BIN name its bin folder{looked}", looked = list_refused(refused))]
    NotFound {
        /// What was wanted, such as `Postgres 17`.
        wish: String,
        /// Folders that hold something like a Postgres, and why each was passed over.
        refused: Vec<(PathBuf, String)>,
    },
}

fn list_refused(refused: &[(PathBuf, String)]) -> String {
    refused
        .iter()
        .map(|(folder, reason)| format!("; {}: {reason}", folder.display()))
        .collect()
}

/// Why a cluster did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No programs to start it with.
    #[error(transparent)]
    Installation(#[from] InstallationError),
    /// The data was made by another major version.
    #[error("the data in {folder} was made by Postgres {data} and Postgres {installed} cannot read it; install Postgres {data}, or remove the folder to start afresh", folder = folder.display())]
    OtherVersion {
        /// The cluster's folder.
        folder: PathBuf,
        /// Major version that made the data.
        data: u16,
        /// Major version asked for.
        installed: u16,
    },
    /// Root must run Postgres as somebody else, and there is nobody.
    #[error(
        "Postgres refuses to run as root, and there is no user `postgres` or `nobody` to run it as; add one, or start as an ordinary user"
    )]
    NoAccount,
    /// The account that runs Postgres may not enter a folder on the way.
    #[error("Postgres runs as user `{account}` here, which may not enter {barrier} on the way to {folder}; use a folder elsewhere, or `chmod o+x {barrier}`", barrier = barrier.display(), folder = folder.display())]
    Unreachable {
        /// The folder that has to be reached.
        folder: PathBuf,
        /// The first one that cannot be entered.
        barrier: PathBuf,
        /// Who would run Postgres.
        account: String,
    },
    /// Another process runs this cluster.
    #[error("the Postgres in {folder} is in use by another process; stop that one first, or use another folder", folder = folder.display())]
    InUse {
        /// The cluster's folder.
        folder: PathBuf,
    },
    /// A Postgres that an earlier owner left behind would not stop.
    #[error("a Postgres left over in {folder} does not stop: {output}; stop its process by hand", folder = folder.display())]
    Leftover {
        /// The cluster's folder.
        folder: PathBuf,
        /// What `pg_ctl stop` said.
        output: String,
    },
    /// Somebody else listens on the port.
    #[error("port {port} of 127.0.0.1 is taken; stop what listens there, or choose another port")]
    PortTaken {
        /// The port.
        port: u16,
    },
    /// All ports that may be chosen are taken.
    #[error("no port from 20000 to 31999 of 127.0.0.1 is free; name a port")]
    NoPort,
    /// A running Postgres did not stop for its restart.
    #[error(transparent)]
    Stop(#[from] StopError),
    /// `initdb` failed.
    #[error("the data folder could not be initialised in {folder}: {output}", folder = folder.display())]
    Initdb {
        /// The cluster's folder.
        folder: PathBuf,
        /// What initdb said.
        output: String,
    },
    /// Postgres ended before it took connections.
    #[error("Postgres ended while it started; its log {log} says: {tail}", log = log.display())]
    Ended {
        /// The log file.
        log: PathBuf,
        /// Its last lines since this start.
        tail: String,
    },
    /// Postgres neither took connections nor ended.
    #[error("Postgres did not become ready in {waited_ms} ms; its log {log} says: {tail}", log = log.display())]
    NotReady {
        /// How long it was given.
        waited_ms: u128,
        /// The log file.
        log: PathBuf,
        /// Its last lines since this start.
        tail: String,
    },
    /// A setting that cannot be written to a configuration file.
    #[error(
        "the setting `{name}` or its value cannot stand in a Postgres configuration file: names are letters, digits, `_` and `.`, and no value or pg_hba line spans lines"
    )]
    Setting {
        /// The name, or the pg_hba line.
        name: String,
    },
    /// The operating system refused something.
    #[error("{doing} failed: {source}")]
    Io {
        /// What was tried.
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
}

/// Why a cluster did not stop.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// It still runs, though it was told to stop at once.
    #[error(
        "Postgres (process {pid}) still runs {waited_ms} ms after it was told to stop at once; end it by hand"
    )]
    StillRunning {
        /// The postmaster.
        pid: u32,
        /// How long it was given, in all.
        waited_ms: u128,
    },
}

/// Names what was tried beside why it failed.
pub(crate) fn doing(what: impl Into<String>) -> impl FnOnce(io::Error) -> StartError {
    let doing = what.into();
    move |source| StartError::Io { doing, source }
}
