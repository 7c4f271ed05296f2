//! `realtime.send`, `send_binary`, `broadcast_changes` and `topic` (`database.md 1.6`).

use crate::scene::{Session, with_partition};

/// The only message there is, by columns.
const MESSAGE: &str =
    "select format('%s|%s|%s|%s|%s|%s', topic, extension, event, private, payload - 'id', binary_payload)
    from realtime.messages";

const COUNT: &str = "select count(*) from realtime.messages";

#[tokio::test]
async fn send_stores_a_broadcast_whose_payload_carries_the_row_s_id() {
    let database = with_partition().await;
    let mut session = Session::of(&database).await;
    let warnings = session
        .run(r#"select realtime.send('{"a": 1}'::jsonb, 'e', 'room')"#)
        .await
        .unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(
        session.value(MESSAGE).await.unwrap(),
        r#"room|broadcast|e|t|{"a": 1}|"#,
        "private unless said otherwise"
    );
    let ids_agree = session
        .value("select payload -> 'id' = to_jsonb(id) from realtime.messages")
        .await;
    assert_eq!(ids_agree.as_deref(), Some("true"));
}

#[tokio::test]
async fn an_untyped_literal_and_named_arguments_are_understood() {
    let database = with_partition().await;
    let mut session = Session::of(&database).await;
    session
        .run("select realtime.send(private => false, topic => 'room', event => 'e', payload => '{}')")
        .await
        .unwrap();
    assert_eq!(session.value(MESSAGE).await.unwrap(), "room|broadcast|e|f|{}|");
}

#[tokio::test]
async fn an_id_in_the_payload_stays_and_is_not_the_row_s() {
    let database = with_partition().await;
    let mut session = Session::of(&database).await;
    for own in [
        r#""mine""#,
        "null",
        "7",
        r#""00000000-0000-4000-8000-000000000001""#,
    ] {
        session
            .run(&format!(
                r#"truncate realtime.messages; select realtime.send('{{"id": {own}, "nested": {{}}}}', 'e', 'room')"#
            ))
            .await
            .unwrap();
        let kept = session
            .value(&format!(
                "select payload -> 'id' = '{own}' and id <> '00000000-0000-4000-8000-000000000001' from realtime.messages"
            ))
            .await;
        assert_eq!(kept.as_deref(), Some("true"), "{own}");
    }
}

#[tokio::test]
async fn what_cannot_be_sent_is_a_warning_and_the_transaction_goes_on() {
    let database = with_partition().await;
    let mut session = Session::of(&database).await;
    session.run("create table written (id int)").await.unwrap();
    for (call, reason) in [
        (
            "realtime.send('[1]', 'e', 't')",
            r#"path element at position 1 is not an integer: "id""#,
        ),
        (
            r#"realtime.send('["id"]', 'e', 't')"#,
            r#"path element at position 1 is not an integer: "id""#,
        ),
        ("realtime.send('1', 'e', 't')", "cannot set path in scalar"),
        (r#"realtime.send('"id"', 'e', 't')"#, "cannot set path in scalar"),
        ("realtime.send('null', 'e', 't')", "cannot set path in scalar"),
        ("realtime.send('{}', 'e', null)", "the topic is null"),
        (r"realtime.send_binary('\x01', 'e', null)", "the topic is null"),
    ] {
        let warnings = session
            .run(&format!(
                "begin; insert into written values (1); select {call}; insert into written values (2); commit"
            ))
            .await
            .unwrap();
        assert_eq!(warnings.len(), 1, "{call}: {warnings:?}");
        let expected = format!("WARNING: WarnSendingBroadcastMessage: {reason}");
        assert!(warnings[0].starts_with(&expected), "{call}: {warnings:?}");
        assert_eq!(session.value(COUNT).await.as_deref(), Some("0"), "{call}");
    }
    let written = session.value("select count(*) from written").await;
    assert_eq!(written.as_deref(), Some("14"));
}

#[tokio::test]
async fn a_missing_partition_or_a_raising_trigger_is_a_warning() {
    let database = with_partition().await;
    let mut session = Session::of(&database).await;
    session
        .run(
            "create function raises() returns trigger language plpgsql as $$begin raise exception 'not today'; end$$;
             create trigger raises before insert on realtime.messages for each row execute function raises()",
        )
        .await
        .unwrap();
    let send = "select realtime.send('{}', 'e', 't')";
    assert_eq!(
        session.run(send).await.unwrap(),
        ["WARNING: WarnSendingBroadcastMessage: not today"]
    );
    session.run("drop table realtime.messages_any_day").await.unwrap();
    assert_eq!(
        session.run(send).await.unwrap(),
        [r#"WARNING: WarnSendingBroadcastMessage: no partition of relation "messages" found for row"#]
    );
}

#[tokio::test]
async fn a_null_event_private_or_payload_is_stored_as_it_is() {
    let database = with_partition().await;
    let mut session = Session::of(&database).await;
    for (call, stored) in [
        ("realtime.send('{}', null, 't', false)", "t|broadcast||f|{}|"),
        ("realtime.send('{}', 'e', 't', null)", "t|broadcast|e||{}|"),
        ("realtime.send(null, 'e', 't', false)", "t|broadcast|e|f||"),
        ("realtime.send_binary(null, 'e', 't', false)", "t|broadcast|e|f||"),
    ] {
        let warnings = session
            .run(&format!("truncate realtime.messages; select {call}"))
            .await
            .unwrap();
        assert_eq!(warnings, Vec::<String>::new(), "{call}");
        assert_eq!(session.value(MESSAGE).await.unwrap(), stored, "{call}");
    }
}

#[tokio::test]
async fn send_binary_stores_the_bytes_as_they_are() {
    let database = with_partition().await;
    let mut session = Session::of(&database).await;
    for bytes in [r"\x00ff01", r"\x"] {
        session
            .run(&format!(
                "truncate realtime.messages; select realtime.send_binary('{bytes}', 'e', 'room')"
            ))
            .await
            .unwrap();
        assert_eq!(
            session.value(MESSAGE).await.unwrap(),
            format!("room|broadcast|e|t||{bytes}")
        );
    }
}

#[tokio::test]
async fn payloads_of_megabytes_are_stored_whole() {
    let database = with_partition().await;
    let mut session = Session::of(&database).await;
    session
        .run(
            "select realtime.send(jsonb_build_object('id', 'x', 'd', repeat('a', 3100000)), 'e', 't');
             select realtime.send_binary(convert_to(repeat('a', 3100000), 'utf8'), 'e', 't')",
        )
        .await
        .unwrap();
    let sizes = session
        .value("select array_agg(coalesce(length(payload ->> 'd'), length(binary_payload))) from realtime.messages")
        .await;
    assert_eq!(sizes.as_deref(), Some("{3100000,3100000}"));
}

#[tokio::test]
async fn insert_policies_decide_for_the_calling_role_and_see_the_topic() {
    let database = with_partition().await;
    let mut session = Session::of(&database).await;
    session
        .run(
            "create policy writes on realtime.messages for insert to authenticated
               with check (realtime.topic() = 'room-1' and topic = 'room-1')",
        )
        .await
        .unwrap();
    let denied = r#"WARNING: WarnSendingBroadcastMessage: new row violates row-level security policy for table "messages""#;
    for (role, topic, warning) in [
        ("authenticated", "room-1", None),
        ("authenticated", "room-2", Some(denied)),
        ("anon", "room-1", Some(denied)),
        ("service_role", "room-2", None),
    ] {
        for call in [
            format!("realtime.send('{{}}', 'e', '{topic}')"),
            format!(r"realtime.send_binary('\x01', 'e', '{topic}')"),
            format!("realtime.broadcast_changes('{topic}', 'e', 'INSERT', 't', 's', row(1), null)"),
        ] {
            let warnings = session
                .run(&format!("begin; set local role {role}; select {call}; commit"))
                .await
                .unwrap();
            assert_eq!(warnings, Vec::from_iter(warning), "{role}: {call}");
        }
    }
    assert_eq!(session.value(COUNT).await.as_deref(), Some("6"));
}

#[tokio::test]
async fn in_a_security_definer_function_its_owner_is_the_caller() {
    let database = with_partition().await;
    let mut session = Session::of(&database).await;
    session
        .run(
            "create function public.announce() returns void language sql security definer
               as $$select realtime.send('{}', 'e', 't')$$;
             grant execute on function public.announce() to anon",
        )
        .await
        .unwrap();
    let warnings = session
        .run("begin; set local role anon; select public.announce(); commit")
        .await
        .unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(session.value(COUNT).await.as_deref(), Some("1"));
}

#[tokio::test]
async fn a_role_without_the_insert_grant_gets_a_warning_and_one_without_the_schema_an_error() {
    let database = with_partition().await;
    let mut session = Session::of(&database).await;
    session
        .run("revoke insert on realtime.messages from anon")
        .await
        .unwrap();
    let send = "begin; set local role anon; select realtime.send('{}', 'e', 't'); commit";
    assert_eq!(
        session.run(send).await.unwrap(),
        ["WARNING: WarnSendingBroadcastMessage: permission denied for table messages"]
    );
    session
        .run("revoke usage on schema realtime from anon")
        .await
        .unwrap();
    assert_eq!(
        session.run(send).await.unwrap_err(),
        "permission denied for schema realtime"
    );
}

#[tokio::test]
async fn topic_is_null_until_set_and_keeps_what_was_sent_to_until_the_transaction_ends() {
    let database = with_partition().await;
    let mut session = Session::of(&database).await;
    let topic = "select realtime.topic()";
    assert_eq!(session.value(topic).await, None);
    session
        .run("begin; select realtime.send('{}', 'e', 'first')")
        .await
        .unwrap();
    assert_eq!(session.value(topic).await.as_deref(), Some("first"));
    session
        .run(r"select realtime.send_binary('\x', 'e', 'second')")
        .await
        .unwrap();
    assert_eq!(session.value(topic).await.as_deref(), Some("second"));
    session
        .run("select realtime.send('[]', 'e', 'third')")
        .await
        .unwrap();
    assert_eq!(
        session.value(topic).await.as_deref(),
        Some("second"),
        "what failed leaves nothing"
    );
    session.run("commit").await.unwrap();
    assert_eq!(session.value(topic).await, None, "the setting reads as '' now");
    session.run("set realtime.topic = 'by hand'").await.unwrap();
    assert_eq!(session.value(topic).await.as_deref(), Some("by hand"));
}

const TRIGGER: &str = "
    set time zone 'UTC';
    create table public.items (id int primary key, price numeric(10, 2), raw bytea, at timestamptz, note text);
    create function public.items_changed() returns trigger language plpgsql as $$
    begin
      perform realtime.broadcast_changes('items', 'changed', tg_op, tg_table_name, tg_table_schema, new, old, tg_level);
      return null;
    end$$;
    create trigger changed after insert or update or delete on public.items
      for each row execute function public.items_changed();";

#[tokio::test]
async fn broadcast_changes_in_a_row_trigger_sends_the_row_before_and_after() {
    let database = with_partition().await;
    let mut session = Session::of(&database).await;
    session.run(TRIGGER).await.unwrap();
    let first =
        r#"{"at": "2026-01-31T10:15:30.1+00:00", "id": 1, "raw": "\\x01", "note": null, "price": 9.50}"#;
    let second =
        r#"{"at": "2026-01-31T10:15:30.1+00:00", "id": 1, "raw": "\\x01", "note": "n", "price": 9.50}"#;
    for (statement, operation, new, old) in [
        (
            r"insert into items values (1, 9.5, '\x01', '2026-01-31 10:15:30.1Z', null)",
            "INSERT",
            first,
            "null",
        ),
        ("update items set note = 'n'", "UPDATE", second, first),
        ("delete from items", "DELETE", "null", second),
    ] {
        session
            .run(&format!("truncate realtime.messages; {statement}"))
            .await
            .unwrap();
        let expected = format!(
            r#"items|broadcast|changed|t|{{"table": "items", "record": {new}, "schema": "public", "operation": "{operation}", "old_record": {old}}}|"#
        );
        assert_eq!(session.value(MESSAGE).await.unwrap(), expected);
        let has_id = session
            .value("select payload -> 'id' = to_jsonb(id) from realtime.messages")
            .await;
        assert_eq!(has_id.as_deref(), Some("true"));
    }
}

#[tokio::test]
async fn broadcast_changes_refuses_statements_and_other_operations_and_the_change_with_them() {
    let database = with_partition().await;
    let mut session = Session::of(&database).await;
    let of_statement =
        "Failed to process the row: function can only be triggered for each row, not for each statement";
    for (arguments, error) in [
        (
            "'INSERT', 't', 'public', null::record, null::record, 'STATEMENT'",
            of_statement,
        ),
        (
            "'TRUNCATE', 't', 'public', null::record, null::record, 'STATEMENT'",
            of_statement,
        ),
        (
            "'TRUNCATE', 't', 'public', null::record, null::record",
            "Failed to process the row: Unexpected operation type: TRUNCATE",
        ),
        (
            "'insert', 't', 'public', null::record, null::record",
            "Failed to process the row: Unexpected operation type: insert",
        ),
        (
            "null, 't', 'public', null::record, null::record",
            "Failed to process the row: Unexpected operation type: <NULL>",
        ),
    ] {
        let refused = session
            .client
            .batch_execute(&format!(
                "select realtime.broadcast_changes('rw-q', 'e', {arguments})"
            ))
            .await
            .unwrap_err();
        let refused = refused.as_db_error().unwrap();
        assert_eq!(
            (refused.code().code(), refused.message()),
            ("P0001", error),
            "{arguments}"
        );
    }
    session
        .run(
            "create table items (id int);
             create function changed() returns trigger language plpgsql as $$
             begin
               perform realtime.broadcast_changes('items', 'changed', tg_op, tg_table_name, tg_table_schema, new, old, tg_level);
               return null;
             end$$;
             create trigger changed after insert on items for each statement execute function changed()",
        )
        .await
        .unwrap();
    assert_eq!(
        session.run("insert into items values (1)").await.unwrap_err(),
        of_statement
    );
    assert_eq!(
        session.value("select count(*) from items").await.as_deref(),
        Some("0")
    );
}

#[tokio::test]
async fn what_broadcast_changes_cannot_send_is_a_warning_and_the_change_stays() {
    let database = with_partition().await;
    let mut session = Session::of(&database).await;
    session.run(TRIGGER).await.unwrap();
    let warnings = session
        .run(
            "grant insert, select on items to authenticated; set role authenticated;
             insert into items (id) values (1)",
        )
        .await
        .unwrap();
    assert_eq!(
        warnings,
        [
            r#"WARNING: WarnSendingBroadcastMessage: new row violates row-level security policy for table "messages""#
        ]
    );
    assert_eq!(
        session.value("select count(*) from items").await.as_deref(),
        Some("1")
    );
}

#[tokio::test]
async fn the_functions_are_the_specified_ones() {
    let database = with_partition().await;
    let session = Session::of(&database).await;
    let functions = session
        .value(
            "select string_agg(format('%s(%s) %s %s %s %s %s', proname, pg_get_function_arguments(oid), provolatile,
                prosecdef, proowner::regrole, proconfig is null, has_function_privilege('anon', oid, 'execute')), e'\\n' order by proname)
             from pg_proc where pronamespace = 'realtime'::regnamespace",
        )
        .await
        .unwrap();
    let expected = [
        "broadcast_changes(topic_name text, event_name text, operation text, table_name text, table_schema text, \
         new record, old record, level text DEFAULT 'ROW'::text) v f supabase_realtime_admin t t",
        "send(payload jsonb, event text, topic text, private boolean DEFAULT true) v f supabase_realtime_admin t t",
        "send_binary(payload bytea, event text, topic text, private boolean DEFAULT true) v f supabase_realtime_admin t t",
        "topic() s f supabase_realtime_admin t t",
    ];
    assert_eq!(functions, expected.join("\n"));
}
