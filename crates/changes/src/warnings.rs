//! What a subscription is told with its confirmation: reasons why what it asks for will not arrive as things stand, or
//! not all of it (`design.md 3`, promise 7; decisions 4 and 21).
//!
//! Of a table it names, everything is said. A wildcard names tables nobody thought of, so that of them only the first
//! are spoken of, and the others counted (decision 38).

use crate::binding::{Binding, EventFilter, Pattern};
use crate::claims::Claims;
use crate::diagnosis::{self, Exposure, Finding, Wish};
use crate::engine::{Context, DeleteVisibility};
use crate::error::SubscribeError;
use crate::policy::Access;
use std::sync::Arc;

/// Tables of a wildcard whose findings are told.
const TABLES_TOLD: usize = 5;

/// Tables of a wildcard that are looked at.
const TABLES_LOOKED_AT: usize = 200;

impl Context {
    /// Adds what is to be said of a binding that is accepted, and of the published tables it means, which are in order
    /// of their names.
    pub(crate) async fn warn(
        &self,
        binding: &Binding,
        tables: &[u32],
        claims: &Claims,
        warnings: &mut Vec<String>,
    ) -> Result<(), SubscribeError> {
        if binding.schema != Pattern::Any && binding.table != Pattern::Any {
            for oid in tables {
                // None: gone since, which the stream will say.
                if let Some(exposure) = self.exposure(binding, *oid, &claims.role).await? {
                    add(warnings, self.findings(binding, &exposure, claims).await?);
                }
            }
            return Ok(());
        }
        let looked_at = tables.get(..TABLES_LOOKED_AT).unwrap_or(tables);
        let mut concerned = 0_usize;
        for exposure in self.exposures_of(binding, looked_at, &claims.role).await?.iter() {
            let findings = self.findings(binding, exposure, claims).await?;
            concerned += usize::from(!findings.is_empty());
            if concerned <= TABLES_TOLD {
                add(warnings, findings);
            }
        }
        let rest = Rest {
            untold: concerned.saturating_sub(TABLES_TOLD),
            looked_at: looked_at.len(),
            all: tables.len(),
        };
        if let Some(sentence) = rest.sentence(binding, &claims.role)
            && !warnings.contains(&sentence)
        {
            warnings.push(sentence);
        }
        Ok(())
    }

    async fn exposure(
        &self,
        binding: &Binding,
        oid: u32,
        role: &str,
    ) -> Result<Option<Arc<Exposure>>, SubscribeError> {
        self.exposures
            .get((oid, role.to_owned()), async {
                let publication = &self.options.publication;
                let found = diagnosis::exposures(&self.pool, publication, Some(&[oid]), &[role]).await?;
                Ok::<_, sqlx::Error>(found.into_iter().next().map(Arc::new))
            })
            .await
            .map_err(|error| SubscribeError::from_postgres(binding, error))
    }

    /// Of all tables that a wildcard means, in one query.
    async fn exposures_of(
        &self,
        binding: &Binding,
        tables: &[u32],
        role: &str,
    ) -> Result<Arc<Vec<Exposure>>, SubscribeError> {
        let key = (binding.schema.clone(), binding.table.clone(), role.to_owned());
        self.wide_exposures
            .get(key, async {
                let publication = &self.options.publication;
                let found = diagnosis::exposures(&self.pool, publication, Some(tables), &[role]).await?;
                Ok::<_, sqlx::Error>(Arc::new(found))
            })
            .await
            .map_err(|error| SubscribeError::from_postgres(binding, error))
    }

    async fn findings(
        &self,
        binding: &Binding,
        exposure: &Exposure,
        claims: &Claims,
    ) -> Result<Vec<Finding>, SubscribeError> {
        let role = claims.role.as_str();
        let wish = Wish::Binding(binding);
        let mut findings = exposure.findings(wish);
        if let Some(source) = exposure.row_security_of() {
            let access = self.known_access(binding, source, role).await?;
            if let Access::Compiled(program) = &access
                && binding.event != EventFilter::Delete
                && program.raises_for(self.intern(claims).0.view())
            {
                findings.push(Finding::ClaimsRaise {
                    table: exposure.table().clone(),
                    role: role.to_owned(),
                });
            }
            if self.options.delete_visibility == DeleteVisibility::RowSecurity {
                findings.extend(exposure.hidden_deletes(wish, &access));
            }
            findings.extend(exposure.untold_leaving(wish, &access, self.options.visibility));
        }
        Ok(findings)
    }
}

/// What is not told of a wildcard's tables.
struct Rest {
    untold: usize,
    looked_at: usize,
    all: usize,
}

impl Rest {
    fn sentence(&self, binding: &Binding, role: &str) -> Option<String> {
        let mut parts = Vec::new();
        match self.untold {
            0 => {}
            1 => parts.push("1 more table has findings".to_owned()),
            untold => parts.push(format!("{untold} more tables have findings")),
        }
        if self.looked_at < self.all {
            parts.push(format!(
                "only the first {} of {} tables were looked at",
                self.looked_at, self.all
            ));
        }
        (!parts.is_empty()).then(|| {
            format!(
                "of the tables that {}.{} means to role \"{role}\", {}: `walcast doctor` lists them all",
                binding.schema,
                binding.table,
                parts.join(", and ")
            )
        })
    }
}

fn add(warnings: &mut Vec<String>, findings: Vec<Finding>) {
    for finding in findings {
        let warning = finding.warning();
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }
}
