//! Messages of the frontend/backend protocol on a transport.

use crate::error::StreamError;
use crate::transport::Transport;
use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Before the login nobody has proved anything: messages are short.
pub(crate) const MAX_LOGIN_MESSAGE_BYTES: usize = 64 * 1024;
const READ_BYTES: usize = 64 * 1024;
const HEADER_BYTES: usize = 5;

/// A message: its kind and its content.
pub(crate) struct Backend {
    pub(crate) tag: u8,
    pub(crate) body: Bytes,
}

/// A connection that speaks in messages.
pub(crate) struct Wire {
    transport: Transport,
    buffer: BytesMut,
    /// Longest message accepted.
    pub(crate) max_message_bytes: usize,
    pub(crate) bytes_read: u64,
}

impl Wire {
    pub(crate) fn new(transport: Transport) -> Self {
        Self { transport, buffer: BytesMut::new(), max_message_bytes: MAX_LOGIN_MESSAGE_BYTES, bytes_read: 0 }
    }

    /// The next message. Can be cancelled: what was read stays in the buffer.
    pub(crate) async fn read(&mut self) -> Result<Backend, StreamError> {
        loop {
            if let Some(message) = self.buffered()? {
                return Ok(message);
            }
            // The buffer grows as bytes arrive, not by what a length field announces.
            self.buffer.reserve(READ_BYTES);
            let read = self.transport.read_buf(&mut self.buffer).await?;
            if read == 0 {
                return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "it was closed").into());
            }
            self.bytes_read += read as u64;
        }
    }

    fn buffered(&mut self) -> Result<Option<Backend>, StreamError> {
        let Some((header, _)) = self.buffer.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let [tag, length @ ..] = *header;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length < HEADER_BYTES - 1 {
            return Err(StreamError::Protocol("a message shorter than its length".to_owned()));
        }
        if length > self.max_message_bytes {
            return Err(StreamError::MessageTooLarge { bytes: length, limit_bytes: self.max_message_bytes });
        }
        if self.buffer.len() < length + 1 {
            return Ok(None);
        }
        let mut body = self.buffer.split_to(length + 1);
        body.advance(HEADER_BYTES);
        Ok(Some(Backend { tag, body: body.freeze() }))
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
