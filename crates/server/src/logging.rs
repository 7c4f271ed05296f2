//! Where log lines go and how they look.

use std::io::IsTerminal;

use tracing::{Level, Metadata};
use tracing_subscriber::filter::FilterFn;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt, registry};

use crate::config::LogFormat;
use crate::traces;

/// Starts logging to standard error, and sending traces if they are asked for. Does nothing when the process logs
/// already. To be called in a runtime.
pub fn start(directives: &str, format: LogFormat) {
    let filter = EnvFilter::try_new(directives).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    let lines = match format {
        LogFormat::Text => lines.with_target(false).boxed(),
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            // The innermost says enough.
            .with_span_list(false)
            .boxed(),
    };
    let (sending, refused) = match traces::layer() {
        Ok(layer) => (layer, None),
        Err(error) => (None, Some(error)),
    };
    // One filter for both: filters of single layers lose track when a library asks whether it would be heard, as sqlx
    // does for each statement.
    let started = registry()
        .with(filter)
        .with(FilterFn::new(holds_no_frame))
        .with(lines)
        .with(sending)
        .try_init();
    if let Err(error) = started {
        tracing::debug!(%error, "logging was started before");
    }
    if let Some(error) = refused {
        tracing::error!(%error, "there are no traces");
    }
}

/// tungstenite shows frames and handshakes whole at this level, and both hold tokens.
fn holds_no_frame(metadata: &Metadata<'_>) -> bool {
    *metadata.level() < Level::TRACE || !metadata.target().starts_with("tungstenite")
}
