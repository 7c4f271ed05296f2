//! What a role may do is what Postgres says it may, from the next change on (`database.md 2.5`, `9.18`).

use crate::scene::{ALICE, BOB, Listener, OWNS, Scene, all, publish, role, service, table, user};
use serde_json::json;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use walcast_changes::Options;
use walcast_testkit::Postgres;

/// A role of the test's own: roles belong to the whole cluster.
fn reader_of(scene: &Scene) -> String {
    format!("reader_of_{}", scene.database.name())
}

/// What Postgres does not announce in the stream is known this long after it was committed.
const UNANNOUNCED_FOR: Duration = Duration::from_secs(1);

/// Runs a statement, then inserts rows of `t` until `reader` is shown them, or not, as expected. One that was inserted
/// a second later has to be. `witness` sees all rows, and subscribed last.
async fn expect_within_a_second(
    scene: &Scene,
    statement: &str,
    row: &str,
    (reader, witness): (&mut Listener, &mut Listener),
    shown: bool,
) {
    if !statement.is_empty() {
        scene.run(statement).await;
    }
    let since = Instant::now();
    loop {
        let is_late = since.elapsed() >= UNANNOUNCED_FOR || statement.is_empty();
        scene.run(&format!("insert into t {row}")).await;
        let id = witness.id().await;
        // Of the same row as the witness's, and handed out just before it.
        let seen = reader.frames.try_recv();
        if seen.is_ok() == shown {
            break;
        }
        assert!(!is_late, "row {id} after `{statement}`: {seen:?}");
    }
}

#[tokio::test]
async fn a_change_of_memberships_or_attributes_holds_within_a_second() {
    let setup = format!(
        "{} revoke all on t from public, anon, authenticated; alter table t enable row level security;",
        table("t", "id serial primary key")
    );
    let scene = Scene::new(&setup).await;
    let reader = reader_of(&scene);
    let group = format!("group_of_{}", scene.database.name());
    scene
        .run(&format!(
            "create role {reader} nologin; create role {group} nologin; grant usage on schema public to {reader};
             grant select on t to {reader}; create policy p on t for select to {group} using (true);"
        ))
        .await;
    let mut of_t = scene.listen(role(&reader, ALICE), all("t")).await;
    let mut witness = scene.listen(service(), all("t")).await;
    let regrant = format!("revoke {group} from {reader}; grant {group} to {reader}");
    let steps = [
        (String::new(), false),
        (format!("grant {group} to {reader}"), true),
        (format!("alter role {reader} noinherit; {regrant}"), false),
        (format!("alter role {reader} inherit; {regrant}"), true),
        (format!("revoke {group} from {reader}"), false),
        (format!("alter role {reader} bypassrls"), true),
        (format!("alter role {reader} nobypassrls"), false),
        // Neither attribute comes by membership.
        (
            format!("alter role {group} bypassrls superuser; grant {group} to {reader}"),
            true,
        ),
        (format!("alter policy p on t to {reader} using (false)"), false),
        (
            format!("alter role {group} nobypassrls nosuperuser; alter table t owner to {group}"),
            true,
        ),
        ("alter table t force row level security".to_owned(), false),
        (
            format!("revoke {group} from {reader}; alter table t no force row level security"),
            false,
        ),
        (format!("alter table t owner to {reader}"), true),
        ("alter table t force row level security".to_owned(), false),
        ("alter table t disable row level security".to_owned(), true),
    ];
    for (statement, shown) in steps {
        let listeners = (&mut of_t, &mut witness);
        expect_within_a_second(&scene, &statement, "default values", listeners, shown).await;
    }
    drop(of_t);
    scene
        .run(&format!(
            "alter table t owner to current_user; drop policy p on t; drop owned by {reader}, {group}; drop role {reader}, {group}"
        ))
        .await;
}

#[tokio::test]
async fn columns_shown_through_a_membership_are_those_of_a_second_ago_at_the_oldest() {
    let setup = format!(
        "{} revoke all on t from public, anon, authenticated;",
        table("t", "id int primary key, body text")
    );
    let scene = Scene::new(&setup).await;
    let reader = reader_of(&scene);
    let group = format!("group_of_{}", scene.database.name());
    scene
        .run(&format!(
            "create role {reader} nologin; create role {group} nologin;
             grant select (id) on t to {reader}; grant select on t to {group};"
        ))
        .await;
    let mut listener = scene.listen(role(&reader, ALICE), all("t")).await;
    let mut id = 0;
    for (statement, shown) in [("", false), ("grant", true), ("revoke", false)] {
        let toward = if statement == "grant" { "to" } else { "from" };
        if !statement.is_empty() {
            scene.run(&format!("{statement} {group} {toward} {reader}")).await;
        }
        let since = Instant::now();
        loop {
            id += 1;
            let is_late = since.elapsed() >= UNANNOUNCED_FOR || statement.is_empty();
            scene.run(&format!("insert into t values ({id}, 'x')")).await;
            let record = listener.change().await["record"].clone();
            if record.get("body").is_some() == shown {
                break;
            }
            assert!(!is_late, "{record} after `{statement}`");
        }
    }
    scene
        .run(&format!(
            "drop owned by {reader}, {group}; drop role {reader}, {group}"
        ))
        .await;
}

#[tokio::test]
async fn a_helper_that_says_something_else_is_believed_within_a_second() {
    let scene = Scene::new(&format!(
        "{} alter table t enable row level security;
         create policy p on t for select using (owner = auth.uid());",
        table("t", "id serial primary key, owner uuid")
    ))
    .await;
    let mut alice = scene.listen(user(ALICE), all("t")).await;
    let mut witness = scene.listen(service(), all("t")).await;
    let replace = "create or replace function auth.uid() returns uuid stable";
    let claims = "current_setting('request.jwt.claims', true)::jsonb";
    let steps = [
        (String::new(), false),
        (
            format!("{replace} language sql as $$select '{BOB}'::uuid$$"),
            true,
        ),
        (
            format!("{replace} language sql as $$select ({claims} ->> 'sub')::uuid$$"),
            false,
        ),
        // Nothing that can be understood: asked.
        (
            format!("{replace} language plpgsql as $$begin return '{BOB}'; end$$"),
            true,
        ),
        (
            format!("{replace} language sql return ({claims} ->> 'sub')::uuid"),
            false,
        ),
        (format!("{replace} language sql return '{BOB}'::uuid"), true),
        (
            "revoke execute on function auth.uid() from public, anon, authenticated".to_owned(),
            false,
        ),
        (
            "grant execute on function auth.uid() to authenticated".to_owned(),
            true,
        ),
        (
            "revoke usage on schema auth from public, anon, authenticated".to_owned(),
            true,
        ),
        (
            "revoke usage on schema public from public, anon, authenticated".to_owned(),
            false,
        ),
    ];
    for (statement, shown) in steps {
        let row = format!("(owner) values ('{BOB}')");
        expect_within_a_second(&scene, &statement, &row, (&mut alice, &mut witness), shown).await;
    }
}

#[tokio::test]
async fn row_security_of_a_partitions_parent_holds_within_a_second() {
    let scene = Scene::new(&format!(
        "create table parent (id serial, primary key (id)) partition by range (id);
         create table t partition of parent for values from (0) to (1000000); {}
         alter table t alter id set default nextval('parent_id_seq');
         grant usage on sequence parent_id_seq to public;",
        publish("t")
    ))
    .await;
    let mut alice = scene.listen(user(ALICE), all("t")).await;
    let mut witness = scene.listen(service(), all("t")).await;
    for (statement, shown) in [
        ("", true),
        ("alter table parent enable row level security", false),
        ("create policy p on parent for select using (true)", true),
        ("alter policy p on parent using (id < 0)", false),
        ("alter table parent disable row level security", true),
    ] {
        let listeners = (&mut alice, &mut witness);
        expect_within_a_second(&scene, statement, "default values", listeners, shown).await;
    }
}

#[tokio::test]
async fn a_role_that_was_dropped_while_it_listens_sees_no_row() {
    let setup = format!(
        "{} {OWNS} {} alter table guarded enable row level security;",
        table("t", "id int primary key"),
        table("guarded", "id int primary key, owner uuid")
    );
    let scene = Scene::new(&setup).await;
    let reader = reader_of(&scene);
    scene
        .run(&format!(
            "create role {reader} nologin; grant usage on schema public to {reader}; grant select on t, guarded to {reader};
             create policy p on guarded for select using (owns(owner));"
        ))
        .await;
    let both = json!([{ "schema": "public", "table": "t" }, { "schema": "public", "table": "guarded" }]);
    let mut gone = scene.listen(role(&reader, ALICE), both).await;
    scene
        .run(&format!(
            "drop owned by {reader}; drop role {reader}; insert into t values (1); insert into guarded values (1, '{ALICE}')"
        ))
        .await;
    for table in ["t", "guarded"] {
        let change = gone.change().await;
        assert_eq!(
            (&change["table"], &change["errors"], &change["record"]),
            (&json!(table), &json!(["Error 401: Unauthorized"]), &json!({}))
        );
    }
}

#[tokio::test]
async fn a_grant_of_columns_shows_them_and_a_revoke_hides_them() {
    let setup = format!(
        "{} revoke all on t from authenticated; grant select (id) on t to authenticated;",
        table("t", "id int primary key, a text, \"B c\" text")
    );
    let scene = Scene::new(&setup).await;
    let mut listener = scene.listen(user(ALICE), all("t")).await;
    let steps = [
        ("", json!({ "id": 1 })),
        (
            "grant select (a) on t to authenticated;",
            json!({ "id": 2, "a": "x" }),
        ),
        (
            "grant select (\"B c\") on t to public;",
            json!({ "id": 3, "a": "x", "B c": "y" }),
        ),
        (
            "revoke select (a) on t from authenticated;",
            json!({ "id": 4, "B c": "y" }),
        ),
    ];
    for (id, (statement, record)) in (1..).zip(steps) {
        scene
            .run(&format!("{statement} insert into t values ({id}, 'x', 'y')"))
            .await;
        assert_eq!(listener.change().await["record"], record, "after `{statement}`");
    }
}

#[tokio::test]
async fn a_schema_the_role_may_not_use_hides_rows_under_row_security() {
    let mut setup = String::from(
        "create schema closed;
         create function always() returns boolean language plpgsql stable as 'begin return true; end';",
    );
    for (name, condition) in [("simple", "true"), ("asked", "public.always()")] {
        setup += &format!(
            "create table closed.{name} (id int primary key); alter table closed.{name} enable row level security;
             create policy p on closed.{name} for select using ({condition}); {}",
            publish(&format!("closed.{name}"))
        );
    }
    let scene = Scene::new(&setup).await;
    for name in ["simple", "asked"] {
        let entry = json!([{ "schema": "closed", "table": name }]);
        let mut user = scene.listen(user(ALICE), entry).await;
        scene
            .run(&format!(
                "insert into closed.{name} values (1), (2); delete from closed.{name} where id = 1"
            ))
            .await;
        let (status, text) = user.system().await;
        assert_eq!(status, "error");
        assert!(
            text.contains(&format!("rows of closed.{name} raised an error")),
            "{text}"
        );
        assert_eq!(user.change().await["type"], "DELETE", "{name}");
    }
}

#[tokio::test]
async fn restrictive_policies_and_those_of_other_roles_count_as_in_postgres() {
    let setup = format!(
        "{OWNS} {} alter table t enable row level security;
         create policy own on t for select to authenticated using (owns(owner));
         create policy listed on t as restrictive for select using (not hidden);
         create policy service on t for select to anon using (true);",
        table("t", "id int primary key, owner uuid, hidden boolean")
    );
    let scene = Scene::new(&setup).await;
    let mut alice = scene.listen(user(ALICE), all("t")).await;
    let mut anon = scene.listen(role("anon", ALICE), all("t")).await;
    scene
        .run(&format!(
            "insert into t values (1, '{ALICE}', true), (2, '{BOB}', false), (3, '{ALICE}', null), (4, '{ALICE}', false)"
        ))
        .await;
    assert_eq!(alice.id().await, 4);
    assert_eq!([anon.id().await, anon.id().await], [2, 4]);
}

#[tokio::test]
async fn row_security_switched_on_in_a_transaction_holds_for_its_own_rows_even_before_others_see_it() {
    let postgres = Postgres::start(Postgres::options()).await;
    let scene = Scene::on(
        postgres.database().await,
        &table("t", "id int primary key"),
        Options::default(),
    )
    .await;
    let mut alice = scene.listen(user(ALICE), all("t")).await;
    let session = scene.database.client().await;
    let process: i32 = session
        .query_one("select pg_backend_pid()", &[])
        .await
        .unwrap()
        .get(0);
    scene.run("insert into t values (0)").await;
    assert_eq!(alice.id().await, 0);
    // The commit is in the log and streamed, and waits for a standby before other sessions may see it.
    scene
        .run("alter system set synchronous_standby_names = 'nobody'")
        .await;
    scene.run("select pg_reload_conf()").await;
    scene
        .database
        .until("select current_setting('synchronous_standby_names') = 'nobody'")
        .await;
    let commit = tokio::spawn(async move {
        session
            .batch_execute(
                "begin; alter table t enable row level security;
                 create policy p on t for select using (id = 2);
                 insert into t values (1); insert into t values (2); commit",
            )
            .await
    });
    scene
        .database
        .until(&format!(
            "select wait_event = 'SyncRep' from pg_stat_activity where pid = {process}"
        ))
        .await;
    let stats = scene.changes.replication_stats();
    while stats.changes_decoded.load(Ordering::Relaxed) < 3 {
        tokio::task::yield_now().await;
    }
    let early = tokio::time::timeout(Duration::from_millis(200), alice.frames.recv()).await;
    assert!(early.is_err(), "{early:?}");
    scene.run("alter system reset synchronous_standby_names").await;
    scene
        .run(&format!("select pg_reload_conf(), pg_cancel_backend({process})"))
        .await;
    commit.await.unwrap().unwrap();
    assert_eq!(alice.id().await, 2);
}
