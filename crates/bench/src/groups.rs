//! Small rooms: each user has a channel of its own, which echoes, and shares another with five, and sends a message a
//! second on each. The workload the reference publishes its broadcast figures for.

use crate::crowd::{Crowd, Entrant, Senders};
use crate::frames::append_masked;
use crate::report::Report;
use crate::tally::Tally;
use crate::{Server, numbered, process, token};
use anyhow::{Context, ensure};
use clap::Args;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio_tungstenite::tungstenite::protocol::frame::coding::Data;
use url::Url;
use walcast_protocol::{Encoding, UserBroadcastPush, encode_user_broadcast_push};

/// Users of a shared channel.
const GROUP: u32 = 6;
const EVENT: &str = "message";
const PARALLEL: usize = 32;
const PATIENCE: Duration = Duration::from_secs(10);

/// The load.
#[derive(Args)]
pub(crate) struct Options {
    /// Users, a multiple of six; each receives seven messages for two it sends.
    #[arg(long, default_value_t = 1_200)]
    users: u32,
    /// Messages a second of each user, half of them to itself.
    #[arg(long, default_value_t = 2)]
    rate: u32,
    /// Bytes of a payload, a JSON object.
    #[arg(long, default_value_t = 100)]
    payload_bytes: usize,
    /// Length of the load.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

/// The two channels of a user.
#[derive(Clone, Copy)]
enum Room {
    Echo,
    Group,
}

impl Room {
    fn of(message: u64) -> Self {
        if message.is_multiple_of(2) {
            Self::Echo
        } else {
            Self::Group
        }
    }

    fn topic(self, user: u32) -> String {
        match self {
            Self::Echo => format!("realtime:bench-echo-{user}"),
            Self::Group => format!("realtime:bench-group-{}", user / GROUP),
        }
    }

    /// Reference of the user's join.
    fn join_ref(self) -> &'static str {
        match self {
            Self::Echo => "1",
            Self::Group => "2",
        }
    }

    fn receivers(self) -> u32 {
        match self {
            Self::Echo => 1,
            Self::Group => GROUP,
        }
    }
}

pub(crate) async fn run(server: &Server, options: &Options) -> anyhow::Result<Report> {
    ensure!(
        options.users > 0 && options.users.is_multiple_of(GROUP),
        "users come in groups of {GROUP}"
    );
    ensure!(options.rate > 0, "a user sends at least one message a second");
    ensure!(
        options.payload_bytes >= numbered::SHORTEST_BYTES,
        "a payload has at least {} bytes",
        numbered::SHORTEST_BYTES
    );
    let key = token::mint(&server.secret, "anon", None)?;
    let endpoint = server.endpoint(&key)?;
    let joining = Instant::now();
    let entrants: Vec<Entrant> = stream::iter(0..options.users)
        .map(|user| enter(&endpoint, user))
        .buffered(PARALLEL)
        .try_collect()
        .await?;
    let joining_s = joining.elapsed().as_secs_f64();
    let crowd = Crowd::gather(entrants, &Rc::new(Tally::new()), Senders::Many);
    let tally = crowd.tally();
    tally.record();

    let cpu_before_ms = server.server_pid.and_then(process::cpu_ms);
    let load_cpu_before_ms = process::cpu_ms(std::process::id());
    let started = Instant::now();
    let messages = send(&crowd, options, started).await?;
    let sending_s = started.elapsed().as_secs_f64();
    tally.settle(PATIENCE).await;
    let cpu_after_ms = server.server_pid.and_then(process::cpu_ms);
    let load_cpu_after_ms = process::cpu_ms(std::process::id());

    let deliveries = tally.deliveries();
    let each_us = |before: Option<u64>, after: Option<u64>| {
        let spent_ms = after?.saturating_sub(before?);
        Some(spent_ms as f64 * 1_000.0 / deliveries.max(1) as f64)
    };
    let mut report = Report::new("groups");
    report.add("users", options.users);
    report.add_rounded("joins_per_s", Some(f64::from(options.users) * 2.0 / joining_s));
    report.add("offered_messages_per_s", options.users * options.rate);
    report.add_rounded("sent_messages_per_s", Some(messages as f64 / sending_s));
    report.add_rounded("deliveries_per_s", Some(deliveries as f64 / sending_s));
    let [median, p95, p99, longest] = tally.recorded().quantiles_ms([500, 950, 990, 1_000]);
    report.add_rounded("latency_median_ms", Some(median));
    report.add_rounded("latency_p95_ms", Some(p95));
    report.add_rounded("latency_p99_ms", Some(p99));
    report.add_rounded("latency_max_ms", Some(longest));
    report.add_rounded("server_cpu_per_delivery_us", each_us(cpu_before_ms, cpu_after_ms));
    report.add_rounded(
        "load_cpu_per_delivery_us",
        each_us(load_cpu_before_ms, load_cpu_after_ms),
    );
    for fault in tally.take_faults() {
        report.fault(fault);
    }
    Ok(report)
}

async fn enter(endpoint: &Url, user: u32) -> anyhow::Result<Entrant> {
    let config = json!({ "broadcast": { "self": true }, "presence": { "enabled": false } });
    let mut entrant = Entrant::connect(endpoint).await?;
    for room in [Room::Echo, Room::Group] {
        entrant.join(&room.topic(user), room.join_ref(), &config).await?;
    }
    Ok(entrant)
}

/// Sends on schedule, all users in turn, until the time is over or something fails. Returns how many were sent.
async fn send(crowd: &Crowd, options: &Options, started: Instant) -> anyhow::Result<u64> {
    let per_s = u64::from(options.users) * u64::from(options.rate);
    let total = per_s * options.seconds;
    for message in 0..total {
        let due = started + Duration::from_micros(message * 1_000_000 / per_s);
        if Instant::now() < due {
            tokio::time::sleep_until(due.into()).await;
        }
        if crowd.tally().is_faulty() {
            return Ok(message);
        }
        let user = u32::try_from((message / 2) % u64::from(options.users))?;
        let room = Room::of(message);
        let number = crowd.tally().send(room.receivers());
        let push = UserBroadcastPush {
            event: EVENT.to_owned(),
            metadata: String::new(),
            encoding: Encoding::Json,
            payload: numbered::payload(number, options.payload_bytes).into(),
        };
        let frame = encode_user_broadcast_push(room.join_ref(), "3", &room.topic(user), &push)
            .context("the topic is too long")?;
        let mut bytes = Vec::new();
        append_masked(&mut bytes, Data::Binary, &frame)?;
        crowd.write(usize::try_from(user)?, &bytes).await?;
    }
    Ok(total)
}
