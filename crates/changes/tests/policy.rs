//! Row level security decided in process is what Postgres itself decides.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test states facts; a broken fact may stop it"
)]

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use sqlx::PgPool;
use std::collections::HashMap;
use tokio_postgres::Client;
use walcast_changes::policy::{self, Access, ClaimsView, Row, Verdict};
use walcast_testkit::{Database, Postgres};

const USER: &str = "11111111-1111-4111-8111-111111111111";
const OTHER: &str = "22222222-2222-4222-8222-222222222222";

const TEXT_HELPERS: &str = "
    create or replace function auth.uid() returns uuid language sql stable as $$
      select
      coalesce(
        nullif(current_setting('request.jwt.claim.sub', true), ''),
        (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')
      )::uuid
    $$;
    create or replace function auth.role() returns text language sql stable as $$
      select coalesce(nullif(current_setting('request.jwt.claim.role', true), ''),
        (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role'))::text;
    $$;
    create or replace function auth.jwt() returns jsonb language sql stable as $$
      select coalesce(nullif(current_setting('request.jwt.claim', true), ''),
        nullif(current_setting('request.jwt.claims', true), ''))::jsonb
    $$;";

/// A fresh database with a table, and ways to ask both sides.
struct Bench {
    database: Database,
    client: Client,
    pool: PgPool,
}

struct TextRow(HashMap<String, Option<String>>);

impl Row for TextRow {
    fn value(&self, column: &str) -> Option<Option<&str>> {
        self.0.get(column).map(Option::as_deref)
    }
}

impl Bench {
    async fn new(setup: &str) -> Self {
        let database = Postgres::shared().await.database().await;
        let client = database.client().await;
        let pool = PgPool::connect(&database.url()).await.unwrap();
        client
            .batch_execute(
                "create table public.t (id int primary key, owner uuid, org text, n int, big bigint, flag boolean, v varchar(20));
                 alter table public.t enable row level security;
                 -- What Postgres says: v for visible, h for hidden or an error.
                 create function public.verdict(role_name text, claims text, row_id int) returns text language plpgsql as $$
                 declare seen boolean;
                 begin
                   begin
                     perform set_config('request.jwt.claims', claims, true), set_config('role', role_name, true);
                     select exists (select from public.t where id = row_id) into seen;
                     perform set_config('role', 'none', true);
                   exception when others then seen := false;
                   end;
                   return case when seen then 'v' else 'h' end;
                 end $$;",
            )
            .await
            .unwrap();
        client.batch_execute(setup).await.unwrap();
        Self {
            database,
            client,
            pool,
        }
    }

    async fn access(&self, role: &str) -> Access {
        let oid: u32 = self
            .client
            .query_one("select 'public.t'::regclass::oid", &[])
            .await
            .unwrap()
            .get(0);
        policy::compile(&policy::load(&self.pool, oid, role).await.unwrap())
    }

    async fn rows(&self) -> Vec<(i32, TextRow)> {
        let columns = ["id", "owner", "org", "n", "big", "flag", "v"];
        // As the stream prints them: by output functions.
        let shown = columns
            .map(|column| format!("case when {column} is not null then format('%s', {column}) end"))
            .join(", ");
        let rows = self
            .client
            .query(&format!("select id, {shown} from public.t order by id"), &[])
            .await
            .unwrap();
        rows.iter()
            .map(|row| {
                let values = columns
                    .iter()
                    .enumerate()
                    .map(|(at, name)| ((*name).to_owned(), row.get(at + 1)))
                    .collect();
                (row.get(0), TextRow(values))
            })
            .collect()
    }

    async fn postgres(&self, role: &str, claims: &str, row: i32) -> Verdict {
        let verdict: String = self
            .client
            .query_one("select public.verdict($1, $2, $3)", &[&role, &claims, &row])
            .await
            .unwrap()
            .get(0);
        if verdict == "v" {
            Verdict::Visible
        } else {
            Verdict::Hidden
        }
    }

    /// What we say of each row, or `None` where Postgres is to be asked about everything.
    async fn ours(&self, role: &str, claims: &str) -> Option<Vec<(i32, Verdict)>> {
        let access = self.access(role).await;
        let view = ClaimsView::new(claims);
        let rows = self.rows().await;
        let verdict = |row: &TextRow| match &access {
            Access::NoRls => Some(Verdict::Visible),
            Access::Hidden => Some(Verdict::Hidden),
            Access::Compiled(program) => Some(program.evaluate(row, &view)),
            Access::Ask { .. } => None,
        };
        rows.iter().map(|(id, row)| Some((*id, verdict(row)?))).collect()
    }
}

fn claims(sub: &str) -> String {
    format!(r#"{{"role":"authenticated","sub":"{sub}"}}"#)
}

/// What must come out: decided here, or left to Postgres.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Expect {
    Decided,
    Asked,
}

#[tokio::test]
async fn each_trap_is_decided_as_postgres_decides_it_or_left_to_it() {
    use Expect::{Asked, Decided};
    let own = "create policy p on t for select to authenticated using (owner = auth.uid());";
    let cases: Vec<(&str, String, Expect)> = vec![
        ("no policy hides all", String::new(), Decided),
        ("a policy of the owner's rows", own.into(), Decided),
        ("helpers that are text", format!("{TEXT_HELPERS} {own}"), Decided),
        ("helpers wrapped in a sub-select", own.replace("auth.uid()", "(select auth.uid())"), Decided),
        ("a policy for another role hides", own.replace("to authenticated", "to anon"), Decided),
        ("a policy to public", own.replace("to authenticated", ""), Decided),
        ("for all counts", own.replace("for select", "for all"), Decided),
        ("for insert does not", own.replace("for select", "for insert").replace("using", "with check"), Decided),
        ("permissive policies are or-ed", format!("{own} create policy q on t for select to authenticated using (flag);"), Decided),
        (
            "restrictive policies are and-ed",
            format!("{own} create policy q on t as restrictive for select to authenticated using (n > 1);"),
            Decided,
        ),
        (
            "a restrictive policy alone shows nothing",
            "create policy q on t as restrictive for select to authenticated using (true);".into(),
            Decided,
        ),
        ("a claim compared as text", "create policy p on t using (org = (auth.jwt() ->> 'org'));".into(), Decided),
        (
            "the setting itself",
            "create policy p on t using (owner = (current_setting('request.jwt.claims', true)::json ->> 'sub')::uuid);".into(),
            Decided,
        ),
        ("membership in a list", "create policy p on t using (org in ('a', 'b') and v = 'x');".into(), Decided),
        ("not in a list", "create policy p on t using (org not in ('a', 'b'));".into(), Decided),
        ("null is not true", "create policy p on t using (flag or org = 'a');".into(), Decided),
        ("is distinct from", "create policy p on t using (owner is distinct from auth.uid());".into(), Decided),
        (
            "an inherited membership",
            "grant walcast_policy_group to authenticated; alter role authenticated inherit;
             create policy p on t for select to walcast_policy_group using (true);".into(),
            Decided,
        ),
        ("a forced owner", "alter table t owner to authenticated; alter table t force row level security;".into(), Decided),
        ("an owner", "alter table t owner to authenticated;".into(), Decided),
        ("columns compared with each other", "create policy p on t using (n <= big and v <> org);".into(), Decided),
        ("the e-mail address", "create policy p on t using (org = auth.email());".into(), Decided),
        (
            "members of members",
            "create policy p on t using (org = (auth.jwt() -> 'app_metadata' -> 'team' ->> 'org'));".into(),
            Decided,
        ),
        ("a path", "create policy p on t using (org = (auth.jwt() #>> '{app_metadata,team,org}'));".into(), Decided),
        (
            "a path into the setting",
            "create policy p on t using (org = (current_setting('request.jwt.claims', true)::jsonb #> '{app_metadata,team}' ->> 'org'));"
                .into(),
            Decided,
        ),
        ("a path by position", "create policy p on t using (org = (auth.jwt() #>> '{orgs,0}'));".into(), Asked),
        (
            "a helper with members of members",
            "create function org() returns text language sql stable as $$
               select auth.jwt() -> 'app_metadata' -> 'team' ->> 'org'; $$;
             create policy p on t using (org = org());".into(),
            Decided,
        ),
        (
            "the old spelling of a claim with the new one behind it",
            "create policy p on t using (owner = coalesce(
               nullif(current_setting('request.jwt.claim.sub', true), ''),
               current_setting('request.jwt.claims', true)::json ->> 'sub')::uuid);".into(),
            Decided,
        ),
        (
            "the old spelling of a claim alone",
            "create policy p on t using (owner = current_setting('request.jwt.claim.sub', true)::uuid);".into(),
            Decided,
        ),
        (
            "lists that are literals",
            format!("create policy p on t using (org = any ('{{a,c}}') or n = any ('{{2,3}}'::int[]) or owner = any ('{{{OTHER}}}'));"),
            Decided,
        ),
        ("a list of numbers", "create policy p on t using (big in (1, 5) or n not in (1, 7));".into(), Decided),
        ("unknown", "create policy p on t using ((org = 'a') is unknown);".into(), Decided),
        ("not unknown", "create policy p on t using ((owner = auth.uid()) is not unknown);".into(), Decided),
        ("numbers as truth values", "create policy p on t using (n::boolean and flag::int < 2);".into(), Decided),
        ("nothing is chosen", "create policy p on t using (coalesce(nullif(org, 'a'), v) = 'x');".into(), Decided),
        (
            "a claim nobody can read",
            "create policy p on t using (owner = auth.uid() and (auth.jwt() ->> 'n')::int = 5);".into(),
            Decided,
        ),
        ("another setting", "create policy p on t using (current_setting('app.org', true) = org);".into(), Asked),
        (
            "a list in the claims",
            "create policy p on t using (org in (select jsonb_array_elements_text(auth.jwt() -> 'orgs')));".into(),
            Asked,
        ),
        (
            "an enum",
            "create type mood as enum ('a', 'b'); alter table t add m mood; create policy p on t using (m = 'a');".into(),
            Asked,
        ),
        ("a case", "create policy p on t using (case when flag then true else false end);".into(), Asked),
        (
            "a sub-query on another table",
            "create table m (u uuid); grant select on m to authenticated;
             create policy p on t using (owner in (select u from m));".into(),
            Asked,
        ),
        ("a volatile function", "create policy p on t using (random() >= 0);".into(), Asked),
        ("the clock", "create policy p on t using (now() > '2000-01-01');".into(), Asked),
        ("the session's user", "create policy p on t using (current_user = 'authenticated');".into(), Asked),
        ("a pattern", "create policy p on t using (org like 'a%');".into(), Asked),
        ("an order of texts", "create policy p on t using (org < 'b');".into(), Asked),
        (
            "a function of one's own that is security definer",
            "create function me() returns uuid language sql stable security definer as 'select auth.uid()';
             create policy p on t using (owner = me());".into(),
            Asked,
        ),
        (
            "a function of one's own in plain SQL",
            "create function me() returns uuid language sql stable as 'select auth.uid()';
             create policy p on t using (owner = me());".into(),
            Decided,
        ),
        (
            "a function that says something else under its name",
            format!(
                "create schema mine; create function mine.uid() returns uuid language sql stable as $$select '{OTHER}'::uuid$$;
                 grant usage on schema mine to authenticated; set search_path = mine, public;
                 create policy p on public.t using (owner = uid());"
            ),
            Decided,
        ),
        (
            "an operator of another schema",
            "create schema mine; grant usage on schema mine to authenticated;
             create function mine.yes(uuid, uuid) returns boolean language sql immutable as 'select true';
             create operator mine.= (leftarg = uuid, rightarg = uuid, function = mine.yes);
             create policy p on t using (owner operator(mine.=) auth.uid());".into(),
            Asked,
        ),
        (
            "a shadowed name in a helper's body",
            format!(
                "{TEXT_HELPERS} create function public.current_setting(text, boolean) returns text language sql as 'select null::text';
                 create policy p on t using (owner = auth.uid());"
            ),
            Asked,
        ),
        ("a helper the role may not run", format!("revoke execute on function auth.uid() from public, authenticated; {own}"), Asked),
        ("a JSON column", "alter table t add j jsonb; create policy p on t using ((j ->> 'a') = 'b');".into(), Asked),
        ("another collation", "alter table t alter org type text collate walcast_ci; create policy p on t using (org = 'A');".into(), Asked),
    ];
    let rows = format!(
        "insert into t values (1, '{USER}', 'a', 1, 1, true, 'x'), (2, '{OTHER}', 'b', 2, 2, false, 'y'),
           (3, null, null, null, null, null, null);
         grant select on t to authenticated;
         create collation walcast_ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         do $$ begin create role walcast_policy_group nologin; exception when duplicate_object or unique_violation then null; end $$;"
    );
    for (name, setup, expect) in cases {
        let bench = Bench::new(&format!("{rows} {setup}")).await;
        for claims in [
            claims(USER),
            claims("no uuid"),
            "{}".to_owned(),
            r#"{"sub":null,"org":"b","email":"a"}"#.to_owned(),
            format!(r#"{{"sub":"{OTHER}","n":5,"app_metadata":{{"team":{{"org":"b"}}}},"orgs":["a"]}}"#),
        ] {
            match bench.ours("authenticated", &claims).await {
                None => assert_eq!(expect, Asked, "{name}: {:?}", bench.access("authenticated").await),
                Some(verdicts) => {
                    assert_eq!(expect, Decided, "{name}: {verdicts:?}");
                    for (row, verdict) in verdicts {
                        if verdict != Verdict::Ask {
                            let truth = bench.postgres("authenticated", &claims, row).await;
                            assert_eq!(verdict, truth, "{name}: row {row}, claims {claims}");
                        }
                    }
                }
            }
        }
        bench
            .client
            .batch_execute(
                "alter role authenticated noinherit; revoke walcast_policy_group from authenticated",
            )
            .await
            .unwrap();
        drop(bench.database);
    }
}

#[tokio::test]
async fn bypassing_does_not_come_by_membership() {
    let bench = Bench::new(
        "do $$ begin create role walcast_bypass nologin bypassrls; exception when duplicate_object or unique_violation then null; end $$;
         do $$ begin create role walcast_member nologin inherit; exception when duplicate_object or unique_violation then null; end $$;
         grant walcast_bypass to walcast_member; grant select on t to walcast_member, walcast_bypass;
         insert into t (id) values (1);",
    )
    .await;
    assert!(matches!(bench.access("walcast_member").await, Access::Hidden));
    assert!(matches!(bench.access("walcast_bypass").await, Access::NoRls));
    assert!(matches!(bench.access("service_role").await, Access::NoRls));
    assert!(matches!(bench.access("no such role").await, Access::Hidden));
    assert_eq!(bench.postgres("walcast_member", "{}", 1).await, Verdict::Hidden);
    assert_eq!(bench.postgres("walcast_bypass", "{}", 1).await, Verdict::Visible);
}

/// A boolean expression as an application may write it, mostly within the grammar.
fn condition() -> impl Strategy<Value = String> {
    let uuid = prop_oneof![
        Just("owner".to_owned()),
        Just("auth.uid()".to_owned()),
        Just("(select auth.uid())".to_owned()),
        Just(format!("'{USER}'::uuid")),
        Just("(auth.jwt() ->> 'sub')::uuid".to_owned()),
        Just("(auth.jwt() ->> 'any')::uuid".to_owned()),
    ];
    let text = prop_oneof![
        Just("org".to_owned()),
        Just("v".to_owned()),
        Just("v::text".to_owned()),
        Just("'a'".to_owned()),
        Just("owner::text".to_owned()),
        Just("n::text".to_owned()),
        Just("flag::text".to_owned()),
        Just("auth.role()".to_owned()),
        Just("(auth.jwt() ->> 'org')".to_owned()),
        Just("(auth.jwt() ->> 'any')".to_owned()),
        Just("(auth.jwt() -> 'app_metadata' ->> 'org')".to_owned()),
        Just("(current_setting('request.jwt.claims', true)::json ->> 'org')".to_owned()),
        Just("coalesce(org, 'a')".to_owned()),
        Just("nullif(org, 'b')".to_owned()),
        Just("coalesce(auth.jwt() ->> 'org', v)".to_owned()),
    ];
    let number = prop_oneof![
        Just("n".to_owned()),
        Just("big".to_owned()),
        Just("1".to_owned()),
        Just("5000000000".to_owned()),
        Just("(auth.jwt() ->> 'n')::int".to_owned()),
        Just("(auth.jwt() ->> 'any')::bigint".to_owned()),
        Just("big::int".to_owned()),
        Just("coalesce(n, 0)".to_owned()),
    ];
    let equality = prop_oneof![
        Just("="),
        Just("<>"),
        Just("is distinct from"),
        Just("is not distinct from")
    ];
    let order = prop_oneof![
        Just("="),
        Just("<>"),
        Just("<"),
        Just("<="),
        Just(">"),
        Just(">=")
    ];
    let within = prop_oneof![
        (uuid.clone(), equality.clone(), uuid.clone()).prop_map(|(a, o, b)| format!("{a} {o} {b}")),
        (text.clone(), equality, text.clone()).prop_map(|(a, o, b)| format!("{a} {o} {b}")),
        (number.clone(), order, number).prop_map(|(a, o, b)| format!("{a} {o} {b}")),
        (text.clone(), any::<bool>())
            .prop_map(|(a, n)| format!("{a} {} null", if n { "is" } else { "is not" })),
        (text, any::<bool>())
            .prop_map(|(a, n)| format!("{a} {} ('a', 'b')", if n { "in" } else { "not in" })),
        (uuid, any::<bool>()).prop_map(|(a, n)| format!(
            "{a} = any (array['{USER}'::uuid, {}])",
            if n { "owner" } else { "auth.uid()" }
        )),
        Just("flag".to_owned()),
        Just("(auth.jwt() ->> 'flag')::boolean".to_owned()),
        Just("coalesce(flag, (auth.jwt() ->> 'flag')::boolean, false)".to_owned()),
        Just("true".to_owned()),
        Just("false".to_owned()),
    ];
    let outside = prop_oneof![
        Just("org like 'a%'".to_owned()),
        Just("exists (select 1 where n = 1)".to_owned()),
        Just("length(org) = 1".to_owned()),
    ];
    let leaf = prop_oneof![30 => within, 1 => outside];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4)
                .prop_map(|parts| format!("(({}))", parts.join(") and ("))),
            prop::collection::vec(inner.clone(), 2..4)
                .prop_map(|parts| format!("(({}))", parts.join(") or ("))),
            inner.clone().prop_map(|part| format!("not ({part})")),
            (
                inner,
                prop_oneof![Just("true"), Just("not true"), Just("false"), Just("not false")]
            )
                .prop_map(|(part, test)| format!("({part}) is {test}")),
        ]
    })
}

#[tokio::test]
async fn random_policies_are_never_decided_otherwise_than_by_postgres() {
    const POLICIES: usize = 300;
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let bench = Bench::new(&format!(
        "grant select on t to authenticated;
         insert into t values (1, '{USER}', 'a', 1, 1, true, 'x'), (2, '{OTHER}', 'b', 0, 5000000000, false, 'a'),
           (3, null, null, null, null, null, null), (4, '{USER}', 'authenticated', 5, 7, null, '5'), (5, null, '', -1, -1, true, 'true')"
    ))
    .await;
    let mut identities = vec!["{}".to_owned()];
    for sub in [
        format!("\"{USER}\""),
        format!("\"{}\"", OTHER.to_uppercase()),
        "\"x\"".into(),
        "null".into(),
        "5".into(),
    ] {
        for (org, any) in [
            ("\"a\"", "5"),
            ("null", "\"5\""),
            ("\"b\"", "true"),
            ("1.50", "{\"a\":1}"),
            ("\"\"", "\"99999999999\""),
        ] {
            identities.push(format!(
                r#"{{"role":"authenticated","sub":{sub},"org":{org},"any":{any},"n":1,"flag":"true","app_metadata":{{"org":{org}}}}}"#
            ));
        }
    }
    let rows = bench.rows().await;
    let (mut decided, mut asked, mut compiled, mut left) = (0_u32, 0_u32, 0_u32, 0_u32);
    for number in 0..POLICIES {
        if number == POLICIES / 2 {
            // The helpers as the platform has shipped them: text that is looked up when it runs.
            bench.client.batch_execute(TEXT_HELPERS).await.unwrap();
        }
        let using = condition().new_tree(&mut runner).unwrap().current();
        let create =
            format!("drop policy if exists p on public.t; create policy p on public.t using ({using})");
        // Some combinations are no valid SQL (a literal of the wrong type).
        if bench.client.batch_execute(&create).await.is_err() {
            continue;
        }
        let program = match bench.access("authenticated").await {
            Access::Compiled(program) => program,
            access => {
                assert!(
                    matches!(access, Access::Ask { .. } | Access::Hidden),
                    "policy {using}: {access:?}"
                );
                left += 1;
                continue;
            }
        };
        compiled += 1;
        let pairs = bench
            .client
            .query(
                "select i.n::int - 1, t.id, public.verdict('authenticated', i.claims, t.id)
                 from unnest($1::text[]) with ordinality i(claims, n), public.t order by 1, 2",
                &[&identities],
            )
            .await
            .unwrap();
        for pair in pairs {
            let (identity, id): (i32, i32) = (pair.get(0), pair.get(1));
            let claims = &identities[usize::try_from(identity).unwrap()];
            let row = &rows.iter().find(|(row, _)| *row == id).unwrap().1;
            let truth = if pair.get::<_, String>(2) == "v" {
                Verdict::Visible
            } else {
                Verdict::Hidden
            };
            match program.evaluate(row, &ClaimsView::new(claims)) {
                Verdict::Ask => asked += 1,
                verdict => {
                    decided += 1;
                    assert_eq!(verdict, truth, "policy {using}: row {id}, claims {claims}");
                }
            }
        }
    }
    // The property must not hold for want of decisions.
    assert!(
        compiled > 2 * left,
        "only {compiled} policies compiled, {left} left to Postgres"
    );
    assert!(decided > 5 * asked, "only {decided} decided, {asked} asked");
}
