//! The rooms of a server and their members.

use crate::message::{Marks, Message, Unframeable};
use crate::replay::Replay;
use crate::shared::{Catchup, Heard, RecentCasts, Shared, Stamp};
use crate::window::{Kept, Since, Unrecovered, Window, WindowLimits};
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use walcast_protocol::{Frame, Outlet, Version};

/// A room: a sub-topic (without `realtime:`), public or private.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Room<'a> {
    /// The sub-topic.
    pub topic: &'a str,
    /// Which of the two rooms of that name.
    pub is_private: bool,
}

/// Tells the members of a server's rooms apart; never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(u64);

impl MemberId {
    /// The id of that number; members get theirs from [`Rooms::enter`].
    #[must_use]
    pub fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }
}

/// Who casts and shall not be told it: not live, and not again when it comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Speaker {
    /// The member.
    pub member: MemberId,
    /// The name it goes by ([`Member::name`]).
    pub name: Option<Arc<str>>,
}

/// A channel that enters a room.
pub struct Member {
    /// The socket's serializer.
    pub version: Version,
    /// Where its frames go.
    pub outlet: Arc<dyn Outlet>,
    /// Whether it may hear broadcasts (`broadcast.read`); always in a public room.
    pub reads: bool,
    /// Whether it hears who comes and goes from the start.
    pub hears_presence: bool,
    /// Stored messages it is about to get.
    pub replay: Option<Arc<Replay>>,
    /// What its client calls itself, by which it is known when it comes back. Whoever calls itself the same is not told
    /// again what this one cast without hearing it.
    pub name: Option<Arc<str>>,
}

/// What a member hears.
struct Ears {
    broadcasts: AtomicBool,
    presence: AtomicBool,
}

struct Seated {
    id: MemberId,
    version: Version,
    outlet: Arc<dyn Outlet>,
    ears: Arc<Ears>,
    replay: Option<Arc<Replay>>,
    catchup: Option<Arc<Catchup>>,
}

/// The members of a room, next to each other.
#[derive(Default)]
struct Seats {
    seated: Vec<Seated>,
    places: HashMap<MemberId, usize>,
    /// Whether the room is no room any more: whoever comes now is in another.
    is_gone: bool,
    /// Up to which number the casts that are kept for all nodes were heard here, if that is known.
    heard: Option<u64>,
}

impl Seats {
    fn take(&mut self, member: Seated) {
        self.places.insert(member.id, self.seated.len());
        self.seated.push(member);
    }

    fn leave(&mut self, id: MemberId) {
        let Some(place) = self.places.remove(&id) else {
            return;
        };
        self.seated.swap_remove(place);
        if let Some(moved) = self.seated.get(place) {
            self.places.insert(moved.id, place);
        }
    }
}

type Floor = DashMap<Arc<str>, Arc<RwLock<Seats>>>;

/// All rooms that somebody is in.
#[derive(Default)]
pub struct Rooms {
    public: Floor,
    private: Floor,
    last_id: AtomicU64,
    over_limit: AtomicBool,
    /// The recent broadcasts of private rooms, if they are kept.
    window: Option<Window>,
    /// Whether those are kept for all nodes instead, elsewhere.
    shared: Option<Shared>,
}

/// What a member missed: the frames that tell it, oldest first.
pub type Recovered = Result<Vec<Frame>, Unrecovered>;

impl Rooms {
    /// No rooms yet, whose recent private broadcasts are kept within these limits. The epoch, a random number, tells
    /// positions of this process from those of others.
    #[must_use]
    pub fn with_window(limits: WindowLimits, epoch: u32) -> Self {
        Self {
            window: limits.keeps().then(|| Window::new(limits, epoch)),
            ..Self::default()
        }
    }

    /// No rooms yet, whose recent private broadcasts are kept for all nodes by others. `node` tells this one apart.
    #[must_use]
    pub fn shared(node: u32) -> Self {
        Self {
            shared: Some(Shared::new(node)),
            ..Self::default()
        }
    }

    /// Whether the recent broadcasts of a room are kept for all nodes.
    #[must_use]
    pub fn is_shared(&self, room: Room<'_>) -> bool {
        room.is_private && self.shared.is_some()
    }

    /// Takes the epoch of what is kept for all nodes.
    pub fn set_epoch(&self, epoch: u64) {
        if let Some(shared) = &self.shared {
            shared.set_epoch(epoch);
        }
    }

    /// Forgets recent broadcasts that are too old; says how many bytes and messages are kept.
    pub fn sweep(&self) -> (usize, usize) {
        self.window.as_ref().map(Window::sweep).unwrap_or_default()
    }

    /// Broadcasts may have been missed until now: none before is told again.
    pub fn interrupt(&self) {
        if let Some(window) = &self.window {
            window.interrupt();
        }
    }

    /// While set, every member that is delivered a broadcast is told so ([`Outlet::over_limit`]).
    pub fn set_over_limit(&self, over_limit: bool) {
        self.over_limit.store(over_limit, Ordering::Release);
    }

    /// Lets a channel into a room, until the returned value is dropped.
    #[must_use]
    pub fn enter(self: &Arc<Self>, room: Room<'_>, member: Member) -> Membership {
        self.seat(room, member, None, |_, _| ()).0
    }

    /// As [`Rooms::enter`], where recent broadcasts are kept for all nodes. `heard` is the number of the last that was kept
    /// before this node began to hear the room, if it is known. What the member missed since a moment is told by
    /// [`Rooms::catch_up`].
    pub fn enter_shared(
        self: &Arc<Self>,
        room: Room<'_>,
        member: Member,
        heard: Option<u64>,
        since: Option<(Since, bool)>,
    ) -> (Membership, Option<Arc<Catchup>>) {
        self.seat(room, member, since, |seats, id| {
            seats.heard = seats.heard.or(heard);
            let place = seats.places.get(&id)?;
            seats.seated.get(*place)?.catchup.clone()
        })
    }

    /// The frames that tell a member what it missed, once what is kept for all nodes was read. They go in front of all that
    /// its outlet got and gets.
    ///
    /// # Errors
    /// It cannot be told.
    pub fn catch_up(
        &self,
        membership: &Membership,
        version: Version,
        catchup: &Catchup,
        recent: &RecentCasts<'_>,
    ) -> Recovered {
        let shared = self.shared.as_ref().ok_or(Unrecovered::Off)?;
        let topic = format!("realtime:{}", membership.topic);
        shared.tell((version, &topic), catchup, recent)
    }

    /// As [`Rooms::enter`], with what was cast since a moment, in order. All that comes later reaches the member's outlet,
    /// and nothing does twice. What was cast by a member of the same name that did not want its own is left out unless
    /// `own`.
    pub fn enter_since(
        self: &Arc<Self>,
        room: Room<'_>,
        member: Member,
        since: Since,
        own: bool,
    ) -> (Membership, Recovered) {
        let version = member.version;
        let except = member.name.clone().filter(|_| !own);
        let (membership, missed) = self.seat(room, member, None, |_, _| match &self.window {
            None if self.shared.is_none() => Err(Unrecovered::Off),
            None => Err(Unrecovered::Public),
            Some(_) if !room.is_private => Err(Unrecovered::Public),
            Some(window) => Ok((window, window.missed(room.topic, since, except.as_deref())?)),
        });
        let topic = format!("realtime:{}", room.topic);
        let recovered = missed.map(|(window, missed)| {
            let frame = |kept: &Arc<Kept>| {
                let marks = Marks {
                    position: Some(&window.position(kept.number())),
                    is_replayed: true,
                };
                // What cannot be framed reached nobody.
                kept.message()?
                    .encode_marked(version, &topic, marks)
                    .ok()
                    .flatten()
            };
            missed.iter().filter_map(frame).collect()
        });
        (membership, recovered)
    }

    /// Takes a seat and a look in one step: nothing is cast to the room meanwhile, so what was cast by then is not heard
    /// live, and what was not is.
    fn seat<Seen>(
        self: &Arc<Self>,
        room: Room<'_>,
        member: Member,
        catches_up: Option<(Since, bool)>,
        look: impl FnOnce(&mut Seats, MemberId) -> Seen,
    ) -> (Membership, Seen) {
        let name = member.name;
        let id = MemberId(self.last_id.fetch_add(1, Ordering::Relaxed));
        let ears = Arc::new(Ears {
            broadcasts: AtomicBool::new(member.reads),
            presence: AtomicBool::new(member.hears_presence),
        });
        let topic: Arc<str> = room.topic.into();
        let seats = self.floor(room.is_private).entry(Arc::clone(&topic)).or_default();
        // The entry stays locked meanwhile, so that the room is not taken for empty and removed.
        let mut taken = seats.write().unwrap_or_else(PoisonError::into_inner);
        let catchup = self
            .shared
            .as_ref()
            .zip(catches_up)
            .map(|(shared, (since, own))| {
                let except = name.clone().filter(|_| !own);
                Arc::new(Catchup::new(shared.own(), since, except))
            });
        taken.take(Seated {
            id,
            version: member.version,
            outlet: member.outlet,
            ears: Arc::clone(&ears),
            replay: member.replay,
            catchup,
        });
        let seen = look(&mut taken, id);
        drop(taken);
        drop(seats);
        let membership = Membership {
            rooms: Arc::clone(self),
            topic,
            is_private: room.is_private,
            id,
            name,
            ears,
        };
        (membership, seen)
    }

    /// Delivers a message to every member that may hear it, except one, and says how many got it.
    ///
    /// # Errors
    /// If some member's frame cannot be built; then nobody gets anything.
    pub fn cast(
        &self,
        room: Room<'_>,
        message: &Message<'_>,
        except: Option<&Speaker>,
    ) -> Result<usize, Unframeable> {
        if let (true, Some(window)) = (room.is_private, &self.window) {
            return self.cast_and_keep(window, room.topic, message, except);
        }
        let seats = self
            .floor(room.is_private)
            .get(room.topic)
            .map(|seats| Arc::clone(&seats));
        let Some(seats) = seats else { return Ok(0) };
        let seats = seats.read().unwrap_or_else(PoisonError::into_inner);
        let except = except.map(|speaker| speaker.member);
        self.hand(&seats, room.topic, message, Marks::default(), (except, None))
    }

    /// Casts a message that somebody sends from here. `publish` hands it to the other nodes, with a stamp if it is kept for
    /// all of them; that is one step with the cast, so that who comes now gets it either live or from where it is kept.
    /// Says how many members got it, and what `publish` says.
    ///
    /// # Errors
    /// As [`Rooms::cast`]; then it is not published.
    pub fn cast_out<Published>(
        &self,
        room: Room<'_>,
        message: &Message<'_>,
        except: Option<&Speaker>,
        publish: impl FnOnce(Option<Stamp<'_>>) -> Published,
    ) -> Result<(usize, Published), Unframeable> {
        let Some(shared) = self.shared.as_ref().filter(|_| room.is_private) else {
            let receivers = self.cast(room, message, except)?;
            return Ok((receivers, publish(None)));
        };
        let by = except.and_then(|speaker| speaker.name.as_deref());
        loop {
            let seats = self.private.get(room.topic).map(|seats| Arc::clone(&seats));
            let Some(seats) = seats else {
                // Nobody can enter while the place is held.
                let Entry::Vacant(_place) = self.private.entry(room.topic.into()) else {
                    continue;
                };
                let own = Some(shared.next_own());
                return Ok((0, publish(Some(Stamp { own, by }))));
            };
            let seats = seats.write().unwrap_or_else(PoisonError::into_inner);
            if seats.is_gone {
                continue;
            }
            let own = Some(shared.next_own());
            let except = except.map(|speaker| speaker.member);
            let position = shared.position(seats.heard);
            let marks = Marks {
                position: position.as_deref(),
                is_replayed: false,
            };
            let receivers = self.hand(&seats, room.topic, message, marks, (except, None))?;
            return Ok((receivers, publish(Some(Stamp { own, by }))));
        }
    }

    /// Casts what is kept under a number, published by another node or a row, except to one member; each to a room in the
    /// order of the numbers.
    ///
    /// # Errors
    /// As [`Rooms::cast`].
    pub fn cast_heard(
        &self,
        room: Room<'_>,
        message: &Message<'_>,
        heard: &Heard<'_>,
        except: Option<&Speaker>,
    ) -> Result<usize, Unframeable> {
        let Some(shared) = self.shared.as_ref().filter(|_| room.is_private) else {
            return self.cast(room, message, except);
        };
        let Some(seats) = self.private.get(room.topic).map(|seats| Arc::clone(&seats)) else {
            return Ok(0);
        };
        // One step: no position may cover the message before all have it.
        let mut seats = seats.write().unwrap_or_else(PoisonError::into_inner);
        seats.heard = seats.heard.max(Some(heard.number));
        let position = shared.position(seats.heard);
        let marks = Marks {
            position: position.as_deref(),
            is_replayed: false,
        };
        let except = except.map(|speaker| speaker.member);
        self.hand(&seats, room.topic, message, marks, (except, Some(heard)))
    }

    /// Takes the number under which a cast of this node is kept.
    pub fn note_kept(&self, room: Room<'_>, number: u64) {
        let seats = self
            .floor(room.is_private)
            .get(room.topic)
            .map(|seats| Arc::clone(&seats));
        if let Some(seats) = seats {
            let mut seats = seats.write().unwrap_or_else(PoisonError::into_inner);
            seats.heard = seats.heard.max(Some(number));
        }
    }

    /// One message of a private room after the other: it gets its position, reaches the members and is kept in one step, so
    /// that all members get all messages in the order of their positions, and who comes back gets the rest of them.
    fn cast_and_keep(
        &self,
        window: &Window,
        topic: &str,
        message: &Message<'_>,
        except: Option<&Speaker>,
    ) -> Result<usize, Unframeable> {
        let by = except.and_then(|speaker| speaker.name.as_ref());
        loop {
            let seats = self.private.get(topic).map(|seats| Arc::clone(&seats));
            let Some(seats) = seats else {
                if !window.covers(topic) {
                    return Ok(0);
                }
                // Nobody can enter while the place is held.
                let Entry::Vacant(_place) = self.private.entry(topic.into()) else {
                    continue;
                };
                window.keep(topic, window.next(), message, by);
                return Ok(0);
            };
            let seats = seats.write().unwrap_or_else(PoisonError::into_inner);
            if seats.is_gone {
                continue;
            }
            let number = window.next();
            let position = window.position(number);
            let marks = Marks {
                position: Some(&position),
                is_replayed: false,
            };
            let except = except.map(|speaker| speaker.member);
            let receivers = self.hand(&seats, topic, message, marks, (except, None))?;
            window.keep(topic, number, message, by);
            return Ok(receivers);
        }
    }

    fn hand(
        &self,
        seats: &Seats,
        topic: &str,
        message: &Message<'_>,
        marks: Marks<'_>,
        (except, heard): (Option<MemberId>, Option<&Heard<'_>>),
    ) -> Result<usize, Unframeable> {
        let topic = format!("realtime:{topic}");
        let hearing = || {
            seats
                .seated
                .iter()
                .filter(|member| Some(member.id) != except && member.ears.broadcasts.load(Ordering::Acquire))
        };
        let frame = |version: Version| -> Result<Option<Frame>, Unframeable> {
            if hearing().any(|member| member.version == version) {
                message.encode_marked(version, &topic, marks)
            } else {
                Ok(None)
            }
        };
        let (v1, v2) = (frame(Version::V1)?, frame(Version::V2)?);
        let over_limit = self.over_limit.load(Ordering::Acquire);
        let mut receivers = 0;
        for member in hearing() {
            let frame = match member.version {
                Version::V1 => &v1,
                Version::V2 => &v2,
            };
            let Some(frame) = frame else { continue };
            if let (Some(heard), Some(catchup)) = (heard, &member.catchup)
                && !catchup.admits(heard)
            {
                continue;
            }
            let is_new = match &member.replay {
                Some(replay) => replay.deliver(message.id(), frame.clone(), &*member.outlet),
                None => {
                    member.outlet.deliver(frame.clone());
                    true
                }
            };
            if is_new {
                receivers += 1;
                if over_limit {
                    member.outlet.over_limit();
                }
            }
        }
        Ok(receivers)
    }

    /// Delivers a frame to every member that hears presence, and says how many got it. `frame` is asked once for each
    /// serializer some of them is on.
    pub fn cast_presence(&self, room: Room<'_>, frame: impl Fn(Version) -> Frame) -> usize {
        self.hand_out(room, |ears| &ears.presence, frame)
    }

    /// Delivers a frame that is no broadcast to every member that hears those, and says how many got it. `frame` is
    /// asked as in [`Rooms::cast_presence`].
    pub fn notify(&self, room: Room<'_>, frame: impl Fn(Version) -> Frame) -> usize {
        self.hand_out(room, |ears| &ears.broadcasts, frame)
    }

    fn hand_out(
        &self,
        room: Room<'_>,
        hears: impl Fn(&Ears) -> &AtomicBool,
        frame: impl Fn(Version) -> Frame,
    ) -> usize {
        let seats = self
            .floor(room.is_private)
            .get(room.topic)
            .map(|seats| Arc::clone(&seats));
        let Some(seats) = seats else { return 0 };
        let seats = seats.read().unwrap_or_else(PoisonError::into_inner);
        let (mut v1, mut v2) = (None, None);
        let mut receivers = 0;
        for member in &seats.seated {
            if !hears(&member.ears).load(Ordering::Acquire) {
                continue;
            }
            let shared = match member.version {
                Version::V1 => &mut v1,
                Version::V2 => &mut v2,
            };
            let shared = shared.get_or_insert_with(|| frame(member.version));
            member.outlet.deliver(shared.clone());
            receivers += 1;
        }
        receivers
    }

    /// Whether a member on this serializer, other than `except`, would hear a message.
    #[must_use]
    pub fn is_heard_by(&self, room: Room<'_>, version: Version, except: Option<MemberId>) -> bool {
        let Some(seats) = self
            .floor(room.is_private)
            .get(room.topic)
            .map(|seats| Arc::clone(&seats))
        else {
            return false;
        };
        let seats = seats.read().unwrap_or_else(PoisonError::into_inner);
        seats.seated.iter().any(|member| {
            member.version == version
                && Some(member.id) != except
                && member.ears.broadcasts.load(Ordering::Acquire)
        })
    }

    /// The topic of each room that somebody is in, and whether it is private.
    #[must_use]
    pub fn open(&self) -> Vec<(Arc<str>, bool)> {
        let topics = |is_private| {
            let floor = self.floor(is_private).iter();
            floor.map(move |room| (Arc::clone(room.key()), is_private))
        };
        topics(false).chain(topics(true)).collect()
    }

    /// Rooms with at least one member.
    #[must_use]
    pub fn len(&self) -> usize {
        self.public.len() + self.private.len()
    }

    /// Whether nobody is in any room.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn floor(&self, is_private: bool) -> &Floor {
        if is_private { &self.private } else { &self.public }
    }
}

/// A channel's place in a room; dropping it gives it up.
pub struct Membership {
    rooms: Arc<Rooms>,
    topic: Arc<str>,
    is_private: bool,
    id: MemberId,
    name: Option<Arc<str>>,
    ears: Arc<Ears>,
}

impl Membership {
    /// The room.
    #[must_use]
    pub fn room(&self) -> Room<'_> {
        Room {
            topic: &self.topic,
            is_private: self.is_private,
        }
    }

    /// Which member.
    #[must_use]
    pub fn id(&self) -> MemberId {
        self.id
    }

    /// Has the broadcasts of a private room kept from now on, if such are: the member is told all of them.
    pub fn keep_recent(&self) {
        if let (true, Some(window)) = (self.is_private, &self.rooms.window) {
            window.cover(&self.topic);
        }
    }

    /// Lets the member hear broadcasts from now on, or not any more.
    pub fn set_reads(&self, reads: bool) {
        self.ears.broadcasts.store(reads, Ordering::Release);
    }

    /// Lets the member hear who comes and goes from now on, or not any more.
    pub fn set_hears_presence(&self, hears: bool) {
        self.ears.presence.store(hears, Ordering::Release);
    }

    /// Whether a member on this serializer would hear what this one casts.
    #[must_use]
    pub fn is_heard_by(&self, version: Version, own: bool) -> bool {
        let except = (!own).then_some(self.id);
        self.rooms.is_heard_by(self.room(), version, except)
    }

    /// Broadcasts from this member; it hears its own if `own`. Says how many members got it.
    ///
    /// # Errors
    /// As [`Rooms::cast`].
    pub fn cast(&self, message: &Message<'_>, own: bool) -> Result<usize, Unframeable> {
        let except = (!own).then(|| self.speaker());
        self.rooms.cast(self.room(), message, except.as_ref())
    }

    /// As [`Membership::cast`], to the other nodes too ([`Rooms::cast_out`]).
    ///
    /// # Errors
    /// As there.
    pub fn cast_out<Published>(
        &self,
        message: &Message<'_>,
        own: bool,
        publish: impl FnOnce(Option<Stamp<'_>>) -> Published,
    ) -> Result<(usize, Published), Unframeable> {
        let except = (!own).then(|| self.speaker());
        self.rooms
            .cast_out(self.room(), message, except.as_ref(), publish)
    }

    /// The member as one that does not hear itself.
    #[must_use]
    pub fn speaker(&self) -> Speaker {
        Speaker {
            member: self.id,
            name: self.name.clone(),
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let floor = self.rooms.floor(self.is_private);
        if let Some(seats) = floor.get(&self.topic) {
            seats
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .leave(self.id);
        }
        floor.remove_if(&self.topic, |_, seats| {
            let mut seats = seats.write().unwrap_or_else(PoisonError::into_inner);
            seats.is_gone = seats.seated.is_empty();
            if let (true, true, Some(window)) = (seats.is_gone, self.is_private, &self.rooms.window) {
                window.leave(&self.topic);
            }
            seats.is_gone
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::message::Body;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Inbox(Mutex<Vec<Frame>>);

    impl Outlet for Inbox {
        fn deliver(&self, frame: Frame) {
            self.0.lock().unwrap().push(frame);
        }
    }

    const PUBLIC: Room<'_> = Room {
        topic: "room",
        is_private: false,
    };
    const PRIVATE: Room<'_> = Room {
        topic: "room",
        is_private: true,
    };
    const HELLO: Message<'_> = Message::Verbatim { payload: "{}" };

    fn enter(rooms: &Arc<Rooms>, room: Room<'_>, version: Version) -> (Membership, Arc<Inbox>) {
        let inbox = Arc::new(Inbox::default());
        let member = Member {
            version,
            outlet: Arc::clone(&inbox) as Arc<dyn Outlet>,
            reads: true,
            hears_presence: false,
            replay: None,
            name: None,
        };
        (rooms.enter(room, member), inbox)
    }

    fn received(inbox: &Inbox) -> usize {
        inbox.0.lock().unwrap().len()
    }

    #[test]
    fn everybody_but_the_sender_gets_a_message_unless_it_wants_its_own() {
        let rooms = Arc::new(Rooms::default());
        let (sender, own) = enter(&rooms, PUBLIC, Version::V2);
        let (_a, a) = enter(&rooms, PUBLIC, Version::V2);
        let (_b, b) = enter(&rooms, PUBLIC, Version::V1);
        assert_eq!(sender.cast(&HELLO, false), Ok(2));
        assert_eq!([received(&own), received(&a), received(&b)], [0, 1, 1]);
        assert_eq!(sender.cast(&HELLO, true), Ok(3));
        assert_eq!([received(&own), received(&a), received(&b)], [1, 2, 2]);
    }

    #[test]
    fn members_of_one_version_share_one_frame() {
        let rooms = Arc::new(Rooms::default());
        let (_a, a) = enter(&rooms, PUBLIC, Version::V2);
        let (_b, b) = enter(&rooms, PUBLIC, Version::V2);
        rooms.cast(PUBLIC, &HELLO, None).unwrap();
        let address = |inbox: &Inbox| inbox.0.lock().unwrap()[0].bytes().as_ptr();
        assert_eq!(address(&a), address(&b));
    }

    #[test]
    fn public_and_private_rooms_of_one_name_never_mix() {
        let rooms = Arc::new(Rooms::default());
        let (_public, public) = enter(&rooms, PUBLIC, Version::V2);
        let (_private, private) = enter(&rooms, PRIVATE, Version::V2);
        rooms.cast(PUBLIC, &HELLO, None).unwrap();
        assert_eq!([received(&public), received(&private)], [1, 0]);
        rooms.cast(PRIVATE, &HELLO, None).unwrap();
        assert_eq!([received(&public), received(&private)], [1, 1]);
    }

    #[test]
    fn who_may_not_read_hears_nothing_until_it_may() {
        let rooms = Arc::new(Rooms::default());
        let (member, inbox) = enter(&rooms, PRIVATE, Version::V2);
        member.set_reads(false);
        assert_eq!(rooms.cast(PRIVATE, &HELLO, None), Ok(0));
        assert!(!rooms.is_heard_by(PRIVATE, Version::V2, None));
        member.set_reads(true);
        assert_eq!(rooms.cast(PRIVATE, &HELLO, None), Ok(1));
        assert!(rooms.is_heard_by(PRIVATE, Version::V2, None));
        assert!(!rooms.is_heard_by(PRIVATE, Version::V2, Some(member.id())));
        assert_eq!(received(&inbox), 1);
    }

    #[test]
    fn who_comes_and_goes_is_heard_by_those_who_want_to_in_one_frame_a_version() {
        let rooms = Arc::new(Rooms::default());
        let (_deaf, deaf) = enter(&rooms, PUBLIC, Version::V2);
        let others = [Version::V1, Version::V2, Version::V2].map(|version| enter(&rooms, PUBLIC, version));
        let frame = |version| Frame::from(format!("{version:?}"));
        assert_eq!(rooms.cast_presence(PUBLIC, frame), 0);
        for (member, _) in &others {
            member.set_hears_presence(true);
        }
        assert_eq!(rooms.cast_presence(PUBLIC, frame), 3);
        let heard = others
            .each_ref()
            .map(|(_, inbox)| inbox.0.lock().unwrap()[0].clone());
        assert_eq!(heard[0], frame(Version::V1));
        assert_eq!(heard[1].bytes().as_ptr(), heard[2].bytes().as_ptr());
        others[0].0.set_hears_presence(false);
        assert_eq!(rooms.cast_presence(PUBLIC, frame), 2);
        assert_eq!(received(&deaf), 0);
        assert_eq!(rooms.cast_presence(PRIVATE, frame), 0);
    }

    #[test]
    fn a_notice_is_for_those_who_hear_broadcasts() {
        let rooms = Arc::new(Rooms::default());
        let (_public, public) = enter(&rooms, PUBLIC, Version::V1);
        let (_private, private) = enter(&rooms, PRIVATE, Version::V2);
        let (deaf_member, deaf) = enter(&rooms, PRIVATE, Version::V2);
        deaf_member.set_reads(false);
        let mut open = rooms.open();
        open.sort();
        assert_eq!(open, [("room".into(), false), ("room".into(), true)]);
        for (topic, is_private) in &open {
            let room = Room {
                topic,
                is_private: *is_private,
            };
            assert_eq!(
                rooms.notify(room, |version| Frame::from(format!("{version:?}"))),
                1
            );
        }
        assert_eq!(
            [received(&public), received(&private), received(&deaf)],
            [1, 1, 0]
        );
    }

    #[test]
    fn a_room_exists_while_somebody_is_in_it() {
        let rooms = Arc::new(Rooms::default());
        let (a, _) = enter(&rooms, PUBLIC, Version::V2);
        let (b, _) = enter(&rooms, PUBLIC, Version::V2);
        let (c, inbox) = enter(&rooms, PUBLIC, Version::V2);
        drop(a);
        assert_eq!((rooms.len(), rooms.cast(PUBLIC, &HELLO, None)), (1, Ok(2)));
        drop(b);
        assert_eq!(received(&inbox), 1);
        drop(c);
        assert!(rooms.is_empty());
        assert_eq!(rooms.cast(PUBLIC, &HELLO, None), Ok(0));
    }

    #[test]
    fn a_binary_payload_is_nothing_for_members_on_1_0_0() {
        let rooms = Arc::new(Rooms::default());
        let (_old, old) = enter(&rooms, PUBLIC, Version::V1);
        let (_new, new) = enter(&rooms, PUBLIC, Version::V2);
        let message = Message::Event {
            event: "e",
            body: Body::Binary(b"x"),
            id: None,
        };
        assert_eq!(rooms.cast(PUBLIC, &message, None), Ok(1));
        assert_eq!([received(&old), received(&new)], [0, 1]);
    }

    #[test]
    fn a_stored_message_reaches_a_member_once() {
        let rooms = Arc::new(Rooms::default());
        let replay = Arc::new(Replay::default());
        let inbox = Arc::new(Inbox::default());
        let member = Member {
            version: Version::V2,
            outlet: Arc::clone(&inbox) as Arc<dyn Outlet>,
            reads: true,
            hears_presence: false,
            replay: Some(Arc::clone(&replay)),
            name: None,
        };
        let _member = rooms.enter(PRIVATE, member);
        let stored = |id| Message::Event {
            event: "e",
            body: Body::Json("{}"),
            id: Some(id),
        };
        rooms.cast(PRIVATE, &stored("live"), None).unwrap();
        let due = replay.finish(vec!["old", "live"], |id| id, &*inbox);
        assert_eq!(due, ["old", "live"]);
        rooms.cast(PRIVATE, &stored("old"), None).unwrap();
        rooms.cast(PRIVATE, &stored("new"), None).unwrap();
        assert_eq!(received(&inbox), 1);
    }
}
