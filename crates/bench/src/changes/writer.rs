//! Inserts rows: over one connection or several, one row a statement or many, on schedule or as fast as they are
//! committed. Statements are prepared and do not wait for each other's answers.

use super::audience::Audience;
use super::stamp::Stamp;
use super::table::{self, TABLE};
use crate::tally::Tally;
use crate::token;
use anyhow::Context;
use futures_util::future::try_join_all;
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio_postgres::{Client, NoTls, Statement};

/// Rows of a statement in [`Writers::write_at_once`].
const BULK_ROWS: u64 = 1_000;

/// How to insert.
#[derive(Clone, Copy)]
pub(super) struct Load {
    /// Rows a second; 0 is as fast as they are committed.
    pub(super) rate: u64,
    pub(super) duration: Duration,
    pub(super) rows_per_insert: u64,
    /// Statements of a connection that are not answered.
    pub(super) in_flight: usize,
}

/// What was committed.
#[derive(Clone, Copy)]
pub(super) struct Written {
    pub(super) rows: u64,
    pub(super) took: Duration,
}

/// Connections that insert.
#[derive(Default)]
pub(super) struct Writers {
    connections: Vec<Writer>,
}

struct Writer {
    number: usize,
    database: Client,
    heard: Inserts,
    unheard: Inserts,
}

/// The prepared statements of a table.
struct Inserts {
    one: Statement,
    many: Statement,
}

impl Inserts {
    async fn prepare(database: &Client, table: &str) -> anyhow::Result<Self> {
        Ok(Self {
            one: database.prepare(&table::insert_one(table)).await?,
            many: database.prepare(&table::insert_many(table)).await?,
        })
    }
}

/// The rows of a statement.
struct Rows {
    owners: Vec<String>,
    orgs: Vec<i64>,
    stamps: Vec<String>,
}

impl Rows {
    fn new(audience: &Audience, writer: usize, numbers: impl Iterator<Item = u64>) -> anyhow::Result<Self> {
        let mut rows = Self {
            owners: Vec::new(),
            orgs: Vec::new(),
            stamps: Vec::new(),
        };
        for number in numbers {
            let owner = audience.owner(number);
            rows.owners.push(token::subject(owner));
            rows.orgs.push(i64::try_from(audience.org(owner))?);
            rows.stamps.push(Stamp { writer, number }.text());
        }
        Ok(rows)
    }

    async fn insert(self, database: &Client, inserts: &Inserts) -> anyhow::Result<()> {
        let Self { owners, orgs, stamps } = self;
        let inserted = match (owners.as_slice(), orgs.as_slice(), stamps.as_slice()) {
            ([owner], [org], [stamp]) => database.execute(&inserts.one, &[owner, org, stamp]).await,
            _ => database.execute(&inserts.many, &[&owners, &orgs, &stamps]).await,
        };
        inserted.context("an insert failed")?;
        Ok(())
    }
}

/// Who hears of the rows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Hearers {
    /// The audience.
    Audience,
    /// Nobody: they go to a table without subscriptions.
    Nobody,
}

impl Writers {
    /// # Errors
    /// If the database cannot be reached, or the tables are not there.
    pub(super) async fn connect(url: &str, count: usize) -> anyhow::Result<Self> {
        let connections = (0..count).map(async |number| {
            let (database, connection) = tokio_postgres::connect(url, NoTls)
                .await
                .context("the database cannot be reached")?;
            tokio::spawn(connection);
            anyhow::Ok(Writer {
                number,
                heard: Inserts::prepare(&database, TABLE).await?,
                unheard: Inserts::prepare(&database, table::UNHEARD).await?,
                database,
            })
        });
        Ok(Self {
            connections: try_join_all(connections).await?,
        })
    }

    /// Inserts; one that is late is not made up for by moving the schedule. Ends when all is committed.
    ///
    /// # Errors
    /// If an insert fails.
    pub(super) async fn write(
        &self,
        load: Load,
        hearers: Hearers,
        audience: &Audience,
        tally: &Tally,
    ) -> anyhow::Result<Written> {
        let started = Instant::now();
        let writers = self
            .connections
            .iter()
            .map(|writer| writer.write(load, hearers, self.connections.len(), started, audience, tally));
        let rows = try_join_all(writers).await?.into_iter().sum();
        Ok(Written {
            rows,
            took: started.elapsed(),
        })
    }

    /// Inserts one row for the audience.
    ///
    /// # Errors
    /// If the insert fails.
    pub(super) async fn write_one(&self, audience: &Audience, tally: &Tally) -> anyhow::Result<()> {
        let writer = self.connections.first().context("there is no writer")?;
        writer.send(1, Hearers::Audience, audience, tally)?.await
    }

    /// Inserts rows in one transaction. They count as sent when the commit is.
    ///
    /// # Errors
    /// If an insert fails.
    pub(super) async fn write_at_once(
        &mut self,
        rows: u64,
        audience: &Audience,
        tally: &Tally,
    ) -> anyhow::Result<Written> {
        let writer = self.connections.first_mut().context("there is no writer")?;
        let started = Instant::now();
        writer.database.batch_execute("begin").await?;
        let (first, end) = (tally.next_number(), tally.next_number() + rows);
        for start in (first..end).step_by(usize::try_from(BULK_ROWS)?) {
            let numbers = start..end.min(start + BULK_ROWS);
            Rows::new(audience, writer.number, numbers)?
                .insert(&writer.database, &writer.heard)
                .await?;
        }
        for number in first..end {
            tally.send(audience.receivers(number));
        }
        writer.database.batch_execute("commit").await?;
        Ok(Written {
            rows,
            took: started.elapsed(),
        })
    }
}

impl Writer {
    async fn write(
        &self,
        load: Load,
        hearers: Hearers,
        writers: usize,
        started: Instant,
        audience: &Audience,
        tally: &Tally,
    ) -> anyhow::Result<u64> {
        let mut unanswered = VecDeque::new();
        let mut rows = 0;
        for statement in (self.number as u64..).step_by(writers) {
            match load.due(statement) {
                Some(due) if due >= load.duration => break,
                Some(due) => tokio::time::sleep_until((started + due).into()).await,
                None if started.elapsed() >= load.duration => break,
                None => {}
            }
            if tally.is_faulty() {
                break;
            }
            if unanswered.len() >= load.in_flight
                && let Some(first) = unanswered.pop_front()
            {
                first.await?;
            }
            let mut insert = self.send(load.rows_per_insert, hearers, audience, tally)?;
            // The first poll sends it; later statements must not overtake it.
            match futures_util::poll!(insert.as_mut()) {
                Poll::Ready(inserted) => inserted?,
                Poll::Pending => unanswered.push_back(insert),
            }
            rows += load.rows_per_insert;
        }
        for insert in unanswered {
            insert.await?;
        }
        Ok(rows)
    }

    /// A statement that is sent when it is first polled.
    fn send<'a>(
        &'a self,
        rows: u64,
        hearers: Hearers,
        audience: &Audience,
        tally: &Tally,
    ) -> anyhow::Result<Pin<Box<dyn Future<Output = anyhow::Result<()>> + 'a>>> {
        let numbers = (0..rows).map(|_| match hearers {
            Hearers::Audience => tally.send(audience.receivers(tally.next_number())),
            Hearers::Nobody => tally.send(0),
        });
        let rows = Rows::new(audience, self.number, numbers)?;
        let inserts = match hearers {
            Hearers::Audience => &self.heard,
            Hearers::Nobody => &self.unheard,
        };
        Ok(Box::pin(rows.insert(&self.database, inserts)))
    }
}

impl Load {
    /// When a statement is to be sent, after the start; `None` if as soon as it can be.
    fn due(&self, statement: u64) -> Option<Duration> {
        let us = (statement * self.rows_per_insert * 1_000_000).checked_div(self.rate)?;
        Some(Duration::from_micros(us))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::table::RowSecurity;
    use super::*;
    use walcast_testkit::Postgres;

    #[tokio::test]
    async fn statements_of_a_connection_do_not_overtake_each_other() {
        let database = Postgres::shared().await.database().await;
        let client = database.client().await;
        let audience = Audience::new(3, 3, 1, RowSecurity::Own, false).unwrap();
        table::set_up(&client, RowSecurity::Own, &audience).await.unwrap();
        let writers = Writers::connect(&database.url(), 2).await.unwrap();
        let tally = Tally::new();
        let load = Load {
            rate: 2_000,
            duration: Duration::from_millis(500),
            rows_per_insert: 5,
            in_flight: 8,
        };
        let written = writers
            .write(load, Hearers::Audience, &audience, &tally)
            .await
            .unwrap();
        assert_eq!((written.rows, tally.expected()), (1_000, 1_000));
        // Stamps begin with the writer, and ids are given in the order of insertion.
        let overtaken = "select count(*) from (
            select body < lag(body) over (partition by left(body, 16) order by id) as is_overtaken
            from public.walcast_bench_changes) as each where is_overtaken";
        let overtaken: i64 = client.query_one(overtaken, &[]).await.unwrap().get(0);
        assert_eq!(overtaken, 0);
    }

    #[test]
    fn the_schedule_makes_the_rate_whatever_a_statement_inserts() {
        for (rate, rows_per_insert) in [(1_000, 1), (1_000, 10), (50, 25)] {
            let load = Load {
                rate,
                duration: Duration::from_secs(2),
                rows_per_insert,
                in_flight: 1,
            };
            let statements = (0..)
                .take_while(|statement| load.due(*statement).is_some_and(|due| due < load.duration))
                .count() as u64;
            assert_eq!(statements * rows_per_insert, rate * 2);
        }
    }

    #[test]
    fn without_a_rate_nothing_waits() {
        let load = Load {
            rate: 0,
            duration: Duration::from_secs(1),
            rows_per_insert: 1,
            in_flight: 1,
        };
        assert_eq!(load.due(7), None);
    }
}
