//! One joined channel: a plain struct inside its socket's task.

use std::sync::Arc;
use std::time::{Duration, Instant};

use walcast_protocol::Ref;

use crate::attend::Attendance;
use crate::outbox::Gate;
use crate::private::Private;
use crate::relay::Relay;
use crate::subscribe::Wish;
use crate::token::{Claims, now_s};
use walcast_changes::Subscription;

/// A token and what it said when it was verified.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// As received; a repeated token is recognised by it (`protocol.md 4.3`).
    pub token: Arc<str>,
    /// What it says.
    pub claims: Arc<Claims>,
}

/// A joined channel.
pub struct Channel {
    /// As the client gave it at the join; null if it gave none (`protocol.md 2.2`).
    pub join_ref: Ref,
    /// The reference of the channel's replies and pushes: the join's `join_ref`, or its `ref` without one.
    pub reference: Ref,
    /// The way of its frames to the socket.
    pub gate: Arc<Gate>,
    /// Who uses it.
    pub credentials: Credentials,
    /// How long they may.
    pub lease: Lease,
    /// Its part in the room.
    pub relay: Relay,
    /// Its part in presence.
    pub attendance: Attendance,
    /// What is known of its rights; none for a public channel.
    pub private: Option<Box<Private>>,
    /// Its part in the change stream, if it asked for one. Boxed: most channels have none.
    pub casting: Option<Box<Casting>>,
}

/// A channel's part in the change stream.
pub struct Casting {
    /// What it asked for.
    pub wish: Arc<Wish>,
    /// Whether it has it.
    pub state: CastingState,
    /// The text of the last error it was told, so that a retry does not repeat it.
    pub last_error: Option<String>,
}

/// Whether a channel gets changes.
pub enum CastingState {
    /// It does.
    Active {
        /// Dropping it ends it.
        subscription: Arc<Subscription>,
        /// Whether a change of claims is under way.
        reauthorizing: bool,
    },
    /// An attempt to subscribe is under way, or waits for its turn.
    Trying,
    /// Nothing can make it, but perhaps other claims.
    Refused,
}

/// The time a token leaves (`protocol.md 4.2`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    expires_at_s: i64,
    /// How long the channel may outlive the token.
    grace_s: i64,
    warns: bool,
    /// When to look again.
    pub next_check: Instant,
}

/// What a look at the clock says about a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseState {
    /// Good, or within its grace; the lease has set its next check.
    Valid,
    /// Good, and it is time to say that it ends.
    Ending {
        /// Seconds left.
        seconds_left: i64,
    },
    /// Over.
    Expired {
        /// Seconds since then.
        seconds_ago: i64,
    },
}

/// A client is told this long before its token expires.
pub const WARNING_S: i64 = 30;

/// Wall clocks jump and machines sleep, so the time is looked at again at least this often.
const LONGEST_CHECK: Duration = Duration::from_secs(300);

impl Lease {
    /// A lease until the claim `exp` and a grace. One that is nearly over gives no warning: whoever sends such a
    /// token knows.
    pub fn new(expires_at_s: i64, grace_s: i64) -> Self {
        let left_s = expires_at_s.saturating_sub(now_s());
        let mut lease = Self {
            expires_at_s,
            grace_s,
            warns: left_s > WARNING_S,
            next_check: Instant::now(),
        };
        lease.schedule(left_s);
        lease
    }

    /// Looks at the clock; schedules the next look unless the lease is over.
    pub fn check(&mut self) -> LeaseState {
        let left_s = self.expires_at_s.saturating_sub(now_s());
        if left_s.saturating_add(self.grace_s) <= 0 {
            return LeaseState::Expired {
                seconds_ago: left_s.saturating_neg(),
            };
        }
        let ending = self.warns && left_s <= WARNING_S;
        if ending {
            self.warns = false;
        }
        self.schedule(left_s);
        if ending {
            LeaseState::Ending {
                seconds_left: left_s.max(0),
            }
        } else {
            LeaseState::Valid
        }
    }

    fn schedule(&mut self, left_s: i64) {
        let until_s = if self.warns {
            left_s.saturating_sub(WARNING_S)
        } else {
            left_s.saturating_add(self.grace_s)
        };
        let until = Duration::from_secs(u64::try_from(until_s).unwrap_or(0));
        self.next_check = Instant::now() + until.min(LONGEST_CHECK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due_in_s(lease: &Lease) -> u64 {
        // Rounded up: some of the first second is over by now.
        lease
            .next_check
            .saturating_duration_since(Instant::now())
            .as_secs()
            + 1
    }

    #[test]
    fn a_lease_is_looked_at_when_it_warns_when_it_ends_and_every_five_minutes() {
        for (left_s, due) in [(4, 4), (30, 30), (31, 1), (100, 70), (10_000, 300)] {
            let lease = Lease::new(now_s() + left_s, 0);
            assert!(
                (due..=due + 1).contains(&due_in_s(&lease)),
                "{left_s} s left: {}",
                due_in_s(&lease)
            );
        }
    }

    #[test]
    fn a_lease_warns_once_and_only_if_there_was_time_to() {
        let mut lease = Lease {
            expires_at_s: now_s() + 30,
            grace_s: 0,
            warns: true,
            next_check: Instant::now(),
        };
        assert!(matches!(
            lease.check(),
            LeaseState::Ending {
                seconds_left: 29..=30
            }
        ));
        assert_eq!(lease.check(), LeaseState::Valid);
        assert_eq!(Lease::new(now_s() + 4, 0).check(), LeaseState::Valid);
    }

    #[test]
    fn a_lease_is_over_in_the_second_of_its_end() {
        let over = |ago_s| Lease {
            expires_at_s: now_s() - ago_s,
            grace_s: 0,
            warns: false,
            next_check: Instant::now(),
        };
        assert!(matches!(
            over(0).check(),
            LeaseState::Expired { seconds_ago: 0..=1 }
        ));
        assert!(matches!(
            over(7).check(),
            LeaseState::Expired { seconds_ago: 7..=8 }
        ));
    }

    #[test]
    fn a_lease_with_a_grace_ends_later_and_warns_no_later() {
        let lease = |left_s| Lease {
            expires_at_s: now_s() + left_s,
            grace_s: 60,
            warns: true,
            next_check: Instant::now(),
        };
        assert!((70..=71).contains(&due_in_s(&Lease::new(now_s() + 100, 60))));
        let mut warned = lease(30);
        assert!(matches!(warned.check(), LeaseState::Ending { .. }));
        assert!((90..=91).contains(&due_in_s(&warned)));
        // The machine slept through the expiry.
        assert_eq!(lease(-5).check(), LeaseState::Ending { seconds_left: 0 });
        assert!(matches!(
            lease(-60).check(),
            LeaseState::Expired { seconds_ago: 60..=61 }
        ));
        assert_eq!(Lease::new(i64::MAX, i64::MAX).check(), LeaseState::Valid);
    }

    #[test]
    fn a_token_that_never_ends_is_no_overflow() {
        assert_eq!(Lease::new(i64::MAX, 0).check(), LeaseState::Valid);
        assert!(matches!(
            Lease::new(i64::MIN, 0).check(),
            LeaseState::Expired {
                seconds_ago: i64::MAX
            }
        ));
    }
}
