//! One key, and the algorithms it may verify: a key never serves an algorithm of another family.

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RsaParameters,
    RsaPublicKeyComponents, VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

/// Bits of the shortest and the longest RSA modulus that is taken.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// An algorithm a token's header may name; there are no others (`protocol.md 4.1`).
#[derive(Clone, Copy)]
pub(super) enum Algorithm {
    Hmac(hmac::Algorithm),
    Rsa(&'static RsaParameters),
    Ecdsa(Curve),
    /// Also under its general name `EdDSA`.
    Ed25519,
    /// Known so that its refusal names the key; no key here fits it.
    Ed448,
}

/// A curve of ECDSA. Each belongs to one algorithm (RFC 7518 3.4).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Curve {
    P256,
    P384,
    P521,
}

/// `kty` of a key in a set.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyType {
    Oct,
    Rsa,
    Ec,
    Okp,
}

impl Algorithm {
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "HS256" => Self::Hmac(hmac::HMAC_SHA256),
            "HS384" => Self::Hmac(hmac::HMAC_SHA384),
            "HS512" => Self::Hmac(hmac::HMAC_SHA512),
            "RS256" => Self::Rsa(&RSA_PKCS1_2048_8192_SHA256),
            "RS384" => Self::Rsa(&RSA_PKCS1_2048_8192_SHA384),
            "RS512" => Self::Rsa(&RSA_PKCS1_2048_8192_SHA512),
            "ES256" => Self::Ecdsa(Curve::P256),
            "ES384" => Self::Ecdsa(Curve::P384),
            "ES512" => Self::Ecdsa(Curve::P521),
            "EdDSA" | "Ed25519" => Self::Ed25519,
            "Ed448" => Self::Ed448,
            _ => return None,
        })
    }

    pub(super) fn key_type(self) -> KeyType {
        match self {
            Self::Hmac(_) => KeyType::Oct,
            Self::Rsa(_) => KeyType::Rsa,
            Self::Ecdsa(_) => KeyType::Ec,
            Self::Ed25519 | Self::Ed448 => KeyType::Okp,
        }
    }
}

impl KeyType {
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "oct" => Self::Oct,
            "RSA" => Self::Rsa,
            "EC" => Self::Ec,
            "OKP" => Self::Okp,
            _ => return None,
        })
    }
}

impl Curve {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "P-256" => Self::P256,
            "P-384" => Self::P384,
            "P-521" => Self::P521,
            _ => return None,
        })
    }

    fn coordinate_bytes(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    fn verification(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::P256 => &ECDSA_P256_SHA256_FIXED,
            Self::P384 => &ECDSA_P384_SHA384_FIXED,
            Self::P521 => &ECDSA_P521_SHA512_FIXED,
        }
    }
}

/// Why a key of a set cannot verify anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Flaw {
    #[error("`{0}` is missing or not base64url")]
    Member(&'static str),
    #[error("`k` is empty, so everybody could sign with it")]
    EmptySecret,
    #[error("its modulus has {bits} bits, and 2048 to 8192 are taken")]
    ModulusLength { bits: usize },
    #[error("`crv` is none of P-256, P-384 and P-521")]
    Curve,
    #[error("`x` and `y` are no point of its curve")]
    Point,
    #[error("Ed448 is not supported; sign with Ed25519")]
    Ed448,
    #[error("`x` is no Ed25519 key")]
    Ed25519,
}

/// Something that verifies signatures.
pub(super) enum Key {
    Secret(Vec<u8>),
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
    Ecdsa(Curve, ParsedPublicKey),
    Ed25519(ParsedPublicKey),
}

impl Key {
    /// Reads the members of a JSON Web Key (RFC 7518 6, RFC 8037 2).
    pub(super) fn read(key_type: KeyType, jwk: &Map<String, Value>) -> Result<Self, Flaw> {
        match key_type {
            KeyType::Oct => match member(jwk, "k")? {
                secret if secret.is_empty() => Err(Flaw::EmptySecret),
                secret => Ok(Self::Secret(secret)),
            },
            KeyType::Rsa => Self::rsa(jwk),
            KeyType::Ec => Self::ecdsa(jwk),
            KeyType::Okp if jwk.get("crv").is_some_and(|curve| curve == "Ed448") => Err(Flaw::Ed448),
            KeyType::Okp => ParsedPublicKey::new(&ED25519, member(jwk, "x")?)
                .map(Self::Ed25519)
                .map_err(|_| Flaw::Ed25519),
        }
    }

    fn rsa(jwk: &Map<String, Value>) -> Result<Self, Flaw> {
        let components = RsaPublicKeyComponents {
            n: without_leading_zeros(member(jwk, "n")?),
            e: without_leading_zeros(member(jwk, "e")?),
        };
        let unused_bits = components.n.first().map_or(0, |byte| byte.leading_zeros());
        let bits = (components.n.len() * 8).saturating_sub(unused_bits as usize);
        if !RSA_BITS.contains(&bits) {
            return Err(Flaw::ModulusLength { bits });
        }
        if components.e.is_empty() {
            return Err(Flaw::Member("e"));
        }
        Ok(Self::Rsa(components))
    }

    fn ecdsa(jwk: &Map<String, Value>) -> Result<Self, Flaw> {
        let curve = jwk.get("crv").and_then(Value::as_str).and_then(Curve::named);
        let curve = curve.ok_or(Flaw::Curve)?;
        let (x, y) = (member(jwk, "x")?, member(jwk, "y")?);
        if x.len() != curve.coordinate_bytes() || y.len() != curve.coordinate_bytes() {
            return Err(Flaw::Point);
        }
        // An uncompressed point (SEC 1, 2.3.3).
        let point = [&[4], &*x, &*y].concat();
        ParsedPublicKey::new(curve.verification(), point)
            .map(|key| Self::Ecdsa(curve, key))
            .map_err(|_| Flaw::Point)
    }

    /// Whether the signature is this key's; none if the key is not one for the algorithm.
    pub(super) fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> Option<bool> {
        Some(match (self, algorithm) {
            (Self::Secret(secret), Algorithm::Hmac(algorithm)) => {
                hmac::verify(&hmac::Key::new(algorithm, secret), message, signature).is_ok()
            }
            (Self::Rsa(key), Algorithm::Rsa(parameters)) => {
                key.verify(parameters, message, signature).is_ok()
            }
            (Self::Ecdsa(curve, key), Algorithm::Ecdsa(wanted)) if *curve == wanted => {
                key.verify_sig(message, signature).is_ok()
            }
            (Self::Ed25519(key), Algorithm::Ed25519) => key.verify_sig(message, signature).is_ok(),
            _ => return None,
        })
    }
}

fn member(jwk: &Map<String, Value>, name: &'static str) -> Result<Vec<u8>, Flaw> {
    jwk.get(name)
        .and_then(Value::as_str)
        .and_then(|text| base64url(text).ok())
        .ok_or(Flaw::Member(name))
}

/// Decodes base64url, padded or not.
pub(super) fn base64url(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    let engine = if text.ends_with('=') {
        URL_SAFE
    } else {
        URL_SAFE_NO_PAD
    };
    engine.decode(text)
}

fn without_leading_zeros(mut number: Vec<u8>) -> Vec<u8> {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.drain(..zeros);
    number
}

#[cfg(test)]
#[path = "key_tests.rs"]
mod tests;
