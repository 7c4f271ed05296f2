//! Servers of several tenants, the records of these, and databases for them.

use serde_json::{Map, Value, json};
use url::Url;
use walcast_tenants::{Cipher, Control, ControlOptions, Defaults, Secret};
use walcast_testkit::{Database, Postgres};

use crate::server::{Client, Response, SECRET, Walcast, anon, now_s};

const KEY: &str = "supabaserealtime";

/// A table whose changes everybody may see.
const TODOS: &str = "create table public.todos (id int primary key, note text);
    grant select on public.todos to anon;
    alter publication supabase_realtime add table public.todos;";

/// Where tenants are recorded.
pub(crate) struct Records {
    pub(crate) database: Database,
    pub(crate) control: Control,
}

impl Records {
    pub(crate) async fn new() -> Self {
        Self::on(Postgres::shared().await.database().await).await
    }

    pub(crate) async fn on(database: Database) -> Self {
        let control = Control::new(ControlOptions {
            url: Secret::new(database.url()),
            after_connect: None,
            cipher: Cipher::new(KEY, None, false).unwrap(),
        })
        .unwrap();
        control.prepare().await.unwrap();
        Self { database, control }
    }

    /// A server of the tenants that are recorded.
    pub(crate) async fn serve(&self, settings: &[(&str, &str)]) -> Walcast {
        let given = [("WALCAST_TENANTS", "database"), ("DB_ENC_KEY", KEY)];
        let settings: Vec<_> = given.into_iter().chain(settings.iter().copied()).collect();
        Walcast::start_on(&self.database.url(), &settings).await
    }

    /// Makes a tenant on a database, or changes it.
    pub(crate) async fn put(&self, name: &str, database: &Database, more: Value) {
        let mut wanted = fields(json!({
            "jwt_secret": SECRET,
            "max_events_per_second": 100_000,
            "max_joins_per_second": 100_000,
            "extensions": [extension(&database.url())],
        }));
        wanted.extend(fields(more));
        self.write(name, &wanted).await;
    }

    /// Changes some fields of a tenant.
    pub(crate) async fn change(&self, name: &str, changed: Value) {
        self.write(name, &fields(changed)).await;
    }

    async fn write(&self, name: &str, wanted: &Map<String, Value>) {
        self.control
            .upsert_named(name, wanted, Defaults::default())
            .await
            .unwrap();
    }
}

/// A database with a table to listen to.
pub(crate) async fn todos() -> Database {
    let database = Postgres::shared().await.database().await;
    database.execute(TODOS).await;
    database
}

/// As [`todos`], in a cluster of the test's own.
pub(crate) async fn todos_in(postgres: &Postgres) -> Database {
    let database = postgres.database().await;
    database.execute(TODOS).await;
    database
}

/// How a tenant reaches the database of a URL.
pub(crate) fn extension(url: &str) -> Value {
    let url = Url::parse(url).unwrap();
    json!({"type": "postgres_cdc_rls", "settings": {
        "region": "us-east-1",
        "db_host": url.host_str().unwrap(),
        "db_port": url.port().unwrap().to_string(),
        "db_name": url.path().trim_start_matches('/'),
        "db_user": url.username(),
        "db_password": "none is asked for",
        "ssl_enforced": false,
        "db_pool": 2,
    }})
}

fn fields(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        other => panic!("{other} is no object"),
    }
}

pub(crate) fn host(tenant: &str) -> String {
    format!("{tenant}.example.com")
}

/// A socket of a tenant, with the key of all of them.
pub(crate) async fn socket(server: &Walcast, tenant: &str) -> Client {
    Client::connect_to(server.address, &host(tenant), "2.0.0", &anon()).await
}

/// What a connect to a tenant is told that does not become a socket.
pub(crate) async fn connect(server: &Walcast, tenant: &str, key: &str) -> Response {
    let target = format!("/socket/websocket?vsn=2.0.0&apikey={key}");
    server.request("GET", &target, &[("host", &host(tenant))]).await
}

/// A channel that listens to the table.
pub(crate) async fn listen(socket: &mut Client, topic: &str) {
    let config =
        json!({"config": {"postgres_changes": [{"event": "*", "schema": "public", "table": "todos"}]}});
    let (status, response) = socket.join(topic, topic, config).await;
    assert_eq!(status, "ok", "{response}");
    let told = socket.receive().await;
    assert_eq!(told[4]["message"], "Subscribed to PostgreSQL");
}

/// The id of the next change, past what the server has to say.
pub(crate) async fn changed(socket: &mut Client) -> Value {
    loop {
        let frame = socket.receive().await;
        if frame[3] == "postgres_changes" {
            return frame[4]["data"]["record"]["id"].clone();
        }
        assert_eq!(frame[3], "system", "{frame}");
    }
}

pub(crate) async fn insert(database: &Database, id: usize) {
    database
        .execute(&format!("insert into public.todos values ({id})"))
        .await;
}

pub(crate) fn signed_with(secret: &str) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
    let claims = json!({"role": "anon", "exp": now_s() + 3600});
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
}
