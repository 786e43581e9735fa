//! Log lines on stderr: for people or for programs, in colour only where a terminal shows it.

use std::io::IsTerminal;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use crate::args::{LogFormat, Logging};
use crate::stderr::Stderr;

/// Starts logging. `RUST_LOG`, where it is set, says what is logged (`info,tieline_gateway=debug`).
pub(crate) fn start(logging: &Logging) {
    let (filter, complaint) = match std::env::var("RUST_LOG") {
        Ok(directives) if !directives.is_empty() => match directives.parse::<Targets>() {
            Ok(filter) => (filter, None),
            Err(error) => (usual(logging), Some(error)),
        },
        _ => (usual(logging), None),
    };
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let lines = fmt::layer().with_writer(|| Stderr).log_internal_errors(false);
    let lines = match logging.log_format {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        LogFormat::Text => lines.compact().with_target(false).with_ansi(colour).boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
    if let Some(error) = complaint {
        tracing::warn!("RUST_LOG is not understood, and ignored: {error}");
    }
}

fn usual(logging: &Logging) -> Targets {
    Targets::new().with_default(logging.level())
}
