//! A node's line to the other nodes of its process, which tests may cut.

use crate::bus::Event;
use crate::error::ClusterError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use tokio::sync::broadcast;
use tokio::time::Instant;

/// Events that wait for who listens to them.
const EVENTS: usize = 16;

pub(crate) struct Line {
    is_cut: AtomicBool,
    cut_at: Mutex<Option<Instant>>,
    events: broadcast::Sender<Event>,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            is_cut: AtomicBool::new(false),
            cut_at: Mutex::default(),
            events: broadcast::channel(EVENTS).0,
        }
    }
}

impl Line {
    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Acquire)
    }

    /// As an answer of the shelf.
    pub(crate) fn check(&self) -> Result<(), ClusterError> {
        if self.is_cut() {
            return Err(ClusterError::Away("the line is cut".to_owned()));
        }
        Ok(())
    }

    pub(crate) fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    pub(crate) fn cut(&self) {
        let mut cut_at = self.cut_at.lock().unwrap_or_else(PoisonError::into_inner);
        if cut_at.is_none() {
            *cut_at = Some(Instant::now());
            self.is_cut.store(true, Ordering::Release);
            let reason = "the line is cut".to_owned();
            // Nobody need listen.
            _ = self.events.send(Event::Lost { reason });
        }
    }

    pub(crate) fn mend(&self) {
        let mut cut_at = self.cut_at.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(since) = cut_at.take() {
            self.is_cut.store(false, Ordering::Release);
            let gap = since.elapsed();
            _ = self.events.send(Event::Resubscribed { gap });
        }
    }
}
