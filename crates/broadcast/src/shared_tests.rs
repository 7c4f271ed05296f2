//! What members hear that come and go between nodes while others cast. What is kept for all nodes is a list here.
#![allow(clippy::unwrap_used, reason = "tests")]

use crate::{
    Body, Catchup, Heard, KeptCast, Member, Membership, Message, RecentCasts, Room, Rooms, Since, Stamp,
    Unrecovered, pack_cast, unpack_cast,
};
use proptest::prelude::*;
use std::sync::{Arc, Mutex};
use walcast_protocol::{Frame, Outlet, Version};

const EPOCH: u64 = 9;
const ROOM: Room<'_> = Room {
    topic: "room",
    is_private: true,
};

#[derive(Default)]
struct Inbox(Mutex<Vec<Frame>>);

impl Outlet for Inbox {
    fn deliver(&self, frame: Frame) {
        self.0.lock().unwrap().push(frame);
    }
}

/// What a message says, and the position that it carries.
fn read(frame: &Frame, is_replayed: bool) -> (u64, Option<Since>) {
    let text = std::str::from_utf8(frame.bytes()).unwrap();
    assert_eq!(text.contains(r#""replayed":true"#), is_replayed, "{text}");
    let field = |name: &str| {
        let (_, rest) = text.split_once(&format!(r#""{name}":"#))?;
        Some(
            rest.trim_start_matches('"')
                .split(['"', ',', '}'])
                .next()?
                .to_owned(),
        )
    };
    let position = field("position").map(|position| Since::position(&position).unwrap());
    (field("n").unwrap().parse().unwrap(), position)
}

/// A cast that is on its way to where it is kept, or is there.
#[derive(Clone)]
struct Sent {
    node: usize,
    packed: Vec<u8>,
}

struct Visit {
    node: usize,
    membership: Membership,
    inbox: Arc<Inbox>,
    /// While it is not told yet what it missed.
    waiting: Option<(Arc<Catchup>, Option<Since>)>,
}

/// Two nodes that share a room.
struct World {
    nodes: [Arc<Rooms>; 2],
    /// Taken by a node, not numbered yet.
    queued: [Vec<Sent>; 2],
    kept: Vec<Sent>,
    /// Up to which number each node has heard.
    heard: [usize; 2],
    visit: Option<Visit>,
    /// All that was cast since the client first came, and what it has got.
    cast: u64,
    got: Vec<u64>,
    last: Option<Since>,
}

impl World {
    fn new() -> Self {
        let nodes = [0, 1].map(|node| {
            let rooms = Arc::new(Rooms::shared(node));
            rooms.set_epoch(EPOCH);
            rooms
        });
        Self {
            nodes,
            queued: Default::default(),
            kept: Vec::new(),
            heard: [0; 2],
            visit: None,
            cast: 0,
            got: Vec::new(),
            last: None,
        }
    }

    fn cast(&mut self, node: usize) {
        self.cast += 1;
        let payload = format!(r#"{{"n":{}}}"#, self.cast);
        let message = Message::Verbatim { payload: &payload };
        let (_, packed) = self.nodes[node]
            .cast_out(ROOM, &message, None, |stamp| {
                let stamp = stamp.unwrap();
                pack_cast(stamp, &message)
            })
            .unwrap();
        self.queued[node].push(Sent { node, packed });
    }

    /// A row, which a node is the first to hand over.
    fn row(&mut self, node: usize) {
        self.cast += 1;
        let payload = format!(r#"{{"n":{}}}"#, self.cast);
        let stamp = Stamp { own: None, by: None };
        let packed = pack_cast(stamp, &Message::Verbatim { payload: &payload });
        self.queued[node].push(Sent { node, packed });
    }

    /// The oldest that a node has taken gets its number.
    fn publish(&mut self, node: usize) {
        if !self.queued[node].is_empty() {
            let sent = self.queued[node].remove(0);
            self.kept.push(sent);
        }
    }

    /// A node hears the next number, if somebody there listens.
    fn hear(&mut self, node: usize) {
        let Some(sent) = self.kept.get(self.heard[node]).cloned() else {
            return;
        };
        self.heard[node] += 1;
        let number = self.heard[node] as u64;
        let (stamp, message) = unpack_cast(&sent.packed).unwrap();
        if sent.node == node && stamp.own.is_some() {
            return self.nodes[node].note_kept(ROOM, number);
        }
        let heard = Heard {
            number,
            node: u32::try_from(sent.node).unwrap(),
            stamp,
        };
        let rooms = &self.nodes[node];
        rooms.cast_heard(ROOM, &message, &heard, None).unwrap();
    }

    fn publish_all(&mut self) {
        for node in [0, 1] {
            while !self.queued[node].is_empty() {
                self.publish(node);
            }
        }
    }

    fn hear_all(&mut self) {
        for node in [0, 1] {
            while self.heard[node] < self.kept.len() {
                self.hear(node);
            }
        }
    }

    fn enter(&mut self, node: usize) {
        if self.visit.is_some() {
            return;
        }
        // The room is new on this node: it is heard from now on.
        let before = self.kept.len();
        self.heard[node] = before;
        let inbox = Arc::new(Inbox::default());
        let member = Member {
            version: Version::V2,
            outlet: Arc::clone(&inbox) as Arc<dyn Outlet>,
            reads: true,
            hears_presence: false,
            replay: None,
            name: None,
        };
        let (membership, catchup) = self.nodes[node].enter_shared(
            ROOM,
            member,
            Some(before as u64),
            self.last.map(|last| (last, true)),
        );
        let waiting = catchup.map(|catchup| (catchup, self.last));
        self.visit = Some(Visit {
            node,
            membership,
            inbox,
            waiting,
        });
    }

    /// Reads what is kept and tells what was missed; what the node itself has taken is published before.
    fn tell(&mut self) {
        let Some(Visit { node, .. }) = self.visit else {
            return;
        };
        while !self.queued[node].is_empty() {
            self.publish(node);
        }
        let Some(visit) = &mut self.visit else { return };
        let Some((catchup, Some(since))) = visit.waiting.take() else {
            return;
        };
        let Since::Place { heard, .. } = since else {
            panic!()
        };
        let after = usize::try_from(heard).unwrap();
        let casts: Vec<KeptCast<'_>> = self.kept[after..]
            .iter()
            .zip(heard + 1..)
            .map(|(sent, number)| {
                let (stamp, message) = unpack_cast(&sent.packed).unwrap();
                KeptCast {
                    number,
                    node: u32::try_from(sent.node).unwrap(),
                    at_ms: 0,
                    stamp,
                    message,
                }
            })
            .collect();
        let recent = RecentCasts {
            epoch: EPOCH,
            last: self.kept.len() as u64,
            casts,
            reaches: true,
        };
        let rooms = &self.nodes[node];
        let told = rooms
            .catch_up(&visit.membership, Version::V2, &catchup, &recent)
            .unwrap();
        for frame in &told {
            let (n, position) = read(frame, true);
            self.got.push(n);
            self.last = position.or(self.last);
        }
    }

    /// Takes what came live; before the client was told what it missed, that waits.
    fn take(&mut self) {
        let Some(visit) = &self.visit else { return };
        if visit.waiting.is_some() {
            return;
        }
        for frame in std::mem::take(&mut *visit.inbox.0.lock().unwrap()) {
            let (n, position) = read(&frame, false);
            self.got.push(n);
            self.last = position.or(self.last);
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Cast(usize),
    Row(usize),
    Publish(usize),
    Hear(usize),
    Enter(usize),
    Tell,
    Leave,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..2usize).prop_map(Step::Cast),
        2 => (0..2usize).prop_map(Step::Row),
        6 => (0..2usize).prop_map(Step::Publish),
        6 => (0..2usize).prop_map(Step::Hear),
        2 => (0..2usize).prop_map(Step::Enter),
        2 => Just(Step::Tell),
        1 => Just(Step::Leave),
    ];
    proptest::collection::vec(step, 0..150)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn who_goes_from_node_to_node_gets_each_message(
        steps in steps(), first in 0..2usize, is_prompt: bool
    ) {
        let mut world = World::new();
        world.enter(first);
        // So that it has a position.
        world.cast(first);
        world.take();
        for step in steps {
            match step {
                Step::Cast(node) => world.cast(node),
                Step::Row(node) => world.row(node),
                Step::Publish(node) => world.publish(node),
                Step::Hear(node) => world.hear(node),
                Step::Enter(node) => world.enter(node),
                Step::Tell => world.tell(),
                Step::Leave => world.visit = None,
            }
            if is_prompt {
                world.publish_all();
                world.hear_all();
            }
            world.take();
        }
        // All that is on its way arrives, and the client comes back once more if it is away.
        world.publish_all();
        world.enter(1 - first);
        world.tell();
        world.take();
        world.hear_all();
        world.take();
        let mut got = world.got.clone();
        got.sort_unstable();
        if !is_prompt {
            // Who leaves again before what it has heard has got its number everywhere may be told that again.
            got.dedup();
        }
        let expected: Vec<u64> = (1..=world.cast).collect();
        prop_assert_eq!(got, expected, "{:?}", world.got);
    }

    #[test]
    fn a_cast_that_is_packed_comes_out_again(own in proptest::option::of(1u64..), by in proptest::option::of("[a-z]{1,128}"), text: String) {
        let message = Message::Event { event: "e", body: Body::Json(&text), id: None };
        let stamp = Stamp { own, by: by.as_deref() };
        let packed = pack_cast(stamp, &message);
        prop_assert_eq!(unpack_cast(&packed), Ok((stamp, message)));
    }

    #[test]
    fn any_bytes_are_a_cast_or_an_error(bytes: Vec<u8>) {
        if let Ok((stamp, message)) = unpack_cast(&bytes) {
            prop_assert_eq!(pack_cast(stamp, &message), bytes);
        }
    }
}

#[test]
fn who_cannot_be_told_is_told_why() {
    let world = World::new();
    let place = Since::Place {
        epoch: EPOCH,
        node: 0,
        own: 0,
        heard: 3,
    };
    let recent = RecentCasts {
        epoch: EPOCH,
        last: 3,
        casts: Vec::new(),
        reaches: true,
    };
    let gone = RecentCasts {
        reaches: false,
        ..recent.clone()
    };
    let other_epoch = RecentCasts {
        epoch: 1,
        ..recent.clone()
    };
    let alone = Since::Position { epoch: 1, number: 1 };
    for (since, recent, expected) in [
        (place, &recent, Ok(Vec::new())),
        (place, &gone, Err(Unrecovered::Gone)),
        (place, &other_epoch, Err(Unrecovered::Apart)),
        (alone, &recent, Err(Unrecovered::Elsewhere)),
        (Since::Timestamp(1), &recent, Err(Unrecovered::Gone)),
    ] {
        let member = Member {
            version: Version::V2,
            outlet: Arc::new(Inbox::default()) as Arc<dyn Outlet>,
            reads: true,
            hears_presence: false,
            replay: None,
            name: None,
        };
        let rooms = &world.nodes[0];
        let (membership, catchup) = rooms.enter_shared(ROOM, member, Some(3), Some((since, true)));
        let told = rooms.catch_up(&membership, Version::V2, &catchup.unwrap(), recent);
        assert_eq!(told, expected);
    }
}
