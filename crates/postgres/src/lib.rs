//! A private Postgres run from installed binaries: found, initialised, started, stopped, never orphaned.
//!
//! [`Installation`] finds the programs of a Postgres (14 or newer), [`Cluster`] runs one data folder with them, as
//! an ordinary user and as root, and [`PLATFORM_SQL`] is what applications expect a Supabase database to hold.
//! `walcast dev` keeps a cluster between runs with it; the tests start throwaway ones.
//!
//! A running cluster hangs on a pipe to its owner. When the owner goes, by whatever end, a small shell beside
//! Postgres sees the pipe close and stops it. See `watchdog.sh`.
//!
//! It is not a way to run a production database: no upgrades, no backups, one address, the loopback. It knows
//! nothing of connections or SQL, and never looks inside a database.

mod account;
mod cluster;
mod error;
mod folder;
mod installation;
mod leftover;
mod options;
mod port;
mod watchdog;

pub use cluster::Cluster;
pub use error::{InstallationError, StartError, StopError};
pub use folder::reachable_folder;
pub use installation::Installation;
pub use options::{Keep, Options, Port, Tls};

/// What the Supabase platform gives a database (`database.md 1.1`): its roles, the schemas `auth`, `extensions` and
/// `realtime`, the privileges of the API roles, and the empty publication `supabase_realtime`.
///
/// Several statements, to be run by a superuser in each database. Running it again changes nothing.
pub const PLATFORM_SQL: &str = include_str!("../sql/platform.sql");
