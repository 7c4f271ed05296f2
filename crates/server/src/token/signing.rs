//! Tokens and key pairs of every kind, for the tests of this crate.

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
    EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384,
    RSA_PKCS1_SHA512, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

pub(crate) fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// What signs.
pub(crate) enum Pair {
    Secret(Vec<u8>),
    Rsa(RsaKeyPair),
    Ecdsa(&'static str, EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Pair {
    pub(crate) fn secret(secret: impl AsRef<[u8]>) -> Self {
        Self::Secret(secret.as_ref().to_vec())
    }

    pub(crate) fn rsa() -> Self {
        Self::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    pub(crate) fn p256() -> Self {
        Self::ecdsa("P-256", &ECDSA_P256_SHA256_FIXED_SIGNING)
    }

    pub(crate) fn p384() -> Self {
        Self::ecdsa("P-384", &ECDSA_P384_SHA384_FIXED_SIGNING)
    }

    pub(crate) fn p521() -> Self {
        Self::ecdsa("P-521", &ECDSA_P521_SHA512_FIXED_SIGNING)
    }

    fn ecdsa(curve: &'static str, algorithm: &'static EcdsaSigningAlgorithm) -> Self {
        Self::Ecdsa(curve, EcdsaKeyPair::generate(algorithm).unwrap())
    }

    pub(crate) fn ed25519() -> Self {
        Self::Ed25519(Ed25519KeyPair::generate().unwrap())
    }

    /// The public key (for a secret: the secret) as a JSON Web Key.
    pub(crate) fn jwk(&self, kid: &str) -> Value {
        match self {
            Self::Secret(secret) => json!({"kty": "oct", "kid": kid, "k": base64url(secret)}),
            Self::Rsa(pair) => {
                let public = pair.public_key();
                json!({
                    "kty": "RSA", "kid": kid,
                    "n": base64url(public.modulus().big_endian_without_leading_zero()),
                    "e": base64url(public.exponent().big_endian_without_leading_zero()),
                })
            }
            Self::Ecdsa(curve, pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(pair.public_key().as_ref().len() / 2);
                json!({"kty": "EC", "kid": kid, "crv": curve, "x": base64url(x), "y": base64url(y)})
            }
            Self::Ed25519(pair) => {
                json!({"kty": "OKP", "kid": kid, "crv": "Ed25519", "x": base64url(pair.public_key())})
            }
        }
    }

    /// A token with this header and these claims, whatever they are; `alg` chooses the digest where there is a choice.
    pub(crate) fn sign_text(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", base64url(header), base64url(claims));
        let digest = |suffix: &str| header.contains(&format!("S{suffix}\""));
        let signature = match self {
            Self::Secret(secret) => {
                let algorithm = match () {
                    () if digest("384") => hmac::HMAC_SHA384,
                    () if digest("512") => hmac::HMAC_SHA512,
                    () => hmac::HMAC_SHA256,
                };
                hmac::sign(&hmac::Key::new(algorithm, secret), message.as_bytes())
                    .as_ref()
                    .to_vec()
            }
            Self::Rsa(pair) => {
                let padding = match () {
                    () if digest("384") => &RSA_PKCS1_SHA384,
                    () if digest("512") => &RSA_PKCS1_SHA512,
                    () => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &SystemRandom::new(), message.as_bytes(), &mut signature)
                    .unwrap();
                signature
            }
            Self::Ecdsa(_, pair) => pair
                .sign(&SystemRandom::new(), message.as_bytes())
                .unwrap()
                .as_ref()
                .to_vec(),
            Self::Ed25519(pair) => pair.sign(message.as_bytes()).as_ref().to_vec(),
        };
        format!("{message}.{}", base64url(signature))
    }

    pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
        self.sign_text(&header.to_string(), &claims.to_string())
    }
}
