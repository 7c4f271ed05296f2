//! Private rooms of several nodes, whose recent broadcasts are kept for all of them (decision 30).
//!
//! What is kept has one order, told by numbers. A node hands its own casts out at once and learns their numbers later, so
//! a position says two things: up to which number the node had heard, and how many of its own casts it had handed out.
//! Whoever comes back, to whichever node, is told what neither covers.

use crate::message::{Marks, Message};
use crate::parcel::Unreadable;
use crate::rooms::Recovered;
use crate::window::{Since, Unrecovered};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use walcast_protocol::{Frame, Version};

/// What a node's positions are made of.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Tells the nodes apart.
    node: u32,
    /// 0 until it is known.
    epoch: AtomicU64,
    /// The number of the node's last own cast.
    own: AtomicU64,
}

impl Shared {
    pub(crate) fn new(node: u32) -> Self {
        Self {
            node,
            epoch: AtomicU64::new(0),
            own: AtomicU64::new(0),
        }
    }

    pub(crate) fn set_epoch(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::Release);
    }

    /// The number of the next own cast.
    pub(crate) fn next_own(&self) -> u64 {
        self.own.fetch_add(1, Ordering::AcqRel) + 1
    }

    pub(crate) fn own(&self) -> u64 {
        self.own.load(Ordering::Acquire)
    }

    /// The position of what a room is handed now. None while it is not known what a client would have missed that came back
    /// with it.
    pub(crate) fn position(&self, heard: Option<u64>) -> Option<String> {
        let epoch = self.epoch.load(Ordering::Acquire);
        let heard = heard.filter(|_| epoch != 0)?;
        Some(format!("{epoch:x}:{:08x}:{}:{heard}", self.node, self.own()))
    }

    /// The frames that tell a member what it missed, in the order of their numbers.
    pub(crate) fn tell(
        &self,
        (version, topic): (Version, &str),
        catchup: &Catchup,
        recent: &RecentCasts<'_>,
    ) -> Recovered {
        let (first_heard, own) = catchup.finish(recent.last);
        let is_live = |cast: &KeptCast<'_>| match cast.stamp.own.filter(|_| cast.node == self.node) {
            Some(cast_here) => cast_here > own,
            None => cast.number >= first_heard,
        };
        let is_later = |cast: &KeptCast<'_>| match catchup.since {
            Since::Place { heard, .. } => cast.number > heard,
            Since::Timestamp(at_ms) => cast.at_ms >= at_ms,
            Since::Position { .. } => false,
        };
        let reaches = match catchup.since {
            Since::Position { .. } => return Err(Unrecovered::Elsewhere),
            Since::Place { epoch, .. } if epoch != recent.epoch => return Err(Unrecovered::Apart),
            Since::Place { .. } => recent.reaches,
            Since::Timestamp(at_ms) => recent.casts.first().is_some_and(|oldest| oldest.at_ms < at_ms),
        };
        if !reaches {
            return Err(Unrecovered::Gone);
        }
        // A position must not cover what comes live behind what is told.
        let covered = recent.casts.iter().find(|cast| is_live(cast));
        let covered = covered.map_or(u64::MAX, |live| live.number.saturating_sub(1));
        let due = recent
            .casts
            .iter()
            .filter(|cast| is_later(cast) && !is_live(cast) && catchup.is_wanted(cast.node, cast.stamp));
        let frame = |cast: &KeptCast<'_>| -> Option<Frame> {
            let position = format!(
                "{:x}:{:08x}:{own}:{}",
                recent.epoch,
                self.node,
                cast.number.min(covered)
            );
            let marks = Marks {
                position: Some(&position),
                is_replayed: true,
            };
            // What cannot be framed reached nobody.
            cast.message.encode_marked(version, topic, marks).ok().flatten()
        };
        Ok(due.filter_map(frame).collect())
    }
}

/// A cast that is kept for all nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptCast<'a> {
    /// Its place among those of the room.
    pub number: u64,
    /// Whose it was.
    pub node: u32,
    /// When, in milliseconds since 1970-01-01 UTC.
    pub at_ms: i64,
    /// What that node says of it.
    pub stamp: Stamp<'a>,
    /// What was cast.
    pub message: Message<'a>,
}

/// What a node says of a cast of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp<'a> {
    /// Its number among those of the node, whose members had it at once. None if it is a row, of which all nodes learn: their
    /// members have it when it has its number, and it does not matter which node was the first to hand it over.
    pub own: Option<u64>,
    /// The name of who cast it without wanting to hear it.
    pub by: Option<&'a str>,
}

/// What is kept of a room for all nodes.
#[derive(Clone, Debug, Default)]
pub struct RecentCasts<'a> {
    /// Another one when casts may have been lost.
    pub epoch: u64,
    /// The number of the last.
    pub last: u64,
    /// Those that were asked for, oldest first.
    pub casts: Vec<KeptCast<'a>>,
    /// Whether these are all after the number that was asked for.
    pub reaches: bool,
}

/// A cast on its way to where it is kept.
///
/// ```text
/// 8 bytes  its number among the node's own; 0 without one
/// 1 byte   length of the name of who cast it, then the name; 0 without one
/// the rest the packed message
/// ```
#[must_use]
pub fn pack_cast(Stamp { own, by }: Stamp<'_>, message: &Message<'_>) -> Vec<u8> {
    // A name has at most 128 bytes; a longer one is none.
    let by = by.unwrap_or_default();
    let length = u8::try_from(by.len()).unwrap_or(0);
    let packed = message.pack();
    let mut out = Vec::with_capacity(9 + by.len() + packed.len());
    out.extend_from_slice(&own.unwrap_or(0).to_be_bytes());
    out.push(length);
    if length > 0 {
        out.extend_from_slice(by.as_bytes());
    }
    out.extend_from_slice(&packed);
    out
}

/// Unpacks a cast.
///
/// # Errors
/// When it is none.
pub fn unpack_cast(packed: &[u8]) -> Result<(Stamp<'_>, Message<'_>), Unreadable> {
    let (own, rest) = packed.split_first_chunk().ok_or(Unreadable::CUT_OFF)?;
    let (&length, rest) = rest.split_first().ok_or(Unreadable::CUT_OFF)?;
    let (by, rest) = rest
        .split_at_checked(usize::from(length))
        .ok_or(Unreadable::CUT_OFF)?;
    let by = std::str::from_utf8(by).map_err(|_| Unreadable::NOT_TEXT)?;
    let stamp = Stamp {
        own: Some(u64::from_be_bytes(*own)).filter(|own| *own != 0),
        by: Some(by).filter(|by| !by.is_empty()),
    };
    Ok((stamp, Message::unpack(rest)?))
}

/// What is known of a live message of another node that is kept.
#[derive(Clone, Copy, Debug)]
pub struct Heard<'a> {
    /// Its place among those of the room.
    pub number: u64,
    /// Whose it is.
    pub node: u32,
    /// What that node says of it.
    pub stamp: Stamp<'a>,
}

/// A member that is told what it missed while it hears what is live: each message once.
#[derive(Debug)]
pub struct Catchup {
    state: Mutex<State>,
    /// The node's own casts up to this one were before the member came.
    own: u64,
    since: Since,
    /// Whose casts are left out.
    except: Option<Arc<str>>,
}

#[derive(Debug, Default)]
struct State {
    /// The first number it heard live from where it is kept.
    first_heard: Option<u64>,
    /// What has no higher number was told, or is not wanted.
    told: u64,
}

impl Catchup {
    pub(crate) fn new(own: u64, since: Since, except: Option<Arc<str>>) -> Self {
        Self {
            state: Mutex::default(),
            own,
            since,
            except,
        }
    }

    /// Whether the member is to be given a live message of another node.
    pub(crate) fn admits(&self, heard: &Heard<'_>) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if heard.number <= state.told {
            return false;
        }
        state.first_heard.get_or_insert(heard.number);
        self.is_wanted(heard.node, heard.stamp)
    }

    /// Whether the member has not heard a cast where it was before, by whom it came from.
    fn is_wanted(&self, cast_by: u32, stamp: Stamp<'_>) -> bool {
        let was_heard = matches!(self.since, Since::Place { node, own, .. }
            if cast_by == node && stamp.own.is_some_and(|cast| cast <= own));
        let is_excepted = self.except.is_some() && stamp.by == self.except.as_deref();
        !was_heard && !is_excepted
    }

    /// What is kept was read. Returns the first number that is heard live, and the last own cast that is not.
    fn finish(&self, last: u64) -> (u64, u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.first_heard.is_none() {
            // Those that are still on their way have been read.
            state.told = last;
        }
        (state.first_heard.unwrap_or(u64::MAX), self.own)
    }
}
