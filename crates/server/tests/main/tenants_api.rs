//! `protocol.md 10`: the API of tenants, beyond what its transcripts show.

use serde_json::{Value, json};
use walcast_testkit::{Database, Postgres, until};

use crate::server::{Response, Walcast, anon, request_with_body};

const TENANTS: &str = "/api/tenants";

async fn ask(server: &Walcast, method: &str, target: &str, body: Option<&Value>) -> Response {
    let bearer = format!("Bearer {}", anon());
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    let body = body.map(Value::to_string);
    let body = body.as_ref().map(String::as_bytes);
    request_with_body(server.address, method, target, &headers, body).await
}

fn json_of(response: &Response) -> Value {
    serde_json::from_str(&response.body).unwrap()
}

/// A server with records of tenants in a database of their own.
async fn with_records(control: &Database) -> Walcast {
    let settings = [
        ("WALCAST_TENANTS", "database"),
        ("DB_ENC_KEY", "supabaserealtime"),
        ("TENANT_MAX_JOINS_PER_SECOND", "77"),
    ];
    let server = Walcast::start_on(&control.url(), &settings).await;
    until("tenants can be found", || async {
        (server.get("/readyz").await.status == 200).then_some(())
    })
    .await;
    server
}

/// What is wanted of a tenant that has this database.
fn wanted(database: &Database) -> Value {
    let url = url::Url::parse(&database.url()).unwrap();
    json!({"tenant": {
        "jwt_secret": "the-secret-of-this-tenant-and-no-other",
        "extensions": [{"type": "postgres_cdc_rls", "settings": {
            "region": "us-east-1", "db_host": "127.0.0.1", "db_port": url.port().unwrap().to_string(),
            "db_name": database.name(), "db_user": url.username(), "db_password": "the-password",
            "ssl_enforced": false,
        }}],
    }})
}

#[tokio::test]
async fn only_who_may_administer_is_told_anything() {
    let server = Walcast::start(&[]).await;
    for (method, target) in [
        ("GET", "/api/tenants"),
        ("POST", "/api/tenants"),
        ("GET", "/api/tenants/realtime-dev"),
        ("PUT", "/api/tenants/realtime-dev"),
        ("PATCH", "/api/tenants/realtime-dev"),
        ("DELETE", "/api/tenants/realtime-dev"),
        ("POST", "/api/tenants/realtime-dev/reload"),
        ("POST", "/api/tenants/realtime-dev/shutdown"),
    ] {
        for body in [None, Some("{bad".as_bytes())] {
            let response = request_with_body(server.address, method, target, &[], body).await;
            assert_eq!((response.status, &*response.body), (403, ""), "{method} {target}");
        }
    }
}

#[tokio::test]
async fn the_one_tenant_of_the_settings_is_shown_and_written_by_nobody() {
    let server = Walcast::start(&[("TENANT_MAX_JOINS_PER_SECOND", "9"), ("REGION", "here")]).await;
    let listed = json_of(&ask(&server, "GET", TENANTS, None).await);
    let shown = json_of(&ask(&server, "GET", "/api/tenants/realtime-dev", None).await);
    assert_eq!(listed["data"], json!([shown["data"]]));
    let tenant = &shown["data"];
    assert_eq!(tenant["external_id"], "realtime-dev");
    assert_eq!(tenant["max_joins_per_second"], 9);
    assert_eq!(tenant["max_concurrent_users"], Value::Null);
    let settings = &tenant["extensions"][0]["settings"];
    assert_eq!(
        settings,
        &json!({"publication": "supabase_realtime", "poll_max_record_bytes": 1_048_576, "region": "here"})
    );
    for (method, target) in [
        ("POST", "/api/tenants"),
        ("PUT", "/api/tenants/realtime-dev"),
        ("PATCH", "/api/tenants/nobody"),
        ("DELETE", "/api/tenants/realtime-dev"),
    ] {
        let response = ask(&server, method, target, Some(&json!({"tenant": {}}))).await;
        assert_eq!(response.status, 501, "{method} {target}");
        assert!(
            response.body.contains("WALCAST_TENANTS=database"),
            "{}",
            response.body
        );
    }
    for (target, status) in [
        ("/api/tenants/realtime-dev/reload", 204),
        ("/api/tenants/realtime-dev/shutdown", 204),
        ("/api/tenants/nobody/reload", 404),
        ("/api/tenants/nobody/shutdown", 404),
    ] {
        assert_eq!(
            ask(&server, "POST", target, None).await.status,
            status,
            "{target}"
        );
    }
    assert_eq!(ask(&server, "GET", "/api/tenants/nobody", None).await.status, 404);
}

#[tokio::test]
async fn a_new_tenant_has_its_database_prepared_and_answers_to_its_name_at_once() {
    let postgres = Postgres::shared().await;
    let (control, database) = (postgres.database().await, postgres.database().await);
    let server = with_records(&control).await;
    let ping = async || {
        let headers = [("host", "shop.example.com")];
        server.request("GET", "/api/ping", &headers).await.status
    };
    assert_eq!(ping().await, 401);

    let made = ask(&server, "PATCH", "/api/tenants/shop", Some(&wanted(&database))).await;
    assert_eq!(made.status, 201, "{}", made.body);
    let tenant = &json_of(&made)["data"];
    let location = format!("/api/tenants/{}", tenant["id"].as_str().unwrap());
    assert_eq!(made.header("location"), Some(&*location));
    assert_eq!(
        (&tenant["name"], &tenant["max_joins_per_second"]),
        (&json!("shop"), &json!(77))
    );
    database
        .until("select to_regclass('realtime.messages') is not null")
        .await;
    assert_eq!(ping().await, 200);
    for hidden in ["the-secret", "the-password", "db_password", "jwt_secret"] {
        assert!(!made.body.contains(hidden), "{}", made.body);
    }

    assert_eq!(
        ask(&server, "DELETE", "/api/tenants/shop", None).await.status,
        204
    );
    assert_eq!(ping().await, 401);
    assert_eq!(ask(&server, "GET", "/api/tenants/shop", None).await.status, 404);
}

#[tokio::test]
async fn a_body_without_a_tenant_is_a_bad_request_in_the_form_that_is_accepted() {
    let control = Postgres::shared().await.database().await;
    let server = with_records(&control).await;
    let bearer = format!("Bearer {}", anon());
    for (body, accept, answered) in [
        ("{bad", "text/html, */*", "Bad Request"),
        ("{bad", "application/json", "\"Bad Request\""),
        ("", "*/*", "\"Bad Request\""),
        ("[]", "*/*", "\"Bad Request\""),
        (r#"{"tenants":{}}"#, "*/*", "\"Bad Request\""),
    ] {
        let headers = [("authorization", bearer.as_str()), ("accept", accept)];
        let response =
            request_with_body(server.address, "POST", TENANTS, &headers, Some(body.as_bytes())).await;
        assert_eq!((response.status, &*response.body), (400, answered), "{body}");
    }
    assert_eq!(
        json_of(&ask(&server, "GET", TENANTS, None).await),
        json!({"data": []})
    );
}

#[tokio::test]
async fn records_that_cannot_be_reached_are_said_to_be_away() {
    // Nothing listens there.
    let settings = [
        ("WALCAST_TENANTS", "database"),
        ("DB_ENC_KEY", "supabaserealtime"),
    ];
    let server = Walcast::start(&settings).await;
    let body = json!({"tenant": {}});
    let asked = [
        ("GET", "/api/tenants"),
        ("GET", "/api/tenants/shop"),
        ("PUT", "/api/tenants/shop"),
        ("DELETE", "/api/tenants/shop"),
        ("POST", "/api/tenants/shop/reload"),
    ];
    let answers = asked.map(|(method, target)| ask(&server, method, target, Some(&body)));
    for (response, asked) in futures_util::future::join_all(answers)
        .await
        .into_iter()
        .zip(asked)
    {
        assert_eq!(response.status, 503, "{asked:?}");
        assert!(response.body.contains("for the moment"), "{}", response.body);
    }
}
