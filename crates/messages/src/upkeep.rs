//! The task that keeps the partitions, as long as the server runs.

use crate::partitions::{Kept, PartitionOptions, keep_partitions};
use crate::upkeep_error::UpkeepError;
use metrics::counter;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection};
use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Name under which Postgres shows the connection.
const APPLICATION_NAME: &str = "walcast_upkeep";

/// Longest time of a run.
const RUN_LIMIT: Duration = Duration::from_secs(30);

/// No run begins sooner than this after another, whoever asks for it.
const RUNS_APART: Duration = Duration::from_secs(1);

/// The new day has begun on every server after this, and not all of them come at once.
const AFTER_MIDNIGHT_MS: std::ops::RangeInclusive<u64> = 1_000..=10_000;

/// Settings of the task.
#[derive(Clone, Copy, Debug)]
pub struct UpkeepOptions {
    /// What is kept.
    pub partitions: PartitionOptions,
    /// Pause after a run that left nothing to do. A machine that slept for days finds its partitions again so soon. A
    /// run that finds nothing to do is one query.
    pub interval_ms: u64,
    /// First pause after a run that failed; it doubles up to the interval.
    pub retry_ms: u64,
}

impl Default for UpkeepOptions {
    fn default() -> Self {
        Self {
            partitions: PartitionOptions::default(),
            interval_ms: 10 * 60 * 1_000,
            retry_ms: 1_000,
        }
    }
}

/// The running task. Cheap to clone; dropping it does not end the task.
#[derive(Clone, Debug)]
pub struct Upkeep {
    asked: Arc<Notify>,
    runs: watch::Receiver<u64>,
}

impl Upkeep {
    /// Starts the task: it runs at once, shortly after every UTC midnight, when asked, at least every
    /// [`UpkeepOptions::interval_ms`], and soon again after a failure, until `cancel`. Each run has a connection of its
    /// own.
    #[must_use]
    pub fn start(connect: PgConnectOptions, options: UpkeepOptions, cancel: CancellationToken) -> Self {
        let asked = Arc::new(Notify::new());
        let (counter, runs) = watch::channel(0);
        let task = Task {
            connect: connect
                .application_name(APPLICATION_NAME)
                .options([("statement_timeout", RUN_LIMIT.as_millis().to_string())]),
            options,
            asked: Arc::clone(&asked),
            runs: counter,
            said: BTreeSet::new(),
        };
        tokio::spawn(async move {
            // A run that is cut short leaves nothing: Postgres rolls it back.
            let _cancelled = cancel.run_until_cancelled(task.run()).await;
        });
        Self { asked, runs }
    }

    /// Has it run as soon as it may: somebody missed a partition.
    pub fn run_soon(&self) {
        self.asked.notify_one();
    }

    /// Waits until the first run has ended, well or not, or the task has.
    pub async fn first_run(&self) {
        let mut runs = self.runs.clone();
        let _ended = runs.wait_for(|runs| *runs > 0).await;
    }

    /// Counts the runs that have ended.
    #[must_use]
    pub fn runs(&self) -> watch::Receiver<u64> {
        self.runs.clone()
    }
}

struct Task {
    connect: PgConnectOptions,
    options: UpkeepOptions,
    asked: Arc<Notify>,
    runs: watch::Sender<u64>,
    /// Said in the log, and not again while it stays true.
    said: BTreeSet<String>,
}

impl Task {
    async fn run(mut self) {
        let mut retry_ms = self.options.retry_ms;
        loop {
            let kept = self.run_once().await;
            let pause_ms = match &kept {
                Ok(kept) if kept.failures.is_empty() => {
                    retry_ms = self.options.retry_ms;
                    until_next_run_ms(kept.until_midnight_ms, self.options.interval_ms)
                }
                Ok(_) | Err(_) => {
                    let pause_ms = retry_ms.min(self.options.interval_ms);
                    retry_ms = retry_ms.saturating_mul(2).min(self.options.interval_ms);
                    pause_ms
                }
            };
            self.report(&kept);
            self.runs.send_modify(|runs| *runs += 1);
            let pause = Duration::from_millis(pause_ms);
            sleep(RUNS_APART.min(pause)).await;
            tokio::select! {
                () = self.asked.notified() => {}
                () = sleep(pause.saturating_sub(RUNS_APART)) => {}
            }
        }
    }

    /// Boxed: it is large and rarely polled.
    fn run_once(&self) -> impl Future<Output = Result<Kept, UpkeepError>> + Send {
        let run = async {
            let mut connection = self.connect.connect().await?;
            let kept = keep_partitions(&mut connection, &self.options.partitions).await?;
            connection.close().await?;
            Ok(kept)
        };
        let bounded = async {
            timeout(RUN_LIMIT, run)
                .await
                .unwrap_or(Err(UpkeepError::TimedOut {
                    limit_s: RUN_LIMIT.as_secs(),
                }))
        };
        Box::pin(bounded)
    }

    fn report(&mut self, run: &Result<Kept, UpkeepError>) {
        let mut said = BTreeSet::new();
        match run {
            Err(error) => {
                counter!("walcast_messages_upkeep_failures_total").increment(1);
                let sentence = error.to_string();
                if !self.said.contains(&sentence) {
                    tracing::error!(
                        code = "PartitionCreationFailed",
                        cause = sentence,
                        "the partitions of realtime.messages could not be kept; trying again"
                    );
                }
                said.insert(sentence);
            }
            Ok(kept) => {
                counter!("walcast_messages_partitions_created_total").increment(count(&kept.created));
                counter!("walcast_messages_partitions_dropped_total").increment(count(&kept.dropped));
                counter!("walcast_messages_upkeep_failures_total").increment(count(&kept.failures));
                if !kept.created.is_empty() || !kept.dropped.is_empty() {
                    tracing::info!(
                        created = kept.created.join(", "),
                        dropped = kept.dropped.join(", "),
                        "partitions of realtime.messages"
                    );
                }
                for failure in &kept.failures {
                    let sentence = failure.to_string();
                    if !self.said.contains(&sentence) {
                        tracing::warn!(code = failure.code(), cause = sentence, "trying again");
                    }
                    said.insert(sentence);
                }
                let odd = kept
                    .odd
                    .iter()
                    .map(|name| format!("realtime.{name} is not named after a day: it is never dropped"));
                let covered = kept.covered.iter().map(|name| {
                    format!("realtime.{name} is not made: another partition has messages of that day")
                });
                for sentence in odd.chain(covered) {
                    if !self.said.contains(&sentence) {
                        tracing::warn!("{sentence}");
                    }
                    said.insert(sentence);
                }
            }
        }
        self.said = said;
    }
}

fn until_next_run_ms(until_midnight_ms: u64, interval_ms: u64) -> u64 {
    let after_midnight_ms = rand::random_range(AFTER_MIDNIGHT_MS);
    until_midnight_ms
        .saturating_add(after_midnight_ms)
        .min(interval_ms)
}

fn count<T>(items: &[T]) -> u64 {
    u64::try_from(items.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_run_comes_with_the_interval_or_shortly_after_midnight() {
        const HOUR_MS: u64 = 3_600_000;
        for (until_midnight_ms, expected) in [
            (12 * HOUR_MS, HOUR_MS..=HOUR_MS),
            (HOUR_MS, HOUR_MS..=HOUR_MS),
            (HOUR_MS / 2, HOUR_MS / 2 + 1_000..=HOUR_MS / 2 + 10_000),
            (0, 1_000..=10_000),
        ] {
            for _ in 0..100 {
                let next = until_next_run_ms(until_midnight_ms, HOUR_MS);
                assert!(expected.contains(&next), "{next} for {until_midnight_ms}");
            }
        }
    }
}
