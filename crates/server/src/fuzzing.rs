//! Bodies of the fuzz targets, shared by the fuzzer and by the test that replays its corpora.

use std::sync::LazyLock;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use walcast_protocol::{JoinPayload, Payload};

use crate::sse::request::StreamRequest;
use crate::token::{ClaimRules, Claims, KeySet, Keys, Verifier};

const SECRET: &str = "secret";

/// One key of every type, the examples of RFC 7515 and RFC 8037.
const KEYS: &str = r#"[
    {"kty":"oct","kid":"k","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"},
    {"kty":"RSA","kid":"k","e":"AQAB","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"},
    {"kty":"EC","kid":"k","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"},
    {"kty":"OKP","kid":"k","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
]"#;

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let set = KeySet::parse(KEYS).unwrap_or_default();
    assert!(set.is_usable() && set.warnings().is_empty());
    Verifier::new(Keys::of_secrets([SECRET]).with_set(set), ClaimRules::default())
});

/// Any text is a token or is refused: the text itself, and a token whose header and claims are its first line and the
/// rest, signed so that the claims are judged too.
pub fn token(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    judge(&VERIFIER, text);
    if let Some((header, claims)) = text.split_once('\n') {
        judge(&VERIFIER, &sign(header, claims));
    }
}

/// Any text is a key set or is refused, and any key of a set survives a token that names it.
pub fn key_set(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let set = match KeySet::parse(text) {
        Ok(set) => set,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert!(set.warnings().iter().all(|warning| warning.starts_with("key ")));
    let verifier = Verifier::new(Keys::default().with_set(set), ClaimRules::default());
    // A signature of the right length is looked at, any other is not.
    for (algorithm, signature_bytes) in [
        ("HS256", 32),
        ("RS256", 256),
        ("RS512", 1024),
        ("ES256", 64),
        ("ES384", 96),
        ("ES512", 132),
        ("EdDSA", 64),
        ("Ed448", 114),
    ] {
        let header = part(format!(r#"{{"alg":"{algorithm}","kid":"k"}}"#));
        let claims = part(r#"{"role":"anon","exp":1}"#);
        let signature = part(vec![1; signature_bytes]);
        judge(&verifier, &format!("{header}.{claims}.{signature}"));
    }
}

/// Any text is the query of a stream or is refused; what is asked for is a join that can be read, within its bounds.
pub fn stream_query(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    // A line of its own is the header `Last-Event-ID`.
    let (query, last_event_id) = text.split_once('\n').unwrap_or((text, ""));
    let asked = StreamRequest::parse(query).and_then(|mut request| {
        request.resume_after(last_event_id)?;
        Ok(request)
    });
    let (first, later) = match asked {
        Ok(request) => request.joins(Duration::from_secs(8)),
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert!(later.len() < 100);
    for (at, join) in std::iter::once(first).chain(later).enumerate() {
        assert!(
            join.topic
                .as_str()
                .is_some_and(|topic| topic.starts_with("realtime:"))
        );
        let read = match &join.payload {
            Payload::Json(payload) => JoinPayload::parse(payload).map_err(|error| error.to_string()),
            Payload::UserBroadcast(_) | Payload::Bytes(_) => Err("no JSON".to_owned()),
        };
        match read {
            Ok(read) => {
                let config = read.config.unwrap_or_default();
                assert!(read.problems.is_empty() && config.postgres_changes_options.wait);
                assert!(config.postgres_changes.len() <= if at == 0 { 100 } else { 0 });
            }
            // Bindings may be JSON beyond what a join takes.
            Err(error) => assert!(at == 0, "{error}"),
        }
    }
}

fn judge(verifier: &Verifier, token: &str) {
    match verifier.verify_at(token, 0) {
        Ok(Claims {
            expires_at_s, json, ..
        }) => assert!(expires_at_s >= 0 && json.trim_start().starts_with('{')),
        Err(error) => assert!(!error.join_reason().is_empty() && !error.remedy().is_empty()),
    }
}

fn sign(header: &str, claims: &str) -> String {
    let message = format!("{}.{}", part(header), part(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let signature = hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", part(signature))
}

fn part(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
