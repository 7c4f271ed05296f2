//! Row changes: in each table the numbers from 1 on, in commit order.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_postgres::{Client, NoTls};

use crate::town::{HEARD, Town, USERS};

const PAUSE: Duration = Duration::from_millis(100);
/// A transaction of several changes now and then.
const LONG_EVERY: u64 = 20;
const LONG: u64 = 10;
/// Rows that `plain` has; its numbers overwrite each other.
const PLAIN_ROWS: u64 = 50;

/// When each number of each table was sent to Postgres first.
#[derive(Default)]
pub(crate) struct Sent(Mutex<HashMap<&'static str, Vec<Instant>>>);

impl Sent {
    fn note(&self, table: &'static str, last: u64) {
        let mut sent = self.0.lock().unwrap();
        let times = sent.entry(table).or_default();
        times.resize(times.len().max(usize::try_from(last).unwrap()), Instant::now());
    }

    /// When a number was; now if it never was.
    pub(crate) fn at(&self, table: &str, number: u64) -> Instant {
        let sent = self.0.lock().unwrap();
        let index = usize::try_from(number).unwrap().checked_sub(1);
        let at = sent
            .get(table)
            .zip(index)
            .and_then(|(times, index)| times.get(index));
        at.copied().unwrap_or_else(Instant::now)
    }
}

/// One for each table.
pub(crate) struct Writers {
    is_over: watch::Sender<bool>,
    running: Vec<JoinHandle<u64>>,
}

impl Writers {
    pub(crate) fn start(town: &Arc<Town>) -> Self {
        let (is_over, over) = watch::channel(false);
        let write = |table: &'static str| {
            let (town, over) = (Arc::clone(town), over.clone());
            tokio::spawn(async move { Box::pin(write(&town, table, &over)).await })
        };
        let running = HEARD.map(write).into();
        Self { is_over, running }
    }

    /// Ends the writing; the last number of each table.
    pub(crate) async fn finish(self) -> Vec<u64> {
        self.is_over.send_replace(true);
        let mut last = Vec::new();
        for running in self.running {
            last.push(running.await.unwrap());
        }
        last
    }
}

async fn write(town: &Town, table: &'static str, over: &watch::Receiver<bool>) -> u64 {
    let mut tick = interval(PAUSE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // What became of the last statement, if the connection broke before its answer, the table tells.
        let Some((postgres, mut last)) = connect(town, table).await else {
            sleep(PAUSE).await;
            continue;
        };
        loop {
            tick.tick().await;
            let count = if last % LONG_EVERY == 0 { LONG } else { 1 };
            let changes: String = (last + 1..=last + count)
                .map(|number| statement(table, number))
                .collect();
            town.sent.note(table, last + count);
            if postgres.batch_execute(&changes).await.is_err() {
                break;
            }
            last += count;
            if *over.borrow() {
                return last;
            }
        }
    }
}

async fn connect(town: &Town, table: &str) -> Option<(Client, u64)> {
    let (postgres, connection) = tokio_postgres::connect(&town.database.url(), NoTls).await.ok()?;
    tokio::spawn(connection);
    let last = format!("select coalesce(max(n), 0) from public.{table}");
    let last: i64 = postgres.query_one(&last, &[]).await.ok()?.get(0);
    Some((postgres, u64::try_from(last).unwrap()))
}

fn statement(table: &str, number: u64) -> String {
    if table == "plain" {
        let id = number % PLAIN_ROWS;
        return format!(
            "insert into public.plain values ({id}, {number}) on conflict (id) do update set n = excluded.n;"
        );
    }
    let [ada, ben] = USERS;
    format!("insert into public.{table} (owner, n) values ('{ada}', {number}), ('{ben}', {number});")
}
