//! Where the programs of a Postgres are.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::InstallationError;

/// Oldest major version that is supported (`database.md 1.1`).
const OLDEST: u16 = 14;

/// The programs a cluster needs.
const PROGRAMS: [&str; 3] = ["postgres", "initdb", "pg_ctl"];

/// Where distributions keep several versions side by side: a folder, what precedes the version in the name of a
/// folder inside it, and what leads from there to the programs.
const SIDE_BY_SIDE: [(&str, &str, &str); 5] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/opt/homebrew/opt", "postgresql@", "bin"),
    ("/usr/local/opt", "postgresql@", "bin"),
    // scripts/fetch-postgres, where the project's own folder is closed to the account that runs Postgres.
    ("/opt/walcast/pg", "", "bin"),
];

/// The `bin` folder of an installed Postgres.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    bin: PathBuf,
    major: u16,
}

impl Installation {
    /// Finds a Postgres of this major version, or the newest one.
    ///
    /// Looks, in this order, at the folder that `WALCAST_PG_BIN` names (and nowhere else when it is set), at the
    /// folders in which distributions keep versions side by side, at what `pg_config --bindir` says, at `PATH`, and
    /// at `.walcast/pg/<version>/bin` here or in a folder above.
    ///
    /// # Errors
    /// Nothing suitable is installed; the error lists what was passed over and why.
    pub fn find(version: Option<u16>) -> Result<Self, InstallationError> {
        if let Some(folder) = env::var_os("WALCAST_PG_BIN").filter(|folder| !folder.is_empty()) {
            let folder = PathBuf::from(folder);
            return Self::at(&folder)
                .and_then(|found| found.check(version))
                .map_err(|reason| InstallationError::Configured { folder, reason });
        }
        Self::first_of(candidates(), version)
    }

    fn first_of(
        folders: impl IntoIterator<Item = PathBuf>,
        version: Option<u16>,
    ) -> Result<Self, InstallationError> {
        let mut refused = Vec::new();
        for folder in folders {
            match Self::at(&folder).and_then(|found| found.check(version)) {
                Ok(found) => return Ok(found),
                Err(reason) => refused.push((folder, reason)),
            }
        }
        let wish = version.map_or_else(
            || format!("Postgres {OLDEST} or newer"),
            |major| format!("Postgres {major}"),
        );
        Err(InstallationError::NotFound { wish, refused })
    }

    /// What is in this folder, asked of its `postgres`.
    fn at(folder: &Path) -> Result<Self, String> {
        for program in PROGRAMS {
            if !folder.join(program).is_file() {
                return Err(format!("it has no {program}"));
            }
        }
        let output = Command::new(folder.join("postgres"))
            .arg("--version")
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("its postgres does not run: {error}"))?;
        let answer = String::from_utf8_lossy(&output.stdout);
        let major = major_version(&answer).ok_or_else(|| {
            let complaint = String::from_utf8_lossy(&output.stderr);
            format!(
                "its postgres does not tell its version: {}{}",
                answer.trim(),
                complaint.trim()
            )
        })?;
        Ok(Self {
            bin: folder.to_owned(),
            major,
        })
    }

    fn check(self, version: Option<u16>) -> Result<Self, String> {
        match version {
            Some(wanted) if wanted != self.major => Err(format!("it is version {}", self.major)),
            _ if self.major < OLDEST => Err(format!("it is version {}, older than {OLDEST}", self.major)),
            _ => Ok(self),
        }
    }

    /// Major version, such as 17.
    pub fn major(&self) -> u16 {
        self.major
    }

    /// The folder of its programs.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// The path of one of its programs.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }
}

/// Folders that exist and may hold the programs, best first.
fn candidates() -> impl Iterator<Item = PathBuf> {
    let project_folders = env::current_dir()
        .map(|here| {
            here.ancestors()
                .map(|above| above.join(".walcast/pg"))
                .collect::<Vec<_>>()
        })
        .unwrap_or_default();
    SIDE_BY_SIDE
        .iter()
        .flat_map(|(folder, prefix, rest)| newest_first(Path::new(folder), prefix, rest))
        .chain(std::iter::once_with(pg_config).flatten())
        .chain(
            env::var_os("PATH")
                .iter()
                .flat_map(env::split_paths)
                .collect::<Vec<_>>(),
        )
        .chain(
            project_folders
                .into_iter()
                .flat_map(|folder| newest_first(&folder, "", "bin")),
        )
        .filter(|folder| folder.join("postgres").exists())
}

/// `<folder>/<prefix><version>/<rest>` for the versions there are, newest first.
fn newest_first(folder: &Path, prefix: &str, rest: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut versions: Vec<u16> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok())
        .collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    versions
        .into_iter()
        .map(|version| folder.join(format!("{prefix}{version}")).join(rest))
        .collect()
}

fn pg_config() -> Option<PathBuf> {
    let output = Command::new("pg_config")
        .arg("--bindir")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let folder = output.stdout.trim_ascii();
    use std::os::unix::ffi::OsStrExt;
    (output.status.success() && !folder.is_empty()).then(|| PathBuf::from(OsStr::from_bytes(folder)))
}

/// The 17 of `postgres (PostgreSQL) 17.2 (Debian 17.2-1)`, `18beta1` counting as 18.
fn major_version(answer: &str) -> Option<u16> {
    let version = answer.split_once("(PostgreSQL)")?.1.trim_start();
    let digits = version
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(version.len());
    version.get(..digits)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn pretend(folder: &Path, answer: &str) {
        fs::create_dir_all(folder).unwrap();
        for program in PROGRAMS {
            let path = folder.join(program);
            fs::write(&path, format!("#!/bin/sh\necho '{answer}'\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    #[test]
    fn the_major_version_is_read_from_what_postgres_says() {
        for (answer, major) in [
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", Some(15)),
            ("postgres (PostgreSQL) 18beta1\n", Some(18)),
            ("postgres (PostgreSQL) 14", Some(14)),
            ("postgres (PostgreSQL) devel", None),
            ("postgres (EnterpriseDB) 14.1", None),
            ("postgres (PostgreSQL) 99999999999", None),
            ("", None),
        ] {
            assert_eq!(major_version(answer), major, "{answer}");
        }
    }

    #[test]
    fn versions_are_ordered_as_numbers() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["pg9", "pg14", "pg100", "pgx", "15"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let found = newest_first(folder.path(), "pg", "bin");
        assert_eq!(
            found,
            ["pg100/bin", "pg14/bin", "pg9/bin"].map(|name| folder.path().join(name))
        );
    }

    #[test]
    fn a_wished_version_is_found_behind_others_and_a_missing_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let folders = ["a", "b", "c"].map(|name| folder.path().join(name));
        fs::create_dir(&folders[0]).unwrap();
        pretend(&folders[1], "postgres (PostgreSQL) 13.1");
        pretend(&folders[2], "postgres (PostgreSQL) 16.1");

        let newest = Installation::first_of(folders.clone(), None).unwrap();
        assert_eq!((newest.bin(), newest.major()), (folders[2].as_path(), 16));
        assert_eq!(Installation::first_of(folders.clone(), Some(16)).unwrap(), newest);

        let missing = Installation::first_of(folders.clone(), Some(17))
            .unwrap_err()
            .to_string();
        for part in [
            "no Postgres 17 is installed",
            "it has no postgres",
            "it is version 13",
            "it is version 16",
        ] {
            assert!(missing.contains(part), "{part}: {missing}");
        }
    }
}
