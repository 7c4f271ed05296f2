//! Whether there are several tenants, and where they are recorded.

use std::borrow::Cow;
use std::time::Duration;

use clap::Args;
use serde_json::Value;
use url::Url;
use walcast_tenants::{
    Cipher, Control, ControlError, ControlOptions, Defaults, KeyError, Seed, TenantDatabase,
};

use crate::limits::LimitOptions;
use crate::options::Options;
use crate::setting::{ConfigError, Secret, boolean, duration, invalid, number, one_of, text};

/// Pause between attempts to prepare the control database: doubles from the first to the last.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));

/// The region of a tenant that is made from the environment (`database.md 8.5`).
const REGION: &str = "us-east-1";

/// What the command line and the environment may say of tenants, as raw text.
#[derive(Args, Clone, Default)]
pub struct TenantOptions {
    /// `one`: the project that the other settings describe. `database`: those recorded in the database's schema
    /// _realtime, chosen by Host [default: one]
    #[arg(
        long,
        env = "WALCAST_TENANTS",
        hide_env_values = true,
        value_name = "one|database"
    )]
    pub tenants: Option<String>,
    /// Encrypts secrets in records of tenants: 16 bytes
    #[arg(long, env = "DB_ENC_KEY", hide_env_values = true, value_name = "KEY")]
    pub db_enc_key: Option<String>,
    /// Opens secrets that were encrypted with AES-256-GCM: 32 bytes
    #[arg(long, env = "DB_ENC_KEY_GCM", hide_env_values = true, value_name = "KEY")]
    pub db_enc_key_gcm: Option<String>,
    /// Whether to encrypt with AES-256-GCM; not before every server that reads the records can [default: false]
    #[arg(long, env = "DB_ENC_WRITE_GCM", hide_env_values = true, value_name = "BOOL")]
    pub db_enc_write_gcm: Option<String>,
    /// A statement for every new connection to the records of tenants [default: SET search_path TO _realtime]
    #[arg(
        long,
        env = "DB_AFTER_CONNECT_QUERY",
        hide_env_values = true,
        value_name = "SQL"
    )]
    pub db_after_connect_query: Option<String>,
    /// Whether to make a tenant of the other settings, called SELF_HOST_TENANT_NAME [default: false]
    #[arg(long, env = "SEED_SELF_HOST", hide_env_values = true, value_name = "BOOL")]
    pub seed_self_host: Option<String>,
    /// Records that others have changed are read again within this time [default: 30000]
    #[arg(
        long,
        env = "TENANT_CACHE_EXPIRATION_IN_MS",
        hide_env_values = true,
        value_name = "MS"
    )]
    pub tenant_cache_expiration_in_ms: Option<String>,
    /// A tenant that nobody has used for this long gives its connections to its database back [default: 300000]
    #[arg(
        long,
        env = "WALCAST_TENANT_IDLE_MS",
        hide_env_values = true,
        value_name = "MS"
    )]
    pub tenant_idle_ms: Option<String>,
    /// Stored with new tenants, and not enforced [default: 100000]
    #[arg(
        long,
        env = "TENANT_MAX_BYTES_PER_SECOND",
        hide_env_values = true,
        value_name = "BYTES"
    )]
    pub tenant_max_bytes_per_second: Option<String>,
}

/// What several tenants need.
#[derive(Debug, Clone)]
pub struct ControlConfig {
    /// Where they are recorded, and with what their secrets are opened.
    pub options: ControlOptions,
    /// Limits of a new tenant that names none.
    pub defaults: Defaults,
    /// Changes by others are looked for this often.
    pub poll_every: Duration,
    /// A tenant that nobody has used for this long gives its connections to its database back.
    pub idle: Duration,
    /// A tenant to be made at start.
    pub seed: Option<Seed>,
}

impl ControlConfig {
    /// None: there is one tenant, that of the other settings.
    ///
    /// # Errors
    /// A value that means nothing, or one that is missing.
    pub fn from_options(options: &Options, url: &Secret) -> Result<Option<Self>, ConfigError> {
        let tenants = &options.tenants;
        let are_recorded = one_of(
            "WALCAST_TENANTS",
            &tenants.tenants,
            ("one", false),
            [("database", true)],
        )?;
        if !are_recorded {
            return Ok(None);
        }
        let defaults = defaults(&options.limits, tenants)?;
        let is_seeding = boolean("SEED_SELF_HOST", &tenants.seed_self_host, false)?;
        Ok(Some(Self {
            options: ControlOptions {
                url: url.clone(),
                after_connect: text(&tenants.db_after_connect_query).map(str::to_owned),
                cipher: cipher(tenants)?,
            },
            defaults,
            poll_every: duration(
                "TENANT_CACHE_EXPIRATION_IN_MS",
                &tenants.tenant_cache_expiration_in_ms,
                30_000,
                100,
                3_600_000,
            )?,
            idle: duration(
                "WALCAST_TENANT_IDLE_MS",
                &tenants.tenant_idle_ms,
                300_000,
                100,
                86_400_000,
            )?,
            seed: is_seeding.then(|| seed(options, url, defaults)).transpose()?,
        }))
    }

    /// Makes the tables and the seed, however long that takes.
    pub async fn prepare(&self, control: &Control) {
        let (mut pause, longest_pause) = RETRY;
        let mut said = String::new();
        while let Err(error) = self.prepare_once(control).await {
            let message = error.to_string();
            // Once a cause, not once an attempt.
            if message != said {
                tracing::error!(
                    code = "UnableToConnectToTenants",
                    cause = message,
                    "no tenants yet; trying again"
                );
                said = message;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest_pause);
        }
    }

    async fn prepare_once(&self, control: &Control) -> Result<(), PrepareError> {
        control.prepare().await?;
        if let Some(seed) = &self.seed
            && control.seed(seed).await?
        {
            tracing::info!(
                tenant = seed.name,
                "the tenant of SELF_HOST_TENANT_NAME was written"
            );
        }
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
enum PrepareError {
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("the tenant of SELF_HOST_TENANT_NAME cannot be made: {0}")]
    Seed(#[from] walcast_tenants::WriteError),
}

fn cipher(tenants: &TenantOptions) -> Result<Cipher, ConfigError> {
    let key = tenants.db_enc_key.as_deref().filter(|key| !key.is_empty());
    let key = key.ok_or(ConfigError::Missing {
        variable: "DB_ENC_KEY",
        remedy: "give it the 16 bytes with which the secrets in _realtime.tenants are encrypted, or any 16 if there are none yet",
    })?;
    let gcm_key = tenants.db_enc_key_gcm.as_deref().filter(|key| !key.is_empty());
    let writes_gcm = boolean("DB_ENC_WRITE_GCM", &tenants.db_enc_write_gcm, false)?;
    Cipher::new(key, gcm_key, writes_gcm).map_err(|error| {
        let of = |variable, bytes: usize| ConfigError::InvalidSecret {
            variable,
            expected: format!("exactly {bytes} bytes"),
        };
        match error {
            KeyError::Ecb(_) => of("DB_ENC_KEY", 16),
            KeyError::Gcm(_) => of("DB_ENC_KEY_GCM", 32),
            KeyError::NoGcm => ConfigError::Missing {
                variable: "DB_ENC_KEY_GCM",
                remedy: "DB_ENC_WRITE_GCM=true needs a key of 32 bytes",
            },
        }
    })
}

fn defaults(limits: &LimitOptions, tenants: &TenantOptions) -> Result<Defaults, ConfigError> {
    let usual = Defaults::default();
    let of = |variable, raw: &Option<String>, default| number(variable, raw, default, 0, i32::MAX);
    Ok(Defaults {
        max_concurrent_users: of(
            "TENANT_MAX_CONCURRENT_USERS",
            &limits.max_concurrent_users,
            usual.max_concurrent_users,
        )?,
        max_events_per_second: of(
            "TENANT_MAX_EVENTS_PER_SECOND",
            &limits.max_events_per_second,
            usual.max_events_per_second,
        )?,
        max_bytes_per_second: of(
            "TENANT_MAX_BYTES_PER_SECOND",
            &tenants.tenant_max_bytes_per_second,
            usual.max_bytes_per_second,
        )?,
        max_channels_per_client: of(
            "TENANT_MAX_CHANNELS_PER_CLIENT",
            &limits.max_channels_per_client,
            usual.max_channels_per_client,
        )?,
        max_joins_per_second: of(
            "TENANT_MAX_JOINS_PER_SECOND",
            &limits.max_joins_per_second,
            usual.max_joins_per_second,
        )?,
    })
}

/// The database of the records is that of the seed, too.
fn seed(options: &Options, url: &Secret, defaults: Defaults) -> Result<Seed, ConfigError> {
    let unfit = || {
        ConfigError::InvalidSecret {
        variable: "DATABASE_URL",
        expected: "a URL with host, user and database, such as postgres://user:password@host:5432/database, where SEED_SELF_HOST is true".to_owned(),
    }
    };
    let url = Url::parse(url.expose()).map_err(|_| unfit())?;
    let decoded = |part: &str| {
        let decoded = percent_encoding::percent_decode_str(part).decode_utf8();
        decoded.map(Cow::into_owned).map_err(|_| unfit())
    };
    let filled =
        |part: &str| decoded(part).and_then(|part| if part.is_empty() { Err(unfit()) } else { Ok(part) });
    let mode = url.query_pairs().find(|(name, _)| name == "sslmode");
    let keys = text(&options.api_jwt_jwks);
    if keys.is_some_and(|keys| serde_json::from_str::<Value>(keys).is_err()) {
        return Err(invalid("API_JWT_JWKS", "a JSON Web Key Set", "not JSON"));
    }
    Ok(Seed {
        name: text(&options.tenant_name)
            .unwrap_or("realtime-dev")
            .trim()
            .to_owned(),
        jwt_secret: text(&options.api_jwt_secret).map(Secret::new),
        jwt_jwks: keys.map(Secret::new),
        database: TenantDatabase {
            host: filled(url.host_str().unwrap_or_default().trim_matches(['[', ']']))?,
            port: url.port().unwrap_or(5432),
            name: filled(url.path().trim_start_matches('/'))?,
            user: filled(url.username())?,
            password: Secret::new(decoded(url.password().unwrap_or_default())?),
            ssl_enforced: mode
                .is_some_and(|(_, mode)| matches!(&*mode, "require" | "verify-ca" | "verify-full")),
            pool_size: None,
            publication: text(&options.publication)
                .unwrap_or("supabase_realtime")
                .to_owned(),
            max_record_bytes: Some(number(
                "WALCAST_MAX_RECORD_BYTES",
                &options.max_record_bytes,
                1_048_576,
                1024,
                1 << 30,
            )?),
            region: Some(REGION.to_owned()),
        },
        defaults,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: (&str, &str) = ("DB_ENC_KEY", "supabaserealtime");
    const DATABASE: (&str, &str) = ("WALCAST_TENANTS", "database");

    fn control(variables: &[(&str, &str)]) -> Result<Option<ControlConfig>, ConfigError> {
        let given = [("API_JWT_SECRET", "secret"), ("API_JWT_JWKS", "[]")];
        let options = Options::from_environment(given.into_iter().chain(variables.iter().copied())).unwrap();
        let config = crate::config::Config::from_options(&options)?;
        Ok(config.control)
    }

    #[test]
    fn tenants_are_recorded_only_where_that_is_asked_for() {
        assert!(control(&[KEY, ("SEED_SELF_HOST", "true")]).unwrap().is_none());
        let recorded = control(&[KEY, DATABASE, ("TENANT_MAX_JOINS_PER_SECOND", "7")]);
        let recorded = recorded.unwrap().unwrap();
        assert_eq!(recorded.defaults.max_joins_per_second, 7);
        assert_eq!(recorded.defaults.max_events_per_second, 100);
        assert_eq!(recorded.poll_every, Duration::from_secs(30));
        assert!(recorded.seed.is_none());
    }

    #[test]
    fn a_wrong_value_is_refused_in_one_sentence_that_names_its_variable_and_no_key() {
        let cases: [(&[(&str, &str)], &str); 5] = [
            (
                &[("WALCAST_TENANTS", "many")],
                "WALCAST_TENANTS must be `one` or `database`, but is `many`",
            ),
            (&[DATABASE], "DB_ENC_KEY is not set: "),
            (
                &[DATABASE, ("DB_ENC_KEY", "short")],
                "DB_ENC_KEY must be exactly 16 bytes",
            ),
            (
                &[DATABASE, KEY, ("DB_ENC_KEY_GCM", "short")],
                "DB_ENC_KEY_GCM must be exactly 32 bytes",
            ),
            (
                &[DATABASE, KEY, ("DB_ENC_WRITE_GCM", "true")],
                "DB_ENC_KEY_GCM is not set: ",
            ),
        ];
        for (variables, expected) in cases {
            let refusal = control(variables).unwrap_err().to_string();
            assert!(refusal.starts_with(expected), "{refusal}");
            assert!(!refusal.contains("short"), "{refusal}");
        }
    }

    #[test]
    fn the_seed_is_the_database_and_the_keys_of_the_other_settings() {
        let seeding = ("SEED_SELF_HOST", "true");
        let seed = |more: &[(&str, &str)]| {
            let variables = [&[KEY, DATABASE, seeding], more].concat();
            control(&variables).unwrap().unwrap().seed.unwrap()
        };
        let of_parts = seed(&[
            ("DB_HOST", "db"),
            ("DB_USER", "supabase_admin"),
            ("DB_PASSWORD", "p:w/d"),
        ]);
        assert_eq!(of_parts.name, "realtime-dev");
        assert_eq!(of_parts.jwt_secret, Some(Secret::new("secret")));
        assert_eq!(
            of_parts.database.url().expose(),
            "postgres://supabase%5Fadmin:p%3Aw%2Fd@db:5432/postgres?sslmode=prefer"
        );
        let of_url = seed(&[
            ("DATABASE_URL", "postgres://u@[::1]:5433/n?sslmode=require"),
            ("SELF_HOST_TENANT_NAME", "dev"),
        ]);
        assert_eq!(of_url.name, "dev");
        assert_eq!(
            (of_url.database.host.as_str(), of_url.database.port),
            ("::1", 5433)
        );
        assert!(of_url.database.ssl_enforced);
        let refusal = control(&[KEY, DATABASE, seeding, ("DATABASE_URL", "postgres://h/n")]).unwrap_err();
        assert!(
            refusal.to_string().starts_with("DATABASE_URL must be"),
            "{refusal}"
        );
    }
}
