//! What is asked about a private channel, and what was found out (`database.md 3.1`, `protocol.md 4.5`).

use std::sync::Arc;

use crate::rights_error::RightsError;

/// Who asks, and for which channel: all that policies see of a request (`database.md 3.2`).
///
/// Two equal ones get the same answer when they ask at the same time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Asked {
    /// The database role, from the claim `role`.
    pub role: Arc<str>,
    /// The channel's name without `realtime:`; policies see it as `realtime.topic()` and in the column `topic`.
    pub topic: Arc<str>,
    /// All claims of the verified token as the text of a JSON object; policies see it as `request.jwt.claims`, and
    /// its `sub` as `request.jwt.claim.sub`.
    pub claims: Arc<str>,
    /// The text of a JSON object from lower-case header names to values, seen by policies as `request.headers`: for a
    /// socket the `x-*` headers of its upgrade, for an HTTP request all of them.
    pub headers: Arc<str>,
}

/// What a read check is about. Values of the column `extension` that its probe rows have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Extensions {
    /// At a join without presence.
    Broadcast,
    /// At the first `track` of a channel that joined without presence.
    Presence,
    /// At a join with presence.
    Both,
}

impl Extensions {
    pub(crate) fn broadcast(self) -> bool {
        self != Self::Presence
    }

    pub(crate) fn presence(self) -> bool {
        self != Self::Broadcast
    }
}

/// The answer of a read check; `None` for what was not asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadRights {
    /// Whether broadcasts may be received.
    pub broadcast: Option<bool>,
    /// Whether presence may be received.
    pub presence: Option<bool>,
}

impl ReadRights {
    /// Whether a channel with these rights may be joined: one of the two is enough (`database.md 3.1`).
    #[must_use]
    pub fn any(self) -> bool {
        self.broadcast == Some(true) || self.presence == Some(true)
    }

    /// These rights, if a channel may be joined with them.
    ///
    /// # Errors
    /// [`RightsError::Denied`], which says what the role lacks.
    pub fn required(self, asked: &Asked) -> Result<Self, RightsError> {
        if self.any() {
            return Ok(self);
        }
        Err(RightsError::Denied {
            role: Arc::clone(&asked.role),
            topic: Arc::clone(&asked.topic),
            lacks: match (self.broadcast, self.presence) {
                (Some(_), Some(_)) => Lacks::ReadBroadcastAndPresence,
                (_, Some(_)) => Lacks::ReadPresence,
                _ => Lacks::ReadBroadcast,
            },
        })
    }
}

/// The answer of a write check, which is always about both (`protocol.md 4.6`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteRights {
    /// Whether broadcasts may be sent.
    pub broadcast: bool,
    /// Whether presence may be tracked.
    pub presence: bool,
    /// What Postgres said against the first of the two that is not allowed: a missing grant or a missing policy.
    pub refusal: Option<Arc<str>>,
}

impl WriteRights {
    /// For a broadcast about to be sent.
    ///
    /// # Errors
    /// [`RightsError::Denied`], which says what the role lacks.
    pub fn broadcast_required(&self, asked: &Asked) -> Result<(), RightsError> {
        self.required(self.broadcast, Lacks::WriteBroadcast, asked)
    }

    /// For a presence about to be tracked.
    ///
    /// # Errors
    /// [`RightsError::Denied`], which says what the role lacks.
    pub fn presence_required(&self, asked: &Asked) -> Result<(), RightsError> {
        self.required(self.presence, Lacks::WritePresence, asked)
    }

    fn required(
        &self,
        allowed: bool,
        lacks: fn(Arc<str>) -> Lacks,
        asked: &Asked,
    ) -> Result<(), RightsError> {
        if allowed {
            return Ok(());
        }
        Err(RightsError::Denied {
            role: Arc::clone(&asked.role),
            topic: Arc::clone(&asked.topic),
            lacks: lacks(self.refusal.clone().unwrap_or_default()),
        })
    }
}

/// The right a role does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lacks {
    /// No SELECT policy lets it see broadcasts of the topic.
    ReadBroadcast,
    /// No SELECT policy lets it see presence of the topic.
    ReadPresence,
    /// Neither of the two.
    ReadBroadcastAndPresence,
    /// It may not insert broadcasts; with what Postgres says.
    WriteBroadcast(Arc<str>),
    /// It may not insert presence; with what Postgres says.
    WritePresence(Arc<str>),
}

/// What is known of one kind of message; `None` until it was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Whether such messages may be received.
    pub read: Option<bool>,
    /// Whether such messages may be sent.
    pub write: Option<bool>,
}

/// What a private channel knows of its rights. It lives as long as the channel and is shared with no other
/// (`database.md 3.1`): a change of policies is noticed by the next join or token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// Broadcasts.
    pub broadcast: Access,
    /// Presence.
    pub presence: Access,
}

impl Rights {
    /// Those of a channel that has just been allowed to read.
    #[must_use]
    pub fn of_reader(read: ReadRights) -> Self {
        let mut rights = Self::default();
        rights.learn_read(read);
        rights
    }

    /// Takes in a read check; what it did not ask stays as it was.
    pub fn learn_read(&mut self, read: ReadRights) {
        self.broadcast.read = read.broadcast.or(self.broadcast.read);
        self.presence.read = read.presence.or(self.presence.read);
    }

    /// Takes in a write check.
    pub fn learn_write(&mut self, write: &WriteRights) {
        self.broadcast.write = Some(write.broadcast);
        self.presence.write = Some(write.presence);
    }

    /// The rights after a new token: what the new read check found, and nothing known of writing. `Err` when a right
    /// to read is gone that was there, which closes the channel (`protocol.md 4.3`).
    ///
    /// # Errors
    /// [`RightsError::Denied`] when nothing can be read any more, [`RightsError::Revoked`] when one of two is gone.
    pub fn renewed(self, read: ReadRights, asked: &Asked) -> Result<Self, RightsError> {
        read.required(asked)?;
        let lost = |before: Option<bool>, now: Option<bool>| before == Some(true) && now == Some(false);
        if lost(self.broadcast.read, read.broadcast) || lost(self.presence.read, read.presence) {
            return Err(RightsError::Revoked {
                role: Arc::clone(&asked.role),
                topic: Arc::clone(&asked.topic),
            });
        }
        Ok(Self::of_reader(read))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Asked {
        Asked {
            role: "authenticated".into(),
            topic: "room".into(),
            claims: "{}".into(),
            headers: "{}".into(),
        }
    }

    fn read(broadcast: Option<bool>, presence: Option<bool>) -> ReadRights {
        ReadRights { broadcast, presence }
    }

    #[test]
    fn one_of_two_rights_to_read_is_enough_to_join() {
        for (rights, joins) in [
            (read(Some(true), None), true),
            (read(Some(false), None), false),
            (read(Some(false), Some(true)), true),
            (read(Some(true), Some(false)), true),
            (read(Some(false), Some(false)), false),
            (read(None, Some(true)), true),
            (read(None, None), false),
        ] {
            assert_eq!(rights.required(&asked()).is_ok(), joins, "{rights:?}");
        }
    }

    #[test]
    fn what_a_check_did_not_ask_stays_as_it_was() {
        let mut rights = Rights::of_reader(read(Some(true), None));
        rights.learn_read(read(None, Some(false)));
        assert_eq!(rights.broadcast.read, Some(true));
        assert_eq!(rights.presence.read, Some(false));
    }

    #[test]
    fn a_new_token_forgets_what_was_known_and_may_not_take_away_a_right_to_read() {
        let mut rights = Rights::of_reader(read(Some(true), Some(true)));
        rights.learn_write(&WriteRights {
            broadcast: true,
            presence: true,
            refusal: None,
        });
        let same = rights.renewed(read(Some(true), Some(true)), &asked()).unwrap();
        assert_eq!(same, Rights::of_reader(read(Some(true), Some(true))));
        for gone in [read(Some(false), Some(true)), read(Some(true), Some(false))] {
            let error = rights.renewed(gone, &asked()).unwrap_err();
            assert!(matches!(error, RightsError::Revoked { .. }), "{error:?}");
        }
        let error = rights
            .renewed(read(Some(false), Some(false)), &asked())
            .unwrap_err();
        assert!(matches!(error, RightsError::Denied { .. }), "{error:?}");
    }

    #[test]
    fn a_new_token_may_bring_a_right_to_read() {
        let rights = Rights::of_reader(read(Some(true), Some(false)));
        let more = rights.renewed(read(Some(true), Some(true)), &asked()).unwrap();
        assert_eq!(more.presence.read, Some(true));
    }
}
