//! Every socket is an open file, so the process takes as many as it may have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How many files the process may have open now.
pub fn limit() -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// Raises the soft limit on open files to the hard limit, and that to `wanted` if it is lower and we may; says what the
/// limit is now. It is never lowered: a figure chosen for another server must not cost sockets.
pub fn raise_limit(wanted: Option<u64>) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let set = |limit: Option<u64>| {
        let limits = Rlimit {
            current: limit,
            maximum: limit,
        };
        setrlimit(Resource::Nofile, limits).map(|()| limit)
    };
    // No hard limit is none to raise.
    let beyond = wanted.filter(|wanted| maximum.is_some_and(|maximum| *wanted > maximum));
    if let Some(beyond) = beyond {
        match set(Some(beyond)) {
            Ok(limit) => return tell(limit),
            Err(error) => tracing::warn!(
                wanted = beyond,
                hard_limit = maximum,
                %error,
                "RLIMIT_NOFILE is above the hard limit, which may not be raised from here; raise it where the process \
                 is started (`ulimits` of a compose file, `ulimit -Hn`)"
            ),
        }
    }
    match set(maximum) {
        Ok(limit) => tell(limit),
        Err(error) => tracing::warn!(
            limit = current,
            %error,
            "the soft limit on open files could not be raised; see `ulimit -n`"
        ),
    }
}

fn tell(limit: Option<u64>) {
    tracing::info!(limit, "open files, and with them sockets, are limited");
}
