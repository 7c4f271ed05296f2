//! Reads one session: decodes what is wanted, hands it on, and tells the server how far we are.

use crate::change::{Change, Relation, Transaction};
use crate::error::StreamError;
use crate::lsn::Lsn;
use crate::pgoutput::{self, Message};
use crate::queue::Sender;
use crate::session::{self, Session};
use crate::stats::Stats;
use crate::stream::{Event, FAREWELL, Interest, StreamOptions};
use crate::wire::Backend;
use bytes::{BufMut, BytesMut};
use postgres_protocol::message::frontend;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

/// Seconds between the Unix epoch and Postgres' (2000-01-01).
const POSTGRES_EPOCH: Duration = Duration::from_secs(946_684_800);
/// Without a byte for so long, although answers were asked for, the peer is taken to be gone. Not sooner: a server that
/// decodes a large transaction of which it sends nothing answers only now and then.
const MIN_SILENCE: Duration = Duration::from_secs(60);
/// And when `wal_sender_timeout` is off, it does not answer at all then.
const SILENCE_WITHOUT_TIMEOUT: Duration = Duration::from_secs(300);
/// What precedes a message of the plugin: a letter, two positions and a time.
const XLOG_HEADER_BYTES: usize = 25;

/// Reads one session.
pub(crate) struct Reader<'a> {
    session: Session,
    interest: &'a dyn Interest,
    sender: &'a Sender,
    stats: &'a Stats,
    status_interval: Duration,
    silence_limit: Duration,
    relations: HashMap<u32, Arc<Relation>>,
    transaction: Option<Current>,
    /// Every transaction that ends before this has been read, and its events are in the queue or beyond.
    read_to: Lsn,
    /// The server asked how far we are, and the consumer was not yet done with all that was read.
    owes_answer: bool,
    /// Whether the last row was one that nobody wants.
    is_skipping: bool,
    last_read_bytes: u64,
    heard: Instant,
}

/// The transaction being read.
struct Current {
    transaction: Transaction,
    rows: u32,
    /// An event of it was handed on.
    wanted: bool,
}

impl Current {
    fn next_index(&mut self) -> u32 {
        let index = self.rows;
        self.rows = self.rows.saturating_add(1);
        index
    }
}

/// How long what nobody wants may pile up.
const PAUSE: Duration = Duration::from_millis(3);
/// After a read of less than this there is time to pause.
const SMALL_READ_BYTES: u64 = 32 * 1024;

/// What the message at the front of the buffer is.
enum Ahead {
    /// Nothing that can be told yet.
    Unknown,
    /// A row nobody wants.
    Unwanted,
    /// Anything else.
    Message,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(
        session: Session,
        options: &StreamOptions,
        interest: &'a dyn Interest,
        sender: &'a Sender,
        stats: &'a Stats,
    ) -> Self {
        let status_interval = Duration::from_millis(options.status_interval_ms.max(10));
        stats.begin(session.start, session.is_resumed);
        Self {
            // The server gives up after its timeout without a word from us, so three words fit into it.
            status_interval: session
                .sender_timeout
                .map_or(status_interval, |limit| status_interval.min(limit / 3)),
            silence_limit: session
                .sender_timeout
                .unwrap_or(SILENCE_WITHOUT_TIMEOUT)
                .max(MIN_SILENCE),
            read_to: session.start,
            session,
            interest,
            sender,
            stats,
            relations: HashMap::new(),
            transaction: None,
            owes_answer: false,
            heard: Instant::now(),
            is_skipping: false,
            last_read_bytes: 0,
        }
    }

    /// Runs until the connection breaks.
    pub(crate) async fn run(&mut self, attempt: u64) -> Result<Infallible, StreamError> {
        let mut tick = interval(self.status_interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let streaming = Event::Streaming {
            start: self.session.start,
            attempt,
            is_resumed: self.session.is_resumed,
        };
        self.hand_over(streaming, &mut tick).await?;
        loop {
            match self.look_ahead()? {
                Ahead::Unknown => self.wait(&mut tick).await?,
                Ahead::Unwanted => {
                    self.is_skipping = true;
                    self.session.wire.skip()?;
                }
                Ahead::Message => match self.session.wire.take()? {
                    Some(message) => self.take_message(&message, &mut tick).await?,
                    None => self.wait(&mut tick).await?,
                },
            }
        }
    }

    /// Finds out whether the next message is a row of a table nobody wants, before anything of the row is kept or
    /// has even arrived.
    fn look_ahead(&mut self) -> Result<Ahead, StreamError> {
        let Some(front) = self.session.wire.front()? else {
            return Ok(Ahead::Unknown);
        };
        if front.tag != b'd' {
            return Ok(Ahead::Message);
        }
        if front.begin.len()
            < front
                .body_bytes
                .min(XLOG_HEADER_BYTES + pgoutput::ROW_HEADER_BYTES)
        {
            return Ok(Ahead::Unknown);
        }
        let row = match front.begin.split_at_checked(XLOG_HEADER_BYTES) {
            Some(([b'w', ..], message)) => pgoutput::row_relation(message),
            _ => None,
        };
        match (row, &mut self.transaction) {
            (Some(oid), Some(current)) if !self.interest.wants(oid) => {
                current.next_index();
                self.stats.changes_skipped.fetch_add(1, Ordering::Relaxed);
                Ok(Ahead::Unwanted)
            }
            _ => Ok(Ahead::Message),
        }
    }

    /// Waits for bytes, and tells the server meanwhile that we live.
    async fn wait(&mut self, tick: &mut Interval) -> Result<(), StreamError> {
        // The server sends every row by itself. Waking for each costs far more than skipping it, so where nobody wants
        // what comes it may pile up for a moment.
        if self.is_skipping && self.last_read_bytes < SMALL_READ_BYTES && self.heard.elapsed() < PAUSE {
            self.session.wire.rest(PAUSE).await?;
        }
        let before = self.session.wire.bytes_read;
        tokio::select! {
            filled = self.session.wire.fill() => {
                filled?;
                self.heard = Instant::now();
                self.last_read_bytes = self.session.wire.bytes_read - before;
                self.stats.bytes_read.fetch_add(self.last_read_bytes, Ordering::Relaxed);
                Ok(())
            }
            () = self.sender.drained(), if self.owes_answer => {
                self.owes_answer = false;
                self.send_status(false).await
            }
            _ = tick.tick() => {
                let silent = self.heard.elapsed();
                if silent > self.silence_limit {
                    return Err(StreamError::Silent(u64::try_from(silent.as_millis()).unwrap_or(u64::MAX)));
                }
                // Asking for an answer finds out about a peer that is gone without a trace.
                self.send_status(true).await
            }
        }
    }

    async fn take_message(&mut self, message: &Backend, tick: &mut Interval) -> Result<(), StreamError> {
        match message.tag {
            b'd' => match self.take_copy_data(&message.body).await? {
                Some(event) => {
                    self.is_skipping = false;
                    self.hand_over(event, tick).await
                }
                None => Ok(()),
            },
            b'E' => Err(ended_by(session::answer("streaming", message))),
            b'N' | b'S' => Ok(()),
            // A server that is shut down ends the command without having ended the copy.
            b'c' | b'C' => Err(StreamError::Ended),
            tag => Err(session::unexpected(tag)),
        }
    }

    /// Gives an event to the consumer. While it has no room we do not read, but go on telling the server that we
    /// live.
    async fn hand_over(&mut self, event: Event, tick: &mut Interval) -> Result<(), StreamError> {
        let ends_at = if let Event::Commit { end, .. } = event {
            Some(end)
        } else {
            None
        };
        let sender = self.sender;
        let sending = sender.send(event);
        let mut sending = std::pin::pin!(sending);
        loop {
            tokio::select! {
                biased;
                sent = &mut sending => {
                    // Without a consumer the stream is about to be stopped.
                    if sent.is_err() {
                        std::future::pending::<()>().await;
                    }
                    break;
                }
                _ = tick.tick() => {
                    self.send_status(false).await?;
                    // What the server says meanwhile stays unread.
                    self.heard = Instant::now();
                }
            }
        }
        if let Some(end) = ends_at {
            self.read_to = self.read_to.max(end);
        }
        Ok(())
    }

    async fn take_copy_data(&mut self, data: &[u8]) -> Result<Option<Event>, StreamError> {
        let malformed = || StreamError::Protocol("a message of the replication stream".to_owned());
        match data.first() {
            Some(b'w') => {
                let (header, message) = data.split_at_checked(XLOG_HEADER_BYTES).ok_or_else(malformed)?;
                let begin = u64_at(header, 1).ok_or_else(malformed)?;
                let end = u64_at(header, 9).ok_or_else(malformed)?;
                Stats::advance(&self.stats.received_lsn, Lsn(begin));
                Stats::advance(&self.stats.server_lsn, Lsn(end));
                self.take(message)
            }
            Some(b'k') => {
                let end = Lsn(u64_at(data, 1).ok_or_else(malformed)?);
                let wants_answer = *data.get(17).ok_or_else(malformed)? != 0;
                Stats::advance(&self.stats.server_lsn, end);
                // Between transactions there is nothing before this position that we still wait for.
                if self.transaction.is_none() {
                    self.read_to = self.read_to.max(end);
                }
                if wants_answer {
                    self.send_status(false).await?;
                    self.owes_answer = self.confirmable() < self.read_to;
                }
                Ok(None)
            }
            _ => Err(malformed()),
        }
    }

    fn take(&mut self, message: &[u8]) -> Result<Option<Event>, StreamError> {
        let decoded = pgoutput::decode(message).map_err(|error| StreamError::Protocol(error.to_string()))?;
        match decoded {
            Message::Begin {
                commit,
                commit_timestamp_us,
                xid,
            } => {
                let transaction = Transaction {
                    xid,
                    commit,
                    commit_timestamp_us,
                };
                self.stats.advance_begun(commit, commit_timestamp_us);
                self.transaction = Some(Current {
                    transaction,
                    rows: 0,
                    wanted: false,
                });
                Ok(None)
            }
            Message::Commit { end } => {
                let ended = self.transaction.take().filter(|current| current.wanted);
                if ended.is_none() {
                    self.read_to = self.read_to.max(end);
                }
                Ok(ended.map(|current| Event::Commit {
                    transaction: current.transaction,
                    end,
                }))
            }
            Message::Relation(announced) => {
                let relation = Relation::of_next_version(announced);
                self.interest.announced(&relation);
                self.relations.insert(relation.oid, Arc::new(relation));
                Ok(None)
            }
            Message::Row(row) => self.take_row(row),
            Message::Truncate { relations } => {
                let Some(current) = &mut self.transaction else {
                    return Ok(None);
                };
                let relations: Vec<_> = relations
                    .iter()
                    .filter(|oid| self.interest.wants(**oid))
                    .filter_map(|oid| self.relations.get(oid).cloned())
                    .collect();
                if relations.is_empty() {
                    return Ok(None);
                }
                current.wanted = true;
                Ok(Some(Event::Truncate {
                    relations,
                    transaction: current.transaction,
                }))
            }
            Message::Origin | Message::Type { .. } | Message::Other(_) => Ok(None),
        }
    }

    fn take_row(&mut self, row: &[u8]) -> Result<Option<Event>, StreamError> {
        let oid = pgoutput::row_relation(row)
            .ok_or_else(|| StreamError::Protocol("a row without a table".to_owned()))?;
        let Some(current) = &mut self.transaction else {
            return Err(StreamError::Protocol("a row outside a transaction".to_owned()));
        };
        let index = current.next_index();
        let Some(relation) = self.relations.get(&oid) else {
            return Err(StreamError::Protocol(format!(
                "a row of the relation {oid}, which was never announced"
            )));
        };
        match pgoutput::decode_row(row) {
            Ok(action) => {
                current.wanted = true;
                self.stats.changes_decoded.fetch_add(1, Ordering::Relaxed);
                let relation = Arc::clone(relation);
                Ok(Some(Event::Change(Change {
                    transaction: current.transaction,
                    index,
                    relation,
                    action,
                })))
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

    /// Where the slot may begin again: the consumer is done with everything before it, or it concerns nobody.
    fn confirmable(&self) -> Lsn {
        if self.sender.is_settled() {
            return self.read_to;
        }
        // What is settled now may be of an earlier connection, even to another server.
        self.sender
            .settled()
            .max(self.stats.confirmed())
            .min(self.read_to)
    }

    async fn send_status(&mut self, wants_answer: bool) -> Result<(), StreamError> {
        let confirmed = self.confirmable();
        let status = status(self.read_to, confirmed, wants_answer)?;
        self.session.wire.write(&status).await?;
        Stats::advance(&self.stats.confirmed_lsn, confirmed);
        Ok(())
    }

    /// Ends the session and waits until the server has ended it, too: the temporary slot is then gone.
    pub(crate) async fn say_farewell(&mut self) {
        let mut out = BytesMut::new();
        frontend::copy_done(&mut out);
        frontend::terminate(&mut out);
        let _ = timeout(FAREWELL, async {
            if self.session.wire.write(&out).await.is_ok() {
                self.session.wire.drain().await;
            }
        })
        .await;
    }
}

/// A publication that was dropped while we stream ends the stream at the first change made without it
/// (`database.md 9.9`); only a new slot gets past that.
fn ended_by(error: StreamError) -> StreamError {
    match error {
        StreamError::Postgres { code, message, .. } if code == "42704" && message.contains("publication") => {
            let name = message.split('"').nth(1).unwrap_or_default().to_owned();
            StreamError::NoPublication {
                name,
                cause: "it was dropped while changes were streamed".to_owned(),
            }
        }
        error => error,
    }
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes)
}

/// A standby status update: written up to one position, flushed and applied up to another.
fn status(written: Lsn, applied: Lsn, wants_answer: bool) -> Result<BytesMut, StreamError> {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH + POSTGRES_EPOCH)
        .unwrap_or_default();
    let now_us = u64::try_from(since_epoch.as_micros()).unwrap_or_default();
    let mut body = BytesMut::with_capacity(34);
    body.put_u8(b'r');
    for position in [written, applied, applied] {
        body.put_u64(position.0);
    }
    body.put_u64(now_us);
    body.put_u8(u8::from(wants_answer));
    let mut out = BytesMut::with_capacity(40);
    frontend::CopyData::new(body.freeze())?.write(&mut out);
    Ok(out)
}
