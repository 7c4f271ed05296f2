//! Changes over server-sent events, and how a client that comes back gets those it missed (decisions 24 and 28).

use serde_json::{Value, json};
use walcast_testkit::{Database, Postgres};

use crate::event_source::{Event, EventSource};
use crate::server::{Walcast, anon, user};

const TABLE: &str = "create table public.todos (id int primary key, owner text);
    grant select on public.todos to anon, authenticated;
    alter publication supabase_realtime add table public.todos;";

const POLICY: &str = "alter table public.todos enable row level security;
    create policy own on public.todos for select to authenticated using (auth.jwt() ->> 'sub' = owner);";

const TODOS: &str = r#"postgres_changes={"event":"*","schema":"public","table":"todos"}"#;

async fn start(sql: &str, settings: &[(&str, &str)]) -> (Database, Walcast) {
    let database = Postgres::shared().await.database().await;
    database.execute(TABLE).await;
    database.execute(sql).await;
    let server = Walcast::start_on(&database.url(), settings).await;
    (database, server)
}

/// A stream of a topic with a binding; returns its first id.
async fn open(server: &Walcast, query: &str, token: &str) -> (EventSource, Option<String>) {
    let query = format!("topic=todos&{query}");
    let mut stream = EventSource::open(server, &query.replace('"', "%22"), token).await;
    let joined = stream.next().await;
    assert_eq!(joined.data["payload"]["message"], "Joined");
    let subscribed = stream.expect("system").await;
    assert_eq!(subscribed["payload"]["message"], "Subscribed to PostgreSQL");
    (stream, joined.id)
}

async fn insert(database: &Database, id: i64, owner: &str) {
    database
        .execute(&format!("insert into todos values ({id}, '{owner}')"))
        .await;
}

/// The row of a change, and whether it came later than it would have.
fn row(event: &Event) -> (i64, bool) {
    assert_eq!(event.kind.as_deref(), Some("postgres_changes"), "{event:?}");
    let payload = &event.data["payload"];
    assert_eq!(payload["position"].as_str(), event.id.as_deref());
    (
        payload["data"]["record"]["id"].as_i64().unwrap(),
        payload["replayed"] == true,
    )
}

#[tokio::test]
async fn changes_come_under_row_level_security_with_their_positions_as_ids() {
    let (database, server) = start(POLICY, &[]).await;
    let (mut stream, first) = open(&server, TODOS, &user("ada", 3600)).await;
    assert!(first.is_some());
    for (id, owner) in [(1, "ada"), (2, "ben"), (3, "ada")] {
        insert(&database, id, owner).await;
    }
    let events = [stream.next().await, stream.next().await];
    assert_eq!(events.each_ref().map(row), [(1, false), (3, false)]);
    assert!(events[0].id != events[1].id);
    assert_eq!(events[0].data["topic"], "todos");
}

#[tokio::test]
async fn the_first_event_names_the_ids_of_the_bindings() {
    let (database, server) = start("", &[]).await;
    let query = format!("topic=todos&topic=other&{TODOS}").replace('"', "%22");
    let mut stream = EventSource::open(&server, &query, &anon()).await;
    let mut bindings = Vec::new();
    while bindings.len() < 2 {
        let data = stream.expect("system").await;
        if data["payload"]["message"] == "Joined" {
            bindings.push((
                data["topic"].clone(),
                data["payload"]["response"]["postgres_changes"].clone(),
            ));
        }
    }
    bindings.sort_by_key(|(topic, _)| topic.to_string());
    assert_eq!(bindings[0], (json!("other"), json!([])));
    let id = &bindings[1].1[0]["id"];
    assert_eq!(bindings[1].1[0]["table"], "todos");
    insert(&database, 1, "ada").await;
    let change = loop {
        let event = stream.next().await;
        if event.kind.as_deref() == Some("postgres_changes") {
            break event;
        }
    };
    assert_eq!(change.data["payload"]["ids"], json!([id]));
}

#[tokio::test]
async fn who_comes_back_with_the_last_id_is_told_first_what_was_missed() {
    let (database, server) = start(POLICY, &[]).await;
    let ada = user("ada", 3600);
    let (mut stream, first) = open(&server, TODOS, &ada).await;
    insert(&database, 1, "ada").await;
    let heard = stream.next().await;
    assert_eq!(row(&heard), (1, false));
    drop(stream);
    for (id, owner) in [(2, "ada"), (3, "ben"), (4, "ada")] {
        insert(&database, id, owner).await;
    }
    let last = heard.id.unwrap();
    let target = format!("/realtime/v1/sse?topic=todos&{TODOS}&token={ada}").replace('"', "%22");
    let by_query = format!("{target}&last_event_id={last}");
    type Headers<'a> = &'a [(&'a str, &'a str)];
    let cases: [(&str, Headers<'_>); 3] = [
        (&target, &[("last-event-id", &last)]),
        (&by_query, &[]),
        // An `EventSource` comes back with the URL it began with.
        (
            &format!("{target}&last_event_id=0/1:1"),
            &[("last-event-id", &last)],
        ),
    ];
    for (at, (target, headers)) in (5..).zip(cases) {
        let mut stream = EventSource::open_at(&server, target, headers).await;
        let joined = stream.next().await;
        // Until it has what it missed, its position is the one it came with.
        assert_eq!(joined.id, None);
        let mut rows = Vec::new();
        insert(&database, at, "ada").await;
        while rows.last() != Some(&at) {
            let event = stream.next().await;
            if event.kind.as_deref() == Some("postgres_changes") {
                rows.push(row(&event).0);
            }
        }
        let expected: Vec<i64> = [2, 4].into_iter().chain(5..=at).collect();
        assert_eq!(rows, expected, "{target}");
    }

    // Who has heard no change has the position at which the stream began.
    let (mut again, id) = open(
        &server,
        &format!("{TODOS}&last_event_id={}", first.unwrap()),
        &ada,
    )
    .await;
    assert_eq!(id, None);
    assert_eq!(row(&again.next().await), (1, true));
}

#[tokio::test]
async fn who_comes_back_too_late_is_told_so() {
    let (database, server) = start("", &[("WALCAST_WINDOW_MS", "0")]).await;
    let (stream, first) = open(&server, TODOS, &anon()).await;
    drop(stream);
    insert(&database, 1, "ada").await;
    let query = format!("topic=todos&{TODOS}&last_event_id={}", first.unwrap()).replace('"', "%22");
    let mut stream = EventSource::open(&server, &query, &anon()).await;
    loop {
        let payload = stream.expect("system").await["payload"].clone();
        if payload["status"] == "error" {
            let message = payload["message"].as_str().unwrap();
            assert!(message.starts_with("Changes may have been missed"), "{message}");
            break;
        }
    }
}

#[tokio::test]
async fn bindings_that_cannot_be_fulfilled_are_an_answer_and_no_stream() {
    let (_database, server) = start("", &[]).await;
    for (binding, code) in [
        (
            r#"{"schema":"public","table":"nowhere","event":"*"}"#,
            "RealtimeDisabledForConfiguration",
        ),
        (
            r#"{"schema":"public","table":"todos","event":"*","filter":"nothing=eq.1"}"#,
            "RealtimeDisabledForConfiguration",
        ),
    ] {
        let target = format!(
            "/realtime/v1/sse?topic=todos&postgres_changes={}&token={}",
            binding.replace('"', "%22"),
            anon()
        );
        let response = server.get(&target).await;
        let body: Value = serde_json::from_str(&response.body).unwrap();
        assert_eq!(
            (response.status, body["code"].as_str()),
            (422, Some(code)),
            "{body}"
        );
        let message = body["message"].as_str().unwrap();
        assert!(message.starts_with("Unable to subscribe to changes"), "{message}");
    }
}

#[tokio::test]
async fn without_a_database_a_stream_of_changes_is_unavailable_and_one_of_broadcasts_is_not() {
    let server = Walcast::start(&[("WALCAST_JOIN_TIMEOUT_MS", "100")]).await;
    let target = format!("/realtime/v1/sse?topic=todos&{TODOS}&token={}", anon()).replace('"', "%22");
    let response = server.get(&target).await;
    assert_eq!(response.status, 503, "{}", response.body);
    EventSource::open(&server, "topic=todos", &anon())
        .await
        .joined("todos")
        .await;
}
