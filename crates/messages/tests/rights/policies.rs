//! What policies see, and what follows from what they say.

use crate::scene::{ALICE, Scene, asked, reads, said};
use walcast_messages::{Asked, Extensions, Options, ReadRights};

/// The policies of a typical application: topics are named after who may do what.
const BY_TOPIC: &str = "
    create policy ro on realtime.messages for select to authenticated using (realtime.topic() like 'ro-%');
    create policy rw_read on realtime.messages for select to authenticated using (realtime.topic() like 'rw-%');
    create policy rw_write on realtime.messages for insert to authenticated with check (realtime.topic() like 'rw-%');
    create policy bo on realtime.messages for select to authenticated
      using (realtime.topic() like 'bo-%' and extension = 'broadcast');
    create policy po_read on realtime.messages for select to authenticated
      using (realtime.topic() like 'po-%' and messages.extension = 'presence');
    create policy po_write on realtime.messages for insert to authenticated
      with check (realtime.topic() like 'po-%' and extension = 'presence');
    create policy wo on realtime.messages for insert to authenticated with check (realtime.topic() like 'wo-%');
    create policy uid on realtime.messages for select to authenticated
      using (realtime.topic() = 'uid-' || auth.uid()::text);
    create policy jwt on realtime.messages for all to authenticated
      using (realtime.topic() like 'jwt-%' and auth.jwt() ->> 'allow' = 'true');
    create policy hdr on realtime.messages for select to authenticated
      using (realtime.topic() like 'hdr-%' and current_setting('request.headers', true)::json ->> 'x-kind' = 'test');
    create policy anonymous on realtime.messages for all to anon using (realtime.topic() like 'anon-%');
    create policy closed on realtime.messages as restrictive to authenticated using (realtime.topic() not like '%-closed');";

#[tokio::test]
async fn rights_are_what_the_policies_for_the_role_say() {
    let scene = Scene::new(BY_TOPIC).await;
    let (yes, no) = (true, false);
    let uid_of_alice = format!("uid-{ALICE}");
    // Role, topic; may read broadcasts, presence; may write broadcasts, presence.
    for (role, topic, read, write) in [
        ("authenticated", "nobody's", (no, no), (no, no)),
        ("authenticated", "ro-1", (yes, yes), (no, no)),
        ("authenticated", "rw-1", (yes, yes), (yes, yes)),
        ("authenticated", "rw-closed", (no, no), (no, no)),
        ("authenticated", "bo-1", (yes, no), (no, no)),
        ("authenticated", "po-1", (no, yes), (no, yes)),
        ("authenticated", "wo-1", (no, no), (yes, yes)),
        ("authenticated", &uid_of_alice, (yes, yes), (no, no)),
        ("authenticated", "uid-bob", (no, no), (no, no)),
        ("authenticated", "jwt-1", (no, no), (no, no)),
        ("authenticated", "hdr-1", (yes, yes), (no, no)),
        ("authenticated", "anon-1", (no, no), (no, no)),
        ("anon", "anon-1", (yes, yes), (yes, yes)),
        ("anon", "rw-1", (no, no), (no, no)),
        ("service_role", "nobody's", (yes, yes), (yes, yes)),
        ("service_role", "rw-closed", (yes, yes), (yes, yes)),
    ] {
        let asked = asked(role, topic);
        assert_eq!(
            scene.read(&asked).await,
            Ok(reads(read.0, read.1)),
            "{role} reads {topic}"
        );
        let written = scene.write(&asked).await.unwrap();
        assert_eq!(
            (written.broadcast, written.presence),
            write,
            "{role} writes {topic}"
        );
    }
    let claims = format!(r#"{{"sub":"{ALICE}","role":"authenticated","allow":true}}"#);
    let allowed = Asked {
        claims: claims.into(),
        ..asked("authenticated", "jwt-1")
    };
    assert_eq!(scene.read(&allowed).await, Ok(reads(true, true)));
    let elsewhere = Asked {
        headers: r#"{"x-kind":"other"}"#.into(),
        ..asked("authenticated", "hdr-1")
    };
    assert_eq!(scene.read(&elsewhere).await, Ok(reads(false, false)));
}

/// Expressions that are true for a reader, each of which would be false if the policy saw something else.
const SEEN_BY_A_READER: &[&str] = &[
    "id is not null",
    "topic = 'room'",
    "extension in ('broadcast', 'presence')",
    "payload is null and event is null and binary_payload is null",
    "private = false",
    "inserted_at = updated_at",
    "abs(extract(epoch from inserted_at - (clock_timestamp() at time zone 'utc'))) < 60",
    "realtime.topic() = 'room'",
    "current_setting('realtime.topic') = 'room'",
    "current_user = 'authenticated' and current_setting('role') = 'authenticated'",
    r#"current_setting('request.jwt.claims') = '{"role":"authenticated", "sub":"x", "n":1.50}'"#,
    "current_setting('request.jwt.claim.sub') = 'x'",
    "current_setting('request.jwt.claim.role') = 'authenticated'",
    r#"current_setting('request.headers') = '{"x-a":"b"}'"#,
    "auth.role() = 'authenticated'",
    "auth.jwt() ->> 'n' = '1.50'",
    "current_setting('search_path') = 'public, extensions, realtime'",
    "not current_setting('transaction_read_only')::boolean",
    "current_setting('transaction_isolation') = 'read committed'",
    "tests.sees_only_its_own_probes()",
];

#[tokio::test]
async fn policies_see_the_probe_rows_and_the_settings_of_their_own_check() {
    let scene = Scene::new(
        "create schema tests; grant usage on schema tests to authenticated;
         create function tests.sees_only_its_own_probes() returns boolean language sql volatile security definer as
           'select array_agg(extension order by extension) = array[''broadcast'', ''presence''] from realtime.messages';",
    )
    .await;
    let asked = Asked {
        role: "authenticated".into(),
        topic: "room".into(),
        claims: r#"{"role":"authenticated", "sub":"x", "n":1.50}"#.into(),
        headers: r#"{"x-a":"b"}"#.into(),
    };
    for expression in SEEN_BY_A_READER {
        scene
            .run(&format!(
                "drop policy if exists seen on realtime.messages;
                 create policy seen on realtime.messages for select to authenticated using ({expression})"
            ))
            .await;
        assert_eq!(scene.read(&asked).await, Ok(reads(true, true)), "{expression}");
    }
}

#[tokio::test]
async fn a_claim_that_is_missing_or_null_is_an_empty_sub() {
    let scene = Scene::new(
        "create policy seen on realtime.messages for select to authenticated
           using (current_setting('request.jwt.claim.sub') = '' and auth.uid() is null)",
    )
    .await;
    for claims in [r#"{"role":"authenticated"}"#, r#"{"sub":null}"#] {
        let asked = Asked {
            claims: claims.into(),
            ..asked("authenticated", "room")
        };
        assert_eq!(scene.read(&asked).await, Ok(reads(true, true)), "{claims}");
    }
}

#[tokio::test]
async fn only_what_is_asked_is_read() {
    // Raises for the kind that is not asked.
    let raising_unless = |extension: &str| {
        format!(
            "drop policy if exists one on realtime.messages;
             create policy one on realtime.messages for select to authenticated
               using (1 / (extension = '{extension}')::int = 1)"
        )
    };
    let scene = Scene::new(&raising_unless("broadcast")).await;
    let room = asked("authenticated", "room");
    let read = scene.authorizer.read(&room, Extensions::Broadcast).await;
    assert_eq!(
        read,
        Ok(ReadRights {
            broadcast: Some(true),
            presence: None
        })
    );
    scene.run(&raising_unless("presence")).await;
    let read = scene.authorizer.read(&room, Extensions::Presence).await;
    assert_eq!(
        read,
        Ok(ReadRights {
            broadcast: None,
            presence: Some(true)
        })
    );
}

#[tokio::test]
async fn rights_to_columns_are_enough_where_a_check_needs_no_more() {
    let scene = Scene::new(
        "do $$ begin
           create role rights_columns nologin;
         exception when duplicate_object or unique_violation then null;
         end $$;
         grant usage on schema realtime to rights_columns;
         grant select (id), insert (topic, extension, inserted_at, updated_at) on realtime.messages to rights_columns;
         create policy reading on realtime.messages for select to rights_columns using (true);
         create policy writing on realtime.messages for insert to rights_columns with check (true);",
    )
    .await;
    let room = asked("rights_columns", "room");
    assert_eq!(scene.read(&room).await, Ok(reads(true, true)));
    let written = scene.write(&room).await.unwrap();
    assert!(written.broadcast && written.presence, "{written:?}");
    scene.run("drop owned by rights_columns").await;
}

#[tokio::test]
async fn a_write_that_is_not_allowed_comes_with_what_postgres_says() {
    let scene = Scene::new("").await;
    let room = asked("authenticated", "room");
    let written = scene.write(&room).await.unwrap();
    assert_eq!(
        written.refusal,
        Some(said(
            "new row violates row-level security policy for table \"messages\""
        ))
    );
    scene
        .run("revoke insert on realtime.messages from authenticated")
        .await;
    let written = scene.write(&room).await.unwrap();
    assert_eq!(
        written.refusal,
        Some(said("permission denied for table messages"))
    );
    scene
        .run("revoke usage on schema realtime from authenticated")
        .await;
    let written = scene.write(&room).await.unwrap();
    assert_eq!(
        written.refusal,
        Some(said("permission denied for schema realtime"))
    );
    assert!(!written.broadcast && !written.presence);
}

#[tokio::test]
async fn a_role_is_held_to_the_schema_right_even_when_another_was_asked_about_just_before() {
    // Without row level security one plan serves all roles.
    let scene = Scene::with(
        "alter table realtime.messages disable row level security;
         revoke usage on schema realtime from anon;",
        Options {
            connections: 1,
            ..Options::default()
        },
    )
    .await;
    assert_eq!(
        scene.read(&asked("authenticated", "room")).await,
        Ok(reads(true, true))
    );
    assert!(scene.read(&asked("anon", "room")).await.is_err());
    assert!(
        scene
            .write(&asked("authenticated", "room"))
            .await
            .unwrap()
            .broadcast
    );
    assert!(!scene.write(&asked("anon", "room")).await.unwrap().broadcast);
}

#[tokio::test]
async fn a_change_of_policies_and_grants_counts_from_the_next_check_on() {
    let scene =
        Scene::new("create policy p on realtime.messages for all to authenticated using (true)").await;
    let room = asked("authenticated", "room");
    assert_eq!(scene.read(&room).await, Ok(reads(true, true)));
    scene
        .run("alter policy p on realtime.messages using (extension = 'presence')")
        .await;
    assert_eq!(scene.read(&room).await, Ok(reads(false, true)));
    scene.run("drop policy p on realtime.messages").await;
    assert_eq!(scene.read(&room).await, Ok(reads(false, false)));
    scene
        .run("alter table realtime.messages disable row level security")
        .await;
    assert_eq!(scene.read(&room).await, Ok(reads(true, true)));
}

#[tokio::test]
async fn triggers_of_the_application_see_the_probe_as_ours_and_the_write_as_the_roles() {
    let scene = Scene::new(
        "create policy p on realtime.messages for all to authenticated using (true);
         create function public.note() returns trigger language plpgsql as $$
         begin
           if current_user <> tg_argv[0] then raise exception 'inserted by %', current_user; end if;
           return new;
         end $$;",
    )
    .await;
    let room = asked("authenticated", "room");
    scene
        .run(
            "do $$ begin execute format('create trigger note before insert on realtime.messages
               for each row execute function public.note(%L)', current_user); end $$",
        )
        .await;
    assert_eq!(scene.read(&room).await, Ok(reads(true, true)));
    assert!(scene.write(&room).await.is_err());
    scene
        .run(
            "drop trigger note on realtime.messages;
             create trigger note before insert on realtime.messages
               for each row execute function public.note('authenticated')",
        )
        .await;
    assert!(scene.write(&room).await.unwrap().broadcast);
    let error = scene.read(&room).await.unwrap_err();
    assert!(error.to_string().contains("probe row"), "{error}");
}
