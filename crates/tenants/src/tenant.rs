//! One tenant, as it is recorded (`database.md 8.1`, `8.2`).

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cipher::{Cipher, CipherError, Sealed};
use crate::database::{DatabaseError, TenantDatabase};
use crate::secret::Secret;

/// The type of the extension that says how a tenant's database is reached.
pub(crate) const POSTGRES_CDC: &str = "postgres_cdc_rls";

/// Its name in records of old.
pub(crate) const POSTGRES_CDC_ALIAS: &str = "postgres";

/// A record of `tenants` with its extensions. Columns that the control database does not have yet hold their defaults.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Tenant {
    /// The record's own id, a UUID.
    pub id: String,
    /// For people.
    pub name: Option<String>,
    /// What the Host begins with (`protocol.md 1.2`).
    pub external_id: String,
    /// Signs the tenant's tokens; see [`Tenant::open_jwt_secret`].
    pub jwt_secret: Option<Sealed>,
    /// Keys of the tenant's tokens: public ones, and perhaps shared ones.
    pub jwt_jwks: Option<Jwks>,
    /// Sockets with channels.
    pub max_concurrent_users: i32,
    /// Messages a second.
    pub max_events_per_second: i32,
    /// Stored, and not enforced by anybody (`protocol.md 9`).
    pub max_bytes_per_second: i32,
    /// Channels of a socket.
    pub max_channels_per_client: i32,
    /// Joins a second.
    #[serde(default = "default::joins_per_second")]
    pub max_joins_per_second: i32,
    /// Presence messages a second.
    #[serde(default)]
    pub max_presence_events_per_second: Option<i32>,
    /// Longest payload of a broadcast.
    #[serde(default)]
    pub max_payload_size_in_kb: Option<i32>,
    /// Presence calls of a channel within the window.
    #[serde(default)]
    pub max_client_presence_events_per_window: Option<i32>,
    /// The window.
    #[serde(default)]
    pub client_presence_window_ms: Option<i32>,
    /// The extension that carries changes.
    #[serde(default)]
    pub postgres_cdc_default: Option<String>,
    /// Whether nobody may connect.
    #[serde(default)]
    pub suspend: Option<bool>,
    /// Whether channels must be private.
    #[serde(default)]
    pub private_only: bool,
    /// Whether channels hear of presence without asking.
    #[serde(default)]
    pub presence_enabled: bool,
    /// Migrations of the reference server that its database has.
    #[serde(default)]
    pub migrations_ran: Option<i32>,
    /// How nodes of the reference server reach each other.
    #[serde(default)]
    pub broadcast_adapter: Option<String>,
    /// Overrides of features.
    #[serde(default)]
    pub feature_flags: Option<BTreeMap<String, Value>>,
    /// UTC, `2023-01-01T00:00:00`, as all times of a record.
    pub inserted_at: String,
    /// When the record itself was changed last; its extensions have times of their own.
    pub updated_at: String,
    /// How its database is reached, first of all.
    #[serde(default)]
    pub extensions: Vec<Extension>,
}

/// What is in a record where its column does not exist yet.
mod default {
    pub(super) fn joins_per_second() -> i32 {
        500
    }
}

/// A JWKS as it is stored, `{"keys":[…]}`. Some of its keys may be secret.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct Jwks(Value);

impl Jwks {
    /// The JSON text.
    #[must_use]
    pub fn expose(&self) -> String {
        self.0.to_string()
    }

    pub(crate) fn as_json(&self) -> &Value {
        &self.0
    }
}

impl fmt::Debug for Jwks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("(hidden)")
    }
}

/// A record of `extensions`.
#[derive(Clone, PartialEq, Deserialize)]
pub struct Extension {
    /// `postgres_cdc_rls`, or `postgres` of old.
    #[serde(rename = "type")]
    pub kind: String,
    /// As they are stored, those that are secret encrypted.
    #[serde(default)]
    settings: Option<BTreeMap<String, Value>>,
    /// UTC.
    pub inserted_at: String,
    /// UTC.
    pub updated_at: String,
}

impl fmt::Debug for Extension {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Extension")
            .field("kind", &self.kind)
            .field("updated_at", &self.updated_at)
            .finish_non_exhaustive()
    }
}

impl Extension {
    /// A setting as it is stored.
    pub(crate) fn setting(&self, name: &str) -> Option<&Value> {
        self.settings.as_ref()?.get(name)
    }

    fn carries_changes(&self) -> bool {
        matches!(self.kind.as_str(), POSTGRES_CDC | POSTGRES_CDC_ALIAS)
    }
}

impl Tenant {
    /// The secret that signs its tokens, if it has one.
    ///
    /// # Errors
    /// It was encrypted with another key.
    pub fn open_jwt_secret(&self, cipher: &Cipher) -> Result<Option<Secret>, CipherError> {
        self.jwt_secret
            .as_ref()
            .map(|sealed| cipher.open(sealed))
            .transpose()
    }

    /// How its database is reached.
    ///
    /// # Errors
    /// It does not say, or what it says cannot be decrypted or means nothing.
    pub fn open_database(&self, cipher: &Cipher) -> Result<TenantDatabase, DatabaseError> {
        let extension = self
            .extensions
            .iter()
            .find(|extension| extension.carries_changes())
            .ok_or(DatabaseError::Missing)?;
        TenantDatabase::open(extension, cipher)
    }

    /// Whether nobody may connect.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.suspend.unwrap_or(false)
    }

    /// What the API shows of it (`protocol.md 10`): neither its keys nor the password of its database.
    #[must_use]
    pub fn shown(&self) -> Shown<'_> {
        Shown {
            id: &self.id,
            name: self.name.as_deref(),
            extensions: self.extensions.iter().map(ShownExtension::from).collect(),
            inserted_at: &self.inserted_at,
            external_id: &self.external_id,
            private_only: self.private_only,
            client_presence_window_ms: self.client_presence_window_ms,
            max_channels_per_client: self.max_channels_per_client,
            max_client_presence_events_per_window: self.max_client_presence_events_per_window,
            max_concurrent_users: self.max_concurrent_users,
            max_events_per_second: self.max_events_per_second,
            max_joins_per_second: self.max_joins_per_second,
            presence_enabled: self.presence_enabled,
        }
    }
}

/// A tenant in the API's JSON, in the reference server's order of fields.
#[derive(Debug, Serialize)]
pub struct Shown<'t> {
    id: &'t str,
    name: Option<&'t str>,
    extensions: Vec<ShownExtension<'t>>,
    inserted_at: &'t str,
    external_id: &'t str,
    private_only: bool,
    client_presence_window_ms: Option<i32>,
    max_channels_per_client: i32,
    max_client_presence_events_per_window: Option<i32>,
    max_concurrent_users: i32,
    max_events_per_second: i32,
    max_joins_per_second: i32,
    presence_enabled: bool,
}

#[derive(Debug, Serialize)]
struct ShownExtension<'t> {
    #[serde(rename = "type")]
    kind: &'t str,
    inserted_at: &'t str,
    updated_at: &'t str,
    settings: BTreeMap<&'t str, &'t Value>,
}

impl<'t> From<&'t Extension> for ShownExtension<'t> {
    fn from(extension: &'t Extension) -> Self {
        let settings = extension.settings.iter().flatten();
        Self {
            kind: &extension.kind,
            inserted_at: &extension.inserted_at,
            updated_at: &extension.updated_at,
            settings: settings
                .map(|(name, value)| (name.as_str(), value))
                .filter(|(name, _)| *name != "db_password")
                .collect(),
        }
    }
}
