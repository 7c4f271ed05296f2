//! A database with the table of messages, and somebody to ask.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;
use tokio::time::timeout;
use tokio_postgres::Client;
use walcast_messages::{Asked, Authorizer, Extensions, Options, ReadRights, RightsError, WriteRights};
use walcast_testkit::{Database, Postgres};

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
pub(crate) const ALICE: &str = "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa";

/// Whoever may, of a role without further claims.
pub(crate) fn asked(role: &str, topic: &str) -> Asked {
    Asked {
        role: role.into(),
        topic: topic.into(),
        claims: format!(r#"{{"sub":"{ALICE}","role":"{role}"}}"#).into(),
        headers: r#"{"x-kind":"test"}"#.into(),
    }
}

pub(crate) struct Scene {
    pub(crate) database: Database,
    pub(crate) authorizer: Authorizer,
}

impl Scene {
    /// On the cluster that tests share.
    pub(crate) async fn new(setup: &str) -> Self {
        Self::with(setup, Options::default()).await
    }

    pub(crate) async fn with(setup: &str, options: Options) -> Self {
        let database = prepared(setup).await;
        let authorizer = Authorizer::new(&database.url().parse().unwrap(), options);
        Self { database, authorizer }
    }

    pub(crate) async fn run(&self, statements: &str) {
        self.database.execute(statements).await;
    }

    pub(crate) async fn read(&self, asked: &Asked) -> Result<ReadRights, RightsError> {
        answered(self.authorizer.read(asked, Extensions::Both)).await
    }

    pub(crate) async fn write(&self, asked: &Asked) -> Result<WriteRights, RightsError> {
        answered(self.authorizer.write(asked)).await
    }

    /// A check that is to be under way while the test goes on.
    pub(crate) fn reading(&self, asked: Asked) -> tokio::task::JoinHandle<Result<ReadRights, RightsError>> {
        let authorizer = self.authorizer.clone();
        tokio::spawn(async move { authorizer.read(&asked, Extensions::Broadcast).await })
    }

    /// Waits until as many of our sessions wait for a lock.
    pub(crate) async fn until_blocked(&self, sessions: usize) {
        self.database
            .until(&format!(
                "select count(*) = {sessions} from pg_stat_activity
                 where datname = current_database() and application_name = 'walcast_rights' and wait_event_type = 'Lock'"
            ))
            .await;
    }
}

/// A database with our migrations and partitions for these days.
pub(crate) async fn prepared(setup: &str) -> Database {
    prepared_on(Postgres::shared().await, setup).await
}

pub(crate) async fn prepared_on(postgres: &Postgres, setup: &str) -> Database {
    let database = postgres.database().await;
    let pool = PgPool::connect(&database.url()).await.unwrap();
    sqlx::migrate!("../../migrations").run(&pool).await.unwrap();
    pool.close().await;
    database.execute(PARTITIONS).await;
    database.execute(setup).await;
    database
}

const PARTITIONS: &str = "do $$
    declare
      day date;
    begin
      for day in select generate_series(today - 1, today + 1, interval '1 day')
        from (select (now() at time zone 'utc')::date) as utc(today)
      loop
        execute format('create table if not exists realtime.messages_%s partition of realtime.messages
          for values from (%L) to (%L)', to_char(day, 'YYYY_MM_DD'), day, day + 1);
      end loop;
    end $$";

pub(crate) async fn answered<T>(answer: impl Future<Output = T>) -> T {
    timeout(DEADLINE, answer)
        .await
        .unwrap_or_else(|_| panic!("a check has no answer"))
}

/// A lock that policies wait for: `held()` takes it, dropping it lets them go.
pub(crate) struct Gate {
    pub(crate) client: Client,
}

impl Gate {
    /// Makes a function `gate()` that returns true once nobody holds the lock.
    pub(crate) const FUNCTION: &str =
        "create function public.gate() returns boolean language plpgsql volatile as $$
        begin perform pg_advisory_xact_lock_shared(1); return true; end $$;";

    pub(crate) async fn held(database: &Database) -> Self {
        let client = database.client().await;
        client.batch_execute("select pg_advisory_lock(1)").await.unwrap();
        Self { client }
    }

    pub(crate) async fn open(self) {
        self.client
            .batch_execute("select pg_advisory_unlock(1)")
            .await
            .unwrap();
    }
}

pub(crate) fn connect_options(database: &Database) -> PgConnectOptions {
    database.url().parse().unwrap()
}

/// Both rights to read.
pub(crate) fn reads(broadcast: bool, presence: bool) -> ReadRights {
    ReadRights {
        broadcast: Some(broadcast),
        presence: Some(presence),
    }
}

pub(crate) fn said(text: &str) -> Arc<str> {
    text.into()
}
