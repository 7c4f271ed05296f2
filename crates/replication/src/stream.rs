//! The stream: reads, decodes, confirms, and starts over when the connection breaks.

use crate::change::{Change, Relation, Transaction};
use crate::config::Config;
use crate::error::StreamError;
use crate::lsn::Lsn;
use crate::pgoutput::{self, Message};
use crate::queue::{self, Receiver, Sender};
use crate::session::{self, Session, Wanted};
use crate::stats::Stats;
use bytes::{BufMut, BytesMut};
use postgres_protocol::message::frontend;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Seconds between the Unix epoch and Postgres' (2000-01-01).
const POSTGRES_EPOCH: Duration = Duration::from_secs(946_684_800);
/// A stream that ran this long was a good one: the next failure starts with the shortest pause.
const STABLE_AFTER: Duration = Duration::from_secs(10);
/// How long to wait for Postgres to end its side when we stop, so that the slot is gone.
const FAREWELL: Duration = Duration::from_secs(3);
/// So many status intervals without a byte, although an answer was asked for, mean that the peer is gone.
const SILENT_INTERVALS: u32 = 4;

/// Says which tables are worth decoding.
pub trait Interest: Send + Sync {
    /// Whether rows of the table with this oid are wanted. Called for every row change: must be cheap.
    fn wants(&self, relation_oid: u32) -> bool;
}

/// Settings of a stream.
#[derive(Clone, Debug)]
pub struct StreamOptions {
    /// Publications to stream.
    pub publications: Vec<String>,
    /// Create a missing publication, empty, if the role may.
    pub create_publication: bool,
    /// Begin of the slot's name; a random suffix makes it unique. Lower-case letters, digits and `_`.
    pub slot_prefix: String,
    /// Events that may wait for the consumer.
    pub queue_changes: usize,
    /// Bytes of tuples that may wait for the consumer.
    pub queue_bytes: usize,
    /// How often the server is told how far we are, unless its `wal_sender_timeout` asks for more.
    pub status_interval_ms: u64,
    /// First pause before connecting again.
    pub backoff_min_ms: u64,
    /// Longest pause before connecting again.
    pub backoff_max_ms: u64,
    /// Longest message accepted.
    pub max_message_bytes: usize,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self {
            publications: vec!["supabase_realtime".to_owned()],
            create_publication: true,
            slot_prefix: "walcast".to_owned(),
            queue_changes: 4_096,
            queue_bytes: 32 * 1024 * 1024,
            status_interval_ms: 10_000,
            backoff_min_ms: 100,
            backoff_max_ms: 5_000,
            // Postgres itself builds no message of more than a gigabyte.
            max_message_bytes: 1 << 30,
        }
    }
}

/// What the consumer gets, in the order of the log.
#[derive(Debug)]
pub enum Event {
    /// A slot exists and START_REPLICATION was answered: whatever commits from now on is seen.
    Streaming {
        /// Where it begins.
        start: Lsn,
        /// Number of the connection, from 1.
        attempt: u64,
    },
    /// The connection could not be made, or was lost together with its slot: what commits until the next
    /// [`Event::Streaming`] is never seen.
    Lost {
        /// Why.
        reason: Arc<StreamError>,
        /// When it will be tried again.
        retry_in_ms: u64,
    },
    /// A row change.
    Change(Change),
    /// Tables were emptied.
    Truncate {
        /// Those that were announced before.
        relations: Vec<Arc<Relation>>,
        /// By which transaction.
        transaction: Transaction,
    },
    /// A transaction with at least one wanted change is complete.
    Commit {
        /// Which.
        transaction: Transaction,
        /// Position after its commit record.
        end: Lsn,
    },
}

/// The consumer's end. Dropping it stops the stream.
pub struct Stream {
    events: Receiver,
    stats: Arc<Stats>,
}

impl Stream {
    /// The next event; `None` when the stream was cancelled and its slot is gone.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.next().await
    }

    /// Figures of the connection.
    #[must_use]
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.stats)
    }
}

/// Starts a stream that runs until `cancel`.
#[must_use]
pub fn spawn(config: Config, options: StreamOptions, interest: Arc<dyn Interest>, cancel: CancellationToken) -> Stream {
    let stats = Arc::new(Stats::default());
    let (sender, events) = queue::channel(options.queue_changes, options.queue_bytes, &stats);
    let stream = Stream { events, stats: Arc::clone(&stats) };
    tokio::spawn(supervise(config, options, interest, cancel, sender, stats));
    stream
}

async fn supervise(
    config: Config,
    options: StreamOptions,
    interest: Arc<dyn Interest>,
    cancel: CancellationToken,
    sender: Sender,
    stats: Arc<Stats>,
) {
    let mut backoff_ms = options.backoff_min_ms;
    let mut attempt = 0;
    while !cancel.is_cancelled() && !sender.is_gone() {
        attempt += 1;
        let slot = format!("{}_{:016x}", options.slot_prefix, rand::random::<u64>());
        let wanted = Wanted {
            publications: &options.publications,
            create_publication: options.create_publication,
            slot: &slot,
            max_message_bytes: options.max_message_bytes,
        };
        let started = tokio::select! {
            // Dropping the attempt closes its connection, and with it goes a slot that was already made.
            () = cancel.cancelled() => return,
            session = Box::pin(Session::start(&config, &wanted)) => session,
        };
        let error = match started {
            Err(error) => error,
            Ok(session) => {
                let running = Instant::now();
                let event = Event::Streaming { start: session.start, attempt };
                if sender.send(event).await.is_err() {
                    return;
                }
                let mut reader = Reader::new(session, &options, &*interest, &sender, &stats);
                let ended = tokio::select! {
                    () = cancel.cancelled() => Ok(()),
                    ended = reader.run() => ended,
                };
                let Err(error) = ended else {
                    reader.say_farewell().await;
                    return;
                };
                stats.reconnects.fetch_add(1, Ordering::Relaxed);
                if running.elapsed() > STABLE_AFTER {
                    backoff_ms = options.backoff_min_ms;
                }
                error
            }
        };
        // Between half and all of the pause, so that many servers do not come back in step.
        let retry_in_ms = backoff_ms / 2 + rand::random_range(0..=backoff_ms.div_ceil(2));
        backoff_ms = (backoff_ms * 2).min(options.backoff_max_ms);
        if sender.send(Event::Lost { reason: Arc::new(error), retry_in_ms }).await.is_err() {
            return;
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(Duration::from_millis(retry_in_ms)) => {}
        }
    }
}

/// Reads one session.
struct Reader<'a> {
    session: Session,
    interest: &'a dyn Interest,
    sender: &'a Sender,
    stats: &'a Stats,
    status_interval: Duration,
    relations: HashMap<u32, Arc<Relation>>,
    transaction: Option<Current>,
    /// Everything before this has been handed to the consumer.
    handed: Lsn,
    heard: Instant,
}

/// The transaction being read.
struct Current {
    transaction: Transaction,
    rows: u32,
    /// A change of it was handed on.
    wanted: bool,
}

impl<'a> Reader<'a> {
    fn new(
        session: Session,
        options: &StreamOptions,
        interest: &'a dyn Interest,
        sender: &'a Sender,
        stats: &'a Stats,
    ) -> Self {
        let status_interval = Duration::from_millis(options.status_interval_ms.max(10));
        let handed = session.start;
        Self {
            // The server gives up after its timeout without a word from us, so three words fit into it.
            status_interval: session.sender_timeout.map_or(status_interval, |limit| status_interval.min(limit / 3)),
            session,
            interest,
            sender,
            stats,
            relations: HashMap::new(),
            transaction: None,
            handed,
            heard: Instant::now(),
        }
    }

    /// Runs until the connection breaks, or the consumer is gone (`Ok`).
    async fn run(&mut self) -> Result<(), StreamError> {
        let mut tick = interval(self.status_interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let before = self.session.wire.bytes_read;
            let message = tokio::select! {
                message = self.session.wire.read() => message?,
                _ = tick.tick() => {
                    let silent = self.heard.elapsed();
                    if silent > self.status_interval * SILENT_INTERVALS {
                        return Err(StreamError::Silent(u64::try_from(silent.as_millis()).unwrap_or(u64::MAX)));
                    }
                    // Asking for an answer finds out about a peer that is gone without a trace.
                    self.send_status(true).await?;
                    continue;
                }
            };
            self.heard = Instant::now();
            self.stats.bytes_read.fetch_add(self.session.wire.bytes_read - before, Ordering::Relaxed);
            match message.tag {
                b'd' => {
                    if let Some(event) = self.take_copy_data(&message.body).await?
                        && !self.hand_over(event, &mut tick).await?
                    {
                        return Ok(());
                    }
                }
                b'E' => return Err(self.ended_by(session::answer("streaming", &message))),
                b'N' | b'S' => {}
                b'c' => return Err(StreamError::Protocol("the server ended the stream".to_owned())),
                tag => return Err(session::unexpected(tag)),
            }
        }
    }

    /// Gives an event to the consumer. While it has no room we do not read, but go on telling the server that we
    /// live. False when the consumer is gone.
    async fn hand_over(&mut self, event: Event, tick: &mut tokio::time::Interval) -> Result<bool, StreamError> {
        let sending = self.sender.send(event);
        let mut sending = std::pin::pin!(sending);
        loop {
            tokio::select! {
                biased;
                sent = &mut sending => {
                    self.heard = Instant::now();
                    return Ok(sent.is_ok());
                }
                _ = tick.tick() => {
                    let status = status(self.handed, false)?;
                    self.session.wire.write(&status).await?;
                }
            }
        }
    }

    async fn take_copy_data(&mut self, data: &[u8]) -> Result<Option<Event>, StreamError> {
        let malformed = || StreamError::Protocol("a message of the replication stream".to_owned());
        let (kind, rest) = data.split_first().ok_or_else(malformed)?;
        match kind {
            b'w' => {
                let (header, message) = rest.split_at_checked(24).ok_or_else(malformed)?;
                let begin = u64_at(header, 0).ok_or_else(malformed)?;
                let end = u64_at(header, 8).ok_or_else(malformed)?;
                Stats::advance(&self.stats.received_lsn, Lsn(begin));
                Stats::advance(&self.stats.server_lsn, Lsn(end));
                self.take(message)
            }
            b'k' => {
                let end = Lsn(u64_at(rest, 0).ok_or_else(malformed)?);
                let wants_answer = rest.get(16).copied().ok_or_else(malformed)? != 0;
                Stats::advance(&self.stats.server_lsn, end);
                // Between transactions there is nothing before this position that we still wait for.
                if self.transaction.is_none() {
                    self.handed = self.handed.max(end);
                }
                if wants_answer {
                    self.send_status(false).await?;
                }
                Ok(None)
            }
            _ => Err(malformed()),
        }
    }

    fn take(&mut self, message: &[u8]) -> Result<Option<Event>, StreamError> {
        let decoded = pgoutput::decode(message).map_err(|error| StreamError::Protocol(error.to_string()))?;
        match decoded {
            Message::Begin { commit, commit_timestamp_us, xid } => {
                let transaction = Transaction { xid, commit, commit_timestamp_us };
                self.transaction = Some(Current { transaction, rows: 0, wanted: false });
                Ok(None)
            }
            Message::Commit { end } => {
                self.handed = self.handed.max(end);
                let ended = self.transaction.take().filter(|current| current.wanted);
                Ok(ended.map(|current| Event::Commit { transaction: current.transaction, end }))
            }
            Message::Relation(announced) => {
                let relation = Relation {
                    oid: announced.oid,
                    schema: announced.schema,
                    name: announced.name,
                    replica_identity: announced.replica_identity,
                    columns: announced.columns,
                    version: next_version(),
                };
                self.relations.insert(relation.oid, Arc::new(relation));
                Ok(None)
            }
            Message::Row(row) => self.take_row(row),
            Message::Truncate { relations } => {
                let Some(current) = &mut self.transaction else { return Ok(None) };
                let relations: Vec<_> = relations
                    .iter()
                    .filter(|oid| self.interest.wants(**oid))
                    .filter_map(|oid| self.relations.get(oid).cloned())
                    .collect();
                if relations.is_empty() {
                    return Ok(None);
                }
                current.wanted = true;
                Ok(Some(Event::Truncate { relations, transaction: current.transaction }))
            }
            Message::Origin | Message::Type { .. } | Message::Other(_) => Ok(None),
        }
    }

    fn take_row(&mut self, row: &[u8]) -> Result<Option<Event>, StreamError> {
        let oid = pgoutput::row_relation(row).map_err(|error| StreamError::Protocol(error.to_string()))?;
        let Some(current) = &mut self.transaction else {
            return Err(StreamError::Protocol("a row outside a transaction".to_owned()));
        };
        let index = current.rows;
        current.rows = current.rows.saturating_add(1);
        if !self.interest.wants(oid) {
            self.stats.changes_skipped.fetch_add(1, Ordering::Relaxed);
            return Ok(None);
        }
        let Some(relation) = self.relations.get(&oid) else {
            return Err(StreamError::Protocol(format!("a row of the relation {oid}, which was never announced")));
        };
        match pgoutput::decode_row(row) {
            Ok(action) => {
                current.wanted = true;
                self.stats.changes_decoded.fetch_add(1, Ordering::Relaxed);
                let relation = Arc::clone(relation);
                Ok(Some(Event::Change(Change { transaction: current.transaction, index, relation, action })))
            }
            Err(error) => {
                self.stats.changes_undecodable.fetch_add(1, Ordering::Relaxed);
                tracing::error!(
                    schema = %relation.schema, table = %relation.name, xid = current.transaction.xid, %error,
                    "a change was left out because it cannot be read"
                );
                Ok(None)
            }
        }
    }

    async fn send_status(&mut self, wants_answer: bool) -> Result<(), StreamError> {
        let status = status(self.handed, wants_answer)?;
        self.session.wire.write(&status).await?;
        Stats::advance(&self.stats.confirmed_lsn, self.handed);
        Ok(())
    }

    /// A publication that was dropped while we stream ends the stream at the first change made without it
    /// (`database.md 9.9`); only a new slot gets past that.
    fn ended_by(&self, error: StreamError) -> StreamError {
        match error {
            StreamError::Postgres { code, message, .. } if code == "42704" && message.contains("publication") => {
                let name = message.split('"').nth(1).unwrap_or_default().to_owned();
                StreamError::NoPublication { name, cause: "it was dropped while changes were streamed".to_owned() }
            }
            error => error,
        }
    }

    /// Ends the session and waits until the server has ended it, too: the temporary slot is then gone.
    async fn say_farewell(&mut self) {
        let mut out = BytesMut::new();
        frontend::copy_done(&mut out);
        frontend::terminate(&mut out);
        let _ = tokio::time::timeout(FAREWELL, async {
            if self.session.wire.write(&out).await.is_ok() {
                self.session.wire.drain().await;
            }
        })
        .await;
    }
}

/// Versions grow over all sessions, so that a consumer never takes a new session's relation for one it knows.
fn next_version() -> u64 {
    static VERSIONS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    VERSIONS.fetch_add(1, Ordering::Relaxed)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes)
}

/// A standby status update: written, flushed and applied up to `position`.
fn status(position: Lsn, wants_answer: bool) -> Result<BytesMut, StreamError> {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH + POSTGRES_EPOCH).unwrap_or_default();
    let now_us = u64::try_from(since_epoch.as_micros()).unwrap_or_default();
    let mut body = BytesMut::with_capacity(34);
    body.put_u8(b'r');
    for _ in 0..3 {
        body.put_u64(position.0);
    }
    body.put_u64(now_us);
    body.put_u8(u8::from(wants_answer));
    let mut out = BytesMut::with_capacity(40);
    frontend::CopyData::new(body.freeze())?.write(&mut out);
    Ok(out)
}
