//! Messages of the frontend/backend protocol on a transport.

use crate::error::StreamError;
use crate::transport::Transport;
use bytes::{Buf, Bytes, BytesMut};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Before the login nobody has proved anything: messages are short.
pub(crate) const MAX_LOGIN_MESSAGE_BYTES: usize = 64 * 1024;
const READ_BYTES: usize = 64 * 1024;
/// A buffer that has held a message longer than this is not kept.
const KEPT_BYTES: usize = 1024 * 1024;
const HEADER_BYTES: usize = 5;

/// A message: its kind and its content.
pub(crate) struct Backend {
    pub(crate) tag: u8,
    pub(crate) body: Bytes,
}

/// The message at the front of the buffer, of which maybe only a part has arrived.
pub(crate) struct Front<'a> {
    pub(crate) tag: u8,
    /// Length of its content.
    pub(crate) body_bytes: usize,
    /// As much of its content as is here.
    pub(crate) begin: &'a [u8],
}

/// A connection that speaks in messages.
pub(crate) struct Wire {
    transport: Transport,
    buffer: BytesMut,
    /// Bytes still to arrive of a message that was skipped.
    skipping: usize,
    longest: usize,
    /// Longest message accepted.
    pub(crate) max_message_bytes: usize,
    pub(crate) bytes_read: u64,
}

impl Wire {
    pub(crate) fn new(transport: Transport) -> Self {
        Self {
            transport,
            buffer: BytesMut::new(),
            skipping: 0,
            longest: 0,
            max_message_bytes: MAX_LOGIN_MESSAGE_BYTES,
            bytes_read: 0,
        }
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Lets what arrives pile up for a while. Can be cancelled.
    pub(crate) async fn rest(&mut self, duration: Duration) -> Result<(), StreamError> {
        self.transport.rest()?;
        tokio::time::sleep(duration).await;
        Ok(())
    }

    /// The next message. Can be cancelled: what was read stays in the buffer.
    pub(crate) async fn read(&mut self) -> Result<Backend, StreamError> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(message);
            }
            self.fill().await?;
        }
    }

    /// Reads what there is, waiting for at least a byte. Can be cancelled.
    pub(crate) async fn fill(&mut self) -> Result<(), StreamError> {
        if self.longest > KEPT_BYTES {
            self.longest = 0;
            self.buffer = BytesMut::from(&*self.buffer);
        }
        // The buffer grows as bytes arrive, not by what a length field announces.
        self.buffer.reserve(READ_BYTES);
        let read = self.transport.read_buf(&mut self.buffer).await?;
        if read == 0 {
            return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "it was closed").into());
        }
        self.bytes_read += read as u64;
        let skipped = self.skipping.min(self.buffer.len());
        self.buffer.advance(skipped);
        self.skipping -= skipped;
        Ok(())
    }

    /// What has arrived of the next message.
    pub(crate) fn front(&self) -> Result<Option<Front<'_>>, StreamError> {
        let Some((header, begin)) = self.buffer.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let [tag, length @ ..] = *header;
        let body_bytes = usize::try_from(u32::from_be_bytes(length))
            .ok()
            .and_then(|length| length.checked_sub(HEADER_BYTES - 1))
            .ok_or_else(|| StreamError::Protocol("a message shorter than its own length".to_owned()))?;
        Ok(Some(Front {
            tag,
            body_bytes,
            begin: begin.get(..body_bytes).unwrap_or(begin),
        }))
    }

    /// Leaves out the message at the front; what has not arrived of it is never kept.
    pub(crate) fn skip(&mut self) -> Result<(), StreamError> {
        let Some(front) = self.front()? else { return Ok(()) };
        let total = front.body_bytes.saturating_add(HEADER_BYTES);
        let here = total.min(self.buffer.len());
        self.buffer.advance(here);
        self.skipping = total - here;
        Ok(())
    }

    /// The message at the front, if all of it is here.
    pub(crate) fn take(&mut self) -> Result<Option<Backend>, StreamError> {
        let Some(Front {
            tag,
            body_bytes,
            begin,
        }) = self.front()?
        else {
            return Ok(None);
        };
        if body_bytes > self.max_message_bytes {
            return Err(StreamError::MessageTooLarge {
                bytes: body_bytes,
                limit_bytes: self.max_message_bytes,
            });
        }
        if begin.len() < body_bytes {
            return Ok(None);
        }
        self.longest = self.longest.max(body_bytes);
        self.buffer.advance(HEADER_BYTES);
        Ok(Some(Backend {
            tag,
            body: self.buffer.split_to(body_bytes).freeze(),
        }))
    }

    /// Sends bytes that are whole messages.
    pub(crate) async fn write(&mut self, messages: &[u8]) -> Result<(), StreamError> {
        self.transport.write_all(messages).await?;
        self.transport.flush().await?;
        Ok(())
    }

    /// Reads until the server has closed the connection.
    pub(crate) async fn drain(&mut self) {
        self.buffer.clear();
        while matches!(self.transport.read_buf(&mut self.buffer).await, Ok(read) if read > 0) {
            self.buffer.clear();
        }
    }
}
