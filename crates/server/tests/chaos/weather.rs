//! Faults, as they follow from a seed.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::fmt;
use std::time::Duration;

pub(crate) const NODES: usize = 3;

/// What may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// `kill -9`, and a new process later.
    NodeKilled(usize),
    /// Halted, and let go on later: to the others it is dead, and then it is not.
    NodeHung(usize),
    /// `kill -9`: what it knew is lost.
    RedisKilled,
    /// `SHUTDOWN`.
    RedisStopped,
    /// Halted: connections stay and nothing answers.
    RedisHung,
    /// The connections that listen are closed.
    RedisDroppedListeners,
    /// The others are.
    RedisDroppedPublishers,
    /// A fast shutdown and a start.
    PostgresRestarted,
    /// An immediate shutdown and a start with recovery.
    PostgresCrashed,
    /// The replication connection ends.
    WalsenderEnded,
    /// Some clients lose their sockets.
    ClientsLost,
}

/// What can fail once at a time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    Node(usize),
    Redis,
    Postgres,
    Clients,
}

impl Fault {
    fn target(self) -> Target {
        match self {
            Self::NodeKilled(node) | Self::NodeHung(node) => Target::Node(node),
            Self::RedisKilled
            | Self::RedisStopped
            | Self::RedisHung
            | Self::RedisDroppedListeners
            | Self::RedisDroppedPublishers => Target::Redis,
            Self::PostgresRestarted | Self::PostgresCrashed | Self::WalsenderEnded => Target::Postgres,
            Self::ClientsLost => Target::Clients,
        }
    }

    fn any(rng: &mut StdRng) -> Self {
        match rng.random_range(0..16) {
            0..3 => Self::NodeKilled(rng.random_range(0..NODES)),
            3 | 4 => Self::NodeHung(rng.random_range(0..NODES)),
            5 => Self::RedisKilled,
            6 => Self::RedisStopped,
            7 => Self::RedisHung,
            8 => Self::RedisDroppedListeners,
            9 => Self::RedisDroppedPublishers,
            10 => Self::PostgresRestarted,
            11 => Self::PostgresCrashed,
            12 => Self::WalsenderEnded,
            _ => Self::ClientsLost,
        }
    }

    /// Some are over at once; the others last from shorter than anybody notices to longer than anybody waits.
    fn lasts(self, rng: &mut StdRng) -> Duration {
        let longest_ms = match self {
            Self::ClientsLost
            | Self::WalsenderEnded
            | Self::RedisDroppedListeners
            | Self::RedisDroppedPublishers => return Duration::ZERO,
            Self::PostgresRestarted | Self::PostgresCrashed => 2_000,
            Self::NodeKilled(_) | Self::RedisKilled | Self::RedisStopped => 6_000,
            Self::NodeHung(_) | Self::RedisHung => 9_000,
        };
        // Short ones are as likely as long ones.
        let scale = rng.random_range(0.0..1.0_f64).powi(2);
        Duration::from_millis(50) + Duration::from_millis(longest_ms).mul_f64(scale)
    }
}

/// A fault, when it begins and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gust {
    pub(crate) at: Duration,
    pub(crate) lasts: Duration,
    pub(crate) fault: Fault,
}

impl fmt::Display for Gust {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?} for {} ms", self.fault, self.lasts.as_millis())
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Weather {
    /// Whether the slot outlives its connection.
    pub(crate) is_slot_permanent: bool,
    /// In the order they begin. Two may fall together, but not on the same thing.
    pub(crate) gusts: Vec<Gust>,
}

impl Weather {
    pub(crate) fn of(seed: u64, lasts: Duration) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let is_slot_permanent = rng.random();
        let mut gusts: Vec<Gust> = Vec::new();
        let mut at = Duration::from_secs(1);
        loop {
            let fault = Fault::any(&mut rng);
            let gust = Gust {
                at,
                lasts: fault.lasts(&mut rng),
                fault,
            };
            // Time for what was restarted to be there again.
            let pause = Duration::from_secs(1);
            let is_free = gusts
                .iter()
                .all(|past| past.fault.target() != fault.target() || past.at + past.lasts + pause < at);
            if gust.at + gust.lasts > lasts {
                return Self {
                    is_slot_permanent,
                    gusts,
                };
            }
            if is_free {
                gusts.push(gust);
            }
            at += Duration::from_millis(rng.random_range(100..4_000));
        }
    }
}

#[test]
fn a_seed_says_all_of_the_weather() {
    let lasts = Duration::from_secs(300);
    let weather = Weather::of(7, lasts);
    assert_eq!(weather, Weather::of(7, lasts));
    assert_ne!(weather, Weather::of(8, lasts));
    assert!(weather.gusts.len() > 50 && weather.gusts.iter().all(|gust| gust.at + gust.lasts <= lasts));
}
