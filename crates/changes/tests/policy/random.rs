//! Random policies, most of them understood, on random rows for random claims.
//!
//! `WALCAST_RANDOM_POLICIES` is how many are tried, `WALCAST_RANDOM_SEED` which ones.

use crate::bench::{Bench, OTHER, TEXT_HELPERS, USER};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::{Union, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::collections::HashMap;
use walcast_changes::policy::{Access, ClaimsView, Verdict};

const DEFAULT_POLICIES: usize = 2_000;
/// Policies tried on the same rows and claims.
const ROUND: usize = 50;

/// What Postgres says of every row for every identity: for each claims the ids of the rows it shows.
const VERDICTS: &str = "
    create function public.verdicts(identities text[]) returns table (identity int, seen int[]) language plpgsql as $$
    declare
      row_id int;
      is_seen boolean;
    begin
      for identity in 1 .. cardinality(identities) loop
        begin
          perform set_config('request.jwt.claims', identities[identity], true), set_config('role', 'authenticated', true);
          select coalesce(array_agg(id), '{}') into seen from public.t;
          perform set_config('role', 'none', true);
        exception when others then seen := null;
        end;
        if seen is null then
          -- What raises for one row may not for another.
          seen := '{}';
          foreach row_id in array array(select id from public.t) loop
            begin
              perform set_config('request.jwt.claims', identities[identity], true), set_config('role', 'authenticated', true);
              select exists (select from public.t where id = row_id) into is_seen;
              perform set_config('role', 'none', true);
              if is_seen then seen := seen || row_id; end if;
            exception when others then null;
            end;
          end loop;
        end if;
        return next;
      end loop;
    end $$;";

fn one_of(texts: &[&str]) -> impl Strategy<Value = String> + Clone + use<> {
    select(texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
}

/// Mostly one of these, sometimes any.
fn mostly(texts: &[&str], any: &(impl Strategy<Value = String> + Clone + 'static)) -> BoxedStrategy<String> {
    Union::new_weighted(vec![(5, one_of(texts).boxed()), (1, any.clone().boxed())]).boxed()
}

/// A boolean expression as an application may write it, mostly within the grammar.
fn condition() -> impl Strategy<Value = String> {
    let literal = format!("'{USER}'::uuid");
    let uuid = one_of(&[
        "owner",
        "auth.uid()",
        "(select auth.uid())",
        &literal,
        "(auth.jwt() ->> 'sub')::uuid",
        "(auth.jwt() ->> 'any')::uuid",
        "org::uuid",
        "(current_setting('request.jwt.claims', true)::jsonb ->> 'sub')::uuid",
        "nullif(current_setting('request.jwt.claim.sub', true), '')::uuid",
        "coalesce(nullif(current_setting('request.jwt.claim.sub', true), '')::uuid, auth.uid())",
        "coalesce(owner, auth.uid())",
        "nullif(owner, auth.uid())",
    ]);
    let text = one_of(&[
        "org",
        "v",
        "v::text",
        "'a'",
        "null::text",
        "owner::text",
        "n::text",
        "flag::text",
        "auth.role()",
        "auth.email()",
        "(auth.jwt() ->> 'org')",
        "(auth.jwt() ->> 'any')",
        "(auth.jwt() ->> 'missing')",
        "(auth.jwt() -> 'app_metadata' ->> 'org')",
        "(auth.jwt() #>> '{app_metadata,org}')",
        "(auth.jwt() #> '{app_metadata,team}' ->> 'name')",
        "(current_setting('request.jwt.claims', true)::json ->> 'org')",
        "(current_setting('request.jwt.claims', true)::json -> 'app_metadata' ->> 'any')",
        "current_setting('request.jwt.claim.sub', true)",
        "coalesce(org, 'a')",
        "coalesce(null, org)",
        "nullif(org, 'b')",
        "nullif('a', org)",
        "coalesce(auth.jwt() ->> 'org', v)",
    ]);
    let number = one_of(&[
        "n",
        "big",
        "1",
        "-1",
        "null::int",
        "5000000000",
        "flag::int",
        "org::int",
        "(auth.jwt() ->> 'n')::int",
        "(auth.jwt() ->> 'any')::bigint",
        "(auth.jwt() ->> 'any')::smallint",
        "big::int",
        "n::smallint",
        "coalesce(n, 0)",
        "nullif(n, 1)",
    ]);
    let truth = one_of(&[
        "flag",
        "true",
        "false",
        "null::boolean",
        "n::boolean",
        "org::boolean",
        "(auth.jwt() ->> 'flag')::boolean",
        "(auth.jwt() ->> 'any')::boolean",
        "coalesce(flag, (auth.jwt() ->> 'flag')::boolean, false)",
    ]);
    let equality = one_of(&["=", "<>", "is distinct from", "is not distinct from"]);
    let order = one_of(&["=", "<>", "<", "<=", ">", ">=", "is distinct from"]);
    let is_null = one_of(&["is null", "is not null"]);
    let lists_of_texts = one_of(&[
        "in ('a', 'b')",
        "not in ('a', 'b')",
        "in (org, v)",
        "= any ('{a,b,true}')",
        "<> all ('{a,b}')",
        "in (auth.jwt() ->> 'org', 'a')",
    ]);
    let lists_of_numbers = one_of(&["in (1, 5)", "not in (0, 1)", "= any ('{1,7}')", "in (n, big)"]);
    let lists_of_ids = one_of(&[
        &format!("= any (array[{literal}, owner])"),
        &format!("= any (array[{literal}, auth.uid()])"),
        &format!("= any ('{{{USER},{OTHER}}}')"),
        "in (owner, auth.uid())",
        "not in (owner, auth.uid())",
    ]);
    // Claims compared with each other are left to Postgres.
    let id_of_row = mostly(
        &[
            "owner",
            "owner",
            "coalesce(owner, auth.uid())",
            "nullif(owner, auth.uid())",
        ],
        &uuid,
    );
    let text_of_row = mostly(
        &[
            "org",
            "v",
            "owner::text",
            "n::text",
            "flag::text",
            "coalesce(org, 'a')",
            "nullif(org, 'b')",
        ],
        &text,
    );
    let number_of_row = mostly(
        &[
            "n",
            "big",
            "flag::int",
            "org::int",
            "n::smallint",
            "coalesce(n, 0)",
        ],
        &number,
    );
    let truth_of_row = mostly(&["flag", "n::boolean", "org::boolean"], &truth);
    let within = prop_oneof![
        4 => (id_of_row, equality.clone(), uuid.clone()).prop_map(|(a, o, b)| format!("{a} {o} {b}")),
        4 => (text_of_row, equality.clone(), text.clone()).prop_map(|(a, o, b)| format!("{a} {o} {b}")),
        4 => (number_of_row, order, number.clone()).prop_map(|(a, o, b)| format!("{a} {o} {b}")),
        1 => (truth_of_row, equality, truth.clone()).prop_map(|(a, o, b)| format!("({a}) {o} ({b})")),
        1 => (Union::new([uuid.clone(), text.clone(), number.clone()]), is_null)
            .prop_map(|(a, test)| format!("{a} {test}")),
        2 => (text, lists_of_texts).prop_map(|(a, list)| format!("{a} {list}")),
        1 => (number, lists_of_numbers).prop_map(|(a, list)| format!("{a} {list}")),
        1 => (uuid, lists_of_ids).prop_map(|(a, list)| format!("{a} {list}")),
        2 => truth,
    ];
    let outside = one_of(&[
        "org like 'a%'",
        "exists (select 1 where n = 1)",
        "length(org) = 1",
        "now() > '2000-01-01'",
        "random() >= 0",
        "org || 'x' = 'ax'",
        "n + 1 = 2",
        "org < 'b'",
        "case when flag then true else n = 1 end",
        "current_setting('app.org', true) is null",
        "(auth.jwt() -> 0 ->> 'a') is null",
        "auth.jwt() ? 'org'",
        "current_user = 'authenticated'",
    ]);
    let leaf = prop_oneof![40 => within, 1 => outside];
    leaf.prop_recursive(3, 12, 3, |inner| {
        let test = one_of(&[
            "true",
            "not true",
            "false",
            "not false",
            "unknown",
            "not unknown",
            "null",
        ]);
        prop_oneof![
            3 => prop::collection::vec(inner.clone(), 2..4)
                .prop_map(|parts| format!("(({}))", parts.join(") and ("))),
            3 => prop::collection::vec(inner.clone(), 2..4)
                .prop_map(|parts| format!("(({}))", parts.join(") or ("))),
            1 => inner.clone().prop_map(|part| format!("not ({part})")),
            1 => (inner.clone(), test).prop_map(|(part, test)| format!("({part}) is {test}")),
            1 => (inner.clone(), inner).prop_map(|(a, b)| format!("coalesce({a}, {b})")),
        ]
    })
}

/// One to three policies, as the statements that make them.
fn policies() -> impl Strategy<Value = String> {
    let policy = (
        condition(),
        prop::bool::weighted(0.2),
        one_of(&["all", "select", "select", "delete"]),
    );
    prop::collection::vec(policy, 1..4).prop_map(|policies| {
        policies
            .iter()
            .enumerate()
            .map(|(number, (using, is_restrictive, command))| {
                let kind = if *is_restrictive && number > 0 {
                    "restrictive"
                } else {
                    "permissive"
                };
                format!("create policy p{number} on public.t as {kind} for {command} using ({using});")
            })
            .collect()
    })
}

fn rows() -> impl Strategy<Value = String> {
    let null = || Just("null".to_owned());
    let text = || {
        prop_oneof![
            4 => one_of(&["'a'", "'b'"]),
            1 => one_of(&["''", "'5'", "'true'", "'f'", "' 1'", "'authenticated'", "'a@b.c'", "'é'"]),
            1 => Just(format!("'{USER}'")),
            1 => null()
        ]
    };
    let owner = prop_oneof![3 => Just(format!("'{USER}'")), 2 => Just(format!("'{OTHER}'")), 1 => null()];
    let n = one_of(&["-1", "0", "1", "2", "5", "40000", "null"]);
    let big = one_of(&["-1", "0", "1", "5", "5000000000", "null"]);
    let flag = one_of(&["true", "false", "null"]);
    prop::collection::vec((owner, text(), n, big, flag, text()), 8).prop_map(|rows| {
        let rows: Vec<String> = rows
            .iter()
            .enumerate()
            .map(|(id, (owner, org, n, big, flag, v))| {
                format!("({id}, {owner}, {org}, {n}, {big}, {flag}, substr({v}, 1, 20))")
            })
            .collect();
        format!(
            "truncate public.t; insert into public.t values {}",
            rows.join(", ")
        )
    })
}

/// Claims as JSON text; some are no object, or nothing Postgres can read.
fn claims() -> impl Strategy<Value = String> {
    let user = format!("\"{USER}\"");
    let other = format!("\"{}\"", OTHER.to_uppercase());
    let braced = format!("\"{{{USER}}}\"");
    let bare = format!("\"{}\"", USER.replace('-', ""));
    let sub = prop_oneof![
        5 => Just(user.clone()),
        2 => Just(other),
        3 => one_of(&["null", "\"x\"", "5", "\"\"", &braced, &bare]),
    ];
    let any = one_of(&[
        "5",
        "-1",
        "0",
        "-0",
        "1.50",
        "1e2",
        "40000",
        "99999999999",
        "99999999999999999999",
        "\"5\"",
        "\" 5\"",
        "\"+5\"",
        "\"5.0\"",
        "\"0x5\"",
        "\"99999999999\"",
        "true",
        "false",
        "\"t\"",
        "\"TRUE\"",
        "\"yes\"",
        "\"no\"",
        "null",
        "\"\"",
        "{\"a\":1}",
        "[1]",
        "\"a\"",
        "\"b\"",
        "\"\\u00e9\"",
        "\"\\ud83d\\ude00\"",
        "\"\\u0000\"",
        "\"a\\\"b\"",
        &user,
    ]);
    let org = prop_oneof![3 => one_of(&["\"a\"", "\"b\""]), 2 => any.clone()];
    let object = (sub, org, any.clone(), any.clone(), any).prop_map(|(sub, org, any, n, team)| {
        format!(
            r#"{{"role":"authenticated","sub":{sub},"org":{org},"any":{any},"n":{n},"flag":"true","email":"a@b.c",
                "app_metadata":{{"org":{org},"any":{team},"team":{{"name":{team}}}}}}}"#
        )
    });
    let odd = one_of(&[
        "{}",
        "[]",
        "null",
        "5",
        "\"text\"",
        "",
        "{",
        r#"{"org":"a","org":"b"}"#,
        r#"{"app_metadata":["org"]}"#,
        r#"{"app_metadata":"org"}"#,
    ]);
    prop_oneof![8 => object, 1 => odd]
}

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

#[derive(Debug, Default)]
struct Tally {
    compiled: usize,
    left: usize,
    refused: usize,
    decided: usize,
    shown: usize,
    asked: usize,
}

#[tokio::test]
async fn random_policies_are_never_decided_otherwise_than_by_postgres() {
    let policies_to_try = setting("WALCAST_RANDOM_POLICIES", DEFAULT_POLICIES);
    let seed = u8::try_from(setting("WALCAST_RANDOM_SEED", 7)).unwrap();
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let bench = Bench::new(&format!("grant select on t to authenticated; {VERDICTS}")).await;
    let mut tally = Tally::default();
    for round in 0..policies_to_try.div_ceil(ROUND) {
        if round == policies_to_try.div_ceil(ROUND) / 2 {
            // The helpers as the platform has shipped them: text that is looked up when it runs.
            bench.client.batch_execute(TEXT_HELPERS).await.unwrap();
        }
        let insert = rows().new_tree(&mut runner).unwrap().current();
        bench.client.batch_execute(&insert).await.unwrap();
        let identities = prop::collection::vec(claims(), 12)
            .new_tree(&mut runner)
            .unwrap()
            .current();
        for _ in 0..ROUND {
            let create = policies().new_tree(&mut runner).unwrap().current();
            try_policies(&bench, &create, &identities, &mut tally).await;
        }
    }
    eprintln!("{tally:?}");
    // The property must not hold for want of decisions.
    assert!(tally.compiled > 3 * tally.left, "{tally:?}");
    assert!(2 * tally.decided > 3 * tally.asked, "{tally:?}");
    assert!(tally.shown > tally.decided / 10, "{tally:?}");
}

async fn try_policies(bench: &Bench, create: &str, identities: &[String], tally: &mut Tally) {
    let drop = "drop policy if exists p0 on public.t; drop policy if exists p1 on public.t; drop policy if exists p2 on public.t;";
    // Some combinations are no valid SQL (a literal of the wrong type).
    if bench
        .client
        .batch_execute(&format!("{drop} {create}"))
        .await
        .is_err()
    {
        tally.refused += 1;
        return;
    }
    let access = bench.access("authenticated").await;
    if matches!(access, Access::Ask { .. }) {
        tally.left += 1;
        return;
    }
    tally.compiled += 1;
    let answers = bench
        .client
        .query(
            "select seen from public.verdicts($1) order by identity",
            &[&identities],
        )
        .await
        .unwrap();
    let rows = bench.rows().await;
    assert_eq!(answers.len(), identities.len());
    for (claims, answer) in identities.iter().zip(answers) {
        let seen: Vec<i32> = answer.get(0);
        let view = ClaimsView::new(claims);
        for (id, row) in &rows {
            let verdict = match &access {
                Access::Compiled(program) => program.evaluate(row, &view),
                _ => Verdict::Hidden,
            };
            if verdict == Verdict::Ask {
                tally.asked += 1;
                continue;
            }
            tally.decided += 1;
            let is_seen = seen.contains(id);
            tally.shown += usize::from(is_seen);
            let values: &HashMap<String, Option<String>> = &row.0;
            assert_eq!(
                verdict == Verdict::Visible,
                is_seen,
                "{verdict:?} under {create}\nrow {values:?}\nclaims {claims}"
            );
        }
    }
}
