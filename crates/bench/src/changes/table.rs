//! The tables of the load and their policies; made anew by each run, and dropped after it.

use super::audience::Audience;
use crate::token;
use anyhow::Context;
use clap::ValueEnum;
use tokio_postgres::Client;

/// The table that is subscribed to.
pub(super) const TABLE: &str = "walcast_bench_changes";
/// A published table that nobody subscribes to.
pub(super) const UNHEARD: &str = "walcast_bench_unheard";
/// Who belongs to which organisation; not published.
const MEMBERS: &str = "walcast_bench_org_members";

/// What row level security lets subscribers see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum RowSecurity {
    /// Not enabled: everybody sees every row.
    None,
    /// Enabled, and a policy shows every row to everybody.
    All,
    /// Enabled: a row is shown to the user it belongs to.
    Own,
    /// Enabled: a row is shown to all users whose token names its organisation.
    Org,
    /// As `org`, by a table of members instead of the token, which takes a query.
    Subquery,
    /// As `own`, by a policy that no server can know: a function of the database decides.
    OwnByFunction,
}

impl RowSecurity {
    /// As on the command line.
    pub(super) fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    fn policy(self) -> String {
        let using = match self {
            Self::None => return String::new(),
            Self::All => "true".to_owned(),
            Self::Own => "user_id = auth.uid()".to_owned(),
            Self::Org => "org_id = (auth.jwt() ->> 'org_id')::bigint".to_owned(),
            Self::Subquery => format!(
                "exists (select from public.{MEMBERS} as m where m.org_id = {TABLE}.org_id and m.user_id = (select auth.uid()))"
            ),
            Self::OwnByFunction => format!("public.{TABLE}_is_own(user_id)"),
        };
        format!(
            "alter table public.{TABLE} enable row level security;
             create policy reading on public.{TABLE} for select to anon, authenticated using ({using});"
        )
    }
}

/// Makes the tables, the members of the audience and the policy.
///
/// # Errors
/// If the role may not, or there is no publication `supabase_realtime`.
pub(super) async fn set_up(
    database: &Client,
    row_security: RowSecurity,
    audience: &Audience,
) -> anyhow::Result<()> {
    let columns = "id bigint generated always as identity primary key, user_id uuid not null, org_id bigint not null, body text not null";
    let statements = format!(
        "{}
         create table public.{TABLE} ({columns});
         create table public.{UNHEARD} ({columns});
         create table public.{MEMBERS} (org_id bigint, user_id uuid, primary key (org_id, user_id));
         create function public.{TABLE}_is_own(owner uuid) returns boolean language plpgsql stable as
           'begin return owner::text = (nullif(current_setting(''request.jwt.claims'', true), '''')::json ->> ''sub''); end';
         grant select on public.{TABLE}, public.{UNHEARD}, public.{MEMBERS} to anon, authenticated, service_role;
         {}
         alter publication supabase_realtime add table public.{TABLE}, public.{UNHEARD};",
        drops(),
        row_security.policy()
    );
    database
        .batch_execute(&statements)
        .await
        .context("setting up the tables failed")?;
    let (mut orgs, mut users) = (Vec::new(), Vec::new());
    for identity in 0..audience.identities() {
        orgs.push(i64::try_from(audience.org(identity))?);
        users.push(token::subject(identity));
    }
    let insert =
        format!("insert into public.{MEMBERS} select * from unnest($1::bigint[], $2::text[]::uuid[])");
    database.execute(&insert, &[&orgs, &users]).await?;
    database
        .batch_execute(&format!("analyze public.{MEMBERS}"))
        .await?;
    Ok(())
}

/// Drops what [`set_up`] made.
///
/// # Errors
/// If the role may not.
pub(super) async fn tear_down(database: &Client) -> anyhow::Result<()> {
    database
        .batch_execute(&drops())
        .await
        .context("dropping the tables failed")
}

fn drops() -> String {
    format!(
        "drop table if exists public.{TABLE}, public.{UNHEARD}, public.{MEMBERS} cascade;
         drop function if exists public.{TABLE}_is_own(uuid);"
    )
}

/// Inserts one row: owner, organisation, stamp.
pub(super) fn insert_one(table: &str) -> String {
    format!("insert into public.{table} (user_id, org_id, body) values ($1::text::uuid, $2, $3)")
}

/// Inserts rows in the order they are given: an array each of owners, organisations and stamps.
pub(super) fn insert_many(table: &str) -> String {
    format!(
        "insert into public.{table} (user_id, org_id, body)
         select * from unnest($1::text[]::uuid[], $2::bigint[], $3::text[])"
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::stamp::Stamp;
    use super::super::writer::Writers;
    use super::*;
    use crate::tally::Tally;
    use serde_json::json;
    use walcast_testkit::Postgres;

    /// The numbers of the rows that a user sees, in order.
    async fn visible(database: &mut Client, audience: &Audience, identity: usize) -> Vec<String> {
        let claims = json!({ "sub": token::subject(identity), "org_id": audience.org(identity) });
        let transaction = database.transaction().await.unwrap();
        transaction
            .execute(
                "select set_config('request.jwt.claims', $1, true), set_config('role', 'authenticated', true)",
                &[&claims.to_string()],
            )
            .await
            .unwrap();
        let select = format!("select body from public.{TABLE} order by id");
        let rows = transaction.query(&select, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    #[tokio::test]
    async fn postgres_shows_each_user_the_rows_that_the_audience_expects() {
        const ROWS: u64 = 14;
        let database = Postgres::shared().await.database().await;
        let mut client = database.client().await;
        for row_security in RowSecurity::value_variants() {
            let audience = Audience::new(5, 5, 2, *row_security, false).unwrap();
            set_up(&client, *row_security, &audience).await.unwrap();
            let mut writers = Writers::connect(&database.url(), 1).await.unwrap();
            let tally = Tally::new();
            writers.write_one(&audience, &tally).await.unwrap();
            writers.write_at_once(ROWS - 1, &audience, &tally).await.unwrap();
            for identity in 0..5 {
                let expected: Vec<String> = (0..ROWS)
                    .filter(|row| audience.includes(identity, *row))
                    .map(|number| Stamp { writer: 0, number }.text())
                    .collect();
                let seen = visible(&mut client, &audience, identity).await;
                assert_eq!(seen, expected, "{row_security:?}, user {identity}");
            }
        }
        tear_down(&client).await.unwrap();
    }
}
