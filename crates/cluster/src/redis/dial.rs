//! Connections to Redis, to a single one or to a Redis cluster.

use crate::config::{Endpoint, RedisConfig};
use crate::error::ClusterError;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo,
    Pipeline, ProtocolVersion, PushInfo, RedisConnectionInfo, RedisError, RedisFuture, TlsCertificates,
    Value,
};
use std::time::Duration;

/// Why nothing is shared. Each message says what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// Nobody answers.
    #[error("Redis cannot be reached at {address}: {reason}; check REDIS_URL and that it runs")]
    Unreachable {
        /// Host and port, or a socket.
        address: String,
        /// What happened.
        reason: String,
    },
    /// User or password is wrong, or missing.
    #[error("Redis at {address} refuses the login: {reason}; check user and password in REDIS_URL")]
    Login {
        /// Host and port, or a socket.
        address: String,
        /// What it said.
        reason: String,
    },
    /// Too old.
    #[error("Redis at {address} has version {found}, {needed} or newer is needed (Valkey will do)")]
    TooOld {
        /// Host and port, or a socket.
        address: String,
        /// Its version.
        found: String,
        /// What is needed.
        needed: &'static str,
    },
    /// A Redis cluster.
    #[error("Redis at {address} is a node of a Redis cluster: set REDIS_CLUSTER=true")]
    IsCluster {
        /// Host and port.
        address: String,
    },
    /// Not a Redis cluster.
    #[error("Redis at {address} is no Redis cluster: unset REDIS_CLUSTER")]
    IsNoCluster {
        /// Host and port.
        address: String,
    },
    /// The certificates cannot be read.
    #[error("WALCAST_REDIS_CA_FILE cannot be used: {0}")]
    Certificates(String),
}

/// Takes what is pushed on a connection.
pub(crate) type Pushed = std::sync::Arc<dyn Fn(PushInfo) + Send + Sync>;

/// A connection that can be shared by cloning; what its clones send is pipelined.
#[derive(Clone)]
pub(crate) enum Connection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Single(connection) => connection.req_packed_command(cmd),
            Self::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Single(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Single(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

/// Whether the connection is of no use any more.
pub(crate) fn is_broken(error: &RedisError) -> bool {
    error.is_unrecoverable_error()
        || error.is_timeout()
        || error.is_io_error()
        || error.kind() == ErrorKind::ClusterConnectionNotFound
}

/// An error as the rest of the crate knows it.
pub(crate) fn told(error: &RedisError) -> ClusterError {
    match error.kind() {
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => ClusterError::Malformed(error.to_string()),
        _ if is_broken(error) => ClusterError::Away(error.to_string()),
        _ => ClusterError::Refused(error.to_string()),
    }
}

/// What a Redis tells about itself: lines of `name:value`.
pub(crate) struct Info(String);

impl Info {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.0
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
    }
}

/// How to connect.
#[derive(Clone)]
pub(crate) struct Dial {
    info: ConnectionInfo,
    certificates: Option<TlsCertificates>,
    is_cluster: bool,
    reply_timeout: Duration,
}

impl Dial {
    /// Reads what the configuration names.
    pub(crate) fn new(config: &RedisConfig) -> Result<Self, ConnectError> {
        let addr = match &config.endpoint {
            Endpoint::Tcp {
                host,
                port,
                tls: false,
            } => ConnectionAddr::Tcp(host.clone(), *port),
            Endpoint::Tcp {
                host,
                port,
                tls: true,
            } => {
                // The client takes the cryptography of the process; the one that is chosen already will do.
                _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
                ConnectionAddr::TcpTls {
                    host: host.clone(),
                    port: *port,
                    insecure: false,
                    tls_params: None,
                }
            }
            Endpoint::Unix(path) => ConnectionAddr::Unix(path.clone()),
        };
        let mut settings = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP3)
            .set_skip_set_lib_name()
            .set_db(i64::from(config.database));
        if let Some(username) = &config.username {
            settings = settings.set_username(username);
        }
        if let Some(password) = &config.password {
            settings = settings.set_password(password.expose());
        }
        let info = addr
            .into_connection_info()
            .map_err(|error| ConnectError::Unreachable {
                address: format!("{:?}", config.endpoint),
                reason: error.to_string(),
            })?
            .set_redis_settings(settings);
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        let info = info.set_tcp_settings(tcp);
        let certificates = config.ca_file.as_ref().map(|path| {
            let root = std::fs::read(path)
                .map_err(|error| ConnectError::Certificates(format!("{}: {error}", path.display())))?;
            Ok(TlsCertificates {
                client_tls: None,
                root_cert: Some(root),
            })
        });
        let dial = Self {
            info,
            certificates: certificates.transpose()?,
            is_cluster: config.is_cluster,
            reply_timeout: config.reply_timeout,
        };
        if dial.certificates.is_some() {
            dial.client()
                .map_err(|error| ConnectError::Certificates(error.to_string()))?;
        }
        Ok(dial)
    }

    /// Whether topics are spread over several Redis.
    pub(crate) fn is_cluster(&self) -> bool {
        self.is_cluster
    }

    /// Host and port, or a socket.
    pub(crate) fn address(&self) -> String {
        self.info.addr().to_string()
    }

    fn client(&self) -> Result<Client, RedisError> {
        match &self.certificates {
            Some(certificates) => Client::build_with_tls(self.info.clone(), certificates.clone()),
            None => Client::open(self.info.clone()),
        }
    }

    /// Connects; answers may take the usual time, and some more for commands that wait.
    pub(crate) async fn connect(
        &self,
        pushed: Option<Pushed>,
        waits: Duration,
    ) -> Result<Connection, RedisError> {
        let reply_timeout = self.reply_timeout + waits;
        // A Redis that hangs accepts connections and says nothing.
        let limit = self.reply_timeout * 2;
        let connecting = async {
            if self.is_cluster {
                self.connect_cluster(pushed, reply_timeout)
                    .await
                    .map(Connection::Cluster)
            } else {
                self.connect_single(pushed, reply_timeout)
                    .await
                    .map(Connection::Single)
            }
        };
        match tokio::time::timeout(limit, Box::pin(connecting)).await {
            Ok(connected) => connected,
            Err(_) => Err(RedisError::from(std::io::Error::new(
                std::io::ErrorKind::TimedOut,
                format!("no answer within {limit:?}"),
            ))),
        }
    }

    async fn connect_single(
        &self,
        pushed: Option<Pushed>,
        reply_timeout: Duration,
    ) -> Result<MultiplexedConnection, RedisError> {
        let mut config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.reply_timeout))
            .set_response_timeout(Some(reply_timeout));
        if let Some(pushed) = pushed {
            config = config.set_push_sender(move |info: PushInfo| {
                pushed(info);
                Ok::<_, std::convert::Infallible>(())
            });
        }
        self.client()?
            .get_multiplexed_async_connection_with_config(&config)
            .await
    }

    async fn connect_cluster(
        &self,
        pushed: Option<Pushed>,
        reply_timeout: Duration,
    ) -> Result<ClusterConnection, RedisError> {
        let mut builder = ClusterClientBuilder::new([self.info.clone()])
            .use_protocol(ProtocolVersion::RESP3)
            .connection_timeout(self.reply_timeout)
            .response_timeout(reply_timeout)
            .overall_response_timeout(Some(reply_timeout))
            .retries(3);
        if let Some(certificates) = &self.certificates {
            builder = builder.certs(certificates.clone());
        }
        if let Some(pushed) = pushed {
            builder = builder.push_sender(move |info: PushInfo| {
                pushed(info);
                Ok::<_, std::convert::Infallible>(())
            });
        }
        builder.build()?.get_async_connection().await
    }

    /// Connects once, to see whether what answers can be used.
    pub(crate) async fn probe(&self) -> Result<Info, ConnectError> {
        let address = self.address();
        let single = Self {
            is_cluster: false,
            ..self.clone()
        };
        let judge = |error: &RedisError| {
            let reason = error.to_string();
            let is_login = error.kind() == ErrorKind::AuthenticationFailed
                || matches!(error.code(), Some("WRONGPASS" | "NOAUTH" | "NOPERM"));
            if is_login {
                return ConnectError::Login {
                    address: address.clone(),
                    reason,
                };
            }
            ConnectError::Unreachable {
                address: address.clone(),
                reason,
            }
        };
        let mut connection = single
            .connect(None, Duration::ZERO)
            .await
            .map_err(|error| judge(&error))?;
        let info: String = redis::cmd("INFO")
            .arg("everything")
            .query_async(&mut connection)
            .await
            .map_err(|error| judge(&error))?;
        let info = Info(info);
        let is_cluster = info.field("cluster_enabled") == Some("1");
        if self.is_cluster && !is_cluster {
            return Err(ConnectError::IsNoCluster { address });
        }
        let found = info.field("redis_version").unwrap_or("unknown");
        let mut numbers = found.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        let (least, needed) = if self.is_cluster {
            ((7, 0), "7.0")
        } else {
            ((6, 2), "6.2")
        };
        if version < least {
            return Err(ConnectError::TooOld {
                address,
                found: found.to_owned(),
                needed,
            });
        }
        if is_cluster && !self.is_cluster {
            return Err(ConnectError::IsCluster { address });
        }
        Ok(info)
    }
}
