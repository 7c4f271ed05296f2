//! The body of a response that goes on: what a socket has to say, as events, at the pace of who reads it.
//!
//! The socket's task fills a channel of one piece, hyper empties it. A reader that is too slow leaves the piece where it
//! is, so the socket's queue fills up, and its bounds are those of every socket.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::PollSender;
use walcast_protocol::Frame;

use crate::outbox::{End, close_code};
use crate::sse::event::{self, Told};

/// A piece of the body holds at most this much, so that every taken piece is a sign of life of a slow reader.
const PIECE_BYTES: usize = 16 * 1024;

/// A stream has the channels it began with; without one of them it is not what was asked for.
const CHANNEL_CLOSED: End = End::new(close_code::NORMAL, "a channel of the stream was closed");

/// The server's end of a stream of events.
pub struct EventStream {
    heartbeat: Duration,
    /// Where the change stream stands for a client that has no position of its own; sent with the first event.
    start: Option<String>,
    /// Events, whole, but for the first, of which some may be written.
    line: VecDeque<Bytes>,
    /// Whether some of the first is.
    has_begun: bool,
    is_over: bool,
    /// None once all is said.
    body: Option<PollSender<Bytes>>,
    /// Closes when nobody reads the body any more.
    reader: oneshot::Sender<Infallible>,
    /// Ends the connection itself.
    hangup: Arc<Notify>,
}

impl EventStream {
    /// A stream and the body of the response that carries it. `hangup` cuts the connection of a client that takes no
    /// byte any more.
    pub(super) fn new(heartbeat: Duration, hangup: Arc<Notify>) -> (Self, Body) {
        let (pieces, mut taken) = mpsc::channel(1);
        let (reader, reading) = oneshot::channel();
        let body = Body::from_stream(futures_util::stream::poll_fn(move |context| {
            // Goes with the body.
            let _reading = &reading;
            taken
                .poll_recv(context)
                .map(|piece| piece.map(Ok::<Bytes, Infallible>))
        }));
        let stream = Self {
            heartbeat,
            start: None,
            line: VecDeque::new(),
            has_begun: false,
            is_over: false,
            body: Some(PollSender::new(pieces)),
            reader,
            hangup,
        };
        (stream, body)
    }

    /// The pause between two comments.
    pub(crate) fn heartbeat(&self) -> Duration {
        self.heartbeat
    }

    /// Gives the first event this id.
    pub(crate) fn start_at(&mut self, position: String) {
        self.start = Some(position);
    }

    pub(crate) fn is_writing(&self) -> bool {
        !self.line.is_empty()
    }

    pub(crate) fn end(&self) -> Option<End> {
        self.is_over.then_some(CHANNEL_CLOSED)
    }

    pub(crate) fn enqueue(&mut self, frame: &Frame) {
        if self.is_over {
            return;
        }
        match event::tell(frame, &mut self.start) {
            Told::Event(event) => self.line.push_back(event.into()),
            Told::Nothing => {}
            Told::ChannelClosed => self.is_over = true,
        }
    }

    /// A comment, which keeps whatever is between from taking the connection for dead.
    pub(crate) fn enqueue_heartbeat(&mut self) {
        if !self.is_writing() {
            self.line.push_back(Bytes::from_static(b": heartbeat\n\n"));
        }
    }

    pub(crate) fn enqueue_end(&mut self, end: &End) {
        // Why a channel was closed was told before.
        if !self.is_over {
            self.line.push_back(event::end(&end.reason).into());
        }
    }

    pub(crate) fn drop_waiting(&mut self) {
        self.line.truncate(usize::from(self.has_begun));
    }

    /// Ready when the client is gone.
    pub(crate) fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.reader.poll_closed(context)
    }

    pub(crate) fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        let mut total_bytes = 0;
        while self.is_writing() {
            let Some(body) = &mut self.body else {
                return Poll::Ready(Err(gone()));
            };
            match body.poll_reserve(context) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(gone())),
                Poll::Pending if total_bytes > 0 => break,
                Poll::Pending => return Poll::Pending,
            }
            let piece = next_piece(&mut self.line, &mut self.has_begun);
            total_bytes += piece.len();
            if body.send_item(piece).is_err() {
                return Poll::Ready(Err(gone()));
            }
        }
        Poll::Ready(Ok(total_bytes))
    }

    /// Says the rest, ends the body, and waits until it is taken.
    pub(crate) fn poll_finish(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while self.is_writing() {
            if ready!(self.poll_write(context)).is_err() {
                return Poll::Ready(());
            }
        }
        self.body = None;
        self.poll_gone(context)
    }
}

impl Drop for EventStream {
    /// A body that is not at its end by now will not be taken: the connection is of no use any more, and would wait for
    /// the client for as long as the network lets it.
    fn drop(&mut self) {
        if !self.reader.is_closed() {
            self.hangup.notify_one();
        }
    }
}

/// Takes whole events, as many as fit, or a part of one that does not.
fn next_piece(line: &mut VecDeque<Bytes>, has_begun: &mut bool) -> Bytes {
    let Some(first) = line.front_mut() else {
        return Bytes::new();
    };
    if first.len() > PIECE_BYTES {
        *has_begun = true;
        return first.split_to(PIECE_BYTES);
    }
    *has_begun = false;
    let first = line.pop_front().unwrap_or_default();
    if line
        .front()
        .is_none_or(|next| first.len() + next.len() > PIECE_BYTES)
    {
        return first;
    }
    let mut piece = BytesMut::from(first);
    while let Some(next) = line.front()
        && piece.len() + next.len() <= PIECE_BYTES
    {
        piece.extend_from_slice(next);
        line.pop_front();
    }
    piece.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_of_whole_events_and_a_large_event_is_of_several_pieces() {
        let event = |bytes: usize| Bytes::from(vec![b'x'; bytes]);
        let mut line: VecDeque<Bytes> = [10, 20, PIECE_BYTES - 5, 2 * PIECE_BYTES + 1, 7]
            .into_iter()
            .map(event)
            .collect();
        let mut has_begun = false;
        let mut pieces = Vec::new();
        while !line.is_empty() {
            pieces.push((next_piece(&mut line, &mut has_begun).len(), has_begun));
        }
        assert_eq!(
            pieces,
            [
                (30, false),
                (PIECE_BYTES - 5, false),
                (PIECE_BYTES, true),
                (PIECE_BYTES, true),
                (8, false),
            ]
        );
    }
}
