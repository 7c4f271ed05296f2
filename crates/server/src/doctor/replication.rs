//! Whether a replication connection can be had, and if not, whose fault it is.

use walcast_changes::diagnosis::identifier;
use walcast_replication::{Config, Endpoint, StreamError, probe};

use super::report::Entry;

/// Where Supavisor and PgBouncer listen for connections that are shared between transactions.
const POOLER_PORT: u16 = 6543;

pub(super) async fn look(config: &Config, role: &str) -> Vec<Entry> {
    vec![match Box::pin(probe(config)).await {
        Ok(()) => Entry::ok("a replication connection can be made"),
        Err(StreamError::NoReplicationRight(cause)) => Entry::problem(
            "no_replication_right",
            format!("role \"{role}\" may not replicate ({cause})"),
        )
        .mended_by(format!("alter role {} replication", identifier(role))),
        Err(error) if is_pooled(config, &error) => Entry::problem(
            "pooler",
            format!(
                "{} is a connection pooler, through which there is no replication: connect to Postgres itself, mostly on port 5432 ({error})",
                config.endpoint
            ),
        ),
        Err(error) => Entry::problem(
            "no_replication",
            format!("no replication connection can be made, so no change arrives: {error}"),
        ),
    }]
}

fn is_pooled(config: &Config, error: &StreamError) -> bool {
    let by_name = match &config.endpoint {
        Endpoint::Tcp(host, port) => *port == POOLER_PORT || host.contains("pooler"),
        Endpoint::Unix(_, port) => *port == POOLER_PORT,
    };
    // PgBouncer's words for the parameter that asks for replication.
    by_name || error.to_string().contains("unsupported startup parameter")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pooler_is_told_by_its_port_its_name_or_its_answer() {
        let refused = |message: &str| StreamError::Postgres {
            doing: "logging in",
            code: "08P01".to_owned(),
            message: message.to_owned(),
        };
        let cases = [
            ("postgres://u@db:6543/d", "no", true),
            ("postgres://u@%2Frun:6543/d", "no", true),
            ("postgres://u@eu.pooler.example.com/d", "no", true),
            (
                "postgres://u@db:5432/d",
                "unsupported startup parameter: replication",
                true,
            ),
            ("postgres://u@db:5432/d", "no", false),
        ];
        for (url, message, expected) in cases {
            let config = Config::from_url(url).unwrap();
            assert_eq!(is_pooled(&config, &refused(message)), expected, "{url} {message}");
        }
    }
}
