//! `tls-server-end-point` (RFC 5929): the hash of the server's certificate that SCRAM-SHA-256-PLUS binds a login to,
//! so that nobody can sit between two TLS connections and pass the login on.

use sha2::{Digest, Sha256, Sha384, Sha512};

/// Object identifiers of signature algorithms, in DER. MD5 and SHA-1 count as SHA-256 (RFC 5929, 4.1).
const SHA_256: [&[u8]; 5] = [
    &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x04],
    &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x05],
    &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x0B],
    &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x01],
    &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x03, 0x02],
];
const SHA_384: [&[u8]; 2] = [
    &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x0C],
    &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x03, 0x03],
];
const SHA_512: [&[u8]; 2] = [
    &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x0D],
    &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x03, 0x04],
];

const SEQUENCE: u8 = 0x30;
const OBJECT_IDENTIFIER: u8 = 0x06;

/// The hash for a certificate in DER; `None` where the signature names no hash of its own (RSA-PSS, Ed25519), for
/// which Postgres has none either.
pub(crate) fn server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let (content, _) = element(certificate, SEQUENCE)?;
    let (_to_be_signed, rest) = element(content, SEQUENCE)?;
    let (algorithm, _) = element(rest, SEQUENCE)?;
    let (identifier, _) = element(algorithm, OBJECT_IDENTIFIER)?;
    if SHA_256.contains(&identifier) {
        Some(Sha256::digest(certificate).to_vec())
    } else if SHA_384.contains(&identifier) {
        Some(Sha384::digest(certificate).to_vec())
    } else if SHA_512.contains(&identifier) {
        Some(Sha512::digest(certificate).to_vec())
    } else {
        None
    }
}

/// The content of the DER element at the front, if it has this tag, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    if found != tag {
        return None;
    }
    let (&first, rest) = rest.split_first()?;
    if first < 0x80 {
        return rest.split_at_checked(usize::from(first));
    }
    let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
    if digits.len() > size_of::<u32>() {
        return None;
    }
    let length = digits
        .iter()
        .fold(0_u64, |length, digit| length << 8 | u64::from(*digit));
    rest.split_at_checked(usize::try_from(length).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A certificate as far as it is looked at: something signed, the algorithm, a signature.
    fn certificate(algorithm: &[u8]) -> Vec<u8> {
        let wrap = |tag: u8, content: &[u8]| {
            let length = u16::try_from(content.len()).unwrap().to_be_bytes();
            [&[tag, 0x82], &length[..], content].concat()
        };
        let signed = wrap(SEQUENCE, &[7; 300]);
        let algorithm = wrap(
            SEQUENCE,
            &[
                &[OBJECT_IDENTIFIER, algorithm.len().try_into().unwrap()],
                algorithm,
            ]
            .concat(),
        );
        wrap(SEQUENCE, &[signed, algorithm, wrap(0x03, &[0; 9])].concat())
    }

    #[test]
    fn the_hash_is_that_of_the_signature_and_sha_256_at_least() {
        for (algorithms, bytes) in [(&SHA_256[..], 32), (&SHA_384[..], 48), (&SHA_512[..], 64)] {
            for algorithm in algorithms {
                assert_eq!(server_end_point(&certificate(algorithm)).unwrap().len(), bytes);
            }
        }
        let ed25519 = [0x2B, 0x65, 0x70];
        assert_eq!(server_end_point(&certificate(&ed25519)), None);
    }

    proptest! {
        #[test]
        fn no_certificate_panics(mut bytes: Vec<u8>, cut in 0usize..400) {
            let _ = server_end_point(&bytes);
            let whole = certificate(SHA_256[2]);
            bytes.splice(0..0, whole[..cut.min(whole.len())].iter().copied());
            let _ = server_end_point(&bytes);
        }
    }
}
