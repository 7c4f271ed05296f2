use serde_json::{Value, json};

use super::*;
use crate::token::signing::Pair;
use crate::token::{ClaimRules, Keys, TokenError, Verifier};

const NOW_S: i64 = 1_800_000_000;

fn no_key(kid: &str) -> TokenError {
    TokenError::no_key(kid)
}

fn verifier(secrets: &[&str], keys: &Value) -> Verifier {
    let keys = Keys::of_secrets(secrets.iter().copied()).with_set(KeySet::parse(&keys.to_string()).unwrap());
    Verifier::new(keys, ClaimRules::default())
}

/// Signs good claims under `{"alg":…,"kid":…}`; no `kid` if it is empty.
fn token(pair: &Pair, algorithm: &str, kid: &str) -> String {
    let mut header = json!({"alg": algorithm});
    if !kid.is_empty() {
        header["kid"] = kid.into();
    }
    pair.sign(&header, &json!({"role": "anon", "exp": NOW_S + 1}))
}

fn check(verifier: &Verifier, token: &str) -> Result<(), TokenError> {
    verifier.verify_at(token, NOW_S).map(|_| ())
}

#[test]
fn every_algorithm_is_verified_with_the_key_its_kid_names_in_both_shapes_of_a_set() {
    let (rsa, p256, p384, p521, ed25519) = (
        Pair::rsa(),
        Pair::p256(),
        Pair::p384(),
        Pair::p521(),
        Pair::ed25519(),
    );
    let oct = Pair::secret("a secret of the set");
    // One `kid` may stand for keys of several types.
    let keys = json!([
        rsa.jwk("k"),
        p256.jwk("k"),
        p384.jwk("k384"),
        p521.jwk("k521"),
        ed25519.jwk("k"),
        oct.jwk("k"),
    ]);
    let cases = [
        (&oct, "HS256", "k"),
        (&oct, "HS384", "k"),
        (&oct, "HS512", "k"),
        (&rsa, "RS256", "k"),
        (&rsa, "RS384", "k"),
        (&rsa, "RS512", "k"),
        (&p256, "ES256", "k"),
        (&p384, "ES384", "k384"),
        (&p521, "ES512", "k521"),
        (&ed25519, "EdDSA", "k"),
        (&ed25519, "Ed25519", "k"),
    ];
    for set in [keys.clone(), json!({"keys": keys, "more": 1})] {
        let verifier = verifier(&[], &set);
        assert!(verifier.warnings().is_empty(), "{:?}", verifier.warnings());
        for (pair, algorithm, kid) in &cases {
            let good = token(pair, algorithm, kid);
            assert_eq!(check(&verifier, &good), Ok(()), "{algorithm}");
            let (message, signature) = good.rsplit_once('.').unwrap();
            let flipped = if signature.starts_with('A') { "B" } else { "A" };
            let forged = format!("{message}.{flipped}{}", &signature[1..]);
            assert_eq!(
                check(&verifier, &forged),
                Err(TokenError::Signature),
                "{algorithm}"
            );
            let unsigned = format!("{message}.");
            assert_eq!(
                check(&verifier, &unsigned),
                Err(TokenError::Signature),
                "{algorithm}"
            );
        }
    }
}

#[test]
fn section_4_1_which_key_a_token_gets() {
    let (rsa, p256, ed25519) = (Pair::rsa(), Pair::p256(), Pair::ed25519());
    let (secret, oct) = (Pair::secret("secret"), Pair::secret("a secret of the set"));
    let mut broken = oct.jwk("broken");
    broken["k"] = "not base64url!".into();
    let mut hinted = rsa.jwk("hinted");
    hinted["alg"] = "RS512".into();
    hinted["use"] = "enc".into();
    let set = json!([
        rsa.jwk("r"), p256.jwk("e"), ed25519.jwk("o"), oct.jwk("h"), broken, hinted,
        {"kty": "oct", "kid": "no-k"},
        {"kty": "OKP", "kid": "448", "crv": "Ed448", "x": "AAAA"},
        {"kty": "EC", "kid": "bad-curve", "crv": "secp256k1", "x": "AAAA", "y": "AAAA"},
    ]);
    let both = verifier(&["secret"], &set);
    let set_only = verifier(&[], &set);
    let empty_set = verifier(&["secret"], &json!({"keys": []}));
    let no_set = Verifier::new(Keys::of_secrets(["secret"]), ClaimRules::default());
    let signer = || Err(TokenError::NoSigner);
    let cases = [
        // HMAC: the set's key if it has one of that id, else the secret.
        (&both, token(&secret, "HS256", ""), Ok(())),
        (&both, token(&oct, "HS256", ""), Err(TokenError::Signature)),
        (&both, token(&oct, "HS256", "h"), Ok(())),
        (&both, token(&secret, "HS256", "h"), Err(TokenError::Signature)),
        (&both, token(&secret, "HS256", "unknown"), Ok(())),
        (&both, token(&secret, "HS256", "r"), Ok(())),
        (&both, token(&secret, "HS256", "no-k"), Ok(())),
        (&both, token(&secret, "HS256", "broken"), Err(no_key("broken"))),
        (&set_only, token(&oct, "HS256", "h"), Ok(())),
        (&set_only, token(&oct, "HS256", ""), signer()),
        (&set_only, token(&oct, "HS256", "unknown"), signer()),
        (&no_set, token(&secret, "HS256", "h"), Ok(())),
        // The others: by id only, from the set only.
        (&both, token(&rsa, "RS256", "r"), Ok(())),
        (&both, token(&rsa, "RS256", ""), signer()),
        (&both, token(&rsa, "RS256", "unknown"), Err(no_key("unknown"))),
        (&both, token(&rsa, "RS256", "e"), Err(no_key("e"))),
        (&both, token(&rsa, "RS256", "R"), Err(no_key("R"))),
        (&both, token(&p256, "ES256", "r"), Err(no_key("r"))),
        (&both, token(&ed25519, "EdDSA", "e"), Err(no_key("e"))),
        (&empty_set, token(&rsa, "RS256", "r"), Err(no_key("r"))),
        (&empty_set, token(&rsa, "RS256", ""), signer()),
        (&no_set, token(&rsa, "RS256", "r"), signer()),
        (&no_set, token(&p256, "ES256", "r"), signer()),
        // What the set says of a key's purpose is not consulted.
        (&both, token(&rsa, "RS256", "hinted"), Ok(())),
        // A key of the right type that does not fit.
        (&both, token(&p256, "ES384", "e"), Err(no_key("e"))),
        (&both, token(&ed25519, "Ed448", "o"), Err(no_key("o"))),
        (&both, token(&ed25519, "EdDSA", "448"), Err(no_key("448"))),
        (
            &both,
            token(&p256, "ES256", "bad-curve"),
            Err(no_key("bad-curve")),
        ),
        // Algorithms that do not exist here, with and without `kid`.
        (&both, token(&rsa, "PS256", "r"), signer()),
        (&both, token(&rsa, "none", "r"), signer()),
        (&both, token(&rsa, "RS1", "r"), signer()),
    ];
    for (number, (verifier, token, expected)) in cases.into_iter().enumerate() {
        assert_eq!(check(verifier, &token), expected, "case {number}");
    }
}

#[test]
fn a_public_key_is_never_taken_for_a_secret() {
    let rsa = Pair::rsa();
    let jwk = rsa.jwk("k");
    let verifier = verifier(&["secret"], &json!([jwk]));
    // What an attacker knows of the key, as the secret of an HMAC.
    for known in [
        jwk["n"].as_str().unwrap().to_owned(),
        jwk["e"].as_str().unwrap().to_owned(),
        jwk.to_string(),
        String::new(),
    ] {
        let forged = token(&Pair::secret(known), "HS256", "k");
        assert_eq!(check(&verifier, &forged), Err(TokenError::Signature));
    }
}

#[test]
fn a_text_that_is_no_key_set_is_refused_without_being_repeated() {
    let cases = [
        ("", "it is not JSON (line 1, column 0)"),
        ("hunter2", "it is not JSON (line 1, column 1)"),
        ("7", "it is neither an array nor an object with the array `keys`"),
        ("{}", "it is neither an array nor an object with the array `keys`"),
        (
            r#"{"keys":{"kty":"oct"}}"#,
            "it is neither an array nor an object with the array `keys`",
        ),
        (r#"{"keys":["hunter2"]}"#, "its key number 1 is not an object"),
        (r#"[{"kid":"a"},7]"#, "its key number 2 is not an object"),
    ];
    for (text, expected) in cases {
        let error = KeySet::parse(text).err().map(|error| error.to_string());
        assert_eq!(error.as_deref(), Some(expected), "{text}");
    }
}

#[test]
fn a_key_that_verifies_nothing_is_a_warning_that_names_it_and_the_cause() {
    let p256 = Pair::p256().jwk("e");
    let with = |jwk: &Value, name: &str, value: Value| {
        let mut jwk = jwk.clone();
        jwk[name] = value;
        jwk
    };
    let rsa = Pair::rsa().jwk("r");
    let short = format!("w{}", "A".repeat(170));
    let cases = [
        (
            json!({"kty": "RSA"}),
            "key 1 is not used: it has no `kid`, so no token can name it",
        ),
        (
            json!({"kty": "RSA", "kid": 7}),
            "key 1 is not used: it has no `kid`, so no token can name it",
        ),
        (
            json!({"kty": "AKP", "kid": "a"}),
            "key 1, `a`, is not used: its `kty` is none of oct, RSA, EC and OKP",
        ),
        (
            json!({"kty": "oct", "kid": "a"}),
            "key 1, `a`, is not used: it has no `k`",
        ),
        (
            json!({"kty": "OKP", "kid": "a", "crv": "X25519", "x": "AAAA"}),
            "key 1, `a`, is not used: its `crv` is neither Ed25519 nor Ed448",
        ),
        (
            json!({"kty": "oct", "kid": "a", "k": "!"}),
            "key 1, `a`, verifies no token: `k` is missing or not base64url",
        ),
        (
            json!({"kty": "oct", "kid": "a", "k": ""}),
            "key 1, `a`, verifies no token: `k` is empty, so everybody could sign with it",
        ),
        (
            with(&rsa, "n", "!".into()),
            "key 1, `r`, verifies no token: `n` is missing or not base64url",
        ),
        (
            with(&rsa, "e", Value::Null),
            "key 1, `r`, verifies no token: `e` is missing or not base64url",
        ),
        (
            with(&rsa, "n", short.into()),
            "key 1, `r`, verifies no token: its modulus has 1024 bits, and 2048 to 8192 are taken",
        ),
        (
            with(&p256, "crv", "P-224".into()),
            "key 1, `e`, verifies no token: `crv` is none of P-256, P-384 and P-521",
        ),
        (
            with(&p256, "x", "AAAA".into()),
            "key 1, `e`, verifies no token: `x` and `y` are no point of its curve",
        ),
        (
            with(&p256, "x", "A".repeat(43).into()),
            "key 1, `e`, verifies no token: `x` and `y` are no point of its curve",
        ),
        (
            json!({"kty": "OKP", "kid": "a", "crv": "Ed448", "x": "AAAA"}),
            "key 1, `a`, verifies no token: Ed448 is not supported; sign with Ed25519",
        ),
        (
            json!({"kty": "OKP", "kid": "a", "crv": "Ed25519", "x": "AAAA"}),
            "key 1, `a`, verifies no token: `x` is no Ed25519 key",
        ),
    ];
    for (jwk, warning) in cases {
        let set = KeySet::parse(&json!([jwk]).to_string()).unwrap();
        assert_eq!(set.warnings(), [warning], "{jwk}");
        assert!(!set.is_usable(), "{jwk}");
    }
    let repeated = KeySet::parse(&json!([p256, rsa, p256]).to_string()).unwrap();
    assert_eq!(
        repeated.warnings(),
        ["key 3, `e`, is not used: another one before it has the same `kid` and `kty`"]
    );
    assert!(repeated.is_usable());
}

#[test]
fn a_modulus_may_have_leading_zeros_and_base64url_may_be_padded() {
    let pair = Pair::rsa();
    let mut jwk = pair.jwk("r");
    jwk["n"] = crate::token::signing::base64url(
        [
            &[0, 0],
            &*super::super::key::base64url(jwk["n"].as_str().unwrap()).unwrap(),
        ]
        .concat(),
    )
    .into();
    jwk["e"] = "AAEAAQ==".into();
    let verifier = verifier(&[], &json!([jwk]));
    assert_eq!(check(&verifier, &token(&pair, "RS256", "r")), Ok(()));
}

#[test]
fn a_long_kid_is_shown_cut() {
    let verifier = verifier(&[], &json!([Pair::p256().jwk("e")]));
    let forged = token(&Pair::p256(), "ES256", &"ä".repeat(5_000));
    let text = check(&verifier, &forged).unwrap_err().to_string();
    assert!(text.contains(&format!("\"{}…\"", "ä".repeat(200))), "{text}");
}
