//! One socket: a task that reads, routes, joins, writes and watches the clock, all in one place and without locks.
//!
//! Whatever takes time (joins, subscriptions, changes of claims) runs as a future in `work`, so that the task goes
//! on reading and writing meanwhile. Frames of others come through the [`Outbox`].

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::time::Sleep;
use walcast_protocol::{ErrorCode, Message, Version, decode_binary, decode_text};

use crate::channel::Credentials;
use crate::connection::Connection;
use crate::join::{Accepted, Refused};
use crate::metrics;
use crate::outbox::{Bounds, End, Order, Outbox, Taken, close_code};
use crate::route::{Done, Slot};
use crate::shutdown::within;
use crate::sockets::Registration;
use crate::sse::{Opening, start_of};
use crate::tenant::Tenant;
use crate::traces;
use crate::wire::{Incoming, WireError};

/// A socket that ends gets this long for its last frames and the closing handshake.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

const IDLE: End = End::new(close_code::NORMAL, "idle: nothing received, not even a pong");
const NO_CHANNELS: End = End::new(close_code::NORMAL, "no channel joined for too long");

/// What the connect request said.
pub struct Handshake {
    /// The serializer.
    pub version: Version,
    /// The connection's token.
    pub credentials: Credentials,
    /// The `x-*` headers, a JSON object.
    pub headers: Arc<str>,
}

/// What a stream of events begins with.
pub struct Start {
    /// Its first join.
    pub first: Message,
    /// Its others, and where the request waits for all of them.
    pub opening: Opening,
    /// Whether the client knows a position from before.
    pub is_resumed: bool,
}

/// Runs a socket to its end.
pub async fn run(tenant: Arc<Tenant>, wire: Connection, request: Handshake) {
    let mut socket = Socket::open(tenant, wire, request);
    let ended = socket.live().await;
    socket.finish(ended).await;
}

/// Runs a stream of events to its end.
pub async fn run_stream(tenant: Arc<Tenant>, wire: Connection, request: Handshake, start: Start) {
    let mut socket = Socket::open(tenant, wire, request);
    socket.tenant.metrics.event_streams.increment(1.0);
    socket.opening = Some(start.opening);
    socket.is_resumed = start.is_resumed;
    socket.route(start.first);
    let ended = socket.live().await;
    socket.tenant.metrics.event_streams.decrement(1.0);
    socket.finish(ended).await;
}

impl Socket {
    fn open(tenant: Arc<Tenant>, wire: Connection, request: Handshake) -> Self {
        let bounds = Bounds {
            frames: tenant.config.socket.queue_frames,
            bytes: tenant.config.socket.queue_bytes,
        };
        let outbox = Outbox::new(bounds);
        let registration = tenant.sockets.register(&outbox);
        tenant.want_database();
        tenant.metrics.sockets.increment(1.0);
        let socket = Self::new(tenant, wire, request, outbox, registration);
        tracing::debug!(socket = socket.registration.number(), "socket opened");
        socket
    }
}

/// The state of a socket's task.
pub struct Socket {
    pub(crate) tenant: Arc<Tenant>,
    pub(crate) version: Version,
    /// The token of the connect request.
    pub(crate) credentials: Credentials,
    /// Its `x-*` headers, a JSON object.
    pub(crate) headers: Arc<str>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) registration: Registration,
    /// Topics that are joined or being joined.
    pub(crate) topics: HashMap<Arc<str>, Slot>,
    /// Joins and other slow work under way.
    pub(crate) work: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Number of the last join of this socket; tells a result that comes late from one that counts.
    pub(crate) last_generation: u64,
    /// Joins under way.
    pub(crate) joining: usize,
    /// The join that has as many frames waiting for it as may wait. There is one at most, for reading pauses.
    pub(crate) full_backlog: Option<u64>,
    /// When the last channel was left.
    pub(crate) without_channel_since: Option<Instant>,
    pub(crate) wire: Connection,
    /// A stream whose response has not begun: nothing is written yet.
    opening: Option<Opening>,
    /// A stream whose client knows a position from before.
    is_resumed: bool,
    /// `Connection::read_bytes` at the last look.
    seen_bytes: u64,
    /// When the peer gave a sign of life, or, where it owes none, was last given one.
    last_seen: Instant,
    /// Whether a ping was sent since then.
    pinged: bool,
    /// Since when the peer takes no byte though some wait.
    stuck_since: Option<Instant>,
    /// The commit of a change that is being written, if it is measured; microseconds since the Unix epoch.
    measured_from_us: Option<i64>,
    /// One timer for everything; it may fire early, never late.
    timer: Pin<Box<Sleep>>,
}

/// What the task was woken for.
enum Event {
    Incoming(Incoming),
    Done(Done),
    Timer,
    Ended(Ended),
}

/// Why a socket ends.
enum Ended {
    /// The peer left.
    ByPeer,
    /// The connection broke.
    Broken,
    /// The peer takes nothing, so it would not take a close frame either.
    Stuck,
    /// We end it.
    ByUs(End),
}

impl Socket {
    fn new(
        tenant: Arc<Tenant>,
        wire: Connection,
        request: Handshake,
        outbox: Arc<Outbox>,
        registration: Registration,
    ) -> Self {
        let now = Instant::now();
        let first_look = now + wire.heartbeat().unwrap_or(tenant.config.socket.idle_timeout / 2);
        Self {
            tenant,
            version: request.version,
            credentials: request.credentials,
            headers: request.headers,
            outbox,
            registration,
            topics: HashMap::new(),
            work: FuturesUnordered::new(),
            last_generation: 0,
            joining: 0,
            full_backlog: None,
            without_channel_since: None,
            wire,
            opening: None,
            is_resumed: false,
            seen_bytes: 0,
            last_seen: now,
            pinged: false,
            stuck_since: None,
            measured_from_us: None,
            timer: Box::pin(tokio::time::sleep_until(first_look.into())),
        }
    }

    async fn live(&mut self) -> Ended {
        loop {
            match poll_fn(|context| self.poll_event(context)).await {
                Event::Incoming(incoming) => self.receive(incoming),
                Event::Done(done) => self.on_done(done),
                Event::Timer => {
                    if let Some(ended) = self.on_timer() {
                        return ended;
                    }
                }
                Event::Ended(ended) => return ended,
            }
            // A client that never stops sending shares its thread with others.
            tokio::task::consume_budget().await;
        }
    }

    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        if let Poll::Ready(ended) = self.poll_write(context) {
            return Poll::Ready(Event::Ended(ended));
        }
        if !self.work.is_empty()
            && let Poll::Ready(Some(done)) = self.work.poll_next_unpin(context)
        {
            return Poll::Ready(Event::Done(done));
        }
        if self.may_read() {
            let read = self.wire.poll_read(context);
            self.note_life();
            match read {
                Poll::Ready(Ok(incoming)) => return Poll::Ready(Event::Incoming(incoming)),
                Poll::Ready(Err(error)) => return Poll::Ready(Event::Ended(self.sort(error))),
                // What reading caused to be written (pongs, the reply to a close) goes out now.
                Poll::Pending => {
                    if self.stuck_since.is_none()
                        && let Poll::Ready(ended) = self.poll_write(context)
                    {
                        return Poll::Ready(Event::Ended(ended));
                    }
                }
            }
        }
        self.timer.as_mut().poll(context).map(|()| Event::Timer)
    }

    /// Writes all there is, or until the peer takes no more; ready only when the socket ends.
    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<Ended> {
        loop {
            if self.wire.is_writing() {
                match self.wire.poll_write(context) {
                    Poll::Ready(Ok(bytes)) => {
                        self.tenant.metrics.bytes_sent.increment(bytes as u64);
                        self.stuck_since = None;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(self.sort(WireError::Io(error))),
                    Poll::Pending => {
                        if self.stuck_since.is_none() {
                            self.stuck_since = Some(Instant::now());
                            self.wake_by(Instant::now() + self.tenant.config.socket.write_timeout);
                        }
                        // A queue that overflows behind a stuck peer ends the socket now.
                        return self.outbox.poll_end(context).map(Ended::ByUs);
                    }
                }
                continue;
            }
            if let Some(committed_at_us) = self.measured_from_us.take() {
                self.note_delivery(committed_at_us);
            }
            if self.opening.is_some() {
                return self.outbox.poll_end(context).map(Ended::ByUs);
            }
            if let Some(end) = self.wire.end() {
                return Poll::Ready(Ended::ByUs(end));
            }
            let mut frames = 0;
            let wire = &mut self.wire;
            let measured_from_us = &mut self.measured_from_us;
            match self.outbox.poll_take(context, |frame| {
                frames += 1;
                *measured_from_us = measured_from_us.or(frame.committed_at_us());
                wire.enqueue(frame);
            }) {
                Poll::Ready(Taken::Frames) => self.tenant.metrics.frames_sent.increment(frames),
                Poll::Ready(Taken::OverLimit(gates)) => self.close_over_limit(&gates),
                Poll::Ready(Taken::Order(Order::Resubscribe)) => self.resubscribe(),
                Poll::Ready(Taken::Order(Order::Disconnect)) => self.disconnect(),
                Poll::Ready(Taken::End(end)) => return Poll::Ready(Ended::ByUs(end)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// A change that was committed then has been written.
    fn note_delivery(&self, committed_at_us: i64) {
        let since_epoch = Duration::from_micros(u64::try_from(committed_at_us).unwrap_or_default());
        let (committed, now) = (UNIX_EPOCH + since_epoch, SystemTime::now());
        // Postgres' clock may be ahead of ours.
        let took = now.duration_since(committed).unwrap_or_default();
        traces::change_delivered(committed, now);
        self.tenant
            .metrics
            .change_delivery_seconds
            .record(took.as_secs_f64());
    }

    fn sort(&self, error: WireError) -> Ended {
        match error {
            WireError::Closed => Ended::ByPeer,
            WireError::Refused(end) => Ended::ByUs(end),
            WireError::Io(error) => {
                tracing::debug!(socket = self.registration.number(), %error, "connection broke");
                Ended::Broken
            }
        }
    }

    fn note_life(&mut self) {
        let read_bytes = self.wire.read_bytes();
        if read_bytes != self.seen_bytes {
            self.tenant
                .metrics
                .bytes_received
                .increment(read_bytes.saturating_sub(self.seen_bytes));
            self.seen_bytes = read_bytes;
            self.last_seen = Instant::now();
            self.pinged = false;
        }
    }

    fn receive(&mut self, incoming: Incoming) {
        let decoded = match incoming {
            Incoming::Control => return,
            Incoming::Text(text) => decode_text(self.version, &text),
            Incoming::Binary(bytes) => decode_binary(self.version, &bytes),
            Incoming::NotUtf8 => return self.drop_frame(ErrorCode::MalformedWebSocketMessage, &"not UTF-8"),
        };
        match decoded {
            Ok(message) => {
                self.tenant.metrics.frames_received.increment(1);
                self.route(message);
            }
            Err(error) => self.drop_frame(error.code(), &error),
        }
    }

    /// A frame that means nothing costs only itself (`protocol.md 8.7`).
    fn drop_frame(&self, code: ErrorCode, cause: &dyn std::fmt::Display) {
        self.tenant.metrics.frames_received.increment(1);
        metrics::bad_frame(code.as_str());
        tracing::debug!(code = code.as_str(), socket = self.registration.number(), %cause, "frame dropped");
    }

    /// Makes sure the task looks at the clock by then.
    pub(crate) fn wake_by(&mut self, deadline: Instant) {
        if deadline < self.timer.deadline().into_std() {
            self.timer.as_mut().reset(deadline.into());
        }
    }

    fn on_timer(&mut self) -> Option<Ended> {
        let now = Instant::now();
        let config = Arc::clone(&self.tenant);
        let config = &config.config.socket;
        if self
            .stuck_since
            .is_some_and(|since| now >= since + config.write_timeout)
        {
            return Some(Ended::Stuck);
        }
        if self
            .without_channel_since
            .is_some_and(|since| now >= since + config.no_channel_timeout)
        {
            return Some(Ended::ByUs(NO_CHANNELS));
        }
        let mut next = match self.check_life(now, config.idle_timeout) {
            Ok(next) => next,
            Err(ended) => return Some(ended),
        };
        next = next.min(
            self.stuck_since
                .map_or(next, |since| since + config.write_timeout),
        );
        next = next.min(
            self.without_channel_since
                .map_or(next, |since| since + config.no_channel_timeout),
        );
        next = next.min(self.check_leases(now).unwrap_or(next));
        self.timer.as_mut().reset(next.into());
        None
    }

    /// Asks a silent peer for a sign of life and gives it up without one, or gives one to a peer that owes none. Returns
    /// when to look again.
    fn check_life(&mut self, now: Instant, idle_timeout: Duration) -> Result<Instant, Ended> {
        if let Some(heartbeat) = self.wire.heartbeat() {
            if now >= self.last_seen + heartbeat {
                // Nothing is to be written before the response begins.
                if self.opening.is_none() {
                    self.wire.enqueue_ping();
                }
                self.last_seen = now;
            }
            return Ok(self.last_seen + heartbeat);
        }
        if now >= self.last_seen + idle_timeout {
            return Err(Ended::ByUs(IDLE));
        }
        let half = self.last_seen + idle_timeout / 2;
        if now < half {
            return Ok(half);
        }
        if !std::mem::replace(&mut self.pinged, true) {
            self.wire.enqueue_ping();
        }
        Ok(self.last_seen + idle_timeout)
    }

    /// A join of a stream is decided.
    pub(crate) fn note_opening(&mut self, joined: &Result<Accepted, Refused>) {
        let Some(opening) = self.opening.take() else {
            return;
        };
        if let (Connection::Events(events), Ok(accepted), false) = (&mut self.wire, joined, self.is_resumed)
            && let Some(position) = start_of(accepted)
        {
            events.start_at(position.to_string());
        }
        self.opening = opening.note(joined.as_ref().map(|_| ()).map_err(Refused::clone));
    }

    /// Begins the joins of a stream that waited for its first one.
    pub(crate) fn go_on_opening(&mut self) {
        let later = self.opening.as_mut().map(Opening::take_later);
        for join in later.unwrap_or_default() {
            self.route(join);
        }
    }

    /// Ends the socket: channels first, then the last frames and the closing handshake, within bounds.
    async fn finish(&mut self, ended: Ended) {
        self.tenant.metrics.channels.decrement(f64::from(self.joined()));
        self.topics = HashMap::new();
        self.work = FuturesUnordered::new();
        let code = match &ended {
            Ended::ByPeer => close_code::NORMAL,
            Ended::Broken => 0,
            Ended::Stuck => close_code::SLOW_READER,
            Ended::ByUs(end) => end.code,
        };
        match ended {
            Ended::Broken => {}
            Ended::Stuck => self.note_slow_reader("no byte was taken for too long"),
            Ended::ByPeer => {
                // The reply to the client's close frame.
                within(CLOSE_TIMEOUT, self.flush()).await;
            }
            Ended::ByUs(end) => {
                if end.code == close_code::SLOW_READER {
                    self.wire.drop_waiting();
                    self.note_slow_reader(&end.reason);
                }
                if self.opening.is_none() {
                    self.wire.enqueue_close(&end);
                }
                within(CLOSE_TIMEOUT, poll_fn(|context| self.wire.poll_finish(context))).await;
            }
        }
        metrics::socket_closed(code);
        self.tenant.metrics.sockets.decrement(1.0);
        tracing::debug!(socket = self.registration.number(), code, "socket closed");
    }

    fn note_slow_reader(&self, cause: &str) {
        self.tenant.metrics.slow_readers.increment(1);
        tracing::warn!(
            code = "SlowReader",
            socket = self.registration.number(),
            cause,
            remedy = "the client should subscribe to less or read faster; see the WALCAST_QUEUE_* settings",
            "socket closed"
        );
    }

    async fn flush(&mut self) {
        while self.wire.is_writing() {
            match poll_fn(|context| self.wire.poll_write(context)).await {
                Ok(bytes) => self.tenant.metrics.bytes_sent.increment(bytes as u64),
                Err(_) => return,
            }
        }
    }
}
