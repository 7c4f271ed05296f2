//! The one tenant of a server that has no records of tenants: what its settings say, in the form of a record.

use serde::Serialize;
use serde_json::{Value, json};

use super::refusal::Refusal;
use crate::config::Config;

/// There is no record.
const NO_ID: &str = "00000000-0000-0000-0000-000000000000";

/// In the reference server's order of fields. What is null is without a limit.
#[derive(Serialize)]
pub(super) struct OneTenant<'c> {
    id: &'static str,
    name: &'c str,
    extensions: [Value; 1],
    inserted_at: Option<&'static str>,
    external_id: &'c str,
    private_only: bool,
    client_presence_window_ms: Option<u64>,
    max_channels_per_client: Option<u64>,
    max_client_presence_events_per_window: Option<u64>,
    max_concurrent_users: Option<u64>,
    max_events_per_second: Option<u64>,
    max_joins_per_second: Option<u64>,
    presence_enabled: bool,
}

impl<'c> OneTenant<'c> {
    /// Whether the one tenant is called so.
    pub(super) fn find(config: &Config, name: &str) -> Result<(), Refusal> {
        if name == config.tenant_name {
            Ok(())
        } else {
            Err(Refusal::NotFound)
        }
    }

    pub(super) fn of(config: &'c Config) -> Self {
        let (limits, changes) = (&config.tenant.limits, &config.tenant.changes);
        let wide = |limit: Option<usize>| limit.and_then(|limit| u64::try_from(limit).ok());
        let calls = limits.presence_calls;
        Self {
            id: NO_ID,
            name: &config.tenant_name,
            // Without what would have to be encrypted: there may be no key to do it with.
            extensions: [json!({
                "type": "postgres_cdc_rls",
                "inserted_at": null,
                "updated_at": null,
                "settings": {
                    "publication": changes.publication,
                    "poll_max_record_bytes": changes.max_record_bytes,
                    "region": config.region,
                },
            })],
            inserted_at: None,
            external_id: &config.tenant_name,
            private_only: limits.private_only,
            client_presence_window_ms: calls.and_then(|calls| calls.window.as_millis().try_into().ok()),
            max_channels_per_client: wide(limits.channels_per_client),
            max_client_presence_events_per_window: calls.map(|calls| calls.calls.into()),
            max_concurrent_users: wide(limits.concurrent_users),
            max_events_per_second: wide(limits.events_per_second),
            max_joins_per_second: wide(limits.joins_per_second),
            presence_enabled: limits.presence_for_all,
        }
    }
}
