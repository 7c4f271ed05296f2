//! The tenant of a self-hosted stack, made from the environment at every start (`database.md 8.5`).

use serde_json::{Map, Value, json};

use crate::control::Control;
use crate::database::TenantDatabase;
use crate::draft::Defaults;
use crate::secret::Secret;
use crate::tenant::{Jwks, Tenant};
use crate::write::WriteError;

/// What the environment says of the tenant.
#[derive(Debug, Clone)]
pub struct Seed {
    /// Its external id, and its name (`SELF_HOST_TENANT_NAME`).
    pub name: String,
    /// `API_JWT_SECRET`
    pub jwt_secret: Option<Secret>,
    /// `API_JWT_JWKS`: JSON of `{"keys":[…]}` or of the bare array.
    pub jwt_jwks: Option<Secret>,
    /// Where its database is.
    pub database: TenantDatabase,
    /// Its limits, when it is made.
    pub defaults: Defaults,
}

impl Control {
    /// Makes the tenant if there is none, and brings its keys and its database to what the environment says if they are
    /// another. Nothing else of it is touched, so that limits which were changed stay so. Says whether anything was
    /// written.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn seed(&self, seed: &Seed) -> Result<bool, WriteError> {
        if let Some(tenant) = self.find(&seed.name).await?
            && self.has_grown_from(&tenant, seed)
        {
            return Ok(false);
        }
        self.upsert_named(&seed.name, &seed.wanted(), seed.defaults)
            .await?;
        Ok(true)
    }

    fn has_grown_from(&self, tenant: &Tenant, seed: &Seed) -> bool {
        let keys = tenant.jwt_jwks.as_ref().map(Jwks::as_json);
        tenant.open_jwt_secret(self.cipher()) == Ok(seed.jwt_secret.clone())
            && tenant.open_database(self.cipher()).as_ref() == Ok(&seed.database)
            && keys == seed.keys().as_ref()
    }
}

impl Seed {
    /// Keys that are no JSON are as good as none; the start has refused them by then.
    fn keys(&self) -> Option<Value> {
        let keys = self.jwt_jwks.as_ref()?;
        match serde_json::from_str(keys.expose()).ok()? {
            Value::Array(keys) => Some(json!({"keys": keys})),
            set => Some(set),
        }
    }

    fn wanted(&self) -> Map<String, Value> {
        let database = &self.database;
        let mut settings = json!({
            "region": database.region.as_deref().unwrap_or_default(),
            "db_host": database.host,
            "db_port": database.port.to_string(),
            "db_name": database.name,
            "db_user": database.user,
            "db_password": database.password.expose(),
            "ssl_enforced": database.ssl_enforced,
            "publication": database.publication,
        });
        for (name, value) in [
            ("db_pool", database.pool_size.map(Value::from)),
            (
                "poll_max_record_bytes",
                database.max_record_bytes.map(Value::from),
            ),
        ] {
            if let Some(value) = value {
                settings[name] = value;
            }
        }
        Map::from_iter([
            (
                "jwt_secret".to_owned(),
                json!(self.jwt_secret.as_ref().map(Secret::expose)),
            ),
            ("jwt_jwks".to_owned(), json!(self.keys())),
            (
                "extensions".to_owned(),
                json!([{"type": "postgres_cdc_rls", "settings": settings}]),
            ),
        ])
    }
}
