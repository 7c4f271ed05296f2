//! A node as it reads what the holder appends.

use super::{Sharing, SharingFigures};
use crate::engine::Context;
use crate::once::Once;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use walcast_cluster::{ClusterError, Entry, From, Read, Streams};
use walcast_replication::parcel::{Parcel, Unpacker};
use walcast_replication::{Config, Event, Interest, Slot, Stats, Stream, StreamError, StreamOptions};

/// Reads that wait to be looked at.
const READS_AHEAD: usize = 1;
/// A node that went on alone comes back when it has heard of a holder for this long: what it hears first may be from
/// before the others were out of reach, of a holder that is gone.
const HEARD_FOR: Duration = Duration::from_secs(1);
/// Pause before a reader is asked for again.
const READER_PAUSE: Duration = Duration::from_millis(500);

const APART: &str = "the other nodes are out of reach, and this one goes on by itself";
const TOGETHER: &str = "the other nodes are within reach again";
const REPLACED: &str = "another node reads the database's log now";
const BEHIND: &str = "this node was too slow, or what the nodes share was lost";
const UNREADABLE: &str = "what another node handed over cannot be read";

enum Heard {
    Read(Read),
    Away(ClusterError),
}

/// A slot of the node's own.
struct Own {
    stream: Stream,
    /// Since when a holder is heard of again.
    heard_since: Option<Instant>,
}

/// Everything that a follower is made of.
pub(crate) struct Following {
    pub(crate) context: Arc<Context>,
    pub(crate) interest: Arc<dyn Interest>,
    pub(crate) config: Config,
    pub(crate) options: StreamOptions,
    pub(crate) sharing: Sharing,
    pub(crate) figures: Arc<SharingFigures>,
    pub(crate) cancel: CancellationToken,
}

/// The events of the log in order, each once, whoever reads it.
pub(crate) struct Follower {
    following: Following,
    holder: JoinHandle<()>,
    reading: AbortHandle,
    heard: mpsc::Receiver<Heard>,
    stats: Arc<Stats>,
    unpacker: Unpacker,
    /// Entries that were read and not opened.
    entries: VecDeque<Entry>,
    /// The parcel that was opened and not looked into, yet.
    opened: Option<Parcel>,
    /// Events that come first.
    waiting: VecDeque<Event>,
    /// Tenure and number of the parcel that was opened last.
    last: Option<(u64, u64)>,
    /// Whether the last that was said is that changes arrive.
    is_live: bool,
    /// Whether the stream that began last ran before this node heard of it.
    has_joined: bool,
    once: Once,
    /// Whether the next stream that begins is older than what was told last.
    came_back: bool,
    own: Option<Own>,
    /// When an entry was heard last, or else the beginning.
    heard_at: Instant,
    /// Since when the others are out of reach.
    away_since: Option<Instant>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl Follower {
    /// Begins to follow. `holder` is waited for at the end.
    pub(crate) fn start(following: Following, holder: JoinHandle<()>) -> Self {
        let (tell, heard) = mpsc::channel(READS_AHEAD);
        let streams = Arc::clone(following.sharing.cluster.streams());
        let name = Arc::clone(&following.sharing.stream);
        let reading = tokio::spawn(read(streams, name, tell)).abort_handle();
        let stats: Arc<Stats> = Arc::default();
        following.context.set_stats(Arc::clone(&stats));
        Self {
            unpacker: Unpacker::new(Arc::clone(&following.interest), Arc::clone(&stats)),
            following,
            holder,
            reading,
            heard,
            stats,
            entries: VecDeque::new(),
            opened: None,
            waiting: VecDeque::new(),
            last: None,
            is_live: false,
            has_joined: false,
            once: Once::default(),
            came_back: false,
            own: None,
            heard_at: Instant::now(),
            away_since: None,
        }
    }

    /// The next event; `None` when all has ended. A call that is given up loses none.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.at_hand() {
                return Some(event);
            }
            let alone_at = self.alone_at();
            let own = async {
                match &mut self.own {
                    Some(own) => own.stream.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.following.cancel.cancelled() => {
                    self.end().await;
                    return None;
                }
                heard = self.heard.recv() => self.hear(heard),
                event = own => {
                    if let Some(event) = event
                        && self.once.passes(&event)
                    {
                        return Some(event);
                    }
                }
                () = tokio::time::sleep_until(alone_at.unwrap_or_else(Instant::now)), if alone_at.is_some() => {
                    self.go_alone();
                }
            }
        }
    }

    /// Whether the stream that began last ran before: other nodes had what came until then.
    pub(crate) fn has_joined(&self) -> bool {
        self.has_joined
    }

    /// What can be told without waiting.
    fn at_hand(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(event);
            }
            if let Some(parcel) = self.opened.take() {
                self.look_into(parcel);
                continue;
            }
            match self.unpacker.unpack() {
                Ok(Some(event)) => {
                    if let Some(event) = self.told(event) {
                        return Some(event);
                    }
                }
                Ok(None) => {
                    let entry = self.entries.pop_front()?;
                    self.open(entry);
                }
                Err(error) => {
                    tracing::error!(%error, "changes of other nodes were left out");
                    self.lose(UNREADABLE);
                }
            }
        }
    }

    /// When to go on alone, if nothing is heard until then.
    fn alone_at(&self) -> Option<Instant> {
        if self.own.is_some() {
            return None;
        }
        let sharing = &self.following.sharing;
        let in_silence = self.heard_at + sharing.patience_in_silence;
        Some(self.away_since.map_or(in_silence, |since| {
            in_silence.min(since + sharing.patience_when_away)
        }))
    }

    fn hear(&mut self, heard: Option<Heard>) {
        match heard {
            Some(Heard::Read(Read::Entries(entries))) => {
                self.away_since = None;
                self.heard_at = Instant::now();
                self.entries.extend(entries);
            }
            Some(Heard::Read(Read::Gap { after })) => {
                self.away_since = None;
                tracing::warn!(%after, "what came after this place of the shared stream is not kept any more");
                self.lose(BEHIND);
            }
            Some(Heard::Away(error)) => {
                if self.away_since.is_none() {
                    tracing::warn!(%error, "changes cannot be had from other nodes now");
                    self.away_since = Some(Instant::now());
                }
                if let Some(own) = &mut self.own {
                    own.heard_since = None;
                }
            }
            // It reads as long as somebody listens.
            None => {}
        }
    }

    fn open(&mut self, entry: Entry) {
        let parcel = match Parcel::open(entry.payload) {
            Ok(parcel) => parcel,
            Err(error) => {
                tracing::error!(%error, position = %entry.position, "changes of another node were left out");
                self.lose(UNREADABLE);
                return;
            }
        };
        if let Some((tenure, number)) = self.last {
            // Appended twice, or by a holder that had been replaced.
            if parcel.tenure < tenure || (parcel.tenure == tenure && parcel.number <= number) {
                return;
            }
            if parcel.tenure == tenure && parcel.number > number.saturating_add(1) {
                self.lose(BEHIND);
            }
        }
        self.last = Some((parcel.tenure, parcel.number));
        self.following
            .figures
            .packed_at_us
            .store(parcel.packed_at_us, Ordering::Relaxed);
        if let Some(own) = &mut self.own {
            let since = *own.heard_since.get_or_insert_with(Instant::now);
            if !parcel.is_streaming || since.elapsed() < HEARD_FOR {
                return;
            }
            self.come_back();
        }
        self.opened = Some(parcel);
    }

    /// Begins to unpack a parcel. When nothing was said of a stream that runs, that comes first, unless the parcel says
    /// it itself.
    fn look_into(&mut self, parcel: Parcel) {
        let (is_streaming, packed_to) = (parcel.is_streaming, parcel.packed_to);
        self.unpacker.begin(parcel);
        if self.is_live {
            return;
        }
        let first = match self.unpacker.unpack() {
            Ok(first) => first,
            Err(error) => {
                tracing::error!(%error, "changes of other nodes were left out");
                return;
            }
        };
        let says_it = matches!(first, Some(Event::Streaming { .. } | Event::Lost { .. }));
        if is_streaming && !says_it {
            self.unpacker.restart(packed_to);
            self.once.begin(packed_to);
            self.is_live = true;
            self.has_joined = true;
            self.waiting.push_back(Event::Streaming {
                start: packed_to,
                attempt: 1,
                is_resumed: false,
            });
        }
        if let Some(first) = first
            && let Some(first) = self.told(first)
        {
            self.waiting.push_back(first);
        }
        self.came_back = false;
    }

    /// What is to be said when this event was unpacked.
    fn told(&mut self, event: Event) -> Option<Event> {
        let is_older = self.came_back && matches!(event, Event::Streaming { .. });
        if !is_older && !self.once.passes(&event) {
            return None;
        }
        match &event {
            Event::Streaming { is_resumed, .. } => {
                if self.is_live && !is_resumed {
                    self.lose(REPLACED);
                }
                self.is_live = true;
                self.has_joined = false;
                self.waiting.push_back(event);
                self.waiting.pop_front()
            }
            Event::Lost { .. } => {
                self.is_live = false;
                Some(event)
            }
            // Nobody was told that anything arrives.
            _ => self.is_live.then_some(event),
        }
    }

    /// Changes may be missing here.
    fn lose(&mut self, why: &'static str) {
        if std::mem::take(&mut self.is_live) {
            self.waiting.push_back(Event::Lost {
                reason: Arc::new(StreamError::Switched(why)),
                retry_in_ms: 0,
                is_kept: false,
            });
        }
    }

    /// Makes a slot of this node's own.
    fn go_alone(&mut self) {
        tracing::warn!("no other node is heard of: changes are read with a slot of this node's own");
        self.lose(APART);
        let following = &self.following;
        let options = StreamOptions {
            slot: Slot::Temporary,
            guard: None,
            ..following.options.clone()
        };
        let stream = walcast_replication::spawn(
            following.config.clone(),
            options,
            Arc::clone(&following.interest),
            following.cancel.child_token(),
        );
        following.context.set_stats(stream.stats());
        following.figures.is_apart.store(true, Ordering::Relaxed);
        self.own = Some(Own {
            stream,
            heard_since: None,
        });
    }

    /// Leaves the slot of its own.
    fn come_back(&mut self) {
        tracing::info!("other nodes are heard of again: changes are read together");
        self.own = None;
        self.following.context.set_stats(Arc::clone(&self.stats));
        self.following.figures.is_apart.store(false, Ordering::Relaxed);
        // While it was alone the slot itself said what it did.
        self.is_live = true;
        self.lose(TOGETHER);
        self.came_back = true;
    }

    /// Waits until no slot of this node is left.
    async fn end(&mut self) {
        if let Some(own) = &mut self.own {
            while own.stream.next().await.is_some() {}
        }
        if !self.holder.is_finished()
            && let Err(error) = (&mut self.holder).await
        {
            tracing::error!(%error, "the reading of the database's log ended badly");
        }
    }
}

/// Reads all that is appended from now on.
async fn read(streams: Arc<dyn Streams>, name: Arc<str>, tell: mpsc::Sender<Heard>) {
    let mut reader = loop {
        match streams.read(&name, From::Now).await {
            Ok(reader) => break reader,
            Err(error) => {
                if tell.send(Heard::Away(error)).await.is_err() {
                    return;
                }
                tokio::time::sleep(READER_PAUSE).await;
            }
        }
    };
    loop {
        let heard = match reader.next().await {
            Ok(read) => Heard::Read(read),
            Err(error) => Heard::Away(error),
        };
        if tell.send(heard).await.is_err() {
            return;
        }
    }
}
