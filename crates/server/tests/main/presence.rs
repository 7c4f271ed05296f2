//! Presence (`protocol.md 6`, and its limits in 9).

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use walcast_testkit::{Database, Postgres};

use crate::server::{Client, Walcast, anon, now_s, sign};

const TOPIC: &str = "realtime:room";
/// Each change by itself, at once.
const AT_ONCE: (&str, &str) = ("WALCAST_PRESENCE_WINDOW_MS", "0");
/// Longer than any test.
const NEVER: (&str, &str) = ("WALCAST_PRESENCE_WINDOW_MS", "60000");

fn with_presence(key: &str) -> Value {
    json!({"config": {"presence": {"enabled": true, "key": key}}})
}

fn call(reference: &str, payload: &Value) -> Value {
    json!(["1", reference, TOPIC, "presence", payload])
}

fn track(reference: &str, payload: &Value) -> Value {
    call(
        reference,
        &json!({"type": "presence", "event": "track", "payload": payload}),
    )
}

fn untrack(reference: &str) -> Value {
    call(reference, &json!({"type": "presence", "event": "untrack"}))
}

fn reply(reference: &str, status: &str, response: &Value) -> Value {
    json!(["1", reference, TOPIC, "phx_reply", {"status": status, "response": response}])
}

fn ok(reference: &str) -> Value {
    reply(reference, "ok", &json!({}))
}

/// A member that joined with presence, and the state it was told.
async fn member(server: &Walcast, key: &str) -> (Client, Value) {
    let mut socket = server.socket().await;
    assert_eq!(socket.join(TOPIC, "1", with_presence(key)).await.0, "ok");
    let state = state(&mut socket).await;
    (socket, state)
}

async fn state(socket: &mut Client) -> Value {
    let frame = socket.receive().await;
    assert_eq!(
        (&frame[0], &frame[1], &frame[3]),
        (&json!("1"), &Value::Null, &json!("presence_state")),
        "{frame}"
    );
    frame[4].clone()
}

/// The joins and leaves of the next frame, as payloads by key.
async fn diff(socket: &mut Client) -> (Value, Value) {
    let frame = socket.receive().await;
    assert_eq!(
        (&frame[0], &frame[1], &frame[3]),
        (&Value::Null, &Value::Null, &json!("presence_diff")),
        "{frame}"
    );
    (tracked(&frame[4]["joins"]), tracked(&frame[4]["leaves"]))
}

/// Keys and what is tracked under them, without the server's references.
fn tracked(keys: &Value) -> Value {
    let metas = |metas: &Value| -> Vec<Value> {
        let without_references = |meta: &Value| {
            let mut meta = meta.clone();
            let fields = meta.as_object_mut().unwrap();
            assert_eq!(fields.remove("phx_ref").unwrap().as_str().unwrap().len(), 16);
            fields.remove("phx_ref_prev");
            meta
        };
        metas["metas"]
            .as_array()
            .unwrap()
            .iter()
            .map(without_references)
            .collect()
    };
    let keys = keys.as_object().unwrap();
    json!(
        keys.iter()
            .map(|(key, of_key)| (key, metas(of_key)))
            .collect::<BTreeMap<_, _>>()
    )
}

async fn closed_with(socket: &mut Client, message: &str) {
    socket
        .expect(json!(["1", null, TOPIC, "system",
            {"extension": "system", "status": "error", "message": message, "channel": "room"}]))
        .await;
    socket.expect(json!(["1", "1", TOPIC, "phx_close", {}])).await;
}

#[tokio::test]
async fn section_6_2_members_are_told_the_state_and_then_what_changes() {
    let server = Walcast::start(&[AT_ONCE]).await;
    let (mut ada, empty) = member(&server, "ada").await;
    assert_eq!(empty, json!({}));
    ada.send_json(track("2", &json!({"n": 1}))).await;
    assert_eq!(diff(&mut ada).await, (json!({"ada": [{"n": 1}]}), json!({})));
    ada.expect(ok("2")).await;
    let (mut ben, state) = member(&server, "ben").await;
    assert_eq!(tracked(&state), json!({"ada": [{"n": 1}]}));

    ada.send_json(track("3", &json!({"n": 1}))).await;
    ada.expect(ok("3")).await;
    ada.send_json(track("4", &json!({"n": 2}))).await;
    let update = (json!({"ada": [{"n": 2}]}), json!({"ada": [{"n": 1}]}));
    assert_eq!(diff(&mut ada).await, update);
    ada.expect(ok("4")).await;
    assert_eq!(diff(&mut ben).await, update);

    ada.send_json(untrack("5")).await;
    let end = (json!({}), json!({"ada": [{"n": 2}]}));
    assert_eq!(diff(&mut ada).await, end);
    ada.expect(ok("5")).await;
    assert_eq!(diff(&mut ben).await, end);
    ada.send_json(untrack("6")).await;
    ada.expect(ok("6")).await;
    ben.expect_silence().await;
}

#[tokio::test]
async fn section_6_2_a_presence_ends_with_its_channel_however_that_ends() {
    let server = Walcast::start(&[AT_ONCE]).await;
    let (mut witness, _) = member(&server, "witness").await;
    for ending in ["leave", "rejoin", "close", "abort", "expiry"] {
        let mut socket = server.socket().await;
        let lifetime_s = if ending == "expiry" { 2 } else { 60 };
        let mut payload = with_presence(ending);
        payload["access_token"] = json!(sign(&json!({"role": "anon", "exp": now_s() + lifetime_s})));
        assert_eq!(socket.join(TOPIC, "1", payload).await.0, "ok");
        state(&mut socket).await;
        socket.send_json(track("2", &json!({}))).await;
        assert_eq!(diff(&mut witness).await, (json!({ ending: [{}] }), json!({})));
        match ending {
            "leave" => socket.send_json(json!(["1", "3", TOPIC, "phx_leave", {}])).await,
            "rejoin" => {
                let rejoin = json!(["9", "9", TOPIC, "phx_join", {"config": {}}]);
                socket.send_json(rejoin).await;
            }
            "close" => socket.stream.close(None).await.unwrap(),
            "abort" => socket.stream.get_mut().shutdown().await.unwrap(),
            _ => closed_after(&mut socket).await,
        }
        assert_eq!(
            diff(&mut witness).await,
            (json!({}), json!({ ending: [{}] })),
            "{ending}"
        );
    }
}

/// Waits for the server to close the channel.
async fn closed_after(socket: &mut Client) {
    while socket.receive().await[3] != "phx_close" {}
}

#[tokio::test]
async fn changes_within_a_window_travel_as_one_diff() {
    let server = Walcast::start(&[("WALCAST_PRESENCE_WINDOW_MS", "300")]).await;
    let (mut witness, _) = member(&server, "witness").await;
    let (mut ada, _) = member(&server, "ada").await;
    let (mut ben, _) = member(&server, "ben").await;
    for n in 0..5 {
        ada.send_json(track("2", &json!({"n": n}))).await;
        ada.expect(ok("2")).await;
    }
    ben.send_json(track("2", &json!({}))).await;
    ben.send_json(untrack("3")).await;
    ben.expect(ok("2")).await;
    ben.expect(ok("3")).await;
    assert_eq!(diff(&mut witness).await, (json!({"ada": [{"n": 4}]}), json!({})));
    witness.expect_silence().await;
}

#[tokio::test]
async fn who_comes_within_a_window_is_told_the_state_of_its_beginning() {
    let server = Walcast::start(&[NEVER]).await;
    let (mut ada, _) = member(&server, "ada").await;
    ada.send_json(track("2", &json!({}))).await;
    ada.expect(ok("2")).await;
    assert_eq!(member(&server, "ben").await.1, json!({}));
}

#[tokio::test]
async fn section_6_1_every_call_has_its_answer() {
    let server = Walcast::start(&[NEVER]).await;
    let (mut socket, _) = member(&server, "ada").await;
    let not_a_map = json!({"reason": "Presence track payload must be a map"});
    let cases = [
        (json!({}), "ok", json!({})),
        (json!("x"), "ok", json!({})),
        (json!(null), "ok", json!({})),
        (json!([1]), "ok", json!({})),
        (json!({"event": "track"}), "ok", json!({})),
        (json!({"event": "TRACK", "payload": {"a": 1}}), "ok", json!({})),
        (json!({"event": "UnTrack"}), "ok", json!({})),
        (
            json!({"event": "track", "payload": null}),
            "error",
            not_a_map.clone(),
        ),
        (json!({"event": "track", "payload": [1]}), "error", not_a_map),
        (json!({"event": "nonsense"}), "error", json!({})),
        (json!({"event": ""}), "error", json!({})),
    ];
    for (payload, status, response) in cases {
        socket.send_json(call("2", &payload)).await;
        assert_eq!(socket.receive().await, reply("2", status, &response), "{payload}");
    }
    socket.send_json(call("3", &json!({"event": 5}))).await;
    socket
        .expect(json!(["1", "1", TOPIC, "phx_error", {"reason": "channel_crash"}]))
        .await;
    socket.expect_silence().await;
}

#[tokio::test]
async fn section_6_3_a_public_channel_without_presence_hears_diffs_and_is_told_no_state() {
    let server = Walcast::start(&[AT_ONCE]).await;
    let mut socket = server.socket().await;
    socket.join_ok(TOPIC, "1").await;
    let (mut ada, _) = member(&server, "ada").await;
    ada.send_json(track("2", &json!({}))).await;
    assert_eq!(diff(&mut socket).await, (json!({"ada": [{}]}), json!({})));
    socket.send_json(track("2", &json!({}))).await;
    let (joins, _) = diff(&mut socket).await;
    // A key of the server's making: a UUID of version 1.
    let key = joins.as_object().unwrap().keys().next().unwrap();
    assert_eq!((key.len(), &key[14..15]), (36, "1"));
    socket.expect(ok("2")).await;
    socket.expect_silence().await;
}

#[tokio::test]
async fn section_6_3_presence_can_be_for_every_channel() {
    let server = Walcast::start(&[("WALCAST_PRESENCE_ENABLED", "true")]).await;
    let mut socket = server.socket().await;
    socket.join_ok(TOPIC, "1").await;
    assert_eq!(state(&mut socket).await, json!({}));
}

#[tokio::test]
async fn section_2_1_members_on_1_0_0_are_told_the_same() {
    let server = Walcast::start(&[AT_ONCE]).await;
    let mut old = server.socket_as("1.0.0", &anon()).await;
    let join = json!({"topic": TOPIC, "event": "phx_join", "payload": with_presence("old"), "ref": "1", "join_ref": "1"});
    old.send_json(join).await;
    assert_eq!(old.receive().await["event"], "phx_reply");
    old.expect(json!({"topic": TOPIC, "event": "presence_state", "payload": {}, "ref": null}))
        .await;
    let (mut ada, _) = member(&server, "ada").await;
    ada.send_json(track("2", &json!({"n": 1}))).await;
    let frame = old.receive().await;
    assert_eq!(
        (&frame["event"], &frame["ref"]),
        (&json!("presence_diff"), &Value::Null)
    );
    assert_eq!(tracked(&frame["payload"]["joins"]), json!({"ada": [{"n": 1}]}));
}

#[tokio::test]
async fn section_6_5_one_call_more_than_a_window_allows_closes_the_channel() {
    let server = Walcast::start(&[NEVER, ("CLIENT_PRESENCE_MAX_CALLS", "2")]).await;
    let (mut socket, _) = member(&server, "ada").await;
    socket.send_json(track("2", &json!({}))).await;
    socket.expect(ok("2")).await;
    // What is refused does not count.
    socket.send_json(call("3", &json!({"event": "nonsense"}))).await;
    socket.expect(reply("3", "error", &json!({}))).await;
    socket.send_json(untrack("4")).await;
    socket.expect(ok("4")).await;
    socket.send_json(call("5", &json!({}))).await;
    socket.expect(ok("5")).await;
    socket.send_json(call("6", &json!({"event": "nonsense"}))).await;
    closed_with(&mut socket, "Client presence rate limit exceeded").await;
    socket.expect_silence().await;
}

#[tokio::test]
async fn section_9_too_many_presence_messages_close_channels_that_track_or_join() {
    let settings = [AT_ONCE, ("WALCAST_MAX_PRESENCE_EVENTS_PER_SECOND", "1")];
    let server = Walcast::start(&settings).await;
    let (mut ada, _) = member(&server, "ada").await;
    // The average is taken every five seconds.
    for n in 0.. {
        ada.send_json(track("2", &json!({"n": n}))).await;
        let frame = ada.receive().await;
        if frame[3] == "system" {
            assert_eq!(frame[4]["message"], "Too many presence messages per second");
            break;
        }
        ada.expect(ok("2")).await;
        tokio::task::yield_now().await;
    }
    ada.expect(json!(["1", "1", TOPIC, "phx_close", {}])).await;
    let mut ben = server.socket().await;
    assert_eq!(ben.join(TOPIC, "1", with_presence("ben")).await.0, "ok");
    closed_with(&mut ben, "Too many presence messages per second").await;
}

#[tokio::test]
async fn section_6_1_a_payload_above_the_limit_closes_the_channel() {
    let server = Walcast::start(&[NEVER, ("WALCAST_MAX_PAYLOAD_KB", "1")]).await;
    let (mut socket, _) = member(&server, "ada").await;
    // 1 + object 5 + key 6 + string 5: the limit is 1500.
    socket
        .send_json(track("2", &json!({"a": "x".repeat(1483)})))
        .await;
    socket.expect(ok("2")).await;
    socket
        .send_json(track("3", &json!({"a": "x".repeat(1484)})))
        .await;
    closed_with(&mut socket, "Track message size exceeded").await;
}

#[tokio::test]
async fn a_channel_that_holds_as_much_as_it_may_refuses_more() {
    let server = Walcast::start(&[AT_ONCE, ("WALCAST_PRESENCE_TOPIC_KB", "1")]).await;
    let (mut ada, _) = member(&server, "ada").await;
    let (mut ben, _) = member(&server, "ben").await;
    ada.send_json(track("2", &json!({"a": "x".repeat(500)}))).await;
    diff(&mut ada).await;
    diff(&mut ben).await;
    ben.send_json(track("2", &json!({"a": "x".repeat(500)}))).await;
    let refused = ben.receive().await;
    assert_eq!(refused[4]["status"], "error");
    let reason = refused[4]["response"]["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("too much is tracked on this channel"),
        "{reason}"
    );
    ben.send_json(track("3", &json!({"a": 1}))).await;
    assert_eq!(diff(&mut ben).await.0, json!({"ben": [{"a": 1}]}));
}

#[tokio::test]
async fn metrics_say_how_many_are_present() {
    let server = Walcast::start(&[AT_ONCE]).await;
    let (mut ada, _) = member(&server, "ada").await;
    ada.send_json(track("2", &json!({}))).await;
    diff(&mut ada).await;
    let body = server.get("/metrics").await.body;
    // One recorder counts for all servers of this process.
    for name in ["walcast_presences ", "walcast_presence_diffs_sent_total "] {
        let value = body.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        assert!(value.parse::<f64>().unwrap() >= 1.0, "{name}{value}");
    }
}

/// Users with the claim `hears` are told who is present, those with `tracks` may be; all may hear broadcasts. With the
/// claim `raises` the check of writing raises.
const POLICIES: &str = "
    create policy hear on realtime.messages for select to authenticated
      using (extension = 'broadcast' or extension = 'presence' and auth.jwt() ->> 'hears' = 'yes');
    create policy speak on realtime.messages for insert to authenticated
      with check (extension = 'presence' and auth.jwt() ->> 'tracks' = 'yes'
        and (auth.jwt() ->> 'raises' is null or 1 / (length(topic) - length(topic)) = 1));";

async fn start() -> (Database, Walcast) {
    let database = Postgres::shared().await.database().await;
    let server = Walcast::start_on(&database.url(), &[AT_ONCE]).await;
    // The table is the server's to make.
    database
        .until(
            "select to_regclass('realtime.messages') is not null and exists (
            select from pg_publication where pubname = 'supabase_realtime_messages_publication')",
        )
        .await;
    database.execute(POLICIES).await;
    (database, server)
}

fn token(claims: &[&str]) -> String {
    let mut all = json!({"role": "authenticated", "exp": now_s() + 3600});
    for claim in claims {
        all[*claim] = json!("yes");
    }
    sign(&all)
}

async fn private_member(server: &Walcast, key: &str, is_enabled: bool, claims: &[&str]) -> Client {
    let mut socket = server.socket_as("2.0.0", &token(claims)).await;
    let payload = json!({"config": {"private": true, "presence": {"key": key, "enabled": is_enabled}}});
    assert_eq!(socket.join(TOPIC, "1", payload).await.0, "ok");
    socket
}

#[tokio::test]
async fn section_6_3_policies_say_who_is_told_and_who_may_track() {
    let (_database, server) = start().await;
    let mut both = private_member(&server, "both", true, &["hears", "tracks"]).await;
    assert_eq!(state(&mut both).await, json!({}));
    let mut deaf = private_member(&server, "deaf", true, &["tracks"]).await;
    let mut mute = private_member(&server, "mute", true, &["hears"]).await;
    assert_eq!(state(&mut mute).await, json!({}));
    let mut raising = private_member(&server, "raising", true, &["hears", "tracks", "raises"]).await;
    assert_eq!(state(&mut raising).await, json!({}));

    deaf.send_json(track("2", &json!({}))).await;
    deaf.expect(ok("2")).await;
    for hearing in [&mut both, &mut mute, &mut raising] {
        assert_eq!(diff(hearing).await, (json!({"deaf": [{}]}), json!({})));
    }
    for refused in [&mut mute, &mut raising] {
        refused.send_json(track("2", &json!({}))).await;
        refused.send_json(untrack("3")).await;
        refused.expect(reply("2", "error", &json!({}))).await;
        refused.expect(ok("3")).await;
    }
    both.expect_silence().await;
    deaf.expect_silence().await;
}

#[tokio::test]
async fn section_6_3_a_private_channel_without_presence_hears_diffs_of_its_own_form_once_it_has_tracked() {
    let (_database, server) = start().await;
    let mut late = private_member(&server, "late", false, &["hears", "tracks"]).await;
    let mut never = private_member(&server, "never", false, &["tracks"]).await;
    let mut other = private_member(&server, "other", true, &["hears", "tracks"]).await;
    state(&mut other).await;
    other.send_json(track("2", &json!({}))).await;
    diff(&mut other).await;
    other.expect(ok("2")).await;
    never.send_json(track("2", &json!({}))).await;
    never.expect(ok("2")).await;
    diff(&mut other).await;
    late.expect_silence().await;

    late.send_json(track("2", &json!({}))).await;
    let frame = late.receive().await;
    assert_eq!(
        (&frame[0], &frame[1], &frame[3]),
        (&json!("1"), &Value::Null, &json!("presence_diff"))
    );
    assert_eq!(tracked(&frame[4]["joins"]), json!({"late": [{}]}));
    late.expect(ok("2")).await;
    assert_eq!(diff(&mut other).await.0, json!({"late": [{}]}));
    other.send_json(untrack("3")).await;
    assert_eq!(late.receive().await[4]["leaves"].as_object().unwrap().len(), 1);
    never.expect_silence().await;
}

#[tokio::test]
async fn section_4_3_a_token_that_may_hear_has_diffs_flow_and_one_that_may_not_ends_the_channel() {
    let (_database, server) = start().await;
    let mut socket = private_member(&server, "ada", true, &["tracks"]).await;
    let mut other = private_member(&server, "ben", true, &["hears", "tracks"]).await;
    state(&mut other).await;
    socket
        .send_json(json!(["1", "2", TOPIC, "access_token", {"access_token": token(&["hears", "tracks"])}]))
        .await;
    // What comes behind a token waits for it.
    socket.send_json(track("3", &json!({}))).await;
    assert_eq!(diff(&mut socket).await, (json!({"ada": [{}]}), json!({})));
    socket.expect(ok("3")).await;
    diff(&mut other).await;
    socket
        .send_json(json!(["1", "4", TOPIC, "access_token", {"access_token": token(&["tracks"])}]))
        .await;
    closed_with(
        &mut socket,
        "You no longer have permission to read from this Channel topic: room",
    )
    .await;
    assert_eq!(diff(&mut other).await, (json!({}), json!({"ada": [{}]})));
}
