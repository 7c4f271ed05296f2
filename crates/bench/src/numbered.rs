//! Payloads that carry their number, to be read without decoding them.

/// Digits of a number.
const DIGITS: usize = 16;
/// What follows the number.
const END: &[u8] = b"\"}";
/// Bytes of the shortest payload.
pub(crate) const SHORTEST_BYTES: usize = payload_overhead() + DIGITS;

const fn payload_overhead() -> usize {
    r#"{"pad":"","number":""}"#.len()
}

/// A JSON object of `bytes` bytes, or [`SHORTEST_BYTES`] if that is more.
pub(crate) fn payload(number: u64, bytes: usize) -> String {
    let pad = "x".repeat(bytes.saturating_sub(SHORTEST_BYTES));
    format!(r#"{{"pad":"{pad}","number":"{number:0DIGITS$}"}}"#)
}

/// The number of a payload, or of a frame that ends with one.
pub(crate) fn number(frame: &[u8]) -> Option<u64> {
    let (_, digits) = frame.strip_suffix(END)?.split_last_chunk::<DIGITS>()?;
    digits.iter().try_fold(0, |number, digit| {
        digit
            .is_ascii_digit()
            .then(|| number * 10 + u64::from(digit - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_has_its_length_and_gives_its_number_back() {
        for (n, bytes) in [(0, 100), (1, SHORTEST_BYTES), (9_999_999_999_999_999, 5_000)] {
            let payload = payload(n, bytes);
            assert_eq!(payload.len(), bytes);
            assert!(serde_json::from_str::<serde_json::Value>(&payload).is_ok());
            assert_eq!(number(payload.as_bytes()), Some(n));
        }
    }

    #[test]
    fn other_payloads_have_no_number() {
        for other in [
            "",
            "{}",
            r#"{"number":"12345678"}"#,
            r#"{"number":"12345678x2345678"}"#,
        ] {
            assert_eq!(number(other.as_bytes()), None, "{other}");
        }
    }
}
