//! An explanation says what is delivered, and which check stands in the way.

use crate::scene::{ALICE, BOB, Listener, OWNS, Scene, filtered, publish, role, service, table, user};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use std::sync::Arc;
use walcast_changes::{
    CheckName, Claims, Decided, ExplainError, Explanation, Inquiry, Options, TokenRefused, Visibility,
};

fn inquiry(claims: Claims, entry: Value, key: Value) -> Inquiry {
    let fields = |value: Value| value.as_object().cloned();
    Inquiry {
        claims: Arc::new(claims),
        token_refused: None,
        entry: fields(entry).unwrap(),
        key: fields(key),
    }
}

async fn explain(scene: &Scene, claims: Claims, entry: Value, key: Value) -> Explanation {
    let inquiry = inquiry(claims, entry, key);
    scene.changes.explain(&inquiry).await.unwrap()
}

/// The first check that says no, and what it says.
fn first_no(explanation: &Explanation) -> Option<(CheckName, String, Option<String>)> {
    let check = explanation
        .checks
        .iter()
        .find(|check| check.passed == Some(false))?;
    Some((check.check, check.detail.clone(), check.remedy.clone()))
}

fn entry(table: &str) -> Value {
    json!({ "event": "*", "schema": "public", "table": table })
}

#[tokio::test]
async fn the_check_that_stands_in_the_way_is_named_with_its_remedy() {
    let setup = format!(
        "{} {} {} {} {} {}
         create table unpublished (id int primary key);
         create view seen as select 1 as id;
         alter table own enable row level security;
         create policy own on own for select to authenticated using (owner = auth.uid());
         alter table hidden enable row level security;
         create policy visitors on hidden for select to anon using (true);
         create table keyed (id int primary key, body text);
         revoke all on keyed from authenticated; grant select (body) on keyed to authenticated;
         alter publication supabase_realtime add table keyed;
         insert into plain values (1, 'open', null);
         insert into own values (1, '{ALICE}');
         insert into hidden values (1); insert into keyed values (1, 'x'); insert into keyless values (1);",
        table("plain", "id int primary key, status text, amount int"),
        table("own", "id int primary key, owner uuid"),
        table("hidden", "id int primary key"),
        table("keyless", "id int"),
        "create table filtered_out (id int primary key); insert into filtered_out values (1), (2);
         grant select on filtered_out to authenticated;
         alter publication supabase_realtime add table filtered_out where (id > 1);",
        "create table secret (id int primary key, pin int);
         revoke all on secret from authenticated; grant select (id) on secret to authenticated;
         alter publication supabase_realtime add table secret; insert into secret values (1, 2);",
    );
    let scene = Scene::new(&setup).await;
    let one = || json!({ "id": 1 });
    let with = |table: &str, key: &str, value: Value| {
        let mut entry = entry(table);
        entry[key] = value;
        entry
    };
    use CheckName::{
        Columns, Filter, FilterValid, Policies, PrimaryKey, Publication, Row, RowSecurity, SelectRight,
        Table, Token,
    };
    let alice = || user(ALICE);
    let cases = [
        (
            role("nobody", ALICE),
            entry("plain"),
            one(),
            Token,
            "there is no role \"nobody\"",
            "create role nobody",
        ),
        (
            alice(),
            entry("nothing"),
            one(),
            Table,
            "there is no table public.nothing",
            "",
        ),
        (
            alice(),
            entry("Plain"),
            one(),
            Table,
            "table \"plain\" is published and is spelt nearly so",
            "",
        ),
        (alice(), entry("seen"), one(), Table, "public.seen is a view", ""),
        (
            alice(),
            entry("unpublished"),
            one(),
            Publication,
            "is not in publication supabase_realtime",
            "alter publication supabase_realtime add table public.unpublished",
        ),
        (
            alice(),
            entry("filtered_out"),
            one(),
            Publication,
            "the row does not pass the row filter",
            "drop table public.filtered_out",
        ),
        (
            alice(),
            entry("keyless"),
            one(),
            PrimaryKey,
            "has no primary key",
            "add column id_1 bigint",
        ),
        (
            alice(),
            entry("keyed"),
            one(),
            SelectRight,
            "primary key column id",
            "grant select (id)",
        ),
        (
            alice(),
            with("secret", "select", json!(["pin"])),
            one(),
            Columns,
            "invalid column for select pin",
            "grant select",
        ),
        (
            alice(),
            with("plain", "filter", json!("amount=eq.much")),
            one(),
            FilterValid,
            "invalid input syntax for type integer: \"much\"",
            "correct the filter",
        ),
        (
            alice(),
            entry("plain"),
            json!({ "id": 7 }),
            Row,
            "there is no row with this key",
            "",
        ),
        (
            alice(),
            with("plain", "filter", json!("status=eq.Open")),
            one(),
            Filter,
            "the row does not pass: status=eq.Open, where the row has another value",
            "case counts",
        ),
        (
            alice(),
            with("plain", "filter", json!("amount=gt.1,status=match.^o")),
            one(),
            Filter,
            "the row does not pass: amount=gt.1, where the row has NULL",
            "",
        ),
        (
            alice(),
            entry("hidden"),
            one(),
            RowSecurity,
            "no policy lets role \"authenticated\" select from it, so every INSERT and UPDATE is hidden; create one, \
             with the condition that says which rows in place of true; for other roles there are \"visitors\" (anon)",
            "create policy",
        ),
        (
            user(BOB),
            entry("own"),
            one(),
            Policies,
            "no permissive policy holds: \"own\"",
            "correct the policies",
        ),
    ];
    for (claims, entry, key, name, detail, remedy) in cases {
        let explanation = explain(&scene, claims, entry.clone(), key).await;
        let (check, told, mends) =
            first_no(&explanation).unwrap_or_else(|| panic!("{entry} passes: {explanation:?}"));
        assert_eq!(check, name, "{entry}: {explanation:?}");
        assert!(told.contains(detail), "{entry}: {told}");
        assert!(
            mends.unwrap_or_default().contains(remedy),
            "{entry}: {explanation:?}"
        );
        assert_eq!(explanation.visible, Some(false), "{entry}: {explanation:?}");
    }
    for (claims, entry) in [
        (alice(), entry("plain")),
        (alice(), entry("own")),
        (service(), entry("own")),
        (role("anon", ""), entry("hidden")),
        (alice(), entry("secret")),
        (alice(), with("plain", "filter", json!("status=match.^o"))),
    ] {
        let explanation = explain(&scene, claims, entry.clone(), one()).await;
        assert_eq!(explanation.visible, Some(true), "{entry}: {explanation:?}");
        let undecided = explanation.checks.iter().find(|check| check.passed != Some(true));
        assert!(undecided.is_none(), "{entry}: {undecided:?}");
    }
}

#[tokio::test]
async fn a_refused_token_is_the_first_no_and_all_else_is_judged_nevertheless() {
    let scene = Scene::new(&format!(
        "{} alter table t enable row level security;
         create policy p on t using (owner = auth.uid()); insert into t values (1, '{BOB}');",
        table("t", "id int primary key, owner uuid")
    ))
    .await;
    let inquiry = Inquiry {
        token_refused: Some(TokenRefused {
            reason: "Token has expired 5 seconds ago".to_owned(),
            remedy: "sign in again".to_owned(),
        }),
        ..inquiry(user(ALICE), entry("t"), json!({ "id": 1 }))
    };
    let explanation = scene.changes.explain(&inquiry).await.unwrap();
    assert_eq!(explanation.visible, Some(false));
    let noes: Vec<CheckName> = explanation
        .checks
        .iter()
        .filter(|check| check.passed == Some(false))
        .map(|check| check.check)
        .collect();
    assert_eq!(noes, [CheckName::Token, CheckName::Policies]);
    assert_eq!(explanation.checks[0].remedy.as_deref(), Some("sign in again"));
}

#[tokio::test]
async fn without_a_key_only_what_a_subscription_is_told_is_judged() {
    let scene = Scene::new(&format!(
        "{} {} alter table t enable row level security; create policy p on t using (owner = auth.uid());
         alter table u enable row level security;",
        table("t", "id int primary key, owner uuid"),
        table("u", "id int primary key"),
    ))
    .await;
    let explanation = explain(&scene, user(ALICE), entry("t"), Value::Null).await;
    assert_eq!(explanation.visible, None);
    assert_eq!(first_no(&explanation), None);
    let policy = explanation.policies.first().unwrap();
    assert_eq!((policy.result, policy.raised.as_deref()), (None, None));
    let explanation = explain(&scene, user(ALICE), entry("u"), Value::Null).await;
    assert_eq!(explanation.visible, Some(false));
}

#[tokio::test]
async fn each_policy_says_what_it_makes_of_the_row() {
    let scene = Scene::new(&format!(
        "{OWNS} {} create table members (room int, who uuid);
         grant select on members to authenticated; insert into members values (5, '{ALICE}');
         alter table rooms enable row level security;
         create policy a_own on rooms for select to authenticated using (owner = auth.uid());
         create policy b_member on rooms using (exists (select from members m where m.room = rooms.id and m.who = auth.uid()));
         create policy c_asked on rooms using (owns(owner));
         create policy d_raises on rooms using (1 / (id - 5) > 0);
         create policy e_claim on rooms using ((auth.jwt() ->> 'org') = body);
         create policy f_row on rooms as restrictive using (to_jsonb(rooms.*) ->> 'body' <> 'x');
         insert into rooms values (5, '{BOB}', 'x'), (6, '{BOB}', 'y');",
        table("rooms", "id int primary key, owner uuid, body text")
    ))
    .await;
    let explanation = explain(&scene, user(ALICE), entry("rooms"), json!({ "id": 5 })).await;
    let said: Vec<(&str, Option<bool>, Decided, Option<&str>)> = explanation
        .policies
        .iter()
        .map(|policy| {
            let raised = policy.raised.as_deref();
            (policy.name.as_str(), policy.result, policy.decided, raised)
        })
        .collect();
    assert_eq!(
        said,
        [
            ("a_own", Some(false), Decided::Compiled, None),
            ("b_member", Some(true), Decided::Asked, None),
            ("c_asked", Some(false), Decided::Asked, None),
            ("d_raises", None, Decided::Asked, Some("division by zero")),
            ("e_claim", Some(false), Decided::Compiled, None),
            ("f_row", Some(false), Decided::Asked, None),
        ]
    );
    assert_eq!(explanation.visible, Some(false));
    let explanation = explain(&scene, user(BOB), entry("rooms"), json!({ "id": 6 })).await;
    assert_eq!(explanation.visible, Some(true), "{explanation:?}");
}

#[tokio::test]
async fn a_policy_that_raises_for_the_claims_says_so_in_postgres_words() {
    let scene = Scene::new(&format!(
        "{} alter table t enable row level security; create policy p on t using (owner = auth.uid());
         insert into t values (1, '{ALICE}');",
        table("t", "id int primary key, owner uuid")
    ))
    .await;
    let explanation = explain(&scene, user("nobody"), entry("t"), json!({ "id": 1 })).await;
    let policy = explanation.policies.first().unwrap();
    assert_eq!(policy.decided, Decided::Compiled);
    assert_eq!(policy.result, None);
    assert_eq!(
        policy.raised.as_deref(),
        Some("invalid input syntax for type uuid: \"nobody\"")
    );
    let (check, detail, _) = first_no(&explanation).unwrap();
    assert_eq!(
        (check, detail.as_str()),
        (
            CheckName::Policies,
            "no permissive policy holds: \"p\" (it raises)"
        )
    );
}

#[tokio::test]
async fn what_cannot_be_explained_is_refused_with_the_reason() {
    let scene = Scene::new(&table("t", "id int, part text, primary key (id, part)")).await;
    let cases = [
        (
            json!({ "schema": "public", "table": "*" }),
            json!({ "id": 1 }),
            "more than one table",
        ),
        (json!({}), json!({ "id": 1 }), "No subscription params"),
        (
            entry("t"),
            json!({ "id": 1 }),
            "each column of the primary key of public.t and nothing else: id, part",
        ),
        (entry("t"), json!({ "id": 1, "part": null }), "id, part"),
        (entry("t"), json!({ "id": 1, "part": "a", "more": 1 }), "id, part"),
        (
            entry("t"),
            json!({ "id": "x", "part": "a" }),
            "invalid input syntax for type integer: \"x\"",
        ),
        (
            entry("t"),
            json!({ "id": "1'; drop table t; --", "part": "a" }),
            "invalid input syntax",
        ),
    ];
    for (entry, key, expected) in cases {
        let error = scene
            .changes
            .explain(&inquiry(user(ALICE), entry, key))
            .await
            .unwrap_err();
        assert!(
            matches!(
                error,
                ExplainError::Wildcard | ExplainError::Binding(_) | ExplainError::Key(_)
            ),
            "{error}"
        );
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn generated_columns_and_composite_keys_are_judged_as_they_are_delivered() {
    let scene = Scene::new(&format!(
        "{} alter table t enable row level security; create policy p on t using (shout = 'AY');
         insert into t values (1, 'a');",
        table(
            "t",
            "id int, part text, shout text generated always as (upper(part) || 'Y') stored, primary key (id, part)"
        )
    ))
    .await;
    let mut entry = entry("t");
    entry["filter"] = json!("shout=eq.AY");
    let explanation = explain(&scene, user(ALICE), entry, json!({ "id": 1, "part": "a" })).await;
    assert_eq!(explanation.visible, Some(true), "{explanation:?}");
}

/// What a round is about: a table with policies, rows, and those who listen.
#[derive(Clone, Debug)]
struct Round {
    policies: Vec<(String, bool, &'static str)>,
    filters: Vec<String>,
    listeners: Vec<(usize, usize)>,
    grants: &'static str,
}

fn rounds() -> impl Strategy<Value = Round> {
    let condition = select(vec![
        "owner = auth.uid()",
        "(select auth.uid()) = owner or body is null",
        "owns(owner)",
        "body = auth.jwt() ->> 'org'",
        "exists (select from friends f where f.who = auth.uid() and f.row = t.id)",
        "n > 1",
        "n > 1 and owner is not null",
        "length(body) > 2",
        "n::text = auth.jwt() ->> 'sub'",
        "10 / n > 2",
        "true",
        "false",
    ]);
    let to = select(vec!["public", "authenticated", "anon", "authenticated, anon"]);
    let policy = (condition, proptest::bool::weighted(0.8), to)
        .prop_map(|(condition, permissive, to)| (condition.to_owned(), permissive, to));
    let filter = select(vec![
        "",
        "n=eq.2",
        "n=gte.1",
        "body=like.a%",
        "body=match.^[ab]",
        "body=ilike.%B%",
        "n=in.(1,2)",
        "body=is.null",
        "n=not.eq.2",
        "span=gt.1 day",
        "n=eq.1,body=eq.abc",
        "shout=eq.ABC",
    ])
    .prop_map(str::to_owned);
    let grants = select(vec![
        "grant select on t to anon, authenticated",
        "grant select on t to anon, authenticated",
        "grant select (id, n, body, shout, span) on t to anon, authenticated",
        "grant select (n, body, shout, span) on t to authenticated; grant select on t to anon",
    ]);
    let policies = proptest::collection::vec(policy, 1..4);
    let filters = proptest::collection::vec(filter, 3);
    let listeners = proptest::collection::vec((0..5_usize, 0..3_usize), 6);
    (policies, filters, listeners, grants).prop_map(|(policies, filters, listeners, grants)| Round {
        policies,
        filters,
        listeners,
        grants,
    })
}

fn who(number: usize) -> Claims {
    let claims = |role: &str, json: Value| Claims {
        role: role.to_owned(),
        json: json.to_string().into(),
    };
    match number {
        0 => claims(
            "authenticated",
            json!({ "role": "authenticated", "sub": ALICE, "org": "abc" }),
        ),
        1 => claims("authenticated", json!({ "role": "authenticated", "sub": BOB })),
        2 => claims(
            "authenticated",
            json!({ "role": "authenticated", "sub": "2", "org": "b" }),
        ),
        3 => claims("anon", json!({ "role": "anon" })),
        _ => service(),
    }
}

const ROWS: i64 = 6;

/// Whether the UPDATE came with its row, given that a mark follows it.
async fn receives(listener: &mut Listener) -> bool {
    let mut has_row = false;
    loop {
        let message = listener.message().await;
        let data = &message[4]["data"];
        if data["table"] == "mark" {
            return has_row;
        }
        has_row |= data["table"] == "t" && data["errors"].is_null() && data["record"].is_object();
    }
}

async fn explanations_are_what_is_delivered(visibility: Visibility, rounds_total: usize) {
    let options = Options {
        visibility,
        ..Options::default()
    };
    let scene = Scene::with(
        &format!(
            "{OWNS} {} create table friends (who uuid, row int); grant select on friends to anon, authenticated;
             insert into friends values ('{ALICE}', 2), ('{BOB}', 1), ('{BOB}', 4);
             create table t (id int primary key, owner uuid, n int, body text, span interval,
               shout text generated always as (upper(body)) stored);
             alter table t enable row level security; {}
             insert into t values (1, '{ALICE}', 1, 'abc', '1 day'), (2, '{BOB}', 2, 'b', '2 days'), (3, null, 2, null, null),
               (4, '{ALICE}', 0, 'abcd', '30 hours'), (5, '{BOB}', null, 'a', '1 hour'), (6, null, 3, 'ABC', null)",
            table("mark", "id int generated always as identity primary key"),
            publish("t"),
        ),
        options,
    )
    .await;
    let mut runner = TestRunner::new_with_rng(
        Config::default(),
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let (mut shown, mut hidden) = (0, 0);
    for _ in 0..rounds_total {
        let round = rounds().new_tree(&mut runner).unwrap().current();
        let mut setup = "revoke all on t from anon, authenticated; \
             do $$ declare p name; begin for p in select polname from pg_policy where polrelid = 't'::regclass loop
               execute format('drop policy %I on t', p); end loop; end $$; "
            .to_owned();
        setup += &format!("{};", round.grants);
        for (number, (condition, permissive, to)) in round.policies.iter().enumerate() {
            let kind = if *permissive { "permissive" } else { "restrictive" };
            setup +=
                &format!("create policy p{number} on t as {kind} for select to {to} using ({condition});");
        }
        scene.run(&setup).await;
        let mut listeners = Vec::new();
        for (claims, filter) in &round.listeners {
            let filter = &round.filters[*filter];
            let mut entries = filtered("t", filter);
            entries
                .as_array_mut()
                .unwrap()
                .push(json!({ "schema": "public", "table": "mark" }));
            // One whose filter does not fit his rights is no listener.
            if let Ok(listener) = scene.subscribe(who(*claims), entries).await {
                listeners.push((*claims, filter.clone(), listener));
            }
        }
        for id in 1..=ROWS {
            scene
                .run(&format!(
                    "update t set n = n where id = {id}; insert into mark default values"
                ))
                .await;
            for (claims, filter, listener) in &mut listeners {
                let is_delivered = receives(listener).await;
                let entry =
                    json!({ "event": "*", "schema": "public", "table": "t", "filter": filter.as_str() });
                let explanation = explain(&scene, who(*claims), entry, json!({ "id": id })).await;
                assert_eq!(
                    explanation.visible,
                    Some(is_delivered),
                    "{:?} of {round:?}, row {id}, filter {filter}: {explanation:?}",
                    who(*claims)
                );
                let all_pass = explanation.checks.iter().all(|check| check.passed == Some(true));
                assert_eq!(
                    all_pass, is_delivered,
                    "{round:?}, row {id}, filter {filter}: {explanation:?}"
                );
                *(if is_delivered { &mut shown } else { &mut hidden }) += 1;
            }
        }
    }
    assert!(shown > 10 && hidden > 10, "{shown} shown, {hidden} hidden");
}

#[tokio::test]
async fn explanations_are_what_is_delivered_in_mode_compiled() {
    explanations_are_what_is_delivered(Visibility::Compiled, 10).await;
}

#[tokio::test]
async fn explanations_are_what_is_delivered_in_mode_sql() {
    explanations_are_what_is_delivered(Visibility::Sql, 5).await;
}

#[tokio::test]
async fn explanations_are_what_is_delivered_in_mode_verify() {
    explanations_are_what_is_delivered(Visibility::Verify, 5).await;
}
