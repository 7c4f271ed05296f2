//! What a record of a tenant says, as settings (`database.md 8.1`), and what a change of it asks for (`database.md 8.4`).

use std::time::Duration;

use walcast_tenants::{Cipher, Jwks, Tenant as Record, TenantDatabase};

use crate::limits::{Limits, PresenceCalls, payload_bytes};
use crate::setting::Secret;
use crate::settings::Settings;
use crate::tenant::Standing;
use crate::token::{KeySet, Keys};

/// A record, with its secrets opened. What cannot be opened is left out and said in the log: connects are then refused,
/// or joins that need the database.
#[derive(Debug, PartialEq)]
pub(crate) struct Recorded {
    secret: Option<Secret>,
    keys: Option<Jwks>,
    database: Option<TenantDatabase>,
    is_suspended: bool,
    limits: Limits,
}

/// What a change of a record asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Every socket is to be disconnected.
    pub(crate) disconnect: bool,
    /// The connections to the database are to be made anew.
    pub(crate) restart: bool,
}

impl Recorded {
    /// Reads a record. Limits it has no value for are those of the server's own settings.
    pub(crate) fn read(record: &Record, cipher: &Cipher, defaults: &Settings) -> Self {
        let tenant = record.external_id.as_str();
        let secret = record.open_jwt_secret(cipher).unwrap_or_else(|error| {
            tracing::error!(tenant, cause = %error, "the secret that signs the tenant's tokens cannot be read");
            None
        });
        let database = record.open_database(cipher);
        let database = database.inspect_err(|error| {
            tracing::error!(tenant, cause = %error, "no changes: how the tenant's database is reached is not known");
        });
        Self {
            secret,
            keys: record.jwt_jwks.clone(),
            database: database.ok(),
            is_suspended: record.is_suspended(),
            limits: limits(record, &defaults.limits),
        }
    }

    pub(crate) fn standing(&self) -> Standing {
        if self.is_suspended {
            Standing::Suspended
        } else {
            Standing::Open
        }
    }

    /// The settings it means; what it does not name is as the server's own settings have it.
    pub(crate) fn settings(&self, tenant: &str, defaults: &Settings) -> Settings {
        let mut settings = defaults.clone();
        settings.limits = self.limits.clone();
        settings.mint.secret.clone_from(&self.secret);
        let mut keys = Keys::of_secrets(self.secret.iter().map(Secret::expose));
        if let Some(set) = &self.keys {
            match KeySet::parse(&set.expose()) {
                Ok(set) => keys = keys.with_set(set),
                Err(error) => {
                    tracing::error!(tenant, cause = %error, "the tenant's jwt_jwks is left out");
                }
            }
        }
        settings.verifier = defaults.verifier.with_keys(keys);
        match &self.database {
            Some(database) => {
                settings.database.url = database.url();
                settings.database.pool_size = database
                    .pool_size
                    .unwrap_or(defaults.database.pool_size)
                    .clamp(1, LARGEST_POOL);
                settings.changes.publication.clone_from(&database.publication);
                if let Some(bytes) = database.max_record_bytes {
                    settings.changes.max_record_bytes = bytes.max(SMALLEST_RECORD_BYTES);
                }
            }
            None => settings.database.url = Secret::new(""),
        }
        settings
    }

    /// What is to be done about what has changed since `before` (`database.md 8.4`).
    pub(crate) fn asked_since(&self, before: &Self) -> Asked {
        let has_other_keys = self.secret != before.secret || self.keys != before.keys;
        let is_suspended_or_not = self.is_suspended != before.is_suspended;
        let has_other_privacy = self.limits.private_only != before.limits.private_only;
        Asked {
            disconnect: has_other_keys || is_suspended_or_not || has_other_privacy,
            restart: has_other_keys || is_suspended_or_not || self.database != before.database,
        }
    }
}

/// As WALCAST_POOL_SIZE.
const LARGEST_POOL: u32 = 100;

/// As WALCAST_MAX_RECORD_BYTES.
const SMALLEST_RECORD_BYTES: usize = 1_024;

fn limits(record: &Record, defaults: &Limits) -> Limits {
    let count = |limit: i32| Some(usize::try_from(limit).unwrap_or_default());
    let calls = record
        .max_client_presence_events_per_window
        .and_then(|calls| u32::try_from(calls).ok());
    let window = record
        .client_presence_window_ms
        .and_then(|window_ms| u64::try_from(window_ms).ok())
        .map(Duration::from_millis);
    let usual_window = defaults
        .presence_calls
        .map_or(PresenceCalls::USUAL_WINDOW, |calls| calls.window);
    Limits {
        concurrent_users: count(record.max_concurrent_users),
        channels_per_client: count(record.max_channels_per_client),
        joins_per_second: count(record.max_joins_per_second),
        events_per_second: count(record.max_events_per_second),
        max_payload_bytes: record
            .max_payload_size_in_kb
            .and_then(|kb| usize::try_from(kb).ok())
            .map_or(defaults.max_payload_bytes, payload_bytes),
        presence_events_per_second: record
            .max_presence_events_per_second
            .map_or(defaults.presence_events_per_second, count),
        presence_calls: calls
            .map(|calls| PresenceCalls {
                calls,
                window: window.unwrap_or(usual_window),
            })
            .or(defaults.presence_calls),
        presence_for_all: record.presence_enabled,
        private_only: record.private_only,
    }
}
