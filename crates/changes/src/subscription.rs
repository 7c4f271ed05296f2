//! A channel as the changes see it, and the handle the channel holds.

use crate::binding::Binding;
use crate::claims::{Claims, IdentityRef};
use crate::engine::Changes;
use crate::error::SubscribeError;
use crate::hold::Hold;
use crate::position::Position;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};
use walcast_protocol::{BindingEntry, Frame, Outlet, Ref, Version};

/// A channel's wish to hear changes.
pub struct Request {
    /// The socket's serializer.
    pub version: Version,
    /// Full topic, as this socket joined it.
    pub topic: Arc<str>,
    /// The channel's join reference, for `system` messages.
    pub join_ref: Ref,
    /// Changes go out as events `INSERT`, `UPDATE`, `DELETE` with the bare change (`protocol.md 3.6`).
    pub legacy: bool,
    /// The entries of `config.postgres_changes`, in request order.
    pub entries: Vec<BindingEntry>,
    /// Who is asking.
    pub claims: Arc<Claims>,
    /// Where frames go.
    pub outlet: Arc<dyn Outlet>,
}

/// One channel with at least one binding.
pub(crate) struct Subscriber {
    pub(crate) id: u64,
    pub(crate) version: Version,
    pub(crate) topic: Arc<str>,
    pub(crate) join_ref: Ref,
    pub(crate) legacy: bool,
    pub(crate) bindings: Vec<(u32, Binding)>,
    /// In microseconds since 1970-01-01 UTC.
    pub(crate) joined_at_us: i64,
    outlet: Arc<dyn Outlet>,
    identity: Arc<RwLock<IdentityRef>>,
    closed: Arc<AtomicBool>,
    /// Number of the first change this channel may see.
    since: AtomicU64,
    /// Keeps live changes back while missed ones are told.
    hold: Hold,
}

impl Subscriber {
    pub(crate) fn new(
        id: u64,
        request: &Request,
        bindings: Vec<(u32, Binding)>,
        identity: IdentityRef,
    ) -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            id,
            version: request.version,
            topic: Arc::clone(&request.topic),
            join_ref: request.join_ref.clone(),
            legacy: request.legacy,
            bindings,
            joined_at_us: i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX),
            outlet: Arc::clone(&request.outlet),
            identity: Arc::new(RwLock::new(identity)),
            closed: Arc::new(AtomicBool::new(false)),
            since: AtomicU64::new(u64::MAX),
            hold: Hold::default(),
        }
    }

    /// Positions of the bindings that mean a table of this name.
    pub(crate) fn naming<'a>(&'a self, schema: &'a str, table: &'a str) -> impl Iterator<Item = usize> + 'a {
        self.bindings
            .iter()
            .enumerate()
            .filter(move |(_, (_, binding))| binding.schema.matches(schema) && binding.table.matches(table))
            .map(|(at, _)| at)
    }

    /// The sub-topic, as `system` messages name the channel.
    pub(crate) fn channel(&self) -> &str {
        self.topic.strip_prefix("realtime:").unwrap_or(&self.topic)
    }

    pub(crate) fn identity(&self) -> IdentityRef {
        self.identity
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// To be called by the registry alone, which tells the tables.
    pub(crate) fn set_identity(&self, identity: IdentityRef) {
        *self.identity.write().unwrap_or_else(PoisonError::into_inner) = identity;
    }

    /// Lets the channel see changes numbered `since` and later.
    pub(crate) fn admit(&self, since: u64) {
        self.since.store(since, Ordering::Release);
    }

    /// Whether a change with this number came after the channel subscribed.
    pub(crate) fn may_see(&self, number: u64) -> bool {
        number >= self.since.load(Ordering::Acquire) && !self.is_closed()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(crate) fn deliver(&self, frame: Frame) {
        if !self.is_closed()
            && let Some(frame) = self.hold.pass(frame)
        {
            self.outlet.deliver(frame);
        }
    }

    /// Delivers a frame even if others are kept back.
    pub(crate) fn deliver_past_hold(&self, frame: Frame) {
        if !self.is_closed() {
            self.outlet.deliver(frame);
        }
    }

    /// Keeps back what is delivered until [`Subscriber::release`].
    pub(crate) fn hold(&self) {
        self.hold.begin();
    }

    /// Delivers what was kept back, and lets everything pass from now on.
    pub(crate) fn release(&self) {
        let is_whole = self.hold.end(|frame| {
            if !self.is_closed() {
                self.outlet.deliver(frame);
            }
        });
        if !is_whole {
            self.deliver(crate::notice::missed(
                self,
                "more was committed while missed changes were told than can be kept back",
            ));
        }
    }

    /// The same channel as a subscriber that is told what was missed: what it is given passes by what is kept back.
    pub(crate) fn past(&self, identity: IdentityRef) -> Self {
        Self {
            id: self.id,
            version: self.version,
            topic: Arc::clone(&self.topic),
            join_ref: self.join_ref.clone(),
            legacy: self.legacy,
            bindings: self.bindings.clone(),
            joined_at_us: self.joined_at_us,
            outlet: Arc::clone(&self.outlet),
            identity: Arc::new(RwLock::new(identity)),
            closed: Arc::clone(&self.closed),
            since: AtomicU64::new(0),
            hold: Hold::default(),
        }
    }

    /// Waits until the channel has room for more.
    pub(crate) async fn ready(&self) {
        self.outlet.ready().await;
    }
}

/// A living subscription. Dropping it ends it.
pub struct Subscription {
    changes: Changes,
    subscriber: Arc<Subscriber>,
    warnings: Mutex<Vec<String>>,
    start: Position,
}

impl Subscription {
    pub(crate) fn new(
        changes: Changes,
        subscriber: Arc<Subscriber>,
        warnings: Vec<String>,
        start: Position,
    ) -> Self {
        Self {
            changes,
            start,
            subscriber,
            warnings: Mutex::new(warnings),
        }
    }

    /// Whether it hears of these changes; others may be of an engine that has ended.
    #[must_use]
    pub fn is_of(&self, changes: &Changes) -> bool {
        self.changes.is(changes)
    }

    /// Goes on with other claims (`protocol.md 4.3`): the bindings are checked for the new role first.
    ///
    /// # Errors
    /// As [`Changes::subscribe`]. The subscription then keeps its old claims; the caller decides whether it ends.
    pub async fn reauthorize(&self, claims: Arc<Claims>) -> Result<(), SubscribeError> {
        let bindings: Vec<&Binding> = self
            .subscriber
            .bindings
            .iter()
            .map(|(_, binding)| binding)
            .collect();
        let checked = self.changes.check(&bindings, &claims).await?;
        *self.warnings.lock().unwrap_or_else(PoisonError::into_inner) = checked.warnings;
        let identity = self.changes.intern(&claims);
        self.changes.switch_identity(&self.subscriber, &identity);
        Ok(())
    }

    /// A position to come back with: what was committed after the subscription was made lies behind it.
    #[must_use]
    pub fn start(&self) -> Position {
        self.start
    }

    /// Reasons why some of the bindings will never deliver as things stand, each a sentence with its remedy.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        self.warnings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.subscriber.closed.store(true, Ordering::Release);
        self.changes.forget(&self.subscriber);
    }
}
