//! The recent broadcasts of private rooms, so that a channel that comes back gets what it missed (decision 30).
//!
//! A room is covered from its first member on, and for the window's age after its last one left: a client that lost its
//! connection finds its room still covered. The window tells exactly from where on it knows everything.

use crate::message::Message;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What keeping a message costs besides itself.
const OVERHEAD_BYTES: usize = 256;

/// More than this is not told to one channel: its socket would be closed as a slow reader, and come back for it again.
const MOST_MESSAGES: usize = 1_000;
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// How much is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowLimits {
    /// Messages older than this are forgotten; zero keeps none.
    pub age: Duration,
    /// Memory for messages, all rooms together; zero keeps none.
    pub bytes: usize,
    /// Whether messages to an empty room can be kept: not if those of other nodes do not come any more.
    pub outlives_members: bool,
}

impl WindowLimits {
    /// Whether anything is kept.
    #[must_use]
    pub fn keeps(&self) -> bool {
        !self.age.is_zero() && self.bytes > 0
    }
}

/// From where on a channel wants what it missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// What was cast in this millisecond since 1970-01-01 UTC or later.
    Timestamp(i64),
    /// What comes after the message of this position.
    Position {
        /// Tells the windows of different processes apart.
        epoch: u32,
        /// Of the message.
        number: u64,
    },
    /// What comes after a message of a private room of several nodes.
    Place {
        /// Changes when messages may have been lost.
        epoch: u64,
        /// The node the client was on.
        node: u32,
        /// How many of its own casts the node had handed out.
        own: u64,
        /// Up to which number it had heard.
        heard: u64,
    },
}

impl Since {
    /// Reads a position as messages carry it.
    #[must_use]
    pub fn position(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.splitn(5, ':').collect();
        match *parts.as_slice() {
            [epoch, number] => Some(Self::Position {
                epoch: u32::from_str_radix(epoch, 16).ok()?,
                number: number.parse().ok()?,
            }),
            [epoch, node, own, heard] => Some(Self::Place {
                epoch: u64::from_str_radix(epoch, 16).ok()?,
                node: u32::from_str_radix(node, 16).ok()?,
                own: own.parse().ok()?,
                heard: heard.parse().ok()?,
            }),
            _ => None,
        }
    }
}

/// Why a channel is not told what it missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unrecovered {
    /// Nothing is kept at all.
    #[error("none are kept; see WALCAST_BROADCAST_WINDOW_MS and WALCAST_BROADCAST_WINDOW_BYTES")]
    Off,
    /// Only those of private rooms are.
    #[error("those of public channels are not kept")]
    Public,
    /// The position is that of another process.
    #[error("`since` is a position of another server, or of one that was restarted")]
    Elsewhere,
    /// They cannot be known to be whole.
    #[error("the nodes were out of touch since, or what is kept for all of them was lost")]
    Apart,
    /// Some are gone, or came while nobody of the room was here.
    #[error("those that are kept do not reach back to `since`")]
    Gone,
    /// More than may be told at once.
    #[error("they are too many to be told again")]
    TooMuch,
}

/// A message that is kept.
#[derive(Debug)]
pub(crate) struct Kept {
    number: u64,
    at_ms: i64,
    /// Who cast it without wanting to hear it.
    by: Option<Arc<str>>,
    packed: Vec<u8>,
    at: Instant,
}

impl Kept {
    fn bytes(&self) -> usize {
        OVERHEAD_BYTES + self.packed.len()
    }

    /// The message.
    pub(crate) fn message(&self) -> Option<Message<'_>> {
        // It was packed here.
        Message::unpack(&self.packed).ok()
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }
}

/// A room's part.
struct Shelf {
    kept: VecDeque<Arc<Kept>>,
    /// All messages with a higher number are known.
    from_number: u64,
    /// All messages of a later millisecond are known.
    from_ms: i64,
    /// Since when the room is empty.
    left: Option<Instant>,
}

#[derive(Default)]
struct State {
    shelves: HashMap<Arc<str>, Shelf>,
    /// All that is kept, oldest first.
    order: VecDeque<Arc<str>>,
    bytes: usize,
    last_ms: i64,
}

impl State {
    /// The present, which does not go back when the clock does.
    fn now_ms(&mut self) -> i64 {
        let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ms = i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX);
        self.last_ms = self.last_ms.max(now_ms);
        self.last_ms
    }
}

/// See the module.
pub(crate) struct Window {
    limits: WindowLimits,
    epoch: u32,
    last_number: AtomicU64,
    state: Mutex<State>,
}

impl Window {
    pub(crate) fn new(limits: WindowLimits, epoch: u32) -> Self {
        Self {
            limits,
            epoch,
            last_number: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the next message. Those of one room are kept in the order of their numbers.
    pub(crate) fn next(&self) -> u64 {
        self.last_number.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// How a client names the place of a message.
    pub(crate) fn position(&self, number: u64) -> String {
        format!("{:08x}:{number}", self.epoch)
    }

    /// Somebody is in a room: all its messages from now on will be offered.
    pub(crate) fn cover(&self, topic: &str) {
        let mut state = self.lock();
        let now_ms = state.now_ms();
        match state.shelves.get_mut(topic) {
            Some(shelf) if shelf.is_covered(self.limits) => shelf.left = None,
            // Some may have been cast since the last number was given: it is not enough to have heard that.
            Some(shelf) => {
                (shelf.from_number, shelf.from_ms) = (self.next(), now_ms);
                shelf.left = None;
            }
            None => {
                let shelf = Shelf {
                    kept: VecDeque::new(),
                    from_number: self.next(),
                    from_ms: now_ms,
                    left: None,
                };
                state.shelves.insert(topic.into(), shelf);
            }
        }
    }

    /// Nobody is in a room any more.
    pub(crate) fn leave(&self, topic: &str) {
        if let Some(shelf) = self.lock().shelves.get_mut(topic) {
            shelf.left.get_or_insert_with(Instant::now);
        }
    }

    /// Whether messages of a room are to be offered.
    pub(crate) fn covers(&self, topic: &str) -> bool {
        let state = self.lock();
        let shelf = state.shelves.get(topic);
        shelf.is_some_and(|shelf| shelf.is_covered(self.limits))
    }

    /// Takes a message of a room, if that is covered, and the name of who cast it and does not want to be told it.
    pub(crate) fn keep(&self, topic: &str, number: u64, message: &Message<'_>, by: Option<&Arc<str>>) {
        // Copied before the lock is taken, which all rooms share.
        let packed = message.pack();
        let mut state = self.lock();
        let at_ms = state.now_ms();
        let limits = self.limits;
        if let Some((name, _)) = state.shelves.get_key_value(topic) {
            let name = Arc::clone(name);
            if let Some(shelf) = state
                .shelves
                .get_mut(topic)
                .filter(|shelf| shelf.is_covered(limits))
            {
                let kept = Kept {
                    number,
                    at_ms,
                    by: by.cloned(),
                    packed,
                    at: Instant::now(),
                };
                let bytes = kept.bytes();
                shelf.kept.push_back(Arc::new(kept));
                state.bytes += bytes;
                state.order.push_back(name);
            }
        }
        self.shrink(&mut state);
    }

    fn shrink(&self, state: &mut State) {
        while let Some(topic) = state.order.front() {
            let Some(shelf) = state.shelves.get_mut(topic) else {
                state.order.pop_front();
                continue;
            };
            let is_due = shelf.kept.front().is_none_or(|oldest| {
                state.bytes > self.limits.bytes || oldest.at.elapsed() > self.limits.age
            });
            if !is_due {
                break;
            }
            if let Some(oldest) = shelf.kept.pop_front() {
                state.bytes -= oldest.bytes();
                shelf.from_number = shelf.from_number.max(oldest.number);
                shelf.from_ms = shelf.from_ms.max(oldest.at_ms);
            }
            state.order.pop_front();
        }
    }

    /// Forgets what is too old; says how many bytes and messages are left.
    pub(crate) fn sweep(&self) -> (usize, usize) {
        let mut state = self.lock();
        self.shrink(&mut state);
        let limits = self.limits;
        state
            .shelves
            .retain(|_, shelf| shelf.is_covered(limits) || !shelf.kept.is_empty());
        (state.bytes, state.order.len())
    }

    /// Messages may be missing before now: what was kept is of no use any more.
    pub(crate) fn interrupt(&self) {
        let mut state = self.lock();
        // A number of its own: who has heard the last message may have missed one behind it.
        let (from_number, from_ms) = (self.next(), state.now_ms());
        for shelf in state.shelves.values_mut() {
            (shelf.from_number, shelf.from_ms) = (from_number, from_ms);
        }
    }

    /// What a channel missed, oldest first, but for what `except` cast. Nothing may be cast to the room meanwhile.
    pub(crate) fn missed(
        &self,
        topic: &str,
        since: Since,
        except: Option<&str>,
    ) -> Result<Vec<Arc<Kept>>, Unrecovered> {
        let state = self.lock();
        let shelf = state.shelves.get(topic).ok_or(Unrecovered::Gone)?;
        if !shelf.is_covered(self.limits) {
            return Err(Unrecovered::Gone);
        }
        let (reaches, at) = match since {
            Since::Position { epoch, .. } if epoch != self.epoch => return Err(Unrecovered::Elsewhere),
            Since::Position { number, .. } => (
                number >= shelf.from_number,
                shelf.kept.partition_point(|kept| kept.number <= number),
            ),
            Since::Place { .. } => return Err(Unrecovered::Elsewhere),
            Since::Timestamp(at_ms) => (
                at_ms > shelf.from_ms,
                shelf.kept.partition_point(|kept| kept.at_ms < at_ms),
            ),
        };
        if !reaches {
            return Err(Unrecovered::Gone);
        }
        let is_due = |kept: &&Arc<Kept>| except.is_none() || kept.by.as_deref() != except;
        let missed: Vec<Arc<Kept>> = shelf
            .kept
            .range(at..)
            .filter(is_due)
            .take(MOST_MESSAGES + 1)
            .cloned()
            .collect();
        let bytes: usize = missed.iter().map(|kept| kept.packed.len()).sum();
        if missed.len() > MOST_MESSAGES || bytes > MOST_BYTES {
            return Err(Unrecovered::TooMuch);
        }
        Ok(missed)
    }
}

impl Shelf {
    fn is_covered(&self, limits: WindowLimits) -> bool {
        self.left
            .is_none_or(|left| limits.outlives_members && left.elapsed() <= limits.age)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const EPOCH: u32 = 7;
    const LONG: Duration = Duration::from_secs(3600);

    fn window(age: Duration, messages: usize) -> Window {
        let bytes = messages * (OVERHEAD_BYTES + message("0").pack().len());
        let limits = WindowLimits {
            age,
            bytes,
            outlives_members: true,
        };
        Window::new(limits, EPOCH)
    }

    fn message(digit: &str) -> Message<'_> {
        Message::Verbatim { payload: digit }
    }

    fn cast(window: &Window, topic: &str, digit: &str) -> u64 {
        let number = window.next();
        window.keep(topic, number, &message(digit), None);
        number
    }

    fn after(number: u64) -> Since {
        Since::Position { epoch: EPOCH, number }
    }

    fn digits(window: &Window, topic: &str, since: Since) -> Result<String, Unrecovered> {
        let missed = window.missed(topic, since, None)?;
        let digits = missed.iter().map(|kept| match kept.message() {
            Some(Message::Verbatim { payload }) => payload.to_owned(),
            _ => "?".to_owned(),
        });
        Ok(digits.collect())
    }

    #[test]
    fn what_came_after_a_position_is_told_in_order_and_of_no_other_room() {
        let window = window(LONG, 100);
        window.cover("a");
        window.cover("b");
        let first = cast(&window, "a", "1");
        cast(&window, "b", "x");
        let second = cast(&window, "a", "2");
        let third = cast(&window, "a", "3");
        assert_eq!(digits(&window, "a", after(first)), Ok("23".to_owned()));
        assert_eq!(digits(&window, "a", after(second)), Ok("3".to_owned()));
        assert_eq!(digits(&window, "a", after(third)), Ok(String::new()));
        assert_eq!(digits(&window, "b", after(third)), Ok(String::new()));
        assert_eq!(digits(&window, "c", after(first)), Err(Unrecovered::Gone));
        let restarted = Since::Position {
            epoch: EPOCH + 1,
            number: third,
        };
        assert_eq!(digits(&window, "a", restarted), Err(Unrecovered::Elsewhere));
    }

    #[test]
    fn a_position_before_the_first_member_or_the_oldest_that_is_kept_is_not_reached() {
        let window = window(LONG, 2);
        let before = cast(&window, "a", "0");
        window.cover("a");
        // Others may have been cast between the last that was heard and the first member of now.
        assert_eq!(digits(&window, "a", after(before)), Err(Unrecovered::Gone));
        assert_eq!(digits(&window, "a", after(before + 1)), Ok(String::new()));
        let numbers = ["1", "2", "3"].map(|digit| cast(&window, "a", digit));
        assert_eq!(digits(&window, "a", after(before + 1)), Err(Unrecovered::Gone));
        assert_eq!(digits(&window, "a", after(numbers[0])), Ok("23".to_owned()));
        // Those of another room push them out: the bytes are all rooms' together.
        window.cover("b");
        cast(&window, "b", "x");
        cast(&window, "b", "y");
        assert_eq!(digits(&window, "a", after(numbers[1])), Err(Unrecovered::Gone));
        assert_eq!(digits(&window, "a", after(numbers[2])), Ok(String::new()));
        assert!(window.sweep().0 <= window.limits.bytes);
    }

    #[test]
    fn a_timestamp_tells_what_was_cast_in_its_millisecond_and_later() {
        let window = window(LONG, 100);
        window.cover("a");
        let covered_ms = window.lock().last_ms;
        // The clock as the window reads it never goes back, so that a later time of its own can be set.
        window.lock().last_ms += 100_000;
        cast(&window, "a", "1");
        let first_ms = window.lock().last_ms;
        window.lock().last_ms += 1;
        cast(&window, "a", "2");
        let told = |at_ms| digits(&window, "a", Since::Timestamp(at_ms));
        assert_eq!(told(covered_ms), Err(Unrecovered::Gone));
        assert_eq!(told(covered_ms + 1), Ok("12".to_owned()));
        assert_eq!(told(first_ms), Ok("12".to_owned()));
        assert_eq!(told(first_ms + 1), Ok("2".to_owned()));
        assert_eq!(told(first_ms + 2), Ok(String::new()));
    }

    #[test]
    fn an_empty_room_is_covered_for_the_age_and_then_forgotten() {
        let window = window(LONG, 100);
        window.cover("a");
        let number = cast(&window, "a", "1");
        window.leave("a");
        cast(&window, "a", "2");
        assert_eq!(digits(&window, "a", after(number)), Ok("2".to_owned()));
        window.cover("a");
        assert_eq!(digits(&window, "a", after(number)), Ok("2".to_owned()));

        let window = self::window(Duration::from_nanos(1), 100);
        window.cover("a");
        cast(&window, "a", "1");
        window.leave("a");
        let state = || {
            let (bytes, messages) = window.sweep();
            (bytes, messages, window.lock().shelves.len())
        };
        while state() != (0, 0, 0) {
            std::thread::yield_now();
        }
        assert!(!window.covers("a"));
        // What is cast now is not known when somebody comes again.
        let number = cast(&window, "a", "2");
        window.cover("a");
        assert_eq!(digits(&window, "a", after(number)), Err(Unrecovered::Gone));
    }

    #[test]
    fn where_a_room_ends_with_its_last_member_nothing_before_the_next_counts() {
        let limits = WindowLimits {
            age: LONG,
            bytes: 1 << 20,
            outlives_members: false,
        };
        let window = Window::new(limits, EPOCH);
        window.cover("a");
        let number = cast(&window, "a", "1");
        window.leave("a");
        assert!(!window.covers("a"));
        cast(&window, "a", "2");
        assert_eq!(digits(&window, "a", after(number)), Err(Unrecovered::Gone));
        window.cover("a");
        assert_eq!(digits(&window, "a", after(number)), Err(Unrecovered::Gone));
        let number = cast(&window, "a", "3");
        cast(&window, "a", "4");
        assert_eq!(digits(&window, "a", after(number)), Ok("4".to_owned()));
    }

    #[test]
    fn after_an_interruption_nothing_before_it_counts() {
        let window = window(LONG, 100);
        window.cover("a");
        let number = cast(&window, "a", "1");
        let last = cast(&window, "a", "2");
        window.interrupt();
        for heard in [number, last] {
            assert_eq!(digits(&window, "a", after(heard)), Err(Unrecovered::Gone));
        }
        let number = cast(&window, "a", "3");
        cast(&window, "a", "4");
        assert_eq!(digits(&window, "a", after(number)), Ok("4".to_owned()));
    }

    #[test]
    fn more_than_a_socket_can_take_is_not_told() {
        let window = window(LONG, 2_000);
        window.cover("a");
        let first = cast(&window, "a", "1");
        for _ in 0..MOST_MESSAGES {
            cast(&window, "a", "1");
        }
        assert_eq!(digits(&window, "a", after(first - 1)), Err(Unrecovered::TooMuch));
        assert_eq!(digits(&window, "a", after(first)).unwrap().len(), MOST_MESSAGES);
    }

    #[test]
    fn a_position_is_read_as_it_is_written() {
        let window = window(LONG, 1);
        assert_eq!(window.position(12), "00000007:12");
        assert_eq!(Since::position("00000007:12"), Some(after(12)));
        for text in [
            "",
            ":",
            "7",
            "x:1",
            "7:",
            "7:-1",
            "7:1:2",
            "123456789:1",
            "16/B374D848:3",
            "1:2:3",
            "1:2:3:4:5",
        ] {
            assert_eq!(Since::position(text), None, "{text}");
        }
    }
}
