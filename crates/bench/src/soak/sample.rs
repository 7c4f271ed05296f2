//! What a server has in use at a moment.

use crate::report::Report;
use crate::{Server, process};
use anyhow::{Context, ensure};
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use url::Url;

/// Names of the server's own figures.
const SOCKETS: &str = "walcast_sockets";
const TASKS: &str = "walcast_tasks";

/// A server that is looked at from outside, and asked.
pub(super) struct Watched {
    pid: u32,
    host: String,
    port: u16,
}

impl Watched {
    pub(super) fn new(server: &Server) -> anyhow::Result<Self> {
        let url: Url = server.url.parse()?;
        Ok(Self {
            pid: server.server_pid.context("give the server's --server-pid")?,
            host: url.host_str().context("the URL has no host")?.to_owned(),
            port: url.port_or_known_default().context("the URL has no port")?,
        })
    }

    pub(super) async fn look(&self) -> anyhow::Result<Sample> {
        let figures = self.figures().await?;
        Ok(Sample {
            resident_kib: process::resident_kib(self.pid).context("the server is gone")?,
            open_files: process::open_files(self.pid).context("the server's files cannot be seen")?,
            threads: process::threads(self.pid).context("the server is gone")?,
            sockets: figure(&figures, SOCKETS).context("/metrics has no count of sockets")?,
            tasks: figure(&figures, TASKS),
        })
    }

    async fn figures(&self) -> anyhow::Result<String> {
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(tcp)).await?;
        let connection = tokio::spawn(connection);
        let request = Request::get("/metrics")
            .header("host", &self.host)
            .header("connection", "close")
            .body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        ensure!(
            status.is_success(),
            "/metrics answers {status}; run the server without METRICS_JWT_SECRET"
        );
        let body = response.into_body().collect().await?.to_bytes();
        // So that this very look is not counted by the next.
        drop(sender);
        connection.await??;
        Ok(String::from_utf8(body.to_vec())?)
    }
}

/// The value of an unlabelled figure, or the sum over its labels.
fn figure(text: &str, name: &str) -> Option<u64> {
    let values: Vec<f64> = text
        .lines()
        .filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            rest.starts_with([' ', '{']).then_some(rest)
        })
        .filter_map(|rest| rest.rsplit(' ').next()?.parse().ok())
        .collect();
    // Counts, so whole, small, and not negative.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    (!values.is_empty()).then(|| values.iter().sum::<f64>() as u64)
}

/// One look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    resident_kib: u64,
    open_files: u64,
    threads: u64,
    pub(super) sockets: u64,
    /// Unless the server does not tell.
    tasks: Option<u64>,
}

impl Sample {
    pub(super) fn mean(samples: &[Self]) -> Option<Self> {
        let count = u64::try_from(samples.len()).ok().filter(|count| *count > 0)?;
        let mean = |of: fn(&Self) -> u64| samples.iter().map(of).sum::<u64>() / count;
        Some(Self {
            resident_kib: mean(|sample| sample.resident_kib),
            open_files: mean(|sample| sample.open_files),
            threads: mean(|sample| sample.threads),
            sockets: mean(|sample| sample.sockets),
            tasks: samples
                .iter()
                .map(|sample| sample.tasks)
                .sum::<Option<u64>>()
                .map(|sum| sum / count),
        })
    }

    pub(super) fn add_to(&self, report: &mut Report, when: &str) {
        report.add(&format!("{when}_server_memory_kib"), self.resident_kib);
        report.add(&format!("{when}_open_files"), self.open_files);
        report.add(&format!("{when}_threads"), self.threads);
        if let Some(tasks) = self.tasks {
            report.add(&format!("{when}_tasks"), tasks);
        }
        report.add(&format!("{when}_sockets"), self.sockets);
    }

    /// What is in use at rest that was not before, a sentence each.
    pub(super) fn growth_since(&self, before: &Self, slack_kib: u64) -> Vec<String> {
        let counts = [
            ("sockets", before.sockets, self.sockets, 0),
            ("open files", before.open_files, self.open_files, 0),
            // The pool of blocking threads shrinks when it likes.
            ("threads", before.threads, self.threads, 4),
            (
                "tasks",
                before.tasks.unwrap_or_default(),
                self.tasks.unwrap_or_default(),
                0,
            ),
            ("KiB of memory", before.resident_kib, self.resident_kib, slack_kib),
        ];
        counts
            .into_iter()
            .filter(|(_, before, after, slack)| *after > before + slack)
            .map(|(what, before, after, _)| {
                format!("at rest there were {before} {what} before, and {after} after")
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_that_of_its_name_and_summed_over_labels() {
        let text = "# TYPE walcast_tasks gauge\nwalcast_tasks 12\nwalcast_tasks_other 5\nwalcast_sockets{tenant=\"a\"} 3\nwalcast_sockets{tenant=\"b\"} 4\n";
        assert_eq!(figure(text, "walcast_tasks"), Some(12));
        assert_eq!(figure(text, "walcast_sockets"), Some(7));
        assert_eq!(figure(text, "walcast"), None);
    }

    #[test]
    fn growth_is_what_is_more_than_before_and_than_its_slack() {
        let before = Sample {
            resident_kib: 20_000,
            open_files: 30,
            threads: 5,
            sockets: 0,
            tasks: Some(20),
        };
        assert!(before.growth_since(&before, 100).is_empty());
        let after = Sample {
            resident_kib: 20_100,
            open_files: 31,
            ..before.clone()
        };
        let growth = after.growth_since(&before, 100);
        assert_eq!(growth, ["at rest there were 30 open files before, and 31 after"]);
    }
}
