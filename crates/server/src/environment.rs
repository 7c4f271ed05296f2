//! Names of the reference server's environment that have no meaning here.
//!
//! They are accepted so that in an existing stack only the image line changes (`database.md 8.5`).

/// One accepted and ignored name, with the reason.
pub struct Ignored {
    /// The variable.
    pub name: &'static str,
    /// Why it changes nothing.
    pub reason: &'static str,
}

const fn ignored(name: &'static str, reason: &'static str) -> Ignored {
    Ignored { name, reason }
}

const NO_ERLANG: &str = "there is no Erlang virtual machine";
const NO_ERLANG_CLUSTER: &str = "nodes find each other through Redis; see REDIS_URL";
const ONE_PROJECT: &str = "the one configured project answers to any host name";
const NO_COOKIES: &str = "there are no signed cookies";

/// Every name the reference server reads that Walcast accepts and ignores.
pub const IGNORED: &[Ignored] = &[
    ignored("SECRET_KEY_BASE", NO_COOKIES),
    ignored("APP_NAME", ONE_PROJECT),
    ignored("RUN_JANITOR", "old messages are not stored yet"),
    ignored("JANITOR_SCHEDULE_TIMER_IN_MS", "old messages are not stored yet"),
    ignored("JANITOR_SCHEDULE_RANDOMIZE", "old messages are not stored yet"),
    ignored("JANITOR_RUN_AFTER_IN_MS", "old messages are not stored yet"),
    ignored("DB_IP_VERSION", "IPv4 and IPv6 addresses are both tried"),
    ignored("DB_POOL_SIZE", "the pool is small; see WALCAST_POOL_SIZE"),
    ignored("DB_QUEUE_TARGET", "the pool has no queue targets"),
    ignored("DB_QUEUE_INTERVAL", "the pool has no queue targets"),
    ignored("DB_REPLICA_HOST", "there is one database"),
    ignored("DNS_NODES", NO_ERLANG_CLUSTER),
    ignored("CLUSTER_STRATEGIES", NO_ERLANG_CLUSTER),
    ignored("ENABLE_TAILSCALE", NO_ERLANG_CLUSTER),
    ignored("ERL_AFLAGS", NO_ERLANG),
    ignored("RELEASE_COOKIE", NO_ERLANG),
    ignored("RELEASE_DISTRIBUTION", NO_ERLANG),
    ignored("GEN_RPC_TCP_SERVER_PORT", NO_ERLANG),
    ignored("NUM_ACCEPTORS", NO_ERLANG),
    ignored("MAX_CONNECTIONS", "limited by open files alone"),
    ignored(
        "RLIMIT_NOFILE",
        "the soft limit on open files is raised to the hard limit at start",
    ),
    ignored("FLY_ALLOC_ID", NO_ERLANG_CLUSTER),
    ignored("FLY_APP_NAME", NO_ERLANG_CLUSTER),
    ignored("DASHBOARD_AUTH", "there is no dashboard"),
    ignored("DASHBOARD_USER", "there is no dashboard"),
    ignored("DASHBOARD_PASSWORD", "there is no dashboard"),
    ignored("REALTIME_IP_VERSION", "IPv6 and IPv4 are both served"),
];

/// The ignored names that are set, by a look-up such as `std::env::var_os`.
pub fn present(is_set: impl Fn(&str) -> bool) -> Vec<&'static str> {
    IGNORED
        .iter()
        .map(|ignored| ignored.name)
        .filter(|name| is_set(name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn no_name_is_both_a_setting_and_ignored() {
        let command = crate::options::Cli::command();
        for ignored in IGNORED {
            assert!(
                !command
                    .get_arguments()
                    .any(|argument| argument.get_env().is_some_and(|env| env == ignored.name)),
                "{} is read and ignored",
                ignored.name
            );
        }
    }

    #[test]
    fn names_that_are_set_are_found() {
        assert_eq!(
            present(|name| name == "DNS_NODES" || name == "PATH"),
            ["DNS_NODES"]
        );
    }
}
