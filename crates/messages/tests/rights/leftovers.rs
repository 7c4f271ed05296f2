//! Nothing is left of a check: no row, no setting, no change of the policies' own, nothing in the stream.

use crate::scene::{Gate, Scene, answered, asked};
use walcast_messages::{Asked, Extensions, Options};

const WRITING_POLICIES: &str = "
    create table public.audit (what text);
    create function public.audited() returns boolean language plpgsql volatile security definer as $$
    begin
      insert into public.audit values (realtime.topic());
      perform pg_notify('audit', realtime.topic());
      return true;
    end $$;
    create policy reading on realtime.messages for select to authenticated using (public.audited());
    create policy writing on realtime.messages for insert to authenticated with check (public.audited());";

#[tokio::test]
async fn no_row_is_left_and_none_is_streamed() {
    let scene = Scene::new(WRITING_POLICIES).await;
    let client = scene.database.client().await;
    let slot = format!("leftovers_{}", scene.database.name());
    client
        .query(
            "select pg_create_logical_replication_slot($1, 'pgoutput', true)",
            &[&slot],
        )
        .await
        .unwrap();
    client
        .batch_execute("create publication everything for all tables")
        .await
        .unwrap();
    for topic in ["a", "b", "c"] {
        let asked = asked("authenticated", topic);
        assert!(scene.read(&asked).await.unwrap().any());
        assert!(scene.write(&asked).await.unwrap().broadcast);
    }
    for query in [
        "select count(*) from realtime.messages",
        "select count(*) from public.audit",
    ] {
        assert_eq!(
            client.query_one(query, &[]).await.unwrap().get::<_, i64>(0),
            0,
            "{query}"
        );
    }
    // Begin, relation, insert and commit of this row; nothing before it.
    client
        .batch_execute("insert into public.audit values ('own')")
        .await
        .unwrap();
    let streamed = client
        .query(
            "select chr(get_byte(data, 0)) from pg_logical_slot_get_binary_changes($1, null, null,
               'proto_version', '1', 'publication_names', 'everything')",
            &[&slot],
        )
        .await
        .unwrap();
    let kinds: Vec<String> = streamed.iter().map(|row| row.get(0)).collect();
    assert!(
        kinds.ends_with(&["B", "R", "I", "C"].map(String::from)),
        "{kinds:?}"
    );
    assert_eq!(kinds.iter().filter(|kind| *kind == "I").count(), 1, "{kinds:?}");
    client
        .query("select pg_drop_replication_slot($1)", &[&slot])
        .await
        .unwrap();
}

#[tokio::test]
async fn nothing_is_left_of_a_check_nobody_waits_for_any_more() {
    let scene = Scene::with(
        &format!(
            "{} create policy p on realtime.messages for all to authenticated
               using (case when realtime.topic() = 'slow' then public.gate() else true end);",
            Gate::FUNCTION
        ),
        Options {
            connections: 1,
            brief_ms: 4_000,
            ..Options::default()
        },
    )
    .await;
    let gate = Gate::held(&scene.database).await;
    let slow = scene.reading(asked("authenticated", "slow"));
    scene.until_blocked(1).await;
    slow.abort();
    assert!(slow.await.unwrap_err().is_cancelled());
    gate.open().await;
    assert!(scene.read(&asked("authenticated", "quick")).await.unwrap().any());
    let client = scene.database.client().await;
    let left: i64 = client
        .query_one("select count(*) from realtime.messages", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(left, 0);
}

#[tokio::test]
async fn no_setting_of_one_check_reaches_the_next() {
    let scene = Scene::with(
        "create policy stranger on realtime.messages for select to authenticated
           using (set_config('search_path', 'nowhere', false) is not null
             and set_config('tests.mark', coalesce(current_setting('tests.mark', true), '') || realtime.topic(), false)
               in ('first', 'second'));
         create function public.before() returns trigger language plpgsql as $$
         begin
           if coalesce(current_setting('realtime.topic', true), '') <> ''
             or coalesce(current_setting('request.jwt.claims', true), '') <> ''
             or coalesce(current_setting('tests.mark', true), '') <> ''
             or current_setting('search_path') <> 'public, extensions, realtime' then
             raise exception 'something is left: %', current_setting('tests.mark', true);
           end if;
           return new;
         end $$;
         create trigger before before insert on realtime.messages for each row execute function public.before();",
        Options {
            connections: 1,
            ..Options::default()
        },
    )
    .await;
    for topic in ["first", "second"] {
        let asked = Asked {
            claims: format!(r#"{{"sub":"{topic}"}}"#).into(),
            ..asked("authenticated", topic)
        };
        let read = answered(scene.authorizer.read(&asked, Extensions::Broadcast)).await;
        assert_eq!(read.map(|read| read.broadcast), Ok(Some(true)), "{topic}");
    }
}
