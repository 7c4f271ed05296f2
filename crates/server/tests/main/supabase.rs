//! In the place of Supabase's realtime server: its environment, its health check, and what its gateways send, as they
//! are (`database.md 8.5`, `protocol.md 1.1`, `10`).

use serde_json::json;
use tokio_tungstenite::tungstenite::protocol::Message;
use walcast_testkit::{Postgres, until};

use crate::binary::{started, walcast};
use crate::server::{Client, SECRET, Walcast, anon, request};

/// The realtime service's in Supabase's compose file, with the older and the optional ones. Values that a test must set
/// itself are empty.
pub(crate) const ENVIRONMENT: &[(&str, &str)] = &[
    ("PORT", ""),
    ("DB_HOST", ""),
    ("DB_PORT", ""),
    ("DB_USER", "supabase_admin"),
    ("DB_PASSWORD", "your-super-secret-and-long-postgres-password"),
    ("DB_NAME", ""),
    ("DB_SSL", "false"),
    ("DB_AFTER_CONNECT_QUERY", "SET search_path TO _realtime"),
    ("DB_ENC_KEY", "supabaserealtime"),
    ("API_JWT_SECRET", SECRET),
    ("API_JWT_JWKS", r#"{"keys":[]}"#),
    (
        "SECRET_KEY_BASE",
        "UpNVntn3cDxHJpq99YMc1T1AQgQpc8kfYTuRgBiYa15BLrx8etQoXz3gZv1/u2oq",
    ),
    ("METRICS_JWT_SECRET", SECRET),
    ("ERL_AFLAGS", "-proto_dist inet_tcp"),
    ("DNS_NODES", "''"),
    ("RLIMIT_NOFILE", "10000"),
    ("APP_NAME", "realtime"),
    ("SEED_SELF_HOST", "true"),
    ("SELF_HOST_TENANT_NAME", "realtime-dev"),
    ("RUN_JANITOR", "true"),
    ("DISABLE_HEALTHCHECK_LOGGING", "true"),
    ("TENANT_MAX_CONCURRENT_USERS", "200"),
    ("TENANT_MAX_EVENTS_PER_SECOND", "100"),
    ("TENANT_MAX_BYTES_PER_SECOND", "100000"),
    ("TENANT_MAX_CHANNELS_PER_CLIENT", "100"),
    ("TENANT_MAX_JOINS_PER_SECOND", "100"),
];

/// As `realtime-dev.supabase-realtime:4000` is asked by the health check of the compose file, and by Studio.
const HEALTH: &str = "/api/tenants/realtime-dev/health";

#[tokio::test]
async fn its_environment_starts_the_server_and_what_is_ignored_is_told_once() {
    let postgres = Postgres::shared().await;
    let database = postgres.database().await;
    let port = postgres.port().to_string();
    let mut running = started(
        walcast()
            .envs(ENVIRONMENT.iter().copied())
            .envs([("PORT", "0"), ("DB_HOST", "127.0.0.1"), ("DB_PORT", &port)])
            .env("DB_NAME", database.name()),
    )
    .await;
    let told: Vec<&str> = running
        .said
        .iter()
        .filter_map(|line| line.split_once("variables=\"")?.1.split('"').next())
        .collect();
    assert_eq!(
        told,
        [
            "APP_NAME, DB_AFTER_CONNECT_QUERY, DB_ENC_KEY, DISABLE_HEALTHCHECK_LOGGING, DNS_NODES, ERL_AFLAGS, \
          RUN_JANITOR, SECRET_KEY_BASE, SEED_SELF_HOST, TENANT_MAX_BYTES_PER_SECOND"
        ]
    );

    let address = running.address;
    let bearer = format!("Bearer {}", anon());
    let headers = [("authorization", bearer.as_str()), ("accept", "*/*")];
    let checked = request(address, "HEAD", HEALTH, &headers).await;
    assert_eq!((checked.status, &*checked.body), (200, ""), "{}", checked.head);
    until("the database is served", || async {
        let health = request(address, "GET", HEALTH, &headers).await.body;
        health.contains(r#""replication_connected":true"#).then_some(())
    })
    .await;
    running.child.kill().await.unwrap();
}

#[tokio::test]
async fn rlimit_nofile_never_takes_open_files_away() {
    let mut limited = tokio::process::Command::new("/bin/sh");
    limited
        .args([
            "-c",
            "ulimit -n 2000; ulimit -Sn 500; exec \"$0\"",
            env!("CARGO_BIN_EXE_walcast"),
        ])
        .env_clear()
        .kill_on_drop(true)
        .envs([
            ("API_JWT_SECRET", SECRET),
            ("PORT", "0"),
            ("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none"),
            ("RLIMIT_NOFILE", "1000"),
        ]);
    assert_eq!(open_files(&mut limited).await, 2000);
}

/// The limit that a started server has.
async fn open_files(command: &mut tokio::process::Command) -> u64 {
    let running = started(command).await;
    let limits = format!("/proc/{}/limits", running.child.id().unwrap());
    let limits = std::fs::read_to_string(limits).unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    line.split_whitespace().nth(3).unwrap().parse().unwrap()
}

#[tokio::test]
async fn rlimit_nofile_above_the_hard_limit_is_reached_or_said_not_to_be() {
    let mut limited = tokio::process::Command::new("/bin/sh");
    limited
        .args(["-c", "ulimit -n 2000; exec \"$0\"", env!("CARGO_BIN_EXE_walcast")])
        .env_clear()
        .kill_on_drop(true)
        .envs([
            ("API_JWT_SECRET", SECRET),
            ("PORT", "0"),
            ("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none"),
            ("RLIMIT_NOFILE", "3000"),
        ]);
    let running = started(&mut limited).await;
    let said = |text: &str| running.said.iter().any(|line| line.contains(text));
    let is_refused = said("RLIMIT_NOFILE is above the hard limit");
    assert_eq!(said("limit=3000"), !is_refused, "{:?}", running.said);
    assert_eq!(said("limit=2000"), is_refused, "{:?}", running.said);
}

/// `/realtime/v1/…` as the two gateways of Supabase's compose files hand it on, with what they add.
#[tokio::test]
async fn what_its_gateways_send_is_answered() {
    let server = Walcast::start(&[]).await;
    let key = anon();
    let bearer = format!("Bearer {key}");
    let kong = [
        ("host", "realtime-dev.supabase-realtime:4000"),
        ("x-forwarded-for", "172.18.0.1"),
        ("x-forwarded-prefix", "/realtime/v1/"),
        ("x-forwarded-path", "/realtime/v1/api/broadcast"),
        ("x-consumer-username", "anon"),
        ("x-credential-identifier", "1f3870be"),
        ("authorization", &bearer),
        ("apikey", &key),
    ];
    // Its Host is the container's name without the port.
    let envoy = [
        ("host", "realtime-dev.supabase-realtime"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "localhost:8000"),
        ("x-envoy-original-path", "/realtime/v1/api/broadcast"),
        ("authorization", &bearer),
        ("apikey", &key),
    ];
    for (gateway, headers) in [("Kong", &kong[..]), ("Envoy", &envoy[..])] {
        let mut headers = headers.to_vec();
        let pong = server.request("GET", "/api/ping", &headers).await;
        assert_eq!(
            (pong.status, &*pong.body),
            (200, r#"{"message":"Success"}"#),
            "{gateway}"
        );
        headers.push(("content-type", "application/json"));
        let mut member = server.socket().await;
        member.join_ok("realtime:room", "1").await;
        let message = json!({"topic": "room", "event": "e", "payload": {"by": gateway}});
        let body = json!({"messages": [message]}).to_string();
        let sent = server.post("/api/broadcast", &headers, body.as_bytes()).await;
        assert_eq!(sent.status, 202, "{gateway}: {}", sent.body);
        assert_eq!(member.receive().await[4]["payload"], json!({"by": gateway}));
        let target = "/api/broadcast/room/events/e";
        let sent = server.post(target, &headers, br#"{"n":1}"#).await;
        assert_eq!(sent.status, 202, "{gateway}: {}", sent.body);
        let Message::Binary(frame) = member.next().await else {
            panic!("a broadcast to one topic is binary")
        };
        assert!(frame.ends_with(br#"roome{"n":1}"#), "{frame:?}");
    }
}

#[tokio::test]
async fn sockets_come_through_its_gateways_with_the_key_in_two_places() {
    let server = Walcast::start(&[]).await;
    let key = anon();
    // Kong keeps the query's key and repeats it as a header; for an opaque key both are the token behind it.
    for (host, header) in [
        ("realtime-dev.supabase-realtime:4000", Some(key.as_str())),
        ("realtime-dev.supabase-realtime", None),
    ] {
        let mut socket = Client::connect_with(server.address, host, &key, header).await;
        socket.join_ok("realtime:a", "1").await;
    }
}
