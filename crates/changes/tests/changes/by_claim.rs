//! Under policies that compare the row with the claims, a change costs what it concerns, not what there is
//! (`design.md 6`), and nobody misses anything for it.

use crate::scene::{ALICE, BOB, Listener, Scene, all, role, service, table, user};
use std::sync::Arc;
use std::sync::atomic::Ordering;

fn person(number: usize) -> String {
    format!("{number:08}-1111-4111-8111-111111111111")
}

fn evaluated(scene: &Scene) -> u64 {
    scene
        .changes
        .visibility_figures()
        .evaluated
        .load(Ordering::Relaxed)
}

async fn ids(listener: &mut Listener, count: usize) -> Vec<i64> {
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(listener.id().await);
    }
    ids
}

#[tokio::test]
async fn a_row_of_ones_own_costs_one_look_up_however_many_listen() {
    const PEOPLE: usize = 400;
    let scene = Scene::new(&format!(
        "{} alter table t enable row level security;
         create policy own on t for select to authenticated using ((select auth.uid()) = owner or assignee = auth.uid());",
        table("t", "id int primary key, owner uuid, assignee uuid")
    ))
    .await;
    let mut people = Vec::new();
    for number in 0..PEOPLE {
        people.push(scene.listen(user(&person(number)), all("t")).await);
    }
    // The first change teaches the table's task the policies.
    scene
        .run(&format!("insert into t values (0, '{}', null)", person(0)))
        .await;
    assert_eq!(people[0].id().await, 0);
    let before = evaluated(&scene);
    scene
        .run(&format!(
            "insert into t select n, ('0000' || lpad(n::text, 4, '0') || '-1111-4111-8111-111111111111')::uuid,
                    case when n % 2 = 0 then '{}'::uuid end from generate_series(1, 100) n;
             insert into t values (101, null, null), (102, gen_random_uuid(), gen_random_uuid());
             insert into t values (103, '{}', '{}')",
            person(300),
            person(300),
            person(300)
        ))
        .await;
    for (number, listener) in people.iter_mut().enumerate().take(101).skip(1) {
        assert_eq!(listener.id().await, i64::try_from(number).unwrap());
    }
    let expected: Vec<i64> = (1..=50).map(|n| 2 * n).chain([103]).collect();
    assert_eq!(ids(&mut people[300], expected.len()).await, expected);
    // One for each owner and one for each assignee.
    assert_eq!(evaluated(&scene) - before, 100 + 50 + 1);
}

#[tokio::test]
async fn a_channel_whose_token_changes_is_found_by_what_the_new_one_says() {
    let scene = Scene::new(&format!(
        "{} alter table t enable row level security;
         create policy own on t for select to authenticated using (owner = auth.uid());
         create policy all_of_it on t for select to anon using (true);",
        table("t", "id int primary key, owner uuid")
    ))
    .await;
    let mut listener = scene.listen(user(ALICE), all("t")).await;
    let mut witness = scene.listen(user(BOB), all("t")).await;
    let insert = |id: i64, owner: &str| format!("insert into t values ({id}, '{owner}');");
    scene.run(&insert(1, ALICE)).await;
    assert_eq!(listener.id().await, 1);
    let steps = [
        (user(BOB), 3),
        (role("anon", ALICE), 4),
        (user("no uuid"), 0),
        (user(ALICE), 8),
    ];
    let mut next = 2;
    for (claims, shown) in steps {
        listener.subscription.reauthorize(Arc::new(claims)).await.unwrap();
        scene
            .run(&format!("{}{}", insert(next, ALICE), insert(next + 1, BOB)))
            .await;
        assert_eq!(witness.id().await, next + 1);
        match shown {
            0 => {
                let (status, text) = listener.system().await;
                assert_eq!(status, "error", "{text}");
                assert!(listener.frames.try_recv().is_err());
            }
            4 => assert_eq!(ids(&mut listener, 2).await, [4, 5]),
            shown => assert_eq!(listener.id().await, shown),
        }
        next += 2;
    }
}

#[tokio::test]
async fn a_policy_that_is_replaced_is_followed_from_the_next_change_on() {
    let scene = Scene::new(&format!(
        "{} alter table t enable row level security;
         create policy p on t for select to authenticated using (owner = auth.uid());",
        table("t", "id int primary key, owner uuid, assignee uuid, open boolean")
    ))
    .await;
    let mut alice = scene.listen(user(ALICE), all("t")).await;
    let mut id = 0;
    for (using, row) in [
        ("owner = auth.uid()", format!("'{ALICE}', null, false")),
        ("assignee = auth.uid()", format!("'{BOB}', '{ALICE}', false")),
        ("open", format!("'{BOB}', '{BOB}', true")),
        ("owner = auth.uid() and open", format!("'{ALICE}', null, true")),
    ] {
        id += 1;
        scene
            .run(&format!(
                "alter policy p on t using ({using}); insert into t values ({id}, {row});"
            ))
            .await;
        assert_eq!(alice.id().await, id, "{using}");
    }
    let mut witness = scene.listen(service(), all("t")).await;
    scene
        .run(&format!(
            "drop policy p on t; insert into t values (97, '{ALICE}', '{ALICE}', true)"
        ))
        .await;
    assert_eq!(witness.id().await, 97);
    scene
        .run("alter table t disable row level security; insert into t values (98, null, null, false)")
        .await;
    assert_eq!(alice.id().await, 98);
}
