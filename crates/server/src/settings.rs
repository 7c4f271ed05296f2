//! What concerns one tenant, judged: its database, the keys of its tokens, its quotas.

use walcast_presence::Options as PresenceOptions;

use crate::config::{ChangesConfig, DatabaseConfig};
use crate::limits::Limits;
use crate::options::Options;
use crate::setting::{ConfigError, Secret, duration, invalid, number, text};
use crate::token::{ClaimRules, KeySet, Keys, Verifier};

/// The settings of a tenant.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The database. Without a URL where a record of the tenant does not say how it is reached.
    pub database: DatabaseConfig,
    /// What the change stream needs.
    pub changes: ChangesConfig,
    /// Checks tokens of connections and channels.
    pub verifier: Verifier,
    /// A channel whose token has expired is closed this many seconds later (`protocol.md 4.2` has 0).
    pub token_grace_s: i64,
    /// Tokens bound to topics.
    pub mint: MintConfig,
    /// Quotas.
    pub limits: Limits,
    /// Presence.
    pub presence: PresenceOptions,
}

/// What `POST /api/tokens` goes by (decision 29).
#[derive(Debug, Clone)]
pub struct MintConfig {
    /// Signs the tokens; none if the project has keys of a set alone.
    pub secret: Option<Secret>,
    /// Who may ask.
    pub minter_role: String,
    /// Longest life of a token.
    pub longest_s: i64,
}

impl Settings {
    /// The settings of the one tenant of a server that has no others.
    ///
    /// # Errors
    /// A value that means nothing, or one that is missing.
    pub fn from_options(options: &Options) -> Result<Self, ConfigError> {
        Ok(Self {
            database: DatabaseConfig::from_options(options)?,
            changes: ChangesConfig::from_options(options)?,
            verifier: verifier(options)?,
            token_grace_s: number("WALCAST_TOKEN_GRACE_S", &options.token_grace_s, 0, 0, 86_400)?,
            mint: MintConfig {
                secret: secrets(options).next().map(Secret::new),
                minter_role: text(&options.token_minter_role)
                    .unwrap_or("service_role")
                    .trim()
                    .to_owned(),
                longest_s: number("WALCAST_TOKEN_MAX_S", &options.token_max_s, 86_400, 1, 31_536_000)?,
            },
            limits: Limits::from_options(&options.limits)?,
            presence: walcast_presence::Options {
                window: duration(
                    "WALCAST_PRESENCE_WINDOW_MS",
                    &options.presence_window_ms,
                    10,
                    0,
                    60_000,
                )?,
                max_topic_bytes: 1000
                    * number(
                        "WALCAST_PRESENCE_TOPIC_KB",
                        &options.presence_topic_kb,
                        8_000_usize,
                        1,
                        1_000_000,
                    )?,
            },
        })
    }
}

/// What checks tokens.
///
/// # Errors
/// A key or rule that means nothing, or no key at all.
pub fn verifier(options: &Options) -> Result<Verifier, ConfigError> {
    Ok(Verifier::new(
        keys(options)?,
        claim_rules(&options.jwt_claim_validators)?,
    ))
}

/// The project's secrets, the present one first.
pub(crate) fn secrets(options: &Options) -> impl Iterator<Item = &str> {
    [&options.api_jwt_secret, &options.api_jwt_secret_next]
        .into_iter()
        .filter_map(text)
}

fn keys(options: &Options) -> Result<Keys, ConfigError> {
    let mut keys = Keys::of_secrets(secrets(options));
    if let Some(set) = text(&options.api_jwt_jwks) {
        let set = KeySet::parse(set).map_err(|error| ConfigError::InvalidSecret {
            variable: "API_JWT_JWKS",
            expected: format!("a JSON Web Key Set, {{\"keys\":[…]}} or the bare array, but {error}"),
        })?;
        keys = keys.with_set(set);
    }
    if keys.can_verify() {
        Ok(keys)
    } else {
        Err(ConfigError::Missing {
            variable: "API_JWT_SECRET",
            remedy: "give it the project's JWT secret, the one that signs the anon key; or give API_JWT_JWKS the project's keys",
        })
    }
}

fn claim_rules(raw: &Option<String>) -> Result<ClaimRules, ConfigError> {
    let Some(value) = text(raw) else {
        return Ok(ClaimRules::default());
    };
    serde_json::from_str(value).map(ClaimRules).map_err(|_| {
        invalid(
            "JWT_CLAIM_VALIDATORS",
            "a JSON object such as {\"iss\":\"https://example.com\"}",
            value,
        )
    })
}
