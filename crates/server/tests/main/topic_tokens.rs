//! Tokens that are bound to topics (decision 29). Where no test says otherwise there is no database: such a token says
//! itself what its bearer may do, in private channels too.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use walcast_testkit::Postgres;

use crate::server::{Client, Response, SECRET, Walcast, anon, now_s, sign, user};
use crate::signing::Pair;

fn service() -> String {
    sign(&json!({"role": "service_role", "exp": now_s() + 3600}))
}

async fn ask(server: &Walcast, key: &str, body: &Value) -> Response {
    ask_in_text(server, key, &body.to_string()).await
}

async fn ask_in_text(server: &Walcast, key: &str, body: &str) -> Response {
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", &*bearer), ("content-type", "application/json")];
    server.post("/api/tokens", &headers, body.as_bytes()).await
}

async fn made(server: &Walcast, body: &Value) -> String {
    let response = ask(server, &service(), body).await;
    assert_eq!(response.status, 200, "{}", response.body);
    let answer: Value = serde_json::from_str(&response.body).unwrap();
    answer["token"].as_str().unwrap().to_owned()
}

/// A token for the topic `room`.
async fn for_room(server: &Walcast, rights: Value) -> String {
    made(server, &json!({"topics": [named("room", rights)]})).await
}

fn named(topic: &str, mut rights: Value) -> Value {
    rights["topic"] = topic.into();
    rights
}

fn claims_of(token: &str) -> Value {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let claims = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()
}

fn config(private: bool) -> Value {
    json!({"config": {
        "private": private, "broadcast": {"ack": true}, "presence": {"enabled": true, "key": "k"}
    }})
}

async fn refused(socket: &mut Client, topic: &str, payload: Value) -> Value {
    let (status, response) = socket.join(&format!("realtime:{topic}"), "1", payload).await;
    assert_eq!(status, "error", "{response}");
    response["reason"].clone()
}

fn not_opened(topic: &str) -> String {
    format!("This token is bound to other topics and does not open: {topic}")
}

/// Someone whose policies, or a public channel, let them do everything.
async fn unbound(server: &Walcast, private: bool) -> Client {
    let token = if private {
        for_room(
            server,
            json!({"read": true, "write": true, "presence": {"read": true, "write": true}}),
        )
        .await
    } else {
        anon()
    };
    let mut socket = server.socket_as("2.0.0", &token).await;
    let joined = socket
        .join(
            "realtime:room",
            "9",
            json!({"config": {"private": private, "broadcast": {"ack": true}}}),
        )
        .await;
    assert_eq!(joined.0, "ok", "{}", joined.1);
    socket
}

fn broadcast(reference: &str) -> Value {
    json!(["1", reference, "realtime:room", "broadcast", {"type": "broadcast", "event": "e", "payload": {}}])
}

fn track(reference: &str) -> Value {
    json!(["1", reference, "realtime:room", "presence", {"type": "presence", "event": "track", "payload": {}}])
}

#[tokio::test]
async fn a_token_is_an_ordinary_one_with_what_was_asked_for_and_nothing_else() {
    let server = Walcast::start(&[]).await;
    let before_s = now_s();
    let body = json!({"topics": [
        {"topic": "room:1", "read": true, "write": false, "presence": {"read": true, "write": false}},
        {"topic": "žluťoučký \"kůň\"", "changes": true},
    ], "expires_in": 60, "role": "authenticated", "claims": {"sub": "visitor", "org": 7}});
    let response = ask(&server, &service(), &body).await;
    assert_eq!(response.status, 200, "{}", response.body);
    let answer: Value = serde_json::from_str(&response.body).unwrap();
    let expires_at = answer["expires_at"].as_i64().unwrap();
    assert!((before_s + 60..=now_s() + 60).contains(&expires_at));
    assert_eq!(
        claims_of(answer["token"].as_str().unwrap()),
        json!({
            "role": "authenticated", "sub": "visitor", "org": 7, "iat": expires_at - 60, "exp": expires_at,
            "walcast": {"topics": [
                {"topic": "room:1", "read": true, "presence": {"read": true}},
                {"topic": "žluťoučký \"kůň\"", "changes": true},
            ]},
        })
    );

    let claims = claims_of(&made(&server, &json!({"topics": [{"topic": "a", "read": true}]})).await);
    assert_eq!(claims["role"], "anon");
    assert_eq!(
        claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(),
        3600
    );
}

#[tokio::test]
async fn only_the_service_key_makes_tokens_and_no_token_passes_itself_on() {
    let server = Walcast::start(&[]).await;
    let body = json!({"topics": [{"topic": "a", "read": true}]});
    let bound = json!({"topics": [{"topic": "a", "read": true}]});
    let bound_service = sign(&json!({"role": "service_role", "exp": now_s() + 60, "walcast": bound}));
    let unauthorized = (401, r#"{"message":"Unauthorized"}"#);
    let forbidden = (
        403,
        r#"{"message":"Tokens are made for the role service_role alone; ask with its key, from a server"}"#,
    );
    for (key, expected) in [
        (anon(), forbidden),
        (user("u1", 60), forbidden),
        (sign(&json!({"role": null, "exp": now_s() + 60})), forbidden),
        (bound_service, forbidden),
        (made(&server, &body).await, forbidden),
        (
            sign(&json!({"role": "service_role", "exp": now_s() - 60})),
            unauthorized,
        ),
        (sign(&json!({"role": "service_role"})), unauthorized),
        ("x".to_owned(), unauthorized),
    ] {
        let response = ask(&server, &key, &body).await;
        assert_eq!((response.status, &*response.body), expected);
    }
    let response = server.post("/api/tokens", &[], b"{}").await;
    assert_eq!((response.status, &*response.body), unauthorized);
    let response = server.get("/api/tokens").await;
    assert_eq!(response.status, 404);

    let server = Walcast::start(&[("WALCAST_TOKEN_MINTER_ROLE", "gatekeeper")]).await;
    let gatekeeper = sign(&json!({"role": "gatekeeper", "exp": now_s() + 60}));
    assert_eq!(ask(&server, &gatekeeper, &body).await.status, 200);
    assert_eq!(ask(&server, &service(), &body).await.status, 403);
    // At the gateway's place, too, and with the key in the other header.
    let headers = [("apikey", &*gatekeeper)];
    let response = server
        .post("/realtime/v1/api/tokens", &headers, body.to_string().as_bytes())
        .await;
    assert_eq!(response.status, 200);
}

#[tokio::test]
async fn what_cannot_be_granted_is_refused_and_the_answer_says_what() {
    let server = Walcast::start(&[
        ("WALCAST_TOKEN_MAX_S", "600"),
        ("JWT_CLAIM_VALIDATORS", r#"{"iss":"me"}"#),
    ])
    .await;
    let one = || json!([{"topic": "a", "read": true}]);
    let topics = |count: usize| -> Value {
        (0..count)
            .map(|number| json!({"topic": format!("t{number}"), "read": true}))
            .collect()
    };
    let topic = |topic: &str| json!({"topics": [{"topic": topic, "read": true}], "expires_in": 9});
    for (body, field, cause) in [
        (json!({}), "topics", "can't be blank"),
        (json!({"topics": []}), "topics", "can't be blank"),
        (json!({"topics": topics(101)}), "topics", "at most 100 topics"),
        (topic(" "), "topics", "can't be blank"),
        (topic(&"t".repeat(247)), "topics", "at most 246 bytes"),
        (topic("realtime:a"), "topics", "leave out `realtime:`"),
        (json!({"topics": [{"topic": "a"}]}), "topics", "a has no right"),
        (
            json!({"topics": [{"topic": "a", "read": true}, {"topic": "a", "write": true}]}),
            "topics",
            "a is named twice",
        ),
        (
            json!({"topics": topics(100), "claims": {"x": "y".repeat(2000)}}),
            "topics",
            "a header has room for 4089",
        ),
        (
            json!({"topics": one(), "expires_in": 0}),
            "expires_in",
            "from 1 to 600",
        ),
        (
            json!({"topics": one(), "expires_in": -5}),
            "expires_in",
            "from 1 to 600",
        ),
        (
            json!({"topics": one(), "expires_in": 601}),
            "expires_in",
            "from 1 to 600",
        ),
        (
            json!({"topics": one(), "role": "service_role"}),
            "role",
            "must not be service_role",
        ),
        (json!({"topics": one(), "role": ""}), "role", "can't be blank"),
        (
            json!({"topics": one(), "role": "r".repeat(64)}),
            "role",
            "at most 63 bytes",
        ),
        (
            json!({"topics": one(), "claims": {"exp": 5}}),
            "claims",
            "must not name exp",
        ),
        (
            json!({"topics": one(), "claims": {"role": "x"}}),
            "claims",
            "must not name role",
        ),
        (
            json!({"topics": one(), "claims": {"walcast": {}}}),
            "claims",
            "must not name walcast",
        ),
        (
            json!({"topics": one(), "expires_in": 9, "claims": {"iss": "you"}}),
            "claims",
            "the server would refuse the token",
        ),
        (
            json!({"topics": one(), "expires_in": "9"}),
            "body",
            "invalid type",
        ),
        (
            json!({"topics": one(), "expires_in": 9.5}),
            "body",
            "invalid type",
        ),
        (json!({"topics": one(), "claims": []}), "body", "invalid type"),
        (json!({"topics": "a"}), "body", "invalid type"),
        (
            json!({"topics": [{"topic": "a", "read": 1}]}),
            "body",
            "invalid type",
        ),
        (
            json!({"topics": [{"topic": "a", "reads": true}]}),
            "body",
            "unknown field",
        ),
        (json!({"topics": [{"read": true}]}), "body", "missing field"),
        (json!({"topics": one(), "expires": 9}), "body", "unknown field"),
        (json!([]), "body", "must be an object"),
        (json!(5), "body", "must be an object"),
    ] {
        let response = ask(&server, &service(), &body).await;
        assert_eq!(response.status, 422, "{body}: {}", response.body);
        let answer: Value = serde_json::from_str(&response.body).unwrap();
        let said = answer["errors"][field][0].as_str().unwrap_or_default();
        assert!(said.contains(cause), "{body}: {answer}");
    }
    // An hour is too long here, so that what is not asked for is shorter.
    let response = ask(&server, &service(), &json!({"topics": one(), "expires_in": null})).await;
    let answer: Value = serde_json::from_str(&response.body).unwrap();
    assert!((now_s() + 500..=now_s() + 600).contains(&answer["expires_at"].as_i64().unwrap()));
    let deep = format!(
        r#"{{"claims":{{"x":{}{}}}}}"#,
        "[".repeat(10_000),
        "]".repeat(10_000)
    );
    let large = format!(r#"{{"claims":{{"x":"{}"}}}}"#, "x".repeat(70_000));
    for (body, status) in [("{", 400), ("\u{feff}{}", 400), (&*deep, 422), (&*large, 413)] {
        let response = ask_in_text(&server, &service(), body).await;
        assert_eq!(response.status, status, "{}", response.body);
    }
}

#[tokio::test]
async fn a_project_without_a_secret_is_told_what_is_missing() {
    let pair = Pair::p256();
    let set = json!([pair.jwk("k1")]).to_string();
    let server = Walcast::start(&[("API_JWT_SECRET", ""), ("API_JWT_JWKS", &set)]).await;
    let key = pair.sign(
        &json!({"alg": "ES256", "kid": "k1"}),
        &json!({"role": "service_role", "exp": now_s() + 60}),
    );
    let body = json!({"topics": [{"topic": "a", "read": true}]});
    let response = ask(&server, &key, &body).await;
    assert_eq!(
        (response.status, &*response.body),
        (
            501,
            r#"{"message":"This project has no secret to sign tokens with; set API_JWT_SECRET beside API_JWT_JWKS"}"#
        )
    );
    // While a rotation lasts either secret does.
    let server = Walcast::start(&[
        ("API_JWT_SECRET", ""),
        ("API_JWT_SECRET_NEXT", SECRET),
        ("API_JWT_JWKS", &set),
    ])
    .await;
    assert_eq!(ask(&server, &key, &body).await.status, 200);
}

#[tokio::test]
async fn a_token_for_one_topic_opens_no_other() {
    let server = Walcast::start(&[]).await;
    let all =
        json!({"read": true, "write": true, "presence": {"read": true, "write": true}, "changes": true});
    let token = for_room(&server, all).await;
    for private in [false, true] {
        // As the key of a connection, and as the token of a channel.
        let mut bound = server.socket_as("2.0.0", &token).await;
        let mut socket = server.socket().await;
        for other in [
            "roo",
            "room:1",
            "Room",
            "room ",
            "realtime:room",
            "*",
            "public:todos",
        ] {
            let reason = format!("Unauthorized: {}", not_opened(other));
            assert_eq!(refused(&mut bound, other, config(private)).await, reason);
            let mut payload = config(private);
            payload["access_token"] = token.clone().into();
            assert_eq!(refused(&mut socket, other, payload).await, reason);
            // The old API: the topic itself says what to listen to.
            if !private {
                assert_eq!(refused(&mut bound, other, json!({})).await, reason);
            }
        }
        let mut payload = config(private);
        payload["access_token"] = token.clone().into();
        assert_eq!(socket.join("realtime:room", "1", payload).await.0, "ok");
        assert_eq!(bound.join("realtime:room", "1", config(private)).await.0, "ok");
    }
    // A channel that brings a token of its own is judged by that one.
    let mut bound = server.socket_as("2.0.0", &token).await;
    let joined = bound
        .join(
            "realtime:other",
            "1",
            json!({"config": {}, "access_token": anon()}),
        )
        .await;
    assert_eq!(joined.0, "ok");
}

/// What a channel with a token's rights could do.
#[derive(Debug, PartialEq, Eq)]
struct Done {
    is_told_who_is_present: bool,
    hears: bool,
    is_heard: bool,
    tracks: bool,
}

async fn try_everything(server: &Walcast, private: bool, rights: Value) -> Result<Done, Value> {
    let token = for_room(server, rights).await;
    let mut other = unbound(server, private).await;
    let mut socket = server.socket_as("2.0.0", &token).await;
    let joined = socket.join("realtime:room", "1", config(private)).await;
    if joined.0 != "ok" {
        return Err(joined.1["reason"].clone());
    }
    let heartbeat = json!([null, "silence", "phoenix", "heartbeat", {}]);
    socket.send_json(heartbeat.clone()).await;
    let mut is_told_who_is_present = false;
    loop {
        let frame = socket.receive().await;
        match frame[1].as_str() {
            Some("silence") => break,
            _ => is_told_who_is_present |= frame[3] == "presence_state",
        }
    }

    other
        .send_json(json!(["9", "5", "realtime:room", "broadcast", {"event": "other"}]))
        .await;
    while other.receive().await[3] != "phx_reply" {}
    socket.send_json(broadcast("2")).await;
    socket.send_json(track("3")).await;
    socket.send_json(heartbeat).await;
    let (mut hears, mut acknowledged, mut tracks) = (false, false, false);
    loop {
        let frame = socket.receive().await;
        match (frame[1].as_str(), frame[3].as_str()) {
            (Some("silence"), _) => break,
            (Some("2"), _) => acknowledged = frame[4]["status"] == "ok",
            (Some("3"), _) => tracks = frame[4]["status"] == "ok",
            (_, Some("broadcast")) => hears = true,
            _ => {}
        }
    }
    other
        .send_json(json!(["9", "6", "realtime:room", "broadcast", {"event": "last"}]))
        .await;
    let mut is_heard = false;
    loop {
        let frame = other.receive().await;
        match (frame[1].as_str(), frame[3].as_str()) {
            (Some("6"), _) => break,
            (_, Some("broadcast")) => is_heard = true,
            _ => {}
        }
    }
    assert_eq!(is_heard, acknowledged);
    Ok(Done {
        is_told_who_is_present,
        hears,
        is_heard,
        tracks,
    })
}

#[tokio::test]
async fn a_channel_may_do_what_its_token_says_public_or_private_and_no_policy_is_asked() {
    let server = Walcast::start(&[("WALCAST_PRESENCE_WINDOW_MS", "0")]).await;
    let done = |is_told_who_is_present, hears, is_heard, tracks| Done {
        is_told_who_is_present,
        hears,
        is_heard,
        tracks,
    };
    let unreadable = json!("Unauthorized: You do not have permissions to read from this Channel topic: room");
    for private in [false, true] {
        for (rights, expected) in [
            (json!({"read": true}), done(false, true, false, false)),
            (
                json!({"read": true, "write": true}),
                done(false, true, true, false),
            ),
            (
                json!({"presence": {"read": true}}),
                done(true, false, false, false),
            ),
            (
                json!({"presence": {"read": true, "write": true}, "write": true}),
                done(true, false, true, true),
            ),
            (
                json!({"read": true, "presence": {"write": true}}),
                done(false, true, false, true),
            ),
            (
                json!({"read": true, "write": true, "presence": {"read": true, "write": true}}),
                done(true, true, true, true),
            ),
        ] {
            let tried = try_everything(&server, private, rights.clone()).await;
            assert_eq!(tried, Ok(expected), "private: {private}, {rights}");
        }
        // To read is what a private channel takes (`protocol.md 3.3`); a public one can be there to speak.
        let mute = try_everything(&server, private, json!({"write": true})).await;
        let expected = if private {
            Err(unreadable.clone())
        } else {
            Ok(done(false, false, true, false))
        };
        assert_eq!(mute, expected);
    }
}

#[tokio::test]
async fn http_takes_messages_to_topics_with_the_right_to_write_alone() {
    let server = Walcast::start(&[]).await;
    let body = json!({"topics": [
        {"topic": "room", "write": true},
        {"topic": "heard", "read": true},
    ]});
    let token = made(&server, &body).await;
    let mut member = unbound(&server, false).await;
    let mut inside = unbound(&server, true).await;
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", &*bearer), ("content-type", "application/json")];
    let forbidden = |topic: &str| {
        let message = format!("This token does not allow sending to the topic: {topic}");
        (403, json!({"message": message}).to_string())
    };
    for private in [false, true] {
        for (topic, expected) in [
            ("room", (202, String::new())),
            ("heard", forbidden("heard")),
            ("other", forbidden("other")),
        ] {
            let target = format!("/api/broadcast/{topic}/events/single?private={private}");
            let response = server.post(&target, &headers, b"{}").await;
            assert_eq!((response.status, response.body), expected, "{target}");

            let message =
                |topic: &str| json!({"topic": topic, "event": "batch", "payload": {}, "private": private});
            let batch = json!({"messages": [message("room"), message(topic)]}).to_string();
            let response = server.post("/api/broadcast", &headers, batch.as_bytes()).await;
            assert_eq!((response.status, response.body), expected, "{batch}");
        }
    }
    // Of a batch that is refused nothing is sent.
    for socket in [&mut member, &mut inside] {
        assert!(matches!(socket.next().await, Message::Binary(_)));
        for _ in 0..2 {
            assert_eq!(socket.receive().await[4]["event"], "batch");
        }
        socket.expect_silence().await;
    }
}

#[tokio::test]
async fn a_new_token_is_judged_as_the_first_was() {
    let server = Walcast::start(&[]).await;
    let listens = for_room(&server, json!({"read": true})).await;
    let speaks = for_room(&server, json!({"read": true, "write": true})).await;
    let deaf = for_room(&server, json!({"write": true, "presence": {"read": true}})).await;
    let elsewhere = made(&server, &json!({"topics": [{"topic": "other", "read": true}]})).await;
    let refresh = |token: &str| json!(["1", null, "realtime:room", "access_token", {"access_token": token}]);
    for private in [false, true] {
        let payload = json!({"config": {"private": private, "broadcast": {"ack": true}}});
        for (token, message) in [
            (&elsewhere, not_opened("room")),
            (
                &deaf,
                if private {
                    // Presence was not asked for, so that nothing is left to be read.
                    "You do not have permissions to read from this Channel topic: room".to_owned()
                } else {
                    "You no longer have permission to read from this Channel topic: room".to_owned()
                },
            ),
        ] {
            let mut socket = server.socket_as("2.0.0", &listens).await;
            assert_eq!(socket.join("realtime:room", "1", payload.clone()).await.0, "ok");
            socket.send_json(broadcast("2")).await;
            socket.expect_silence().await;

            socket.send_json(refresh(&speaks)).await;
            socket.send_json(broadcast("3")).await;
            let ok = json!(["1", "3", "realtime:room", "phx_reply", {"status": "ok", "response": {}}]);
            socket.expect(ok).await;

            socket.send_json(refresh(&listens)).await;
            socket.send_json(broadcast("4")).await;
            socket.expect_silence().await;

            socket.send_json(refresh(token)).await;
            let system =
                json!({"extension": "system", "status": "error", "message": message, "channel": "room"});
            socket
                .expect(json!(["1", null, "realtime:room", "system", system]))
                .await;
            socket
                .expect(json!(["1", "1", "realtime:room", "phx_close", {}]))
                .await;
        }
    }
    // A public channel is anybody's again with a token that is bound to nothing, and bound again after it.
    let mut socket = server.socket_as("2.0.0", &listens).await;
    let payload = json!({"config": {"broadcast": {"ack": true}}});
    assert_eq!(socket.join("realtime:room", "1", payload).await.0, "ok");
    socket.send_json(refresh(&anon())).await;
    socket.send_json(broadcast("2")).await;
    assert_eq!(socket.receive().await[1], "2");
    socket.send_json(refresh(&listens)).await;
    socket.send_json(broadcast("3")).await;
    socket.expect_silence().await;
}

#[tokio::test]
async fn a_claim_that_is_not_understood_opens_nothing() {
    let server = Walcast::start(&[]).await;
    let mut socket = server.socket().await;
    for claim in [
        json!(null),
        json!({}),
        json!({"topics": [{"topic": "room", "read": "yes"}]}),
        json!({"topics": [{"topic": "room", "read": true, "until": 5}]}),
    ] {
        let token = sign(&json!({"role": "anon", "exp": now_s() + 60, "walcast": claim}));
        let payload = json!({"config": {}, "access_token": token});
        assert_eq!(
            refused(&mut socket, "room", payload).await,
            "Unknown Error on Channel"
        );
        let response = server
            .get(&format!("/socket/websocket?apikey={token}&vsn=2.0.0"))
            .await;
        assert_eq!(response.status, 500);
    }
}

#[tokio::test]
async fn changes_need_the_right_to_them_and_row_level_security_decides_about_each() {
    let database = Postgres::shared().await.database().await;
    database
        .execute(
            "create table public.todos (id int primary key, owner text);
             grant select on public.todos to authenticated;
             alter publication supabase_realtime add table public.todos;
             alter table public.todos enable row level security;
             create policy own on public.todos for select to authenticated using (auth.jwt() ->> 'sub' = owner);",
        )
        .await;
    let server = Walcast::start_on(&database.url(), &[]).await;
    let token = async |changes: bool| {
        let body = json!({
            "topics": [{"topic": "room", "read": true, "changes": changes}],
            "role": "authenticated", "claims": {"sub": "ann"},
        });
        made(&server, &body).await
    };
    let (listens, blind) = (token(true).await, token(false).await);
    let entries = json!([{"event": "INSERT", "schema": "public", "table": "todos"}]);
    let refusal = "Unable to subscribe to changes: the token does not allow changes on the topic: room";
    let system = |status: &str, message: &str| json!({"extension": "postgres_changes", "status": status, "message": message, "channel": "room"});

    let mut socket = server.socket_as("2.0.0", &blind).await;
    let waits = json!({"config": {"postgres_changes": entries, "postgres_changes_options": {"wait": true}}});
    let reason = refused(&mut socket, "room", waits).await;
    let reason = reason.as_str().unwrap();
    assert!(
        reason.starts_with(&format!("RealtimeDisabledForConfiguration: {refusal}")),
        "{reason}"
    );
    let payload = json!({"config": {"postgres_changes": entries}});
    assert_eq!(socket.join("realtime:room", "1", payload).await.0, "ok");
    let mut told = socket.receive().await[4].take();
    assert!(told.as_object_mut().unwrap().remove("warnings").is_some());
    assert_eq!(told, system("error", refusal));

    let refresh = |token: &str| json!(["1", null, "realtime:room", "access_token", {"access_token": token}]);
    socket.send_json(refresh(&listens)).await;
    assert_eq!(
        socket.receive().await[4],
        system("ok", "Subscribed to PostgreSQL")
    );
    database
        .execute("insert into public.todos values (1, 'bob'), (2, 'ann')")
        .await;
    let change = socket.receive().await;
    assert_eq!(
        (&change[3], &change[4]["data"]["record"]["id"]),
        (&json!("postgres_changes"), &json!(2))
    );

    socket.send_json(refresh(&blind)).await;
    assert_eq!(socket.receive().await[4]["message"], refusal);
    // Once another has heard it, the stream is past it.
    let mut other = server.socket_as("2.0.0", &listens).await;
    let payload = json!({"config": {"postgres_changes": entries}});
    assert_eq!(other.join("realtime:room", "1", payload).await.0, "ok");
    assert_eq!(other.receive().await[4], system("ok", "Subscribed to PostgreSQL"));
    database
        .execute("insert into public.todos values (3, 'ann')")
        .await;
    while other.receive().await[4]["data"]["record"]["id"] != 3 {}
    socket.expect_silence().await;
    socket.send_json(refresh(&listens)).await;
    assert_eq!(
        socket.receive().await[4],
        system("ok", "Subscribed to PostgreSQL")
    );
    database
        .execute("insert into public.todos values (4, 'ann')")
        .await;
    assert_eq!(socket.receive().await[4]["data"]["record"]["id"], 4);
}

#[tokio::test]
async fn policies_decide_for_those_whose_token_is_bound_to_nothing() {
    let database = Postgres::shared().await.database().await;
    let server = Walcast::start_on(&database.url(), &[]).await;
    database
        .until("select to_regclass('realtime.messages') is not null")
        .await;
    let token = for_room(&server, json!({"read": true})).await;
    let mut socket = server.socket_as("2.0.0", &token).await;
    let payload = json!({"config": {"private": true}});
    assert_eq!(socket.join("realtime:room", "1", payload.clone()).await.0, "ok");
    // No policy lets anybody in.
    socket
        .send_json(json!(["1", null, "realtime:room", "access_token", {"access_token": anon()}]))
        .await;
    assert_eq!(
        socket.receive().await[4]["message"],
        "You do not have permissions to read from this Channel topic: room"
    );
    assert_eq!(socket.receive().await[3], "phx_close");
    let mut socket = server.socket().await;
    assert_eq!(
        refused(&mut socket, "room", payload).await,
        "Unauthorized: You do not have permissions to read from this Channel topic: room"
    );
}
