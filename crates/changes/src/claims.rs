//! Identities: a role and the claims policies see. Subscribers with equal ones share every answer.

use crate::policy::ClaimsView;
use dashmap::DashMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock, Weak};

/// What a verified token says about its bearer, as far as rows are concerned.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Claims {
    /// The database role, from the claim `role`.
    pub role: String,
    /// All claims as JSON text; policies see it as `request.jwt.claims` (`database.md 2.5`).
    pub json: Arc<str>,
}

/// An interned pair of role and claims.
pub(crate) struct Identity {
    pub(crate) claims: Claims,
    view: OnceLock<ClaimsView>,
}

impl Identity {
    /// The parsed claims, made on first use.
    pub(crate) fn view(&self) -> &ClaimsView {
        self.view.get_or_init(|| ClaimsView::new(&self.claims.json))
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Identity({})", self.claims.role)
    }
}

/// An identity compared and hashed by address: equal claims are the same object.
#[derive(Clone, Debug)]
pub(crate) struct IdentityRef(pub(crate) Arc<Identity>);

impl PartialEq for IdentityRef {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for IdentityRef {}

impl Hash for IdentityRef {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

/// Every identity somebody subscribed with.
#[derive(Default)]
pub(crate) struct Identities {
    known: DashMap<Claims, Weak<Identity>>,
}

impl Identities {
    pub(crate) fn intern(&self, claims: &Claims) -> IdentityRef {
        let mut entry = self.known.entry(claims.clone()).or_default();
        if let Some(identity) = entry.upgrade() {
            return IdentityRef(identity);
        }
        let identity = Arc::new(Identity {
            claims: claims.clone(),
            view: OnceLock::new(),
        });
        *entry = Arc::downgrade(&identity);
        IdentityRef(identity)
    }

    /// Forgets identities nobody uses any more.
    pub(crate) fn sweep(&self) {
        self.known.retain(|_, identity| identity.strong_count() > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_claims_are_one_identity_until_the_last_holder_leaves() {
        let identities = Identities::default();
        let claims = |sub: &str| Claims {
            role: "authenticated".into(),
            json: Arc::from(format!(r#"{{"sub":"{sub}"}}"#)),
        };
        let first = identities.intern(&claims("a"));
        assert_eq!(first, identities.intern(&claims("a")));
        assert_ne!(first, identities.intern(&claims("b")));
        identities.sweep();
        assert_eq!(identities.known.len(), 1);
        drop(first);
        identities.sweep();
        assert_eq!(identities.known.len(), 0);
    }
}
