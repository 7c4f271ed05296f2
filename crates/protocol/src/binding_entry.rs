//! An entry of `config.postgres_changes` as it came, with the id it is known by (`protocol.md 7.1`).

use crate::quote::push_quoted;
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};
use std::fmt::{self, Write};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Ids are below this.
const ID_LIMIT: u32 = 1 << 27;

/// What a client asked for, verbatim: clients compare the echo with what they sent.
#[derive(Clone, Debug)]
pub struct BindingEntry {
    /// The JSON object as sent.
    pub raw: Box<RawValue>,
    /// Equal for equal entries, whatever the order of their keys; distinct for distinct entries of one channel.
    pub id: u32,
}

impl BindingEntry {
    /// Gives every entry its id.
    ///
    /// # Errors
    /// The index of the first entry that is no object.
    pub(crate) fn number(entries: Vec<Box<RawValue>>) -> Result<Vec<Self>, usize> {
        let mut ids: HashMap<String, u32> = HashMap::new();
        let mut taken: HashSet<u32> = HashSet::new();
        let mut numbered = Vec::with_capacity(entries.len());
        for (at, raw) in entries.into_iter().enumerate() {
            let fields: Map<String, Value> = serde_json::from_str(raw.get()).map_err(|_| at)?;
            let mut canonical = String::with_capacity(raw.get().len());
            push_object(&mut canonical, &fields);
            let id = *ids
                .entry(canonical)
                .or_insert_with_key(|canonical| free_id(hash(canonical), &mut taken));
            numbered.push(Self { raw, id });
        }
        Ok(numbered)
    }

    /// The entry a join without configuration stands for: `schema[:table[:filter]]` (`protocol.md 3.6`).
    #[must_use]
    pub fn legacy(sub_topic: &str) -> Self {
        let fields: Map<String, Value> = ["schema", "table", "filter"]
            .into_iter()
            .zip(sub_topic.splitn(3, ':'))
            .map(|(key, part)| (key.to_owned(), Value::from(part)))
            .collect();
        let mut text = String::with_capacity(sub_topic.len() + 40);
        push_object(&mut text, &fields);
        let id = hash(&text);
        // Text written here is JSON.
        Self {
            raw: RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned()),
            id,
        }
    }

    /// The entry with its id. A key `id` of the client's own gives way; all else is echoed byte for byte.
    #[must_use]
    pub fn echo(&self) -> String {
        let mut out = String::with_capacity(self.raw.get().len() + 20);
        self.push_echo(&mut out);
        out
    }

    fn push_echo(&self, out: &mut String) {
        let Members(members) = serde_json::from_str(self.raw.get()).unwrap_or_default();
        // Writing to a String cannot fail.
        _ = write!(out, "{{\"id\":{}", self.id);
        for (key, value) in members.iter().filter(|(key, _)| key != "id") {
            out.push(',');
            push_quoted(out, key);
            out.push(':');
            out.push_str(value.get());
        }
        out.push('}');
    }
}

/// The `response` of a successful join (`protocol.md 3.4`).
#[must_use]
pub fn join_response(entries: &[BindingEntry]) -> String {
    let mut out = r#"{"postgres_changes":["#.to_owned();
    for (at, entry) in entries.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        entry.push_echo(&mut out);
    }
    out.push_str("]}");
    out
}

/// The members of an object in their order, the values as sent.
#[derive(Default)]
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Members(members))
    }
}

/// Writes a value so that equal ones get equal text. Not left to the map's own order, which a feature of `serde_json`
/// that any crate of a build may turn on makes the order of insertion. Parsed values are at most 128 levels deep.
fn push_canonical(out: &mut String, value: &Value) {
    match value {
        Value::Object(fields) => push_object(out, fields),
        Value::Array(elements) => {
            out.push('[');
            for element in elements {
                push_canonical(out, element);
                out.push(',');
            }
            out.push(']');
        }
        Value::String(text) => push_quoted(out, text),
        scalar @ (Value::Null | Value::Bool(_) | Value::Number(_)) => {
            // Writing to a String cannot fail.
            _ = write!(out, "{scalar}");
        }
    }
}

fn push_object(out: &mut String, fields: &Map<String, Value>) {
    let mut sorted: Vec<(&String, &Value)> = fields.iter().collect();
    sorted.sort_unstable_by_key(|&(key, _)| key);
    out.push('{');
    for (at, (key, value)) in sorted.into_iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        push_quoted(out, key);
        out.push(':');
        push_canonical(out, value);
    }
    out.push('}');
}

fn hash(canonical: &str) -> u32 {
    // The standard hasher with its fixed keys: an entry keeps its id when its channel joins again.
    let mut hasher = DefaultHasher::new();
    canonical.hash(&mut hasher);
    u32::try_from(hasher.finish() % u64::from(ID_LIMIT)).unwrap_or_default()
}

/// The first id from `wanted` on that no other entry of the channel has. A frame is too short for entries that take
/// all of them.
fn free_id(wanted: u32, taken: &mut HashSet<u32>) -> u32 {
    let mut id = wanted;
    while !taken.insert(id) {
        id = (id + 1) % ID_LIMIT;
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn number(entries: &[&str]) -> Vec<BindingEntry> {
        let raw = entries
            .iter()
            .map(|entry| RawValue::from_string((*entry).to_owned()).unwrap())
            .collect();
        BindingEntry::number(raw).unwrap()
    }

    #[test]
    fn equal_entries_share_an_id_and_others_do_not() {
        let entries = number(&[
            r#"{"event":"*","schema":"public","deep":[{"a":1,"b":2}]}"#,
            r#"{"schema":"public", "deep":[{"b":2,"a":1}],"event":"\u002a"}"#,
            r#"{"event":"INSERT","schema":"public"}"#,
            r#"{"event":"INSERT","schema":"public","select":["a","b"]}"#,
            r#"{"event":"INSERT","schema":"public","select":["b","a"]}"#,
        ]);
        assert_eq!(entries[0].id, entries[1].id);
        let distinct: HashSet<u32> = entries[1..].iter().map(|entry| entry.id).collect();
        assert_eq!(distinct.len(), 4);
        assert!(entries.iter().all(|entry| entry.id < 1 << 27));
    }

    #[test]
    fn entries_that_collide_still_get_ids_of_their_own() {
        let mut taken = HashSet::new();
        assert_eq!(free_id(7, &mut taken), 7);
        assert_eq!(free_id(7, &mut taken), 8);
        assert_eq!(free_id(8, &mut taken), 9);
        assert_eq!(free_id(ID_LIMIT - 1, &mut taken), ID_LIMIT - 1);
        assert_eq!(free_id(ID_LIMIT - 1, &mut taken), 0);
    }

    #[test]
    fn the_echo_is_the_entry_with_its_values_verbatim_and_the_id() {
        for (sent, echoed) in [
            (
                r#"{"event":"insert","schema":"public"}"#,
                r#","event":"insert","schema":"public"}"#,
            ),
            ("{}", "}"),
            (
                r#" {"table" : 1e2, "filter":"a=eq.\u00e9","x": [ 1 ,1.0] } "#,
                r#","table":1e2,"filter":"a=eq.\u00e9","x":[ 1 ,1.0]}"#,
            ),
            (
                r#"{"z":12345678901234567890123,"\u0069d":"mine","a\"b":null}"#,
                r#","z":12345678901234567890123,"a\"b":null}"#,
            ),
        ] {
            let entry = &number(&[sent])[0];
            assert_eq!(entry.echo(), format!("{{\"id\":{}{echoed}", entry.id), "{sent}");
        }
    }

    #[test]
    fn a_join_response_lists_the_echoes_in_request_order() {
        assert_eq!(join_response(&[]), r#"{"postgres_changes":[]}"#);
        let entries = number(&[r#"{"table":"b"}"#, r#"{"table":"a"}"#]);
        let expected = format!(
            r#"{{"postgres_changes":[{},{}]}}"#,
            entries[0].echo(),
            entries[1].echo()
        );
        assert_eq!(join_response(&entries), expected);
    }

    #[test]
    fn a_legacy_topic_is_split_at_its_first_two_colons() {
        for (sub_topic, entry) in [
            ("public", r#"{"schema":"public"}"#),
            ("public:todos", r#"{"schema":"public","table":"todos"}"#),
            (
                "public:todos:id=eq.a:b",
                r#"{"filter":"id=eq.a:b","schema":"public","table":"todos"}"#,
            ),
            ("*", r#"{"schema":"*"}"#),
            ("", r#"{"schema":""}"#),
        ] {
            assert_eq!(BindingEntry::legacy(sub_topic).raw.get(), entry);
        }
    }

    proptest! {
        /// The order of keys is shuffled at both depths; every third value is an object.
        #[test]
        fn the_id_ignores_the_order_of_keys(keys in prop::collection::btree_set("[a-z]{1,4}", 1..8), seed in any::<u64>()) {
            let object = |keys: &[&String], inner: &str| {
                let members: Vec<String> = keys
                    .iter()
                    .map(|key| if key.len() % 3 == 0 { format!("\"{key}\":{inner}") } else { format!("\"{key}\":1") })
                    .collect();
                format!("{{{}}}", members.join(","))
            };
            let keys: Vec<&String> = keys.iter().collect();
            let mut shuffled = keys.clone();
            shuffled.sort_by_key(|key| { let mut hasher = DefaultHasher::new(); (seed, key).hash(&mut hasher); hasher.finish() });
            let one = object(&keys, &object(&shuffled, "2"));
            let other = object(&shuffled, &object(&keys, "2"));
            let entries = number(&[&one, &other]);
            prop_assert_eq!(entries[0].id, entries[1].id, "{} {}", one, other);
        }
    }
}
