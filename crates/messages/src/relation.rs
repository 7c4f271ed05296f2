//! Which tables of the stream hold messages.

use walcast_replication::Relation;

/// Whether rows of this table are messages: it is a partition of `realtime.messages`, which the stream shows by its own
/// name, or the whole of it (`database.md 4.3`).
#[must_use]
pub fn is_messages_partition(relation: &Relation) -> bool {
    relation.schema == "realtime" && relation.name.starts_with("messages")
}

#[cfg(test)]
mod tests {
    use super::*;
    use walcast_replication::ReplicaIdentity;

    #[test]
    fn a_partition_is_told_by_schema_and_name() {
        for (schema, name, is_one) in [
            ("realtime", "messages_2026_11_21", true),
            ("realtime", "messages", true),
            ("realtime", "messages_default", true),
            ("public", "messages", false),
            ("realtime", "subscription", false),
            ("realtime", "old_messages", false),
            ("realtime2", "messages_2026_11_21", false),
        ] {
            let relation = Relation {
                oid: 1,
                schema: schema.to_owned(),
                name: name.to_owned(),
                replica_identity: ReplicaIdentity::Default,
                columns: Vec::new(),
                version: 1,
            };
            assert_eq!(is_messages_partition(&relation), is_one, "{schema}.{name}");
        }
    }
}
