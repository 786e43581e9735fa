//! Log lines on stderr, as text or JSON, with color only on a terminal.

use std::fmt::Debug;
use std::io::{IsTerminal, Write};

use tieline_gateway::PROGRAM_FAILURES;
use tieline_link::RESTARTS;
use tieline_proto::printable;
use tracing::field::Field;
use tracing::{Level, Subscriber};
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use crate::args::Logging;
use crate::report::LogFormat;
use crate::stderr::Stderr;

/// Starts logging. If `RUST_LOG` is set, it selects the events to log, for example
/// `info,tieline_gateway=debug`.
pub(crate) fn start(logging: &Logging) {
    let (filter, complaint) = match std::env::var("RUST_LOG") {
        Ok(directives) if !directives.is_empty() => match directives.parse::<Targets>() {
            Ok(filter) => (filter, None),
            Err(error) => (usual(logging), Some(error)),
        },
        _ => (usual(logging), None),
    };
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let lines = lines(logging.log_format, colour, || Stderr);
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
    if let Some(error) = complaint {
        tracing::warn!("ignoring RUST_LOG, which is invalid: {error}");
    }
}

/// Writes each event as a line.
fn lines<S, W>(
    format: LogFormat,
    colour: bool,
    writer: impl Fn() -> W + Send + Sync + 'static,
) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: Write + 'static,
{
    let lines = fmt::layer().log_internal_errors(false);
    match format {
        LogFormat::Json => {
            lines.with_writer(move || Escaped(writer())).json().flatten_event(true).boxed()
        }
        LogFormat::Text => {
            let lines = lines.with_writer(writer).compact().with_target(false).with_ansi(colour);
            lines.fmt_fields(debug_fn(write_field).delimited(" ")).boxed()
        }
    }
}

/// Writes a field with control characters escaped, because much of the logged text comes from other
/// processes.
fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> std::fmt::Result {
    let value = format!("{value:?}");
    let value = printable(value.as_bytes());
    match field.name() {
        "message" => write!(writer, "{value}"),
        name if writer.has_ansi_escapes() => {
            write!(writer, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m{value}")
        }
        name => write!(writer, "{name}={value}"),
    }
}

/// A writer of JSON lines that also escapes the control characters that JSON allows in strings.
struct Escaped<W>(W);

impl<W: Write> Write for Escaped<W> {
    /// Writes `line`, which must be one whole line with its newline.
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let text = tieline_proto::printable_lines(line);
        self.0.write_all(text.as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

fn usual(logging: &Logging) -> Targets {
    let level = logging.level();
    // Failures of programs are logged even with --quiet.
    let failures = [PROGRAM_FAILURES, RESTARTS].map(|target| (target, level.max(Level::WARN)));
    Targets::new().with_default(level).with_targets(failures)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// Logs text that contains a line break and terminal escape sequences, and returns the output.
    fn logged(format: LogFormat, colour: bool) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let layer = lines(format, colour, move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(layer);
        let words = "x\n2026 INFO all is well\u{1b}]0;\u{9b}0m";
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::error_span!("request", method = %words);
            span.in_scope(|| tracing::error!(error = %words, quoted = words, "failed: {words}"));
        });
        let bytes = buffer.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn logged_text_cannot_start_a_line_or_control_a_terminal() {
        for (format, colour) in
            [(LogFormat::Text, false), (LogFormat::Text, true), (LogFormat::Json, false)]
        {
            let text = logged(format, colour);
            assert_eq!(text.lines().count(), 1, "{text}");
            let text = text.trim_end();
            let controls = text.chars().filter(|c| c.is_control() && !(colour && *c == '\u{1b}'));
            assert_eq!(controls.count(), 0, "{text:?}");
            assert!(!text.contains("\u{1b}]"), "{text:?}");
            for shown in [r"failed: x\n2026 INFO", r"\u001b]0;\u009b0m"] {
                assert!(text.contains(shown), "{shown}: {text}");
            }
        }
        assert!(logged(LogFormat::Text, false).contains(" error=x\\n2026 INFO all is well"));
        let json: serde_json::Value =
            serde_json::from_str(&logged(LogFormat::Json, false)).unwrap();
        assert_eq!(json["error"], "x\n2026 INFO all is well\u{1b}]0;\u{9b}0m");
    }
}
