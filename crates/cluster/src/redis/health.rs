//! Whether this node is in touch with the others, from what its two connections tell.

use crate::bus::Event;
use std::sync::{Mutex, PoisonError};
use tokio::sync::broadcast;
use tokio::time::Instant;

/// The connections that are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    /// What is published and asked.
    Commands,
    /// What is heard.
    Subscriptions,
}

#[derive(Debug, Default)]
struct Lines {
    commands: bool,
    subscriptions: bool,
    was_connected: bool,
    /// The last time that nothing was missed, when that is over.
    lost_at: Option<Instant>,
}

/// Tells what happens to the connections.
#[derive(Debug)]
pub(crate) struct Health {
    lines: Mutex<Lines>,
    events: broadcast::Sender<Event>,
}

impl Health {
    pub(crate) fn new() -> Self {
        let (events, _) = broadcast::channel(64);
        Self {
            lines: Mutex::default(),
            events,
        }
    }

    pub(crate) fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    pub(crate) fn is_connected(&self) -> bool {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.commands && lines.subscriptions
    }

    /// A connection is there and serves.
    pub(crate) fn up(&self, line: Line) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        match line {
            Line::Commands => lines.commands = true,
            Line::Subscriptions => lines.subscriptions = true,
        }
        if !(lines.commands && lines.subscriptions) {
            return;
        }
        let lost_at = lines.lost_at.take();
        let event = if lines.was_connected {
            let gap = lost_at.map(|at| at.elapsed()).unwrap_or_default();
            tracing::info!(?gap, "in touch with the other nodes again");
            Event::Resubscribed { gap }
        } else {
            lines.was_connected = true;
            Event::Connected
        };
        // Told under the lock, so that events come in the order they happen; without a listener it is told to nobody.
        _ = self.events.send(event);
    }

    /// A connection broke; it last served at that time.
    pub(crate) fn down(&self, line: Line, served: Instant, reason: &str) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let was_up = lines.commands && lines.subscriptions;
        match line {
            Line::Commands => lines.commands = false,
            Line::Subscriptions => lines.subscriptions = false,
        }
        let earlier = lines.lost_at.map_or(served, |at| at.min(served));
        lines.lost_at = Some(earlier);
        if was_up {
            tracing::warn!(reason, "out of touch with the other nodes");
            _ = self.events.send(Event::Lost {
                reason: reason.to_owned(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn one_broken_connection_is_a_loss_and_both_must_be_back() {
        let health = Health::new();
        let mut events = health.events();
        health.up(Line::Commands);
        assert!(!health.is_connected());
        health.up(Line::Subscriptions);
        assert_eq!(events.recv().await, Ok(Event::Connected));
        let served = Instant::now();
        tokio::time::advance(Duration::from_secs(1)).await;
        health.down(Line::Subscriptions, served, "closed");
        health.down(Line::Commands, Instant::now(), "closed");
        let reason = "closed".to_owned();
        assert_eq!(events.recv().await, Ok(Event::Lost { reason }));
        tokio::time::advance(Duration::from_secs(4)).await;
        health.up(Line::Subscriptions);
        assert!(!health.is_connected());
        health.up(Line::Commands);
        let gap = Duration::from_secs(5);
        assert_eq!(events.recv().await, Ok(Event::Resubscribed { gap }));
        assert!(events.try_recv().is_err());
    }
}
