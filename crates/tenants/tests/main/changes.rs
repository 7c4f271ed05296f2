//! Changes of records are told.

use std::time::Duration;

use tokio::time::timeout;
use walcast_tenants::{Changes, Happening};

use crate::scene::{connect, reference};

const LONG: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(20);

async fn next(changes: &mut Changes) -> (String, Happening) {
    let notice = timeout(PATIENCE, changes.next()).await.unwrap();
    (notice.external_id, notice.happening)
}

fn changed(name: &str) -> (String, Happening) {
    (name.to_owned(), Happening::Changed)
}

#[tokio::test]
async fn what_another_program_writes_is_found_by_comparing() {
    let database = reference().await;
    let mut changes = connect(&database).await.changes(SHORT).await.unwrap();
    for statement in [
        "update _realtime.tenants set max_concurrent_users = 7",
        "update _realtime.extensions set settings = settings || '{\"region\": \"elsewhere\"}'",
        "delete from _realtime.extensions",
        "delete from _realtime.tenants",
    ] {
        database.execute(statement).await;
        assert_eq!(next(&mut changes).await, changed("realtime-dev"), "{statement}");
    }
}

#[tokio::test]
async fn what_one_node_tells_of_all_hear_at_once() {
    let database = reference().await;
    let (here, there) = (connect(&database).await, connect(&database).await);
    let mut changes = there.changes(LONG).await.unwrap();
    database.execute("notify walcast_tenants, 'nothing known'").await;
    for happening in [Happening::Reload, Happening::Shutdown] {
        here.tell("realtime-dev", happening).await.unwrap();
        assert_eq!(next(&mut changes).await, ("realtime-dev".to_owned(), happening));
    }
}

#[tokio::test]
async fn what_changes_while_the_connection_is_away_is_told_after() {
    let database = reference().await;
    let mut changes = connect(&database).await.changes(SHORT).await.unwrap();
    database
        .execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'walcast_control' and datname = current_database()")
        .await;
    database.execute("delete from _realtime.tenants").await;
    assert_eq!(next(&mut changes).await, changed("realtime-dev"));
}
