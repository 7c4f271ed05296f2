//! For any policies and claims the answer is that of the statements run by hand.

use crate::by_hand::{self, Found};
use crate::scene::{ALICE, Scene, answered};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use walcast_messages::{Asked, Extensions, Options, RightsError};

const SETS_OF_POLICIES: usize = 40;
const ASKED_A_SET: usize = 24;

const ROLES: &[&str] = &[
    "authenticated",
    "anon",
    "service_role",
    "dashboard_user",
    "none",
    "nobody_at_all",
];

const WORLD: &str = "
    create table public.members (topic text, who uuid);
    insert into public.members values ('room', 'aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa'), ('lobby', null);
    grant select on public.members to authenticated, anon;
    create sequence public.tickets;
    create function public.even_rows() returns boolean language sql volatile security definer as
      'select count(*) % 2 = 0 from realtime.messages';
    create function public.denies() returns boolean language plpgsql as
      'begin raise insufficient_privilege; end';
    create function public.is_member(name text) returns boolean language plpgsql stable security definer as
      'begin return exists (select from members where topic = name and who = (select auth.uid())); end';
    -- Rows of others are there too, and none of them may count.
    insert into realtime.messages (topic, extension, private, event)
      select topic, extension, private, 'e' from unnest(array['room', 'lobby']) as topic,
        unnest(array['broadcast', 'presence']) as extension, unnest(array[true, false]) as private;";

/// What a policy may say. By hand each check is planned anew, and to estimate how many rows there are the planner
/// evaluates what a column is compared with, so that an expression that is never executed may raise; ours are planned
/// once a role. Such comparisons are written with a sub-select here, as Supabase advises (decision 12).
fn expression() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "true",
        "false",
        "null::boolean",
        "extension = 'broadcast'",
        "messages.extension in ('presence')",
        "topic = 'room'",
        "realtime.topic() = 'room'",
        "realtime.topic() like 'l%'",
        "(select realtime.topic()) = topic",
        "private",
        "private is not true",
        "payload is null and event is null",
        "inserted_at > (now() at time zone 'utc') - interval '1 hour'",
        "id is not null",
        "auth.uid() is not null",
        "auth.uid() = 'aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa'",
        "(select auth.uid()) in (select who from public.members where members.topic = realtime.topic())",
        "exists (select from public.members m where m.topic = messages.topic and m.who = (select auth.uid()))",
        "public.is_member(realtime.topic())",
        "auth.role() = 'authenticated'",
        "auth.jwt() ->> 'plan' = 'pro'",
        "(auth.jwt() ->> 'level')::int > 3",
        "(auth.jwt() -> 'rooms') ? realtime.topic()",
        "current_setting('request.jwt.claim.sub', true) = ''",
        "current_setting('request.jwt.claim.role', true) = current_user",
        "current_setting('request.headers', true)::json ->> 'x-team' = 'red'",
        "1 / (length(realtime.topic()) - 4) < 1",
        "nextval('public.tickets') > 0",
        "public.even_rows()",
        "public.denies()",
    ])
    .prop_map(str::to_owned);
    leaf.prop_recursive(3, 8, 2, |inner| {
        prop_oneof![
            inner.clone().prop_map(|a| format!("not ({a})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) and ({b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) or ({b})")),
            (inner.clone(), inner.clone(), inner)
                .prop_map(|(a, b, c)| format!("case when {a} then {b} else {c} end")),
        ]
    })
}

/// `create policy` without its name.
fn policy() -> impl Strategy<Value = String> {
    let kind = prop_oneof![4 => Just("permissive"), 1 => Just("restrictive")];
    let command = prop::sample::select(vec!["select", "insert", "all", "select", "insert", "update"]);
    let roles = prop::sample::select(vec!["authenticated", "anon", "public", "authenticated, anon"]);
    (kind, command, roles, expression(), expression()).prop_map(|(kind, command, roles, using, check)| {
        let conditions = match command {
            "select" => format!("using ({using})"),
            "insert" => format!("with check ({check})"),
            _ => format!("using ({using}) with check ({check})"),
        };
        format!("on realtime.messages as {kind} for {command} to {roles} {conditions}")
    })
}

/// What may differ besides policies.
fn grants() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        8 => Just(""),
        1 => Just("revoke select on realtime.messages from authenticated"),
        1 => Just("revoke insert on realtime.messages from anon"),
        1 => Just("revoke usage on schema realtime from anon"),
        1 => Just("alter table realtime.messages disable row level security"),
    ]
}

fn asked() -> impl Strategy<Value = Asked> {
    let claims = prop_oneof![
        4 => (any::<bool>(), any::<bool>(), 0..6_i32, any::<bool>()).prop_map(|(known, pro, level, room)| {
            let sub = if known { format!("\"{ALICE}\"") } else { "null".to_owned() };
            let plan = if pro { "pro" } else { "free" };
            let rooms = if room { r#"["room"]"# } else { "[]" };
            format!(r#"{{"sub":{sub},"plan":"{plan}","level":{level},"rooms":{rooms}}}"#)
        }),
        1 => prop::sample::select(vec!["{}", r#"{"level":"high"}"#, r#"{"sub":"no uuid"}"#, r#"{"sub":7}"#, "[1]", "nonsense"])
            .prop_map(str::to_owned),
    ];
    let role = prop_oneof![
        4 => Just("authenticated"),
        2 => Just("anon"),
        1 => prop::sample::select(ROLES),
    ];
    let topic = prop::sample::select(vec!["room", "lobby", "other", "", "ro'om\"", "räume"]);
    let headers = prop::sample::select(vec!["{}", r#"{"x-team":"red"}"#, "no json"]);
    (role, topic, claims, headers).prop_map(|(role, topic, claims, headers)| Asked {
        role: role.into(),
        topic: topic.into(),
        claims: claims.into(),
        headers: headers.into(),
    })
}

fn found(answer: Result<(bool, bool), RightsError>) -> Found {
    match answer {
        Ok((broadcast, presence)) => Found::Rights { broadcast, presence },
        Err(RightsError::MissingPartition) => Found::MissingPartition,
        Err(error) => {
            assert!(
                !matches!(error, RightsError::Unavailable(_) | RightsError::Exhausted { .. }),
                "{error}"
            );
            Found::Failed
        }
    }
}

#[tokio::test]
async fn rights_are_those_found_by_hand_whatever_the_policies_and_claims() {
    let scene = Scene::with(
        WORLD,
        Options {
            timeout_ms: 20_000,
            brief_ms: 5_000,
            ..Options::default()
        },
    )
    .await;
    let client = scene.database.client().await;
    by_hand::prepare(&client).await;
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let mut seen = [0_usize; 3];
    for _ in 0..SETS_OF_POLICIES {
        let mut pick =
            |strategy: BoxedStrategy<Vec<String>>| strategy.new_tree(&mut runner).unwrap().current();
        let policies = pick(prop::collection::vec(policy(), 0..5).boxed());
        let revoked = grants().new_tree(&mut runner).unwrap().current();
        let all = prop::collection::vec(asked(), ASKED_A_SET)
            .new_tree(&mut runner)
            .unwrap()
            .current();
        let mut setup = String::from(
            "do $$ declare name name; begin
               for name in select policyname from pg_policies where tablename = 'messages' loop
                 execute format('drop policy %I on realtime.messages', name);
               end loop;
             end $$;
             alter table realtime.messages enable row level security;
             grant select, insert on realtime.messages to anon, authenticated;
             grant usage on schema realtime to anon;",
        );
        for (number, policy) in policies.iter().enumerate() {
            setup += &format!("create policy p{number} {policy};");
        }
        setup += revoked;
        scene.run(&setup).await;

        // All at once, so that they go in calls together.
        let mut checks = tokio::task::JoinSet::new();
        for (number, asked) in all.iter().cloned().enumerate() {
            let authorizer = scene.authorizer.clone();
            checks.spawn(async move {
                let read = authorizer.read(&asked, Extensions::Both).await;
                let read = read.map(|read| (read.broadcast.unwrap(), read.presence.unwrap()));
                let written = authorizer.write(&asked).await;
                let written = written.map(|written| (written.broadcast, written.presence));
                (number, found(read), found(written))
            });
        }
        while let Some(checked) = answered(checks.join_next()).await {
            let (number, read, written) = checked.unwrap();
            let asked = &all[number];
            // The one thing done better than by hand: nobody becomes ourselves.
            let (read_by_hand, written_by_hand) = if asked.role.as_ref() == "none" {
                (Found::Failed, Found::Failed)
            } else {
                (
                    by_hand::read(&client, asked).await,
                    by_hand::write(&client, asked).await,
                )
            };
            let context = || format!("{asked:?} with {revoked:?} and {policies:#?}");
            assert_eq!(read, read_by_hand, "reads: {}", context());
            assert_eq!(written, written_by_hand, "writes: {}", context());
            for found in [read, written] {
                seen[match found {
                    Found::Rights {
                        broadcast: false,
                        presence: false,
                    } => 0,
                    Found::Rights { .. } => 1,
                    Found::MissingPartition | Found::Failed => 2,
                }] += 1;
            }
        }
    }
    // All three kinds of answers were among them, each often.
    assert!(
        seen.iter()
            .all(|count| *count > SETS_OF_POLICIES * ASKED_A_SET / 20),
        "{seen:?}"
    );
}
