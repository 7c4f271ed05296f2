//! Inserts rows and watches them arrive, at each subscription that may see them: once, and in order.

mod audience;
mod search;
mod spent;
mod stamp;
mod table;
mod watch;
mod writer;

use crate::fanout::{self, Baseline};
use crate::latency::Latencies;
use crate::report::Report;
use crate::{Server, process};
use anyhow::{Context, ensure};
use audience::Audience;
use clap::Args;
use search::Search;
use serde_json::json;
use spent::{Processes, Spent, each_us};
use std::rc::Rc;
use std::time::{Duration, Instant};
use table::RowSecurity;
use tokio_postgres::NoTls;
use watch::{Seen, Watchers};
use writer::{Hearers, Load, Writers, Written};

/// A writer that commits less than this part of what it was to is the limit, whoever else is.
const KEPT_PER_CENT: u64 = 95;
/// Length of a measurement of the bare program, at most.
const BARE_S: u64 = 4;

/// The load.
#[derive(Args)]
pub(crate) struct Options {
    /// Connection string of the database, as a role that may create tables and policies.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: String,
    /// Subscriptions to the table, each on a channel of its own.
    #[arg(long, default_value_t = 10)]
    subscribers: usize,
    /// Channels on a socket.
    #[arg(long, default_value_t = 1)]
    subscriptions_per_socket: usize,
    /// Users whom the subscriptions are dealt out to [default: one for each subscription]
    #[arg(long)]
    identities: Option<usize>,
    /// Users of an organisation, for `--row-security org` and `subquery`.
    #[arg(long, default_value_t = 10)]
    org_size: usize,
    /// Row level security of the table.
    #[arg(long, value_enum, default_value = "none")]
    row_security: RowSecurity,
    /// Subscribe with `filter=user_id=eq.<own>`.
    #[arg(long)]
    filter_own: bool,
    /// Rows a second; 0 is as fast as they are committed. With --find-limit: the rate to start from.
    #[arg(long, default_value_t = 20)]
    rate: u64,
    /// Length of the load.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Connections that insert. Order is checked among the rows of each.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    writers: u16,
    /// Rows of a statement, which is a transaction.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    rows_per_insert: u64,
    /// Statements that a connection sends before the first of them is answered.
    #[arg(long, default_value_t = 32)]
    in_flight: usize,
    /// How long to wait for the last changes after the last insert.
    #[arg(long, default_value_t = 10)]
    drain_s: u64,
    /// Insert this many rows in one transaction instead, and measure until the last has arrived.
    #[arg(long, value_name = "ROWS", conflicts_with_all = ["unheard", "find_limit"])]
    bulk: Option<u64>,
    /// Insert into a published table without subscribers instead, then one row that ends the measurement.
    #[arg(long, conflicts_with = "find_limit")]
    unheard: bool,
    /// Repeat the load at other rates, to find the highest that is kept up with.
    #[arg(long)]
    find_limit: bool,
    /// With --find-limit: the 95th percentile of the latency up to which a rate is kept up with.
    #[arg(long, default_value_t = 250)]
    limit_p95_ms: u32,
    /// Where every row is for everybody, do not measure the bare program beside the server.
    #[arg(long)]
    without_bare: bool,
}

/// All that a load needs.
struct Stage<'a> {
    options: &'a Options,
    audience: Rc<Audience>,
    watchers: Watchers,
    writers: Writers,
    processes: Processes,
}

/// A load that has run.
struct Measured {
    written: Written,
    /// Deliveries that the rows amount to, and those there were.
    expected: u64,
    delivered: u64,
    /// When the last row was committed: rows that were not everywhere, and deliveries that were missing.
    backlog_changes: usize,
    backlog: u64,
    /// From then until the last delivery.
    drain: Duration,
    spent: Spent,
    latencies: Latencies,
}

pub(crate) async fn run(server: &Server, options: &Options) -> anyhow::Result<Report> {
    ensure!(
        options.subscribers > 0 && options.subscriptions_per_socket > 0 && options.in_flight > 0,
        "subscribers, subscriptions per socket and statements in flight are at least 1"
    );
    let audience = Audience::new(
        options.subscribers,
        options.identities.unwrap_or(options.subscribers),
        options.org_size,
        options.row_security,
        options.filter_own,
    )?;
    let (database, connection) = tokio_postgres::connect(&options.database_url, NoTls)
        .await
        .context("the database cannot be reached")?;
    tokio::spawn(connection);
    table::set_up(&database, options.row_security, &audience).await?;
    let measured = Box::pin(measure(server, options, &database, audience)).await;
    table::tear_down(&database).await?;
    measured
}

async fn measure(
    server: &Server,
    options: &Options,
    database: &tokio_postgres::Client,
    audience: Audience,
) -> anyhow::Result<Report> {
    let audience = Rc::new(audience);
    let writers = usize::from(options.writers);
    let per_socket = options.subscriptions_per_socket;
    let subscribing = Instant::now();
    let watchers = Watchers::subscribe(server, &audience, per_socket, options.filter_own, writers).await?;
    let subscribing_s = subscribing.elapsed().as_secs_f64();
    let mut stage = Stage {
        options,
        audience,
        watchers,
        writers: Writers::connect(&options.database_url, writers).await?,
        // The server streams by now.
        processes: Processes::find(database, server.server_pid).await?,
    };
    let mut report = Report::new("changes");
    stage.describe(&mut report);
    report.add_rounded(
        "subscriptions_per_s",
        Some(options.subscribers as f64 / subscribing_s),
    );
    if let Some(rows) = options.bulk {
        stage.bulk(rows, server.server_pid, &mut report).await?;
    } else if options.find_limit {
        stage.find_limit(&mut report).await?;
    } else if options.unheard {
        stage.load(Hearers::Nobody, &mut report).await?;
    } else {
        let measured = stage.load(Hearers::Audience, &mut report).await?;
        if stage.audience.is_everybody() && per_socket == 1 && !options.without_bare {
            let frame_bytes = stage.watchers.seen().frame_bytes();
            // The sockets of the load are gone while the bare program is measured.
            drop(stage);
            if let Err(error) = beside_bare(options, &measured, frame_bytes, &mut report).await {
                report.fault(format!("the bare program: {error:#}"));
            }
        }
    }
    Ok(report)
}

impl Stage<'_> {
    fn describe(&self, report: &mut Report) {
        let Options {
            row_security,
            filter_own,
            subscriptions_per_socket,
            ..
        } = self.options;
        report.add("row_security", row_security.name());
        report.add("filter_own", *filter_own);
        report.add("subscribers", self.options.subscribers);
        report.add("subscriptions_per_socket", *subscriptions_per_socket);
        report.add("identities", self.audience.identities());
        if matches!(row_security, RowSecurity::Org | RowSecurity::Subquery) {
            report.add("org_size", self.options.org_size);
        }
        if let Some(rows) = self.options.bulk {
            report.add("bulk_rows", rows);
        } else {
            report.add("unheard", self.options.unheard);
            report.add("writers", self.options.writers);
            report.add("rows_per_insert", self.options.rows_per_insert);
            report.add("statements_in_flight", self.options.in_flight);
        }
    }

    fn load_at(&self, rate: u64) -> Load {
        Load {
            rate,
            duration: Duration::from_secs(self.options.seconds),
            rows_per_insert: self.options.rows_per_insert,
            in_flight: self.options.in_flight,
        }
    }

    /// One load at the rate of the options.
    async fn load(&self, hearers: Hearers, report: &mut Report) -> anyhow::Result<Measured> {
        let mut measured = self.measure(self.write(self.options.rate, hearers)).await?;
        if self.options.rate > 0 {
            report.add("offered_changes_per_s", self.options.rate);
        }
        measured.describe_writing(report);
        if hearers == Hearers::Audience {
            measured.describe_delivery(report);
        }
        self.blame(report);
        Ok(measured)
    }

    async fn write(&self, rate: u64, hearers: Hearers) -> anyhow::Result<Written> {
        let tally = self.watchers.tally();
        let load = self.load_at(rate);
        let written = self.writers.write(load, hearers, &self.audience, tally).await?;
        if hearers == Hearers::Nobody {
            // Once it has arrived, the server is through with all that was committed before it.
            self.writers.write_one(&self.audience, tally).await?;
        }
        Ok(written)
    }

    /// Rows in one transaction.
    async fn bulk(&mut self, rows: u64, server: Option<u32>, report: &mut Report) -> anyhow::Result<()> {
        let before_kib = server.and_then(process::resident_kib);
        if let Some(server) = server {
            process::forget_peak(server);
        }
        let tally = self.watchers.tally();
        // Another borrow of the stage than the one that measures.
        let mut writers = std::mem::take(&mut self.writers);
        let writing = writers.write_at_once(rows, &self.audience, tally);
        let mut measured = self.measure(writing).await?;
        let peak_kib = server.and_then(process::peak_kib);
        let after_kib = server.and_then(process::resident_kib);
        measured.describe_writing(report);
        measured.describe_delivery(report);
        let ms = |duration: Duration| Some(duration.as_secs_f64() * 1_000.0);
        report.add_rounded("begin_to_commit_ms", ms(measured.written.took));
        report.add_rounded("commit_to_last_delivery_ms", ms(measured.drain));
        let whole = measured.written.took + measured.drain;
        report.add_rounded("begin_to_last_delivery_ms", ms(whole));
        for (name, kib) in [
            ("server_memory_before_kib", before_kib),
            ("server_memory_peak_kib", peak_kib),
            ("server_memory_after_kib", after_kib),
        ] {
            report.add_rounded(name, kib.map(|kib| kib as f64));
        }
        let grown = peak_kib
            .zip(before_kib)
            .map(|(peak, before)| peak.saturating_sub(before) as f64 * 1_024.0 / rows.max(1) as f64);
        report.add_rounded("server_memory_peak_growth_per_row_bytes", grown);
        self.blame(report);
        Ok(())
    }

    /// Loads at rates that a search chooses.
    async fn find_limit(&self, report: &mut Report) -> anyhow::Result<()> {
        let mut search = Search::from(self.options.rate);
        let mut probes = Vec::new();
        let mut limited_by = None;
        while let Some(rate) = search.next() {
            let mut measured = self.measure(self.write(rate, Hearers::Audience)).await?;
            if self.watchers.tally().is_faulty() {
                break;
            }
            let [p95_ms] = measured.latencies.quantiles_ms([950]);
            let is_written = measured.inserted_per_s() * 100.0 >= rate.saturating_mul(KEPT_PER_CENT) as f64;
            let is_kept = is_written && p95_ms <= f64::from(self.options.limit_p95_ms);
            if !is_kept {
                limited_by = Some(if is_written { "latency" } else { "writer" });
            }
            search.tried(rate, is_kept);
            probes.push(json!({
                "offered_changes_per_s": rate,
                "inserted_changes_per_s": measured.inserted_per_s().round(),
                "latency_p95_ms": p95_ms,
                "backlog_messages": measured.backlog,
                "drain_ms": measured.drain.as_millis() as u64,
                "is_kept": is_kept,
            }));
        }
        report.add("limit_p95_ms", self.options.limit_p95_ms);
        report.add("limit_changes_per_s", search.found());
        report.add("limited_by", limited_by);
        report.add("probes", probes);
        self.blame(report);
        Ok(())
    }

    /// Runs a load, waits for what it owes and says what it cost.
    async fn measure(
        &self,
        writing: impl Future<Output = anyhow::Result<Written>>,
    ) -> anyhow::Result<Measured> {
        let tally = self.watchers.tally();
        let (expected, delivered) = (tally.expected(), tally.deliveries());
        tally.record();
        let clocks = self.processes.clocks();
        let written = writing.await?;
        let committed = Instant::now();
        let backlog = tally.expected() - tally.deliveries();
        let backlog_changes = tally.in_flight();
        tally.settle(Duration::from_secs(self.options.drain_s)).await;
        let drain = committed.elapsed();
        Ok(Measured {
            written,
            expected: tally.expected() - expected,
            delivered: tally.deliveries() - delivered,
            backlog_changes,
            backlog,
            drain,
            spent: clocks.spent(&self.processes.clocks()),
            latencies: tally.recorded(),
        })
    }

    /// Says what was wrong, after the last load.
    fn blame(&self, report: &mut Report) {
        let Seen {
            out_of_order,
            repeated,
            foreign,
            ..
        } = self.watchers.seen();
        let tally = self.watchers.tally();
        // The tally knows about these.
        report.add("lost_messages", tally.expected() - tally.deliveries());
        for (name, count, what) in [
            ("out_of_order_messages", out_of_order, "arrived out of order"),
            ("repeated_messages", repeated, "arrived twice"),
            ("foreign_messages", foreign, "arrived where they should not"),
        ] {
            report.add(name, count);
            if count > 0 {
                report.fault(format!("{count} changes {what}"));
            }
        }
        for fault in tally.take_faults() {
            report.fault(fault);
        }
    }
}

impl Measured {
    /// What the writer managed, however fast the rows were delivered.
    fn inserted_per_s(&self) -> f64 {
        self.written.rows as f64 / self.written.took.as_secs_f64()
    }

    fn delivered_per_s(&self) -> f64 {
        self.delivered as f64 / (self.written.took + self.drain).as_secs_f64()
    }

    /// What was inserted, and what a row cost. The clocks ran until the last delivery.
    fn describe_writing(&self, report: &mut Report) {
        let rows = self.written.rows;
        report.add("inserted_changes", rows);
        report.add_rounded("inserted_changes_per_s", Some(self.inserted_per_s()));
        report.add("expected_messages", self.expected);
        report.add("delivered_messages", self.delivered);
        report.add_rounded("drain_ms", Some(self.drain.as_secs_f64() * 1_000.0));
        for (name, spent_ms) in [
            ("server_cpu_per_change_us", self.spent.server_ms),
            ("postgres_cpu_per_change_us", self.spent.postgres_ms),
            ("walsender_cpu_per_change_us", self.spent.walsender_ms),
        ] {
            report.add_rounded(name, each_us(spent_ms, rows));
        }
        // The load runs on one thread: close to 1, it is what limits.
        let busy = |ms: u64| ms as f64 / 1_000.0 / self.spent.took.as_secs_f64();
        report.add_rounded("load_thread_busy_ratio", self.spent.load_ms.map(busy));
    }

    /// How rows arrived.
    fn describe_delivery(&mut self, report: &mut Report) {
        let whole_s = (self.written.took + self.drain).as_secs_f64();
        report.add_rounded(
            "delivered_changes_per_s",
            Some(self.written.rows as f64 / whole_s),
        );
        report.add_rounded("delivered_messages_per_s", Some(self.delivered_per_s()));
        report.add("backlog_changes", self.backlog_changes);
        report.add("backlog_messages", self.backlog);
        report.add("measured_messages", self.latencies.count());
        let [median, p95, p99, longest] = self.latencies.quantiles_ms([500, 950, 990, 1_000]);
        report.add_rounded("latency_median_ms", Some(median));
        report.add_rounded("latency_p95_ms", Some(p95));
        report.add_rounded("latency_p99_ms", Some(p99));
        report.add_rounded("latency_max_ms", Some(longest));
        let cpu_us = each_us(self.spent.server_ms, self.delivered);
        report.add_rounded("server_cpu_per_delivery_us", cpu_us);
    }
}

/// Measures the bare program with messages as long and as many a second, and what it delivers at most.
async fn beside_bare(
    options: &Options,
    measured: &Measured,
    frame_bytes: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let receivers = u32::try_from(options.subscribers)?;
    let rate = measured.delivered_per_s() / f64::from(receivers);
    let Baseline {
        saturated_deliveries_per_s,
        paced_server_cpu_us,
    } = fanout::baseline(receivers, frame_bytes, rate, options.seconds.min(BARE_S)).await?;
    report.add("frame_bytes", frame_bytes);
    report.add_rounded("bare_saturated_deliveries_per_s", saturated_deliveries_per_s);
    report.add_rounded("bare_cpu_per_delivery_us", paced_server_cpu_us);
    let cpu_us = each_us(measured.spent.server_ms, measured.delivered);
    report.add_rounded("server_cpu_to_bare_ratio", quotient(cpu_us, paced_server_cpu_us));
    if options.rate == 0 {
        let ratio = quotient(Some(measured.delivered_per_s()), saturated_deliveries_per_s);
        report.add_rounded("delivered_to_bare_ratio", ratio);
    }
    Ok(())
}

fn quotient(ours: Option<f64>, bare: Option<f64>) -> Option<f64> {
    Some(ours? / bare.filter(|bare| *bare > 0.0)?)
}
