//! What a payload counts towards the size limit (`protocol.md 5.5`).
//!
//! The reference measures the decoded payload in its own internal format. Clients notice where the limit is, so it
//! is measured in the same way; but only where the JSON text is so long that it could matter.

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// No JSON text costs more than this many times its bytes: the worst are short floats in a list.
const MOST_PER_BYTE: usize = 3;
/// Of the whole.
const ENVELOPE: usize = 1;

/// The answer for one payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadCost {
    /// At most the limit.
    Fits,
    /// Above it.
    Exceeds,
}

/// Compares a JSON payload with a limit in bytes of the reference's measure.
///
/// # Errors
/// If `json` is no JSON, which is only noticed when it has to be looked at.
pub fn payload_cost(json: &str, limit_bytes: usize) -> Result<PayloadCost, serde_json::Error> {
    if json.len().saturating_mul(MOST_PER_BYTE) + ENVELOPE <= limit_bytes {
        return Ok(PayloadCost::Fits);
    }
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let cost = Cost.deserialize(&mut deserializer)?.bytes + ENVELOPE;
    deserializer.end()?;
    Ok(if cost <= limit_bytes {
        PayloadCost::Fits
    } else {
        PayloadCost::Exceeds
    })
}

struct Value {
    bytes: usize,
    /// An integer from 0 to 255: lists of nothing else are packed.
    is_byte: bool,
}

impl Value {
    fn of(bytes: usize) -> Self {
        Self {
            bytes,
            is_byte: false,
        }
    }
}

struct Cost;

impl<'de> DeserializeSeed<'de> for Cost {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Cost {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::of(2 + if value { 4 } else { 5 }))
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::of(2 + 3))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(match value {
            0..=255 => Value {
                bytes: 2,
                is_byte: true,
            },
            256..=0x7fff_ffff => Value::of(5),
            _ => Value::of(big(value)),
        })
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(match value {
            -0x8000_0000..0 => Value::of(5),
            _ => Value::of(big(value.unsigned_abs())),
        })
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Value, E> {
        Ok(Value::of(9))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::of(5 + value.len()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let (mut count, mut bytes, mut packed) = (0_usize, 0_usize, true);
        while let Some(element) = elements.next_element_seed(Cost)? {
            count += 1;
            bytes = bytes.saturating_add(element.bytes);
            packed &= element.is_byte;
        }
        Ok(Value::of(match count {
            0 => 1,
            1..=0xffff if packed => 3 + count,
            _ => 6 + bytes,
        }))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut bytes = 5_usize;
        while let Some(key) = entries.next_key_seed(Cost)? {
            let value = entries.next_value_seed(Cost)?;
            bytes = bytes.saturating_add(key.bytes).saturating_add(value.bytes);
        }
        Ok(Value::of(bytes))
    }
}

fn big(magnitude: u64) -> usize {
    let bits = u64::BITS - magnitude.leading_zeros();
    3 + bits.div_ceil(8) as usize
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cost(json: &str) -> usize {
        Cost.deserialize(&mut serde_json::Deserializer::from_str(json))
            .unwrap()
            .bytes
            + ENVELOPE
    }

    #[test]
    fn every_kind_of_value_has_its_cost() {
        let cases = [
            ("{}", 5),
            (r#"{"a":1}"#, 5 + 6 + 2),
            (r#""""#, 5),
            (r#""äb""#, 8),
            ("[]", 1),
            ("[1,2,3]", 3 + 3),
            ("[1,256]", 6 + 2 + 5),
            (r#"["a"]"#, 6 + 6),
            ("255", 2),
            ("256", 5),
            ("2147483647", 5),
            ("2147483648", 3 + 4),
            ("-1", 5),
            ("-2147483648", 5),
            ("-2147483649", 3 + 4),
            ("18446744073709551615", 3 + 8),
            ("1.5", 9),
            ("true", 6),
            ("false", 7),
            ("null", 5),
        ];
        for (json, expected) in cases {
            assert_eq!(cost(json), expected + ENVELOPE, "{json}");
        }
    }

    #[test]
    fn the_limit_itself_still_fits() {
        let json = format!(r#"{{"a":"{}"}}"#, "x".repeat(100));
        let bytes = cost(&json);
        assert_eq!(payload_cost(&json, bytes).unwrap(), PayloadCost::Fits);
        assert_eq!(payload_cost(&json, bytes - 1).unwrap(), PayloadCost::Exceeds);
    }

    #[test]
    fn what_is_looked_at_must_be_json() {
        assert!(payload_cost("{]", 2).is_err());
        assert!(payload_cost("{} x", 2).is_err());
    }

    proptest! {
        #[test]
        fn a_text_that_is_not_looked_at_would_have_fitted(value in any_json()) {
            let json = value.to_string();
            prop_assert!(cost(&json) <= json.len() * MOST_PER_BYTE + ENVELOPE, "{json}");
        }
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            (0_u64..300).prop_map(Into::into),
            (-9.0..9.0_f64).prop_map(|float| float.round().into()),
            ".{0,4}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Into::into),
                prop::collection::btree_map(".{0,2}", inner, 0..8)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }
}
