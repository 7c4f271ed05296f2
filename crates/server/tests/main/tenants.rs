//! Several tenants (`WALCAST_TENANTS=database`): which one a request is for, what becomes of its sockets and of its
//! connections when its record changes, and how it is.

use serde_json::{Value, json};
use tokio::time::Instant;
use walcast_tenants::Happening;
use walcast_testkit::{Database, until};

use crate::server::{Client, PATIENCE, Response, Walcast, anon};
use crate::tenants_scene::{
    Records, changed, connect, extension, host, insert, listen, signed_with, socket, todos,
};

const CHANGES: &str = "realtime:todos";

async fn post(server: &Walcast, tenant: &str, target: &str) -> Response {
    let (bearer, host) = (format!("Bearer {}", anon()), host(tenant));
    let headers = [
        ("host", host.as_str()),
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    let body = br#"{"messages":[{"topic":"a","event":"e","payload":{}}]}"#;
    server.post(target, &headers, body).await
}

async fn get(server: &Walcast, tenant: &str, target: &str) -> Response {
    let bearer = format!("Bearer {}", anon());
    let headers = [("host", &*host(tenant)), ("authorization", &*bearer)];
    server.request("GET", target, &headers).await
}

/// Connections of Walcast to a database, and replication slots.
async fn connections(database: &Database) -> (i64, i64) {
    let query = format!(
        "select (select count(*) from pg_stat_activity where datname = '{name}' and application_name like 'walcast%'),
                (select count(*) from pg_replication_slots where database = '{name}')",
        name = database.name()
    );
    let row = database.client().await.query_one(&query, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

async fn until_released(database: &Database) {
    until("all connections are given back, and the slot", || async {
        (connections(database).await == (0, 0)).then_some(())
    })
    .await;
}

/// The word before the end, to a channel, and the end.
async fn expect_disconnect(socket: &mut Client, topic: &str) {
    let payload = json!({"extension": "system", "status": "ok", "message": "Server requested disconnect"});
    socket.expect(json!([null, null, topic, "system", payload])).await;
    assert_eq!(socket.close_code().await, Some(1012));
}

#[tokio::test]
async fn section_1_2_the_host_says_whose_socket_it_is() {
    let (records, database) = (Records::new().await, todos().await);
    records.put("one", &database, json!({})).await;
    let other = "another-secret-of-at-least-thirty-two-bytes";
    records.put("two", &database, json!({"jwt_secret": other})).await;
    let server = records.serve(&[]).await;
    for (tenant, key, error) in [
        ("one", anon(), None),
        ("two", signed_with(other), None),
        (
            "one",
            signed_with(other),
            Some((401, "Failed to validate JWT signature")),
        ),
        ("two", anon(), Some((401, "Failed to validate JWT signature"))),
        ("three", anon(), Some((404, "Tenant not found"))),
        ("three", "no key".to_owned(), Some((404, "Tenant not found"))),
        ("o'ne", anon(), Some((404, "Tenant not found"))),
    ] {
        let response = connect(&server, tenant, &key.replace(' ', "")).await;
        match error {
            None => assert_eq!(
                response.status, 400,
                "it is let in, but is no upgrade: {response:?}"
            ),
            Some((status, error)) => assert_eq!(
                (response.status, response.body),
                (status, json!({"error": error}).to_string()),
                "{tenant}"
            ),
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn sections_5_6_and_10_requests_for_nobody_are_refused_in_the_reference_s_words() {
    let (records, database) = (Records::new().await, todos().await);
    records.put("one", &database, json!({})).await;
    records.put("shut", &database, json!({"suspend": true})).await;
    let server = records.serve(&[]).await;
    let unknown = (401, r#"{"message":"Tenant not found in database"}"#);
    let suspended = (403, r#"{"message":"Tenant is suspended"}"#);
    for (tenant, broadcast, ping) in [
        ("one", (202, ""), (200, r#"{"message":"Success"}"#)),
        ("nobody", unknown, unknown),
        ("shut", suspended, (200, r#"{"message":"Success"}"#)),
    ] {
        for target in ["/api/broadcast", "/api/broadcast/a/events/e"] {
            let response = post(&server, tenant, target).await;
            assert_eq!((response.status, &*response.body), broadcast, "{tenant} {target}");
            let has_rates = response.header("x-rate-rolling").is_some();
            assert_eq!(has_rates, tenant != "nobody", "a tenant's requests are counted");
        }
        let response = get(&server, tenant, "/api/ping").await;
        assert_eq!((response.status, &*response.body), ping, "{tenant}");
    }
    let unsupported = [("host", "nobody.localhost"), ("content-type", "text/plain")];
    let response = server.post("/api/broadcast/a/events/e", &unsupported, b"x").await;
    assert_eq!(response.status, 415, "the type of the body is looked at first");
    for (tenant, status, message) in [
        ("nobody", 404, "Tenant not found"),
        ("shut", 403, "Realtime was disabled for this tenant"),
    ] {
        let response = get(&server, tenant, "/api/sse?topic=a").await;
        let body: Value = serde_json::from_str(&response.body).unwrap();
        assert_eq!(
            (response.status, body["message"].as_str()),
            (status, Some(message))
        );
        let response = connect(&server, tenant, &anon()).await;
        let error = json!({"error": message}).to_string();
        assert_eq!((response.status, response.body), (status, error));
    }
}

#[tokio::test]
async fn refusals_of_check_2_and_3_are_delayed_as_all_others() {
    let records = Records::new().await;
    let server = records.serve(&[("CONNECT_ERROR_BACKOFF_MS", "700")]).await;
    let asked = Instant::now();
    assert_eq!(connect(&server, "nobody", &anon()).await.status, 404);
    assert!(asked.elapsed().as_millis() >= 700);
}

#[tokio::test]
async fn tenants_hear_nothing_of_each_other() {
    let (records, one, two) = (Records::new().await, todos().await, todos().await);
    records.put("one", &one, json!({})).await;
    records.put("two", &two, json!({})).await;
    let server = records.serve(&[]).await;
    let (mut first, mut second) = (socket(&server, "one").await, socket(&server, "two").await);
    for (socket, database) in [(&mut first, &one), (&mut second, &two)] {
        listen(socket, CHANGES).await;
        let (running, slots) = connections(database).await;
        assert!(running > 0 && slots == 1, "{running} {slots}");
    }
    insert(&one, 1).await;
    assert_eq!(changed(&mut first).await, 1);
    first
        .send_json(json!(["realtime:todos", "b", CHANGES, "broadcast", {"type": "broadcast", "event": "e"}]))
        .await;
    first.expect_silence().await;
    post(&server, "one", "/api/broadcast/todos/events/e").await;
    assert_eq!(first.receive_bytes().await[0], 4, "of a request for its tenant");
    insert(&two, 2).await;
    assert_eq!(changed(&mut second).await, 2, "and nothing before it");
    second.expect_silence().await;
    server.stop().await;
    assert_eq!(connections(&one).await, (0, 0));
    assert_eq!(connections(&two).await, (0, 0));
}

#[tokio::test]
async fn database_8_4_a_change_of_a_record_does_what_it_asks_for_and_no_more() {
    let (records, database) = (Records::new().await, todos().await);
    let server = records.serve(&[]).await;
    let disconnecting = [
        json!({"suspend": true}),
        json!({"private_only": true}),
        json!({"jwt_secret": "a-new-secret-of-at-least-thirty-two-bytes"}),
        json!({"jwt_jwks": {"keys": [{"kty": "oct", "kid": "k", "alg": "HS256", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQ"}]}}),
    ];
    for (number, change) in disconnecting.into_iter().enumerate() {
        let name = format!("t{number}");
        records.put(&name, &database, json!({})).await;
        let mut socket = socket(&server, &name).await;
        socket.join_ok("realtime:a", "1").await;
        records.change(&name, change).await;
        expect_disconnect(&mut socket, "realtime:a").await;
    }
    records.put("t", &database, json!({})).await;
    let mut socket = socket(&server, "t").await;
    socket.join_ok("realtime:a", "1").await;
    for change in [
        json!({"name": "Called otherwise"}),
        json!({"max_channels_per_client": 1}),
    ] {
        records.change("t", change).await;
    }
    // Until the last change is heeded, and then those before it are.
    for number in 2.. {
        let topic = format!("realtime:{number}");
        let (status, reply) = socket.join(&topic, &topic, json!({"config": {}})).await;
        if status == "error" {
            assert_eq!(reply["reason"], "ChannelRateLimitReached: Too many channels");
            break;
        }
        assert!(number < 90, "the usual limit is reached before the new one");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    socket.expect_silence().await;
}

#[tokio::test]
async fn section_1_4_a_suspended_tenant_is_served_again_when_it_is_no_more() {
    let (records, database) = (Records::new().await, todos().await);
    records.put("t", &database, json!({})).await;
    let server = records.serve(&[]).await;
    let mut first = socket(&server, "t").await;
    listen(&mut first, CHANGES).await;
    records.change("t", json!({"suspend": true})).await;
    expect_disconnect(&mut first, CHANGES).await;
    let refused = connect(&server, "t", &anon()).await;
    assert_eq!(
        (refused.status, &*refused.body),
        (403, r#"{"error":"Realtime was disabled for this tenant"}"#)
    );
    until_released(&database).await;
    records.change("t", json!({"suspend": false})).await;
    until("connects are let in", async || {
        (connect(&server, "t", &anon()).await.status == 400).then_some(())
    })
    .await;
    let mut second = socket(&server, "t").await;
    listen(&mut second, CHANGES).await;
    insert(&database, 1).await;
    assert_eq!(changed(&mut second).await, 1);
}

#[tokio::test]
async fn a_tenant_whose_database_becomes_another_goes_on_there_with_its_sockets() {
    let (records, old, new) = (Records::new().await, todos().await, todos().await);
    records.put("t", &old, json!({})).await;
    let server = records.serve(&[]).await;
    let mut socket = socket(&server, "t").await;
    listen(&mut socket, CHANGES).await;
    records
        .change("t", json!({"extensions": [extension(&new.url())]}))
        .await;
    let gone = socket.receive().await;
    assert_eq!(
        (&gone[3], &gone[4]["status"]),
        (&json!("system"), &json!("error")),
        "the channel is told that changes may be missed"
    );
    assert_eq!(socket.receive().await[4]["message"], "Subscribed to PostgreSQL");
    until_released(&old).await;
    insert(&old, 1).await;
    insert(&new, 2).await;
    assert_eq!(changed(&mut socket).await, 2);
}

#[tokio::test]
async fn a_tenant_that_nobody_uses_gives_its_connections_back_and_comes_again() {
    let (records, database) = (Records::new().await, todos().await);
    records.put("t", &database, json!({})).await;
    let server = records.serve(&[("WALCAST_TENANT_IDLE_MS", "300")]).await;
    assert_eq!(get(&server, "t", "/api/ping").await.status, 200);
    assert_eq!(
        connections(&database).await,
        (0, 0),
        "nothing needed the database yet"
    );
    for id in 1..=2 {
        let mut socket = socket(&server, "t").await;
        listen(&mut socket, CHANGES).await;
        // Longer than a tenant may be idle: it is not.
        tokio::time::sleep(std::time::Duration::from_millis(600)).await;
        insert(&database, id).await;
        assert_eq!(changed(&mut socket).await, id);
        drop(socket);
        until_released(&database).await;
    }
}

#[tokio::test]
async fn section_10_a_tenant_that_is_shut_down_keeps_its_sockets_and_a_reloaded_one_does_not() {
    let (records, database) = (Records::new().await, todos().await);
    records.put("t", &database, json!({})).await;
    let server = records.serve(&[]).await;
    let mut quiet = socket(&server, "t").await;
    quiet.join_ok("realtime:a", "1").await;
    until("the database is worked on", || async {
        (connections(&database).await.1 == 1).then_some(())
    })
    .await;
    records.control.tell("t", Happening::Shutdown).await.unwrap();
    until_released(&database).await;
    quiet.expect_silence().await;

    let mut listening = socket(&server, "t").await;
    listen(&mut listening, CHANGES).await;
    records.control.tell("t", Happening::Shutdown).await.unwrap();
    let told = listening.receive().await;
    assert_eq!(told[4]["status"], "error", "{told}");
    assert_eq!(
        listening.receive().await[4]["message"],
        "Subscribed to PostgreSQL"
    );
    insert(&database, 1).await;
    assert_eq!(changed(&mut listening).await, 1);

    records.control.tell("t", Happening::Reload).await.unwrap();
    expect_disconnect(&mut listening, CHANGES).await;
    expect_disconnect(&mut quiet, "realtime:a").await;
    let mut again = socket(&server, "t").await;
    listen(&mut again, CHANGES).await;
    insert(&database, 2).await;
    assert_eq!(changed(&mut again).await, 2);
}

#[tokio::test]
async fn section_1_6_a_deleted_tenant_s_sockets_are_closed_and_nobody_finds_it_again() {
    let (records, database) = (Records::new().await, todos().await);
    records.put("t", &database, json!({})).await;
    let server = records.serve(&[]).await;
    let mut socket = socket(&server, "t").await;
    listen(&mut socket, CHANGES).await;
    records.control.delete("t").await.unwrap();
    expect_disconnect(&mut socket, CHANGES).await;
    assert_eq!(connect(&server, "t", &anon()).await.status, 404);
    until_released(&database).await;
    records.put("t", &database, json!({})).await;
    until("a new one of that name is found", async || {
        (connect(&server, "t", &anon()).await.status == 400).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_others_write_into_the_records_is_found_in_time() {
    let (records, database) = (Records::new().await, todos().await);
    records.put("t", &database, json!({})).await;
    let server = records.serve(&[("TENANT_CACHE_EXPIRATION_IN_MS", "200")]).await;
    assert_eq!(connect(&server, "t", &anon()).await.status, 400);
    assert_eq!(connect(&server, "u", &anon()).await.status, 404);
    records
        .database
        .execute("update _realtime.tenants set suspend = true where external_id = 't'")
        .await;
    until("the suspension holds", async || {
        (connect(&server, "t", &anon()).await.status == 403).then_some(())
    })
    .await;
    records
        .database
        .execute("delete from _realtime.extensions; update _realtime.tenants set external_id = 'u', suspend = false")
        .await;
    until("the new one is found", async || {
        (connect(&server, "u", &anon()).await.status == 400).then_some(())
    })
    .await;
}

#[tokio::test]
async fn section_10_health_of_one_of_several() {
    let (records, database) = (Records::new().await, todos().await);
    records.put("t", &database, json!({})).await;
    let server = records.serve(&[]).await;
    let health = async |name: &str| {
        let response = get(&server, "any", &format!("/api/tenants/{name}/health")).await;
        let body: Value = serde_json::from_str(&response.body).unwrap();
        (response.status, body)
    };
    let facts = |body: &Value| {
        let data = &body["data"];
        [
            &data["healthy"],
            &data["db_connected"],
            &data["connected_cluster"],
        ]
        .map(Clone::clone)
    };
    assert_eq!(health("nobody").await, (404, json!({"message": "not found"})));
    let (status, body) = health("t").await;
    assert_eq!(
        (status, facts(&body)),
        (200, [json!(true), json!(false), json!(0)])
    );
    let mut socket = socket(&server, "t").await;
    listen(&mut socket, CHANGES).await;
    let (_, body) = health("t").await;
    assert_eq!(facts(&body), [json!(true), json!(true), json!(1)]);
    assert_eq!(body["data"]["replication_connected"], true);

    records
        .change(
            "t",
            json!({"extensions": [extension("postgres://nobody@127.0.0.1:1/none")]}),
        )
        .await;
    until("the database is missed", async || {
        let (_, body) = health("t").await;
        (facts(&body) == [json!(false), json!(false), json!(1)]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_tenant_s_figures_carry_its_name() {
    let (records, database) = (Records::new().await, todos().await);
    records.put("metered", &database, json!({})).await;
    let server = records.serve(&[]).await;
    let mut socket = socket(&server, "metered").await;
    listen(&mut socket, CHANGES).await;
    insert(&database, 1).await;
    changed(&mut socket).await;
    let figures = server.get("/metrics").await.body;
    for line in [
        r#"walcast_sockets{tenant="metered"} 1"#,
        r#"walcast_channels{tenant="metered"} 1"#,
        r#"walcast_joins_total{tenant="metered",code="ok"} 1"#,
        r#"walcast_changes_decoded_total{tenant="metered"} 1"#,
    ] {
        assert!(figures.contains(line), "{line} is not in {figures}");
    }
}

#[tokio::test]
async fn until_the_records_can_be_read_nobody_is_let_in_and_readiness_says_so() {
    let server = Walcast::start(&[
        ("WALCAST_TENANTS", "database"),
        ("DB_ENC_KEY", "supabaserealtime"),
    ])
    .await;
    assert_eq!(server.get("/readyz").await.body, "starting");
    let asked = Instant::now();
    let response = connect(&server, "t", &anon()).await;
    assert_eq!(
        (response.status, &*response.body),
        (500, r#"{"error":"Error connecting to Realtime"}"#)
    );
    assert!(asked.elapsed() < PATIENCE);
    let records = Records::new().await;
    let server = records.serve(&[]).await;
    until("the records are read", || async {
        (server.get("/readyz").await.body == "ready").then_some(())
    })
    .await;
}
