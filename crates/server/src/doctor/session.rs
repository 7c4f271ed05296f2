//! The connection the doctor looks through, which cannot change anything. Other commands ask through it whether the
//! database can be reached, and where they are.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection, Postgres, Transaction};

use super::report::{Entry, Report};
use crate::setting::Secret;
use crate::shutdown::within;

/// Longer than that nobody waits in front of a terminal.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const LOOK_TIMEOUT_S: u32 = 30;

pub(crate) struct Session {
    connection: PgConnection,
    role: String,
    database: String,
}

impl Session {
    pub(crate) async fn open(url: &Secret, application_name: &str) -> Result<Self, sqlx::Error> {
        let options = PgConnectOptions::from_str(url.expose())?
            .application_name(application_name)
            .log_statements(log::LevelFilter::Trace);
        let place = match options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => format!("{}:{}", options.get_host(), options.get_port()),
        };
        let connecting = within(CONNECT_TIMEOUT, Box::pin(options.connect())).await;
        let mut connection = connecting.unwrap_or_else(|| {
            Err(sqlx::Error::Io(std::io::Error::new(
                std::io::ErrorKind::TimedOut,
                format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()),
            )))
        })?;
        let (role, name): (String, String) =
            sqlx::query_as("select current_user::text, current_database()::text")
                .fetch_one(&mut connection)
                .await?;
        Ok(Self {
            connection,
            role,
            database: format!("{name} at {place}"),
        })
    }

    /// The role we are connected as.
    pub(crate) fn role(&self) -> &str {
        &self.role
    }

    /// The database and where it is.
    pub(crate) fn database(&self) -> &str {
        &self.database
    }

    /// Has something looked at in a read-only transaction, which is rolled back. Each look has its own, so that one
    /// that fails spoils no other, and nothing depends on the session, which a pooler may change in between.
    pub(super) async fn look(
        &mut self,
        what: &str,
        report: &mut Report,
        look: impl AsyncFnOnce(&mut PgConnection) -> Result<Vec<Entry>, sqlx::Error>,
    ) {
        match Box::pin(self.looked(look)).await {
            Ok(entries) => report.extend(entries),
            Err(error) => report.miss(what, &error),
        }
    }

    async fn looked(
        &mut self,
        look: impl AsyncFnOnce(&mut PgConnection) -> Result<Vec<Entry>, sqlx::Error>,
    ) -> Result<Vec<Entry>, sqlx::Error> {
        let mut transaction: Transaction<'_, Postgres> =
            self.connection.begin_with("begin transaction read only").await?;
        let limits = format!("set local statement_timeout = '{LOOK_TIMEOUT_S}s'; set local search_path = ''");
        transaction.execute(sqlx::raw_sql(AssertSqlSafe(limits))).await?;
        let entries = look(&mut transaction).await?;
        transaction.rollback().await?;
        Ok(entries)
    }

    pub(crate) async fn close(self) {
        // All is read by now.
        let _: Result<(), sqlx::Error> = self.connection.close().await;
    }
}
