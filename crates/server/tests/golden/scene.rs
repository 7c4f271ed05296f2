//! What the transcripts were recorded against: a database with their tables, and a server on it.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use walcast::config::Config;
use walcast::migrate::migrate_at;
use walcast::options::Options;
use walcast::serve::{self, ServeError};
use walcast_testkit::{Database, Postgres};

use crate::client::Client;
use crate::stand_ins::{SECRET, StandIns};
use crate::transcript::{Ending, Outgoing, Request, folder};

/// Longer than anything here may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Longer than a join takes, so that a channel which joins anew comes before its end is told.
const PRESENCE_WINDOW_MS: &str = "100";

/// The table by which the replay sees how far the stream is.
pub(crate) const PASSED: &str = "golden_passed";

/// A server in this process.
pub(crate) struct Walcast {
    pub(crate) address: SocketAddr,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), ServeError>>,
}

impl Walcast {
    /// Configured like the recorded one, but that refusals come without delay.
    pub(crate) async fn start(database: &Database, settings: &[(&str, String)]) -> Self {
        let url = database.url();
        let given = [
            ("API_JWT_SECRET", SECRET),
            ("METRICS_JWT_SECRET", SECRET),
            ("DATABASE_URL", &*url),
            ("CONNECT_ERROR_BACKOFF_MS", "0"),
            ("WALCAST_PRESENCE_WINDOW_MS", PRESENCE_WINDOW_MS),
        ];
        let settings = settings.iter().map(|(name, value)| (*name, &**value));
        let options = Options::from_environment(given.into_iter().chain(settings)).unwrap();
        let config = Config::from_options(&options).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(Box::pin(serve::run(listener, config, shutdown.clone())));
        Self {
            address,
            shutdown,
            running,
        }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.running)
            .await
            .expect("the server stops")
            .unwrap()
            .unwrap();
    }
}

/// The scene of all cases.
pub(crate) struct Scene {
    pub(crate) database: Database,
    pub(crate) server: Walcast,
    /// Held by who writes to the tables.
    tables: Mutex<Witness>,
}

/// Sees every change there is, as a role that needs to ask for none.
pub(crate) struct Witness {
    client: Client,
    rows: u64,
}

impl Scene {
    pub(crate) async fn set(stand_ins: &StandIns) -> Self {
        let database = Postgres::shared().await.database().await;
        Box::pin(migrate_at(&database.url())).await.unwrap();
        lay_tables(&database).await;
        let limit = ("TENANT_MAX_EVENTS_PER_SECOND", "10000000".to_owned());
        let server = Walcast::start(&database, &[limit]).await;
        let witness = Witness::listen(server.address, stand_ins).await;
        Self {
            database,
            server,
            tables: Mutex::new(witness),
        }
    }

    /// The tables, for one case alone.
    pub(crate) async fn tables(&self) -> MutexGuard<'_, Witness> {
        self.tables.lock().await
    }

    /// Lays the tables anew.
    pub(crate) async fn restore(&self) {
        lay_tables(&self.database).await;
    }

    pub(crate) async fn clear(self) {
        let Self { server, tables, .. } = self;
        tables.into_inner().client.end(Ending::Handshake, PATIENCE).await;
        server.stop().await;
    }
}

async fn lay_tables(database: &Database) {
    let script = |name| std::fs::read_to_string(folder().join(name)).unwrap();
    database.execute(&script("schema.sql")).await;
    database.execute(&script("extras.sql")).await;
    database
        .execute(&format!(
            "create table if not exists public.{PASSED} (id bigint primary key);
             alter publication supabase_realtime add table public.{PASSED};"
        ))
        .await;
}

impl Witness {
    async fn listen(server: SocketAddr, stand_ins: &StandIns) -> Self {
        let request = Request {
            method: "GET".to_owned(),
            target: stand_ins.fill("/socket/websocket?apikey={{service}}&vsn=2.0.0"),
            headers: vec![("host".to_owned(), "localhost".to_owned())],
            body: Vec::new(),
        };
        let (_, client) = Client::open(server, &request, None).await;
        let mut client = client.expect("the witness may connect");
        let everything = r#"["1","1","realtime:golden-witness","phx_join",{"config":{"postgres_changes":[{"event":"*","schema":"*","table":"*"}]}}]"#;
        client.send(&Outgoing::Text(everything.to_owned()));
        assert!(client.hear("Subscribed to PostgreSQL", "ok", PATIENCE).await);
        Self { client, rows: 0 }
    }

    /// Waits until everything that was committed so far has been decided about.
    ///
    /// The witness hears all tables, and a channel hears what it is bound to in the order of commits.
    pub(crate) async fn all_passed(&mut self, database: &Database) {
        self.rows += 1;
        let row = self.rows;
        database
            .execute(&format!(
                "delete from {PASSED}; insert into {PASSED} values ({row})"
            ))
            .await;
        let id = format!("{{\"id\":{row}}}");
        let table = format!("\"{PASSED}\"");
        let heard = self
            .client
            .hear(&table, &format!("\"record\":{id}"), PATIENCE)
            .await;
        assert!(heard, "the stream stands still");
    }
}
