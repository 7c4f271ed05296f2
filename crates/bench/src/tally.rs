//! Which messages were sent, and how many of those who were to get each one have.

use crate::latency::Latencies;
use std::cell::RefCell;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Shared by the one who sends and all who receive, on one thread.
pub(crate) struct Tally {
    epoch: Instant,
    counts: RefCell<Counts>,
    moved: Notify,
}

#[derive(Default)]
struct Counts {
    /// By number.
    sent: Vec<Sent>,
    /// Messages that everybody got.
    completed: usize,
    /// Deliveries there have to be, and those there have been.
    expected: u64,
    deliveries: u64,
    latencies: Option<Latencies>,
    faults: Vec<String>,
}

struct Sent {
    at_us: u64,
    /// Receivers it has not reached.
    missing: u32,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self {
            epoch: Instant::now(),
            counts: RefCell::default(),
            moved: Notify::new(),
        }
    }

    /// The time, as arrivals are given it.
    pub(crate) fn now_us(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// The number of a message that is sent now.
    pub(crate) fn send(&self, receivers: u32) -> u64 {
        let at_us = self.now_us();
        let mut counts = self.counts.borrow_mut();
        counts.expected += u64::from(receivers);
        counts.completed += usize::from(receivers == 0);
        counts.sent.push(Sent {
            at_us,
            missing: receivers,
        });
        counts.sent.len() as u64 - 1
    }

    /// A message reached one of its receivers.
    pub(crate) fn arrive(&self, number: u64, now_us: u64) {
        let mut counts = self.counts.borrow_mut();
        let sent = usize::try_from(number)
            .ok()
            .and_then(|number| counts.sent.get_mut(number));
        let Some(sent) = sent else {
            drop(counts);
            return self.fault(format!("message {number} arrived, which was never sent"));
        };
        let Some(missing) = sent.missing.checked_sub(1) else {
            drop(counts);
            return self.fault(format!("message {number} arrived more often than it should"));
        };
        sent.missing = missing;
        let latency_us = now_us.saturating_sub(sent.at_us);
        counts.deliveries += 1;
        if let Some(latencies) = &mut counts.latencies {
            latencies.record(latency_us);
        }
        if missing == 0 {
            counts.completed += 1;
            self.moved.notify_one();
        }
    }

    /// A promise was broken. Few are told apart: what follows the first ones is their consequence.
    pub(crate) fn fault(&self, fault: String) {
        const FAULTS: usize = 20;
        let mut counts = self.counts.borrow_mut();
        if counts.faults.len() < FAULTS {
            counts.faults.push(fault);
        }
        self.moved.notify_one();
    }

    /// Waits for a message that everybody has got, or a fault.
    pub(crate) async fn moved(&self) {
        self.moved.notified().await;
    }

    pub(crate) fn is_faulty(&self) -> bool {
        !self.counts.borrow().faults.is_empty()
    }

    /// Messages that somebody still waits for.
    pub(crate) fn in_flight(&self) -> usize {
        let counts = self.counts.borrow();
        counts.sent.len() - counts.completed
    }

    pub(crate) fn deliveries(&self) -> u64 {
        self.counts.borrow().deliveries
    }

    /// Deliveries that the messages sent so far amount to.
    pub(crate) fn expected(&self) -> u64 {
        self.counts.borrow().expected
    }

    /// The number the next message will have.
    pub(crate) fn next_number(&self) -> u64 {
        self.counts.borrow().sent.len() as u64
    }

    /// From now on latencies are recorded.
    pub(crate) fn record(&self) {
        self.counts.borrow_mut().latencies = Some(Latencies::default());
    }

    /// The latencies since [`Tally::record`].
    pub(crate) fn recorded(&self) -> Latencies {
        self.counts.borrow_mut().latencies.take().unwrap_or_default()
    }

    pub(crate) fn take_faults(&self) -> Vec<String> {
        std::mem::take(&mut self.counts.borrow_mut().faults)
    }

    /// Waits until everybody has got everything; what is missing after `patience` is a fault.
    pub(crate) async fn settle(&self, patience: Duration) {
        let settled = async {
            while self.in_flight() > 0 && !self.is_faulty() {
                self.moved().await;
            }
        };
        if tokio::time::timeout(patience, settled).await.is_err() {
            let missing = self.expected() - self.deliveries();
            self.fault(format!("{missing} deliveries are missing"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_in_flight_until_everybody_has_it() {
        let tally = Tally::new();
        let number = tally.send(2);
        tally.arrive(number, tally.now_us());
        assert_eq!((tally.in_flight(), tally.deliveries()), (1, 1));
        tally.arrive(number, tally.now_us());
        assert_eq!((tally.in_flight(), tally.deliveries()), (0, 2));
        assert!(!tally.is_faulty());
    }

    #[test]
    fn what_arrives_too_often_or_from_nowhere_is_a_fault() {
        let tally = Tally::new();
        tally.arrive(0, 0);
        let number = tally.send(1);
        tally.arrive(number, 0);
        tally.arrive(number, 0);
        assert_eq!((tally.take_faults().len(), tally.deliveries()), (2, 1));
    }

    #[tokio::test]
    async fn a_message_for_nobody_is_never_in_flight() {
        let tally = Tally::new();
        tally.send(0);
        tally.settle(Duration::ZERO).await;
        assert_eq!((tally.in_flight(), tally.expected()), (0, 0));
        assert!(!tally.is_faulty());
    }

    #[tokio::test]
    async fn what_never_arrives_is_a_fault() {
        let tally = Tally::new();
        tally.send(3);
        tally.settle(Duration::ZERO).await;
        assert_eq!(tally.take_faults(), ["3 deliveries are missing"]);
    }
}
