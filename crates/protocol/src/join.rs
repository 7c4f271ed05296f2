//! The payload of `phx_join` (`protocol.md 3.1`): lenient where clients are sloppy.

use crate::binding_entry::BindingEntry;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use thiserror::Error;

/// What a client calls itself has at most so many bytes, for each of its messages is kept with it.
const MAX_SENDER_BYTES: usize = 128;

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
    /// Stored broadcasts wanted, as sent: a bad value is an error on private channels only, while on public ones the
    /// key alone is, even with null (`protocol.md 5.9`).
    pub replay: Option<Box<RawValue>>,
    /// From where on broadcasts were missed, as sent; null is nothing (decision 30).
    pub since: Option<Box<RawValue>>,
    /// What the client calls itself, so that it is not told again what it sent itself (decision 30).
    pub sender: Option<String>,
}

/// The object `config.presence`.
#[derive(Clone, Debug, Default)]
pub struct Presence {
    /// Presence was asked for at join, or the client is too old to say (decision 22).
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

/// The members of an object; of equal keys the last counts.
type Fields = BTreeMap<String, Box<RawValue>>;

impl JoinPayload {
    /// Reads a payload. Fields that make no sense take their defaults and are listed in `problems`.
    ///
    /// # Errors
    /// For shapes no default can stand in for: the payload or `config` is no object, `broadcast` is neither an object
    /// nor null, or an entry of `postgres_changes` is neither.
    pub fn parse(raw: &RawValue) -> Result<Self, JoinError> {
        let fields =
            object(raw).ok_or_else(|| JoinError("the payload of phx_join must be an object".to_owned()))?;
        let mut reader = Reader::default();
        let access_token = reader.token(&fields, "access_token");
        let user_token = reader.token(&fields, "user_token");
        let config = fields
            .get("config")
            .map(|config| reader.config(config))
            .transpose()?;
        Ok(Self {
            config,
            access_token,
            user_token,
            problems: reader.problems,
        })
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

/// Reads fields and notes those it cannot make sense of. One note for each field at most.
#[derive(Default)]
struct Reader {
    problems: Vec<String>,
}

impl Reader {
    fn problem(&mut self, field: &str, expected: &str) {
        self.problems.push(format!("{field} must be {expected}"));
    }

    fn config(&mut self, raw: &RawValue) -> Result<JoinConfig, JoinError> {
        if is_null(raw) {
            return Ok(JoinConfig::default());
        }
        let fields = object(raw).ok_or_else(|| JoinError("`config` must be an object".to_owned()))?;
        Ok(JoinConfig {
            private: self.flag(&fields, "private", "private"),
            broadcast: self.broadcast(&fields)?,
            presence: self.presence(&fields),
            postgres_changes: self.bindings(&fields)?,
            postgres_changes_options: self.postgres_changes_options(&fields),
        })
    }

    fn broadcast(&mut self, config: &Fields) -> Result<Broadcast, JoinError> {
        let Some(raw) = present(config, "broadcast") else {
            return Ok(Broadcast::default());
        };
        let mut fields =
            object(raw).ok_or_else(|| JoinError("`config.broadcast` must be an object".to_owned()))?;
        Ok(Broadcast {
            ack: self.flag(&fields, "ack", "broadcast.ack"),
            own: self.flag(&fields, "self", "broadcast.self"),
            // Anything but null and false, the string "false" included.
            replication_ready: present(&fields, "replication_ready").is_some_and(|raw| raw.get() != "false"),
            replay: fields.remove("replay"),
            since: fields.remove("since").filter(|since| !is_null(since)),
            sender: present(&fields, "sender").and_then(|raw| self.sender(raw)),
        })
    }

    fn sender(&mut self, raw: &RawValue) -> Option<String> {
        let sender: Option<String> = serde_json::from_str(raw.get()).ok();
        let sender = sender.filter(|sender| sender.len() <= MAX_SENDER_BYTES);
        if sender.is_none() {
            self.problem("broadcast.sender", "a string of at most 128 bytes");
        }
        sender.filter(|sender| !sender.is_empty())
    }

    fn presence(&mut self, config: &Fields) -> Presence {
        let Some(fields) = self.optional_object(config, "presence") else {
            return Presence::default();
        };
        // Clients from before the option send a key alone, if only an empty one, and wait for a state.
        let is_older = fields.contains_key("key") && !fields.contains_key("enabled");
        Presence {
            enabled: is_older || self.flag(&fields, "enabled", "presence.enabled"),
            key: present(&fields, "key").and_then(|raw| self.presence_key(raw)),
        }
    }

    /// Numbers and booleans are shown as strings; objects and arrays break the reference for everybody, so they count
    /// as no key.
    fn presence_key(&mut self, raw: &RawValue) -> Option<String> {
        match raw.get().as_bytes().first() {
            Some(b'"') => match serde_json::from_str::<String>(raw.get()) {
                Ok(key) => Some(key).filter(|key| !key.is_empty()),
                Err(_) => {
                    self.problem("presence.key", "valid Unicode");
                    None
                }
            },
            Some(b'{' | b'[') | None => {
                self.problem("presence.key", "a string");
                None
            }
            Some(_) => Some(raw.get().to_owned()),
        }
    }

    fn bindings(&mut self, config: &Fields) -> Result<Vec<BindingEntry>, JoinError> {
        let Some(raw) = present(config, "postgres_changes") else {
            return Ok(Vec::new());
        };
        let Ok(entries) = serde_json::from_str::<Vec<Box<RawValue>>>(raw.get()) else {
            self.problem("postgres_changes", "a list");
            return Ok(Vec::new());
        };
        let entries = entries.into_iter().filter(|entry| !is_null(entry)).collect();
        BindingEntry::number(entries).map_err(|at| {
            let position = at + 1;
            JoinError(format!(
                "entry {position} of `config.postgres_changes` must be an object of plain JSON values"
            ))
        })
    }

    fn postgres_changes_options(&mut self, config: &Fields) -> PostgresChangesOptions {
        let Some(fields) = self.optional_object(config, "postgres_changes_options") else {
            return PostgresChangesOptions::default();
        };
        let timeout_ms = present(&fields, "timeout").and_then(|raw| {
            let timeout_ms = serde_json::from_str(raw.get()).ok();
            if timeout_ms.is_none() {
                self.problem(
                    "postgres_changes_options.timeout",
                    "a whole number of milliseconds",
                );
            }
            timeout_ms
        });
        PostgresChangesOptions {
            wait: self.flag(&fields, "wait", "postgres_changes_options.wait"),
            timeout_ms,
        }
    }

    fn optional_object(&mut self, config: &Fields, key: &str) -> Option<Fields> {
        let fields = object(present(config, key)?);
        if fields.is_none() {
            self.problem(key, "an object");
        }
        fields
    }

    fn token(&mut self, fields: &Fields, key: &str) -> Option<String> {
        let token = serde_json::from_str(present(fields, key)?.get()).ok();
        if token.is_none() {
            self.problem(key, "a string");
        }
        token
    }

    /// `true`, `false`, or a string that is one of these words in any letter case; anything else is false.
    fn flag(&mut self, fields: &Fields, key: &str, name: &str) -> bool {
        let Some(raw) = present(fields, key) else {
            return false;
        };
        let word = serde_json::from_str::<String>(raw.get());
        match word.as_deref().unwrap_or(raw.get()) {
            word if word.eq_ignore_ascii_case("true") => true,
            word if word.eq_ignore_ascii_case("false") => false,
            _ => {
                self.problem(name, "true or false");
                false
            }
        }
    }
}

/// Members of a JSON object, if it is one.
fn object(raw: &RawValue) -> Option<Fields> {
    serde_json::from_str(raw.get()).ok()
}

/// A field that is there and not null.
fn present<'a>(fields: &'a Fields, key: &str) -> Option<&'a RawValue> {
    fields.get(key).map(|raw| &**raw).filter(|raw| !is_null(raw))
}

fn is_null(raw: &RawValue) -> bool {
    raw.get() == "null"
}
