//! Checks that wait for a connection: in order, equal ones together.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, oneshot};

use crate::check::{Answer, Check};

/// As many checks go in one call at most.
const CALL_MAX: usize = 64;

/// Where a check is; for those whose patience ends before it has an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Stage {
    /// No connection was free yet.
    Waiting = 0,
    /// Postgres has been asked.
    Asked = 1,
    /// It was cancelled once for being slow, and waits for a connection with more patience.
    WaitingAgain = 2,
    /// Postgres has been asked again.
    AskedAgain = 3,
}

/// A check under way and those who wait for its answer.
pub(crate) struct Ticket {
    pub(crate) check: Arc<Check>,
    askers: Vec<oneshot::Sender<Answer>>,
    stage: Arc<AtomicU8>,
}

impl Ticket {
    pub(crate) fn answer(self, answer: &Answer) {
        for asker in self.askers {
            // Who has lost patience needs no answer.
            let _: Result<(), Answer> = asker.send(answer.clone());
        }
    }

    pub(crate) fn set_stage(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Relaxed);
    }

    fn is_awaited(&self) -> bool {
        self.askers.iter().any(|asker| !asker.is_closed())
    }
}

/// The asker's end of a [`Ticket`].
pub(crate) struct Awaited {
    pub(crate) answer: oneshot::Receiver<Answer>,
    stage: Arc<AtomicU8>,
}

impl Awaited {
    pub(crate) fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Relaxed) {
            0 => Stage::Waiting,
            1 => Stage::Asked,
            2 => Stage::WaitingAgain,
            _ => Stage::AskedAgain,
        }
    }
}

/// When Postgres last answered anything.
pub(crate) struct Pulse {
    started: Instant,
    last_ms: AtomicU64,
}

impl Pulse {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            last_ms: AtomicU64::new(0),
        }
    }

    pub(crate) fn beat(&self) {
        self.last_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// Whether there was an answer since `then_ms` of [`Self::now_ms`].
    pub(crate) fn has_beaten_since(&self, then_ms: u64) -> bool {
        self.last_ms.load(Ordering::Relaxed) >= then_ms
    }

    /// Milliseconds since this was made, at least 1.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis())
            .unwrap_or(u64::MAX)
            .max(1)
    }
}

/// A queue in front of some connections.
pub(crate) struct Lane {
    queue: Mutex<Queue>,
    filled: Notify,
    /// How many connections take from it.
    connections: usize,
    /// How many checks one call may have.
    call_max: usize,
}

#[derive(Default)]
struct Queue {
    tickets: VecDeque<Ticket>,
    /// Positions of the tickets that an equal check may join, counted from the first ticket there ever was.
    positions: HashMap<Arc<Check>, u64>,
    /// How many tickets have left at the front, less those that came back there.
    taken: u64,
    closed: bool,
}

impl Lane {
    /// For calls of many checks.
    pub(crate) fn of_batches(connections: u32) -> Self {
        Self::new(connections, CALL_MAX)
    }

    /// For one check a call.
    pub(crate) fn of_singles(connections: u32) -> Self {
        Self::new(connections, 1)
    }

    fn new(connections: u32, call_max: usize) -> Self {
        Self {
            queue: Mutex::new(Queue::default()),
            filled: Notify::new(),
            connections: usize::try_from(connections).unwrap_or(usize::MAX).max(1),
            call_max,
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing in here panics halfway.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins an equal check that no connection has taken yet, or else waits at the end. One that has been taken may
    /// have been decided before a change that this asker knows of.
    pub(crate) fn ask(&self, check: Check) -> Awaited {
        let (sender, answer) = oneshot::channel();
        let mut queue = self.queue();
        if queue.closed {
            let stage = Arc::new(AtomicU8::new(Stage::Waiting as u8));
            return Awaited { answer, stage };
        }
        let equal = queue.positions.get(&check).copied();
        if let Some(ticket) = equal.and_then(|position| queue.at(position)) {
            ticket.askers.push(sender);
            let stage = Arc::clone(&ticket.stage);
            return Awaited { answer, stage };
        }
        let stage = Arc::new(AtomicU8::new(Stage::Waiting as u8));
        let check = Arc::new(check);
        let position = queue.end();
        queue.positions.insert(Arc::clone(&check), position);
        queue.tickets.push_back(Ticket {
            check,
            askers: vec![sender],
            stage: Arc::clone(&stage),
        });
        drop(queue);
        self.filled.notify_one();
        Awaited { answer, stage }
    }

    /// Puts a ticket of another lane at the end.
    pub(crate) fn push(&self, ticket: Ticket) {
        ticket.set_stage(Stage::WaitingAgain);
        let mut queue = self.queue();
        queue.tickets.push_back(ticket);
        drop(queue);
        self.filled.notify_one();
    }

    /// Puts tickets back whose turn did not come.
    pub(crate) fn put_back(&self, tickets: Vec<Ticket>) {
        if tickets.is_empty() {
            return;
        }
        let mut queue = self.queue();
        for ticket in tickets.into_iter().rev() {
            ticket.set_stage(Stage::Waiting);
            queue.taken = queue.taken.wrapping_sub(1);
            queue.tickets.push_front(ticket);
        }
        drop(queue);
        self.filled.notify_one();
    }

    /// The checks of the next call, equal roles next to each other: a fair share of those that wait, so that all
    /// connections work. Waits until there is one; `None` once the lane is closed.
    pub(crate) async fn take(&self) -> Option<Vec<Ticket>> {
        loop {
            let filled = self.filled.notified();
            {
                let mut queue = self.queue();
                if queue.closed {
                    return None;
                }
                let share = queue.tickets.len().div_ceil(self.connections).min(self.call_max);
                let mut tickets = Vec::with_capacity(share);
                while tickets.len() < share {
                    let Some(ticket) = queue.pop() else { break };
                    if ticket.is_awaited() {
                        tickets.push(ticket);
                    }
                }
                if !queue.tickets.is_empty() {
                    self.filled.notify_one();
                }
                if !tickets.is_empty() {
                    tickets.sort_by(|a, b| a.check.asked.role.cmp(&b.check.asked.role));
                    return Some(tickets);
                }
                if !queue.tickets.is_empty() {
                    continue;
                }
            }
            filled.await;
        }
    }

    /// Ends [`Self::take`] for everybody; who still waits gets no answer.
    pub(crate) fn close(&self) {
        let mut queue = self.queue();
        queue.closed = true;
        queue.tickets.clear();
        queue.positions.clear();
        drop(queue);
        self.filled.notify_waiters();
    }
}

impl Queue {
    fn end(&self) -> u64 {
        self.taken.wrapping_add(self.tickets.len() as u64)
    }

    fn at(&mut self, position: u64) -> Option<&mut Ticket> {
        let index = usize::try_from(position.wrapping_sub(self.taken)).ok()?;
        self.tickets.get_mut(index)
    }

    fn pop(&mut self) -> Option<Ticket> {
        let ticket = self.tickets.pop_front()?;
        if self.positions.get(&ticket.check) == Some(&self.taken) {
            self.positions.remove(&ticket.check);
        }
        self.taken = self.taken.wrapping_add(1);
        Some(ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::To;
    use crate::rights::{Asked, Extensions};

    fn check(role: &str, topic: &str) -> Check {
        Check {
            asked: Asked {
                role: role.into(),
                topic: topic.into(),
                claims: "{}".into(),
                headers: "{}".into(),
            },
            to: To::Read(Extensions::Both),
        }
    }

    fn topics(tickets: &[Ticket]) -> Vec<&str> {
        tickets.iter().map(|ticket| &*ticket.check.asked.topic).collect()
    }

    #[tokio::test]
    async fn each_connection_takes_its_share() {
        let lane = Lane::of_batches(2);
        let _askers = ["a", "b", "c", "d", "e"].map(|topic| lane.ask(check("r", topic)));
        assert_eq!(topics(&lane.take().await.unwrap()), ["a", "b", "c"]);
        assert_eq!(topics(&lane.take().await.unwrap()), ["d"]);
        assert_eq!(topics(&lane.take().await.unwrap()), ["e"]);
    }

    #[tokio::test]
    async fn a_call_has_a_bounded_number_of_checks() {
        for (lane, most) in [(Lane::of_batches(1), CALL_MAX), (Lane::of_singles(1), 1)] {
            let _askers: Vec<Awaited> = (0..=CALL_MAX)
                .map(|number| lane.ask(check("r", &number.to_string())))
                .collect();
            assert_eq!(lane.take().await.unwrap().len(), most);
        }
    }

    #[tokio::test]
    async fn equal_roles_are_next_to_each_other() {
        let lane = Lane::of_batches(1);
        let _askers = [("b", "1"), ("a", "2"), ("b", "3"), ("a", "4")]
            .map(|(role, topic)| lane.ask(check(role, topic)));
        assert_eq!(topics(&lane.take().await.unwrap()), ["2", "4", "1", "3"]);
    }

    #[tokio::test]
    async fn an_equal_check_joins_one_that_waits_but_not_one_that_was_taken() {
        let lane = Lane::of_batches(2);
        let _first = ["same", "between"].map(|topic| lane.ask(check("r", topic)));
        let taken = lane.take().await.unwrap();
        assert_eq!(topics(&taken), ["same"]);
        let _second = lane.ask(check("r", "same"));
        // Those that come back at the front do not confuse which waits where.
        lane.put_back(taken);
        let _third = lane.ask(check("r", "same"));
        let tickets = lane.take().await.unwrap();
        assert_eq!(topics(&tickets), ["same", "between"]);
        assert_eq!(tickets[0].askers.len(), 1);
        let tickets = lane.take().await.unwrap();
        assert_eq!(topics(&tickets), ["same"]);
        assert_eq!(tickets[0].askers.len(), 2);
    }

    #[tokio::test]
    async fn nobody_asks_for_those_who_have_left() {
        let lane = Lane::of_batches(1);
        drop(lane.ask(check("r", "left")));
        let _stays = lane.ask(check("r", "stays"));
        assert_eq!(topics(&lane.take().await.unwrap()), ["stays"]);
    }

    #[tokio::test]
    async fn a_closed_lane_ends_those_who_take_and_those_who_wait() {
        let lane = Arc::new(Lane::of_batches(2));
        let taker = tokio::spawn({
            let lane = Arc::clone(&lane);
            async move { lane.take().await.is_none() }
        });
        tokio::task::yield_now().await;
        lane.close();
        assert!(taker.await.unwrap());
        assert!(lane.take().await.is_none());
        assert!(lane.ask(check("r", "late")).answer.await.is_err());
    }
}
