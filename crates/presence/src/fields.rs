//! The payload of a `track`, as far as the server looks into it.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserializer;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;
use walcast_protocol::quoted;

/// Keys of a meta that are the server's.
const RESERVED: [&str; 2] = ["phx_ref", "phx_ref_prev"];

/// Larger payloads are compared as text: then one with its keys in another order is an update.
const COMPARED_BYTES: usize = 16 * 1024;
const COMPARED_DEPTH: usize = 16;

/// The members of a JSON object, as text without the braces; none if the JSON is no object.
///
/// Members that would stand for the server's references are left out: clients merge by them, and would lose a
/// presence whose reference is not new with every change.
pub(crate) fn of_object(json: &str) -> Option<String> {
    let fields = json.trim().strip_prefix('{')?.strip_suffix('}')?.trim();
    // A name may be written with escapes.
    if !fields.contains("phx_ref") && !fields.contains("\\u") {
        return Some(fields.to_owned());
    }
    let mut deserializer = serde_json::Deserializer::from_str(json);
    deserializer.deserialize_map(Unreserved).ok()
}

/// Whether two texts of fields say the same: equal, or with keys in another order.
pub(crate) fn are_same(one: &str, other: &str) -> bool {
    if one == other {
        return true;
    }
    if one.len().max(other.len()) > COMPARED_BYTES {
        return false;
    }
    same_objects(&format!("{{{one}}}"), &format!("{{{other}}}"), COMPARED_DEPTH)
}

fn same_values(one: &str, other: &str, depth: usize) -> bool {
    if one == other {
        return true;
    }
    let Some(depth) = depth.checked_sub(1) else {
        return false;
    };
    match (one.as_bytes().first(), other.as_bytes().first()) {
        (Some(b'{'), Some(b'{')) => same_objects(one, other, depth),
        (Some(b'['), Some(b'[')) => same_lists(one, other, depth),
        (Some(b'"'), Some(b'"')) => match (text(one), text(other)) {
            (Some(one), Some(other)) => one == other,
            _ => false,
        },
        _ => false,
    }
}

fn same_objects(one: &str, other: &str, depth: usize) -> bool {
    type Members<'a> = BTreeMap<String, &'a RawValue>;
    let members = |json| serde_json::from_str::<Members<'_>>(json).ok();
    let (Some(one), Some(other)) = (members(one), members(other)) else {
        return false;
    };
    one.len() == other.len()
        && one
            .iter()
            .zip(&other)
            .all(|((a, one), (b, other))| a == b && same_values(one.get(), other.get(), depth))
}

fn same_lists(one: &str, other: &str, depth: usize) -> bool {
    let elements = |json| serde_json::from_str::<Vec<&RawValue>>(json).ok();
    let (Some(one), Some(other)) = (elements(one), elements(other)) else {
        return false;
    };
    one.len() == other.len()
        && one
            .iter()
            .zip(&other)
            .all(|(one, other)| same_values(one.get(), other.get(), depth))
}

fn text(json: &str) -> Option<String> {
    serde_json::from_str(json).ok()
}

/// Writes an object's members but for the reserved ones.
struct Unreserved;

impl<'de> Visitor<'de> for Unreserved {
    type Value = String;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<String, A::Error> {
        let mut fields = String::new();
        while let Some((name, value)) = members.next_entry::<String, &RawValue>()? {
            if RESERVED.contains(&&*name) {
                continue;
            }
            if !fields.is_empty() {
                fields.push(',');
            }
            fields.push_str(&quoted(&name));
            fields.push(':');
            fields.push_str(value.get());
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_an_object_are_its_text_but_for_the_servers_own() {
        for (json, fields) in [
            ("{}", Some("")),
            ("{ }", Some("")),
            (r#"{"a":1, "b":[{}]}"#, Some(r#""a":1, "b":[{}]"#)),
            (r#"{"phx_ref":"mine","a":1}"#, Some(r#""a":1"#)),
            (r#"{"a":1,"phx\u005fref":2,"phx_ref_prev":{}}"#, Some(r#""a":1"#)),
            (
                r#"{"a":"phx_ref","phx_refs":1}"#,
                Some(r#""a":"phx_ref","phx_refs":1"#),
            ),
            (r#"{"phx_ref":1}"#, Some("")),
            ("[1]", None),
            ("null", None),
            (r#""{}""#, None),
        ] {
            assert_eq!(of_object(json).as_deref(), fields, "{json}");
        }
    }

    #[test]
    fn payloads_are_the_same_whatever_the_order_of_their_keys() {
        for (one, other, same) in [
            ("", "", true),
            (
                r#""a":1,"b":{"c":[1,{}],"d":"x"}"#,
                r#""b": {"d":"\u0078","c":[1,{}]}, "a":1"#,
                true,
            ),
            (r#""a":1"#, r#""a":2"#, false),
            (r#""a":1"#, r#""a":1,"b":1"#, false),
            (r#""a":[1,2]"#, r#""a":[2,1]"#, false),
            (
                r#""a":12345678901234567890123"#,
                r#""a":12345678901234567890124"#,
                false,
            ),
            (r#""a":null"#, r#""b":null"#, false),
        ] {
            assert_eq!(are_same(one, other), same, "{one} and {other}");
        }
    }

    #[test]
    fn what_is_nested_too_deep_or_too_long_is_compared_as_text() {
        let deep = format!(r#""a":{}1{}"#, "[".repeat(100), "]".repeat(100));
        assert!(are_same(&deep, &deep));
        assert!(!are_same(&deep, &deep.replace("[1]", "[1 ]")));
        let long = format!(r#""a":"{}","b":1"#, "x".repeat(COMPARED_BYTES));
        assert!(!are_same(
            &long,
            &format!(r#""b":1,"a":"{}""#, "x".repeat(COMPARED_BYTES))
        ));
    }
}
