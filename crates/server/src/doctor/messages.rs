//! `realtime.messages`: private channels are judged by its policies, and messages need a partition of their day.

use sqlx::PgConnection;
use walcast_changes::diagnosis::identifier;

use super::report::{Entry, Level};

const QUERY: &str = r"
select
  current_user::text,
  owner.rolname::text,
  pg_has_role(root.relowner, 'usage'),
  pg_has_role(root.relowner, 'member'),
  current_setting('server_version_num')::int4 >= 160000,
  exists (
    select from pg_roles maker
    where maker.rolname = 'postgres' and not maker.rolsuper
      and not pg_has_role(maker.oid, root.relowner, 'member')
      and coalesce(current_setting('supautils.policy_grants', true), '') not like '%realtime.messages%'),
  (select count(*) from pg_policy policy where policy.polrelid = root.oid),
  array(
    select format('%s %s %s', ahead, to_char(utc.today + ahead, 'YYYY-MM-DD'), to_char(utc.today + ahead + 1, 'YYYY-MM-DD'))
    from generate_series(0, 1) ahead
    where root.relkind = 'p'
      and not exists (select from pg_partitioned_table p where p.partrelid = root.oid and p.partdefid <> 0)
      and not exists (
        select from pg_inherits part join pg_class child on child.oid = part.inhrelid
        where part.inhparent = root.oid
          and child.relname = 'messages_' || to_char(utc.today + ahead, 'YYYY_MM_DD'))
    order by ahead),
  exists (select from pg_replication_slots
          where database = current_database() and active and starts_with(slot_name, 'walcast_'))
from pg_class root
join pg_namespace schema on schema.oid = root.relnamespace
join pg_roles owner on owner.oid = root.relowner
cross join lateral (select timezone('UTC'::text, clock_timestamp())::date as today) utc
where schema.nspname = 'realtime' and root.relname = 'messages'";

/// Our role, the owner, whether we count as it, whether we are at least a member of it, whether memberships say for
/// themselves if they are inherited, whether the project's owner may make no policies, the number of policies, and the days without a partition: how many
/// days ahead, the day, the next; and whether a Walcast server is at work, which should have made them.
type Looked = (String, String, bool, bool, bool, bool, i64, Vec<String>, bool);

pub(super) async fn look(postgres: &mut PgConnection) -> Result<Vec<Entry>, sqlx::Error> {
    let looked: Option<Looked> = sqlx::query_as(QUERY).fetch_optional(postgres).await?;
    let Some((role, owner, is_owner, is_member, has_options, lacks_maker, policies, days, is_served)) =
        looked
    else {
        return Ok(vec![Entry::warning(
            "messages_missing",
            "there is no table realtime.messages, so private channels are refused: start Walcast, or run `walcast migrate`",
        )]);
    };
    let mut entries = Vec::new();
    entries.push(match policies {
        0 => Entry::warning(
            "no_message_policy",
            "realtime.messages has no policy, so every private channel is refused; if there shall be some, create one, with the condition that says which topics in place of true",
        )
        .mended_by("create policy \"authenticated reads\" on realtime.messages for select to authenticated using (true)"),
        1 => Entry::ok("realtime.messages has 1 policy for private channels"),
        several => Entry::ok(format!("realtime.messages has {several} policies for private channels")),
    });
    if !is_owner {
        entries.push(
            Entry::problem(
                "messages_not_owned",
                format!("role \"{role}\" may neither keep the partitions of realtime.messages nor judge by its policies: they belong to \"{owner}\""),
            )
            .mended_by(match (is_member, has_options) {
                // A member that inherits nothing.
                (true, false) => format!("alter role {} inherit", identifier(&role)),
                (true, true) => format!(
                    "grant {} to {} with inherit true",
                    identifier(&owner),
                    identifier(&role)
                ),
                (false, _) => format!("grant {} to {}", identifier(&owner), identifier(&role)),
            }),
        );
    }
    if lacks_maker {
        entries.push(
            Entry::warning(
                "policies_not_allowed",
                format!("role \"postgres\" may make no policies on realtime.messages, which belongs to \"{owner}\""),
            )
            .mended_by(format!("grant {} to postgres", identifier(&owner))),
        );
    }
    if days.is_empty() {
        entries.push(Entry::ok(
            "realtime.messages has partitions of today and tomorrow",
        ));
    }
    for day in days {
        let mut parts = day.split(' ');
        let (Some(ahead), Some(day), Some(next_day)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let partition = format!("realtime.messages_{}", day.replace('-', "_"));
        let level = if ahead == "0" && is_served {
            Level::Problem
        } else {
            Level::Warning
        };
        entries.push(Entry {
            level,
            ..Entry::warning(
                "no_partition",
                format!("realtime.messages has no partition of {day}, so messages of that day are refused; Walcast makes it at its start and every hour"),
            )
            .mended_by(format!(
                "create table {partition} partition of realtime.messages for values from ('{day}') to ('{next_day}'); alter table {partition} enable row level security"
            ))
        });
    }
    Ok(entries)
}
