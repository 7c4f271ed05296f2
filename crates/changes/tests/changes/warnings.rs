//! What is said of the tables that a wildcard means (decision 38).

use crate::scene::{ALICE, Scene, service, table, user};
use serde_json::{Value, json};

/// A table whose rows are all hidden.
fn closed(name: &str) -> String {
    format!(
        "{} alter table {name} enable row level security;",
        table(name, "id int primary key")
    )
}

fn closed_tables(count: usize) -> String {
    (1..=count).map(|at| closed(&format!("closed_{at}"))).collect()
}

async fn warnings(scene: &Scene, entry: Value) -> Vec<String> {
    scene
        .listen(user(ALICE), json!([entry]))
        .await
        .subscription
        .warnings()
}

#[tokio::test]
async fn a_wildcard_is_told_of_its_first_tables_and_how_many_more_there_are() {
    for (count, rest) in [
        (0, None),
        (5, None),
        (6, Some("1 more table has")),
        (8, Some("3 more tables have")),
    ] {
        let setup = format!(
            "{}{}",
            closed_tables(count),
            table("a_sound_one", "id int primary key")
        );
        let scene = Scene::new(&setup).await;
        for entry in [
            json!({ "schema": "public" }),
            json!({ "schema": "*", "table": "*" }),
        ] {
            let said = warnings(&scene, entry).await;
            let told = count.min(5);
            assert_eq!(said.len(), told + usize::from(rest.is_some()), "{said:?}");
            for (at, warning) in said.iter().take(told).enumerate() {
                let of_table = format!("on public.closed_{} and no policy", at + 1);
                assert!(
                    warning.contains(&of_table) && warning.contains("create policy"),
                    "{said:?}"
                );
            }
            if let Some(rest) = rest {
                assert!(
                    said[5].contains(rest) && said[5].contains("walcast doctor"),
                    "{said:?}"
                );
            }
        }
        let exempt = scene.listen(service(), json!([{ "schema": "public" }])).await;
        assert_eq!(exempt.subscription.warnings(), [""; 0]);
    }
}

#[tokio::test]
async fn one_name_in_all_schemas_is_a_wildcard_too() {
    let in_schemas: String = (1..=7)
        .map(|at| {
            format!(
                "create schema s{at}; grant usage on schema s{at} to authenticated, service_role; {}",
                closed(&format!("s{at}.t"))
            )
        })
        .collect();
    let scene = Scene::new(&in_schemas).await;
    let said = warnings(&scene, json!({ "schema": "*", "table": "t" })).await;
    assert_eq!(said.len(), 6, "{said:?}");
    assert!(
        said[0].contains("on s1.t and no policy") && said[4].contains("on s5.t and"),
        "{said:?}"
    );
    assert!(said[5].starts_with("of the tables that *.t means"), "{said:?}");
    let named = warnings(&scene, json!({ "schema": "s7", "table": "t" })).await;
    assert!(
        named.len() == 1 && named[0].contains("on s7.t and no policy"),
        "{named:?}"
    );
}

#[tokio::test]
async fn no_more_than_two_hundred_tables_are_looked_at() {
    let many: String = (1..=203)
        .map(|at| format!("create table crowd.t{at:03} (id int primary key);"))
        .collect();
    let setup = format!(
        "create schema crowd; grant usage on schema crowd to authenticated; {many}
         grant select on all tables in schema crowd to authenticated;
         alter table crowd.t200 enable row level security; alter table crowd.t201 enable row level security;
         alter publication supabase_realtime add tables in schema crowd;"
    );
    let scene = Scene::new(&setup).await;
    let said = warnings(&scene, json!({ "schema": "crowd", "event": "INSERT" })).await;
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].contains("on crowd.t200 and no policy"), "{said:?}");
    assert!(
        said[1].contains("only the first 200 of 203 tables were looked at"),
        "{said:?}"
    );
}
