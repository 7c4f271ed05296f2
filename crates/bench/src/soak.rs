//! Visitors who come, do what visitors do, and go in every way there is, for as long as asked: what a server must not
//! do is grow.
//!
//! The server is looked at when nobody is there, before and after, and all the time in between. What it has in use at
//! rest after thousands of visits is what it had after the first few, or something leaks.

mod sample;
mod visit;

use crate::report::Report;
use crate::{Server, token};
use anyhow::{Context, ensure};
use clap::Args;
use futures_util::future::join_all;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use sample::{Sample, Watched};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio_postgres::{Client as Database, NoTls};
use tokio_util::sync::CancellationToken;
use visit::{Place, Visits};

/// What visitors subscribe to; made anew by each run, and dropped after it.
const TABLE: &str = "walcast_bench_soak";
/// Rows of the table are overwritten in turn, so that it does not grow either.
const ROWS: u64 = 1_000;
/// Memory at rest may be this much more than before: allocators keep some, and caches fill.
const SLACK_KIB: u64 = 8 * 1_024;
/// Everything visitors leave behind is gone by then.
const SETTLE: Duration = Duration::from_secs(60);

/// The load.
#[derive(Args)]
pub(crate) struct Options {
    /// Connection string of the database, as a role that may create tables.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: String,
    /// Visitors at a time.
    #[arg(long, default_value_t = 500)]
    visitors: u32,
    /// Rooms they come to.
    #[arg(long, default_value_t = 50)]
    rooms: u32,
    /// Length of a visit, on average.
    #[arg(long, default_value_t = 5_000)]
    visit_ms: u64,
    /// Rows written a second.
    #[arg(long, default_value_t = 50)]
    rate: u64,
    /// Churn before the server is looked at for the first time.
    #[arg(long, default_value_t = 60)]
    warm_up_s: u64,
    /// Churn between the first and the last look.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// What visitors do depends on this alone.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(crate) async fn run(server: &Server, options: &Options) -> anyhow::Result<Report> {
    ensure!(
        options.visitors > 0 && options.rooms > 0 && options.rate > 0 && options.visit_ms > 0,
        "visitors, rooms, rows a second and the length of a visit are at least 1"
    );
    let watched = Watched::new(server)?;
    let (database, connection) = tokio_postgres::connect(&options.database_url, NoTls)
        .await
        .context("the database cannot be reached")?;
    tokio::spawn(connection);
    set_up(&database).await?;
    let soaked = Box::pin(soak(server, options, &database, &watched)).await;
    database.batch_execute(&tear_down()).await?;
    soaked
}

async fn soak(
    server: &Server,
    options: &Options,
    database: &Database,
    watched: &Watched,
) -> anyhow::Result<Report> {
    let place = Arc::new(Place {
        options: walcast_client::Options::new(&server.url, token::mint(&server.secret, "anon", None)?),
        rooms: options.rooms,
        table: TABLE,
        visit_ms: options.visit_ms,
    });
    let visits = Arc::new(Visits::default());
    let warm_up = Duration::from_secs(options.warm_up_s);
    churn(&place, &visits, options, database, warm_up, async |_| Ok(())).await?;
    let before = at_rest(watched, None).await?;

    let mut samples = Vec::new();
    let length = Duration::from_secs(options.seconds);
    let started = Instant::now();
    churn(&place, &visits, options, database, length, async |stop| {
        let mut looks = tokio::time::interval((length / 40).max(Duration::from_secs(1)));
        while stop.run_until_cancelled(looks.tick()).await.is_some() {
            samples.push(watched.look().await?);
        }
        Ok(())
    })
    .await?;
    let took_s = started.elapsed().as_secs_f64();
    let after = at_rest(watched, Some(&before)).await?;

    let mut report = Report::new("soak");
    report.add("seed", options.seed);
    report.add("visitors", options.visitors);
    report.add_rounded("seconds", Some(took_s));
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    report.add("visits", count(&visits.made));
    report.add("broadcasts_heard", count(&visits.broadcasts));
    report.add("changes_heard", count(&visits.changes));
    report.add("presences_heard", count(&visits.presences));
    before.add_to(&mut report, "rest_before");
    // The first tenth still fills what was emptied at rest.
    let steady = samples.get(samples.len() / 10..).unwrap_or_default();
    let (early, late) = steady.split_at(steady.len() / 2);
    for (name, half) in [("first_half", early), ("second_half", late)] {
        if let Some(mean) = Sample::mean(half) {
            mean.add_to(&mut report, name);
        }
    }
    after.add_to(&mut report, "rest_after");
    for growth in after.growth_since(&before, SLACK_KIB) {
        report.fault(growth);
    }
    for fault in visits.faults() {
        report.fault(fault);
    }
    Ok(report)
}

/// Lets visitors come and go, and rows be written, for a time, beside something that ends when its token is cancelled.
async fn churn(
    place: &Arc<Place>,
    visits: &Arc<Visits>,
    options: &Options,
    database: &Database,
    length: Duration,
    beside: impl AsyncFnOnce(CancellationToken) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let visitors: Vec<_> = (0..options.visitors)
        .map(|number| {
            let seed = options.seed.wrapping_mul(1 << 32).wrapping_add(u64::from(number));
            let choices = SmallRng::seed_from_u64(seed);
            tokio::spawn(visit::keep_visiting(
                Arc::clone(place),
                Arc::clone(visits),
                number,
                choices,
                stop.clone(),
            ))
        })
        .collect();
    let ending = async {
        tokio::time::sleep(length).await;
        stop.cancel();
        Ok(())
    };
    let (written, looked, ended) =
        tokio::join!(write(database, options.rate, &stop), beside(stop.clone()), ending);
    for visitor in join_all(visitors).await {
        visitor.context("a visitor panicked")?;
    }
    written.and(looked).and(ended)
}

/// Overwrites rows in turn until the token is cancelled.
async fn write(database: &Database, rate: u64, stop: &CancellationToken) -> anyhow::Result<()> {
    let statement = database
        .prepare(&format!(
            "insert into public.{TABLE} (id, body) values ($1, $2)
             on conflict (id) do update set body = excluded.body, written = public.{TABLE}.written + 1"
        ))
        .await?;
    let mut due = tokio::time::interval(Duration::from_secs(1) / u32::try_from(rate)?);
    for number in 0_u64.. {
        if stop.run_until_cancelled(due.tick()).await.is_none() {
            break;
        }
        let id = i64::try_from(number % ROWS)?;
        database.execute(&statement, &[&id, &"x".repeat(200)]).await?;
    }
    Ok(())
}

/// The server with nobody there: as soon as nothing of visitors is left, by what it says itself, or what it has in use
/// when it should be.
async fn at_rest(watched: &Watched, before: Option<&Sample>) -> anyhow::Result<Sample> {
    let deadline = Instant::now() + SETTLE;
    let mut looks = tokio::time::interval(Duration::from_millis(500));
    let mut last: Option<Sample> = None;
    loop {
        looks.tick().await;
        let sample = watched.look().await?;
        let is_over = Instant::now() >= deadline;
        let is_settled = sample.sockets == 0
            && match before {
                Some(before) => sample.growth_since(before, SLACK_KIB).is_empty(),
                None => last.as_ref() == Some(&sample),
            };
        if is_over || is_settled {
            return Ok(sample);
        }
        last = Some(sample);
    }
}

async fn set_up(database: &Database) -> anyhow::Result<()> {
    let statements = format!(
        "{}
         create table public.{TABLE} (id bigint primary key, body text not null, written bigint not null default 0);
         grant select on public.{TABLE} to anon;
         alter publication supabase_realtime add table public.{TABLE};",
        tear_down()
    );
    database
        .batch_execute(&statements)
        .await
        .context("the table could not be made")
}

fn tear_down() -> String {
    format!("drop table if exists public.{TABLE};")
}
