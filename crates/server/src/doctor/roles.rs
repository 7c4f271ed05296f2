//! Whether the roles of tokens exist, and whether Walcast may become them.

use sqlx::PgConnection;
use walcast_changes::diagnosis::Finding;

use super::report::{Entry, Level};

const QUERY: &str = r"
select
  current_user::text,
  wanted.role,
  r.oid is not null,
  coalesce(pg_has_role(r.oid,
    case when current_setting('server_version_num')::int4 >= 160000 then 'set' else 'member' end), false),
  current_setting('server_version_num')::int4 >= 160000
from unnest($1::text[]) with ordinality wanted(role, position)
left join pg_roles r on r.rolname = wanted.role
order by wanted.position";

pub(super) async fn look(postgres: &mut PgConnection, roles: &[String]) -> Result<Vec<Entry>, sqlx::Error> {
    let looked: Vec<(String, String, bool, bool, bool)> =
        sqlx::query_as(QUERY).bind(roles).fetch_all(postgres).await?;
    let mut entries = Vec::new();
    let mut sound = Vec::new();
    for (connected_as, role, exists, may_become, has_options) in looked {
        if !exists {
            entries.push(Entry::from(&Finding::NoSuchRole { role }));
        } else if may_become {
            sound.push(role);
        } else {
            let finding = Finding::RoleNotGranted {
                role,
                to: connected_as,
                has_options,
            };
            // Private channels of this role are refused, whatever its tables are like.
            entries.push(Entry {
                level: Level::Problem,
                ..Entry::from(&finding)
            });
        }
    }
    if !sound.is_empty() {
        entries.push(Entry::ok(format!("Walcast may become {}", sound.join(", "))));
    }
    Ok(entries)
}
