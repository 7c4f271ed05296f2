//! Joins private channels, each of which a policy has to allow.

use crate::crowd::Entrant;
use crate::latency::Latencies;
use crate::report::Report;
use crate::{Server, process, token};
use anyhow::{Context, ensure};
use clap::Args;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use std::time::Instant;
use tokio_postgres::{Client, NoTls};

/// Who may be in which room; made anew by each run, and dropped after it.
const TABLE: &str = "walcast_bench_members";
const PARALLEL: usize = 32;

/// The load.
#[derive(Args)]
pub(crate) struct Options {
    /// Connection string of the database, as a role that may create tables and policies on `realtime.messages`.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: String,
    /// Sockets, each a user of its own that joins one channel after the other.
    #[arg(long, default_value_t = 100)]
    users: usize,
    /// Channels each of them joins, all different.
    #[arg(long, default_value_t = 100)]
    channels: usize,
}

fn room(user: usize, channel: usize) -> String {
    format!("bench-private-{user}-{channel}")
}

pub(crate) async fn run(server: &Server, options: &Options) -> anyhow::Result<Report> {
    ensure!(
        options.users > 0 && options.channels > 0,
        "users and channels are at least 1"
    );
    let (database, connection) = tokio_postgres::connect(&options.database_url, NoTls)
        .await
        .context("the database cannot be reached")?;
    tokio::spawn(connection);
    let backend: i32 = database.query_one("select pg_backend_pid()", &[]).await?.get(0);
    // The parent of any backend is the postmaster; only there if Postgres runs on this machine.
    let postmaster = u32::try_from(backend).ok().and_then(process::parent_of);
    set_up(&database, options).await?;
    let measured = measure(server, options, postmaster).await;
    database.batch_execute(&tear_down()).await?;
    measured
}

async fn measure(server: &Server, options: &Options, postmaster: Option<u32>) -> anyhow::Result<Report> {
    let entrants: Vec<(usize, Entrant)> = stream::iter(0..options.users)
        .map(async |user| {
            let key = token::mint(&server.secret, "authenticated", Some(&token::subject(user)))?;
            anyhow::Ok((user, Entrant::connect(&server.endpoint(&key)?).await?))
        })
        .buffer_unordered(PARALLEL)
        .try_collect()
        .await?;
    let server_cpu_before = server.server_pid.and_then(process::cpu_ms);
    let postgres_cpu_before = postmaster.and_then(process::family_cpu_ms);
    let started = Instant::now();
    let users = entrants
        .into_iter()
        .map(|(user, entrant)| join_all(user, entrant, options.channels));
    let outcomes = futures_util::future::join_all(users).await;
    let took_s = started.elapsed().as_secs_f64();

    let mut report = Report::new("private");
    let mut latencies = Latencies::default();
    let mut joins = 0_u64;
    for (us, fault) in outcomes {
        joins += us.len() as u64;
        us.into_iter().for_each(|us| latencies.record(us));
        if let Some(fault) = fault {
            report.fault(fault);
        }
    }
    let a_join = |before: Option<u64>, after: Option<u64>| {
        let spent = after?.saturating_sub(before?);
        Some(spent as f64 / joins.max(1) as f64)
    };
    let [median, p99] = latencies.quantiles_ms([500, 990]);
    report.add("users", options.users);
    report.add("joins", joins);
    report.add_rounded("joins_per_s", Some(joins as f64 / took_s));
    report.add_rounded("join_median_ms", Some(median));
    report.add_rounded("join_p99_ms", Some(p99));
    let server_cpu = server.server_pid.and_then(process::cpu_ms);
    report.add_rounded("server_cpu_per_join_ms", a_join(server_cpu_before, server_cpu));
    let postgres_cpu = postmaster.and_then(process::family_cpu_ms);
    report.add_rounded(
        "postgres_cpu_per_join_ms",
        a_join(postgres_cpu_before, postgres_cpu),
    );
    Ok(report)
}

/// The time of each join in microseconds, and what ended them early.
async fn join_all(user: usize, mut entrant: Entrant, channels: usize) -> (Vec<u64>, Option<String>) {
    let config = json!({ "private": true });
    let mut took_us = Vec::with_capacity(channels);
    for channel in 0..channels {
        let started = Instant::now();
        let topic = format!("realtime:{}", room(user, channel));
        if let Err(error) = entrant.join(&topic, &channel.to_string(), &config).await {
            return (took_us, Some(format!("user {user}: {error:#}")));
        }
        took_us.push(u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    (took_us, None)
}

async fn set_up(database: &Client, options: &Options) -> anyhow::Result<()> {
    let statements = format!(
        "{} create table public.{TABLE} (user_id uuid, room text, primary key (user_id, room));
         grant select on public.{TABLE} to authenticated;
         create policy {TABLE} on realtime.messages for select to authenticated using (exists (
           select from public.{TABLE} as m where m.user_id = (select auth.uid()) and m.room = realtime.topic()));",
        tear_down()
    );
    database
        .batch_execute(&statements)
        .await
        .context("setting up the policy failed; has the server made realtime.messages?")?;
    let insert = format!("insert into public.{TABLE} select $1::text::uuid, unnest($2::text[])");
    let insert = database.prepare(&insert).await?;
    for user in 0..options.users {
        let rooms: Vec<String> = (0..options.channels).map(|channel| room(user, channel)).collect();
        database
            .execute(&insert, &[&token::subject(user), &rooms])
            .await?;
    }
    database.batch_execute(&format!("analyze public.{TABLE}")).await?;
    Ok(())
}

fn tear_down() -> String {
    format!(
        "drop policy if exists {TABLE} on realtime.messages;
         drop table if exists public.{TABLE};"
    )
}
