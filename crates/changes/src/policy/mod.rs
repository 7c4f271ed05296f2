//! What row level security means for a role on a table, as far as that can be told without looking at a row
//! (`design.md 4`).

use sqlx::{PgPool, Row as _};

/// Everything about a table and a role that decides how visibility is to be found out.
#[derive(Clone, Debug)]
pub struct PolicyFacts {
    /// Row security is enabled on the table.
    enabled: bool,
    /// The role is a superuser or has BYPASSRLS itself, or is the owner of a table that does not force row security
    /// on its owner.
    exempt: bool,
    /// Permissive policies for SELECT that apply to the role.
    permissive: i64,
}

/// How visibility is found out.
#[derive(Clone, Debug)]
pub enum Access {
    /// Every row is visible.
    NoRls,
    /// No row is: row security is on and no permissive policy applies.
    Hidden,
    /// Only Postgres can tell.
    Ask,
}

/// Reads the facts for a role.
///
/// # Errors
/// If Postgres cannot be asked. A role that does not exist is exempt from nothing and has no policies.
pub async fn load(pool: &PgPool, table: u32, role: &str) -> Result<PolicyFacts, sqlx::Error> {
    // BYPASSRLS and superuser do not come by membership; ownership and a policy's roles do, through roles whose
    // rights are inherited.
    let row = sqlx::query(
        "select c.relrowsecurity, \
                r.rolsuper or r.rolbypassrls \
                  or (not c.relforcerowsecurity and pg_has_role(r.oid, c.relowner, 'usage')), \
                (select count(*) from pg_policy p \
                 where p.polrelid = c.oid and p.polpermissive and p.polcmd in ('r', '*') \
                   and exists (select from unnest(p.polroles) as wanted(oid) \
                               where wanted.oid = 0 or pg_has_role(r.oid, wanted.oid, 'usage'))) \
         from pg_class c, pg_roles r \
         where c.oid = $1::int8::oid and r.rolname = $2",
    )
    .bind(i64::from(table))
    .bind(role)
    .fetch_optional(pool)
    .await?;
    let Some(row) = row else {
        return Ok(PolicyFacts {
            enabled: true,
            exempt: false,
            permissive: 0,
        });
    };
    Ok(PolicyFacts {
        enabled: row.try_get(0)?,
        exempt: row.try_get(1)?,
        permissive: row.try_get(2)?,
    })
}

/// Decides how to find out.
#[must_use]
pub fn compile(facts: &PolicyFacts) -> Access {
    if !facts.enabled || facts.exempt {
        Access::NoRls
    } else if facts.permissive == 0 {
        Access::Hidden
    } else {
        Access::Ask
    }
}
