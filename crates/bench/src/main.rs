//! Load generator: measures any server that speaks the realtime protocol, through nothing but that protocol and SQL.
//!
//! `connect` opens sockets and joins one channel on each: joins a second, and what a connection costs in memory.
//! `changes` subscribes to a table, inserts rows (at a fixed rate, as fast as they are committed, in one transaction, at
//! rising rates) and checks at each subscription that every row it may see arrives, once and in order: latency from
//! before the INSERT to the frame, and CPU per change and delivery. Where all see all, it does the same with `bare`.
//! `fanout` sends to many receivers, as fast as they get it and at a fixed rate, and does the same with `bare`, a
//! program that writes the same bytes to as many sockets and nothing else: deliveries a second, CPU per delivery.
//! `private` joins private channels, each of which a policy has to allow: joins a second, CPU per join.
//! `presence` has members come to one channel all at once, and half of them go: how long until all know, diffs, bytes.
//! `soak` has visitors come and go in every way for minutes: what is in use at rest after it must be what was before.
//! `groups` has users who each send on a channel of their own and on one they share with five.
//!
//! It shares the machine with what it measures; compare runs on the same machine, not figures of different ones.

mod bare;
mod changes;
mod connect;
mod crowd;
mod fanout;
mod frames;
mod groups;
mod latency;
mod numbered;
mod presence;
mod private;
mod process;
mod report;
mod soak;
mod tally;
mod token;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::{self, Runtime};
use tokio::task::LocalSet;
use url::Url;

/// Measure a realtime server.
#[derive(Parser)]
#[command(name = "walcast-bench", version)]
struct Cli {
    #[command(flatten)]
    server: Server,
    /// Print JSON instead of a table.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    scenario: Scenario,
}

/// Which server, and how to get in.
#[derive(Args, Clone)]
pub(crate) struct Server {
    /// The endpoint as supabase-js is given it.
    #[arg(long, global = true, default_value = "ws://127.0.0.1:4000/socket")]
    url: String,
    /// The endpoints of several nodes, separated by commas, over which `fanout` and `presence` spread their sockets.
    #[arg(long, global = true, value_delimiter = ',')]
    urls: Vec<String>,
    /// The project's JWT secret, to mint keys with.
    #[arg(
        long,
        global = true,
        env = "API_JWT_SECRET",
        hide_env_values = true,
        default_value = ""
    )]
    secret: String,
    /// Process id of the server, or of one of several nodes, on this machine, for memory and CPU.
    #[arg(long, global = true)]
    server_pid: Option<u32>,
}

impl Server {
    /// The URL of the upgrade on serializer 2.0.0, with this key.
    pub(crate) fn endpoint(&self, key: &str) -> anyhow::Result<Url> {
        Self::endpoint_at(&self.url, key)
    }

    /// As [`Self::endpoint`], of all nodes.
    pub(crate) fn endpoints(&self, key: &str) -> anyhow::Result<Vec<Url>> {
        if self.urls.is_empty() {
            return Ok(vec![self.endpoint(key)?]);
        }
        self.urls.iter().map(|url| Self::endpoint_at(url, key)).collect()
    }

    fn endpoint_at(url: &str, key: &str) -> anyhow::Result<Url> {
        let mut endpoint: Url = url.parse().with_context(|| format!("{url} is no URL"))?;
        let path = format!("{}/websocket", endpoint.path().trim_end_matches('/'));
        endpoint.set_path(&path);
        endpoint
            .query_pairs_mut()
            .append_pair("apikey", key)
            .append_pair("vsn", "2.0.0");
        Ok(endpoint)
    }
}

#[derive(Subcommand)]
enum Scenario {
    /// Joins a second and memory a connection.
    Connect(connect::Options),
    /// Latency, loss, order and cost of row changes.
    Changes(changes::Options),
    /// Deliveries a second, latency and CPU of a broadcast to many, beside a bare program.
    Fanout(fanout::Options),
    /// Latency and CPU of many small rooms.
    Groups(groups::Options),
    /// How long until all members of a channel know of each other, diffs and bytes.
    Presence(presence::Options),
    /// Joins a second of private channels.
    Private(private::Options),
    /// Visitors who come and go for minutes: what the server has in use at rest before and after.
    Soak(soak::Options),
    /// The bare program by itself; `fanout` starts its own.
    Bare(bare::Options),
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    raise_open_files()?;
    let report = match &cli.scenario {
        Scenario::Connect(options) => on_all_cores(connect::run(&cli.server, options))?,
        Scenario::Changes(options) => on_one_thread(changes::run(&cli.server, options))?,
        Scenario::Fanout(options) => on_one_thread(fanout::run(&cli.server, options))?,
        Scenario::Groups(options) => on_one_thread(groups::run(&cli.server, options))?,
        Scenario::Presence(options) => on_one_thread(presence::run(&cli.server, options))?,
        Scenario::Private(options) => on_one_thread(private::run(&cli.server, options))?,
        Scenario::Soak(options) => on_all_cores(soak::run(&cli.server, options))?,
        Scenario::Bare(options) => return on_all_cores(bare::serve(options)),
    };
    report.print(cli.json)
}

fn on_all_cores<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    Runtime::new()?.block_on(Box::pin(work))
}

/// A crowd of sockets is cheapest on one thread, and leaves the other cores to the server.
fn on_one_thread<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, Box::pin(work))
}

/// Every socket is an open file.
fn raise_open_files() -> anyhow::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, raised)
        .context("the limit on open files could not be raised; see `ulimit -n`")
}
