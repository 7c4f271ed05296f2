//! This process among the other nodes: what the settings say of them, and what is said of them at start.

use std::sync::Arc;

use clap::Args;
use walcast_changes::Sharing;
use walcast_cluster::{Cluster, Config, ConfigError, ConnectError};

/// The tenant of a server that has one, as nodes know it.
pub const TENANT: &str = "walcast";

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

/// How this node shares one replication slot with the others, if there can be any.
pub fn sharing(cluster: &Arc<Cluster>, config: &Config) -> Option<Sharing> {
    let redis = config.redis.as_ref()?;
    // Clusters that share a database are told apart by it, as those that share a Redis are.
    Some(Sharing::new(Arc::clone(cluster), redis.prefix.clone()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use crate::options::{Cli, Options};
    use clap::CommandFactory;

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
