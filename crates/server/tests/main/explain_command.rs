//! `walcast explain`: that it says what `POST /api/explain` says, how it reads, and its exit codes.

use std::process::Output;

use serde_json::{Value, json};
use walcast_testkit::{Database, Postgres, until};

use crate::binary::{run, walcast};
use crate::server::{SECRET, Walcast, now_s, sign};

const ALICE: &str = "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa";
const BOB: &str = "bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb";

/// A table of notes that their owners see, in a database that no server has prepared.
async fn notes() -> Database {
    let database = Postgres::shared().await.database().await;
    database
        .execute(&format!(
            "create table notes (id int primary key, owner uuid, body text);
             revoke all on notes from authenticated;
             grant select (id, owner) on notes to authenticated;
             alter table notes enable row level security;
             create policy own on notes for select to authenticated using (owner = auth.uid());
             drop publication if exists supabase_realtime;
             create publication supabase_realtime for table notes;
             create table drafts (id int primary key);
             insert into notes values (1, '{ALICE}', 'her words'), (2, '{BOB}', 'his words');"
        ))
        .await;
    database
}

async fn explain_at(url: &str, arguments: &[&str]) -> Output {
    run(walcast()
        .env("DATABASE_URL", url)
        .env("API_JWT_SECRET", SECRET)
        .arg("explain")
        .args(arguments))
    .await
}

fn alice() -> String {
    json!({"role": "authenticated", "sub": ALICE}).to_string()
}

#[tokio::test]
async fn the_exit_code_tells_received_from_hidden_from_unknown() {
    let database = notes().await;
    let (url, claims) = (database.url(), alice());
    let token =
        |seconds: i64| sign(&json!({"role": "authenticated", "sub": ALICE, "exp": now_s() + seconds}));
    let (valid, expired) = (token(600), token(-600));
    let bound = sign(&json!({
        "role": "authenticated", "sub": ALICE, "exp": now_s() + 600,
        "walcast": {"topics": [{"topic": "a", "changes": true}]}
    }));
    let hers = ["--table", "public.notes", "--key", r#"{"id": 1}"#];
    let his = ["--table", "notes", "--key", r#"{"id": 2}"#];
    let with = |row: [&'static str; 4], more: &[&str]| -> Vec<String> {
        row.iter()
            .chain(more)
            .map(|&argument| argument.to_owned())
            .collect()
    };
    let nowhere = "postgres://nobody@127.0.0.1:1/nothing";
    let cases = [
        (
            &*url,
            with(hers, &["--claims", &claims]),
            0,
            "the row is received",
        ),
        (&url, with(hers, &["--token", &valid]), 0, "[policies]"),
        (
            &url,
            with(his, &["--claims", &claims]),
            1,
            "not received, by policies",
        ),
        (
            &url,
            with(hers, &["--token", &expired]),
            1,
            "not received, by token",
        ),
        (
            &url,
            with(hers, &["--claims", &claims, "--filter", "id=eq.1"]),
            0,
            "passes the filter",
        ),
        (
            &url,
            with(hers, &["--claims", &claims, "--filter", "id=gt.1"]),
            1,
            "by filter",
        ),
        (
            &url,
            with(hers, &["--claims", &claims, "--filter", "id=gt.x"]),
            1,
            "by filter_valid",
        ),
        (
            &url,
            with(hers, &["--claims", &claims, "--select", "id,owner"]),
            0,
            "is received",
        ),
        (
            &url,
            with(hers, &["--claims", &claims, "--select", "id,body"]),
            1,
            "by columns",
        ),
        (
            &url,
            with(his, &["--claims", &claims, "--event", "delete"]),
            0,
            "DELETE of public.notes",
        ),
        (
            &url,
            with(hers, &["--token", &bound, "--topic", "a"]),
            0,
            "is received",
        ),
        (
            &url,
            with(hers, &["--token", &bound, "--topic", "realtime:b"]),
            1,
            "by token",
        ),
        (&url, with(hers, &["--token", &bound]), 2, "give `topic`"),
        (
            &url,
            vec![
                "--table".into(),
                "drafts".into(),
                "--claims".into(),
                claims.clone(),
            ],
            1,
            "by publication",
        ),
        (
            &url,
            vec![
                "--table".into(),
                "notes".into(),
                "--claims".into(),
                claims.clone(),
            ],
            2,
            "subscription is in order",
        ),
        (
            &url,
            with(["--table", "nope", "--key", "{}"], &["--claims", &claims]),
            1,
            "by table",
        ),
        (
            &url,
            with(["--table", "notes", "--key", "{}"], &["--claims", &claims]),
            2,
            "key",
        ),
        (
            &url,
            with(["--table", "notes", "--key", "5"], &["--claims", &claims]),
            2,
            "expected a JSON object",
        ),
        (
            &url,
            with(["--table", "*", "--key", "{}"], &["--claims", &claims]),
            2,
            "more than one table",
        ),
        (&url, with(hers, &[]), 2, "--token"),
        (
            &url,
            with(hers, &["--claims", &claims, "--token", &valid]),
            2,
            "--token",
        ),
        (
            &url,
            with(hers, &["--token", "nonsense"]),
            2,
            "`token` cannot be read",
        ),
        (
            nowhere,
            with(hers, &["--claims", &claims]),
            2,
            "cannot be reached",
        ),
        ("no url", with(hers, &["--claims", &claims]), 2, "must be a URL"),
    ];
    for (url, arguments, code, sentence) in cases {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = explain_at(url, &arguments).await;
        let said = [&*output.stdout, &*output.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?} {said}");
        assert!(said.contains(sentence), "{arguments:?} {said}");
    }
}

#[tokio::test]
async fn claims_are_judged_without_a_secret() {
    let database = notes().await;
    let claims = alice();
    let mut command = walcast();
    command.env("DATABASE_URL", database.url()).args([
        "explain",
        "--table",
        "notes",
        "--key",
        r#"{"id": 1}"#,
    ]);
    let output = run(command.args(["--claims", &*claims])).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[tokio::test]
async fn as_json_it_is_the_answer_of_a_server() {
    let database = notes().await;
    let server = Walcast::start_on(&database.url(), &[]).await;
    until("changes are streamed", || async {
        (server.get("/readyz").await.body == "ready").then_some(())
    })
    .await;
    let bearer = format!(
        "Bearer {}",
        sign(&json!({"role": "service_role", "exp": now_s() + 600}))
    );
    let headers = [("authorization", &*bearer), ("content-type", "application/json")];
    for id in [1, 2, 3] {
        let (key, claims) = (json!({"id": id}), alice());
        let body = json!({
            "claims": serde_json::from_str::<Value>(&claims).unwrap(),
            "postgres_changes": {
                "event": "INSERT", "schema": "public", "table": "notes", "filter": "id=lt.3", "select": ["id"]
            },
            "key": key
        });
        let answer = server
            .post("/api/explain", &headers, body.to_string().as_bytes())
            .await;
        let key = key.to_string();
        let arguments = [
            "--json", "--table", "notes", "--key", &key, "--claims", &claims, "--event", "INSERT",
            "--filter", "id=lt.3", "--select", "id",
        ];
        let output = explain_at(&database.url(), &arguments).await;
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        let answer: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(said, answer, "row {id}");
        assert_eq!(said["visible"], id == 1);
    }
}

#[tokio::test]
async fn an_answer_reads_so() {
    let database = notes().await;
    let claims = alice();
    let arguments = ["--table", "notes", "--key", r#"{"id": 2}"#, "--claims", &claims];
    let output = explain_at(&database.url(), &arguments).await;
    let said = String::from_utf8(output.stdout).unwrap();
    let (place, rest) = said.split_once('\n').unwrap();
    assert!(
        place.starts_with(&format!("database {} at ", database.name())),
        "{place}"
    );
    assert!(!rest.contains("words"), "a value of the row in {rest}");
    assert_eq!(rest, include_str!("explain/hidden.txt"), "{rest}");
}
