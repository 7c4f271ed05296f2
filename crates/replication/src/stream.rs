//! The stream as its consumer sees it, and how it starts over when the connection breaks.

use crate::change::{Change, Relation, Transaction};
use crate::config::Config;
use crate::error::StreamError;
use crate::lsn::Lsn;
use crate::queue::{self, Receiver, Sender};
use crate::reader::Reader;
use crate::session::{self, Prepared, Wanted};
use crate::slot::{Guard, Making, Slot};
use crate::stats::Stats;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// A stream that ran this long was a good one: the next failure starts with the shortest pause.
const STABLE_AFTER: Duration = Duration::from_secs(10);
/// How long to wait for Postgres to end its side when we stop, so that the slot is gone.
pub(crate) const FAREWELL: Duration = Duration::from_secs(3);

/// Says which tables are worth decoding.
pub trait Interest: Send + Sync {
    /// Whether rows of the table with this oid are wanted. Called for every row change: must be cheap.
    fn wants(&self, relation_oid: u32) -> bool;

    /// A table was announced, for the first time or anew: it may have another name now.
    fn announced(&self, relation: &Relation) {
        let _ = relation;
    }
}

/// Settings of a stream.
#[derive(Clone, Debug)]
pub struct StreamOptions {
    /// Publications to stream.
    pub publications: Vec<String>,
    /// Create a missing publication, empty, if the role may.
    pub create_publication: bool,
    /// Publications of one table each, made or corrected if the role may. Without one the stream runs without it.
    pub table_publications: Vec<TablePublication>,
    /// Begin of a temporary slot's name; a random suffix makes it unique. Lower-case letters, digits and `_`.
    pub slot_prefix: String,
    /// How long the slot lives.
    pub slot: Slot,
    /// A lock in the database that is held as long as the slot is used, so that one stream at a time does so.
    pub guard: Option<Guard>,
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

/// A publication that holds one table, with its partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablePublication {
    /// The publication.
    pub name: String,
    /// The table's schema.
    pub schema: String,
    /// The table.
    pub table: String,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self {
            publications: vec!["supabase_realtime".to_owned()],
            create_publication: true,
            table_publications: Vec::new(),
            slot_prefix: "walcast".to_owned(),
            slot: Slot::Temporary,
            guard: None,
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
        /// Whether a permanent slot goes on where it was: nothing is missing, and what was not settled comes again.
        is_resumed: bool,
    },
    /// The connection could not be made, or was lost. What commits until the next [`Event::Streaming`] is never seen,
    /// unless a permanent slot keeps it.
    Lost {
        /// Why.
        reason: Arc<StreamError>,
        /// When it will be tried again.
        retry_in_ms: u64,
        /// Whether a permanent slot is to be resumed, so that nothing is known to be lost until
        /// [`Event::Streaming`] tells.
        is_kept: bool,
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
    /// The next event; `None` when the stream was cancelled and its slot is gone, or left in peace if it is permanent.
    /// The slot may forget it at once.
    pub async fn next(&mut self) -> Option<Event> {
        let event = self.events.take().await;
        self.events.settle();
        event
    }

    /// As [`Stream::next`], but the slot keeps what is taken until [`Stream::settle`].
    pub async fn take(&mut self) -> Option<Event> {
        self.events.take().await
    }

    /// The next event if it is there already; the slot keeps it until [`Stream::settle`].
    pub fn take_ready(&mut self) -> Option<Event> {
        self.events.take_ready()
    }

    /// Everything that was taken is where it belongs: the slot may forget it.
    pub fn settle(&mut self) {
        self.events.settle();
    }

    /// Figures of the connection.
    #[must_use]
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.stats)
    }
}

/// Starts a stream that runs until `cancel`.
#[must_use]
pub fn spawn(
    config: Config,
    options: StreamOptions,
    interest: Arc<dyn Interest>,
    cancel: CancellationToken,
) -> Stream {
    let stats = Arc::new(Stats::default());
    let (sender, events) = queue::channel(options.queue_changes, options.queue_bytes, &stats);
    let stream = Stream {
        events,
        stats: Arc::clone(&stats),
    };
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
    let mut making = Making::first(&options.slot);
    loop {
        attempt += 1;
        let running = Instant::now();
        let Err(error) = Box::pin(connection(
            &config,
            &options,
            &mut making,
            &*interest,
            &cancel,
            &sender,
            &stats,
            attempt,
        ))
        .await
        else {
            return;
        };
        if running.elapsed() > STABLE_AFTER {
            backoff_ms = options.backoff_min_ms;
        }
        // Between half and all of the pause, so that many servers do not come back in step.
        let retry_in_ms = rand::random_range(backoff_ms / 2..=backoff_ms);
        backoff_ms = backoff_ms.saturating_mul(2).min(options.backoff_max_ms);
        let is_kept = making.resumes();
        let pause = async {
            let told = sender
                .send(Event::Lost {
                    reason: Arc::new(error),
                    retry_in_ms,
                    is_kept,
                })
                .await;
            tokio::time::sleep(Duration::from_millis(retry_in_ms)).await;
            told.is_ok()
        };
        tokio::select! {
            () = cancel.cancelled() => return,
            () = sender.closed() => return,
            true = pause => {}
            else => return,
        }
    }
}

/// One connection, until it breaks, or until the stream is to end (`Ok`).
#[expect(clippy::too_many_arguments, reason = "it is the body of one loop")]
async fn connection(
    config: &Config,
    options: &StreamOptions,
    making: &mut Making,
    interest: &dyn Interest,
    cancel: &CancellationToken,
    sender: &Sender,
    stats: &Stats,
    attempt: u64,
) -> Result<(), StreamError> {
    let stopped = async {
        tokio::select! {
            () = cancel.cancelled() => {}
            () = sender.closed() => {}
        }
    };
    let mut stopped = std::pin::pin!(stopped);
    let slot = match &options.slot {
        Slot::Temporary => format!("{}_{:016x}", options.slot_prefix, rand::random::<u64>()),
        Slot::Permanent { name, .. } => name.clone(),
    };
    let wanted = Wanted {
        publications: &options.publications,
        create_publication: options.create_publication,
        table_publications: &options.table_publications,
        slot: &slot,
        making: *making,
        guard: options.guard.as_ref(),
        may_evict: attempt == 1,
        max_message_bytes: options.max_message_bytes,
    };
    let prepared = tokio::select! {
        () = stopped.as_mut() => return Ok(()),
        prepared = Prepared::new(config, &wanted) => prepared?,
    };
    let cancel_key = prepared.cancel_key();
    let session = tokio::select! {
        () = stopped.as_mut() => {
            if let Ok(Err(error)) = timeout(FAREWELL, session::cancel(config, &cancel_key)).await {
                tracing::debug!(%error, "the making of the slot could not be cancelled; it ends by itself");
            }
            return Ok(());
        }
        session = prepared.stream(&wanted) => session?,
    };
    making.made();
    let mut reader = Reader::new(session, options, interest, sender, stats);
    tokio::select! {
        () = stopped.as_mut() => {}
        ended = reader.run(attempt) => {
            stats.reconnects.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = &ended {
                making.broke(error);
            }
            return ended.map(|_: Infallible| ());
        }
    }
    reader.say_farewell().await;
    Ok(())
}
