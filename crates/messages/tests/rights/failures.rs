//! What goes wrong yields the error of `database.md 3.4`, in time, and never a right.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::scene::{DEADLINE, Gate, Scene, answered, asked, connect_options, prepared, prepared_on, reads};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use walcast_messages::{Asked, Authorizer, Extensions, Options, RightsError};
use walcast_protocol::ErrorCode;
use walcast_testkit::{Database, Postgres};

const ALL: &str = "create policy everything on realtime.messages for all to authenticated using (true);";

fn code_of<T: std::fmt::Debug>(answer: Result<T, RightsError>) -> ErrorCode {
    answer.unwrap_err().code()
}

#[tokio::test]
async fn a_policy_that_raises_fails_the_check_and_says_what_it_raised() {
    let scene = Scene::new(
        "create function public.refuse(topic text) returns boolean language plpgsql as $$
         begin raise exception 'no % today', topic using errcode = 'P1234'; end $$;
         create policy reading on realtime.messages for select to authenticated using (public.refuse(realtime.topic()));
         create policy writing on realtime.messages for insert to authenticated
           with check (extension = 'broadcast' or public.refuse(realtime.topic()));",
    )
    .await;
    let room = asked("authenticated", "room");
    let expected = RightsError::Policy {
        role: Arc::from("authenticated"),
        topic: Arc::from("room"),
        sqlstate: Arc::from("P1234"),
        message: Arc::from("no room today"),
    };
    assert_eq!(scene.read(&room).await, Err(expected.clone()));
    // Only its part about presence raises, which fails the whole check.
    assert_eq!(scene.write(&room).await, Err(expected));
}

#[tokio::test]
async fn an_assertion_that_fails_in_a_policy_is_an_error_of_that_policy() {
    let scene = Scene::new(
        "create function public.asserts() returns boolean language plpgsql as 'begin assert false, ''so it is''; end';
         create policy reading on realtime.messages for select to authenticated using (public.asserts());",
    )
    .await;
    let error = scene.read(&asked("authenticated", "room")).await.unwrap_err();
    assert!(error.to_string().contains("P0004 so it is"), "{error}");
}

#[tokio::test]
async fn a_role_that_does_not_exist_has_no_rights() {
    let scene =
        Scene::new("create policy everything on realtime.messages for all to public using (true)").await;
    for role in [
        "nobody_at_all",
        "none",
        "",
        "NONE",
        " authenticated",
        "authenticated\"",
    ] {
        let asked = asked(role, "room");
        let expected = RightsError::UnknownRole { role: role.into() };
        assert_eq!(scene.read(&asked).await, Err(expected.clone()), "{role:?}");
        assert_eq!(scene.write(&asked).await, Err(expected), "{role:?}");
    }
}

#[tokio::test]
async fn a_role_we_may_not_become_has_no_rights() {
    let database = prepared(
        "create policy everything on realtime.messages for all to public using (true);
         do $$ begin
           create role rights_server login inherit;
         exception when duplicate_object or unique_violation then null;
         end $$;
         grant supabase_realtime_admin, anon to rights_server;
         grant usage on schema walcast to rights_server;
         grant execute on all functions in schema walcast to rights_server;",
    )
    .await;
    let connect = database.url_as("rights_server", "").parse().unwrap();
    let authorizer = Authorizer::new(&connect, Options::default());
    let read = answered(authorizer.read(&asked("anon", "room"), Extensions::Both)).await;
    assert_eq!(read, Ok(reads(true, true)));
    for write in [false, true] {
        let asked = asked("dashboard_user", "room");
        let error = if write {
            answered(authorizer.write(&asked)).await.unwrap_err()
        } else {
            answered(authorizer.read(&asked, Extensions::Both))
                .await
                .unwrap_err()
        };
        assert!(matches!(error, RightsError::RoleNotGranted { .. }), "{error}");
    }
    database.execute("drop owned by rights_server").await;
}

#[tokio::test]
async fn a_role_without_a_right_to_the_table_cannot_read() {
    for revoked in [
        "revoke select on realtime.messages from authenticated",
        "revoke usage on schema realtime from authenticated",
    ] {
        let scene = Scene::new(&format!("{ALL} {revoked};")).await;
        let error = scene.read(&asked("authenticated", "room")).await.unwrap_err();
        assert!(matches!(error, RightsError::TableNotGranted { .. }), "{error}");
        assert_eq!(error.code(), ErrorCode::RlsPolicyError);
    }
}

#[tokio::test]
async fn a_day_without_a_partition_is_a_missing_partition() {
    let scene = Scene::new(ALL).await;
    scene
        .run(
            "do $$ declare part regclass; begin
               for part in select inhrelid from pg_inherits where inhparent = 'realtime.messages'::regclass loop
                 execute 'drop table ' || part;
               end loop;
             end $$",
        )
        .await;
    let room = asked("authenticated", "room");
    assert_eq!(scene.read(&room).await, Err(RightsError::MissingPartition));
    assert_eq!(scene.write(&room).await, Err(RightsError::MissingPartition));
}

#[tokio::test]
async fn a_constraint_of_the_application_is_no_missing_partition() {
    let scene = Scene::new(&format!(
        "{ALL} alter table realtime.messages add constraint named check (topic <> 'room') not valid"
    ))
    .await;
    let error = scene.write(&asked("authenticated", "room")).await.unwrap_err();
    assert!(matches!(error, RightsError::Policy { .. }), "{error}");
}

#[tokio::test]
async fn what_no_text_in_postgres_can_hold_fails_its_own_check() {
    let scene = Scene::new(ALL).await;
    let room = asked("authenticated", "room");
    for odd in [
        Asked {
            topic: "ro\0om".into(),
            ..room.clone()
        },
        Asked {
            role: "authenti\0cated".into(),
            ..room.clone()
        },
        Asked {
            claims: "{}\0".into(),
            ..room.clone()
        },
        Asked {
            headers: "\0".into(),
            ..room.clone()
        },
    ] {
        let error = scene.read(&odd).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::RlsPolicyError, "{error}");
    }
}

#[tokio::test]
async fn claims_that_are_no_json_have_no_rights() {
    let scene = Scene::new(ALL).await;
    for claims in ["", "{", "not json"] {
        let odd = Asked {
            claims: claims.into(),
            ..asked("authenticated", "room")
        };
        assert_eq!(
            code_of(scene.read(&odd).await),
            ErrorCode::RlsPolicyError,
            "{claims:?}"
        );
    }
}

/// Impatient enough for a test, patient enough for a slow machine.
const IMPATIENT: Options = Options {
    connections: 1,
    patient_connections: 1,
    timeout_ms: 3_000,
    brief_ms: 300,
    askers_max: 100,
};

const GATED: &str = "create policy gated on realtime.messages for all to authenticated
    using (case when realtime.topic() like 'slow-%' then public.gate() else true end);";

#[tokio::test]
async fn a_policy_that_does_not_end_is_cancelled_in_time_and_holds_up_nobody_else() {
    let scene = Scene::with(&format!("{} {GATED}", Gate::FUNCTION), IMPATIENT).await;
    let _gate = Gate::held(&scene.database).await;
    let started = Instant::now();
    let slow = scene.reading(asked("authenticated", "slow-1"));
    scene.until_blocked(1).await;
    // The connection it is on is the only one for the rest; it does not get to keep it.
    assert_eq!(
        scene.read(&asked("authenticated", "quick")).await,
        Ok(reads(true, true))
    );
    assert!(!slow.is_finished());
    let error = answered(slow).await.unwrap().unwrap_err();
    assert!(matches!(error, RightsError::Cancelled(_)), "{error}");
    assert!(started.elapsed() < Duration::from_millis(IMPATIENT.timeout_ms + 1_000));
    // And Postgres is rid of it.
    scene.until_blocked(0).await;
}

#[tokio::test]
async fn a_slow_policy_that_ends_in_time_has_its_say() {
    let scene = Scene::with(
        &format!("{} {GATED}", Gate::FUNCTION),
        Options {
            timeout_ms: 15_000,
            brief_ms: 50,
            ..IMPATIENT
        },
    )
    .await;
    let gate = Gate::held(&scene.database).await;
    let slow = scene.reading(asked("authenticated", "slow-1"));
    // It is asked again, on the connection for such.
    scene
        .database
        .until(
            "select count(*) = 1 from pg_stat_activity blocked join pg_stat_activity other using (datname, application_name)
             where blocked.datname = current_database() and application_name = 'walcast_rights'
               and blocked.wait_event_type = 'Lock' and other.state = 'idle'",
        )
        .await;
    gate.open().await;
    assert_eq!(answered(slow).await.unwrap().unwrap().broadcast, Some(true));
}

#[tokio::test]
async fn a_check_that_an_operator_cancels_twice_is_cancelled() {
    let scene = Scene::with(
        &format!("{} {GATED}", Gate::FUNCTION),
        Options {
            timeout_ms: 60_000,
            brief_ms: 20_000,
            ..IMPATIENT
        },
    )
    .await;
    let _gate = Gate::held(&scene.database).await;
    let slow = scene.reading(asked("authenticated", "slow-1"));
    let cancel_blocked = "select coalesce(bool_or(pg_cancel_backend(pid)), false) from pg_stat_activity
        where datname = current_database() and application_name = 'walcast_rights' and wait_event_type = 'Lock'";
    scene.database.until(cancel_blocked).await;
    let asked_again = "select count(*) = 2 from pg_stat_activity
        where datname = current_database() and application_name = 'walcast_rights'";
    scene.database.until(asked_again).await;
    scene.database.until(cancel_blocked).await;
    let error = answered(slow).await.unwrap().unwrap_err();
    assert!(matches!(error, RightsError::Cancelled(_)), "{error}");
}

#[tokio::test]
async fn slow_checks_that_find_no_connection_in_time_need_more_of_them() {
    let scene = Scene::with(&format!("{} {GATED}", Gate::FUNCTION), IMPATIENT).await;
    let _gate = Gate::held(&scene.database).await;
    let slow: Vec<_> = ["slow-1", "slow-2", "slow-3"]
        .map(|topic| scene.reading(asked("authenticated", topic)))
        .into_iter()
        .collect();
    let mut codes = Vec::new();
    for check in slow {
        codes.push(code_of(answered(check).await.unwrap()));
    }
    // One is on the connection for slow checks until it is cancelled, and leaves no time for the third.
    assert!(codes.contains(&ErrorCode::QueryCanceled), "{codes:?}");
    assert!(codes.contains(&ErrorCode::IncreaseConnectionPool), "{codes:?}");
    assert_eq!(
        scene.read(&asked("authenticated", "quick")).await,
        Ok(reads(true, true))
    );
}

#[tokio::test]
async fn who_asks_when_too_many_wait_is_turned_away_at_once() {
    let scene = Scene::with(
        &format!("{} {GATED}", Gate::FUNCTION),
        Options {
            askers_max: 3,
            timeout_ms: 60_000,
            brief_ms: 30_000,
            ..IMPATIENT
        },
    )
    .await;
    let gate = Gate::held(&scene.database).await;
    let slow = scene.reading(asked("authenticated", "slow-1"));
    scene.until_blocked(1).await;
    let room = asked("authenticated", "room");
    let mut second = Box::pin(scene.authorizer.read(&room, Extensions::Both));
    let mut third = Box::pin(scene.authorizer.write(&room));
    tokio::select! {
        biased;
        _ = &mut second => panic!("answered while the only connection is taken"),
        _ = &mut third => panic!("answered while the only connection is taken"),
        turned_away = scene.authorizer.read(&room, Extensions::Both) => {
            assert_eq!(code_of(turned_away), ErrorCode::IncreaseConnectionPool);
        }
    }
    // Who gives up makes room.
    drop(third);
    let mut third = Box::pin(scene.authorizer.write(&room));
    tokio::select! {
        biased;
        _ = &mut third => panic!("answered while the only connection is taken"),
        () = std::future::ready(()) => {}
    }
    gate.open().await;
    assert_eq!(answered(second).await, Ok(reads(true, true)));
    assert!(answered(third).await.unwrap().broadcast);
    assert!(answered(slow).await.unwrap().is_ok());
}

const TERMINATE: &str = "select coalesce(bool_and(pg_terminate_backend(pid)), false) from pg_stat_activity
    where datname = current_database() and application_name = 'walcast_rights'";

#[tokio::test]
async fn a_connection_that_was_lost_while_idle_is_replaced_unnoticed() {
    let scene = Scene::with(ALL, IMPATIENT).await;
    let room = asked("authenticated", "room");
    assert_eq!(scene.read(&room).await, Ok(reads(true, true)));
    scene.database.until(TERMINATE).await;
    let none_left = "select count(*) = 0 from pg_stat_activity
        where datname = current_database() and application_name = 'walcast_rights'";
    scene.database.until(none_left).await;
    assert_eq!(scene.read(&room).await, Ok(reads(true, true)));
}

#[tokio::test]
async fn a_check_whose_connection_is_killed_has_no_database() {
    let scene = Scene::with(
        &format!("{} {GATED}", Gate::FUNCTION),
        Options {
            timeout_ms: 60_000,
            brief_ms: 30_000,
            ..IMPATIENT
        },
    )
    .await;
    let gate = Gate::held(&scene.database).await;
    let slow = scene.reading(asked("authenticated", "slow-1"));
    scene.until_blocked(1).await;
    scene.database.until(TERMINATE).await;
    let error = answered(slow).await.unwrap().unwrap_err();
    assert!(matches!(error, RightsError::Unavailable(_)), "{error}");
    gate.open().await;
    let again = scene.reading(asked("authenticated", "slow-1"));
    assert!(answered(again).await.unwrap().is_ok());
}

#[tokio::test]
async fn a_database_that_is_not_there_is_unavailable_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let connect = format!("postgres://x@127.0.0.1:{port}/x").parse().unwrap();
    let authorizer = Authorizer::new(&connect, Options::default());
    let started = Instant::now();
    let read = answered(authorizer.read(&asked("authenticated", "room"), Extensions::Both)).await;
    assert_eq!(code_of(read), ErrorCode::UnableToConnectToProject);
    assert!(started.elapsed() < Duration::from_millis(Options::default().timeout_ms));
}

#[tokio::test]
async fn a_server_that_stops_and_comes_back_is_asked_again() {
    let postgres = Postgres::start(Postgres::options()).await;
    let database = prepared_on(&postgres, ALL).await;
    let authorizer = Authorizer::new(&connect_options(&database), IMPATIENT);
    let room = asked("authenticated", "room");
    let read = || answered(authorizer.read(&room, Extensions::Both));
    assert_eq!(read().await, Ok(reads(true, true)));
    postgres.stop().await;
    assert_eq!(code_of(read().await), ErrorCode::UnableToConnectToProject);
    postgres.restart().await;
    assert_eq!(read().await, Ok(reads(true, true)));
}

/// Between us and Postgres; passes everything on until it is told to freeze.
struct Wire {
    port: u16,
    frozen: watch::Sender<bool>,
}

impl Wire {
    async fn to(database: &Database) -> Self {
        let target = connect_options(database);
        let target = (target.get_host().to_owned(), target.get_port());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (frozen, freezes) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let target = target.clone();
                let mut freezes = freezes.clone();
                tokio::spawn(async move {
                    if *freezes.borrow() {
                        std::future::pending::<()>().await;
                    }
                    let mut far = TcpStream::connect(target).await.unwrap();
                    let pass = copy_bidirectional(&mut near, &mut far);
                    tokio::select! {
                        _ = pass => return,
                        _ = freezes.wait_for(|frozen| *frozen) => {}
                    }
                    // Both ends stay open, nothing moves.
                    std::future::pending::<()>().await;
                });
            }
        });
        Self { port, frozen }
    }
}

#[tokio::test]
async fn a_database_that_hangs_is_unavailable_in_time() {
    let database = prepared(ALL).await;
    let wire = Wire::to(&database).await;
    let connect = connect_options(&database).port(wire.port);
    let options = Options {
        timeout_ms: 500,
        brief_ms: 100,
        ..IMPATIENT
    };
    let patient = Options {
        timeout_ms: 10_000,
        ..options
    };
    // A connection made before, one that cannot be made, and checks behind them in the queue.
    let hot = Authorizer::new(&connect, options);
    let room = asked("authenticated", "room");
    let warm = Authorizer::new(&connect, patient);
    assert_eq!(
        answered(warm.read(&room, Extensions::Both)).await,
        Ok(reads(true, true))
    );
    let warmed = answered(hot.read(&room, Extensions::Both)).await;
    assert!(warmed.is_ok() || code_of(warmed) == ErrorCode::UnableToConnectToProject);
    wire.frozen.send(true).unwrap();
    let cold = Authorizer::new(&connect, options);
    let started = Instant::now();
    let topics: Vec<Asked> = (0..8)
        .map(|n| asked("authenticated", &format!("room-{n}")))
        .collect();
    for authorizer in [&hot, &cold] {
        let mut checks = tokio::task::JoinSet::new();
        for topic in topics.clone() {
            let authorizer = authorizer.clone();
            checks.spawn(async move { authorizer.write(&topic).await });
        }
        while let Some(written) = answered(checks.join_next()).await {
            let error = written.unwrap().unwrap_err();
            assert_eq!(error.code(), ErrorCode::UnableToConnectToProject, "{error}");
        }
    }
    assert!(started.elapsed() < DEADLINE / 2);
}
