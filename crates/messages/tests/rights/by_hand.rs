//! The checks as the reference makes them: its statements, one by one, in one transaction that is rolled back
//! (`database.md 3.2`, `3.3`).

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use walcast_messages::Asked;

/// What they yield.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Rights { broadcast: bool, presence: bool },
    MissingPartition,
    Failed,
}

/// A session with the settings ours have.
pub(crate) async fn prepare(client: &Client) {
    let settings = "set search_path = public, extensions, realtime; set timezone = 'UTC'";
    client.batch_execute(settings).await.unwrap();
}

pub(crate) async fn read(client: &Client, asked: &Asked) -> Found {
    client.batch_execute("begin").await.unwrap();
    let found = read_in_transaction(client, asked).await;
    client.batch_execute("rollback").await.unwrap();
    found.unwrap_or_else(failed)
}

async fn read_in_transaction(client: &Client, asked: &Asked) -> Result<Found, tokio_postgres::Error> {
    let ids: Vec<String> = client
        .query(
            "insert into realtime.messages (id, topic, extension, inserted_at, updated_at)
             select gen_random_uuid(), $1, extension, at, at
             from unnest(array['broadcast', 'presence']) with ordinality as probe(extension, n),
               (select clock_timestamp() at time zone 'utc') as clock(at)
             order by n returning id::text",
            &[&asked.topic.as_ref()],
        )
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect();
    become_role(client, asked).await?;
    let seen: Vec<String> = client
        .query(
            "select id::text from realtime.messages where id in ($1::text::uuid, $2::text::uuid)",
            &[&ids[0], &ids[1]],
        )
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect();
    Ok(Found::Rights {
        broadcast: seen.contains(&ids[0]),
        presence: seen.contains(&ids[1]),
    })
}

pub(crate) async fn write(client: &Client, asked: &Asked) -> Found {
    client.batch_execute("begin").await.unwrap();
    let found = write_in_transaction(client, asked).await;
    client.batch_execute("rollback").await.unwrap();
    found.unwrap_or_else(failed)
}

async fn write_in_transaction(client: &Client, asked: &Asked) -> Result<Found, tokio_postgres::Error> {
    become_role(client, asked).await?;
    let mut allowed = [false, false];
    for (allowed, extension) in allowed.iter_mut().zip(["broadcast", "presence"]) {
        client.batch_execute("savepoint probe").await?;
        let inserted = client
            .execute(
                "insert into realtime.messages (topic, extension, inserted_at, updated_at)
                 values ($1, $2, clock_timestamp() at time zone 'utc', clock_timestamp() at time zone 'utc')",
                &[&asked.topic.as_ref(), &extension],
            )
            .await;
        match inserted {
            Ok(_) => {
                *allowed = true;
                client.batch_execute("release savepoint probe").await?;
            }
            Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
                client.batch_execute("rollback to savepoint probe").await?;
            }
            Err(error) => return Err(error),
        }
    }
    let [broadcast, presence] = allowed;
    Ok(Found::Rights { broadcast, presence })
}

async fn become_role(client: &Client, asked: &Asked) -> Result<(), tokio_postgres::Error> {
    let Asked {
        role,
        topic,
        claims,
        headers,
    } = asked;
    client
        .query(
            "select set_config('role', $1, true), set_config('realtime.topic', $2, true),
               set_config('request.jwt.claims', $3, true),
               set_config('request.jwt.claim.sub', coalesce($3::text::json ->> 'sub', ''), true),
               set_config('request.jwt.claim.role', $1, true), set_config('request.headers', $4, true)",
            &[
                &role.as_ref(),
                &topic.as_ref(),
                &claims.as_ref(),
                &headers.as_ref(),
            ],
        )
        .await?;
    Ok(())
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "it is what a result's error is turned into"
)]
fn failed(error: tokio_postgres::Error) -> Found {
    let missing_partition = error
        .as_db_error()
        .is_some_and(|error| *error.code() == SqlState::CHECK_VIOLATION && error.table() == Some("messages"));
    if missing_partition {
        Found::MissingPartition
    } else {
        Found::Failed
    }
}
