//! A Postgres that still runs in a folder whose owner is gone: its watchdog was killed too, or is not done yet.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use crate::account::Account;
use crate::error::{StartError, doing};
use crate::installation::Installation;

/// Stops it, if there is one, and waits for its end. Blocks. Only for who holds the folder's lock.
///
/// # Errors
/// It does not stop.
pub(crate) fn stop(
    folder: &Path,
    data: &Path,
    account: &Account,
    installation: &Installation,
) -> Result<(), StartError> {
    let pid_file = data.join("postmaster.pid");
    let Ok(text) = fs::read_to_string(&pid_file) else {
        return Ok(());
    };
    let Some(pid) = text
        .lines()
        .next()
        .and_then(|line| line.trim().parse::<u32>().ok())
    else {
        return Ok(());
    };
    if !is_postmaster_of(pid, data) {
        // After a restart of the machine or container some other process often has the id, and Postgres would take
        // that one for the owner of its data.
        return fs::remove_file(&pid_file)
            .map_err(doing("removing the postmaster.pid of a Postgres that is gone"));
    }
    tracing::info!(pid, folder = %folder.display(), "stopping a Postgres that an earlier run left behind");
    let mut output = String::new();
    for (mode, patience_s) in [("fast", "15"), ("immediate", "15")] {
        let stopped = account
            .command(installation.program("pg_ctl"))
            .args([
                "stop",
                "--wait",
                "--mode",
                mode,
                "--timeout",
                patience_s,
                "--pgdata",
            ])
            .arg(data)
            .current_dir(folder)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
            .map_err(doing("running pg_ctl"))?;
        // It also fails when Postgres ended by itself in between, which is as good; the file is the last it removes.
        if stopped.status.success() || !pid_file.exists() || !is_postmaster_of(pid, data) {
            return Ok(());
        }
        output = String::from_utf8_lossy(&stopped.stderr).trim().to_owned();
    }
    Err(StartError::Leftover {
        folder: folder.to_owned(),
        output,
    })
}

/// Whether the process is the postmaster of this data folder, which is its working folder.
fn is_postmaster_of(pid: u32, data: &Path) -> bool {
    if !Path::new("/proc/self/cwd").exists() {
        // No way to ask; pg_ctl makes sure that the process at least exists.
        return true;
    }
    match (fs::read_link(format!("/proc/{pid}/cwd")), fs::canonicalize(data)) {
        (Ok(at), Ok(data)) => at == data,
        _ => false,
    }
}
