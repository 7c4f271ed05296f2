//! Whoever decides visibility, the outcome is the same: the matrix of `database.md 13.4` and the races of `13.7`, each
//! in every mode.

use crate::scene::{ALICE, BOB, Listener, Scene, all, filtered, role, service, table, user};
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use std::time::Duration;
use walcast_changes::{Options, Visibility};
use walcast_testkit::Postgres;

macro_rules! in_each_mode {
    ($($name:ident),* $(,)?) => { $(
        mod $name {
            use walcast_changes::Visibility;

            #[tokio::test]
            async fn compiled() {
                super::$name(Visibility::Compiled).await;
            }

            #[tokio::test]
            async fn sql() {
                super::$name(Visibility::Sql).await;
            }

            #[tokio::test]
            async fn verify() {
                super::$name(Visibility::Verify).await;
            }
        }
    )* };
}

in_each_mode!(
    every_kind_of_change_is_shown_by_the_policies_alone,
    policies_that_do_not_apply_show_nothing,
    a_claim_that_is_missing_or_unreadable_hides_from_its_identity_alone,
    a_policy_that_raises_hides_from_whom_it_raises_for_and_tells_them,
    claims_of_the_wrong_form_are_told_of_at_the_subscription_and_at_a_change,
    a_filter_that_cannot_be_evaluated_costs_its_own_channel_which_is_told,
    a_column_that_is_dropped_costs_the_channel_that_named_it_which_is_told,
    a_row_that_is_hidden_now_was_never_shown,
    a_row_that_is_gone_or_hidden_by_now_costs_nobody_else_anything,
    rights_and_policies_between_changes_hold_from_the_next_one_on,
    a_commit_that_others_do_not_see_yet_is_waited_for,
);

fn options(visibility: Visibility) -> Options {
    Options {
        visibility,
        ..Options::default()
    }
}

async fn scene(visibility: Visibility, setup: &str) -> Scene {
    Scene::with(setup, options(visibility)).await
}

/// Nothing may be decided otherwise than by Postgres, and in the mode that compares something is compared.
fn expect_no_differences(scene: &Scene, visibility: Visibility) {
    let figures = scene.changes.visibility_figures();
    assert_eq!(figures.differences.load(Ordering::Relaxed), 0);
    let verified = figures.verified.load(Ordering::Relaxed);
    assert_eq!(
        verified > 0,
        visibility == Visibility::Verify,
        "{verified} compared"
    );
}

/// What a change shows: its type, its row and its old row.
async fn next(listener: &mut Listener) -> (String, Value, Value) {
    let change = listener.change().await;
    let part = |name: &str| change[name].clone();
    let kind = part("type").as_str().unwrap().to_owned();
    (kind, part("record"), part("old_record"))
}

async fn every_kind_of_change_is_shown_by_the_policies_alone(visibility: Visibility) {
    let mut setup = String::new();
    let identities = ["default", "full", "index"];
    for identity in identities {
        setup += &table(
            identity_table(identity),
            "id int primary key, owner uuid, body text not null unique",
        );
        setup += &format!(
            "alter table {0} enable row level security;",
            identity_table(identity)
        );
        setup += &format!(
            "create policy own on {} using (owner = (select auth.uid()));",
            identity_table(identity)
        );
    }
    setup += "alter table full_t replica identity full;
              alter table index_t replica identity using index index_t_body_key;";
    let scene = scene(visibility, &setup).await;
    for identity in identities {
        let name = identity_table(identity);
        let mut alice = scene.listen(user(ALICE), all(name)).await;
        let mut bob = scene.listen(user(BOB), all(name)).await;
        scene
            .run(&format!(
                "insert into {name} values (1, '{ALICE}', 'a'), (2, '{BOB}', 'b'), (3, null, 'c');
                 update {name} set body = 'd' where id = 1;
                 update {name} set id = 4 where id = 1;
                 update {name} set owner = '{BOB}' where id = 4;
                 delete from {name} where id = 2;
                 truncate {name};
                 insert into {name} select n, '{ALICE}', n::text from generate_series(10, 300) n"
            ))
            .await;
        let row = |id: i64, owner: &str, body: &str| json!({ "id": id, "owner": owner, "body": body });
        // Row security reduces what is told of a deleted row to its key (`database.md 2.8`), and nothing of an UPDATE.
        let deleted = match identity {
            "index" => json!({}),
            _ => json!({ "id": 2 }),
        };
        let old = |id: i64, owner: &str, body: &str| match identity {
            "full" => row(id, owner, body),
            "index" => json!({ "body": body }),
            _ => json!({ "id": id }),
        };
        let of = |kind: &str, row: Value, old: Value| (kind.to_owned(), row, old);
        let mut expected_by_alice = vec![of("DELETE", Value::Null, deleted.clone())];
        let mut expected_by_bob = expected_by_alice.clone();
        // All of this is one transaction, so Postgres is asked after the TRUNCATE took everything.
        if visibility == Visibility::Compiled {
            let for_alice = [
                of("INSERT", row(1, ALICE, "a"), Value::Null),
                of("UPDATE", row(1, ALICE, "d"), old(1, ALICE, "a")),
                of("UPDATE", row(4, ALICE, "d"), old(1, ALICE, "d")),
            ];
            let for_bob = [
                of("INSERT", row(2, BOB, "b"), Value::Null),
                of("UPDATE", row(4, BOB, "d"), old(4, ALICE, "d")),
            ];
            expected_by_alice.splice(0..0, for_alice);
            expected_by_bob.splice(0..0, for_bob);
        }
        for (listener, expected) in [(&mut alice, expected_by_alice), (&mut bob, expected_by_bob)] {
            for expected in expected {
                assert_eq!(next(listener).await, expected, "{identity}");
            }
        }
        for id in 10..=300 {
            assert_eq!(alice.id().await, id, "{identity}");
        }
        // Only rows of one version each, to be compared at leisure.
        scene
            .run(&format!("insert into {name} values (1000, '{BOB}', 'last')"))
            .await;
        assert_eq!(bob.id().await, 1000);
        assert!(alice.frames.try_recv().is_err());
    }
    expect_no_differences(&scene, visibility);
}

fn identity_table(identity: &str) -> &str {
    match identity {
        "full" => "full_t",
        "index" => "index_t",
        _ => "default_t",
    }
}

async fn policies_that_do_not_apply_show_nothing(visibility: Visibility) {
    let cases = [
        ("none", "", false),
        (
            "writes",
            "create policy p on t for insert with check (true); create policy q on t for update using (true);",
            false,
        ),
        (
            "another_role",
            "create policy p on t for select to anon using (true);",
            false,
        ),
        (
            "restrictive_alone",
            "create policy p on t as restrictive using (true);",
            false,
        ),
        (
            "for_select",
            "create policy p on t for select using (true);",
            true,
        ),
        (
            "for_all",
            "create policy p on t for all to authenticated using (true);",
            true,
        ),
        (
            "one_of_two",
            "create policy p on t using (false); create policy q on t using (id > 0);",
            true,
        ),
        (
            "and_restricted",
            "create policy p on t using (true); create policy q on t as restrictive using (id < 0);",
            false,
        ),
        (
            "one_that_is_null",
            "create policy p on t using (null::boolean);",
            false,
        ),
        (
            "off",
            "create policy p on t using (false); alter table t disable row level security;",
            true,
        ),
    ];
    let mut setup = String::new();
    for (name, policies, _) in cases {
        setup += &table("t", "id int primary key");
        setup += "alter table t enable row level security;";
        setup += policies;
        setup += &format!("alter table t rename to {name};");
    }
    let scene = scene(visibility, &setup).await;
    for (name, _, shown) in cases {
        let mut alice = scene.listen(user(ALICE), all(name)).await;
        let mut witness = scene.listen(service(), all(name)).await;
        scene.run(&format!("insert into {name} values (1)")).await;
        assert_eq!(witness.id().await, 1);
        assert_eq!(alice.frames.try_recv().is_ok(), shown, "{name}");
    }
    expect_no_differences(&scene, visibility);
}

async fn a_claim_that_is_missing_or_unreadable_hides_from_its_identity_alone(visibility: Visibility) {
    let scene = scene(
        visibility,
        &format!(
            "{} alter table t enable row level security;
             create policy own on t using (owner = auth.uid());
             create policy of_org on t using (org = (auth.jwt() -> 'app_metadata' ->> 'org')::int);",
            table("t", "id int primary key, owner uuid, org int")
        ),
    )
    .await;
    let with = |claims: Value| walcast_changes::Claims {
        role: "authenticated".to_owned(),
        json: claims.to_string().into(),
    };
    let mut hidden = Vec::new();
    for claims in [
        json!({ "role": "authenticated" }),
        json!({ "sub": null, "app_metadata": {} }),
        json!({ "sub": "no uuid" }),
        // Where one policy raises and the other holds, Postgres may say either: neither may hold here.
        json!({ "sub": "no uuid", "app_metadata": { "org": 2 } }),
        json!({ "sub": BOB, "app_metadata": { "org": "one" } }),
        json!({ "sub": BOB, "app_metadata": { "org": 99999999999_i64 } }),
        json!({ "sub": BOB, "app_metadata": ["org"] }),
    ] {
        hidden.push(scene.listen(with(claims), all("t")).await);
    }
    let mut own = scene.listen(user(ALICE), all("t")).await;
    let by_org = json!({ "sub": BOB, "app_metadata": { "org": "1" } });
    let mut by_org = scene.listen(with(by_org), all("t")).await;
    scene
        .run(&format!(
            "insert into t values (1, '{ALICE}', 1), (2, null, null)"
        ))
        .await;
    assert_eq!((own.id().await, by_org.id().await), (1, 1));
    for listener in &mut hidden {
        // Everybody was handed the change at the same moment; what raised is perhaps told.
        while let Ok(message) = listener.frames.try_recv() {
            assert_eq!(message[3], "system", "{message}");
        }
    }
    expect_no_differences(&scene, visibility);
}

/// A table `t` whose rows their owner sees.
fn owned(columns: &str) -> String {
    format!(
        "{} alter table t enable row level security;
         create policy own on t using (owner = auth.uid());",
        table("t", &format!("id int primary key, owner uuid, {columns}"))
    )
}

/// The next message, which tells of an error.
async fn told_of(listener: &mut Listener, cause: &str) {
    let (status, text) = listener.system().await;
    assert_eq!(status, "error");
    assert!(text.contains(cause), "{text}");
}

async fn claims_of_the_wrong_form_are_told_of_at_the_subscription_and_at_a_change(visibility: Visibility) {
    let scene = scene(visibility, &owned("n int")).await;
    let mut wrong = scene.listen(user("no uuid"), all("t")).await;
    let mut alice = scene.listen(user(ALICE), all("t")).await;
    let warnings = wrong.subscription.warnings();
    assert!(
        warnings
            .iter()
            .any(|warning| warning.contains("raise an error for the claims of this token")),
        "{warnings:?}"
    );
    assert_eq!(alice.subscription.warnings(), [""; 0]);
    for id in 1..=3 {
        scene
            .run(&format!("insert into t values ({id}, '{ALICE}', 0)"))
            .await;
        assert_eq!(alice.id().await, id);
    }
    // Once in half a minute, however many rows it is.
    told_of(
        &mut wrong,
        "checking who may see rows of public.t raised an error",
    )
    .await;
    assert!(wrong.frames.try_recv().is_err());
    expect_no_differences(&scene, visibility);
}

async fn a_policy_that_raises_hides_from_whom_it_raises_for_and_tells_them(visibility: Visibility) {
    let scene = scene(
        visibility,
        &format!(
            "{} create policy p on t as restrictive
               using (case when auth.uid() = '{ALICE}' then 10 / n > 0 else true end);",
            owned("n int")
        ),
    )
    .await;
    let mut alice = scene.listen(user(ALICE), all("t")).await;
    let mut bob = scene.listen(user(BOB), all("t")).await;
    let mut service = scene.listen(service(), all("t")).await;
    scene
        .run(&format!(
            "insert into t values (1, '{ALICE}', 1), (2, '{ALICE}', 0), (3, '{ALICE}', 0), (4, '{ALICE}', 3), (5, '{BOB}', 4)"
        ))
        .await;
    // Once, however many rows raise; before which of the rows depends on how many are judged together.
    let (mut ids, mut notices) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let message = alice.message().await;
        if message[3] == "system" {
            notices.push(message[4]["message"].as_str().unwrap().to_owned());
        } else {
            ids.push(message[4]["data"]["record"]["id"].clone());
        }
    }
    assert_eq!(ids, [1, 4]);
    assert!(
        matches!(&notices[..], [text] if text.contains("checking who may see rows of public.t raised an error")),
        "{notices:?}"
    );
    assert_eq!(bob.id().await, 5);
    for id in 1..=5 {
        assert_eq!(service.id().await, id);
    }
    for listener in [&mut alice, &mut bob, &mut service] {
        assert!(listener.frames.try_recv().is_err());
    }
}

async fn a_filter_that_cannot_be_evaluated_costs_its_own_channel_which_is_told(visibility: Visibility) {
    let scene = scene(visibility, &owned("body text")).await;
    // The pattern is found to be wrong only where a value gets as far as its end.
    let mut raising = scene
        .listen(user(ALICE), filtered("t", r"body=not.like.ab\"))
        .await;
    let mut fine = scene.listen(user(ALICE), filtered("t", "body=like.ab%")).await;
    let mut bob = scene.listen(user(BOB), all("t")).await;
    scene
        .run(&format!(
            "insert into t values (1, '{ALICE}', 'x'), (2, '{ALICE}', 'abc'), (3, '{ALICE}', 'y'), (4, '{BOB}', 'abc')"
        ))
        .await;
    told_of(&mut raising, "could not be evaluated").await;
    assert_eq!([raising.id().await, raising.id().await], [1, 3]);
    assert_eq!((fine.id().await, bob.id().await), (2, 4));
    for listener in [&mut raising, &mut fine, &mut bob] {
        assert!(listener.frames.try_recv().is_err());
    }
    expect_no_differences(&scene, visibility);
}

async fn a_column_that_is_dropped_costs_the_channel_that_named_it_which_is_told(visibility: Visibility) {
    let scene = scene(visibility, &owned("body text, n int")).await;
    let mut by_body = scene.listen(user(ALICE), filtered("t", "body=eq.x")).await;
    let mut by_n = scene.listen(user(ALICE), filtered("t", "n=eq.1")).await;
    let mut bob = scene.listen(user(BOB), all("t")).await;
    scene
        .run(&format!(
            "insert into t values (1, '{ALICE}', 'x', 1), (2, '{BOB}', 'x', 1)"
        ))
        .await;
    assert_eq!((by_body.id().await, by_n.id().await, bob.id().await), (1, 1, 2));
    scene
        .run(&format!(
            "alter table t drop column body; insert into t values (3, '{ALICE}', 1), (4, '{BOB}', 1)"
        ))
        .await;
    told_of(&mut by_body, "public.t has no column body any more").await;
    assert_eq!((by_n.id().await, bob.id().await), (3, 4));
    for listener in [&mut by_body, &mut by_n, &mut bob] {
        assert!(listener.frames.try_recv().is_err());
    }
    expect_no_differences(&scene, visibility);
}

async fn a_row_that_is_hidden_now_was_never_shown(visibility: Visibility) {
    let scene = scene(
        visibility,
        &format!(
            "{} alter table t enable row level security;
             create policy p on t using (shown);",
            table("t", "id int primary key, shown boolean, body text")
        ),
    )
    .await;
    let mut alice = scene.listen(user(ALICE), all("t")).await;
    // Hidden, then shown, in one transaction: the first version is nothing to be shown.
    scene
        .run(
            "begin; insert into t values (1, false, 'secret'); update t set shown = true, body = 'open'; commit;
             insert into t values (2, true, 'end')",
        )
        .await;
    let mut bodies = Vec::new();
    while bodies.last() != Some(&json!("end")) {
        bodies.push(alice.change().await["record"]["body"].clone());
    }
    if visibility == Visibility::Compiled {
        assert_eq!(bodies, ["open", "end"]);
    } else {
        // Postgres is asked about the key, as the reference server asks: it tells of the row as it is now.
        assert_eq!(bodies, ["secret", "open", "end"]);
    }
}

async fn a_row_that_is_gone_or_hidden_by_now_costs_nobody_else_anything(visibility: Visibility) {
    let scene = scene(
        visibility,
        &format!(
            "{} alter table t enable row level security;
             create policy p on t using (owner = auth.uid());",
            table("t", "id int primary key, owner uuid")
        ),
    )
    .await;
    let mut alice = scene.listen(user(ALICE), all("t")).await;
    scene
        .run(&format!(
            "begin; insert into t values (1, '{ALICE}'); delete from t; commit;
             begin; insert into t values (2, '{ALICE}'); update t set owner = '{BOB}'; commit;
             insert into t values (3, '{ALICE}')"
        ))
        .await;
    let mut seen = Vec::new();
    while seen.last() != Some(&("INSERT".to_owned(), 3)) {
        let change = alice.change().await;
        let row = if change["type"] == "DELETE" {
            "old_record"
        } else {
            "record"
        };
        seen.push((
            change["type"].as_str().unwrap().to_owned(),
            change[row]["id"].as_i64().unwrap(),
        ));
    }
    let of = |kind: &str, id: i64| (kind.to_owned(), id);
    if visibility == Visibility::Compiled {
        // What was visible when it was committed is shown.
        assert_eq!(
            seen,
            [of("INSERT", 1), of("DELETE", 1), of("INSERT", 2), of("INSERT", 3)]
        );
    } else {
        assert_eq!(seen, [of("DELETE", 1), of("INSERT", 3)]);
    }
    expect_no_differences(&scene, visibility);
}

async fn rights_and_policies_between_changes_hold_from_the_next_one_on(visibility: Visibility) {
    let scene = scene(
        visibility,
        &format!(
            "{} alter table t enable row level security;
             create policy p on t to authenticated using (id > 0);",
            table("t", "id int primary key, body text")
        ),
    )
    .await;
    let mut alice = scene.listen(user(ALICE), all("t")).await;
    let mut witness = scene.listen(service(), all("t")).await;
    let steps = [
        ("", true),
        ("alter policy p on t to anon", false),
        ("alter policy p on t to authenticated using (id < 0)", false),
        ("alter policy p on t using (id > 0)", true),
        ("create policy q on t as restrictive using (body is null)", false),
        ("drop policy q on t", true),
        ("drop policy p on t", false),
        ("alter table t disable row level security", true),
        ("revoke select (body) on t from authenticated", true),
        ("alter table t enable row level security", false),
        ("create policy p on t using (body = 'x')", true),
    ];
    for (id, (statement, shown)) in (1..).zip(steps) {
        scene
            .run(&format!("{statement}; insert into t values ({id}, 'x')"))
            .await;
        assert_eq!(witness.id().await, id);
        assert_eq!(alice.frames.try_recv().is_ok(), shown, "after `{statement}`");
    }
    expect_no_differences(&scene, visibility);
}

async fn a_commit_that_others_do_not_see_yet_is_waited_for(visibility: Visibility) {
    let postgres = Postgres::start(Postgres::options()).await;
    let setup = format!(
        "{} alter table t enable row level security; create policy p on t using (owner = auth.uid());",
        table("t", "id int primary key, owner uuid")
    );
    let scene = Scene::on(postgres.database().await, &setup, options(visibility)).await;
    let mut alice = scene.listen(user(ALICE), all("t")).await;
    let mut bob = scene.listen(role("authenticated", BOB), all("t")).await;
    scene.run(&format!("insert into t values (1, '{ALICE}')")).await;
    assert_eq!(alice.id().await, 1);
    let session = scene.database.client().await;
    let process: i32 = session
        .query_one("select pg_backend_pid()", &[])
        .await
        .unwrap()
        .get(0);
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
            .batch_execute(&format!("insert into t values (2, '{ALICE}')"))
            .await
    });
    scene
        .database
        .until(&format!(
            "select wait_event = 'SyncRep' from pg_stat_activity where pid = {process}"
        ))
        .await;
    if visibility == Visibility::Compiled {
        // Nothing has to be asked.
        assert_eq!(alice.id().await, 2);
    } else {
        let early = tokio::time::timeout(Duration::from_millis(200), alice.frames.recv()).await;
        assert!(early.is_err(), "{early:?}");
    }
    scene.run("alter system reset synchronous_standby_names").await;
    scene
        .run(&format!("select pg_reload_conf(), pg_cancel_backend({process})"))
        .await;
    commit.await.unwrap().unwrap();
    if visibility != Visibility::Compiled {
        assert_eq!(alice.id().await, 2);
    }
    scene.run(&format!("insert into t values (3, '{BOB}')")).await;
    assert_eq!(bob.id().await, 3);
    expect_no_differences(&scene, visibility);
}

#[tokio::test]
async fn a_difference_is_counted_and_postgres_is_believed() {
    let scene = scene(
        Visibility::Verify,
        &format!(
            "{} alter table t enable row level security; create policy p on t using (owner = auth.uid());
             do $$ begin
               execute format('alter database %I set request.jwt.claim.sub = %L', current_database(), '{BOB}');
             end $$;",
            table("t", "id int primary key, owner uuid")
        ),
    )
    .await;
    // The compiler knows nothing of a claim that the database itself makes.
    let mut alice = scene.listen(user(ALICE), all("t")).await;
    scene
        .run(&format!(
            "insert into t values (1, '{ALICE}'), (2, '{BOB}'), (3, null)"
        ))
        .await;
    assert_eq!(alice.id().await, 2);
    let figures = scene.changes.visibility_figures();
    assert_eq!(figures.verified.load(Ordering::Relaxed), 3);
    assert_eq!(figures.differences.load(Ordering::Relaxed), 2);
    // Gone before it was compared: no fault of the compiler.
    scene
        .run(&format!(
            "begin; insert into t values (4, '{ALICE}'); delete from t where id = 4; commit;
             insert into t values (5, '{BOB}')"
        ))
        .await;
    assert_eq!(alice.change().await["type"], "DELETE");
    assert_eq!(alice.id().await, 5);
    assert_eq!(figures.verified.load(Ordering::Relaxed), 5);
    assert_eq!(figures.differences.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn what_one_mode_evaluates_another_asks() {
    for (visibility, evaluated, compared) in [
        (Visibility::Compiled, 1, 0),
        (Visibility::Sql, 0, 0),
        (Visibility::Verify, 2, 2),
    ] {
        let scene = scene(
            visibility,
            &format!(
                "{} alter table t enable row level security; create policy p on t using (owner = auth.uid());",
                table("t", "id int primary key, owner uuid")
            ),
        )
        .await;
        let mut alice = scene.listen(user(ALICE), all("t")).await;
        let _bob = scene.listen(user(BOB), all("t")).await;
        scene.run(&format!("insert into t values (1, '{ALICE}')")).await;
        assert_eq!(alice.id().await, 1);
        let figures = scene.changes.visibility_figures();
        assert_eq!(
            figures.evaluated.load(Ordering::Relaxed),
            evaluated,
            "{visibility:?}"
        );
        assert_eq!(
            figures.verified.load(Ordering::Relaxed),
            compared,
            "{visibility:?}"
        );
    }
}
