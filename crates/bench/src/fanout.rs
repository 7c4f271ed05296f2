//! One sender, many receivers; beside a bare program that writes the same bytes to as many sockets.

use crate::bare::Bare;
use crate::crowd::{Crowd, Entrant, Senders};
use crate::frames::append_masked;
use crate::latency::Latencies;
use crate::report::Report;
use crate::tally::Tally;
use crate::{Server, numbered, process, token};
use anyhow::{Context, ensure};
use clap::Args;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio_tungstenite::tungstenite::protocol::frame::coding::Data;
use url::Url;
use walcast_protocol::{Encoding, UserBroadcastPush, encode_user_broadcast, encode_user_broadcast_push};

const TOPIC: &str = "realtime:bench-fanout";
const EVENT: &str = "message";
/// The join's reference.
const JOIN_REF: &str = "1";
/// How long what was sent last may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Load before a measurement begins.
const WARM_UP: Duration = Duration::from_millis(500);
/// Connects and joins under way at a time.
const PARALLEL: usize = 32;

/// Messages on their way at saturation.
const IN_FLIGHT: usize = 32;

/// The load.
#[derive(Args)]
pub(crate) struct Options {
    /// Sockets that receive; the sender is one more.
    #[arg(long, default_value_t = 1_000)]
    receivers: u32,
    /// Bytes of a payload, a JSON object.
    #[arg(long, default_value_t = 100)]
    payload_bytes: usize,
    /// At saturation: messages sent and not yet with everybody.
    #[arg(long, default_value_t = IN_FLIGHT)]
    in_flight: usize,
    /// At a fixed rate: messages a second.
    #[arg(long, default_value_t = 50)]
    rate: u64,
    /// Length of each measurement; there are two a round and server.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Rounds, in which the two servers take turns; figures are medians over them.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Measure the server alone, without the bare program.
    #[arg(long)]
    without_bare: bool,
}

/// A server and its crowd.
struct Side {
    pid: Option<u32>,
    crowd: Crowd,
    /// Whether the sender pushes, or sends what receivers get.
    is_bare: bool,
    /// Whether the load is to end. It must end by itself: cut off in the middle of a frame, it would lose a message.
    is_over: Cell<bool>,
    saturated: Vec<Measured>,
    paced: Vec<Measured>,
    latencies: Latencies,
}

/// One measurement.
struct Measured {
    deliveries_per_s: f64,
    server_cpu_us: Option<f64>,
    load_cpu_us: Option<f64>,
}

pub(crate) async fn run(server: &Server, options: &Options) -> anyhow::Result<Report> {
    ensure!(
        options.payload_bytes >= numbered::SHORTEST_BYTES,
        "a payload has at least {} bytes",
        numbered::SHORTEST_BYTES
    );
    ensure!(
        options.receivers > 0 && options.rate > 0 && options.in_flight > 0 && options.rounds > 0,
        "receivers, rate, messages in flight and rounds are at least 1"
    );
    let key = token::mint(&server.secret, "anon", None)?;
    let endpoints = server.endpoints(&key)?;
    let mut sides = vec![Side::open(&endpoints, server.server_pid, false, options).await?];
    let bare = if options.without_bare {
        None
    } else {
        Some(Bare::start().await?)
    };
    if let Some(bare) = &bare {
        sides.push(
            Side::open(
                std::slice::from_ref(&bare.endpoint),
                Some(bare.pid),
                true,
                options,
            )
            .await?,
        );
    }
    for _ in 0..options.rounds {
        for side in &mut sides {
            side.saturate(options).await?;
            side.pace(options).await?;
        }
    }
    let mut report = Report::new("fanout");
    report.add("receivers", options.receivers);
    report.add("payload_bytes", options.payload_bytes);
    report.add("in_flight", options.in_flight);
    report.add("rate_per_s", options.rate);
    let served = sides.remove(0).describe("", &mut report);
    if let Some(bare) = sides.pop() {
        let bare = bare.describe("bare_", &mut report);
        let ratio = |ours: Option<f64>, bare: Option<f64>| Some(ours? / bare?);
        report.add_rounded(
            "saturated_deliveries_ratio",
            ratio(served.deliveries_per_s, bare.deliveries_per_s),
        );
        report.add_rounded(
            "paced_server_cpu_ratio",
            ratio(served.server_cpu_us, bare.server_cpu_us),
        );
    }
    Ok(report)
}

/// What the bare program does with a load.
pub(crate) struct Baseline {
    pub(crate) saturated_deliveries_per_s: Option<f64>,
    pub(crate) paced_server_cpu_us: Option<f64>,
}

/// Measures the bare program alone, with messages of `frame_bytes` on the wire: as many as it delivers, and `rate` a
/// second.
///
/// # Errors
/// If it loses one.
pub(crate) async fn baseline(
    receivers: u32,
    frame_bytes: usize,
    rate: f64,
    seconds: u64,
) -> anyhow::Result<Baseline> {
    let header = encode_user_broadcast(TOPIC, EVENT, "", Encoding::Json, b"");
    let header_bytes = header.context("the topic is too long")?.len();
    let options = Options {
        receivers,
        payload_bytes: frame_bytes
            .saturating_sub(header_bytes)
            .max(numbered::SHORTEST_BYTES),
        in_flight: IN_FLIGHT,
        rate: rate.round().max(1.0) as u64,
        seconds,
        rounds: 1,
        without_bare: false,
    };
    let bare = Bare::start().await?;
    let mut side = Side::open(
        std::slice::from_ref(&bare.endpoint),
        Some(bare.pid),
        true,
        &options,
    )
    .await?;
    side.saturate(&options).await?;
    side.pace(&options).await?;
    Ok(Baseline {
        saturated_deliveries_per_s: median(&side.saturated, |measured| Some(measured.deliveries_per_s)),
        paced_server_cpu_us: median(&side.paced, |measured| measured.server_cpu_us),
    })
}

/// What the ratios are made of.
struct Essence {
    deliveries_per_s: Option<f64>,
    server_cpu_us: Option<f64>,
}

impl Side {
    async fn open(
        endpoints: &[Url],
        pid: Option<u32>,
        is_bare: bool,
        options: &Options,
    ) -> anyhow::Result<Self> {
        let config = json!({ "broadcast": { "self": false }, "presence": { "enabled": false } });
        let config = &config;
        let enter = |endpoint| async move {
            let mut entrant = Entrant::connect(endpoint).await?;
            if is_bare {
                entrant.be_seated().await?;
            } else {
                entrant.join(TOPIC, JOIN_REF, config).await?;
            }
            anyhow::Ok(entrant)
        };
        // The first is the sender.
        let entrants = stream::iter((0..=options.receivers).zip(endpoints.iter().cycle()))
            .map(|(_, endpoint)| enter(endpoint))
            .buffered(PARALLEL)
            .try_collect()
            .await?;
        Ok(Self {
            pid,
            crowd: Crowd::gather(entrants, &Rc::new(Tally::new()), Senders::One),
            is_bare,
            is_over: Cell::new(false),
            saturated: Vec::new(),
            paced: Vec::new(),
            latencies: Latencies::default(),
        })
    }

    /// As much as the server delivers, with a fixed number of messages on their way.
    async fn saturate(&mut self, options: &Options) -> anyhow::Result<()> {
        let load = async {
            let tally = self.crowd.tally();
            while !self.is_over.get() && !tally.is_faulty() {
                if tally.in_flight() < options.in_flight {
                    self.send(options).await?;
                } else {
                    tally.moved().await;
                }
            }
            anyhow::Ok(())
        };
        let measured = self.measure(load, options).await?;
        self.saturated.push(measured);
        Ok(())
    }

    /// What a delivery costs and how long it takes at a fixed rate.
    async fn pace(&mut self, options: &Options) -> anyhow::Result<()> {
        self.crowd.tally().record();
        let load = async {
            let started = Instant::now();
            for number in 0.. {
                let due = started + Duration::from_micros(number * 1_000_000 / options.rate);
                tokio::time::sleep_until(due.into()).await;
                if self.is_over.get() || self.crowd.tally().is_faulty() {
                    break;
                }
                self.send(options).await?;
            }
            anyhow::Ok(())
        };
        let measured = self.measure(load, options).await?;
        self.latencies.merge(self.crowd.tally().recorded());
        self.paced.push(measured);
        Ok(())
    }

    /// Looks at the counters while a load runs that ends when it is over, then waits until everything has arrived.
    async fn measure(
        &self,
        load: impl Future<Output = anyhow::Result<()>>,
        options: &Options,
    ) -> anyhow::Result<Measured> {
        let tally = self.crowd.tally();
        let clocks = || {
            (
                Instant::now(),
                tally.deliveries(),
                self.pid.and_then(process::cpu_ms),
                process::cpu_ms(std::process::id()),
            )
        };
        let watch = async {
            tokio::time::sleep(WARM_UP).await;
            let before = clocks();
            tokio::time::sleep(Duration::from_secs(options.seconds)).await;
            (before, clocks())
        };
        self.is_over.set(false);
        let mut load = pin!(load);
        let (before, after) = tokio::select! {
            ended = &mut load => {
                ended?;
                let faults = tally.take_faults().join("; ");
                anyhow::bail!("the load ended early: {faults}");
            }
            clocks = watch => clocks,
        };
        self.is_over.set(true);
        if let Ok(ended) = tokio::time::timeout(PATIENCE, load).await {
            ended?;
        }
        tally.settle(PATIENCE).await;
        let faults = tally.take_faults();
        ensure!(faults.is_empty(), "{}", faults.join("; "));
        let deliveries = (after.1 - before.1) as f64;
        ensure!(deliveries > 0.0, "nothing was delivered");
        let each_us = |before: Option<u64>, after: Option<u64>| {
            let spent_ms = after?.saturating_sub(before?);
            Some(spent_ms as f64 * 1_000.0 / deliveries)
        };
        Ok(Measured {
            deliveries_per_s: deliveries / after.0.duration_since(before.0).as_secs_f64(),
            server_cpu_us: each_us(before.2, after.2),
            load_cpu_us: each_us(before.3, after.3),
        })
    }

    async fn send(&self, options: &Options) -> anyhow::Result<()> {
        let number = self.crowd.tally().send(options.receivers);
        let payload = numbered::payload(number, options.payload_bytes);
        let frame = if self.is_bare {
            encode_user_broadcast(TOPIC, EVENT, "", Encoding::Json, payload.as_bytes())
        } else {
            let push = UserBroadcastPush {
                event: EVENT.to_owned(),
                metadata: String::new(),
                encoding: Encoding::Json,
                payload: payload.into(),
            };
            encode_user_broadcast_push(JOIN_REF, "2", TOPIC, &push)
        };
        let mut bytes = Vec::new();
        append_masked(&mut bytes, Data::Binary, &frame.context("the topic is too long")?)?;
        self.crowd.write(0, &bytes).await
    }

    fn describe(mut self, prefix: &str, report: &mut Report) -> Essence {
        let deliveries_per_s = median(&self.saturated, |measured| Some(measured.deliveries_per_s));
        let server_cpu_us = median(&self.paced, |measured| measured.server_cpu_us);
        let [p50, p99, longest] = self.latencies.quantiles_ms([500, 990, 1_000]);
        let figures = [
            ("saturated_deliveries_per_s", deliveries_per_s),
            (
                "saturated_server_cpu_per_delivery_us",
                median(&self.saturated, |measured| measured.server_cpu_us),
            ),
            (
                "saturated_load_cpu_per_delivery_us",
                median(&self.saturated, |measured| measured.load_cpu_us),
            ),
            (
                "paced_deliveries_per_s",
                median(&self.paced, |measured| Some(measured.deliveries_per_s)),
            ),
            ("paced_server_cpu_per_delivery_us", server_cpu_us),
            (
                "paced_load_cpu_per_delivery_us",
                median(&self.paced, |measured| measured.load_cpu_us),
            ),
            ("paced_latency_median_ms", Some(p50)),
            ("paced_latency_p99_ms", Some(p99)),
            ("paced_latency_max_ms", Some(longest)),
        ];
        for (name, figure) in figures {
            report.add_rounded(&format!("{prefix}{name}"), figure);
        }
        Essence {
            deliveries_per_s,
            server_cpu_us,
        }
    }
}

fn median(measured: &[Measured], figure: impl Fn(&Measured) -> Option<f64>) -> Option<f64> {
    let mut figures: Vec<f64> = measured.iter().filter_map(figure).collect();
    figures.sort_unstable_by(f64::total_cmp);
    figures.get(figures.len().saturating_sub(1) / 2).copied()
}
