//! Who runs Postgres: we ourselves, or, since it refuses root, an account without rights.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{StartError, doing};

/// The account Postgres and its tools run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Account {
    /// The one we run as.
    Own,
    /// Another one, because we are root.
    Lesser {
        /// Login name.
        name: String,
        uid: u32,
        gid: u32,
    },
}

impl Account {
    /// Ourselves, or `postgres` or else `nobody` when we are root.
    pub(crate) fn choose() -> Result<Self, StartError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self::Own);
        }
        let users = fs::read_to_string("/etc/passwd").map_err(doing("reading /etc/passwd"))?;
        ["postgres", "nobody"]
            .iter()
            .find_map(|name| Self::in_passwd(&users, name))
            .ok_or(StartError::NoAccount)
    }

    fn in_passwd(users: &str, wanted: &str) -> Option<Self> {
        users.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next().filter(|name| *name == wanted)?;
            let _password = fields.next()?;
            let uid = fields.next()?.parse().ok().filter(|uid| *uid != 0)?;
            let gid = fields.next()?.parse().ok()?;
            Some(Self::Lesser {
                name: name.to_owned(),
                uid,
                gid,
            })
        })
    }

    /// A command that will run as this account. Its working folder must be one the account may enter.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        if let Self::Lesser { uid, gid, .. } = self {
            // With a uid set, root's supplementary groups are dropped too.
            command.uid(*uid).gid(*gid);
        }
        command
    }

    /// Makes a folder, or a file, the account's own.
    pub(crate) fn give(&self, path: &Path) -> Result<(), StartError> {
        match self {
            Self::Own => Ok(()),
            Self::Lesser { name, uid, gid } => std::os::unix::fs::lchown(path, Some(*uid), Some(*gid))
                .map_err(doing(format!("giving {} to user `{name}`", path.display()))),
        }
    }

    /// Whether the account may enter the folder; if not, the first one on the way that is closed to it.
    pub(crate) fn barrier(&self, folder: &Path) -> io::Result<Option<PathBuf>> {
        if *self == Self::Own || self.may_enter(folder)? {
            return Ok(None);
        }
        let mut way: Vec<_> = folder.ancestors().collect();
        way.reverse();
        for step in way {
            if !self.may_enter(step)? {
                return Ok(Some(step.to_owned()));
            }
        }
        Ok(None)
    }

    /// Asks the kernel, which knows more than the mode bits say.
    fn may_enter(&self, folder: &Path) -> io::Result<bool> {
        let status = self
            .command("/bin/sh")
            .args(["-c", "cd -- \"$1\"", "sh"])
            .arg(folder)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        Ok(status.success())
    }

    /// Like [`Account::barrier`], as an error.
    pub(crate) fn require_entry(&self, folder: &Path) -> Result<(), StartError> {
        let barrier = self
            .barrier(folder)
            .map_err(doing("asking who may enter the data folder"))?;
        match (barrier, self) {
            (Some(barrier), Self::Lesser { name, .. }) => Err(StartError::Unreachable {
                folder: folder.to_owned(),
                barrier,
                account: name.clone(),
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_account_is_read_from_passwd_and_root_by_another_name_is_not_taken() {
        let users = "root:x:0:0::/:/bin/sh\nnobody:x:65534:65533::/:\nbroken:x\npostgres:x:0:0::/:\n";
        assert_eq!(
            Account::in_passwd(users, "nobody"),
            Some(Account::Lesser {
                name: "nobody".to_owned(),
                uid: 65534,
                gid: 65533
            })
        );
        for absent in ["postgres", "broken", "nobod", ""] {
            assert_eq!(Account::in_passwd(users, absent), None, "{absent}");
        }
    }

    #[test]
    fn a_closed_parent_is_named_as_the_barrier() {
        let Ok(account @ Account::Lesser { .. }) = Account::choose() else {
            // An ordinary user runs Postgres itself, so nothing can be closed to the account alone.
            return;
        };
        let closed = tempfile::tempdir_in("/tmp").unwrap();
        fs::set_permissions(closed.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let inside = closed.path().join("a/b");
        fs::create_dir_all(&inside).unwrap();
        assert_eq!(account.barrier(&inside).unwrap().as_deref(), Some(closed.path()));
        assert_eq!(account.barrier(Path::new("/")).unwrap(), None);
    }
}
