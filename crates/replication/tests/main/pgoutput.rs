//! The decoder against messages written by the format's description, and against anything else.

use proptest::collection::vec;
use proptest::prelude::*;
use walcast_replication::pgoutput::{Message, decode, decode_row, row_relation};
use walcast_replication::{Action, Lsn, OldTuple, ReplicaIdentity, Tuple, Value};

#[derive(Clone, Debug, PartialEq)]
enum Written {
    Null,
    Unchanged,
    Text(String),
}

fn value() -> impl Strategy<Value = Written> {
    prop_oneof![
        Just(Written::Null),
        Just(Written::Unchanged),
        any::<String>().prop_map(Written::Text),
        "[ -~]{0,20}".prop_map(Written::Text),
    ]
}

fn tuple_bytes(tuple: &[Written]) -> Vec<u8> {
    let mut bytes = u16::try_from(tuple.len()).unwrap().to_be_bytes().to_vec();
    for value in tuple {
        match value {
            Written::Null => bytes.push(b'n'),
            Written::Unchanged => bytes.push(b'u'),
            Written::Text(text) => {
                bytes.push(b't');
                bytes.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
                bytes.extend(text.as_bytes());
            }
        }
    }
    bytes
}

fn row_message(kind: u8, oid: u32, parts: &[(u8, &[Written])]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(oid.to_be_bytes());
    for (marker, tuple) in parts {
        bytes.push(*marker);
        bytes.extend(tuple_bytes(tuple));
    }
    bytes
}

fn read(tuple: &Tuple) -> Vec<Written> {
    let values = (0..tuple.len()).map(|at| match tuple.get(at).unwrap() {
        Value::Null => Written::Null,
        Value::UnchangedToast => Written::Unchanged,
        Value::Text(text) => Written::Text(text.to_owned()),
    });
    let values = values.collect();
    assert!(tuple.get(tuple.len()).is_none());
    values
}

fn read_old(old: &OldTuple) -> (u8, Vec<Written>) {
    match old {
        OldTuple::Key(tuple) => (b'K', read(tuple)),
        OldTuple::Full(tuple) => (b'O', read(tuple)),
    }
}

proptest! {
    #[test]
    fn rows_read_as_they_were_written(
        oid: u32,
        new in vec(value(), 0..40),
        old in vec(value(), 0..40),
        marker in prop_oneof![Just(b'K'), Just(b'O')],
    ) {
        let insert = row_message(b'I', oid, &[(b'N', &new)]);
        prop_assert_eq!(row_relation(&insert), Some(oid));
        prop_assert!(matches!(decode(&insert), Ok(Message::Row(row)) if row == insert));
        let Ok(Action::Insert { new: decoded }) = decode_row(&insert) else { panic!("not an insert") };
        prop_assert_eq!(read(&decoded), new.clone());

        let update = row_message(b'U', oid, &[(b'N', &new)]);
        let Ok(Action::Update { old: None, new: decoded }) = decode_row(&update) else { panic!("not an update") };
        prop_assert_eq!(read(&decoded), new.clone());

        let update = row_message(b'U', oid, &[(marker, &old), (b'N', &new)]);
        let Ok(Action::Update { old: Some(before), new: decoded }) = decode_row(&update) else { panic!("not an update") };
        prop_assert_eq!(read_old(&before), (marker, old.clone()));
        prop_assert_eq!(read(&decoded), new);

        let delete = row_message(b'D', oid, &[(marker, &old)]);
        let Ok(Action::Delete { old: before }) = decode_row(&delete) else { panic!("not a delete") };
        prop_assert_eq!(read_old(&before), (marker, old));
    }

    #[test]
    fn a_row_that_is_cut_short_is_refused(oid: u32, new in vec(value(), 0..10), old in vec(value(), 0..10)) {
        for message in [
            row_message(b'I', oid, &[(b'N', &new)]),
            row_message(b'U', oid, &[(b'K', &old), (b'N', &new)]),
            row_message(b'D', oid, &[(b'O', &old)]),
        ] {
            for length in 0..message.len() {
                prop_assert!(decode_row(&message[..length]).is_err(), "{:?}", &message[..length]);
            }
        }
    }

    #[test]
    fn relations_read_as_they_were_written(
        oid: u32,
        schema in "[^\0]{0,20}",
        name in "[^\0]{0,20}",
        identity in prop_oneof![
            Just((b'd', ReplicaIdentity::Default)), Just((b'n', ReplicaIdentity::Nothing)),
            Just((b'f', ReplicaIdentity::Full)), Just((b'i', ReplicaIdentity::Index))
        ],
        columns in vec((any::<bool>(), "[^\0]{0,20}", any::<u32>(), any::<i32>()), 0..50),
    ) {
        let mut message = vec![b'R'];
        message.extend(oid.to_be_bytes());
        for text in [&schema, &name] {
            message.extend(text.as_bytes());
            message.push(0);
        }
        message.push(identity.0);
        message.extend(u16::try_from(columns.len()).unwrap().to_be_bytes());
        for (is_key, name, type_oid, modifier) in &columns {
            message.push(u8::from(*is_key));
            message.extend(name.as_bytes());
            message.push(0);
            message.extend(type_oid.to_be_bytes());
            message.extend(modifier.to_be_bytes());
        }
        let Ok(Message::Relation(relation)) = decode(&message) else { panic!("not a relation") };
        prop_assert_eq!(relation.oid, oid);
        // Postgres leaves the name of its own schema out.
        prop_assert_eq!(relation.schema, if schema.is_empty() { "pg_catalog".to_owned() } else { schema });
        prop_assert_eq!(relation.name, name);
        prop_assert_eq!(relation.replica_identity, identity.1);
        let read: Vec<_> =
            relation.columns.into_iter().map(|c| (c.is_key, c.name, c.type_oid, c.type_modifier)).collect();
        prop_assert_eq!(read, columns);
        for length in 0..message.len() {
            prop_assert!(decode(&message[..length]).is_err());
        }
    }

    #[test]
    fn transactions_read_as_they_were_written(commit: u64, end: u64, time: i64, xid: u32, relations in vec(any::<u32>(), 0..20)) {
        let begin = [&b"B"[..], &commit.to_be_bytes(), &time.to_be_bytes(), &xid.to_be_bytes()].concat();
        let since_1970 = time.saturating_add(946_684_800_000_000);
        prop_assert_eq!(decode(&begin), Ok(Message::Begin { commit: Lsn(commit), commit_timestamp_us: since_1970, xid }));
        let ended = [&b"C\0"[..], &commit.to_be_bytes(), &end.to_be_bytes(), &time.to_be_bytes()].concat();
        prop_assert_eq!(decode(&ended), Ok(Message::Commit { end: Lsn(end) }));
        let mut truncate = vec![b'T'];
        truncate.extend(u32::try_from(relations.len()).unwrap().to_be_bytes());
        truncate.push(1);
        truncate.extend(relations.iter().flat_map(|oid| oid.to_be_bytes()));
        prop_assert_eq!(decode(&truncate), Ok(Message::Truncate { relations }));
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(mut bytes: Vec<u8>, kind in prop::sample::select(b"BCORYIUDTMS".to_vec())) {
        walcast_replication::pgoutput::fuzz(&bytes);
        bytes.insert(0, kind);
        walcast_replication::pgoutput::fuzz(&bytes);
    }

    #[test]
    fn a_message_with_one_byte_changed_is_decoded_or_refused(new in vec(value(), 0..10), at: prop::sample::Index, byte: u8) {
        let mut message = row_message(b'U', 7, &[(b'O', &new), (b'N', &new)]);
        let at = at.index(message.len());
        message[at] = byte;
        walcast_replication::pgoutput::fuzz(&message);
    }
}

#[test]
fn messages_of_kinds_that_are_not_asked_for_are_passed_over() {
    for kind in b"OYMSEcAbPKrpz?" {
        assert!(
            matches!(
                decode(&[*kind, 0, 0, 0, 1, 0]),
                Ok(Message::Origin | Message::Type { .. } | Message::Other(_))
            ),
            "{}",
            char::from(*kind)
        );
    }
}

#[test]
fn a_count_of_columns_without_columns_allocates_nothing_much_and_is_refused() {
    assert!(decode_row(b"I\0\0\0\x01N\xff\xff").is_err());
    assert!(decode(b"R\0\0\0\x01s\0t\0d\xff\xff").is_err());
    assert!(decode(b"T\xff\xff\xff\xff\0").is_err());
    assert!(decode_row(b"I\0\0\0\x01N\0\x01t\xff\xff\xff\xff").is_err());
}
