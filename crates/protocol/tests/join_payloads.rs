//! The coercions of the join payload (`protocol.md 3.1`, `3.2`, `3.6`, `15.1`).

#![allow(clippy::panic, reason = "a case that does not parse stops its test")]

use serde_json::value::RawValue;
use walcast_protocol::{JoinConfig, JoinError, JoinPayload, PostgresChangesOptions, TokenChoice};

fn parse(text: &str) -> Result<JoinPayload, JoinError> {
    JoinPayload::parse(
        &RawValue::from_string(text.to_owned()).unwrap_or_else(|error| panic!("{text}: {error}")),
    )
}

fn join(text: &str) -> JoinPayload {
    parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The configuration, and how many fields were complained about.
fn config(text: &str) -> (JoinConfig, usize) {
    let payload = join(&format!(r#"{{"config":{text}}}"#));
    (
        payload
            .config
            .unwrap_or_else(|| panic!("{text} is a legacy join")),
        payload.problems.len(),
    )
}

#[test]
fn the_payload_of_the_clients_is_understood() {
    let payload = join(
        r#"{"config":{
            "broadcast":{"ack":true,"self":true,"replication_ready":true,"replay":{"since":1700000000000,"limit":25}},
            "presence":{"key":"me","enabled":true},
            "private":true,
            "postgres_changes":[{"event":"INSERT","schema":"public","table":"t","filter":"id=eq.1","select":["id"]}],
            "postgres_changes_options":{"wait":true,"timeout":5000}},
          "access_token":"a","user_token":"u","version":"realtime-js/2.x"}"#,
    );
    assert!(payload.problems.is_empty(), "{:?}", payload.problems);
    assert_eq!(
        (payload.access_token.as_deref(), payload.user_token.as_deref()),
        (Some("a"), Some("u"))
    );
    let config = payload.config.unwrap();
    assert!(
        config.private && config.broadcast.ack && config.broadcast.own && config.broadcast.replication_ready
    );
    assert_eq!(
        config.broadcast.replay.unwrap().get(),
        r#"{"since":1700000000000,"limit":25}"#
    );
    assert!(config.presence.enabled);
    assert_eq!(config.presence.key.as_deref(), Some("me"));
    assert_eq!(config.postgres_changes.len(), 1);
    assert_eq!(
        config.postgres_changes_options,
        PostgresChangesOptions {
            wait: true,
            timeout_ms: Some(5000)
        }
    );
}

#[test]
fn the_key_config_even_with_null_selects_the_current_api() {
    assert!(join("{}").config.is_none());
    assert!(join(r#"{"configuration":{}}"#).config.is_none());
    assert!(join(r#"{"config":{}}"#).config.is_some());
    assert!(join(r#"{"config":null}"#).config.is_some());
}

#[test]
fn booleans_may_be_words_and_anything_else_is_false() {
    for (sent, flag, problems) in [
        ("true", true, 0),
        ("false", false, 0),
        (r#""TRUE""#, true, 0),
        (r#""tRue""#, true, 0),
        (r#""False""#, false, 0),
        ("null", false, 0),
        (r#""yes""#, false, 1),
        (r#"" true""#, false, 1),
        (r#""""#, false, 1),
        ("1", false, 1),
        ("[true]", false, 1),
        ("{}", false, 1),
    ] {
        let (private, complaints) = config(&format!(r#"{{"private":{sent}}}"#));
        assert_eq!((private.private, complaints), (flag, problems), "private: {sent}");
        let (broadcast, complaints) = config(&format!(r#"{{"broadcast":{{"ack":{sent},"self":{sent}}}}}"#));
        let found = (broadcast.broadcast.ack, broadcast.broadcast.own, complaints);
        assert_eq!(found, (flag, flag, 2 * problems), "broadcast: {sent}");
        let (presence, complaints) = config(&format!(r#"{{"presence":{{"enabled":{sent}}}}}"#));
        assert_eq!(
            (presence.presence.enabled, complaints),
            (flag, problems),
            "presence: {sent}"
        );
        let (options, complaints) = config(&format!(r#"{{"postgres_changes_options":{{"wait":{sent}}}}}"#));
        assert_eq!(
            (options.postgres_changes_options.wait, complaints),
            (flag, problems),
            "wait: {sent}"
        );
    }
}

#[test]
fn replication_ready_is_on_for_all_but_null_and_false() {
    for (sent, on) in [
        ("null", false),
        ("false", false),
        ("true", true),
        (r#""false""#, true),
        ("0", true),
        (r#""""#, true),
        ("{}", true),
    ] {
        let (config, problems) = config(&format!(r#"{{"broadcast":{{"replication_ready":{sent}}}}}"#));
        assert_eq!((config.broadcast.replication_ready, problems), (on, 0), "{sent}");
    }
    assert!(!config(r#"{"broadcast":{}}"#).0.broadcast.replication_ready);
}

#[test]
fn replay_is_asked_for_by_its_key_alone() {
    assert!(config(r#"{"broadcast":{}}"#).0.broadcast.replay.is_none());
    for sent in ["null", "false", r#"{"since":1}"#, r#"{"since":1e999}"#] {
        let (config, problems) = config(&format!(r#"{{"broadcast":{{"ack":true,"replay":{sent}}}}}"#));
        assert_eq!(config.broadcast.replay.unwrap().get(), sent);
        assert!(config.broadcast.ack && problems == 0);
    }
}

#[test]
fn a_presence_key_without_a_word_of_enabled_is_that_of_an_older_client_which_waits_for_a_state() {
    for (sent, enabled) in [
        (r#"{"key":""}"#, true),
        (r#"{"key":"me"}"#, true),
        (r#"{"key":"me","enabled":false}"#, false),
        (r#"{"key":"me","enabled":null}"#, false),
        ("{}", false),
    ] {
        let (config, _) = config(&format!(r#"{{"presence":{sent}}}"#));
        assert_eq!(config.presence.enabled, enabled, "{sent}");
    }
}

#[test]
fn presence_keys_are_texts_or_made_so_and_objects_and_lists_are_none() {
    for (sent, key, problems) in [
        (r#""me""#, Some("me"), 0),
        (r#""\u00e9""#, Some("é"), 0),
        ("5", Some("5"), 0),
        ("-1.5", Some("-1.5"), 0),
        ("12345678901234567890123", Some("12345678901234567890123"), 0),
        ("true", Some("true"), 0),
        ("null", None, 0),
        (r#""""#, None, 0),
        (r#"{"a":1}"#, None, 1),
        ("[1]", None, 1),
        (r#""\ud800""#, None, 1),
    ] {
        let (config, complaints) = config(&format!(r#"{{"presence":{{"key":{sent},"enabled":true}}}}"#));
        assert_eq!(
            (config.presence.key.as_deref(), complaints),
            (key, problems),
            "{sent}"
        );
        assert!(config.presence.enabled, "{sent}");
    }
}

#[test]
fn null_bindings_are_dropped_and_the_rest_kept_in_order_and_verbatim() {
    let (config, problems) = config(r#"{"postgres_changes":[null,{"table":"b", "x":1e2},null,{}]}"#);
    let raw: Vec<&str> = config
        .postgres_changes
        .iter()
        .map(|entry| entry.raw.get())
        .collect();
    assert_eq!((raw, problems), (vec![r#"{"table":"b", "x":1e2}"#, "{}"], 0));
}

#[test]
fn fields_of_a_wrong_shape_take_their_defaults_and_leave_the_valid_ones_alone() {
    for (sent, problems) in [
        (
            r#"{"private":true,"broadcast":null,"presence":null,"postgres_changes":null}"#,
            0,
        ),
        (r#"{"private":true,"presence":[1]}"#, 1),
        (r#"{"private":true,"presence":"x","postgres_changes":"x"}"#, 2),
        (r#"{"private":true,"postgres_changes":{"a":1}}"#, 1),
        (r#"{"private":true,"postgres_changes":7}"#, 1),
        (r#"{"private":true,"postgres_changes_options":[]}"#, 1),
        (r#"{"private":true,"foo":1,"broadcast":{"bar":2}}"#, 0),
    ] {
        let (config, complaints) = config(sent);
        assert_eq!(complaints, problems, "{sent}");
        assert!(config.private, "{sent}");
        assert!(
            !config.broadcast.ack && !config.presence.enabled && config.postgres_changes.is_empty(),
            "{sent}"
        );
        assert_eq!(
            config.postgres_changes_options,
            PostgresChangesOptions::default(),
            "{sent}"
        );
    }
}

#[test]
fn shapes_without_a_sensible_default_are_refused_with_a_sentence_of_bounded_length() {
    let long = "x".repeat(100_000);
    for sent in [
        "[1]".to_owned(),
        "null".to_owned(),
        format!("{long:?}"),
        r#"{"config":[1]}"#.to_owned(),
        r#"{"config":5}"#.to_owned(),
        r#"{"config":false}"#.to_owned(),
        format!(r#"{{"config":{long:?}}}"#),
        r#"{"config":{"broadcast":"x"}}"#.to_owned(),
        r#"{"config":{"broadcast":[1]}}"#.to_owned(),
        r#"{"config":{"broadcast":false}}"#.to_owned(),
        r#"{"config":{"postgres_changes":[{"table":"t"},5]}}"#.to_owned(),
        format!(r#"{{"config":{{"postgres_changes":[{long:?}]}}}}"#),
        format!(
            r#"{{"config":{{"postgres_changes":[{}1{}]}}}}"#,
            r#"{"a":"#.repeat(5000),
            "}".repeat(5000)
        ),
    ] {
        let reason = parse(&sent).unwrap_err().to_string();
        assert!(reason.starts_with("UnknownErrorOnChannel: "), "{reason}");
        assert!(reason.len() < 200, "{reason}");
    }
}

#[test]
fn the_entry_that_is_no_object_is_named_by_its_position() {
    let reason = parse(r#"{"config":{"postgres_changes":[{},{},5]}}"#)
        .unwrap_err()
        .to_string();
    assert!(
        reason.contains("entry 3 of `config.postgres_changes`"),
        "{reason}"
    );
}

#[test]
fn a_timeout_is_a_whole_number_of_milliseconds() {
    for (sent, timeout_ms, problems) in [
        ("15000", Some(15_000), 0),
        ("0", Some(0), 0),
        ("null", None, 0),
        ("-1", None, 1),
        ("1.5", None, 1),
        (r#""5000""#, None, 1),
        ("1e999", None, 1),
    ] {
        let (config, complaints) = config(&format!(r#"{{"postgres_changes_options":{{"timeout":{sent}}}}}"#));
        assert_eq!(
            (config.postgres_changes_options.timeout_ms, complaints),
            (timeout_ms, problems),
            "{sent}"
        );
    }
}

#[test]
fn the_channel_token_is_chosen_by_the_four_rules() {
    use TokenChoice::{Connection, Token};
    for (sent, choice) in [
        ("{}", Connection),
        (r#"{"access_token":"a"}"#, Token("a")),
        (r#"{"user_token":"u"}"#, Token("u")),
        (r#"{"access_token":"a","user_token":"u"}"#, Token("u")),
        (r#"{"access_token":"sb_x"}"#, Connection),
        (r#"{"access_token":"sb_x","user_token":"u"}"#, Connection),
        (r#"{"user_token":"sb_x"}"#, Connection),
        (r#"{"access_token":null,"user_token":"sb_x"}"#, Connection),
        (r#"{"access_token":"a","user_token":"sb_x"}"#, Token("sb_x")),
        (r#"{"access_token":"","user_token":"u"}"#, Token("u")),
        (r#"{"access_token":""}"#, Token("")),
        (r#"{"access_token":5,"user_token":{}}"#, Connection),
    ] {
        assert_eq!(join(sent).channel_token(), choice, "{sent}");
    }
    assert_eq!(join(r#"{"access_token":5,"user_token":{}}"#).problems.len(), 2);
}
