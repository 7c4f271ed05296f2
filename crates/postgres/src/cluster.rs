//! One data folder and the Postgres that runs it.

use std::fs;
use std::future::Future;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::account::Account;
use crate::error::{StartError, StopError, doing};
use crate::folder::Folder;
use crate::installation::Installation;
use crate::options::{Keep, Options, Port};
use crate::watchdog::{Charge, Stage, Stop, Watchdog};
use crate::{leftover, port};

/// Recovery after a crash can take a while; a start without takes well below a second.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// How often the status of a starting Postgres is read. It offers no event that every build of it has.
const STATUS_INTERVAL: Duration = Duration::from_millis(5);

/// A stop that takes longer is made an immediate one; one that then takes as long again has failed.
const STOP_PATIENCE: Duration = Duration::from_secs(15);

/// How many free ports are tried when others keep taking them.
const PORT_ATTEMPTS: usize = 5;

/// A Postgres of our own, running unless it was stopped.
///
/// Dropping it stops Postgres (fast, or at once when its data are not kept) without waiting for that, and so does
/// every other end of this process.
#[derive(Debug)]
pub struct Cluster {
    folder: Folder,
    account: Account,
    installation: Installation,
    port: u16,
    superuser: String,
    watchdog: Option<Watchdog>,
}

impl Cluster {
    /// Starts a cluster, making its data folder when there is none, and waits until it takes connections.
    ///
    /// A Postgres that an earlier owner left behind in the folder is stopped first.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let prepare = move || Self::prepare(&options).map(|cluster| (cluster, options));
        let (mut cluster, options) = tokio::task::spawn_blocking(prepare)
            .await
            .map_err(|error| doing("preparing Postgres")(error.into()))??;
        let mut attempts_left = PORT_ATTEMPTS;
        loop {
            cluster.port = choose(options.port)?;
            cluster
                .folder
                .configure(&options, cluster.port, &cluster.account)?;
            attempts_left -= 1;
            match cluster.launch().await {
                Err(StartError::PortTaken { .. }) if options.port == Port::Free && attempts_left > 0 => {}
                Err(error) => return Err(error),
                Ok(()) => return Ok(cluster),
            }
        }
    }

    /// Everything up to the start of Postgres. Blocks.
    fn prepare(options: &Options) -> Result<Self, StartError> {
        let account = Account::choose()?;
        let folder = Folder::open(&options.keep, &account)?;
        let made_by = folder.data_version();
        let installation = Installation::find(options.version.or(made_by))?;
        account.require_entry(installation.bin())?;
        match made_by {
            Some(data) if data != installation.major() => {
                return Err(StartError::OtherVersion {
                    folder: folder.path().to_owned(),
                    data,
                    installed: installation.major(),
                });
            }
            Some(_) => leftover::stop(folder.path(), &folder.data(), &account, &installation)?,
            None => initdb(&folder, &account, &installation, options)?,
        }
        Ok(Self {
            folder,
            account,
            installation,
            port: 0,
            superuser: options.superuser.clone(),
            watchdog: None,
        })
    }

    /// Starts Postgres on the folder as it is configured and waits until it takes connections.
    async fn launch(&mut self) -> Result<(), StartError> {
        let log_start_bytes = self.folder.log_bytes();
        let throwaway = self.folder.throwaway();
        let data = self.folder.data();
        let watchdog = Watchdog::launch(&Charge {
            account: &self.account,
            postgres: &self.installation.program("postgres"),
            data: &data,
            config: &self.folder.path().join("postgresql.conf"),
            log: self.folder.log(),
            at_end: if throwaway.is_some() {
                Stop::Immediate
            } else {
                Stop::Fast
            },
            remove_at_end: throwaway,
        })?;
        let watchdog = self.watchdog.insert(watchdog);
        let ready = async {
            tokio::select! {
                () = watchdog.ended() => false,
                () = ready(watchdog, &data) => true,
            }
        };
        match timeout(START_PATIENCE, ready).await {
            Ok(true) => Ok(()),
            Ok(false) => {
                let tail = self.folder.log_tail(log_start_bytes);
                // How all supported versions begin the line about a port somebody listens on.
                if tail.contains("could not bind IPv4 address") {
                    return Err(StartError::PortTaken { port: self.port });
                }
                Err(StartError::Ended {
                    log: self.folder.log_path(),
                    tail,
                })
            }
            Err(_) => Err(StartError::NotReady {
                waited_ms: START_PATIENCE.as_millis(),
                log: self.folder.log_path(),
                tail: self.folder.log_tail(log_start_bytes),
            }),
        }
    }

    /// Stops Postgres as a shutdown does: sessions are ended, everything is written. To one that does not run this
    /// does nothing.
    ///
    /// # Errors
    /// It still runs long after it was told to stop at once.
    pub async fn stop(&mut self) -> Result<(), StopError> {
        self.end(Stop::Fast).await
    }

    /// Stops Postgres as a crash does: the next start recovers.
    ///
    /// # Errors
    /// See [`Cluster::stop`].
    pub async fn kill(&mut self) -> Result<(), StopError> {
        self.end(Stop::Immediate).await
    }

    async fn end(&mut self, stop: Stop) -> Result<(), StopError> {
        let Some(watchdog) = &mut self.watchdog else {
            return Ok(());
        };
        watchdog.tell(stop);
        if timeout(STOP_PATIENCE, watchdog.ended()).await.is_err() {
            tracing::warn!(
                "Postgres does not stop; a replication client may hold it up; stopping it at once"
            );
            watchdog.tell(Stop::Immediate);
            if timeout(STOP_PATIENCE, watchdog.ended()).await.is_err() {
                let pid = self.pid().unwrap_or_default();
                return Err(StopError::StillRunning {
                    pid,
                    waited_ms: 2 * STOP_PATIENCE.as_millis(),
                });
            }
        }
        self.watchdog = None;
        Ok(())
    }

    /// Starts Postgres after [`Cluster::stop`], [`Cluster::kill`] or an end of its own, on the same port; stops it
    /// before that when it runs.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn restart(&mut self) -> Result<(), StartError> {
        self.stop().await?;
        self.launch().await
    }

    /// Returns when Postgres has ended, by whatever cause; at once when it does not run.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let ended = self.watchdog.as_ref().map(Watchdog::ended);
        async move {
            if let Some(ended) = ended {
                ended.await;
            }
        }
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of the socket, open to the owner of this process without a password.
    pub fn socket_dir(&self) -> &Path {
        self.folder.socket_dir()
    }

    /// The folder that holds everything of this cluster.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Name of the superuser that initdb made.
    pub fn superuser(&self) -> &str {
        &self.superuser
    }

    /// The programs in use.
    pub fn installation(&self) -> &Installation {
        &self.installation
    }

    /// Process id of the postmaster, while it runs.
    pub fn pid(&self) -> Option<u32> {
        match self.watchdog.as_ref()?.stage() {
            Stage::Running(pid) => Some(pid),
            Stage::Launched | Stage::Ended => None,
        }
    }

    /// The end of the server's log, at most 4096 bytes.
    pub fn log_tail(&self) -> String {
        self.folder.log_tail(0)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Closing the pipe, as the fields are dropped, stops Postgres; until it has ended, its folder is in use.
        if self
            .watchdog
            .as_ref()
            .is_some_and(|watchdog| watchdog.stage() != Stage::Ended)
        {
            self.folder.leave_to_watchdog();
        }
    }
}

fn choose(wish: Port) -> Result<u16, StartError> {
    match wish {
        Port::Fixed(port) if port::is_free(port) => Ok(port),
        Port::Fixed(port) => Err(StartError::PortTaken { port }),
        Port::Free => port::any_free().ok_or(StartError::NoPort),
    }
}

/// Returns when Postgres takes connections, as its status file tells.
async fn ready(watchdog: &Watchdog, data: &Path) {
    let status_file = data.join("postmaster.pid");
    let mut tick = interval(STATUS_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if let (Stage::Running(pid), Ok(status)) = (watchdog.stage(), fs::read_to_string(&status_file))
            && says_ready(&status, pid)
        {
            return;
        }
    }
}

/// Whether a `postmaster.pid` is that of this postmaster (a crash leaves one behind) and says that it is ready.
fn says_ready(status: &str, pid: u32) -> bool {
    let mut lines = status.lines();
    lines.next().and_then(|line| line.trim().parse().ok()) == Some(pid)
        && lines.nth(6).is_some_and(|line| line.trim() == "ready")
}

/// Makes the data folder: all of it or nothing.
fn initdb(
    folder: &Folder,
    account: &Account,
    installation: &Installation,
    options: &Options,
) -> Result<(), StartError> {
    let fresh = folder.fresh_data(account)?;
    let mut command = account.command(installation.program("initdb"));
    command
        // A UTF-8 database that sorts the same everywhere.
        .args(["--encoding=UTF8", "--locale=C.UTF-8", "--auth=trust", "--no-instructions"])
        .arg(format!("--username={}", options.superuser))
        .arg("--pgdata")
        .arg(&fresh)
        .current_dir(folder.path())
        .env("LC_ALL", "C")
        .stdin(Stdio::null());
    if options.keep == Keep::Nothing {
        command.arg("--no-sync");
    }
    let made = command.output().map_err(doing("running initdb"))?;
    if !made.status.success() {
        let output = String::from_utf8_lossy(&made.stderr).trim().to_owned();
        return Err(StartError::Initdb {
            folder: folder.path().to_owned(),
            output,
        });
    }
    folder.adopt_data(&fresh)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_status_of_this_postmaster_counts() {
        let status = |pid, word| format!("{pid}\n/data\n1700000000\n5432\n/run\n127.0.0.1\n 1 2\n{word}\n");
        assert!(says_ready(&status(42, "ready   "), 42));
        assert!(!says_ready(&status(41, "ready   "), 42));
        assert!(!says_ready(&status(42, "starting"), 42));
        assert!(!says_ready("42\n/data\n", 42));
        assert!(!says_ready("", 42));
    }
}
