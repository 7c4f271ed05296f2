//! Recent broadcasts for a private channel that comes back: `config.broadcast.since` (decision 30).

use std::sync::Arc;

use walcast_broadcast::{Catchup, Membership, Since, Unrecovered};
use walcast_cluster::ClusterError;
use walcast_protocol::{Frame, JoinPayload, System};

use crate::join::Attempt;

/// What a channel missed, as frames for it, or why it is not told.
pub(crate) type Missed = Result<Vec<Frame>, NotTold>;

/// What a channel that asks is to be told.
pub(crate) enum Asked {
    /// It is known.
    Known(Missed),
    /// It is to be read where it is kept for all nodes.
    Elsewhere(Arc<Catchup>, Since),
}

/// Why a channel is not told what it missed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotTold {
    /// They are not known.
    #[error(transparent)]
    Unrecovered(#[from] Unrecovered),
    /// What is kept for all nodes cannot be read.
    #[error("the nodes are out of touch: {0}")]
    Away(#[from] ClusterError),
    /// The key means nothing.
    #[error("`since` must be the position of a message, or milliseconds since 1970")]
    NotAMoment,
    /// Messages could come twice.
    #[error("`since` cannot be combined with `replay`")]
    Replayed,
}

/// From where on a join wants what it missed; none if it does not ask.
pub(crate) fn since(payload: &JoinPayload) -> Option<Result<Since, NotTold>> {
    let broadcast = &payload.config.as_ref()?.broadcast;
    let since = broadcast.since.as_ref()?.get();
    if broadcast.replay.is_some() {
        return Some(Err(NotTold::Replayed));
    }
    let moment = match serde_json::from_str::<String>(since) {
        Ok(text) => Since::position(&text),
        Err(_) => since.parse().ok().map(Since::Timestamp),
    };
    Some(moment.ok_or(NotTold::NotAMoment))
}

impl Attempt {
    /// Waits for what is kept elsewhere. The room must be heard from other nodes by now.
    pub(crate) async fn missed(&self, membership: &Membership, asked: Asked) -> Missed {
        let (catchup, since) = match asked {
            Asked::Known(missed) => return missed,
            Asked::Elsewhere(catchup, since) => (catchup, since),
        };
        let after = match since {
            Since::Place { heard, .. } => heard,
            Since::Timestamp(_) | Since::Position { .. } => 0,
        };
        let Some(crossings) = &self.tenant.crossings else {
            return Err(Unrecovered::Off.into());
        };
        let told = crossings.kept(membership.room(), after, |recent| {
            let rooms = &self.tenant.rooms;
            rooms.catch_up(membership, self.version, &catchup, recent)
        });
        Ok(told.await??)
    }

    /// The frames that follow the join's reply: what was missed, or a word that something may have been.
    pub(crate) fn tell_missed(&self, missed: Missed) -> Vec<Frame> {
        let not_told = match missed {
            Ok(frames) => {
                metrics::counter!("walcast_broadcasts_told_again_total").increment(frames.len() as u64);
                return frames;
            }
            Err(not_told) => not_told,
        };
        tracing::info!(topic = &*self.topic, cause = %not_told, "a channel was not told what it missed");
        let message = format!("Broadcasts may have been missed: {not_told}");
        let system = System {
            extension: "system",
            status: "error",
            message: &message,
            channel: Some(self.sub_topic()),
            warnings: &[],
        };
        vec![walcast_protocol::system(self.version, &self.reference, &self.topic, &system).into()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::value::RawValue;

    #[test]
    fn a_moment_is_a_position_or_milliseconds() {
        let position = Since::Position {
            epoch: 0xab,
            number: 12,
        };
        for (broadcast, expected) in [
            ("{}", None),
            (r#"{"since":null}"#, None),
            (r#"{"since":"000000ab:12"}"#, Some(Ok(position))),
            (
                r#"{"since":1700000000000}"#,
                Some(Ok(Since::Timestamp(1_700_000_000_000))),
            ),
            (r#"{"since":1.5}"#, Some(Err(NotTold::NotAMoment))),
            (r#"{"since":""}"#, Some(Err(NotTold::NotAMoment))),
            (r#"{"since":"1700000000000"}"#, Some(Err(NotTold::NotAMoment))),
            (r#"{"since":[1]}"#, Some(Err(NotTold::NotAMoment))),
            (
                r#"{"since":99999999999999999999}"#,
                Some(Err(NotTold::NotAMoment)),
            ),
            (
                r#"{"since":1,"replay":{"since":1}}"#,
                Some(Err(NotTold::Replayed)),
            ),
        ] {
            let payload = format!(r#"{{"config":{{"private":true,"broadcast":{broadcast}}}}}"#);
            let raw = RawValue::from_string(payload).unwrap();
            let payload = JoinPayload::parse(&raw).unwrap();
            assert_eq!(since(&payload), expected, "{broadcast}");
        }
    }
}
