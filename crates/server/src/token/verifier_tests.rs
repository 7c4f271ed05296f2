use super::*;
use crate::token::signing::{Pair, base64url as encode};
use proptest::prelude::*;
use serde_json::json;

const NOW_S: i64 = 1_800_000_000;

fn verifier() -> Verifier {
    Verifier::new(Keys::of_secrets(["secret"]), ClaimRules::default())
}

/// A token signed with an own secret.
fn sign_with(secret: &str, header: &str, claims: &str) -> String {
    Pair::secret(secret).sign_text(header, claims)
}

fn sign(header: &str, claims: &str) -> String {
    sign_with("secret", header, claims)
}

fn token(claims: &Value) -> String {
    sign(r#"{"alg":"HS256"}"#, &claims.to_string())
}

fn verify(token: &str) -> Result<Claims, TokenError> {
    verifier().verify_at(token, NOW_S)
}

#[test]
fn a_good_token_gives_role_expiry_and_the_claims_as_signed() {
    let text = r#"{"exp": 1800000010,  "role":"anon"}"#;
    let claims = verify(&sign(r#"{"alg":"HS256"}"#, text)).unwrap();
    assert_eq!(claims.role.as_deref(), Some("anon"));
    assert_eq!(claims.expires_at_s, NOW_S + 10);
    assert_eq!(&*claims.json, text);
}

#[test]
fn rules_on_claims() {
    let rule = |claim: &str, expected: &str| Err(TokenError::claim(claim, expected));
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
    let signed = |header: &str| sign(header, claims);
    let good = signed(r#"{"alg":"HS256"}"#);
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
            sign_with("other", r#"{"alg":"HS256"}"#, claims),
            Err(TokenError::Signature),
        ),
        (signed("not json"), Err(TokenError::NotJson)),
        (sign(r#"{"alg":"HS256"}"#, "not json"), Err(TokenError::NotJson)),
        (signed("{}"), Err(TokenError::NoSigner)),
        (signed(r#"["HS256"]"#), Err(TokenError::NoSigner)),
        (signed(r#"{"alg":["HS256"]}"#), Err(TokenError::NoSigner)),
        (signed(r#"{"alg":"PS256","kid":"k1"}"#), Err(TokenError::NoSigner)),
        (signed(r#"{"alg":"hs256"}"#), Err(TokenError::NoSigner)),
        (signed(r#"{"alg":"none"}"#), Err(TokenError::NoSigner)),
        (signed(r#"{"alg":"RS256"}"#), Err(TokenError::NoSigner)),
        (signed(r#"{"alg":"RS256","kid":"k1"}"#), Err(TokenError::NoSigner)),
        (
            format!("{}.{}.", encode(r#"{"alg":"none"}"#), encode(claims)),
            Err(TokenError::NoSigner),
        ),
        (signed(r#"{"alg":"HS256","kid":"k1"}"#), Ok(())),
        (signed(r#"{"alg":"HS256","kid":7,"typ":7}"#), Ok(())),
        (signed(r#"{"alg":"HS384"}"#), Ok(())),
        (signed(r#"{"alg":"HS512"}"#), Ok(())),
    ];
    for (token, expected) in cases {
        assert_eq!(verify(&token).map(|_| ()), expected, "{token}");
    }
}

#[test]
fn a_configured_claim_must_match_if_the_token_has_it() {
    let rules = ClaimRules(json!({"iss": "me"}).as_object().unwrap().clone());
    let verifier = Verifier::new(Keys::of_secrets(["secret"]), rules);
    let verify = |claims: Value| verifier.verify_at(&token(&claims), NOW_S).map(|_| ());
    let exp = NOW_S + 1;
    assert_eq!(verify(json!({"role": "anon", "exp": exp})), Ok(()));
    assert_eq!(verify(json!({"role": "anon", "exp": exp, "iss": "me"})), Ok(()));
    assert_eq!(
        verify(json!({"role": "anon", "exp": exp, "iss": "you"})),
        Err(TokenError::claim("iss", "\"me\""))
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
        Err(TokenError::claim("exp", "a number"))
    );
}

#[test]
fn a_verifier_does_not_show_its_secret() {
    assert!(
        !format!(
            "{:?}",
            Verifier::new(Keys::of_secrets(["hunter2"]), ClaimRules::default())
        )
        .contains("hunter2")
    );
}

#[test]
fn a_signature_of_one_algorithm_is_none_of_another() {
    let token = sign(r#"{"alg":"HS256"}"#, r#"{"role":"anon","exp":1800000001}"#);
    let (_, rest) = token.split_once('.').unwrap();
    for header in [r#"{"alg":"HS384"}"#, r#"{"alg":"HS512"}"#, r#"{"alg":"HS256"} "#] {
        let token = format!("{}.{rest}", encode(header));
        assert_eq!(verify(&token), Err(TokenError::Signature), "{header}");
    }
}

#[test]
fn while_a_rotation_lasts_several_secrets_count() {
    let verifier = Verifier::new(Keys::of_secrets(["old", "new"]), ClaimRules::default());
    for (secret, expected) in [
        ("old", Ok(())),
        ("new", Ok(())),
        ("", Err(TokenError::Signature)),
        ("oldnew", Err(TokenError::Signature)),
    ] {
        let token = sign_with(
            secret,
            r#"{"alg":"HS256"}"#,
            r#"{"role":"anon","exp":1800000001}"#,
        );
        assert_eq!(
            verifier.verify_at(&token, NOW_S).map(|_| ()),
            expected,
            "{secret}"
        );
    }
}

#[test]
fn the_texts_of_sections_3_4_and_4_3() {
    let kid_text =
        "Failed to generate JWT signer for key ID (kid) \"k\", check your JWT secret or JWKS configuration";
    let signer = "Failed to generate JWT signer, check your JWT secret or JWKS configuration";
    let fields = "Fields `role` and `exp` are required in JWT";
    // The error, the reason of a refused join, the message of a closed channel.
    let cases = [
        (
            TokenError::Expired { seconds_ago: 7 },
            "InvalidJWTToken: Token has expired 7 seconds ago".to_owned(),
            Some("Token has expired 7 seconds ago"),
        ),
        (
            TokenError::MissingClaims,
            format!("InvalidJWTToken: {fields}"),
            Some(fields),
        ),
        (
            TokenError::ExpirationInvalid,
            "InvalidJWTToken: Token expiration time is invalid".to_owned(),
            Some("Token expiration time is invalid"),
        ),
        (
            TokenError::Malformed,
            "MalformedJWT: The token provided is not a valid JWT".to_owned(),
            Some("The token provided is not a valid JWT"),
        ),
        (
            TokenError::Signature,
            "JwtSignatureError: Failed to validate JWT signature".to_owned(),
            Some(":signature_error"),
        ),
        (
            TokenError::no_key("k"),
            format!("JwtSignerError: {kid_text}"),
            Some(kid_text),
        ),
        (
            TokenError::NoSigner,
            format!("JwtSignerError: {signer}"),
            Some(":error_generating_signer"),
        ),
        (
            TokenError::claim("iat", "a number"),
            "Unknown Error on Channel".to_owned(),
            Some("The claim `iat` of the token is not valid: it must be a number"),
        ),
        (
            TokenError::NotJson,
            "UnknownErrorOnChannel: the header or the claims of the token are not JSON".to_owned(),
            None,
        ),
        (
            TokenError::ClaimsNotObject,
            "UnknownErrorOnChannel: the claims of the token are not a JSON object".to_owned(),
            None,
        ),
    ];
    for (error, reason, message) in cases {
        assert_eq!(error.join_reason(), reason);
        assert_eq!(error.close_message().as_deref(), message);
    }
}

proptest! {
    #[test]
    fn garbage_is_refused(token in "\\PC*") {
        prop_assert!(verify(&token).is_err());
    }

    #[test]
    fn three_parts_of_anything_are_refused_unless_signed(
        header in any::<Vec<u8>>(), claims in any::<Vec<u8>>(), signature in any::<Vec<u8>>(),
    ) {
        let token = format!("{}.{}.{}", encode(header), encode(claims), encode(signature));
        prop_assert!(verify(&token).is_err());
    }

    #[test]
    fn a_changed_token_is_refused_or_says_the_same(at in any::<prop::sample::Index>(), by in "[A-Za-z0-9_.=% -]") {
        let good = sign(r#"{"alg":"HS256","typ":"JWT"}"#, r#"{"role":"anon","exp":1800000001}"#);
        let at = at.index(good.len());
        let changed = format!("{}{by}{}", &good[..at], &good[at + 1..]);
        if let Ok(claims) = verify(&changed) {
            prop_assert_eq!(claims, verify(&good).unwrap());
        }
    }
}
