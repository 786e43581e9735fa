//! Writes stdout from a separate thread.

use std::io::{IsTerminal, Write};

use tokio::sync::{mpsc, oneshot};

use crate::report::Failure;
use crate::terminal;

/// Prints to stdout from a separate thread, so that signals are handled while the reader is slow. Text for
/// a terminal is escaped.
#[derive(Clone)]
pub(crate) struct Printer {
    texts: mpsc::Sender<Vec<u8>>,
    pub(crate) is_terminal: bool,
}

impl Printer {
    /// Starts the thread. Returns the printer, and a value that reports whether everything was printed.
    pub(crate) fn start() -> std::io::Result<(Self, Printed)> {
        let (texts, mut queue) = mpsc::channel::<Vec<u8>>(64);
        let (done, wait) = oneshot::channel();
        std::thread::Builder::new().name("tieline-print".into()).spawn(move || {
            let mut stdout = std::io::stdout().lock();
            let mut print = |text: Vec<u8>| {
                stdout.write_all(&text)?;
                stdout.flush()
            };
            let mut printed = Ok(());
            while printed.is_ok() {
                let Some(text) = queue.blocking_recv() else { break };
                printed = print(text);
            }
            let _ = done.send(printed);
        })?;
        let is_terminal = std::io::stdout().is_terminal();
        Ok((Self { texts, is_terminal }, Printed(wait)))
    }

    /// Completes when nothing more can be printed.
    pub(crate) async fn closed(&self) {
        self.texts.closed().await;
    }

    /// Prints a line.
    pub(crate) async fn print(&self, mut line: Vec<u8>) {
        line.push(b'\n');
        self.write(line).await;
    }

    /// Prints part of a line, or several lines.
    pub(crate) async fn write(&self, text: Vec<u8>) {
        self.write_as_it_is(if self.is_terminal { terminal::lines(&text) } else { text }).await;
    }

    /// Prints without escaping. Use it only for tieline's own control sequences.
    pub(crate) async fn write_as_it_is(&self, text: Vec<u8>) {
        // `Printed` reports a failure.
        let _ = self.texts.send(text).await;
    }
}

/// The result of printing.
pub(crate) struct Printed(oneshot::Receiver<std::io::Result<()>>);

impl Printed {
    /// Completes when all printers are dropped and everything is printed, or when printing fails.
    pub(crate) async fn all(self) -> Result<(), Failure> {
        let printed = self.0.await.unwrap_or(Ok(()));
        printed
            .map_err(|error| Failure::other(format!("cannot write all output to stdout: {error}")))
    }
}
