//! The quotas of `protocol.md 9`: off unless configured, except the size of a payload.

use std::time::Duration;

use clap::Args;
use metrics::counter;
use walcast_broadcast::Rooms;
use walcast_changes::Meter;
use walcast_cluster::Counts;

use crate::nodes::TenantName;
use crate::rate::{Rate, Turn};
use crate::setting::{ConfigError, boolean, duration, limit, number};

/// What the command line and the environment may say of quotas, as raw text.
#[derive(Args, Clone, Default)]
pub struct LimitOptions {
    /// Sockets with a joined channel, at most [default: no limit]
    #[arg(
        long,
        env = "TENANT_MAX_CONCURRENT_USERS",
        hide_env_values = true,
        value_name = "COUNT"
    )]
    pub max_concurrent_users: Option<String>,
    /// Channels on one socket, at most [default: no limit]
    #[arg(
        long,
        env = "TENANT_MAX_CHANNELS_PER_CLIENT",
        hide_env_values = true,
        value_name = "COUNT"
    )]
    pub max_channels_per_client: Option<String>,
    /// Joins a second, on average; above it joins close their socket [default: no limit]
    #[arg(
        long,
        env = "TENANT_MAX_JOINS_PER_SECOND",
        hide_env_values = true,
        value_name = "COUNT"
    )]
    pub max_joins_per_second: Option<String>,
    /// Messages sent and delivered a second, on average; above it their receivers' channels are closed [default: no limit]
    #[arg(
        long,
        env = "TENANT_MAX_EVENTS_PER_SECOND",
        hide_env_values = true,
        value_name = "COUNT"
    )]
    pub max_events_per_second: Option<String>,
    /// Largest payload of a broadcast, in units of 1000 bytes [default: 3000]
    #[arg(
        long,
        env = "WALCAST_MAX_PAYLOAD_KB",
        hide_env_values = true,
        value_name = "KB"
    )]
    pub max_payload_kb: Option<String>,
    /// Presence messages tracked and delivered a second, on average; above it channels that track or join with presence
    /// are closed [default: no limit]
    #[arg(
        long,
        env = "WALCAST_MAX_PRESENCE_EVENTS_PER_SECOND",
        hide_env_values = true,
        value_name = "COUNT"
    )]
    pub max_presence_events_per_second: Option<String>,
    /// Presence calls of one channel within CLIENT_PRESENCE_WINDOW_MS; one more closes it [default: no limit]
    #[arg(
        long,
        env = "CLIENT_PRESENCE_MAX_CALLS",
        hide_env_values = true,
        value_name = "COUNT"
    )]
    pub client_presence_max_calls: Option<String>,
    /// The time in which they are counted [default: 30000]
    #[arg(
        long,
        env = "CLIENT_PRESENCE_WINDOW_MS",
        hide_env_values = true,
        value_name = "MS"
    )]
    pub client_presence_window_ms: Option<String>,
    /// Tell every channel who is present, whether it asks for it or not [default: false]
    #[arg(
        long,
        env = "WALCAST_PRESENCE_ENABLED",
        hide_env_values = true,
        value_name = "BOOL"
    )]
    pub presence_enabled: Option<String>,
    /// Refuse public channels [default: false]
    #[arg(
        long,
        env = "WALCAST_PRIVATE_ONLY",
        hide_env_values = true,
        value_name = "BOOL"
    )]
    pub private_only: Option<String>,
}

/// The quotas. `None` is no limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Sockets with a joined channel.
    pub concurrent_users: Option<usize>,
    /// Channels joined at once on one socket; the framework's own limit is another.
    pub channels_per_client: Option<usize>,
    /// Average joins a second.
    pub joins_per_second: Option<usize>,
    /// Average messages a second.
    pub events_per_second: Option<usize>,
    /// Size of a payload by the measure of `protocol.md 5.5`.
    pub max_payload_bytes: usize,
    /// Average presence messages a second.
    pub presence_events_per_second: Option<usize>,
    /// Presence calls of one channel.
    pub presence_calls: Option<PresenceCalls>,
    /// Whether channels have presence that do not ask for it (`protocol.md 6.3`).
    pub presence_for_all: bool,
    /// Whether public channels are refused.
    pub private_only: bool,
}

/// So many presence calls of a channel within a time (`protocol.md 6.5`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PresenceCalls {
    /// Calls.
    pub calls: u32,
    /// From the first of them.
    pub window: Duration,
}

/// What a payload may have beyond the configured size (`protocol.md 5.5`).
const PAYLOAD_TOLERANCE_BYTES: usize = 500;

impl PresenceCalls {
    /// The time in which calls are counted where nobody says another.
    pub const USUAL_WINDOW: Duration = Duration::from_secs(30);
}

/// A configured size in units of 1000 bytes, with the tolerance that goes with it.
#[must_use]
pub fn payload_bytes(kb: usize) -> usize {
    kb.saturating_mul(1000).saturating_add(PAYLOAD_TOLERANCE_BYTES)
}

impl Limits {
    /// Judges the settings.
    ///
    /// # Errors
    /// A value that means nothing.
    pub fn from_options(options: &LimitOptions) -> Result<Self, ConfigError> {
        let payload_kb: usize = number("WALCAST_MAX_PAYLOAD_KB", &options.max_payload_kb, 3000, 1, 5000)?;
        Ok(Self {
            concurrent_users: limit("TENANT_MAX_CONCURRENT_USERS", &options.max_concurrent_users)?,
            channels_per_client: limit("TENANT_MAX_CHANNELS_PER_CLIENT", &options.max_channels_per_client)?,
            joins_per_second: limit("TENANT_MAX_JOINS_PER_SECOND", &options.max_joins_per_second)?,
            events_per_second: limit("TENANT_MAX_EVENTS_PER_SECOND", &options.max_events_per_second)?,
            max_payload_bytes: payload_bytes(payload_kb),
            presence_events_per_second: limit(
                "WALCAST_MAX_PRESENCE_EVENTS_PER_SECOND",
                &options.max_presence_events_per_second,
            )?,
            presence_calls: presence_calls(options)?,
            presence_for_all: boolean("WALCAST_PRESENCE_ENABLED", &options.presence_enabled, false)?,
            private_only: boolean("WALCAST_PRIVATE_ONLY", &options.private_only, false)?,
        })
    }
}

fn presence_calls(options: &LimitOptions) -> Result<Option<PresenceCalls>, ConfigError> {
    let window = duration(
        "CLIENT_PRESENCE_WINDOW_MS",
        &options.client_presence_window_ms,
        30_000,
        1,
        86_400_000,
    )?;
    let calls = limit("CLIENT_PRESENCE_MAX_CALLS", &options.client_presence_max_calls)?;
    Ok(calls.map(|calls| PresenceCalls {
        calls: u32::try_from(calls).unwrap_or(u32::MAX),
        window,
    }))
}

/// What is counted a second.
pub struct Rates {
    /// Broadcasts sent, and each delivery of one.
    pub events: Rate,
    /// Joins.
    pub joins: Rate,
    /// HTTP requests.
    pub requests: Rate,
    /// Subscriptions that matched a change, each change.
    pub changes: Rate,
    /// Presences tracked, states sent, and each delivery of a diff.
    pub presence: Rate,
}

impl Meter for Rates {
    fn count(&self, matched: usize) {
        self.changes.count(matched);
    }

    fn is_exceeded(&self) -> bool {
        self.changes.is_exceeded()
    }
}

impl Rates {
    /// Rates with the configured limits.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self {
            events: Rate::new(limits.events_per_second),
            joins: Rate::new(limits.joins_per_second),
            requests: Rate::new(limits.events_per_second),
            changes: Rate::new(limits.events_per_second),
            presence: Rate::new(limits.presence_events_per_second),
        }
    }

    /// Takes other limits. What they concern is counted anew (`database.md 8.4`).
    pub fn set_limits(&self, limits: &Limits, rooms: &Rooms) {
        for (rate, limit) in [
            (&self.events, limits.events_per_second),
            (&self.joins, limits.joins_per_second),
            (&self.requests, limits.events_per_second),
            (&self.changes, limits.events_per_second),
            (&self.presence, limits.presence_events_per_second),
        ] {
            rate.set_limit(limit);
        }
        rooms.set_over_limit(self.events.is_exceeded());
    }

    /// Ends a bucket of each, and says which limits bite now and which no longer do.
    pub fn tick(&self, rooms: &Rooms) {
        for counted in self.all() {
            counted.report(counted.rate.tick());
        }
        rooms.set_over_limit(self.events.is_exceeded());
    }

    /// Tells the other nodes what is counted here, and judges again with what they have told.
    pub fn share(&self, counts: &Counts, tenant: &TenantName, rooms: &Rooms) {
        for counted in self.all() {
            let name = tenant.scoped(counted.name);
            counts.set(&name, counted.rate.own_thousandths());
            counted.report(counted.rate.judge_with(counts.elsewhere(&name)));
        }
        rooms.set_over_limit(self.events.is_exceeded());
    }

    /// Tells the other nodes of nothing any more.
    pub fn withdraw(&self, counts: &Counts, tenant: &TenantName) {
        for counted in self.all() {
            counts.set(&tenant.scoped(counted.name), 0);
        }
    }

    fn all(&self) -> [Counted<'_>; 5] {
        let counted = |rate, name, variable, code| Counted {
            rate,
            name,
            variable,
            code,
        };
        const EVENTS: &str = "TENANT_MAX_EVENTS_PER_SECOND";
        const MESSAGES: &str = "MessagePerSecondRateLimitReached";
        [
            counted(&self.events, "events", EVENTS, MESSAGES),
            counted(
                &self.joins,
                "joins",
                "TENANT_MAX_JOINS_PER_SECOND",
                "ClientJoinRateLimitReached",
            ),
            counted(&self.requests, "requests", EVENTS, "RequestRateLimitReached"),
            counted(&self.changes, "changes", EVENTS, MESSAGES),
            counted(
                &self.presence,
                "presence",
                "WALCAST_MAX_PRESENCE_EVENTS_PER_SECOND",
                "PresenceRateLimitReached",
            ),
        ]
    }
}

/// A rate and what is said of it.
struct Counted<'a> {
    rate: &'a Rate,
    /// Between nodes.
    name: &'static str,
    variable: &'static str,
    code: &'static str,
}

impl Counted<'_> {
    fn report(&self, turn: Turn) {
        let Self {
            rate, variable, code, ..
        } = *self;
        match turn {
            Turn::None => {}
            Turn::Exceeded => {
                counter!("walcast_limits_exceeded_total", "code" => code).increment(1);
                tracing::warn!(
                    code,
                    average = rate.average(),
                    limit = rate.limit(),
                    variable,
                    "limit exceeded"
                );
            }
            Turn::Recovered => {
                tracing::info!(
                    code,
                    average = rate.average(),
                    limit = rate.limit(),
                    variable,
                    "limit kept again"
                );
            }
        }
    }
}
