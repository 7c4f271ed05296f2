use super::*;
use jsonwebtoken::{EncodingKey, Header as JwtHeader};
use serde_json::json;

const NOW_S: i64 = 1_800_000_000;

fn verifier() -> Verifier {
    Verifier::new("secret", ClaimRules::default())
}

fn encode(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

fn sign_raw(header: &str, claims: &str, secret: &str, algorithm: Algorithm) -> String {
    let message = format!("{}.{}", encode(header), encode(claims));
    let key = EncodingKey::from_secret(secret.as_bytes());
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, algorithm).unwrap();
    format!("{message}.{signature}")
}

fn token(claims: &Value) -> String {
    let key = EncodingKey::from_secret(b"secret");
    jsonwebtoken::encode(&JwtHeader::new(Algorithm::HS256), claims, &key).unwrap()
}

fn verify(token: &str) -> Result<Claims, TokenError> {
    verifier().verify_at(token, NOW_S)
}

#[test]
fn a_good_token_gives_role_expiry_and_the_claims_as_signed() {
    let text = r#"{"exp": 1800000010,  "role":"anon"}"#;
    let claims = verify(&sign_raw(r#"{"alg":"HS256"}"#, text, "secret", Algorithm::HS256)).unwrap();
    assert_eq!(claims.role.as_deref(), Some("anon"));
    assert_eq!(claims.expires_at_s, NOW_S + 10);
    assert_eq!(&*claims.json, text);
}

#[test]
fn rules_on_claims() {
    let rule = |claim: &str, expected: &str| Err(wrong_claim(claim, expected));
    let cases = [
        (
            json!({"role": "anon", "exp": NOW_S}),
            Err(TokenError::Expired { seconds_ago: 0 }),
        ),
        (
            json!({"role": "anon", "exp": NOW_S - 7}),
            Err(TokenError::Expired { seconds_ago: 7 }),
        ),
        (json!({"role": "anon", "exp": NOW_S + 1}), Ok(())),
        (json!({"role": "anon", "exp": 1_800_000_000.5}), Ok(())),
        (
            json!({"role": "anon", "exp": 1_700_000_000.5}),
            rule("exp", "in the future"),
        ),
        (
            json!({"role": "anon", "exp": "1900000000"}),
            rule("exp", "a number"),
        ),
        (json!({"role": "anon", "exp": null}), rule("exp", "a number")),
        (json!({"role": "anon"}), Err(TokenError::MissingClaims)),
        (json!({"exp": NOW_S + 1}), Err(TokenError::MissingClaims)),
        (
            json!({"exp": NOW_S - 1}),
            Err(TokenError::Expired { seconds_ago: 1 }),
        ),
        (json!({"role": null, "exp": NOW_S + 1}), Ok(())),
        (
            json!({"role": "anon", "exp": NOW_S + 1, "iat": "x"}),
            rule("iat", "a number"),
        ),
        (json!({"role": "anon", "exp": NOW_S + 1, "iat": 1.5}), Ok(())),
        (
            json!({"role": "anon", "exp": NOW_S + 1, "nbf": NOW_S + 1}),
            Ok(()),
        ),
        (json!([1, 2]), Err(TokenError::ClaimsNotObject)),
    ];
    for (claims, expected) in cases {
        assert_eq!(verify(&token(&claims)).map(|_| ()), expected, "{claims}");
    }
}

#[test]
fn rules_on_the_form_of_a_token() {
    let claims = r#"{"role":"anon","exp":1800000001}"#;
    let hs256 = |header: &str| sign_raw(header, claims, "secret", Algorithm::HS256);
    let good = hs256(r#"{"alg":"HS256"}"#);
    let (message, _) = good.rsplit_once('.').unwrap();
    let cases = [
        (String::new(), Err(TokenError::Malformed)),
        ("a.b.c".to_owned(), Err(TokenError::Malformed)),
        ("not-a-jwt".to_owned(), Err(TokenError::Malformed)),
        ("sb_publishable_abc".to_owned(), Err(TokenError::Malformed)),
        (format!("{good}.x"), Err(TokenError::Malformed)),
        (good.clone(), Ok(())),
        (good.replace('.', "%2E"), Ok(())),
        (format!(" {}\n", good.replacen('.', ". ", 1)), Ok(())),
        (format!("{message}.AAAA"), Err(TokenError::Signature)),
        (
            sign_raw(r#"{"alg":"HS256"}"#, claims, "other", Algorithm::HS256),
            Err(TokenError::Signature),
        ),
        (hs256("not json"), Err(TokenError::NotJson)),
        (
            sign_raw(r#"{"alg":"HS256"}"#, "not json", "secret", Algorithm::HS256),
            Err(TokenError::NotJson),
        ),
        (hs256("{}"), Err(TokenError::NoSigner)),
        (hs256(r#"{"alg":"none"}"#), Err(TokenError::NoSigner)),
        (hs256(r#"{"alg":"RS256"}"#), Err(TokenError::NoSigner)),
        (hs256(r#"{"alg":"RS256","kid":"k1"}"#), Err(TokenError::NoSigner)),
        (
            format!("{}.{}.", encode(r#"{"alg":"none"}"#), encode(claims)),
            Err(TokenError::NoSigner),
        ),
        (hs256(r#"{"alg":"HS256","kid":"k1"}"#), Ok(())),
        (
            sign_raw(r#"{"alg":"HS384"}"#, claims, "secret", Algorithm::HS384),
            Ok(()),
        ),
        (
            sign_raw(r#"{"alg":"HS512"}"#, claims, "secret", Algorithm::HS512),
            Ok(()),
        ),
        // The header names one algorithm and the signature was made with another.
        (
            sign_raw(r#"{"alg":"HS512"}"#, claims, "secret", Algorithm::HS256),
            Err(TokenError::Signature),
        ),
    ];
    for (token, expected) in cases {
        assert_eq!(verify(&token).map(|_| ()), expected, "{token}");
    }
}

#[test]
fn a_configured_claim_must_match_if_the_token_has_it() {
    let rules = ClaimRules(json!({"iss": "me"}).as_object().unwrap().clone());
    let verifier = Verifier::new("secret", rules);
    let verify = |claims: Value| verifier.verify_at(&token(&claims), NOW_S).map(|_| ());
    let exp = NOW_S + 1;
    assert_eq!(verify(json!({"role": "anon", "exp": exp})), Ok(()));
    assert_eq!(verify(json!({"role": "anon", "exp": exp, "iss": "me"})), Ok(()));
    assert_eq!(
        verify(json!({"role": "anon", "exp": exp, "iss": "you"})),
        Err(wrong_claim("iss", "\"me\""))
    );
}

#[test]
fn an_administrative_token_needs_no_role_and_no_expiry() {
    let verify = |claims: Value| verifier().verify_admin(&token(&claims));
    assert_eq!(verify(json!({})), Ok(()));
    assert_eq!(verify(json!({"exp": now_s() + 60})), Ok(()));
    assert!(matches!(
        verify(json!({"exp": now_s() - 60})),
        Err(TokenError::Expired { .. })
    ));
    assert_eq!(
        verify(json!({"exp": "2100000000"})),
        Err(wrong_claim("exp", "a number"))
    );
}

#[test]
fn a_verifier_does_not_show_its_secret() {
    assert!(!format!("{:?}", Verifier::new("hunter2", ClaimRules::default())).contains("hunter2"));
}
