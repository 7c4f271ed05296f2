//! Bounded streams within a process.

use crate::error::ClusterError;
use crate::stream::{
    Bound, Entry, From, MAX_ENTRY_BYTES, Position, READ_BYTES, READ_ENTRIES, Read, Reader, Streams,
};
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt, ready};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// There is one generation: the stream lives as long as the process.
const GENERATION: u64 = 1;

struct Stream {
    kept: Mutex<Kept>,
    /// The number of the last entry.
    last: watch::Sender<u64>,
}

#[derive(Default)]
struct Kept {
    entries: VecDeque<Entry>,
    bytes: u64,
    last: u64,
    token: u64,
}

impl Stream {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The streams of the nodes of a process.
#[derive(Default)]
pub(crate) struct MemoryStreams {
    streams: Mutex<HashMap<String, Arc<Stream>>>,
}

impl MemoryStreams {
    fn stream(&self, name: &str) -> Arc<Stream> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let stream = streams.entry(name.to_owned()).or_insert_with(|| {
            Arc::new(Stream {
                kept: Mutex::default(),
                last: watch::Sender::new(0),
            })
        });
        Arc::clone(stream)
    }
}

impl Streams for MemoryStreams {
    fn append<'a>(
        &'a self,
        stream: &'a str,
        payload: &'a [u8],
        bound: Bound,
        token: u64,
    ) -> BoxFuture<'a, Result<Position, ClusterError>> {
        let append = || {
            check_length(payload)?;
            let stream = self.stream(stream);
            let mut kept = stream.kept();
            if token < kept.token {
                return Err(ClusterError::Fenced { token });
            }
            kept.token = token;
            kept.last += 1;
            let position = Position {
                generation: GENERATION,
                number: kept.last,
            };
            kept.bytes += payload.len() as u64;
            kept.entries.push_back(Entry {
                position,
                payload: Bytes::copy_from_slice(payload),
            });
            while kept.entries.len() > 1
                && (kept.entries.len() as u64 > bound.entries || kept.bytes > bound.bytes)
            {
                if let Some(dropped) = kept.entries.pop_front() {
                    kept.bytes -= dropped.payload.len() as u64;
                }
            }
            stream.last.send_replace(kept.last);
            Ok(position)
        };
        ready(append()).boxed()
    }

    fn read<'a>(
        &'a self,
        stream: &'a str,
        from: From,
    ) -> BoxFuture<'a, Result<Box<dyn Reader>, ClusterError>> {
        let stream = self.stream(stream);
        let position = match from {
            From::Oldest => None,
            From::After(position) => Some(position),
            From::Now => Some(Position {
                generation: GENERATION,
                number: stream.kept().last,
            }),
        };
        let reader = MemoryReader {
            last: stream.last.subscribe(),
            stream,
            position,
        };
        ready(Ok(Box::new(reader) as Box<dyn Reader>)).boxed()
    }
}

/// Refuses a payload that no stream takes.
pub(crate) fn check_length(payload: &[u8]) -> Result<(), ClusterError> {
    if payload.len() > MAX_ENTRY_BYTES {
        return Err(ClusterError::TooLong {
            what: "an entry of a stream",
            bytes: payload.len(),
            limit_bytes: MAX_ENTRY_BYTES,
        });
    }
    Ok(())
}

struct MemoryReader {
    stream: Arc<Stream>,
    last: watch::Receiver<u64>,
    /// None before the first entry, of a reader that takes what is kept.
    position: Option<Position>,
}

impl MemoryReader {
    fn take(&mut self) -> Option<Read> {
        let kept = self.stream.kept();
        let oldest = kept.entries.front()?.position;
        let skipped = match self.position {
            None => 0,
            // Of another process, or from a future that was lost.
            Some(after) if after.generation != GENERATION || after.number > kept.last => {
                self.position = None;
                return Some(Read::Gap { after });
            }
            Some(after) if after.number + 1 < oldest.number => {
                self.position = None;
                return Some(Read::Gap { after });
            }
            Some(after) => after.number + 1 - oldest.number,
        };
        let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let entries: Vec<Entry> = kept
            .entries
            .iter()
            .skip(skipped)
            .take(READ_ENTRIES)
            .take_while(|entry| {
                let is_room = bytes == 0 || bytes + entry.payload.len() <= READ_BYTES;
                bytes += entry.payload.len();
                is_room
            })
            .cloned()
            .collect();
        self.position = Some(entries.last()?.position);
        Some(Read::Entries(entries))
    }
}

impl Reader for MemoryReader {
    fn next(&mut self) -> BoxFuture<'_, Result<Read, ClusterError>> {
        async move {
            loop {
                self.last.borrow_and_update();
                if let Some(read) = self.take() {
                    return Ok(read);
                }
                // The sender lives in the stream that this reader holds.
                _ = self.last.changed().await;
            }
        }
        .boxed()
    }

    fn position(&self) -> Option<Position> {
        self.position
    }
}
