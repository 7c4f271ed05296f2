//! The `token` subcommand: signs an API key or a user's token with the project's secret.

use clap::Args;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Map, Value};

use crate::token::now_s;

/// What the token shall say.
#[derive(Args, Clone)]
pub struct TokenOptions {
    /// The project's JWT secret
    #[arg(long, env = "API_JWT_SECRET", hide_env_values = true, value_name = "SECRET")]
    pub api_jwt_secret: Option<String>,
    /// Database role
    #[arg(long, default_value = "anon")]
    pub role: String,
    /// User id, what auth.uid() returns
    #[arg(long)]
    pub sub: Option<String>,
    /// Life in seconds, or with a unit: 90s, 30m, 12h, 3650d
    #[arg(long, default_value = "3650d", value_parser = lifetime_s)]
    pub lifetime: i64,
    /// More claims, as a JSON object
    #[arg(long, value_name = "JSON", value_parser = json_object)]
    pub claims: Option<Map<String, Value>>,
}

/// Why no token was made.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// Nothing to sign with.
    #[error("API_JWT_SECRET is not set: give it the project's JWT secret")]
    NoSecret,
    /// The library refused the claims.
    #[error("the token could not be signed: {0}")]
    Sign(#[from] jsonwebtoken::errors::Error),
}

/// Signs the token with HS256.
///
/// # Errors
/// No secret, or claims that cannot be written as JSON.
pub fn mint(options: &TokenOptions) -> Result<String, MintError> {
    let secret = crate::setting::text(&options.api_jwt_secret).ok_or(MintError::NoSecret)?;
    let issued_at_s = now_s();
    let mut claims = Map::new();
    claims.insert("role".to_owned(), options.role.clone().into());
    if let Some(sub) = &options.sub {
        claims.insert("sub".to_owned(), sub.clone().into());
    }
    claims.insert("iss".to_owned(), "walcast".into());
    claims.insert("iat".to_owned(), issued_at_s.into());
    claims.insert(
        "exp".to_owned(),
        issued_at_s.saturating_add(options.lifetime).into(),
    );
    claims.extend(options.claims.clone().unwrap_or_default());
    Ok(sign(&claims, secret)?)
}

/// Signs claims with HS256.
///
/// # Errors
/// Claims that cannot be written as JSON.
pub fn sign(claims: &Map<String, Value>, secret: &str) -> Result<String, jsonwebtoken::errors::Error> {
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &key)
}

fn lifetime_s(text: &str) -> Result<i64, String> {
    let (digits, unit_s) = match text.strip_suffix(['s', 'm', 'h', 'd']) {
        Some(digits) if text.ends_with('m') => (digits, 60),
        Some(digits) if text.ends_with('h') => (digits, 3_600),
        Some(digits) if text.ends_with('d') => (digits, 86_400),
        Some(digits) => (digits, 1),
        None => (text, 1),
    };
    let count: i64 = digits
        .parse()
        .map_err(|_| "expected a number, or one with s, m, h or d".to_owned())?;
    count.checked_mul(unit_s).ok_or_else(|| "too long".to_owned())
}

fn json_object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("expected a JSON object: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{ClaimRules, Keys, Verifier};

    fn options() -> TokenOptions {
        TokenOptions {
            api_jwt_secret: Some("secret".to_owned()),
            role: "authenticated".to_owned(),
            sub: Some("u1".to_owned()),
            lifetime: 60,
            claims: json_object(r#"{"org":7}"#).ok(),
        }
    }

    #[test]
    fn a_minted_token_is_accepted_until_its_lifetime_is_over() {
        let token = mint(&options()).unwrap();
        let verifier = Verifier::new(Keys::of_secrets(["secret"]), ClaimRules::default());
        let claims = verifier.verify(&token).unwrap();
        assert_eq!(claims.role.as_deref(), Some("authenticated"));
        let json: Value = serde_json::from_str(&claims.json).unwrap();
        assert_eq!((&json["sub"], &json["org"]), (&"u1".into(), &7.into()));
        assert!(verifier.verify_at(&token, now_s() + 61).is_err());
    }

    #[test]
    fn lifetimes_have_units() {
        for (text, seconds) in [
            ("90", 90),
            ("90s", 90),
            ("2m", 120),
            ("1h", 3_600),
            ("10d", 864_000),
        ] {
            assert_eq!(lifetime_s(text), Ok(seconds));
        }
        for text in ["", "d", "1w", "9223372036854775807d"] {
            assert!(lifetime_s(text).is_err(), "{text}");
        }
    }

    #[test]
    fn without_a_secret_no_token_is_made() {
        let options = TokenOptions {
            api_jwt_secret: Some(String::new()),
            ..options()
        };
        assert!(matches!(mint(&options), Err(MintError::NoSecret)));
    }
}
