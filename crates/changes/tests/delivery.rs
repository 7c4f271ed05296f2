//! What a subscribed channel is handed: when, in which order, and what not.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test states facts; a broken fact may stop it"
)]

use serde_json::{Value, json};
use sqlx::PgPool;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use walcast_changes::{Changes, Claims, Options, Request, SubscribeError, Subscription};
use walcast_protocol::{Frame, JoinPayload, Outlet, Ref, Version};
use walcast_testkit::{Database, Postgres};

const DEADLINE: Duration = Duration::from_secs(20);
const USER: &str = "11111111-1111-4111-8111-111111111111";
const OTHER: &str = "22222222-2222-4222-8222-222222222222";

struct Sink(mpsc::UnboundedSender<Value>);

impl Outlet for Sink {
    fn deliver(&self, frame: Frame) {
        let message: Value = serde_json::from_slice(frame.bytes()).unwrap();
        let _ = self.0.send(message);
    }
}

/// A subscribed channel and what it was handed.
struct Listener {
    subscription: Subscription,
    frames: mpsc::UnboundedReceiver<Value>,
}

impl Listener {
    async fn next(&mut self) -> Value {
        tokio::time::timeout(DEADLINE, self.frames.recv())
            .await
            .unwrap()
            .unwrap()
    }

    /// The `data` of the next change.
    async fn change(&mut self) -> Value {
        let message = self.next().await;
        assert_eq!(message[3], "postgres_changes", "{message}");
        message[4]["data"].clone()
    }

    async fn id(&mut self) -> i64 {
        self.change().await["record"]["id"].as_i64().unwrap()
    }
}

struct Scene {
    database: Database,
    changes: Changes,
    cancel: CancellationToken,
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Scene {
    async fn new(setup: &str) -> Self {
        Self::on(Postgres::shared().await.database().await, setup).await
    }

    async fn on(database: Database, setup: &str) -> Self {
        let pool = PgPool::connect(&database.url()).await.unwrap();
        sqlx::migrate!("../../migrations").run(&pool).await.unwrap();
        database.execute(setup).await;
        let cancel = CancellationToken::new();
        let replication = walcast_replication::Config::from_url(&database.url()).unwrap();
        let changes = Changes::start(replication, pool, Options::default(), cancel.clone());
        Self {
            database,
            changes,
            cancel,
        }
    }

    async fn subscribe(&self, role: &str, sub: &str, entries: Value) -> Result<Listener, SubscribeError> {
        let (sink, frames) = mpsc::unbounded_channel();
        let payload = json!({ "config": { "postgres_changes": entries } }).to_string();
        let payload =
            JoinPayload::parse(&serde_json::value::RawValue::from_string(payload).unwrap()).unwrap();
        let request = Request {
            version: Version::V2,
            topic: Arc::from("realtime:test"),
            join_ref: Ref::from_text("1"),
            legacy: false,
            entries: payload.config.unwrap().postgres_changes,
            claims: Arc::new(claims(role, sub)),
            outlet: Arc::new(Sink(sink)),
        };
        let subscribed = tokio::time::timeout(DEADLINE, self.changes.subscribe(request))
            .await
            .unwrap();
        subscribed.map(|subscription| Listener { subscription, frames })
    }

    async fn listen(&self, role: &str, sub: &str, entries: Value) -> Listener {
        self.subscribe(role, sub, entries)
            .await
            .unwrap_or_else(|error| panic!("{error}"))
    }

    async fn run(&self, statements: &str) {
        self.database.execute(statements).await;
    }
}

fn claims(role: &str, sub: &str) -> Claims {
    Claims {
        role: role.to_owned(),
        json: json!({ "role": role, "sub": sub }).to_string().into(),
    }
}

fn table(name: &str) -> Value {
    json!([{ "event": "*", "schema": "public", "table": name }])
}

/// A published table of notes with an owner.
fn notes(name: &str) -> String {
    format!(
        "create table public.{name} (id int primary key, owner uuid, body text);
         grant select on public.{name} to anon, authenticated, service_role;
         alter publication supabase_realtime add table public.{name};"
    )
}

#[tokio::test]
async fn what_is_committed_after_a_subscription_arrives() {
    let scene = Scene::new(&notes("t")).await;
    for id in 1..=50 {
        let mut listener = scene.listen("anon", USER, table("t")).await;
        scene.run(&format!("insert into t values ({id})")).await;
        assert_eq!(listener.id().await, id);
    }
}

#[tokio::test]
async fn a_channel_of_two_tables_sees_commit_order_and_others_do_not_wait() {
    let setup = format!(
        "{}{} alter table slow enable row level security;
         create function dawdle() returns boolean language plpgsql volatile as 'begin perform pg_sleep(0.02); return true; end';
         create policy p on slow for select using (dawdle());",
        notes("quick"),
        notes("slow")
    );
    let scene = Scene::new(&setup).await;
    let both = json!([{ "table": "slow" }, { "table": "quick" }]);
    let mut both = scene.listen("anon", USER, both).await;
    let mut quick = scene.listen("anon", USER, table("quick")).await;
    scene
        .run(
            "do $$ begin for i in 1..20 loop
               insert into slow values (2 * i - 1); insert into quick values (2 * i);
             end loop; end $$",
        )
        .await;
    for id in 1..=20 {
        assert_eq!(quick.id().await, 2 * id);
    }
    // The slow table takes at least twenty times its policy's time, so nothing of it can have been waited for.
    assert!(both.frames.len() < 40, "the quick table waited for the slow one");
    for id in 1..=40 {
        assert_eq!(both.id().await, id);
    }
}

#[tokio::test]
async fn rights_and_policies_hold_from_the_next_change_on() {
    let scene = Scene::new(&notes("t")).await;
    let mut user = scene.listen("authenticated", USER, table("t")).await;
    let mut service = scene.listen("service_role", USER, table("t")).await;
    let steps = [
        ("", true),
        ("alter table t enable row level security;", false),
        ("create policy p on t for select to authenticated using (owner = auth.uid());", true),
        ("drop policy p on t;", false),
        (
            "create function mine(o uuid) returns boolean language plpgsql stable as 'begin return o = auth.uid(); end';
             create policy q on t for select to authenticated using (mine(owner));",
            true,
        ),
        ("alter table t disable row level security; revoke select on t from authenticated; grant select (id) on t to authenticated;", true),
    ];
    let mut seen_by_user = Vec::new();
    for (id, (statements, visible)) in (1..).zip(steps) {
        scene
            .run(&format!(
                "{statements} insert into t values ({id}, '{USER}', 'x')"
            ))
            .await;
        assert_eq!(service.id().await, id);
        if visible {
            seen_by_user.push(id);
        }
    }
    let mut last = Value::Null;
    for id in seen_by_user {
        last = user.change().await;
        assert_eq!(last["record"]["id"], id);
    }
    assert_eq!(last["record"], json!({ "id": 6 }));
    assert_eq!(last["columns"], json!([{ "name": "id", "type": "int4" }]));
}

#[tokio::test]
async fn a_raising_policy_hides_from_whom_it_raises_for_and_nobody_else() {
    let setup = format!(
        "{} alter table t enable row level security;
         create function owns(o uuid) returns boolean language plpgsql stable as
           'begin return o = (current_setting(''request.jwt.claims'')::json ->> ''sub'')::uuid; end';
         create policy p on t for select using (owns(owner));",
        notes("t")
    );
    let scene = Scene::new(&setup).await;
    let mut good = scene.listen("authenticated", USER, table("t")).await;
    let mut bad = scene.listen("authenticated", "no uuid", table("t")).await;
    let mut other = scene.listen("authenticated", OTHER, table("t")).await;
    scene
        .run(&format!(
            "insert into t values (1, '{USER}'), (2, '{OTHER}'), (3, '{USER}')"
        ))
        .await;
    assert_eq!((good.id().await, good.id().await, other.id().await), (1, 3, 2));
    let told = bad.next().await;
    assert_eq!(
        (&told[3], &told[4]["status"]),
        (&json!("system"), &json!("error"))
    );
    // A DELETE is never hidden (`database.md 2.5`), so it shows that nothing else came before it.
    scene.run("delete from t where id = 1").await;
    let change = bad.change().await;
    assert_eq!(
        (&change["type"], &change["old_record"]),
        (&json!("DELETE"), &json!({ "id": 1 }))
    );
}

#[tokio::test]
async fn roles_that_are_none_are_refused() {
    let scene = Scene::new(&notes("t")).await;
    for role in ["none", "public", "no such role", ""] {
        let Err(refused) = scene.subscribe(role, USER, table("t")).await else {
            panic!("{role} was let in")
        };
        let expected = format!("ERROR 42704 (undefined_object) role \"{role}\" does not exist");
        assert!(refused.to_string().ends_with(&expected), "{refused}");
        assert!(refused.is_final());
    }
}

#[tokio::test]
async fn a_row_whose_transaction_is_not_over_yet_is_waited_for() {
    // The commit is in the log and is streamed, but other sessions do not see it before the standby has answered.
    let cluster = Postgres::start(Postgres::options().setting("synchronous_standby_names", "")).await;
    let setup = format!(
        "{} alter table t enable row level security;
         create function owns(o uuid) returns boolean language plpgsql stable as 'begin return o = auth.uid(); end';
         create policy p on t for select using (owns(owner));",
        notes("t")
    );
    let scene = Scene::on(cluster.database().await, &setup).await;
    let mut listener = scene.listen("authenticated", USER, table("t")).await;
    let client = scene.database.client().await;
    client
        .batch_execute("alter system set synchronous_standby_names = 'nobody'")
        .await
        .unwrap();
    client.batch_execute("select pg_reload_conf()").await.unwrap();
    let writer = scene.database.client().await;
    let pid: i32 = writer
        .query_one("select pg_backend_pid()", &[])
        .await
        .unwrap()
        .get(0);
    let insert = tokio::spawn(async move {
        writer
            .batch_execute(&format!("insert into t values (1, '{USER}')"))
            .await
    });
    scene
        .database
        .until(&format!(
            "select wait_event = 'SyncRep' from pg_stat_activity where pid = {pid}"
        ))
        .await;
    // The question was asked and answered "not yet".
    scene
        .database
        .until("select exists (select from pg_stat_activity where application_name = 'walcast_visibility')")
        .await;
    assert!(listener.frames.try_recv().is_err());
    client
        .execute("select pg_cancel_backend($1)", &[&pid])
        .await
        .unwrap();
    assert_eq!(listener.id().await, 1);
    let _ = insert.await.unwrap();
}

#[tokio::test]
async fn error_rows_go_to_a_role_that_cannot_be_shown_the_row() {
    let setup = format!(
        "create table keyless (a int, b text); grant select on keyless to anon;
         alter publication supabase_realtime add table keyless;
         {} revoke all on t from anon; grant select (body) on t to anon;",
        notes("t")
    );
    let scene = Scene::new(&setup).await;
    let mut keyless = scene.listen("anon", USER, table("keyless")).await;
    assert!(keyless.subscription.warnings()[0].contains("no primary key"));
    scene.run("insert into keyless values (1, 'x')").await;
    let expected = |table: &str, error: &str| {
        json!({ "schema": "public", "table": table, "type": "INSERT", "commit_timestamp": null, "columns": [],
                "record": {}, "errors": [error] })
    };
    assert_eq!(
        keyless.change().await,
        expected("keyless", "Error 400: Bad Request, no primary key")
    );
    // Whatever the filter says.
    let filtered = json!([{ "event": "*", "schema": "public", "table": "t", "filter": "body=eq.nothing" }]);
    let mut blind = scene.listen("anon", USER, filtered).await;
    scene.run("insert into t values (1, null, 'x')").await;
    assert_eq!(blind.change().await, expected("t", "Error 401: Unauthorized"));
}

#[tokio::test]
async fn a_row_over_the_limit_keeps_its_small_values_only() {
    let scene = Scene::new(&notes("t")).await;
    let mut listener = scene.listen("anon", USER, table("t")).await;
    scene
        .run(&format!(
            "insert into t values (1, '{USER}', repeat('x', 2000000))"
        ))
        .await;
    let change = listener.change().await;
    assert_eq!(change["errors"], json!(["Error 413: Payload Too Large"]));
    assert_eq!(change["record"], json!({ "id": 1, "owner": USER }));
    assert_eq!(change["columns"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn a_leaf_without_row_security_is_judged_by_its_parents() {
    let setup = "create table parent (id int primary key, owner uuid) partition by range (id);
         create table leaf partition of parent for values from (0) to (1000);
         alter table parent enable row level security;
         create policy p on parent for select to authenticated using (owner = auth.uid());
         grant select on parent, leaf to authenticated;
         alter publication supabase_realtime add table parent;";
    let scene = Scene::new(setup).await;
    let mut listener = scene.listen("authenticated", USER, table("leaf")).await;
    scene
        .run(&format!(
            "insert into parent values (1, '{OTHER}'), (2, '{USER}')"
        ))
        .await;
    assert_eq!(listener.id().await, 2);
}

#[tokio::test]
async fn other_claims_switch_what_is_seen_and_bad_ones_change_nothing() {
    let setup = format!(
        "{} alter table t enable row level security;
         create policy p on t for select to authenticated using (owner = auth.uid());",
        notes("t")
    );
    let scene = Scene::new(&setup).await;
    let mut listener = scene.listen("authenticated", USER, table("t")).await;
    scene
        .run(&format!("insert into t values (1, '{OTHER}'), (2, '{USER}')"))
        .await;
    assert_eq!(listener.id().await, 2);
    listener
        .subscription
        .reauthorize(Arc::new(claims("authenticated", OTHER)))
        .await
        .unwrap();
    scene
        .run(&format!("insert into t values (3, '{USER}'), (4, '{OTHER}')"))
        .await;
    assert_eq!(listener.id().await, 4);
    assert!(
        listener
            .subscription
            .reauthorize(Arc::new(claims("no such role", USER)))
            .await
            .is_err()
    );
    scene
        .run(&format!("insert into t values (5, '{USER}'), (6, '{OTHER}')"))
        .await;
    assert_eq!(listener.id().await, 6);
}

#[tokio::test]
async fn a_lost_stream_is_told_and_comes_back_by_itself() {
    let scene = Scene::new(&notes("t")).await;
    let mut listener = scene.listen("anon", USER, table("t")).await;
    let slots = "select count(*) from pg_replication_slots where database = current_database()";
    for id in 1..=3 {
        scene
            .run(
                "select pg_terminate_backend(active_pid) from pg_replication_slots
                 where database = current_database() and active",
            )
            .await;
        let statuses = [
            listener.next().await[4]["status"].clone(),
            listener.next().await[4]["status"].clone(),
        ];
        assert_eq!(statuses, [json!("error"), json!("ok")]);
        scene.run(&format!("insert into t values ({id})")).await;
        assert_eq!(listener.id().await, id);
    }
    scene.database.until(&format!("select ({slots}) = 1")).await;
    scene.cancel.cancel();
    scene.changes.stopped().await;
    scene.database.until(&format!("select ({slots}) = 0")).await;
}

#[tokio::test]
async fn a_subscription_that_ended_leaves_nothing_behind() {
    let scene = Scene::new(&notes("t")).await;
    let Listener {
        subscription,
        mut frames,
    } = scene.listen("anon", USER, table("t")).await;
    assert_eq!(scene.changes.subscribed_tables(), 1);
    drop(subscription);
    assert_eq!(scene.changes.subscribed_tables(), 0);
    let mut other = scene.listen("anon", USER, table("t")).await;
    scene.run("insert into t values (1)").await;
    assert_eq!(other.id().await, 1);
    assert!(frames.recv().await.is_none());
}

#[tokio::test]
async fn a_wildcard_hears_tables_that_come_later() {
    let scene = Scene::new(&notes("first")).await;
    let mut listener = scene
        .listen("anon", USER, json!([{ "event": "INSERT", "schema": "public" }]))
        .await;
    scene.run(&notes("second")).await;
    scene.run("insert into second values (1)").await;
    let change = listener.change().await;
    assert_eq!(
        (&change["table"], &change["record"]["id"]),
        (&json!("second"), &json!(1))
    );
}

#[tokio::test]
async fn equality_means_what_the_columns_type_means_by_it() {
    let setup = "create type mood as enum ('sad', 'ok');
         create table t (id int primary key, n numeric, f float8, b boolean, u uuid, v varchar(9), c char(5), d date,
           ts timestamptz, m mood, by bytea, i interval);
         grant select on t to anon; alter publication supabase_realtime add table t;";
    let scene = Scene::new(setup).await;
    let cases = [
        ("n", "1.50", "1.5"),
        ("n", "2", "2.000"),
        ("f", "0.1", "1e-1"),
        ("b", "true", "t"),
        ("u", USER, "{11111111-1111-4111-8111-111111111111}"),
        ("v", "abc", "abc"),
        ("c", "ab", "ab   "),
        ("d", "2024-02-03", "3 Feb 2024"),
        ("ts", "2024-02-03 04:05:06+02", "2024-02-03T02:05:06Z"),
        ("m", "ok", "ok"),
        ("by", "\\x01ff", "01ff"),
        ("i", "1 day", "24 hours"),
    ];
    for (id, (column, value, filter)) in (1..).zip(cases) {
        let entry = json!([{ "event": "INSERT", "schema": "public", "table": "t", "filter": format!("{column}=eq.{filter}") }]);
        let mut listener = scene.listen("anon", USER, entry).await;
        // One that differs, and one whose column is NULL, go before.
        scene.run(&format!("insert into t (id) values ({id} * 10 + 1); insert into t (id, {column}) values ({id} * 10, '{value}')")).await;
        assert_eq!(listener.id().await, id * 10, "{column}=eq.{filter}");
    }
}
