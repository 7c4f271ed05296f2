//! Encryption of what is secret in a record, as the reference server does it (`database.md 8.3`).
//!
//! Its older form is AES-128 in ECB mode: equal texts have equal ciphers, which is why the newer one, AES-256-GCM, is to
//! be preferred where every reader knows it. Which form a value has, its prefix says.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::cipher::{
    AES_128, DecryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::error::Unspecified;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::secret::Secret;

const GCM_PREFIX: &str = "g1:";
const GCM_TAG_BYTES: usize = 16;
const GCM_KEY_BYTES: usize = 32;
const ECB_KEY_BYTES: usize = 16;

/// A value as it is stored: encrypted. Its holder can do nothing with it but have it opened.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Sealed(String);

impl Sealed {
    /// Text that a [`Cipher`] made, here or elsewhere.
    pub fn from_stored(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text that is stored.
    #[must_use]
    pub fn as_stored(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("(sealed)")
    }
}

/// Why a key cannot be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// AES-128 has keys of 16 bytes.
    #[error("DB_ENC_KEY must have exactly 16 bytes, but has {0}")]
    Ecb(usize),
    /// AES-256 has keys of 32 bytes.
    #[error("DB_ENC_KEY_GCM must have exactly 32 bytes, but has {0}")]
    Gcm(usize),
    /// There is nothing to write in.
    #[error("DB_ENC_WRITE_GCM is true, but DB_ENC_KEY_GCM is not set")]
    NoGcm,
}

/// Why a value cannot be sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CipherError {
    /// It is not what any of the two forms looks like.
    #[error("the value is not encrypted as the reference server does it: it is not base64, or too short")]
    Malformed,
    /// Sealed with another key, or damaged.
    #[error("the value was encrypted with another key than DB_ENC_KEY")]
    OtherKey,
    /// Sealed with another key, or damaged.
    #[error("the value was encrypted with another key than DB_ENC_KEY_GCM")]
    OtherGcmKey,
    /// The newer form, and no key for it.
    #[error(
        "the value is encrypted with AES-256-GCM; set DB_ENC_KEY_GCM to the key of the server that wrote it"
    )]
    NoGcmKey,
    /// The cryptographic library failed.
    #[error("the cryptographic library failed to encrypt")]
    Library,
}

/// Seals and opens. Both keys stay inside.
#[derive(Clone)]
pub struct Cipher {
    ecb_key: [u8; ECB_KEY_BYTES],
    gcm_key: Option<[u8; GCM_KEY_BYTES]>,
    writes_gcm: bool,
}

impl fmt::Debug for Cipher {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Cipher")
            .field("opens_gcm", &self.gcm_key.is_some())
            .field("writes_gcm", &self.writes_gcm)
            .finish_non_exhaustive()
    }
}

impl Cipher {
    /// Of `DB_ENC_KEY` (16 bytes), `DB_ENC_KEY_GCM` (32 bytes) and `DB_ENC_WRITE_GCM`.
    ///
    /// # Errors
    /// A key of another length, or none for what is to be written.
    pub fn new(ecb_key: &str, gcm_key: Option<&str>, writes_gcm: bool) -> Result<Self, KeyError> {
        let gcm_key = gcm_key
            .map(|key| key.as_bytes().try_into().map_err(|_| KeyError::Gcm(key.len())))
            .transpose()?;
        if writes_gcm && gcm_key.is_none() {
            return Err(KeyError::NoGcm);
        }
        Ok(Self {
            ecb_key: ecb_key
                .as_bytes()
                .try_into()
                .map_err(|_| KeyError::Ecb(ecb_key.len()))?,
            gcm_key,
            writes_gcm,
        })
    }

    /// Encrypts.
    ///
    /// # Errors
    /// The cryptographic library failed.
    pub fn seal(&self, text: &str) -> Result<Sealed, CipherError> {
        let sealed = match &self.gcm_key {
            Some(key) if self.writes_gcm => seal_gcm(key, text),
            _ => self.seal_ecb(text),
        };
        sealed.map(Sealed).map_err(|_| CipherError::Library)
    }

    /// Decrypts a value of either form.
    ///
    /// # Errors
    /// See [`CipherError`].
    pub fn open(&self, sealed: &Sealed) -> Result<Secret, CipherError> {
        let decode = |text: &str| STANDARD.decode(text.trim()).map_err(|_| CipherError::Malformed);
        let (opened, other_key) = match sealed.0.strip_prefix(GCM_PREFIX) {
            Some(text) => {
                let key = self.gcm_key.as_ref().ok_or(CipherError::NoGcmKey)?;
                (open_gcm(key, &decode(text)?)?, CipherError::OtherGcmKey)
            }
            None => (self.open_ecb(decode(&sealed.0)?)?, CipherError::OtherKey),
        };
        String::from_utf8(opened).map(Secret::new).map_err(|_| other_key)
    }

    fn seal_ecb(&self, text: &str) -> Result<String, Unspecified> {
        let key = UnboundCipherKey::new(&AES_128, &self.ecb_key)?;
        let mut bytes = text.as_bytes().to_vec();
        PaddedBlockEncryptingKey::ecb_pkcs7(key)?.encrypt(&mut bytes)?;
        Ok(STANDARD.encode(bytes))
    }

    fn open_ecb(&self, mut bytes: Vec<u8>) -> Result<Vec<u8>, CipherError> {
        const BLOCK_BYTES: usize = 16;
        if bytes.is_empty() || !bytes.len().is_multiple_of(BLOCK_BYTES) {
            return Err(CipherError::Malformed);
        }
        let mut opened = || {
            let key = UnboundCipherKey::new(&AES_128, &self.ecb_key)?;
            let key = PaddedBlockDecryptingKey::ecb_pkcs7(key)?;
            let text = key.decrypt(&mut bytes, DecryptionContext::None)?;
            Ok(text.to_vec())
        };
        opened().map_err(|_: Unspecified| CipherError::OtherKey)
    }
}

fn gcm(key: &[u8; GCM_KEY_BYTES]) -> Result<LessSafeKey, Unspecified> {
    UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new)
}

/// `g1:` and base64 of nonce, tag, ciphertext.
fn seal_gcm(key: &[u8; GCM_KEY_BYTES], text: &str) -> Result<String, Unspecified> {
    let mut nonce = [0; NONCE_LEN];
    aws_lc_rs::rand::fill(&mut nonce)?;
    let mut ciphertext = text.as_bytes().to_vec();
    let tag = gcm(key)?.seal_in_place_separate_tag(
        Nonce::assume_unique_for_key(nonce),
        Aad::empty(),
        &mut ciphertext,
    )?;
    let bytes = [nonce.as_slice(), tag.as_ref(), &ciphertext].concat();
    Ok(format!("{GCM_PREFIX}{}", STANDARD.encode(bytes)))
}

fn open_gcm(key: &[u8; GCM_KEY_BYTES], bytes: &[u8]) -> Result<Vec<u8>, CipherError> {
    let (nonce, rest) = bytes
        .split_first_chunk::<NONCE_LEN>()
        .ok_or(CipherError::Malformed)?;
    let (tag, ciphertext) = rest
        .split_first_chunk::<GCM_TAG_BYTES>()
        .ok_or(CipherError::Malformed)?;
    let mut text = vec![0; ciphertext.len()];
    let opened = gcm(key).and_then(|key| {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        key.open_separate_gather(nonce, Aad::empty(), ciphertext, tag, &mut text)
    });
    opened.map(|()| text).map_err(|_| CipherError::OtherGcmKey)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ECB: &str = "supabaserealtime";
    const GCM: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn opens_and_seals_what_the_reference_server_wrote() {
        let cipher = Cipher::new(ECB, None, false).unwrap();
        for (text, stored) in [
            ("127.0.0.1", "7DdgtSK7rYs2fSvlK2dwYA=="),
            ("5499", "YlyojHpzq95/MAx5dd8T2A=="),
            ("supabase_admin", "uxbEq/zz8DXVD53TOI1zmw=="),
            ("nosuch", "UInb8KzBUEPgg9VcQyFSXw=="),
        ] {
            let opened = cipher.open(&Sealed::from_stored(stored));
            assert_eq!(opened.as_ref().map(Secret::expose), Ok(text));
            assert_eq!(cipher.seal(text).unwrap().as_stored(), stored);
        }
    }

    #[test]
    fn a_key_of_another_length_is_refused_by_name() {
        let refusal = |ecb: &str, gcm, writes| Cipher::new(ecb, gcm, writes).unwrap_err();
        assert_eq!(refusal("short", None, false), KeyError::Ecb(5));
        assert_eq!(refusal(ECB, Some("short"), false), KeyError::Gcm(5));
        assert_eq!(refusal(ECB, None, true), KeyError::NoGcm);
    }

    #[test]
    fn what_another_key_or_nobody_sealed_is_an_error_that_says_so() {
        let cipher = Cipher::new(ECB, Some(GCM), true).unwrap();
        let legacy = Cipher::new(ECB, None, false).unwrap();
        let other = Cipher::new("another_key_here", Some(&GCM.to_uppercase()), false).unwrap();
        let open = |cipher: &Cipher, stored: &str| cipher.open(&Sealed::from_stored(stored)).unwrap_err();
        let sealed = cipher.seal("text").unwrap();
        assert!(sealed.as_stored().starts_with("g1:"));
        assert_eq!(legacy.open(&sealed), Err(CipherError::NoGcmKey));
        assert_eq!(other.open(&sealed), Err(CipherError::OtherGcmKey));
        assert_eq!(open(&other, "7DdgtSK7rYs2fSvlK2dwYA=="), CipherError::OtherKey);
        for stored in ["", "plain text", "AAAA", "g1:", "g1:AAAA", "g1:%"] {
            assert_eq!(open(&cipher, stored), CipherError::Malformed, "{stored}");
        }
    }

    #[test]
    fn neither_keys_nor_values_are_seen_in_debug_output() {
        let cipher = Cipher::new(ECB, Some(GCM), true).unwrap();
        let seen = format!("{cipher:?} {:?} {:?}", cipher.seal("x"), Secret::new("password"));
        for hidden in [ECB, GCM, "g1:", "password"] {
            assert!(!seen.contains(hidden), "{seen}");
        }
    }
}
