//! One upgraded TCP connection as WebSocket messages in and frames out.
//!
//! Reading is tungstenite's. Writing is done here, because a frame is shared by all its receivers: header and
//! payload of many frames go to the kernel in one `writev`, and no connection keeps a write buffer. The replies
//! tungstenite makes while it reads (pong, close) are caught and take their place in the same line, so that they
//! never end up inside a frame that is half written.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Error as WebSocketError;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, FrameHeader};
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig, WebSocketContext};
use walcast_protocol::Frame;

use crate::outbox::{End, close_code};

/// Longest frame and longest message a client may send (`protocol.md 1.5`).
pub const MAX_MESSAGE_BYTES: usize = 5_000_000;

/// Initial read buffer of a connection. Most frames of a client are far shorter; longer ones grow it for a while.
const READ_BUFFER_BYTES: usize = 2048;

/// Read buffers larger than this are let go after use.
const LARGE_PAYLOAD_BYTES: usize = 16 * 1024;

/// Pong and close replies that may wait before reading pauses. A pong is at most 127 bytes.
const MAX_CONTROL_BYTES: usize = 16 * 1024;

/// Reads discarded before others get their turn.
const DISCARDS: usize = 64;

/// Slices given to one `writev`; two a frame.
const SLICES: usize = 64;

/// A message from the client.
#[derive(Debug)]
pub enum Incoming {
    /// A text frame, valid UTF-8.
    Text(tokio_tungstenite::tungstenite::Utf8Bytes),
    /// A binary frame.
    Binary(Bytes),
    /// A text frame that is not UTF-8; `protocol.md 1.5` drops it like bad JSON.
    NotUtf8,
    /// Ping or pong: nothing to do, but a sign of life.
    Control,
}

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The closing handshake is done, or the peer left without one.
    #[error("the peer closed the connection")]
    Closed,
    /// The peer broke a rule; the close code says which.
    #[error("{0:?}")]
    Refused(End),
    /// The network did.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
}

/// A WebSocket connection.
pub struct Wire {
    tcp: TcpStream,
    context: WebSocketContext,
    /// Replies made while reading, whole frames, not yet in `line`.
    control: Vec<u8>,
    line: VecDeque<Segment>,
    /// Bytes of caught replies in `line`.
    control_bytes: usize,
    /// Bytes of the first segment that are written.
    written_bytes: usize,
    /// The last large payload, kept until the next read so that its buffer is not reused (see `read`).
    large: Option<Bytes>,
    /// Bytes read since the connection began.
    read_bytes: u64,
}

/// One frame, or several control frames, as they go out.
struct Segment {
    header: [u8; 10],
    header_len: u8,
    payload: Bytes,
}

impl Segment {
    fn header(&self) -> &[u8] {
        self.header
            .get(..usize::from(self.header_len))
            .unwrap_or_default()
    }

    fn len(&self) -> usize {
        usize::from(self.header_len) + self.payload.len()
    }
}

/// What tungstenite sees as its stream: reads come from the connection, writes are caught.
struct Tap<'a> {
    tcp: &'a TcpStream,
    control: &'a mut Vec<u8>,
    read_bytes: &'a mut u64,
}

impl Read for Tap<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.tcp.try_read(buffer)?;
        *self.read_bytes += count as u64;
        Ok(count)
    }
}

impl Write for Tap<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.control.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Wire {
    /// Takes over a connection after the upgrade; `already_read` is what came after the request.
    pub fn new(tcp: TcpStream, already_read: &[u8]) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES));
        let context = if already_read.is_empty() {
            WebSocketContext::new(Role::Server, Some(config))
        } else {
            WebSocketContext::from_partially_read(already_read.to_vec(), Role::Server, Some(config))
        };
        Self {
            tcp,
            context,
            control: Vec::new(),
            line: VecDeque::new(),
            control_bytes: 0,
            written_bytes: 0,
            large: None,
            read_bytes: already_read.len() as u64,
        }
    }

    /// Bytes read since the connection began.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes
    }

    /// Whether anything waits to be written.
    pub fn is_writing(&self) -> bool {
        !self.line.is_empty()
    }

    /// Puts a frame in the line.
    pub fn enqueue(&mut self, frame: &Frame) {
        let opcode = if frame.is_text() { Data::Text } else { Data::Binary };
        self.enqueue_payload(OpCode::Data(opcode), frame.bytes().clone());
    }

    /// Puts a ping in the line.
    pub fn enqueue_ping(&mut self) {
        use tokio_tungstenite::tungstenite::protocol::frame::coding::Control;
        self.enqueue_payload(OpCode::Control(Control::Ping), Bytes::new());
    }

    fn enqueue_payload(&mut self, opcode: OpCode, payload: Bytes) {
        let mut header = [0; 10];
        let mut room = header.as_mut_slice();
        let frame = FrameHeader {
            opcode,
            ..FrameHeader::default()
        };
        // A server's header has no mask, so it is at most ten bytes and fits.
        let formatted = frame.format(payload.len() as u64, &mut room);
        debug_assert!(formatted.is_ok(), "a header of ten bytes holds any length");
        let left = room.len();
        let header_len = u8::try_from(header.len() - left).unwrap_or(u8::MAX);
        self.line.push_back(Segment {
            header,
            header_len,
            payload,
        });
    }

    /// The next message of the client.
    pub fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<Incoming, WireError>> {
        loop {
            // A client that pings without reading our pongs must not fill our memory.
            if self.control_bytes > MAX_CONTROL_BYTES {
                return Poll::Pending;
            }
            match self.read() {
                Err(WebSocketError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.adopt_control();
                    ready!(self.tcp.poll_read_ready(context))?;
                }
                read => {
                    self.adopt_control();
                    return Poll::Ready(sort(read));
                }
            }
        }
    }

    fn read(&mut self) -> Result<Message, WebSocketError> {
        let mut tap = Tap {
            tcp: &self.tcp,
            control: &mut self.control,
            read_bytes: &mut self.read_bytes,
        };
        let read = self.context.read(&mut tap);
        // The context takes its buffer back when no payload cut from it is alive. For a large one that would keep
        // megabytes for the life of the socket, so the payload stays alive over one more read, which then
        // allocates a small buffer.
        self.large = match &read {
            Ok(Message::Text(text)) if text.len() > LARGE_PAYLOAD_BYTES => Some(text.clone().into()),
            Ok(Message::Binary(bytes)) if bytes.len() > LARGE_PAYLOAD_BYTES => Some(bytes.clone()),
            _ => None,
        };
        read
    }

    /// Moves the caught replies into the line.
    fn adopt_control(&mut self) {
        if !self.control.is_empty() {
            let payload = Bytes::from(std::mem::take(&mut self.control));
            self.control_bytes += payload.len();
            self.line.push_back(Segment {
                header: [0; 10],
                header_len: 0,
                payload,
            });
        }
    }

    /// Writes until the line is empty. Returns `Ready` with the bytes written whenever some were; `Pending` when
    /// the connection takes none.
    pub fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut total_bytes = 0;
        while self.is_writing() {
            match self.write_once() {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => {
                    total_bytes += count;
                    self.advance(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if total_bytes > 0 {
                        break;
                    }
                    ready!(self.tcp.poll_write_ready(context))?;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(total_bytes))
    }

    fn write_once(&self) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        let mut skip = self.written_bytes;
        for segment in &self.line {
            if count + 2 > SLICES {
                break;
            }
            for part in [segment.header(), &segment.payload[..]] {
                match part.get(skip..) {
                    Some(rest) if !rest.is_empty() => {
                        skip = 0;
                        if let Some(slice) = slices.get_mut(count) {
                            *slice = IoSlice::new(rest);
                            count += 1;
                        }
                    }
                    _ => skip = skip.saturating_sub(part.len()),
                }
            }
        }
        self.tcp
            .try_write_vectored(slices.get(..count).unwrap_or_default())
    }

    fn advance(&mut self, count: usize) {
        self.written_bytes += count;
        while let Some(first) = self.line.front() {
            if self.written_bytes < first.len() {
                return;
            }
            self.written_bytes -= first.len();
            if first.header_len == 0 {
                self.control_bytes -= first.len();
            }
            self.line.pop_front();
        }
        if self.line.capacity() > 8 {
            self.line = VecDeque::new();
        }
    }

    /// Drops what has not begun to be written, for a close that must not wait behind it.
    pub fn drop_waiting(&mut self) {
        self.line.truncate(usize::from(self.written_bytes > 0));
        self.control_bytes = self
            .line
            .iter()
            .filter(|segment| segment.header_len == 0)
            .map(Segment::len)
            .sum();
    }

    /// Puts a close frame in the line, unless one was sent or received before.
    pub fn enqueue_close(&mut self, end: &End) {
        let frame = CloseFrame {
            code: CloseCode::from(end.code),
            reason: end.reason.as_ref().into(),
        };
        let mut tap = Tap {
            tcp: &self.tcp,
            control: &mut self.control,
            read_bytes: &mut self.read_bytes,
        };
        if let Err(error) = self.context.close(&mut tap, Some(frame)) {
            tracing::trace!(%error, "close frame after the end of the connection");
        }
        self.adopt_control();
    }

    /// Writes what is left, says that no more comes, and waits until the client is gone.
    ///
    /// What the client still sends is read and discarded meanwhile: a client that writes before it reads would
    /// never get to the close frame, and unread bytes would make the kernel reset the connection and lose it.
    pub fn poll_finish(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while self.is_writing() {
            match self.poll_write(context) {
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => return self.poll_discard(context),
            }
        }
        if ready!(Pin::new(&mut self.tcp).poll_shutdown(context)).is_err() {
            return Poll::Ready(());
        }
        self.poll_discard(context)
    }

    fn poll_discard(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut buffer = [0; 4096];
        for _ in 0..DISCARDS {
            match self.tcp.try_read(&mut buffer) {
                Ok(0) => return Poll::Ready(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if ready!(self.tcp.poll_read_ready(context)).is_err() {
                        return Poll::Ready(());
                    }
                }
                Err(_) => return Poll::Ready(()),
            }
        }
        // A client that never stops sending must not keep the thread, nor the timer from ending this.
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

fn sort(read: Result<Message, WebSocketError>) -> Result<Incoming, WireError> {
    match read {
        Ok(Message::Text(text)) => Ok(Incoming::Text(text)),
        Ok(Message::Binary(bytes)) => Ok(Incoming::Binary(bytes)),
        Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_)) => {
            Ok(Incoming::Control)
        }
        Err(WebSocketError::Utf8(_)) => Ok(Incoming::NotUtf8),
        Err(WebSocketError::ConnectionClosed | WebSocketError::AlreadyClosed) => Err(WireError::Closed),
        Err(WebSocketError::Io(error)) => Err(WireError::Io(error)),
        Err(WebSocketError::Capacity(_)) => Err(WireError::Refused(End::new(
            close_code::TOO_BIG,
            "message too big: at most 5000000 bytes",
        ))),
        Err(WebSocketError::Protocol(error)) => sort_protocol(&error),
        Err(other) => {
            let reason = format!("protocol error: {other}")
                .chars()
                .take(60)
                .collect::<String>();
            Err(WireError::Refused(End {
                code: close_code::PROTOCOL,
                reason: reason.into(),
            }))
        }
    }
}

fn sort_protocol(
    error: &tokio_tungstenite::tungstenite::error::ProtocolError,
) -> Result<Incoming, WireError> {
    use tokio_tungstenite::tungstenite::error::ProtocolError;
    match error {
        ProtocolError::ResetWithoutClosingHandshake => Err(WireError::Closed),
        other => {
            let reason = format!("protocol error: {other}")
                .chars()
                .take(60)
                .collect::<String>();
            Err(WireError::Refused(End {
                code: close_code::PROTOCOL,
                reason: reason.into(),
            }))
        }
    }
}
