//! Three nodes, one Redis and one Postgres in bad weather: processes are killed and halted, Redis and Postgres go and
//! come back, clients lose their sockets, while rows are written, messages sent and presences tracked. The weather
//! follows from a seed, which is printed.
//!
//! What holds all the while: no channel hears anything twice or out of order, a client that comes back with the place
//! it had misses no row without a word, nobody sees the row of another, and no node's memory grows. Soon after the last
//! fault all that was written has been told, and everybody knows who is present.
//!
//! `WALCAST_CHAOS_SEED` chooses a weather, `random` any (the same one as always unless set), and `WALCAST_CHAOS_S` says
//! how long it lasts (40 seconds unless set).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy sees tests, not what they call"
)]

mod broadcasts;
mod log;
mod member;
mod node;
mod presence;
mod rows;
mod town;
mod weather;
mod writer;

use std::time::Duration;

use member::Members;
use tokio::time::timeout;
use town::Town;
use walcast_testkit::Redis;
use weather::Weather;
use writer::Writers;

/// The weather of every day: who changes something is not to find what another did. New ones come by hand.
const SEED: u64 = 31;
const MEMBERS: usize = 12;
/// This long after the last fault all nodes are ready, and everybody knows who is present.
const PRESENCE_LIMIT: Duration = Duration::from_secs(10);
/// And this long after that the last row has been told: nodes may have much to make up for, on a busy machine.
const ROWS_LIMIT: Duration = Duration::from_secs(30);
/// Much more than a node needs for what happens here; one that keeps what it should drop gets there within minutes.
const MEMORY_LIMIT_BYTES: u64 = 200 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_without_a_word_whatever_fails() {
    if Redis::program().is_none() {
        println!("skipped: neither redis-server nor valkey-server is installed");
        return;
    }
    let seed = match std::env::var("WALCAST_CHAOS_SEED").as_deref() {
        Ok("random") => rand::random(),
        _ => from_environment("WALCAST_CHAOS_SEED").unwrap_or(SEED),
    };
    let lasts = Duration::from_secs(from_environment("WALCAST_CHAOS_S").unwrap_or(40));
    println!(
        "the weather of WALCAST_CHAOS_SEED={seed}, for {} s",
        lasts.as_secs()
    );
    let weather = Weather::of(seed, lasts);
    let town = Town::build(&weather).await;
    let writers = Writers::start(&town);
    let members = Members::join(&town, seed, MEMBERS).await;

    town.weather_through(&weather, &members).await;
    town.log.note("the weather is fine again");
    let agreed = timeout(PRESENCE_LIMIT, async {
        town.is_ready().await;
        members.agree_on_who_is_present().await;
    });
    if agreed.await.is_err() {
        town.log.complain(format!(
            "not within {} s of the last fault all know who is present: {}",
            PRESENCE_LIMIT.as_secs(),
            members.missing()
        ));
    }
    town.log.note("all know who is present");
    let told = timeout(ROWS_LIMIT, async {
        let written = writers.finish().await;
        members.have_heard(&written).await;
    });
    if told.await.is_err() {
        town.log.complain(format!(
            "not within {} s all were told the last rows: {}",
            ROWS_LIMIT.as_secs(),
            members.missing()
        ));
    }
    town.log.note("all were told the last rows");
    let summary = members.leave().await;
    println!("{summary}");
    let peak_bytes = town.peak_memory_bytes();
    println!("memory of a node: {} MiB at most", peak_bytes >> 20);
    if peak_bytes > MEMORY_LIMIT_BYTES {
        town.log.complain(format!("a node took {} MiB", peak_bytes >> 20));
    }
    summary.shows_something(&town.log);
    town.log.judge(seed);
}

/// A number, if the variable is set.
fn from_environment(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok().filter(|text| !text.is_empty())?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} must be a number, but is `{text}`")),
    )
}
