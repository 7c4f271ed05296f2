//! How to reach the other nodes, from the environment.

use percent_encoding::percent_decode_str;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use url::Url;

/// Why the configuration was refused. Each message names the variable; none repeats a value that may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value that means nothing.
    #[error("{variable} must be {expected}, but is `{value}`")]
    Invalid {
        /// The variable.
        variable: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it was.
        value: String,
    },
    /// A URL that means nothing.
    #[error("REDIS_URL must be a URL such as redis://user:password@host:6379/0 or rediss://host:6380: {0}")]
    Url(&'static str),
    /// Settings that do not go together.
    #[error("{0}")]
    Contradiction(&'static str),
}

/// Text that must not be seen in a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// The text itself, for the one place that needs it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("(hidden)")
    }
}

/// Where Redis listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// TCP.
    Tcp {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
        /// Whether TLS is spoken (`rediss://`).
        tls: bool,
    },
    /// A Unix socket (`unix:///run/redis.sock`).
    Unix(PathBuf),
}

/// How to reach Redis 6.2 or newer, or Valkey, and what to call things there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisConfig {
    /// Where it listens; in a Redis cluster, one node of it.
    pub endpoint: Endpoint,
    /// The user, if there are several.
    pub username: Option<String>,
    /// The password, if there is one.
    pub password: Option<Password>,
    /// The database number.
    pub database: u16,
    /// Before the name of every key and channel.
    pub prefix: String,
    /// Whether this is a Redis cluster, version 7 or newer: topics are then spread over its nodes.
    pub is_cluster: bool,
    /// Certificates (PEM) to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// An answer that takes longer is given up, and the connection with it.
    pub reply_timeout: Duration,
}

/// When a node is taken for dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vitality {
    /// A node says this often that it lives.
    pub beat: Duration,
    /// A node that has not said so for this long is dead.
    pub expiry: Duration,
}

impl Default for Vitality {
    fn default() -> Self {
        Self {
            beat: Duration::from_secs(2),
            expiry: Duration::from_secs(6),
        }
    }
}

/// How nodes share.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// None: there is one node.
    pub redis: Option<RedisConfig>,
    /// When a node is taken for dead.
    pub vitality: Vitality,
}

const URL: &str = "REDIS_URL";
const CLUSTER: &str = "REDIS_CLUSTER";
const PREFIX: &str = "WALCAST_REDIS_PREFIX";
const CA_FILE: &str = "WALCAST_REDIS_CA_FILE";
const BEAT: &str = "WALCAST_NODE_BEAT_MS";
const EXPIRY: &str = "WALCAST_NODE_EXPIRY_MS";
const MAX_PREFIX_BYTES: usize = 64;

impl Config {
    /// Judges the environment, by a look-up such as `|name| std::env::var(name).ok()`: `REDIS_URL`, `REDIS_CLUSTER`,
    /// `WALCAST_REDIS_PREFIX` (`walcast:`), `WALCAST_REDIS_CA_FILE`, `WALCAST_NODE_BEAT_MS` (2000) and
    /// `WALCAST_NODE_EXPIRY_MS` (6000). An empty variable counts as none.
    ///
    /// # Errors
    /// A value that means nothing, with what it may be.
    pub fn from_variables(look_up: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let text = |variable: &str| {
            let value = look_up(variable)?.trim().to_owned();
            (!value.is_empty()).then_some(value)
        };
        let milliseconds = |variable: &'static str, default: Duration| match text(variable) {
            None => Ok(default),
            Some(value) => match value.parse::<u64>() {
                Ok(ms @ 50..=600_000) => Ok(Duration::from_millis(ms)),
                _ => Err(ConfigError::Invalid {
                    variable,
                    expected: "a whole number of milliseconds from 50 to 600000",
                    value,
                }),
            },
        };
        let default = Vitality::default();
        let vitality = Vitality {
            beat: milliseconds(BEAT, default.beat)?,
            expiry: milliseconds(EXPIRY, default.expiry)?,
        };
        if vitality.expiry < vitality.beat * 2 {
            return Err(ConfigError::Contradiction(
                "WALCAST_NODE_EXPIRY_MS must be at least twice WALCAST_NODE_BEAT_MS, \
                 or a node is taken for dead when one beat is late",
            ));
        }
        let is_cluster = match text(CLUSTER).map(|value| value.to_ascii_lowercase()).as_deref() {
            None | Some("false" | "0" | "no" | "off") => false,
            Some("true" | "1" | "yes" | "on") => true,
            Some(value) => {
                return Err(ConfigError::Invalid {
                    variable: CLUSTER,
                    expected: "true or false",
                    value: value.to_owned(),
                });
            }
        };
        let prefix = text(PREFIX).unwrap_or_else(|| "walcast:".to_owned());
        let is_plain =
            |c: char| c.is_ascii_graphic() && !matches!(c, '{' | '}' | '*' | '?' | '[' | ']' | '\\');
        if prefix.len() > MAX_PREFIX_BYTES || !prefix.chars().all(is_plain) {
            return Err(ConfigError::Invalid {
                variable: PREFIX,
                expected: "at most 64 ASCII characters without spaces, braces, brackets, *, ? and \\",
                value: prefix,
            });
        }
        let Some(url) = text(URL) else {
            if is_cluster {
                return Err(ConfigError::Contradiction(
                    "REDIS_CLUSTER is set but REDIS_URL is not: set REDIS_URL to one node of the Redis cluster",
                ));
            }
            return Ok(Self {
                redis: None,
                vitality,
            });
        };
        let mut redis = RedisConfig::from_url(&url)?;
        redis.prefix = prefix;
        redis.is_cluster = is_cluster;
        redis.ca_file = text(CA_FILE).map(PathBuf::from);
        if redis.is_cluster && redis.database != 0 {
            return Err(ConfigError::Contradiction(
                "REDIS_URL names a database, but a Redis cluster (REDIS_CLUSTER) has number 0 alone: leave it out and \
                 set WALCAST_REDIS_PREFIX instead",
            ));
        }
        if redis.is_cluster && matches!(redis.endpoint, Endpoint::Unix(_)) {
            return Err(ConfigError::Contradiction(
                "REDIS_CLUSTER needs a REDIS_URL with host and port, for the nodes of a Redis cluster tell each \
                 other's addresses",
            ));
        }
        if redis.ca_file.is_some() && !matches!(redis.endpoint, Endpoint::Tcp { tls: true, .. }) {
            return Err(ConfigError::Contradiction(
                "WALCAST_REDIS_CA_FILE is set but REDIS_URL does not begin with rediss://, so no certificate is checked",
            ));
        }
        Ok(Self {
            redis: Some(redis),
            vitality,
        })
    }
}

impl RedisConfig {
    /// Judges a URL: `redis://`, `rediss://` (TLS), `unix://`, with user, password and database number if there are.
    ///
    /// # Errors
    /// What is wrong with it, without repeating it.
    pub fn from_url(text: &str) -> Result<Self, ConfigError> {
        let refuse = ConfigError::Url;
        let url = Url::parse(text).map_err(|_| {
            refuse("this is no URL; is a ?, # or / in the password written as %3F, %23 or %2F?")
        })?;
        if url.query().is_some() || url.fragment().is_some() {
            return Err(refuse("nothing may follow ? or #"));
        }
        let decoded = |part: &str| {
            percent_decode_str(part)
                .decode_utf8()
                .map(std::borrow::Cow::into_owned)
                .map_err(|_| refuse("what is escaped with % is no UTF-8"))
        };
        let filled = |part: String| (!part.is_empty()).then_some(part);
        let (endpoint, database) = match url.scheme() {
            scheme @ ("redis" | "rediss") => {
                let host = url.host_str().filter(|host| !host.is_empty());
                let host = host.ok_or(refuse("it names no host"))?;
                let host = host.trim_start_matches('[').trim_end_matches(']');
                let endpoint = Endpoint::Tcp {
                    host: decoded(host)?,
                    port: url.port().unwrap_or(6379),
                    tls: scheme == "rediss",
                };
                let path = url.path().trim_start_matches('/');
                let database = match path {
                    "" => 0,
                    number => number
                        .parse()
                        .map_err(|_| refuse("after the host comes the number of a database, such as /0"))?,
                };
                (endpoint, database)
            }
            "unix" | "redis+unix" => {
                let path = decoded(url.path())?;
                if path.is_empty() || path == "/" {
                    return Err(refuse("it names no socket, as unix:///run/redis.sock does"));
                }
                (Endpoint::Unix(path.into()), 0)
            }
            _ => return Err(refuse("it must begin with redis://, rediss:// or unix://")),
        };
        Ok(Self {
            endpoint,
            username: filled(decoded(url.username())?),
            password: filled(decoded(url.password().unwrap_or_default())?).map(Password),
            database,
            prefix: "walcast:".to_owned(),
            is_cluster: false,
            ca_file: None,
            reply_timeout: Duration::from_secs(2),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::from_variables(|name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn without_a_url_there_is_one_node() {
        assert_eq!(judge(&[]), Ok(Config::default()));
        assert_eq!(judge(&[("REDIS_URL", " ")]), Ok(Config::default()));
    }

    #[test]
    fn urls_name_host_user_password_and_database() {
        let tcp = |host: &str, port, tls| Endpoint::Tcp {
            host: host.to_owned(),
            port,
            tls,
        };
        let cases = [
            ("redis://redis:6379", tcp("redis", 6379, false), None, None, 0),
            ("redis://10.0.0.1", tcp("10.0.0.1", 6379, false), None, None, 0),
            ("redis://[::1]:7000/3", tcp("::1", 7000, false), None, None, 3),
            (
                "rediss://u:p%40ss%2F@r.example:6380/1",
                tcp("r.example", 6380, true),
                Some("u"),
                Some("p@ss/"),
                1,
            ),
            (
                "redis://:secret@h/",
                tcp("h", 6379, false),
                None,
                Some("secret"),
                0,
            ),
            (
                "unix:///run/redis.sock",
                Endpoint::Unix("/run/redis.sock".into()),
                None,
                None,
                0,
            ),
        ];
        for (url, endpoint, username, password, database) in cases {
            let found = RedisConfig::from_url(url).unwrap();
            assert_eq!(found.endpoint, endpoint, "{url}");
            assert_eq!(found.username.as_deref(), username, "{url}");
            assert_eq!(found.password.as_ref().map(Password::expose), password, "{url}");
            assert_eq!(found.database, database, "{url}");
        }
    }

    #[test]
    fn what_means_nothing_is_refused_with_a_remedy() {
        let url = ("REDIS_URL", "redis://h");
        let cases: [(&[(&str, &str)], &str); 14] = [
            (&[("REDIS_URL", "localhost")], "this is no URL"),
            (&[("REDIS_URL", "http://h")], "redis://"),
            (&[("REDIS_URL", "redis://h/db")], "the number of a database"),
            (&[("REDIS_URL", "redis://h/70000")], "the number of a database"),
            (&[("REDIS_URL", "redis://:a?b@h")], "%3F"),
            (&[("REDIS_URL", "redis://h?protocol=2")], "nothing may follow ?"),
            (&[("REDIS_URL", "unix:///")], "names no socket"),
            (
                &[url, ("REDIS_CLUSTER", "maybe")],
                "REDIS_CLUSTER must be true or false, but is `maybe`",
            ),
            (&[("REDIS_CLUSTER", "true")], "set REDIS_URL"),
            (
                &[("REDIS_URL", "redis://h/2"), ("REDIS_CLUSTER", "1")],
                "WALCAST_REDIS_PREFIX",
            ),
            (&[url, ("WALCAST_REDIS_PREFIX", "a{b}")], "without spaces, braces"),
            (&[url, ("WALCAST_REDIS_CA_FILE", "/ca.pem")], "rediss://"),
            (&[url, ("WALCAST_NODE_BEAT_MS", "2s")], "milliseconds"),
            (&[url, ("WALCAST_NODE_BEAT_MS", "4000")], "at least twice"),
        ];
        for (variables, part) in cases {
            let error = judge(variables).unwrap_err().to_string();
            assert!(error.contains(part), "{variables:?}: {error}");
        }
    }

    #[test]
    fn no_password_is_shown() {
        let config = judge(&[("REDIS_URL", "redis://u:hunter2@h")]).unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
        let error = judge(&[("REDIS_URL", "redis://u:hunter2@h/x")]).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}
