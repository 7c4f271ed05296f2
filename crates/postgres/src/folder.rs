//! The folder of a cluster and what is where in it.
//!
//! ```text
//! <folder>/data/            what initdb made; belongs to the account that runs Postgres
//! <folder>/run/             the socket, closed to other users
//! <folder>/postgresql.conf  written at each start, as is
//! <folder>/pg_hba.conf
//! <folder>/server.crt       with server.key, when it takes TLS connections
//! <folder>/postgres.log
//! <folder>/owner.lock       locked by the process that runs the cluster, for as long as it lives
//! ```

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::hash::{Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::account::Account;
use crate::error::{StartError, doing};
use crate::options::{Keep, Options};

/// Longest path of a socket the operating systems take: 104 bytes with its closing zero on some.
const MAX_SOCKET_PATH_BYTES: usize = 103;

/// Name of the socket at its longest.
const LONGEST_SOCKET_NAME: &str = ".s.PGSQL.65535";

/// How much of the log goes into an error.
const MAX_TAIL_BYTES: u64 = 4096;

/// A folder in which a project may keep its private Postgres: `<project>/.walcast/postgres`, or, where root runs us
/// and the account that runs Postgres may not enter the project (one under `/root`, say), one in `/var/lib/walcast`
/// that is the same for the same project.
///
/// # Errors
/// There is no account to run Postgres as, or nobody can be asked what it may enter.
pub fn reachable_folder(project: &Path) -> Result<PathBuf, StartError> {
    let project = fs::canonicalize(project).map_err(doing(format!("looking at {}", project.display())))?;
    let account = Account::choose()?;
    let inside = project.join(".walcast/postgres");
    let existing = inside
        .ancestors()
        .find(|folder| folder.is_dir())
        .unwrap_or(&project);
    if account
        .barrier(existing)
        .map_err(doing("asking who may enter the project's folder"))?
        .is_none()
    {
        return Ok(inside);
    }
    let mut hasher = DefaultHasher::new();
    project.hash(&mut hasher);
    let name = project
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    Ok(Path::new("/var/lib/walcast").join(format!("{name}-{:016x}", hasher.finish())))
}

/// The folder of a cluster, prepared and ours.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    socket_dir: PathBuf,
    log: File,
    /// Held open: the lock goes with it.
    _lock: Option<File>,
    throwaway: Option<TempDir>,
    /// A stand-in for `run` where the path of that is too long for a socket.
    _short_socket_dir: Option<TempDir>,
}

impl Folder {
    /// Makes it, or takes possession of it.
    pub(crate) fn open(keep: &Keep, account: &Account) -> Result<Self, StartError> {
        let (path, throwaway) = match keep {
            Keep::Folder(path) => {
                fs::create_dir_all(path).map_err(doing(format!("making {}", path.display())))?;
                (
                    fs::canonicalize(path).map_err(doing(format!("looking at {}", path.display())))?,
                    None,
                )
            }
            Keep::Nothing => {
                let folder = temporary("walcast-postgres-", account)?;
                (folder.path().to_owned(), Some(folder))
            }
        };
        if *account != Account::Own {
            make_enterable(&path)?;
        }
        account.require_entry(&path)?;
        let lock = match keep {
            Keep::Folder(_) => Some(lock(&path)?),
            Keep::Nothing => None,
        };
        let log_path = path.join("postgres.log");
        let log = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&log_path)
            .map_err(doing(format!("opening {}", log_path.display())))?;

        let mut socket_dir = path.join("run");
        let mut short_socket_dir = None;
        if socket_dir.join(LONGEST_SOCKET_NAME).as_os_str().len() > MAX_SOCKET_PATH_BYTES {
            let folder = temporary("walcast-", account)?;
            socket_dir = folder.path().to_owned();
            short_socket_dir = Some(folder);
        }
        private(&socket_dir, account)?;
        Ok(Self {
            path,
            socket_dir,
            log,
            _lock: lock,
            throwaway,
            _short_socket_dir: short_socket_dir,
        })
    }

    /// Writes the configuration of this start.
    pub(crate) fn configure(
        &self,
        options: &Options,
        port: u16,
        account: &Account,
    ) -> Result<(), StartError> {
        let hba = self.path.join("pg_hba.conf");
        self.write(
            "postgresql.conf",
            &options.postgresql_conf(port, &self.socket_dir, &hba)?,
        )?;
        self.write("pg_hba.conf", &options.pg_hba_conf()?)?;
        if let Some(tls) = &options.tls {
            self.write("server.crt", &tls.certificate_pem)?;
            self.write_secret("server.key", &tls.key_pem, account)?;
        }
        if self.throwaway.is_some() {
            // The watchdog, which runs as the account, removes it.
            account.give(&self.path)?;
        }
        Ok(())
    }

    fn write(&self, name: &str, text: &str) -> Result<(), StartError> {
        let path = self.path.join(name);
        fs::write(&path, text)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o644)))
            .map_err(doing(format!("writing {}", path.display())))
    }

    /// Writes a file that only the account may read.
    fn write_secret(&self, name: &str, text: &str, account: &Account) -> Result<(), StartError> {
        let path = self.path.join(name);
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(doing(format!("writing {}", path.display())))?;
        account.give(&path)
    }

    /// An empty folder of the account's own, for initdb. What an interrupted initdb left there is removed.
    pub(crate) fn fresh_data(&self, account: &Account) -> Result<PathBuf, StartError> {
        let path = self.path.join("data.new");
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(doing(format!("removing {}", path.display()))(error));
            }
            _ => private(&path, account)?,
        }
        Ok(path)
    }

    /// Makes the fresh data the data.
    pub(crate) fn adopt_data(&self, fresh: &Path) -> Result<(), StartError> {
        fs::rename(fresh, self.data()).map_err(doing(format!("renaming {}", fresh.display())))
    }

    /// The major version that made the data, if there are any.
    pub(crate) fn data_version(&self) -> Option<u16> {
        fs::read_to_string(self.data().join("PG_VERSION"))
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    pub(crate) fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    pub(crate) fn log(&self) -> &File {
        &self.log
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.path.join("postgres.log")
    }

    /// Bytes in the log so far.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.log
            .metadata()
            .map(|metadata| metadata.len())
            .unwrap_or_default()
    }

    /// The end of the log, at most [`MAX_TAIL_BYTES`], nothing from before `start_bytes`.
    pub(crate) fn log_tail(&self, start_bytes: u64) -> String {
        let start = start_bytes.max(self.log_bytes().saturating_sub(MAX_TAIL_BYTES));
        let mut tail = vec![0; usize::try_from(MAX_TAIL_BYTES).unwrap_or_default()];
        let read = self.log.read_at(&mut tail, start).unwrap_or_default();
        tail.truncate(read);
        String::from_utf8_lossy(&tail).trim().to_owned()
    }

    /// The folder that is to go with the owner.
    pub(crate) fn throwaway(&self) -> Option<&Path> {
        self.throwaway.as_ref().map(TempDir::path)
    }

    /// Leaves the removal of a throwaway folder to the watchdog.
    pub(crate) fn leave_to_watchdog(&mut self) {
        if let Some(folder) = self.throwaway.take() {
            // Kept from our own hands alone.
            let _: PathBuf = folder.keep();
        }
    }
}

fn lock(folder: &Path) -> Result<File, StartError> {
    let path = folder.join("owner.lock");
    let file = File::create(&path).map_err(doing(format!("opening {}", path.display())))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StartError::InUse {
            folder: folder.to_owned(),
        }),
        Err(TryLockError::Error(error)) => Err(doing(format!("locking {}", path.display()))(error)),
    }
}

/// A temporary folder that the account may enter.
fn temporary(prefix: &str, account: &Account) -> Result<TempDir, StartError> {
    let preferred = std::env::temp_dir();
    let reachable = account.barrier(&preferred).is_ok_and(|barrier| barrier.is_none());
    let parent = if reachable {
        preferred
    } else {
        PathBuf::from("/tmp")
    };
    tempfile::Builder::new()
        .prefix(prefix)
        .tempdir_in(&parent)
        .map_err(doing(format!("making a folder in {}", parent.display())))
}

/// Makes a folder, if need be, that only the account may enter.
fn private(path: &Path, account: &Account) -> Result<(), StartError> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(doing(format!("making {}", path.display()))(error));
        }
        _ => {}
    }
    account.give(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
        .map_err(doing(format!("closing {} to others", path.display())))
}

fn make_enterable(path: &Path) -> Result<(), StartError> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(doing(format!(
        "opening {} to the account that runs Postgres",
        path.display()
    )))
}
