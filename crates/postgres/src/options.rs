//! What a cluster is to be like.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::StartError;

/// The TCP port on 127.0.0.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// This one, or an error when it is taken.
    Fixed(u16),
    /// Any that is free. It stays the same over restarts.
    Free,
}

/// What becomes of a cluster when its owner is done with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keep {
    /// The data stay in this folder, for the next start. Only one process at a time may run it.
    Folder(PathBuf),
    /// The data live in a temporary folder that goes with the owner. Nothing is flushed to disk: a crash of the
    /// machine loses it all.
    Nothing,
}

/// A server certificate, with which a cluster takes TLS connections too.
#[derive(Clone)]
pub struct Tls {
    /// The certificate, and those of its issuers if need be, as PEM.
    pub certificate_pem: String,
    /// Its private key, as PEM.
    pub key_pem: String,
}

impl fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Tls")
            .field("certificate_pem", &self.certificate_pem)
            .finish_non_exhaustive()
    }
}

/// What a cluster is to be like.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the data live, and for how long.
    pub keep: Keep,
    /// Major version, such as 17. `None`: the one that made the data, else the newest installed.
    pub version: Option<u16>,
    /// The port to listen on.
    pub port: Port,
    /// Name of the superuser that initdb makes.
    pub superuser: String,
    /// Settings for `postgresql.conf`, which win over the defaults of this crate; values unquoted.
    pub settings: Vec<(String, String)>,
    /// Lines for `pg_hba.conf` that come before the defaults of this crate.
    pub hba: Vec<String>,
    /// Let everyone in over TCP without a password. Else TCP asks for one (scram-sha-256), and only the socket,
    /// whose folder belongs to the owner, does not.
    pub trust_tcp: bool,
    /// Take TLS connections, beside plain ones, with this certificate.
    pub tls: Option<Tls>,
}

impl Options {
    /// A cluster that stays in a folder, with its superuser `supabase_admin`, on any free port.
    #[must_use]
    pub fn kept_in(folder: impl Into<PathBuf>) -> Self {
        Self::new(Keep::Folder(folder.into()))
    }

    /// A cluster that goes with its owner, with its superuser `supabase_admin`, on any free port.
    #[must_use]
    pub fn throwaway() -> Self {
        Self::new(Keep::Nothing)
    }

    fn new(keep: Keep) -> Self {
        Self {
            keep,
            version: None,
            port: Port::Free,
            superuser: "supabase_admin".to_owned(),
            settings: Vec::new(),
            hba: Vec::new(),
            trust_tcp: false,
            tls: None,
        }
    }

    /// Adds a setting.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// The text of `postgresql.conf`, which takes over initdb's own by inclusion.
    pub(crate) fn postgresql_conf(
        &self,
        port: u16,
        socket_dir: &Path,
        hba: &Path,
    ) -> Result<String, StartError> {
        let mut text = "# Written by walcast at each start. For changes of your own use ALTER SYSTEM.\n\
                        include 'data/postgresql.conf'\n"
            .to_owned();
        let own = [
            ("listen_addresses", "127.0.0.1"),
            ("unix_socket_directories", &*socket_dir.to_string_lossy()),
            ("hba_file", &*hba.to_string_lossy()),
            ("unix_socket_permissions", "0777"),
            ("timezone", "UTC"),
            ("log_timezone", "UTC"),
            ("wal_level", "logical"),
            ("max_wal_senders", "10"),
            ("max_replication_slots", "10"),
            ("cluster_name", "walcast"),
            // The log is the file that the watchdog was given.
            ("logging_collector", "off"),
            ("log_destination", "stderr"),
        ];
        // Commits stay synchronous: without a flush to disk that costs little, and replication only sends what counts
        // as flushed.
        let unflushed = [("fsync", "off"), ("full_page_writes", "off")];
        let unflushed = if self.keep == Keep::Nothing {
            unflushed.as_slice()
        } else {
            &[]
        };
        // Relative to the data folder.
        let tls = [
            ("ssl", "on"),
            ("ssl_cert_file", "../server.crt"),
            ("ssl_key_file", "../server.key"),
        ];
        let tls = if self.tls.is_some() { tls.as_slice() } else { &[] };
        for (name, value) in own.iter().chain(unflushed).chain(tls) {
            write_setting(&mut text, name, value)?;
        }
        for (name, value) in &self.settings {
            write_setting(&mut text, name, value)?;
        }
        write_setting(&mut text, "port", &port.to_string())?;
        Ok(text)
    }

    /// The text of `pg_hba.conf`.
    pub(crate) fn pg_hba_conf(&self) -> Result<String, StartError> {
        let mut text = "# Written by walcast at each start.\n".to_owned();
        for line in &self.hba {
            if line.contains(['\n', '\r']) {
                return Err(StartError::Setting { name: line.clone() });
            }
            text.push_str(line);
            text.push('\n');
        }
        let tcp = if self.trust_tcp { "trust" } else { "scram-sha-256" };
        for database in ["all", "replication"] {
            text.push_str(&format!(
                "local {database} all trust\nhost {database} all 127.0.0.1/32 {tcp}\n"
            ));
        }
        Ok(text)
    }
}

fn write_setting(text: &mut String, name: &str, value: &str) -> Result<(), StartError> {
    let is_name = !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
    if !is_name || value.contains(['\n', '\r', '\0']) {
        return Err(StartError::Setting {
            name: name.to_owned(),
        });
    }
    // A backslash escapes in a quoted value of this file.
    let value = value.replace('\\', "\\\\").replace('\'', "''");
    text.push_str(&format!("{name} = '{value}'\n"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_settings_win_and_values_are_quoted() {
        let options = Options::throwaway()
            .setting("wal_level", "replica")
            .setting("a.b", r"it's \ odd");
        let text = options
            .postgresql_conf(5555, Path::new("/run"), Path::new("/hba"))
            .unwrap();
        let lines: Vec<_> = text.lines().collect();
        let position = |line| lines.iter().position(|at| *at == line).unwrap();
        assert!(position("wal_level = 'logical'") < position("wal_level = 'replica'"));
        position(r"a.b = 'it''s \\ odd'");
        position("fsync = 'off'");
    }

    #[test]
    fn a_kept_cluster_flushes_to_disk() {
        assert!(
            !Options::kept_in("/x")
                .postgresql_conf(1, Path::new("/run"), Path::new("/hba"))
                .unwrap()
                .contains("fsync")
        );
    }

    #[test]
    fn a_setting_or_hba_line_cannot_smuggle_in_another_line() {
        for (name, value) in [
            ("a\nb", "1"),
            ("", "1"),
            ("a b", "1"),
            ("a", "1\nb = 2"),
            ("a", "1\r2"),
        ] {
            let options = Options::throwaway().setting(name, value);
            assert!(
                matches!(
                    options.postgresql_conf(1, Path::new("/run"), Path::new("/hba")),
                    Err(StartError::Setting { .. })
                ),
                "{name:?}"
            );
        }
        let mut options = Options::throwaway();
        options
            .hba
            .push("local all all trust\nhost all all all trust".to_owned());
        assert!(matches!(options.pg_hba_conf(), Err(StartError::Setting { .. })));
    }

    #[test]
    fn hba_lines_of_the_options_come_first_because_the_first_match_decides() {
        let mut options = Options::throwaway();
        options.hba.push("host all alice all reject".to_owned());
        let text = options.pg_hba_conf().unwrap();
        assert!(text.find("alice").unwrap() < text.find("host all all").unwrap());
        assert!(text.contains("host all all 127.0.0.1/32 scram-sha-256"));
    }
}
