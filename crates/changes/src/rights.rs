//! Whether rights may have changed since they were read.
//!
//! What Postgres announces in the stream (policies, columns and grants of a published table) is read again from its
//! next change on. All else that decides what a role may see belongs to no published relation: memberships, role
//! attributes, functions that policies call, rights to schemas, the row security of a partition's ancestors. One
//! query for all tables together tells whether any of it is another than before, at most once in
//! [`RIGHTS_KEPT_FOR`] and only while changes arrive; what depends on it is read again only if so.
//!
//! The query needs no rights but to read catalogs that everybody may read. Of rows that are short their content is
//! compared; of policies and functions the transaction that wrote the row, which is another whenever the row is (but
//! for the one four thousand million transactions later). A greatest transaction number would not do: of two
//! transactions the one that began first may commit last.

use crate::fresh::Fresh;
use crate::visibility::{Asker, VisibilityError};
use sqlx::PgPool;
use std::sync::Arc;
use std::time::Duration;

/// How old our knowledge of rights may be when a change is matched. With the time it takes to ask and to match it is
/// less than a second.
const RIGHTS_KEPT_FOR: Duration = Duration::from_millis(900);

/// Stands for all rights at one moment; another whenever they are.
pub(crate) type RightsVersion = Arc<str>;

const QUERY: &str = r"
select md5(concat(
  (select string_agg(concat_ws(' ', r.oid, r.rolname, r.rolsuper, r.rolinherit, r.rolbypassrls), ',' order by r.oid)
   from pg_catalog.pg_roles r), '/',
  (select string_agg(m::text, ',' order by m::text) from pg_catalog.pg_auth_members m), '/',
  (select string_agg(concat_ws(' ', n.oid, n.nspname, n.nspowner, n.nspacl), ',' order by n.oid)
   from pg_catalog.pg_namespace n where n.nspname !~ '^pg_(toast_)?temp_'), '/',
  (select string_agg(concat_ws(' ', c.oid, c.relowner, c.relrowsecurity, c.relforcerowsecurity), ',' order by c.oid)
   from pg_catalog.pg_class c where c.relkind = 'p'), '/',
  (select string_agg(concat_ws(' ', p.oid, p.xmin), ',' order by p.oid) from pg_catalog.pg_policy p), '/',
  -- The functions policies may call, and whatever may be taken for something that those name.
  (select string_agg(concat_ws(' ', f.oid, f.xmin), ',' order by f.oid) from pg_catalog.pg_proc f
   where f.pronamespace = pg_catalog.to_regnamespace('auth')
      or f.oid = any (array(
           select d.refobjid from pg_catalog.pg_depend d
           where d.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass
             and d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass))
      or (f.proname = 'current_setting' and f.pronamespace <> 'pg_catalog'::pg_catalog.regnamespace)), '/',
  (select string_agg(concat_ws(' ', o.oid, o.xmin), ',' order by o.oid) from pg_catalog.pg_operator o
   where o.oprnamespace <> 'pg_catalog'::pg_catalog.regnamespace), '/',
  (select string_agg(concat_ws(' ', t.oid, t.xmin), ',' order by t.oid) from pg_catalog.pg_type t
   where t.typname = any (array['json', 'jsonb', 'text', 'varchar', 'uuid', 'bool', 'boolean', 'int', 'integer',
                                'int2', 'int4', 'int8', 'bigint', 'smallint'])
     and t.typnamespace <> 'pg_catalog'::pg_catalog.regnamespace)))";

/// The version of rights, asked for once by all tables.
pub(crate) struct Rights {
    version: Fresh<(), RightsVersion>,
}

impl Default for Rights {
    fn default() -> Self {
        Self {
            version: Fresh::new(RIGHTS_KEPT_FOR),
        }
    }
}

impl Rights {
    /// The version of a moment that is not longer ago than [`RIGHTS_KEPT_FOR`].
    ///
    /// # Errors
    /// If Postgres cannot be asked for longer than `asker` is patient.
    pub(crate) async fn version(
        &self,
        pool: &PgPool,
        asker: &Asker,
    ) -> Result<RightsVersion, VisibilityError> {
        let ask = || async {
            let version: String = sqlx::query_scalar(QUERY).fetch_one(pool).await?;
            Ok(Some(version.into()))
        };
        self.version.get((), asker.patiently(ask)).await
    }
}
