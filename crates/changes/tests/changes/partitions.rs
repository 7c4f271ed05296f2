//! Partitions are tables of their own, guarded by their own row security or else by their parent's
//! (`database.md 2.11`, `12`).

use crate::scene::{ALICE, BOB, DEADLINE, OWNS, Scene, all, publish, service, user};
use serde_json::json;
use std::time::Instant;

#[tokio::test]
async fn changes_are_named_after_the_leaf_and_a_move_is_a_delete_and_an_insert() {
    let scene = Scene::new(
        "create table parent (id int, place text, primary key (id, place)) partition by list (place);
         create table here partition of parent for values in ('here');
         create table there partition of parent for values in ('there');
         grant select on parent, here, there to service_role;
         alter publication supabase_realtime add table parent;",
    )
    .await;
    let refusal = scene.refusal(service(), all("parent")).await;
    assert!(refusal.contains("Please check Realtime is enabled"), "{refusal}");
    let mut here = scene.listen(service(), all("here")).await;
    let mut both = scene.listen(service(), json!([{ "schema": "public" }])).await;
    scene
        .run("insert into parent values (1, 'here'); update parent set place = 'there'")
        .await;
    let told = |change: serde_json::Value| (change["table"].clone(), change["type"].clone());
    let expected = |table: &str, kind: &str| (json!(table), json!(kind));
    assert_eq!(told(here.change().await), expected("here", "INSERT"));
    assert_eq!(told(here.change().await), expected("here", "DELETE"));
    for (table, kind) in [("here", "INSERT"), ("here", "DELETE"), ("there", "INSERT")] {
        assert_eq!(told(both.change().await), expected(table, kind));
    }
}

/// Two leaves whose keys say nothing about each other, below a parent with a policy.
fn leaves(condition: &str) -> String {
    format!(
        "{OWNS} create table parent (id int not null, place text, owner uuid) partition by list (place);
         create table here partition of parent (primary key (id)) for values in ('here');
         create table there partition of parent (primary key (id)) for values in ('there');
         alter table parent enable row level security;
         create policy own on parent for select to authenticated using ({condition});
         grant select on parent, here, there to authenticated, service_role;
         alter publication supabase_realtime add table parent;"
    )
}

#[tokio::test]
async fn a_row_of_another_leaf_with_the_same_key_does_not_make_a_row_visible() {
    for condition in ["owns(owner)", "owner = auth.uid()"] {
        let scene = Scene::new(&leaves(condition)).await;
        let mut alice = scene.listen(user(ALICE), all("here")).await;
        scene
            .run(&format!(
                "insert into there values (1, 'there', '{ALICE}'), (2, 'there', '{BOB}')"
            ))
            .await;
        scene
            .run(&format!(
                "insert into here values (1, 'here', '{BOB}'), (2, 'here', '{ALICE}')"
            ))
            .await;
        assert_eq!(alice.id().await, 2, "{condition}");
    }
}

#[tokio::test]
async fn a_parents_row_security_cuts_a_leafs_deletes_to_the_key() {
    let scene = Scene::new(&format!(
        "{} alter table here replica identity full;",
        leaves("owns(owner)")
    ))
    .await;
    let mut alice = scene.listen(user(ALICE), all("here")).await;
    scene
        .run(&format!(
            "insert into here values (1, 'here', '{BOB}'); delete from here"
        ))
        .await;
    assert_eq!(alice.change().await["old_record"], json!({ "id": 1 }));
}

#[tokio::test]
async fn a_leafs_own_row_security_is_what_counts_and_none_is_left_once_it_is_detached() {
    let setup = format!(
        "{} alter table here enable row level security; create policy all_of_it on here for select using (id > 1);",
        leaves("owns(owner)")
    );
    let scene = Scene::new(&setup).await;
    let mut here = scene.listen(user(ALICE), all("here")).await;
    let mut there = scene.listen(user(ALICE), all("there")).await;
    scene
        .run(&format!(
            "insert into parent values (1, 'here', '{ALICE}'), (2, 'here', '{BOB}')"
        ))
        .await;
    assert_eq!(here.id().await, 2);
    scene
        .run(&format!(
            "insert into there values (3, 'there', '{BOB}'), (4, 'there', '{ALICE}')"
        ))
        .await;
    assert_eq!(there.id().await, 4);
    scene
        .run(&format!(
            "alter table parent detach partition there; alter publication supabase_realtime add table there;
             insert into there values (5, 'there', '{BOB}')"
        ))
        .await;
    assert_eq!(there.id().await, 5);
}

/// A parent without a key of its own, whose leaves may each have a row 1.
const TENANTS: &str = "
    create table notes (id int not null, tenant int, owner uuid) partition by list (tenant);
    create table notes_1 partition of notes for values in (1);
    create table notes_2 partition of notes for values in (2);
    alter table notes_1 add primary key (id);
    alter table notes_2 add primary key (id);
    grant select on notes to authenticated, service_role;";

#[tokio::test]
async fn row_security_switched_on_at_a_parent_holds_for_a_leaf_that_is_listened_to() {
    let scene = Scene::new(&format!("{TENANTS}{}", publish("notes_1"))).await;
    let mut alice = scene.listen(user(ALICE), all("notes_1")).await;
    let mut service = scene.listen(service(), all("notes_1")).await;
    scene.run("insert into notes values (0, 1, null)").await;
    assert_eq!((alice.id().await, service.id().await), (0, 0));
    scene
        .run(&format!(
            "alter table notes enable row level security;
             create policy own on notes for select to authenticated using (owner = '{ALICE}');"
        ))
        .await;
    // Postgres does not announce it for the leaf: rights are read again after five seconds.
    let started = Instant::now();
    for id in 1.. {
        assert!(started.elapsed() < DEADLINE, "hidden rows go on arriving");
        scene
            .run(&format!(
                "insert into notes values ({}, 1, null); insert into notes values ({}, 1, '{ALICE}')",
                2 * id,
                2 * id + 1
            ))
            .await;
        assert_eq!((service.id().await, service.id().await), (2 * id, 2 * id + 1));
        if alice.id().await == 2 * id + 1 {
            break;
        }
        assert_eq!(alice.id().await, 2 * id + 1);
    }
}
