//! Whether broadcasts from the database are published (`database.md 1.8`). Walcast makes the publication of
//! `realtime.messages`, or sets it right, when it starts, if it may; then there is nothing to say.

use sqlx::PgConnection;

use super::report::Entry;
use crate::database_side::MESSAGES_PUBLICATION;

const QUERY: &str = r"
select
  current_user::text,
  publication.oid is not null,
  coalesce(
    not publication.puballtables
      and exists (select from pg_publication_rel r where r.prpubid = publication.oid)
      and not exists (
        select from pg_publication_rel r where r.prpubid = publication.oid and r.prrelid <> root.oid
          and not exists (select from pg_inherits part where part.inhrelid = r.prrelid and part.inhparent = root.oid)),
    false),
  coalesce(
    pg_has_role(publication.pubowner, 'usage') and not publication.puballtables,
    has_database_privilege(current_database(), 'create'))
from pg_class root
join pg_namespace schema on schema.oid = root.relnamespace
left join pg_publication publication on publication.pubname = $1
where schema.nspname = 'realtime' and root.relname = 'messages'
  and (pg_has_role(root.relowner, 'usage') or publication.oid is not null)";

/// Our role; whether the publication exists, whether it holds `realtime.messages` and nothing else, and whether we may
/// make it so. No row where there is no such table, or none of ours to publish, which is told elsewhere.
type Looked = (String, bool, bool, bool);

pub(super) async fn look(postgres: &mut PgConnection) -> Result<Vec<Entry>, sqlx::Error> {
    let looked: Option<Looked> = sqlx::query_as(QUERY)
        .bind(MESSAGES_PUBLICATION)
        .fetch_optional(postgres)
        .await?;
    let Some((role, exists, is_right, may_mend)) = looked else {
        return Ok(Vec::new());
    };
    if is_right {
        return Ok(vec![Entry::ok("broadcasts from the database are published")]);
    }
    if may_mend {
        return Ok(Vec::new());
    }
    let create = format!("create publication {MESSAGES_PUBLICATION} for table realtime.messages");
    let (fault, sql) = if exists {
        (
            format!("does not hold realtime.messages alone and role \"{role}\" may not change it"),
            format!("drop publication {MESSAGES_PUBLICATION}; {create}"),
        )
    } else {
        (
            format!("does not exist and role \"{role}\" may not create it"),
            create,
        )
    };
    let consequence = "so broadcasts from the database do not arrive";
    let message = format!("{MESSAGES_PUBLICATION} {fault}, {consequence}");
    Ok(vec![
        Entry::problem("messages_not_published", message).mended_by(sql),
    ])
}
