//! What nodes tell each other of presences.
//!
//! ```text
//! 1 byte     1: changes in a place; 2: a node is gone
//! 16 bytes   the node whose presences it is about
//! changes, each:
//!   1 byte   1: put; 2: removed
//!   8 bytes  version, growing with every change of that node
//!   2 bytes  length of the id, then the id (UTF-8)
//!   4 bytes  length of the payload, then the payload; only of a put
//! ```

use crate::node::NodeId;
use bytes::Bytes;

const CHANGES: u8 = 1;
const GONE: u8 = 2;
const PUT: u8 = 1;
const REMOVED: u8 = 2;

/// One presence that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) id: String,
    pub(crate) version: u64,
    /// None: it was removed.
    pub(crate) payload: Option<Bytes>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum News {
    Changes { owner: NodeId, changes: Vec<Change> },
    Gone { owner: NodeId },
}

/// Bytes that no node of this version sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("these are no news of presences; do nodes of another version share the prefix?")]
pub(crate) struct NoNews;

impl News {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (kind, owner, changes) = match self {
            Self::Changes { owner, changes } => (CHANGES, owner, changes.as_slice()),
            Self::Gone { owner } => (GONE, owner, &[][..]),
        };
        let mut bytes = vec![kind];
        bytes.extend_from_slice(owner.as_bytes());
        for Change { id, version, payload } in changes {
            bytes.push(if payload.is_some() { PUT } else { REMOVED });
            bytes.extend_from_slice(&version.to_be_bytes());
            // Ids and payloads are bounded where they are put.
            bytes.extend_from_slice(&u16::try_from(id.len()).unwrap_or(u16::MAX).to_be_bytes());
            bytes.extend_from_slice(id.as_bytes());
            if let Some(payload) = payload {
                bytes.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes());
                bytes.extend_from_slice(payload);
            }
        }
        bytes
    }

    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, NoNews> {
        let mut rest = bytes.clone();
        let kind = take::<1>(&mut rest)?;
        let owner = NodeId::from_bytes(take(&mut rest)?);
        if kind == [GONE] && rest.is_empty() {
            return Ok(Self::Gone { owner });
        }
        if kind != [CHANGES] {
            return Err(NoNews);
        }
        let mut changes = Vec::new();
        while !rest.is_empty() {
            let [action] = take(&mut rest)?;
            let version = u64::from_be_bytes(take(&mut rest)?);
            let id_length = u16::from_be_bytes(take(&mut rest)?);
            let id = cut(&mut rest, usize::from(id_length))?;
            let id = std::str::from_utf8(&id).map_err(|_| NoNews)?.to_owned();
            let payload = match action {
                PUT => {
                    let length = u32::from_be_bytes(take(&mut rest)?);
                    Some(cut(&mut rest, usize::try_from(length).map_err(|_| NoNews)?)?)
                }
                REMOVED => None,
                _ => return Err(NoNews),
            };
            changes.push(Change { id, version, payload });
        }
        Ok(Self::Changes { owner, changes })
    }
}

fn cut(rest: &mut Bytes, length: usize) -> Result<Bytes, NoNews> {
    if length > rest.len() {
        return Err(NoNews);
    }
    Ok(rest.split_to(length))
}

fn take<const LENGTH: usize>(rest: &mut Bytes) -> Result<[u8; LENGTH], NoNews> {
    cut(rest, LENGTH)?.as_ref().try_into().map_err(|_| NoNews)
}

/// A payload with its version, as it is kept.
pub(crate) fn stored(version: u64, payload: &[u8]) -> Bytes {
    let mut value = Vec::with_capacity(8 + payload.len());
    value.extend_from_slice(&version.to_be_bytes());
    value.extend_from_slice(payload);
    value.into()
}

/// Version and payload of what was kept.
pub(crate) fn restored(mut value: Bytes) -> Result<(u64, Bytes), NoNews> {
    let version = u64::from_be_bytes(take(&mut value)?);
    Ok((version, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn news_survive_the_journey(
            changes in prop::collection::vec(any::<(String, u64, Option<Vec<u8>>)>(), 0..8),
        ) {
            let changes = changes
                .into_iter()
                .map(|(id, version, payload)| Change { id, version, payload: payload.map(Bytes::from) })
                .collect();
            let news = News::Changes { owner: NodeId::random(), changes };
            prop_assert_eq!(News::decode(&news.encode().into()), Ok(news));
        }
    }

    #[test]
    fn other_bytes_are_refused() {
        let gone = News::Gone {
            owner: NodeId::random(),
        }
        .encode();
        assert!(News::decode(&gone.clone().into()).is_ok());
        let put = Change {
            id: "id".to_owned(),
            version: 1,
            payload: Some(Bytes::from_static(b"payload")),
        };
        let whole = News::Changes {
            owner: NodeId::random(),
            changes: vec![put],
        }
        .encode();
        // Cut anywhere but where the changes begin.
        for length in (0..whole.len()).filter(|length| *length != 17) {
            assert_eq!(
                News::decode(&whole[..length].to_vec().into()),
                Err(NoNews),
                "{length}"
            );
        }
        assert_eq!(News::decode(&[gone, vec![0]].concat().into()), Err(NoNews));
        assert_eq!(News::decode(&vec![3; 17].into()), Err(NoNews));
        assert_eq!(restored(Bytes::from_static(&[0; 7])), Err(NoNews));
    }
}
