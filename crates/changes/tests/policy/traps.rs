//! Policies that look alike and are not.

use crate::bench::{Bench, OTHER, TEXT_HELPERS, USER};
use walcast_changes::policy::{Access, Verdict};

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
        // Postgres raises: "cannot cope with variable-free clause".
        ("a claim that equals itself", "create policy p on t using (auth.uid() = auth.uid());".into(), Asked),
        ("the same in other words", "create policy p on t using (not auth.uid() <> coalesce(null, auth.uid()));".into(), Asked),
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
                            // What raises is hidden as well.
                            assert_eq!(
                                verdict == Verdict::Visible,
                                truth == Verdict::Visible,
                                "{name}: row {row}, claims {claims}: {verdict:?}"
                            );
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
