//! From an inserted row to the message it is (`database.md 4.3`, `protocol.md 5.8`).

use thiserror::Error;
use walcast_protocol::ErrorCode;
use walcast_replication::{Action, Change, Value};

/// What every body counts in addition to its bytes (`database.md 4.3`).
const BODY_OVERHEAD_BYTES: usize = 6;

/// A message, as a transaction that inserted it into `realtime.messages` left it. Whoever may insert may say anything
/// here: the topic need not be one that anybody joined, and event and topic may be of any length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageRow<'a> {
    /// The row's id, a UUID: `meta.id`.
    pub id: &'a str,
    /// The channel's name without `realtime:`.
    pub topic: &'a str,
    /// The user's event.
    pub event: &'a str,
    /// Whether it is for the private channel of that name, or else for the public one.
    pub private: bool,
    /// The payload.
    pub body: RowBody<'a>,
    /// As the column has it, UTC unless the writer made it otherwise: `2026-11-21 10:15:30.123456`.
    pub inserted_at: &'a str,
}

/// A stored payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowBody<'a> {
    /// JSON of any kind, as Postgres prints it.
    Json(&'a str),
    /// Bytes, for members on serializer 2.0.0 only.
    Binary(Vec<u8>),
}

/// Why a row is not relayed. `Display` is what the log says.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UnrelayedRow {
    /// A column is null, or the table has none of that name.
    #[error(":{0}_missing: the column is null; a message needs a value there, see realtime.send")]
    Missing(&'static str),
    /// Both `payload` and `binary_payload` are null.
    #[error(":payload_missing: payload and binary_payload are both null; a message needs one of them")]
    NoPayload,
    /// The body is too large.
    #[error(
        ":payload_size_exceeded: the payload has {bytes} bytes, the limit is {limit_bytes}; raise WALCAST_MAX_PAYLOAD_KB or send less"
    )]
    TooLarge {
        /// What it counts.
        bytes: usize,
        /// What it may count.
        limit_bytes: usize,
    },
    /// A column does not hold what its type in `database.md 1.3` would.
    #[error(
        ":{0}_unreadable: the column is not of the type it has to be; compare realtime.messages with database.md 1.3"
    )]
    Unreadable(&'static str),
}

impl UnrelayedRow {
    /// The code it is logged under.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        ErrorCode::UnableToBroadcastChanges
    }
}

impl<'a> MessageRow<'a> {
    /// Reads a change of one of the table's partitions (see [`crate::is_messages_partition`]). `None` for what is no
    /// INSERT: other changes of the table mean nothing. The column `extension` is not looked at.
    ///
    /// `limit_bytes` is the configured size of a payload with its tolerance (`protocol.md 5.5`).
    ///
    /// # Errors
    /// The first reason, in the order of `database.md 4.3`, why the row is no message.
    pub fn read(change: &'a Change, limit_bytes: usize) -> Result<Option<Self>, UnrelayedRow> {
        let Action::Insert { new } = &change.action else {
            return Ok(None);
        };
        let mut columns = Columns::default();
        for (at, column) in change.relation.columns.iter().enumerate() {
            let Some(Value::Text(value)) = new.get(at) else {
                continue;
            };
            let value = Some(value);
            match column.name.as_str() {
                "inserted_at" => columns.inserted_at = value,
                "event" => columns.event = value,
                "id" => columns.id = value,
                "topic" => columns.topic = value,
                "private" => columns.private = value,
                "payload" => columns.payload = value.map(|value| (value, column.type_oid)),
                "binary_payload" => columns.binary_payload = value,
                _ => {}
            }
        }
        columns.read(limit_bytes).map(Some)
    }
}

/// The values that are not null.
#[derive(Default)]
struct Columns<'a> {
    inserted_at: Option<&'a str>,
    event: Option<&'a str>,
    id: Option<&'a str>,
    topic: Option<&'a str>,
    private: Option<&'a str>,
    /// With the type's oid.
    payload: Option<(&'a str, u32)>,
    binary_payload: Option<&'a str>,
}

impl<'a> Columns<'a> {
    fn read(self, limit_bytes: usize) -> Result<MessageRow<'a>, UnrelayedRow> {
        let inserted_at = self.inserted_at.ok_or(UnrelayedRow::Missing("inserted_at"))?;
        let event = self.event.ok_or(UnrelayedRow::Missing("event"))?;
        let id = self.id.ok_or(UnrelayedRow::Missing("id"))?;
        let topic = self.topic.ok_or(UnrelayedRow::Missing("topic"))?;
        let private = match self.private.ok_or(UnrelayedRow::Missing("private"))? {
            "t" => true,
            "f" => false,
            _ => return Err(UnrelayedRow::Unreadable("private")),
        };
        let body = match (self.binary_payload, self.payload) {
            (Some(text), _) => {
                let digits = text
                    .strip_prefix(r"\x")
                    .ok_or(UnrelayedRow::Unreadable("binary_payload"))?;
                check_size(digits.len() / 2, limit_bytes)?;
                RowBody::Binary(bytes(digits).ok_or(UnrelayedRow::Unreadable("binary_payload"))?)
            }
            (None, Some((json, type_oid))) => {
                // It is passed on as it is, in the middle of a frame: it has to be JSON.
                if !matches!(type_oid, JSONB_OID | JSON_OID) {
                    return Err(UnrelayedRow::Unreadable("payload"));
                }
                check_size(json.len(), limit_bytes)?;
                RowBody::Json(json)
            }
            (None, None) => return Err(UnrelayedRow::NoPayload),
        };
        Ok(MessageRow {
            id,
            topic,
            event,
            private,
            body,
            inserted_at,
        })
    }
}

const JSON_OID: u32 = 114;
const JSONB_OID: u32 = 3802;

fn check_size(body_bytes: usize, limit_bytes: usize) -> Result<(), UnrelayedRow> {
    let bytes = body_bytes.saturating_add(BODY_OVERHEAD_BYTES);
    if bytes > limit_bytes {
        return Err(UnrelayedRow::TooLarge { bytes, limit_bytes });
    }
    Ok(())
}

/// `None` if these are not pairs of hexadecimal digits.
fn bytes(digits: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs
        .iter()
        .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?))
        .collect()
}

fn digit(hexadecimal: u8) -> Option<u8> {
    match hexadecimal {
        b'0'..=b'9' => Some(hexadecimal - b'0'),
        b'a'..=b'f' => Some(hexadecimal - b'a' + 10),
        b'A'..=b'F' => Some(hexadecimal - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fmt::Write;
    use std::sync::Arc;
    use walcast_replication::{Column, Lsn, Relation, ReplicaIdentity, Transaction, pgoutput};

    const ID: &str = "5558e2cc-a2d4-489d-ab88-fe3e3c9f7841";
    const AT: &str = "2026-11-21 10:15:30.123456";

    type Row<'a> = Vec<(&'a str, Option<&'a str>)>;

    /// The row of a message, in the order of the columns.
    fn row() -> Row<'static> {
        vec![
            ("topic", Some("room")),
            ("extension", Some("broadcast")),
            ("payload", Some(r#"{"a": 1}"#)),
            ("event", Some("e")),
            ("private", Some("t")),
            ("updated_at", Some(AT)),
            ("inserted_at", Some(AT)),
            ("id", Some(ID)),
            ("binary_payload", None),
        ]
    }

    /// The row with some values replaced.
    fn with<'a>(replaced: &[(&str, Option<&'a str>)]) -> Row<'a> {
        let mut row: Row<'a> = row();
        for (name, value) in replaced {
            row.iter_mut().find(|column| column.0 == *name).unwrap().1 = *value;
        }
        row
    }

    fn message(kind: u8, row: &Row<'_>) -> Vec<u8> {
        let mut message = vec![kind, 0, 0, 0, 1];
        message.push(if kind == b'D' { b'O' } else { b'N' });
        message.extend(u16::try_from(row.len()).unwrap().to_be_bytes());
        for (_, value) in row {
            match value {
                None => message.push(b'n'),
                Some(text) => {
                    message.push(b't');
                    message.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
                    message.extend(text.as_bytes());
                }
            }
        }
        message
    }

    fn change(kind: u8, row: &Row<'_>, payload_type_oid: u32) -> Change {
        let column = |(name, _): &(&str, Option<&str>)| Column {
            name: (*name).to_owned(),
            type_oid: if *name == "payload" { payload_type_oid } else { 25 },
            type_modifier: -1,
            is_key: false,
        };
        Change {
            transaction: Transaction {
                xid: 1,
                commit: Lsn(1),
                commit_timestamp_us: 0,
            },
            index: 0,
            relation: Arc::new(Relation {
                oid: 1,
                schema: "realtime".to_owned(),
                name: "messages_2026_11_21".to_owned(),
                replica_identity: ReplicaIdentity::Default,
                columns: row.iter().map(column).collect(),
                version: 1,
            }),
            action: pgoutput::decode_row(&message(kind, row)).unwrap(),
        }
    }

    fn refusal(row: &Row<'_>) -> UnrelayedRow {
        MessageRow::read(&change(b'I', row, JSONB_OID), 1000).unwrap_err()
    }

    #[test]
    fn an_inserted_row_is_a_message_whatever_its_extension() {
        for extension in [Some("broadcast"), Some("presence"), None] {
            let change = change(b'I', &with(&[("extension", extension)]), JSONB_OID);
            let expected = MessageRow {
                id: ID,
                topic: "room",
                event: "e",
                private: true,
                body: RowBody::Json(r#"{"a": 1}"#),
                inserted_at: AT,
            };
            assert_eq!(MessageRow::read(&change, 1000), Ok(Some(expected)));
        }
    }

    #[test]
    fn updates_and_deletes_are_no_messages() {
        for kind in [b'U', b'D'] {
            assert_eq!(MessageRow::read(&change(kind, &row(), JSONB_OID), 1000), Ok(None));
        }
    }

    #[test]
    fn columns_are_found_by_name_in_any_order_and_others_ignored() {
        let mut row = with(&[("private", Some("f"))]);
        row.reverse();
        row.insert(3, ("added_later", Some("x")));
        row.retain(|(name, _)| *name != "binary_payload" && *name != "updated_at");
        let change = change(b'I', &row, JSON_OID);
        let message = MessageRow::read(&change, 1000).unwrap().unwrap();
        assert_eq!((message.topic, message.private), ("room", false));
    }

    #[test]
    fn what_is_missing_is_told_in_the_specified_order() {
        let order = ["inserted_at", "event", "id", "topic", "private", "payload"];
        for first in 0..order.len() {
            let missing: Vec<(&str, Option<&str>)> =
                order[first..].iter().map(|name| (*name, None)).collect();
            let error = refusal(&with(&missing));
            assert!(
                error
                    .to_string()
                    .starts_with(&format!(":{}_missing:", order[first])),
                "{error}"
            );
            assert_eq!(error.code().as_str(), "UnableToBroadcastChanges");
        }
        let mut row = row();
        row.retain(|(name, _)| *name != "topic");
        assert_eq!(
            refusal(&row),
            UnrelayedRow::Missing("topic"),
            "a column that is not there"
        );
    }

    #[test]
    fn every_kind_of_json_passes_as_it_is() {
        for json in ["null", "[1, \"x\"]", "\"text\"", "1.50", "{}"] {
            let change = change(b'I', &with(&[("payload", Some(json))]), JSONB_OID);
            let message = MessageRow::read(&change, 1000).unwrap().unwrap();
            assert_eq!(message.body, RowBody::Json(json));
        }
    }

    #[test]
    fn bytes_win_over_json_and_may_be_none() {
        for (hex, bytes) in [
            (r"\x", vec![]),
            (r"\x00ff01", vec![0, 255, 1]),
            (r"\xABcd", vec![0xab, 0xcd]),
        ] {
            let change = change(b'I', &with(&[("binary_payload", Some(hex))]), JSONB_OID);
            let message = MessageRow::read(&change, 1000).unwrap().unwrap();
            assert_eq!(message.body, RowBody::Binary(bytes));
        }
    }

    #[test]
    fn a_body_may_fill_the_limit_less_six_bytes() {
        let json = format!("\"{}\"", "a".repeat(98));
        let hex = format!(r"\x{}", "61".repeat(100));
        for row in [
            with(&[("payload", Some(&json))]),
            with(&[("binary_payload", Some(&hex))]),
        ] {
            let change = change(b'I', &row, JSONB_OID);
            assert!(MessageRow::read(&change, 106).is_ok());
            let error = MessageRow::read(&change, 105).unwrap_err();
            assert_eq!(
                error,
                UnrelayedRow::TooLarge {
                    bytes: 106,
                    limit_bytes: 105
                }
            );
            assert!(error.to_string().starts_with(":payload_size_exceeded:"));
        }
    }

    #[test]
    fn what_no_column_of_the_right_type_prints_is_refused() {
        for (column, value) in [
            ("private", "true"),
            ("private", ""),
            ("binary_payload", "00"),
            ("binary_payload", r"\x0"),
            ("binary_payload", r"\x0g"),
            ("binary_payload", r"\000"),
        ] {
            let row = with(&[(column, Some(value))]);
            assert_eq!(refusal(&row), UnrelayedRow::Unreadable(column), "{value}");
        }
        let of_text = change(b'I', &with(&[("payload", Some("}{"))]), 25);
        assert_eq!(
            MessageRow::read(&of_text, 1000),
            Err(UnrelayedRow::Unreadable("payload"))
        );
    }

    proptest! {
        #[test]
        fn bytes_survive_the_way_through_the_stream(body: Vec<u8>) {
            let mut hex = String::from(r"\x");
            for byte in &body {
                write!(hex, "{byte:02x}").unwrap();
            }
            let change = change(b'I', &with(&[("binary_payload", Some(&hex))]), JSONB_OID);
            let message = MessageRow::read(&change, usize::MAX).unwrap().unwrap();
            prop_assert_eq!(message.body, RowBody::Binary(body));
        }

        #[test]
        fn any_row_is_read_or_refused_with_its_first_fault(
            values in proptest::collection::vec(proptest::option::weighted(0.9, "[tf]|\\\\x[0-9a-f]{0,4}|.{0,8}"), 9),
            limit_bytes in 0..20_usize,
        ) {
            let names = row();
            let row: Row<'_> = names.iter().zip(&values).map(|(column, value)| (column.0, value.as_deref())).collect();
            let value = |name| row.iter().find(|column| column.0 == name).unwrap().1;
            let change = change(b'I', &row, JSONB_OID);
            match MessageRow::read(&change, limit_bytes) {
                Ok(read) => {
                    let read = read.unwrap();
                    prop_assert_eq!(Some(read.id), value("id"));
                    prop_assert_eq!(Some(read.topic), value("topic"));
                    prop_assert_eq!(Some(read.event), value("event"));
                    prop_assert_eq!(Some(if read.private { "t" } else { "f" }), value("private"));
                    let body_bytes = match read.body {
                        RowBody::Json(json) => {
                            prop_assert_eq!((Some(json), None), (value("payload"), value("binary_payload")));
                            json.len()
                        }
                        RowBody::Binary(bytes) => bytes.len(),
                    };
                    prop_assert!(body_bytes + 6 <= limit_bytes);
                }
                Err(UnrelayedRow::Missing(name)) => {
                    prop_assert_eq!(value(name), None);
                    let before = ["inserted_at", "event", "id", "topic", "private"].into_iter().take_while(|column| *column != name);
                    prop_assert!(before.into_iter().all(|column| value(column).is_some()));
                }
                Err(UnrelayedRow::NoPayload) => {
                    prop_assert_eq!((value("payload"), value("binary_payload")), (None, None));
                }
                Err(UnrelayedRow::TooLarge { bytes, .. }) => prop_assert!(bytes > limit_bytes),
                Err(UnrelayedRow::Unreadable(name)) => prop_assert!(value(name).is_some()),
            }
        }
    }
}
