//! Who is to get which row: arithmetic over the numbers of subscriptions, users and rows.
//!
//! Subscriptions are dealt out to users in turn, and so are rows to their owners. Users form organisations of
//! consecutive numbers.

use super::table::RowSecurity;
use anyhow::ensure;
use std::ops::Range;

/// Among whom a row is visible.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    Everybody,
    Organisation,
    Owner,
}

/// The subscriptions of a run.
pub(super) struct Audience {
    subscriptions: usize,
    identities: usize,
    org_size: usize,
    reach: Reach,
    /// By owner: subscriptions that get a row.
    receivers: Vec<u32>,
}

impl Audience {
    /// # Errors
    /// If there are no subscriptions, or not one for each user.
    pub(super) fn new(
        subscriptions: usize,
        identities: usize,
        org_size: usize,
        row_security: RowSecurity,
        filter_own: bool,
    ) -> anyhow::Result<Self> {
        ensure!(
            identities > 0 && identities <= subscriptions,
            "there is at least one user, and a subscription for each"
        );
        ensure!(org_size > 0, "an organisation has at least one user");
        let reach = match row_security {
            _ if filter_own => Reach::Owner,
            RowSecurity::None | RowSecurity::All => Reach::Everybody,
            RowSecurity::Org | RowSecurity::Subquery => Reach::Organisation,
            RowSecurity::Own | RowSecurity::OwnByFunction => Reach::Owner,
        };
        let mut audience = Self {
            subscriptions,
            identities,
            org_size,
            reach,
            receivers: Vec::new(),
        };
        audience.receivers = (0..identities)
            .map(|owner| Ok(u32::try_from(audience.count(audience.readers(owner)))?))
            .collect::<anyhow::Result<_>>()?;
        Ok(audience)
    }

    pub(super) fn subscriptions(&self) -> usize {
        self.subscriptions
    }

    pub(super) fn identities(&self) -> usize {
        self.identities
    }

    /// The user of a subscription.
    pub(super) fn identity(&self, subscription: usize) -> usize {
        subscription % self.identities
    }

    /// The organisation of a user.
    pub(super) fn org(&self, identity: usize) -> usize {
        identity / self.org_size
    }

    /// The user whom a row belongs to.
    pub(super) fn owner(&self, row: u64) -> usize {
        // A remainder of a usize is one.
        usize::try_from(row % self.identities as u64).unwrap_or_default()
    }

    /// Whether a row is for everybody, so that a program without any rights could deliver it.
    pub(super) fn is_everybody(&self) -> bool {
        self.reach == Reach::Everybody
    }

    /// Whether a subscription is to get a row.
    pub(super) fn includes(&self, subscription: usize, row: u64) -> bool {
        self.readers(self.owner(row))
            .contains(&self.identity(subscription))
    }

    /// How many subscriptions are to get a row.
    pub(super) fn receivers(&self, row: u64) -> u32 {
        self.receivers.get(self.owner(row)).copied().unwrap_or_default()
    }

    /// Users who are to get what belongs to `owner`.
    fn readers(&self, owner: usize) -> Range<usize> {
        match self.reach {
            Reach::Everybody => 0..self.identities,
            Reach::Owner => owner..owner + 1,
            Reach::Organisation => {
                let first = self.org(owner) * self.org_size;
                first..self.identities.min(first + self.org_size)
            }
        }
    }

    /// The subscriptions of these users.
    fn count(&self, identities: Range<usize>) -> usize {
        let each = self.subscriptions / self.identities;
        // The first users have one more.
        let longer = self.subscriptions % self.identities;
        let with_one_more = longer.min(identities.end).saturating_sub(identities.start);
        each * identities.len() + with_one_more
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn receivers_are_as_many_as_the_subscriptions_that_are_included() {
        for row_security in RowSecurity::value_variants() {
            for (subscriptions, identities, org_size) in
                [(1, 1, 1), (10, 10, 3), (10, 4, 3), (11, 3, 10), (7, 7, 1)]
            {
                for filter_own in [false, true] {
                    let audience =
                        Audience::new(subscriptions, identities, org_size, *row_security, filter_own)
                            .unwrap();
                    for row in 0..30 {
                        let included = (0..subscriptions).filter(|each| audience.includes(*each, row));
                        assert_eq!(
                            audience.receivers(row) as usize,
                            included.count(),
                            "{row_security:?} {subscriptions} {identities} {org_size} {filter_own} row {row}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_is_for_its_owner_its_organisation_or_everybody() {
        let receivers = |row_security, filter_own| {
            Audience::new(12, 6, 3, row_security, filter_own)
                .unwrap()
                .receivers(4)
        };
        assert_eq!(receivers(RowSecurity::All, false), 12);
        assert_eq!(receivers(RowSecurity::Org, false), 6);
        assert_eq!(receivers(RowSecurity::Own, false), 2);
        assert_eq!(receivers(RowSecurity::None, true), 2);
    }

    #[test]
    fn a_user_without_a_subscription_is_refused() {
        assert!(Audience::new(2, 3, 1, RowSecurity::None, false).is_err());
        assert!(Audience::new(2, 0, 1, RowSecurity::None, false).is_err());
    }
}
