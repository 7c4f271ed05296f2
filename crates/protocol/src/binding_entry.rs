//! An entry of `config.postgres_changes` as it came, with the id it is known by (`protocol.md 7.1`).

use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Ids are below 2^27.
const ID_BITS: u32 = 27;

/// What a client asked for, verbatim: clients compare the echo with what they sent, byte for byte.
#[derive(Clone, Debug)]
pub struct BindingEntry {
    /// The JSON object as sent.
    pub raw: Box<RawValue>,
    /// Equal for equal entries, whatever the order of their keys; distinct for distinct entries of one channel.
    pub id: u32,
}

impl BindingEntry {
    /// Gives every entry its id. `None` if one of them is no object.
    pub(crate) fn number(entries: Vec<Box<RawValue>>) -> Option<Vec<Self>> {
        let mut ids: HashMap<String, u32> = HashMap::new();
        let mut taken: HashSet<u32> = HashSet::new();
        entries
            .into_iter()
            .map(|raw| {
                let fields: Map<String, Value> = serde_json::from_str(raw.get()).ok()?;
                // Without the `preserve_order` feature a map prints sorted by key, at every depth.
                let canonical = Value::Object(fields).to_string();
                let id = *ids.entry(canonical).or_insert_with_key(|canonical| {
                    let mut id = hash(canonical);
                    while !taken.insert(id) {
                        id = (id + 1) % (1 << ID_BITS);
                    }
                    id
                });
                Some(Self { raw, id })
            })
            .collect()
    }

    /// The entry a join without configuration stands for: `schema[:table[:filter]]` (`protocol.md 3.6`).
    #[must_use]
    pub fn legacy(sub_topic: &str) -> Self {
        let mut parts = sub_topic.splitn(3, ':');
        let fields: Map<String, Value> = ["schema", "table", "filter"]
            .into_iter()
            .zip(&mut parts)
            .map(|(key, part)| (key.to_owned(), Value::from(part)))
            .collect();
        let text = Value::Object(fields).to_string();
        let id = hash(&text);
        // Text that serde_json wrote is JSON.
        Self { raw: RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned()), id }
    }

    /// The entry with its id. A key `id` of the client's own gives way.
    #[must_use]
    pub fn echo(&self) -> String {
        let text = self.raw.get();
        let fields: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
        if fields.contains_key("id") {
            let mut fields = fields;
            fields.insert("id".to_owned(), self.id.into());
            return Value::Object(fields).to_string();
        }
        let inner = text.trim().strip_prefix('{').unwrap_or("}");
        let comma = if fields.is_empty() { "" } else { "," };
        format!("{{\"id\":{}{comma}{inner}", self.id)
    }
}

fn hash(canonical: &str) -> u32 {
    // The standard hasher with its fixed keys: the same entry gets the same id on every node.
    let mut hasher = DefaultHasher::new();
    canonical.hash(&mut hasher);
    let bits = hasher.finish() & ((1 << ID_BITS) - 1);
    u32::try_from(bits).unwrap_or_default()
}

/// The `response` of a successful join (`protocol.md 3.4`).
#[must_use]
pub fn join_response(entries: &[BindingEntry]) -> String {
    let echoes: Vec<String> = entries.iter().map(BindingEntry::echo).collect();
    format!("{{\"postgres_changes\":[{}]}}", echoes.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(entries: &[&str]) -> Vec<BindingEntry> {
        let raw = entries.iter().map(|entry| RawValue::from_string((*entry).to_owned()).unwrap()).collect();
        BindingEntry::number(raw).unwrap()
    }

    #[test]
    fn equal_entries_share_an_id_and_others_do_not() {
        let entries = number(&[
            r#"{"event":"*","schema":"public","deep":{"a":1,"b":2}}"#,
            r#"{"schema":"public","deep":{"b":2,"a":1},"event":"*"}"#,
            r#"{"event":"INSERT","schema":"public"}"#,
        ]);
        assert_eq!(entries[0].id, entries[1].id);
        assert_ne!(entries[0].id, entries[2].id);
        assert!(entries.iter().all(|entry| entry.id < 1 << 27));
    }

    #[test]
    fn the_echo_is_the_entry_verbatim_with_the_id() {
        for (sent, tail) in [
            (r#"{"event":"*" , "schema":"public"}"#, r#","event":"*" , "schema":"public"}"#),
            (r#"{}"#, "}"),
            (r#" {"filter":"a=eq.\u00e9"} "#, r#","filter":"a=eq.\u00e9"}"#),
        ] {
            let entry = &number(&[sent])[0];
            assert_eq!(entry.echo(), format!("{{\"id\":{}{tail}", entry.id), "{sent}");
        }
        let entry = &number(&[r#"{"id":"mine","table":"t"}"#])[0];
        let echo: Value = serde_json::from_str(&entry.echo()).unwrap();
        assert_eq!(echo, serde_json::json!({"id": entry.id, "table": "t"}));
    }

    #[test]
    fn a_legacy_topic_is_split_at_its_first_two_colons() {
        for (sub_topic, entry) in [
            ("public", r#"{"schema":"public"}"#),
            ("public:todos", r#"{"schema":"public","table":"todos"}"#),
            ("public:todos:id=eq.a:b", r#"{"filter":"id=eq.a:b","schema":"public","table":"todos"}"#),
            ("*", r#"{"schema":"*"}"#),
        ] {
            assert_eq!(BindingEntry::legacy(sub_topic).raw.get(), entry);
        }
    }
}
