//! `walcast dev`: a server with a Postgres of its own, demo data and a page that shows both at work.
//!
//! For trying out and for tests on this machine alone: it listens on the loopback address, and its keys lie beside
//! its data.

mod database;
mod greeting;
mod keys;
mod notes;
mod page;

use crate::accept;
use crate::config::{Config, Listen};
use crate::options::Options;
use crate::serve::{self, Extras, ServeError};
use crate::token::TokenError;
use axum::Router;
use clap::Args;
use database::Database;
use greeting::Greeting;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use walcast_postgres::{StartError, StopError};

/// Settings of `walcast dev`.
#[derive(Args, Clone)]
pub struct DevOptions {
    /// Port to listen on, 0 for any that is free
    #[arg(long, env = "PORT", default_value = "4000", value_name = "PORT")]
    pub port: u16,
    /// Folder of the data and keys [default: .walcast in this folder]
    #[arg(long, value_name = "FOLDER")]
    pub data: Option<PathBuf>,
    /// Major version of Postgres [default: the one of the data, or the newest installed]
    #[arg(long, value_name = "VERSION")]
    pub postgres: Option<u16>,
    /// Print one line of JSON when ready, and end when the standard input is closed
    #[arg(long)]
    pub json: bool,
    /// Where supabase-js is installed, for the page
    #[arg(long, value_name = "FOLDER", default_value = "web/node_modules")]
    pub modules: PathBuf,
}

/// Why `walcast dev` cannot run.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// The port is taken.
    #[error(
        "port {port} cannot be listened on ({error}); stop what uses it, or choose another port with --port"
    )]
    Port {
        /// The port asked for.
        port: u16,
        /// Why.
        error: io::Error,
    },
    /// The data folder cannot be used.
    #[error("the data folder {} cannot be used: {error}", folder.display())]
    Folder {
        /// Which.
        folder: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Postgres does not start.
    #[error(transparent)]
    Postgres(#[from] StartError),
    /// Postgres does not stop.
    #[error(transparent)]
    Stop(#[from] StopError),
    /// The demo data cannot be made.
    #[error("the demo data cannot be made: {0}")]
    Demo(#[from] sqlx::Error),
    /// A key cannot be made.
    #[error("a key cannot be made: {0}")]
    Key(#[from] crate::mint::MintError),
    /// A key of our own making is refused.
    #[error("a key is not understood: {0}")]
    Token(#[from] TokenError),
    /// The settings made from the above are refused.
    #[error(transparent)]
    Config(#[from] crate::setting::ConfigError),
    /// The server fails.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// Postgres ended by itself.
    #[error("Postgres has ended by itself; its log: {0}")]
    Ended(String),
}

/// Runs until `shutdown`, and takes Postgres along.
///
/// # Errors
/// See [`DevError`]. Postgres is stopped in any case.
pub async fn run(options: &DevOptions, shutdown: CancellationToken) -> Result<(), DevError> {
    let listen = Listen {
        address: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        port: options.port,
    };
    // First of all: a taken port is the likeliest obstacle, and nothing needs cleaning up yet.
    let listener = accept::bind(&listen).map_err(|error| DevError::Port {
        port: options.port,
        error,
    })?;
    let port = listener
        .local_addr()
        .map_err(|error| DevError::Port {
            port: options.port,
            error,
        })?
        .port();
    let mut database = Database::start(options.data.as_deref(), options.postgres).await?;
    let outcome = serve_on(options, listener, port, &database, shutdown).await;
    database.stop().await?;
    outcome
}

async fn serve_on(
    options: &DevOptions,
    listener: tokio::net::TcpListener,
    port: u16,
    database: &Database,
    shutdown: CancellationToken,
) -> Result<(), DevError> {
    let keys = database.keys();
    let settings = Options {
        port: Some(port.to_string()),
        host: Some("127.0.0.1".to_owned()),
        database_url: Some(database.url().to_owned()),
        api_jwt_secret: Some(keys.jwt_secret.clone()),
        // The demo is at `/`, and the inspector beside it.
        inspector: Some("false".to_owned()),
        ..Options::default()
    };
    let config = Config::from_options(&settings)?;
    let greeting = Greeting::new(port, keys, database.url())?;
    let pages = Router::new()
        .merge(page::routes(&greeting, &options.modules))
        .merge(notes::routes(
            database.pool().clone(),
            config.tenant.verifier.clone(),
        ));
    let (ready, is_ready) = oneshot::channel();
    let as_json = options.json;
    tokio::spawn(async move {
        if is_ready.await.is_ok() {
            greeting.print(as_json);
        }
    });
    let ending = shutdown.clone();
    if options.json {
        // A thread of its own: the runtime would wait for a read of its own to return before it lets us end.
        std::thread::spawn(move || {
            let _ = io::copy(&mut io::stdin(), &mut io::sink());
            // Whoever started us is gone.
            ending.cancel();
        });
    }
    let served = serve::run_with(
        listener,
        config,
        Extras {
            pages,
            ready: Some(ready),
        },
        shutdown,
    );
    tokio::select! {
        served = Box::pin(served) => Ok(served?),
        () = database.ended() => Err(DevError::Ended(database.log_tail())),
    }
}
