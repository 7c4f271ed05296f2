//! The payload of `phx_join` (`protocol.md 3.1`): lenient where clients are sloppy.

use crate::binding_entry::BindingEntry;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use thiserror::Error;

/// A payload that cannot be joined with. The text is the `reason` of the join's error reply.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("UnknownErrorOnChannel: {0}")]
pub struct JoinError(String);

/// A join as understood.
#[derive(Clone, Debug, Default)]
pub struct JoinPayload {
    /// The current API's configuration; `None` is a join of the old API, whose topic is the subscription
    /// (`protocol.md 3.6`).
    pub config: Option<JoinConfig>,
    /// The channel's token.
    pub access_token: Option<String>,
    /// An older name for it, which wins.
    pub user_token: Option<String>,
    /// Fields that took their default because what was sent makes no sense; for the log (`InvalidJoinPayload`).
    pub problems: Vec<String>,
}

/// The object `config`.
#[derive(Clone, Debug, Default)]
pub struct JoinConfig {
    /// A private channel: policies decide who reads and writes.
    pub private: bool,
    /// Broadcast settings.
    pub broadcast: Broadcast,
    /// Presence settings.
    pub presence: Presence,
    /// Bindings, in request order, null entries removed.
    pub postgres_changes: Vec<BindingEntry>,
    /// How the join waits for its bindings (`protocol.md 15.1`).
    pub postgres_changes_options: PostgresChangesOptions,
}

/// The object `config.broadcast`.
#[derive(Clone, Debug, Default)]
pub struct Broadcast {
    /// Acknowledge each broadcast.
    pub ack: bool,
    /// Send the channel its own broadcasts.
    pub own: bool,
    /// Tell when broadcasts from the database arrive.
    pub replication_ready: bool,
    /// Stored broadcasts wanted; `Some` as soon as the key is there, since that alone is an error on public channels.
    pub replay: Option<Replay>,
}

/// The object `config.broadcast.replay`, not checked: private channels answer bad values with an error of their own
/// (`protocol.md 5.9`).
#[derive(Clone, Debug)]
pub struct Replay(pub Value);

/// The object `config.presence`.
#[derive(Clone, Debug, Default)]
pub struct Presence {
    /// Presence was asked for at join.
    pub enabled: bool,
    /// The key, if the client chose a usable one.
    pub key: Option<String>,
}

/// The object `config.postgres_changes_options`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PostgresChangesOptions {
    /// Answer the join only when every binding is active.
    pub wait: bool,
    /// Give up after this time.
    pub timeout_ms: Option<u64>,
}

/// Which token a channel uses (`protocol.md 3.2`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenChoice<'a> {
    /// The connection's API key.
    Connection,
    /// The channel's own.
    Token(&'a str),
}

impl JoinPayload {
    /// Reads a payload. Fields that make no sense take their defaults.
    ///
    /// # Errors
    /// For shapes no default can stand in for: the payload or `config` is no object, `broadcast` is a string, number
    /// or boolean, or an entry of `postgres_changes` is no object.
    pub fn parse(raw: &RawValue) -> Result<Self, JoinError> {
        let fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(raw.get())
            .map_err(|_| JoinError("the payload of phx_join must be an object".to_owned()))?;
        let mut problems = Vec::new();
        let mut token = |key: &str| match value(fields.get(key)) {
            Value::String(token) => Some(token),
            Value::Null => None,
            _ => {
                problems.push(format!("{key} must be a string"));
                None
            }
        };
        let (access_token, user_token) = (token("access_token"), token("user_token"));
        let config = fields.get("config").map(|config| JoinConfig::parse(config, &mut problems)).transpose()?;
        Ok(Self { config, access_token, user_token, problems })
    }

    /// The token the channel is to be judged by. Opaque `sb_` keys stand for the connection's.
    #[must_use]
    pub fn channel_token(&self) -> TokenChoice<'_> {
        let first = self.access_token.as_deref().or(self.user_token.as_deref());
        if first.is_some_and(|token| token.starts_with("sb_")) {
            return TokenChoice::Connection;
        }
        let chosen = self.user_token.as_deref().or(self.access_token.as_deref());
        chosen.map_or(TokenChoice::Connection, TokenChoice::Token)
    }
}

impl JoinConfig {
    fn parse(raw: &RawValue, problems: &mut Vec<String>) -> Result<Self, JoinError> {
        if raw.get() == "null" {
            return Ok(Self::default());
        }
        let fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(raw.get())
            .map_err(|_| JoinError("`config` must be an object".to_owned()))?;
        let broadcast = match value(fields.get("broadcast")) {
            Value::Object(fields) => Broadcast::parse(&fields, problems),
            Value::Null | Value::Array(_) => Broadcast::default(),
            _ => return Err(JoinError("`config.broadcast` must be an object".to_owned())),
        };
        let presence = match value(fields.get("presence")) {
            Value::Object(fields) => Presence::parse(&fields, problems),
            Value::Null => Presence::default(),
            _ => {
                problems.push("presence must be an object".to_owned());
                Presence::default()
            }
        };
        let options = match value(fields.get("postgres_changes_options")) {
            Value::Object(fields) => PostgresChangesOptions {
                wait: flag(fields.get("wait"), "postgres_changes_options.wait", problems),
                timeout_ms: fields.get("timeout").and_then(Value::as_u64),
            },
            _ => PostgresChangesOptions::default(),
        };
        Ok(Self {
            private: flag(Some(&value(fields.get("private"))), "private", problems),
            broadcast,
            presence,
            postgres_changes: bindings(fields.get("postgres_changes").map(|raw| &**raw), problems)?,
            postgres_changes_options: options,
        })
    }
}

impl Broadcast {
    fn parse(fields: &Map<String, Value>, problems: &mut Vec<String>) -> Self {
        Self {
            ack: flag(fields.get("ack"), "broadcast.ack", problems),
            own: flag(fields.get("self"), "broadcast.self", problems),
            // Anything but null and false, the string "false" included.
            replication_ready: !matches!(fields.get("replication_ready"), None | Some(Value::Null | Value::Bool(false))),
            replay: fields.get("replay").cloned().map(Replay),
        }
    }
}

impl Presence {
    fn parse(fields: &Map<String, Value>, problems: &mut Vec<String>) -> Self {
        let key = match fields.get("key") {
            None | Some(Value::Null) => None,
            Some(Value::String(key)) => Some(key.clone()).filter(|key| !key.is_empty()),
            Some(key @ (Value::Number(_) | Value::Bool(_))) => Some(key.to_string()),
            Some(Value::Array(_) | Value::Object(_)) => {
                problems.push("presence.key must be a string".to_owned());
                None
            }
        };
        Self { enabled: flag(fields.get("enabled"), "presence.enabled", problems), key }
    }
}

fn bindings(raw: Option<&RawValue>, problems: &mut Vec<String>) -> Result<Vec<BindingEntry>, JoinError> {
    let Some(raw) = raw.filter(|raw| raw.get() != "null") else { return Ok(Vec::new()) };
    let Ok(entries) = serde_json::from_str::<Vec<Box<RawValue>>>(raw.get()) else {
        problems.push("postgres_changes must be a list".to_owned());
        return Ok(Vec::new());
    };
    let entries = entries.into_iter().filter(|entry| entry.get() != "null").collect();
    BindingEntry::number(entries)
        .ok_or_else(|| JoinError("every entry of `config.postgres_changes` must be an object".to_owned()))
}

/// A field's value, null when it is not there.
fn value(raw: Option<&Box<RawValue>>) -> Value {
    raw.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
}

/// `true`, `false`, or one of these words in any letter case; anything else is false.
fn flag(value: Option<&Value>, name: &str, problems: &mut Vec<String>) -> bool {
    match value {
        None | Some(Value::Null) => false,
        Some(Value::Bool(flag)) => *flag,
        Some(Value::String(word)) if word.eq_ignore_ascii_case("true") => true,
        Some(Value::String(word)) if word.eq_ignore_ascii_case("false") => false,
        Some(_) => {
            problems.push(format!("{name} must be a boolean"));
            false
        }
    }
}
