//! Which connections are let in: as many as there are files for, and of one address as many as the settings say.
//!
//! Whoever is turned away gets an answer, for a client that hears nothing knows nothing. But an answer takes a file as
//! well, so only some are given at a time, from a reserve; the rest are closed at once.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::HeaderMap;
use clap::Args;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use ipnet::IpNet;

use crate::setting::{ConfigError, duration, invalid, limit, text};

/// Files that connections leave to the database, to other nodes, and to the answers of those who are turned away.
const RESERVED_FILES: usize = 128;

/// Answers under way to those who are turned away.
const MOST_ANSWERS: usize = 64;

/// A request whose header is not complete by then loses its connection.
const HEADER_TIMEOUT_MS: u64 = 10_000;

/// What a proxy says of whom it speaks for.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// What the command line and the environment may say of connections, as raw text.
#[derive(Args, Clone, Default)]
pub struct AdmissionOptions {
    /// Connections at a time [default: as many as the limit on open files allows]
    #[arg(
        long,
        env = "WALCAST_MAX_CONNECTIONS",
        hide_env_values = true,
        value_name = "COUNT"
    )]
    pub max_connections: Option<String>,
    /// Connections at a time of one address; of IPv6, of one /64 network [default: no limit]
    #[arg(
        long,
        env = "WALCAST_MAX_CONNECTIONS_PER_ADDRESS",
        hide_env_values = true,
        value_name = "COUNT"
    )]
    pub max_connections_per_address: Option<String>,
    /// Proxies whose `x-forwarded-for` is believed: addresses and networks, separated by commas [default: none]
    #[arg(
        long,
        env = "WALCAST_TRUSTED_PROXIES",
        hide_env_values = true,
        value_name = "NETWORKS"
    )]
    pub trusted_proxies: Option<String>,
    /// A request whose header is not complete after this long loses its connection [default: 10000]
    #[arg(
        long,
        env = "WALCAST_HEADER_TIMEOUT_MS",
        hide_env_values = true,
        value_name = "MS"
    )]
    pub header_timeout_ms: Option<String>,
}

/// Which connections are let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdmissionConfig {
    /// None: as many as the limit on open files allows.
    pub most: Option<usize>,
    /// Of one address.
    pub most_of_address: Option<usize>,
    /// Whose `x-forwarded-for` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Time for the header of a request.
    pub header_timeout: Duration,
}

impl AdmissionOptions {
    /// Judges the settings.
    ///
    /// # Errors
    /// A value that means nothing.
    pub fn judge(&self) -> Result<AdmissionConfig, ConfigError> {
        let trusted_proxies = text(&self.trusted_proxies)
            .unwrap_or_default()
            .split(',')
            .map(str::trim)
            .filter(|network| !network.is_empty())
            .map(|network| {
                parse_network(network).ok_or_else(|| {
                    let expected = "addresses or networks separated by commas, e.g. `10.0.0.0/8, fd00::1`";
                    invalid("WALCAST_TRUSTED_PROXIES", expected, network)
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(AdmissionConfig {
            most: limit("WALCAST_MAX_CONNECTIONS", &self.max_connections)?,
            most_of_address: limit(
                "WALCAST_MAX_CONNECTIONS_PER_ADDRESS",
                &self.max_connections_per_address,
            )?,
            trusted_proxies,
            header_timeout: duration(
                "WALCAST_HEADER_TIMEOUT_MS",
                &self.header_timeout_ms,
                HEADER_TIMEOUT_MS,
                100,
                600_000,
            )?,
        })
    }
}

fn parse_network(text: &str) -> Option<IpNet> {
    text.parse()
        .ok()
        .or_else(|| Some(text.parse::<IpAddr>().ok()?.into()))
}

/// Why a connection is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TurnedAway {
    /// There are as many as there may be.
    Full,
    /// There are as many of its address.
    Address,
}

impl TurnedAway {
    /// As the client is told.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Full => "Too many connections",
            Self::Address => "Too many connections from this address",
        }
    }

    /// As figures count it.
    pub fn cause(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Address => "address",
        }
    }

    /// What who runs the server can do.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Full => {
                "raise the limit on open files (`ulimit -Hn`), WALCAST_MAX_CONNECTIONS, or run another node"
            }
            Self::Address => {
                "raise WALCAST_MAX_CONNECTIONS_PER_ADDRESS; if it is a proxy's address, name it in WALCAST_TRUSTED_PROXIES"
            }
        }
    }
}

/// Whom connections are counted for: an address, or the part of an IPv6 address that one user has for himself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Origin(IpAddr);

impl Origin {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = u128::from(address) & !u128::from(u64::MAX);
                Self(Ipv6Addr::from(network).into())
            }
            address @ IpAddr::V4(_) => Self(address),
        }
    }
}

/// The connections there are.
pub struct Admission {
    most: usize,
    most_of_address: Option<usize>,
    trusted_proxies: Vec<IpNet>,
    open: AtomicUsize,
    answers: AtomicUsize,
    of_address: DashMap<Origin, usize>,
}

impl Admission {
    /// `open_files`: how many the process may have open.
    pub fn new(config: &AdmissionConfig, open_files: usize) -> Self {
        let affordable = open_files.saturating_sub(RESERVED_FILES).max(1);
        Self {
            most: config.most.map_or(affordable, |most| most.min(affordable)),
            most_of_address: config.most_of_address,
            trusted_proxies: config.trusted_proxies.clone(),
            open: AtomicUsize::new(0),
            answers: AtomicUsize::new(0),
            of_address: DashMap::new(),
        }
    }

    /// How many there may be.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Connections that are open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Lets a connection in, for as long as the returned value lives.
    ///
    /// # Errors
    /// There are too many. A proxy's own address is not counted; see [`Self::enter_through_proxy`].
    pub fn enter(self: &Arc<Self>, peer: IpAddr) -> Result<Place, TurnedAway> {
        let is_admitted = |open: usize| (open < self.most).then_some(open + 1);
        self.open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, is_admitted)
            .map_err(|_| TurnedAway::Full)?;
        let counted = Counted {
            admission: Arc::clone(self),
            by: By::Open,
        };
        let of_address = if self.is_trusted(peer) {
            None
        } else {
            self.count_address(peer)?
        };
        Ok(Place {
            _open: Some(counted),
            _of_address: of_address,
        })
    }

    /// Lets in whom a trusted proxy speaks for; none where there is nothing to count.
    ///
    /// # Errors
    /// There are too many of that address.
    pub fn enter_through_proxy(
        self: &Arc<Self>,
        peer: IpAddr,
        headers: &HeaderMap,
    ) -> Result<Option<Place>, TurnedAway> {
        if self.most_of_address.is_none() || !self.is_trusted(peer) {
            return Ok(None);
        }
        let Some(client) = self.client(headers) else {
            return Ok(None);
        };
        Ok(Some(Place {
            _open: None,
            _of_address: self.count_address(client)?,
        }))
    }

    /// Leave to answer somebody who is turned away; none if enough are being answered.
    pub fn answer(self: &Arc<Self>) -> Option<Place> {
        let is_admitted = |answers: usize| (answers < MOST_ANSWERS).then_some(answers + 1);
        self.answers
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, is_admitted)
            .ok()?;
        Some(Place {
            _open: Some(Counted {
                admission: Arc::clone(self),
                by: By::Answer,
            }),
            _of_address: None,
        })
    }

    /// The last address that no trusted proxy has: what is left of it, anybody may have written.
    fn client(&self, headers: &HeaderMap) -> Option<IpAddr> {
        headers
            .get_all(FORWARDED_FOR)
            .iter()
            .rev()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.rsplit(','))
            .map_while(|address| address.trim().parse::<IpAddr>().ok())
            .find(|address| !self.is_trusted(*address))
    }

    fn is_trusted(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted_proxies
            .iter()
            .any(|network| network.contains(&address))
    }

    fn count_address(self: &Arc<Self>, address: IpAddr) -> Result<Option<Counted>, TurnedAway> {
        let Some(most) = self.most_of_address else {
            return Ok(None);
        };
        let origin = Origin::of(address);
        let mut count = self.of_address.entry(origin).or_insert(0);
        if *count >= most {
            return Err(TurnedAway::Address);
        }
        *count += 1;
        drop(count);
        Ok(Some(Counted {
            admission: Arc::clone(self),
            by: By::Address(origin),
        }))
    }
}

/// A connection's place, for as long as it lives.
pub struct Place {
    _open: Option<Counted>,
    _of_address: Option<Counted>,
}

enum By {
    Open,
    Answer,
    Address(Origin),
}

/// One that is counted until it is dropped.
struct Counted {
    admission: Arc<Admission>,
    by: By,
}

impl Drop for Counted {
    fn drop(&mut self) {
        match self.by {
            By::Open => {
                self.admission.open.fetch_sub(1, Ordering::Relaxed);
            }
            By::Answer => {
                self.admission.answers.fetch_sub(1, Ordering::Relaxed);
            }
            By::Address(origin) => {
                if let Entry::Occupied(mut entry) = self.admission.of_address.entry(origin) {
                    *entry.get_mut() -= 1;
                    if *entry.get() == 0 {
                        entry.remove();
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn admission(settings: &AdmissionOptions) -> Arc<Admission> {
        Arc::new(Admission::new(&settings.judge().unwrap(), 10_000))
    }

    fn set(value: &str) -> Option<String> {
        Some(value.to_owned())
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn connections_leave_files_for_what_is_not_one() {
        let config = AdmissionOptions::default().judge().unwrap();
        assert_eq!(Admission::new(&config, 1_024).most(), 1_024 - RESERVED_FILES);
        let more = AdmissionConfig {
            most: Some(5_000),
            ..config
        };
        assert_eq!(Admission::new(&more, 1_024).most(), 1_024 - RESERVED_FILES);
        assert_eq!(Admission::new(&more, 100_000).most(), 5_000);
    }

    #[test]
    fn a_place_is_free_again_when_its_connection_ends() {
        let admission = admission(&AdmissionOptions {
            max_connections: set("2"),
            ..AdmissionOptions::default()
        });
        let first = admission.enter(address("10.0.0.1")).unwrap();
        let _second = admission.enter(address("10.0.0.2")).unwrap();
        assert_eq!(admission.enter(address("10.0.0.3")).err(), Some(TurnedAway::Full));
        drop(first);
        assert_eq!(admission.open(), 1);
        assert!(admission.enter(address("10.0.0.3")).is_ok());
    }

    #[test]
    fn an_address_that_is_turned_away_takes_no_place() {
        let admission = admission(&AdmissionOptions {
            max_connections_per_address: set("1"),
            ..AdmissionOptions::default()
        });
        let place = admission.enter(address("10.0.0.1")).unwrap();
        assert_eq!(
            admission.enter(address("10.0.0.1")).err(),
            Some(TurnedAway::Address)
        );
        // The same address as an IPv6 socket sees it.
        assert_eq!(
            admission.enter(address("::ffff:10.0.0.1")).err(),
            Some(TurnedAway::Address)
        );
        assert_eq!(admission.open(), 1);
        drop(place);
        assert!(admission.of_address.is_empty(), "nothing is kept of who is gone");
    }

    #[test]
    fn ipv6_is_counted_by_network() {
        let admission = admission(&AdmissionOptions {
            max_connections_per_address: set("1"),
            ..AdmissionOptions::default()
        });
        let _place = admission.enter(address("2001:db8::1")).unwrap();
        assert!(admission.enter(address("2001:db8::ffff:1")).is_err());
        assert!(admission.enter(address("2001:db8:0:1::1")).is_ok());
    }

    #[test]
    fn a_trusted_proxy_is_not_counted_but_whom_it_speaks_for() {
        let admission = admission(&AdmissionOptions {
            max_connections_per_address: set("1"),
            trusted_proxies: set("10.0.0.0/8, ::1"),
            ..AdmissionOptions::default()
        });
        let proxy = address("10.1.2.3");
        let _places = [admission.enter(proxy).unwrap(), admission.enter(proxy).unwrap()];
        let forwarded = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(FORWARDED_FOR, HeaderValue::from_str(value).unwrap());
            headers
        };
        let place = admission
            .enter_through_proxy(proxy, &forwarded("203.0.113.7"))
            .unwrap();
        assert!(place.is_some());
        // What the client wrote itself stands further left.
        let again = admission.enter_through_proxy(proxy, &forwarded("198.51.100.1, 203.0.113.7, 10.9.9.9"));
        assert_eq!(again.err(), Some(TurnedAway::Address));
        let other = admission.enter_through_proxy(proxy, &forwarded("198.51.100.1"));
        assert!(other.unwrap().is_some());
        // Somebody who is no proxy may claim what he likes.
        let claimed = admission.enter_through_proxy(address("192.0.2.1"), &forwarded("203.0.113.7"));
        assert!(claimed.unwrap().is_none());
        let garbage = admission.enter_through_proxy(proxy, &forwarded("no address"));
        assert!(garbage.unwrap().is_none());
    }

    #[test]
    fn only_some_are_answered_at_a_time() {
        let admission = admission(&AdmissionOptions::default());
        let answers: Vec<_> = std::iter::from_fn(|| admission.answer()).collect();
        assert_eq!(answers.len(), MOST_ANSWERS);
        drop(answers);
        assert!(admission.answer().is_some());
    }

    #[test]
    fn a_proxy_that_is_no_network_is_refused() {
        let options = AdmissionOptions {
            trusted_proxies: set("10.0.0.0/8, nginx"),
            ..AdmissionOptions::default()
        };
        let said = options.judge().unwrap_err().to_string();
        assert!(
            said.contains("WALCAST_TRUSTED_PROXIES") && said.contains("`nginx`"),
            "{said}"
        );
    }
}
