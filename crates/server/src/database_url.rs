//! One URL for both Postgres drivers, from `DATABASE_URL` or the `DB_*` settings.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::options::Options;
use crate::setting::{ConfigError, invalid, number, text};

fn ssl_mode(options: &Options) -> Result<&'static str, ConfigError> {
    let mode = match text(&options.db_ssl).map(str::to_ascii_lowercase).as_deref() {
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
    }?;
    // Whoever names the authority wants the server to prove who it is.
    let is_unverified = matches!(mode, "prefer" | "require");
    Ok(if is_unverified && text(&options.db_ssl_ca_cert).is_some() {
        "verify-full"
    } else {
        mode
    })
}

/// The URL: with user, password if there is one, `sslmode`, and `sslrootcert` if one is given.
///
/// # Errors
/// A part that means nothing.
pub(crate) fn database_url(options: &Options) -> Result<String, ConfigError> {
    let mode = ssl_mode(options)?;
    let authority = text(&options.db_ssl_ca_cert).map(str::trim);
    if let Some(given) = text(&options.database_url) {
        let expected = || ConfigError::InvalidSecret {
            variable: "DATABASE_URL",
            expected: "a URL such as postgres://user:password@host:5432/database".to_owned(),
        };
        let mut url = url::Url::parse(given.trim()).map_err(|_| expected())?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(expected());
        }
        let has = |url: &url::Url, wanted: &str| url.query_pairs().any(|(key, _)| key == wanted);
        if (text(&options.db_ssl).is_some() || authority.is_some()) && !has(&url, "sslmode") {
            url.query_pairs_mut().append_pair("sslmode", mode);
        }
        if let Some(file) = authority
            && !has(&url, "sslrootcert")
        {
            url.query_pairs_mut().append_pair("sslrootcert", file);
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
    let authority = authority.map(|file| format!("&sslrootcert={}", encode(file)));
    Ok(format!(
        "postgres://{user}{}@{host}:{port}/{name}?sslmode={mode}{}",
        password.unwrap_or_default(),
        authority.unwrap_or_default()
    ))
}
