//! The shell beside Postgres that stops it when its owner is gone, seen from the owner.
//!
//! Nothing here needs a runtime: a thread of its own waits for the shell, so that a cluster may be started in one
//! runtime, used in another and dropped in none.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};

use tokio::sync::watch;

use crate::account::Account;
use crate::error::{StartError, doing};

const SCRIPT: &str = include_str!("watchdog.sh");

/// How far a Postgres has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Its process id is not known yet.
    Launched,
    /// Its postmaster runs under this process id, ready or not.
    Running(u32),
    /// It has ended.
    Ended,
}

/// How Postgres is told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Sessions are ended, everything is written.
    Fast,
    /// As by a crash: the next start recovers.
    Immediate,
}

/// What to run.
pub(crate) struct Charge<'a> {
    pub account: &'a Account,
    pub postgres: &'a Path,
    pub data: &'a Path,
    pub config: &'a Path,
    pub log: &'a File,
    /// The stop when the owner goes without a word.
    pub at_end: Stop,
    /// The folder that goes with the owner.
    pub remove_at_end: Option<&'a Path>,
}

/// A running Postgres and the pipe it hangs on. Dropping it stops Postgres without waiting for that.
#[derive(Debug)]
pub(crate) struct Watchdog {
    pipe: ChildStdin,
    stage: watch::Receiver<Stage>,
}

impl Watchdog {
    /// Launches Postgres under a watchdog.
    pub(crate) fn launch(charge: &Charge<'_>) -> Result<Self, StartError> {
        let log = charge.log.try_clone().map_err(doing("sharing the log file"))?;
        let folder = charge.config.parent().unwrap_or(Path::new("/"));
        let mut child = charge
            .account
            .command("/bin/sh")
            .args(["-c", SCRIPT, "walcast-postgres"])
            .arg(charge.postgres)
            .arg(charge.data)
            .arg(charge.config)
            .arg(match charge.at_end {
                Stop::Fast => "INT",
                Stop::Immediate => "QUIT",
            })
            .arg(charge.remove_at_end.unwrap_or(Path::new("")))
            .current_dir(folder)
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            // Ctrl-C on the terminal is for the owner, which then says how to stop.
            .process_group(0)
            .spawn()
            .map_err(doing("starting /bin/sh"))?;
        let Some(pipe) = child.stdin.take() else {
            return Err(doing("holding the pipe of the watchdog")(
                std::io::ErrorKind::BrokenPipe.into(),
            ));
        };
        let (tell, stage) = watch::channel(Stage::Launched);
        std::thread::Builder::new()
            .name("postgres-watch".to_owned())
            .spawn(move || attend(child, &tell))
            .map_err(doing("starting a thread"))?;
        Ok(Self { pipe, stage })
    }

    /// Tells Postgres to stop. To one that has ended this does nothing.
    pub(crate) fn tell(&mut self, stop: Stop) {
        let word: &[u8] = match stop {
            Stop::Fast => b"fast\n",
            Stop::Immediate => b"immediate\n",
        };
        if let Err(error) = self.pipe.write_all(word) {
            tracing::debug!(%error, "the watchdog of Postgres is gone already");
        }
    }

    /// How far it has come.
    pub(crate) fn stage(&self) -> Stage {
        *self.stage.borrow()
    }

    /// Returns when Postgres has ended.
    pub(crate) fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut stage = self.stage.clone();
        async move {
            // The teller is dropped only after it has told the end.
            let _: Result<_, _> = stage.wait_for(|stage| *stage == Stage::Ended).await;
        }
    }
}

fn attend(mut child: Child, tell: &watch::Sender<Stage>) {
    if let Some(stdout) = child.stdout.take() {
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        if let (Ok(_), Ok(pid)) = (read, line.trim().parse()) {
            tell.send_replace(Stage::Running(pid));
        }
    }
    match child.wait() {
        Ok(status) => tracing::debug!(%status, "Postgres ended"),
        Err(error) => tracing::warn!(%error, "the watchdog of Postgres cannot be waited for"),
    }
    tell.send_replace(Stage::Ended);
}
