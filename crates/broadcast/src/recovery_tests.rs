//! What members hear that come and go while others cast.
#![allow(clippy::unwrap_used, reason = "tests")]

use crate::{Member, Membership, Message, Recovered, Room, Rooms, Since, Speaker, Unrecovered, WindowLimits};
use proptest::prelude::*;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use walcast_protocol::{Frame, Outlet, Version};

const EPOCH: u32 = 7;
const HELLO: Message<'_> = Message::Verbatim { payload: "{}" };
/// The number that a room takes when it is covered, if it is the first. Those of its messages follow.
const COVERED: u64 = 1;
const ROOM: Room<'_> = private("room");

const fn private(topic: &str) -> Room<'_> {
    Room {
        topic,
        is_private: true,
    }
}

fn limits(bytes: usize) -> WindowLimits {
    WindowLimits {
        age: Duration::from_secs(3600),
        bytes,
        outlives_members: true,
    }
}

fn after(number: u64) -> Since {
    Since::Position { epoch: EPOCH, number }
}

#[derive(Default)]
struct Inbox(Mutex<Vec<Frame>>);

impl Outlet for Inbox {
    fn deliver(&self, frame: Frame) {
        self.0.lock().unwrap().push(frame);
    }
}

impl Inbox {
    fn take(&self) -> Vec<u64> {
        let frames = std::mem::take(&mut *self.0.lock().unwrap());
        frames.iter().map(|frame| number(frame, false)).collect()
    }
}

/// A message's number, from its position; it says that it is told again if it is.
fn number(frame: &Frame, is_replayed: bool) -> u64 {
    let text = std::str::from_utf8(frame.bytes()).unwrap();
    assert_eq!(text.contains(r#""replayed":true"#), is_replayed, "{text}");
    let (_, position) = text.split_once(r#""position":"00000007:"#).unwrap();
    position.split('"').next().unwrap().parse().unwrap()
}

/// A member whose client is known by `name`.
struct Visit {
    membership: Membership,
    inbox: Arc<Inbox>,
}

impl Visit {
    fn member(name: &str) -> (Member, Arc<Inbox>) {
        let inbox = Arc::new(Inbox::default());
        let member = Member {
            version: Version::V2,
            outlet: Arc::clone(&inbox) as Arc<dyn Outlet>,
            reads: true,
            hears_presence: false,
            replay: None,
            name: Some(name.into()),
        };
        (member, inbox)
    }

    fn new(rooms: &Arc<Rooms>, room: Room<'_>, name: &str) -> Self {
        let (member, inbox) = Self::member(name);
        let membership = rooms.enter(room, member);
        membership.keep_recent();
        Self { membership, inbox }
    }

    /// Comes back after a message; with the numbers of what was missed.
    fn again(
        rooms: &Arc<Rooms>,
        room: Room<'_>,
        name: &str,
        last: u64,
        own: bool,
    ) -> (Self, Result<Vec<u64>, Unrecovered>) {
        let (member, inbox) = Self::member(name);
        let (membership, recovered) = rooms.enter_since(room, member, after(last), own);
        membership.keep_recent();
        (Self { membership, inbox }, numbers(recovered))
    }

    /// Leaves; with what was heard, of which nothing can come any more.
    fn end(self) -> Vec<u64> {
        drop(self.membership);
        self.inbox.take()
    }
}

fn numbers(recovered: Recovered) -> Result<Vec<u64>, Unrecovered> {
    recovered.map(|frames| frames.iter().map(|frame| number(frame, true)).collect())
}

/// A listener that nobody needs to wait for any more, be it that its test has failed.
struct Done<'a> {
    heard: &'a AtomicU64,
    left: &'a AtomicU64,
}

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.heard.store(u64::MAX / 2, Ordering::Release);
        self.left.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Three cast all the time. Three others come and go, all of them away at times, and hear each message once and in order.
#[test]
fn who_comes_and_goes_while_others_cast_hears_each_message_once_and_in_order() {
    const VISITS: usize = 200;
    /// Casters wait while the slowest listener has not heard more than this, so that all can be told again.
    const AHEAD: u64 = 400;
    let rooms = Arc::new(Rooms::with_window(limits(1 << 30), EPOCH));
    // Opens the room: from now on it is covered.
    drop(Visit::new(&rooms, ROOM, "first"));
    let cast = AtomicU64::new(0);
    let heard_so_far: [AtomicU64; 3] = Default::default();
    let listeners_left = AtomicU64::new(3);
    let is_over = || listeners_left.load(Ordering::Acquire) == 0;
    let (mut all, mut told_again) = (Vec::new(), 0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !is_over() {
                    let slowest = heard_so_far
                        .iter()
                        .map(|heard| heard.load(Ordering::Acquire))
                        .min();
                    if cast.load(Ordering::Acquire) > slowest.unwrap_or_default() + AHEAD {
                        std::thread::yield_now();
                        continue;
                    }
                    cast.fetch_add(1, Ordering::AcqRel);
                    rooms.cast(ROOM, &HELLO, None).unwrap();
                }
            });
        }
        let listeners = [0, 1, 2].map(|which| {
            let (rooms, heard_so_far, listeners_left) = (&rooms, &heard_so_far[which], &listeners_left);
            scope.spawn(move || {
                let name = which.to_string();
                let _done = Done {
                    heard: heard_so_far,
                    left: listeners_left,
                };
                let (mut heard, mut told_again) = (Vec::new(), 0);
                for visit in 0..VISITS {
                    let last = heard.last().copied().unwrap_or(COVERED);
                    let (visit_now, missed) = Visit::again(rooms, ROOM, &name, last, false);
                    let missed = missed.unwrap();
                    told_again += missed.len();
                    heard.extend(missed);
                    heard_so_far.store(heard.len() as u64, Ordering::Release);
                    // Sometimes until something came live, sometimes gone at once.
                    while visit % 3 > 0 && visit_now.inbox.0.lock().unwrap().is_empty() {
                        std::thread::yield_now();
                    }
                    heard.extend(visit_now.end());
                    assert_eq!(
                        heard.last().copied().unwrap_or(COVERED),
                        COVERED + heard.len() as u64,
                        "one is missing"
                    );
                    heard_so_far.store(heard.len() as u64, Ordering::Release);
                    std::thread::yield_now();
                }
                let expected: Vec<u64> = (COVERED + 1..=COVERED + heard.len() as u64).collect();
                assert_eq!(heard, expected);
                (heard, told_again)
            })
        });
        for listener in listeners {
            let (heard, again) = listener.join().unwrap();
            all.push(heard);
            told_again += again;
        }
    });
    let cast = cast.into_inner();
    for (which, mut heard) in all.into_iter().enumerate() {
        // What was cast after its last visit.
        let last = heard.last().copied().unwrap_or(COVERED);
        let (_, missed) = Visit::again(&rooms, ROOM, &which.to_string(), last, false);
        let is_complete = missed != Err(Unrecovered::TooMuch);
        heard.extend(missed.unwrap_or_default());
        let expected: Vec<u64> = (COVERED + 1..=if is_complete { COVERED + cast } else { last }).collect();
        assert_eq!(heard, expected);
        assert!(last > COVERED);
    }
    assert!(told_again > 0);
}

/// A room that opens and closes all the time loses nothing either: what is cast between two members is kept.
#[test]
fn what_is_cast_while_a_room_opens_and_closes_is_kept_once() {
    const CASTS: u64 = 900;
    let rooms = Arc::new(Rooms::with_window(limits(1 << 30), EPOCH));
    drop(Visit::new(&rooms, ROOM, "first"));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Acquire) {
                    drop(Visit::new(&rooms, ROOM, "passing"));
                }
            });
        }
        let casters = [(); 3].map(|()| {
            scope.spawn(|| {
                for _ in 0..CASTS / 3 {
                    rooms.cast(ROOM, &HELLO, None).unwrap();
                }
            })
        });
        for caster in casters {
            caster.join().unwrap();
        }
        is_over.store(true, Ordering::Release);
    });
    let (_visit, missed) = Visit::again(&rooms, ROOM, "late", COVERED, false);
    assert_eq!(missed, Ok((COVERED + 1..=COVERED + CASTS).collect()));
}

const NAMES: [&str; 3] = ["a", "b", "c"];
const TOPICS: [&str; 2] = ["one", "two"];

#[derive(Clone, Debug)]
enum Step {
    /// Somebody of no room, or the client itself if it is there.
    Cast {
        room: usize,
        by: Option<usize>,
        own: bool,
    },
    Leave(usize),
    Enter {
        client: usize,
        own: bool,
    },
    Interrupt,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..2usize, proptest::option::of(0..3usize), any::<bool>())
            .prop_map(|(room, by, own)| Step::Cast { room, by, own }),
        2 => (0..3usize).prop_map(Step::Leave),
        3 => (0..3usize, any::<bool>()).prop_map(|(client, own)| Step::Enter { client, own }),
        1 => Just(Step::Interrupt),
    ];
    proptest::collection::vec(step, 0..120)
}

/// What is to be expected, as simple as can be: all that was ever cast.
#[derive(Default)]
struct Model {
    /// Room, number, and who does not want to be told it.
    cast: Vec<(usize, u64, Option<usize>)>,
    /// Those of them that are kept, oldest first.
    kept: VecDeque<(usize, u64)>,
    /// Of each room that is covered: all after this are known.
    from: [Option<u64>; 2],
    last: u64,
}

impl Model {
    fn cover(&mut self, room: usize) {
        if self.from[room].is_none() {
            self.last += 1;
            self.from[room] = Some(self.last);
        }
    }

    fn cast(&mut self, room: usize, by: Option<usize>, capacity: usize) {
        // Outside of every room nobody hears it and nothing is kept.
        let Some(_) = self.from[room] else { return };
        self.last += 1;
        self.cast.push((room, self.last, by));
        self.kept.push_back((room, self.last));
        if self.kept.len() > capacity
            && let Some((room, number)) = self.kept.pop_front()
        {
            self.from[room] = self.from[room].map(|from| from.max(number));
        }
    }

    fn missed(&self, room: usize, last: u64, except: Option<usize>) -> Result<Vec<u64>, Unrecovered> {
        if self.from[room].is_none_or(|from| last < from) {
            return Err(Unrecovered::Gone);
        }
        let missed = self
            .cast
            .iter()
            .filter(|(of, number, by)| *of == room && *number > last && (except.is_none() || *by != except));
        Ok(missed.map(|(_, number, _)| *number).collect())
    }
}

proptest! {
    #[test]
    fn what_is_told_again_is_what_a_list_of_all_that_was_cast_says(steps in steps(), capacity in 1..30usize) {
        let bytes = capacity * (256 + HELLO.pack().len());
        let rooms = Arc::new(Rooms::with_window(limits(bytes), EPOCH));
        let mut model = Model::default();
        let mut visits: [Option<Visit>; 3] = Default::default();
        // Clients a and b are of the first room, c is of the second.
        let room_of = |client: usize| usize::from(client == 2);
        let mut lasts = [0; 3];
        for step in steps {
            match step {
                Step::Cast { room, by, own } => {
                    let by = by.filter(|client| room_of(*client) == room);
                    match by.and_then(|client| visits[client].as_ref()) {
                        Some(visit) => {
                            visit.membership.cast(&HELLO, own).unwrap();
                            model.cast(room, by.filter(|_| !own), capacity);
                        }
                        None => {
                            rooms.cast(private(TOPICS[room]), &HELLO, None).unwrap();
                            model.cast(room, None, capacity);
                        }
                    }
                }
                Step::Leave(client) => drop(visits[client].take()),
                Step::Enter { client, own } if visits[client].is_none() => {
                    let room = room_of(client);
                    let (visit, missed) = Visit::again(
                        &rooms, private(TOPICS[room]), NAMES[client], lasts[client], own,
                    );
                    let expected = model.missed(room, lasts[client], (!own).then_some(client));
                    prop_assert_eq!(&missed, &expected);
                    model.cover(room);
                    // What could not be told is told to be missing; the client begins anew.
                    lasts[client] = match missed {
                        Ok(missed) => missed.last().copied().unwrap_or(lasts[client]),
                        Err(_) => model.last,
                    };
                    visits[client] = Some(visit);
                }
                Step::Enter { .. } => {}
                Step::Interrupt => {
                    rooms.interrupt();
                    model.last += 1;
                    for from in model.from.iter_mut().flatten() {
                        *from = model.last;
                    }
                }
            }
            for (client, visit) in visits.iter().enumerate() {
                for number in visit.iter().flat_map(|visit| visit.inbox.take()) {
                    prop_assert!(number > lasts[client]);
                    lasts[client] = number;
                }
            }
        }
    }
}

#[test]
fn only_a_private_room_keeps_what_was_cast_and_only_if_asked_to() {
    for (rooms, room, expected) in [
        (Rooms::default(), ROOM, Unrecovered::Off),
        (
            Rooms::with_window(limits(1 << 20), EPOCH),
            Room {
                is_private: false,
                ..ROOM
            },
            Unrecovered::Public,
        ),
        (
            Rooms::with_window(limits(1 << 20), EPOCH),
            ROOM,
            Unrecovered::Gone,
        ),
    ] {
        let rooms = Arc::new(rooms);
        let visit = Visit::new(&rooms, room, "a");
        rooms.cast(room, &HELLO, None).unwrap();
        let frame = visit.inbox.0.lock().unwrap()[0].clone();
        let text = std::str::from_utf8(frame.bytes()).unwrap();
        assert_eq!(text.contains("position"), expected == Unrecovered::Gone, "{text}");
        let (member, _inbox) = Visit::member("a");
        let recovered = rooms.enter_since(room, member, Since::Timestamp(0), false).1;
        assert_eq!(recovered, Err(expected));
    }
}

#[test]
fn who_does_not_want_its_own_is_not_told_it_again_by_its_name_alone() {
    let rooms = Arc::new(Rooms::with_window(limits(1 << 20), EPOCH));
    let (a, b) = (Visit::new(&rooms, ROOM, "a"), Visit::new(&rooms, ROOM, "b"));
    a.membership.cast(&HELLO, false).unwrap();
    b.membership.cast(&HELLO, true).unwrap();
    // A row that comes back from the database names who had it stored.
    let speaker: Speaker = b.membership.speaker();
    assert_eq!((a.end(), b.end()), (vec![3], vec![2, 3]));
    rooms.cast(ROOM, &HELLO, Some(&speaker)).unwrap();
    for (name, own, expected) in [
        ("a", false, vec![3, 4]),
        ("a", true, vec![2, 3, 4]),
        ("b", false, vec![2, 3]),
        ("c", false, vec![2, 3, 4]),
    ] {
        assert_eq!(
            Visit::again(&rooms, ROOM, name, COVERED, own).1,
            Ok(expected),
            "{name}"
        );
    }
}
