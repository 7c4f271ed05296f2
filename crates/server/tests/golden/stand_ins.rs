//! What the transcripts leave open: tokens, long runs of one character, moments in time.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};

use crate::transcript::Token;

pub(crate) const SECRET: &str = "golden-secret-of-at-least-thirty-two-characters";
const SECRET_OF_ANOTHER: &str = "another-secret-of-at-least-thirty-two-characters";

/// Claims of the recording from this second on stand for "in the future".
const FUTURE_THEN_S: i64 = 1_797_000_000;
const LIFETIME_S: i64 = 30 * 86_400;
const SHORT_LIFETIME_S: i64 = 4;

/// The end of the recording, from which its moments are counted.
const RECORDED_MS: i64 = 1_795_239_808_516;

/// The values of `{{…}}` in one case.
pub(crate) struct StandIns {
    values: BTreeMap<String, String>,
}

impl StandIns {
    /// Tokens are made now; `{{short4}}` lives four seconds.
    pub(crate) fn new(tokens: &BTreeMap<String, Token>) -> Self {
        let mut values: BTreeMap<String, String> = tokens
            .iter()
            .map(|(name, token)| (name.clone(), make(name, token)))
            .collect();
        let claims = json!({
            "role": "authenticated",
            "sub": "11111111-1111-4111-8111-111111111111",
            "exp": now_ms() / 1000 + SHORT_LIFETIME_S,
        });
        let short = sign(&hs256(), &claims.to_string(), SECRET);
        values.insert("short4".to_owned(), short);
        values.insert("secret".to_owned(), SECRET.to_owned());
        Self { values }
    }

    pub(crate) fn fill(&self, text: &str) -> String {
        let filled = self.replace(text);
        match filled {
            Cow::Borrowed(text) => moved_in_time(text),
            Cow::Owned(text) => moved_in_time(&text),
        }
    }

    /// Of text in hexadecimal digits; the run of a `repeat` is one byte in such.
    pub(crate) fn fill_bytes(&self, hex: &str) -> Vec<u8> {
        let digits = self.replace(hex);
        digits
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    fn replace<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let Some((before, rest)) = text.split_once("{{") else {
            return Cow::Borrowed(text);
        };
        let Some((name, after)) = rest.split_once("}}") else {
            return Cow::Borrowed(text);
        };
        let value = match name.strip_prefix("repeat:").and_then(|run| run.split_once(':')) {
            Some((run, count)) => run.repeat(count.parse().unwrap()),
            None => match self.values.get(name) {
                Some(value) => value.clone(),
                // Two braces of the payload's own.
                None => return Cow::Owned(format!("{before}{{{{{}", self.replace(rest))),
            },
        };
        Cow::Owned(format!("{before}{value}{}", self.replace(after)))
    }
}

/// A `since` of the time of recording becomes the moment as far from now as it was from then.
fn moved_in_time(text: &str) -> String {
    const KEY: &str = "\"since\":";
    const OF_THE_RECORDING: &str = "1795";
    let mut moved = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(KEY) {
        moved += before;
        moved += KEY;
        let digits = after.bytes().take_while(u8::is_ascii_digit).count();
        rest = if digits == 13 && after.starts_with(OF_THE_RECORDING) {
            let then: i64 = after[..digits].parse().unwrap();
            moved += &(then - RECORDED_MS + now_ms()).to_string();
            &after[digits..]
        } else {
            after
        };
    }
    moved + rest
}

fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since_epoch.as_millis()).unwrap()
}

fn hs256() -> String {
    json!({"alg": "HS256", "typ": "JWT"}).to_string()
}

/// The token of that name, with its claims as the index lists them.
fn make(name: &str, token: &Token) -> String {
    let header = match name {
        "rs256_kid" => json!({"alg": "RS256", "typ": "JWT", "kid": "k1"}).to_string(),
        "rs256_nokid" => json!({"alg": "RS256", "typ": "JWT"}).to_string(),
        "hs256_kid" => json!({"alg": "HS256", "typ": "JWT", "kid": "k1"}).to_string(),
        "hs384" => json!({"alg": "HS384", "typ": "JWT"}).to_string(),
        "alg_none" => json!({"alg": "none", "typ": "JWT"}).to_string(),
        "notyp" => json!({"alg": "HS256"}).to_string(),
        "header_notjson" => "not json".to_owned(),
        _ => hs256(),
    };
    let claims = match (name, &token.claims) {
        ("claims_notjson", _) => "not json".to_owned(),
        (_, claims) => lasting(claims).to_string(),
    };
    match name {
        "badsig" => sign(&header, &claims, SECRET_OF_ANOTHER),
        "alg_none" => {
            let signed = sign(&header, &claims, SECRET);
            format!("{}.", signed.rsplit_once('.').unwrap().0)
        }
        _ => sign(&header, &claims, SECRET),
    }
}

/// The claims, valid from now on if they were at the time.
fn lasting(claims: &Value) -> Value {
    let mut claims = claims.clone();
    let future_s = now_ms() / 1000 + LIFETIME_S;
    if let Some(claims) = claims.as_object_mut() {
        for (name, value) in claims.iter_mut() {
            let is_future = value.as_i64().is_some_and(|then| then > FUTURE_THEN_S);
            match (name.as_str(), value.as_str()) {
                ("exp" | "nbf", None) if is_future => *value = json!(future_s),
                ("exp", Some("string of the number")) => *value = json!(future_s.to_string()),
                ("exp", Some("future + 0.5")) => {
                    *value = Value::Number(format!("{future_s}.5").parse().unwrap());
                }
                _ => {}
            }
        }
    }
    claims
}

fn sign(header: &str, claims: &str, secret: &str) -> String {
    let algorithm = if header.contains("HS384") {
        Algorithm::HS384
    } else {
        Algorithm::HS256
    };
    let message = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(claims)
    );
    let key = EncodingKey::from_secret(secret.as_bytes());
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, algorithm).unwrap();
    format!("{message}.{signature}")
}
