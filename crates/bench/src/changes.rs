//! Inserts rows at a fixed rate and watches them arrive.

use crate::latency::Latencies;
use crate::report::Report;
use crate::{Server, process, token};
use anyhow::Context;
use clap::{Args, ValueEnum};
use futures_util::StreamExt;
use futures_util::stream;
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_postgres::NoTls;
use walcast_client::{Channel, Client, Event, Join};

/// The table of the load; dropped and made anew by each run.
const TABLE: &str = "walcast_bench_changes";

/// What row level security lets subscribers see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RowSecurity {
    /// Not enabled: everybody sees every row.
    None,
    /// Enabled, and a policy shows every row to everybody.
    All,
    /// Enabled: a row is shown to the user it belongs to.
    Own,
    /// As `own`, by a policy that no server can know: a function of the database decides.
    OwnByFunction,
}

/// The load.
#[derive(Args)]
pub(crate) struct Options {
    /// Connection string of the database, as a role that may create tables and policies.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: String,
    /// Sockets, each a user of its own with one subscription to the table.
    #[arg(long, default_value_t = 10)]
    subscribers: usize,
    /// Inserts a second.
    #[arg(long, default_value_t = 20)]
    rate: u64,
    /// Length of the load.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Row level security of the table.
    #[arg(long, value_enum, default_value = "none")]
    row_security: RowSecurity,
    /// Subscribe with `filter=user_id=eq.<own>`.
    #[arg(long)]
    filter_own: bool,
    /// How long to wait for the last changes after the last insert.
    #[arg(long, default_value_t = 10)]
    drain_s: u64,
}

/// What a subscriber saw.
#[derive(Default)]
struct Seen {
    latencies: Latencies,
    changes: u64,
    out_of_order: u64,
    repeated: u64,
    foreign: u64,
    closed: Option<String>,
}

#[derive(Deserialize)]
struct Data {
    record: Record,
}

#[derive(Deserialize)]
struct Record {
    id: u64,
    sent_us: u64,
    user_id: String,
}

pub(crate) async fn run(server: &Server, options: &Options) -> anyhow::Result<Report> {
    let (database, connection) = tokio_postgres::connect(&options.database_url, NoTls)
        .await
        .context("the database cannot be reached")?;
    tokio::spawn(connection);
    let backend: i32 = database.query_one("select pg_backend_pid()", &[]).await?.get(0);
    // The parent of any backend is the postmaster; only there if Postgres runs on this machine.
    let postmaster = u32::try_from(backend).ok().and_then(process::parent_of);
    database
        .batch_execute(&set_up(options.row_security))
        .await
        .context("setting up the table failed")?;

    let epoch = Instant::now();
    let expected_each = |user: usize| {
        let total = options.rate * options.seconds;
        match options.row_security {
            RowSecurity::None | RowSecurity::All if !options.filter_own => total,
            _ => (0..total)
                .filter(|insert| *insert % options.subscribers as u64 == user as u64)
                .count() as u64,
        }
    };
    let (finish, finished) = watch::channel(false);
    let channels: Vec<anyhow::Result<(usize, Channel)>> = stream::iter(0..options.subscribers)
        .map(|user| subscribe(server, options, user))
        .buffer_unordered(32)
        .collect()
        .await;
    let mut watchers = Vec::with_capacity(channels.len());
    for channel in channels {
        let (user, channel) = channel?;
        let own_only = options.row_security != RowSecurity::None && options.row_security != RowSecurity::All;
        watchers.push((
            user,
            tokio::spawn(watch(
                channel,
                user,
                own_only,
                expected_each(user),
                epoch,
                finished.clone(),
            )),
        ));
    }

    let server_cpu_before = server.server_pid.and_then(process::cpu_ms);
    let postgres_cpu_before = postmaster.and_then(process::family_cpu_ms);
    let started = Instant::now();
    let inserted = insert(&Arc::new(database), options, epoch).await?;
    let insert_s = started.elapsed().as_secs_f64();
    let deadline = tokio::time::sleep(Duration::from_secs(options.drain_s));
    let all_done = async {
        while watchers.iter().any(|(_, watcher)| !watcher.is_finished()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! { () = deadline => {}, () = all_done => {} }
    finish.send_replace(true);
    let server_cpu = server
        .server_pid
        .and_then(process::cpu_ms)
        .zip(server_cpu_before)
        .map(|(b, a)| b - a);
    let postgres_cpu = postmaster
        .and_then(process::family_cpu_ms)
        .zip(postgres_cpu_before)
        .map(|(b, a)| b - a);

    let mut report = Report::new("changes");
    let (mut latencies, mut delivered, mut expected) = (Latencies::default(), 0, 0);
    for (user, watcher) in watchers {
        let seen = watcher.await?;
        let due = expected_each(user);
        expected += due;
        delivered += seen.changes;
        if seen.changes != due {
            report.fault(format!("user {user} saw {} of {due} changes", seen.changes));
        }
        for (count, what) in [
            (seen.out_of_order, "out of order"),
            (seen.repeated, "twice"),
            (seen.foreign, "of somebody else"),
        ] {
            if count > 0 {
                report.fault(format!("user {user} saw {count} changes {what}"));
            }
        }
        if let Some(closed) = seen.closed {
            report.fault(format!("user {user}: {closed}"));
        }
        latencies.merge(seen.latencies);
    }
    report.add("subscribers", options.subscribers);
    report.add(
        "row_security",
        format!("{:?}", options.row_security).to_lowercase(),
    );
    report.add("offered_changes_per_s", options.rate);
    report.add_rounded("inserted_changes_per_s", Some(inserted as f64 / insert_s));
    report.add("delivered_messages", delivered);
    report.add("expected_messages", expected);
    report.add("measured_messages", latencies.count());
    let [median, p95, p99, longest] = latencies.quantiles_ms([500, 950, 990, 1_000]);
    report.add_rounded("latency_median_ms", Some(median));
    report.add_rounded("latency_p95_ms", Some(p95));
    report.add_rounded("latency_p99_ms", Some(p99));
    report.add_rounded("latency_max_ms", Some(longest));
    let per_change = |ms: u64| ms as f64 / inserted.max(1) as f64;
    report.add_rounded("server_cpu_per_change_ms", server_cpu.map(per_change));
    report.add_rounded("postgres_cpu_per_change_ms", postgres_cpu.map(per_change));
    Ok(report)
}

fn set_up(row_security: RowSecurity) -> String {
    let policy = match row_security {
        RowSecurity::None => String::new(),
        RowSecurity::All => policy("true"),
        RowSecurity::Own => policy("user_id = auth.uid()"),
        RowSecurity::OwnByFunction => policy(&format!("public.{TABLE}_is_own(user_id)")),
    };
    format!(
        "drop table if exists public.{TABLE} cascade;
         create table public.{TABLE} (
           id bigint generated always as identity primary key, user_id uuid not null, sent_us bigint not null, body text);
         create or replace function public.{TABLE}_is_own(owner uuid) returns boolean language plpgsql stable as
           'begin return owner::text = (nullif(current_setting(''request.jwt.claims'', true), '''')::json ->> ''sub''); end';
         grant select on public.{TABLE} to anon, authenticated, service_role;
         {policy}
         alter publication supabase_realtime add table public.{TABLE};"
    )
}

fn policy(using: &str) -> String {
    format!(
        "alter table public.{TABLE} enable row level security;
         create policy reading on public.{TABLE} for select to anon, authenticated using ({using});"
    )
}

async fn subscribe(server: &Server, options: &Options, user: usize) -> anyhow::Result<(usize, Channel)> {
    let subject = token::subject(user);
    let key = token::mint(&server.secret, "authenticated", Some(&subject))?;
    let client = Client::connect(&walcast_client::Options::new(&server.url, key)).await?;
    let mut binding = json!({ "event": "INSERT", "schema": "public", "table": TABLE });
    if options.filter_own {
        binding["filter"] = format!("user_id=eq.{subject}").into();
    }
    let mut channel = client
        .join("realtime:bench-changes", &Join::default().binding(binding))
        .await?;
    // Other servers answer the join before the subscription works: start when they say that it does.
    loop {
        match channel.next().await {
            Some(Event::System(system)) if system.status == "ok" => return Ok((user, channel)),
            Some(Event::System(system)) => {
                anyhow::bail!("user {user} could not subscribe: {}", system.message)
            }
            Some(_) => {}
            None => anyhow::bail!("user {user}: the channel ended before it was subscribed"),
        }
    }
}

async fn watch(
    mut channel: Channel,
    user: usize,
    own_only: bool,
    expected: u64,
    epoch: Instant,
    mut finished: watch::Receiver<bool>,
) -> Seen {
    let subject = token::subject(user);
    let mut seen = Seen::default();
    let mut last_id = 0;
    while seen.changes < expected {
        let event = tokio::select! {
            event = channel.next() => event,
            _ = finished.wait_for(|finished| *finished) => return seen,
        };
        match event {
            Some(Event::Change(change)) => {
                let now_us = u64::try_from(epoch.elapsed().as_micros()).unwrap_or(u64::MAX);
                let Ok(Data { record }) = serde_json::from_str(change.data.get()) else {
                    continue;
                };
                seen.changes += 1;
                seen.latencies.record(now_us.saturating_sub(record.sent_us));
                match record.id.cmp(&last_id) {
                    std::cmp::Ordering::Less => seen.out_of_order += 1,
                    std::cmp::Ordering::Equal => seen.repeated += 1,
                    std::cmp::Ordering::Greater => {}
                }
                last_id = record.id;
                seen.foreign += u64::from(own_only && record.user_id != subject);
            }
            Some(Event::Closed(closed)) => {
                seen.closed = Some(format!("{closed:?}"));
                return seen;
            }
            Some(Event::System(system)) if system.status != "ok" => {
                seen.closed = Some(system.message);
                return seen;
            }
            Some(_) => {}
            None => return seen,
        }
    }
    seen
}

/// Inserts on schedule; one that is late is not made up for by moving the schedule. Returns how many were made.
async fn insert(
    database: &Arc<tokio_postgres::Client>,
    options: &Options,
    epoch: Instant,
) -> anyhow::Result<u64> {
    let statement = Arc::new(
        database
            .prepare(&format!(
                "insert into public.{TABLE} (user_id, sent_us, body) values ($1::text::uuid, $2, 'x')"
            ))
            .await?,
    );
    let total = options.rate * options.seconds;
    let started = Instant::now();
    for number in 0..total {
        let due = started + Duration::from_micros(number * 1_000_000 / options.rate);
        tokio::time::sleep_until(due.into()).await;
        let owner = token::subject(usize::try_from(number)? % options.subscribers.max(1));
        let sent_us = i64::try_from(epoch.elapsed().as_micros())?;
        database.execute(&*statement, &[&owner, &sent_us]).await?;
    }
    Ok(total)
}
