//! Who makes and drops the databases of a cluster.
//!
//! A thread with a runtime of its own: a test's runtime ends with the test, in the middle of whatever it still had
//! to do, and a database is dropped where nothing can be awaited.

use tokio::sync::{mpsc, oneshot};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};
use walcast_postgres::PLATFORM_SQL;

use crate::database::told;
use crate::until::until;

/// What new databases are copied from.
const TEMPLATE: &str = "template_platform";

enum Order {
    Create(oneshot::Sender<Result<String, String>>),
    Drop(String),
}

/// A line to the keeper of one cluster, which goes when the last of these does.
#[derive(Debug, Clone)]
pub(crate) struct Keeper {
    orders: mpsc::UnboundedSender<Order>,
}

impl Keeper {
    /// Starts the keeper of the cluster that is reached so, as a superuser.
    pub(crate) fn start(admin: Config) -> Self {
        let (orders, incoming) = mpsc::unbounded_channel();
        std::thread::Builder::new()
            .name("database-keeper".to_owned())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime
                    .unwrap_or_else(|error| panic!("no runtime: {error}"))
                    .block_on(keep(admin, incoming));
            })
            .unwrap_or_else(|error| panic!("no thread for the keeper of databases: {error}"));
        Self { orders }
    }

    /// Makes a database; returns its name.
    pub(crate) async fn create(&self) -> String {
        let (reply, made) = oneshot::channel();
        // A keeper that is gone drops the order and with it the reply.
        let _: Result<_, _> = self.orders.send(Order::Create(reply));
        match made.await {
            Ok(Ok(name)) => name,
            Ok(Err(reason)) => panic!("no database for the test: {reason}"),
            Err(_) => panic!("no database for the test: their keeper has panicked"),
        }
    }

    /// Has a database dropped, some time soon.
    pub(crate) fn drop_database(&self, name: String) {
        // Without a keeper the cluster is gone, or about to be.
        let _: Result<_, _> = self.orders.send(Order::Drop(name));
    }
}

async fn keep(admin: Config, mut orders: mpsc::UnboundedReceiver<Order>) {
    let mut session = None;
    let mut made = 0_u32;
    while let Some(order) = orders.recv().await {
        match order {
            Order::Create(reply) => {
                made += 1;
                let created = create(&admin, &mut session, made)
                    .await
                    .map_err(|error| told(&error));
                // The test may have ended meanwhile, and nobody would drop it.
                if let Err(Ok(name)) = reply.send(created) {
                    tokio::spawn(drop_database(admin.clone(), name));
                }
            }
            Order::Drop(name) => {
                tokio::spawn(drop_database(admin.clone(), name));
            }
        }
    }
}

async fn connect(admin: &Config, database: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = admin.clone().dbname(database).connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn create(
    admin: &Config,
    session: &mut Option<Client>,
    number: u32,
) -> Result<String, tokio_postgres::Error> {
    let client = match session.take() {
        Some(client) if !client.is_closed() => client,
        _ => connect(admin, "postgres").await?,
    };
    let client = session.insert(client);
    let has_template = "select exists (select from pg_database where datname = $1 and datistemplate)";
    if !client
        .query_one(has_template, &[&TEMPLATE])
        .await?
        .get::<_, bool>(0)
    {
        lay_template(admin, client).await?;
    }
    let name = format!("test_{number}");
    client
        .batch_execute(&format!("create database {name} template {TEMPLATE}"))
        .await?;
    // What a template may do for its database is not copied.
    client
        .batch_execute(&format!(
            "grant create on database {name} to postgres, supabase_realtime_admin"
        ))
        .await?;
    Ok(name)
}

async fn lay_template(admin: &Config, client: &Client) -> Result<(), tokio_postgres::Error> {
    // One that was not finished.
    client
        .batch_execute(&format!("drop database if exists {TEMPLATE} with (force)"))
        .await?;
    client
        .batch_execute(&format!("create database {TEMPLATE} template template0"))
        .await?;
    connect(admin, TEMPLATE)
        .await?
        .batch_execute(PLATFORM_SQL)
        .await?;
    let seal = format!("alter database {TEMPLATE} with is_template true allow_connections false");
    client.batch_execute(&seal).await
}

/// Drops a database whose last users may be leaving still, or not mean to.
async fn drop_database(admin: Config, name: String) {
    // The cluster may be stopped, or go any moment; then so does the database.
    let Ok(client) = connect(&admin, "postgres").await else {
        return;
    };
    let close = format!("alter database {name} with allow_connections false");
    let send_off = "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1";
    let drop = format!("drop database if exists {name} with (force)");
    if client.batch_execute(&close).await.is_err() {
        return;
    }
    until("the drop of a database", || async {
        client.execute(send_off, &[&name]).await.ok();
        match client.batch_execute(&drop).await {
            // A replication slot is in use until its walsender has noticed.
            Err(error) if error.code() == Some(&SqlState::OBJECT_IN_USE) => None,
            _ => Some(()),
        }
    })
    .await;
}
