//! Stored messages for a channel that joins (`protocol.md 5.9`).

use walcast_broadcast::{Body, Replay, encode_replayed};
use walcast_messages::{Body as StoredBody, ReplayError, ReplayRange};
use walcast_protocol::{Frame, JoinPayload};

use crate::join::{Attempt, Refused};
use crate::shutdown::within;

impl Attempt {
    /// Step 11, as far as it can be refused without the database.
    pub(crate) fn replay_range(&self, payload: &JoinPayload) -> Result<Option<ReplayRange>, Refused> {
        let Some(config) = &payload.config else {
            return Ok(None);
        };
        ReplayRange::requested(config.private, config.broadcast.replay.as_deref())
            .map_err(|error| self.unreplayable(&error))
    }

    /// Step 11: the stored messages that did not come live since the channel is in its room.
    pub(crate) async fn replay(&self, range: ReplayRange, history: &Replay) -> Result<Vec<Frame>, Refused> {
        let read = async {
            let archive = self.tenant.prepared_archive().await;
            let after = self.tenant.recent_rows.of(self.sub_topic());
            archive.replay(self.sub_topic(), range, &after).await
        };
        let limit = self.tenant.config.join.timeout;
        let stored = within(limit, Box::pin(read)).await.unwrap_or_else(|| {
            Err(ReplayError::Unreadable {
                topic: self.sub_topic().into(),
                cause: "the database is not prepared yet".to_owned(),
            })
        });
        let stored = stored.map_err(|error| self.unreplayable(&error))?;
        let frames = history
            .finish(stored, |message| &message.id, &*self.gate)
            .into_iter()
            .filter_map(|message| {
                let body = match &message.body {
                    StoredBody::Json(json) => Body::Json(json),
                    StoredBody::Binary(bytes) => Body::Binary(bytes),
                };
                encode_replayed(
                    self.version,
                    &self.reference,
                    &self.topic,
                    &message.event,
                    body,
                    &message.id,
                )
                .unwrap_or_else(|error| {
                    tracing::warn!(topic = &*self.topic, id = &*message.id, %error, "a stored message was not replayed");
                    None
                })
            });
        Ok(frames.collect())
    }

    fn unreplayable(&self, error: &ReplayError) -> Refused {
        let (code, text) = error.join_reply();
        tracing::warn!(code = code.as_str(), topic = &*self.topic, cause = %error, "no replay");
        Refused::new(code, text, "the line before says why")
    }
}
