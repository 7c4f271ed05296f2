//! A database, its stream of changes, and channels that listen.

use serde_json::value::RawValue;
use serde_json::{Value, json};
use sqlx::PgPool;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use walcast_changes::{Changes, Claims, Options, Request, SubscribeError, Subscription};
use walcast_protocol::{Frame, JoinPayload, Outlet, Ref, Version};
use walcast_replication::Config;
use walcast_testkit::{Database, Postgres};

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
pub(crate) const ALICE: &str = "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa";
pub(crate) const BOB: &str = "bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb";

/// A policy function that is never decided in process: it has to be asked.
pub(crate) const OWNS: &str = "create function owns(owner uuid) returns boolean language plpgsql stable as
    'begin return owner = auth.uid(); end';";

pub(crate) struct Scene {
    pub(crate) database: Database,
    pub(crate) changes: Changes,
    cancel: CancellationToken,
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Scene {
    /// On the cluster that tests share.
    pub(crate) async fn new(setup: &str) -> Self {
        Self::with(setup, Options::default()).await
    }

    pub(crate) async fn with(setup: &str, options: Options) -> Self {
        Self::on(Postgres::shared().await.database().await, setup, options).await
    }

    pub(crate) async fn on(database: Database, setup: &str, options: Options) -> Self {
        let pool = PgPool::connect(&database.url()).await.unwrap();
        sqlx::migrate!("../../migrations").run(&pool).await.unwrap();
        // A database setting holds for sessions that start after it.
        pool.close().await;
        database.execute(setup).await;
        let pool = PgPool::connect(&database.url()).await.unwrap();
        let cancel = CancellationToken::new();
        let replication = Config::from_url(&database.url()).unwrap();
        let changes = Changes::start(replication, pool, options, cancel.clone());
        Self {
            database,
            changes,
            cancel,
        }
    }

    /// Another engine on the same database.
    pub(crate) async fn another(&self) -> Engine {
        let pool = PgPool::connect(&self.database.url()).await.unwrap();
        let replication = Config::from_url(&self.database.url()).unwrap();
        let cancel = CancellationToken::new();
        Engine {
            changes: Changes::start(replication, pool, Options::default(), cancel.clone()),
            _cancel: cancel.drop_guard(),
        }
    }

    /// Stops the stream and waits for its end.
    pub(crate) async fn end(&self) {
        self.cancel.cancel();
        timeout(DEADLINE, self.changes.stopped())
            .await
            .unwrap_or_else(|_| panic!("the stream does not end"));
    }

    pub(crate) async fn run(&self, statements: &str) {
        self.database.execute(statements).await;
    }

    pub(crate) async fn subscribe(&self, claims: Claims, entries: Value) -> Result<Listener, SubscribeError> {
        subscribe(&self.changes, claims, entries).await
    }

    pub(crate) async fn listen(&self, claims: Claims, entries: Value) -> Listener {
        self.subscribe(claims, entries)
            .await
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// Why a subscription is refused.
    pub(crate) async fn refusal(&self, claims: Claims, entries: Value) -> String {
        match self.subscribe(claims, entries.clone()).await {
            Ok(_) => panic!("{entries} was accepted"),
            Err(error) => error.to_string(),
        }
    }
}

/// An engine besides that of the scene.
pub(crate) struct Engine {
    changes: Changes,
    _cancel: DropGuard,
}

impl Engine {
    pub(crate) async fn listen(&self, claims: Claims, entries: Value) -> Listener {
        subscribe(&self.changes, claims, entries)
            .await
            .unwrap_or_else(|error| panic!("{error}"))
    }
}

/// A channel of an engine.
pub(crate) async fn subscribe(
    changes: &Changes,
    claims: Claims,
    entries: Value,
) -> Result<Listener, SubscribeError> {
    let (sender, frames) = mpsc::unbounded_channel();
    let join = json!({ "config": { "postgres_changes": entries } }).to_string();
    let join = JoinPayload::parse(&RawValue::from_string(join).unwrap()).unwrap();
    let entries = join.config.unwrap().postgres_changes;
    let ids = entries.iter().map(|entry| entry.id).collect();
    let request = Request {
        version: Version::V2,
        topic: Arc::from("realtime:room"),
        join_ref: Ref::from_text("1"),
        legacy: false,
        entries,
        claims: Arc::new(claims),
        outlet: Arc::new(Sender(sender)),
    };
    let subscription = timeout(DEADLINE, changes.subscribe(request))
        .await
        .unwrap_or_else(|_| panic!("no answer to a subscription"))?;
    Ok(Listener {
        subscription,
        ids,
        frames,
    })
}

struct Sender(mpsc::UnboundedSender<Value>);

impl Outlet for Sender {
    fn deliver(&self, frame: Frame) {
        let message = serde_json::from_slice(frame.bytes()).unwrap();
        // A test may end before the last frame.
        let _: Result<_, _> = self.0.send(message);
    }
}

/// A channel with a subscription.
pub(crate) struct Listener {
    pub(crate) subscription: Subscription,
    /// The public ids of its entries, in request order.
    pub(crate) ids: Vec<u32>,
    pub(crate) frames: mpsc::UnboundedReceiver<Value>,
}

impl Listener {
    /// The next message: `[join_ref, ref, topic, event, payload]`.
    pub(crate) async fn message(&mut self) -> Value {
        timeout(DEADLINE, self.frames.recv())
            .await
            .unwrap_or_else(|_| panic!("no message"))
            .unwrap()
    }

    /// The payload of the next message, which is a change.
    pub(crate) async fn payload(&mut self) -> Value {
        let message = self.message().await;
        assert_eq!(message[3], "postgres_changes", "{message}");
        message[4].clone()
    }

    /// The `data` of the next message, which is a change.
    pub(crate) async fn change(&mut self) -> Value {
        self.payload().await["data"].clone()
    }

    /// The `id` of the row of the next message, which is an INSERT or UPDATE.
    pub(crate) async fn id(&mut self) -> i64 {
        let change = self.change().await;
        change["record"]["id"]
            .as_i64()
            .unwrap_or_else(|| panic!("no id in {change}"))
    }

    /// The payload of the next message, which is a `system` message: its status and its text.
    pub(crate) async fn system(&mut self) -> (String, String) {
        let message = self.message().await;
        assert_eq!(message[3], "system", "{message}");
        let text = |key: &str| message[4][key].as_str().unwrap().to_owned();
        (text("status"), text("message"))
    }
}

/// Claims of a signed-in user.
pub(crate) fn user(sub: &str) -> Claims {
    role("authenticated", sub)
}

pub(crate) fn role(role: &str, sub: &str) -> Claims {
    Claims {
        role: role.to_owned(),
        json: json!({ "role": role, "sub": sub }).to_string().into(),
    }
}

/// Who passes by every policy.
pub(crate) fn service() -> Claims {
    role("service_role", "service")
}

/// Everything of one table.
pub(crate) fn all(table: &str) -> Value {
    json!([{ "event": "*", "schema": "public", "table": table }])
}

/// Everything of one table that passes a filter.
pub(crate) fn filtered(table: &str, filter: &str) -> Value {
    json!([{ "event": "*", "schema": "public", "table": table, "filter": filter }])
}

/// A published table that the API roles may read.
pub(crate) fn table(name: &str, columns: &str) -> String {
    format!("create table {name} ({columns}); {}", publish(name))
}

pub(crate) fn publish(name: &str) -> String {
    format!(
        "grant select on {name} to anon, authenticated, service_role;
         alter publication supabase_realtime add table {name};"
    )
}
