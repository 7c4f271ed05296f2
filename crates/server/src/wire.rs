//! One upgraded TCP connection as WebSocket messages in and frames out.
//!
//! Reading is tungstenite's. Writing is done here, because a frame is shared by all its receivers: many frames go to
//! the kernel in one `writev`, and no connection keeps a write buffer. The replies
//! tungstenite makes while it reads (pong, close) are caught and take their place in the same line, so that they
//! never end up inside a frame that is half written.

use std::io::{self, IoSlice, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Error as WebSocketError;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
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

/// Slices given to one `writev`; one a frame.
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
    /// What is to be written. Mostly one frame at a time, which then takes no allocation.
    line: SmallVec<[Segment; 1]>,
    /// Segments of `line` that are written.
    written: usize,
    /// Bytes of the next one that are.
    written_bytes: usize,
    /// Bytes of caught replies in `line` that are not.
    control_bytes: usize,
    /// The last large payload, kept until the next read so that its buffer is not reused (see `read`).
    large: Option<Bytes>,
    /// Bytes read since the connection began.
    read_bytes: u64,
    /// Whether all that the kernel had was read, and no whole message of it is left.
    is_drained: bool,
}

/// What goes out in one piece.
struct Segment {
    bytes: Bytes,
    /// Whether it is replies that were caught, which `control_bytes` counts.
    is_caught: bool,
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
            line: SmallVec::new(),
            written: 0,
            written_bytes: 0,
            control_bytes: 0,
            large: None,
            read_bytes: already_read.len() as u64,
            is_drained: false,
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
    pub fn enqueue(&mut self, frame: Frame) {
        self.line.push(Segment {
            bytes: frame.into_wire(),
            is_caught: false,
        });
    }

    /// Puts a ping in the line.
    pub fn enqueue_ping(&mut self) {
        /// RFC 6455 5.5.2, without a payload.
        const PING: &[u8] = &[0x89, 0];
        self.line.push(Segment {
            bytes: Bytes::from_static(PING),
            is_caught: false,
        });
    }

    /// The next message of the client.
    pub fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<Incoming, WireError>> {
        loop {
            // A client that pings without reading our pongs must not fill our memory.
            if self.control_bytes > MAX_CONTROL_BYTES {
                return Poll::Pending;
            }
            // An attempt to read clears a buffer first, which a wake for writing need not pay for.
            if self.is_drained {
                ready!(self.tcp.poll_read_ready(context))?;
                self.is_drained = false;
            }
            match self.read() {
                Err(WebSocketError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.adopt_control();
                    self.is_drained = true;
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
            let bytes = Bytes::from(std::mem::take(&mut self.control));
            self.control_bytes += bytes.len();
            self.line.push(Segment {
                bytes,
                is_caught: true,
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
                    self.drop_written();
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
        let rest = self.line.get(self.written..).unwrap_or_default();
        let [first, others @ ..] = rest else { return Ok(0) };
        let first = first.bytes.get(self.written_bytes..).unwrap_or_default();
        if others.is_empty() {
            return self.tcp.try_write(first);
        }
        let mut slices: SmallVec<[IoSlice<'_>; SLICES]> = SmallVec::new();
        slices.push(IoSlice::new(first));
        slices.extend(
            others
                .iter()
                .take(SLICES - 1)
                .map(|segment| IoSlice::new(&segment.bytes)),
        );
        self.tcp.try_write_vectored(&slices)
    }

    fn advance(&mut self, count: usize) {
        self.written_bytes += count;
        while let Some(first) = self.line.get(self.written) {
            if self.written_bytes < first.bytes.len() {
                return;
            }
            self.written_bytes -= first.bytes.len();
            if first.is_caught {
                self.control_bytes -= first.bytes.len();
            }
            self.written += 1;
        }
        self.line = SmallVec::new();
        self.written = 0;
    }

    /// Lets go of what is written, for a peer that takes no more for now.
    fn drop_written(&mut self) {
        self.line.drain(..self.written);
        self.written = 0;
    }

    /// Drops what has not begun to be written, for a close that must not wait behind it.
    pub fn drop_waiting(&mut self) {
        self.drop_written();
        self.line.truncate(usize::from(self.written_bytes > 0));
        self.control_bytes = self
            .line
            .iter()
            .filter(|segment| segment.is_caught)
            .map(|segment| segment.bytes.len())
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
