//! Requests to stop: signals, and the end of the process named by `--with-parent`. The first request
//! stops the program gracefully, and the second one stops it at once.

#[cfg(unix)]
pub(crate) mod parent;
#[cfg(windows)]
mod windows;

use std::future::{Future, pending};
use std::io;
use std::time::Duration;

use tieline_gateway::TapEnd;
use tokio::sync::watch;

use crate::report::Failure;

#[cfg(windows)]
use windows::next;

/// How long to wait for the tap file to be written when stopping.
const TAP_PATIENCE: Duration = Duration::from_secs(10);

/// Counts the signals that stop the program.
pub(crate) struct Signals(watch::Sender<u32>);

impl Signals {
    /// Listens for SIGINT, SIGTERM and SIGHUP, or their Windows counterparts. This must be called in a
    /// runtime.
    pub(crate) fn listen() -> io::Result<Self> {
        let signals = Self(watch::Sender::new(0));
        let count = signals.0.clone();
        let mut next = next()?;
        tokio::spawn(async move {
            loop {
                next.next().await;
                count.send_modify(|count| *count += 1);
            }
        });
        Ok(signals)
    }

    /// Counts the end of this process as a signal.
    ///
    /// # Errors
    /// The process cannot be watched.
    #[cfg(unix)]
    pub(crate) fn end_with(&self, parent: Option<parent::Watched>) -> io::Result<()> {
        let Some(parent) = parent else { return Ok(()) };
        let count = self.0.clone();
        parent::watch(parent, move |pid| {
            tracing::warn!("stopping because process {pid} has ended (--with-parent)");
            count.send_modify(|count| *count += 1);
        })
    }

    /// Does nothing: Windows does not have this option, because jobs end all processes together.
    #[cfg(windows)]
    pub(crate) fn end_with(&self, _: Option<std::convert::Infallible>) -> io::Result<()> {
        Ok(())
    }

    /// Completes at the first signal.
    pub(crate) fn first(&self) -> impl Future<Output = ()> + Send + use<> {
        self.nth(1)
    }

    /// Completes at the second signal.
    pub(crate) fn second(&self) -> impl Future<Output = ()> + Send + use<> {
        self.nth(2)
    }

    /// Waits until the tap file is written, for at most [`TAP_PATIENCE`] or until a second signal.
    pub(crate) async fn written(&self, tap: Option<TapEnd>) -> Result<(), Failure> {
        let Some(tap) = tap else { return Ok(()) };
        let incomplete =
            |why: &str| Err(Failure::other(format!("the --tap file is incomplete: {why}")));
        tokio::select! {
            written = tap.written() => match written {
                Ok(()) => Ok(()),
                Err(error) => incomplete(&error.to_string()),
            },
            () = self.second() => incomplete("stopped at once by a second signal"),
            () = tokio::time::sleep(TAP_PATIENCE) => incomplete("writing it took too long"),
        }
    }

    fn nth(&self, n: u32) -> impl Future<Output = ()> + Send + use<> {
        let mut counted = self.0.subscribe();
        async move {
            // The counting task ends with the runtime.
            if counted.wait_for(|count| *count >= n).await.is_err() {
                pending::<()>().await;
            }
        }
    }
}

#[cfg(unix)]
struct Next {
    terminate: tokio::signal::unix::Signal,
    /// SIGINT, which the terminal sends; `None` if the signal was ignored at start, as with a shell's
    /// `&`.
    interrupt: Option<tokio::signal::unix::Signal>,
    /// SIGHUP, which is sent when the terminal is closed; `None` if the signal was ignored at start, as
    /// with `nohup`.
    hangup: Option<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
fn next() -> io::Result<Next> {
    use tokio::signal::unix::{SignalKind, signal};
    let unless_ignored = |kind: SignalKind| {
        let is_ignored = tieline_transport::is_signal_ignored(kind.as_raw_value());
        (!is_ignored).then(|| signal(kind)).transpose()
    };
    Ok(Next {
        terminate: signal(SignalKind::terminate())?,
        interrupt: unless_ignored(SignalKind::interrupt())?,
        hangup: unless_ignored(SignalKind::hangup())?,
    })
}

#[cfg(unix)]
impl Next {
    async fn next(&mut self) {
        async fn received(signal: &mut Option<tokio::signal::unix::Signal>) {
            match signal {
                Some(signal) => _ = signal.recv().await,
                None => pending().await,
            }
        }
        tokio::select! {
            _ = self.terminate.recv() => {}
            () = received(&mut self.interrupt) => {}
            () = received(&mut self.hangup) => {}
        }
    }
}
