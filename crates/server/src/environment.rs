//! Names of the reference server's environment that have no meaning here.
//!
//! They are accepted so that in an existing stack only the image line changes (`database.md 8.5`).

use std::ffi::OsStr;

use clap::{Args, Command};

use crate::control::TenantOptions;

/// One accepted and ignored name, with the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ignored {
    /// The variable; with a `*` at its end, all that begin so.
    pub name: &'static str,
    /// Why it changes nothing.
    pub reason: &'static str,
}

impl Ignored {
    /// Whether this is the variable, or one of them.
    pub fn is(&self, variable: &str) -> bool {
        match self.name.strip_suffix('*') {
            Some(start) => variable.starts_with(start),
            None => variable == self.name,
        }
    }
}

const fn ignored(name: &'static str, reason: &'static str) -> Ignored {
    Ignored { name, reason }
}

const NO_ERLANG: &str = "there is no Erlang virtual machine";
const NO_ERLANG_CLUSTER: &str = "nodes find each other through Redis; see REDIS_URL";
const ONE_PROJECT: &str = "the one configured project answers to any host name";
const NO_COOKIES: &str = "there are no signed cookies";
const NO_DASHBOARD: &str = "there is no dashboard";
const NO_PUSHER: &str = "figures are fetched from /metrics, and not pushed";
const NO_QUEUE_TARGETS: &str = "the pool has no queue targets";
const NO_TRACES: &str = "there are no traces";
const NO_RECORDS: &str = "there is one tenant, and no records of any; see WALCAST_TENANTS";
const ONE_DATABASE: &str = "there is one database";
const SELF_KEPT: &str = "partitions of messages are looked after by themselves, every ten minutes";
const TO_STANDARD_ERROR: &str = "the log goes to standard error";

/// Every name the reference server reads that Walcast accepts and ignores.
pub const IGNORED: &[Ignored] = &[
    ignored("APP_NAME", ONE_PROJECT),
    ignored("BROADCAST_POOL_SIZE", NO_ERLANG),
    ignored("CF_TEAM_DOMAIN", NO_DASHBOARD),
    ignored("CLUSTER_STRATEGIES", NO_ERLANG_CLUSTER),
    ignored("CONNECT_PARTITION_SLOTS", NO_ERLANG),
    ignored("DASHBOARD_AUTH", NO_DASHBOARD),
    ignored("DASHBOARD_PASSWORD", NO_DASHBOARD),
    ignored("DASHBOARD_USER", NO_DASHBOARD),
    ignored("DB_HOST_REPLICA_*", ONE_DATABASE),
    ignored("DB_IP_VERSION", "IPv4 and IPv6 addresses are both tried"),
    ignored("DB_MASTER_REGION", ONE_DATABASE),
    ignored("DB_POOL_SIZE", "the pool is small; see WALCAST_POOL_SIZE"),
    ignored("DB_QUEUE_INTERVAL", NO_QUEUE_TARGETS),
    ignored("DB_QUEUE_TARGET", NO_QUEUE_TARGETS),
    ignored("DB_REPLICA_*", ONE_DATABASE),
    ignored("DISABLE_HEALTHCHECK_LOGGING", "health checks are not logged"),
    ignored("DNS_NODES", NO_ERLANG_CLUSTER),
    ignored("ENABLE_TAILSCALE", NO_ERLANG_CLUSTER),
    ignored("ERL_AFLAGS", NO_ERLANG),
    ignored("FLY_ALLOC_ID", NO_ERLANG_CLUSTER),
    ignored("FLY_APP_NAME", NO_ERLANG_CLUSTER),
    ignored("GEN_RPC_*", NO_ERLANG_CLUSTER),
    ignored("JANITOR_*", SELF_KEPT),
    ignored("LOGFLARE_*", TO_STANDARD_ERROR),
    ignored("LOGS_ENGINE", TO_STANDARD_ERROR),
    ignored("MAX_CONNECTIONS", "limited by open files alone"),
    ignored("MAX_GEN_RPC_*", NO_ERLANG_CLUSTER),
    ignored("METRICS_CLEANER_SCHEDULE_TIMER_IN_MS", NO_ERLANG),
    ignored("METRICS_PUSHER_*", NO_PUSHER),
    ignored("METRICS_RPC_TIMEOUT_IN_MS", NO_ERLANG_CLUSTER),
    ignored("MIGRATION_PARTITION_SLOTS", NO_ERLANG),
    ignored("NODE_BALANCE_UPTIME_THRESHOLD_IN_MS", NO_ERLANG_CLUSTER),
    ignored("NUM_ACCEPTORS", NO_ERLANG),
    ignored("OTEL_*", NO_TRACES),
    ignored("POSTGRES_CDC_SCOPE_SHARDS", NO_ERLANG),
    ignored("PRESENCE_BROADCAST_PERIOD_IN_MS", NO_ERLANG_CLUSTER),
    ignored("PRESENCE_PERMDOWN_PERIOD_IN_MS", NO_ERLANG_CLUSTER),
    ignored("PRESENCE_POOL_SIZE", NO_ERLANG),
    ignored("PROM_POLL_RATE", "figures are counted as they arise"),
    ignored("REALTIME_IP_VERSION", "IPv6 and IPv4 are both served"),
    ignored("REBALANCE_CHECK_INTERVAL_IN_MS", NO_ERLANG_CLUSTER),
    ignored("REGION_MAPPING", ONE_DATABASE),
    ignored("RELEASE_COOKIE", NO_ERLANG),
    ignored("RELEASE_DISTRIBUTION", NO_ERLANG),
    ignored("REQUEST_ID_BAGGAGE_KEY", "the key is request-id"),
    ignored("RUN_JANITOR", SELF_KEPT),
    ignored("SECRET_KEY_BASE", NO_COOKIES),
    ignored(
        "SLOT_NAME_SUFFIX",
        "temporary slots have names of their own; see WALCAST_SLOT_NAME",
    ),
    ignored("USERS_SCOPE_SHARDS", NO_ERLANG),
    ignored(
        "WEBSOCKET_MAX_HEAP_SIZE",
        "what waits for a socket is bounded by WALCAST_QUEUE_BYTES",
    ),
];

/// Why a variable changes nothing; none if it does, or is none of ours.
pub fn reason(variable: &str) -> Option<&'static str> {
    IGNORED
        .iter()
        .find(|ignored| ignored.is(variable))
        .map(|ignored| ignored.reason)
}

/// Whether a variable says how tenants are recorded, so that it means nothing where there is one.
fn is_of_records(variable: &str) -> bool {
    TenantOptions::augment_args(Command::new("tenants"))
        .get_arguments()
        .filter_map(clap::Arg::get_env)
        .any(|env| env == variable && env != "WALCAST_TENANTS")
}

/// Says once, in one line, which of the variables that are set change nothing, and in further ones why, for those who
/// ask (`LOG_LEVEL=debug`).
pub fn tell_ignored(has_records: bool) {
    let mut present = present(std::env::vars_os(), has_records);
    present.sort_unstable();
    if present.is_empty() {
        return;
    }
    for (variable, reason) in &present {
        tracing::debug!(variable, reason, "changes nothing here");
    }
    let names: Vec<&str> = present.iter().map(|(variable, _)| variable.as_str()).collect();
    tracing::info!(
        variables = names.join(", "),
        "set for the Elixir server, and without a meaning here; docs/supabase.md says why"
    );
}

/// The ignored variables among those that are set to something, with the reasons.
fn present(
    variables: impl IntoIterator<Item = (impl AsRef<OsStr>, impl AsRef<OsStr>)>,
    has_records: bool,
) -> Vec<(String, &'static str)> {
    variables
        .into_iter()
        .filter(|(_, value)| !value.as_ref().is_empty())
        .filter_map(|(name, _)| {
            let name = name.as_ref().to_str()?;
            let without_records = || (!has_records && is_of_records(name)).then_some(NO_RECORDS);
            Some((name.to_owned(), reason(name).or_else(without_records)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn no_name_is_both_a_setting_and_ignored() {
        for argument in crate::options::Cli::command().get_arguments() {
            if let Some(env) = argument.get_env() {
                assert_eq!(
                    reason(&env.to_string_lossy()),
                    None,
                    "{} is read and ignored",
                    env.display()
                );
            }
        }
    }

    #[test]
    fn names_that_are_set_are_found() {
        let set = [
            ("DNS_NODES", "''"),
            ("PATH", "/bin"),
            ("SECRET_KEY_BASE", ""),
            ("GEN_RPC_TCP_SERVER_PORT", "5369"),
            ("DB_HOST", "db"),
            ("DB_ENC_KEY", "supabaserealtime"),
            ("WALCAST_TENANTS", "one"),
        ];
        let found = |name: &str, reason| (name.to_owned(), reason);
        let always = [
            found("DNS_NODES", NO_ERLANG_CLUSTER),
            found("GEN_RPC_TCP_SERVER_PORT", NO_ERLANG_CLUSTER),
        ];
        assert_eq!(present(set, true), always);
        let [first, second] = always;
        assert_eq!(
            present(set, false),
            [first, second, found("DB_ENC_KEY", NO_RECORDS)]
        );
    }
}
