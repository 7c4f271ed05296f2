//! The body of a request: read up to a limit, or thrown away.

use std::time::Duration;

use axum::body::{Body, BodyDataStream, HttpBody};
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use futures_util::StreamExt;

use super::refusal::Refusal;
use crate::shutdown::within;

/// Longest body (`protocol.md 5.7`).
pub(super) const MAX_BODY_BYTES: usize = 8_000_000;

/// A body that has not come by then is not waited for.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// A body nobody reads is thrown away up to here: a connection that is closed while its client still writes is reset,
/// and the response lost.
const MAX_DISCARDED_BYTES: usize = 2 * MAX_BODY_BYTES;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);

/// A request's body on its way in.
pub(super) struct Upload {
    stream: BodyDataStream,
    /// What the client announced, at least.
    announced_bytes: u64,
    /// Whether the client sends the body only when asked for it.
    waits: bool,
}

impl Upload {
    pub(super) fn new(headers: &HeaderMap, body: Body) -> Self {
        Self {
            announced_bytes: body.size_hint().lower(),
            waits: headers.contains_key(header::EXPECT),
            stream: body.into_data_stream(),
        }
    }

    /// The whole body.
    pub(super) async fn read(&mut self) -> Result<Bytes, Refusal> {
        self.read_at_most(MAX_BODY_BYTES).await
    }

    /// The whole body of a request that is smaller than most: no more of it is kept.
    pub(super) async fn read_at_most(&mut self, max_bytes: usize) -> Result<Bytes, Refusal> {
        if usize::try_from(self.announced_bytes).is_ok_and(|announced| announced <= max_bytes) {
            within(READ_TIMEOUT, Box::pin(self.collect(max_bytes)))
                .await
                .unwrap_or(Err(Refusal::TooSlow(READ_TIMEOUT.as_secs())))
        } else {
            Err(Refusal::TooLarge(max_bytes))
        }
    }

    async fn collect(&mut self, max_bytes: usize) -> Result<Bytes, Refusal> {
        self.waits = false;
        let mut collected = Vec::new();
        while let Some(piece) = self.stream.next().await {
            let piece = piece.map_err(|error| Refusal::Malformed(format!("the body broke off: {error}")))?;
            if collected.len() + piece.len() > max_bytes {
                return Err(Refusal::TooLarge(max_bytes));
            }
            collected.extend_from_slice(&piece);
        }
        Ok(collected.into())
    }

    /// Throws away what was not read.
    pub(super) async fn discard(mut self) {
        if self.waits {
            return;
        }
        let discarding = async {
            let mut discarded_bytes = 0;
            while let Some(Ok(piece)) = self.stream.next().await {
                discarded_bytes += piece.len();
                if discarded_bytes > MAX_DISCARDED_BYTES {
                    break;
                }
            }
        };
        within(DISCARD_TIMEOUT, Box::pin(discarding)).await;
    }
}
