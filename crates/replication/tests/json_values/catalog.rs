//! Which type an oid is: known from the start, or built from the rows of the catalog.

use crate::{type_rows, written};
use std::sync::Arc;
use walcast_replication::json::{MAX_LEVELS, Type, TypeCatalog, TypeRow};
use walcast_testkit::Postgres;

fn row(oid: u32, name: &str) -> TypeRow {
    TypeRow {
        oid,
        name: name.to_owned(),
        delimiter: ",".to_owned(),
        ..TypeRow::default()
    }
}

fn domain(oid: u32, base: u32) -> TypeRow {
    TypeRow {
        base: Some(base),
        ..row(oid, "domain")
    }
}

#[test]
fn a_type_that_was_not_added_is_unknown() {
    let types = TypeCatalog::new();
    assert_eq!((types.get(100_000), types.name(100_000)), (None, None));
    assert_eq!(
        (types.get(23).as_deref(), types.name(23)),
        (Some(&Type::Integer), Some("int4"))
    );
}

#[test]
fn rows_may_come_in_any_order_and_again() {
    let mut types = TypeCatalog::new();
    let pair = |attribute: &str| TypeRow {
        attribute_names: Some(vec![attribute.to_owned()]),
        attribute_types: Some(vec![100_001]),
        ..row(100_000, "pair")
    };
    types.extend([pair("a"), domain(100_001, 100_002), domain(100_002, 23)]);
    assert_eq!(
        written(&types.get(100_000).unwrap(), "(1)").unwrap(),
        r#"{"a":1}"#
    );

    types.extend([pair("b"), domain(100_001, 25)]);
    assert_eq!(
        written(&types.get(100_000).unwrap(), "(1)").unwrap(),
        r#"{"b":"1"}"#
    );
}

#[test]
fn a_built_in_type_cannot_be_replaced() {
    let mut types = TypeCatalog::new();
    types.extend([row(23, "mine")]);
    assert_eq!(
        (types.get(23).as_deref(), types.name(23)),
        (Some(&Type::Integer), Some("int4"))
    );
}

#[test]
fn circles_and_missing_parts_become_text() {
    let mut types = TypeCatalog::new();
    types.extend([
        domain(1_000_000, 1_000_001),
        domain(1_000_001, 1_000_000),
        domain(1_000_002, 1_000_003),
    ]);
    for oid in 1_000_000..1_000_003 {
        assert_eq!(types.get(oid).as_deref(), Some(&Type::Text), "{oid}");
    }
}

#[test]
fn a_type_nests_no_deeper_than_the_limit_however_it_is_added() {
    fn levels(kind: &Type) -> usize {
        match kind {
            Type::Array { element, .. } => 1 + levels(element),
            _ => 1,
        }
    }
    let arrays = (0..100).map(|level| TypeRow {
        element: Some(if level == 0 { 23 } else { 1_000_000 + level - 1 }),
        ..row(1_000_000 + level, "array")
    });
    let mut at_once = TypeCatalog::new();
    at_once.extend(arrays.clone());
    let mut one_by_one = TypeCatalog::new();
    arrays.for_each(|array| one_by_one.extend([array]));
    for types in [at_once, one_by_one] {
        let deepest = (1_000_000..1_000_100)
            .filter_map(|oid| types.get(oid))
            .map(|kind| levels(&kind))
            .max();
        assert_eq!(deepest, Some(MAX_LEVELS));
    }
}

#[test]
fn hstore_is_known_by_its_extension_and_not_by_its_name() {
    let mut types = TypeCatalog::new();
    types.extend([
        TypeRow {
            extension: Some("hstore".to_owned()),
            ..row(100_000, "hstore")
        },
        row(100_001, "hstore"),
    ]);
    assert_eq!(types.get(100_000).as_deref(), Some(&Type::Hstore));
    assert_eq!(types.get(100_001).as_deref(), Some(&Type::Text));
}

#[tokio::test]
async fn the_built_in_names_and_arrays_are_those_of_postgres() {
    let database = Postgres::shared().await.database().await;
    let client = database.client().await;
    let rows = client
        .query(
            "select t.oid, t.typname::text as name, e.oid as element
               from pg_type as t left join pg_type as e on e.typarray = t.oid and t.typarray = 0
              where t.oid < 10000 and (t.typtype in ('r', 'm')
                 or t.typtype = 'b' and (e.oid is null or e.typtype in ('b', 'r', 'm')))",
            &[],
        )
        .await
        .unwrap();
    assert!(rows.len() > 100);
    let types = TypeCatalog::new();
    for row in rows {
        let (oid, name, element): (u32, String, Option<u32>) = (row.get(0), row.get(1), row.get(2));
        assert_eq!(types.name(oid), Some(name.as_str()), "{oid}");
        if let Some(element) = element {
            let Some(Type::Array { element: found, .. }) = types.get(oid).as_deref().cloned() else {
                panic!("{name} is an array")
            };
            assert_eq!(Some(found), types.get(element), "{name}");
        }
    }
}

#[tokio::test]
async fn the_query_brings_a_type_with_everything_it_is_made_of() {
    let database = Postgres::shared().await.database().await;
    let client = database.client().await;
    client
        .batch_execute(
            "create type mood as enum ('sad', 'happy');
             create domain moods as mood[];
             create type inner_pair as (a moods, dropped text, \"b c\" box[]);
             alter type inner_pair drop attribute dropped;
             create table outer_table (id int, pairs inner_pair[], gone int);
             alter table outer_table drop column gone;",
        )
        .await
        .unwrap();
    let oid: u32 = client
        .query_one("select 'outer_table'::regtype::oid", &[])
        .await
        .unwrap()
        .get(0);
    let mut types = TypeCatalog::new();
    types.extend(type_rows(&client, &[oid]).await);
    assert_eq!(types.name(oid), Some("outer_table"));

    let row = client
        .query_one(
            "insert into outer_table values (1, array[row('{happy,sad}', '{(1,1),(0,0);(2,2),(1,1)}')::inner_pair])
             returning outer_table::text",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(
        written(&types.get(oid).unwrap(), row.get(0)).unwrap(),
        r#"{"id":1,"pairs":[{"a":["happy","sad"],"b c":["(1,1),(0,0)","(2,2),(1,1)"]}]}"#
    );
    // Shared, so that a thousand columns of one type cost one.
    assert!(Arc::ptr_eq(&types.get(oid).unwrap(), &types.get(oid).unwrap()));
}

#[tokio::test]
async fn the_query_asks_for_each_type_once_and_passes_over_those_that_are_gone() {
    let database = Postgres::shared().await.database().await;
    let client = database.client().await;
    assert_eq!(type_rows(&client, &[23, 23, 999_999_999]).await.len(), 1);
    assert_eq!(type_rows(&client, &[]).await.len(), 0);
}
