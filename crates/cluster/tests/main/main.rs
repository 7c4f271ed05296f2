//! What nodes share, in memory, through Redis and through a Redis cluster: the same tests for all, and what can go
//! wrong with Redis. Without redis-server or valkey-server all but the first are ignored, with the reason.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a broken fact may stop a test")]

mod bus;
mod counts;
mod faults;
mod fleet;
mod lease;
mod login;
mod presence;
mod recent;
mod stream;

use fleet::{Fleet, Kind};
use libtest_mimic::{Arguments, Trial};
use std::pin::Pin;
use walcast_testkit::Redis;

/// A test's name and what it does.
type Case<Given> = (&'static str, fn(Given) -> Pin<Box<dyn Future<Output = ()>>>);

/// A list of the tests of a module.
macro_rules! cases {
    ($($test:ident),* $(,)?) => {
        vec![$((stringify!($test), |given| Box::pin($test(given)))),*]
    };
}
pub(crate) use cases;

fn run(test: Pin<Box<dyn Future<Output = ()>>>) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}

fn main() {
    let arguments = Arguments::from_args();
    let has_redis = Redis::program().is_some();
    if !has_redis {
        println!("neither redis-server nor valkey-server is installed: the tests of Redis are skipped");
    }
    let mut trials = Vec::new();
    for kind in [Kind::Memory, Kind::Redis, Kind::RedisCluster] {
        for (name, test) in shared() {
            let trial = Trial::test(format!("{kind}::{name}"), move || {
                run(Box::pin(async move { test(Fleet::start(kind).await).await }));
                Ok(())
            });
            trials.push(trial.with_ignored_flag(kind != Kind::Memory && !has_redis));
        }
    }
    for (name, test) in of_redis() {
        let trial = Trial::test(format!("redis::{name}"), move || {
            run(test(()));
            Ok(())
        });
        trials.push(trial.with_ignored_flag(!has_redis));
    }
    libtest_mimic::run(&arguments, trials).exit();
}

/// What holds however nodes share.
fn shared() -> Vec<Case<Fleet>> {
    [
        bus::shared(),
        counts::shared(),
        lease::shared(),
        presence::shared(),
        recent::shared(),
        stream::shared(),
    ]
    .concat()
}

/// What can be wrong with a Redis.
fn of_redis() -> Vec<Case<()>> {
    [
        faults::all(),
        lease::of_redis(),
        login::all(),
        presence::of_redis(),
        recent::faults(),
        stream::of_redis(),
    ]
    .concat()
}
