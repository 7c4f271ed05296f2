//! Messages as they come out of the replication stream (`database.md 4.3`).

use crate::scene::{Session, migrated};
use sqlx::{Connection, PgConnection};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use walcast_messages::{MessageRow, PartitionOptions, RowBody, is_messages_partition, keep_partitions};
use walcast_replication::{Config, Event, Interest, StreamOptions, TablePublication};

const PATIENCE: Duration = Duration::from_secs(20);

struct Everything;

impl Interest for Everything {
    fn wants(&self, _: u32) -> bool {
        true
    }
}

/// Topic, event, whether private, body.
type Read = (String, String, bool, Result<String, Vec<u8>>);

#[tokio::test]
async fn what_the_functions_send_is_read_from_the_stream_in_commit_order() {
    let database = migrated().await;
    let options = StreamOptions {
        table_publications: vec![TablePublication {
            name: "supabase_realtime_messages_publication".to_owned(),
            schema: "realtime".to_owned(),
            table: "messages".to_owned(),
        }],
        ..StreamOptions::default()
    };
    let cancel = CancellationToken::new();
    let config = Config::from_url(&database.url()).unwrap();
    let mut stream = walcast_replication::spawn(config, options, Arc::new(Everything), cancel.clone());
    let first = timeout(PATIENCE, stream.next()).await.unwrap();
    assert!(matches!(first, Some(Event::Streaming { .. })), "{first:?}");

    // A table whose partitions come while it streams.
    let mut connection = PgConnection::connect(&database.url()).await.unwrap();
    let kept = keep_partitions(&mut connection, &PartitionOptions::default())
        .await
        .unwrap();
    assert_eq!(kept.created.len(), 5);
    let mut session = Session::of(&database).await;
    session
        .run(
            r#"begin; select realtime.send('{"id": "mine", "n": 1}', 'json', 'room', false); commit;
               select realtime.send_binary('\x00ff01', 'bytes', 'room');
               select realtime.send_binary('\x', 'empty', 'room');
               insert into realtime.messages (topic, extension, payload, event) values ('room', 'presence', '[1, "x"]', 'by hand');
               update realtime.messages set event = 'changed'; delete from realtime.messages;
               select realtime.send(null, 'nothing', 'room');
               select realtime.send('{}', 'last', 'room')"#,
        )
        .await
        .unwrap();

    let mut read: Vec<Read> = Vec::new();
    let mut refused = Vec::new();
    while read.last().is_none_or(|(_, event, ..)| event != "last") {
        let event = timeout(PATIENCE, stream.next()).await.unwrap();
        let Some(Event::Change(change)) = event else {
            continue;
        };
        assert!(is_messages_partition(&change.relation), "{:?}", change.relation);
        match MessageRow::read(&change, 3_000_500) {
            Ok(Some(row)) => {
                let body = match row.body {
                    RowBody::Json(json) => Ok(json.replace(row.id, "ROW")),
                    RowBody::Binary(bytes) => Err(bytes),
                };
                read.push((row.topic.to_owned(), row.event.to_owned(), row.private, body));
            }
            Ok(None) => {}
            Err(error) => refused.push(error.to_string()),
        }
    }
    let expected = |event: &str, private, body| ("room".to_owned(), event.to_owned(), private, body);
    assert_eq!(
        read,
        [
            expected("json", false, Ok(r#"{"n": 1, "id": "mine"}"#.to_owned())),
            expected("bytes", true, Err(vec![0, 255, 1])),
            expected("empty", true, Err(vec![])),
            expected("by hand", false, Ok(r#"[1, "x"]"#.to_owned())),
            expected("last", true, Ok(r#"{"id": "ROW"}"#.to_owned())),
        ]
    );
    assert_eq!(refused.len(), 1);
    assert!(refused[0].starts_with(":payload_missing:"), "{refused:?}");
    cancel.cancel();
    while stream.next().await.is_some() {}
}
