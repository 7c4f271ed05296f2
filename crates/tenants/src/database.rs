//! How a tenant's database is reached: the settings of its extension, decrypted.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::cipher::{Cipher, CipherError, Sealed};
use crate::secret::Secret;
use crate::tenant::Extension;

/// Of `postgres_cdc_rls` where a record does not say (`database.md 7.1`).
pub(crate) const DEFAULT_PUBLICATION: &str = "supabase_realtime";

/// Why a tenant's database cannot be reached by what is recorded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DatabaseError {
    /// There is no such extension.
    #[error(
        "the tenant has no extension `postgres_cdc_rls`; say with PUT /api/tenants/… how its database is reached"
    )]
    Missing,
    /// A setting is missing.
    #[error("the tenant's extension has no {0}; say it with PUT /api/tenants/…")]
    NoSetting(&'static str),
    /// A setting cannot be decrypted.
    #[error("{setting} of the tenant's extension cannot be decrypted: {cause}")]
    Sealed {
        /// Which.
        setting: &'static str,
        /// Why.
        #[source]
        cause: CipherError,
    },
    /// A port is not a number.
    #[error("db_port of the tenant's extension must be a number from 1 to 65535")]
    Port,
}

/// How a tenant's database is reached, and what is read there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantDatabase {
    /// Host name, address, or folder of a socket.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Database.
    pub name: String,
    /// Role.
    pub user: String,
    /// Its password.
    pub password: Secret,
    /// Whether a connection without TLS is refused; true unless recorded.
    pub ssl_enforced: bool,
    /// Connections for queries, if recorded (`db_pool`).
    pub pool_size: Option<u32>,
    /// Publication whose tables are cast.
    pub publication: String,
    /// Larger records lose their large values, if recorded (`poll_max_record_bytes`).
    pub max_record_bytes: Option<usize>,
    /// Where it is, for people.
    pub region: Option<String>,
}

impl TenantDatabase {
    pub(crate) fn open(extension: &Extension, cipher: &Cipher) -> Result<Self, DatabaseError> {
        let text = |setting: &str| extension.setting(setting).and_then(Value::as_str);
        let number = |setting: &str| extension.setting(setting).and_then(Value::as_u64);
        let opened = |setting: &'static str| {
            let stored = text(setting).ok_or(DatabaseError::NoSetting(setting))?;
            cipher
                .open(&Sealed::from_stored(stored))
                .map_err(|cause| DatabaseError::Sealed { setting, cause })
        };
        let plain = |setting| opened(setting).map(|secret| secret.expose().to_owned());
        let port: u16 = plain("db_port")?
            .trim()
            .parse()
            .map_err(|_| DatabaseError::Port)?;
        Ok(Self {
            host: plain("db_host")?,
            port,
            name: plain("db_name")?,
            user: plain("db_user")?,
            password: opened("db_password")?,
            ssl_enforced: extension
                .setting("ssl_enforced")
                .and_then(Value::as_bool)
                .unwrap_or(true),
            pool_size: number("db_pool").and_then(|size| size.try_into().ok()),
            publication: text("publication").unwrap_or(DEFAULT_PUBLICATION).to_owned(),
            max_record_bytes: number("poll_max_record_bytes").and_then(|bytes| bytes.try_into().ok()),
            region: text("region").map(str::to_owned),
        })
    }

    /// A `postgres://` URL with user, password and `sslmode`. TLS is not asked for by whoever does not enforce it, but
    /// taken where it is offered.
    #[must_use]
    pub fn url(&self) -> Secret {
        let encode = |part: &str| utf8_percent_encode(part, NON_ALPHANUMERIC).to_string();
        let host = match self.host.parse::<std::net::Ipv6Addr>() {
            Ok(address) => format!("[{address}]"),
            Err(_) if is_host_name(&self.host) => self.host.clone(),
            Err(_) => encode(&self.host),
        };
        let mode = if self.ssl_enforced { "require" } else { "prefer" };
        Secret::new(format!(
            "postgres://{}:{}@{host}:{}/{}?sslmode={mode}",
            encode(&self.user),
            encode(self.password.expose()),
            self.port,
            encode(&self.name),
        ))
    }
}

fn is_host_name(host: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    host.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_holds_whatever_characters_the_settings_have() {
        let database = TenantDatabase {
            host: "::1".to_owned(),
            port: 5499,
            name: "a/b".to_owned(),
            user: "me@home".to_owned(),
            password: Secret::new("p:w?"),
            ssl_enforced: true,
            pool_size: None,
            publication: DEFAULT_PUBLICATION.to_owned(),
            max_record_bytes: None,
            region: None,
        };
        assert_eq!(
            database.url().expose(),
            "postgres://me%40home:p%3Aw%3F@[::1]:5499/a%2Fb?sslmode=require"
        );
        assert!(!format!("{database:?}").contains("p:w?"));
    }
}
