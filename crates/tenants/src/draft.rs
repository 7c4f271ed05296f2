//! A tenant as somebody wants it, judged: JSON of the API becomes the columns that are to be written.
//!
//! Values are taken as the reference server takes them: a number may be in a string, an empty text is none. What it would
//! answer with an error of its own (a number too large for its column, no extension), is an error of the field here.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::cipher::Cipher;
use crate::draft_extension::{ExtensionDraft, judge_extensions};
use crate::invalid::{BLANK, INVALID, Invalid};
use crate::tenant::Tenant;

/// Longest external id: what precedes the first dot of a Host is no longer.
const MAX_EXTERNAL_ID_BYTES: usize = 255;

/// Limits of a new tenant that names none (`database.md 8.1`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Defaults {
    /// `TENANT_MAX_CONCURRENT_USERS`
    pub max_concurrent_users: i32,
    /// `TENANT_MAX_EVENTS_PER_SECOND`
    pub max_events_per_second: i32,
    /// `TENANT_MAX_BYTES_PER_SECOND`
    pub max_bytes_per_second: i32,
    /// `TENANT_MAX_CHANNELS_PER_CLIENT`
    pub max_channels_per_client: i32,
    /// `TENANT_MAX_JOINS_PER_SECOND`
    pub max_joins_per_second: i32,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            max_concurrent_users: 200,
            max_events_per_second: 100,
            max_bytes_per_second: 100_000,
            max_channels_per_client: 100,
            max_joins_per_second: 100,
        }
    }
}

impl Defaults {
    fn columns(self) -> [(&'static str, i32); 5] {
        [
            ("max_concurrent_users", self.max_concurrent_users),
            ("max_events_per_second", self.max_events_per_second),
            ("max_bytes_per_second", self.max_bytes_per_second),
            ("max_channels_per_client", self.max_channels_per_client),
            ("max_joins_per_second", self.max_joins_per_second),
        ]
    }
}

/// What a column takes.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    /// Encrypted before it is written.
    Secret,
    /// From 0, of 32 bits.
    Integer,
    Boolean,
    Object,
    OneOf(&'static [&'static str]),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Null {
    Allowed,
    Refused,
}

/// What may be wanted of a tenant, besides its external id and its extensions (`protocol.md 10`).
const FIELDS: [(&str, Kind, Null); 20] = [
    ("name", Kind::Text, Null::Allowed),
    ("jwt_secret", Kind::Secret, Null::Allowed),
    ("jwt_jwks", Kind::Object, Null::Allowed),
    ("postgres_cdc_default", Kind::Text, Null::Allowed),
    ("max_concurrent_users", Kind::Integer, Null::Refused),
    ("max_events_per_second", Kind::Integer, Null::Refused),
    ("max_bytes_per_second", Kind::Integer, Null::Refused),
    ("max_channels_per_client", Kind::Integer, Null::Refused),
    ("max_joins_per_second", Kind::Integer, Null::Refused),
    ("max_presence_events_per_second", Kind::Integer, Null::Allowed),
    ("max_payload_size_in_kb", Kind::Integer, Null::Allowed),
    (
        "max_client_presence_events_per_window",
        Kind::Integer,
        Null::Allowed,
    ),
    ("client_presence_window_ms", Kind::Integer, Null::Allowed),
    ("presence_enabled", Kind::Boolean, Null::Refused),
    ("private_only", Kind::Boolean, Null::Refused),
    ("suspend", Kind::Boolean, Null::Allowed),
    (
        "broadcast_adapter",
        Kind::OneOf(&["gen_rpc", "phoenix"]),
        Null::Allowed,
    ),
    ("feature_flags", Kind::Object, Null::Refused),
    ("migrations_ran", Kind::Integer, Null::Allowed),
    ("notify_private_alpha", Kind::Boolean, Null::Allowed),
];

/// What is to be written. It has no `Debug`: it may hold keys.
pub(crate) struct Draft {
    /// By column, as JSON.
    pub(crate) columns: BTreeMap<&'static str, Value>,
    /// All of them, if they are to be written.
    pub(crate) extensions: Option<Vec<ExtensionDraft>>,
}

/// The external id that is wanted, if it can be one.
pub(crate) fn external_id(wanted: &Map<String, Value>) -> Result<String, Invalid> {
    const NAME: &str = "external_id";
    let refused = |error: &str| Err(Invalid::field(NAME, error));
    match wanted.get(NAME) {
        None | Some(Value::Null) => refused(BLANK),
        Some(Value::String(text)) if text.trim().is_empty() => refused(BLANK),
        Some(Value::String(text)) if text.len() > MAX_EXTERNAL_ID_BYTES => {
            refused(&format!("should be at most {MAX_EXTERNAL_ID_BYTES} byte(s)"))
        }
        Some(Value::String(text)) if !text.contains('\0') => Ok(text.clone()),
        Some(_) => refused(INVALID),
    }
}

impl Draft {
    /// Of a tenant that does not exist yet.
    pub(crate) fn of_new(
        wanted: &Map<String, Value>,
        defaults: Defaults,
        cipher: &Cipher,
    ) -> Result<Self, Invalid> {
        let mut invalid = Invalid::default();
        let mut columns = judge_fields(wanted, cipher, &mut invalid);
        for (column, value) in defaults.columns() {
            columns.entry(column).or_insert_with(|| value.into());
        }
        require_keys(&columns, None, &mut invalid);
        let extensions = judge_extensions(wanted, cipher, &mut invalid);
        if extensions.is_none() {
            invalid.add("extensions", BLANK);
        }
        Self { columns, extensions }.unless(invalid)
    }

    /// Of a tenant that exists: what is not named stays as it is.
    pub(crate) fn of_change(
        tenant: &Tenant,
        wanted: &Map<String, Value>,
        cipher: &Cipher,
    ) -> Result<Self, Invalid> {
        let mut invalid = Invalid::default();
        let columns = judge_fields(wanted, cipher, &mut invalid);
        require_keys(&columns, Some(tenant), &mut invalid);
        let extensions = judge_extensions(wanted, cipher, &mut invalid);
        Self { columns, extensions }.unless(invalid)
    }

    fn unless(self, invalid: Invalid) -> Result<Self, Invalid> {
        if invalid.is_empty() {
            Ok(self)
        } else {
            Err(invalid)
        }
    }
}

fn judge_fields(
    wanted: &Map<String, Value>,
    cipher: &Cipher,
    invalid: &mut Invalid,
) -> BTreeMap<&'static str, Value> {
    let mut columns = BTreeMap::new();
    for (name, kind, null) in FIELDS {
        let Some(value) = wanted.get(name) else { continue };
        let judged = match kind.judge(value, cipher) {
            Ok(Value::Null) if null == Null::Refused => Err(BLANK),
            judged => judged,
        };
        match judged {
            Ok(value) => drop(columns.insert(name, value)),
            Err(error) => invalid.add(name, error),
        }
    }
    columns
}

/// One of both is needed (`database.md 8.1`).
fn require_keys(columns: &BTreeMap<&str, Value>, tenant: Option<&Tenant>, invalid: &mut Invalid) {
    let will_be = |name: &str, is_there: bool| columns.get(name).map_or(is_there, |value| !value.is_null());
    let has_secret = tenant.is_some_and(|tenant| tenant.jwt_secret.is_some());
    let has_set = tenant.is_some_and(|tenant| tenant.jwt_jwks.is_some());
    let is_said = invalid.names("jwt_secret") || invalid.names("jwt_jwks");
    if !is_said && !will_be("jwt_secret", has_secret) && !will_be("jwt_jwks", has_set) {
        invalid.add("jwt_secret", "or jwt_jwks is needed to verify tokens");
    }
}

impl Kind {
    fn judge(self, value: &Value, cipher: &Cipher) -> Result<Value, &'static str> {
        // Postgres has neither text nor JSON with it.
        if has_nul(value) {
            return Err(INVALID);
        }
        let text = match value {
            Value::Null => return Ok(Value::Null),
            Value::String(text) if text.trim().is_empty() => return Ok(Value::Null),
            Value::String(text) => Some(text.as_str()),
            _ => None,
        };
        match self {
            Self::Text => text.map(Value::from),
            Self::Secret => match text {
                Some(text) => Some(cipher.seal(text).map_err(|_| INVALID)?.as_stored().into()),
                None => None,
            },
            Self::OneOf(names) => text.filter(|text| names.contains(text)).map(Value::from),
            Self::Object => value.is_object().then(|| value.clone()),
            Self::Integer => {
                let number = match text {
                    Some(text) => text.parse().ok(),
                    None => value.as_i64(),
                };
                let fitting = number.filter(|number| (0..=i64::from(i32::MAX)).contains(number));
                fitting.map(Value::from)
            }
            Self::Boolean => match text {
                Some("true" | "1") => Some(true.into()),
                Some("false" | "0") => Some(false.into()),
                Some(_) => None,
                None => value.as_bool().map(Value::from),
            },
        }
        .ok_or(INVALID)
    }
}

pub(crate) fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(has_nul),
        Value::Object(fields) => fields
            .iter()
            .any(|(name, value)| name.contains('\0') || has_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}
