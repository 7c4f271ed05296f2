//! Partitions and retention (`database.md 6`).

use crate::scene::{Session, migrated};
use sqlx::{Connection, PgConnection};
use walcast_messages::{Kept, PartitionFailure, PartitionOptions, UpkeepError, keep_partitions};
use walcast_testkit::{Database, Postgres};

/// Days around today that are there after a run on a new table.
const WANTED: [i32; 5] = [-1, 0, 1, 2, 3];

async fn keep_with(database: &Database, options: PartitionOptions) -> Result<Kept, UpkeepError> {
    let mut connection = PgConnection::connect(&database.url()).await.unwrap();
    keep_partitions(&mut connection, &options).await
}

async fn keep(database: &Database) -> Kept {
    keep_with(database, PartitionOptions::default()).await.unwrap()
}

/// The names of the partitions of days, counted from today's.
async fn names(session: &Session, days: &[i32]) -> Vec<String> {
    let mut names = Vec::new();
    for day in days {
        let name = session
            .value(&format!(
                "select to_char((now() at time zone 'utc')::date + {day}, '\"messages_\"YYYY_MM_DD')"
            ))
            .await;
        names.push(name.unwrap());
    }
    names
}

/// Partitions as days counted from today's, and their bounds checked.
async fn partitions(session: &Session) -> Vec<i32> {
    let row = session
        .client
        .query_one(
            "select coalesce(array_agg(day - (now() at time zone 'utc')::date order by day), '{}'),
               coalesce(bool_and(bounds = format('FOR VALUES FROM (''%s 00:00:00'') TO (''%s 00:00:00'')', day, day + 1)), true)
             from (
               select to_date(relname, '\"messages_\"YYYY_MM_DD') as day, pg_get_expr(relpartbound, oid) as bounds
               from pg_class where relname ~ '^messages_\\d{4}_\\d\\d_\\d\\d$' and relispartition and relnamespace = 'realtime'::regnamespace
             ) partition",
            &[],
        )
        .await
        .unwrap();
    assert!(row.get::<_, bool>(1), "each holds one UTC day");
    row.get(0)
}

/// Makes the partition of a day as the reference server does.
async fn make_day(session: &mut Session, day: i32) {
    session
        .run(&format!(
            "do $$declare day date := (now() at time zone 'utc')::date + {day};
             begin
               execute format('create table realtime.%I partition of realtime.messages for values from (%L) to (%L)',
                 to_char(day, '\"messages_\"YYYY_MM_DD'), day, day + 1);
             end$$"
        ))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_new_table_gets_yesterday_to_three_days_ahead_and_a_second_run_finds_nothing_to_do() {
    let database = migrated().await;
    let session = Session::of(&database).await;
    let kept = keep(&database).await;
    assert_eq!(kept.created, names(&session, &WANTED).await);
    assert_eq!(partitions(&session).await, WANTED);
    let again = keep(&database).await;
    assert!(again.created.is_empty() && again.dropped.is_empty() && again.failures.is_empty());
    assert!((1..=86_400_000).contains(&again.until_midnight_ms));
}

#[tokio::test]
async fn after_a_week_away_one_run_makes_all_right() {
    let database = migrated().await;
    let mut session = Session::of(&database).await;
    for day in -10..=-3 {
        make_day(&mut session, day).await;
    }
    session
        .run("insert into realtime.messages (topic, extension, inserted_at) values ('old', 'broadcast', (now() at time zone 'utc') - interval '9 days')")
        .await
        .unwrap();
    let kept = keep(&database).await;
    assert_eq!(kept.created, names(&session, &WANTED).await);
    assert_eq!(
        kept.dropped,
        names(&session, &[-10, -9, -8, -7, -6, -5, -4]).await
    );
    assert_eq!(
        partitions(&session).await,
        [-3, -1, 0, 1, 2, 3],
        "72 hours ago began on the oldest day that stays"
    );
    assert!(
        session
            .run("select realtime.send('{}', 'e', 't')")
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn retention_is_counted_in_hours_but_yesterday_always_stays() {
    for (retention_hours, oldest) in [(0, -1), (24, -1), (48, -2), (72, -3), (24 * 30, -5)] {
        let database = migrated().await;
        let mut session = Session::of(&database).await;
        for day in -5..=-2 {
            make_day(&mut session, day).await;
        }
        let options = PartitionOptions {
            retention_hours,
            ..PartitionOptions::default()
        };
        keep_with(&database, options).await.unwrap();
        assert_eq!(
            partitions(&session).await,
            (oldest..=3).collect::<Vec<i32>>(),
            "{retention_hours} h"
        );
    }
}

#[tokio::test]
async fn days_are_utc_whatever_time_zone_the_database_prefers() {
    for zone in ["Pacific/Kiritimati", "Etc/GMT+12"] {
        let database = migrated().await;
        database
            .execute(&format!(
                "alter database {name} set timezone = '{zone}'; alter database {name} set datestyle = 'German'",
                name = database.name()
            ))
            .await;
        keep(&database).await;
        let mut session = Session::of(&database).await;
        assert!(
            session
                .run("select realtime.send('{}', 'e', 't')")
                .await
                .unwrap()
                .is_empty()
        );
        session.run("set datestyle = 'ISO'").await.unwrap();
        assert_eq!(partitions(&session).await, WANTED, "{zone}");
        let at_home = session
            .value(
                "select tableoid::regclass::text = format('realtime.%s', to_char(now() at time zone 'utc', '\"messages_\"YYYY_MM_DD'))
                 from realtime.messages",
            )
            .await;
        assert_eq!(at_home.as_deref(), Some("true"), "{zone}");
    }
}

#[tokio::test]
async fn a_partition_has_what_the_root_has_and_no_way_past_its_policies() {
    let database = migrated().await;
    let mut session = Session::of(&database).await;
    session
        .run(
            "alter table realtime.messages add column note text default 'none', drop column updated_at;
             create function public.shout() returns trigger language plpgsql as $$begin new.event := upper(new.event); return new; end$$;
             create trigger shouts before insert on realtime.messages for each row execute function public.shout();
             alter default privileges grant all on tables to anon",
        )
        .await
        .unwrap();
    let kept = keep(&database).await;
    assert_eq!(kept.created.len(), 5, "{kept:?}");
    let today = names(&session, &[0]).await.remove(0);
    for (query, expected) in [
        (
            "select string_agg(indexdef, e'\\n' order by indexdef) ~ 'UNIQUE INDEX .*\\(id, inserted_at\\)' and count(*) = 2
             from pg_indexes where schemaname = 'realtime' and tablename = 'TODAY'",
            "true",
        ),
        (
            "select bool_and(convalidated) from pg_constraint where conrelid = 'realtime.TODAY'::regclass and conname = 'messages_payload_exclusive'",
            "true",
        ),
        (
            "select format('%s %s', relowner::regrole, relrowsecurity) from pg_class where oid = 'realtime.TODAY'::regclass",
            "supabase_realtime_admin t",
        ),
    ] {
        let value = session.value(&query.replace("TODAY", &today)).await;
        assert_eq!(value.as_deref(), Some(expected), "{query}");
    }
    session
        .run("select realtime.send('{}', 'quiet', 't')")
        .await
        .unwrap();
    let row = session
        .value("select format('%s %s', event, note) from realtime.messages")
        .await;
    assert_eq!(row.as_deref(), Some("QUIET none"));
    session.run("set role anon").await.unwrap();
    let seen = session
        .value(&format!("select count(*) from realtime.{today}"))
        .await;
    assert_eq!(seen.as_deref(), Some("0"));
}

#[tokio::test]
async fn partitions_with_odd_names_stay_and_are_told() {
    let database = migrated().await;
    let mut session = Session::of(&database).await;
    session
        .run(
            "create table realtime.messages_ancient partition of realtime.messages for values from (minvalue) to ('2020-01-01');
             create table public.messages_2020_01_01 partition of realtime.messages for values from ('2020-01-01') to ('2020-01-02');
             create table realtime.\"messages_2020_01_02\"\"; drop\" partition of realtime.messages for values from ('2020-01-02') to ('2020-01-03');
             create table realtime.messages_2020_01_03 (id int)",
        )
        .await
        .unwrap();
    let kept = keep(&database).await;
    assert_eq!(kept.odd, ["messages_2020_01_02\"; drop", "messages_ancient"]);
    assert!(kept.dropped.is_empty() && kept.failures.is_empty(), "{kept:?}");
    assert_eq!(kept.created.len(), 5);
    let there = session
        .value(
            "select to_regclass('realtime.messages_ancient') is not null and to_regclass('public.messages_2020_01_01') is not null
               and to_regclass('realtime.messages_2020_01_03') is not null",
        )
        .await;
    assert_eq!(there.as_deref(), Some("true"));
}

#[tokio::test]
async fn a_day_that_another_partition_covers_needs_none() {
    let database = migrated().await;
    let mut session = Session::of(&database).await;
    session
        .run("create table realtime.messages_all partition of realtime.messages for values from ('2020-01-01') to (maxvalue)")
        .await
        .unwrap();
    let kept = keep(&database).await;
    assert_eq!(kept.covered, names(&session, &WANTED).await);
    assert!(kept.created.is_empty() && kept.failures.is_empty(), "{kept:?}");
    let leftover = session
        .value("select count(*) from pg_class where relname like 'messages\\_2%' and relkind = 'r'")
        .await;
    assert_eq!(leftover.as_deref(), Some("0"));
}

#[tokio::test]
async fn a_table_in_the_place_of_a_partition_fails_for_its_day_only() {
    let database = migrated().await;
    let mut session = Session::of(&database).await;
    make_day(&mut session, 0).await;
    let today = names(&session, &[0]).await.remove(0);
    session
        .run(&format!(
            "alter table realtime.messages detach partition realtime.{today}"
        ))
        .await
        .unwrap();
    let kept = keep(&database).await;
    assert_eq!(kept.created, names(&session, &[-1, 1, 2, 3]).await);
    let [failure @ PartitionFailure::Create { name, .. }] = &kept.failures[..] else {
        panic!("{kept:?}");
    };
    assert_eq!(*name, today);
    assert!(failure.to_string().contains("attach or rename it"), "{failure}");
}

#[tokio::test]
async fn to_make_partitions_holds_nobody_up_and_waits_for_no_writer() {
    let database = migrated().await;
    let mut writer = Session::of(&database).await;
    make_day(&mut writer, 0).await;
    writer
        .run("begin; select realtime.send('{}', 'e', 't')")
        .await
        .unwrap();
    let kept = keep(&database).await;
    assert_eq!(kept.created, names(&writer, &[-1, 1, 2, 3]).await);
    writer.run("commit").await.unwrap();
}

#[tokio::test]
async fn a_table_that_is_locked_is_left_for_the_next_time() {
    let database = migrated().await;
    let mut session = Session::of(&database).await;
    session
        .run("begin; lock table realtime.messages in access exclusive mode")
        .await
        .unwrap();
    let options = PartitionOptions {
        create_lock_timeout_ms: 10,
        ..PartitionOptions::default()
    };
    let kept = keep_with(&database, options).await.unwrap();
    assert_eq!(kept.failures.len(), 5, "{kept:?}");
    assert!(
        kept.failures
            .iter()
            .all(|failure| failure.to_string().contains("a long transaction uses the table")),
        "{kept:?}"
    );
    session.run("commit").await.unwrap();
    assert_eq!(keep(&database).await.created, names(&session, &WANTED).await);
}

#[tokio::test]
async fn an_old_partition_in_use_is_left_for_the_next_time_and_the_others_go() {
    let database = migrated().await;
    let mut session = Session::of(&database).await;
    make_day(&mut session, -9).await;
    let name = names(&session, &[-9]).await.remove(0);
    session
        .run(&format!("begin; select from realtime.{name}"))
        .await
        .unwrap();
    let other = Session::of(&database).await;
    let options = PartitionOptions {
        drop_lock_timeout_ms: 10,
        ..PartitionOptions::default()
    };
    let kept = keep_with(&database, options).await.unwrap();
    let [failure @ PartitionFailure::Drop { .. }] = &kept.failures[..] else {
        panic!("{kept:?}");
    };
    assert_eq!(failure.code(), "JanitorFailedToDeleteOldMessages");
    assert!(
        failure.to_string().contains("a long transaction uses the table"),
        "{failure}"
    );
    assert_eq!(kept.created.len(), 5, "what can be done is done");
    session.run("commit").await.unwrap();
    assert_eq!(keep(&database).await.dropped, [name]);
    assert_eq!(partitions(&other).await, WANTED);
}

#[tokio::test]
async fn what_depends_on_an_old_partition_keeps_only_that_one() {
    let database = migrated().await;
    let mut session = Session::of(&database).await;
    for day in [-9, -8] {
        make_day(&mut session, day).await;
    }
    let [kept_one, dropped_one] = &names(&session, &[-9, -8]).await[..] else {
        unreachable!();
    };
    session
        .run(&format!(
            "create view public.archive as select * from realtime.{kept_one}"
        ))
        .await
        .unwrap();
    let kept = keep(&database).await;
    assert_eq!(kept.dropped, std::slice::from_ref(dropped_one));
    let [failure] = &kept.failures[..] else {
        panic!("{kept:?}");
    };
    assert!(
        failure.to_string().contains("drop what depends on it"),
        "{failure}"
    );
}

#[tokio::test]
async fn several_servers_at_once_do_the_work_once() {
    let database = migrated().await;
    let mut session = Session::of(&database).await;
    for day in -9..=-5 {
        make_day(&mut session, day).await;
    }
    let runs = tokio::join!(keep(&database), keep(&database), keep(&database), keep(&database));
    let (mut created, mut dropped) = (Vec::new(), Vec::new());
    for kept in [runs.0, runs.1, runs.2, runs.3] {
        assert!(kept.failures.is_empty(), "{kept:?}");
        created.extend(kept.created);
        dropped.extend(kept.dropped);
    }
    created.sort();
    dropped.sort();
    assert_eq!(dropped, names(&session, &[-9, -8, -7, -6, -5]).await);
    assert_eq!(created, names(&session, &WANTED).await);
    assert_eq!(partitions(&session).await, WANTED);
}

#[tokio::test]
async fn over_the_reference_server_s_table_the_owner_stays_the_same() {
    let database = Postgres::shared().await.database().await;
    // Columns in another order, the check not validated, today's partition there.
    database
        .execute(
            "create table realtime.messages (
               binary_payload bytea, id uuid default gen_random_uuid(), topic text not null, extension text not null, payload jsonb, event text,
               private boolean default false, updated_at timestamp not null default now(),
               inserted_at timestamp not null default now(), primary key (id, inserted_at)) partition by range (inserted_at);
             alter table realtime.messages add constraint messages_payload_exclusive
               check (payload is null or binary_payload is null) not valid;
             alter table realtime.messages owner to supabase_realtime_admin",
        )
        .await;
    let mut session = Session::of(&database).await;
    make_day(&mut session, 0).await;
    let kept = keep(&database).await;
    assert_eq!(kept.created, names(&session, &[-1, 1, 2, 3]).await, "{kept:?}");
    let owners = session
        .value(
            "select string_agg(distinct relowner::regrole::text, ' ') from pg_class
             where relname like 'messages%' and relkind = 'r' and relname <> to_char(now() at time zone 'utc', '\"messages_\"YYYY_MM_DD')",
        )
        .await;
    assert_eq!(owners.as_deref(), Some("supabase_realtime_admin"));
}

#[tokio::test]
async fn what_prevents_everything_is_told_with_its_remedy() {
    let none = Postgres::shared().await.database().await;
    let error = keep_with(&none, PartitionOptions::default()).await.unwrap_err();
    assert!(matches!(error, UpkeepError::NoTable), "{error}");

    let plain = Postgres::shared().await.database().await;
    plain.execute("create table realtime.messages (id int)").await;
    let error = keep_with(&plain, PartitionOptions::default()).await.unwrap_err();
    assert!(matches!(error, UpkeepError::NotPartitioned), "{error}");

    let database = migrated().await;
    let role = format!("{}_stranger", database.name());
    database
        .execute(&format!(
            "create role {role} login; grant usage on schema realtime to {role}"
        ))
        .await;
    let mut connection = PgConnection::connect(&database.url_as(&role, "")).await.unwrap();
    let error = keep_partitions(&mut connection, &PartitionOptions::default())
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "the role {role} may not keep the partitions of realtime.messages: grant \"supabase_realtime_admin\" to \"{role}\""
        )
    );
    connection.close().await.unwrap();
    database
        .execute(&format!("drop owned by {role}; drop role {role}"))
        .await;
}
