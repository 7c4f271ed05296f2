//! `POST /api/explain` (decision 36): who may ask, what is answered, and that nothing secret comes back.

use serde_json::{Value, json};
use walcast_testkit::{Database, Postgres, until};

use crate::server::{Response, Walcast, anon, now_s, sign};

const ALICE: &str = "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa";
const BOB: &str = "bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb";

fn token(role: &str, sub: &str, seconds: i64) -> String {
    sign(&json!({"role": role, "sub": sub, "exp": now_s() + seconds}))
}

async fn ask(server: &Walcast, key: &str, body: &str) -> Response {
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", &*bearer), ("content-type", "application/json")];
    server.post("/api/explain", &headers, body.as_bytes()).await
}

async fn explained(server: &Walcast, body: &Value) -> Value {
    let response = ask(server, &token("service_role", "", 60), &body.to_string()).await;
    assert_eq!(response.status, 200, "{}", response.body);
    serde_json::from_str(&response.body).unwrap()
}

fn check<'a>(explanation: &'a Value, name: &str) -> &'a Value {
    let checks = explanation["checks"].as_array().unwrap();
    checks.iter().find(|check| check["check"] == name).unwrap()
}

fn notes(key: i64) -> Value {
    json!({"postgres_changes": {"event": "*", "schema": "public", "table": "notes"}, "key": {"id": key}})
}

fn with(mut body: Value, name: &str, value: impl Into<Value>) -> Value {
    body[name] = value.into();
    body
}

/// A table of notes that their owners see.
async fn notes_server() -> (Database, Walcast) {
    let database = Postgres::shared().await.database().await;
    let server = Walcast::start_on(&database.url(), &[]).await;
    until("changes are streamed", || async {
        (server.get("/readyz").await.body == "ready").then_some(())
    })
    .await;
    database
        .execute(&format!(
            "create table notes (id int primary key, owner uuid, body text);
             grant select on notes to authenticated;
             alter table notes enable row level security;
             create policy own on notes for select to authenticated using (owner = auth.uid());
             alter publication supabase_realtime add table notes;
             insert into notes values (1, '{ALICE}', 'hers'), (2, '{BOB}', 'his');"
        ))
        .await;
    (database, server)
}

#[tokio::test]
async fn the_service_role_is_told_which_check_says_no() {
    let (_database, server) = notes_server().await;
    let hers = explained(
        &server,
        &with(notes(1), "token", token("authenticated", ALICE, 60)),
    )
    .await;
    assert_eq!(hers["visible"], true, "{hers}");
    assert_eq!(hers["identity"], json!({"role": "authenticated", "sub": ALICE}));
    let names: Vec<&str> = hers["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|check| check["check"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "token",
            "table",
            "publication",
            "primary_key",
            "select_right",
            "columns",
            "filter_valid",
            "row",
            "filter",
            "row_security",
            "policies"
        ]
    );
    let his = explained(
        &server,
        &with(notes(2), "claims", json!({"role": "authenticated", "sub": ALICE})),
    )
    .await;
    assert_eq!(his["visible"], false, "{his}");
    assert_eq!(check(&his, "policies")["passed"], false, "{his}");
    assert_eq!(
        his["policies"],
        json!([{
            "name": "own", "kind": "permissive", "roles": ["authenticated"], "using": "(owner = auth.uid())",
            "result": false, "decided": "compiled", "raised": null
        }])
    );
}

#[tokio::test]
async fn a_token_that_does_not_count_is_judged_by_what_it_says() {
    let (_database, server) = notes_server().await;
    let expired = token("authenticated", BOB, -60);
    let forged = format!("{}x", token("authenticated", BOB, 60));
    for (refused, reason) in [
        (expired, "Token has expired"),
        (forged, "Failed to validate JWT signature"),
    ] {
        let explanation = explained(&server, &with(notes(2), "token", &*refused)).await;
        let judged = check(&explanation, "token");
        assert_eq!(judged["passed"], false);
        assert!(judged["detail"].as_str().unwrap().starts_with(reason), "{judged}");
        assert!(judged["remedy"].is_string());
        assert_eq!(check(&explanation, "policies")["passed"], true, "{explanation}");
        assert_eq!(explanation["visible"], false);
    }
}

#[tokio::test]
async fn a_token_that_is_bound_to_topics_hears_changes_where_it_says() {
    let (_database, server) = notes_server().await;
    let bound = sign(&json!({
        "role": "authenticated", "sub": ALICE, "exp": now_s() + 60,
        "walcast": {"topics": [{"topic": "a", "changes": true}, {"topic": "b", "read": true}]}
    }));
    let body = with(notes(1), "token", &*bound);
    for (topic, is_heard) in [("a", true), ("realtime:a", true), ("b", false), ("c", false)] {
        let explanation = explained(&server, &with(body.clone(), "topic", topic)).await;
        assert_eq!(explanation["visible"], is_heard, "{topic}: {explanation}");
        assert_eq!(check(&explanation, "token")["passed"], is_heard);
    }
    let response = ask(&server, &token("service_role", "", 60), &body.to_string()).await;
    assert_eq!(response.status, 422, "{}", response.body);
    assert!(response.body.contains("give `topic`"), "{}", response.body);
}

#[tokio::test]
async fn nobody_else_is_answered_and_nothing_secret_is_repeated() {
    let server = Walcast::start(&[]).await;
    let service = token("service_role", "", 60);
    let bound = sign(&json!({
        "role": "service_role", "exp": now_s() + 60, "walcast": {"topics": [{"topic": "a", "changes": true}]}
    }));
    let whole = with(notes(1), "claims", json!({"role": "anon"})).to_string();
    let secret = "hunter2";
    let cases = [
        (anon(), whole.clone(), 403, "Unauthorized"),
        (bound, whole.clone(), 403, "Unauthorized"),
        (
            token("service_role", "", -60),
            whole.clone(),
            401,
            "InvalidJWTToken",
        ),
        ("nonsense".to_owned(), whole.clone(), 401, "MalformedJWT"),
        // There is no database.
        (service.clone(), whole, 503, "DatabaseNotReady"),
        (service.clone(), String::new(), 422, "InvalidQuestion"),
        (service.clone(), format!("[\"{secret}\"]"), 422, "InvalidQuestion"),
        (
            service.clone(),
            format!("{{\"token\": \"{secret}\""),
            422,
            "InvalidQuestion",
        ),
        (
            service.clone(),
            format!("{{\"{secret}\": 1}}"),
            422,
            "InvalidQuestion",
        ),
        (
            service.clone(),
            json!({"token": secret, "postgres_changes": {}}).to_string(),
            422,
            "InvalidQuestion",
        ),
        (
            service.clone(),
            json!({"claims": secret, "postgres_changes": {}}).to_string(),
            422,
            "InvalidQuestion",
        ),
        (
            service.clone(),
            json!({"claims": {}, "token": secret, "postgres_changes": {}}).to_string(),
            422,
            "InvalidQuestion",
        ),
        (
            service.clone(),
            json!({"claims": {}, "postgres_changes": secret}).to_string(),
            422,
            "InvalidQuestion",
        ),
        (
            service.clone(),
            json!({"claims": {}, "postgres_changes": {}, "key": secret}).to_string(),
            422,
            "InvalidQuestion",
        ),
        (
            service.clone(),
            json!({"claims": {}, "topic": "a"}).to_string(),
            422,
            "InvalidQuestion",
        ),
        (
            service,
            json!({"claims": {"pad": "x".repeat(70_000)}}).to_string(),
            413,
            "BodyTooLarge",
        ),
    ];
    for (key, body, status, code) in cases {
        let response = ask(&server, &key, &body).await;
        assert_eq!(response.status, status, "{body:.100}: {}", response.body);
        let told: Value = serde_json::from_str(&response.body).unwrap();
        assert_eq!(told["code"], code, "{told}");
        assert!(
            told["message"].is_string() && told["remedy"].is_string(),
            "{told}"
        );
        assert!(!response.body.contains(secret), "{told}");
    }
}

#[tokio::test]
async fn a_key_that_is_none_and_a_subscription_that_is_none_are_refused() {
    let (_database, server) = notes_server().await;
    let claims = json!({"role": "anon"});
    let of_all = json!({"postgres_changes": {"schema": "public"}, "key": {"id": 1}});
    let unreadable =
        json!({"postgres_changes": {"schema": "public", "table": "notes", "filter": "id"}, "key": {"id": 1}});
    for (body, code) in [
        (with(notes(1), "key", json!({"owner": 1})), "InvalidKey"),
        (with(notes(1), "key", json!({"id": "x"})), "InvalidKey"),
        (of_all, "InvalidSubscription"),
        (unreadable, "InvalidSubscription"),
    ] {
        let body = with(body, "claims", claims.clone()).to_string();
        let response = ask(&server, &token("service_role", "", 60), &body).await;
        assert_eq!(response.status, 422, "{}", response.body);
        let told: Value = serde_json::from_str(&response.body).unwrap();
        assert_eq!(told["code"], code, "{told}");
    }
}

#[tokio::test]
async fn a_private_channel_is_explained_by_what_its_policies_allow() {
    let (database, server) = notes_server().await;
    database
        .execute(
            "create policy hear on realtime.messages for select to authenticated
               using (realtime.topic() = 'room' and extension = 'broadcast');",
        )
        .await;
    for (topic, is_heard) in [("room", true), ("other", false)] {
        let body = json!({
            "claims": {"role": "authenticated", "sub": ALICE}, "topic": topic, "private": true
        });
        let explanation = explained(&server, &body).await;
        assert_eq!(explanation["visible"], is_heard, "{explanation}");
        assert_eq!(
            explanation["rights"],
            json!({
                "broadcast": {"read": is_heard, "write": false},
                "presence": {"read": false, "write": false}
            })
        );
    }
}
