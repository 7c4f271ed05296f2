//! Walcast in the place of the reference server, on the database that it leaves behind, and away again: nothing of what
//! is there is altered, and what applications have put on top works (`database.md 1.10`).

use std::collections::BTreeSet;

use serde_json::{Value, json};
use walcast_testkit::{Database, Postgres, until};

use crate::server::{Client, Walcast, user};

/// What the reference server leaves.
pub(crate) const REFERENCE: &str = include_str!("reference.sql");

/// What an application has put on top: a published table with a policy, policies for private channels, a trigger that
/// broadcasts each change, one that sends by itself, and one on the table of messages.
pub(crate) const APPLICATION: &str = r#"
    set role postgres;
    create table public.orders (id int primary key, owner text not null, note text);
    alter table public.orders enable row level security;
    create policy own on public.orders for select to authenticated using (auth.jwt() ->> 'sub' = owner);
    alter publication supabase_realtime add table public.orders;

    create policy hear on realtime.messages for select to authenticated
      using (realtime.topic() like 'orders-%' and realtime.topic() = 'orders-' || (auth.jwt() ->> 'sub'));
    create policy speak on realtime.messages for insert to authenticated
      with check (realtime.topic() = 'orders-' || (auth.jwt() ->> 'sub'));

    create function public.cast_order() returns trigger language plpgsql security definer as $$
    begin
      perform realtime.broadcast_changes(
        'orders-' || coalesce(new.owner, old.owner), tg_op, tg_op, tg_table_name, tg_table_schema, new, old);
      return null;
    end $$;
    create trigger cast_order after insert or update or delete on public.orders
      for each row execute function public.cast_order();

    create function public.greet() returns trigger language plpgsql security definer as $$
    begin
      perform realtime.send(jsonb_build_object('note', new.note), 'greeting', 'orders-' || new.owner, true);
      return null;
    end $$;
    create trigger greet after insert on public.orders for each row execute function public.greet();

    create table public.sent (topic text, event text);
    create function public.note_message() returns trigger language plpgsql security definer as $$
    begin
      insert into public.sent values (new.topic, new.event);
      return new;
    end $$;
    create trigger note_message after insert on realtime.messages for each row execute function public.note_message();
    reset role;
"#;

/// Everything but what is Walcast's own and the partitions of messages, which come and go with the days: definitions,
/// owners, rights, policies, triggers, publications, memberships, settings, and the rows of bookkeeping. Sorted.
pub(crate) const CATALOG: &str = r"
    with own as (
      select oid from pg_namespace where nspname ~ '^(pg_|walcast$|information_schema$)'
    ), kept as (
      select c.* from pg_class c where c.relnamespace not in (select oid from own) and not c.relispartition
        and not exists (select from pg_index i join pg_class part on part.oid = i.indrelid
          where i.indexrelid = c.oid and part.relispartition)
    )
    select line from (
      select format('schema %s %s %s', nspname, nspowner::regrole, nspacl) as line
        from pg_namespace where oid not in (select oid from own)
      union all
      select format('class %s %s %s %s %s %s %s', oid::regclass, relkind, relowner::regrole, relacl, relrowsecurity,
        relforcerowsecurity, relreplident) from kept
      union all
      select format('column %s.%s %s %s %s %s %s', attrelid::regclass, attname, format_type(atttypid, atttypmod), attnotnull,
        attacl, attgenerated, (select pg_get_expr(adbin, adrelid) from pg_attrdef d where d.adrelid = attrelid and d.adnum = attnum))
        from pg_attribute join kept on kept.oid = attrelid where attnum > 0
      union all
      select format('index %s', pg_get_indexdef(indexrelid)) from pg_index join kept on kept.oid = indexrelid
      union all
      select format('constraint %s %s %s %s', conname, conrelid::regclass, pg_get_constraintdef(c.oid), convalidated)
        from pg_constraint c join kept on kept.oid = conrelid
      union all
      select format('type %s %s %s %s', oid::regtype, typowner::regrole, typacl,
        (select string_agg(enumlabel, ',' order by enumsortorder) from pg_enum where enumtypid = t.oid))
        from pg_type t where typnamespace not in (select oid from own) and typrelid = 0 and typelem = 0
      union all
      select format('function %s %s %s %s', oid::regprocedure, proowner::regrole, proacl, md5(pg_get_functiondef(oid)))
        from pg_proc where pronamespace not in (select oid from own)
      union all
      select format('policy %s %s %s %s %s %s %s', polname, polrelid::regclass, polcmd, polpermissive, polroles::regrole[],
        pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)) from pg_policy
      union all
      select format('trigger %s %s', pg_get_triggerdef(t.oid), tgenabled) from pg_trigger t join kept on kept.oid = tgrelid
      union all
      select format('publication %s %s %s', pubname, pubowner::regrole, to_jsonb(p) - 'oid') from pg_publication p
      union all
      select format('published %s %s', pubname, prrelid::regclass)
        from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
      union all
      select format('default rights %s %s %s %s', defaclrole::regrole, defaclnamespace::regnamespace, defaclobjtype, defaclacl)
        from pg_default_acl
      union all
      select format('role %s', to_jsonb(r) - 'rolpassword' - 'oid') from pg_roles r
      union all
      select format('member %s %s %s', roleid::regrole, member::regrole, admin_option) from pg_auth_members
      union all
      select format('setting %s %s', setrole, setconfig) from pg_db_role_setting s
        where setdatabase in (0, (select oid from pg_database where datname = current_database()))
      union all
      select format('event trigger %s', evtname) from pg_event_trigger
      union all
      select format('slot %s %s', slot_name, plugin) from pg_replication_slots
      union all
      select format('row %s', r) from realtime.schema_migrations r
      union all
      select format('row %s', r) from realtime.subscription r
      union all
      select format('row %s', r) from _realtime.tenants r
      union all
      select format('row %s', r) from _realtime.extensions r
    ) catalog order by line";

/// The lines of [`CATALOG`].
pub(crate) async fn catalog(database: &Database) -> BTreeSet<String> {
    let rows = database.client().await.query(CATALOG, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Does with the application's objects what each feature is for, as user `ada`.
pub(crate) async fn use_everything(database: &Database, server: &Walcast) {
    until("the server is ready", || async {
        (server.get("/readyz").await.body == "ready").then_some(())
    })
    .await;
    let mut ada = server.socket_as("1.0.0", &user("ada", 3600)).await;
    let mut bob = server.socket_as("1.0.0", &user("bob", 3600)).await;
    let orders =
        json!({"config": {"postgres_changes": [{"event": "*", "schema": "public", "table": "orders"}]}});
    for socket in [&mut ada, &mut bob] {
        join(socket, "realtime:changes", &orders, "ok").await;
        assert_eq!(next(socket, "realtime:changes").await["event"], "system");
    }
    let private = json!({"config": {"private": true, "broadcast": {"ack": true}, "presence": {"enabled": true, "key": "ada"}}});
    join(&mut bob, "realtime:orders-ada", &private, "error").await;
    join(&mut ada, "realtime:orders-ada", &private, "ok").await;
    assert_eq!(
        next(&mut ada, "realtime:orders-ada").await["event"],
        "presence_state"
    );

    // A row goes to whom the policy shows it; its triggers broadcast it, and send.
    database
        .execute("insert into public.orders values (1, 'ada', 'first'), (2, 'bob', 'other')")
        .await;
    for (socket, id) in [(&mut ada, 1), (&mut bob, 2)] {
        let mut seen = Vec::new();
        let expected = if id == 1 { 3 } else { 1 };
        for _ in 0..expected {
            let message = receive(socket).await;
            seen.push((
                message["topic"].clone(),
                message["event"].clone(),
                message["payload"].clone(),
            ));
        }
        let of = |wanted: &str| -> Vec<&Value> {
            seen.iter()
                .filter(|(topic, _, _)| topic == wanted)
                .map(|(_, _, payload)| payload)
                .collect()
        };
        let changes = of("realtime:changes");
        assert_eq!(changes.len(), 1, "{seen:?}");
        assert_eq!(changes[0]["data"]["record"]["id"], id);
        if id == 1 {
            let broadcasts = of("realtime:orders-ada");
            assert_eq!(broadcasts[0]["event"], "INSERT");
            assert_eq!(broadcasts[0]["payload"]["record"]["note"], "first");
            assert_eq!(broadcasts[1]["event"], "greeting");
            assert_eq!(broadcasts[1]["payload"]["note"], "first");
        }
    }

    // She may speak, and is present.
    let hello = json!({"type": "broadcast", "event": "hello", "payload": {}});
    ada.send_json(json!({"topic": "realtime:orders-ada", "event": "broadcast", "payload": hello, "ref": "8", "join_ref": "1"}))
        .await;
    let acknowledged = next(&mut ada, "realtime:orders-ada").await;
    assert_eq!(
        (&acknowledged["ref"], &acknowledged["payload"]["status"]),
        (&json!("8"), &json!("ok"))
    );
    let track = json!({"type": "presence", "event": "track", "payload": {"at": "desk"}});
    ada.send_json(json!({"topic": "realtime:orders-ada", "event": "presence", "payload": track, "ref": "9", "join_ref": "1"}))
        .await;
    let mut told = BTreeSet::new();
    for _ in 0..2 {
        let message = next(&mut ada, "realtime:orders-ada").await;
        told.insert(message["event"].as_str().unwrap().to_owned());
        if message["event"] == "presence_diff" {
            assert_eq!(message["payload"]["joins"]["ada"]["metas"][0]["at"], "desk");
        }
    }
    assert_eq!(told, ["phx_reply", "presence_diff"].map(str::to_owned).into());

    // What was sent is kept, and told to who comes later.
    let mut later = server.socket_as("1.0.0", &user("ada", 3600)).await;
    let replay = json!({"config": {"private": true, "broadcast": {"replay": {"since": 0, "limit": 25}}}});
    join(&mut later, "realtime:orders-ada", &replay, "ok").await;
    let mut replayed = BTreeSet::new();
    for _ in 0..2 {
        let message = next(&mut later, "realtime:orders-ada").await;
        assert_eq!(message["payload"]["meta"]["replayed"], true, "{message}");
        replayed.insert(message["payload"]["event"].as_str().unwrap().to_owned());
    }
    assert_eq!(replayed, ["INSERT", "greeting"].map(str::to_owned).into());
}

async fn receive(socket: &mut Client) -> Value {
    socket.receive().await
}

/// The next message, which is of this topic.
async fn next(socket: &mut Client, topic: &str) -> Value {
    let message = receive(socket).await;
    assert_eq!(message["topic"], topic, "{message}");
    message
}

async fn join(socket: &mut Client, topic: &str, payload: &Value, status: &str) {
    socket
        .send_json(
            json!({"topic": topic, "event": "phx_join", "payload": payload, "ref": "1", "join_ref": "1"}),
        )
        .await;
    let reply = next(socket, topic).await;
    assert_eq!(reply["payload"]["status"], status, "{reply}");
}

/// A database as the reference server and an application leave it, in a cluster of its own: roles, memberships and slots
/// belong to the whole cluster.
pub(crate) async fn left_behind(postgres: &Postgres) -> Database {
    let database = postgres.database().await;
    database.execute(REFERENCE).await;
    database.execute(APPLICATION).await;
    database
}

#[tokio::test]
async fn nothing_of_the_reference_server_s_is_altered_while_everything_works() {
    let postgres = Postgres::start(Postgres::options()).await;
    let database = left_behind(&postgres).await;
    let before = catalog(&database).await;
    let sent = "select format('%s %s', topic, event) from public.sent order by 1";

    let server = Walcast::start_on(&database.url(), &[]).await;
    use_everything(&database, &server).await;
    server.stop().await;

    // The temporary slot went with its connection.
    database
        .until("select count(*) = 0 from pg_replication_slots")
        .await;
    let after = catalog(&database).await;
    assert_eq!(changed(&before, &after), NOTHING);
    let rows = database.client().await.query(sent, &[]).await.unwrap();
    let sent: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let expected = [
        "orders-ada INSERT",
        "orders-ada greeting",
        "orders-bob INSERT",
        "orders-bob greeting",
    ];
    assert_eq!(
        sent, expected,
        "the trigger on messages saw what was sent, and nothing that checks left"
    );

    // And once more, as after the reference server has run in between.
    let server = Walcast::start_on(&database.url(), &[]).await;
    database
        .execute("truncate public.orders, realtime.messages")
        .await;
    use_everything(&database, &server).await;
    server.stop().await;
    database
        .until("select count(*) = 0 from pg_replication_slots")
        .await;
    assert_eq!(changed(&before, &catalog(&database).await), NOTHING);
}

/// No line is gone, and none is new.
pub(crate) const NOTHING: (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());

/// The lines that are gone, and those that are new.
pub(crate) fn changed(before: &BTreeSet<String>, after: &BTreeSet<String>) -> (Vec<String>, Vec<String>) {
    let gone = before.difference(after).cloned().collect();
    let new = after.difference(before).cloned().collect();
    (gone, new)
}

#[tokio::test]
async fn where_the_platform_hands_out_the_right_to_make_policies_no_role_becomes_a_member() {
    let postgres = Postgres::start(Postgres::options()).await;
    let database = left_behind(&postgres).await;
    database
        .execute(&format!(
            "revoke supabase_realtime_admin from postgres;
             alter database \"{}\" set supautils.policy_grants = '{{\"postgres\": [\"realtime.messages\"]}}'",
            database.name()
        ))
        .await;
    let before = catalog(&database).await;
    let server = Walcast::start_on(&database.url(), &[]).await;
    use_everything(&database, &server).await;
    server.stop().await;
    database
        .until("select count(*) = 0 from pg_replication_slots")
        .await;
    assert_eq!(changed(&before, &catalog(&database).await), NOTHING);
}

#[tokio::test]
async fn all_of_walcast_s_can_be_taken_away_again() {
    let postgres = Postgres::start(Postgres::options()).await;
    let database = left_behind(&postgres).await;
    let before = catalog(&database).await;
    let server = Walcast::start_on(&database.url(), &[]).await;
    use_everything(&database, &server).await;
    server.stop().await;
    database.execute("drop schema walcast cascade").await;
    database
        .until("select count(*) = 0 from pg_replication_slots")
        .await;
    assert_eq!(changed(&before, &catalog(&database).await), NOTHING);
    let sessions = "select count(*) = 0 from pg_stat_activity where application_name like 'walcast%'";
    database.until(sessions).await;
}
