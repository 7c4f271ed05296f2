//! Rows as they were: why it cannot be told whether a role was shown one that is deleted now, or has left.
//!
//! Postgres knows rows as they are only. So of a row that was, policies are decided in process or not at all, on what
//! the replica identity tells of it.

use super::exposure::{Exposure, Wish};
use super::finding::Finding;
use crate::policy::{self, Access};
use crate::visibility::Visibility;
use sqlx::PgConnection;

/// What stands in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// Row level security is enabled and no policy lets the role select.
    NoPolicy,
    /// Only Postgres can decide what the role sees, for this reason.
    OnlyPostgres(String),
    /// The policies read these columns, which the replica identity lacks.
    PolicyColumns(Vec<String>),
    /// The filter reads these columns, which the replica identity lacks.
    FilterColumns(Vec<String>),
}

/// Why DELETEs of a table are hidden from a role where a server checks who could see them
/// (`WALCAST_DELETE_VISIBILITY=rls`, decision 19).
///
/// # Errors
/// Postgres cannot be asked.
pub async fn hidden_deletes(
    postgres: &mut PgConnection,
    exposure: &Exposure,
) -> Result<Option<Finding>, sqlx::Error> {
    let Some(source) = exposure.row_security_of() else {
        return Ok(None);
    };
    let access = policy::compile(&policy::load_on(postgres, source, exposure.role()).await?);
    Ok(exposure.hidden_deletes(Wish::Everything, &access))
}

impl Exposure {
    /// As [`hidden_deletes`], by how rows are shown to the role.
    pub(crate) fn hidden_deletes(&self, wish: Wish<'_>, access: &Access) -> Option<Finding> {
        let doubt = self.doubt(access).filter(|_| wish.hears("delete"))?;
        Some(Finding::DeleteHidden {
            table: self.table().clone(),
            role: self.role().to_owned(),
            doubt,
        })
    }

    /// Why a binding is not told that a row left, though it wants to be, by how rows are shown to the role and who
    /// decides that.
    pub(crate) fn untold_leaving(
        &self,
        wish: Wish<'_>,
        access: &Access,
        mode: Visibility,
    ) -> Option<Finding> {
        if !wish.wants_leaving() || !wish.hears("delete") {
            return None;
        }
        let doubt = match (access, mode) {
            // Said of every change.
            (Access::Hidden, _) => return None,
            (Access::Compiled(_), Visibility::Sql | Visibility::Verify) => {
                Doubt::OnlyPostgres("WALCAST_RLS leaves it to Postgres".to_owned())
            }
            _ => self.doubt(access)?,
        };
        Some(self.leave_not_told(doubt))
    }

    /// Why no binding with this filter is told that a row left, whatever the policies.
    pub(super) fn leaving_by_filter(&self, wish: Wish<'_>) -> Option<Finding> {
        if !wish.wants_leaving() {
            return None;
        }
        if !wish.hears("delete") {
            let event = if wish.hears("insert") { "INSERT" } else { "UPDATE" };
            return Some(Finding::LeaveNotHeard { event });
        }
        let columns = self.lacking_in_identity(|column| wish.filters_by(column));
        (!columns.is_empty()).then(|| self.leave_not_told(Doubt::FilterColumns(columns)))
    }

    fn leave_not_told(&self, doubt: Doubt) -> Finding {
        Finding::LeaveNotTold {
            table: self.table().clone(),
            role: self.role().to_owned(),
            doubt,
        }
    }

    fn doubt(&self, access: &Access) -> Option<Doubt> {
        match access {
            Access::NoRls => None,
            Access::Hidden => Some(Doubt::NoPolicy),
            Access::Ask { reason } => Some(Doubt::OnlyPostgres(reason.clone())),
            Access::Compiled(_) => {
                let read = access.row_columns();
                let columns = self.lacking_in_identity(|column| read.contains(column));
                (!columns.is_empty()).then_some(Doubt::PolicyColumns(columns))
            }
        }
    }
}
