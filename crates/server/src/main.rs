//! The binary: reads the command line, runs the library.

use anyhow::Context;
use clap::Parser;
use std::process::ExitCode;
use walcast::config::{self, Config, DatabaseConfig, LogFormat};
use walcast::dev::{self, DevOptions};
use walcast::doctor::{self, DoctorOptions};
use walcast::explain::{self, ExplainOptions};
use walcast::options::{Cli, Command, Options};
use walcast::{accept, environment, logging, migrate, mint, open_files, serve, shutdown, traces};

/// Measured (decision 39): gives back what a crowd needed once it is gone, and serves broadcasts with less CPU.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    match start() {
        Ok(code) => code,
        Err(error) => {
            // A sentence for people; where in the code it arose tells them nothing.
            eprintln!("walcast: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    match cli.command {
        None => in_runtime(run(&cli.options))?,
        Some(Command::Serve(options)) => in_runtime(run(&options))?,
        Some(Command::Migrate(options)) => in_runtime(prepare(&options))?,
        Some(Command::Token(options)) => println!("{}", mint::mint(&options)?),
        Some(Command::Doctor(options)) => return in_runtime(examine(*options)),
        Some(Command::Explain(options)) => return in_runtime(explain_row(*options)),
        Some(Command::Dev(options)) => in_runtime(develop(*options))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Ends with 2 when nothing can be said, so that programs can tell that from a problem.
async fn examine(options: DoctorOptions) -> anyhow::Result<ExitCode> {
    let report = match Box::pin(doctor::run(&options)).await {
        Ok(report) => report,
        Err(error) => {
            eprintln!("walcast: {error}");
            return Ok(ExitCode::from(2));
        }
    };
    if options.json {
        println!("{}", report.json()?);
    } else {
        print!("{report}");
    }
    Ok(report.exit_code())
}

/// Ends as [`examine`] does.
async fn explain_row(options: ExplainOptions) -> anyhow::Result<ExitCode> {
    let answer = match Box::pin(explain::run(&options)).await {
        Ok(answer) => answer,
        Err(error) => {
            eprintln!("walcast: {error}");
            return Ok(ExitCode::from(2));
        }
    };
    if options.json {
        println!("{}", answer.json()?);
    } else {
        print!("{answer}");
    }
    Ok(answer.exit_code())
}

/// Warnings only, beside the greeting, unless LOG_LEVEL says otherwise.
async fn develop(options: DevOptions) -> anyhow::Result<()> {
    let level = std::env::var("LOG_LEVEL")
        .ok()
        .or_else(|| Some("warn".to_owned()));
    logging::start(&config::log_level(&level)?, LogFormat::Text);
    open_files::raise_limit(None);
    let shutdown = shutdown::on_signal().context("signals cannot be listened to")?;
    Box::pin(dev::run(&options, shutdown)).await?;
    Ok(())
}

fn in_runtime<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the asynchronous runtime cannot start")?;
    runtime.block_on(Box::pin(work))
}

async fn run(options: &Options) -> anyhow::Result<()> {
    let config = Config::from_options(options)?;
    logging::start(&config.log_level, config.log_format);
    environment::tell_ignored(config.control.is_some());
    open_files::raise_limit(config.open_files);
    let shutdown = shutdown::on_signal().context("signals cannot be listened to")?;
    let listener = accept::bind(&config.listen).with_context(|| {
        format!(
            "port {} cannot be listened on; choose another with PORT",
            config.listen.port
        )
    })?;
    let served = Box::pin(serve::run(listener, config, shutdown)).await;
    // It waits for an exporter that needs the runtime.
    tokio::task::spawn_blocking(traces::finish).await?;
    Ok(served?)
}

async fn prepare(options: &Options) -> anyhow::Result<()> {
    logging::start(
        &config::log_level(&options.log_level)?,
        config::log_format(&options.log_format)?,
    );
    let database = DatabaseConfig::from_options(options)?;
    migrate::migrate_at(database.url.expose()).await?;
    println!("the database is prepared");
    Ok(())
}
