//! Values of every kind of type arrive as `to_jsonb` has them, user-defined types, too (`database.md 2.10`).

use crate::scene::{Scene, all, service, table};
use serde_json::Value;

const TYPES: &str = "
    create type mood as enum ('sad', 'so, so', 'ok');
    create domain positive as int check (value > 0);
    create domain moods as mood[];
    create type place as (street text, number positive, tags text[]);
    create type trip as (origin place, stops place[], mood mood);
    create domain home as place check (coalesce((value).street, 'x') <> '');
    create type span as range (subtype = positive);
";

/// A column's type and some of its values.
const COLUMNS: &[(&str, &[&str])] = &[
    ("mood", &["'so, so'", "'ok'"]),
    ("positive", &["7"]),
    ("moods", &["'{sad,\"so, so\",null}'", "'{}'"]),
    ("mood[]", &["'{{ok,sad},{null,ok}}'"]),
    ("positive[]", &["'{1,2}'", "'[0:1]={1,2}'"]),
    (
        "place",
        &[
            "row('High \"Street\", (1)', 4, '{a,\"b c\",null}')",
            "row(null, null, null)",
            "row('', 1, '{}')",
        ],
    ),
    (
        "place[]",
        &["array[row('a', 1, '{}'), null, row('{\"b\"}', 2, '{\\\\}')]::place[]"],
    ),
    (
        "trip",
        &[
            "row(row('a', 1, null), array[row('b,c', 2, '{\"\"}')]::place[], 'ok')",
            "row(null, '{}', null)",
        ],
    ),
    ("home", &["row('here', null, '{x}')"]),
    ("home[]", &["array[row('here', 3, '{x}')::home]"]),
    ("int4range", &["'[1,5)'", "'empty'", "'(,)'"]),
    ("span", &["'[2,9]'"]),
    ("int4range[]", &["'{\"[1,3)\",\"[5,)\"}'"]),
    ("int8multirange", &["'{[1,3),[5,9)}'", "'{}'"]),
    ("numeric(10,2)[]", &["'{1.10,-0.5}'"]),
    ("boolean[]", &["'{t,f,null}'"]),
    ("jsonb", &["'{\"a\": [1, null, {\"b\": \"\\u00e9\"}]}'", "'null'"]),
    ("jsonb[]", &["array['{\"a\": 1}', '\"x\"']::jsonb[]"]),
    ("uuid[]", &["'{aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa}'"]),
    ("date", &["'2024-02-29'"]),
    ("timestamp[]", &["'{2024-02-29 01:02:03.5}'"]),
    ("interval", &["'1 year 2 days 03:04:05'"]),
    ("inet", &["'10.0.0.1/8'"]),
    ("point", &["'(1,2.5)'"]),
    ("bit varying", &["'1011'"]),
    ("text", &["E'a\\tb\\\\c\"d\\n\\u2028'"]),
];

#[tokio::test]
async fn values_of_every_kind_of_type_arrive_as_to_jsonb_has_them() {
    let columns: Vec<String> = COLUMNS
        .iter()
        .enumerate()
        .map(|(at, (kind, _))| format!("c{at} {kind}"))
        .collect();
    let columns = format!("id int primary key, {}", columns.join(", "));
    let scene = Scene::new(&format!(
        "{TYPES} {} alter table t replica identity full;",
        table("t", &columns)
    ))
    .await;
    let mut listener = scene.listen(service(), all("t")).await;
    let client = scene.database.client().await;
    let mut id = 0;
    for (at, (kind, values)) in COLUMNS.iter().enumerate() {
        for value in *values {
            id += 1;
            let insert =
                format!("insert into t (id, c{at}) values ({id}, {value}) returning to_jsonb(t)::text");
            let row = client.query_one(&insert, &[]).await.unwrap();
            let expected: Value = serde_json::from_str(row.get(0)).unwrap();
            let change = listener.change().await;
            assert_eq!(change["record"], expected, "{kind}: {value}");
            scene.run(&format!("delete from t where id = {id}")).await;
            assert_eq!(listener.change().await["old_record"], expected, "{kind}: {value}");
        }
    }
}
