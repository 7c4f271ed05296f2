//! The log holds no token, no secret and no key, at any level.

use std::net::SocketAddr;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio_tungstenite::tungstenite::Message;
use walcast_testkit::Postgres;

use crate::binary::walcast;
use crate::server::{
    Client, PATIENCE, Response, SECRET, anon, forged, now_s, request, request_with_body, sign, sign_raw, user,
};
use crate::signing::Pair;

const TABLE: &str = "create table public.todos (id int primary key, owner text);
    grant select on public.todos to anon, authenticated;
    alter publication supabase_realtime add table public.todos;
    alter table public.todos enable row level security;
    create policy bad on public.todos for select to authenticated using (1 / (id - id) = 1);";

/// Tokens, good and bad in every way.
fn tokens(pair: &Pair) -> Vec<String> {
    let exp = now_s() + 60;
    vec![
        anon(),
        user("u1", 600),
        forged(),
        user("u1", -60),
        sign(&json!({"role": "no_such_role", "exp": exp})),
        sign(&json!({"role": "anon"})),
        sign(&json!({"exp": exp})),
        sign(&json!({"role": "anon", "exp": "x"})),
        sign(&json!({"role": "anon", "exp": exp, "iat": "x"})),
        sign(&json!({"role": "anon", "exp": exp, "iss": "you"})),
        sign_raw("not json", "{}"),
        sign_raw(r#"{"alg":"HS256"}"#, "not json"),
        sign_raw(r#"{"alg":"HS256"}"#, "[1]"),
        sign_raw(r#"{"alg":"none"}"#, "{}"),
        sign_raw(r#"{"alg":"RS256","kid":"k9"}"#, "{}"),
        pair.sign(
            &json!({"alg": "ES256", "kid": "k1"}),
            &json!({"role": "anon", "exp": exp}),
        ),
        "no-jwt-but-a-secret-all-the-same".to_owned(),
        "sb_secret_that-nobody-must-see".to_owned(),
    ]
}

fn service() -> String {
    sign(&json!({"role": "service_role", "exp": now_s() + 60}))
}

async fn make(address: SocketAddr, key: &str, body: &Value) -> Response {
    let bearer = format!("Bearer {key}");
    let body = body.to_string();
    let headers = [("authorization", &*bearer)];
    request_with_body(address, "POST", "/api/tokens", &headers, Some(body.as_bytes())).await
}

/// Brings a token to every place where one may be.
async fn spread(address: SocketAddr, token: &str) {
    let bearer = format!("Bearer {token}");
    for (target, headers) in [
        (format!("/socket/websocket?apikey={token}&vsn=2.0.0"), vec![]),
        (format!("/socket/websocket?apikey={token}&vsn=9"), vec![]),
        (
            "/socket/websocket?vsn=2.0.0".to_owned(),
            vec![("x-api-key", token)],
        ),
        (format!("/nowhere?apikey={token}"), vec![("apikey", token)]),
        ("/metrics".to_owned(), vec![("authorization", &*bearer)]),
    ] {
        request(address, "GET", &target, &headers).await;
    }

    for (key, body) in [
        (token, json!({"topics": [{"topic": "a", "read": true}]})),
        (
            &*service(),
            json!({"topics": [{"topic": token}], "claims": {"t": token}}),
        ),
        (&*service(), json!({"topics": token, "role": token, token: 1})),
    ] {
        make(address, key, &body).await;
    }

    let mut socket = Client::connect(address, "2.0.0", &anon()).await;
    let entry = json!([{"event": "*", "schema": "public", "table": "todos"}]);
    for payload in [
        json!({"config": {"postgres_changes": entry}, "access_token": token}),
        json!({"config": {}, "user_token": token}),
        json!({"config": {"private": true}, "access_token": token}),
        json!({"config": token}),
        json!({"config": {"broadcast": token, "presence": token, "postgres_changes": token}}),
        json!({"config": {"postgres_changes": [token]}}),
        json!(token),
    ] {
        socket
            .send_json(json!(["1", "1", "realtime:a", "phx_join", payload]))
            .await;
    }
    socket
        .send_json(json!(["2", "2", "realtime:b", "phx_join", {"config": {"postgres_changes": entry}}]))
        .await;
    for payload in [
        json!({"access_token": token}),
        json!({"access_token": [token]}),
        json!({"user_token": token}),
        json!(token),
    ] {
        socket
            .send_json(json!(["2", "3", "realtime:b", "access_token", payload]))
            .await;
    }
    socket
        .send(&format!(
            r#"["1","1","realtime:a","phx_join",{{"access_token":"{token}""#
        ))
        .await;
    socket.send(&format!(r#"["{token}"]"#)).await;
    let binary = Message::binary(format!("\u{9}{token}").into_bytes());
    futures_util::SinkExt::send(&mut socket.stream, binary)
        .await
        .unwrap();
    // Joins and refreshes are answered by the time a join of another topic and a heartbeat are.
    socket
        .send_json(json!(["4", "4", "realtime:c", "phx_join", {"config": {"postgres_changes": entry}}]))
        .await;
    while socket.receive().await[2] != "realtime:c" {}
    socket
        .send_json(json!(["4", "5", "realtime:c", "phx_leave", {}]))
        .await;
    socket.send(r#"[null,"silence","phoenix","heartbeat",{}]"#).await;
    while socket.receive().await[1] != "silence" {}
}

#[tokio::test]
async fn no_token_and_no_secret_is_logged_at_any_level() {
    let database = Postgres::shared().await.database().await;
    database.execute(TABLE).await;
    let (pair, oct) = (Pair::p256(), Pair::secret("a-secret-of-the-set"));
    let mut flawed = oct.jwk("flawed");
    flawed["k"] = "a-flawed-secret-of-the-set!".into();
    let set = json!([pair.jwk("k1"), oct.jwk("k2"), flawed]).to_string();
    let secrets = [
        ("API_JWT_SECRET", SECRET),
        ("API_JWT_SECRET_NEXT", "the-other-secret-of-a-rotation"),
        ("METRICS_JWT_SECRET", "the-secret-of-the-metrics"),
    ];
    let mut child = walcast()
        .envs(secrets)
        .env("API_JWT_JWKS", &set)
        .env("JWT_CLAIM_VALIDATORS", r#"{"iss":"me"}"#)
        .env("CONNECT_ERROR_BACKOFF_MS", "0")
        .env("PORT", "0")
        .env("DATABASE_URL", database.url())
        .env("LOG_LEVEL", "trace")
        .env("WALCAST_LOG_FORMAT", "json")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut said = String::new();
    let address: SocketAddr = loop {
        let line = lines.next_line().await.unwrap().expect("the program ended");
        said.push_str(&line);
        let line: Value = serde_json::from_str(&line).unwrap();
        if line["message"] == "walcast listens" {
            let port = line["address"].as_str().unwrap().rsplit_once(':').unwrap().1;
            break format!("127.0.0.1:{port}").parse().unwrap();
        }
    };
    let reading = tokio::spawn(async move {
        while let Some(line) = lines.next_line().await.unwrap() {
            said.push_str(&line);
        }
        said
    });

    let mut tokens = tokens(&pair);
    let wanted = json!({"topics": [{"topic": "a", "read": true, "write": true}]});
    let answer: Value = serde_json::from_str(&make(address, &service(), &wanted).await.body).unwrap();
    tokens.push(answer["token"].as_str().unwrap().to_owned());
    tokens.push(service());
    for token in &tokens {
        tokio::time::timeout(PATIENCE, spread(address, token))
            .await
            .unwrap_or_else(|_| panic!("no end with {token}"));
    }
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
    child.wait().await.unwrap();
    let said = reading.await.unwrap();

    // It did log what happened.
    for code in [
        "MalformedJWT",
        "JwtSignatureError",
        "JwtSignerError",
        "InvalidJWTToken",
        "verifies no token",
        "push without effect",
        "frame dropped",
    ] {
        assert!(said.contains(code), "{code} is missing");
    }
    let of_set = ["a-secret-of-the-set", "a-flawed-secret-of-the-set"].map(str::to_owned);
    let k = oct.jwk("k2")["k"].as_str().unwrap().to_owned();
    let secrets = secrets.iter().map(|(_, secret)| (*secret).to_owned());
    // The header alone says nothing; the claims and the signature do.
    let parts = tokens
        .iter()
        .flat_map(|token| token.split('.').rev().take(2))
        .filter(|part| part.len() >= 8)
        .map(str::to_owned);
    for secret in secrets.chain(of_set).chain([k]).chain(parts) {
        if let Some(at) = said.find(&secret) {
            let context: String = said[..at].chars().rev().take(600).collect();
            let context: String = context.chars().rev().collect();
            panic!("{secret} is in the log after: {context}");
        }
    }
}
