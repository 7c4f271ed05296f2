//! Load generator: measures any server that speaks the realtime protocol, through nothing but that protocol and SQL.
//!
//! `connect` opens sockets and joins one channel on each: joins a second, and what a connection costs in memory.
//! `changes` subscribes to a table, inserts rows at a fixed rate and checks at each subscriber that every row it may
//! see arrives, once and in order: latency from before the INSERT to the frame, and CPU per change.
//!
//! It shares the machine with what it measures; compare runs on the same machine, not figures of different ones.

mod changes;
mod connect;
mod latency;
mod process;
mod report;
mod token;

use clap::{Args, Parser, Subcommand};

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
    /// The project's JWT secret, to mint keys with.
    #[arg(
        long,
        global = true,
        env = "API_JWT_SECRET",
        hide_env_values = true,
        default_value = ""
    )]
    secret: String,
    /// Process id of the server, on this machine, for memory and CPU.
    #[arg(long, global = true)]
    server_pid: Option<u32>,
}

#[derive(Subcommand)]
enum Scenario {
    /// Joins a second and memory a connection.
    Connect(connect::Options),
    /// Latency, loss, order and cost of row changes.
    Changes(changes::Options),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    anyhow::ensure!(
        !cli.server.secret.is_empty(),
        "give the project's JWT secret as --secret or API_JWT_SECRET"
    );
    let report = match cli.scenario {
        Scenario::Connect(options) => connect::run(&cli.server, &options).await?,
        Scenario::Changes(options) => changes::run(&cli.server, &options).await?,
    };
    report.print(cli.json)
}
