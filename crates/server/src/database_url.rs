//! One URL for both Postgres drivers, from `DATABASE_URL` or the `DB_*` settings.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::options::Options;
use crate::setting::{ConfigError, invalid, number, text};

fn ssl_mode(raw: &Option<String>) -> Result<&'static str, ConfigError> {
    match text(raw).map(str::to_ascii_lowercase).as_deref() {
        None | Some("prefer") => Ok("prefer"),
        Some("true" | "1" | "require") => Ok("require"),
        Some("false" | "0" | "disable") => Ok("disable"),
        Some("verify-ca") => Ok("verify-ca"),
        Some("verify-full") => Ok("verify-full"),
        Some(other) => Err(invalid(
            "DB_SSL",
            "true, false, or one of disable, prefer, require, verify-ca, verify-full",
            other,
        )),
    }
}

/// The URL: with user, password if there is one, and `sslmode`.
///
/// # Errors
/// A part that means nothing.
pub(crate) fn database_url(options: &Options) -> Result<String, ConfigError> {
    let mode = ssl_mode(&options.db_ssl)?;
    if let Some(given) = text(&options.database_url) {
        let expected = || ConfigError::InvalidSecret {
            variable: "DATABASE_URL",
            expected: "a URL such as postgres://user:password@host:5432/database".to_owned(),
        };
        let mut url = url::Url::parse(given.trim()).map_err(|_| expected())?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(expected());
        }
        if text(&options.db_ssl).is_some() && !url.query_pairs().any(|(key, _)| key == "sslmode") {
            url.query_pairs_mut().append_pair("sslmode", mode);
        }
        return Ok(url.into());
    }

    let encode = |part: &str| utf8_percent_encode(part, NON_ALPHANUMERIC).to_string();
    let host = text(&options.db_host).unwrap_or("localhost").trim();
    let host = match host.parse::<std::net::Ipv6Addr>() {
        Ok(address) => format!("[{address}]"),
        Err(_) if host.starts_with('/') => encode(host),
        Err(_) if host.contains(|c: char| !(c.is_ascii_alphanumeric() || "-_.[]:".contains(c))) => {
            return Err(invalid(
                "DB_HOST",
                "a host name, an address, or a socket directory",
                host,
            ));
        }
        Err(_) => host.to_owned(),
    };
    let port: u16 = number("DB_PORT", &options.db_port, 5432, 1, u16::MAX)?;
    let user = encode(text(&options.db_user).unwrap_or("postgres"));
    let password = text(&options.db_password).map(|password| format!(":{}", encode(password)));
    let name = encode(text(&options.db_name).unwrap_or("postgres"));
    Ok(format!(
        "postgres://{user}{}@{host}:{port}/{name}?sslmode={mode}",
        password.unwrap_or_default()
    ))
}
