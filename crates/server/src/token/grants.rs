//! Tokens that are bound to topics: the claim `walcast` says what their bearer may do where (decision 29).
//!
//! `POST /api/tokens` makes them; so may anybody who signs the project's tokens. They open no topic but those they name.

use std::collections::BTreeMap;
use std::ops::BitAnd;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The claim.
pub const CLAIM: &str = "walcast";

/// What may be done with one topic, as claim and request write it; what is not said is not granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TopicGrant {
    /// The sub-topic, without `realtime:`; its public and its private room.
    pub topic: String,
    /// To hear broadcasts.
    #[serde(default, skip_serializing_if = "is_not_granted")]
    pub read: bool,
    /// To send broadcasts.
    #[serde(default, skip_serializing_if = "is_not_granted")]
    pub write: bool,
    /// To hear who is present, and to be.
    #[serde(default, skip_serializing_if = "PresenceGrant::is_nothing")]
    pub presence: PresenceGrant,
    /// To listen to row changes, under row level security.
    #[serde(default, skip_serializing_if = "is_not_granted")]
    pub changes: bool,
}

/// What may be done with presence.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PresenceGrant {
    /// To hear who is present.
    #[serde(default, skip_serializing_if = "is_not_granted")]
    pub read: bool,
    /// To track.
    #[serde(default, skip_serializing_if = "is_not_granted")]
    pub write: bool,
}

// As serde wants it.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_not_granted(right: &bool) -> bool {
    !right
}

impl PresenceGrant {
    #[allow(clippy::trivially_copy_pass_by_ref)]
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// What may be done with a topic; by default nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Grant {
    /// To hear broadcasts.
    pub read: bool,
    /// To send broadcasts.
    pub write: bool,
    /// Presence.
    pub presence: PresenceGrant,
    /// To listen to row changes.
    pub changes: bool,
}

impl Grant {
    /// What a token that is not bound to topics leaves to others to decide.
    pub const ALL: Self = Self {
        read: true,
        write: true,
        presence: PresenceGrant {
            read: true,
            write: true,
        },
        changes: true,
    };
}

impl From<&TopicGrant> for Grant {
    fn from(granted: &TopicGrant) -> Self {
        Self {
            read: granted.read,
            write: granted.write,
            presence: granted.presence,
            changes: granted.changes,
        }
    }
}

impl BitAnd for Grant {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self {
            read: self.read && other.read,
            write: self.write && other.write,
            presence: PresenceGrant {
                read: self.presence.read && other.presence.read,
                write: self.presence.write && other.presence.write,
            },
            changes: self.changes && other.changes,
        }
    }
}

/// The claim's value.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bound<Topics> {
    topics: Topics,
}

/// The claim's value for these topics.
///
/// # Errors
/// None of its own: text and truth values can always be written.
pub fn claim(topics: &[TopicGrant]) -> Result<Value, serde_json::Error> {
    serde_json::to_value(Bound { topics })
}

/// What a token grants, topic by topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants(BTreeMap<Box<str>, Grant>);

impl Grants {
    /// Reads the claim. A topic that is named twice has the rights both name.
    ///
    /// # Errors
    /// Anything that is not understood: it may be what limits the token.
    pub(crate) fn read(claim: &Value) -> Result<Self, serde_json::Error> {
        let Bound { topics } = Bound::<Vec<TopicGrant>>::deserialize(claim)?;
        let mut grants = BTreeMap::new();
        for granted in topics {
            let grant = Grant::from(&granted);
            grants
                .entry(granted.topic.into_boxed_str())
                .and_modify(|known| *known = *known & grant)
                .or_insert(grant);
        }
        Ok(Self(grants))
    }

    pub(super) fn of(&self, topic: &str) -> Option<Grant> {
        self.0.get(topic).copied()
    }
}

/// A token that is bound to topics, and not to this one. Its text is what the client is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("This token is bound to other topics and does not open: {topic}")]
pub struct NotOpened {
    /// Without `realtime:`.
    pub topic: Box<str>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_not_named_is_not_granted_and_what_is_not_understood_is_refused() {
        let listens = Grant {
            read: true,
            ..Grant::default()
        };
        let room = |grant: Value| {
            let mut entry = json!({"topic": "room"});
            entry
                .as_object_mut()
                .unwrap()
                .extend(grant.as_object().unwrap().clone());
            json!({"topics": [entry]})
        };
        for (claim, granted) in [
            (room(json!({})), Some(Grant::default())),
            (room(json!({"read": true})), Some(listens)),
            (
                room(json!({
                    "read": true, "write": true, "presence": {"read": true, "write": true}, "changes": true
                })),
                Some(Grant::ALL),
            ),
            (json!({"topics": []}), None),
            (
                json!({"topics": [{"topic": "roo", "read": true}, {"topic": "room:1", "read": true}]}),
                None,
            ),
        ] {
            assert_eq!(Grants::read(&claim).unwrap().of("room"), granted, "{claim}");
        }
        for claim in [
            json!(null),
            json!("room"),
            json!({}),
            json!({"topics": "room"}),
            json!({"topics": [{"read": true}]}),
            json!({"topics": [], "until": 5}),
            room(json!({"read": 1})),
            room(json!({"read": "true"})),
            room(json!({"presence": true})),
            room(json!({"presence": {"reads": true}})),
            room(json!({"only": "mondays"})),
        ] {
            assert!(Grants::read(&claim).is_err(), "{claim}");
        }
    }

    #[test]
    fn a_topic_that_is_named_twice_has_the_rights_both_name() {
        let claim = json!({"topics": [
            {"topic": "room", "read": true, "write": true, "presence": {"read": true}},
            {"topic": "room", "read": true, "changes": true, "presence": {"read": true, "write": true}},
        ]});
        let grant = Grants::read(&claim).unwrap().of("room").unwrap();
        let presence = PresenceGrant {
            read: true,
            write: false,
        };
        let both = Grant {
            read: true,
            presence,
            ..Grant::default()
        };
        assert_eq!(grant, both);
    }

    #[test]
    fn the_claim_that_is_written_is_the_one_that_is_read_and_names_nothing_needless() {
        let wanted = vec![
            TopicGrant {
                topic: "a".to_owned(),
                read: true,
                write: false,
                presence: PresenceGrant::default(),
                changes: false,
            },
            TopicGrant {
                topic: "b".to_owned(),
                read: false,
                write: true,
                presence: PresenceGrant {
                    read: true,
                    write: false,
                },
                changes: true,
            },
        ];
        let claim = claim(&wanted).unwrap();
        assert_eq!(
            claim,
            json!({"topics": [
                {"topic": "a", "read": true},
                {"topic": "b", "write": true, "presence": {"read": true}, "changes": true},
            ]})
        );
        let grants = Grants::read(&claim).unwrap();
        for granted in &wanted {
            assert_eq!(grants.of(&granted.topic), Some(granted.into()));
        }
    }
}
