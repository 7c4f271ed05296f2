//! A presence as nodes report it to each other.
//!
//! ```text
//! 1 byte     version: 1
//! 16 bytes   the node that tracks it, by a name that it keeps for its life
//! 8 bytes    the channel, by a number of that node
//! 8 bytes    serial: grows with every change of that node
//! 12 bytes   phx_ref
//! 1 byte     0, or 1 and then 12 bytes: phx_ref_prev
//! 4 bytes    length of the key, then the key (UTF-8)
//! the rest   the members of what is tracked: a JSON object without its braces
//! ```
//!
//! Numbers are big-endian. The cluster takes another name for a node that was taken for dead and lives; the one in here
//! stays, so that its presences are known again.

use std::sync::Arc;

use serde_json::value::RawValue;
use walcast_broadcast::MemberId;
use walcast_cluster::{MAX_PRESENCE_BYTES, NodeId};

use crate::fields;
use crate::meta::{Meta, MetaRef};
use crate::roster::{Owner, Place};

const VERSION: u8 = 1;
const FIRST: u8 = 0;
const UPDATE: u8 = 1;

/// What another node says is tracked.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) place: Place,
    pub(crate) serial: u64,
    pub(crate) meta: Meta,
}

/// What identifies a report.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Heading {
    pub(crate) place: Place,
    pub(crate) serial: u64,
    reference: MetaRef,
    previous: Option<MetaRef>,
}

/// Bytes that no node of this version reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no presence of a node of this version")]
pub(crate) struct Malformed;

/// All but key and fields.
const MOST_HEADING_BYTES: usize = 62;

/// Whether the form in which a presence travels is within the limit of the cluster.
pub(crate) fn fits(key: &str, fields: &str) -> bool {
    MOST_HEADING_BYTES + key.len() + fields.len() <= MAX_PRESENCE_BYTES
}

/// The form in which a presence travels.
pub(crate) fn encode(place: &Place, serial: u64, meta: &Meta) -> Vec<u8> {
    let key = place.key.as_bytes();
    let mut bytes = Vec::with_capacity(MOST_HEADING_BYTES + key.len() + meta.fields.len());
    bytes.push(VERSION);
    bytes.extend_from_slice(place.owner.node.as_bytes());
    bytes.extend_from_slice(&place.owner.member.number().to_be_bytes());
    bytes.extend_from_slice(&serial.to_be_bytes());
    bytes.extend_from_slice(&meta.reference.0);
    match meta.previous {
        None => bytes.push(FIRST),
        Some(previous) => {
            bytes.push(UPDATE);
            bytes.extend_from_slice(&previous.0);
        }
    }
    // A length that does not fit is above the limit of the whole.
    bytes.extend_from_slice(&u32::try_from(key.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(meta.fields.as_bytes());
    bytes
}

impl Heading {
    /// What a report is about, without judging what is tracked, and the rest.
    pub(crate) fn decode(mut bytes: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        let rest = &mut bytes;
        if rest.len() > MAX_PRESENCE_BYTES || take(rest)? != [VERSION] {
            return Err(Malformed);
        }
        let owner = Owner {
            node: NodeId::from_bytes(take(rest)?),
            member: MemberId::from_number(u64::from_be_bytes(take(rest)?)),
        };
        let serial = u64::from_be_bytes(take(rest)?);
        let reference = MetaRef(take(rest)?);
        let previous = match take(rest)? {
            [FIRST] => None,
            [UPDATE] => Some(MetaRef(take(rest)?)),
            _ => return Err(Malformed),
        };
        let length = u32::from_be_bytes(take(rest)?);
        let length = usize::try_from(length).map_err(|_| Malformed)?;
        let (key, fields) = rest.split_at_checked(length).ok_or(Malformed)?;
        let key: Arc<str> = std::str::from_utf8(key).map_err(|_| Malformed)?.into();
        let heading = Self {
            place: Place { key, owner },
            serial,
            reference,
            previous,
        };
        Ok((heading, fields))
    }
}

impl Report {
    /// Reads what [`encode`] wrote. What is tracked goes into frames as it is, so it must be JSON, and must not bring
    /// references of its own.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (heading, fields) = Heading::decode(bytes)?;
        let object = format!("{{{}}}", std::str::from_utf8(fields).map_err(|_| Malformed)?);
        serde_json::from_str::<&RawValue>(&object).map_err(|_| Malformed)?;
        let fields = fields::of_object(&object).ok_or(Malformed)?;
        Ok(Self {
            place: heading.place,
            serial: heading.serial,
            meta: Meta {
                reference: heading.reference,
                previous: heading.previous,
                fields: fields.into(),
            },
        })
    }
}

fn take<const LENGTH: usize>(rest: &mut &[u8]) -> Result<[u8; LENGTH], Malformed> {
    let (taken, after) = rest.split_first_chunk().ok_or(Malformed)?;
    *rest = after;
    Ok(*taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn report(key: &str, previous: Option<MetaRef>, fields: &str) -> Vec<u8> {
        let place = Place {
            key: key.into(),
            owner: Owner {
                node: NodeId::random(),
                member: MemberId::from_number(7),
            },
        };
        encode(&place, 9, &Meta::new(previous, fields))
    }

    proptest! {
        #[test]
        fn a_presence_survives_the_journey(
            key in any::<String>(),
            member in any::<u64>(),
            serial in any::<u64>(),
            is_update in any::<bool>(),
            n in any::<String>(),
        ) {
            let place = Place {
                key: key.into(),
                owner: Owner { node: NodeId::random(), member: MemberId::from_number(member) },
            };
            let payload = serde_json::json!({"n": n, "phx_ref": 1, "\u{e4}\n": [{}, null]}).to_string();
            let fields = fields::of_object(&payload).ok_or_else(|| TestCaseError::fail("no object"))?;
            let meta = Meta::new(is_update.then(MetaRef::random), &fields);
            let bytes = encode(&place, serial, &meta);
            let read = Report::decode(&bytes).map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert_eq!((&read.place, read.serial), (&place, serial));
            prop_assert_eq!((read.meta.reference, read.meta.previous), (meta.reference, meta.previous));
            prop_assert_eq!(&read.meta.fields, &meta.fields);
            prop_assert_eq!(Heading::decode(&bytes).map(|(heading, _)| heading.place), Ok(place));
        }
    }

    #[test]
    fn what_could_break_a_frame_or_a_client_is_refused() {
        for fields in ["", r#""a":1"#, r#" "a" : 1 , "b":{"phx_ref":1} "#] {
            assert!(Report::decode(&report("ada", None, fields)).is_ok(), "{fields}");
        }
        for fields in [
            "a",
            r#""a""#,
            r#""a":1,"#,
            r#""a":1},{"b":2"#,
            r#""a":1}"#,
            "\"a\":\"\u{1}\"",
        ] {
            let read = Report::decode(&report("ada", None, fields));
            assert!(read.is_err(), "{fields}");
        }
        let mine = r#""phx_ref":"x","a":1,"phx\u005fref_prev":"y""#;
        let read = Report::decode(&report("ada", None, mine)).map(|report| report.meta.fields);
        assert_eq!(read.as_deref(), Ok(r#""a":1"#));
    }

    #[test]
    fn other_bytes_are_refused() {
        let whole = report("ada", Some(MetaRef::random()), "");
        assert!(Report::decode(&whole).is_ok());
        for length in 0..whole.len() {
            assert!(Report::decode(&whole[..length]).is_err(), "{length}");
        }
        let with = |at: usize, byte: u8| {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            Report::decode(&bytes).is_err()
        };
        let key_at = whole.len() - 3;
        assert!(with(0, 2), "another version");
        assert!(with(45, 2), "neither first nor update");
        assert!(with(key_at, 0xff), "a key that is no text");
        let mut long = report("ada", None, "");
        long.resize(MAX_PRESENCE_BYTES + 1, b' ');
        assert!(Report::decode(&long).is_err());
        long.pop();
        assert!(Report::decode(&long).is_ok());
    }

    #[test]
    fn what_is_read_is_rendered_as_where_it_is_tracked() {
        let bytes = report("ada", Some(MetaRef::random()), r#""a":"\u00e4""#);
        let Ok(Report { meta, .. }) = Report::decode(&bytes) else {
            unreachable!("a report")
        };
        let mut rendered = String::new();
        meta.render(&mut rendered);
        let rendered: Value = serde_json::from_str(&rendered).unwrap_or_default();
        assert_eq!(rendered["a"], "\u{e4}");
        assert!(rendered["phx_ref"].is_string() && rendered["phx_ref_prev"].is_string());
    }
}
