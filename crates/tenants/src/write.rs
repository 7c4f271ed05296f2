//! Records of tenants are written, as the API of tenants asks for (`protocol.md 10`).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};

use crate::changes::{Happening, notify};
use crate::control::{Control, ControlError, find_in};
use crate::draft::{Defaults, Draft, external_id};
use crate::draft_extension::ExtensionDraft;
use crate::invalid::Invalid;
use crate::tenant::Tenant;

/// A time of a record.
const NOW: &str = "date_trunc('second', now() at time zone 'utc')";

const UNIQUE_VIOLATION: &str = "23505";

/// A tenant that was written.
#[derive(Debug, Clone, PartialEq)]
pub enum Written {
    /// It was not there before.
    Created(Tenant),
    /// It was.
    Updated(Tenant),
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// What is wanted cannot be.
    #[error("the tenant that is wanted is invalid: {0}")]
    Invalid(Invalid),
    /// The control database.
    #[error(transparent)]
    Control(#[from] ControlError),
}

impl From<sqlx::Error> for WriteError {
    fn from(error: sqlx::Error) -> Self {
        Self::Control(error.into())
    }
}

impl Control {
    /// Makes the tenant of the external id in `wanted`, or changes it if there is one: what is not named stays as it
    /// is. A new one has `defaults` for limits that are not named.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn upsert(
        &self,
        wanted: &Map<String, Value>,
        defaults: Defaults,
    ) -> Result<Written, WriteError> {
        let external_id = external_id(wanted).map_err(WriteError::Invalid)?;
        self.write(&external_id, wanted, defaults).await
    }

    /// The same for the tenant of an external id that was named elsewhere. A new one is called by it.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn upsert_named(
        &self,
        name: &str,
        wanted: &Map<String, Value>,
        defaults: Defaults,
    ) -> Result<Written, WriteError> {
        let named = Map::from_iter([("external_id".to_owned(), name.into())]);
        let external_id = external_id(&named).map_err(WriteError::Invalid)?;
        let is_new = self.find(&external_id).await?.is_none();
        if is_new {
            let mut wanted = wanted.clone();
            wanted.insert("name".to_owned(), name.into());
            return self.write(&external_id, &wanted, defaults).await;
        }
        // Extensions refer to it, and so does every client.
        if wanted
            .get("external_id")
            .is_some_and(|other| other.as_str() != Some(name))
        {
            let invalid = Invalid::field("external_id", "cannot be changed");
            return Err(WriteError::Invalid(invalid));
        }
        self.write(&external_id, wanted, defaults).await
    }

    async fn write(
        &self,
        external_id: &str,
        wanted: &Map<String, Value>,
        defaults: Defaults,
    ) -> Result<Written, WriteError> {
        match self.write_once(external_id, wanted, defaults).await {
            // Somebody else made it at the same moment: now there is one to change.
            Err(WriteError::Control(ControlError::Unavailable(sqlx::Error::Database(error))))
                if error.code().as_deref() == Some(UNIQUE_VIOLATION) =>
            {
                self.write_once(external_id, wanted, defaults).await
            }
            written => written,
        }
    }

    async fn write_once(
        &self,
        external_id: &str,
        wanted: &Map<String, Value>,
        defaults: Defaults,
    ) -> Result<Written, WriteError> {
        let mut connection = self.pool().acquire().await?;
        let mut transaction = connection.begin().await?;
        sqlx::query("select from tenants where external_id = $1 for update")
            .bind(external_id)
            .execute(&mut *transaction)
            .await?;
        let earlier = find_in(&mut *transaction, external_id).await?;
        let draft = match &earlier {
            Some(tenant) => Draft::of_change(tenant, wanted, self.cipher()),
            None => Draft::of_new(wanted, defaults, self.cipher()),
        };
        let draft = draft.map_err(WriteError::Invalid)?;
        let columns = known_columns(&mut transaction, draft.columns).await?;
        match earlier {
            Some(_) => update(&mut transaction, external_id, &columns).await?,
            None => insert(&mut transaction, external_id, columns).await?,
        }
        if let Some(extensions) = &draft.extensions {
            replace_extensions(&mut transaction, external_id, extensions).await?;
        }
        notify(&mut transaction, Happening::Changed, external_id).await?;
        let written = find_in(&mut *transaction, external_id).await?;
        let written = written.ok_or(sqlx::Error::RowNotFound)?;
        transaction.commit().await?;
        Ok(match earlier {
            Some(_) => Written::Updated(written),
            None => Written::Created(written),
        })
    }

    /// Deletes a tenant; whether there was one.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn delete(&self, external_id: &str) -> Result<bool, ControlError> {
        // Postgres has no text with it.
        if external_id.contains('\0') {
            return Ok(false);
        }
        let mut connection = self.pool().acquire().await?;
        let mut transaction = connection.begin().await?;
        for statement in [
            "delete from extensions where tenant_external_id = $1",
            "delete from tenants where external_id = $1",
        ] {
            let deleted = sqlx::query(statement)
                .bind(external_id)
                .execute(&mut *transaction)
                .await?;
            if statement.contains("from tenants") && deleted.rows_affected() == 0 {
                return Ok(false);
            }
        }
        notify(&mut transaction, Happening::Changed, external_id).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Tells all nodes what is to happen to a tenant, this one among them.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn tell(&self, external_id: &str, happening: Happening) -> Result<(), ControlError> {
        let mut connection = self.pool().acquire().await?;
        Ok(notify(&mut connection, happening, external_id).await?)
    }
}

/// Those that the table has: an older reference server has made fewer, and ignores what it does not know.
async fn known_columns(
    connection: &mut PgConnection,
    mut columns: BTreeMap<&'static str, Value>,
) -> Result<BTreeMap<&'static str, Value>, sqlx::Error> {
    let known: Vec<String> = sqlx::query_scalar(
        "select attname::text from pg_catalog.pg_attribute
         where attrelid = 'tenants'::regclass and attnum > 0 and not attisdropped",
    )
    .fetch_all(connection)
    .await?;
    let known: BTreeSet<String> = known.into_iter().collect();
    columns.retain(|column, _| {
        let is_known = known.contains(*column);
        if !is_known {
            tracing::warn!(
                column,
                "the control database has no such column, and the value is not kept; bring it up to date"
            );
        }
        is_known
    });
    Ok(columns)
}

async fn insert(
    connection: &mut PgConnection,
    external_id: &str,
    mut columns: BTreeMap<&'static str, Value>,
) -> Result<(), ControlError> {
    columns.insert("external_id", external_id.into());
    // Names of columns are this crate's own.
    let names = columns.keys().copied().collect::<Vec<_>>().join(", ");
    let statement = format!(
        "insert into tenants (id, inserted_at, updated_at, {names}) select gen_random_uuid(), {NOW}, {NOW}, {names}
         from jsonb_populate_record(null::tenants, $1::text::jsonb)"
    );
    sqlx::query(AssertSqlSafe(statement))
        .bind(serde_json::to_string(&columns)?)
        .execute(connection)
        .await?;
    Ok(())
}

async fn update(
    connection: &mut PgConnection,
    external_id: &str,
    columns: &BTreeMap<&'static str, Value>,
) -> Result<(), ControlError> {
    let assignments: String = columns
        .keys()
        .map(|name| format!("{name} = wanted.{name}, "))
        .collect();
    let statement = format!(
        "update tenants set {assignments} updated_at = {NOW}
         from jsonb_populate_record(null::tenants, $1::text::jsonb) wanted where tenants.external_id = $2"
    );
    sqlx::query(AssertSqlSafe(statement))
        .bind(serde_json::to_string(columns)?)
        .bind(external_id)
        .execute(connection)
        .await?;
    Ok(())
}

async fn replace_extensions(
    connection: &mut PgConnection,
    external_id: &str,
    extensions: &[ExtensionDraft],
) -> Result<(), ControlError> {
    let extensions = serde_json::to_string(extensions)?;
    sqlx::query(
        "delete from extensions where tenant_external_id = $2
         and type not in (select wanted ->> 'type' from jsonb_array_elements($1::text::jsonb) wanted)",
    )
    .bind(&extensions)
    .bind(external_id)
    .execute(&mut *connection)
    .await?;
    let statement = format!(
        "insert into extensions (id, type, settings, tenant_external_id, inserted_at, updated_at)
         select gen_random_uuid(), wanted ->> 'type', wanted -> 'settings', $2, {NOW}, {NOW}
         from jsonb_array_elements($1::text::jsonb) wanted
         on conflict (tenant_external_id, type) do update
         set settings = excluded.settings, updated_at = excluded.updated_at"
    );
    sqlx::query(AssertSqlSafe(statement))
        .bind(&extensions)
        .bind(external_id)
        .execute(connection)
        .await?;
    Ok(())
}
