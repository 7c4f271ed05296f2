//! Checks that are made together: what they cost, and that none is touched by another.

use crate::scene::{Gate, Scene, answered, asked, reads};
use std::task::{Context, Waker};
use tokio_postgres::Client;
use walcast_messages::{Asked, Extensions, Options, RightsError};

/// One connection, which nothing takes away: what waits behind a closed gate goes in one call afterwards.
const ONE: Options = Options {
    connections: 1,
    patient_connections: 1,
    timeout_ms: 60_000,
    brief_ms: 30_000,
    askers_max: 1_000,
};

/// Counts rows looked at, and calls. Sequences stay as they are when a transaction is rolled back; all checks of a call
/// have the same `now()`.
const COUNTED: &str = "
    create sequence public.rows_seen; create sequence public.calls; create sequence public.last_call;
    create function public.counted() returns boolean language plpgsql volatile security definer as $$
    declare
      this_call bigint := extract(epoch from now()) * 1000000;
    begin
      perform nextval('public.rows_seen');
      if (select last_value from public.last_call) <> this_call then
        perform setval('public.last_call', this_call), nextval('public.calls');
      end if;
      return true;
    end $$;
    create policy counted on realtime.messages for select to public using (
      case when realtime.topic() = 'gate' then public.gate()
        when realtime.topic() = 'raises' then 1 / length(substr(realtime.topic(), 1, 0)) = 1
        when realtime.topic() = 'denied' then false
        else public.counted() end);";

async fn count(client: &Client, sequence: &str) -> i64 {
    let query = format!("select case when is_called then last_value else 0 end from public.{sequence}");
    client.query_one(&query, &[]).await.unwrap().get(0)
}

/// Asks all of it while the only connection is busy; the answers come once it is free.
async fn ask_while_busy(scene: &Scene, asked_for: &[Asked]) -> Vec<Result<bool, RightsError>> {
    let gate = Gate::held(&scene.database).await;
    let busy = scene.reading(asked("authenticated", "gate"));
    scene.until_blocked(1).await;
    let mut checks: Vec<_> = asked_for
        .iter()
        .map(|asked| Box::pin(scene.authorizer.read(asked, Extensions::Broadcast)))
        .collect();
    // A check takes its place in the queue when it is first polled.
    for check in &mut checks {
        let poll = check.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(poll.is_pending());
    }
    gate.open().await;
    let mut answers = Vec::new();
    for check in checks {
        answers.push(answered(check).await.map(|read| read.broadcast == Some(true)));
    }
    assert!(answered(busy).await.unwrap().is_ok());
    answers
}

#[tokio::test]
async fn equal_checks_that_wait_are_made_once_and_different_ones_in_one_call() {
    let scene = Scene::with(&format!("{} {COUNTED}", Gate::FUNCTION), ONE).await;
    let mut all = vec![asked("authenticated", "same"); 50];
    all.extend((0..20).map(|n| asked("authenticated", &format!("room-{n}"))));
    let answers = ask_while_busy(&scene, &all).await;
    assert_eq!(answers, vec![Ok(true); 70]);
    let client = scene.database.client().await;
    assert_eq!(count(&client, "rows_seen").await, 21);
    let calls = count(&client, "calls").await;
    // Usually one; more only on a machine too slow to make 21 checks within the slice of a call.
    assert!((1..=7).contains(&calls), "{calls} calls for 21 checks");
}

#[tokio::test]
async fn checks_that_differ_in_anything_are_made_each() {
    let scene = Scene::with(&format!("{} {COUNTED}", Gate::FUNCTION), ONE).await;
    let room = asked("authenticated", "room");
    let all = [
        room.clone(),
        Asked {
            topic: "other".into(),
            ..room.clone()
        },
        Asked {
            role: "anon".into(),
            ..room.clone()
        },
        Asked {
            claims: r#"{"sub":null}"#.into(),
            ..room.clone()
        },
        Asked {
            headers: "{}".into(),
            ..room.clone()
        },
    ];
    assert_eq!(ask_while_busy(&scene, &all).await, vec![Ok(true); 5]);
    let client = scene.database.client().await;
    assert_eq!(count(&client, "rows_seen").await, 5);
}

#[tokio::test]
async fn a_check_under_way_answers_nobody_who_asked_after_it_began() {
    let scene = Scene::with(
        &format!(
            "create table public.members (topic text); insert into public.members values ('room');
             grant select on public.members to authenticated; {}
             -- Looks first, and waits then.
             create function public.member() returns boolean language plpgsql volatile as $$
             declare found_member boolean;
             begin
               select exists (select from public.members where topic = realtime.topic()) into found_member;
               perform public.gate();
               return found_member;
             end $$;
             create policy members on realtime.messages for select to authenticated using (public.member());",
            Gate::FUNCTION
        ),
        ONE,
    )
    .await;
    let gate = Gate::held(&scene.database).await;
    let before = scene.reading(asked("authenticated", "room"));
    scene.until_blocked(1).await;
    scene.run("delete from public.members").await;
    let after = scene.reading(asked("authenticated", "room"));
    gate.open().await;
    assert_eq!(answered(before).await.unwrap().unwrap().broadcast, Some(true));
    assert_eq!(answered(after).await.unwrap().unwrap().broadcast, Some(false));
}

#[tokio::test]
async fn checks_of_one_call_do_not_touch_each_other() {
    let scene = Scene::with(&format!("{} {COUNTED}", Gate::FUNCTION), ONE).await;
    let mut all = Vec::new();
    for role in ["authenticated", "anon", "service_role", "nobody_at_all"] {
        for topic in ["room", "raises", "denied"] {
            all.push(asked(role, topic));
        }
    }
    for (asked, answer) in all.iter().zip(ask_while_busy(&scene, &all).await) {
        let as_expected = match (asked.role.as_ref(), asked.topic.as_ref()) {
            ("nobody_at_all", _) => matches!(answer, Err(RightsError::UnknownRole { .. })),
            ("service_role", _) | (_, "room") => answer == Ok(true),
            (_, "denied") => answer == Ok(false),
            _ => matches!(answer, Err(RightsError::Policy { .. })),
        };
        assert!(as_expected, "{asked:?}: {answer:?}");
    }
}

#[tokio::test]
async fn a_check_that_fails_its_whole_call_costs_only_itself() {
    // A policy that ends the session takes the other checks of its call down.
    let scene = Scene::with(
        &format!(
            "{} create function public.kill() returns boolean language sql volatile security definer as
               'select pg_terminate_backend(pg_backend_pid())';
             create policy p on realtime.messages for select to authenticated using (
               case when realtime.topic() = 'gate' then public.gate()
                 when realtime.topic() = 'kills' then public.kill() else true end);",
            Gate::FUNCTION
        ),
        ONE,
    )
    .await;
    let all: Vec<Asked> = ["a", "b", "kills", "c", "d"]
        .map(|topic| asked("authenticated", topic))
        .into();
    for (asked, answer) in all.iter().zip(ask_while_busy(&scene, &all).await) {
        if asked.topic.as_ref() == "kills" {
            assert!(matches!(answer, Err(RightsError::Unavailable(_))), "{answer:?}");
        } else {
            assert_eq!(answer, Ok(true), "{asked:?}");
        }
    }
}

#[tokio::test]
async fn a_slow_check_delays_those_of_its_call_only_briefly() {
    let scene = Scene::with(
        &format!(
            "{} create policy p on realtime.messages for select to authenticated using (
               case when realtime.topic() in ('gate', 'b-slow') then public.gate() else true end);",
            Gate::FUNCTION
        ),
        Options { brief_ms: 300, ..ONE },
    )
    .await;
    let _gate = Gate::held(&scene.database).await;
    let mut slow = Vec::new();
    for topic in ["a", "b-slow", "c", "d"] {
        slow.push((topic, scene.reading(asked("authenticated", topic))));
    }
    for (topic, check) in slow {
        if topic == "b-slow" {
            assert!(!check.is_finished());
            check.abort();
        } else {
            assert_eq!(answered(check).await.unwrap().unwrap().broadcast, Some(true));
        }
    }
}

#[tokio::test]
async fn the_connections_end_with_the_last_handle() {
    let scene = Scene::with(&format!("{} {COUNTED}", Gate::FUNCTION), ONE).await;
    assert_eq!(
        scene.read(&asked("authenticated", "room")).await,
        Ok(reads(true, true))
    );
    let Scene { database, authorizer } = scene;
    drop(authorizer);
    database
        .until(
            "select count(*) = 0 from pg_stat_activity
             where datname = current_database() and application_name = 'walcast_rights'",
        )
        .await;
}
