//! Getting in: methods of authentication, ways to connect, and what is said when it does not work.

use crate::server::{Database, database};
use crate::watched::{Everything, Watched, eager};
use walcast_replication::{Config, StreamError};
use walcast_testkit::Postgres;

/// What the first attempt fails with.
async fn refusal(url: &str) -> StreamError {
    let mut watched = Watched::spawn(Config::from_url(url).unwrap(), eager(), Everything);
    let reason = watched.lost().await;
    watched.cancel().await;
    std::sync::Arc::into_inner(reason).unwrap()
}

#[tokio::test]
async fn every_method_of_authentication_lets_in_who_knows_the_password() {
    let mut options = Postgres::options();
    for (role, method) in [
        ("by_scram", "scram-sha-256"),
        ("by_md5", "md5"),
        ("by_password", "password"),
        ("by_trust", "trust"),
    ] {
        options.hba.push(format!("host all {role} 127.0.0.1/32 {method}"));
    }
    options
        .hba
        .push("host all shut_out 127.0.0.1/32 reject".to_owned());
    let postgres = Postgres::start(options).await;
    let database = Database::of(&postgres).await;
    database
        .run(
            "create publication supabase_realtime;
             create role by_scram login replication password 'sécret wörd';
             create role by_password login replication password 'sécret wörd';
             create role by_trust login replication; create role shut_out login replication;
             set password_encryption = 'md5';
             create role by_md5 login replication password 'sécret wörd'",
        )
        .await;
    for role in ["by_scram", "by_md5", "by_password", "by_trust"] {
        Watched::start(&database.url_as(role, "sécret wörd"))
            .await
            .cancel()
            .await;
        if role == "by_trust" {
            continue;
        }
        let wrong = refusal(&database.url_as(role, "sécret")).await;
        assert!(matches!(wrong, StreamError::WrongPassword(_)), "{wrong}");
        let url = database.url().replace("supabase_admin@", &format!("{role}@"));
        let missing = refusal(&url).await;
        assert!(matches!(missing, StreamError::NoPassword), "{missing}");
    }
    let shut_out = refusal(&database.url_as("shut_out", "x")).await;
    assert!(
        matches!(&shut_out, StreamError::LoginRefused(text) if text.contains("pg_hba.conf")),
        "{shut_out}"
    );
}

#[tokio::test]
async fn a_refusal_says_what_is_wrong_and_what_to_do() {
    let database = database().await;
    let name = database.name();
    let [stranger, plain] = ["stranger", "plain"].map(|role| format!("{role}_of_{name}"));
    database.run(&format!("create role {plain} login")).await;
    let port = database.number("select current_setting('port')::bigint").await;

    let error = refusal(&database.url_as(&plain, "")).await;
    assert!(matches!(error, StreamError::NoReplicationRight(_)), "{error}");
    let error = refusal(&database.url_as(&stranger, "")).await;
    assert!(matches!(error, StreamError::LoginRefused(_)), "{error}");
    let error = refusal(&database.url().replace(name, "nowhere")).await;
    assert!(matches!(error, StreamError::UnknownDatabase(_)), "{error}");
    let error = refusal(&format!("postgres://u@does-not-exist.invalid:{port}/d")).await;
    assert!(matches!(error, StreamError::Connect { .. }), "{error}");
    let error = refusal(&format!("{}?sslmode=require", database.url())).await;
    assert!(matches!(error, StreamError::TlsNotOffered), "{error}");
    database.run(&format!("drop role {plain}")).await;
}

#[tokio::test]
async fn a_server_without_logical_decoding_is_told_apart() {
    let postgres = Postgres::start(Postgres::options().setting("wal_level", "replica")).await;
    let database = postgres.database().await;
    let error = refusal(&database.url()).await;
    assert!(matches!(error, StreamError::WalLevel(_)), "{error}");
}

#[tokio::test]
async fn busy_walsenders_and_slots_are_told_apart() {
    let options = Postgres::options()
        .setting("max_wal_senders", "2")
        .setting("max_replication_slots", "1");
    let postgres = Postgres::start(options).await;
    let database = Database::of(&postgres).await;
    let first = Watched::start(&database.url()).await;
    let error = refusal(&database.url()).await;
    assert!(matches!(error, StreamError::NoFreeSlot(_)), "{error}");

    database.run("alter system set max_replication_slots = 5; ").await;
    database.run("alter system set max_wal_senders = 1").await;
    first.cancel().await;
    postgres.restart().await;
    let _first = Watched::start(&database.url()).await;
    let error = refusal(&database.url()).await;
    assert!(matches!(error, StreamError::NoFreeWalsender(_)), "{error}");
}

#[tokio::test]
async fn a_role_without_more_than_replication_can_stream() {
    let database = database().await;
    let role = format!("streamer_of_{}", database.name());
    database
        .run(&format!(
            "create role {role} login replication; create table t (id int primary key);
             create publication supabase_realtime for table t"
        ))
        .await;
    let mut watched = Watched::start(&database.url_as(&role, "")).await;
    database.run("insert into t values (1)").await;
    assert_eq!(watched.rows(1).await, ["INSERT t (1)"]);
    watched.cancel().await;
    database.run(&format!("drop role {role}")).await;
}

#[tokio::test]
async fn unix_sockets_and_both_families_of_addresses_work() {
    let mut options = Postgres::options().setting("listen_addresses", "127.0.0.1,::1");
    options.hba.push("host all all ::1/128 trust".to_owned());
    let postgres = Postgres::start(options).await;
    let database = Database::of(&postgres).await;
    let (port, name) = (postgres.port(), database.name());
    let socket_dir = postgres.socket_dir().to_string_lossy().replace('/', "%2F");
    for host in [&*socket_dir, "127.0.0.1", "[::1]", "localhost"] {
        let url = format!("postgres://supabase_admin@{host}:{port}/{name}");
        Watched::start(&url).await.cancel().await;
    }
    let by_parameter =
        format!("postgres://supabase_admin@/{name}?host={socket_dir}&port={port}&sslmode=require");
    Watched::start(&by_parameter).await.cancel().await;
}

#[tokio::test]
async fn every_address_of_a_host_is_tried() {
    // The name stands for both families, and the server listens on one.
    for address in ["127.0.0.1", "::1"] {
        let mut options = Postgres::options().setting("listen_addresses", address);
        options.hba.push("host all all ::1/128 trust".to_owned());
        if address == "::1" && !localhost_has_both() {
            continue;
        }
        let postgres = Postgres::start(options).await;
        let socket_dir = postgres.socket_dir().to_string_lossy().replace('/', "%2F");
        let admin = format!(
            "postgres://supabase_admin@{socket_dir}:{}/postgres",
            postgres.port()
        );
        let url = format!("postgres://supabase_admin@localhost:{}/postgres", postgres.port());
        Watched::start(&admin).await.cancel().await;
        Watched::start(&url).await.cancel().await;
    }
}

fn localhost_has_both() -> bool {
    use std::net::ToSocketAddrs;
    ("localhost", 1)
        .to_socket_addrs()
        .is_ok_and(|addresses| addresses.into_iter().any(|address| address.is_ipv6()))
}
