//! A cluster for tests.

use std::path::{Path, PathBuf};

use tokio::sync::{Mutex, OnceCell};
use walcast_postgres::{Cluster, Options};

use crate::database::Database;
use crate::keeper::Keeper;

/// Names the major version that tests run on.
const VERSION: &str = "WALCAST_TEST_PG";

/// A running throwaway cluster. It and its data go with this value, or with the process.
#[derive(Debug)]
pub struct Postgres {
    cluster: Mutex<Cluster>,
    port: u16,
    socket_dir: PathBuf,
    folder: PathBuf,
    superuser: String,
    major: u16,
    keeper: Keeper,
}

impl Postgres {
    /// The cluster of this test process. Others use it at the same time: do not stop it or change what belongs to the
    /// whole of it, and name roles and replication slots so that they are yours alone.
    ///
    /// # Panics
    /// When it cannot be started, with the reason.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Postgres> = OnceCell::const_new();
        SHARED
            .get_or_init(|| Box::pin(Self::start(Self::options())))
            .await
    }

    /// What [`Postgres::shared`] is started with, to be changed for [`Postgres::start`]: a throwaway cluster of the
    /// version `WALCAST_TEST_PG` (else the newest installed), without passwords, with room for many tests at once.
    ///
    /// # Panics
    /// `WALCAST_TEST_PG` is not a number.
    pub fn options() -> Options {
        let mut options = Options::throwaway()
            .setting("max_connections", "200")
            .setting("max_replication_slots", "100")
            .setting("max_wal_senders", "100");
        options.trust_tcp = true;
        options.version = std::env::var(VERSION)
            .ok()
            .filter(|version| !version.is_empty())
            .map(|version| {
                version.parse().unwrap_or_else(|_| {
                    panic!("{VERSION} must be a major version such as 17, but is `{version}`")
                })
            });
        options
    }

    /// Starts a cluster of the test's own.
    ///
    /// # Panics
    /// When it cannot be started, with the reason.
    pub async fn start(options: Options) -> Self {
        let cluster = Cluster::start(options)
            .await
            .unwrap_or_else(|error| panic!("no Postgres for the tests: {error}"));
        let mut admin = tokio_postgres::Config::new();
        admin
            .host_path(cluster.socket_dir())
            .port(cluster.port())
            .user(cluster.superuser());
        Self {
            port: cluster.port(),
            socket_dir: cluster.socket_dir().to_owned(),
            folder: cluster.folder().to_owned(),
            superuser: cluster.superuser().to_owned(),
            major: cluster.installation().major(),
            keeper: Keeper::start(admin),
            cluster: Mutex::new(cluster),
        }
    }

    /// A new database that holds what the Supabase platform provides. Keep it: with the value the sessions go too.
    ///
    /// # Panics
    /// When it cannot be made, with the reason.
    #[must_use = "the database is dropped with this value"]
    pub async fn database(&self) -> Database {
        let name = self.keeper.create().await;
        Database::new(name, self.port, self.superuser.clone(), self.keeper.clone())
    }

    /// Stops it in good order.
    ///
    /// # Panics
    /// It does not stop.
    pub async fn stop(&self) {
        self.cluster
            .lock()
            .await
            .stop()
            .await
            .unwrap_or_else(|error| panic!("{error}"));
    }

    /// Stops it as a crash does. What was committed is recovered by the next start.
    ///
    /// # Panics
    /// It does not stop.
    pub async fn kill(&self) {
        self.cluster
            .lock()
            .await
            .kill()
            .await
            .unwrap_or_else(|error| panic!("{error}"));
    }

    /// Starts it again, on the same port, after stopping it if it runs.
    ///
    /// # Panics
    /// When it cannot be started, with the reason.
    pub async fn restart(&self) {
        self.cluster
            .lock()
            .await
            .restart()
            .await
            .unwrap_or_else(|error| panic!("{error}"));
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of its socket.
    pub fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    /// The folder that holds everything of it.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Major version, such as 17.
    pub fn major(&self) -> u16 {
        self.major
    }

    /// The end of its log, at most 4096 bytes.
    pub async fn log_tail(&self) -> String {
        self.cluster.lock().await.log_tail()
    }
}
