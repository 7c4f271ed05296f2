//! Opens sockets and joins a channel on each.

use crate::latency::Latencies;
use crate::report::Report;
use crate::{Server, process, token};
use clap::Args;
use futures_util::StreamExt;
use futures_util::stream;
use serde_json::json;
use std::time::{Duration, Instant};
use walcast_client::{Channel, Client, Join};

/// How many sockets, and what they join with.
#[derive(Args)]
pub(crate) struct Options {
    /// Sockets to open, one channel each.
    #[arg(long, default_value_t = 1_000)]
    sockets: usize,
    /// Joins under way at a time.
    #[arg(long, default_value_t = 64)]
    parallel: usize,
    /// Join with a subscription to this published table of schema public.
    #[arg(long)]
    table: Option<String>,
    /// How long to hold the sockets before memory is read.
    #[arg(long, default_value_t = 2)]
    settle_s: u64,
}

pub(crate) async fn run(server: &Server, options: &Options) -> anyhow::Result<Report> {
    let key = token::mint(&server.secret, "anon", None)?;
    let before_kib = server.server_pid.and_then(process::resident_kib);
    let cpu_before_ms = server.server_pid.and_then(process::cpu_ms);
    let started = Instant::now();
    let joined: Vec<anyhow::Result<(Channel, u64)>> = stream::iter(0..options.sockets)
        .map(|number| join(server, options, &key, number))
        .buffer_unordered(options.parallel)
        .collect()
        .await;
    let took_s = started.elapsed().as_secs_f64();
    let cpu_after_ms = server.server_pid.and_then(process::cpu_ms);
    let mut report = Report::new("connect");
    let mut latencies = Latencies::default();
    let mut channels = Vec::with_capacity(joined.len());
    for outcome in joined {
        match outcome {
            Ok((channel, us)) => {
                latencies.record(us);
                channels.push(channel);
            }
            Err(error) => report.fault(error.to_string()),
        }
    }
    tokio::time::sleep(Duration::from_secs(options.settle_s)).await;
    let after_kib = server.server_pid.and_then(process::resident_kib);
    let [median, p99] = latencies.quantiles_ms([500, 990]);
    report.add("sockets", channels.len());
    report.add_rounded("joins_per_s", Some(channels.len() as f64 / took_s));
    report.add_rounded("connect_and_join_median_ms", Some(median));
    report.add_rounded("connect_and_join_p99_ms", Some(p99));
    let joins = channels.len().max(1) as f64;
    let grown = before_kib
        .zip(after_kib)
        .map(|(before, after)| after.saturating_sub(before) as f64 / joins);
    report.add_rounded("server_memory_per_connection_kib", grown);
    let spent = cpu_before_ms
        .zip(cpu_after_ms)
        .map(|(before, after)| after.saturating_sub(before) as f64 / joins);
    report.add_rounded("server_cpu_per_join_ms", spent);
    Ok(report)
}

async fn join(
    server: &Server,
    options: &Options,
    key: &str,
    number: usize,
) -> anyhow::Result<(Channel, u64)> {
    let started = Instant::now();
    let mut connection = walcast_client::Options::new(&server.url, key);
    connection.read_buffer_bytes = 1_024;
    let client = Client::connect(&connection).await?;
    let mut join = Join::default();
    if let Some(table) = &options.table {
        join = join.binding(json!({ "event": "*", "schema": "public", "table": table }));
    }
    let channel = client.join(&format!("realtime:bench-{number}"), &join).await?;
    Ok((channel, u64::try_from(started.elapsed().as_micros())?))
}
