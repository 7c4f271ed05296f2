//! json and jsonb: Postgres prints valid JSON, which is checked while it is copied.
//!
//! Checked, because one value that is not JSON (the column was text a moment ago) would make the whole frame around it
//! unreadable. Copied without the blanks between tokens, which jsonb prints after every comma and colon. Keys, their
//! order and duplicates, and the digits of numbers stay as they are (`database.md 9.16`).
//!
//! One thing is mended: json, unlike jsonb, accepts an escaped half of a surrogate pair (`"\ud800"`), which many clients'
//! parsers refuse. It becomes U+FFFD.

use super::string::next_escape;
use super::{ValueError, number};

/// What the grammar allows next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Value,
    /// After `[`.
    ValueOrEnd,
    Key,
    /// After `{`.
    KeyOrEnd,
    Colon,
    /// After a value.
    CommaOrEnd,
}

pub(super) fn write(text: &str, out: &mut String) -> Result<(), ValueError> {
    let bytes = text.as_bytes();
    out.reserve(text.len());
    // A list instead of recursion: how deep the document nests is for its author to say. The closing bracket of each.
    let mut open: Vec<u8> = Vec::new();
    let mut next = Next::Value;
    let mut at = 0;
    // What is written so far is text[..copied], less the blanks.
    let mut copied = 0;
    while let Some(byte) = bytes.get(at) {
        match (*byte, next) {
            (b' ' | b'\n' | b'\r' | b'\t', _) => {
                out.push_str(&text[copied..at]);
                at += 1;
                copied = at;
            }
            (b'"', Next::Value | Next::ValueOrEnd | Next::Key | Next::KeyOrEnd) => {
                at = string_end(text, at, &mut copied, out)?;
                next = if matches!(next, Next::Key | Next::KeyOrEnd) {
                    Next::Colon
                } else {
                    Next::CommaOrEnd
                };
            }
            (b'{', Next::Value | Next::ValueOrEnd) => {
                open.push(b'}');
                next = Next::KeyOrEnd;
                at += 1;
            }
            (b'[', Next::Value | Next::ValueOrEnd) => {
                open.push(b']');
                next = Next::ValueOrEnd;
                at += 1;
            }
            (b't', Next::Value | Next::ValueOrEnd) => {
                (at, next) = (word_end(bytes, at, "true")?, Next::CommaOrEnd);
            }
            (b'f', Next::Value | Next::ValueOrEnd) => {
                (at, next) = (word_end(bytes, at, "false")?, Next::CommaOrEnd);
            }
            (b'n', Next::Value | Next::ValueOrEnd) => {
                (at, next) = (word_end(bytes, at, "null")?, Next::CommaOrEnd);
            }
            (b'-' | b'0'..=b'9', Next::Value | Next::ValueOrEnd) => {
                let Some(end) = number::end(bytes, at) else {
                    return ValueError::expected("JSON number", at);
                };
                (at, next) = (end, Next::CommaOrEnd);
            }
            (b':', Next::Colon) => (at, next) = (at + 1, Next::Value),
            (b',', Next::CommaOrEnd) => {
                next = match open.last() {
                    Some(b'}') => Next::Key,
                    Some(_) => Next::Value,
                    None => return ValueError::expected("end of the JSON document", at),
                };
                at += 1;
            }
            (b'}', Next::KeyOrEnd | Next::CommaOrEnd) | (b']', Next::ValueOrEnd | Next::CommaOrEnd) => {
                if open.pop() != Some(*byte) {
                    return ValueError::expected("other closing bracket in the JSON document", at);
                }
                next = Next::CommaOrEnd;
                at += 1;
            }
            _ => return ValueError::expected("JSON", at),
        }
    }
    if next != Next::CommaOrEnd || !open.is_empty() {
        return ValueError::expected("rest of the JSON document", at);
    }
    out.push_str(&text[copied..]);
    Ok(())
}

fn word_end(bytes: &[u8], at: usize, word: &'static str) -> Result<usize, ValueError> {
    if bytes[at..].starts_with(word.as_bytes()) {
        Ok(at + word.len())
    } else {
        ValueError::expected(word, at)
    }
}

/// The position after the string whose opening quote is at `open`. Writes up to a half surrogate, where there is one,
/// and what replaces it.
fn string_end(text: &str, open: usize, copied: &mut usize, out: &mut String) -> Result<usize, ValueError> {
    let bytes = text.as_bytes();
    let mut at = open + 1;
    while let Some(special) = next_escape(bytes, at) {
        at = special;
        match (bytes[at], bytes.get(at + 1)) {
            (b'"', _) => return Ok(at + 1),
            (b'\\', Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't')) => at += 2,
            (b'\\', Some(b'u')) => {
                let low_follows = || matches!(code_unit(bytes, at + 6), Ok(0xdc00..=0xdfff));
                match code_unit(bytes, at)? {
                    0xd800..=0xdbff if low_follows() => at += 12,
                    0xd800..=0xdfff => {
                        out.push_str(&text[*copied..at]);
                        out.push_str("\\ufffd");
                        at += 6;
                        *copied = at;
                    }
                    _ => at += 6,
                }
            }
            (b'\\', _) => return ValueError::expected("JSON escape", at),
            _ => return ValueError::expected("escape for a control character", at),
        }
    }
    ValueError::expected("closing quote of the JSON string", bytes.len())
}

/// The code unit that the escape `\uXXXX` at `at` stands for.
fn code_unit(bytes: &[u8], at: usize) -> Result<u32, ValueError> {
    let Some([b'\\', b'u', digits @ ..]) = bytes.get(at..at + 6) else {
        return ValueError::expected("JSON escape", at);
    };
    digits
        .iter()
        .try_fold(0, |unit, digit| match char::from(*digit).to_digit(16) {
            Some(digit) => Ok(unit << 4 | digit),
            None => ValueError::expected("hex digit", at),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(text: &str) -> Result<String, ValueError> {
        let mut out = String::new();
        write(text, &mut out).map(|()| out)
    }

    #[test]
    fn blanks_go_and_everything_else_stays() {
        for (text, json) in [
            (" [1 ,\n2\t] ", "[1,2]"),
            (
                r#"{"b": 1.10, "a": {"c d": []}, "a": 1e+5}"#,
                r#"{"b":1.10,"a":{"c d":[]},"a":1e+5}"#,
            ),
            (
                r#""\u0000\ud83d\ude00\/ \" \\""#,
                r#""\u0000\ud83d\ude00\/ \" \\""#,
            ),
            ("null", "null"),
            (" -0.5e-3", "-0.5e-3"),
            ("{}", "{}"),
            ("[[], {}, true, false]", "[[],{},true,false]"),
        ] {
            assert_eq!(written(text).as_deref(), Ok(json), "{text}");
        }
    }

    #[test]
    fn half_a_surrogate_pair_becomes_the_replacement_character() {
        for (text, json) in [
            (r#""a\ud800b""#, r#""a\ufffdb""#),
            (
                r#"[ "\udc00", "\ud83d\ud83d\ude00"]"#,
                r#"["\ufffd","\ufffd\ud83d\ude00"]"#,
            ),
            (r#"{"\ud800": "\ud800\u0041"}"#, r#"{"\ufffd":"\ufffd\u0041"}"#),
        ] {
            assert_eq!(written(text).as_deref(), Ok(json), "{text}");
            serde_json::from_str::<serde_json::Value>(json).unwrap();
        }
    }

    #[test]
    fn deep_nesting_costs_memory_in_proportion_and_no_stack() {
        let deep = "[".repeat(1_000_000) + &"]".repeat(1_000_000);
        assert_eq!(written(&deep).as_deref(), Ok(deep.as_str()));
    }

    proptest! {
        #[test]
        fn accepts_exactly_what_a_json_parser_accepts(text in r#"[\[\]{},: "tfn\\u/0-9a-e.\-+ruel\t]{0,16}"#) {
            // A bare number is fine however large, and a surrogate is mended: the two differences from serde_json.
            prop_assume!(!text.contains("\\u") && !text.contains(['e', 'E']));
            prop_assert_eq!(
                written(&text).is_ok(),
                serde_json::from_str::<serde_json::Value>(&text).is_ok(),
                "{}", text
            );
        }

        #[test]
        fn keeps_the_value(value in json_value()) {
            let pretty = serde_json::to_string_pretty(&value).unwrap();
            prop_assert_eq!(written(&pretty).unwrap(), serde_json::to_string(&value).unwrap());
        }
    }

    fn json_value() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            "(?s).{0,12}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
                prop::collection::btree_map("(?s).{0,6}", inner, 0..6)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }
}
