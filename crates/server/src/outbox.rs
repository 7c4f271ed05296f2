//! What waits to be written to one socket.
//!
//! Everybody who has frames for a socket puts them here and never waits; the socket's task takes all of them at
//! once. The queue is bounded in frames and bytes, and a reader too slow for it loses its socket with code 1013,
//! never a single message (design promise 3).
//!
//! A channel delivers through a [`Gate`]. It holds frames back until the join has been answered, so that the reply
//! is the first frame of its topic (`protocol.md 3.5`), and lets nothing pass once the channel has ended.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use smallvec::SmallVec;
use tokio::sync::Notify;
use walcast_protocol::{Frame, Outlet};

/// Close codes this server sends (RFC 6455 7.4.1, `protocol.md 1.6`).
pub mod close_code {
    /// Idle, or without a channel for too long.
    pub const NORMAL: u16 = 1000;
    /// Too many joins (`protocol.md 1.6`).
    pub const GOING_AWAY: u16 = 1001;
    /// The peer broke the WebSocket protocol.
    pub const PROTOCOL: u16 = 1002;
    /// A message above the limit.
    pub const TOO_BIG: u16 = 1009;
    /// The server restarts.
    pub const RESTART: u16 = 1012;
    /// "Try again later": the reader is too slow for what it subscribed to.
    pub const SLOW_READER: u16 = 1013;
}

/// How a socket is told to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// The WebSocket close code.
    pub code: u16,
    /// At most 123 bytes (RFC 6455 5.5).
    pub reason: Cow<'static, str>,
}

impl End {
    /// An end with a fixed reason.
    pub const fn new(code: u16, reason: &'static str) -> Self {
        Self {
            code,
            reason: Cow::Borrowed(reason),
        }
    }
}

/// Bounds of a queue.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Frames, at most.
    pub frames: usize,
    /// Payload bytes, at most.
    pub bytes: usize,
}

/// The queue of one socket.
pub struct Outbox {
    queue: Mutex<Queue>,
    bounds: Bounds,
    /// Tells those who wait for room.
    drained: Notify,
}

#[derive(Default)]
struct Queue {
    /// Mostly one, which then takes no allocation.
    frames: SmallVec<[Frame; 1]>,
    /// Whether somebody waits for room.
    is_awaited: bool,
    /// Frames of gates that are still closed, by the gate's number.
    held: Vec<(u32, Vec<Frame>)>,
    held_frames: usize,
    /// Of queued and held frames.
    bytes: usize,
    last_gate: u32,
    /// Gates whose channels are to be closed.
    over_limit: Vec<u32>,
    /// What the tenant wants of its sockets.
    order: Option<Order>,
    end: Option<End>,
    waker: Option<Waker>,
}

/// What a tenant wants of each of its sockets. The later, the more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Order {
    /// What its channels had subscribed to is gone: they are to subscribe again.
    Resubscribe,
    /// To tell its channels so and to end (`protocol.md 1.6`).
    Disconnect,
}

/// The end of a socket that was ordered to disconnect.
pub const DISCONNECTED: End = End::new(close_code::RESTART, "Server requested disconnect");

/// What the socket's task finds in its queue.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// Frames were moved out.
    Frames,
    /// All frames were taken before; the channels behind these gates shall be closed, for they got more messages than
    /// are allowed.
    OverLimit(Vec<u32>),
    /// All frames were taken before; the tenant wants this.
    Order(Order),
    /// All frames were taken before; the socket shall end.
    End(End),
}

impl Outbox {
    /// An empty queue.
    pub fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self {
            queue: Mutex::default(),
            bounds,
            drained: Notify::new(),
        })
    }

    /// Queues a frame.
    pub fn push(&self, frame: Frame) {
        let mut queue = self.lock();
        if let Some(waker) = self
            .admit(&mut queue, frame.len())
            .then(|| queue.enqueue(frame))
            .flatten()
        {
            drop(queue);
            waker.wake();
        }
    }

    /// Tells the socket to end after what is queued now. The first end stands.
    pub fn end(&self, end: End) {
        let mut queue = self.lock();
        if queue.end.is_none() {
            queue.end = Some(end);
            queue.drop_held();
            self.drained.notify_waiters();
            if let Some(waker) = queue.waker.take() {
                drop(queue);
                waker.wake();
            }
        }
    }

    /// Tells the socket what its tenant wants, after what is queued now.
    pub fn order(&self, order: Order) {
        let mut queue = self.lock();
        queue.order = queue.order.max(Some(order));
        if let Some(waker) = queue.waker.take() {
            drop(queue);
            waker.wake();
        }
    }

    /// A gate for a new channel, closed until [`Gate::open`].
    pub fn gate(self: &Arc<Self>) -> Arc<Gate> {
        let mut queue = self.lock();
        queue.last_gate = queue.last_gate.wrapping_add(1);
        let number = queue.last_gate;
        drop(queue);
        Arc::new(Gate {
            outbox: Arc::clone(self),
            number,
            state: AtomicU8::new(HOLDING),
        })
    }

    /// Moves every queued frame to `into`, or says that the socket shall end, or waits for either.
    pub fn poll_take(&self, context: &mut Context<'_>, mut into: impl FnMut(Frame)) -> Poll<Taken> {
        let mut queue = self.lock();
        if !queue.frames.is_empty() {
            // Taken out whole, so that an idle socket keeps no buffer and nobody waits while it is consumed.
            let frames = std::mem::take(&mut queue.frames);
            let bytes: usize = frames.iter().map(Frame::len).sum();
            queue.bytes = queue.bytes.saturating_sub(bytes);
            if std::mem::take(&mut queue.is_awaited) {
                self.drained.notify_waiters();
            }
            drop(queue);
            frames.into_iter().for_each(&mut into);
            return Poll::Ready(Taken::Frames);
        }
        if !queue.over_limit.is_empty() {
            return Poll::Ready(Taken::OverLimit(std::mem::take(&mut queue.over_limit)));
        }
        if queue.end.is_none()
            && let Some(order) = queue.order.take()
        {
            return Poll::Ready(Taken::Order(order));
        }
        if let Some(end) = &queue.end {
            return Poll::Ready(Taken::End(end.clone()));
        }
        queue.wait(context);
        Poll::Pending
    }

    /// Says that the socket shall end, without touching frames that still wait; or waits for that.
    pub fn poll_end(&self, context: &mut Context<'_>) -> Poll<End> {
        let mut queue = self.lock();
        match &queue.end {
            Some(end) if queue.frames.is_empty() => Poll::Ready(end.clone()),
            // Whoever looks here takes no frame, so there is nobody to tell.
            None if queue.order == Some(Order::Disconnect) && queue.frames.is_empty() => {
                Poll::Ready(DISCONNECTED)
            }
            _ => {
                queue.wait(context);
                Poll::Pending
            }
        }
    }

    /// How many frames wait, and their payload bytes.
    pub fn queued(&self) -> (usize, usize) {
        let queue = self.lock();
        (queue.frames.len() + queue.held_frames, queue.bytes)
    }

    /// Whether most of the queue is free; one that has ended has room for ever.
    fn has_room(&self) -> bool {
        let mut queue = self.lock();
        let frames = queue.frames.len() + queue.held_frames;
        let has_room =
            queue.end.is_some() || (frames <= self.bounds.frames / 4 && queue.bytes <= self.bounds.bytes / 4);
        queue.is_awaited |= !has_room;
        has_room
    }

    /// Whether a frame of this size may still be queued; if not, the socket is told to end.
    fn admit(&self, queue: &mut Queue, len: usize) -> bool {
        if queue.end.is_some() {
            return false;
        }
        let frames = queue.frames.len() + queue.held_frames;
        if frames < self.bounds.frames && queue.bytes.saturating_add(len) <= self.bounds.bytes {
            return true;
        }
        queue.frames = SmallVec::new();
        queue.bytes = 0;
        queue.drop_held();
        self.drained.notify_waiters();
        queue.end = Some(End::new(
            close_code::SLOW_READER,
            "slow reader: more waits for this socket than it reads; subscribe to less or read faster",
        ));
        if let Some(waker) = queue.waker.take() {
            waker.wake();
        }
        false
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing in here can leave the queue half changed, so a poisoned lock is as good as any.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn wait(&mut self, context: &Context<'_>) {
        match &mut self.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
    }

    /// Appends; the waker is the caller's to wake once the lock is released.
    fn enqueue(&mut self, frame: Frame) -> Option<Waker> {
        self.bytes += frame.len();
        self.frames.push(frame);
        self.waker.take()
    }

    fn take_held(&mut self, gate: u32) -> Vec<Frame> {
        let Some(at) = self.held.iter().position(|(number, _)| *number == gate) else {
            return Vec::new();
        };
        let (_, frames) = self.held.swap_remove(at);
        self.held_frames -= frames.len();
        frames
    }

    fn drop_held(&mut self) {
        let bytes: usize = self
            .held
            .iter()
            .flat_map(|(_, frames)| frames)
            .map(Frame::len)
            .sum();
        self.bytes = self.bytes.saturating_sub(bytes);
        self.held_frames = 0;
        self.held = Vec::new();
    }
}

const HOLDING: u8 = 0;
const OPEN: u8 = 1;
const SHUT: u8 = 2;

/// The way of one channel into its socket's queue.
pub struct Gate {
    outbox: Arc<Outbox>,
    number: u32,
    /// Written and read under the queue's lock, so relaxed order is enough.
    state: AtomicU8,
}

impl Gate {
    /// Tells the gates of one socket apart.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Releases what was held back, in order, and lets everything pass from now on.
    pub fn open(&self) {
        let mut queue = self.outbox.lock();
        if self.state.load(Ordering::Relaxed) != HOLDING {
            return;
        }
        self.state.store(OPEN, Ordering::Relaxed);
        let held = queue.take_held(self.number);
        if held.is_empty() {
            return;
        }
        queue.frames.extend(held);
        if let Some(waker) = queue.waker.take() {
            drop(queue);
            waker.wake();
        }
    }

    /// Lets nothing pass any more, and drops what was held back.
    pub fn shut(&self) {
        let mut queue = self.outbox.lock();
        self.state.store(SHUT, Ordering::Relaxed);
        let bytes: usize = queue.take_held(self.number).iter().map(Frame::len).sum();
        queue.bytes = queue.bytes.saturating_sub(bytes);
    }
}

impl Outlet for Gate {
    fn deliver(&self, frame: Frame) {
        let mut queue = self.outbox.lock();
        let state = self.state.load(Ordering::Relaxed);
        if state == SHUT || !self.outbox.admit(&mut queue, frame.len()) {
            return;
        }
        if state == OPEN {
            if let Some(waker) = queue.enqueue(frame) {
                drop(queue);
                waker.wake();
            }
            return;
        }
        queue.bytes += frame.len();
        queue.held_frames += 1;
        match queue.held.iter_mut().find(|(number, _)| *number == self.number) {
            Some((_, frames)) => frames.push(frame),
            None => queue.held.push((self.number, vec![frame])),
        }
    }

    fn ready(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {
            loop {
                // Asked for before the look, so that what happens in between is not missed.
                let drained = self.outbox.drained.notified();
                if self.outbox.has_room() {
                    return;
                }
                drained.await;
            }
        })
    }

    fn over_limit(&self) {
        let mut queue = self.outbox.lock();
        if self.state.load(Ordering::Relaxed) == SHUT || queue.over_limit.contains(&self.number) {
            return;
        }
        queue.over_limit.push(self.number);
        if let Some(waker) = queue.waker.take() {
            drop(queue);
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn frame(text: &str) -> Frame {
        Frame::from(text.to_owned())
    }

    fn outbox(frames: usize, bytes: usize) -> Arc<Outbox> {
        Outbox::new(Bounds { frames, bytes })
    }

    fn take(outbox: &Outbox) -> (Poll<Taken>, Vec<Frame>) {
        let mut frames = Vec::new();
        let polled = outbox.poll_take(&mut Context::from_waker(Waker::noop()), |frame| {
            frames.push(frame);
        });
        (polled, frames)
    }

    fn taken(outbox: &Outbox) -> Vec<Frame> {
        take(outbox).1
    }

    #[test]
    fn frames_come_out_in_the_order_they_went_in() {
        let outbox = outbox(10, 100);
        assert_eq!(take(&outbox), (Poll::Pending, vec![]));
        outbox.push(frame("a"));
        outbox.push(frame("b"));
        assert_eq!(
            take(&outbox),
            (Poll::Ready(Taken::Frames), vec![frame("a"), frame("b")])
        );
        assert_eq!(take(&outbox), (Poll::Pending, vec![]));
    }

    #[test]
    fn a_waiting_socket_is_woken_once_for_a_burst() {
        let outbox = outbox(10, 100);
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(Arc::clone(&wakes));
        assert!(
            outbox
                .poll_take(&mut Context::from_waker(&waker), |_| ())
                .is_pending()
        );
        outbox.push(frame("a"));
        outbox.push(frame("b"));
        assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_closed_gate_holds_frames_back_until_it_opens_and_keeps_their_order() {
        let outbox = outbox(10, 100);
        let gate = outbox.gate();
        gate.deliver(frame("change 1"));
        gate.deliver(frame("change 2"));
        outbox.push(frame("reply"));
        gate.open();
        gate.deliver(frame("change 3"));
        let expected = ["reply", "change 1", "change 2", "change 3"].map(frame);
        assert_eq!(taken(&outbox), expected);
    }

    #[test]
    fn a_shut_gate_lets_nothing_pass() {
        let outbox = outbox(10, 100);
        let (held, open) = (outbox.gate(), outbox.gate());
        held.deliver(frame("a"));
        open.open();
        held.shut();
        open.shut();
        held.deliver(frame("b"));
        open.deliver(frame("c"));
        held.open();
        assert_eq!(taken(&outbox), []);
    }

    #[test]
    fn one_gate_does_not_release_what_another_holds() {
        let outbox = outbox(10, 100);
        let (one, other) = (outbox.gate(), outbox.gate());
        one.deliver(frame("one"));
        other.deliver(frame("other"));
        one.open();
        assert_eq!(taken(&outbox), [frame("one")]);
    }

    #[test]
    fn too_much_for_a_slow_reader_ends_its_socket_instead_of_dropping_one_message() {
        let too_many: fn(&Outbox, &Gate) = |outbox, _| (0..3).for_each(|_| outbox.push(frame("x")));
        let too_large: fn(&Outbox, &Gate) = |outbox, _| outbox.push(frame("12345678901"));
        let too_many_held: fn(&Outbox, &Gate) = |_, gate| (0..3).for_each(|_| gate.deliver(frame("x")));
        let held_and_queued: fn(&Outbox, &Gate) = |outbox, gate| {
            gate.deliver(frame("123456"));
            outbox.push(frame("123456"));
        };
        for overflow in [too_many, too_large, too_many_held, held_and_queued] {
            let outbox = outbox(2, 10);
            let gate = outbox.gate();
            overflow(&outbox, &gate);
            let (Poll::Ready(Taken::End(end)), frames) = take(&outbox) else {
                panic!("the socket lives on")
            };
            assert_eq!((end.code, frames), (close_code::SLOW_READER, vec![]));
            assert!(end.reason.len() <= 123);
        }
    }

    #[test]
    fn taking_frees_the_room_they_took() {
        let outbox = outbox(2, 10);
        let gate = outbox.gate();
        gate.open();
        for _ in 0..5 {
            gate.deliver(frame("12345"));
            outbox.push(frame("12345"));
            assert_eq!(taken(&outbox).len(), 2);
        }
        let held = outbox.gate();
        held.deliver(frame("1234567890"));
        held.shut();
        outbox.push(frame("1234567890"));
        assert_eq!(taken(&outbox).len(), 1);
    }

    #[test]
    fn an_end_comes_after_what_was_queued_before_it_and_the_first_one_stands() {
        let outbox = outbox(10, 100);
        outbox.push(frame("a"));
        outbox.end(End::new(close_code::RESTART, "restart"));
        outbox.end(End::new(close_code::NORMAL, "idle"));
        outbox.push(frame("b"));
        assert_eq!(taken(&outbox), [frame("a")]);
        assert_eq!(
            take(&outbox).0,
            Poll::Ready(Taken::End(End::new(close_code::RESTART, "restart")))
        );
    }
}
