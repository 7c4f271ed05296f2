//! Every socket is an open file, so the process takes as many as it may have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How many files the process may have open now.
pub fn limit() -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// Raises the soft limit on open files to the hard limit, and says what it is now.
pub fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    match setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    ) {
        Ok(()) => tracing::info!(limit = maximum, "open files, and with them sockets, are limited"),
        Err(error) => tracing::warn!(
            limit = current,
            %error,
            "the soft limit on open files could not be raised; see `ulimit -n`"
        ),
    }
}
