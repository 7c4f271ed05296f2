//! A database with a table, and ways to ask it and us who may see its rows.

use sqlx::PgPool;
use std::collections::HashMap;
use tokio_postgres::Client;
use walcast_changes::policy::{self, Access, ClaimsView, Row, Verdict};
use walcast_testkit::{Database, Postgres};

pub(crate) const USER: &str = "11111111-1111-4111-8111-111111111111";
pub(crate) const OTHER: &str = "22222222-2222-4222-8222-222222222222";

pub(crate) const TEXT_HELPERS: &str = "
    create or replace function auth.uid() returns uuid language sql stable as $$
      select
      coalesce(
        nullif(current_setting('request.jwt.claim.sub', true), ''),
        (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')
      )::uuid
    $$;
    create or replace function auth.role() returns text language sql stable as $$
      select coalesce(nullif(current_setting('request.jwt.claim.role', true), ''),
        (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role'))::text;
    $$;
    create or replace function auth.jwt() returns jsonb language sql stable as $$
      select coalesce(nullif(current_setting('request.jwt.claim', true), ''),
        nullif(current_setting('request.jwt.claims', true), ''))::jsonb
    $$;";

/// A fresh database with a table, and ways to ask both sides.
pub(crate) struct Bench {
    pub(crate) database: Database,
    pub(crate) client: Client,
    pool: PgPool,
}

pub(crate) struct TextRow(pub(crate) HashMap<String, Option<String>>);

impl Row for TextRow {
    fn value(&self, column: &str) -> Option<Option<&str>> {
        self.0.get(column).map(Option::as_deref)
    }
}

impl Bench {
    pub(crate) async fn new(setup: &str) -> Self {
        let database = Postgres::shared().await.database().await;
        let client = database.client().await;
        let pool = PgPool::connect(&database.url()).await.unwrap();
        client
            .batch_execute(
                "create table public.t (id int primary key, owner uuid, org text, n int, big bigint, flag boolean, v varchar(20));
                 alter table public.t enable row level security;
                 -- What Postgres says: v for visible, h for hidden or an error.
                 create function public.verdict(role_name text, claims text, row_id int) returns text language plpgsql as $$
                 declare seen boolean;
                 begin
                   begin
                     perform set_config('request.jwt.claims', claims, true), set_config('role', role_name, true);
                     select exists (select from public.t where id = row_id) into seen;
                     perform set_config('role', 'none', true);
                   exception when others then seen := false;
                   end;
                   return case when seen then 'v' else 'h' end;
                 end $$;",
            )
            .await
            .unwrap();
        client.batch_execute(setup).await.unwrap();
        Self {
            database,
            client,
            pool,
        }
    }

    pub(crate) async fn access(&self, role: &str) -> Access {
        let oid: u32 = self
            .client
            .query_one("select 'public.t'::regclass::oid", &[])
            .await
            .unwrap()
            .get(0);
        policy::compile(&policy::load(&self.pool, oid, role).await.unwrap())
    }

    pub(crate) async fn rows(&self) -> Vec<(i32, TextRow)> {
        let columns = ["id", "owner", "org", "n", "big", "flag", "v"];
        // As the stream prints them: by output functions.
        let shown = columns
            .map(|column| format!("case when {column} is not null then format('%s', {column}) end"))
            .join(", ");
        let rows = self
            .client
            .query(&format!("select id, {shown} from public.t order by id"), &[])
            .await
            .unwrap();
        rows.iter()
            .map(|row| {
                let values = columns
                    .iter()
                    .enumerate()
                    .map(|(at, name)| ((*name).to_owned(), row.get(at + 1)))
                    .collect();
                (row.get(0), TextRow(values))
            })
            .collect()
    }

    pub(crate) async fn postgres(&self, role: &str, claims: &str, row: i32) -> Verdict {
        let verdict: String = self
            .client
            .query_one("select public.verdict($1, $2, $3)", &[&role, &claims, &row])
            .await
            .unwrap()
            .get(0);
        if verdict == "v" {
            Verdict::Visible
        } else {
            Verdict::Hidden
        }
    }

    /// What we say of each row, or `None` where Postgres is to be asked about everything.
    pub(crate) async fn ours(&self, role: &str, claims: &str) -> Option<Vec<(i32, Verdict)>> {
        let access = self.access(role).await;
        let view = ClaimsView::new(claims);
        let rows = self.rows().await;
        let verdict = |row: &TextRow| match &access {
            Access::NoRls => Some(Verdict::Visible),
            Access::Hidden => Some(Verdict::Hidden),
            Access::Compiled(program) => Some(program.evaluate(row, &view)),
            Access::Ask { .. } => None,
        };
        rows.iter().map(|(id, row)| Some((*id, verdict(row)?))).collect()
    }
}
