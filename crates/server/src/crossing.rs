//! Broadcasts on their way between nodes.
//!
//! A room with members on this node is heard from the others; what is cast here is published to them, once, whatever
//! the number of receivers. Rows of `realtime.messages` come to every node, which casts them to its own members alone;
//! those of private rooms that are kept for all nodes are published by every node that sees them, and heard once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use metrics::counter;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::consume_budget;
use walcast_broadcast::{
    Heard, KeptCast, Message, RecentCasts, Room, Rooms, Stamp, Unframeable, WindowLimits, pack_cast,
    unpack_cast,
};
use walcast_cluster::{
    Bus, Cluster, ClusterError, Event, Keep, Listener, NodeId, PublishError, Received, Recent, Subscription,
};
use walcast_protocol::{Frame, System, Version, fan_out};

use crate::limits::Rates;
use crate::metrics::Metrics;
use crate::nodes::TenantName;
use crate::persist::Withheld;
use crate::shutdown::within;

/// A join waits this long for what other nodes publish to its room to be heard. A connection that takes longer is
/// given up, and then everybody is told ([`Crossings::follow`]).
const READY_LIMIT: Duration = Duration::from_secs(2);

const PUBLIC: &str = "public:";
const PRIVATE: &str = "private:";

/// Why a message did not reach everybody.
#[derive(Debug, thiserror::Error)]
pub enum CastError {
    /// Some member's frame cannot be built: nobody gets anything.
    #[error(transparent)]
    Unframeable(#[from] Unframeable),
    /// Members on this node have it, and those on others will not.
    #[error(transparent)]
    Unpublished(#[from] PublishError),
}

/// How often it is looked whether broadcasts that should be kept for all nodes were lost.
const EPOCH_LOOK: Duration = Duration::from_secs(1);

/// More than this is not kept of one room for all nodes: its reader's queue takes no more at once.
const KEPT_MESSAGES: u64 = 1_000;
const KEPT_BYTES: u64 = 4 * 1024 * 1024;

/// How much is kept of each private room for all nodes; none if nothing is.
#[must_use]
pub fn keep(limits: WindowLimits) -> Option<Keep> {
    limits.keeps().then(|| Keep {
        age: limits.age,
        entries: KEPT_MESSAGES,
        bytes: u64::try_from(limits.bytes).unwrap_or(u64::MAX).min(KEPT_BYTES),
    })
}

/// What a node is called in positions.
#[must_use]
pub fn label(node: NodeId) -> u32 {
    let [a, b, c, d, ..] = *node.as_bytes();
    u32::from_be_bytes([a, b, c, d])
}

/// What a tenant's topic is called between nodes.
fn name(tenant: &TenantName, room: Room<'_>) -> String {
    let floor = if room.is_private { PRIVATE } else { PUBLIC };
    tenant.scoped(&format!("{floor}{}", room.topic))
}

/// The tenant's room of a name.
fn room<'a>(tenant: &TenantName, name: &'a str) -> Option<Room<'a>> {
    let name = tenant.unscoped(name)?;
    let public = name.strip_prefix(PUBLIC).map(|topic| (topic, false));
    let (topic, is_private) = public.or_else(|| Some((name.strip_prefix(PRIVATE)?, true)))?;
    Some(Room { topic, is_private })
}

/// The rooms of this node that other nodes may cast to.
pub struct Crossings {
    bus: Arc<dyn Bus>,
    ear: Arc<Ear>,
    open: DashMap<Arc<str>, Open>,
    /// How much is kept of private rooms for all nodes.
    keep: Option<Keep>,
    /// Whether the last message could not be published.
    is_failing: AtomicBool,
}

struct Open {
    subscription: Option<Arc<Subscription>>,
    members: usize,
}

impl Crossings {
    /// For the rooms of a tenant on this node.
    #[must_use]
    pub fn new(
        cluster: &Cluster,
        tenant: TenantName,
        rooms: Arc<Rooms>,
        rates: Arc<Rates>,
        metrics: Metrics,
        withheld: Arc<Withheld>,
        keep: Option<Keep>,
    ) -> Self {
        Self {
            bus: Arc::clone(cluster.bus()),
            keep,
            ear: Arc::new(Ear {
                node: cluster.node(),
                tenant,
                rooms,
                rates,
                metrics,
                withheld,
            }),
            open: DashMap::new(),
            is_failing: AtomicBool::new(false),
        }
    }

    /// Hears a room, which somebody has entered, from other nodes for as long as the returned value lives.
    pub fn enter(self: &Arc<Self>, room: Room<'_>) -> Crossing {
        let name: Arc<str> = name(&self.ear.tenant, room).into();
        let mut open = self.open.entry(Arc::clone(&name)).or_insert(Open {
            subscription: None,
            members: 0,
        });
        open.members += 1;
        open.subscription.get_or_insert_with(|| {
            let ear = Arc::clone(&self.ear) as Arc<dyn Listener>;
            Arc::new(self.bus.subscribe(&name, ear))
        });
        drop(open);
        Crossing {
            crossings: Arc::clone(self),
            name,
        }
    }

    /// The number of the last cast of a room that is kept for all nodes. To be asked before the room is entered. None if it
    /// cannot be known now.
    pub async fn last_kept(&self, room: Room<'_>) -> Option<u64> {
        match self.recent(&name(&self.ear.tenant, room), None).await {
            Ok(recent) => Some(recent.last),
            Err(error) => {
                tracing::debug!(%error, topic = room.topic, "it is not known what is kept of a room");
                None
            }
        }
    }

    /// Reads what is kept of a room for all nodes, after a number.
    ///
    /// # Errors
    /// Redis is away, or something was lost.
    pub async fn kept<Told>(
        &self,
        room: Room<'_>,
        after: u64,
        tell: impl FnOnce(&RecentCasts<'_>) -> Told,
    ) -> Result<Told, ClusterError> {
        let recent = self.recent(&name(&self.ear.tenant, room), Some(after)).await?;
        let casts = recent.kept.iter().map(|kept| {
            let (stamp, message) = unpack_cast(&kept.payload).ok()?;
            Some(KeptCast {
                number: kept.number,
                node: label(kept.origin),
                at_ms: kept.at_ms,
                stamp,
                message,
            })
        });
        let casts: Option<Vec<KeptCast<'_>>> = casts.collect();
        Ok(tell(&RecentCasts {
            epoch: recent.epoch,
            last: recent.last,
            reaches: casts.is_some() && recent.reaches(after),
            casts: casts.unwrap_or_default(),
        }))
    }

    async fn recent(&self, name: &str, after: Option<u64>) -> Result<Recent, ClusterError> {
        if !self.bus.is_connected() {
            return Err(ClusterError::Away("not connected".to_owned()));
        }
        let recent = within(READY_LIMIT, self.bus.recent(name, after)).await;
        let recent = recent.unwrap_or_else(|| Err(ClusterError::Away("no answer in time".to_owned())))?;
        self.ear.rooms.set_epoch(recent.epoch);
        Ok(recent)
    }

    /// Casts to the members of a room on other nodes; with a stamp it is kept for all of them.
    ///
    /// # Errors
    /// It was not taken: they do not get it.
    pub fn publish(
        &self,
        room: Room<'_>,
        message: &Message<'_>,
        stamp: Option<Stamp<'_>>,
    ) -> Result<(), PublishError> {
        self.publish_as(&name(&self.ear.tenant, room), message, stamp)
    }

    /// Casts a row with an id, which other nodes see, too, to the members of a private room on all nodes: once, and here, too,
    /// when it comes back with its number. False if that cannot be; then those here are to be given it at once.
    pub fn publish_row(&self, room: Room<'_>, message: &Message<'_>, id: &str) -> bool {
        let Some(keep) = self.keep.filter(|_| room.is_private) else {
            return false;
        };
        let by = self.ear.withheld.of(id).and_then(|speaker| speaker.name);
        let stamp = Stamp {
            own: None,
            by: by.as_deref(),
        };
        let packed = pack_cast(stamp, message);
        let published = self
            .bus
            .publish_once(&name(&self.ear.tenant, room), id, &packed, keep);
        // Then each node gives it to its own members: nobody goes without.
        !matches!(published, Err(PublishError::Unkept)) && self.note(published).is_ok()
    }

    /// Rows may have been missed: nobody who comes back is told that it has heard all.
    pub fn interrupt(&self) {
        if self.keep.is_some() {
            self.bus.lose_kept();
        }
    }

    fn publish_as(
        &self,
        name: &str,
        message: &Message<'_>,
        stamp: Option<Stamp<'_>>,
    ) -> Result<(), PublishError> {
        self.note(match (stamp, self.keep) {
            (Some(stamp), Some(keep)) => {
                let packed = pack_cast(stamp, message);
                self.bus.publish_kept(name, &packed, keep)
            }
            _ => self.bus.publish(name, &message.pack()),
        })
    }

    /// Counts what could not be published, and says so once.
    fn note(&self, published: Result<(), PublishError>) -> Result<(), PublishError> {
        let is_failing = published.is_err();
        if let Err(error) = &published {
            let cause = match error {
                PublishError::Full => "full",
                PublishError::Lost => "lost",
                PublishError::Unkept => "unkept",
                PublishError::TooLong { .. } => "too_long",
            };
            counter!("walcast_broadcasts_unpublished_total", "cause" => cause).increment(1);
        }
        if self.is_failing.load(Ordering::Relaxed) != is_failing
            && self.is_failing.swap(is_failing, Ordering::Relaxed) != is_failing
        {
            match &published {
                Ok(()) => tracing::info!("broadcasts reach the other nodes again"),
                Err(error) => tracing::warn!(
                    cause = %error,
                    remedy = "see Redis; clients that asked for it are told, message by message",
                    "broadcasts do not reach the other nodes"
                ),
            }
        }
        published
    }

    /// Tells every channel when broadcasts of other nodes may have been missed. Does not return.
    pub async fn follow(&self) {
        let mut events = self.bus.events();
        // Who has joined before the first connection has heard no other node.
        let mut since = (!self.bus.is_connected()).then(tokio::time::Instant::now);
        let mut look = tokio::time::interval(EPOCH_LOOK);
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                _ = look.tick(), if self.keep.is_some() => {
                    // Of no room, for the epoch is that of all.
                    if let Err(error) = self.recent(PRIVATE, None).await {
                        tracing::debug!(%error, "the epoch of what is kept is not known");
                    }
                    continue;
                }
            };
            let gap = match event {
                Ok(Event::Lost { .. }) => continue,
                Ok(Event::Connected) => match since.take() {
                    Some(since) => since.elapsed(),
                    None => continue,
                },
                Ok(Event::Resubscribed { gap }) => gap,
                // Whatever was told, there was a loss in it.
                Err(RecvError::Lagged(_)) => Duration::ZERO,
                // Only a cluster that is gone tells nothing any more.
                Err(RecvError::Closed) => std::future::pending().await,
            };
            self.confess(gap).await;
        }
    }

    async fn confess(&self, gap: Duration) {
        // Nobody who comes back is told that it has heard all.
        self.ear.rooms.interrupt();
        let seconds = gap.as_secs_f64();
        // Rows that are kept come by the same way.
        let what = match self.keep {
            Some(_) => "Broadcasts of other nodes and of the database",
            None => "Broadcasts of clients on other nodes",
        };
        let message = format!("{what} may have been missed: the nodes were out of touch for {seconds:.1} s");
        let mut told = 0;
        for (topic, is_private) in self.ear.rooms.open() {
            let full = format!("realtime:{topic}");
            let system = System {
                extension: "system",
                status: "error",
                message: &message,
                channel: Some(&topic),
                warnings: &[],
            };
            // A struct of strings always serializes.
            let payload = serde_json::to_string(&system).unwrap_or_else(|_| "{}".to_owned());
            let frame = |version: Version| Frame::from(fan_out(version, &full, "system", &payload));
            let room = Room {
                topic: &topic,
                is_private,
            };
            told += self.ear.rooms.notify(room, frame);
            consume_budget().await;
        }
        tracing::warn!(
            channels = told,
            gap_s = seconds,
            "channels were told that broadcasts of other nodes may have been missed"
        );
    }
}

/// A member's share in a room that is heard from other nodes.
pub struct Crossing {
    crossings: Arc<Crossings>,
    name: Arc<str>,
}

impl Crossing {
    /// Returns when what other nodes cast to the room is heard. Without a connection to them that would be never, and
    /// the room serves those who are here.
    pub async fn ready(&self) {
        let open = self.crossings.open.get(&self.name);
        let subscription = open.and_then(|open| open.subscription.clone());
        if let Some(subscription) = subscription
            && self.crossings.bus.is_connected()
            && within(READY_LIMIT, Box::pin(subscription.ready()))
                .await
                .is_none()
        {
            tracing::warn!(
                room = &*self.name,
                limit_ms = READY_LIMIT.as_millis(),
                remedy = "see Redis",
                "a channel was joined before other nodes could be heard"
            );
        }
    }

    /// As [`Crossings::publish`], to the member's own room.
    ///
    /// # Errors
    /// As there.
    pub fn publish(&self, message: &Message<'_>, stamp: Option<Stamp<'_>>) -> Result<(), PublishError> {
        self.crossings.publish_as(&self.name, message, stamp)
    }
}

impl Drop for Crossing {
    fn drop(&mut self) {
        let open = &self.crossings.open;
        if let Some(mut open) = open.get_mut(&self.name) {
            open.members = open.members.saturating_sub(1);
            if open.members == 0 {
                // While the entry is locked: whoever enters now must not subscribe beside it and hear all twice.
                open.subscription = None;
            }
        }
        open.remove_if(&self.name, |_, open| open.members == 0);
    }
}

/// Casts what other nodes publish.
struct Ear {
    node: NodeId,
    tenant: TenantName,
    rooms: Arc<Rooms>,
    rates: Arc<Rates>,
    metrics: Metrics,
    withheld: Arc<Withheld>,
}

impl Ear {
    fn cast(&self, received: Received<'_>) -> Result<usize, String> {
        let room = room(&self.tenant, received.topic).ok_or("it is for no room")?;
        // A message that is kept has the number of its node before it, which begins with a zero; no message does.
        let unpacked = if received.payload.first() == Some(&0) {
            unpack_cast(received.payload).map(|(stamp, message)| (Some(stamp), message))
        } else {
            Message::unpack(received.payload).map(|message| (None, message))
        };
        let (stamp, message) = unpacked.map_err(|error| error.to_string())?;
        let is_row = stamp.is_some_and(|stamp| stamp.own.is_none());
        if let Some(number) = received.number
            && received.origin == self.node
            && !is_row
        {
            self.rooms.note_kept(room, number);
            return Ok(0);
        }
        // The sender's node could only ask its own members (`protocol.md 2.4`).
        if matches!(message, Message::Verbatim { payload } if !payload.starts_with('{'))
            && self.rooms.is_heard_by(room, Version::V2, None)
        {
            return Err("payload_not_an_object".to_owned());
        }
        match received.number.zip(stamp) {
            Some((number, stamp)) => {
                let node = label(received.origin);
                let heard = Heard { number, node, stamp };
                let sender = message.id().filter(|_| is_row);
                let sender = sender.and_then(|id| self.withheld.take(id));
                self.rooms.cast_heard(room, &message, &heard, sender.as_ref())
            }
            None => self.rooms.cast(room, &message, None),
        }
        .map_err(|error| error.to_string())
    }
}

impl Listener for Ear {
    fn hear(&self, received: Received<'_>) {
        match self.cast(received) {
            Ok(receivers) => {
                self.metrics.broadcasts_sent.increment(receivers as u64);
                self.rates.events.count(receivers);
            }
            Err(cause) => {
                counter!("walcast_broadcasts_unread_total").increment(1);
                tracing::debug!(cause, node = %received.origin, "a broadcast of another node was dropped");
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::limits::{LimitOptions, Limits};
    use std::collections::HashSet;
    use std::sync::Mutex;
    use walcast_broadcast::{Body, Member, Membership};
    use walcast_cluster::{Hub, Vitality};
    use walcast_protocol::Outlet;

    const ROOM: Room<'_> = Room {
        topic: "room",
        is_private: false,
    };

    #[derive(Default)]
    struct Inbox(Mutex<Vec<Frame>>);

    impl Outlet for Inbox {
        fn deliver(&self, frame: Frame) {
            self.0.lock().unwrap().push(frame);
        }
    }

    struct Node {
        cluster: Cluster,
        rooms: Arc<Rooms>,
        crossings: Arc<Crossings>,
    }

    impl Node {
        fn on(hub: &Hub) -> Self {
            Self::of(TenantName::ONE, hub)
        }

        fn of(tenant: TenantName, hub: &Hub) -> Self {
            let cluster = Cluster::in_memory(hub, Vitality::default());
            let rooms = Arc::<Rooms>::default();
            let rates = Arc::new(Rates::new(
                &Limits::from_options(&LimitOptions::default()).unwrap(),
            ));
            Self {
                crossings: Arc::new(Crossings::new(
                    &cluster,
                    tenant,
                    Arc::clone(&rooms),
                    rates,
                    Metrics::new(None),
                    Arc::default(),
                    None,
                )),
                cluster,
                rooms,
            }
        }

        fn member(&self, version: Version) -> (Membership, Arc<Inbox>) {
            let inbox = Arc::new(Inbox::default());
            let member = Member {
                version,
                outlet: Arc::clone(&inbox) as Arc<dyn Outlet>,
                reads: true,
                hears_presence: false,
                replay: None,
                name: None,
            };
            (self.rooms.enter(ROOM, member), inbox)
        }
    }

    #[tokio::test]
    async fn a_room_is_heard_from_its_first_member_to_its_last() {
        let hub = Hub::default();
        let (here, there) = (Node::on(&hub), Node::on(&hub));
        let before = there.cluster.bus().stats().topics;
        let (_member, inbox) = there.member(Version::V2);
        let heard = || {
            let message = Message::Verbatim { payload: "{}" };
            here.crossings.publish(ROOM, &message, None).unwrap();
            std::mem::take(&mut *inbox.0.lock().unwrap()).len()
        };
        assert_eq!(heard(), 0);
        let first = there.crossings.enter(ROOM);
        let second = there.crossings.enter(ROOM);
        assert_eq!((heard(), there.cluster.bus().stats().topics), (1, before + 1));
        drop(first);
        assert_eq!(heard(), 1);
        drop(second);
        assert_eq!((heard(), there.cluster.bus().stats().topics), (0, before));
        assert!(there.crossings.open.is_empty());
    }

    #[tokio::test]
    async fn what_members_on_2_0_0_cannot_be_given_is_dropped_on_their_node() {
        let hub = Hub::default();
        let (here, there) = (Node::on(&hub), Node::on(&hub));
        let text = Message::Verbatim { payload: r#""text""# };
        let (_old, old) = there.member(Version::V1);
        let _crossing = there.crossings.enter(ROOM);
        here.crossings.publish(ROOM, &text, None).unwrap();
        let (_new, new) = there.member(Version::V2);
        here.crossings.publish(ROOM, &text, None).unwrap();
        here.cluster.bus().publish("public:room", b"\xff").unwrap();
        here.crossings
            .publish(ROOM, &Message::Verbatim { payload: "{}" }, None)
            .unwrap();
        let received = |inbox: &Inbox| inbox.0.lock().unwrap().len();
        assert_eq!((received(&old), received(&new)), (2, 1));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn members_that_come_and_go_make_nobody_hear_a_message_twice() {
        const MESSAGES: usize = 20_000;
        let hub = Hub::default();
        let (here, there) = (Node::on(&hub), Node::on(&hub));
        // In the room all the time; whether the room is heard is up to the others.
        let (_member, inbox) = there.member(Version::V2);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        drop(there.crossings.enter(ROOM));
                    }
                });
            }
            for number in 0..MESSAGES {
                let event = number.to_string();
                let message = Message::Event {
                    event: &event,
                    body: Body::Json("{}"),
                    id: None,
                };
                here.crossings.publish(ROOM, &message, None).unwrap();
            }
            is_over.store(true, Ordering::Relaxed);
        });
        let heard = inbox.0.lock().unwrap();
        let distinct: HashSet<&[u8]> = heard.iter().map(Frame::bytes).collect();
        assert_eq!(heard.len(), distinct.len());
        assert!(!heard.is_empty(), "nothing was heard at all");
    }

    #[tokio::test]
    async fn a_room_of_the_same_name_of_another_tenant_hears_nothing() {
        let hub = Hub::default();
        let of = |id: &str| Node::of(TenantName::of(id), &hub);
        let (here, there, elsewhere) = (of("a"), of("a"), of("b"));
        let (_first, there_inbox) = there.member(Version::V2);
        let (_second, elsewhere_inbox) = elsewhere.member(Version::V2);
        let _heard = (there.crossings.enter(ROOM), elsewhere.crossings.enter(ROOM));
        here.crossings
            .publish(ROOM, &Message::Verbatim { payload: "{}" }, None)
            .unwrap();
        assert_eq!(there_inbox.0.lock().unwrap().len(), 1);
        assert_eq!(elsewhere_inbox.0.lock().unwrap().len(), 0);
    }

    #[test]
    fn a_room_has_a_name_of_its_own() {
        for tenant in [TenantName::ONE, TenantName::of("a")] {
            for (topic, is_private) in [("a", false), ("a", true), ("private:a", false), ("", true)] {
                let given = Room { topic, is_private };
                assert_eq!(room(&tenant, &name(&tenant, given)), Some(given));
            }
            assert_eq!(room(&tenant, "~counts"), None);
        }
    }
}
