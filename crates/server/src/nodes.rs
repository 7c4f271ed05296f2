//! This process among the other nodes: what the settings say of them, and what is said of them at start.

use std::sync::Arc;

use aws_lc_rs::digest;
use clap::Args;
use walcast_changes::Sharing;
use walcast_cluster::{Cluster, Config, ConfigError, ConnectError};

/// What a tenant's things are called between nodes and in its database, so that those of several do not meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantName(Option<Arc<str>>);

/// The one tenant, as nodes know it.
const ONE: &str = "walcast";

impl TenantName {
    /// Of the one tenant of a server that has no others.
    pub const ONE: Self = Self(None);

    /// Of one among several, by its external id.
    #[must_use]
    pub fn of(external_id: &str) -> Self {
        Self(Some(external_id.into()))
    }

    /// The external id; none if there is one tenant, whatever it is called.
    #[must_use]
    pub fn external_id(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// Whose presences they are.
    pub(crate) fn of_presences(&self) -> &str {
        self.external_id().unwrap_or(ONE)
    }

    /// The name of something of this tenant. An external id has no dot (`protocol.md 1.2`), so no two names are alike.
    pub(crate) fn scoped(&self, name: &str) -> String {
        match self.external_id() {
            Some(id) => format!("{id}.{name}"),
            None => name.to_owned(),
        }
    }

    /// A name that was made with [`Self::scoped`].
    pub(crate) fn unscoped<'a>(&self, scoped: &'a str) -> Option<&'a str> {
        match self.external_id() {
            Some(id) => scoped.strip_prefix(id)?.strip_prefix('.'),
            None => Some(scoped),
        }
    }

    /// The name of something in a database server that several tenants may share: at most 63 lower-case letters, digits
    /// and `_`, as slots have it. Ids that look alike in it differ in the end.
    pub(crate) fn in_postgres(&self, name: &str, longest: usize) -> String {
        let Some(id) = self.external_id() else {
            return name.to_owned();
        };
        let digest = digest::digest(&digest::SHA256, id.as_bytes());
        let tail: String = digest
            .as_ref()
            .iter()
            .take(4)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let plain = |letter: char| {
            if letter.is_ascii_alphanumeric() {
                letter.to_ascii_lowercase()
            } else {
                '_'
            }
        };
        let head: String = name.chars().chain(['_']).chain(id.chars()).map(plain).collect();
        let room = longest.saturating_sub(tail.len() + 1);
        format!("{}_{tail}", head.get(..room).unwrap_or(&head))
    }
}

/// What the command line and the environment may say of other nodes, as raw text.
#[derive(Args, Clone, Default)]
pub struct NodeOptions {
    /// Redis 6.2 or newer (or Valkey), through which several nodes are one server: redis://, rediss:// (TLS) or unix://
    /// [default: there is one node]
    #[arg(long, env = "REDIS_URL", hide_env_values = true, value_name = "URL")]
    pub redis_url: Option<String>,
    /// Whether REDIS_URL names a node of a Redis cluster (version 7 or newer) [default: false]
    #[arg(long, env = "REDIS_CLUSTER", hide_env_values = true, value_name = "BOOL")]
    pub redis_cluster: Option<String>,
    /// Before the name of every key and channel in Redis; nodes that share it belong together [default: walcast:]
    #[arg(
        long,
        env = "WALCAST_REDIS_PREFIX",
        hide_env_values = true,
        value_name = "PREFIX"
    )]
    pub redis_prefix: Option<String>,
    /// Certificates (PEM) to trust for rediss:// instead of the system's
    #[arg(
        long,
        env = "WALCAST_REDIS_CA_FILE",
        hide_env_values = true,
        value_name = "FILE"
    )]
    pub redis_ca_file: Option<String>,
    /// How often a node says that it lives [default: 2000]
    #[arg(long, env = "WALCAST_NODE_BEAT_MS", hide_env_values = true, value_name = "MS")]
    pub node_beat_ms: Option<String>,
    /// A node that has not said so for this long is taken for dead [default: 6000]
    #[arg(
        long,
        env = "WALCAST_NODE_EXPIRY_MS",
        hide_env_values = true,
        value_name = "MS"
    )]
    pub node_expiry_ms: Option<String>,
}

impl NodeOptions {
    /// Judges the settings.
    ///
    /// # Errors
    /// A value that means nothing, with what it may be.
    pub fn judge(&self) -> Result<Config, ConfigError> {
        Config::from_variables(|variable| match variable {
            "REDIS_URL" => self.redis_url.clone(),
            "REDIS_CLUSTER" => self.redis_cluster.clone(),
            "WALCAST_REDIS_PREFIX" => self.redis_prefix.clone(),
            "WALCAST_REDIS_CA_FILE" => self.redis_ca_file.clone(),
            "WALCAST_NODE_BEAT_MS" => self.node_beat_ms.clone(),
            "WALCAST_NODE_EXPIRY_MS" => self.node_expiry_ms.clone(),
            _ => None,
        })
    }
}

/// Takes this node's place among the others. A Redis that is not there yet is waited for beside everything else.
///
/// # Errors
/// What waiting does not cure.
pub async fn join(config: &Config) -> Result<Cluster, ConnectError> {
    let cluster = Box::pin(Cluster::join_when_there(config)).await?;
    let node = cluster.node();
    if config.redis.is_none() {
        tracing::info!("this node is alone; set REDIS_URL to share channels with others");
    } else if cluster.bus().is_connected() {
        tracing::info!(%node, "in touch with the other nodes");
    } else {
        tracing::warn!(%node, "degraded: until Redis answers, this node serves its own clients alone");
    }
    Ok(cluster)
}

/// How this node shares the replication slot of a tenant with the others, if there can be any.
pub fn sharing(cluster: &Arc<Cluster>, config: &Config, tenant: &TenantName) -> Option<Sharing> {
    let redis = config.redis.as_ref()?;
    // Clusters that share a database are told apart by it, as those that share a Redis are.
    let mut sharing = Sharing::new(Arc::clone(cluster), tenant.scoped(&redis.prefix));
    sharing.stream = tenant.scoped(&sharing.stream).into();
    Some(sharing)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::TenantName;
    use crate::options::{Cli, Options};
    use clap::CommandFactory;

    #[test]
    fn things_of_two_tenants_have_two_names() {
        let [one, a, b] = [TenantName::ONE, TenantName::of("a"), TenantName::of("a-b")];
        assert_eq!(
            (one.scoped("events").as_str(), a.scoped("events").as_str()),
            ("events", "a.events")
        );
        assert_eq!(a.unscoped(&a.scoped("x.y")), Some("x.y"));
        assert_eq!(a.unscoped(&b.scoped("x")), None);
        assert_eq!(b.unscoped(&a.scoped("b.x")), None);
    }

    #[test]
    fn a_name_in_postgres_fits_and_is_of_one_tenant() {
        let long = "x".repeat(200);
        let ids = ["a", "A", "a-b", "a_b", "žluť", &long, "", &format!("{long}y")];
        let names: std::collections::BTreeSet<String> = ids
            .iter()
            .map(|id| TenantName::of(id).in_postgres("walcast_changes", 63))
            .collect();
        assert_eq!(names.len(), ids.len());
        for name in names {
            assert!(name.len() <= 63, "{name}");
            assert!(
                name.bytes()
                    .all(|byte| byte == b'_' || byte.is_ascii_lowercase() || byte.is_ascii_digit())
            );
        }
        assert_eq!(
            TenantName::ONE.in_postgres("walcast_changes", 63),
            "walcast_changes"
        );
    }

    /// Each variable that the crate reads, set to what it would refuse.
    #[test]
    fn every_variable_is_an_option() {
        let url = ("REDIS_URL", "redis://h");
        for (variable, wrong) in [
            ("REDIS_URL", "localhost"),
            ("REDIS_CLUSTER", "maybe"),
            ("WALCAST_REDIS_PREFIX", "{"),
            ("WALCAST_REDIS_CA_FILE", "/ca.pem"),
            ("WALCAST_NODE_BEAT_MS", "x"),
            ("WALCAST_NODE_EXPIRY_MS", "x"),
        ] {
            let command = Cli::command();
            assert!(
                command
                    .get_arguments()
                    .any(|argument| argument.get_env().is_some_and(|env| env == variable))
            );
            let options = Options::from_environment([url, (variable, wrong)]).unwrap();
            let error = options.nodes.judge().unwrap_err().to_string();
            assert!(error.contains(variable), "{error}");
        }
    }
}
