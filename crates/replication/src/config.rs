//! Where Postgres is and how to log in.

use percent_encoding::percent_decode_str;
use std::fmt;
use std::path::PathBuf;
use thiserror::Error;
use url::Url;

/// How much TLS is asked for, as in libpq.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SslMode {
    /// None.
    Disable,
    /// If the server offers it, without verification.
    #[default]
    Prefer,
    /// Encrypted, without verification of the certificate.
    Require,
    /// The certificate is signed by a trusted authority.
    VerifyCa,
    /// And is for this host.
    VerifyFull,
}

/// Where to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Host name or address, and port.
    Tcp(String, u16),
    /// The directory of Unix sockets, and the port that is part of the socket's name.
    Unix(PathBuf, u16),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(formatter, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(formatter, "{host}:{port}"),
            Self::Unix(directory, port) => write!(formatter, "{}/.s.PGSQL.{port}", directory.display()),
        }
    }
}

/// Everything needed to connect.
#[derive(Clone)]
pub struct Config {
    /// Where.
    pub endpoint: Endpoint,
    /// Role to log in as.
    pub user: String,
    /// Its password.
    pub password: Option<String>,
    /// Database.
    pub database: String,
    /// TLS.
    pub ssl_mode: SslMode,
    /// File with the certificates of trusted authorities (PEM); the system's if absent.
    pub ssl_root_cert: Option<PathBuf>,
    /// Shown in `pg_stat_replication`.
    pub application_name: String,
    /// Limit for connecting to one address, and again for logging in.
    pub connect_timeout_ms: u64,
    /// Silence after which the kernel asks whether the other side of a TCP connection still exists; 0 for never.
    pub tcp_keepalive_ms: u64,
}

/// The password is not shown.
impl fmt::Debug for Config {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Config")
            .field("endpoint", &self.endpoint)
            .field("user", &self.user)
            .field("database", &self.database)
            .field("ssl_mode", &self.ssl_mode)
            .field("ssl_root_cert", &self.ssl_root_cert)
            .finish_non_exhaustive()
    }
}

/// A connection string that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// No URL at all.
    #[error("it is not a URL: {0}")]
    Url(String),
    /// Another scheme.
    #[error("it must begin with postgres:// or postgresql://")]
    Scheme,
    /// No user.
    #[error("it names no user")]
    NoUser,
    /// Unknown `sslmode`.
    #[error("sslmode {0:?} is not one of disable, allow, prefer, require, verify-ca, verify-full")]
    SslMode(String),
    /// Not a number.
    #[error("{0} must be a whole number")]
    Number(&'static str),
}

impl Config {
    /// Reads `postgres://user:password@host:port/database?sslmode=…&sslrootcert=…`. A host that is a path (percent-
    /// encoded, or given as `?host=/path`) is a directory of Unix sockets. Parameters that mean nothing here are
    /// ignored.
    ///
    /// # Errors
    /// See [`ConfigError`]; no error repeats the string, which holds a password.
    pub fn from_url(text: &str) -> Result<Self, ConfigError> {
        let url = match (Url::parse(text), text.split_once('@')) {
            // libpq lets the host be left out when it is given as a parameter, or is this machine.
            (Err(url::ParseError::EmptyHost), Some((user, rest))) => {
                Url::parse(&format!("{user}@localhost{rest}"))
            }
            (parsed, _) => parsed,
        };
        let url = url.map_err(|error| ConfigError::Url(error.to_string()))?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(ConfigError::Scheme);
        }
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let mut user = decoded(url.username());
        let mut password = url.password().map(decoded);
        let mut host = url
            .host_str()
            .map(|host| decoded(host.trim_start_matches('[').trim_end_matches(']')));
        let mut port = url.port().unwrap_or(5432);
        let mut database = decoded(url.path().trim_start_matches('/'));
        let (mut ssl_mode, mut ssl_root_cert) = (SslMode::default(), None);
        let mut application_name = "walcast".to_owned();
        let mut connect_timeout_ms = 10_000;
        let (mut keepalives, mut tcp_keepalive_ms) = (true, 30_000);
        for (key, value) in url.query_pairs() {
            match &*key {
                "user" => user = value.into_owned(),
                "password" => password = Some(value.into_owned()),
                "host" | "hostaddr" => host = Some(value.into_owned()),
                "port" => port = value.parse().map_err(|_| ConfigError::Number("port"))?,
                "dbname" => database = value.into_owned(),
                "sslmode" | "ssl-mode" => ssl_mode = parse_ssl_mode(&value)?,
                "sslrootcert" | "ssl-root-cert" | "ssl-ca" => {
                    // The word for the system's own, as in libpq.
                    ssl_root_cert = (value != "system").then(|| PathBuf::from(value.into_owned()));
                }
                "application_name" => application_name = value.into_owned(),
                "connect_timeout" => {
                    let seconds: u64 = value
                        .parse()
                        .map_err(|_| ConfigError::Number("connect_timeout"))?;
                    if seconds > 0 {
                        connect_timeout_ms = seconds.saturating_mul(1_000);
                    }
                }
                "keepalives" => keepalives = value != "0",
                "keepalives_idle" => {
                    let seconds: u64 = value
                        .parse()
                        .map_err(|_| ConfigError::Number("keepalives_idle"))?;
                    if seconds > 0 {
                        tcp_keepalive_ms = seconds.saturating_mul(1_000);
                    }
                }
                _ => {}
            }
        }
        if user.is_empty() {
            return Err(ConfigError::NoUser);
        }
        if database.is_empty() {
            database.clone_from(&user);
        }
        let host = host
            .filter(|host| !host.is_empty())
            .unwrap_or_else(|| "localhost".to_owned());
        let endpoint = if host.starts_with('/') {
            Endpoint::Unix(PathBuf::from(host), port)
        } else {
            Endpoint::Tcp(host, port)
        };
        Ok(Self {
            endpoint,
            user,
            password,
            database,
            ssl_mode,
            ssl_root_cert,
            application_name,
            connect_timeout_ms,
            tcp_keepalive_ms: if keepalives { tcp_keepalive_ms } else { 0 },
        })
    }
}

fn parse_ssl_mode(text: &str) -> Result<SslMode, ConfigError> {
    Ok(match text {
        "disable" => SslMode::Disable,
        // libpq's `allow` tries without first; encrypting at once serves the same servers.
        "allow" | "prefer" => SslMode::Prefer,
        "require" => SslMode::Require,
        "verify-ca" => SslMode::VerifyCa,
        "verify-full" => SslMode::VerifyFull,
        other => return Err(ConfigError::SslMode(other.to_owned())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_strings_are_read_as_libpq_reads_them() {
        let read = |text: &str| {
            let config = Config::from_url(text).unwrap();
            (
                config.endpoint.to_string(),
                config.user,
                config.password,
                config.database,
                config.ssl_mode,
            )
        };
        let tcp = |host: &str, password: Option<&str>, database: &str, mode| {
            (
                host.to_owned(),
                "me".to_owned(),
                password.map(str::to_owned),
                database.to_owned(),
                mode,
            )
        };
        assert_eq!(
            read("postgres://me@h/d"),
            tcp("h:5432", None, "d", SslMode::Prefer)
        );
        assert_eq!(
            read("postgresql://me:p%40ss@h:6543/my%20db?sslmode=verify-full&pool=5"),
            tcp("h:6543", Some("p@ss"), "my db", SslMode::VerifyFull)
        );
        assert_eq!(
            read("postgres://me@[::1]:5/"),
            tcp("[::1]:5", None, "me", SslMode::Prefer)
        );
        assert_eq!(
            read("postgres://me@%2Fvar%2Frun/d"),
            tcp("/var/run/.s.PGSQL.5432", None, "d", SslMode::Prefer)
        );
        assert_eq!(
            read("postgres://me@/d?host=/tmp&port=7"),
            tcp("/tmp/.s.PGSQL.7", None, "d", SslMode::Prefer)
        );
    }

    #[test]
    fn unusable_strings_are_refused_without_repeating_them() {
        for (text, error) in [
            ("mysql://u:secret@h/d", ConfigError::Scheme),
            ("postgres://h/d", ConfigError::NoUser),
            (
                "postgres://u:secret@h/d?sslmode=on",
                ConfigError::SslMode("on".to_owned()),
            ),
            (
                "postgres://u:secret@h/d?connect_timeout=x",
                ConfigError::Number("connect_timeout"),
            ),
        ] {
            let refused = Config::from_url(text).unwrap_err();
            assert_eq!(refused, error);
            assert!(!refused.to_string().contains("secret"));
        }
        assert!(!format!("{:?}", Config::from_url("postgres://u:secret@h/d").unwrap()).contains("secret"));
    }
}
